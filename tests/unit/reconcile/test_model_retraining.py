"""Random lives of a Workspace that is retrained: whatever happens, a version that is served is one that was wanted."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from include.retraining.versions import State
from include.workspace.api import names
from include.workspace.status import retraining
from include.workspace.status.conditions import condition
from tests.support.reconcile.airflow import OVER
from tests.support.reconcile.cluster import going
from tests.support.reconcile.life import THOROUGH, Life


class RetrainedLife(Life):
    """A life with schedules, promotions, rollbacks, and retrainings that end or die."""

    def __init__(self) -> None:
        super().__init__()
        self.versions = 0
        self.quiet = False

    @rule(what=st.sampled_from(["* * * * *", "0 * * * *", "@data", "absurd", None]))
    def schedule(self, what: str | None) -> None:
        self._annotate(names.RETRAIN_SCHEDULE, what)

    @rule(what=st.sampled_from(["previous", "original", "v1", "v2", "nobody", None]))
    def roll_back(self, what: str | None) -> None:
        self._annotate(names.ROLLBACK_TO, what)

    @rule()
    def retrainings_end(self) -> None:
        for run in self.airflow.runs.values():
            if run.dag == "kaito_retrain" and run.state not in OVER:
                run.answered = True

    @rule(bake=st.sampled_from([0.0, 0.0, 60.0]), percent=st.sampled_from([0.0, 10.0, 50.0]))
    def promote(self, bake: float, percent: float) -> None:
        """What the step of that name writes, where there is an adapter and no other version is on its way."""
        status = (self.ws or {}).get("status") or {}
        told = condition(status, "AdapterPublished") or {}
        if self.ws is None or going(self.ws) or self.kind == "inference" or told.get("status") != "True":
            return
        known = retraining.of(status)
        generation = self.ws["metadata"]["generation"]
        if known.get("promotion") or told.get("observedGeneration") != generation:
            return
        self.versions += 1
        digest = f"sha256:{self.versions:064x}"
        entry = {
            "version": f"v{self.versions}",
            "state": State.CANDIDATE,
            "digest": digest,
            "reference": f"r.io/x@{digest}",
        }
        first = {
            **(status.get("adapter") or {}),
            "version": "original",
            "state": State.PROMOTED,
            "promotedAt": "2026",
        }
        history = known.get("versions") or ([first] if first.get("reference") else [])
        status = retraining.with_retrain(status, {**known, "versions": [*history, entry]})
        self._write(
            retraining.wanted(
                status,
                entry,
                cause="promote",
                bake_seconds=bake,
                generation=generation,
                canary={"percent": percent, "canarySeconds": 60.0} if percent else None,
            )
        )

    def _write(self, status: dict[str, Any]) -> None:
        assert self.ws is not None
        self.cluster.change("Workspace", {**self.ws, "status": status})

    def _settle(self) -> None:
        self._annotate(names.RETRAIN_SCHEDULE, None)
        self.quiet = True
        super()._settle()

    def _advance_runs(self) -> None:
        if self.quiet:
            self.retrainings_end()
        super()._advance_runs()

    def _expect_truth(self) -> None:
        super()._expect_truth()
        assert self.ws is not None
        status = self.ws["status"]
        known, summary = retraining.of(status), condition(status, "WorkspaceReady") or {}
        if summary.get("status") == "True" and not going(self.ws):
            assert "promotion" not in known, self._words()
        assert not retraining.working(status), self._words()
        digest = str((status.get("adapter") or {}).get("digest") or "")
        entry = next((one for one in known.get("versions") or () if one.get("digest") == digest), None)
        if "promotion" not in known and summary.get("status") == "True":
            assert not self.cluster.canaries, self._words()
        if entry is not None and "promotion" not in known:
            assert entry["state"] != State.CANDIDATE, (self._words(), known)


TestRetrainedLife = RetrainedLife.TestCase
TestRetrainedLife.settings = settings(
    max_examples=3000 if THOROUGH else 150,
    stateful_step_count=60 if THOROUGH else 30,
    deadline=None,
    derandomize=not THOROUGH,
    suppress_health_check=list(HealthCheck),
)
