"""How much memory LoRA and QLoRA tuning takes on one GPU, term by term.

The activation terms count what autograd keeps in this project's trainer (transformers' blocks with sdpa, peft, TRL
under 16-bit autocast); tests/bench/plan_memory.py holds each term against the real trainer. Data-parallel training
keeps a full copy on each GPU; a model that one GPU does not hold is sharded over all of them (PyTorch's FSDP2). It must
never read a Workspace, and every constant names its source.
"""

from __future__ import annotations

import math
from dataclasses import replace

from include.catalog import layers
from include.catalog.machines import Machine
from include.catalog.memory import CUDA_CONTEXT, Terms, total
from include.catalog.models import Model, ModelShape
from include.catalog.training_shape import TrainingShape
from include.contracts.methods import Objective, TuningMethod
from include.contracts.training_defaults import default_optimizer

# bitsandbytes: a float scale for 64 weights; QLoRA (arXiv 2305.14314, section 3): 0.127 bits with the scales quantised
NF4_BITS, NF4_DOUBLE_BITS = 4 + 32 / 64, 4 + 0.127
SCALE_BYTES = 4  # LLM.int8 (arXiv 2208.07339): a float scale for each output row
ADAPTER_BYTES = 4 + 2  # the trainer keeps adapters in fp32; autocast caches a 16-bit copy (torch.autocast)
GRADIENT_BYTES = 4
# Two moments; in 8 bits with a float scale for 256 values (arXiv 2110.02861).
ADAM_BYTES, ADAM_8BIT_BYTES = 8.0, 2 + 2 * 4 / 256
RMS_NORM_BYTES, LAYER_NORM_BYTES = 2 * 4, 2 * 2  # two norms a block: RMSNorm keeps its input in fp32
INNER_VALUES = {"FalconForCausalLM": 1, "PhiForCausalLM": 4}  # kept by the feed-forward part; 3 with a gate
# peft's DoraLinearLayer.forward keeps the 16-bit outputs of base layer and adapter; measured are 5.5 bytes a value.
DORA_BYTES = 6
# Its norm of W + s B A: both matrices in fp32 and in 16 bit, their sum, and a unit matrix as wide as the input.
DORA_NORM_BYTES, DORA_UNIT_BYTES = 16, 4
# TRL 1.16 kernels/chunked_logprob.py and add_fused_lm_head: one buffer of so many tokens and so much vocabulary.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Of a trainer that keeps all logits: the 16-bit value 2; log-softmax, its gradient and the loss's gradient 4 each.
LOGIT_BYTES = 14
# FSDP2 (torch.distributed.fsdp.fully_shard): the layer that computes, the one that is fetched meanwhile, and the buffer
# that it arrives in.
GATHERED_LAYERS = 3
# Of what comes and goes: gaps of PyTorch's caching allocator, with expandable segments at most that.
FRAGMENTATION = 0.1


def tuning_memory(model: Model, method: str, training: TrainingShape | None = None) -> Terms:
    """Memory in bytes of LoRA or QLoRA tuning on one GPU, term by term.

    `method` is "lora" (16-bit base weights) or "qlora" (NF4, or int8 when the config says load_in_8bit). Where
    `training` leaves checkpointing open, it counts as on: the trainer turns it on when memory is short.
    Raises ValueError for a model whose shape the catalogue does not hold: its tuning cannot be estimated.
    """
    training = training or TrainingShape()
    shape = model.shape
    if shape is None:
        raise ValueError(f"{model.name} has no shape in presets/models, so its tuning memory is unknown")
    trained = trained_parameters(model, training)
    largest = max(inputs * outputs for inputs, outputs in layers.linear_layers(model).values())
    state = trained * optimizer_bytes(training.optimizer or default_optimizer(method))
    terms = [
        *(_sharded if training.sharded else _whole)(model, method, training, trained, state),
        ("activations", activations(model, training)),
        ("logits and loss", logits(shape, training)),
        ("reference pass", reference_pass(model, training)),
        (
            "dequantised layer",
            0 if method == TuningMethod.LORA else 2 * largest,
        ),  # bitsandbytes decodes one layer at a time
        ("weight norm", dora_norm(model, training)),
        ("CUDA context", CUDA_CONTEXT),
    ]
    lasting = ("base weights", "CUDA context")  # allocated once, so they leave no gaps
    fragmentation = round(FRAGMENTATION * sum(size for term, size in terms if term not in lasting))
    return [(term, size) for term, size in [*terms, ("fragmentation", fragmentation)] if size]


