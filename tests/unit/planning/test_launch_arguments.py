"""What servers are started with: KAITO's flags by layout, the preset's own, and the user's last word."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from include.catalog import engines, load_catalog
from include.planning import Plan, launch_arguments, plan_serving, server_environment
from include.planning.inference_config import server_arguments, server_flags
from tests.support.plans import serving, tuning

CATALOG = load_catalog()
VLLM_PYTHON = Path(__file__).parents[3] / ".venv-vllm" / "bin" / "python"


def arguments(preset: str, machine: str, strategy: Any = "exact", **more: Any) -> list[str]:
    made = plan_serving(serving(preset, machine), CATALOG, strategy=strategy)
    return launch_arguments(made, CATALOG, **more)


def test_a_small_model_gets_a_copy_on_each_gpu() -> None:
    found = arguments("phi-4-mini-instruct", "Standard_NC48ads_A100_v4")
    assert "--data-parallel-size=2" in found
    assert "--tensor-parallel-size=1" in found


def test_a_big_model_is_split_over_the_gpus_of_a_machine() -> None:
    found = arguments("llama-3.3-70b-instruct", "Standard_NC96ads_A100_v4")
    assert "--tensor-parallel-size=4" in found
    assert not any("pipeline" in part for part in found)


def test_kaitos_server_spans_machines() -> None:
    found = arguments("llama-3.3-70b-instruct", "Standard_NC48ads_A100_v4", "kaito")
    assert {
        "--tensor-parallel-size=2",
        "--pipeline-parallel-size=2",
        "--distributed-executor-backend=mp",
        "--nnodes=2",
    } <= set(found)


def test_an_a10_leaves_more_memory_free() -> None:
    assert "--gpu-memory-utilization=0.82" in arguments("phi-4-mini-instruct", "Standard_NV36ads_A10_v5")
    assert "--gpu-memory-utilization=0.84" in arguments("phi-4-mini-instruct", "Standard_NC24ads_A100_v4")


@pytest.mark.parametrize(
    ("preset", "machine", "share"),
    [
        ("llama-3.3-70b-instruct", "Standard_NC48ads_A100_v4", "0.93"),  # 67 GiB of weights on each of 80
        ("phi-4-mini-instruct", "Standard_NC96ads_A100_v4", "0.84"),
        ("llama-3.1-8b-instruct", "Standard_NV36ads_A10_v5", "0.83"),
    ],
)
def test_a_model_that_fits_gets_the_memory_that_it_needs(preset: str, machine: str, share: str) -> None:
    """With KAITO's share alone vLLM would find no memory for its cache, and end."""
    assert f"--gpu-memory-utilization={share}" in arguments(preset, machine)


def test_the_context_that_a_user_asks_for_counts_where_each_gpu_has_a_copy() -> None:
    config = {"vllm": {"max-model-len": 131072}}
    workspace = serving("phi-4-mini-instruct", "Standard_NV72ads_A10_v5")
    made = plan_serving(workspace, CATALOG, config=config)
    found = launch_arguments(made, CATALOG, config=config)
    assert "--data-parallel-size=2" in found
    assert "--gpu-memory-utilization=0.95" in found


def test_how_long_a_context_fits_is_left_to_vllm() -> None:
    """A figure of the plan's would be too long where it knows less than vLLM, which then does not start."""
    for preset in ("phi-4-mini-instruct", "llama-3.1-8b-instruct"):
        assert "--max-model-len=auto" in arguments(preset, "Standard_NV36ads_A10_v5")


def test_the_preset_s_own_flags_are_there() -> None:
    found = arguments("llama-3.1-8b-instruct", "Standard_NC24ads_A100_v4")
    assert "--tool-call-parser=llama3_json" in found
    assert "--enable-auto-tool-choice" in found
    assert "--chat-template=tool-chat-llama3.1-json.jinja" in found
    assert "--dtype=bfloat16" in found
    assert "--enable-lora" not in found


