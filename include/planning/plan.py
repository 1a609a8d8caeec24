"""The plan of one GPU pool: which machine, how many, in which precision, with what memory, at what price.

A plan is a value: it travels between tasks as a small dict and explains itself. It must never be edited after it was
made, and it only describes a valid Workspace (run the rules first: an unknown preset is a KeyError here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from include.catalog import Catalog, Machine, Model, sizing
from include.workspace.models import Workspace
from include.workspace.notices import notices

Purpose = Literal["tuning", "serving"]
Strategy = Literal["exact", "kaito"]

TIGHT = 0.9  # above this share of a GPU a plan warns
TEMPLATE = "template"  # plan.model of a Workspace with a pod template of its own
NODES_MAX = 64


@dataclass(frozen=True)
class Plan:
    """What one pool needs. `memory` is (term, bytes) for one GPU, `gpu_memory_bytes` what that GPU has."""

    purpose: Purpose
    model: str
    model_id: str
    revision: str
    instance_type: str
    node_count: int
    gpus_per_node: int
    dtype: str
    gpu: str = ""
    method: str = ""
    target_modules: tuple[str, ...] = ()
    memory: tuple[tuple[str, int], ...] = ()
    gpu_memory_bytes: int = 0
    weights_bytes: int = 0
    estimate_usd_per_hour: float | None = None
    price_as_of: str | None = None
    warnings: tuple[str, ...] = field(default_factory=tuple)

    @property
    def memory_bytes(self) -> int:
        """The whole estimate for one GPU."""
        return sum(size for _, size in self.memory)

    def to_dict(self) -> dict[str, Any]:
        """JSON for XCom; `from_dict` gives the same plan back."""
        return asdict(self) | {
            "memory": [[term, size] for term, size in self.memory],
            "warnings": list(self.warnings),
            "target_modules": list(self.target_modules),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan of a dict that `to_dict` made."""
        fields = dict(data)
        fields["memory"] = tuple((str(term), int(size)) for term, size in fields.get("memory", ()))
        fields["warnings"] = tuple(fields.get("warnings", ()))
        fields["target_modules"] = tuple(fields.get("target_modules", ()))
        return cls(**fields)

    def sentences(self) -> list[str]:
        """The plan in words, warnings last."""
        nodes = (
            f"{self.node_count} x {self.instance_type}"
            if self.instance_type
            else f"{self.node_count} node(s)"
        )
        work = f"tune {self.model} with {self.method}" if self.purpose == "tuning" else f"serve {self.model}"
        gpus = f"{self.gpus_per_node} {self.gpu or 'GPU'} each"
        found = [f"The plan is to {work} on {nodes} ({gpus}) in {self.dtype}."]
        if self.memory:
            top = sorted(self.memory, key=lambda term: -term[1])[:3]
            parts = ", ".join(f"{term} {sizing.gib(size)}" for term, size in top)
            found.append(
                f"It needs about {sizing.gib(self.memory_bytes)} of the {sizing.gib(self.gpu_memory_bytes)} of each "
                f"GPU, most of it for {parts}."
            )
        if self.estimate_usd_per_hour is not None:
            found.append(
                f"The machines cost about {self.estimate_usd_per_hour:.2f} USD an hour "
                f"(list price of {self.price_as_of})."
            )
        else:
            found.append("The price of this machine type is not known.")
        return found + [f"Warning: {warning}" for warning in self.warnings]


def plan(ws: Workspace, catalog: Catalog, training: Mapping[str, Any] | None = None) -> Plan:
    """The plan of the Workspace's first pool: tuning for a tuning, serving otherwise.

    `training` is the parsed training_config.yaml when the user brings one; it decides the memory estimate.
    Raises KeyError (with a suggestion) for an unknown preset or machine, ValueError for a preset that is not tunable.
    """
    if not ws.is_tuning:
        return plan_serving(ws, catalog)
    model, machine = catalog.model(ws.preset.name if ws.preset else ""), catalog.machine(ws.instance_type)
    shape = sizing.TrainingShape.from_config(training or {})
    memory = sizing.tuning_memory(model, ws.method, shape)
    dtype, precision = _dtype(model, machine)
    warnings = [*precision, *_room(memory, machine), *notices(ws, catalog), *_spare_gpus(machine)]
    return Plan(
        purpose="tuning",
        method=ws.method,
        target_modules=model.tuning.target_modules,
        node_count=1,
        dtype=dtype,
        memory=tuple(memory),
        warnings=tuple(warnings),
        **_common(model, machine, 1),
    )


