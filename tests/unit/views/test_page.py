"""The page of one Workspace: nothing secret, nothing endless, and only actions that make sense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from include.ledger.books import Entry
from include.views import actions, commands, curve, spending
from include.views.actions import Action, ActionRefused
from include.views.page import LONGEST, page
from include.views.spending import Known
from include.views.timeline import QUEUED, TaskRun, bars, label
from include.workspace.api import names
from include.workspace.status.conditions import Phase, timestamp
from tests.support.fleet import BEGUN, DIGEST, NOW, SERVING, TRAINING, reached, workspace


def ended(state: str = "success", **more: Any) -> dict[str, Any]:
    found = reached(*SERVING, **more)
    found["status"]["run"] = {"id": "team.phi.uid-phi0.g1", "dag": "kaito_tune", "state": state}
    return found


def names_of(found: dict[str, Any]) -> list[Action]:
    return [one.action for one in actions.offers(found)]


def test_no_part_of_a_page_holds_a_signature() -> None:
    found = reached(BEGUN, (Phase.DATASET_FAILED, "https://d.example/x?sig=SECRETSIGNATURE is gone"))
    event = {"message": "GET https://d.example/x?sig=SECRETSIGNATURE", "type": "Warning", "reason": "Bad"}
    assert "SECRETSIGNATURE" not in str(page(found, [event], NOW))


def test_the_yaml_is_what_may_be_applied_again() -> None:
    found = ended()
    found["metadata"] |= {"resourceVersion": "7", "managedFields": [{}], "finalizers": ["x"]}
    written = yaml.safe_load(page(found, [], NOW).yaml)
    assert set(written["metadata"]) == {"name", "namespace"}
    assert "status" not in written
    assert written["tuning"]["method"] == "qlora"


def test_the_yaml_has_the_annotations_of_its_author_alone() -> None:
    """Who applied ours again would claim a revision, or a run, that is not the new Workspace's."""
    found = ended()
    ours = {names.REVISION_HASH: "f00", names.REVISION: "3", names.STARTED_BY: "kaito_tune/manual__1"}
    theirs = {names.ROLLOUT: "false", "example.com/team": "ml"}
    last = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    found["metadata"]["annotations"] = {**ours, **theirs, **last}
    assert yaml.safe_load(page(found, [], NOW).yaml)["metadata"]["annotations"] == theirs
    found["metadata"]["annotations"] = dict(ours)
    assert "annotations" not in yaml.safe_load(page(found, [], NOW).yaml)["metadata"]


def test_events_of_an_earlier_workspace_of_the_name_are_not_its_own() -> None:
    found = ended()
    uid = found["metadata"]["uid"]
    events = [
        {"message": word, "reason": "R", "type": "Normal", "involvedObject": about}
        for word, about in (("mine", {"uid": uid}), ("earlier", {"uid": "another"}), ("unnamed", {}))
    ]
    assert {one.message for one in page(found, events, NOW).events} == {"mine", "unnamed"}


@pytest.mark.parametrize(
    ("nodes", "claims", "told"),
    [
        ([], [], "nothing, it holds no machines"),
        (["own-0"], [], "not known of its nodes"),
        (["gpu-0"], [{"usdPerHour": 3.06, "since": timestamp(NOW)}], "3.06 USD"),
    ],
)
def test_what_machines_cost_an_hour_is_not_called_nothing_where_it_is_not_known(
    nodes: list[str], claims: list[dict[str, Any]], told: str
) -> None:
    found = ended()
    found["status"] |= {"workerNodes": nodes, "cost": {"claims": claims}}
    assert dict(page(found, [], NOW).facts)["Cost an hour"] == told


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"id": "org/m", "revision": "9e3f5a1c" * 5}, "org/m at 9e3f5a1c9e3f"),
        ({"id": "org/m", "revision": "main"}, "org/m at main"),
        ({"id": "org/m", "image": "r.example.com/m@sha256:1"}, "r.example.com/m@sha256:1"),
        ({"id": "org/m", "volume": "models/m"}, "volume models/m"),
        ({}, None),
    ],
)
def test_the_facts_say_which_weights_it_works_with(said: dict[str, Any], words: str | None) -> None:
    found = ended()
    found["status"]["model"] = said
    assert dict(page(found, [], NOW).facts).get("Weights") == words


def test_a_megabyte_in_an_annotation_is_cut() -> None:
    found = workspace(annotations={"note": "x" * 1_000_000})
    assert len(page(found, [], NOW).yaml) < 2 * LONGEST


