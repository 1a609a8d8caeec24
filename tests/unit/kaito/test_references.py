"""What a Workspace names: found in documents of any shape, judged without looking into registry Secrets."""

from __future__ import annotations

from typing import Any

import pytest
from kaito.controller import references
from kaito.hooks.api import CONFIG_MAP, SECRET, ClusterError
from kaito.hooks.cluster_calls import run

from include.catalog import load_catalog
from include.workspace.api import names
from tests.support.fake_cluster import FakeCluster

DOCKER = {"type": "kubernetes.io/dockerconfigjson"}
DOCUMENT: dict[str, Any] = {
    "metadata": {"name": "w", "namespace": "team"},
    "tuning": {
        "config": "training",
        "input": {"image": "r/i:1", "imagePullSecrets": ["pull", "pull"]},
        "output": {"image": "r/o:1", "imagePushSecret": "push"},
    },
}


def told(found: dict[tuple[str, str], Any]) -> list[str]:
    return [str(fault) for fault in references.faults(DOCUMENT, found, None, load_catalog())]


def test_each_place_that_names_something_is_known() -> None:
    assert [(r.kind.name, r.path, r.name) for r in references.references(DOCUMENT)] == [
        ("Secret", "tuning.output.imagePushSecret", "push"),
        ("Secret", "tuning.input.imagePullSecrets[0]", "pull"),
        ("Secret", "tuning.input.imagePullSecrets[1]", "pull"),
        ("ConfigMap", "tuning.config", "training"),
    ]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"tuning": []},
        {"tuning": {"output": "x", "input": None, "config": 3}},
        {"inference": {"adapters": [7, {"source": []}]}},
    ],
)
def test_documents_of_any_shape_can_be_read(document: dict[str, Any]) -> None:
    assert references.references(document) == []


def test_what_is_missing_and_what_is_of_the_wrong_kind_is_named_with_its_namespace() -> None:
    found = {
        ("secrets", "push"): None,
        ("secrets", "pull"): {"type": "Opaque"},
        ("configmaps", "training"): {"data": {"x": "y"}},
    }
    faults = told(found)
    assert len(faults) == 4
    assert "no such Secret in namespace team" in faults[0]
    assert "the Secret's type is Opaque" in faults[1]
    assert "no key training_config.yaml" in faults[3]


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("evaluation: {heldOut: 1}", "evaluation.heldOut: leaves too little to train on"),
        ("{evaluation: {}, gate: [candidate.perplexty < 3]}", "did you mean perplexity"),
        ("evaluation: {lmEval: {tasks: [a], limit: 0}}", "evaluation.lmEval.limit"),
        ("coolDwon: 6h", "did you mean coolDown"),
    ],
)
def test_a_retraining_s_policy_is_judged_before_anything_runs(policy: str, says: str) -> None:
    document = {
        "metadata": {"name": "w", "namespace": "team", "annotations": {names.RETRAIN_POLICY: "rules"}}
    }
    rules = {"data": {"retrain_policy.yaml": policy}}
    found = references.faults(document, {("configmaps", "rules"): rules}, None, load_catalog())
    [fault] = map(str, found)
    assert says in fault
    assert fault.startswith(f"metadata.annotations[{names.RETRAIN_POLICY}]: ")


def test_what_could_not_be_looked_at_is_no_fault() -> None:
    assert told({("secrets", "pull"): DOCKER}) == []


def test_each_object_is_looked_up_once(cluster: FakeCluster) -> None:
    asked: list[str] = []
    find = cluster.find
    cluster.find = lambda kind, name, namespace=None: asked.append(name) or find(kind, name, namespace)  # type: ignore[method-assign]
    found = run(references.look_up(cluster.calls, DOCUMENT, "team"))
    assert asked == ["push", "pull", "training"]
    assert set(found.values()) == {None}


def test_a_secret_that_we_may_not_read_is_left_to_the_pod_and_anything_else_is_an_error(
    cluster: FakeCluster,
) -> None:
    cluster.refuse["get", SECRET.plural] = ClusterError(403, "Forbidden", "secrets is forbidden")
    assert set(run(references.look_up(cluster.calls, DOCUMENT, "team"))) == {("configmaps", "training")}
    cluster.refuse["get", CONFIG_MAP.plural] = ClusterError(403, "Forbidden", "configmaps is forbidden")
    with pytest.raises(ClusterError):
        run(references.look_up(cluster.calls, DOCUMENT, "team"))


@pytest.mark.parametrize(
    ("options", "name"), [({}, None), ({"modelAccessSecret": "hub"}, "hub"), ({"modelAccessSecret": 3}, None)]
)
def test_the_secret_of_a_gated_model(options: dict[str, Any], name: str | None) -> None:
    document = {"inference": {"preset": {"name": "m", "presetOptions": options}}}
    assert references.hub_secret(document) == name


SNEAKY = ["../../team-b/configmaps/secrets-of-b", "..", "a/b", "A", "a%2fb", "-a", "a" * 254, "a b"]


@pytest.mark.parametrize("name", SNEAKY)
def test_what_cannot_be_a_name_is_never_looked_up(cluster: FakeCluster, name: str) -> None:
    asked: list[str] = []
    find = cluster.find
    cluster.find = lambda kind, name, namespace=None: asked.append(name) or find(kind, name, namespace)  # type: ignore[method-assign]
    document = {
        "metadata": {"name": "w", "namespace": "team"},
        "tuning": {
            "config": name,
            "input": {"image": "r/i:1", "imagePullSecrets": [name]},
            "output": {"image": "r/o:1", "imagePushSecret": name},
        },
        "inference": {"config": name, "preset": {"presetOptions": {"modelAccessSecret": name}}},
    }
    assert references.references(document) == []
    assert run(references.look_up(cluster.calls, document, "team")) == {}
    assert asked == []
    only = {"inference": {"preset": {"presetOptions": {"modelAccessSecret": name}}}}
    assert references.hub_secret(only) is None


