"""What `kaito_package_model` runs for a form, and what the end of its pod means."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kaito.hooks.api import SECRET
from kaito.operators import packaging
from kaito.operators.packaging import PackageModelOperator, pod_name
from kaito.params import packaging_params

from include.catalog import load_catalog
from include.manifests import ManifestSettings
from include.manifests.packaging import package_pod
from tests.support.fake_cluster import FakeCluster
from tests.support.manifests import env_of, mounts_of

DEFAULTS = {key: param.value for key, param in packaging_params().items()}
FORM = {"model": "phi-4-mini-instruct", "registry": "myregistry.azurecr.io/models"}


@pytest.fixture
def operator(cluster: FakeCluster) -> PackageModelOperator:
    made = PackageModelOperator(task_id="package")
    made.cluster = cluster  # type: ignore[misc, assignment]
    return made


def pod(operator: PackageModelOperator, **form: Any) -> dict[str, Any]:
    wanted = operator.wanted({**DEFAULTS, **FORM, **form})
    return package_pod(wanted, ManifestSettings.defaults(load_catalog()), pod_name(wanted))


def test_a_preset_is_packaged_at_its_commit_under_kaito_s_name(operator: PackageModelOperator) -> None:
    main = pod(operator, push_secret="push", hub_secret="hf")["spec"]["containers"][0]
    model = load_catalog().model("phi-4-mini-instruct")
    assert main["image"] == load_catalog().image("tools")
    assert main["command"][:4] == ["python", "-m", "include.workloads.weights", "package"]
    assert set(main["command"][4:]) == {
        f"--model={model.hf_id}",
        f"--revision={model.revision}",
        "--folder=/workspace/weights",
        "--registry=myregistry.azurecr.io/models",
        "--name=phi-4-mini-instruct",
        f"--tag={model.revision[:12]}",
        "--licence=mit",
    }
    values = env_of(main)
    assert values["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "HF_TOKEN"}}
    assert values["DOCKER_CONFIG"] in mounts_of(main)


def test_a_gated_model_says_so_and_a_folder_is_read_from_its_claim(operator: PackageModelOperator) -> None:
    made = pod(operator, model="llama-3.1-8b-instruct", claim="models", folder="a/b", tag="1", private=True)
    command = made["spec"]["containers"][0]["command"]
    assert {"--folder=/mnt/model/a/b", "--gated", "--private", "--tag=1"} <= set(command)
    assert not any(part.startswith(("--model", "--revision")) for part in command)
    volume = next(one for one in made["spec"]["volumes"] if one["name"] == "model")
    assert volume["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}


def test_the_pod_is_no_workspace_s_and_the_same_for_the_same_work(operator: PackageModelOperator) -> None:
    first, again = pod(operator), pod(operator)
    assert first == again
    assert not any(key.startswith("kaito.sh/") for key in first["metadata"]["labels"])
    assert pod(operator, tag="2")["metadata"]["name"] != first["metadata"]["name"]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"model": None, "registry": ""}, "2 fault.*model: is required.*registry: is required"),
        ({"model": "no-such-preset"}, "no preset and no model of the hub"),
        ({"registry": "R.example.com/Models"}, "not an image reference"),
        ({"registry": "10.0.0.1/models"}, "not a public address"),
        ({"tag": "a b"}, "not an image reference"),
        ({"push_secret": "A B", "claim": "C D"}, "2 fault.*push_secret.*claim"),
        ({"folder": "../../etc", "claim": "c"}, "must be a path inside the claim"),
        ({"namespace": "kube-system"}, "kube-system"),
    ],
)
def test_a_form_that_cannot_be_is_refused_with_all_its_faults(
    form: dict[str, Any], words: str, operator: PackageModelOperator
) -> None:
    with pytest.raises(AirflowFailException, match=f"(?s){words}"):
        operator.wanted({**DEFAULTS, **FORM, **form})


def test_a_conf_with_an_unknown_field_is_refused(operator: PackageModelOperator) -> None:
    context = {"params": {**DEFAULTS, **FORM}, "dag_run": SimpleNamespace(conf={"regsitry": "x"})}
    with pytest.raises(AirflowFailException, match="regsitry: is no field"):
        operator.execute(context)


def test_a_model_of_the_hub_is_looked_up_with_the_secret_s_token(
    operator: PackageModelOperator, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"HF_TOKEN": base64.b64encode(b"hf_CANARY").decode()}
    cluster.add(SECRET, {"metadata": {"name": "hf"}, "data": data})
    asked: list[str | None] = []

    def look_up(document: Any, token: Any) -> Any:
        asked.append(token())
        return SimpleNamespace(fault=None, catalog=load_catalog())

    monkeypatch.setattr(packaging, "look_up", look_up)
    operator.wanted({**DEFAULTS, **FORM, "hub_secret": "hf"})
    assert asked == ["hf_CANARY"]


def ended(code: int, **message: Any) -> Any:
    state = SimpleNamespace(terminated=SimpleNamespace(exit_code=code, message=json.dumps(message)))
    return SimpleNamespace(status=SimpleNamespace(container_statuses=[SimpleNamespace(state=state)]))


@pytest.mark.parametrize(
    ("code", "kind"), [(64, AirflowFailException), (65, AirflowFailException), (75, AirflowException)]
)
def test_the_pod_s_own_sentence_and_exit_code_decide(
    code: int, kind: type[Exception], operator: PackageModelOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging.KubernetesPodOperator, "cleanup", lambda *_args, **_more: None)  # type: ignore[attr-defined]

    def run() -> None:
        operator.cleanup(None, ended(code, error="its licence is not known"))
        raise AirflowException("Pod package returned a failure.")

    with pytest.raises(kind, match="its licence is not known") as failure:
        operator._judged(run)
    assert isinstance(failure.value, AirflowFailException) == (kind is AirflowFailException)


def test_the_result_is_the_image_by_digest(
    operator: PackageModelOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaging.KubernetesPodOperator, "cleanup", lambda *_args, **_more: None)  # type: ignore[attr-defined]
    made = {"reference": "r.example.com/kaito-phi@sha256:1"}
    assert operator._judged(lambda: operator.cleanup(None, ended(0, **made))) == made


def test_a_pod_that_is_gone_before_its_result_was_read_is_tried_again(operator: PackageModelOperator) -> None:
    with pytest.raises(AirflowException, match="gone before its result"):
        operator._judged(lambda: None)