def placed(model: Model, method: str, training: TrainingShape, machine: Machine) -> TrainingShape:
    """The training with the trainer's choices for a machine made, sharded over its GPUs where only that fits one.

    A whole copy on each GPU (DDP) is faster, so it comes first. Raises ValueError as `tuning_memory`.
    """
    whole = training.settled(model, method, machine)
    if whole.processes == 1 or not whole.shardable:
        return whole
    if total(tuning_memory(model, method, whole)) <= machine.gpu_memory_bytes:
        return whole
    return whole.over_gpus()


def _whole(model: Model, method: str, training: TrainingShape, trained: int, state: float) -> Terms:
    """What a process with the whole model holds of weights and their training."""
    return [
        ("base weights", base_weights(model, method, training)),
        ("adapter", trained * ADAPTER_BYTES),
        ("gradients", trained * GRADIENT_BYTES * (2 if training.processes > 1 else 1)),  # DDP's buckets
        ("optimizer", round(state)),
    ]


def _sharded(model: Model, method: str, training: TrainingShape, trained: int, state: float) -> Terms:
    """What each of several processes holds: its slices, and whole what computes just now.

    The scales of quantised weights are whole in each (bitsandbytes keeps them beside the parameter), and so is
    autocast's copy of the adapter. Embeddings and output head are whole one after the other, or both where they are
    one; while the first arrives there is a second copy of it, and no layer yet.
    """
    shape = model.shape
    if shape is None:
        return []
    block = layers.block_parameters(model)
    each, own = math.ceil(trained / shape.layers), training.processes
    quantised = method == TuningMethod.QLORA and layers.quantisable(model)
    packed = block // 2 if quantised else 2 * block
    rest = max(model.weights_bytes - 2 * block * shape.layers, 0)
    scales = base_weights(model, method, training) - packed * shape.layers - rest if quantised else 0
    head = 2 * shape.vocab * shape.hidden
    gathered = head + max(head, GATHERED_LAYERS * packed)
    return [
        ("base weights", scales + math.ceil((packed * shape.layers + rest) / own)),
        ("gathered weights", gathered),
        ("adapter", math.ceil(trained * 4 / own) + trained * 2 + GATHERED_LAYERS * each * 4),
        ("gradients", math.ceil(trained * GRADIENT_BYTES / own) + GATHERED_LAYERS * each * GRADIENT_BYTES),
        ("optimizer", math.ceil(state / own)),
    ]