def test_conditions_and_events_come_in_order_and_bad_news_is_marked() -> None:
    found = reached(BEGUN, (Phase.DATASET_READY, "Rows."), (Phase.NODES_FAILED, "Quota."))
    events = [
        {"lastTimestamp": timestamp(NOW), "reason": "Late", "type": "Normal"},
        {
            "lastTimestamp": timestamp(NOW - timedelta(hours=1)),
            "reason": "Early",
            "type": "Warning",
            "count": 3,
        },
    ]
    shown = page(found, events, NOW)
    times = [one.at for one in shown.conditions]
    assert times == sorted(times)
    assert [(one.what, one.bad, one.count) for one in shown.events] == [
        ("Early", True, 3),
        ("Late", False, 1),
    ]
    assert any(one.bad for one in shown.conditions)


@settings(max_examples=25)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_whatever_a_retraining_says_is_shown_as_lines(told: Any) -> None:
    found = ended()
    found["status"]["retrain"] = told
    for name, text in page(found, [], NOW).retraining:
        assert isinstance(name, str)
        assert isinstance(text, str)


def test_where_it_comes_from_says_how_the_rows_have_changed() -> None:
    found = ended()
    versions = [{"version": "20261129.1", "dataset": {"digest": "sha256:a", "added": 120, "removed": 3}}]
    found["status"]["retrain"] = {"versions": versions}
    assert ("Rows changed", "+120 \u22123 rows (version 20261129.1)") in page(found, [], NOW).lineage


def test_actions_that_make_sense_now() -> None:
    assert names_of(ended()) == [Action.RERUN, Action.SCALE_TO_ZERO, Action.PAUSE, Action.DELETE]
    assert Action.RERUN not in names_of(reached(*TRAINING))
    assert names_of(ended(annotations={"kaito.sh/paused": "true"})) == [Action.RESUME, Action.DELETE]
    assert names_of(ended(deletionTimestamp="2026-11-28T12:00:00Z")) == []


def test_a_retraining_may_be_answered() -> None:
    found = ended()
    other = "sha256:" + "cd" * 32
    known = [
        {"version": "20261101.1", "digest": DIGEST, "reference": f"r.example/a@{DIGEST}"},
        {"version": "20261102.1", "digest": other, "state": "refused"},
    ]
    found["status"]["retrain"] = {"approval": {"digest": other}, "versions": known}
    assert {Action.APPROVE, Action.REJECT, Action.ROLL_BACK} <= set(names_of(found))
    approved, rejected = (
        {names.APPROVE: other, names.REJECT: None},
        {names.REJECT: other, names.APPROVE: None},
    )
    assert actions.change(found, Action.APPROVE, "", NOW).annotations == approved
    assert actions.change(found, Action.REJECT, "", NOW).annotations == rejected
    with pytest.raises(ActionRefused, match="no digest of an adapter"):
        actions.change(found, Action.REJECT, "latest", NOW)
    assert actions.change(found, Action.ROLL_BACK, "", NOW).annotations == {names.ROLLBACK_TO: "20261101.1"}
    assert actions.change(found, Action.ROLL_BACK, DIGEST, NOW).annotations == {names.ROLLBACK_TO: DIGEST}
    with pytest.raises(ActionRefused, match=r"no version that can be served; there are: 20261101\.1"):
        actions.change(found, Action.ROLL_BACK, "20261102.1", NOW)


def test_each_offer_says_what_it_does_and_costs() -> None:
    found = ended()
    found["status"]["cost"] = {"claims": [{"uid": "1", "since": timestamp(NOW), "usdPerHour": 3.06}]}
    for offer in actions.offers(found):
        assert offer.does.endswith(".")
        assert "3.06 USD" in offer.does


@pytest.mark.parametrize("given", ["0", "-1", "x", "1e9", "inf"])
def test_minutes_that_are_none_are_refused(given: str) -> None:
    with pytest.raises(ActionRefused, match="minutes above 0"):
        actions.change(ended(), Action.SCALE_TO_ZERO, given, NOW)


@pytest.mark.parametrize("before", ["30", "30.0", "0.5", "0.123456", "7.10"])
def test_waking_changes_the_text_and_keeps_the_minutes(before: str) -> None:
    found = ended(annotations={"kaito.sh/scale-to-zero-after-minutes": before})
    found["status"]["conditions"] = [
        {**one, "status": "False", "reason": "ScaledToZero"} if one["type"] == "WorkspaceReady" else one
        for one in found["status"]["conditions"]
    ]
    after = actions.change(found, Action.WAKE, "", NOW).annotations["kaito.sh/scale-to-zero-after-minutes"]
    assert after != before
    assert after is not None
    assert float(after) == pytest.approx(float(before), abs=1e-6)


