"""A policy: all of its faults at once, each with what would be right."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.retraining import policy
from include.retraining.durations import duration, in_words
from include.retraining.policy import OnTimeout, Policy, PolicyInvalid, Start, When

TEXT = """
when: changed
evaluation: {goldenSet: golden, heldOut: 0.2}
gate:
- candidate.exact_match >= current.exact_match - 0.01
minimumChange: {rows: 20, share: 0.05}
coolDown: 6h
watch: {every: 30m}
approval: {required: true, by: [alice], timeout: 1d, onTimeout: promote}
bake: {time: 90s}
keep: 3
from: current
config: fewer-passes
"""


def test_a_policy_in_full() -> None:
    found = policy.read(TEXT)
    assert found.when is When.CHANGED
    assert found.cool_down == timedelta(hours=6)
    assert found.watch.every == timedelta(minutes=30)
    assert found.approval.on_timeout is OnTimeout.PROMOTE
    assert (found.start, found.config) == (Start.CURRENT, "fewer-passes")
    assert (found.minimum_change.rows, found.minimum_change.share) == (20, 0.05)
    assert policy.of(found.as_dict()) == found


def test_an_empty_policy_has_a_person_decide_since_nothing_is_measured() -> None:
    assert policy.read("").needs_approval
    assert not policy.of({"evaluation": {}}).needs_approval
    assert not policy.of({"approval": {"required": False}}).needs_approval
    assert policy.of({"evaluation": {}, "approval": {"required": True}}).needs_approval


def test_a_gate_needs_an_evaluation() -> None:
    with pytest.raises(PolicyInvalid, match="nothing to judge by"):
        policy.of({"gate": ["golden.all"]})
    with pytest.raises(PolicyInvalid, match="did you mean goldenSet"):
        policy.of({"evaluation": {"goldnSet": "golden"}})


def test_every_fault_is_named_at_once_with_what_would_be_right() -> None:
    with pytest.raises(PolicyInvalid) as raised:
        policy.of(
            {
                "coolDwn": "6h",
                "watch": {"evry": "1h", "every": "soon"},
                "keep": 0,
                "when": "sometimes",
                "minimumChange": {"share": 3},
                "approval": {"onTimeout": "panic"},
                "canary": {"percnt": 10, "percent": 100},
            }
        )
    told = [str(fault) for fault in raised.value.faults]
    assert len(told) == 9
    assert any("coolDwn" in one and "did you mean coolDown?" in one for one in told)
    assert any("watch.evry" in one and "did you mean every?" in one for one in told)
    assert any("watch.every" in one and "30m" in one for one in told)
    assert any("keep" in one and "greater than or equal to 1" in one for one in told)
    assert any("when" in one and "'always' or 'changed'" in one for one in told)
    assert any("canary.percnt" in one and "did you mean percent?" in one for one in told)
    assert any("canary.percent" in one and "less than 100" in one for one in told)
    assert any("approval.onTimeout" in one and "'refuse' or 'promote'" in one for one in told)


@pytest.mark.parametrize("text", ["- a list", "just text", "gate: {", "a: &a [*a]"])
def test_what_is_no_policy_says_so(text: str) -> None:
    with pytest.raises(PolicyInvalid):
        policy.read(text)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*policy.Policy.model_fields]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(ANYTHING)
def test_anything_is_a_policy_or_has_faults(value: object) -> None:
    found, faults = policy.examine(value)
    assert (found is None) == bool(faults)
    if found:
        assert policy.of(found.as_dict()) == found


@given(st.integers(0, 10**6))
def test_lengths_of_time_read_back(seconds: int) -> None:
    length = timedelta(seconds=seconds)
    assert duration(in_words(length)) == length


@pytest.mark.parametrize("text", ["", "5", "-1h", "1.5h", "1w", None, True, 7, "1h30m"])
def test_what_is_no_length_of_time(text: object) -> None:
    with pytest.raises(ValueError, match="no length of time"):
        duration(text)


def test_a_policy_is_frozen() -> None:
    assert Policy() == Policy()
    assert hash(Policy().when)


def test_the_documents_policy_is_one() -> None:
    from pathlib import Path

    from include.retraining.checking import policy_faults

    text = (Path(__file__).parents[3] / "docs" / "retraining.md").read_text()
    written = text.partition("```yaml\n")[2].partition("```")[0]
    assert policy_faults(written) == []
    assert set(policy.read(written).as_dict()) == {
        line.partition(":")[0] for line in written.splitlines() if line[:1].isalpha()
    }


@pytest.mark.parametrize(
    "source",
    [
        "golden",
        {"url": "https://example.com/golden.yaml", "secret": "hub"},
        {"url": "hf://datasets/org/name@main/golden.jsonl", "secret": "hub"},
        {"url": "s3://bucket/golden.yaml?region=eu-west-1"},
        {"image": "r.example.com/golden:1"},
    ],
)
def test_a_golden_set_may_lie_elsewhere_and_is_written_as_it_was_read(source: object) -> None:
    found = policy.of({"evaluation": {"goldenSet": source}})
    assert found.as_dict()["evaluation"]["goldenSet"] == source
    assert policy.of(found.as_dict()) == found


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({}, "needs one of configMap, url and image"),
        ({"url": "https://example.com/a", "image": "r.example.com/a:1"}, "no two of them"),
        ({"url": "https://example.com/a?sig=x"}, r"evaluation\.goldenSet\.url"),
        ({"url": "ftp://example.com/a"}, r"evaluation\.goldenSet\.url"),
        ({"url": "https://huggingface.co/datasets/a/b"}, "a page about a dataset"),
        ({"url": "http://example.com/a", "secret": "s"}, "not sent in the clear"),
        ({"url": "hf://datasets/org/name"}, "give the path of the one that has the golden set"),
        ({"url": "s3:///golden.yaml"}, "its bucket is not the name of one"),
        ({"url": "https://a:b@example.com/a"}, "without a query or a password"),
        ({"configMap": "a", "secret": "s"}, "has a secret"),
        ({"image": "r.example.com/A:1"}, "is not an image reference"),
        ({"ulr": "https://example.com/a"}, "did you mean url"),
        ("Bad_Name", r"evaluation\.goldenSet\.configMap"),
        (3, r"evaluation\.goldenSet"),
    ],
)
def test_a_golden_set_that_is_nowhere_is_named(source: object, says: str) -> None:
    with pytest.raises(PolicyInvalid, match=says):
        policy.of({"evaluation": {"goldenSet": source}})


@pytest.mark.parametrize("given", [["arc_easy"], {"tasks": ["arc_easy"], "limit": 100}])
def test_tasks_of_lm_eval_are_named_alone_or_with_their_limits(given: object) -> None:
    wanted = policy.of({"evaluation": {"lmEval": given}}).evaluation
    assert wanted is not None
    assert wanted.lm_eval is not None
    assert (wanted.lm_eval.tasks, wanted.lm_eval.limit) == (("arc_easy",), 100)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], r"lmEval\.tasks: needs 1 to 20 names of tasks"),
        (["arc easy"], r"lmEval\.tasks: has no name of a task in 'arc easy'"),
        ({"tasks": ["a"], "limit": 0}, r"lmEval\.limit"),
        ({"tasks": ["a"], "few_shots": 3}, "did you mean fewShot"),
    ],
)
def test_tasks_that_cannot_be_run_are_named(given: object, says: str) -> None:
    with pytest.raises(PolicyInvalid, match=says):
        policy.of({"evaluation": {"lmEval": given}})
