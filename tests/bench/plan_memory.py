"""The plan's memory terms against what the project's own trainer really keeps, term by term.

    python -m tests.bench.plan_memory [--case NAME] [--tokens 512]

Each case is a random model of one architecture's shape, made small, quantised and given an adapter by the trainer's
own code (include/workloads/tuning), then trained for two steps in a process of its own. What a CPU shares with a GPU
is counted exactly: storages of weights, gradients and optimizer state; what autograd saves (saved_tensors_hooks); and
the most that lived at once, by watching every tensor an operator makes, which is what torch.cuda.max_memory_allocated
counts. The steps run as on a GPU: under 16-bit autocast, with TRL's own loss. With a GPU the last row is the GPU's
own peak, CUDA context and fragmentation aside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from include.catalog import tuning_memory
from include.contracts.methods import Objective
from tests.bench.small_models import CASES, Case, build_trainer, make_model

ROOT = Path(__file__).resolve().parents[2]
GUARD_SECONDS = 600


def estimate(case: Case, weights_bytes: int) -> dict[str, int]:
    """The plan's terms for the case, named as `measure` names what it found."""
    model, training = case.model(weights_bytes), case.training()
    terms = dict(tuning_memory.tuning_memory(model, case.method, training))
    trained = tuning_memory.trained_parameters(model, training)
    found = {key: terms[key] for key in ("base weights", "adapter", "gradients", "optimizer", "activations")}
    if case.checkpointing:
        saved = case.count * training.tokens * case.hidden * 2
        found["kept block inputs"] = saved
        del found["activations"]
        found["adapter"] = trained * 4  # autocast's copies are dropped after each block
    of_gpu = ("CUDA context", "fragmentation")
    found["peak of a step"] = sum(size for term, size in terms.items() if term not in of_gpu)
    if case.objective != Objective.SFT:
        return found
    found["all logits kept"] = training.tokens * case.vocab * tuning_memory.LOGIT_BYTES
    apart = (*of_gpu, "optimizer", "logits and loss")
    found["peak of the blocks"] = sum(size for term, size in terms.items() if term not in apart)
    return found


class Living:
    """Bytes of all tensors alive, and the most there were, from every operator's results."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._seen: dict[int, int] = {}

    def add(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen or tensor.device.type == "meta":
            return
        self._seen[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._seen.pop(key, 0)

    @contextmanager
    def watch(self) -> Iterator[None]:
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_iter

        living = self

        class Watch(TorchDispatchMode):  # type: ignore[misc]
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                for item in tree_iter(result):
                    if isinstance(item, torch.Tensor):
                        living.add(item)
                return result

        with Watch():
            yield


def measure(case: Case) -> dict[str, int]:
    """Train the case for two steps and return what each term really took, and the size of its weight files."""
    import torch

    with tempfile.TemporaryDirectory() as name:
        weights = make_model(case, Path(name) / "weights")
        size = sum(file.stat().st_size for file in weights.glob("*.safetensors"))
        trainer = build_trainer(case, weights, Path(name))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = trainer.model
    frozen = [p for p in model.parameters() if not p.requires_grad]
    trained = [p for p in model.parameters() if p.requires_grad]
    found = {
        "weights file": size,
        "base weights": _storages([*frozen, *_quantisation(frozen)]),
        "adapter": _storages(trained),
    }
    batch = {key: value.to(device) for key, value in _batch(trainer).items() if hasattr(value, "to")}
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        saved = _saved(trainer, batch, [*frozen, *trained, *_quantisation(frozen)])
    copies = {tuple(p.shape) for p in trained} | {tuple(p.shape)[::-1] for p in trained}
    found["adapter"] += 0 if case.checkpointing else sum(n for shape, n in saved if shape in copies)
    kept = sum(n for shape, n in saved if shape not in copies)
    if case.checkpointing:
        found["kept block inputs"] = kept - case.training().tokens * case.hidden * 6
    else:
        found["activations"] = kept
    found |= _step(trainer, optimizer, batch, trained, device)
    if case.objective == Objective.SFT:
        found["peak of the blocks"] = _peak_of_blocks(trainer, batch, device)
        found["all logits kept"] = _all_logits(model, batch)
    return found


def _step(
    trainer: Any, optimizer: Any, batch: dict[str, Any], trained: Sequence[Any], device: Any
) -> dict[str, int]:
    """Two steps, the second with optimizer state in place; its peak, and what gradients and optimizer hold."""
    import torch

    found, living = {}, Living()
    for tensor in [*trainer.model.parameters(), *_quantisation(trainer.model.parameters())]:
        living.add(tensor)
    for step in range(2):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        living.most = living.now
        with living.watch():
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = _loss(trainer, batch)
            loss.backward()
            if step:
                found["gradients"] = _storages([p.grad for p in trained])
                state = [value for held in optimizer.state.values() for value in held.values()]
                found["optimizer"] = _storages(
                    [value for value in state if hasattr(value, "untyped_storage")]
                )
            optimizer.step()
            optimizer.zero_grad()
        del loss
    found["peak of a step"] = living.most
    if device.type == "cuda":
        found["peak of a step"] = torch.cuda.max_memory_allocated()
    return found


def _peak_of_blocks(trainer: Any, batch: dict[str, Any], device: Any) -> int:
    """The peak of the blocks alone: the output head's buffer hides it in a small model."""
    import torch

    living = Living()
    for tensor in [*trainer.model.parameters(), *_quantisation(trainer.model.parameters())]:
        living.add(tensor)
    trainer.model.train()
    blocks = trainer.model.get_base_model().base_model
    inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
    with living.watch():
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = blocks(**inputs, use_cache=False).last_hidden_state.float().mean()
        loss.backward()
    trainer.model.zero_grad()
    return living.most


