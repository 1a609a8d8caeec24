"""The labels that `resource.labelSelector` asks for.

KAITO accepts matchExpressions and then ignores them (kaito-api.md#known-defects, 11); here a single-value In is
honoured as the label that it means and everything else is refused by a rule. It must never raise.
"""

from __future__ import annotations

from include.workspace.api.models import LabelSelectorRequirement, Workspace
from include.workspace.api.names import RESERVED_LABELS


def as_label(expression: LabelSelectorRequirement) -> tuple[str, str] | None:
    """The one label that an expression means, or None when it does not mean exactly one."""
    if expression.operator == "In" and expression.values and len(expression.values) == 1:
        return expression.key, expression.values[0]
    return None


def asked_labels(ws: Workspace) -> dict[str, str]:
    """All labels of the selector, reserved ones included."""
    selector = ws.resource.label_selector if ws.resource else None
    if selector is None:
        return {}
    expressions = (as_label(expression) for expression in selector.match_expressions or ())
    return {**(selector.match_labels or {}), **dict(label for label in expressions if label)}


def node_labels(ws: Workspace) -> dict[str, str]:
    """The labels that the Workspace's nodes get: the selector's without the reserved ones."""
    return {key: value for key, value in asked_labels(ws).items() if key not in RESERVED_LABELS}