def test_the_users_flags_win_in_any_spelling() -> None:
    config = {"vllm": {"max_model_len": 4096, "enable-lora": False, "seed": 0}}
    found = arguments("phi-4", "Standard_NC24ads_A100_v4", adapters=["mine"], config=config)
    assert found[found.index("--") + 1 :] == ["--max-model-len=4096", "--no-enable-lora", "--seed=0"]
    assert sum(part.startswith("--max-model-len") for part in found) == 1
    assert "--enable-lora" not in found


@pytest.mark.parametrize("config", [None, {}, {"vllm": None}, {"vllm": [1]}])
def test_a_config_without_flags_changes_nothing(config: Any) -> None:
    machine = "Standard_NC24ads_A100_v4"
    assert arguments("phi-4", machine, config=config) == arguments("phi-4", machine)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            {"enable-prefix-caching": False},
            ["--no-enable-prefix-caching"],
        ),  # on by default: to leave it out is no answer
        ({"enforce-eager": "true"}, ["--enforce-eager"]),
        ({"enforce-eager": ""}, ["--enforce-eager"]),
        ({"enforce-eager": None}, ["--enforce-eager"]),
        ({"no-enable-prefix-caching": ""}, ["--no-enable-prefix-caching"]),
        ({"disable_log_stats": True}, ["--disable-log-stats"]),
        ({"disable-log-stats": False}, []),  # has no --no- of its own
        ({"cudagraph-capture-sizes": "1 2 4"}, ["--cudagraph-capture-sizes", "1", "2", "4"]),
        ({"cudagraph-capture-sizes": [1, 2]}, ["--cudagraph-capture-sizes", "1", "2"]),
        ({"served-model-name": "mine"}, ["--served-model-name=mine"]),
        (
            {"compilation_config.pass_config.fuse_allreduce_rms": False},
            ["--compilation-config.pass_config.fuse_allreduce_rms=false"],
        ),
        ({"swap-space": 4, "max-seq-len-to-capture": 8192}, []),  # vLLM has them no longer
        ({"api-key": ""}, []),
    ],
)
def test_every_kind_of_value_reaches_the_server_as_it_takes_it(
    flags: dict[str, Any], expected: list[str]
) -> None:
    found = arguments("phi-4", "Standard_NC24ads_A100_v4", config={"vllm": flags})
    assert (found[found.index("--") + 1 :] if "--" in found else []) == expected


SAMPLES = {"int": 1, "float": 0.5, "bool": False, "flag": True, "json": "{}", "list": "a b", "text": "x"}


def test_every_argument_that_vllm_takes_reaches_it() -> None:
    for name, kind in engines.vllm_facts().arguments.items():
        [first, *_] = server_arguments(server_flags({"vllm": {name.replace("-", "_"): SAMPLES[kind]}}))
        assert first.partition("=")[0] in (f"--{name}", f"--no-{name}"), name


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_length_leaves_the_plan_s(empty: Any) -> None:
    plain = arguments("phi-4", "Standard_NC24ads_A100_v4")
    assert arguments("phi-4", "Standard_NC24ads_A100_v4", config={"vllm": {"max-model-len": empty}}) == plain


def test_the_user_s_layout_is_not_mixed_with_the_plan_s() -> None:
    config = {"vllm": {"tensor-parallel-size": 2, "pipeline-parallel-size": 2}}
    found = arguments("phi-4-mini-instruct", "Standard_NC96ads_A100_v4", config=config)
    assert not any("data-parallel" in part for part in found)
    assert {"--tensor-parallel-size=2", "--pipeline-parallel-size=2"} <= set(found)


def test_all_adapters_answer_at_once_and_each_has_room_for_its_next_version() -> None:
    found = arguments("phi-4", "Standard_NC24ads_A100_v4", adapters=["mine", "yours"])
    assert {"--enable-lora", "--max-loras=2", "--max-cpu-loras=4"} <= set(found)


def test_mistral_s_own_formats() -> None:
    found = arguments("ministral-3-3b-instruct", "Standard_NC24ads_A100_v4")
    assert {"--load-format=mistral", "--config-format=mistral", "--tokenizer-mode=mistral"} <= set(found)