def base_weights(model: Model, method: str, training: TrainingShape | None = None) -> int:
    """Bytes of the frozen weights: linear layers of the blocks in the method's bits; embeddings, norms and the output
    head stay in 16 bit (transformers' bitsandbytes integration leaves the output head and all that is not linear).
    """
    training = training or TrainingShape()
    count = model.shape.layers if model.shape else 0
    linear = layers.block_parameters(model) * count
    others = max(model.weights_bytes // 2 - linear, 0)
    if method == TuningMethod.LORA or not layers.quantisable(model):
        return 2 * (linear + others)
    if training.load_in_8bit:
        rows = sum(outputs for _, outputs in layers.linear_layers(model).values()) * count
        return linear + SCALE_BYTES * rows + 2 * others
    bits = NF4_DOUBLE_BITS if training.double_quant else NF4_BITS
    return round(linear * bits / 8) + 2 * others


def trained_parameters(model: Model, training: TrainingShape) -> int:
    """Parameters with a gradient: the adapter's, with a magnitude for each output of a layer with DoRA."""
    products = layers.adapter_parameters(model, training.rank, training.target_modules)
    if not training.dora or model.shape is None:
        return products
    outputs = sum(outputs for _, outputs in layers.targets(model, training.target_modules).values())
    return products + outputs * model.shape.layers


def optimizer_bytes(name: str) -> float:
    """Optimizer state a trained parameter, in bytes, by the name of TrainingArguments.optim (transformers)."""
    name = name.lower()
    eighth = "8bit" in name
    if "adafactor" in name:
        return 0.1  # factored: a row and a column of the matrix (arXiv 1804.04235)
    if name.startswith("sgd"):
        return 0.0  # transformers passes no momentum
    if any(part in name for part in ("lion", "rmsprop", "adagrad")):
        return ADAM_8BIT_BYTES / 2 if eighth else ADAM_BYTES / 2  # one moment
    if "ademamix" in name:
        return ADAM_8BIT_BYTES * 1.5 if eighth else ADAM_BYTES * 1.5  # three
    return ADAM_8BIT_BYTES if eighth else ADAM_BYTES


def block_activations(model: Model, training: TrainingShape) -> int:
    """Bytes that the backward pass of one block needs, for all tokens of a forward pass.

    Counted tensor by tensor: two norms; queries, repeated keys and values and the output of attention with
    its log-sum-exp; the attention mask of packed rows as a 16-bit bias; the inner values of the feed-forward part; a
    16-bit copy of each adapted layer's input and the rank-sized value behind it. In the manner of arXiv 2205.05198,
    section 4.1, whose 34 bytes a hidden unit hold for a square block that is trained in full.
    """
    shape = model.shape
    if shape is None:
        return 0
    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if layers.broadcasts_keys(model):
        # One key for many heads has no fused kernel: the probabilities of all heads are kept in fp32.
        attention = 2 * (2 * query + 2 * keys) + 4 * shape.heads * training.tokens
    else:
        values = query + 2 * keys if model.architecture in layers.FUSED_ATTENTION else query
        attention = (
            2 * (3 * query + values) + 4 * shape.heads
        )  # a view keeps the whole fused projection alive
    norms = LAYER_NORM_BYTES if model.architecture in layers.UNGATED else RMS_NORM_BYTES
    inner = INNER_VALUES.get(model.architecture, 3)
    adapted = layers.targets(model, training.target_modules).values()
    copies = sum(2 * inputs + 2 * training.rank for inputs, _ in adapted)
    if training.dora:
        copies += sum(DORA_BYTES * outputs for _, outputs in adapted)
    token = norms * shape.hidden + attention + 2 * inner * shape.intermediate + copies
    return training.tokens * token + mask(training)


def dora_norm(model: Model, training: TrainingShape) -> int:
    """Bytes that come and go with the norm of one adapted layer's weight in every pass, of the one that needs most."""
    adapted = layers.targets(model, training.target_modules).values() if training.dora else ()
    return max(
        (DORA_NORM_BYTES * inputs * outputs + DORA_UNIT_BYTES * inputs**2 for inputs, outputs in adapted),
        default=0,
    )


def mask(training: TrainingShape) -> int:
    """Bytes of one 16-bit attention mask: packed rows of a batch are laid end to end, so it is their sum squared."""
    length = training.tokens if training.packing else training.sequence_length
    return 2 * length * length * (1 if training.packing else training.sequences)


def activations(model: Model, training: TrainingShape) -> int:
    """Bytes kept between forward and backward; with checkpointing the input of each block and one block in full."""
    shape = model.shape
    if shape is None:
        return 0
    block = block_activations(model, training)
    last = training.tokens * shape.hidden * 4  # the norm before the output head
    if training.gradient_checkpointing is False:
        return shape.layers * block + last
    return shape.layers * training.tokens * shape.hidden * 2 + block + last


def reference_pass(model: Model, training: TrainingShape) -> int:
    """Bytes of the forward pass without the adapter that dpo and kto compare with, beside what the backward pass needs.

    It keeps nothing, so one block in full is more than it has at a time; with checkpointing that room is counted
    already, for the block that is computed again when this pass is over. There is no second copy of the weights.
    """
    if training.objective == Objective.SFT or training.gradient_checkpointing is not False:
        return 0
    return block_activations(model, training)


def logits(shape: ModelShape, training: TrainingShape) -> int:
    """Bytes of the output head: TRL's tile with the fp32 gradient of its input, or all logits and their copies."""
    if not training.tiled_loss:
        return training.tokens * shape.vocab * LOGIT_BYTES
    tile = min(training.tokens, TILE_TOKENS) * TILE_VOCABULARY * 2
    return tile + training.tokens * shape.hidden * (4 + 2)


def smaller(training: TrainingShape) -> TrainingShape:
    """The same run with half of the tokens at a time: fewer sequences first, then shorter ones."""
    if training.batch_size > 1:
        return replace(training, batch_size=training.batch_size // 2)
    return replace(training, sequence_length=max(1, training.sequence_length // 2))
