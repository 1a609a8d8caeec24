"""What the Workspace's schema can say about values and changes, so that the API server itself refuses them.

Rules in CEL stand at the field that they judge, so that the server's error names it; `fieldPath` does where a rule must
stand at the parent (a field that went missing has no place of its own). Everything has a limit of length, because the
API server refuses rules whose cost it cannot bound. A schema sees one object: what needs the catalogue, the cluster or
the author's dialect is in rules/ and runs in the preflight. Nothing here may refuse what those rules allow.
"""

from __future__ import annotations

from typing import Any

from include.contracts.dataset_urls import SPELLINGS
from include.workspace.api.models import V1ALPHA1_INSTANCE_TYPE

Schema = dict[str, Any]
Rule = dict[str, str]

METHOD_PATTERN = "^([lL][oO][rR][aA]|[qQ][lL][oO][rR][aA])$"
# As upstream's schema, it takes the quick start as printed: what is to be filled in there is said by the condition.
PUSH_CREDENTIAL = "^$|^[A-Z][A-Z0-9_]*_HERE$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
OBJECT_NAME = "^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"  # a Secret or ConfigMap; empty counts as not given
# In any letter case, without (?i), which JSON Schema's own regular expressions do not have.
DATA_URL = (
    f"^({'|'.join(''.join(f'[{c}{c.upper()}]' if c.isalpha() else c for c in one) for one in SPELLINGS)})://"
)
NUMBER = r"^[+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$"
NO_SPACES = r"^[^\s]*$"
NAME_LENGTH, IMAGE_LENGTH, URL_LENGTH = 253, 512, 4096
FIXED = "cannot be changed; make a new Workspace"


def _rule(rule: str, message: str, field: str = "", reason: str = "") -> Rule:
    made = {"rule": rule, "message": message}
    return made | ({"fieldPath": f".{field}"} if field else {}) | ({"reason": reason} if reason else {})


def _required(path: str, field: str) -> Rule:
    return _rule(f"has(self.{field})", f"{path}.{field} is required", field, "FieldValueRequired")


def _stays_present(path: str, field: str) -> Rule:
    """The field is there on both sides or on neither; the field's own rule compares the values."""
    return _rule(f"has(self.{field}) == has(oldSelf.{field})", f"{path}.{field} {FIXED}", field)


def _same_text(path: str, field: str) -> Rule:
    """The field has the same text on both sides, where absent and empty are the same."""
    now, before = (f"(has({side}.{field}) ? {side}.{field} : '')" for side in ("self", "oldSelf"))
    return _rule(f"{now} == {before}", f"{path}.{field} {FIXED}", field)


def _same_collection(path: str, field: str) -> Rule:
    """The same map or list on both sides, where absent and empty are the same."""
    now, before = (f"(has({side}.{field}) ? size({side}.{field}) : 0)" for side in ("self", "oldSelf"))
    rule = f"{now} == {before} && ({now} == 0 || self.{field} == oldSelf.{field})"
    return _rule(rule, f"{path}.{field} {FIXED}", field)


def _one_source(path: str) -> Rule:
    given = (
        "[has(self.urls) && size(self.urls) > 0, has(self.image) && self.image != '', has(self.volumeSource)]"
    )
    return _rule(
        f"{given}.filter(x, x).size() == 1", f"{path} needs exactly one of urls, image and volumeSource"
    )


ROOT_RULES = [
    _rule(
        "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be a DNS label: at most 63 lower-case letters, digits and '-'",
    ),
    _rule("has(self.inference) != has(self.tuning)", "exactly one of inference and tuning is needed"),
    _rule(
        "has(self.tuning) == has(oldSelf.tuning) && has(self.inference) == has(oldSelf.inference)",
        "a Workspace cannot change between inference and tuning; make a new one",
    ),
    _rule(
        "!has(self.tuning) || !has(self.resource) || !has(self.resource.count) || self.resource.count == 1",
        "resource.count: tuning runs on a single node",
    ),
]
BETA_ROOT_RULES = [
    _rule(
        "!has(self.tuning) || !has(self.resource) || !has(self.resource.partition)",
        "resource.partition: a tuning needs whole GPUs",
    )
]


