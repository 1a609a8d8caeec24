# ruff: noqa: E501 - one case a line, however long: a table is read by its columns
"""KAITO's admission rules by their number, each as a Workspace that breaks it: the data of test_workspace_contract.py.

A rule that cannot apply here has a reason instead of a case; a rule whose fault is told under another name says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workspaces import REMOVE, SERVING, TUNING, changed

from include.workspace import Policy

Json = dict[str, Any]

VOLUME = {"persistentVolumeClaim": {"claimName": "data"}}
ADAPTER = {"source": {"name": "a", "image": "r.example.com/a:1"}}
BETA_TEMPLATE = changed(SERVING, {"inference": {"template": {"spec": {"containers": []}}}})
BYO_SERVING = changed(SERVING, {"resource.instanceType": REMOVE})
BYO = Policy(byo=True)


@dataclass(frozen=True)
class Update:
    """A change that is refused: what the Workspace was, what is changed, where the fault is told."""

    before: Json
    changes: Mapping[str, Any]
    path: str
    policy: Policy = field(default_factory=Policy)
    told_as: str = ""  # the rule's id in our report, when it is another one


UPDATES: dict[str, list[Update]] = {
    "X1": [
        Update(TUNING, {"tuning": REMOVE, "inference": {"preset": {"name": "phi-4"}}}, "inference"),
        Update(SERVING, {"inference": REMOVE, "tuning": TUNING["tuning"]}, "tuning"),
    ],
    "X2": [
        Update(SERVING, {"resource.count": 2}, "resource.count"),
        Update(changed(SERVING, {"resource.count": 2}), {"resource.count": REMOVE}, "resource.count"),
    ],
    "X3": [Update(changed(BYO_SERVING, {"resource.partition": {"mode": "mig", "profile": "1g.10gb"}}), {"resource.partition.profile": "2g.20gb"}, "resource.partition", Policy(byo=True, mig=True))],
    "X4": [Update(changed(TUNING, {"apiVersion": "kaito.sh/v1alpha1"}), {"resource.instanceType": "Standard_NC40ads_H100_v5"}, "resource.instanceType")],
    "X5": [
        Update(TUNING, {"resource.instanceType": "Standard_NC40ads_H100_v5"}, "resource.instanceType"),
        Update(TUNING, {"resource.instanceType": REMOVE}, "resource.instanceType"),
    ],
    "X6": [Update(BYO_SERVING, {"resource.instanceType": "Standard_NC24ads_A100_v4"}, "resource.instanceType", BYO)],
    "X7": [
        Update(TUNING, {"resource.labelSelector.matchLabels": {"app": "other"}}, "resource.labelSelector"),
        Update(TUNING, {"resource.labelSelector.matchExpressions": [{"key": "a", "operator": "Exists"}]}, "resource.labelSelector.matchExpressions[0]", told_as="R3"),
    ],
    "X8": [
        Update(SERVING, {"inference.preset.name": "phi-4"}, "inference.preset.name"),
        Update(SERVING, {"inference.preset.presetOptions": {"modelAccessSecret": "hf"}}, "inference.preset.presetOptions.modelAccessSecret"),
        Update(SERVING, {"inference.preset.accessMode": "private"}, "inference.preset.accessMode"),
    ],
    "X9": [Update(BETA_TEMPLATE, {"inference": {"preset": {"name": "phi-4"}}}, "inference.template")],
    "X10": [
        Update(SERVING, {"inference.adapters": [ADAPTER, ADAPTER]}, "inference.adapters[1].source.name", told_as="I11"),
        Update(SERVING, {"inference.adapters": [{}]}, "inference.adapters[0].source", told_as="A1"),
    ],
    "X11": [
        Update(TUNING, {"tuning.input": REMOVE}, "tuning.input", told_as="S4"),
        Update(TUNING, {"tuning.output": REMOVE}, "tuning.output", told_as="S4"),
    ],
    "X12": [Update(TUNING, {"tuning.input.name": "other"}, "tuning.input.name")],
    "X13": [
        Update(TUNING, {"tuning.input": {"image": "R.example.com/Data"}}, "tuning.input.image", told_as="U6"),
        Update(TUNING, {"tuning.output.image": "r.example.com/PHI"}, "tuning.output.image", told_as="U9"),
    ],
    "X14": [
        Update(TUNING, {"tuning.preset.name": "phi-4"}, "tuning.preset.name"),
        Update(TUNING, {"tuning.method": "lora"}, "tuning.method"),
    ],
    "X15": [Update(TUNING, {"metadata.annotations": {"kaito.sh/node-class-name": "x"}}, "metadata.annotations[kaito.sh/node-class-name]", Policy(node_classes=("y",)), "C8")],
    "X16": [Update(TUNING, {"metadata.annotations": {"kaito.sh/model-streaming": "disabled"}}, "metadata.annotations[kaito.sh/model-streaming]", Policy(model_streaming=True))],
}  # fmt: skip


def update_rules() -> dict[str, list[Update]]:
    return UPDATES
