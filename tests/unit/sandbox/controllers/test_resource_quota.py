"""What controllers do when the quota refuses their pods, and what a quota's status says."""

from __future__ import annotations

import pytest

from sandbox.api.cluster import ApiError
from sandbox.controllers.job import JobController
from sandbox.controllers.resource_quota import ResourceQuotaController
from sandbox.controllers.statefulset import StatefulSetController

TEMPLATE = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {"containers": [{"name": "main", "image": "busybox"}]},
}
REFUSED = "is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"


@pytest.fixture
async def no_pods(cluster):
    await cluster.create(
        "resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}, "default"
    )


async def events(cluster):
    return [(e["reason"], e["message"]) for e in (await cluster.list("events"))[0]]


async def test_a_refused_pod_of_a_stateful_set_is_an_event(cluster, feeds, no_pods):
    spec = {"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE, "serviceName": "x"}
    await cluster.create("statefulsets.apps", {"metadata": {"name": "web"}, "spec": spec}, "default")
    with pytest.raises(ApiError):
        await StatefulSetController(cluster, feeds).reconcile(("default", "web"))
    assert await events(cluster) == [
        ("FailedCreate", f'create Pod web-0 in StatefulSet web failed error: pods "web-0" {REFUSED}')
    ]


async def test_a_refused_pod_of_a_job_is_an_event(cluster, feeds, no_pods):
    template = {"spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
    await cluster.create(
        "jobs.batch", {"metadata": {"name": "job"}, "spec": {"template": template}}, "default"
    )
    with pytest.raises(ApiError):
        await JobController(cluster, feeds, backoff=0.0).reconcile(("default", "job"))
    [(reason, message)] = await events(cluster)
    assert reason == "FailedCreate"
    assert message.startswith('Error creating: pods "job-')
    assert message.endswith(REFUSED)


async def test_a_quota_says_what_is_used(cluster, feeds, make_pod):
    await cluster.create(
        "resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "3"}}}, "default"
    )
    await cluster.create("pods", make_pod())
    await ResourceQuotaController(cluster, feeds).reconcile(("default", "q"))
    status = (await cluster.get("resourcequotas", "q", "default"))["status"]
    assert status == {"hard": {"pods": "3"}, "used": {"pods": "1"}}
