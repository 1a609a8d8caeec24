"""`check --hub`: models that are no presets are asked for, once, and never without the switch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from include.catalog import Model, load_catalog
from include.catalog.hub import ModelNotFound
from include.cli.__main__ import plan_for
from include.cli.checking import check
from include.cli.hub_models import Resolve
from include.cli.report import Report
from include.cli.sources import Source
from include.workspace import Policy
from tests.support.workspaces import SERVING, TUNING, changed

NAME = "somebody/Tiny-Llama"


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def resolve(asked: list[str]) -> Callable[[str], Model]:
    def answer(name: str) -> Model:
        asked.append(name)
        model = load_catalog().model("smollm2-135m-instruct")
        return replace(model, name="tiny-llama", hf_id=NAME, aliases=())

    return answer


def report(text: str, resolve: Resolve | None) -> Report:
    return check([Source("w.yaml", text.encode())], Policy(), plan_for, resolve)


def naming(name: str) -> str:
    both = [
        changed(TUNING, {"tuning.preset.name": name}),
        changed(SERVING, {"inference.preset.name": name}),
        changed(SERVING, {"inference.preset.name": name, "metadata.name": "again"}),
    ]
    return yaml.safe_dump_all(both)


def test_a_model_of_the_hub_is_planned_for(resolve: Resolve, asked: list[str]) -> None:
    found = report(naming(NAME), resolve)
    assert found.exit_code == 0
    assert "tune tiny-llama with qlora" in next(found.workspaces()).sentences[0]
    assert asked == [NAME, NAME], "once for tuning, once for serving"


def test_without_the_switch_nobody_is_asked_and_the_hint_names_it() -> None:
    found = report(naming(NAME), None)
    assert found.exit_code == 1
    for document in found.workspaces():
        [finding] = document.faults
        assert finding.fault.hint.endswith("r check with --hub, which asks the hub for it")


def test_presets_and_misspelt_names_are_not_asked_for(resolve: Resolve, asked: list[str]) -> None:
    assert report(naming("phi-4-mini-instruct"), resolve).exit_code == 0
    assert report(naming("phi-4-minni-instruct"), resolve).exit_code == 1
    assert asked == []


def test_the_hubs_own_reason_is_told() -> None:
    def refuse(name: str) -> Model:
        raise ModelNotFound(f"The hub has no {name}.")

    for document in report(naming(NAME), refuse).workspaces():
        [finding] = document.faults
        assert (finding.fault.rule, finding.fault.message) == ("I4", f"The hub has no {NAME}")
        assert finding.line > 1