def test_deleting_takes_the_name() -> None:
    with pytest.raises(ActionRefused, match="takes the Workspace's name, phi"):
        actions.change(ended(), Action.DELETE, "other", NOW)
    assert actions.change(ended(), Action.DELETE, "phi", NOW).deletes


def test_an_action_that_is_not_on_offer_says_how_the_workspace_stands() -> None:
    with pytest.raises(ActionRefused, match="wake makes no sense now: Workspace phi is Serving"):
        actions.change(ended(), Action.WAKE, "", NOW)


def test_stages_with_their_cost() -> None:
    def moment(minute: int) -> datetime:
        return datetime(2026, 11, 28, 11, minute, tzinfo=UTC)

    tasks = [
        TaskRun("tune", "success", moment(10), moment(40), 2),
        TaskRun("preflight", "success", moment(1), moment(2)),
        TaskRun("serve.ask", "skipped", moment(41), moment(41)),
        TaskRun("publish_adapter", "running", moment(41), None),
        TaskRun("finish", "none", None, None),
    ]
    claim = {"since": timestamp(moment(10)), "until": timestamp(moment(40)), "usdPerHour": 2.0}
    found = bars(tasks, [claim], NOW, moment(0))
    assert [one.label for one in found] == [QUEUED, "Check", "Tuning", "Push adapter"]
    assert [round(one.usd, 2) for one in found] == [0, 0, 1.0, 0]
    assert found[-1].goes_on
    assert found[-1].end == NOW
    assert all(0 <= one.offset <= 1 and one.offset + one.width <= 1.01 for one in found)
    assert bars([], [], NOW, moment(0)) == []


def test_a_task_has_its_name_in_any_group() -> None:
    ids = ("tune", "retrain.tune", "serve.ask", "mine.retrain.evaluate", "somebody.else")
    assert [label(one) for one in ids] == [
        "Tuning",
        "Tuning",
        "First question",
        "Evaluation",
        "somebody.else",
    ]


def test_the_curve_of_a_training_that_resumed() -> None:
    log = [
        "x",
        "step 1/4 | loss 2.0 | 50 tok/s | ETA 9s",
        "step 2/4 | loss 1.5 | 60 tok/s",
        "step 3/4 | loss 1.4",
    ]
    found = curve.points([*log, "step 2/4 | loss 1.25 | 70 tok/s", "step 4/4"])
    assert [(p.step, p.loss, p.tokens_per_second) for p in found][1] == (2, 1.25, 70.0)
    loss, speed = curve.charts(found)
    assert (loss.first, loss.last, speed.title) == ("2", "1.4", "Tokens per second")
    assert curve.charts(curve.points(["nothing"])) == []
    assert curve.points([f"step {'9' * 9999}/2 | loss 1"]) == []


def test_everything_that_a_line_tells_is_a_chart() -> None:
    lines = [
        f"step {n}/9 | loss {9 - n}.5 | {n}0 tok/s | lr {n}e-05 | {n}.25 GiB | ETA 9s" for n in (1, 2, 3)
    ]
    found = curve.charts(curve.points(lines))
    assert [(one.title, one.first, one.last) for one in found] == [
        ("Loss", "8.5", "6.5"),
        ("Tokens per second", "10", "30"),
        ("Learning rate", "1e-05", "3e-05"),
        ("Memory at its peak, GiB", "1.25", "3.25"),
    ]


def test_a_long_training_is_drawn_with_few_points() -> None:
    many = curve.points(f"step {n}/9000 | loss {9000 - n}.0" for n in range(1, 9001))
    assert len(curve.charts(many)[0].points.split()) <= curve.MOST_POINTS + 1


def test_commands_quote_what_they_are_given() -> None:
    found = workspace("a; rm -rf x")
    assert "'a; rm -rf x'" in commands.commands(found)[0].text
    asked = next(one for one in commands.commands(workspace()) if "curl" in one.title)
    assert '"model": "phi"' in asked.text
    assert "KEY" not in asked.text
    beta = workspace(annotations={"kaito.sh/rollout": "true"}) | {"apiVersion": "kaito.sh/v1beta1"}
    assert "kubectl get secret phi-api-key -n team" in str(commands.commands(beta))


