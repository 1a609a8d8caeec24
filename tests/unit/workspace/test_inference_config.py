"""inference_config.yaml, key by key: V4 to V7, and what KAITO lets the server die of."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from include.catalog import load_catalog
from include.catalog.engines import TRANSFORMERS_ARGUMENTS
from include.contracts.faults import CLOSE_LOOKS, HINTS
from include.planning import plan_serving, server_environment
from include.workspace import parse_workspace
from include.workspace.api.dialect import V1ALPHA1
from include.workspace.validation.inference_config import (
    FILE,
    KINDS,
    LIMITS,
    _arguments,
    check_inference_config,
    config_notices,
    inference_config_faults,
)
from tests.support.workspaces import SERVING, changed

CATALOG = load_catalog()
MODEL = CATALOG.model("phi-4-mini-instruct")
A100, V100 = CATALOG.machine("Standard_NC24ads_A100_v4"), CATALOG.machine("Standard_NC6s_v3")

# KAITO's own template and the values of its published examples.
TEMPLATE = "kv_cache_cpu_memory_utilization: 0.5\nvllm:\n  cpu-offload-gb: 0\n"
EXAMPLE = """
max_probe_steps: 6
vllm:
  cpu-offload-gb: 0
  gpu-memory-utilization: 0.95
  swap-space: 4
  max-model-len: 8192
  max-seq-len-to-capture: 8192
  num-scheduler-steps: 1
  enable-chunked-prefill: false
