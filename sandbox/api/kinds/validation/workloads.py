"""Deployments, ReplicaSets, StatefulSets, DaemonSets and Jobs: selectors, templates, and what cannot change."""

from __future__ import annotations

from typing import Any

from sandbox.api.errors import FORBIDDEN, INVALID, REQUIRED, FieldError
from sandbox.api.kinds.validation.metadata import labels_faults
from sandbox.api.kinds.validation.pods import pod_spec_faults, supported
from sandbox.api.meta import dig
from sandbox.api.storage.selectors import matches_label_selector

Json = dict[str, Any]
Faults = list[FieldError]

_STATEFUL_SET_RULE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_STATEFUL_SET_MUTABLE = {
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
}


def _template_faults(spec: Json) -> Faults:
    template = spec.get("template") or {}
    faults = labels_faults(dig(template, "metadata", "labels"), "spec.template.labels")
    return faults + pod_spec_faults(template.get("spec") or {}, "spec.template.spec")


def deployment_faults(obj: Json) -> Faults:
    """For every kind that keeps pods running."""
    spec = obj.get("spec") or {}
    faults: Faults = []
    if (spec.get("replicas") or 0) < 0:
        faults.append(
            FieldError("spec.replicas", INVALID, spec["replicas"], "must be greater than or equal to 0")
        )
    selector = spec.get("selector")
    if selector is None:
        faults.append(FieldError("spec.selector", REQUIRED, ""))
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        faults.append(
            FieldError("spec.selector", INVALID, selector, "empty selector is invalid for deployment")
        )
    labels = dig(spec, "template", "metadata", "labels") or {}
    if selector and not matches_label_selector(selector, labels):
        why = "`selector` does not match template `labels`"
        faults.append(FieldError("spec.template.metadata.labels", INVALID, labels, why))
    faults += _template_faults(spec)
    return faults + supported(
        "spec.template.spec.restartPolicy", dig(spec, "template", "spec", "restartPolicy"), ("Always",)
    )


def selector_update_faults(new: Json, old: Json) -> Faults:
    if dig(new, "spec", "selector") == dig(old, "spec", "selector"):
        return []
    return [FieldError("spec.selector", INVALID, dig(new, "spec", "selector"), "field is immutable")]


def stateful_set_update_faults(new: Json, old: Json) -> Faults:
    def fixed(obj: Json) -> Json:
        return {k: v for k, v in (obj.get("spec") or {}).items() if k not in _STATEFUL_SET_MUTABLE}

    return [] if fixed(new) == fixed(old) else [FieldError("spec", FORBIDDEN, None, _STATEFUL_SET_RULE)]


def job_faults(obj: Json) -> Faults:
    spec = obj.get("spec") or {}
    faults = [
        FieldError(f"spec.{name}", INVALID, spec[name], "must be greater than or equal to 0")
        for name in ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds")
        if (spec.get(name) or 0) < 0
    ]
    policy = dig(spec, "template", "spec", "restartPolicy")
    if policy not in ("Never", "OnFailure"):
        detail = 'valid values: "OnFailure", "Never"'
        faults.append(FieldError("spec.template.spec.restartPolicy", REQUIRED, policy, detail))
    return faults + _template_faults(spec)


def job_update_faults(new: Json, old: Json) -> Faults:
    faults = [
        FieldError(f"spec.{name}", INVALID, dig(new, "spec", name), "field is immutable")
        for name in ("selector", "completionMode", "podFailurePolicy")
        if dig(new, "spec", name) != dig(old, "spec", name)
    ]
    if dig(new, "spec", "template") != dig(old, "spec", "template") and not dig(old, "spec", "suspend"):
        faults.append(FieldError("spec.template", INVALID, "", "field is immutable"))
    return faults
