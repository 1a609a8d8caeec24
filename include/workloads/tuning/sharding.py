"""Shards a training's base model and adapter over its processes, for a model that one GPU does not hold.

PyTorch's `fully_shard` (FSDP2) does it, one group for each decoder layer and few for what is left: each process keeps a
slice of every parameter, and a layer is whole on a GPU only while it computes. The first process alone reads the
weights, into the machine's memory; from there one layer at a time goes to all GPUs, is quantised and sliced. What is
written to disk is whole again, so that any number of processes can go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.quantizers import AutoHfQuantizer

from include.workloads.tuning import processes

#: Says of a model that `shard` will bring it to the GPU, and nobody else shall.
WAITING = "waits_to_be_sharded"


def load(weights: Path, options: Mapping[str, Any], quantization: Any | None) -> Any:
    """The base model before it is sharded: in the first process with its weights, in the others with none.

    :param options: for `from_pretrained`.
    :param quantization: the BitsAndBytesConfig that its layers are to be quantised by, once they are on the GPU.
    """
    if processes.is_chief():
        model = AutoModelForCausalLM.from_pretrained(weights, use_safetensors=True, **options)
    else:
        config = AutoConfig.from_pretrained(weights, local_files_only=True)
        built = {key: options[key] for key in ("dtype", "attn_implementation")}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **built)
    if quantization is not None:
        _replace_layers(model, quantization)
    setattr(model, WAITING, True)
    return model


def _replace_layers(model: Any, quantization: Any) -> None:
    """Give the model bitsandbytes' layers with the weights as they are; moving those to a GPU quantises them.

    Quantised weights stay bytes. In a floating type of their own (`bnb_4bit_quant_storage`) some would be no numbers,
    which a copy need not keep bit by bit; FSDP2 takes bytes since PyTorch 2.8.
    """
    quantization.bnb_4bit_quant_storage = torch.uint8
    quantizer = AutoHfQuantizer.from_config(quantization)
    before = dict(model.named_parameters())
    quantizer.preprocess_model(model, device_map=None)
    for name, layer in model.named_modules():
        if not isinstance(layer, bitsandbytes.nn.Linear4bit):
            continue
        told = vars(layer.weight)
        layer.weight = bitsandbytes.nn.Params4bit(before[f"{name}.weight"].data, requires_grad=False, **told)
        if layer.bias is not None:
            layer.bias = nn.Parameter(before[f"{name}.bias"].data, requires_grad=False)
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)


def shard(model: Any, device: torch.device) -> None:
    """Shard a model whose weights the first process has, adapter and all; every process must call this.

    :param model: a PeftModel from `load`'s; its parameters are DTensors on `device` afterwards.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for part in [*_groups(model.get_base_model()), model]:
        _take(part, device)
        fully_shard(part, mesh=mesh)
    model.register_load_state_dict_pre_hook(_slice_weights)


def _groups(base: Any) -> list[nn.Module]:
    """The parts of a transformer that need not be whole at one time: its layers, and the embeddings and output head
    where they are not one and the same.
    """
    kinds = frozenset(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in kinds]
    embeddings, head = base.get_input_embeddings(), base.get_output_embeddings()
    return layers if head.weight is embeddings.weight else [*layers, embeddings, head]


def _take(module: nn.Module, device: torch.device) -> None:
    """Bring every parameter and buffer of a module to the device, with what the first process has for it.

    A tensor that is used twice (tied embeddings) stays one. What is sharded already is left alone.
    """
    taken: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for part in module.modules():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if isinstance(tensor, DTensor):
                continue
            if id(tensor) not in taken:
                taken[id(tensor)] = (tensor, _taken(tensor, device))
            setattr(part, name, taken[id(tensor)][1])


def _taken(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.is_meta:
        data = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    else:
        data = tensor.data.to(device).contiguous()
    distributed.broadcast(data, src=0)
    if isinstance(tensor, bitsandbytes.nn.Params4bit):
        return bitsandbytes.nn.Params4bit(data, requires_grad=False, **vars(tensor)).to(device)
    return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def whole_adapter(model: Any) -> dict[str, torch.Tensor]:
    """The trained weights in one piece, on the CPU; every process must call this."""
    return {name: _whole(one) for name, one in model.named_parameters() if one.requires_grad}


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state as one process would have it, on the CPU; every process must call this."""
    found = optimizer.state_dict()
    state = {key: {name: _whole(value) for name, value in one.items()} for key, one in found["state"].items()}
    return {**found, "state": state}


def own_part(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a parameter: all of it, unless it is sharded."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _whole(value: Any) -> Any:
    return value.full_tensor().detach().cpu() if isinstance(value, DTensor) else value


def slice_state(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """What a sharded optimizer loads of a state in one piece: a hook for `register_load_state_dict_pre_hook`."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    state = {
        key: {name: _slice(value, parameters[key]) for name, value in one.items()}
        for key, one in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def _slice_weights(model: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
    """Weights in one piece are loaded into a sharded model: each process takes its slice of them."""
    for name, parameter in model.named_parameters():
        if name in state_dict:
            state_dict[name] = _slice(state_dict[name], parameter)


def _slice(value: Any, like: torch.Tensor) -> Any:
    """This process's slice of a tensor that all have; what is no such tensor stays as it is."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or not isinstance(value, torch.Tensor):
        return value
    if value.shape != like.shape:
        return value
    local = value.to(like.device)
    return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)
