"""An exact rerun: what is not the same is named, and another adapter never takes the place of the one that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.workloads.contract import UserConfigError
from include.workloads.tuning import exact

BEFORE: dict[str, Any] = {
    "adapter_sha256": "a" * 64,
    "training_config": "x" * 200,
    "dataset": {"digest": "sha256:1", "sources": []},
    "image": "registry.example.com/workloads@sha256:1",
    "device": {"name": "a CPU", "instructions": "AVX2", "threads": 2},
    "packages": {"torch": "2.9"},
}


def now(**changes: Any) -> dict[str, Any]:
    made = {key: value for key, value in json.loads(json.dumps(BEFORE)).items() if key != "adapter_sha256"}
    for place, value in changes.items():
        section, _, key = place.partition("__")
        if key:
            made[section][key] = value
        else:
            made[section] = value
    return made


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"packages__torch": "2.10"}, 'packages.torch is "2.10" and was "2.9"'),
        ({"device__threads": 4}, "device.threads is 4 and was 2"),
        ({"device__name": "another CPU"}, 'device.name is "another CPU" and was "a CPU"'),
        ({"dataset__digest": "sha256:2"}, "dataset.digest"),
        ({"image": "registry.example.com/workloads@sha256:2"}, "image is"),
        ({"device__processes": 2}, "device.processes is 2 and was not recorded"),
        ({"training_config": "y" * 200}, "training_config is text with the digest"),
    ],
)
def test_everything_that_differs_is_named_with_both_values(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserConfigError) as refused:
        exact.check(BEFORE, now(**changes))
    assert words in str(refused.value)
    assert "give kaito.sh/rerun another value than exact" in str(refused.value)


def test_what_is_the_same_passes_and_the_adapter_is_not_compared_before_it_is_made() -> None:
    exact.check(BEFORE, now())


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
MAPPINGS = st.dictionaries(st.text(max_size=4), PLAIN, max_size=5)


@given(MAPPINGS, MAPPINGS)
@settings(max_examples=50, deadline=None)
def test_two_records_have_no_difference_when_and_only_when_they_are_equal(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert list(exact.differences(one, one)) == []
    # true and 1 are equal to Python, and to JSON's readers too
    assert bool(list(exact.differences(one, other))) == (one != other)


def test_without_a_record_there_is_nothing_to_come_to_again(tmp_path: Path) -> None:
    (tmp_path / "record").mkdir()
    for text in (None, "", "[]", "{}"):
        if text is not None:
            (tmp_path / "record" / "reproduce.json").write_text(text)
        with pytest.raises(UserConfigError, match="needs the record of the training before"):
            exact.former(tmp_path)


def test_other_weights_are_an_error() -> None:
    exact.require_same(BEFORE, "a" * 64, "cpu")
    with pytest.raises(UserConfigError, match="nothing is published"):
        exact.require_same(BEFORE, "b" * 64, "cpu")