def _loss(trainer: Any, batch: dict[str, Any]) -> Any:
    """TRL's loss, which a GPU gets; the trainer's own shortcut is for CPUs."""
    import torch
    from trl import SFTTrainer

    trainer.model.train()
    if not isinstance(trainer, SFTTrainer):
        return trainer.compute_loss(trainer.model, dict(batch))
    return SFTTrainer.compute_loss(
        trainer, trainer.model, dict(batch), num_items_in_batch=torch.tensor(batch["labels"].numel())
    )


def _saved(trainer: Any, batch: dict[str, Any], known: Sequence[Any]) -> list[tuple[tuple[int, ...], int]]:
    """(shape, bytes) of each storage that autograd keeps for the backward pass and that was not there before."""
    import torch

    before = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in before:
            kept.setdefault(pointer, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = _loss(trainer, batch)
    found = [(tuple(tensor.shape), tensor.untyped_storage().nbytes()) for tensor in kept.values()]
    del loss
    return found


def _all_logits(model: Any, batch: dict[str, Any]) -> int:
    """The peak of transformers' own loss above its input: what a trainer without tiles takes for logits."""
    import torch

    base = model.get_base_model()
    head = base.get_output_embeddings()
    shape = (*batch["input_ids"].shape, head.weight.shape[1])
    hidden = torch.zeros(shape, dtype=torch.bfloat16, device=head.weight.device, requires_grad=True)
    living = Living()
    living.add(head.weight)
    living.add(hidden)
    before = living.now
    with living.watch():
        logits = head(hidden)
        loss = base.loss_function(logits, batch["labels"], vocab_size=logits.shape[-1])
        loss.backward()
    return living.most - before


def _quantisation(parameters: Any) -> list[Any]:
    """Scales and code books that bitsandbytes keeps beside quantised weights."""
    found = []
    for parameter in parameters:
        states = [getattr(parameter, "quant_state", None)]
        states.append(getattr(states[0], "state2", None))
        found += [getattr(state, key, None) for state in states for key in ("absmax", "code", "offset")]
        found.append(getattr(parameter, "SCB", None))
    return [tensor for tensor in found if hasattr(tensor, "untyped_storage")]


def _storages(tensors: Sequence[Any]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _batch(trainer: Any) -> dict[str, Any]:
    return dict(next(iter(trainer.get_train_dataloader())))


def measured_apart(case: Case) -> dict[str, int]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.plan_memory", "--measure", json.dumps(asdict(case))]
    done = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=GUARD_SECONDS
    )
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", help="only the cases with this in their name")
    parser.add_argument("--tokens", type=int, help="tokens of a sequence, in place of each case's own")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Case(**json.loads(arguments.measure)))))
        return
    for case in CASES:
        if arguments.case and arguments.case not in case.name:
            continue
        if arguments.tokens:
            case = replace(case, tokens=arguments.tokens)
        real = measured_apart(case)
        for term, planned in estimate(case, real["weights file"]).items():
            ratio = planned / real[term]
            print(
                f"{case.name:26} {term:18} plan {planned:>12,}  measured {real[term]:>12,}  ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
