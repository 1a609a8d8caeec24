"""How each runtime is started, what guards its service, and what several pods that are one server need."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from include import manifests
from include.contracts.grace import SERVING_DRAIN_SECONDS
from include.planning import Plan, plan
from include.workspace import Workspace, parse_workspace
from include.workspace.api import access, names
from tests.support.manifests import CATALOG, DIGEST, QUICK, RUN, SERVE, SETTINGS, env_of, mounts_of, with_

ADAPTERS = [{"name": "mine", "image": DIGEST}]


def pod(ws: Workspace, made: Plan | None = None, **more: Any) -> dict[str, Any]:
    stateful_set = manifests.stateful_set(ws, made or plan(ws, CATALOG), SETTINGS, RUN, **more)
    spec: dict[str, Any] = stateful_set["spec"]["template"]["spec"]
    return spec


def annotated(document: dict[str, Any], **values: str) -> Workspace:
    notes = {f"kaito.sh/{name.replace('_', '-')}": value for name, value in values.items()}
    return with_(document, "metadata", annotations=notes)


SMALL = parse_workspace(
    {**SERVE, "resource": {**SERVE["resource"], "instanceType": "Standard_NC24ads_A100_v4"}}
)
LARGE = parse_workspace(
    {
        **SERVE,
        "inference": {"preset": {"name": "llama-3.3-70b-instruct"}},
        "resource": {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {}},
    }
)


def test_vllm_is_the_default_and_starts_with_the_plan_s_flags_and_the_user_s_after_them() -> None:
    config = {"vllm": {"max-num-seqs": 7}}
    main = pod(SMALL, adapters=ADAPTERS, config=config)["containers"][0]
    assert main["image"] == CATALOG.image("gpu")
    assert main["command"][:3] == ["python", "-m", "include.workloads.serving.vllm"]
    flags = main["command"][3:]
    assert {"--served-model-name=phi-4-mini-instruct", "--enable-lora", "--tensor-parallel-size=1"} <= set(
        flags
    )
    assert flags[-2:] == ["--", "--max-num-seqs=7"]
    values = env_of(main)
    assert values["KAITO_ADAPTERS_FILE"] == "/run/kaito/adapters.json"
    assert values["MODEL_ID"] == CATALOG.model("phi-4-mini-instruct").hf_id
    assert "LEADER_ADDRESS" not in values


def test_transformers_is_the_other_one_and_knows_an_adapter_s_strength() -> None:
    main = pod(annotated(SERVE, runtime="transformers"), adapters=[{**ADAPTERS[0], "strength": "0.5"}])[
        "containers"
    ][0]
    assert main["image"] == CATALOG.image("workloads")
    assert main["command"] == ["python", "-m", "include.workloads.serving"]
    assert env_of(main)["mine"] == "0.5"


def test_a_strength_reaches_the_adapters_of_an_inference_workspace() -> None:
    from include.manifests.serving import adapters_of

    listed = [{"source": {"name": "mine", "image": "r.example.com/a:1"}, "strength": "0.5"}]
    assert adapters_of(with_(SERVE, "inference", adapters=listed))[0]["strength"] == "0.5"
    unset, full = ({**listed[0], "strength": strength} for strength in (None, "1.0"))
    assert adapters_of(with_(SERVE, "inference", adapters=[full])) == adapters_of(
        with_(SERVE, "inference", adapters=[unset])
    )


def test_local_weights_are_the_node_s_own_and_nothing_is_downloaded() -> None:
    spec = pod(annotated(SERVE, use_local_weights="true"))
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    path = "/opt/kaito/models/phi-4-mini-instruct"  # KAITO's folder: the name as the Workspace has it
    assert volumes["weights"]["hostPath"] == {"path": path, "type": "Directory"}
    assert mounts_of(spec["containers"][0])["/workspace/weights"] == ("weights", None, True)
    assert "initContainers" not in spec
    assert (
        "emptyDir"
        in {v["name"]: v for v in pod(annotated(SERVE, use_local_weights="false"))["volumes"]}["weights"]
    )


@pytest.mark.parametrize(
    ("partition", "resource", "count", "flag"),
    [
        ({"mode": "accelerator", "count": 1}, "nvidia.com/gpu", "1", "--tensor-parallel-size=1"),
        ({"mode": "mig", "profile": "3g.40gb"}, "nvidia.com/mig-3g.40gb", "1", "--tensor-parallel-size=1"),
    ],
)
def test_a_part_of_a_machine_is_all_that_is_asked_for(
    partition: dict[str, Any], resource: str, count: str, flag: str
) -> None:
    ws = with_(SERVE, "resource", partition=partition)
    made = plan(ws, CATALOG)
    main = pod(ws, made)["containers"][0]
    gpus = {name: amount for name, amount in main["resources"]["limits"].items() if name != "memory"}
    assert gpus == {resource: count}
    assert main["resources"]["requests"][resource] == count
    assert flag in main["command"]
    assert not any("data-parallel" in part for part in main["command"])
    assert made.gpus_per_node == 1
    whole = pod(parse_workspace(SERVE))["containers"][0]
    assert whole["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_the_performance_mode_reaches_vllm() -> None:
    main = pod(annotated(SERVE, performance_mode="throughput"))["containers"][0]
    assert "--performance-mode=throughput" in main["command"]


@pytest.mark.parametrize("runtime", ["vllm", "transformers"])
def test_the_grace_holds_the_delay_and_the_drain(runtime: str) -> None:
    spec = pod(annotated(SERVE, runtime=runtime))
    main = spec["containers"][0]
    assert main["lifecycle"]["preStop"]["exec"]["command"] == [
        "sh", "-c", "touch /tmp/kaito-leaving; sleep 5",
    ]  # fmt: skip
    drain = int(env_of(main)["DRAIN_SECONDS"]) if runtime == "vllm" else SERVING_DRAIN_SECONDS
    assert spec["terminationGracePeriodSeconds"] >= 5 + drain + 5
    settings = replace(SETTINGS, endpoint_delay_seconds=0)
    made = manifests.stateful_set(SMALL, plan(SMALL, CATALOG), settings, RUN)
    assert "lifecycle" not in made["spec"]["template"]["spec"]["containers"][0]


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "notes", "expected"),
    [
        (SERVE, {}, "tune-phi-api-key"),
        (SERVE, {"api_key": "none"}, None),
        (SERVE, {"api_key": "theirs"}, "theirs"),
        (SERVE, {"enablelb": "True"}, "tune-phi-api-key"),
        (QUICK, {}, None),  # the quick start asks without a key
        (QUICK, {"enablelb": "True"}, "tune-phi-api-key"),
        (QUICK, {"enablelb": "true"}, None),  # KAITO's exact spelling: no load balancer
        (QUICK, {"api_key": "theirs"}, "theirs"),
    ],
)
def test_which_secret_holds_the_key(
    document: dict[str, Any], notes: dict[str, str], expected: str | None
) -> None:
    ws = annotated(document, **notes)
    assert access.api_key_secret(ws) == expected
    from include.planning import plan_serving

    spec = pod(ws, plan_serving(ws, CATALOG))
    main = spec["containers"][0]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    if expected is None:
        assert "API_KEY_FILE" not in env_of(main)
        assert "api-key" not in volumes
    else:
        assert env_of(main)["API_KEY_FILE"] == "/etc/kaito/api-key/key"
        assert mounts_of(main)["/etc/kaito/api-key"] == ("api-key", None, True)
        assert volumes["api-key"]["secret"]["secretName"] == expected
        assert volumes["api-key"]["secret"]["items"] == [{"key": "API_KEY", "path": "key"}]


def test_a_pod_template_has_no_key_of_ours() -> None:
    template = {"spec": {"containers": [{"name": "x", "image": "y"}]}}
    assert access.api_key_secret(parse_workspace({**SERVE, "inference": {"template": template}})) is None


def test_the_secret_goes_with_its_workspace() -> None:
    secret = manifests.key_secret(SMALL, "s3cret")
    assert base64.b64decode(secret["data"]["API_KEY"]) == b"s3cret"
    assert secret["metadata"]["ownerReferences"][0]["uid"] == SERVE["metadata"]["uid"]
    assert access.is_ours(SMALL)
    assert not access.is_ours(annotated(SERVE, api_key="theirs"))


# --- several pods that are one server ---------------------------------------------------------------------------------


def test_a_group_is_one_stateful_set_whose_first_pod_is_called() -> None:
    made = plan(LARGE, CATALOG)
    assert made.node_count > 1
    stateful_set = manifests.stateful_set(LARGE, made, SETTINGS, RUN)
    assert stateful_set["spec"]["replicas"] == made.node_count
    main, headless = manifests.services(LARGE, made)
    assert main["spec"]["selector"]["statefulset.kubernetes.io/pod-name"] == "tune-phi-0"
    assert "statefulset.kubernetes.io/pod-name" not in headless["spec"]["selector"]
    assert headless["spec"]["publishNotReadyAddresses"] is True
    container = stateful_set["spec"]["template"]["spec"]["containers"][0]
    values = env_of(container)
    assert values["LEADER_ADDRESS"] == "tune-phi-0.tune-phi-headless.ml.svc.cluster.local"
    assert values["POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert f"--nnodes={made.node_count}" in container["command"]
    assert f"--pipeline-parallel-size={made.node_count}" in container["command"]
    assert [port["containerPort"] for port in container["ports"]] == [5000, 29500, 29501]


def test_only_the_pods_of_a_group_reach_each_other_on_other_ports() -> None:
    alone = manifests.network_policy(SMALL, plan(SMALL, CATALOG))["spec"]
    assert alone["ingress"] == [{"ports": [{"protocol": "TCP", "port": 5000}]}]
    group = manifests.network_policy(LARGE, plan(LARGE, CATALOG))["spec"]
    assert group["ingress"][1] == {"from": [{"podSelector": group["podSelector"]}]}
    assert group["policyTypes"] == ["Ingress"]


def test_the_ports_that_a_pod_template_declares_stay_open() -> None:
    ports = [{"containerPort": 8080}, {"containerPort": 5000}, {"containerPort": 53, "protocol": "UDP"}, {}]
    template = {
        "spec": {"containers": [{"name": "x", "image": "y", "ports": ports}, {"name": "z", "image": "y"}]}
    }
    ws = parse_workspace({**SERVE, "inference": {"template": template}})
    spec = manifests.network_policy(ws, plan(ws, CATALOG))["spec"]
    assert spec["ingress"] == [
        {
            "ports": [
                {"protocol": "TCP", "port": 5000},
                {"protocol": "TCP", "port": 8080},
                {"protocol": "UDP", "port": 53},
            ]
        }
    ]


def test_pods_are_evicted_one_at_a_time() -> None:
    spec = manifests.disruption_budget(SMALL)["spec"]
    assert spec["maxUnavailable"] == 1
    assert spec["selector"]["matchLabels"] == {names.WORKSPACE: "tune-phi", names.COMPONENT: "serving"}
