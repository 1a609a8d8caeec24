"""Events: told once, counted when they come again, and never an error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kaito.controller import event_recorder as events
from kaito.hooks.api import ClusterError, Request
from kaito.hooks.cluster_calls import run

from include.workspace.status import conditions
from include.workspace.status.transitions import NORMAL, WARNING, Event
from tests.support.fake_cluster import FakeCluster

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PENDING = Event(NORMAL, "Pending", "Accepted")


class Recording(FakeCluster):
    """Also takes the patches that count."""

    def send(self, request: Request) -> Any:
        name = request.path.rpartition("/")[2]
        event = self.objects["events", "default", name]
        event.update({key: value for key, value in request.body.items() if key != "metadata"})
        return event

    @property
    def told(self) -> list[dict[str, Any]]:
        return [obj for (plural, _, _), obj in self.objects.items() if plural == "events"]


@pytest.fixture
def cluster() -> Recording:
    return Recording()


def at(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return moment

    monkeypatch.setattr(events, "datetime", Clock)


def test_an_event_names_its_workspace_and_its_teller(workspace: dict[str, Any]) -> None:
    made = events.manifest(workspace, PENDING, NOW)
    assert made["involvedObject"]["uid"] == workspace["metadata"]["uid"]
    assert made["involvedObject"]["kind"] == "Workspace"
    assert made["metadata"]["namespace"] == "default"
    assert made["reportingComponent"] == made["source"]["component"] == "kaito-airflow"
    assert (made["type"], made["reason"], made["message"], made["count"]) == (
        "Normal",
        "Pending",
        "Accepted",
        1,
    )


def test_the_same_event_is_counted(
    cluster: Recording, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for minute in range(3):
        at(monkeypatch, NOW + timedelta(minutes=minute))
        run(events.tell(cluster.calls, workspace, [PENDING]))
    assert len(cluster.told) == 1
    assert cluster.told[0]["count"] == 3
    assert cluster.told[0]["firstTimestamp"] == "2026-11-23T12:00:00Z"
    assert cluster.told[0]["lastTimestamp"] == "2026-11-23T12:02:00Z"


def test_after_a_quiet_time_the_count_begins_anew(
    cluster: Recording, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for minute in (0, 1, 20):
        at(monkeypatch, NOW + timedelta(minutes=minute))
        run(events.tell(cluster.calls, workspace, [PENDING]))
    assert cluster.told[0]["count"] == 1
    assert cluster.told[0]["firstTimestamp"] == "2026-11-23T12:20:00Z"


def test_other_words_are_another_event_and_another_workspace_too(
    cluster: Recording, workspace: dict[str, Any]
) -> None:
    again = {**workspace, "metadata": {**workspace["metadata"], "uid": "another"}}
    others = [Event(WARNING, "Pending", "Accepted"), Event(NORMAL, "Pending", "b")]
    run(events.tell(cluster.calls, workspace, [PENDING, *others]))
    run(events.tell(cluster.calls, again, [PENDING]))
    assert len(cluster.told) == 4


def test_what_lasts_is_said_once_and_again_only_in_new_words(
    cluster: Recording, workspace: dict[str, Any]
) -> None:
    foreign = Event(WARNING, "ManagedByUpstream", "KAITO runs here", once="foreign")
    for _ in range(3):
        run(events.tell(cluster.calls, workspace, [foreign]))
    assert [event["count"] for event in cluster.told] == [1]
    run(events.tell(cluster.calls, workspace, [Event(WARNING, "ManagedByUpstream", "still", once="foreign")]))
    assert [(event["count"], event["message"]) for event in cluster.told] == [(2, "still")]


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_event_that_cannot_be_written_is_no_error(
    cluster: Recording, workspace: dict[str, Any], status: int
) -> None:
    cluster.refuse["create", "events"] = ClusterError(status, "", "no")
    run(events.tell(cluster.calls, workspace, [PENDING]))
    assert cluster.told == []


def test_long_messages_are_cut_to_what_the_api_server_takes(workspace: dict[str, Any]) -> None:
    assert len(events.manifest(workspace, Event(NORMAL, "r", "x" * 5000), NOW)["message"]) == 1024


def test_a_status_that_turns_tells_what_turned(cluster: Recording, workspace: dict[str, Any]) -> None:
    def failed(live: dict[str, Any]) -> dict[str, Any]:
        return conditions.progress(live, conditions.Phase.DATASET_FAILED, message="no such file", now=NOW)

    news = events.News(failed)
    cluster.patch_status(
        workspace["metadata"]["name"], "default", news, uid=workspace["metadata"]["uid"], generation=1
    )
    run(events.tell(cluster.calls, news.live, news.events))
    assert {event["type"] for event in cluster.told} == {"Warning"}
    assert any("no such file" in event["message"] for event in cluster.told)
