"""Reads the user's `inference_config.yaml` as far as planning needs it: KAITO's mapping `vllm` of server flags.

It must never judge the file; a value that cannot be used is as good as none.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from include.catalog.engines import vllm_facts

ROOT = "vllm"
NO = "no-"
FALSE = ("false", "0", "none", "null")


def server_flags(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The flags under `vllm` that have a value, their names with dashes as vLLM spells them.

    An empty value counts as not given, but for switches, which KAITO turns on by it. What stands behind a dot is a key
    inside a JSON argument and stays as it is.
    """
    found = (config or {}).get(ROOT)
    if not isinstance(found, Mapping):
        return {}
    flags = {_dashed(str(name)): value for name, value in found.items()}
    return {name: value for name, value in flags.items() if _switch(name) or value not in (None, "")}


def asked_context(config: Mapping[str, Any] | None) -> int | None:
    """The `max-model-len` of an inference config in tokens, or None when there is no usable one."""
    return whole(server_flags(config).get("max-model-len"), 1)


def asked_pooling(config: Mapping[str, Any] | None) -> bool | None:
    """Whether an inference config makes vLLM embed, rank or score; False where it makes it write, None for neither."""
    flags = server_flags(config)
    runner, convert = str(flags.get("runner") or "auto"), str(flags.get("convert") or "auto")
    if runner != "auto":
        return runner == "pooling"
    return True if convert not in ("auto", "none") else None


def server_arguments(flags: Mapping[str, Any]) -> list[str]:
    """What `server_flags` gave as arguments of `vllm serve`.

    A switch that is off is said so (`--no-...`): most that anybody turns off are on by default. What vLLM does not have
    is left out; the rules refuse it, or a notice says that it has no effect.
    """
    return [part for name, value in flags.items() for part in _argument(name, value)]


def _argument(name: str, value: object) -> list[str]:
    kinds = vllm_facts().arguments
    head, dot, _ = name.partition(".")
    if dot and head in kinds:
        return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}"]
    if switch := _switch(name):
        on = truth(value) is not (name != switch)
        return [f"--{switch}"] if on else [f"--{NO}{switch}"] if kinds[switch] == "bool" else []
    if name not in kinds:
        return []
    if kinds[name] == "list":
        parts = [str(one) for one in value] if isinstance(value, list | tuple) else shlex.split(str(value))
        return [f"--{name}", *parts] if len(parts) > 1 else [f"--{name}={part}" for part in parts]
    text = json.dumps(value, separators=(",", ":")) if isinstance(value, Mapping | list) else str(value)
    return [f"--{name}={text}"]


def _dashed(name: str) -> str:
    head, dot, rest = name.partition(".")
    return f"{head.replace('_', '-')}{dot}{rest}"


def _switch(name: str) -> str:
    """The switch that a name is or turns off, "" for other arguments."""
    kinds = vllm_facts().arguments
    for candidate in (name, name.removeprefix(NO)):
        if kinds.get(candidate) in ("bool", "flag"):
            return candidate
    return ""


def truth(value: object) -> bool:
    """Whether a switch's value turns it on; a bare key does."""
    return str(value).strip().lower() not in FALSE if value is not None else True


def whole(value: object, least: int) -> int | None:
    """A whole number of at least so much, which may be written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    return number if number >= least else None
