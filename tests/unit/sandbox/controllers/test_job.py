"""When a Job is over, and what its controller does until then."""

from __future__ import annotations

import pytest

from sandbox.controllers.job import JOBS, JobController, Tally, verdict

KEY = ("default", "job")


def pods(*phases):
    return [
        {"metadata": {"name": f"p{i}"}, "spec": {}, "status": {"phase": phase}}
        for i, phase in enumerate(phases)
    ]


@pytest.mark.parametrize(
    ("spec", "phases", "over"),
    [
        ({"completions": 1}, ("Running",), None),
        ({"completions": 1}, ("Succeeded",), "CompletionsReached"),
        ({"completions": 2}, ("Succeeded", "Running"), None),
        ({"completions": None}, ("Succeeded", "Running"), None),
        ({"completions": None}, ("Succeeded",), "CompletionsReached"),
        ({"completions": 1, "backoffLimit": 1}, ("Failed",), None),
        ({"completions": 1, "backoffLimit": 1}, ("Failed", "Failed"), "BackoffLimitExceeded"),
        ({"completions": 1, "backoffLimit": 0}, ("Failed", "Running"), "BackoffLimitExceeded"),
    ],
)
def test_verdict(spec, phases, over):
    found = verdict({"spec": spec}, Tally.of(pods(*phases)))
    assert (found[1] if found else None) == over


def test_a_job_is_over_at_its_deadline():
    job = {
        "spec": {"completions": 1, "activeDeadlineSeconds": 5},
        "status": {"startTime": "2020-01-01T00:00:00Z"},
    }
    assert verdict(job, Tally.of(pods("Running")))[1] == "DeadlineExceeded"


@pytest.fixture
def controller(cluster, feeds):
    return JobController(cluster, feeds, backoff=0.0)


def job(**spec):
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "busybox"}]}}
    return {"metadata": {"name": "job"}, "spec": {"template": template, **spec}}


async def active(cluster):
    found, _ = await cluster.list("pods", "default")
    return [
        p["metadata"]["name"]
        for p in found
        if (p.get("status") or {}).get("phase") in (None, "Pending", "Running")
    ]


async def test_completions_are_reached_no_more_pods_than_needed_at_a_time(cluster, controller, set_pod):
    await cluster.create(JOBS, job(completions=3, parallelism=2), "default")
    await controller.reconcile(KEY)
    running = await active(cluster)
    assert len(running) == 2
    for name in running:
        await set_pod(name, phase="Succeeded", ready=False)
    await controller.reconcile(KEY)
    running = await active(cluster)
    assert len(running) == 1
    await set_pod(running[0], phase="Succeeded", ready=False)
    await controller.reconcile(KEY)
    status = (await cluster.get(JOBS, "job", "default"))["status"]
    assert status["succeeded"] == 3
    assert [c["type"] for c in status["conditions"]] == ["SuccessCriteriaMet", "Complete"]
    assert status["completionTime"]


async def test_failures_are_retried_up_to_the_limit(cluster, controller, set_pod):
    await cluster.create(JOBS, job(backoffLimit=1), "default")
    for _ in range(2):
        await controller.reconcile(KEY)
        for name in await active(cluster):
            await set_pod(name, phase="Failed", ready=False)
    await controller.reconcile(KEY)
    assert await active(cluster) == []
    status = (await cluster.get(JOBS, "job", "default"))["status"]
    assert status["failed"] == 2
    assert status["conditions"][-1]["type"] == "Failed"
    assert status["conditions"][-1]["reason"] == "BackoffLimitExceeded"


async def test_a_failure_holds_the_next_pod_back(cluster, feeds, set_pod):
    controller = JobController(cluster, feeds, backoff=30.0)
    await cluster.create(JOBS, job(), "default")
    await controller.reconcile(KEY)
    for name in await active(cluster):
        await set_pod(name, phase="Failed", ready=False)
    wait = await controller.reconcile(KEY)
    assert await active(cluster) == []
    assert 0 < wait <= 30


async def test_a_suspended_job_runs_nothing(cluster, controller):
    await cluster.create(JOBS, job(suspend=True), "default")
    await controller.reconcile(KEY)
    assert await active(cluster) == []


async def test_a_finished_job_is_removed_after_its_time(cluster, controller, set_pod):
    await cluster.create(JOBS, job(ttlSecondsAfterFinished=0), "default")
    await controller.reconcile(KEY)
    for name in await active(cluster):
        await set_pod(name, phase="Succeeded", ready=False)
    await controller.reconcile(KEY)
    await controller.reconcile(KEY)
    assert (await cluster.list(JOBS, "default"))[0] == []
