# ruff: noqa: E501 - one case a line, however long: a table is read by its columns
"""KAITO's admission rules by their number, each as a Workspace that breaks it: the data of test_workspace_rule_cases.py.

A rule that cannot apply here has a reason instead of a case; a rule whose fault is told under another name says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from include.workspace import Policy
from tests.support.workspaces import REMOVE, SERVING, TUNING, changed

Json = dict[str, Any]

VOLUME = {"persistentVolumeClaim": {"claimName": "data"}}
ADAPTER = {"source": {"name": "a", "image": "r.example.com/a:1"}}
CONTAINER = {"name": "c", "image": "i"}
BETA_TEMPLATE = changed(SERVING, {"inference": {"template": {"spec": {"containers": [CONTAINER]}}}})
BYO_SERVING = changed(SERVING, {"resource.instanceType": REMOVE})
BYO = Policy(byo=True)

TRANSFORMERS = {"kaito.sh/runtime": "transformers"}


TUNING_RULES: list[tuple[str, dict[str, Any], str]] = [
    ("F49", {"metadata.annotations": {"kaito.sh/dataset-secret": "My Secret"}}, "metadata.annotations[kaito.sh/dataset-secret]"),
    ("F49", {"metadata.annotations": {"kaito.sh/dataset-secret": "mine"}, "tuning.input.urls": ["https://a.example.com/x", "https://b.example.com/y"]}, "metadata.annotations[kaito.sh/dataset-secret]"),
    ("F49", {"metadata.annotations": {"kaito.sh/dataset-secret": "mine"}, "tuning.input.urls": ["http://a.example.com/x"]}, "metadata.annotations[kaito.sh/dataset-secret]"),
    ("F49", {"metadata.annotations": {"kaito.sh/dataset-secret": "mine"}, "tuning.input": {"image": "r.example.com/data:1"}}, "metadata.annotations[kaito.sh/dataset-secret]"),
    ("F49", {"metadata.annotations": {"kaito.sh/dataset-secret": "mine"}, "tuning.input.urls": ["s3://rows/x", "gs://rows/x"]}, "metadata.annotations[kaito.sh/dataset-secret]"),
    ("F50", {"metadata.annotations": {"kaito.sh/dataset-identity": "default"}, "tuning.input.urls": ["s3://rows/x"]}, "metadata.annotations[kaito.sh/dataset-identity]"),
    ("F50", {"metadata.annotations": {"kaito.sh/dataset-identity": "kaito-dataset"}}, "metadata.annotations[kaito.sh/dataset-identity]"),
    ("F50", {"metadata.annotations": {"kaito.sh/dataset-identity": "kaito-dataset"}, "tuning.input.urls": ["s3://rows/x?endpoint=https://x.example.com"]}, "metadata.annotations[kaito.sh/dataset-identity]"),
    ("F50", {"metadata.annotations": {"kaito.sh/dataset-identity": "kaito-dataset"}, "tuning.input": {"image": "r.example.com/data:1"}}, "metadata.annotations[kaito.sh/dataset-identity]"),
    ("U7", {"tuning.input.urls": ["s4://rows/x"]}, "tuning.input.urls[0]"),
    ("U7", {"tuning.input.urls": ["s3://rows/x?endpoint=http://169.254.169.254"]}, "tuning.input.urls[0]"),
    ("U7", {"tuning.input.urls": ["hf://datasets/a/b/../c"]}, "tuning.input.urls[0]"),
    ("F52", {"metadata.annotations": {"kaito.sh/tracking-secret": "My Secret"}}, "metadata.annotations[kaito.sh/tracking-secret]"),
    ("F61", {"metadata.annotations": {"kaito.sh/signing-secret": "My Secret"}}, "metadata.annotations[kaito.sh/signing-secret]"),
    ("F51", {"metadata.annotations": {"kaito.sh/tuning-objective": "ppo"}}, "metadata.annotations[kaito.sh/tuning-objective]"),
    ("F51", {"metadata.annotations": {"kaito.sh/tuning-objective": ""}}, "metadata.annotations[kaito.sh/tuning-objective]"),
    ("F18", {"metadata.annotations": {"kaito.sh/budget-usd": "lots"}}, "metadata.annotations[kaito.sh/budget-usd]"),
    ("F18", {"metadata.annotations": {"kaito.sh/budget-usd": "-5"}}, "metadata.annotations[kaito.sh/budget-usd]"),
    ("F18", {"metadata.annotations": {"kaito.sh/budget-usd": "0"}}, "metadata.annotations[kaito.sh/budget-usd]"),
    ("F18", {"metadata.annotations": {"kaito.sh/budget-usd": "1e9"}}, "metadata.annotations[kaito.sh/budget-usd]"),
    ("F18", {"metadata.annotations": {"kaito.sh/budget-usd": "25 USD"}}, "metadata.annotations[kaito.sh/budget-usd]"),
    ("F18", {"metadata.annotations": {"kaito.sh/budget-usd": ""}}, "metadata.annotations[kaito.sh/budget-usd]"),
    ("F19", {"metadata.annotations": {"kaito.sh/budget-usd": "25"}, "resource.instanceType": "Standard_NC4_A16"}, "metadata.annotations[kaito.sh/budget-usd]"),
    ("D1", {"metadata.annotations": {"kaito.sh/retrain-schedule": "0 0 30 2 *"}}, "metadata.annotations[kaito.sh/retrain-schedule]"),
    ("D1", {"metadata.annotations": {"kaito.sh/retrain-schedule": "every monday"}}, "metadata.annotations[kaito.sh/retrain-schedule]"),
    ("D2", {"metadata.annotations": {"kaito.sh/retrain-schedule": "@daily", "kaito.sh/retrain-timezone": "Europe/Berln"}}, "metadata.annotations[kaito.sh/retrain-timezone]"),
    ("D2", {"metadata.annotations": {"kaito.sh/retrain-timezone": "Europe/Berlin"}}, "metadata.annotations[kaito.sh/retrain-timezone]"),
    ("D4", {"metadata.annotations": {"kaito.sh/retrain-schedule": "@data"}, "tuning.input": {"volumeSource": VOLUME}}, "metadata.annotations[kaito.sh/retrain-schedule]"),
    ("D5", {"metadata.annotations": {"kaito.sh/retrain-policy": "My Policy"}}, "metadata.annotations[kaito.sh/retrain-policy]"),
    ("E3", {"metadata.annotations": {"kaito.sh/held-out-share": "10%"}}, "metadata.annotations[kaito.sh/held-out-share]"),
    ("E3", {"metadata.annotations": {"kaito.sh/held-out-share": "1"}}, "metadata.annotations[kaito.sh/held-out-share]"),
    ("G1", {"metadata.name": "Tune_Phi"}, "metadata.name"),
    ("G1", {"metadata.name": "x" * 64}, "metadata.name"),
    ("G1", {"metadata.name": REMOVE, "metadata.generateName": "x-"}, "metadata.name"),
    ("G2", {"metadata.namespace": "../tenant-b"}, "metadata.namespace"),
    ("G2", {"metadata.namespace": ".."}, "metadata.namespace"),
    ("F31", {"metadata.namespace": "kube-system"}, "metadata.namespace"),
    ("F31", {"metadata.namespace": "kaito-system"}, "metadata.namespace"),
    ("F1", {"metadata.name": "x" * 53, "metadata.annotations": {"kaito.sh/rollout": "true"}}, "metadata.name"),
    ("F1", {"metadata.name": "3d", "metadata.annotations": {"kaito.sh/rollout": "true"}}, "metadata.name"),
    ("F2", {"metadata.annotations": {"kaito.sh/rollout": "yes"}}, "metadata.annotations[kaito.sh/rollout]"),
    ("C1", {"tuning": REMOVE}, ""),
    ("C2", {"inference": {"preset": {"name": "phi-4"}}}, ""),
    ("C4", {"resource.instanceType": REMOVE}, "resource.instanceType"),
    ("F17", {"metadata.annotations": {"kaito.sh/scale-to-zero-after-minutes": "soon"}}, "metadata.annotations[kaito.sh/scale-to-zero-after-minutes]"),
    ("F17", {"metadata.annotations": {"kaito.sh/scale-to-zero-after-minutes": "30", "kaito.sh/rollout": "false"}}, "metadata.annotations[kaito.sh/scale-to-zero-after-minutes]"),
    ("F15", {"metadata.annotations": {"kaito.sh/instance-types": ""}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F15", {"metadata.annotations": {"kaito.sh/instance-types": "Standard_NC40ads_H100_v5,,Standard_NC48ads_A100_v4"}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F15", {"metadata.annotations": {"kaito.sh/instance-types": "Standard_NC40ads_H100_v5@4"}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F15", {"metadata.annotations": {"kaito.sh/instance-types": "Standard_NC40ads_H100_v5@"}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F15", {"metadata.annotations": {"kaito.sh/instance-types": "Standard_NC40ads_H100_v5, standard_nc40ads_h100_v5"}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F15", {"metadata.annotations": {"kaito.sh/instance-types": "Standard_NC24ads_A100_v4"}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F15", {"metadata.annotations": {"kaito.sh/instance-types": "p4d.24xlarge"}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F15", {"metadata.annotations": {"kaito.sh/instance-types": "x," * 600}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("R13", {"metadata.annotations": {"kaito.sh/instance-types": "Standard_NC6s_v9"}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F8", {"metadata.annotations": {"kaito.sh/instance-types": "Standard_NG32ads_V620_v1"}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F9", {"metadata.annotations": {"kaito.sh/instance-types": "Standard_NV12s_v3"}}, "metadata.annotations[kaito.sh/instance-types]"),
    ("F16", {"metadata.annotations": {"kaito.sh/capacity-type": ""}}, "metadata.annotations[kaito.sh/capacity-type]"),
    ("F16", {"metadata.annotations": {"kaito.sh/capacity-type": "cheap"}}, "metadata.annotations[kaito.sh/capacity-type]"),
    ("F16", {"metadata.annotations": {"kaito.sh/capacity-type": "spot,spot"}}, "metadata.annotations[kaito.sh/capacity-type]"),
    ("F16", {"metadata.annotations": {"kaito.sh/capacity-type": "Spot"}}, "metadata.annotations[kaito.sh/capacity-type]"),
    ("C5", {"metadata.annotations": {"kaito.sh/node-image-family": "windows"}}, "metadata.annotations[kaito.sh/node-image-family]"),
    ("C6", {"metadata.annotations": {"kaito.sh/performance-mode": "fast"}}, "metadata.annotations[kaito.sh/performance-mode]"),
    ("C7", {"metadata.annotations": {"kaito.sh/use-local-weights": "True"}}, "metadata.annotations[kaito.sh/use-local-weights]"),
    ("R3", {"resource.labelSelector.matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, "resource.labelSelector.matchExpressions[0]"),
    ("R3", {"resource.labelSelector.matchExpressions": [{"key": "a", "operator": "Exists"}]}, "resource.labelSelector.matchExpressions[0]"),
    ("R5", {"resource.labelSelector": {"matchLabels": {"kaito.sh/workspace": "x"}}}, "resource.labelSelector"),
    ("F6", {"resource.labelSelector.matchLabels": {"app": "no spaces"}}, "resource.labelSelector.matchLabels[app]"),
    ("F6", {"resource.labelSelector.matchLabels": {"-x": "a"}}, "resource.labelSelector.matchLabels[-x]"),
    ("F20", {"resource.labelSelector.matchLabels": {"kubernetes.azure.com/agentpool": "gpu"}}, "resource.labelSelector.matchLabels[kubernetes.azure.com/agentpool]"),
    ("F20", {"resource.labelSelector.matchLabels": {"agentpool": "gpu"}}, "resource.labelSelector.matchLabels[agentpool]"),
    ("F20", {"resource.labelSelector.matchLabels": {"kubernetes.io/hostname": "n1"}}, "resource.labelSelector.matchLabels[kubernetes.io/hostname]"),
    ("F20", {"resource.labelSelector.matchLabels": {"topology.kubernetes.io/zone": "1"}}, "resource.labelSelector.matchLabels[topology.kubernetes.io/zone]"),
    ("F20", {"resource.labelSelector.matchLabels": {"node.kubernetes.io/instance-type": "Standard_NC6s_v3"}}, "resource.labelSelector.matchLabels[node.kubernetes.io/instance-type]"),
    ("F14", {"resource.instanceType": "p4d.24xlarge", "metadata.annotations": {"kaito.sh/pool-provider": "aks"}}, "metadata.annotations[kaito.sh/pool-provider]"),
    ("R12", {"resource.partition": {"mode": "mig"}, "tuning": REMOVE, "inference": {"preset": {"name": "phi-4"}}}, "resource.partition"),
    ("R13", {"resource.instanceType": "Standard_NC6s_v9"}, "resource.instanceType"),
    ("F8", {"resource.instanceType": "Standard_NG32ads_V620_v1"}, "resource.instanceType"),
    ("T1", {"resource.count": 2}, "resource.count"),
    ("F7", {"resource.count": 0}, "resource.count"),
    ("T2", {"resource.partition": {"mode": "mig"}}, "resource.partition"),
    ("F9", {"tuning.preset.name": "phi-4", "tuning.method": "lora", "resource.instanceType": "Standard_NV36ads_A10_v5"}, "resource.instanceType"),
    ("F9", {"resource.instanceType": "Standard_NV12s_v3"}, "resource.instanceType"),  # M60: no 4-bit kernels
    ("R15", {"tuning.preset.name": "phi-4", "resource.instanceType": "Standard_NC6s_v3", "metadata.annotations": {"kaito.sh/rollout": "true", **TRANSFORMERS}}, "resource.instanceType"),
    ("U1", {"tuning.method": "dora"}, "tuning.method"),
    ("U1", {"tuning.method": REMOVE}, "tuning.method"),
    ("U3", {"tuning.config": "Not A Name"}, "tuning.config"),
    ("U5", {"tuning.input": {}}, "tuning.input"),
    ("U5", {"tuning.input.image": "r.example.com/data:1"}, "tuning.input"),
    ("U5", {"tuning.input.urls": []}, "tuning.input"),
    ("U6", {"tuning.input": {"image": "R.example.com/Data"}}, "tuning.input.image"),
    ("U7", {"tuning.input.urls": ["https://ok.example.com/a", "file:///etc/passwd"]}, "tuning.input.urls[1]"),
    ("U8", {"tuning.output": {}}, "tuning.output"),
    ("U8", {"tuning.output.volumeSource": VOLUME}, "tuning.output"),
    ("U9", {"tuning.output.image": "registry.example.com/adapters/PHI:1"}, "tuning.output.image"),
    ("U9", {"tuning.output.image": "registry.example.com/a@sha256:" + "0" * 64}, "tuning.output.image"),
    ("U10", {"tuning.output.imagePushSecret": REMOVE}, "tuning.output.imagePushSecret"),
    ("F5", {"tuning.output.imagePushSecret": "ACR_SECRET"}, "tuning.output.imagePushSecret"),
    ("F5", {"tuning.input": {"image": "r.example.com/d:1", "imagePullSecrets": ["A B"]}}, "tuning.input.imagePullSecrets[0]"),
    ("F5", {"tuning.preset.accessMode": "secret"}, "tuning.preset.accessMode"),
    *(
        ("F33", {"tuning.input": {"volumeSource": {kind: {}}}}, f"tuning.input.volumeSource.{kind}")
        for kind in ("secret", "projected", "nfs", "iscsi", "csi", "flexVolume", "ephemeral", "downwardAPI", "image")
    ),
    ("F33", {"tuning.output": {"volumeSource": {"configMap": {"name": "c"}}}}, "tuning.output.volumeSource.configMap"),
    ("F33", {"tuning.output": {"volumeSource": {"secret": {"secretName": "s"}}}}, "tuning.output.volumeSource.secret"),
    ("F4", {"tuning.input": {"volumeSource": {}}}, "tuning.input.volumeSource"),
    ("F4", {"tuning.input": {"volumeSource": {"persistentVolumeClaim": {"claimName": "../x"}}}}, "tuning.input.volumeSource.persistentVolumeClaim.claimName"),
    ("F4", {"tuning.input": {"volumeSource": {"persistentVolumeClaim": {}}}}, "tuning.input.volumeSource.persistentVolumeClaim.claimName"),
    ("F4", {"tuning.input": {"volumeSource": {"configMap": {"name": "a/b"}}}}, "tuning.input.volumeSource.configMap.name"),
    ("C8", {"metadata.annotations": {"kaito.sh/node-class-name": "../x"}}, "metadata.annotations[kaito.sh/node-class-name]"),
    ("F4", {"tuning.input": {"volumeSource": {"hostPath": {"path": "/etc"}}}}, "tuning.input.volumeSource"),
    ("U11", {"tuning.preset": REMOVE}, "tuning.preset"),
    ("U12", {"tuning.preset.name": "phi-33"}, "tuning.preset.name"),
    ("F10", {"tuning.preset.name": "gpt-oss-20b"}, "tuning.preset.name"),
]  # fmt: skip

SERVING_RULES: list[tuple[str, dict[str, Any], str]] = [
    ("I1", {"inference": {}}, "inference"),
    ("I2", {"inference.template": {"spec": {"containers": [CONTAINER]}}}, "inference"),
    ("I3", {"inference.preset.name": "phi-44"}, "inference.preset.name"),
    ("I8", {"inference.preset.name": "llama-3.1-8b-instruct"}, "inference.preset.presetOptions.modelAccessSecret"),
    ("V1", {"inference.config": "Not A Name"}, "inference.config"),
    ("R15", {"inference.preset.name": "deepseek-v4-flash-0731", "metadata.annotations": TRANSFORMERS}, "resource.instanceType"),
    ("R16", {"inference.preset.name": "deepseek-v4-flash-0731", "resource.count": 2, "metadata.annotations": TRANSFORMERS}, "resource.instanceType"),
    ("F45", {"inference.preset.name": "nvidia-nemotron-nano-12b-v2-vl-bf16"}, "inference.preset.name"),
    ("F45", {"inference.preset.name": "ministral-3-3b-instruct", "metadata.annotations": TRANSFORMERS}, "inference.preset.name"),
    ("F45", {"inference.preset.name": "qwen3-8b-awq", "metadata.annotations": TRANSFORMERS}, "inference.preset.name"),
    ("F45", {"inference.preset.name": "qwen3-8b-awq", "resource.instanceType": "Standard_NC6s_v3"}, "resource.instanceType"),
    ("F46", {"inference.preset.name": "phi-4", "resource.instanceType": "Standard_NC64as_T4_v3"}, "resource.instanceType"),
    ("F46", {"inference.preset.name": "falcon-7b", "resource.instanceType": "Standard_NC12s_v3"}, "resource.instanceType"),
    ("F48", {"metadata.annotations": {"kaito.sh/model-image": "R.example.com/Phi"}}, "metadata.annotations[kaito.sh/model-image]"),
    ("F48", {"metadata.annotations": {"kaito.sh/model-image": ""}}, "metadata.annotations[kaito.sh/model-image]"),
    ("F48", {"metadata.annotations": {"kaito.sh/model-image": "r.example.com/kaito-phi-4:1", "kaito.sh/use-local-weights": "true"}}, "metadata.annotations[kaito.sh/model-image]"),
    ("F48", {"metadata.annotations": {"kaito.sh/model-image": "r.example.com/kaito-phi-4:1"}, "inference": {"template": {"spec": {"containers": [CONTAINER]}}}}, "metadata.annotations[kaito.sh/model-image]"),
    ("F54", {"metadata.annotations": {"kaito.sh/model-volume": "My Models"}}, "metadata.annotations[kaito.sh/model-volume]"),
    ("F54", {"metadata.annotations": {"kaito.sh/model-volume": ""}}, "metadata.annotations[kaito.sh/model-volume]"),
    ("F54", {"metadata.annotations": {"kaito.sh/model-volume": "models/../etc"}}, "metadata.annotations[kaito.sh/model-volume]"),
    ("F54", {"metadata.annotations": {"kaito.sh/model-volume": "models//etc"}}, "metadata.annotations[kaito.sh/model-volume]"),
    ("F54", {"metadata.annotations": {"kaito.sh/model-volume": "models/"}}, "metadata.annotations[kaito.sh/model-volume]"),
    ("F54", {"metadata.annotations": {"kaito.sh/model-volume": "models", "kaito.sh/model-image": "r.example.com/kaito-phi-4:1"}}, "metadata.annotations[kaito.sh/model-volume]"),
    ("F54", {"metadata.annotations": {"kaito.sh/model-volume": "models", "kaito.sh/use-local-weights": "true"}}, "metadata.annotations[kaito.sh/model-volume]"),
    ("F54", {"metadata.annotations": {"kaito.sh/model-volume": "models"}, "inference": {"template": {"spec": {"containers": [CONTAINER]}}}}, "metadata.annotations[kaito.sh/model-volume]"),
    ("F53", {"metadata.annotations": {"kaito.sh/model-revision": "main", "kaito.sh/model-volume": "models"}}, "metadata.annotations[kaito.sh/model-revision]"),
    ("F55", {"metadata.annotations": {"kaito.sh/model-cache": "My Cache"}}, "metadata.annotations[kaito.sh/model-cache]"),
    ("F55", {"metadata.annotations": {"kaito.sh/model-cache": "cache/.."}}, "metadata.annotations[kaito.sh/model-cache]"),
    ("F55", {"metadata.annotations": {"kaito.sh/model-cache": "cache", "kaito.sh/model-volume": "models"}}, "metadata.annotations[kaito.sh/model-cache]"),
    ("F55", {"metadata.annotations": {"kaito.sh/model-cache": "cache", "kaito.sh/model-image": "r.example.com/kaito-phi-4:1"}}, "metadata.annotations[kaito.sh/model-cache]"),
    ("F53", {"metadata.annotations": {"kaito.sh/model-revision": "a..b"}}, "metadata.annotations[kaito.sh/model-revision]"),
    ("F53", {"metadata.annotations": {"kaito.sh/model-revision": ""}}, "metadata.annotations[kaito.sh/model-revision]"),
    ("F53", {"metadata.annotations": {"kaito.sh/model-revision": "main", "kaito.sh/model-image": "r.example.com/kaito-phi-4:1"}}, "metadata.annotations[kaito.sh/model-revision]"),
    ("F53", {"metadata.annotations": {"kaito.sh/model-revision": "main"}, "inference": {"template": {"spec": {"containers": [CONTAINER]}}}}, "metadata.annotations[kaito.sh/model-revision]"),
    ("F5", {"metadata.annotations": {"kaito.sh/model-image": "r.example.com/kaito-phi-4:1"}, "inference.preset.presetOptions": {"imagePullSecrets": ["A B"]}}, "inference.preset.presetOptions.imagePullSecrets[0]"),
    ("R15", {"inference.preset.name": "deepseek-r1-0528", "resource.instanceType": "Standard_NV36ads_A10_v5"}, "resource.instanceType"),
    ("D3", {"metadata.annotations": {"kaito.sh/retrain-schedule": "@daily"}}, "metadata.annotations[kaito.sh/retrain-schedule]"),
    ("F41", {"metadata.annotations": {"kaito.sh/api-key": "none", "kaito.sh/enablelb": "True"}}, "metadata.annotations[kaito.sh/api-key]"),
    ("F41", {"metadata.annotations": {"kaito.sh/api-key": "My Secret"}}, "metadata.annotations[kaito.sh/api-key]"),
    ("F41", {"metadata.annotations": {"kaito.sh/api-key": ""}}, "metadata.annotations[kaito.sh/api-key]"),
    ("I10", {"inference.adapters": [{"source": {"name": f"a{i}", "image": "r.example.com/a:1"}} for i in range(11)]}, "inference.adapters"),
    ("I11", {"inference.adapters": [ADAPTER, ADAPTER]}, "inference.adapters[1].source.name"),
    ("I7", {"inference.adapters": [{**ADAPTER, "strength": "0.5"}]}, "inference.adapters[0].strength"),
    ("A1", {"inference.adapters": [{}]}, "inference.adapters[0].source"),
    ("A3", {"inference.adapters": [{"source": {"image": "r.example.com/a:1"}}]}, "inference.adapters[0].source.name"),
    ("A3", {"inference.adapters": [{"source": {"name": "../x", "image": "r.example.com/a:1"}}]}, "inference.adapters[0].source.name"),
    ("A4", {"inference.adapters": [{"source": {"name": "a"}}]}, "inference.adapters[0].source"),
    ("A5", {"inference.adapters": [{"source": {"name": "a", "urls": ["https://x.example.com/a"]}}]}, "inference.adapters[0].source.urls"),
    ("A6", {"inference.adapters": [{**ADAPTER, "strength": "much"}]}, "inference.adapters[0].strength"),
    ("A6", {"inference.adapters": [{**ADAPTER, "strength": "1.5"}]}, "inference.adapters[0].strength"),
    ("F33", {"inference.adapters": [{"source": {"name": "a", "volumeSource": {"secret": {"secretName": "s"}}}}]}, "inference.adapters[0].source.volumeSource.secret"),
    ("F32", {"inference": {"template": {"spec": {"hostPID": True, "containers": [CONTAINER]}}}}, "inference.template.spec.hostPID"),
]  # fmt: skip


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


@dataclass(frozen=True)
class Create:
    """A Workspace that breaks a rule which depends on the cluster's settings."""

    document: Json
    changes: Mapping[str, Any]
    path: str
    policy: Policy = field(default_factory=Policy)
    told_as: str = ""


