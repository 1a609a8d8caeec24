"""Label and field selectors."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.api.errors import ApiError
from sandbox.api.storage.selectors import field_predicate, label_predicate, matches_label_selector


def labelled(**labels: str) -> dict[str, Any]:
    return {"metadata": {"labels": labels}}


@pytest.mark.parametrize(
    ("selector", "labels", "fits"),
    [
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (b, c),d", {"a": "c", "d": ""}, True),
        ("a in (b,c),d", {"a": "c"}, False),
        ("a notin (b)", {"a": "c"}, True),
        ("a notin (b)", {}, True),
        ("!a", {"a": "b"}, False),
        ("a", {"a": ""}, True),
        ("n>3", {"n": "4"}, True),
        ("n<3", {"n": "x"}, False),
        ("kaito.sh/run-id=x.y_z-1", {"kaito.sh/run-id": "x.y_z-1"}, True),
        ("a=", {"a": ""}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], fits: bool) -> None:
    predicate = label_predicate(selector)
    assert predicate is not None
    assert predicate(labelled(**labels)) is fits


@pytest.mark.parametrize("selector", ["a=b=c", "a in b", "(a)", "a in (b"])
def test_unreadable_label_selectors_are_refused(selector: str) -> None:
    with pytest.raises(ApiError, match="unable to parse requirement") as caught:
        label_predicate(selector)
    assert caught.value.code == 400


def test_label_selector_objects() -> None:
    selector = {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}
    assert matches_label_selector(selector, {"a": "b", "c": ""})
    assert not matches_label_selector(selector, {"a": "b"})
    assert matches_label_selector({}, {})
    assert not matches_label_selector(None, {})


def test_field_selectors() -> None:
    pod = {"metadata": {"name": "web"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}}
    for text, fits in (
        ("metadata.name=web", True),
        ("spec.nodeName=n,status.phase!=Failed", True),
        ("spec.nodeName!=n", False),
        ("status.podIP=", True),
    ):
        predicate = field_predicate(text, "pods")
        assert predicate is not None
        assert predicate(pod) is fits
    with pytest.raises(ApiError, match=r"field label not supported: spec\.image"):
        field_predicate("spec.image=x", "pods")
