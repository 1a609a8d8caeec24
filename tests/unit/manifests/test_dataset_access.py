"""What the dataset's pod is given to read a private dataset: a Secret's keys, or an identity."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from include import manifests
from include.planning import plan
from include.workspace import parse_workspace
from tests.support.manifests import CATALOG, QUICK, RUN, SETTINGS

PLAN = plan(parse_workspace(QUICK), CATALOG)
SECRET, IDENTITY = "kaito.sh/dataset-secret", "kaito.sh/dataset-identity"


def workspace(urls: list[str], **annotations: str) -> dict[str, Any]:
    document = copy.deepcopy(QUICK)
    document["metadata"]["annotations"] = annotations
    document["tuning"]["input"] = {"urls": urls}
    return document


def pod(document: dict[str, Any]) -> dict[str, Any]:
    return manifests.dataset_pod(document, PLAN, SETTINGS, RUN)


def given(document: dict[str, Any]) -> dict[str, Any]:
    variables = pod(document)["spec"]["containers"][0]["env"]
    return {one["name"]: one["valueFrom"]["secretKeyRef"] for one in variables if "valueFrom" in one}


@pytest.mark.parametrize(
    ("url", "required", "optional"),
    [
        ("https://example.com/x", ["AUTHORIZATION"], []),
        ("hf://datasets/o/n", ["HF_TOKEN"], []),
        ("s3://rows/x", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], ["AWS_SESSION_TOKEN"]),
        ("gs://rows/x", ["GOOGLE_SERVICE_ACCOUNT_KEY"], []),
        (
            "abfs://rows@team1.dfs.core.windows.net/x",
            [],
            ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"],
        ),
    ],
)
def test_a_secret_s_keys_are_those_of_the_urls(url: str, required: list[str], optional: list[str]) -> None:
    found = given(workspace([url, url], **{SECRET: "mine"}))
    found.pop("DATASET_URLS")
    assert found == {
        **{f"DATASET_{key}": {"name": "mine", "key": key} for key in required},
        **{f"DATASET_{key}": {"name": "mine", "key": key, "optional": True} for key in optional},
    }
    assert set(given(workspace([url]))) == {"DATASET_URLS"}


def test_an_identity_is_the_dataset_pod_s_alone() -> None:
    document = workspace(["s3://rows/x"], **{IDENTITY: "kaito-dataset"})
    made = pod(document)
    assert made["spec"]["serviceAccountName"] == "kaito-dataset"
    assert made["spec"]["automountServiceAccountToken"] is False
    assert made["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert {"name": "DATASET_IDENTITY", "value": "true"} in made["spec"]["containers"][0]["env"]
    tuning = manifests.tuning_pod(document, PLAN, SETTINGS, RUN)
    assert "serviceAccountName" not in tuning["spec"]
    assert "azure.workload.identity/use" not in tuning["metadata"]["labels"]


def test_the_metadata_service_is_open_to_that_pod_and_only_with_an_identity() -> None:
    assert manifests.metadata_policy(workspace(["s3://rows/x"])) is None
    made = manifests.metadata_policy(workspace(["s3://rows/x"], **{IDENTITY: "kaito-dataset"}))
    assert made is not None
    labels = made["spec"]["podSelector"]["matchLabels"]
    assert labels["kaito.sh/component"] == "dataset"
    assert labels["kaito.sh/workspace"] == QUICK["metadata"]["name"]
    cidrs = [rule["to"][0]["ipBlock"]["cidr"] for rule in made["spec"]["egress"]]
    assert "169.254.169.254/32" in cidrs
    assert all(cidr.endswith("/32") for cidr in cidrs)


def test_a_dataset_without_an_identity_runs_as_nobody() -> None:
    made = pod(workspace(["s3://rows/x"]))
    assert "serviceAccountName" not in made["spec"]
    assert "azure.workload.identity/use" not in made["metadata"]["labels"]