"""


@pytest.mark.parametrize(
    "text",
    [
        TEMPLATE,
        EXAMPLE,
        "vllm: {}",
        "vllm:",
        "{}",
        "vllm: {max-model-len: '4096', max_num_seqs: 8, enforce-eager: ''}",
        "vllm: {no-enable-prefix-caching: '', trust-remote-code: false}",
        "vllm: {'compilation-config.pass_config.fuse_allreduce_rms': False}",
        'vllm: {speculative-config: \'{"method": "ngram"}\'}',
        "vllm: {max-lora-rank: 64, dtype: float16, port: 5000}",
        "vllm: {max-model-len: }",
        "vllm: {max-model-len: -1}",
        "vllm: {max_model_len: ''}",
        "vllm: {cudagraph-capture-sizes: [1, 2, 4], served-model-name: 'a b'}",
    ],
)
def test_fine(text: str) -> None:
    assert inference_config_faults(text, MODEL, A100) == []


@pytest.mark.parametrize(
    ("text", "rule", "path"),
    [
        ("a: [1", "V4", "inference_config.yaml"),
        ("", "V4", "inference_config.yaml"),
        ("- vllm", "V4", "inference_config.yaml"),
        ("vllm: 3", "V4", "vllm"),
        ("vllm: {limit-mm-per-prompt: {image: 1}}", "V4", "vllm.limit-mm-per-prompt"),
        ("vllm: {allowed-origins: ['*']}", "V4", "vllm.allowed-origins"),
        ("vllm: {allowed-origins: '*'}", "F12", "vllm.allowed-origins"),
        ("vllm: {speculative-model: a/b}", "F11", "vllm.speculative-model"),
        ("vllm: {rope-theta: 10000}", "F11", "vllm.rope-theta"),
        ("vllm: {host: 127.0.0.1}", "F11", "vllm.host"),
        ("vllm: {lora-modules: a=/x}", "F11", "vllm.lora-modules"),
        ("vllm: {runner: pooling}", "F12", "vllm.runner"),
        ("vllm: {kv-cache-dtype: fp9}", "F12", "vllm.kv-cache-dtype"),
        ("vllm: {max-model-len: auto}", "V5", "vllm.max-model-len"),
        ("vllm: {max-model-len: 4096.5}", "V5", "vllm.max-model-len"),
        ("vllm: {max_model_len: 8k}", "V5", "vllm.max_model_len"),
        ("vllm: {max-model-len: 131073}", "V6", "vllm.max-model-len"),
        ("vllm: {max-model-len: 0}", "F12", "vllm.max-model-len"),
        ("vlm: {max-model-len: 4096}", "F11", "vlm"),
        ("max-model-len: 4096", "F11", "max-model-len"),
        ("vllm: {max-modle-len: 4096}", "F11", "vllm.max-modle-len"),
        ("vllm: {max-num-seqs: 1, max_num_seqs: 2}", "F11", "vllm.max_num_seqs"),
        ("vllm: {api-key: hunter2}", "F11", "vllm.api-key"),
        ("vllm: {hf-token: hunter2}", "F11", "vllm.hf-token"),
        ("vllm: {trust-remote-code: true}", "F11", "vllm.trust-remote-code"),
        ("vllm: {gpu-memory-utilization: 95}", "F12", "vllm.gpu-memory-utilization"),
        ("vllm: {gpu-memory-utilization: much}", "F12", "vllm.gpu-memory-utilization"),
        ("vllm: {enforce-eager: maybe}", "F12", "vllm.enforce-eager"),
        ("vllm: {speculative-config: ngram}", "F12", "vllm.speculative-config"),
        ("vllm: {max-num-seqs: ''}", "F12", "vllm.max-num-seqs"),
        ("vllm: {dtype: bfloat61}", "F12", "vllm.dtype"),
        ("vllm: {max-lora-rank: 24}", "F12", "vllm.max-lora-rank"),
        ("vllm: {port: 8000}", "F12", "vllm.port"),
        ("kv_cache_cpu_memory_utilization: 5", "F12", "kv_cache_cpu_memory_utilization"),
        ("max_probe_steps: few", "F12", "max_probe_steps"),
        ("vllm: {tensor-parallel-size: 2}", "F13", "vllm.tensor-parallel-size"),
    ],
)
def test_rule(text: str, rule: str, path: str) -> None:
    assert [(f.rule, f.path) for f in inference_config_faults(text, MODEL, A100)] == [(rule, path)]


def test_what_an_old_gpu_cannot_do() -> None:
    text = "vllm: {dtype: bfloat16, max-model-len: 131072}"
    faults = inference_config_faults(text, MODEL, V100)
    assert [(f.rule, f.path) for f in faults] == [("F13", "vllm.dtype"), ("F13", "vllm.max-model-len")]
    assert "NVIDIA V100 has no bfloat16" in str(faults[0])
    assert inference_config_faults(text, MODEL, None) == [], "an unknown machine is not judged"


def test_more_gpus_take_a_longer_context_apart() -> None:
    four = CATALOG.machine("Standard_NC96ads_A100_v4")
    assert inference_config_faults("vllm: {tensor-parallel-size: 4}", MODEL, four) == []
    assert inference_config_faults("vllm: {tensor-parallel-size: 4}", MODEL, A100, 4) == []
    assert len(inference_config_faults("vllm: {tensor-parallel-size: 4}", MODEL, A100, 2)) == 1


def test_v1alpha1_wants_a_length_where_gpus_are_small_or_nodes_are_several() -> None:
    """V7."""
    many = CATALOG.machine("Standard_NC24s_v3")  # four V100 of 16 GiB
    assert many.gpus == 4
    found = inference_config_faults(TEMPLATE, MODEL, many, 1, V1ALPHA1)
    assert [(f.rule, f.path) for f in found] == [("V7", "vllm.max-model-len")]
    assert [f.rule for f in inference_config_faults(TEMPLATE, MODEL, A100, 2, V1ALPHA1)] == ["V7"]
    assert inference_config_faults(TEMPLATE, MODEL, A100, 1, V1ALPHA1) == []
    assert inference_config_faults(TEMPLATE, MODEL, many, 2) == []
    assert inference_config_faults("vllm: {max_model_len: 2048}", MODEL, many, 1, V1ALPHA1) == []
    empty = inference_config_faults("vllm: {max-model-len: }", MODEL, many, 1, V1ALPHA1)
    assert [f.rule for f in empty] == ["V7"], "an empty one is none"


def test_gpus_that_cannot_share_the_heads() -> None:
    """phi-4 has 10 heads of keys and values."""
    phi, four = CATALOG.model("phi-4"), CATALOG.machine("Standard_NC64as_T4_v3")
    for text in ("vllm: {tensor-parallel-size: 4}", "vllm: {seed: 1}"):
        [fault] = inference_config_faults(text, phi, four)
        assert (fault.rule, fault.path) == ("F13", "vllm.tensor-parallel-size")
    fine = "vllm: {tensor-parallel-size: 2, pipeline-parallel-size: 2}"
    assert inference_config_faults(fine, phi, four) == []


def test_a_secret_is_never_shown() -> None:
    for text in ("vllm: {api-key: hunter2}", "vllm: {api-key: [hunter2]}", "vllm: {hf-token: {a: hunter2}}"):
        faults = inference_config_faults(text, MODEL, A100)
        assert faults
        assert "hunter2" not in "\n".join(map(str, faults))


def test_hints() -> None:
    [fault] = inference_config_faults("vllm: {gpu-memory-utilisation: 0.9}", MODEL, A100)
    assert fault.hint == "did you mean gpu-memory-utilization?"
    [fault] = inference_config_faults("max_model_len: 4096", MODEL, A100)
    assert fault.hint == "write it below vllm"


def test_a_workspace_s_own_model_and_machine_are_compared() -> None:
    ws = parse_workspace(SERVING)
    assert [f.rule for f in check_inference_config(ws, "vllm: {max-model-len: 999999}", CATALOG)] == ["V6"]
    notes = {"metadata.annotations": {"kaito.sh/runtime": "transformers"}}
    other = parse_workspace(changed(SERVING, notes))
    assert check_inference_config(other, "vllm: {max-model-len: 999999}", CATALOG) == [], "as in KAITO"


def test_the_author_is_told_what_has_no_effect() -> None:
    text = (
        "vllm: {max_model_len: 2048, swap-space: 4}\nkv_cache_cpu_memory_utilization: 0.5\nmax_probe_steps: 6"
    )
    assert config_notices(text) == [
        "inference_config.yaml: kv_cache_cpu_memory_utilization (use kv-offloading-size below vllm, in GiB) and "
        "max_probe_steps (not used by KAITO v0.12 either) and swap-space (which vLLM 0.32.0 has no longer) have no "
        "effect."
    ]
    assert (
        config_notices("vllm: {gpu-memory-utilization: 0.5}")
        == config_notices("{}")
        == config_notices("a: [")
        == []
    )


def test_what_is_said_to_be_applied_is_handed_to_the_server() -> None:
    made = plan_serving(parse_workspace(SERVING), CATALOG)
    values = {
        "dtype": "half",
        "max-model-len": 4096,
        "max-num-seqs": 2,
        "seed": 7,
        "served-model-name": "phi",
    }
    assert set(values) == set(TRANSFORMERS_ARGUMENTS)
    plain = server_environment(made)
    for name, value in values.items():
        assert server_environment(made, config={"vllm": {name: value}}) != plain, name
    known = _arguments()
    for name in {*known.kinds} - set(TRANSFORMERS_ARGUMENTS):
        assert server_environment(made, config={"vllm": {name: "1"}}) == plain, name


def test_the_list_of_arguments_is_sound() -> None:
    content = yaml.safe_load(FILE.read_text())
    listed = set(_arguments().kinds)
    assert set(_arguments().kinds.values()) == set(KINDS)
    assert len(listed) > 200
    assert {*content["choices"], *content["refused"], *LIMITS} <= listed
    gone = {*content["dropped"].split(), *content["replaced"]}
    assert not gone & listed
    assert set(content) == {"choices", "refused", "dropped", "replaced"}


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=9), inner, max_size=2),
    max_leaves=5,
)


@given(st.text(max_size=60), values)
def test_nothing_but_faults_ever_comes_out(text: str, value: object) -> None:
    for whole in (
        text,
        yaml.safe_dump({"vllm": {text: value, "max-model-len": value}}),
        yaml.safe_dump(value),
    ):
        for fault in inference_config_faults(whole, MODEL, A100, 3, V1ALPHA1):
            assert str(fault).endswith(f"[{fault.rule}]")
        config_notices(whole)


def test_a_flood_of_unknown_arguments_is_told_whole_with_few_comparisons(comparisons: list[str]) -> None:
    text = "vllm:\n" + "".join(f"  max-modell-len-{index}: 1\n" for index in range(5_000))
    found = inference_config_faults(text, MODEL, A100)
    assert len(found) == 5_000
    assert found[0].hint == "did you mean max-model-len?"
    assert 0 < len(comparisons) <= HINTS * (CLOSE_LOOKS + 1)