@pytest.mark.parametrize("namespace", ["../kube-system", "..", "a.b", "Team", "a" * 64])
def test_nothing_is_looked_up_in_what_cannot_be_a_namespace(cluster: FakeCluster, namespace: str) -> None:
    cluster.find = None  # calling it would fail
    assert run(references.look_up(cluster.calls, DOCUMENT, namespace)) == {}


def test_the_key_of_a_service_is_in_the_secret_that_is_named_for_it() -> None:
    document = {"metadata": {"name": "w", "annotations": {"kaito.sh/api-key": "theirs"}}}
    [named] = references.references(document)
    assert (named.path, named.name, named.key) == (
        "metadata.annotations[kaito.sh/api-key]",
        "theirs",
        "API_KEY",
    )
    for seen, said in ((None, "no such Secret"), ({"data": {"x": "eA=="}}, "has no key API_KEY")):
        [fault] = references.faults(document, {("secrets", "theirs"): seen}, None, load_catalog())
        assert said in str(fault)
        assert "--from-literal=API_KEY=" in str(fault)
    good = {("secrets", "theirs"): {"data": {"API_KEY": "eA=="}}}
    assert references.faults(document, good, None, load_catalog()) == []
    for off in ("none", "No Name", ""):
        document["metadata"]["annotations"] = {"kaito.sh/api-key": off}  # type: ignore[index]
        assert references.references(document) == []


def test_what_opens_a_dataset_is_in_the_secret_that_is_named_for_it() -> None:
    document = {"metadata": {"name": "w", "annotations": {"kaito.sh/dataset-secret": "theirs"}}}
    [named] = references.references(document)
    assert (named.name, named.key) == ("theirs", "AUTHORIZATION")
    [fault] = references.faults(document, {("secrets", "theirs"): {"data": {}}}, None, load_catalog())
    assert fault.rule == "P49"
    assert "--from-literal=AUTHORIZATION=" in str(fault)


@pytest.mark.parametrize(
    ("url", "has", "said"),
    [
        ("s3://rows/x", ["AWS_ACCESS_KEY_ID"], ["no key AWS_SECRET_ACCESS_KEY"]),
        ("s3://rows/x", [], ["no key AWS_ACCESS_KEY_ID", "no key AWS_SECRET_ACCESS_KEY"]),
        ("hf://datasets/o/n", ["AUTHORIZATION"], ["no key HF_TOKEN"]),
        ("abfs://rows@team1.dfs.core.windows.net/x", ["AZURE_STORAGE_SAS_TOKEN"], []),
        (
            "abfs://rows@team1.dfs.core.windows.net/x",
            [],
            ["no key AZURE_STORAGE_ACCOUNT_KEY and no key AZ"],
        ),
        ("gs://rows/x", ["GOOGLE_SERVICE_ACCOUNT_KEY"], []),
    ],
)
def test_a_key_that_the_dataset_s_urls_need_is_named(url: str, has: list[str], said: list[str]) -> None:
    document = {
        "metadata": {"name": "w", "annotations": {"kaito.sh/dataset-secret": "mine"}},
        "tuning": {"input": {"urls": [url, url]}},
    }
    seen = {("secrets", "mine"): {"data": dict.fromkeys(has, "eA==")}}
    found = references.faults(document, seen, None, load_catalog())
    assert [fault.rule for fault in found] == ["P49"] * len(said)
    assert all(words in str(fault) for words, fault in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "there is no such Secret"),
        ({"cosign.pub": "x"}, "has no key cosign.key"),
        ({"cosign.key": "x"}, ""),
    ],
)
def test_the_secret_that_signs_has_a_key(data: dict[str, str] | None, words: str) -> None:
    notes = {"kaito.sh/signing-secret": "mine"}
    document = {**DOCUMENT, "metadata": {**DOCUMENT["metadata"], "annotations": notes}}
    seen = None if data is None else {"data": data}
    found = references.faults(document, {("secrets", "mine"): seen}, None, load_catalog())
    assert [fault.rule for fault in found] == (["P61"] if words else [])
    assert words in " ".join(map(str, found))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "there is no such Secret"),
        ({"WANDB_PROJECT": "x"}, "has no key MLFLOW_TRACKING_URI and no key WANDB_API_KEY"),
        ({"WANDB_API_KEY": "x"}, ""),
        ({"MLFLOW_TRACKING_URI": "x"}, ""),
    ],
)
def test_a_tracker_s_secret_has_one_of_the_keys_that_name_a_tracker(
    data: dict[str, str] | None, words: str
) -> None:
    notes = {"kaito.sh/tracking-secret": "mine"}
    document = {**DOCUMENT, "metadata": {**DOCUMENT["metadata"], "annotations": notes}}
    seen = None if data is None else {"data": data}
    found = references.faults(document, {("secrets", "mine"): seen}, None, load_catalog())
    assert [fault.rule for fault in found] == (["P52"] if words else [])
    assert words in " ".join(map(str, found))
    plain = {"metadata": document["metadata"], "inference": {}}
    assert references.references(plain) == [], "a service is not tracked"
