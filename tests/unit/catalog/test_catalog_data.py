"""The data of presets/ itself: complete, consistent, and quick to read."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest

from include.catalog import Catalog, Machine, Model, load_catalog, sizing
from include.catalog.loading import PRESETS, _load
from include.workspace.images import parse_image

CATALOG = load_catalog()


@pytest.mark.parametrize("model", CATALOG.models, ids=lambda model: model.name)
class TestModel:
    def test_name_can_be_a_folder_and_a_label_value(self, model: Model) -> None:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,61}[a-z0-9]", model.name)

    def test_hub_id_and_revision(self, model: Model) -> None:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.hf_id)
        assert model.revision == "main" or re.fullmatch(r"[0-9a-f]{40}", model.revision)

    def test_figures_are_possible(self, model: Model) -> None:
        assert 0.1 < model.weights_gib < 2000
        assert 2048 <= model.context <= 2**20
        assert 1024 <= model.kv_bytes_per_token <= 2**20
        assert model.attention in {"MHA", "GQA", "MQA", "MLA"}
        assert model.dtype in {"bfloat16", "float16", "auto"}
        assert (model.dtype == "auto") == (model.quantization is not None)

    def test_status_says_when_it_ended(self, model: Model) -> None:
        assert model.status in {"current", "deprecated"}
        assert model.deprecated == (model.last_release is not None)

    def test_shape_gives_the_stated_kv_cache_and_size(self, model: Model) -> None:
        if model.shape is None:
            return
        assert model.shape.kv_bytes_per_token == model.kv_bytes_per_token
        linear = model.shape.layers * sum(a * b for a, b in sizing.linear_layers(model).values())
        embeddings = model.shape.vocab * model.shape.hidden
        parameters = model.weights_bytes / 2
        # Tied or untied embeddings, and norms that nobody counts.
        assert linear + embeddings <= parameters * 1.01
        assert parameters * 0.99 <= linear + 2 * embeddings

    def test_tunable_presets_say_what_is_tuned(self, model: Model) -> None:
        if not model.tuning.supported:
            assert model.tuning.target_modules == ()
            return
        assert model.quantization is None
        assert set(model.tuning.target_modules) == set(sizing.linear_layers(model))


@pytest.mark.parametrize("machine", CATALOG.machines, ids=lambda machine: machine.name)
def test_machine_figures_are_possible(machine: Machine) -> None:
    assert 1 <= machine.gpus <= 16
    assert 4 <= machine.gpu_memory_gib <= 141
    assert machine.cloud in {"azure", "aws", "arc"}
    assert machine.nvidia == machine.gpu.startswith("NVIDIA")
    assert machine.deprecated == (machine.last_release is not None)
    assert (machine.usd_per_hour is None) == (machine.price_as_of is None)
    assert machine.usd_per_hour is None or 0.1 < machine.usd_per_hour < 200


def test_every_gpu_of_one_kind_has_one_capability() -> None:
    kinds = {(machine.gpu, machine.compute_capability) for machine in CATALOG.machines}
    assert not [gpu for gpu, count in Counter(gpu for gpu, _ in kinds).items() if count > 1]


def test_no_name_means_two_things() -> None:
    names = Counter(name.lower() for model in CATALOG.models for name in model.all_names)
    assert not [name for name, count in names.items() if count > 1]
    machines = Counter(machine.name.lower() for machine in CATALOG.machines)
    assert not [name for name, count in machines.items() if count > 1]


def test_the_catalogue_is_complete() -> None:
    current = [model for model in CATALOG.models if not model.deprecated]
    assert (len(current), len(CATALOG.models), len(CATALOG.machines)) == (61, 72, 116)
    upstream = {"phi-4", "phi-4-mini-instruct", "phi-3-mini-4k-instruct", "phi-3-mini-128k-instruct"}
    upstream |= {"phi-3-medium-4k-instruct", "phi-3-medium-128k-instruct", "phi-3.5-mini-instruct"}
    upstream |= {"qwen2.5-coder-7b-instruct", "qwen2.5-coder-32b-instruct", "mistral-7b"}
    tunable = {model.name for model in current if model.tuning.supported}
    assert tunable == upstream | {"smollm2-135m-instruct"}


def test_tunable_presets_are_pinned() -> None:
    assert [model.name for model in CATALOG.models if model.tuning.supported and not model.pinned] == []


def test_images_are_references_and_the_workloads_image_keeps_its_name() -> None:
    assert all(parse_image(reference) for reference in CATALOG.images.values())
    assert parse_image(CATALOG.image("workloads")).repository.endswith("kaito-workloads")


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_default_tuning_configs_keep_our_own_rules(method: str) -> None:
    from include.workspace.training_config import config_faults

    assert config_faults(CATALOG.tuning_config(method), method) == []


def test_all_presets_load_in_a_tenth_of_a_second() -> None:
    times = []
    for _ in range(3):
        _load.cache_clear()
        started = time.perf_counter()
        loaded: Catalog = load_catalog(PRESETS)
        times.append(time.perf_counter() - started)
    assert loaded == CATALOG
    assert min(times) < 0.1
