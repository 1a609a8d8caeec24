"""Asks a service golden questions, as one of its users would."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.log import mask_secret

from include.contracts import canary
from include.contracts.golden_set import GoldenPrompt
from include.workspace import parse_workspace
from include.workspace.api import access, names
from kaito.hooks.api import SECRET, ClusterError
from kaito.hooks.kubernetes import KaitoClusterHook

log = logging.getLogger(__name__)

SERVICE_PORT = 80
ANSWER_SECONDS = 120


def ask(
    cluster: KaitoClusterHook,
    workspace: Mapping[str, Any],
    rows: Sequence[GoldenPrompt],
    max_tokens: int,
    percent: float = 0.0,
) -> list[tuple[str, bool]]:
    """Return by each question's id whether the answer passes; one that does not come does not.

    :param workspace: whose service is asked, as its author wrote it: which dialect it is decides about a key.
    :param max_tokens: of an answer, where the question has no limit of its own.
    :param percent: the share of a canary, which is asked then; 0 where there is none.
    """
    from include.workloads.evaluation.matching import score

    headers = key_header(cluster, workspace)
    if percent:
        headers[canary.HEADER] = canary.id_for_the_canary(percent)
    name, namespace = workspace["metadata"]["name"], names.namespace(workspace)
    found = []
    for row in rows:
        body = {
            "messages": list(row.messages),
            "return_full_text": False,
            "generate_kwargs": {"max_new_tokens": row.max_tokens or max_tokens, "do_sample": False},
        }
        try:
            answer = cluster.post_to_service(
                name, namespace, "chat", body, port=SERVICE_PORT, timeout=ANSWER_SECONDS, headers=headers
            )
            text = answer.get("Result") if isinstance(answer, Mapping) else None
            verdict = score(row, text) if isinstance(text, str) else None
            passed, why = (verdict.passed, verdict.why) if verdict else (False, "no answer")
        except ClusterError as error:
            passed, why = False, str(error)
        log.info("Golden question %s: %s", row.id, "right" if passed else f"wrong ({why})")
        found.append((row.id, passed))
    return found


def key_header(cluster: KaitoClusterHook, workspace: Mapping[str, Any]) -> dict[str, str]:
    """Return the header with the service's key; the API server's proxy keeps Authorization for itself."""
    name = access.api_key_secret(parse_workspace(workspace))
    if name is None:
        return {}
    data = (cluster.find(SECRET, name, names.namespace(workspace)) or {}).get("data") or {}
    key = base64.b64decode(data.get(access.KEY) or "").decode()
    mask_secret(key)
    return {"X-Api-Key": key}
