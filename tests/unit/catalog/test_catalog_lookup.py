"""Names: any letter case, aliases, suggestions."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.catalog import load_catalog

CATALOG = load_catalog()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("phi-3-mini-128k-instruct", "phi-3-mini-128k-instruct"),
        ("Phi-3-Mini-128K-Instruct", "phi-3-mini-128k-instruct"),
        ("microsoft/Phi-3-mini-128k-instruct", "phi-3-mini-128k-instruct"),
        ("MICROSOFT/phi-4", "phi-4"),
        ("mistral-7b-v0.3", "mistral-7b"),  # KAITO's own tuning table uses this name and then crashes on it
        ("gemma-3-4b-it", "gemma-3-4b-instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
    ],
)
def test_a_preset_has_many_names(asked: str, found: str) -> None:
    assert CATALOG.model(asked).name == found


def test_machine_types_are_given_back_as_the_cloud_spells_them() -> None:
    assert CATALOG.machine("STANDARD_nc6S_V3").name == "Standard_NC6s_v3"
    assert CATALOG.machine("standard_nc24ads_a100_v4").gpu_count == 1


@pytest.mark.parametrize(
    ("lookup", "asked", "nearest"),
    [
        ("model", "phi-3-mini-128-instruct", "phi-3-mini-128k-instruct"),
        ("model", "microsoft/phi3-mini-128k-instruct", "phi-3-mini-128k-instruct"),
        ("machine", "Standard_NC6s_v33", "Standard_NC6s_v3"),
        ("image", "workload", "workloads"),
    ],
)
def test_an_unknown_name_says_which_known_one_is_nearest(lookup: str, asked: str, nearest: str) -> None:
    with pytest.raises(KeyError) as error:
        getattr(CATALOG, lookup)(asked)
    assert asked in str(error.value)
    assert f"did you mean {nearest}?" in str(error.value)


def test_a_name_like_nothing_known_gets_no_suggestion() -> None:
    with pytest.raises(KeyError) as error:
        CATALOG.model("zzzzzzzz")
    assert str(error.value) == "there is no model preset named 'zzzzzzzz'"


def test_listings_are_sorted() -> None:
    assert CATALOG.model_names() == sorted(CATALOG.model_names())
    assert CATALOG.machine_names() == sorted(CATALOG.machine_names())


def test_a_wrong_field_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "x.yaml").write_text("models: [{name: a, colour: red}]\n")
    with pytest.raises(ValueError, match=r"x\.yaml: a: .*colour"):
        load_catalog(tmp_path)
