"""A cluster of the user's own: options, and one sentence for each thing that it lacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.__main__ import _external, _parser
from demo.cluster import rights
from demo.external import options_of, own_kubeconfig
from demo.preflight import (
    Options,
    check_cluster,
    check_options,
    image_fault,
    node_faults,
    storage_faults,
    version_faults,
)
from demo.processes import DemoError
from demo.scenario import surroundings, workspace
from demo.stack import Sandbox
from demo.target import PRODUCT

GPU_LABELS = {
    "nvidia.com/gpu.product": "Tesla-T4",
    "nvidia.com/gpu.count": "1",
    "nvidia.com/gpu.memory": "16384",
}
GOOD_NODE = {
    "metadata": {"name": "gpu-1", "labels": GPU_LABELS},
    "status": {"allocatable": {"nvidia.com/gpu": "1"}},
}
DEFAULT = {
    "metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
}
PLAIN = {"metadata": {"name": "plain"}}


class FakeKubectl:
    """Answers by the first words of the question; what is not known is a failure, as kubectl's own."""

    def __init__(self, **changes: Any) -> None:
        self.answers: dict[str, Any] = {
            "version": {"serverVersion": {"major": "1", "minor": "36+"}},
            "auth can-i create": "yes",
            "get storageclasses": {"items": [DEFAULT]},
            "get nodes": {"items": [GOOD_NODE]},
            "get customresourcedefinition/nodeclaims": "customresourcedefinition/nodeclaims.karpenter.sh",
            "get ": "",
        }
        self.answers = {**changes, **self.answers, **changes}

    def __call__(self, *arguments: str) -> str:
        asked = " ".join(arguments)
        for begins, answer in self.answers.items():
            if asked.startswith(begins):
                if isinstance(answer, DemoError):
                    raise answer
                return answer if isinstance(answer, str) else json.dumps(answer)
        raise DemoError(f"unexpected: {asked}")


def faults(options: Options | None = None, **changes: Any) -> list[str]:
    return check_cluster(FakeKubectl(**changes), options or Options(), "kaito-demo")


def test_a_cluster_with_everything_has_no_fault() -> None:
    assert faults() == []
    assert faults(Options(settings={f"{PRODUCT}POOL_PROVIDER": "byo"})) == []


def test_a_cluster_that_does_not_answer_is_the_only_fault() -> None:
    refused = DemoError("kubectl version: \nThe connection to the server localhost:8080 was refused")
    [told] = faults(version=refused)
    assert told.startswith("The cluster does not answer kubectl: The connection to the server localhost:8080")


def test_all_that_is_missing_comes_at_once() -> None:
    told = faults(
        version={"serverVersion": {"major": "1", "minor": "27"}},
        **{
            "get storageclasses": {"items": [PLAIN]},
            "get customresourcedefinition/nodeclaims": "",
            "auth can-i create clusterroles": DemoError("no"),
            "get namespace/kaito-system": "namespace/kaito-system",
        },
    )
    words = (
        "Kubernetes 1.27",
        "may not create clusterroles",
        "namespace/kaito-system already",
        "plain",
        "nodeclaims",
    )
    assert len(told) == len(words)
    for word, sentence in zip(words, told, strict=True):
        assert word in sentence


def test_what_is_there_already_is_never_changed() -> None:
    crd = "customresourcedefinition/workspaces.kaito.sh"
    [told] = faults(**{f"get {crd}": crd})
    assert f"kubectl delete {crd}" in told


@pytest.mark.parametrize(("minor", "good"), [("28", False), ("29", True), ("36+", True)])
def test_the_version(minor: str, good: bool) -> None:
    assert (version_faults({"major": "1", "minor": minor}) == []) is good


def test_the_storage_class_is_the_settings_or_the_default() -> None:
    assert storage_faults([DEFAULT, PLAIN], "") == storage_faults([PLAIN], "plain") == []
    assert "no StorageClass slow" in storage_faults([PLAIN], "slow")[0]
    assert f"{PRODUCT}STORAGE_CLASS to one of plain" in storage_faults([PLAIN], "")[0]


def test_byo_needs_nodes_with_the_label_and_gpus() -> None:
    assert node_faults([GOOD_NODE]) == []
    assert "kubectl label node" in node_faults([])[0]
    labels, offer = node_faults([{"metadata": {"name": "cpu"}}])
    assert "nvidia.com/gpu.memory is missing" in labels
    assert "No GPU is offered by cpu" in offer


@pytest.mark.parametrize(
    ("status", "late", "words"),
    [
        ({"phase": "Pending"}, False, None),
        ({"phase": "Succeeded"}, True, None),
        ({"phase": "Failed"}, False, "no include.workloads"),
        (
            {"phase": "Pending", "conditions": [{"status": "False", "message": "0/1 nodes"}]},
            True,
            "0/1 nodes",
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "denied"}}}]},
            False,
            "cannot be pulled by a node: denied",
        ),
    ],
)
def test_the_pull_of_the_image(status: dict[str, Any], late: bool, words: str | None) -> None:
    told = image_fault(status, "r/i:1", late=late)
    assert told is None if words is None else words in (told or "")


def test_options_come_from_the_command_line_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKLOAD_IMAGE", "env/image:1")
    monkeypatch.setenv("REGISTRY", "env:5000/")
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", "byo")
    found = _external(_parser().parse_args(["--cluster", "external", "--workload-image", "mine:2"]))
    assert found is not None
    assert (found.workload_image, found.registry, found.provider) == ("mine:2", "env:5000", "byo")
    assert _external(_parser().parse_args([])) is None


def test_missing_options_are_named_all_at_once(tmp_path: Path) -> None:
    told = check_options(options_of(tmp_path / "none", "", "", {"REGISTRY_USERNAME": "me"}))
    assert [sentence.split()[0] for sentence in told] == [
        "There",
        "WORKLOAD_IMAGE",
        "REGISTRY",
        "REGISTRY_USERNAME",
    ]


def test_the_current_context_is_written_alone_with_the_namespace(tmp_path: Path) -> None:
    names = ("wanted", "other")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "wanted",
        "contexts": [{"name": n, "context": {"cluster": n, "user": n}} for n in names],
        "clusters": [{"name": n, "cluster": {"server": f"https://{n}"}} for n in names],
        "users": [{"name": n, "user": {"token": n}} for n in names],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    path = own_kubeconfig(tmp_path / "mine", tmp_path / "config", "kaito-demo")
    found = yaml.safe_load(path.read_text())
    assert [each["cluster"]["server"] for each in found["clusters"]] == ["https://wanted"]
    assert found["contexts"][0]["context"]["namespace"] == "kaito-demo"
    assert path.stat().st_mode & 0o777 == 0o600
    assert Path(sys.executable).with_name("kubectl").exists()


def test_byo_has_no_instance_type_and_a_registry_path_has_the_hosts_login(tmp_path: Path) -> None:
    assert "instanceType" not in workspace("http://d", "r", "")["resource"]
    cluster = Sandbox(tmp_path, tmp_path, "r.example.com/team", "", "", "n")
    secret = surroundings(cluster)[0]["stringData"][".dockerconfigjson"]
    assert json.loads(secret) == {"auths": {"r.example.com": {}}}


def test_airflow_has_its_rights_in_the_demos_namespace_and_in_no_other() -> None:
    bindings = [
        (each["metadata"]["namespace"], each["roleRef"]["name"])
        for each in rights("kaito-demo")
        if each["kind"] == "RoleBinding"
    ]
    assert bindings == [("kaito-system", "kaito-airflow-lease"), ("kaito-demo", "kaito-airflow-namespace")]