MIG = {"resource.partition": {"mode": "mig", "profile": "1g.10gb"}}
SPLIT = Policy(byo=True, mig=True, accelerator=True)
STREAMED = "metadata.annotations[kaito.sh/model-streaming]"
CREATES: dict[str, list[Create]] = {
    "C3": [Create(SERVING, {}, "resource.instanceType", BYO)],
    "C8": [Create(TUNING, {"metadata.annotations": {"kaito.sh/node-class-name": "x"}}, "metadata.annotations[kaito.sh/node-class-name]", Policy(node_classes=("y",)))],
    "C9": [
        Create(SERVING, {}, STREAMED, Policy(model_streaming=True, cloud="aws")),
        Create(SERVING, {}, STREAMED, Policy(model_streaming=True, csi_drivers=("disk.csi.azure.com",))),
    ],
    "R6": [
        Create(BYO_SERVING, MIG, "resource.partition.mode", BYO),
        Create(BYO_SERVING, {"resource.partition": {"mode": "mig", "profile": "1g.10gb", "count": 1}}, "resource.partition.count", SPLIT),
        Create(BYO_SERVING, {"resource.partition": {"mode": "mig", "profile": "1G.10GB"}}, "resource.partition.profile", SPLIT),
        Create(BYO_SERVING, {"resource.partition": {"mode": "mig", "profile": "6g.99gb"}}, "resource.partition.profile", SPLIT),
        Create(BYO_SERVING, {"resource.partition": {"mode": "mig"}}, "resource.partition.profile", SPLIT),
        Create(BYO_SERVING, {"resource.partition": {"mode": "halves"}}, "resource.partition.mode", SPLIT),
    ],
    "R7": [Create(BYO_SERVING, {**MIG, "inference.preset.name": "phi-4"}, "resource.partition.profile", SPLIT)],
    "R8": [
        Create(BYO_SERVING, {"resource.partition": {"mode": "accelerator", "count": 1}}, "resource.partition.mode", BYO),
        Create(BYO_SERVING, {"resource.partition": {"mode": "accelerator", "count": 1, "profile": "1g.10gb"}}, "resource.partition.profile", SPLIT),
        Create(BYO_SERVING, {"resource.partition": {"mode": "accelerator"}}, "resource.partition.count", SPLIT),
        Create(BYO_SERVING, {"resource.partition": {"mode": "accelerator", "count": 0}}, "resource.partition.count", SPLIT),
    ],
    "R2": [Create(SERVING, {"inference.preset.name": "no-such"}, "inference.preset.name", told_as="I3")],
    "R14": [Create(BYO_SERVING, {"inference.preset.name": "no-such"}, "inference.preset.name", BYO, told_as="I3")],
    "A2": [
        Create(SERVING, {"inference.adapters": [{"source": {"name": "a", "image": "R.example.com/A"}}]}, "inference.adapters[0].source.image", told_as="U6"),
        Create(SERVING, {"inference.adapters": [{"source": {"name": "a", "image": "r.example.com/a", "volumeSource": VOLUME}}]}, "inference.adapters[0].source", told_as="U5"),
    ],
    "U4": [
        Create(TUNING, {"tuning.input": REMOVE}, "tuning.input", told_as="S4"),
        Create(TUNING, {"tuning.output": REMOVE}, "tuning.output", told_as="S4"),
    ],
}  # fmt: skip