def plan_serving(
    ws: Workspace, catalog: Catalog, *, strategy: Strategy = "exact", context: int = 2048
) -> Plan:
    """The plan of the serving pool: of an inference Workspace, or of a finished tuning that is rolled out.

    Strategy "exact" takes the fewest nodes whose GPUs hold weights, KV cache and overhead; "kaito" reproduces the node
    count of KAITO v0.12's estimator. `context` is in tokens. Raises KeyError for unknown names and
    sizing.DoesNotFit when no number of nodes would do.
    """
    machine = catalog.machine(ws.instance_type)
    if ws.preset is None:
        return _plan_template(ws, catalog, machine)
    model = catalog.model(ws.preset.name)
    nodes = (
        sizing.serving_nodes(model, machine, context)
        if strategy == "kaito"
        else _fewest(model, machine, context)
    )
    memory = sizing.serving_memory(model, machine, context, nodes)
    dtype, precision = _dtype(model, machine)
    warnings = [*precision, *_room(memory, machine), *notices(ws, catalog)]
    return Plan(
        purpose="serving",
        node_count=nodes,
        dtype=dtype,
        memory=tuple(memory),
        warnings=tuple(warnings),
        **_common(model, machine, nodes),
    )


def _common(model: Model, machine: Machine, nodes: int) -> dict[str, Any]:
    price = None if machine.usd_per_hour is None else round(machine.usd_per_hour * nodes, 4)
    return {
        "model": model.name,
        "model_id": model.hf_id,
        "revision": model.revision,
        "weights_bytes": model.weights_bytes,
        "instance_type": machine.name,
        "gpus_per_node": machine.gpus,
        "gpu": machine.gpu,
        "gpu_memory_bytes": machine.gpu_memory_bytes,
        "estimate_usd_per_hour": price,
        "price_as_of": machine.price_as_of,
    }


def _plan_template(ws: Workspace, catalog: Catalog, machine: Machine) -> Plan:
    """A pod template says itself what it runs; only the machines are ours."""
    price = None if machine.usd_per_hour is None else round(machine.usd_per_hour * ws.node_count, 4)
    return Plan(
        purpose="serving",
        model=TEMPLATE,
        model_id="",
        revision="",
        instance_type=machine.name,
        node_count=ws.node_count,
        gpus_per_node=machine.gpus,
        gpu=machine.gpu,
        dtype="auto",
        gpu_memory_bytes=machine.gpu_memory_bytes,
        estimate_usd_per_hour=price,
        price_as_of=machine.price_as_of,
        warnings=tuple(notices(ws, catalog)),
    )


def _fewest(model: Model, machine: Machine, context: int) -> int:
    for nodes in range(1, NODES_MAX + 1):
        if sizing.total(sizing.serving_memory(model, machine, context, nodes)) <= machine.gpu_memory_bytes:
            return nodes
    raise sizing.DoesNotFit(f"{model.name} does not fit {NODES_MAX} machines of type {machine.name}")


def _dtype(model: Model, machine: Machine) -> tuple[str, list[str]]:
    """The precision of compute, and a warning where the GPU decides it."""
    if model.dtype != "bfloat16" or machine.bf16:
        return model.dtype, []
    warning = (
        f"{machine.gpu} has no bfloat16 (compute capability {machine.compute_capability}, 8.0 is needed), "
        f"so float16 is used."
    )
    return "float16", [warning]


def _room(memory: Sequence[tuple[str, int]], machine: Machine) -> list[str]:
    needed = sum(size for _, size in memory)
    if needed <= TIGHT * machine.gpu_memory_bytes:
        return []
    share = needed / machine.gpu_memory_bytes
    return [
        f"the estimate takes {share:.0%} of one {machine.gpu}; shorter sequences or a bigger GPU are safer."
    ]


def _spare_gpus(machine: Machine) -> list[str]:
    if machine.gpus == 1:
        return []
    return [f"{machine.name} has {machine.gpus} GPUs, all of them reserved for the one tuning pod."]
