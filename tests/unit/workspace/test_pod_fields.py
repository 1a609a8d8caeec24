# ruff: noqa: E501 - one case a line, however long: a table is read by its columns
"""Pod templates and volumes that Kubernetes could not read are refused by `check`, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from include.catalog import load_catalog
from include.contracts.faults import CLOSE_LOOKS, HINTS
from include.manifests import pods
from include.workspace import examine_workspace, parse_workspace
from include.workspace.validation import pod_fields
from include.workspace.validation.notices import notices
from include.workspace.validation.rules.context import Policy
from sandbox.api.kinds import pod_template
from tests.support.workspaces import SERVING, TUNING, changed

CATALOG = load_catalog()
SPEC = "inference.template.spec"
LEFT_OUT = "of Kubernetes 1.36 and is left out"
GOOD: dict[str, Any] = {
    "metadata": {"labels": {"app": "mine"}},
    "spec": {
        "initContainers": [{"name": "before", "image": "i"}],
        "containers": [
            {
                "name": "main",
                "image": "i",
                "command": None,
                "args": ["serve"],
                "env": [{"name": "A", "value": "1"}],
                "ports": [{"containerPort": 5000}],
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
                "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "16Gi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
        "volumes": [{"name": "data", "emptyDir": {}}],
    },
}


def told(template: Any) -> list[str]:
    _, faults = examine_workspace(changed(SERVING, {"inference": {"template": template}}), CATALOG)
    return [str(fault) for fault in faults]


def test_the_table_is_kubernetes_own() -> None:
    written = pod_fields.FILE.read_text()
    assert written == pod_template.text(), (
        "run: python -m sandbox.api.kinds.pod_template > presets/schemas/pod_template.json"
    )


def test_a_good_template_passes() -> None:
    assert told(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spec": None}, f"{SPEC}: is required; give it a spec with containers"),
        ({"spec": "x"}, f"{SPEC}: must be a mapping (got 'x')"),
        ({"spec.containers": []}, f"{SPEC}.containers: must have at least one container"),
        ({"spec.containers": None}, f"{SPEC}.containers: is required"),
        ({"spec.containers": {"name": "a"}}, f"{SPEC}.containers: must be a list"),
        ({"spec.containers": ["a"]}, f"{SPEC}.containers[0]: must be a mapping (got 'a')"),
        ({"spec.containers.0.name": None}, f"{SPEC}.containers[0].name: is required"),
        ({"spec.containers.0.name": "Main"}, f"{SPEC}.containers[0].name: is not a name it can have (got 'Main')"),
        ({"spec.containers.0.name": "before"}, f"{SPEC}.containers[0].name: is used twice (got 'before')"),
        ({"spec.containers.0.image": None}, f"{SPEC}.containers[0].image: is required"),
        ({"spec.containers.0.args": "serve"}, f"{SPEC}.containers[0].args: must be a list (got 'serve')"),
        ({"spec.containers.0.env.0.value": 1}, '.env[0].value: must be text (got 1); put it in quotes: "1"'),
        ({"spec.containers.0.env": {"A": "1"}}, f"{SPEC}.containers[0].env: must be a list"),
        ({"spec.containers.0.resources.limits": ["x"]}, ".resources.limits: must be a mapping"),
        ({"spec.containers.0.resources.limits.memory": True}, "limits[memory]: must be a quantity, such as 500m"),
        ({"spec.containers.0.readinessProbe.periodSeconds": "5"}, ".periodSeconds: must be a whole number (got '5')"),
        ({"spec.containers.0.readinessProbe.httpGet.port": 1.5}, ".port: must be a whole number or text (got 1.5)"),
        ({"spec.containers.0.ports.0.containerPort": 70000}, ".containerPort: must be between 1 and 65535 (got 70000)"),
        ({"spec.containers.0.volumeMounts.0.name": "dta"}, "is the name of no volume of the pod (got 'dta')"),
        ({"spec.restartPolicy": "Never"}, f"{SPEC}.restartPolicy: must be Always (got 'Never')"),
        ({"spec.hostIPC": "no"}, f"{SPEC}.hostIPC: must be true or false (got 'no')"),
        ({"metadata.labels.app": 1}, "metadata.labels[app]: must be text (got 1)"),
    ],
)  # fmt: skip
def test_a_template_that_kubernetes_cannot_read(changes: dict[str, Any], sentence: str) -> None:
    found = told(changed(GOOD, changes))
    assert any(sentence in one and "[F62]" in one for one in found), found


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"persistentVolumeClaim": {"claimName": "c", "readOnly": "yes"}}, "persistentVolumeClaim.readOnly"),
        ({"emptyDir": "x"}, "emptyDir"),
        ({"ephemerall": {}}, "ephemerall"),  # without its kind it would be an empty folder
        ({"configMap": {"name": "c", "items": [{"key": "a"}]}}, "configMap.items[0].path"),
    ],
)
def test_a_volume_that_kubernetes_cannot_read(changes: dict[str, Any], path: str) -> None:
    document = changed(TUNING, {"tuning.input": {"volumeSource": changes}})
    _, faults = examine_workspace(document, CATALOG, Policy(allowed_volume_sources=tuple(changes)))
    assert [(fault.path, fault.rule) for fault in faults] == [(f"tuning.input.volumeSource.{path}", "F62")]


@pytest.mark.parametrize(
    ("changes", "field", "hint"),
    [
        ({"spec.containers.0.imagee": "i"}, "spec.containers[0].imagee is not a field of a Container", "; did you mean image?"),
        ({"spec.volumes.0.emptyDirr": {}}, "spec.volumes[0].emptyDirr is not a field of a Volume", "; did you mean emptyDir?"),
        ({"spec.containers.0.ofANewerCluster": {"a": [1]}}, "spec.containers[0].ofANewerCluster is not a field of a Container", "."),
        ({"sepc": {}}, "sepc is not a field of a PodTemplateSpec", "; did you mean spec?"),
    ],
)  # fmt: skip
def test_a_field_that_kubernetes_does_not_know_is_told_and_left_out_as_in_kaito(
    changes: dict[str, Any], field: str, hint: str
) -> None:
    template = changed(GOOD, changes)
    assert told(template) == []
    workspace = parse_workspace(changed(SERVING, {"inference": {"template": template}}))
    assert notices(workspace, CATALOG) == [f"inference.template.{field} {LEFT_OUT}{hint}"]
    assert pod_fields.known_template(template) == GOOD


def test_such_a_field_of_a_volume_is_told_and_left_out() -> None:
    source = {"persistentVolumeClaim": {"claimName": "c", "readonly": True}}
    document = changed(
        TUNING, {"tuning.input": {"volumeSource": source}, "tuning.output": {"volumeSource": source}}
    )
    workspace, faults = examine_workspace(document, CATALOG)
    assert (workspace is not None, faults) == (True, [])
    rest = f"is not a field of a PersistentVolumeClaimVolumeSource {LEFT_OUT}; did you mean readOnly?"
    assert notices(parse_workspace(document), CATALOG) == [
        f"tuning.{side}.volumeSource.persistentVolumeClaim.readonly {rest}" for side in ("input", "output")
    ]
    assert pods.unnamed({"name": "data", **source}) == {"persistentVolumeClaim": {"claimName": "c"}}


def test_a_flood_of_unknown_fields_costs_few_lines(comparisons: list[str]) -> None:
    template = {**GOOD, **{f"sepc{number:04}": 1 for number in range(2000)}}
    found = notices(parse_workspace(changed(SERVING, {"inference": {"template": template}})), CATALOG)
    assert 0 < len(comparisons) <= HINTS * (CLOSE_LOOKS + 1)
    assert found[HINTS:] == [
        "Kubernetes 1.36 does not know what else is here: 1950 more unknown fields, left out too."
    ]
