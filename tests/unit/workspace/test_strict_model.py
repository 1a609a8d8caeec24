"""The reader of a Workspace's schema against pydantic's strict mode on the same model: what is refused, and how."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from include.workspace.api.json_schema import pydantic_model
from include.workspace.api.models import Workspace
from include.workspace.api.strict_model import StrictModel, Unreadable, fields, models_in
from tests.support.any_workspace import workspaces
from tests.support.workspaces import TUNING, changed

ODD = st.sampled_from(
    [None, True, 1, 1.0, "", "x", "\ud800", [], [None], ["x", 1], {}, {"a": "b"}, {"a": 1}, {1: "x"}]
)


def _models(model: type[StrictModel], found: set[type[StrictModel]]) -> set[type[StrictModel]]:
    if model not in found:
        found.add(model)
        for one in fields(model):
            for inner in models_in(one.kind):
                _models(inner, found)
    return found


NAMES = sorted(
    {one.alias for model in _models(Workspace, set()) for one in fields(model)} | {"spec", "instance_type"}
)


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A Workspace in which some parts, wherever they are, are gone, are another kind of thing, or stand too much."""
    document = copy.deepcopy(draw(workspaces()))
    for _ in range(draw(st.integers(1, 4))):
        part: Any = document
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            key = draw(st.sampled_from(keys)) if keys else None
            if key is None or not isinstance(part[key], dict | list) or draw(st.booleans()):
                break
            part = part[key]
        match draw(st.sampled_from(["change", "drop", "add"])):
            case "change" if key is not None:
                part[key] = copy.deepcopy(draw(ODD))
            case "drop" if key is not None:
                del part[key]
            case _ if isinstance(part, dict):
                part[draw(st.sampled_from(NAMES) | st.integers(0, 2))] = copy.deepcopy(draw(ODD))
    return document


@given(spoilt())
@settings(max_examples=150, deadline=None)
def test_it_refuses_what_pydantic_refuses_at_the_same_places_in_the_same_order(
    document: dict[str, Any],
) -> None:
    theirs, problems = [], []
    dump = None
    try:
        dump = (
            pydantic_model(Workspace).model_validate(document).model_dump(by_alias=True, exclude_unset=True)
        )
    except ValidationError as error:
        theirs = [(one["loc"], one["type"], one["input"]) for one in error.errors(include_url=False)]
    try:
        assert Workspace.read(document).to_dict() == dump == document
    except Unreadable as error:
        problems = [(one.loc, one.type, one.input) for one in error.problems]
    assert problems == theirs


def test_what_was_read_is_frozen_and_can_be_copied() -> None:
    workspace = Workspace.read(TUNING)
    with pytest.raises(AttributeError, match="frozen"):
        workspace.kind = "Other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(workspace)) == copy.deepcopy(workspace) == workspace
    other = workspace.changed(kind="Other")
    assert (workspace.kind, other.kind, other.to_dict()) == (
        "Workspace",
        "Other",
        changed(TUNING, {"kind": "Other"}),
    )
    assert other != workspace


def test_what_it_gives_is_not_what_it_was_given() -> None:
    document = copy.deepcopy(TUNING)
    workspace = Workspace.read(document)
    workspace.to_dict()["metadata"]["name"] = "other"
    document["metadata"]["name"] = "another"
    assert workspace.to_dict() == TUNING