# (text, method, path) of training_config.yaml, and (text, path) of inference_config.yaml.
QLORA = "training_config:\n  QuantizationConfig: {load_in_4bit: true}\n"
BITS = "training_config.QuantizationConfig"
TRAINING: dict[str, list[tuple[str, str, str]]] = {
    "M3": [("training_config: 3", "qlora", "training_config.yaml"), (QLORA + "other: {}\n", "qlora", "other")],
    "M4": [(QLORA + "  LoRAConfig: {r: 8}\n", "qlora", "training_config.LoRAConfig")],
    "M5": [("training_config: {QuantizationConfig: {load_in_4bit: 'no'}}", "lora", f"{BITS}.load_in_4bit")],
    "M6": [("training_config: {QuantizationConfig: {load_in_4bit: true, load_in_8bit: true}}", "qlora", BITS)],
    "M7": [(QLORA, "lora", f"{BITS}.load_in_4bit")],
    "M8": [("training_config: {}", "qlora", BITS)],
    "M9": [(QLORA + "  TrainingArguments: {output_dir: /mnt/../x}\n", "qlora", "training_config.TrainingArguments.output_dir")],
}  # fmt: skip
SERVER: dict[str, list[tuple[str, str]]] = {
    "V4": [("vllm: [1]", "vllm"), ("vllm: {a: {b: 1}}", "vllm.a")],
    "V5": [("vllm: {max-model-len: auto}", "vllm.max-model-len")],
    "V6": [("vllm: {max-model-len: 131073}", "vllm.max-model-len")],
    "V7": [("vllm: {max-num-seqs: 8}", "vllm.max-model-len")],  # with two nodes, in v1alpha1
}