def test_a_model_of_the_hub_is_served_without_a_preset_s_flags() -> None:
    made = plan_serving(serving("phi-4", "Standard_NC24ads_A100_v4"), CATALOG)
    found = launch_arguments(dataclasses.replace(made, model="someone-s-model"), CATALOG)
    assert "--served-model-name=someone-s-model" in found
    assert not any("parser" in part or "chat-template" in part for part in found)


def test_one_front_end_answers_for_all_copies() -> None:
    assert "--api-server-count=1" in arguments("phi-4-mini-instruct", "Standard_NC48ads_A100_v4")


def test_only_known_performance_modes_are_passed() -> None:
    machine = "Standard_NC24ads_A100_v4"
    assert "--performance-mode=throughput" in arguments("phi-4", machine, performance_mode="throughput")
    assert not any("performance" in part for part in arguments("phi-4", machine, performance_mode="balanced"))


def test_our_server_gets_its_name_precision_and_only_adapter() -> None:
    made = plan_serving(tuning(), CATALOG)
    assert server_environment(made, ["mine"]) == {
        "SERVED_MODEL_NAME": "phi-3-mini-128k-instruct",
        "MODEL_ID": "microsoft/Phi-3-mini-128k-instruct",
        "DTYPE": "float16",
        "KAITO_DEFAULT_ADAPTER": "mine",
    }
    assert "KAITO_DEFAULT_ADAPTER" not in server_environment(made, ["mine", "yours"])


def test_a_template_has_no_launch_arguments() -> None:
    made = dataclasses.replace(plan_serving(tuning(), CATALOG), model_id="")
    with pytest.raises(ValueError, match="has no server of its own"):
        launch_arguments(made, CATALOG)
    assert Plan.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"max_model_len": "4096"}, {"MAX_MODEL_LEN": "4096"}),
        ({"max-num-seqs": 2, "seed": 0}, {"MAX_NUM_SEQS": "2", "SEED": "0"}),
        ({"dtype": "half"}, {"DTYPE": "float16"}),
        ({"dtype": "auto"}, {}),
        ({"served-model-name": "gpu-helper"}, {"SERVED_MODEL_NAME": "gpu-helper", "MODEL_NAME": "phi-4"}),
        ({"max-model-len": True, "max-num-seqs": 0, "seed": "x", "swap-space": 4}, {}),
    ],
)
def test_our_server_gets_what_it_can_apply(flags: dict[str, Any], expected: dict[str, str]) -> None:
    made = plan_serving(serving("phi-4", "Standard_NC24ads_A100_v4"), CATALOG)
    plain = {"SERVED_MODEL_NAME": "phi-4", "MODEL_ID": "microsoft/phi-4", "DTYPE": "bfloat16"}
    assert server_environment(made, config={"vllm": flags}) == plain | expected


PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
tools, reasons = ToolParserManager.list_registered(), ReasoningParserManager.list_registered()
for line in json.load(sys.stdin):
    found = parser.parse_args(["/weights", *(part for part in line if not part.startswith("--chat-template="))])
    validate_parsed_serve_args(found)
    assert (found.tool_call_parser or "hermes") in tools, line
    assert (found.structured_outputs_config.reasoning_parser or "qwen3") in reasons, line
"""


@pytest.mark.slow
@pytest.mark.skipif(not VLLM_PYTHON.is_file(), reason="make vllm")
def test_the_installed_vllm_takes_the_line_of_every_preset() -> None:
    lines = []
    for model in CATALOG.models:
        if not model.remote_code:
            made = plan_serving(serving(model.name, "Standard_ND96isr_H200_v5"), CATALOG)
            lines.append(
                launch_arguments(made, CATALOG, adapters=["mine", "yours"], performance_mode="throughput")
            )
    subprocess.run(
        [str(VLLM_PYTHON), "-c", PARSE], input=json.dumps(lines), text=True, check=True, capture_output=True
    )
