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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from include.catalog import Model, ModelShape, layers, tuning_memory
from include.catalog.models import GIB, Tuning
from include.catalog.training_shape import TrainingShape

ROOT = Path(__file__).resolve().parents[2]
GUARD_SECONDS = 600
CONSTANT = ("optimizer", "CUDA context", "fragmentation")


@dataclass(frozen=True)
class Case:
    """A small model and how it is tuned. Dimensions differ from each other, so that shapes tell what a tensor is."""

    name: str
    architecture: str
    method: str = "qlora"
    checkpointing: bool = False
    eight_bit: bool = False
    double_quant: bool = True
    hidden: int = 256
    inner: int = 704
    count: int = 6
    heads: int = 8
    kv_heads: int = 2
    vocab: int = 263
    tokens: int = 512
    batch: int = 1
    rank: int = 16

    def training(self) -> TrainingShape:
        """What the plan would read from this case's config."""
        return TrainingShape(
            sequence_length=self.tokens,
            batch_size=self.batch,
            rank=self.rank,
            gradient_checkpointing=self.checkpointing,
            load_in_8bit=self.eight_bit,
            double_quant=self.double_quant,
            optimizer="adamw_torch",
        )

    def model(self, weights_bytes: int) -> Model:
        """The catalogue's record of this case's model."""
        head_dim = self.hidden // self.heads
        shape = ModelShape(
            self.hidden, self.count, self.heads, self.kv_heads, head_dim, self.inner, self.vocab
        )
        return Model(
            name=self.name,
            hf_id=f"stand-in/{self.name}",
            revision="0",
            status="current",
            architecture=self.architecture,
            weights_gib=weights_bytes / GIB,
            context=4096,
            attention="GQA",
            kv_bytes_per_token=shape.kv_bytes_per_token,
            dtype="bfloat16",
            shape=shape,
            tuning=Tuning(True),
        )


LLAMA, PHI3, QWEN = "LlamaForCausalLM", "Phi3ForCausalLM", "Qwen2ForCausalLM"
CASES = (
    Case("llama-lora", LLAMA, "lora"),
    Case("llama-qlora", LLAMA),
    Case("llama-qlora-single-quant", LLAMA, double_quant=False),
    Case("llama-qlora-checkpointing", LLAMA, checkpointing=True, count=12),
    Case("llama-int8", LLAMA, eight_bit=True),
    Case("phi3-qlora", PHI3, kv_heads=8),
    Case("phi3-qlora-checkpointing", PHI3, kv_heads=8, checkpointing=True, count=12, batch=2),
    Case("qwen2-lora-long", QWEN, "lora", inner=1376, tokens=1024),
    Case("falcon-qlora", "FalconForCausalLM", kv_heads=1, inner=1024),
    Case("phi2-qlora", "PhiForCausalLM", kv_heads=8, inner=1024),
)


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
    found["all logits kept"] = training.tokens * case.vocab * tuning_memory.LOGIT_BYTES
    head = (*CONSTANT, "logits and loss")
    found["peak of the blocks"] = sum(terms.get(t, 0) for t in terms if t not in head)
    passing = ("CUDA context", "fragmentation")
    found["peak of a step"] = sum(size for term, size in terms.items() if term not in passing)
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
        weights = _make_model(case, Path(name) / "weights")
        size = sum(file.stat().st_size for file in weights.glob("*.safetensors"))
        trainer = _trainer(case, weights, Path(name))
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
        found["kept block inputs"] = kept - case.tokens * case.batch * case.hidden * 6
    else:
        found["activations"] = kept
    found["peak of the blocks"] = _peak(trainer, batch, device)
    found |= _step(trainer, optimizer, batch, trained, device)
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
                found["optimizer"] = _storages([value for value in state if hasattr(value, "untyped_storage")])
            optimizer.step()
            optimizer.zero_grad()
        del loss
    found["peak of a step"] = living.most
    if device.type == "cuda":
        found["peak of a step"] = torch.cuda.max_memory_allocated()
    return found


def _peak(trainer: Any, batch: dict[str, Any], device: Any) -> int:
    import torch
    living = Living()
    for tensor in [*trainer.model.parameters(), *_quantisation(trainer.model.parameters())]:
        living.add(tensor)
    trainer.model.train()
    with living.watch():
        with torch.autocast(device.type, dtype=torch.bfloat16):
            inputs = {k: batch[k] for k in ("input_ids", "position_ids")}
            loss = trainer.model.get_base_model().base_model(**inputs, use_cache=False).last_hidden_state.float().mean()
        loss.backward()
    for p in trainer.model.parameters(): p.grad = None
    return living.most


