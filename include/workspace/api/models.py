"""The Workspace of kaito.sh/v1alpha1 and v1beta1 as pydantic models: the shape, and nothing of its meaning.

One set of models serves both versions, since they differ by a few fields only (`BETA_ONLY`). A model keeps what the
author wrote: it must never default, canonicalise or drop anything, so that parse -> to_dict gives the same document.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from include.contracts.methods import Objective
from include.workspace.api import names
from include.workspace.api.dialect import (
    API_VERSIONS,
    V1ALPHA1,
    V1BETA1,
    dialect,
    rolls_out,
)

__all__ = ["API_VERSIONS", "V1ALPHA1", "V1BETA1", "Workspace"]

# Schema default of v1alpha1 only (kaito-api.md#defaults); v1beta1 has none.
V1ALPHA1_INSTANCE_TYPE = "Standard_NC24ads_A100_v4"
# Fields that v1alpha1 does not have.
BETA_ONLY = ("resource.partition", "inference.preset.presetOptions.modelAccessSecret")
BETA_ONLY_TUNING = ("tuning.preset.presetOptions.modelAccessSecret",)

# Kubernetes' own types, kept exactly as written; the API server does not look inside them either.
Opaque = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class ApiModel(BaseModel):
    """A strict model in the API's spelling: camelCase only, no unknown fields, no conversions such as "1" to 1."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", strict=True, validate_by_alias=True, frozen=True
    )


class ObjectMeta(ApiModel):
    """Kubernetes' object metadata; what the cluster sets (managedFields ...) is carried along unread."""

    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    resource_version: str | None = None
    self_link: str | None = None
    creation_timestamp: Any = None
    deletion_timestamp: Any = None
    deletion_grace_period_seconds: int | None = None
    finalizers: list[str] | None = None
    owner_references: list[dict[str, Any]] | None = None
    managed_fields: list[dict[str, Any]] | None = None


class LabelSelectorRequirement(ApiModel):
    key: str
    operator: str
    values: list[str] | None = None


class LabelSelector(ApiModel):
    match_labels: dict[str, str] | None = None
    match_expressions: list[LabelSelectorRequirement] | None = None


class Partition(ApiModel):
    """A slice of bring-your-own GPU nodes (v1beta1)."""

    mode: str = Field(description="mig or accelerator")
    profile: str | None = Field(None, description="MIG profile such as 1g.10gb")
    count: int | None = Field(None, description="GPUs of a node to use, in accelerator mode")


class Resource(ApiModel):
    """The machines that the workload needs."""

    count: int | None = Field(None, description="Number of nodes. Tuning uses one.")
    instance_type: str | None = Field(None, description="The cloud's GPU machine type.")
    label_selector: LabelSelector = Field(description="Labels that the nodes get.")
    preferred_nodes: list[str] | None = Field(None, description="Deprecated; not used.")
    partition: Partition | None = None


class PresetOptions(ApiModel):
    image: str | None = None
    image_pull_secrets: list[str] | None = None
    model_access_secret: str | None = Field(
        None, description="Secret whose key HF_TOKEN opens a gated model."
    )


class PresetSpec(ApiModel):
    """A model of the catalogue."""

    name: str = Field(description="Preset name, alias or hub id, in any letter case.")
    access_mode: str | None = Field(None, description="Deprecated: public or private.")
    preset_options: PresetOptions | None = None


class DataSource(ApiModel):
    """Where data comes from: exactly one of urls, image, volumeSource."""

    name: str | None = None
    urls: list[str] | None = None
    volume_source: Opaque | None = None
    image: str | None = None
    image_pull_secrets: list[str] | None = None


class DataDestination(ApiModel):
    """Where the adapter goes: exactly one of image, volumeSource."""

    volume_source: Opaque | None = None
    image: str | None = None
    image_push_secret: str | None = Field(None, description="dockerconfigjson secret; needed with image.")


class AdapterSpec(ApiModel):
    source: DataSource | None = None
    strength: str | None = Field(None, description="Weight of the adapter, a number from 0 to 1 as text.")


class InferenceSpec(ApiModel):
    """A model to serve: exactly one of preset, template."""

    preset: PresetSpec | None = None
    template: Opaque | None = Field(None, description="A pod template, used as it is.")
    config: str | None = Field(None, description="ConfigMap with key inference_config.yaml.")
    adapters: list[AdapterSpec] | None = None


class TuningSpec(ApiModel):
    """A model to tune."""

    preset: PresetSpec | None = None
    method: str | None = Field(None, description="lora or qlora, in any letter case.")
    config: str | None = Field(None, description="ConfigMap with key training_config.yaml.")
    input: DataSource
    output: DataDestination


class Workspace(ApiModel):
    """A model workload: tuning or inference of a preset on GPU machines."""

    api_version: str
    kind: str
    metadata: ObjectMeta
    resource: Resource | None = None
    inference: InferenceSpec | None = None
    tuning: TuningSpec | None = None
    status: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.metadata.name or ""

    @property
    def namespace(self) -> str:
        return self.metadata.namespace or "default"

    @property
    def generation(self) -> int:
        return self.metadata.generation or 1

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations or {}

    @property
    def dialect(self) -> str:
        """The apiVersion that the author wrote, whichever one the cluster was read in."""
        return dialect(self.api_version, self.metadata.annotations, self.metadata.managed_fields)

    @property
    def is_tuning(self) -> bool:
        return self.tuning is not None

    @property
    def rollout(self) -> bool:
        """Whether a finished tuning becomes a service of the Workspace's name (see dialect.py)."""
        return self.is_tuning and rolls_out(self.dialect, self.annotations)

    @property
    def method(self) -> str:
        """The tuning method in lower case; "" when there is none (KAITO admits QLoRA and then fails on it)."""
        return ((self.tuning.method if self.tuning else None) or "").lower()

    @property
    def objective(self) -> str:
        """What a tuning learns from, in lower case: `sft` where the annotation does not say it."""
        return self.annotations.get(names.TUNING_OBJECTIVE, Objective.SFT).strip().lower()

    @property
    def preset(self) -> PresetSpec | None:
        """The preset of whichever of tuning and inference the Workspace has."""
        if self.tuning is not None:
            return self.tuning.preset
        return self.inference.preset if self.inference else None

    @property
    def instance_type(self) -> str:
        """The machine type as written, or v1alpha1's default; "" when there is neither.

        A default is for what is absent: in v1alpha1 too, an empty text means none.
        """
        given = self.resource.instance_type if self.resource else None
        if given is not None:
            return given
        return V1ALPHA1_INSTANCE_TYPE if self.dialect == V1ALPHA1 else ""

    @property
    def node_count(self) -> int:
        count = self.resource.count if self.resource else None
        return 1 if count is None else count

    @property
    def model_pull_secrets(self) -> list[str]:
        """Secrets that open the registry of a model image."""
        options = self.preset.preset_options if self.preset else None
        return list((options and options.image_pull_secrets) or ())

    @property
    def model_access_secret(self) -> str | None:
        options = self.preset.preset_options if self.preset else None
        return options.model_access_secret if options else None

    def to_dict(self) -> dict[str, Any]:
        """KAITO's JSON: exactly the fields that were given, in the API's spelling."""
        return self.model_dump(by_alias=True, exclude_unset=True)
