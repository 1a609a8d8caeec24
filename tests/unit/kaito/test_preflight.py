"""The first task: every fault at once, nothing else touched; then the plan."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import CONFIG_MAP, NODE, SECRET, WORKSPACE, ClusterError
from kaito.operators.preflight import PreflightOperator

from include.workspace.api import names
from tests.support.fake_cluster import QUICK_START, FakeCluster
from tests.support.tasks import preflight

pytestmark = pytest.mark.usefixtures("established_crd")


@pytest.fixture
def unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Workspace with a URL that may stand in a run's conf."""
    monkeypatch.setitem(QUICK_START["tuning"]["input"], "urls", ["https://example.com/train.parquet"])


def test_a_workspace_in_the_cluster_is_planned(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    result = preflight(cluster, {"workspace": {"metadata": {"name": workspace["metadata"]["name"]}}})
    assert result["plan"]["purpose"] == "tuning"
    assert result["plan"]["dtype"] == "float16", "the V100 of the quick start has no bfloat16"
    assert result["serving_plan"]["purpose"] == "serving"
    assert result["workspace"]["metadata"]["uid"] == "0123abcd-0000"
    assert cluster.condition("workspace-tuning-phi-3", "WorkspaceSucceeded")["reason"] == "workspacePending"
    assert cluster.writes == []


def test_signed_urls_never_reach_xcom(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    result = preflight(cluster, {"name": "workspace-tuning-phi-3"})
    assert "SECRET" not in str(result)
    assert result["workspace"]["tuning"]["input"]["urls"] == ["https://example.com/train.parquet?..."]


def test_the_authors_dialect_decides_about_the_rollout(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    stored = cluster.objects["workspaces", "default", "workspace-tuning-phi-3"]
    stored["apiVersion"] = "kaito.sh/v1beta1"
    assert preflight(cluster, {"name": "workspace-tuning-phi-3"})["serving_plan"] is None
    stored["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": '{"apiVersion": "kaito.sh/v1alpha1"}'
    }
    result = preflight(cluster, {"name": "workspace-tuning-phi-3"})
    assert result["serving_plan"] is not None
    assert "last-applied" not in str(result)


@pytest.mark.usefixtures("unsigned")
def test_a_conf_only_run_makes_its_workspace(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    document = copy.deepcopy(QUICK_START)
    document["metadata"] = {"name": "other"}
    result = preflight(cluster, {"workspace": document})
    assert cluster.writes == [("workspaces", "other")]
    assert result["workspace"]["metadata"]["namespace"] == "default"


def test_every_fault_is_named_at_once_and_nothing_is_made(cluster: FakeCluster) -> None:
    document = copy.deepcopy(QUICK_START)
    document["resource"]["instanceType"] = "Standard_NC6s_v33"
    document["tuning"] |= {"preset": {"name": "phi-3-mini"}, "method": "dora", "config": "absent"}
    document["tuning"]["input"] = {"urls": ["http://169.254.169.254/x"]}
    document["tuning"]["output"]["imagePushSecret"] = "absent"
    with pytest.raises(AirflowFailException) as refused:
        preflight(cluster, {"workspace": document})
    text = str(refused.value)
    for word in ("Standard_NC6s_v33", "phi-3-mini", "dora", "169.254", "imagePushSecret", "tuning.config"):
        assert word in text
    assert cluster.writes == []
    assert cluster.list(WORKSPACE) == []


def test_a_refused_workspace_says_so_itself(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    cluster.objects.pop(("secrets", "default", "push"))
    with pytest.raises(AirflowFailException, match="no such Secret"):
        preflight(cluster, {"name": "workspace-tuning-phi-3"})
    told = cluster.condition("workspace-tuning-phi-3", "WorkspaceSucceeded")
    assert told["reason"] == "workspaceFailed"
    assert "imagePushSecret" in told["message"]


def test_a_secret_of_another_type_is_no_push_secret(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    cluster.add(SECRET, {"metadata": {"name": "push"}, "type": "Opaque"})
    with pytest.raises(AirflowFailException, match="type is Opaque"):
        preflight(cluster, {"name": "workspace-tuning-phi-3"})


def test_secrets_that_may_not_be_read_do_not_stop_the_run(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    cluster.refuse["get", "secrets"] = ClusterError(403, "Forbidden", "secrets is forbidden")
    assert preflight(cluster, {"name": "workspace-tuning-phi-3"})["plan"]


def test_the_content_of_the_training_config_is_checked(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    cluster.objects["workspaces", "default", "workspace-tuning-phi-3"]["tuning"]["config"] = "mine"
    cluster.add(
        CONFIG_MAP,
        {"metadata": {"name": "mine"}, "data": {"training_config.yaml": "training_config: {Nope: {}}"}},
    )
    with pytest.raises(AirflowFailException, match="Nope"):
        preflight(cluster, {"name": "workspace-tuning-phi-3"})


def test_memory_and_time_are_planned_for_the_users_settings(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    defaults = preflight(cluster, {"name": "workspace-tuning-phi-3"})["plan"]
    cluster.objects["workspaces", "default", "workspace-tuning-phi-3"]["tuning"]["config"] = "mine"
    text = """
training_config:
  QuantizationConfig: {load_in_4bit: true}
  TrainingArguments: {max_length: 8192, per_device_train_batch_size: 1}
"""
    cluster.add(CONFIG_MAP, {"metadata": {"name": "mine"}, "data": {"training_config.yaml": text}})
    made = preflight(cluster, {"name": "workspace-tuning-phi-3"})["plan"]
    assert made["training"]["sequence_length"] == 8192
    assert sum(size for _, size in made["memory"]) > sum(size for _, size in defaults["memory"])


def test_a_workspace_that_is_not_there_is_no_form_to_fill(cluster: FakeCluster) -> None:
    with pytest.raises(AirflowFailException, match="no Workspace nobody in namespace default"):
        preflight(cluster, {"name": "nobody"})


@pytest.mark.usefixtures("unsigned")
def test_a_conf_that_contradicts_the_cluster_is_refused(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    document = copy.deepcopy(QUICK_START)
    document["tuning"]["method"] = "lora"
    with pytest.raises(
        AirflowFailException, match=r"tuning\.method: the Workspace in the cluster has another value"
    ):
        preflight(cluster, {"workspace": document})


@pytest.mark.usefixtures("unsigned")
def test_the_same_yaml_as_in_the_cluster_runs(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    live = cluster.objects["workspaces", "default", workspace["metadata"]["name"]]
    live["tuning"]["input"]["urls"] = list(QUICK_START["tuning"]["input"]["urls"])
    assert preflight(cluster, {"workspace": copy.deepcopy(QUICK_START)})["plan"]


def test_an_inference_workspace_is_sent_to_the_other_dag(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    document = {k: v for k, v in QUICK_START.items() if k != "tuning"}
    document = {
        **document,
        "metadata": {"name": "inf"},
        "inference": {"preset": {"name": "phi-3-mini-128k-instruct"}},
    }
    with pytest.raises(AirflowFailException, match="kaito_serve"):
        preflight(cluster, {"workspace": document})


def test_a_workspace_being_deleted_is_not_run(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    stored = cluster.objects["workspaces", "default", "workspace-tuning-phi-3"]
    stored["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    with pytest.raises(AirflowFailException, match="being deleted"):
        preflight(cluster, {"name": "workspace-tuning-phi-3"})


def test_a_missing_crd_is_installed(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    definition = cluster.objects.pop(("customresourcedefinitions", "", "workspaces.kaito.sh"))
    apply = cluster.apply

    def establish(kind: Any, manifest: Any, **options: Any) -> dict[str, Any]:
        return apply(kind, {**manifest, "status": definition["status"]}, **options)

    cluster.apply = establish  # type: ignore[method-assign]
    preflight(cluster, {"name": "workspace-tuning-phi-3"})
    assert ("customresourcedefinitions", "workspaces.kaito.sh") in cluster.writes


def test_a_crd_that_may_not_be_seen_is_taken_as_installed(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    cluster.refuse["get", "customresourcedefinitions"] = ClusterError(403, "Forbidden", "no")
    assert preflight(cluster, {"name": "workspace-tuning-phi-3"})["plan"]


def test_a_crd_that_is_missing_and_may_not_be_made_is_asked_for() -> None:
    cluster = FakeCluster()
    cluster.refuse["apply", "customresourcedefinitions"] = ClusterError(403, "Forbidden", "cannot create")
    with pytest.raises(AirflowFailException, match=r"cannot create.*kubectl apply -f presets/crds"):
        preflight(cluster, {"name": "workspace-tuning-phi-3"})


@pytest.mark.usefixtures("unsigned")
def test_the_api_servers_refusal_is_the_verdict(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    cluster.refuse["apply", "workspaces"] = ClusterError(422, "Invalid", "admission webhook said no")
    document = {**copy.deepcopy(QUICK_START), "metadata": {"name": "other"}}
    with pytest.raises(AirflowFailException, match="admission webhook said no"):
        preflight(cluster, {"workspace": document})


def _serving(cluster: FakeCluster, config: str) -> dict[str, Any]:
    cluster.add(CONFIG_MAP, {"metadata": {"name": "mine"}, "data": {"inference_config.yaml": config}})
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "serve"},
        "resource": {
            "instanceType": "Standard_NC24ads_A100_v4",
            "labelSelector": {"matchLabels": {"app": "serve"}},
        },
        "inference": {"preset": {"name": "phi-4-mini-instruct"}, "config": "mine"},
    }


def test_the_content_of_the_inference_config_is_checked(cluster: FakeCluster) -> None:
    document = _serving(cluster, "vllm: {max-model-len: 9999999, enforce-eagr: true}")
    with pytest.raises(AirflowFailException) as refused:
        preflight(cluster, {"workspace": document}, purpose="serving")
    assert "context window has 131072 tokens" in str(refused.value)
    assert "did you mean enforce-eager?" in str(refused.value)
    assert cluster.writes == []


def test_a_good_inference_config_is_accepted(cluster: FakeCluster) -> None:
    document = _serving(cluster, "vllm: {max-model-len: 8192, cpu-offload-gb: 0}")
    assert preflight(cluster, {"workspace": document}, purpose="serving")["plan"]


@pytest.mark.parametrize(
    ("part", "preset", "words"),
    [
        (
            "tuning",
            "phi-4",
            r"resource.instanceType: .*the runtime transformers runs on one machine.*\[R16\]",
        ),
        (
            "inference",
            "phi-4",
            r"resource.instanceType: .*the runtime transformers runs on one machine.*\[R16\]",
        ),
        (
            "inference",
            "gpt-oss-20b",
            r"inference.preset.name: .*cannot be served by the runtime transf.*\[F45\]",
        ),
    ],
)
def test_what_the_runtime_that_stands_in_cannot_serve_is_a_fault(
    cluster: FakeCluster,
    workspace: dict[str, Any],
    part: str,
    preset: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__SERVING_RUNTIMES", "transformers")
    live = cluster.objects["workspaces", "default", "workspace-tuning-phi-3"]
    live["resource"]["instanceType"] = "Standard_NC6s_v3" if preset == "phi-4" else "Standard_NV36ads_A10_v5"
    if part == "inference":
        live["inference"] = {}
        del live["tuning"]
    live[part]["preset"] = {"name": preset}
    with pytest.raises(AirflowFailException, match=words):
        preflight(
            cluster, {"name": "workspace-tuning-phi-3"}, purpose="tuning" if part == "tuning" else "serving"
        )
    told = cluster.condition("workspace-tuning-phi-3", "WorkspaceReady")
    assert told["reason"] == "workspaceFailed"
    assert "the runtime transformers" in told["message"]


@pytest.mark.usefixtures("workspace")
def test_a_broken_setting_of_the_hand_over_is_told_before_anything_costs_money(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_HAND_OVER", "perhaps")
    with pytest.raises(AirflowFailException, match="pool_hand_over must be true or false, not 'perhaps'"):
        preflight(cluster, {"name": "workspace-tuning-phi-3"})
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_HAND_OVER", "False")
    assert preflight(cluster, {"name": "workspace-tuning-phi-3"})["plan"]


@pytest.fixture
def brought_along(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    """An installation that makes no machines, and a Workspace that names none."""
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", "byo")
    stored = cluster.objects["workspaces", "default", "workspace-tuning-phi-3"]
    stored["apiVersion"] = "kaito.sh/v1beta1"
    del stored["resource"]["instanceType"]


def node(**labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "gpu-1", "labels": labels}}


@pytest.mark.usefixtures("brought_along")
@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([], r"resource.labelSelector: none of 0 nodes matches .*\[R9\]"),
        ([node(app="tuning-phi-3")], r"node gpu-1: .*nvidia.com/gpu.* \[R10\]"),
    ],
)
def test_byo_nodes_are_looked_at(cluster: FakeCluster, nodes: list[dict[str, Any]], words: str) -> None:
    for one in nodes:
        cluster.add(NODE, one)
    with pytest.raises(AirflowFailException, match=words) as refused:
        preflight(cluster, {"name": "workspace-tuning-phi-3"})
    assert "1 fault:" in str(refused.value)


@pytest.mark.usefixtures("brought_along")
def test_nodes_that_may_not_be_listed_are_a_fault(cluster: FakeCluster) -> None:
    cluster.refuse["list", "nodes"] = ClusterError(403, "Forbidden", "nodes is forbidden")
    with pytest.raises(AirflowFailException, match=r"nodes could not be listed \[R9\]"):
        preflight(cluster, {"name": "workspace-tuning-phi-3"})


def test_where_machines_are_made_nodes_are_not_listed(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    cluster.refuse["list", "nodes"] = ClusterError(500, "Broken", "must not be asked")
    assert preflight(cluster, {"name": "workspace-tuning-phi-3"})["plan"]


def test_keys_without_effect_are_logged(
    cluster: FakeCluster, workspace: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.objects["workspaces", "default", "workspace-tuning-phi-3"]["tuning"]["config"] = "mine"
    text = """
training_config:
  QuantizationConfig: {load_in_4bit: true}
  ModelConfig: {cache_dir: /tmp/x}
"""
    cluster.add(CONFIG_MAP, {"metadata": {"name": "mine"}, "data": {"training_config.yaml": text}})
    preflight(cluster, {"name": "workspace-tuning-phi-3"})
    assert "ConfigMap mine: ModelConfig.cache_dir has no effect" in "".join(capfd.readouterr())


def test_a_plan_beyond_the_budget_is_refused_with_the_numbers(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    name = workspace["metadata"]["name"]
    stored = cluster.objects["workspaces", "default", name]
    stored["metadata"]["annotations"] = {names.BUDGET: "3"}
    stored["status"] = {"cost": {"usd": 2.5, "earlier": {"nodeSeconds": 3000, "usd": 2.5}}}
    with pytest.raises(
        AirflowFailException, match=r"2\.50 USD are spent and .* estimated at .* budget of 3\.00 USD"
    ):
        preflight(cluster, {"name": name})
    assert cluster.condition(name, "WorkspaceReady")["reason"] == "BudgetExceeded"
    stored["metadata"]["annotations"] = {names.BUDGET: "10"}
    assert preflight(cluster, {"name": name})["plan"]
    assert cluster.condition(name, "WorkspaceReady")["reason"] == "workspacePending", "it goes on"


def test_a_budget_passes_over_the_machines_that_would_exceed_it(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    name = workspace["metadata"]["name"]
    stored = cluster.objects["workspaces", "default", name]
    dear = "Standard_NC24ads_A100_v4,Standard_NC40ads_H100_v5"
    stored["metadata"]["annotations"] = {names.BUDGET: "1.5", names.INSTANCE_TYPES: dear}
    left = preflight(cluster, {"name": name})
    offered = [plan["instance_type"] for plan in left["alternatives"]["tuning"]]
    assert (left["plan"]["instance_type"], offered) == ("Standard_NC6s_v3", ["Standard_NC24ads_A100_v4"])


def test_a_budget_needs_a_price(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    name = workspace["metadata"]["name"]
    stored = cluster.objects["workspaces", "default", name]
    stored["metadata"]["annotations"] = {names.BUDGET: "3"}
    stored["resource"]["instanceType"] = "Standard_NC4_A16"
    with pytest.raises(AirflowFailException, match="no price of Standard_NC4_A16 is known"):
        preflight(cluster, {"name": name})


@pytest.mark.parametrize(
    "metadata",
    [{"name": ".."}, {"name": "../../../tenant-b/workspaces/w"}, {"name": "w", "namespace": "../tenant-b"},
     {"name": "w", "namespace": ".."}, {"name": "W%2F.."}, {"name": "w", "namespace": ["tenant-b"]}],
)  # fmt: skip
@pytest.mark.usefixtures("unsigned")
def test_a_name_that_is_none_is_a_fault_and_nothing_is_read_for_it(
    cluster: FakeCluster, workspace: dict[str, Any], metadata: dict[str, Any]
) -> None:
    asked: list[str] = []
    find = cluster.find

    def remember(kind: Any, name: str, namespace: str | None = None) -> Any:
        asked.append(f"{kind.plural}/{namespace}/{name}")
        return find(kind, name, namespace)

    cluster.find = remember  # type: ignore[method-assign]
    for document in ({"metadata": metadata}, copy.deepcopy(QUICK_START) | {"metadata": metadata}):
        with pytest.raises(AirflowFailException, match=r"metadata\.name(space)?: "):
            preflight(cluster, {"workspace": document})
    assert [path for path in asked if not path.startswith("customresourcedefinitions/")] == []
    assert cluster.writes == []


def test_a_signed_url_in_a_conf_is_refused_since_airflow_shows_confs(cluster: FakeCluster) -> None:
    with pytest.raises(
        AirflowFailException, match="is a signed URL, and a run's conf is stored and shown"
    ) as refused:
        preflight(cluster, {"workspace": copy.deepcopy(QUICK_START)})
    assert "SECRET" not in str(refused.value)
    assert cluster.writes == []


def test_a_conf_says_what_a_workspace_is_and_not_who_holds_or_owns_it(
    cluster: FakeCluster, workspace: dict[str, Any]
) -> None:
    document = copy.deepcopy(QUICK_START)
    owner = {"apiVersion": "v1", "kind": "Namespace", "name": "kube-system", "uid": "u"}
    document["tuning"]["input"] = {"urls": ["https://example.com/train.parquet"]}
    document["metadata"] = {
        "name": "other",
        "labels": {"team": "a"},
        "finalizers": ["example.com/for-ever"],
        "ownerReferences": [owner],
    }
    preflight(cluster, {"workspace": document})
    made = cluster.objects["workspaces", "default", "other"]["metadata"]
    assert made["labels"] == {"team": "a"}
    assert not {"finalizers", "ownerReferences"} & set(made)


@pytest.mark.parametrize("when", ["before the run looks", "while it looks"])
def test_a_run_of_an_edited_workspace_ends_and_never_takes_the_new_generation_for_its_own(
    cluster: FakeCluster, workspace: dict[str, Any], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A second try of such a run worked for the new generation, which then had no run of its own for ever."""
    meta = cluster.objects["workspaces", "default", workspace["metadata"]["name"]]["metadata"]

    def edited(*_: object) -> list[Any]:
        meta["generation"] = 2
        return []

    if when == "before the run looks":
        edited()
    else:
        monkeypatch.setattr(PreflightOperator, "_push_faults", edited)
    with pytest.raises(
        AirflowFailException, match="serves generation 1, which is superseded by generation 2"
    ):
        preflight(cluster, {"workspace": {"metadata": {"name": meta["name"]}}})
    assert cluster.writes == []


def test_a_run_by_hand_takes_the_workspace_as_it_is(cluster: FakeCluster, workspace: dict[str, Any]) -> None:
    meta = cluster.objects["workspaces", "default", workspace["metadata"]["name"]]["metadata"]
    meta["generation"] = 2
    conf = {"workspace": {"metadata": {"name": meta["name"]}}}
    assert preflight(cluster, conf, run_id="manual__2026-11-29")["plan"]
