"""What only a real Airflow can show of retraining: who may answer, a canary under load, and deadlines."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from include.contracts import canary
from include.workspace.api import names
from tests.support.airflow_run import wait
from tests.support.posting_notifier import URL
from tests.support.reconciled import ReconciledStack, reconciled_stack
from tests.support.retrained import APPROVE, DAG, PATIENCE, Retrained

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1500)]

NAME = "answered"


class Alerts(ThreadingHTTPServer):
    """What was posted to it."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        alerts = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                alerts.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)

    def of(self, run: str) -> list[str]:
        return [str(one["why"]) for one in self.told if one["run"] == run]


@pytest.fixture(scope="module")
def alerts() -> Iterator[Alerts]:
    server = Alerts()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, alerts: Alerts) -> Iterator[ReconciledStack]:
    more = {
        "AIRFLOW__KAITO__NOTIFIERS": "tests.support.posting_notifier:notifier",
        "AIRFLOW__KAITO__RETRAIN_DEADLINE_MINUTES": "1",
        URL: f"http://127.0.0.1:{alerts.server_port}/runs",
    }
    with reconciled_stack(tmp_path_factory.mktemp("retraining"), **more) as found:
        yield found


@pytest.fixture(scope="module")
def life(stack: ReconciledStack) -> Retrained:
    """A service that answers."""
    found = Retrained(stack, NAME)
    found.rules()
    document = stack.tuning(NAME, roll_out=True)
    document["metadata"]["annotations"] |= {names.RETRAIN_POLICY: found.policy}
    stack.kubectl.apply(document)
    stack.reaches(NAME, "WorkspaceReady", seconds=PATIENCE)
    return found


def test_a_person_answers_by_airflow_or_by_kubectl_and_a_late_one_is_told_of(
    life: Retrained, alerts: Alerts
) -> None:
    stack, first = life.stack, life.served()
    life.rules(
        approval={"required": True, "timeout": "15m"},
        canary={"percent": 50, "time": "8s"},
    )

    # No, by Airflow's page, which asks its API.
    life.begin("no-by-airflow")
    life.asked("no-by-airflow")
    stack.api.respond(DAG, "no-by-airflow", APPROVE, "Reject")
    assert "rejected by admin" in life.reaches("CandidateRefused")
    assert life.ended("no-by-airflow") == "success"
    assert life.version_of("no-by-airflow")["state"] == "refused"

    # No, by kubectl, when the deadline has passed and somebody was told of it.
    life.begin("no-by-kubectl")
    digest = life.asked("no-by-kubectl")
    wait(lambda: alerts.of("no-by-kubectl"), PATIENCE, "the alert of a late run")
    assert alerts.of("no-by-kubectl") == ["it has not ended in time"], "once"
    assert stack.api.run(DAG, "no-by-kubectl")["state"] == "running", "the run goes on"
    stack.kubectl("annotate", "workspace", NAME, f"{names.REJECT}={digest}")
    assert f"rejected by annotation {names.REJECT}" in life.reaches("CandidateRefused")
    assert life.ended("no-by-kubectl") == "success"
    assert life.served() == first

    # Yes, by kubectl: a canary answers half of the requests, then all, and none fails.
    life.begin("yes-by-kubectl")
    digest = life.asked("yes-by-kubectl")
    with life.load() as found:
        stack.kubectl("annotate", "workspace", NAME, f"{names.APPROVE}={digest}")
        message = wait(life.canary, PATIENCE, "the canary")
        assert life.served() == first
        life.reaches("Promoted")
    assert "answers 50% of the requests" in message
    assert {one.status for one in found.answers} == {200}
    assert life.served() == found.answers[-1].digest == digest
    tried = found.of(digest)[0].moment
    rest = [one for one in found.of(first) if one.moment > tried + 1]
    assert rest, "the served version went on answering its share"
    assert not any(canary.answers(one.request_id, 50) for one in rest)
    entry = life.version_of("yes-by-kubectl")
    assert (entry["state"], entry["approvedBy"]) == ("promoted", f"annotation {names.APPROVE}")
    assert any(reason == "CanaryPassed" for _, reason, _ in stack.events(NAME))
    print(f"promoted under load: {len(found.answers)} answers, 0 failed, {len(rest)} of the served version")


def test_a_canary_that_breaches_the_policy_is_taken_back_by_itself(
    life: Retrained, record_property: Callable[[str, object], None]
) -> None:
    before = life.served()
    life.rules(
        approval={"required": False},
        canary={"percent": 50, "time": "10m"},
        bake={"latency": 0.001},  # no answer is a thousand times as fast, so its twentieth one is a breach
    )
    life.begin("breach")
    wait(life.canary, PATIENCE, "the canary")
    with life.load() as found:
        told = life.reaches("RolledBack")
        wait(lambda: not life.retrain().get("promotion"), PATIENCE, "the end of its share")
        quiet = len(found.answers) + 2  # those that were under way
        wait(lambda: len(found.answers) > quiet + 20, PATIENCE, "answers after it")
    assert "0.001 times as long" in told
    assert {one.status for one in found.answers} == {200}
    assert {one.digest for one in found.answers[quiet:]} == {before}
    assert life.served() == before
    assert life.version_of("breach")["state"] == "rolledBack"
    bad = [one for one in found.answers if one.digest != before]
    breached = max(bad[19].moment, found.of(before)[19].moment)
    seconds = bad[-1].moment - breached
    record_property("seconds_from_breach_to_last_answer", round(seconds, 1))
    print(f"{seconds:.1f} s from the breach to the last answer of the version that was taken back")
    assert life.ended("breach") == "failed"
