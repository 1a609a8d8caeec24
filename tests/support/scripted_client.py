"""A Kubernetes client that answers what a test has written down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import tenacity
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, KaitoClusterHook
from kubernetes.client.exceptions import ApiException
from kubernetes_asyncio.client.exceptions import ApiException as AsyncApiException


def refusal(status: int, reason: str, message: str = "no") -> ApiException:
    error = ApiException(status=status, reason=reason)
    error.body = json.dumps({"reason": reason, "message": message})
    return error


class ScriptedClient:
    """Answers each call with the next of its answers; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[dict[str, Any]] = []

    def call_api(self, **arguments: Any) -> Any:
        self.calls.append(arguments)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class ScriptedAsyncClient(ScriptedClient):
    """The same, as the asyncio client answers."""

    async def call_api(self, **arguments: Any) -> Any:  # type: ignore[override]
        try:
            return super().call_api(**arguments)
        except ApiException as error:
            refused = AsyncApiException(status=error.status, reason=error.reason)
            refused.body = error.body
            raise refused from None


class Awaited:
    """The asyncio hook, each call awaited in a loop of its own."""

    def __init__(self, hook: AsyncKaitoClusterHook) -> None:
        self.hook = hook

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: asyncio.run(getattr(self.hook, name)(*args, **kwargs))


@pytest.fixture(params=["blocking", "asyncio"])
def hook_for(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, ScriptedClient]]:
    """Either hook: what holds for one holds for the other."""

    def blocking(*answers: Any) -> tuple[KaitoClusterHook, ScriptedClient]:
        hook, client = KaitoClusterHook(conn_id=None), ScriptedClient(*answers)
        hook.api_client = client
        monkeypatch.setattr(KaitoClusterHook._send.retry, "wait", tenacity.wait_none())  # type: ignore[attr-defined]
        return hook, client

    def awaited(*answers: Any) -> tuple[Awaited, ScriptedClient]:
        hook, client = AsyncKaitoClusterHook(conn_id=None), ScriptedAsyncClient(*answers)
        hook._client = client
        monkeypatch.setattr(AsyncKaitoClusterHook._send.retry, "wait", tenacity.wait_none())  # type: ignore[attr-defined]
        return Awaited(hook), client

    return blocking if request.param == "blocking" else awaited
