"""Which adapter lies on a Workspace's work volume, so that a finished one is pushed again instead of trained again.

The record stands on the volume's PersistentVolumeClaim: it goes with the volume, and no lost database makes it untrue.
A training takes the record for itself before its pod may write, and only that training can finish it: whatever lies
there meanwhile is nobody's adapter. So a record never promises an adapter that is not there as it was asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from include.workspace.api import names

#: What is kept of the results of the dataset step and of the training: what the image says of its origin.
DATASET_FACTS = ("digest", "rows", "characters")
TUNING_FACTS = (
    *("config_sha256", "steps", "loss_first", "loss_last", "device", "adapter"),
    *("objective", "reward_margin", "reward_accuracy"),
)


class State(StrEnum):
    """How far the adapter is."""

    TRAINING = "training"
    #: Finished, and its run has not reached its goal (or not said so).
    TRAINED = "trained"
    #: Its run has succeeded: asking for a new run means asking for a new training.
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class KeptAdapter:
    """What lies on the volume.

    :param recipe: the digest of all that the training depends on, see ``recipe``.
    :param run: the run that makes or made it, as a label value.
    :param rerun: the request (kaito.sh/rerun) that was last answered with it.
    """

    recipe: str
    run: str
    state: State
    rerun: str = ""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    tuning: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def begun(cls, recipe: str, run: str, rerun: str, dataset: Mapping[str, Any]) -> KeptAdapter:
        """The record of a training that is about to write."""
        return cls(recipe, run, State.TRAINING, rerun, _some(dataset, DATASET_FACTS))

    @classmethod
    def of(cls, claim: Mapping[str, Any] | None, uid: str) -> KeptAdapter | None:
        """What a Workspace's claim says; None without a record, and for a claim that is another's or going."""
        metadata = (claim or {}).get("metadata") or {}
        owners = {owner.get("uid") for owner in metadata.get("ownerReferences") or ()}
        if uid not in owners or metadata.get("deletionTimestamp"):
            return None
        try:
            parsed = json.loads((metadata.get("annotations") or {}).get(names.ADAPTER) or "")
            return cls(**{**parsed, "state": State(parsed["state"])})
        except (ValueError, TypeError, KeyError):
            return None

    def finished(self, run: str, tuning: Mapping[str, Any]) -> KeptAdapter | None:
        """The record after a run's training; None when it is not this run that has the volume."""
        if (self.run, self.state) != (run, State.TRAINING):
            return self if self.run == run else None
        return replace(self, state=State.TRAINED, tuning=_some(tuning, TUNING_FACTS))

    def delivered(self, maker: str, rerun: str) -> KeptAdapter | None:
        """The record after a run has succeeded with the adapter that `maker` made; None when another lies there."""
        if self.run != maker or self.state is State.TRAINING:
            return None
        return replace(self, state=State.DELIVERED, rerun=rerun)

    def serves_for(self, recipe: str, rerun: str) -> bool:
        """Whether a run that wants this recipe need not train.

        After a success, a new value of the request asks for a new training; after a failure, for what was not reached.
        """
        if self.recipe != recipe or self.state is State.TRAINING:
            return False
        return self.state is State.TRAINED or self.rerun == rerun

    def annotation(self) -> dict[str, str]:
        """The record as an annotation of the claim."""
        return {names.ADAPTER: json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))}


def recipe(document: Mapping[str, Any], facts: Mapping[str, Any], config: str) -> str:
    """The digest of all that a training depends on and that can be told beforehand.

    :param document: the Workspace as it stands in the cluster, with whole URLs; where it goes (``output``) and what it
        is made on (``resource``) do not count.
    :param facts: of the plan: the base model, its revision, the method, the target modules.
    :param config: the text of the training config.
    """
    tuning = document.get("tuning") or {}
    source = {key: value for key, value in (tuning.get("input") or {}).items() if key in SOURCES}
    notes = (document.get("metadata") or {}).get("annotations") or {}
    parts = {
        "source": source,
        "preset": (tuning.get("preset") or {}).get("name"),
        "facts": dict(facts),
        "config": config,
        "local": notes.get(names.USE_LOCAL_WEIGHTS),
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()


#: The fields of ``tuning.input`` that say what is learnt from.
SOURCES = ("urls", "image", "volumeSource")


def rerun_of(document: Mapping[str, Any]) -> str:
    """The request for a new run that a Workspace carries, "" for none."""
    return str(((document.get("metadata") or {}).get("annotations") or {}).get(names.RERUN) or "")


def not_again(known: KeptAdapter | None, wanted: str, rerun: str) -> tuple[str, str]:
    """Why the training on the volume cannot be done again exactly, and what to do; empty where it can.

    :param known: what lies on the volume.
    :param wanted: the recipe of the training that is asked for, by the request `rerun`.
    """
    if known is None or (known.state is State.TRAINING and known.rerun != rerun):
        return "there is no finished training of this Workspace on its volume", "train first, without exact"
    if known.recipe != wanted:
        told = f"what run {known.run} trained is not what the Workspace asks for today"
        return told, "its source, preset, method, config or annotations have changed: put them back"
    return "", ""


def _some(facts: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    return {key: facts[key] for key in wanted if facts.get(key) is not None}
