"""The objects that a Workspace becomes: complete, restricted, on their own nodes, valid for Kubernetes."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from kubernetes.client import ApiClient
from kubernetes.utils import parse_quantity

from include import manifests
from include.catalog.models import GIB
from include.contracts import sharding
from include.contracts.evaluation_policy import EvaluationPolicy, JudgePolicy
from include.manifests import Evaluated, ManifestSettings, pods
from include.manifests.serving import adapters_of
from include.manifests.serving_pod import startup_seconds
from include.planning import Plan, plan, plan_serving
from include.planning.runtimes import RUNTIMES
from include.pools import nodeclaim
from include.workspace import Workspace, parse_workspace
from include.workspace.api import names
from include.workspace.api.names import RESTRICTED
from include.workspace.validation.pod_security import template_faults
from tests.support.manifests import CATALOG, DIGEST, QUICK, RUN, SERVE, SETTINGS, env_of, mounts_of, with_

SANDBOX = ManifestSettings(
    workload_image="ghcr.io/kaito-airflow/kaito-workloads:0.1.0",
    storage_class="local",
    weights_mirror="/srv/weights/",
    allowed_networks=("127.0.0.0/8", "::1/128"),
    insecure_registries=("127.0.0.1:5000",),
    bind_pod_ip=True,
    endpoint_delay_seconds=0,
)


WS = parse_workspace(QUICK)
PLAN: Plan = plan(WS, CATALOG)
SERVING: Plan = plan_serving(WS, CATALOG)


LIGHT: Plan = plan_serving(WS, CATALOG, runtimes=["transformers"])


EVALUATION = EvaluationPolicy(
    golden_set="golden", judge=JudgePolicy(url="https://judge.example/v1", model="m", secret="judge")
)


def everything(settings: ManifestSettings, serving: Plan = SERVING) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every kind of object, with the name of Kubernetes' type for it."""
    adapters = [{"name": "tune-phi", "image": DIGEST}]
    main, headless = manifests.services(QUICK)
    return {
        "volume": ("V1PersistentVolumeClaim", manifests.work_volume(QUICK, settings)),
        "config": ("V1ConfigMap", manifests.tuning_config(QUICK, PLAN, None)),
        "dataset": ("V1Pod", manifests.dataset_pod(QUICK, PLAN, settings, RUN)),
        "tuning": ("V1Pod", manifests.tuning_pod(QUICK, PLAN, settings, RUN)),
        "evaluation": (
            "V1Pod",
            manifests.evaluation_pod(QUICK, PLAN, settings, RUN, EVALUATION, Evaluated(current=DIGEST)),
        ),
        "adapter": ("V1Pod", manifests.adapter_pod(QUICK, PLAN, settings, RUN, {"rows": 3})),
        "service": ("V1Service", main),
        "headless": ("V1Service", headless),
        "serving": ("V1StatefulSet", manifests.stateful_set(QUICK, serving, settings, RUN, adapters)),
        "policy": ("V1NetworkPolicy", manifests.network_policy(WS, serving)),
        "budget": ("V1PodDisruptionBudget", manifests.disruption_budget(WS)),
        "key": ("V1Secret", manifests.key_secret(WS, "s3cret")),
    }


OBJECTS = everything(SETTINGS)
BARE = everything(ManifestSettings("i", cpu_requests=False))
SANDBOXED = everything(SANDBOX, LIGHT)


def spec_of(name: str, objects: dict[str, Any] = OBJECTS) -> dict[str, Any]:
    spec: dict[str, Any] = objects[name][1]["spec"]
    return spec["template"]["spec"] if "template" in spec else spec


def containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


@pytest.mark.parametrize("objects", [OBJECTS, SANDBOXED], ids=["defaults", "sandbox"])
@pytest.mark.parametrize("name", OBJECTS)
def test_kubernetes_own_types_hold_every_field(name: str, objects: dict[str, Any]) -> None:
    kind, manifest = objects[name]
    client = ApiClient()
    typed = client._ApiClient__deserialize(copy.deepcopy(manifest), kind)
    assert client.sanitize_for_serialization(typed) == manifest


