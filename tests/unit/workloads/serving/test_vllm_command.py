"""The command line of `vllm serve`: what the plan says, what only the pod knows, and the user's last word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from include.workloads.contract import UserConfigError
from include.workloads.serving import group, vllm
from include.workloads.serving.vllm import Pod, command, environment_of, rank_of

PLANNED = [
    "--served-model-name=phi-4-mini-instruct",
    "--dtype=float16",
    "--gpu-memory-utilization=0.84",
    "--data-parallel-size=2",
    "--tensor-parallel-size=1",
    "--api-server-count=1",
]


def pod(folder: Path, **more: Any) -> Pod:
    given = {
        "WEIGHTS_PATH": "/weights",
        "ADAPTERS_DIR": str(folder / "adapters"),
        "CHAT_TEMPLATES": str(folder / "templates"),
        "HOST": "10.1.1.1",
        "POD_IP": "10.1.1.1",
        "DRAIN_SECONDS": "40",
    }
    return Pod.read({**given, **more})


def adapter(folder: Path, name: str, **config: Any) -> Path:
    path = folder / "adapters" / name
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, **config}))
    save_file({"lora_A": numpy.zeros(1, numpy.float32)}, path / "adapter_model.safetensors")
    return path


def test_a_single_pod(tmp_path: Path) -> None:
    line = command([*PLANNED, "--", "--max-model-len=512"], pod(tmp_path), cpu=False)
    assert line == [
        "vllm",
        "serve",
        "/weights",
        "--host=10.1.1.1",
        "--port=5000",
        "--middleware=include.workloads.serving.vllm_middleware.KaitoMiddleware",
        "--shutdown-timeout=40",
        "--disable-uvicorn-access-log",
        *PLANNED,
        "--max-model-len=512",
    ]


def test_on_processors_there_is_one_device_and_the_user_still_has_the_last_word(tmp_path: Path) -> None:
    line = command([*PLANNED, "--", "--dtype=float32"], pod(tmp_path), cpu=True, bfloat16=True)
    assert not any("parallel" in part or "gpu-memory" in part or "api-server" in part for part in line)
    assert "--dtype=float16" not in line
    assert [part for part in line if part.startswith("--dtype")] == ["--dtype=bfloat16", "--dtype=float32"]
    assert "--dtype=float32" in command(PLANNED, pod(tmp_path), cpu=True, bfloat16=False)


@pytest.mark.parametrize(
    ("ranks", "expected"), [([8], 8), ([4], 8), ([16, 64], 64), ([17], 32), ([300], 320), ([1], 1)]
)
def test_the_rank_holds_every_adapter(tmp_path: Path, ranks: list[int], expected: int) -> None:
    paths = [adapter(tmp_path, f"a{index}", r=rank) for index, rank in enumerate(ranks)]
    line = command([*PLANNED, "--enable-lora"], pod(tmp_path), cpu=False)
    assert f"--max-lora-rank={expected}" in line
    place = line.index("--lora-modules")
    assert line[place + 1 : place + 1 + len(paths)] == [f"{path.name}={path}" for path in paths]


def test_a_layer_s_own_rank_counts(tmp_path: Path) -> None:
    adapter(tmp_path, "mine", r=8, rank_pattern={"q_proj": 128})
    assert "--max-lora-rank=128" in command(["--enable-lora"], pod(tmp_path), cpu=False)


def test_the_user_s_rank_wins(tmp_path: Path) -> None:
    adapter(tmp_path, "mine")
    line = command(["--enable-lora", "--", "--max-lora-rank=64"], pod(tmp_path), cpu=False)
    assert [part for part in line if part.startswith("--max-lora-rank")] == ["--max-lora-rank=64"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 600}, "rank 600"),
        ({"use_dora": True}, "vLLM serves no DoRA adapter"),
        ({"r": None}, "must be a whole number above 0"),
        ({"rank_pattern": [1]}, "must be a whole number above 0"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_said(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    adapter(tmp_path, "mine", **config)
    with pytest.raises(UserConfigError, match=said):
        command(["--enable-lora"], pod(tmp_path), cpu=False)


def test_adapters_without_lora_are_left_alone(tmp_path: Path) -> None:
    adapter(tmp_path, "mine")
    assert "--lora-modules" not in command(PLANNED, pod(tmp_path), cpu=False)


@pytest.mark.parametrize(
    ("preset", "file"),
    [
        ("tool-chat-phi4-mini.jinja", "tool-chat-phi4-mini.jinja"),
        ("tool-chat-phi4-mini.jinja", "tool_chat_template_phi4_mini.jinja"),
        ("tool-chat-llama3.1-json.jinja", "tool_chat_template_llama3.1_json.jinja"),
        ("tool-chat-deepseekr1.jinja", "deeper/tool_chat_template_deepseekr1.jinja"),
    ],
)
def test_the_chat_template_by_its_path_or_the_model_s_own(tmp_path: Path, preset: str, file: str) -> None:
    """The image has vLLM's examples, whose names are not KAITO's."""
    flags = [f"--chat-template={preset}"]
    assert not any("chat-template" in part for part in command(flags, pod(tmp_path), cpu=False))
    path = tmp_path / "templates" / file
    path.parent.mkdir(parents=True)
    path.touch()
    assert f"--chat-template={path}" in command(flags, pod(tmp_path), cpu=False)
    kaito_s = ["--", f"--chat-template=/workspace/chat_templates/{preset}"]
    assert command(kaito_s, pod(tmp_path), cpu=False)[-1] == f"--chat-template={path}"


@pytest.mark.parametrize(
    "template", ["{{ messages }}", "/data/mine.jinja", "{% for m in messages %}x{% endfor %}"]
)
def test_the_user_s_own_chat_template_stays(tmp_path: Path, template: str) -> None:
    (tmp_path / "templates").mkdir()
    line = command(["--", f"--chat-template={template}"], pod(tmp_path), cpu=False)
    assert line[-1] == f"--chat-template={template}"


GROUP = [
    "--tensor-parallel-size=2",
    "--pipeline-parallel-size=3",
    "--distributed-executor-backend=mp",
    "--nnodes=3",
]


def test_a_group_on_gpus_has_a_leader_and_headless_workers(tmp_path: Path) -> None:
    leader = command(GROUP, pod(tmp_path, POD_NAME="phi-0", LEADER_ADDRESS="phi-0.phi-headless"), cpu=False)
    place = ["--node-rank=0", "--master-addr=phi-0.phi-headless", "--master-port=29500"]
    assert leader[-7:] == [*GROUP, *place]
    worker = command(GROUP, pod(tmp_path, POD_NAME="phi-2", LEADER_ADDRESS="phi-0.phi-headless"), cpu=False)
    assert worker[-4:] == ["--node-rank=2", *place[1:], "--headless"]


def test_a_group_on_processors_splits_every_layer(tmp_path: Path) -> None:
    line = command(GROUP, pod(tmp_path, POD_NAME="phi-1", LEADER_ADDRESS="phi-0"), cpu=True, bfloat16=False)
    assert "--tensor-parallel-size=3" in line
    assert not any("pipeline" in part for part in line)
    assert "--nnodes=3" in line


def test_a_group_s_pod_answers_probes_and_drains_as_the_manifests_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def run(member: Any, line: list[str]) -> None:
        made.append((member, line))
        raise SystemExit(0)

    told = {
        "POD_NAME": "phi-1",
        "LEADER_ADDRESS": "phi-0",
        "POD_IP": "10.1.1.2",
        "PORT": "5001",
        "DRAIN_SECONDS": "60",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(vllm, "computes_on_processors", lambda: False)
    monkeypatch.setattr(vllm.shutil, "which", lambda *_, **__: "/usr/bin/vllm")  # type: ignore[attr-defined]
    monkeypatch.setattr(vllm.os, "environ", dict(vllm.os.environ))  # type: ignore[attr-defined]
    monkeypatch.setattr(vllm.sys, "argv", ["vllm", *GROUP])  # type: ignore[attr-defined]
    monkeypatch.setattr(group.Member, "run", run)
    with pytest.raises(SystemExit):
        vllm.main()
    [(member, line)] = made
    assert (member.rank, member.size, member.address) == (1, 3, "10.1.1.2")
    assert member.health_port == 5001
    assert member.drain_seconds == 60, "as long as vLLM itself is told to"
    assert "--shutdown-timeout=60" in line


def test_a_group_must_know_its_leader(tmp_path: Path) -> None:
    with pytest.raises(UserConfigError, match="LEADER_ADDRESS"):
        command(GROUP, pod(tmp_path), cpu=False)


@pytest.mark.parametrize(
    ("name", "rank"), [("phi-0", 0), ("phi-12", 12), ("phi-3-mini", 0), ("", 0), ("phi-²", 0)]
)
def test_the_rank_is_in_the_pod_s_name(name: str, rank: int) -> None:
    assert rank_of(name) == rank


def test_vllm_s_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    found = environment_of(pod(tmp_path), cpu=True, lora=True)
    assert found["VLLM_HOST_IP"] == "10.1.1.1"
    assert found["HF_HUB_OFFLINE"] == "1"
    assert found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in found, "the pod's own word counts"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment_of(pod(tmp_path), cpu=False, lora=False)


def test_an_image_without_vllm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "version", lambda name: (_ for _ in ()).throw(vllm.PackageNotFoundError(name)))  # type: ignore[attr-defined]
    with pytest.raises(UserConfigError, match="This image has no vLLM"):
        vllm.computes_on_processors()
