"""Pods have the time that their ending takes."""

from __future__ import annotations

from kaito.operators.one_pod import GONE_SECONDS

from include.catalog import load_catalog
from include.contracts import grace
from include.manifests import ManifestSettings, serving_pod, tuning_pod
from include.planning import plan
from include.workloads.serving import __main__ as serving
from include.workloads.tuning import launch
from include.workspace import parse_workspace

QUICK = {
    "apiVersion": "kaito.sh/v1alpha1",
    "kind": "Workspace",
    "metadata": {"name": "w", "namespace": "default", "uid": "u"},
    "resource": {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"app": "x"}}},
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/a.jsonl"]},
        "output": {"image": "r.example.com/a:1", "imagePushSecret": "push"},
    },
}


def test_a_training_may_end_its_step_and_write_a_checkpoint() -> None:
    workspace = parse_workspace(QUICK)
    spec = tuning_pod(workspace, plan(workspace, load_catalog()), ManifestSettings("i"), "r")["spec"]
    assert spec["terminationGracePeriodSeconds"] == grace.TUNING_GRACE_SECONDS
    assert launch.GRACE_SECONDS + 15 < grace.TUNING_GRACE_SECONDS, (
        "a rank that hangs is killed before the pod is"
    )


def test_who_waits_for_a_pod_to_go_waits_longer_than_it_may_take() -> None:
    assert grace.TUNING_GRACE_SECONDS + 30 <= GONE_SECONDS


def test_a_server_finishes_its_answers_in_time() -> None:
    assert serving.GRACE_SECONDS == grace.SERVING_DRAIN_SECONDS
    assert serving.CLOSE_SECONDS + serving.WORKER_SECONDS < serving_pod.SPARE_SECONDS
