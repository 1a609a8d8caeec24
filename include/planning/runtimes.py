"""Which server answers for a model: KAITO's rule, and what to do where the pods' image lacks the one that is asked for.

It must never look at a cluster: which runtimes there are is a setting of the installation.
"""

from __future__ import annotations

from collections.abc import Sequence

from include.catalog.engines import TRANSFORMERS_ARGUMENTS
from include.workspace.api import names
from include.workspace.api.models import Workspace

VLLM, TRANSFORMERS = "vllm", "transformers"
RUNTIMES = (VLLM, TRANSFORMERS)


def asked_runtime(ws: Workspace) -> str:
    """The annotation's transformers, or vllm for anything else (KAITO v0.12 api/v1beta1/labels.go)."""
    return TRANSFORMERS if ws.annotations.get(names.RUNTIME) == TRANSFORMERS else VLLM


def choose_runtime(ws: Workspace, available: Sequence[str] = RUNTIMES) -> tuple[str, list[str]]:
    """The runtime that serves this Workspace, and a warning where it is not the one that is asked for."""
    asked = asked_runtime(ws)
    if asked in available or not available:
        return asked, []
    return available[0], [
        f"the runtime {asked} is asked for, but this installation's pods have only {', '.join(available)} "
        f"(setting serving_runtimes), so {available[0]} serves{_of_the_config(available[0])}."
    ]


def _of_the_config(runtime: str) -> str:
    if runtime != TRANSFORMERS:
        return ""
    return f" and applies only {', '.join(TRANSFORMERS_ARGUMENTS)} of inference_config.yaml"
