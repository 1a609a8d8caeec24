"""What the Workspace's schema can say about values and changes, so that the API server itself refuses them.

Rules in CEL stand at the field that they judge, so that the server's error names it; `fieldPath` does where a rule must
stand at the parent (a field that went missing has no place of its own). What one value must be like is in limits.py,
which `check` reads too. A schema sees one object: what needs the catalogue, the cluster or the author's dialect is in
rules/ and runs in the preflight. Nothing here may refuse what those rules allow.
"""

from __future__ import annotations

from typing import Any

from include.workspace.api.limits import BOUNDS, PATTERNS, Pattern
from include.workspace.api.models import V1ALPHA1_INSTANCE_TYPE

Schema = dict[str, Any]
Rule = dict[str, str]

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


#: What a text has to be besides looking right.
_BESIDES = {"inference.adapters[].strength": "double(self) <= 1.0"}  # A6


def _look(path: str, pattern: Pattern) -> Rule:
    """A pattern of the schema would show its regular expression to whoever breaks it; a rule says what is right."""
    text = "self.lowerAscii()" if pattern.any_case else "self"
    regex = pattern.regex.replace("\\", "\\\\")
    besides = f" && {_BESIDES[path]}" if path in _BESIDES else ""
    return _rule(f"{text}.matches('{regex}'){besides}", f"must be {pattern.right}")


# Defaults, which the models leave to the API server.
DEFAULTS: dict[str, Schema] = {
    "resource.count": {"default": 1},
    "tuning.preset.accessMode": {"default": "public"},
    "inference.preset.accessMode": {"default": "public"},
}
ALPHA_DEFAULTS: dict[str, Schema] = {"resource.instanceType": {"default": V1ALPHA1_INSTANCE_TYPE}}
ALPHA_LACKS = {
    "resource.partition",
    "tuning.preset.presetOptions.modelAccessSecret",
    "inference.preset.presetOptions.modelAccessSecret",
}


def root_rules(alpha: bool) -> list[Rule]:
    """The rules of the object as a whole in one version of the API."""
    return ROOT_RULES if alpha else [*ROOT_RULES, *BETA_ROOT_RULES]


def rules(alpha: bool) -> dict[str, list[Rule]]:
    """Rules by place in one version; what a version lacks has no rules there."""
    own = RULES if alpha else RULES | BETA_RULES
    looks = {path: _look(path, pattern) for path, pattern in PATTERNS.items()}
    return own | {path: [look, *own.get(path, ())] for path, look in looks.items()}


def extras(alpha: bool) -> dict[str, Schema]:
    """Defaults and bounds by place in one version."""
    defaults = DEFAULTS | (ALPHA_DEFAULTS if alpha else {})
    return {path: defaults.get(path, {}) | BOUNDS.get(path, {}) for path in (*defaults, *BOUNDS)}
