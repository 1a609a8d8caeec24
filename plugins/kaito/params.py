"""The trigger form, and what a filled-in form (or a conf) asks for.

Flat fields for the common case, one ``workspace`` object for everything else; both end as a Workspace document. The
form's defaults are the quick start's where one value suits many (model, machine, dataset); what names something of the
user's own has none. A field left alone says nothing about a Workspace that exists already.
No I/O here; only the catalogue is read, once per process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow.sdk import Param

from include.contracts.methods import OBJECTIVES, Objective
from include.contracts.purpose import Purpose
from include.workspace.api import names
from kaito.choices import machine_choices, model_choices

QUICK_START_DATASET = (
    "https://huggingface.co/datasets/philschmid/dolly-15k-oai-style/resolve/main/data/"
    "train-00000-of-00001-54e3756291ca09c6.parquet?download=true"
)
DNS_LABEL = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
IDENTITY = ("name", "namespace")

# Rendered by the scheduler, the worker and the triggerer alike: params only, no XCom (see kaito.sensors.base).
WORKSPACE_NAME = "{{ ((params.workspace or {}).get('metadata') or {}).get('name') or params.name or '' }}"
WORKSPACE_NAMESPACE = (
    "{{ ((params.workspace or {}).get('metadata') or {}).get('namespace') or params.namespace or 'default' }}"
)


def _text(default: str | None, title: str, section: str, description: str, **schema: Any) -> Param:
    types = ["null", "string"] if default is None or schema.pop("optional", False) else "string"
    return Param(default, type=types, title=title, section=section, description=description, **schema)


def _identity() -> dict[str, Param]:
    section = "Workspace"
    return {
        "name": _text(
            None,
            "Name",
            section,
            "Name of the Workspace, such as workspace-tuning-phi-3. If the cluster has one of this name, it is run as "
            "it stands there.",
            pattern=DNS_LABEL,
        ),
        "namespace": _text("default", "Namespace", section, "Its namespace.", pattern=DNS_LABEL),
    }


def _model(default_preset: str, default_machine: str, *, tunable: bool) -> dict[str, Param]:
    section, presets, machines = "Model and machine", model_choices(tunable=tunable), machine_choices()
    return {
        "preset": _text(
            default_preset,
            "Preset",
            section,
            "A model of the catalogue (presets/models); name one of the hub, org/model, in the Workspace object.",
            enum=list(presets),
            values_display=presets,
        ),
        "instance_type": _text(
            default_machine,
            "Instance type",
            section,
            "GPU machine type of the cloud.",
            enum=list(machines),
            values_display=machines,
        ),
    }


def _question(description: str) -> Param:
    return _text("What is KAITO?", "Question", "Service", description)


def _last_fields() -> dict[str, Param]:
    return {
        "question": _question(
            "Asked once when the service is ready; its answer is in the log of the task `ask`."
        ),
        "workspace": Param(
            None,
            type=["null", "object"],
            title="Workspace object",
            section="Full control",
            description="A whole Workspace (the YAML as JSON). It wins over every field above; with metadata alone it "
            "names one that is in the cluster.",
        ),
    }


def tuning_params() -> dict[str, Param]:
    """Return the form of ``kaito_tune``."""
    return {
        **_identity(),
        **_model("phi-3-mini-128k-instruct", "Standard_NC6s_v3", tunable=True),
        "method": _text(
            "qlora",
            "Method",
            "Model and machine",
            "LoRA on a 4-bit or a full-precision base.",
            enum=["qlora", "lora"],
        ),
        "objective": _text(
            Objective.SFT.value,
            "Objective",
            "Data",
            "What the rows teach: answers (sft), pairs of a better and a worse one (dpo), or marked answers (kto).",
            enum=list(OBJECTIVES),
        ),
        "config": _text(
            None,
            "Training ConfigMap",
            "Model and machine",
            "ConfigMap with key training_config.yaml; else a preset.",
        ),
        "dataset_url": _text(
            QUICK_START_DATASET,
            "Dataset URL",
            "Data",
            "Parquet, JSON lines or CSV with messages, prompts or text.",
        ),
        "output_image": _text(
            None,
            "Adapter image",
            "Output",
            "Where the adapter is pushed, such as myregistry.azurecr.io/phi-3-adapter:0.0.1.",
        ),
        "push_secret": _text(
            None,
            "Push secret",
            "Output",
            "Name of a kubernetes.io/dockerconfigjson Secret.",
        ),
        "roll_out": Param(
            True,
            type="boolean",
            title="Roll out",
            section="Service",
            description="Serve the tuned model at the end.",
        ),
        **_last_fields(),
    }


def serving_params() -> dict[str, Param]:
    """Return the form of ``kaito_serve``."""
    return {
        **_identity(),
        **_model("phi-3-mini-128k-instruct", "Standard_NC24ads_A100_v4", tunable=False),
        "adapter_image": _text(None, "Adapter image", "Adapter", "Image of a tuned adapter, best by digest."),
        "pull_secret": _text(None, "Pull secret", "Adapter", "Secret for the adapter's registry."),
        **_last_fields(),
    }


def release_params() -> dict[str, Param]:
    """Return the form of ``kaito_release``."""
    return {
        **_identity(),
        "delete": Param(
            False,
            type="boolean",
            title="Delete it",
            section="Workspace",
            description="Delete the Workspace first, if nobody has.",
        ),
        "workspace": _last_fields()["workspace"],
    }


def ask_params() -> dict[str, Param]:
    """Return the form of ``kaito_ask``."""
    last = _last_fields()
    return {
        **_identity(),
        "question": _question("Its answers are in the log of the task `ask`."),
        "workspace": last["workspace"],
    }


def retrain_params() -> dict[str, Param]:
    """Return the form of ``kaito_retrain``."""
    return {
        **_identity(),
        "policy": Param(
            None,
            type=["null", "object"],
            title="Policy",
            section="This retraining",
            description="What is measured, the gate, who approves. Default: the ConfigMap that the Workspace's "
            "annotation kaito.sh/retrain-policy names.",
        ),
        "workspace": _last_fields()["workspace"],
    }


def packaging_params() -> dict[str, Param]:
    """Return the form of ``kaito_package_model``."""
    target, source = "Image", "Files"
    return {
        "model": _text(None, "Model", source, "A preset, or org/model of the hub."),
        "hub_secret": _text(None, "Hub secret", source, "Secret whose key HF_TOKEN opens a gated model."),
        "claim": _text(
            None, "Volume claim", source, "PersistentVolumeClaim with the model's files, in place of the hub."
        ),
        "folder": _text(None, "Folder", source, "Where in that claim they are."),
        "registry": _text(
            None, "Registry", target, "Where repositories are, such as myregistry.azurecr.io/models."
        ),
        "tag": _text(None, "Tag", target, "Default: the first 12 characters of the model's commit."),
        "push_secret": _text(None, "Push secret", target, "Name of a kubernetes.io/dockerconfigjson Secret."),
        "namespace": _text("default", "Namespace", target, "Where the pod runs.", pattern=DNS_LABEL),
        "licence": _text(None, "Licence", target, "Its identifier, where the catalogue does not know it."),
        "private": Param(
            False,
            type="boolean",
            title="The repository is private",
            section=target,
            description="Only those who may have the model can read it there.",
        ),
    }


def janitor_params() -> dict[str, Param]:
    """Return the form of ``kaito_janitor``; what is left empty is as the settings say."""
    return {
        "delete": Param(
            None,
            type=["null", "boolean"],
            title="Delete orphans",
            section="This sweep",
            description="true: delete what nobody needs; false: only report it. Default: [kaito] janitor_delete.",
        ),
        "grace_minutes": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            title="Grace time in minutes",
            section="This sweep",
            description="How long a thing must be there, and be an orphan, before it goes. "
            "Default: [kaito] janitor_grace_minutes, or 15.",
        ),
    }


@dataclass(frozen=True)
class Requested:
    """What a run was asked for.

    :param document: the whole Workspace that is wanted; None when an existing one is only named.
    :param said: False when the document is nothing but the form's defaults.
    """

    name: str
    namespace: str
    document: dict[str, Any] | None
    said: bool

    @property
    def api_version(self) -> str | None:
        return (self.document or {}).get("apiVersion")


def requested(
    params: Mapping[str, Any], conf: Mapping[str, Any], defaults: Mapping[str, Any], purpose: Purpose
) -> Requested:
    """Read a run's params.

    :param params: the form's values with the conf merged in.
    :param conf: what the caller itself sent.
    :param defaults: the form's defaults.
    :param purpose: ``tuning`` or ``serving``.
    """
    given = params.get("workspace")
    if given:
        metadata = given.get("metadata") if isinstance(given.get("metadata"), Mapping) else {}
        name, namespace = str(metadata.get("name") or ""), str(metadata.get("namespace") or "default")
        whole = any(key in given for key in ("resource", "tuning", "inference", "spec"))
        return Requested(name, namespace, dict(given) if whole or not name else None, said=True)
    name, namespace = str(params.get("name") or ""), str(params.get("namespace") or "default")
    if conf and set(conf) <= set(IDENTITY):
        return Requested(name, namespace, None, said=True)
    fields = [key for key in defaults if key not in (*IDENTITY, "workspace", "question")]
    said = any(params.get(key) != defaults[key] for key in fields)
    build = _tuning_document if purpose == Purpose.TUNING else _serving_document
    return Requested(name, namespace, build(params, name, namespace), said)


def _document(params: Mapping[str, Any], name: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": name, "namespace": namespace},
        "resource": {
            "instanceType": params["instance_type"],
            "labelSelector": {"matchLabels": {"app": name}},
        },
    }


def _tuning_document(params: Mapping[str, Any], name: str, namespace: str) -> dict[str, Any]:
    document = _document(params, name, namespace)
    notes = {} if params.get("roll_out", True) else {names.ROLLOUT: "false"}
    objective = params.get("objective") or Objective.SFT.value
    if objective != Objective.SFT:
        notes[names.TUNING_OBJECTIVE] = objective
    if notes:
        document["metadata"]["annotations"] = notes
    document["tuning"] = {
        "preset": {"name": params["preset"]},
        "method": params["method"],
        **({"config": params["config"]} if params.get("config") else {}),
        "input": {"urls": [params["dataset_url"]]},
        "output": _given(image=params["output_image"], imagePushSecret=params["push_secret"]),
    }
    return document


def _given(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}


def _serving_document(params: Mapping[str, Any], name: str, namespace: str) -> dict[str, Any]:
    document = _document(params, name, namespace)
    document["inference"] = {"preset": {"name": params["preset"]}}
    if params.get("adapter_image"):
        source = {"name": "adapter", "image": params["adapter_image"]}
        if params.get("pull_secret"):
            source["imagePullSecrets"] = [params["pull_secret"]]
        document["inference"]["adapters"] = [{"source": source}]
    return document


def differences(wanted: object, live: object, path: str = "") -> list[str]:
    """Return the paths of the fields in ``wanted`` that ``live`` has otherwise; what is not wanted may be there."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return [
            found
            for key, value in wanted.items()
            for found in differences(value, live.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if wanted == live else [path]
