"""Records beside the hub: for whoever keeps presets/ true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from include.catalog import load_catalog
from include.catalog.hub import resolve
from include.catalog.hub_check import differences
from include.cli import main as command
from tests.support.hub_server import running

NAME = "acme/tiny"


def test_a_record_that_agrees_has_no_differences_and_others_are_named() -> None:
    with running() as hub:
        hub.model(NAME)
        model = resolve(NAME, endpoint=hub.endpoint)
        same = replace(model, revision="main", weights_gib=2.3)  # as rounded by hand
        assert list(differences(same, endpoint=hub.endpoint)) == []
        other = replace(same, context=4096, weights_gib=5.0, gated=True)
        assert list(differences(other, endpoint=hub.endpoint)) == [
            "tiny: context is 4096 here and 131072 on the hub",
            "tiny: gated is True here and False on the hub",
            "tiny: weights_gib is 5.0 here and 2.30 on the hub",
        ]
        gone = replace(same, hf_id="acme/gone")
        assert "has no model acme/gone" in next(differences(gone, endpoint=hub.endpoint))


def test_resolve_prints_a_record_that_a_presets_folder_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.model(NAME)
        assert command.main(["resolve", NAME]) == 0
        wanted = resolve(NAME)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ours.yaml").write_text(capsys.readouterr().out)
    monkeypatch.setenv("KAITO_PRESETS", str(tmp_path))
    assert command.main(["presets"]) == 0
    assert load_catalog().model(NAME) == replace(wanted, weights_gib=2.3)


@pytest.mark.parametrize(("status", "code"), [(401, 1), (503, 2)])
def test_resolve_says_why_not_and_whether_to_try_again(
    status: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.answer(f"/api/models/{NAME}/revision/main", status=status)
        assert command.main(["resolve", NAME]) == code
    assert NAME in capsys.readouterr().err


def test_check_asks_the_hub_only_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert command.main(["presets"]) == 0
        assert hub.asked == []
        assert command.main(["presets", "--hub"]) == 1
        assert len(hub.asked) == len(load_catalog().models)
    assert "phi-4: The hub has no model microsoft/phi-4" in capsys.readouterr().out
