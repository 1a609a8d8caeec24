"""What an installation says about who makes machines: Airflow's configuration, section ``[kaito]``, ``pool_*``.

Read when a task runs, so that a broken value is an error of a task, in words.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow.sdk import conf

from include.pools.aks import AgentPoolOptions
from include.pools.status import Stage
from include.workspace.api import names

SECTION = "kaito"
DEFAULT_AZURE_CONNECTION = "azure_default"
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class PoolSettings:
    """An installation's choice of provider (a registered name, or `auto`), and what agent pools are made with."""

    provider: str = names.ProviderName.NODE_CLAIM
    azure_conn_id: str = DEFAULT_AZURE_CONNECTION
    options: AgentPoolOptions = field(default_factory=AgentPoolOptions)


#: How long machines may take in each stage, in seconds: ``[kaito] pool_launch_seconds`` and so on. Clouds take 5 to 15
#: minutes for a GPU machine with drivers in all.
BUDGETS = {Stage.LAUNCH: 900.0, Stage.BOOT: 600.0, Stage.DRIVER: 900.0}


def budgets() -> dict[Stage, float]:
    """Read how long machines may stay in each stage, in seconds. Raises ValueError."""
    result = {}
    for stage, usual in BUDGETS.items():
        text = _text(key := budget_key(stage))
        try:
            result[stage] = float(text) if text else usual
        except ValueError:
            result[stage] = 0.0
        if not 0 < result[stage] < float("inf"):
            raise ValueError(f"Airflow setting [{SECTION}] {key} must be seconds above 0, not {text!r}.")
    return result


def budget_key(stage: Stage) -> str:
    """The setting of a stage's budget."""
    return f"pool_{stage}_seconds"


def _text(key: str) -> str:
    return str(conf.get(SECTION, key, fallback="") or "").strip()


def pool_settings() -> PoolSettings:
    """Read the settings; unset keys keep their defaults.

    :raises ValueError: a setting is not what it must be. Whether there is such a provider the registry says.
    """
    name = (_text("pool_provider") or names.ProviderName.NODE_CLAIM).lower()
    options = AgentPoolOptions(
        spot=_switch("pool_spot"),
        spot_max_price=_price("pool_spot_max_price"),
        zones=tuple(zone.strip() for zone in _text("pool_zones").split(",") if zone.strip()),
        gpu_driver=_text("pool_gpu_driver") or "Install",
        subnet_id=_text("pool_subnet_id"),
    )
    return PoolSettings(name, _text("azure_conn_id") or DEFAULT_AZURE_CONNECTION, options)


def hands_over() -> bool:
    """Whether machines that tuned may serve next (``[kaito] pool_hand_over``, on by default). Raises ValueError."""
    return _switch("pool_hand_over", usual="true")


def _switch(key: str, usual: str = "false") -> bool:
    text = _text(key).lower() or usual
    if text not in _WORDS:
        raise ValueError(f"Airflow setting [{SECTION}] {key} must be true or false, not {text!r}.")
    return _WORDS[text]


def _price(key: str) -> float:
    text = _text(key) or "-1"
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"Airflow setting [{SECTION}] {key} must be US dollars an hour, or -1 for the on-demand price, "
            f"not {text!r}."
        ) from None