# BYO nodes (bring your own), as (count, product, memory in MiB) of each; None: they could not be listed.
Node = tuple[str, str, str]
A100: Node = ("1", "NVIDIA-A100-SXM4-80GB", "81920")
NODES: dict[str, list[list[Node] | None]] = {
    "R9": [None, []],
    "R10": [[("1", "NVIDIA-A100-SXM4-80GB", "")], [A100, ("", "", "")], [("one", *A100[1:])]],
    "R11": [
        [A100, ("1", "NVIDIA-H100-80GB-HBM3", "81920")],
        [A100, ("2", *A100[1:])],
        [A100, (*A100[:2], "40960")],
    ],
}

# Rules that nothing in this layer can break, with the reason; the first word says where the case is seen to instead.
ELSEWHERE: dict[str, str] = {
    "R1": "notices.py: models that KAITO has dropped still run here, so the plan says 'deprecated' and goes on",
    "R4": "notices.py: reserved labels are ignored, and said so beside the plan",
    "R17": "include.catalog: sizes are numbers of the catalogue, checked when it is loaded",
    "T3": "models.py: no count is one node; nothing is dereferenced (test below)",
    "I4": "include.catalog.hub: a model outside the catalogue is resolved there, with its architecture",
    "I5": "nowhere: the server of this project is built on transformers, so every preset runs on it",
    "I6": "nowhere: the server of this project takes LoRA adapters for every preset",
    "I9": "nowhere: every model is a download unless it is mirrored, and then a secret does no harm",
    "V2": "kaito.operators.preflight: the ConfigMap is looked up in the cluster (fault P5)",
    "V3": "kaito.operators.preflight: its key is looked up in the cluster (fault P5)",
    "M1": "kaito.operators.preflight: the ConfigMap is looked up in the cluster (fault P5)",
    "M2": "kaito.operators.preflight: its key is looked up in the cluster (fault P5)",
    "U2": "include.catalog: the default config ships with the project, so there is no release namespace to miss",
}
COUNTS = {"G": 1, "C": 9, "R": 17, "T": 3, "I": 11, "V": 7, "U": 12, "A": 6, "M": 9, "X": 16}
NUMBERS = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]


def update_rules() -> dict[str, list[Update]]:
    return UPDATES
