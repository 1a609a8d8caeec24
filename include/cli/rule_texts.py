"""What each rule asks for, by the id that its faults carry, for `rules` and for whoever reads `[U10]`.

A fault says what is wrong with one field; this table says what is right, once an id. A test compares it with the ids
in the source, both ways, so it must never hold an id that no fault carries.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

TOPICS: Mapping[str, str] = {
    "S": "the schema",
    "G": "the name",
    "C": "the Workspace as a whole",
    "R": "machines",
    "T": "machines of a tuning",
    "I": "inference",
    "A": "adapters",
    "V": "the ConfigMap of an inference (inference_config.yaml)",
    "U": "tuning",
    "M": "the ConfigMap of a tuning (training_config.yaml)",
    "X": "changes to a Workspace that exists",
    "F": "what KAITO does not check",
    "D": "retraining",
    "E": "evaluation and its gate",
    "N": "the plan",
    "P": "what a run finds in the cluster",
}

SENTENCES: Mapping[str, str] = {
    "S1": "A Workspace is one YAML or JSON mapping, at most 1 MiB and 64 levels deep, no key twice.",
    "S2": "apiVersion is kaito.sh/v1alpha1 or kaito.sh/v1beta1, and kind is Workspace.",
    "S3": "v1alpha1 has no resource.partition and no presetOptions.modelAccessSecret; use v1beta1 for them.",
    "S4": "A required field is given.",
    "S5": "A value has its field's type: text, a whole number, true or false, a list, a mapping.",
    "S6": "Every field is one that a Workspace has.",
    "S7": "A value is within its field's limits, which the CustomResourceDefinition has: length, number, look.",
    "S8": "Labels and annotations are ones that an object can have; annotations have at most 256 KiB in all.",
    "G1": "metadata.name is a DNS label: at most 63 lower-case letters, digits and '-'.",
    "G2": "metadata.namespace is a DNS label, as metadata.name is.",
    "C1": "A Workspace has inference or tuning.",
    "C2": "A Workspace does not have both inference and tuning.",
    "C3": "Where nodes are BYO (bring your own), resource.instanceType is empty.",
    "C4": "Where machines are made, resource.instanceType is given (v1alpha1 has a default).",
    "C5": "Annotation kaito.sh/node-image-family is ubuntu or azurelinux.",
    "C6": "Annotation kaito.sh/performance-mode is balanced, interactivity or throughput.",
    "C7": "Annotation kaito.sh/use-local-weights is true or false.",
    "C8": "Annotation kaito.sh/node-class-name names a NodeClass that the cluster manages.",
    "C9": "Streaming of weights needs a cloud that has it, and its storage driver in the cluster.",
    "R3": "An expression of the labelSelector means one label: operator In with exactly one value.",
    "R5": "The labelSelector holds a label of your own, not only those that KAITO sets.",
    "R6": "A MIG slice of BYO nodes has a known profile, no count, and a cluster that allows it.",
    "R7": "The weights fit the MIG slice.",
    "R8": "Single GPUs of BYO nodes have a count, no profile, and a cluster that allows them.",
    "R9": "BYO nodes (bring your own) match the labelSelector.",
    "R10": "Such nodes carry NVIDIA's labels: nvidia.com/gpu.product, .count and .memory.",
    "R11": "Such nodes have the same GPUs.",
    "R12": "resource.partition is for BYO nodes.",
    "R13": "resource.instanceType is a known GPU machine (see `machines`), for a template any Standard_N or _D.",
    "R15": "All GPUs together hold the weights.",
    "R16": "The model fits one node of the machine type; the runtime vllm may spread it over several.",
    "T1": "Tuning runs on one node.",
    "T2": "Tuning takes whole GPUs, no partition.",
    "I1": "inference has a preset or a template.",
    "I2": "inference does not have both a preset and a template.",
    "I3": "inference.preset.name is a known preset, alias or hub id (see `models`).",
    "I4": "A model that is no preset is found on the hub (see check --hub), and can be loaded here.",
    "I7": "strength of an adapter, other than 1.0, is for the transformers runtime only.",
    "I8": "A gated model comes with presetOptions.modelAccessSecret, a secret with the key HF_TOKEN.",
    "I10": "At most 10 adapters are served.",
    "I11": "Each adapter has a name of its own.",
    "A1": "An adapter has a source.",
    "A3": "An adapter's source.name is a lower-case name.",
    "A4": "An adapter comes from an image or a volumeSource.",
    "A5": "An adapter does not come from URLs.",
    "A6": "strength of an adapter is a number from 0 to 1, written as text.",
    "V1": "inference.config is a name that a ConfigMap can have.",
    "V3": "The ConfigMap has the key inference_config.yaml.",
    "V4": "inference_config.yaml is a mapping whose vllm holds arguments with plain values.",
    "V5": "vllm.max-model-len is a whole number.",
    "V6": "vllm.max-model-len is at most the model's context.",
    "V7": "v1alpha1: vllm.max-model-len is given with several small GPUs or several nodes.",
    "U1": "tuning.method is lora or qlora, in any letter case.",
    "U3": "tuning.config is a name that a ConfigMap can have.",
    "U5": "Data comes from exactly one of urls, image and volumeSource.",
    "U6": "An image that data comes from is an image reference, and its registry is not inside the network.",
    "U7": "A dataset URL is https, http, hf, s3, gs or abfs and does not lead into the cluster's own network.",
    "U8": "The adapter goes to exactly one of image and volumeSource.",
    "U9": "output.image is an image reference with a tag, not a digest; its registry is not inside the network.",
    "U10": "output.image comes with imagePushSecret, a dockerconfigjson secret.",
    "U11": "tuning has a preset.",
    "U12": "tuning.preset.name is a known preset, alias or hub id (see `models`).",
    "M2": "The ConfigMap has the key training_config.yaml.",
    "M3": "training_config.yaml is a mapping named training_config, of sections that are mappings.",
    "M4": "Sections are ModelConfig, QuantizationConfig, LoraConfig, TrainingArguments, DatasetConfig, DataCollator.",
    "M5": "load_in_4bit and load_in_8bit are true or false.",
    "M6": "load_in_4bit and load_in_8bit are not both true.",
    "M7": "lora tunes a model that is not quantised.",
    "M8": "qlora has load_in_4bit or load_in_8bit true.",
    "M9": "TrainingArguments.output_dir is a folder below /mnt.",
    "X1": "inference and tuning are neither added to a Workspace nor taken out.",
    "X2": "resource.count does not change.",
    "X3": "resource.partition does not change.",
    "X4": "v1alpha1: resource.instanceType does not change.",
    "X5": "resource.instanceType, once given, neither changes nor goes.",
    "X6": "Where nodes are BYO (bring your own), resource.instanceType may only go.",
    "X7": "The labels that resource.labelSelector means do not change.",
    "X8": "inference.preset does not change.",
    "X9": "inference.template is neither added nor taken out.",
    "X12": "tuning.input.name does not change.",
    "X14": "tuning.preset and tuning.method do not change.",
    "X16": "Annotation kaito.sh/model-streaming does not change.",
    "F1": "A Workspace that is served has a name that its Service and StatefulSet can have.",
    "F2": "Annotation kaito.sh/rollout is true or false.",
    "F4": "A volumeSource names one kind of volume by a possible name, and never the node's own disk.",
    "F5": "Secrets, images and accessMode have values that they can have.",
    "F6": "The labels of labelSelector are labels that a node can carry.",
    "F7": "resource.count is at least 1 and at most 1000.",
    "F8": "The machine type has NVIDIA GPUs.",
    "F9": "The model fits one GPU of the machine type in this tuning method, or all of them together, and no config "
    "keeps it from being sharded over them.",
    "F10": "The preset can be tuned.",
    "F11": "A config file holds only keys that the trainer or the server takes.",
    "F12": "A value of a config file is one that its key can have.",
    "F13": "Arguments of the server fit the model and the machine.",
    "F17": "Annotation kaito.sh/scale-to-zero-after-minutes is a number above 0, and there is a service to scale.",
    "F14": "Annotation kaito.sh/pool-provider is nodeclaim, nodepool, aks, byo or auto, and has the machine type.",
    "F15": "Annotation kaito.sh/instance-types lists up to 8 machine types of one cloud, TYPE or TYPE@ZONE, each once; "
    "each is known and large enough (R13, F8, F9, R15, R16).",
    "F16": "Annotation kaito.sh/capacity-type is spot, on-demand, or both in the order in which they are to be tried.",
    "F18": "Annotation kaito.sh/budget-usd is an amount of US dollars above 0, such as 25 or 25.50.",
    "F19": "With a budget, the machine types have prices (usd_per_hour).",
    "F20": "Where machines are made, no label of labelSelector is one that their cluster or cloud sets by itself.",
    "F31": "The namespace is one in which Workspaces may run: the setting [kaito] allowed_namespaces.",
    "F32": "A pod template keeps the Pod Security Standards' profile that [kaito] template_policy names (baseline by "
    "default), and takes no service account, token or node of its own.",
    "F62": "A pod template or a volumeSource has the types of Kubernetes 1.36; containers have name and image.",
    "F33": "A volumeSource is a persistentVolumeClaim, a configMap (to read from), an emptyDir, or a kind that the "
    "setting [kaito] allowed_volume_sources names.",
    "F41": "Annotation kaito.sh/api-key is none or a Secret's name; a public service (kaito.sh/enablelb) has a key.",
    "F45": "The runtime can load the model: its class, the format of its weights, without code of its repository.",
    "F46": "The GPUs of the machine can share the model's attention heads evenly.",
    "F48": "Annotation kaito.sh/model-image names an image, of a preset, and without kaito.sh/use-local-weights.",
    "F54": "Annotation kaito.sh/model-volume is CLAIM or CLAIM/FOLDER, of a preset, and no other place is named.",
    "F55": "Annotation kaito.sh/model-cache is CLAIM or CLAIM/FOLDER, of a preset that comes from the hub.",
    "F53": "Annotation kaito.sh/model-revision is a commit, branch or tag, of a preset that comes from the hub.",
    "F60": "A model that embeds, ranks or scores texts is served without adapters, and not out of a model image.",
    "F49": "Annotation kaito.sh/dataset-secret is a Secret's name; the dataset has URLs, all of one host and none that "
    "would get its keys in the clear.",
    "F50": "Annotation kaito.sh/dataset-identity is a ServiceAccount that [kaito] dataset_identities names; the "
    "dataset is of s3, gs or abfs, without an endpoint and without kaito.sh/dataset-secret.",
    "F52": "Annotation kaito.sh/tracking-secret is a Secret's name, on a Workspace with a tuning.",
    "F61": "Annotation kaito.sh/signing-secret is a Secret's name, on a tuning that pushes its adapter; it is there "
    "where [kaito] adapter_public_keys lets signed adapters be served only.",
    "F51": "Annotation kaito.sh/tuning-objective is sft, dpo or kto, on a Workspace with a tuning.",
    "D1": "Annotation kaito.sh/retrain-schedule is a cron expression of five fields that fires some day, or @data.",
    "D2": "Annotation kaito.sh/retrain-timezone is a time zone of the IANA database, and there is a schedule.",
    "D3": "Only a tuning that pushes its adapter as an image is retrained.",
    "D4": "A dataset that is watched (@data) has URLs or is an image.",
    "D5": "Annotation kaito.sh/retrain-policy is the name of a ConfigMap.",
    "D6": "A retraining's policy has known keys, each with a value that it can have.",
    "E1": "A gate is a list of CEL expressions over what its evaluation measures, each true or false.",
    "E2": "A golden set is a list of rows with prompt or messages, expected and a matcher, each with an id of its own.",
    "E3": "Annotation kaito.sh/held-out-share is a number from 0 to 0.9: the share of rows that is not trained on.",
    "E4": "A policy names tasks of lm-eval only where the images of the installation have that package.",
    "N1": "The Workspace can be planned: a number of machines exists that holds it.",
    "P1": "The Workspace of a run is not being deleted.",
    "P2": "The DAG is the Workspace's: kaito_tune for tuning; kaito_serve for inference or a published tuning.",
    "P3": "A Workspace that is given to a run is as the one of its name in the cluster.",
    "P4": "Registry secrets that a Workspace names exist and have the type kubernetes.io/dockerconfigjson.",
    "P7": "What was spent and what the plan is estimated to cost stay within the budget (kaito.sh/budget-usd).",
    "P9": "The API server would take every object that a run creates: quotas, limit ranges, pod security (a dry run).",
    "P10": "The registry of output.image takes a push with imagePushSecret (asked unless [kaito] check_push is false).",
    "P11": "The tag of output.image does not hold the adapter of another Workspace that is there (asked with P10).",
    "P12": "The cluster can make the work volume: the StorageClass of [kaito] storage_class, else a default one.",
    "P13": "The image that kaito.sh/model-image (or the preset) names is there and holds a model's files.",
    "P14": "What kaito.sh/rerun: exact asks to do again is what the Workspace's volume has the record of.",
    "P15": "The hub has the revision that kaito.sh/model-revision names, where it can be asked.",
    "P16": "The claim that kaito.sh/model-volume or kaito.sh/model-cache names is there, and as many nodes as need it "
    "can mount it.",
    "P41": "The Secret that kaito.sh/api-key names exists and has the key API_KEY.",
    "P49": "The Secret that kaito.sh/dataset-secret names exists and has the keys that the dataset's URLs need.",
    "P52": "The Secret that kaito.sh/tracking-secret names exists and has MLFLOW_TRACKING_URI or WANDB_API_KEY.",
    "P61": "The Secret that kaito.sh/signing-secret names exists and has cosign.key.",
    "P5": "ConfigMaps that a Workspace names exist and hold the config file.",
}


def topic(rule: str) -> str:
    """What the rules of this letter are about."""
    return TOPICS[rule[0]]


def in_document(text: str) -> str:
    """A Markdown text with the tables of all rules between its marks, for docs/kaito-api.md."""
    parts = []
    for letter, subject in TOPICS.items():
        rows = (f"| {rule} | {sentence} |" for rule, sentence in SENTENCES.items() if rule[0] == letter)
        parts.append(f"### {letter}: {subject}\n\n| Rule | What is right |\n|---|---|\n" + "\n".join(rows))
    tables = "\n\n".join(parts)
    return re.sub(
        r"(<!-- rules: [^\n]*-->\n).*?(<!-- end of rules -->)",
        lambda marks: f"{marks[1]}\n{tables}\n\n{marks[2]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(in_document(document.read_text()))
