"""Rules about the machines: labels, count, type, and whether the model fits (kaito-api.md#rules, R and T)."""

from __future__ import annotations

from collections.abc import Iterator

from include.catalog import sizing
from include.contracts.methods import METHODS
from include.contracts.plural import plural
from include.contracts.purpose import Purpose
from include.workspace.api import names
from include.workspace.api.selector import as_label, asked_labels, node_labels
from include.workspace.validation.faults import Fault, did_you_mean
from include.workspace.validation.identity import is_label_key, is_label_value
from include.workspace.validation.rules.context import Context, Rule

#: The machines of one AKS agent pool.
MOST_NODES = 1000
#: Domains of labels that kubelets, clouds and Karpenter keep to themselves (Karpenter's RestrictedLabelDomains, AKS's
#: reserved prefix), and those below them that anybody may use.
_DOMAINS = ("kubernetes.io", "k8s.io", "karpenter.sh", "kubernetes.azure.com")
_OPEN_DOMAINS = ("node.kubernetes.io", "node-restriction.kubernetes.io", "kops.k8s.io")
_TYPE_LABEL = "node.kubernetes.io/instance-type"
_SAID_BY_CLOUDS = frozenset({"agentpool", _TYPE_LABEL})
_SAID_OF_EVERY_MACHINE = {
    "kubernetes.io/os": "linux",
    "kubernetes.io/arch": "amd64",
    "kubernetes.azure.com/mode": "user",
}


def selector_means_labels(context: Context) -> Iterator[Fault]:
    """R3: an expression is honoured when it means one label, and refused otherwise."""
    selector = context.ws.resource.label_selector if context.ws.resource else None
    for index, expression in enumerate((selector and selector.match_expressions) or ()):
        if as_label(expression) is None:
            path = f"resource.labelSelector.matchExpressions[{index}]"
            shown = f"{expression.key} {expression.operator} {expression.values or []}"
            hint = "use matchLabels, or operator In with exactly one value"
            yield Fault(path, shown, "R3", "new nodes can only get a label with one value", hint)


def selector_leaves_a_label(context: Context) -> Iterator[Fault]:
    """R5."""
    asked = asked_labels(context.ws)
    if asked and not node_labels(context.ws):
        hint = "add a label of your own, such as app: my-model"
        path = "resource.labelSelector"
        yield Fault(path, sorted(asked), "R5", "holds nothing but labels that KAITO sets itself", hint)


def labels_are_labels(context: Context) -> Iterator[Fault]:
    """F6: the API server does not look into a selector, and the NodeClaim would be refused later."""
    for key, value in asked_labels(context.ws).items():
        path = f"resource.labelSelector.matchLabels[{key}]"
        if not is_label_key(key):
            yield Fault(path, None, "F6", "is not a label key", "write name or domain/name")
        if not is_label_value(value):
            hint = "use at most 63 letters, digits, '-', '_' and '.'"
            yield Fault(path, value, "F6", "is not a label value", hint)


def labels_can_be_given(context: Context) -> Iterator[Fault]:
    """F20: what the cluster or its cloud says of a machine nobody else can; AKS and Karpenter refuse such a pool."""
    if context.policy.byo:
        return
    own = {**_SAID_OF_EVERY_MACHINE, _TYPE_LABEL: context.ws.instance_type}
    for key, value in node_labels(context.ws).items():
        domain = key.rpartition("/")[0]
        kept = domain not in _OPEN_DOMAINS and any(f".{domain}".endswith(f".{d}") for d in _DOMAINS)
        if (kept or key in _SAID_BY_CLOUDS) and own.get(key) != value:
            path = f"resource.labelSelector.matchLabels[{key}]"
            hint = "use a label of your own, such as app: my-model"
            yield Fault(
                path, value, "F20", "a new node cannot be given this label: its cluster sets it", hint
            )


def count_is_possible(context: Context) -> Iterator[Fault]:
    """T1, F7."""
    count = context.ws.node_count
    if count < 1:
        yield Fault("resource.count", count, "F7", "must be at least 1")
    elif count > MOST_NODES and not context.ws.is_tuning:
        yield Fault(
            "resource.count", count, "F7", f"must be at most {MOST_NODES}, what a pool of machines can have"
        )
    elif count > 1 and context.ws.is_tuning:
        yield Fault("resource.count", count, "T1", "tuning runs on a single node", "remove it or set it to 1")