@pytest.mark.parametrize("name", OBJECTS)
def test_children_carry_labels_and_an_owner(name: str) -> None:
    meta = OBJECTS[name][1]["metadata"]
    assert meta["namespace"] == "ml"
    assert meta["labels"]["kaito.sh/workspace"] == "tune-phi"
    assert meta["labels"]["kaito.sh/workspacenamespace"] == "ml"
    assert meta["ownerReferences"] == [
        {
            "apiVersion": "kaito.sh/v1alpha1",
            "kind": "Workspace",
            "name": "tune-phi",
            "uid": "0b1c2d3e-4f50-6171",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


@pytest.mark.parametrize("name", ["dataset", "tuning", "evaluation", "adapter", "serving"])
class TestPods:
    def test_the_restricted_profile(self, name: str) -> None:
        """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
        spec = spec_of(name)
        assert template_faults({"spec": spec}, name, RESTRICTED) == []
        security = spec["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 1000, 1000)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        for volume in spec["volumes"]:
            (kind,) = set(volume) - {"name"}
            assert kind in {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}

    @pytest.mark.parametrize(
        "objects", [OBJECTS, SANDBOXED, BARE], ids=["defaults", "sandbox", "no requests"]
    )
    def test_nothing_in_a_pod_grows_without_end(self, name: str, objects: dict[str, Any]) -> None:
        spec = spec_of(name, objects)
        for container in containers(spec):
            resources = container["resources"]
            limit = parse_quantity(resources["limits"]["memory"])
            # Without a request of its own a container asks for as much as its limit.
            assert parse_quantity(resources["requests"]["memory"]) <= limit < 10**12
        for volume in spec["volumes"]:
            if "emptyDir" in volume:
                least = 2**20 if volume["name"] == "control" else 2**30
                assert parse_quantity(volume["emptyDir"]["sizeLimit"]) > least, volume["name"]

    def test_every_container_has_a_home_it_can_write(self, name: str) -> None:
        for container in containers(spec_of(name)):
            assert env_of(container)["HOME"] == "/tmp"
            assert mounts_of(container)["/tmp"] == ("tmp", None, False)

    def test_every_mount_has_its_volume_and_every_volume_its_mount(self, name: str) -> None:
        for objects in (OBJECTS, SANDBOXED):
            spec = spec_of(name, objects)
            mounted = {mount["name"] for container in containers(spec) for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]}

    def test_the_run_can_be_found_by_label(self, name: str) -> None:
        manifest = OBJECTS[name][1]
        labels = manifest["spec"].get("template", manifest)["metadata"]["labels"]
        assert labels["kaito.sh/run-id"] == names.run_id_label(RUN)
        assert labels["kaito.sh/component"] == name

    def test_no_secret_is_in_the_manifest_by_value(self, name: str) -> None:
        assert "dockerconfigjson" not in json.dumps(OBJECTS[name][1]).replace('".dockerconfigjson"', "")


@pytest.mark.parametrize("name", ["dataset", "tuning", "evaluation", "adapter"])
def test_batch_pods_run_once(name: str) -> None:
    manifest = OBJECTS[name][1]
    assert manifest["spec"]["restartPolicy"] == "Never"
    assert manifest["metadata"]["name"] == f"tune-phi-g2-{name}"


@pytest.mark.parametrize("name", ["dataset", "adapter"])
def test_downloads_and_uploads_wait_for_no_gpu(name: str) -> None:
    spec = spec_of(name)
    assert "tolerations" not in spec
    assert "affinity" not in spec
    assert "nvidia.com/gpu" not in json.dumps(spec)


@pytest.mark.parametrize(("name", "pool"), [("tuning", "tuning"), ("serving", "serving")])
def test_gpu_pods_land_on_their_own_pool_only(name: str, pool: str) -> None:
    """KAITO pins no tuning pods: two Workspaces with equal labels may swap nodes (kaito-api.md#known-defects, 4)."""
    spec = spec_of(name)
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    wanted = {e["key"]: e["values"] for e in term["matchExpressions"]}
    assert wanted == {
        "app": ["tune"],
        "kaito.sh/workspace": ["tune-phi"],
        "kaito.sh/workspacenamespace": ["ml"],
        "kaito.sh/pool": [pool],
    }
    claim = nodeclaim.node_claims(QUICK, PLAN if pool == "tuning" else SERVING, RUN)[0]
    assert {key: [claim["metadata"]["labels"][key]] for key in wanted} == wanted
    tolerated = {toleration["key"] for toleration in spec["tolerations"]}
    assert tolerated == {"sku", "nvidia.com/gpu", "kubernetes.azure.com/scalesetpriority"}
    main = spec["containers"][0]
    assert main["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert main["resources"]["requests"]["nvidia.com/gpu"] == "1"


def test_brought_nodes_have_no_pool_labels() -> None:
    settings = ManifestSettings("i", own_pool_only=False)
    text = json.dumps(manifests.tuning_pod(QUICK, PLAN, settings, RUN)["spec"]["affinity"])
    assert '"app"' in text
    assert "kaito.sh" not in text


def test_pods_on_own_nodes_keep_off_machines_that_were_made_for_somebody() -> None:
    brought = replace(PLAN, own_nodes=True)
    affinity = manifests.tuning_pod(QUICK, brought, SETTINGS, RUN)["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [
        {"key": "app", "operator": "In", "values": ["tune"]},
        {"key": "kaito.sh/workspace", "operator": "DoesNotExist"},
    ]


def test_gpu_requests_are_the_whole_machine() -> None:
    made = plan(parse_workspace(SERVE), CATALOG)
    main = manifests.stateful_set(SERVE, made, SETTINGS, RUN)["spec"]["template"]["spec"]["containers"][0]
    assert main["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_the_dataset_pod() -> None:
    main = spec_of("dataset", SANDBOXED)["containers"][0]
    assert main["command"] == ["python", "-m", "include.workloads.dataset"]
    reference = env_of(main)["DATASET_URLS"]["secretKeyRef"]
    secret = manifests.dataset_urls(QUICK)
    assert (secret["metadata"]["name"], reference["key"]) == (reference["name"], "urls")
    assert json.loads(base64.b64decode(secret["data"]["urls"])) == QUICK["tuning"]["input"]["urls"]
    assert secret["immutable"]
    assert env_of(main)["DATASET_OUTPUT"] == "/mnt/data"
    assert env_of(main)["ALLOWED_NETWORKS"] == "127.0.0.0/8,::1/128"
    assert env_of(spec_of("dataset")["containers"][0])["ALLOWED_NETWORKS"] == ""
    assert mounts_of(main)["/mnt/data"] == ("work", "data", False)
    assert env_of(main)["YAML_FILE_PATH"] == "/mnt/config/training_config.yaml"
    assert mounts_of(main)["/mnt/config"] == ("config", None, True)


def test_the_dataset_pod_has_the_tokenizer_and_no_weights() -> None:
    spec = spec_of("dataset")
    [download] = spec["initContainers"]
    assert env_of(download)["WEIGHTS_PARTS"] == "tokenizer"
    assert env_of(download)["MODEL_ID"] == "microsoft/Phi-3-mini-128k-instruct"
    main = spec["containers"][0]
    assert env_of(main)["TOKENIZER_PATH"] == "/workspace/weights"
    assert mounts_of(main)["/workspace/weights"] == ("weights", None, True)
    assert "WEIGHTS_PARTS" not in env_of(spec_of("tuning")["initContainers"][0])


@pytest.mark.parametrize("name", ["dataset", "adapter"])
def test_a_step_that_waits_for_others_ends_in_time(name: str) -> None:
    assert spec_of(name)["activeDeadlineSeconds"] == 6 * 3600
    assert (
        spec_of(name, everything(ManifestSettings("i", step_timeout_minutes=5)))["activeDeadlineSeconds"]
        == 300
    )
    assert "activeDeadlineSeconds" not in spec_of("tuning"), (
        "how long a training takes is its author's to say"
    )


def test_large_weights_have_room_in_memory_and_on_disk() -> None:
    spec = spec_of("serving")
    room = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume}
    assert parse_quantity(room["weights"]["sizeLimit"]) >= 2 * SERVING.weights_bytes
    limit = parse_quantity(spec["containers"][0]["resources"]["limits"]["memory"])
    assert limit >= 2 * SERVING.weights_bytes
    assert parse_quantity(room["dshm"]["sizeLimit"]) < limit, "memory volumes count as their pod's memory"


def test_each_gpu_s_process_has_memory_of_its_own() -> None:
    """Eight copies of a small model in the memory of one would end with OOMKilled, on a machine that has plenty."""
    one, eight = (replace(SERVING, gpus_per_node=gpus) for gpus in (1, 8))
    limits = [parse_quantity(pods.weights_memory_limit(plan, SETTINGS)) for plan in (one, eight)]
    assert limits[1] - limits[0] == 7 * 8 * 2**30


def test_a_dataset_from_a_volume() -> None:
    source = {"name": "theirs", "persistentVolumeClaim": {"claimName": "data"}}
    workspace = with_(QUICK, "tuning", input={"volumeSource": source})
    spec = manifests.dataset_pod(workspace, PLAN, SETTINGS, RUN)["spec"]
    assert {"name": "input", "persistentVolumeClaim": {"claimName": "data"}} in spec["volumes"]
    main = spec["containers"][0]
    assert mounts_of(main)["/mnt/input"] == ("input", None, True)
    assert env_of(main)["DATASET_PATH"] == "/mnt/input"
    assert "DATASET_URLS" not in env_of(main)


def test_a_dataset_from_an_image() -> None:
    workspace = with_(QUICK, "tuning", input={"image": "r.example.com/data:1", "imagePullSecrets": ["pull"]})
    spec = manifests.dataset_pod(workspace, PLAN, SANDBOX, RUN)["spec"]
    main = spec["containers"][0]
    assert env_of(main)["DATASET_IMAGE"] == "r.example.com/data:1"
    assert env_of(main)["DOCKER_CONFIG"] == "/etc/kaito/registry"
    assert env_of(main)["INSECURE_REGISTRIES"] == "127.0.0.1:5000"
    assert {volume["name"]: volume.get("secret", {}).get("secretName") for volume in spec["volumes"]}[
        "registry"
    ] == "pull"


@pytest.mark.parametrize("image", [None, "r.example.com/data:1"])
def test_a_candidate_s_dataset_pod_reads_the_rows_that_were_learnt_from_last(image: str | None) -> None:
    known = "r.example.com/phi@sha256:" + "a" * 64
    metadata = {**QUICK["metadata"], "annotations": {names.RETRAIN_KNOWN: known}}
    source = {"image": image, "imagePullSecrets": ["pull"]} if image else QUICK["tuning"]["input"]
    workspace = with_({**QUICK, "metadata": metadata}, "tuning", input=source)
    spec = manifests.dataset_pod(workspace, PLAN, SANDBOX, RUN)["spec"]
    given = env_of(spec["containers"][0])
    assert given["KNOWN_ROWS"] == known
    assert given["DOCKER_CONFIG"] == "/etc/kaito/registry"
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "registry"]
    push = QUICK["tuning"]["output"]["imagePushSecret"]
    used = [name for name in ("pull", push) if f'"{name}"' in json.dumps(volume)]
    assert used == (["pull", push] if image else [push])
    assert ("DATASET_URLS" in given) is (image is None)


def test_all_pull_secrets_are_used() -> None:
    workspace = with_(
        QUICK, "tuning", input={"image": "r.example.com/d:1", "imagePullSecrets": ["one", "two", "one"]}
    )
    spec = manifests.dataset_pod(workspace, PLAN, SANDBOX, RUN)["spec"]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "registry"]
    found = [source["secret"] for source in volume["projected"]["sources"]]
    assert [(one["name"], one["items"][0]["path"]) for one in found] == [
        ("one", "config.json"),
        ("two", "config-1.json"),
    ]
    assert volume["projected"]["defaultMode"] == 0o440
    listed = [{"source": {"name": "a", "image": "r.example.com/a:1", "imagePullSecrets": ["one", "two"]}}]
    serving = with_(SERVE, "inference", adapters=listed)
    made = manifests.stateful_set(serving, plan(serving, CATALOG), SETTINGS, RUN, adapters_of(serving))
    (volume,) = [v for v in made["spec"]["template"]["spec"]["volumes"] if v["name"] == "registry"]
    assert [source["secret"]["name"] for source in volume["projected"]["sources"]] == ["one", "two"]


def test_the_tuning_pod() -> None:
    spec = spec_of("tuning", SANDBOXED)
    main = spec["containers"][0]
    values = env_of(main)
    assert main["command"] == ["python", "-m", "include.workloads.tuning"]
    expected = {
        "WEIGHTS_PATH": "/workspace/weights",
        "DATASET_FOLDER_PATH": "/mnt/data",
        "YAML_FILE_PATH": "/mnt/config/training_config.yaml",
        "OUTPUT_DIR": "/mnt/results",
        "TUNING_METHOD": "qlora",
        "MODEL_NAME": "phi-3-mini-128k-instruct",
        "MODEL_ID": "microsoft/Phi-3-mini-128k-instruct",
        "MODEL_REVISION": CATALOG.model("phi-3-mini-128k-instruct").revision,
        "DTYPE": "float16",
        "TUNING_TARGET_MODULES": "qkv_proj,o_proj,gate_up_proj,down_proj",
        "METRICS_PORT": "5000",
        "HOST": {"fieldRef": {"fieldPath": "status.podIP"}},
    }
    assert {key: values[key] for key in expected} == expected
    assert mounts_of(main) == {
        "/mnt/data": ("work", "data", True),
        "/mnt/results": ("work", "results", False),
        "/mnt/config": ("config", None, True),
        "/workspace/weights": ("weights", None, True),
        "/dev/shm": ("dshm", None, False),
        "/tmp": ("tmp", None, False),
    }
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["work"]["persistentVolumeClaim"] == {"claimName": "tune-phi-work"}
    assert volumes["config"]["configMap"] == {"name": "tune-phi-g2-tuning"}
    assert volumes["dshm"]["emptyDir"]["medium"] == "Memory"
    assert volumes["weights"]["hostPath"]["path"] == "/srv/weights/phi-3-mini-128k-instruct"
    assert "initContainers" not in spec
    assert "SHARD_WEIGHTS" not in values


def test_the_tuning_pod_shards_what_the_plan_shards() -> None:
    large = with_(QUICK, "tuning", preset={"name": "llama-3.3-70b-instruct"})
    made = plan(large, CATALOG, machine=CATALOG.machine("g5.48xlarge"))
    main = manifests.tuning_pod(large, made, SETTINGS, RUN)["spec"]["containers"][0]
    assert env_of(main)[sharding.VARIABLE] == "true"
    limit = int(main["resources"]["limits"]["memory"].removesuffix("Gi"))
    assert (
        limit > made.weights_bytes / GIB + 8 * 8
    )  # the first process reads all weights, all have their own needs


def test_a_training_that_goes_on_from_an_adapter_pulls_it_by_digest_with_the_push_secret() -> None:
    workspace = with_(QUICK, "metadata", annotations={"kaito.sh/retrain-from": DIGEST})
    spec = manifests.tuning_pod(workspace, PLAN, SANDBOX, RUN)["spec"]
    pull, main = spec["initContainers"][-1], spec["containers"][0]
    assert env_of(pull)["ADAPTER_IMAGE"] == DIGEST
    assert env_of(main)["START_ADAPTER_DIGEST"] == DIGEST.partition("@")[2]
    folder = env_of(main)["START_ADAPTER_DIR"]
    assert folder == f"{env_of(pull)['ADAPTERS_DIR']}/{env_of(pull)['ADAPTER_NAME']}"
    assert mounts_of(main)["/mnt/current"][2] is True
    held = {volume["name"] for volume in spec["volumes"]}
    assert {one["name"] for one in [*pull["volumeMounts"], *main["volumeMounts"]]} <= held


def test_without_a_mirror_an_init_container_downloads_the_pinned_weights() -> None:
    for name in ("tuning", "serving"):
        spec = spec_of(name)
        download = spec["initContainers"][0]
        assert download["command"] == ["python", "-m", "include.workloads.weights"]
        assert env_of(download)["WEIGHTS_SOURCE"] == "hub"
        assert env_of(download)["MODEL_REVISION"] == PLAN.revision
        assert mounts_of(download)["/workspace/weights"] == ("weights", None, False)
        assert "HF_TOKEN" not in env_of(download)
        assert {volume["name"]: volume for volume in spec["volumes"]}["weights"]["emptyDir"]


def test_the_hub_token_reaches_the_download_and_nothing_else() -> None:
    options = {"modelAccessSecret": "hf"}
    workspace = with_(SERVE, "inference", preset={"name": "llama-3.1-8b-instruct", "presetOptions": options})
    spec = manifests.stateful_set(workspace, plan(workspace, CATALOG), SETTINGS, RUN)["spec"]["template"][
        "spec"
    ]
    holders = [container["name"] for container in containers(spec) if "HF_TOKEN" in env_of(container)]
    assert holders == ["weights"]
    assert env_of(spec["initContainers"][0])["HF_TOKEN"] == {
        "secretKeyRef": {"name": "hf", "key": "HF_TOKEN"}
    }


def test_results_go_to_the_user_s_volume_when_there_is_one() -> None:
    volume = {"persistentVolumeClaim": {"claimName": "out"}}
    workspace = with_(QUICK, "tuning", output={"volumeSource": volume})
    spec = manifests.tuning_pod(workspace, PLAN, SETTINGS, RUN)["spec"]
    assert mounts_of(spec["containers"][0])["/mnt/results"] == ("results", None, False)
    assert {"name": "results", **volume} in spec["volumes"]
    with pytest.raises(ValueError, match="has no output image"):
        manifests.adapter_pod(workspace, PLAN, SETTINGS, RUN)


def test_the_adapter_pod_pushes_with_the_user_s_secret() -> None:
    spec = spec_of("adapter", SANDBOXED)
    main = spec["containers"][0]
    values = env_of(main)
    assert main["command"] == ["python", "-m", "include.workloads.adapter", "push"]
    assert values["ADAPTER_DIR"] == "/mnt/results/adapter"
    assert values["ADAPTER_IMAGE"] == "registry.example.com/adapters/phi:1"
    assert values["DOCKER_CONFIG"] == "/etc/kaito/registry"
    assert values["INSECURE_REGISTRIES"] == "127.0.0.1:5000"
    assert json.loads(values["ADAPTER_ANNOTATIONS"]) == {
        "sh.kaito.model.name": "phi-3-mini-128k-instruct",
        "rows": "3",
    }
    assert mounts_of(main)["/mnt/results"] == ("work", "results", True)
    registry = next(volume for volume in spec["volumes"] if volume["name"] == "registry")
    assert registry["secret"] == {
        "secretName": "push",
        "items": [{"key": ".dockerconfigjson", "path": "config.json"}],
        "defaultMode": 0o440,
    }


def test_the_user_s_training_config_wins() -> None:
    text = "training_config: {}\n"
    assert manifests.tuning_config(QUICK, PLAN, text)["data"] == {"training_config.yaml": text}
    default = manifests.tuning_config(QUICK, PLAN, None)
    assert default["metadata"]["name"] == "tune-phi-g2-tuning"
    assert "load_in_4bit: true" in default["data"]["training_config.yaml"]


def test_the_work_volume() -> None:
    claim = SANDBOXED["volume"][1]
    assert claim["metadata"]["name"] == "tune-phi-work"
    assert claim["spec"]["storageClassName"] == "local"
    assert claim["spec"]["resources"]["requests"]["storage"] == "50Gi"
    assert "storageClassName" not in OBJECTS["volume"][1]["spec"]


def test_the_quick_start_s_service_has_ports_80_and_29500() -> None:
    main, headless = manifests.services(QUICK)
    assert main["metadata"]["name"] == "tune-phi"
    assert main["spec"]["type"] == "ClusterIP"
    assert [(port["name"], port["port"], port["targetPort"]) for port in main["spec"]["ports"]] == [
        ("http", 80, 5000),
        ("torch", 29500, 29500),
    ]
    assert main["spec"]["selector"] == {"kaito.sh/workspace": "tune-phi", "kaito.sh/component": "serving"}
    assert "publishNotReadyAddresses" not in main["spec"]
    assert headless["metadata"]["name"] == "tune-phi-headless"
    assert (headless["spec"]["clusterIP"], headless["spec"]["publishNotReadyAddresses"]) == ("None", True)


def test_v1beta1_serves_on_port_80_only_unless_it_was_written_in_v1alpha1() -> None:
    assert [port["port"] for port in manifests.services(SERVE)[0]["spec"]["ports"]] == [80]
    written = {"kubectl.kubernetes.io/last-applied-configuration": '{"apiVersion": "kaito.sh/v1alpha1"}'}
    document = {
        **QUICK,
        "apiVersion": "kaito.sh/v1beta1",
        "metadata": {**QUICK["metadata"], "annotations": written},
    }
    assert [port["port"] for port in manifests.services(document)[0]["spec"]["ports"]] == [80, 29500]


@pytest.mark.parametrize(
    ("value", "kind"), [("True", "LoadBalancer"), ("true", "ClusterIP"), ("False", "ClusterIP")]
)
def test_a_load_balancer_only_for_kaitos_exact_spelling(value: str, kind: str) -> None:
    document = {**QUICK, "metadata": {**QUICK["metadata"], "annotations": {"kaito.sh/enablelb": value}}}
    assert manifests.services(document)[0]["spec"]["type"] == kind


def test_the_serving_pod() -> None:
    stateful_set = SANDBOXED["serving"][1]
    assert stateful_set["metadata"]["name"] == "tune-phi"
    assert stateful_set["spec"]["serviceName"] == "tune-phi-headless"
    assert stateful_set["spec"]["replicas"] == 1
    assert stateful_set["spec"]["podManagementPolicy"] == "Parallel"
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    selector = stateful_set["spec"]["selector"]["matchLabels"]
    assert selector.items() <= labels.items()
    assert "kaito.sh/run-id" not in selector  # a selector can never change, a run id does
    spec = spec_of("serving", SANDBOXED)
    main = spec["containers"][0]
    values = env_of(main)
    expected = {
        "WEIGHTS_PATH": "/workspace/weights",
        "ADAPTERS_DIR": "/mnt/adapter",
        "SERVED_MODEL_NAME": "phi-3-mini-128k-instruct",
        "DTYPE": "float16",
        "PORT": "5000",
        "KAITO_ADAPTERS_FILE": "/run/kaito/adapters.json",  # it says which adapter /chat asks
        "HOST": {"fieldRef": {"fieldPath": "status.podIP"}},
    }
    assert {key: values[key] for key in expected} == expected
    assert "KAITO_DEFAULT_ADAPTER" not in values
    assert main["ports"] == [{"name": "http", "containerPort": 5000, "protocol": "TCP"}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert main[probe]["httpGet"] == {"path": "/health", "port": 5000}
    startup = main["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800


def test_adapters_are_pulled_by_digest_and_only_there_with_credentials() -> None:
    spec = spec_of("serving")
    weights, prepare = spec["initContainers"]
    main, follow = spec["containers"]
    for container, command in ((prepare, "prepare"), (follow, "follow")):
        assert container["command"] == ["python", "-m", "include.workloads.adapter", command]
        assert env_of(container)["ADAPTERS_DIR"] == "/mnt/adapter"
        assert env_of(container)["ADAPTERS_WANTED"] == "/etc/kaito/adapters/adapters.json"
        assert mounts_of(container)["/etc/kaito/registry"] == ("registry", None, True)
        assert mounts_of(container)["/mnt/adapter"] == ("adapters", None, False)
    for other in (weights, main):
        assert "DOCKER_CONFIG" not in env_of(other)
        assert "/etc/kaito/registry" not in mounts_of(other)
    assert mounts_of(main)["/mnt/adapter"] == ("adapters", None, True)
    assert mounts_of(main)["/run/kaito"] == ("control", None, True)
    assert env_of(main)["KAITO_ADAPTERS_FILE"] == env_of(follow)["KAITO_ADAPTERS_FILE"]
    assert env_of(main)["KAITO_ADMIN_TOKEN_FILE"] == env_of(follow)["KAITO_ADMIN_TOKEN_FILE"]


def wanting(*images: str) -> dict[str, Any]:
    adapters = [{"name": f"a{number}", "image": image} for number, image in enumerate(images)]
    workspace = parse_workspace(SERVE)
    return manifests.stateful_set(workspace, plan(workspace, CATALOG), SETTINGS, RUN, adapters)


def test_another_version_of_an_adapter_is_no_other_pod() -> None:
    first, second = f"r/a@sha256:{'1' * 64}", f"r/a@sha256:{'2' * 64}"
    assert wanting(first) == wanting(second)
    assert wanting(first) == wanting(first, second), "nor is one more"
    workspace = parse_workspace(SERVE)
    maps = [
        manifests.wanted_config_map(workspace, [{"name": "a", "image": image}]) for image in (first, second)
    ]
    assert maps[0]["metadata"] == maps[1]["metadata"]
    assert json.loads(maps[0]["data"]["adapters.json"]) == {"adapters": [{"name": "a", "image": first}]}


def test_a_group_of_pods_pulls_its_adapters_once() -> None:
    workspace = parse_workspace(SERVE)
    several = replace(plan(workspace, CATALOG), node_count=2)
    adapters = [{"name": "a", "image": DIGEST}]
    made = manifests.stateful_set(workspace, several, SETTINGS, RUN, adapters)["spec"]["template"]["spec"]
    assert [one["name"] for one in made["initContainers"]] == ["weights", "adapter-0"]
    assert len(made["containers"]) == 1
    assert json.loads(env_of(made["containers"][0])["KAITO_ADAPTER_DIGESTS"])


def test_an_inference_workspace_s_own_adapters() -> None:
    listed = [
        {"source": {"name": "one", "image": "r.example.com/one:1", "imagePullSecrets": ["pull"]}},
        {"source": {"name": "two", "volumeSource": {"persistentVolumeClaim": {"claimName": "two"}}}},
        {"source": {"name": "three", "image": "r.example.com/three:1"}},
    ]
    workspace = with_(SERVE, "inference", adapters=listed)
    adapters = adapters_of(workspace)
    for runtime, nodes, expected in (
        ("vllm", 1, ["weights", "adapters"]),
        ("transformers", 1, ["weights", "adapters"]),
        ("vllm", 2, ["weights", "adapter-0", "adapter-2"]),
    ):
        made = replace(plan(workspace, CATALOG, runtimes=[runtime]), node_count=nodes)
        spec = manifests.stateful_set(workspace, made, SETTINGS, RUN, adapters)["spec"]["template"]["spec"]
        pulls = {container["name"]: container for container in spec["initContainers"]}
        assert list(pulls) == expected
        assert "DOCKER_CONFIG" in env_of(pulls[expected[1]])
        main = spec["containers"][0]
        assert mounts_of(main)["/mnt/adapter/two"] == ("adapter-1", None, True)
        # The mount point of two is made in it.
        assert mounts_of(main)["/mnt/adapter"] == ("adapters", None, False)
        assert "KAITO_DEFAULT_ADAPTER" not in env_of(main)
    assert "DOCKER_CONFIG" not in env_of(pulls["adapter-2"])


def test_a_base_model_is_served_without_adapters() -> None:
    spec = manifests.stateful_set(SERVE, plan(parse_workspace(SERVE), CATALOG), SETTINGS, RUN)["spec"][
        "template"
    ]["spec"]
    assert [container["name"] for container in spec["initContainers"]] == ["weights"]


def test_a_pod_template_is_used_as_it_is_with_our_placement() -> None:
    template = {
        "metadata": {"labels": {"mine": "1"}},
        "spec": {
            "containers": [{"name": "x", "image": "y"}],
            "tolerations": [{"key": "z", "operator": "Exists"}],
        },
    }
    written = {**template, "sepc": {}}  # a server-side apply would refuse the whole for such a field
    workspace = parse_workspace({**SERVE, "inference": {"template": written}})
    made = manifests.stateful_set(workspace, plan(workspace, CATALOG), SETTINGS, RUN)["spec"]["template"]
    assert set(made) == {"metadata", "spec"}
    assert made["spec"]["containers"] == template["spec"]["containers"]
    assert made["metadata"]["labels"]["mine"] == "1"
    assert made["spec"]["automountServiceAccountToken"] is False, (
        "no token of the cluster's API unless it is asked for"
    )
    assert made["metadata"]["labels"]["kaito.sh/workspace"] == "tune-phi"
    assert [toleration["key"] for toleration in made["spec"]["tolerations"]][:2] == ["z", "sku"]
    assert "kaito.sh/pool" in json.dumps(made["spec"]["affinity"])
    assert template["spec"]["tolerations"] == [
        {"key": "z", "operator": "Exists"}
    ]  # the author's copy is untouched


@pytest.mark.parametrize(
    ("gib", "seconds"), [(0, 1800), (7, 1800), (60, 1980), (100, 2700), (150, 3600), (700, 10800)]
)
def test_startup_budgets_are_kaitos(gib: int, seconds: int) -> None:
    assert startup_seconds(gib * 1024**3) == seconds


def test_builders_leave_their_input_alone() -> None:
    before = copy.deepcopy(QUICK)
    everything(SANDBOX)
    assert before == QUICK


def test_settings_reach_the_pods() -> None:
    settings = ManifestSettings(
        "i",
        cpu_request="1",
        memory_request="2Gi",
        image_pull_policy="Always",
        image_pull_secrets=("reg",),
        dataset_max_bytes=9,
        dataset_samples=False,
    )
    spec = manifests.dataset_pod(QUICK, PLAN, settings, RUN)["spec"]
    main = spec["containers"][0]
    assert main["resources"] == {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}
    assert (main["image"], main["imagePullPolicy"]) == ("i", "Always")
    assert spec["imagePullSecrets"] == [{"name": "reg"}]
    assert env_of(main)["DATASET_MAX_BYTES"] == "9"
    assert env_of(main)["DATASET_SAMPLES"] == "false"
    bare = manifests.tuning_pod(QUICK, PLAN, ManifestSettings("i", cpu_requests=False), RUN)
    main = bare["spec"]["containers"][0]
    assert main["resources"]["requests"] == {"memory": "0", "nvidia.com/gpu": "1"}
    assert main["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert env_of(main)["HOST"] == "0.0.0.0"


def test_the_users_server_arguments_reach_the_server_as_far_as_it_has_them() -> None:
    config = {"vllm": {"max-model-len": 2048, "max_num_seqs": 4, "served-model-name": "phi", "swap-space": 4}}

    def environment(ws: Workspace, runtimes: Sequence[str]) -> dict[str, str]:
        made = manifests.stateful_set(ws, plan(ws, CATALOG, runtimes=runtimes), SETTINGS, RUN, config=config)
        [container] = made["spec"]["template"]["spec"]["containers"]
        return {item["name"]: item.get("value", "") for item in container["env"]}

    found = environment(parse_workspace(SERVE), ["transformers"])
    asked = ("MAX_MODEL_LEN", "MAX_NUM_SEQS", "SERVED_MODEL_NAME", "MODEL_NAME", "MODEL_ID")
    hub = "microsoft/Phi-4-mini-instruct"
    assert [found.get(key) for key in asked] == ["2048", "4", "phi", "phi-4-mini-instruct", hub]
    other = environment(with_(SERVE, "metadata", annotations={names.RUNTIME: "transformers"}), RUNTIMES)
    assert [other.get(key) for key in asked] == [None, None, "phi-4-mini-instruct", None, hub], "as in KAITO"


def test_a_signed_url_stands_in_its_secret_and_nowhere_else() -> None:
    signed = copy.deepcopy(QUICK)
    signed["tuning"]["input"]["urls"] = ["https://h.example/a.jsonl?sig=CANARY7f3a9c"]
    made = plan(parse_workspace(signed), CATALOG)
    shown = [
        manifests.dataset_pod(signed, made, SETTINGS, RUN),
        manifests.tuning_pod(signed, made, SETTINGS, RUN),
        manifests.adapter_pod(signed, made, SETTINGS, RUN),
        manifests.tuning_config(signed, made, None),
        manifests.work_volume(signed, SETTINGS),
    ]
    assert "CANARY7f3a9c" not in json.dumps(shown)
    secret = manifests.dataset_urls(signed)
    assert "CANARY7f3a9c" in base64.b64decode(secret["data"]["urls"]).decode()
    other = copy.deepcopy(signed)
    other["tuning"]["input"]["urls"] = ["https://h.example/a.jsonl?sig=OTHER"]
    assert manifests.dataset_urls(other)["metadata"]["name"] != secret["metadata"]["name"]


def test_steps_without_a_gpu_run_in_the_small_image() -> None:
    split = replace(SETTINGS, tools_image="r/kaito-tools:1")
    tuning = manifests.tuning_pod(QUICK, PLAN, split, RUN)["spec"]
    assert [one["image"] for one in tuning["initContainers"]] == ["r/kaito-tools:1"]
    assert [one["image"] for one in tuning["containers"]] == [SETTINGS.workload_image]
    for step in (manifests.dataset_pod, manifests.adapter_pod):
        spec = step(QUICK, PLAN, split, RUN)["spec"]
        assert {one["image"] for one in containers(spec)} == {"r/kaito-tools:1"}


def test_the_key_that_signs_is_with_the_push_alone_and_those_that_are_trusted_with_who_pulls() -> None:
    trusted = replace(SETTINGS, adapter_public_keys="-----BEGIN PUBLIC KEY-----\n")
    signed = with_(QUICK, "metadata", annotations={"kaito.sh/signing-secret": "adapter-key"})
    push = manifests.adapter_pod(signed, PLAN, trusted, RUN)["spec"]["containers"][0]
    values = env_of(push)
    assert values["SIGNING_KEY"] == {"secretKeyRef": {"name": "adapter-key", "key": "cosign.key"}}
    password = {"name": "adapter-key", "key": "cosign.password", "optional": True}
    assert values["SIGNING_PASSWORD"] == {"secretKeyRef": password}
    assert "SIGNING_KEY" not in env_of(
        manifests.adapter_pod(QUICK, PLAN, trusted, RUN)["spec"]["containers"][0]
    )

    made = manifests.stateful_set(signed, SERVING, trusted, RUN, [{"name": "phi", "image": DIGEST}])
    spec = made["spec"]["template"]["spec"]
    pulling = [
        one
        for one in (*spec["initContainers"], *spec["containers"])
        if one["command"][3:] in (["prepare"], ["follow"])
    ]
    assert len(pulling) == 2
    for container in pulling:
        assert env_of(container)["ADAPTER_PUBLIC_KEYS"] == "-----BEGIN PUBLIC KEY-----\n"
    light = manifests.stateful_set(signed, LIGHT, trusted, RUN, [{"name": "phi", "image": DIGEST}])
    pulls = [
        one
        for one in light["spec"]["template"]["spec"]["initContainers"]
        if one["command"][3:] in (["pull"], ["prepare"])
    ]
    assert pulls
    assert all("ADAPTER_PUBLIC_KEYS" in env_of(one) for one in pulls)
    assert "ADAPTER_PUBLIC_KEYS" not in str(manifests.stateful_set(signed, SERVING, SETTINGS, RUN, []))
    for step in (manifests.dataset_pod, manifests.tuning_pod):
        assert "adapter-key" not in str(step(signed, PLAN, trusted, RUN))