def test_commands_for_a_model_that_embeds_ask_for_its_vector() -> None:
    found = workspace() | {"inference": {"preset": {"name": "sentence-transformers/all-MiniLM-L6-v2"}}}
    found.pop("tuning")
    for task, path, titles in (
        ("embed", "/v1/embeddings", {"Ask it with curl", "Ask it with Python"}),
        ("classify", "/classify", {"Ask it with curl"}),
    ):
        asked = {one.title: one.text for one in commands.commands(found | {"status": {"task": task}})}
        assert {title for title in asked if title.startswith("Ask")} == titles
        assert f"http://127.0.0.1:8000{path}" in asked["Ask it with curl"]
        assert '"model": "all-minilm-l6-v2"' in asked["Ask it with curl"], "the name that the service lists"
        assert "client.embeddings.create" in asked.get("Ask it with Python", "client.embeddings.create")


def entry(since: datetime | None, until: datetime | None, usd: float, **more: Any) -> Entry:
    seconds = (until - since).total_seconds() if since and until else 3600.0
    known = {
        "namespace": "team",
        "workspace": "phi",
        "run": "r",
        "machine": "m",
        "purpose": "tuning",
        "uid": "1",
    }
    times = {"since": since, "until": until, "seconds": seconds, "useful_seconds": seconds / 2}
    return Entry(**{**known, **times, "usd": usd, "useful_usd": usd / 2, "unpriced": False, **more})


def test_cost_by_month_cuts_where_a_month_ends_and_loses_nothing() -> None:
    crossing = entry(datetime(2026, 11, 30, 12, tzinfo=UTC), datetime(2027, 1, 1, 12, tzinfo=UTC), 32.0)
    found = spending.lines([crossing, entry(None, None, 5.0)], "month", Known())
    assert [one.key[0] for one in found] == ["(earlier)", "2026-11", "2026-12", "2027-01"]
    assert [round(one.usd, 2) for one in found] == [5.0, 0.5, 31.0, 0.5]


def test_cost_by_model_and_csv_without_formulas() -> None:
    one, other = (
        entry(NOW, NOW + timedelta(hours=1), 3.0),
        entry(NOW, NOW + timedelta(hours=1), 1.0, workspace="x"),
    )
    found = spending.lines([one, other], "model", Known({("team", "phi"): "=HYPERLINK(1)"}))
    assert [line.key for line in found] == [("=HYPERLINK(1)",), ("(unknown)",)]
    assert "\n'=HYPERLINK(1),1,1.0000,0.5000,3.0000,1.5000,false,false,\n" in spending.as_csv(found, "model")


def test_what_is_left_of_budgets_stands_in_the_row_of_a_workspace_and_of_its_namespace() -> None:
    spent = [
        entry(NOW, NOW + timedelta(hours=1), 3.0, workspace=one, uid=one, namespace=space)
        for one, space in (("phi", "team"), ("x", "team"), ("y", "other"))
    ]
    left = {("team", "phi"): 7.0, ("team", "x"): 1.5}
    for by, expected in (
        ("workspace", {("team", "phi"): 7.0, ("team", "x"): 1.5, ("other", "y"): None}),
        ("namespace", {("team",): 8.5, ("other",): None}),
        ("month", {("2026-11",): None}),
    ):
        found = spending.lines(spent, by, Known(left=left))
        assert {one.key: one.left_usd for one in found} == expected
    assert "false,7.0000\n" in spending.as_csv(
        spending.lines(spent, "workspace", Known(left=left)), "workspace"
    )


def test_a_budget_that_is_overspent_has_nothing_left() -> None:
    claim = {"uid": "1", "since": timestamp(NOW - timedelta(hours=2)), "usdPerHour": 3.0}
    for budget, left in ((10, 4.0), (5, 0.0), (None, None)):
        cost = {"claims": [claim], "budgetUsd": budget}
        assert spending.budget_left({"status": {"cost": cost}}, NOW) == left


@pytest.mark.parametrize("by", spending.HEADS)
def test_every_grouping_has_a_key_for_each_head(by: str) -> None:
    for line in spending.lines([entry(NOW, NOW + timedelta(hours=1), 3.0)], by, Known()):
        assert len(line.key) == len(spending.HEADS[by])


def test_a_candidate_that_waits_is_named_on_top_and_a_digest_only_once() -> None:
    found = reached(*SERVING)
    found["status"]["adapter"] = {"digest": DIGEST, "reference": f"registry.example/a@{DIGEST}"}
    found["status"]["conditions"] = [
        {"type": "RetrainReady", "status": "False", "reason": "AwaitingApproval", "message": "v2 waits."},
        {"type": "AdapterPublished", "status": "True", "reason": "x", "message": f"Adapter: a@{DIGEST}"},
    ]
    shown = page(found, [], NOW)
    assert dict(shown.facts)["Retraining"] == "v2 waits."
    assert "Published" not in dict(shown.lineage)
    assert dict(shown.lineage)["Digest"] == DIGEST
