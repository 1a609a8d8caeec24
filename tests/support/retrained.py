"""A service that is retrained in a real Airflow, and the words to drive and to watch it with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from demo.airflow_api import TERMINAL_RUN_STATES
from include.contracts import canary
from tests.support.airflow_run import wait
from tests.support.reconciled import ReconciledStack, patiently

DAG, APPROVE = "kaito_retrain", "retrain.approve"
#: No wait measures anything, and the machine may be busy.
PATIENCE = 420.0


@dataclass(frozen=True)
class Answer:
    """What one question got, and when (seconds of a monotonic clock); a connection that fails has the status 0."""

    status: int
    digest: str
    request_id: str
    moment: float


@dataclass
class Load:
    """What clients got that asked without a pause."""

    answers: list[Answer] = field(default_factory=list)

    def of(self, digest: str) -> list[Answer]:
        return [one for one in self.answers if one.digest == digest]


@dataclass
class Retrained:
    """One Workspace and its retrainings.

    :param policy: name of the ConfigMap with its policy.
    """

    stack: ReconciledStack
    name: str
    policy: str = "retrained-rules"

    def rules(self, **policy: Any) -> None:
        """Write the policy; each run of it trains."""
        text = json.dumps({"when": "always", "bake": {"time": "2s"}, **policy})
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": self.policy}}
        self.stack.kubectl.apply({**body, "data": {"retrain_policy.yaml": text}})

    def begin(self, run: str) -> None:
        """Start a retraining by hand."""
        conf = {"workspace": {"metadata": {"name": self.name, "namespace": "default"}}}
        self.stack.api.trigger(DAG, run, conf)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = patiently(lambda: self.stack.get("workspace", self.name))["status"]
        return found

    def retrain(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status().get("retrain") or {}
        return found

    def version_of(self, run: str) -> dict[str, Any]:
        """The version that a run makes, as the history has it."""
        entries = [one for one in self.retrain().get("versions") or () if one.get("run") == run]
        assert len(entries) <= 1, entries
        return dict(entries[0]) if entries else {}

    def told(self) -> dict[str, Any]:
        """The condition RetrainReady."""
        found: dict[str, Any] = patiently(lambda: self.stack.condition(self.name, "RetrainReady"))
        return found

    def reaches(self, reason: str, seconds: float = PATIENCE) -> str:
        """Wait for a reason of RetrainReady and return its message."""

        def look() -> str | None:
            told = self.told()
            assert told.get("reason") not in {"RetrainFailed", "RetrainInvalid"} - {reason}, told
            return str(told["message"]) if told.get("reason") == reason else None

        return str(wait(look, seconds, f"{reason} of {self.name}"))

    def asked(self, run: str) -> str:
        """Wait until a run asks a person; returns the candidate's digest."""
        wait(
            lambda: patiently(lambda: self.stack.api.required_action(DAG, run, APPROVE)),
            PATIENCE,
            f"the question of {run}",
        )
        self.reaches("AwaitingApproval")
        return str(self.retrain()["approval"]["digest"])

    def canary(self) -> str | None:
        """What is told of a canary while it answers."""
        promotion = self.retrain().get("promotion") or {}
        return (
            str(self.told()["message"])
            if promotion.get("state") == "canary" and promotion.get("until")
            else None
        )

    def ended(self, run: str, dag: str = DAG) -> str:
        """Wait for the end of a run and return its state."""

        def look() -> str | None:
            state = str(patiently(lambda: self.stack.api.run(dag, run))["state"])
            return state if state in TERMINAL_RUN_STATES else None

        return str(wait(look, PATIENCE, f"the end of {run}"))

    def served(self) -> str:
        """The digest of the adapter that is served."""
        return str(self.status()["adapter"]["digest"])

    @contextmanager
    def load(self, clients: int = 2) -> Iterator[Load]:
        """Clients that ask for as long as the block runs."""
        address = self.stack.kubectl("get", "svc", self.name, "-o", "jsonpath={.spec.clusterIPs[0]}")
        body = {"prompt": "What is 2 plus 2?", "generate_kwargs": {"max_new_tokens": 4}}
        found, over = Load(), threading.Event()

        def client() -> None:
            with httpx.Client(timeout=60, trust_env=False) as http:
                while not over.wait(0.05):
                    try:
                        reply = http.post(f"http://{address}/chat", json=body)
                    except httpx.TransportError:
                        found.answers.append(Answer(0, "", "", time.monotonic()))
                        continue
                    digest = reply.headers.get("x-kaito-adapter-digest", "")
                    name = reply.headers.get(canary.HEADER, "")
                    found.answers.append(Answer(reply.status_code, digest, name, time.monotonic()))

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for one in threads:
            one.start()
        try:
            yield found
        finally:
            over.set()
            for one in threads:
                one.join()
