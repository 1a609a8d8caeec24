"""A version stays that anybody may still want: it is kept, newer, under way, or named somewhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.janitor import retention
from include.retraining import versions
from include.workspace.api import names

IMAGE = "registry.example.com/adapters/phi:0.0.1"


def workspace(*history: str, image: str = IMAGE, **retrain: Any) -> dict[str, Any]:
    entries = [{"version": one} for one in history]
    return {
        "metadata": {"name": "phi"},
        "tuning": {"output": {"image": image}},
        "status": {"retrain": {"versions": entries, **retrain}},
    }


def candidate(version: str) -> dict[str, Any]:
    return {"metadata": {"annotations": {names.RETRAIN_VERSION: version}}}


def gone(known: dict[str, Any], *tags: str, candidates: tuple[dict[str, Any], ...] = ()) -> list[str]:
    stays = retention.kept(known, candidates)
    return [] if stays is None else sorted(retention.expired(stays, tags))


def test_what_the_workspace_has_let_go_of_goes_and_nothing_else() -> None:
    known = workspace("original", "20261120.1", "20261128.2", run={"version": "20261128.1"})
    tags = ["0.0.1", "latest", "prod-20261101.1", "0.0.1-20261101.1", "0.0.1-20261101.12", "0.0.1-20261120.1"]
    tags += [
        "0.0.1-20261128.1",
        "0.0.1-20261128.2",
        "0.0.1-20261128.3",
        "0.0.1-20261129.1",
        "0.0.1-20261101.0",
    ]
    assert gone(known, *tags) == ["0.0.1-20261101.1", "0.0.1-20261101.12"]
    assert gone(known, *tags, candidates=(candidate("20261101.1"),)) == ["0.0.1-20261101.12"]


@pytest.mark.parametrize(
    "known",
    [
        workspace(),
        workspace("original"),
        workspace("20261120.1", image="not an image"),
        {"metadata": {"name": "phi"}, "status": {}},
    ],
)
def test_where_nothing_was_retrained_nothing_goes(known: dict[str, Any]) -> None:
    assert gone(known, "0.0.1-20200101.1") == []


@given(
    st.lists(
        st.tuples(st.integers(20260101, 20260131), st.integers(1, 30)), min_size=1, max_size=20, unique=True
    ),
    st.data(),
)
def test_no_version_that_is_known_or_newer_ever_goes(
    numbers: list[tuple[int, int]], data: st.DataObject
) -> None:
    every = [f"{day}.{number}" for day, number in numbers]
    history = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    tags = {versions.image(IMAGE, one).rpartition(":")[2]: one for one in every}
    stays = retention.kept(workspace(*history), ())
    assert stays is not None
    found = retention.expired(stays, tags)
    assert set(found.values()).isdisjoint(history)
    newest = max(order for order, name in zip(numbers, every, strict=True) if name in history)
    assert all(numbers[every.index(one)] < newest for one in found.values())
    older = [one for order, one in zip(numbers, every, strict=True) if order < newest and one not in history]
    assert sorted(found.values()) == sorted(older)


def test_a_digest_is_seen_wherever_it_stands() -> None:
    digest = f"sha256:{'a' * 64}"
    nested = {"spec": {"template": {"env": [{"value": f'{{"x": "r.io/x@{digest}"}}'}]}}}
    assert retention.referred_to([nested, {}]) == {digest}