def machine_is_known(context: Context) -> Iterator[Fault]:
    """R13, and F8 for machines that have no NVIDIA GPU. A pod template takes any size that KAITO admits."""
    given = context.ws.instance_type
    if context.policy.byo or not given:
        return
    if context.machine is None:
        hint = did_you_mean(given, context.known.machines)
        if hint.startswith("known here"):
            some = sorted(n for n in context.known.machines if n.startswith("Standard_"))[:3]
            hint = f"known are {len(context.catalog.machines)} types, such as {', '.join(some)}"
        yield Fault("resource.instanceType", given, "R13", "is not a known GPU machine type", hint)
    elif not context.machine.nvidia and not _has_template(context):
        message = f"has no NVIDIA GPU but {context.machine.gpu}, and the workloads need CUDA"
        yield Fault("resource.instanceType", given, "F8", message, "choose a machine with NVIDIA GPUs")


def _has_template(context: Context) -> bool:
    inference = context.ws.inference
    return inference is not None and inference.template is not None


def tuning_fits(context: Context) -> Iterator[Fault]:
    """F9: does the preset fit the GPU in this method? KAITO checks nothing here (runtime 4.1)."""
    ws, model, machine = context.ws, context.model, context.machine
    if ws.tuning is None or model is None or machine is None or not machine.nvidia:
        return
    if not model.tuning.supported or ws.method not in METHODS:
        return
    # A config of the user's own may choose shorter sequences: then only what no config can avoid counts.
    training = (
        sizing.TrainingShape.least(ws.objective)
        if ws.tuning.config
        else sizing.TrainingShape.modest(ws.objective)
    )
    if too_old := sizing.kernels_missing(ws.method, machine):
        yield Fault("resource.instanceType", ws.instance_type, "F9", too_old, _hint(context, training))
    if names.BYPASS_RESOURCE_CHECKS in ws.annotations:
        return
    placed = sizing.placed(model, ws.method, training, machine)
    needed = sizing.total(sizing.tuning_memory(model, ws.method, placed))
    if needed > machine.gpu_memory_bytes:
        over = f", sharded over {machine.gpus} GPUs," if placed.sharded else ""
        message = (
            f"{ws.method} tuning of {model.name}{over} needs about {sizing.gib(needed)} on a GPU, but one "
            f"{machine.gpu} has {sizing.gib(machine.gpu_memory_bytes)}"
        )
        yield Fault("resource.instanceType", ws.instance_type, "F9", message, _hint(context, training))


def serving_fits(context: Context) -> Iterator[Fault]:
    """R15, R16: the model must fit the machine; holds for a tuning that is rolled out too.

    The runtime vllm spreads a model over as many machines as it takes, the runtime transformers runs on one.
    """
    ws, model, machine = context.ws, context.model, context.machine
    if model is None or machine is None or not machine.nvidia or (ws.is_tuning and not ws.rollout):
        return
    if names.BYPASS_RESOURCE_CHECKS in ws.annotations or sizing.single_node_fits(model, machine):
        return
    needed = sizing.total(sizing.serving_memory(model, machine))
    message = (
        f"serving {model.name} needs about {sizing.gib(needed)} on each of "
        f"{plural(machine.gpus, 'GPU')} of one node, but one {machine.gpu} has {sizing.room(machine)}"
    )
    if context.runtime == "vllm":
        try:
            sizing.group_nodes(model, machine)
            return
        except sizing.DoesNotFit as error:
            message = f"{message}; {error}"
    # R15 when not even all nodes together hold the weights, else R16: they would have to be spread over several nodes.
    together = max(ws.node_count, 1) * machine.gpus * machine.gpu_memory_bytes
    rule = "R15" if model.weights_bytes > together else "R16"
    yield Fault("resource.instanceType", ws.instance_type, rule, message, _hint(context))


def _hint(context: Context, training: sizing.TrainingShape | None = None) -> str:
    """Names the cheapest machines of the same cloud that would do, for serving when no training settings are given."""
    model, current = context.model, context.machine
    if model is None or current is None:
        return ""
    purpose = Purpose.TUNING if training else Purpose.SERVING
    choices = sizing.recommend(
        model, purpose, context.ws.method, context.catalog, cloud=current.cloud, shape=training
    )
    return sizing.would_do(choices)


RULES: tuple[Rule, ...] = (
    selector_means_labels,
    selector_leaves_a_label,
    labels_are_labels,
    labels_can_be_given,
    count_is_possible,
    machine_is_known,
    tuning_fits,
    serving_fits,
)