def _preset_rules(path: str) -> dict[str, list[Rule]]:
    """A preset is immutable, all of it; letter case of its name does not count (X8, X14)."""
    name = "self.lowerAscii() == oldSelf.lowerAscii()"
    return {
        f"{path}.preset": [_stays_present(f"{path}.preset", "presetOptions")],
        f"{path}.preset.name": [_rule(name, f"{path}.preset.name {FIXED}")],
        f"{path}.preset.accessMode": [_rule("self == oldSelf", f"{path}.preset.accessMode {FIXED}")],
        f"{path}.preset.presetOptions": [_rule("self == oldSelf", f"{path}.preset.presetOptions {FIXED}")],
    }


# Rules by the place of the schema that they stand at, with their id in kaito-api.md#rules.
RULES: dict[str, list[Rule]] = {
    "resource.count": [_rule("self == oldSelf", f"resource.count {FIXED}")],  # X2
    "resource.instanceType": [  # X4, X5, X6: clearing it is for clusters where nodes are BYO (bring your own)
        _rule(
            "self == '' || oldSelf == '' || self.lowerAscii() == oldSelf.lowerAscii()",
            f"resource.instanceType {FIXED}",
        )
    ],
    "resource.labelSelector": [  # X7
        _same_collection("resource.labelSelector", "matchLabels"),
        _same_collection("resource.labelSelector", "matchExpressions"),
    ],
    "resource.labelSelector.matchExpressions[]": [  # R3
        _rule(
            "self.operator == 'In' && has(self.values) && size(self.values) == 1",
            "only operator In with exactly one value can be given to new nodes as a label",
        )
    ],
    "inference": [  # I1, I2, X8, X9
        _rule("has(self.preset) != has(self.template)", "inference needs exactly one of preset and template"),
        _stays_present("inference", "preset"),
        _stays_present("inference", "template"),
    ],
    **_preset_rules("inference"),
    "inference.adapters": [  # I11
        _rule(
            "self.all(a, !has(a.source) || !has(a.source.name) || self.exists_one(b, has(b.source) && "
            "has(b.source.name) && b.source.name == a.source.name))",
            "inference.adapters: every source.name may be used once",
        )
    ],
    "inference.adapters[]": [_required("inference.adapters", "source")],  # A1
    "inference.adapters[].source": [  # A2 to A5
        _required("inference.adapters.source", "name"),
        _rule("!has(self.urls) || size(self.urls) == 0", "adapters cannot come from URLs", "urls"),
        _rule(
            "(has(self.image) && self.image != '') != has(self.volumeSource)",
            "an adapter's source needs exactly one of image and volumeSource",
        ),
    ],
    "inference.adapters[].strength": [  # A6
        _rule("double(self) <= 1.0", "strength must be a number from 0 to 1 as text")
    ],
    "tuning": [  # U11, U1, X14
        _required("tuning", "preset"),
        _required("tuning", "method"),
    ],
    "tuning.method": [_rule("self.lowerAscii() == oldSelf.lowerAscii()", f"tuning.method {FIXED}")],  # X14
    **_preset_rules("tuning"),
    "tuning.input": [_one_source("tuning.input"), _same_text("tuning.input", "name")],  # U5, X12
    "tuning.output": [  # U8, U10
        _rule(
            "(has(self.image) && self.image != '') != has(self.volumeSource)",
            "tuning.output needs exactly one of image and volumeSource",
        ),
        _rule(
            "!has(self.image) || self.image == '' || (has(self.imagePushSecret) && self.imagePushSecret != '')",
            "tuning.output.imagePushSecret is required with tuning.output.image",
            "imagePushSecret",
            "FieldValueRequired",
        ),
    ],
}
BETA_RULES: dict[str, list[Rule]] = {
    "resource": [_stays_present("resource", "partition")],  # X3
    "resource.partition": [  # X3, R6, R8
        _rule("self == oldSelf", f"resource.partition {FIXED}"),
        _rule("self.mode != 'mig' || !has(self.count)", "count belongs to mode accelerator", "count"),
        _rule(
            "self.mode != 'accelerator' || has(self.count)",
            "mode accelerator needs count",
            "count",
            "FieldValueRequired",
        ),
        _rule("self.mode != 'accelerator' || !has(self.profile)", "profile belongs to mode mig", "profile"),
    ],
}


