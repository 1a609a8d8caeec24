"""The parts that decisions are made of: back-off, cost, revisions and when to look."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.reconcile import (
    Annotate,
    ApplyObject,
    DeleteObject,
    ReconcileConfig,
    backoff,
    due,
    runs_to_ask,
)
from include.reconcile.case import Case
from include.reconcile.cost import account
from include.reconcile.decision import Observed
from include.reconcile.decision_builder import DecisionBuilder
from include.reconcile.revisions import HISTORY, record, spec_hash
from include.workspace.api import names
from include.workspace.status.conditions import timestamp
from tests.support.pools import workspace_pools
from tests.support.reconcile.cluster import MACHINE
from tests.support.reconcile.story import RECONCILE_CONFIG, Story, ready, run_ended, tuning_pod_runs

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


# -- back-off --------------------------------------------------------------------------------------------------------


def test_back_off_doubles_up_to_five_minutes() -> None:
    assert [backoff.seconds(n) for n in range(1, 9)] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert backoff.seconds(10_000) == 300


def test_a_failure_is_counted_and_says_when_to_try_again() -> None:
    once = backoff.failed(None, NOW, "no")
    assert once == {"failures": 1, "after": "2026-11-23T12:00:05Z", "message": "no"}
    assert backoff.failed(once, NOW, "no")["after"] == "2026-11-23T12:00:10Z"
    assert backoff.wait(once, NOW) == 5
    assert backoff.wait(once, NOW + timedelta(seconds=9)) == 0
    assert backoff.wait(None, NOW) == 0


@pytest.mark.parametrize("text", [None, "", "soon", 5, "2026-11-23T12:00:05"])
def test_what_is_no_moment_is_none(text: Any) -> None:
    assert backoff.moment(text) is None


# -- cost ------------------------------------------------------------------------------------------------------------


def claim(name: str, since: datetime) -> dict[str, Any]:
    labels = {names.WORKSPACE: "w", names.WORKSPACE_NAMESPACE: "ml", names.POOL: "tuning"}
    values = [{"key": "node.kubernetes.io/instance-type", "values": [MACHINE]}]
    meta = {"name": name, "uid": f"uid-{name}", "labels": labels, "creationTimestamp": timestamp(since)}
    launched = {"type": "Launched", "status": "True", "lastTransitionTime": timestamp(since)}
    return {"metadata": meta, "spec": {"requirements": values}, "status": {"conditions": [launched]}}


def costs(status: dict[str, Any], claims: list[dict[str, Any]], now: datetime, **more: Any) -> dict[str, Any]:
    workspace = {"metadata": {"name": "w", "namespace": "ml", "uid": "u"}, "tuning": {}, "status": status}
    price, ended = more.pop("price", 3.6), more.pop("ended", {})
    config = ReconcileConfig(lambda *_: [], lambda _: MACHINE, lambda _: price, lambda *_: "")
    observed = Observed(pools=workspace_pools(node_claims=claims), ended=ended)
    builder = DecisionBuilder(Case(workspace, observed, now, config))
    account(builder, busy=more.get("busy", True))
    return builder.status


def test_a_machine_costs_its_lifetime_times_its_price_and_keeps_its_record() -> None:
    status = costs({}, [claim("a", NOW)], NOW)
    status = costs(status, [claim("a", NOW)], NOW + timedelta(hours=1))
    assert (status["cost"]["nodeSeconds"], status["cost"]["usd"]) == (3600, 3.6)
    status = costs(status, [claim("b", NOW + timedelta(hours=1))], NOW + timedelta(hours=2))
    assert (status["cost"]["nodeSeconds"], status["cost"]["usd"]) == (10800, 10.8)
    records = {r["name"]: r.get("until") for r in status["cost"]["claims"]}
    assert records == {"a": "2026-11-23T14:00:00Z", "b": None}
    later = costs(status, [], NOW + timedelta(hours=3))
    assert later["cost"]["usd"] == 14.4
    assert costs(later, [], NOW + timedelta(days=9)) == later


def test_a_machine_that_was_seen_to_go_costs_until_then() -> None:
    status = costs({}, [claim("a", NOW)], NOW)
    gone = {"uid-a": NOW + timedelta(minutes=10)}
    assert costs(status, [], NOW + timedelta(hours=1), ended=gone)["cost"]["nodeSeconds"] == 600


def test_what_a_service_has_cost_is_never_older_than_the_resync() -> None:
    status = costs({}, [claim("a", NOW)], NOW)
    soon, later = NOW + timedelta(minutes=3), NOW + timedelta(minutes=5)
    assert costs(status, [claim("a", NOW)], soon, busy=False) == status
    cost = costs(status, [claim("a", NOW)], later, busy=False)["cost"]
    assert (cost["nodeSeconds"], cost["at"]) == (300, timestamp(later))


def test_a_machine_without_a_price_is_not_free() -> None:
    found = costs({}, [claim("a", NOW)], NOW + timedelta(hours=1), price=None)["cost"]
    assert (found["usd"], found["unpriced"]) == (0, True)


def test_old_records_are_summed_up_and_the_total_stays() -> None:
    status: dict[str, Any] = {}
    for number in range(60):
        begin = NOW + timedelta(hours=number)
        status = costs(status, [claim(f"c{number}", begin)], begin)
    status = costs(status, [], NOW + timedelta(hours=60))
    assert len(status["cost"]["claims"]) <= 21
    assert status["cost"]["nodeSeconds"] == 60 * 3600
    assert status["cost"]["usd"] == pytest.approx(60 * 3.6)


# -- revisions -------------------------------------------------------------------------------------------------------

SPEC = {"resource": {"count": 1}, "tuning": {"method": "qlora"}}


def revise(spec: dict[str, Any], revisions: list[dict[str, Any]]) -> DecisionBuilder:
    meta = {"name": "w", "namespace": "ml", "uid": "u"}
    builder = DecisionBuilder(
        Case({"metadata": meta, **spec}, Observed(revisions=revisions), NOW, RECONCILE_CONFIG)
    )
    record(builder)
    return builder


def applied(builder: DecisionBuilder) -> dict[str, Any]:
    found = next(a for a in builder.actions if isinstance(a, ApplyObject))
    return {
        **found.manifest,
        "metadata": {**found.manifest["metadata"], "uid": found.manifest["metadata"]["name"]},
    }


def test_the_hash_is_kaito_s_three_lines_and_knows_nothing_of_metadata() -> None:
    lines = b'{"count":1}\nnull\n{"method":"qlora"}\n'
    assert spec_hash(SPEC) == hashlib.sha256(lines).hexdigest()
    assert spec_hash({**SPEC, "metadata": {"name": "x"}}) == spec_hash(SPEC)
    assert spec_hash({**SPEC, "inference": {}}) != spec_hash(SPEC)
    turned = {"tuning": SPEC["tuning"], "resource": SPEC["resource"]}
    assert spec_hash(turned) == spec_hash(SPEC)


def test_a_revision_keeps_no_signed_url_and_tells_signatures_apart() -> None:
    def spec(signature: str) -> dict[str, Any]:
        url = f"https://h.example/a.jsonl?sig={signature}"
        return {**SPEC, "tuning": {"method": "qlora", "input": {"urls": [url]}}}

    made = applied(revise(spec("CANARY7f3a9c"), []))
    assert "CANARY7f3a9c" not in json.dumps(made)
    assert made["data"]["tuning"]["input"]["urls"] == ["https://h.example/a.jsonl?..."]
    assert spec_hash(spec("CANARY7f3a9c")) != spec_hash(spec("other"))


def test_a_revision_is_named_numbered_and_owned_as_kaito_does() -> None:
    builder = revise(SPEC, [])
    made = applied(builder)
    whole = spec_hash(SPEC)
    assert made["metadata"]["name"] == f"w-{whole[:5]}"
    assert made["metadata"]["annotations"] == {names.REVISION_HASH: whole}
    assert made["metadata"]["labels"][names.REVISION_OF] == "w"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert (made["revision"], made["data"]) == (1, {**SPEC, "inference": None})
    noted = next(a for a in builder.actions if isinstance(a, Annotate))
    assert noted.annotations == {names.REVISION_HASH: whole, names.REVISION: "1"}


def test_going_back_finds_the_old_revision_with_its_number() -> None:
    one = applied(revise(SPEC, []))
    two = applied(revise({**SPEC, "inference": {}}, [one]))
    assert two["revision"] == 2
    back = revise(SPEC, [one, two])
    assert not [a for a in back.actions if isinstance(a, ApplyObject)]
    assert next(a for a in back.actions if isinstance(a, Annotate)).annotations[names.REVISION] == "1"


def test_two_specs_with_the_same_five_digits_get_two_names() -> None:
    whole = spec_hash(SPEC)
    other = {**applied(revise({**SPEC, "inference": {}}, []))}
    other["metadata"] = {**other["metadata"], "name": f"w-{whole[:5]}"}
    assert applied(revise(SPEC, [other]))["metadata"]["name"] == f"w-{whole[:6]}"


def test_history_keeps_ten_and_never_loses_the_current_one() -> None:
    known: list[dict[str, Any]] = []
    for variant in range(30):
        builder = revise({**SPEC, "inference": {"variant": variant}}, known)
        known.append(applied(builder))
        gone = {a.name for a in builder.actions if isinstance(a, DeleteObject)}
        known = [r for r in known if r["metadata"]["name"] not in gone]
    assert [r["revision"] for r in known] == list(range(21, 31))
    assert len(known) == HISTORY
    back = revise({**SPEC, "inference": {"variant": 20}}, known)
    assert not [a for a in back.actions if isinstance(a, DeleteObject)]


# -- when to look, and whom to ask -----------------------------------------------------------------------------------


def test_idle_workspaces_are_never_due_and_ask_nobody() -> None:
    for kind in ("tuning", "inference"):
        story = Story(kind).lives(lambda s: ready(s) and run_ended(s))
        story.reconcile()
        assert due(story.ws, story.cluster.now, story.cluster.now + timedelta(days=1)) is None
        assert runs_to_ask(story.ws, story.cluster.all("Pod"), story.look().observed.pools.pools) == []


def test_a_service_that_does_not_answer_is_looked_at_at_the_quiet_pace() -> None:
    story = Story("inference").lives(ready)
    story.cluster.change("StatefulSet", story.cluster.all("StatefulSet")[0], status={"readyReplicas": 0})
    story.reconcile()
    now = story.cluster.now
    assert due(story.ws, now, now) == 30.0


def test_a_workspace_that_was_never_looked_at_is_due_now() -> None:
    assert due(Story().ws, None, NOW) == 0.0


def test_a_run_is_looked_at_every_ten_seconds_while_a_pod_tunes_else_every_thirty() -> None:
    story = Story()
    story.reconcile()
    now = story.cluster.now
    assert due(story.ws, now, now) == 30.0
    assert runs_to_ask(story.ws) == [("kaito_tune", names.run_id(story.ws))]
    story.lives(tuning_pod_runs)
    now = story.cluster.now
    assert due(story.ws, now, now + timedelta(seconds=4)) == 6.0
    assert due(story.ws, now, now + timedelta(seconds=40)) == 0.0


def test_a_retry_is_due_when_its_time_comes_and_only_once() -> None:
    story = Story()
    story.shell.secret = False
    story.reconcile()
    now = story.cluster.now
    assert due(story.ws, now, now) == 5.0
    assert due(story.ws, now, now + timedelta(seconds=7)) == 0.0


def test_a_run_that_could_not_be_started_is_due_by_back_off_and_not_at_the_pace_of_runs() -> None:
    story = Story()
    story.reconcile()
    retry = backoff.failed({"failures": 6}, story.cluster.now, "Airflow's DAG kaito_tune is paused")
    ws, now = {**story.ws, "status": {**story.status, "retry": retry}}, story.cluster.now
    assert ws["status"]["run"]["state"] == "started"
    assert due(ws, now, now + timedelta(seconds=40)) == 260.0
    assert due(ws, now, now + timedelta(seconds=301)) == 0.0


def test_a_superseding_workspace_is_due_every_second_and_asks_nobody() -> None:
    story = Story().lives(tuning_pod_runs).edit(variant=1)
    story.reconcile()
    assert due(story.ws, story.cluster.now, story.cluster.now) == 1.0
    assert runs_to_ask(story.ws) == []


def test_a_moment_that_has_passed_is_followed_by_looks_at_the_quiet_pace() -> None:
    story = Story("inference").lives(ready)
    past = timestamp(story.cluster.now - timedelta(minutes=1))
    status = {**story.status, "retry": {"failures": 1, "after": past, "message": "no luck"}}
    ws, now = {**story.ws, "status": status}, story.cluster.now
    assert due(ws, now, now) == 30.0
    assert due(ws, now, now + timedelta(seconds=29)) == 1.0
    assert due(ws, now, now + timedelta(seconds=31)) == 0.0


def test_a_release_is_looked_at_every_ten_seconds() -> None:
    story = Story().lives(tuning_pod_runs)
    story.cluster.delete("Workspace", "w")
    story.reconcile()
    assert due(story.ws, story.cluster.now, story.cluster.now) == 10.0
    assert runs_to_ask(story.ws) == [("kaito_release", names.release_run_id(story.ws))]


def test_a_paused_workspace_is_never_due() -> None:
    story = Story().lives(tuning_pod_runs).annotate(paused="true")
    assert due(story.ws, story.cluster.now, story.cluster.now + timedelta(hours=1)) is None


def test_a_run_that_was_over_is_asked_about_again_when_it_works() -> None:
    story = Story().lives(tuning_pod_runs)
    status = {**story.status, "run": {**story.status["run"], "state": "failed"}}
    story.cluster.put("Workspace", {**story.ws, "status": status})
    assert runs_to_ask(story.ws) == []
    assert runs_to_ask(story.ws, story.cluster.all("Pod"))
