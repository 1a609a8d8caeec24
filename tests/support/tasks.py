"""Tasks of a run, each over a cluster in memory."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from kaito.operators.hand_over import HandOverGpuPoolOperator
from kaito.operators.pool import CreateGpuPoolOperator, ReleaseGpuPoolOperator
from kaito.operators.preflight import PreflightOperator
from kaito.params import tuning_params
from kaito.providers.nodeclaim import NODE_CLAIM

from tests.support.fake_cluster import RUN_ID, FakeCluster


def create(cluster: FakeCluster, purpose: str = "tuning") -> CreateGpuPoolOperator:
    operator = CreateGpuPoolOperator(task_id="create_gpu_pool", purpose=purpose)
    operator.cluster = cluster
    return operator


def release(cluster: FakeCluster, purpose: str = "tuning", keep: str | None = None) -> ReleaseGpuPoolOperator:
    operator = ReleaseGpuPoolOperator(
        task_id="release_gpu_pool",
        purpose=purpose,
        keep_if_succeeded=keep,
        gone_within=timedelta(seconds=0.05),
        poll_seconds=0,
    )
    operator.cluster = cluster
    return operator


def hand_over(cluster: FakeCluster) -> HandOverGpuPoolOperator:
    operator = HandOverGpuPoolOperator(
        task_id="release_gpu_pool", tuning_task_id="tune", gone_within=timedelta(seconds=0.05), poll_seconds=0
    )
    operator.cluster = cluster
    return operator


def release_if_failed(cluster: FakeCluster) -> ReleaseGpuPoolOperator:
    """The second net of a tuning that may have handed its machines over."""
    operator = ReleaseGpuPoolOperator(
        task_id="serve.release_gpu_pool_if_failed",
        purpose="serving",
        keep_if_succeeded="serve.ask",
        asked_by="serve.create_gpu_pool",
        also_tuning=True,
        gone_within=timedelta(seconds=0.05),
        poll_seconds=0,
    )
    operator.cluster = cluster
    return operator


DEFAULTS = {key: param.value for key, param in tuning_params().items()}


def preflight(
    cluster: FakeCluster, conf: dict[str, Any], purpose: str = "tuning", run_id: str = RUN_ID
) -> dict[str, Any]:
    operator = PreflightOperator(task_id="preflight", purpose=purpose)
    operator.cluster = cluster
    context = {"params": {**DEFAULTS, **conf}, "dag_run": SimpleNamespace(conf=conf), "run_id": run_id}
    return operator.execute(context)


def claims(cluster: FakeCluster) -> list[str]:
    return [claim["metadata"]["name"] for claim in cluster.list(NODE_CLAIM)]