def _source_extras(path: str) -> dict[str, Schema]:
    return {
        f"{path}.name": {"maxLength": NAME_LENGTH},
        f"{path}.urls": {"maxItems": 64},
        f"{path}.urls[]": {"pattern": DATA_URL, "maxLength": URL_LENGTH},
        f"{path}.image": {"pattern": NO_SPACES, "maxLength": IMAGE_LENGTH},
        f"{path}.imagePullSecrets": {"maxItems": 16},
        f"{path}.imagePullSecrets[]": {"pattern": OBJECT_NAME, "maxLength": NAME_LENGTH},
    }


def _preset_extras(path: str) -> dict[str, Schema]:
    return {
        f"{path}.name": {"minLength": 1, "maxLength": NAME_LENGTH},
        f"{path}.accessMode": {"default": "public", "enum": ["public", "private"]},
        f"{path}.presetOptions.image": {"pattern": NO_SPACES, "maxLength": IMAGE_LENGTH},
        f"{path}.presetOptions.imagePullSecrets": {"maxItems": 16},
        f"{path}.presetOptions.imagePullSecrets[]": {"pattern": OBJECT_NAME, "maxLength": NAME_LENGTH},
        f"{path}.presetOptions.modelAccessSecret": {"pattern": OBJECT_NAME, "maxLength": NAME_LENGTH},
    }


# Bounds and defaults that the models leave to the API server.
EXTRAS: dict[str, Schema] = {
    "resource.count": {"default": 1, "minimum": 1},
    "resource.instanceType": {"maxLength": 128},
    "resource.preferredNodes": {"maxItems": 1000},
    "resource.labelSelector.matchLabels": {"maxProperties": 64},
    "resource.labelSelector.matchLabels{}": {"maxLength": 63},
    "resource.labelSelector.matchExpressions": {"maxItems": 64},
    "resource.labelSelector.matchExpressions[].key": {"maxLength": 317},
    "resource.labelSelector.matchExpressions[].operator": {"maxLength": 16},
    "resource.labelSelector.matchExpressions[].values": {"maxItems": 64},
    "resource.labelSelector.matchExpressions[].values[]": {"maxLength": 63},
    "inference.adapters": {"maxItems": 10},
    "inference.adapters[].strength": {"pattern": NUMBER, "maxLength": 32},
    "inference.config": {"pattern": OBJECT_NAME, "maxLength": NAME_LENGTH},
    "tuning.config": {"pattern": OBJECT_NAME, "maxLength": NAME_LENGTH},
    "tuning.method": {"pattern": METHOD_PATTERN, "maxLength": 16},
    "tuning.output.image": {"pattern": NO_SPACES, "maxLength": IMAGE_LENGTH},
    "tuning.output.imagePushSecret": {"pattern": PUSH_CREDENTIAL, "maxLength": NAME_LENGTH},
    **_source_extras("tuning.input"),
    **_source_extras("inference.adapters[].source"),
    **_preset_extras("tuning.preset"),
    **_preset_extras("inference.preset"),
}
ALPHA_EXTRAS: dict[str, Schema] = {
    "resource.instanceType": {"maxLength": 128, "default": V1ALPHA1_INSTANCE_TYPE}
}
ALPHA_LACKS = {
    "resource.partition",
    "tuning.preset.presetOptions.modelAccessSecret",
    "inference.preset.presetOptions.modelAccessSecret",
}
BETA_EXTRAS: dict[str, Schema] = {
    "resource.partition.mode": {"enum": ["mig", "accelerator"]},
    "resource.partition.profile": {"maxLength": 64},
    "resource.partition.count": {"minimum": 1},
}


def root_rules(alpha: bool) -> list[Rule]:
    """The rules of the object as a whole in one version of the API."""
    return ROOT_RULES if alpha else [*ROOT_RULES, *BETA_ROOT_RULES]


def rules(alpha: bool) -> dict[str, list[Rule]]:
    """Rules by place in one version; what a version lacks has no rules there."""
    return RULES if alpha else RULES | BETA_RULES


def extras(alpha: bool) -> dict[str, Schema]:
    """Bounds, patterns and defaults by place in one version."""
    return EXTRAS | (ALPHA_EXTRAS if alpha else BETA_EXTRAS)