def _loss(trainer: Any, batch: dict[str, Any]) -> Any:
    """TRL's loss, which a GPU gets; the trainer's own shortcut is for CPUs."""
    import torch
    from trl import SFTTrainer

    trainer.model.train()
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
    with living.watch():
        logits = head(hidden)
        loss = base.loss_function(logits, batch["labels"], vocab_size=logits.shape[-1])
        loss.backward()
    return living.most


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


def _make_model(case: Case, folder: Path) -> Path:
    """A random model of the case's shape in bfloat16, with the stand-in's tokenizer."""
    import torch
    import transformers

    from include.workloads.tuning.standin import make_standin

    make_standin(folder)  # for its tokenizer; the model is replaced
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = getattr(transformers, case.architecture.replace("ForCausalLM", "Config"))(
        vocab_size=case.vocab,
        hidden_size=case.hidden,
        intermediate_size=case.inner,
        num_hidden_layers=case.count,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_of_architecture(case),
    )
    torch.manual_seed(0)
    getattr(transformers, case.architecture)(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def _of_architecture(case: Case) -> dict[str, Any]:
    if case.architecture == PHI3:
        return {"original_max_position_embeddings": 4096}
    if case.architecture == "FalconForCausalLM":
        return {"multi_query": True, "parallel_attn": True, "bias": False, "ffn_hidden_size": case.inner}
    return {}


def _trainer(case: Case, weights: Path, folder: Path) -> Any:
    """The trainer that a pod builds for this case, on packed rows that fill the batch."""
    import torch

    from include.workloads.hardware import Hardware, Precision, prepare_environment
    from include.workloads.tuning import fit, recipe
    from include.workloads.tuning.config import parse_config
    from include.workloads.tuning.model import load_model, load_tokenizer, model_facts
    from include.workloads.tuning.progress import Progress
    from include.workloads.tuning.trainer import Watch

    prepare_environment()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hardware = Hardware(device, device, int(device == "cuda"), 1, True, 2)  # one byte: quantised weights stay so
    precision = Precision("bfloat16", "")
    config = parse_config(_config(case), case.method)
    half = [5] * (case.tokens // 2)  # two rows fill a packed sequence
    rows = [{"input_ids": half, "labels": half}] * (4 * case.batch)
    facts = model_facts(weights)
    targets = list(layers.linear_layers(case.model(facts.weight_bytes)))
    lengths = recipe.DataFacts([len(row["input_ids"]) for row in rows])
    chosen = recipe.decide(config, hardware, precision, lengths, facts, targets)
    tokenizer = load_tokenizer(weights, None)
    progress = Progress(None)
    job = fit.Job(
        config, chosen, hardware, precision, progress, tokenizer, rows, [], folder, case.name, "", "bench"
    )
    base = load_model(weights, config.quantization if case.method == "qlora" else None, hardware, precision)
    trainer = fit.build_trainer(job, base, Watch(progress, "bench", 3600))
    if case.checkpointing:
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    return trainer


def _config(case: Case) -> str:
    quantization = {"load_in_8bit": True} if case.eight_bit else {"load_in_4bit": True}
    if not case.double_quant:
        quantization["bnb_4bit_use_double_quant"] = False
    sections = {
        "LoraConfig": {"r": case.rank},
        "TrainingArguments": {
            "max_length": case.tokens,
            "per_device_train_batch_size": case.batch,
            "gradient_checkpointing": case.checkpointing,
            "max_steps": 2,
            "optim": "adamw_torch",
        },
    }
    if case.method == "qlora":
        sections["QuantizationConfig"] = quantization
    return json.dumps({"training_config": sections})


def measured_apart(case: Case) -> dict[str, int]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.plan_memory", "--measure", json.dumps(asdict(case))]
    done = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=GUARD_SECONDS
    )
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
            case = Case(**{**asdict(case), "tokens": arguments.tokens})
        real = measured_apart(case)
        for term, planned in estimate(case, real["weights file"]).items():
            ratio = planned / real[term]
            print(f"{case.name:26} {term:18} plan {planned:>12,}  measured {real[term]:>12,}  ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
