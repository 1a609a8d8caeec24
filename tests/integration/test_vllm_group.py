"""One model over two pods on two addresses: the same greedy tokens as in one, and a group that lives and dies whole."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.scenario import prepare_weights
from include.workloads.serving import benchmark
from tests.support.vllm_pod import MARKS, MODEL, PROJECT_ROOT, SMALL, Pod, ask, serving, user

pytestmark = [*MARKS, pytest.mark.timeout(1800)]

QUESTIONS = ["What is the capital of France?", "Name three colours.", "Write one sentence about the sea."]
# What the plan says for two machines with one GPU each; on processors the pod splits every layer instead.
FLAGS = [
    f"--served-model-name={MODEL}",
    "--tensor-parallel-size=1",
    "--pipeline-parallel-size=2",
    "--distributed-executor-backend=mp",
    "--nnodes=2",
    "--",
    *SMALL,
]


def answers(url: str) -> list[str]:
    found = []
    for question in QUESTIONS:
        answer = ask(url, {"messages": user(question), "max_tokens": 32})
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["choices"][0]["message"]["content"])
    return found


# SmolLM2 has nine heads, which no two pods can share: its words over a random model of its kind with eight. The weights
# are large, so that no two logits lie so close that the order of a sum decides between them.
EVEN = """
import sys, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
torch.manual_seed(7)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=4, max_position_embeddings=2048, initializer_range=0.2, tie_word_embeddings=True,
    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
)
LlamaForCausalLM(config).save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("even")
    base = prepare_weights(PROJECT_ROOT / ".sandbox" / "weights")
    subprocess.run([sys.executable, "-c", EVEN, base, target], check=True, capture_output=True, timeout=300)
    return target


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What one pod answers."""
    flags = [f"--served-model-name={MODEL}", "--", *SMALL]
    folder = tmp_path_factory.mktemp("one")
    with serving(folder, "127.79.0.1", flags, {"WEIGHTS_PATH": str(model)}) as pod:
        return answers(pod.url)


class Kubelet:
    """Starts a pod's container again when it ends."""

    def __init__(self, pods: list[Pod]) -> None:
        self.pods, self.ends = pods, list[tuple[str, int | None]]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        for pod in pods:
            pod.start()
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            for pod in self.pods:
                if pod.ended and not self._over.is_set():
                    self.ends.append((pod.address, pod.process.returncode if pod.process else None))
                    pod.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        for pod in self.pods:
            pod.kill()


def measured(folder: Path, rank: int) -> Path:
    """The file of a pod's benchmark."""
    return folder / f"benchmark-{rank}.json"


@pytest.fixture(scope="module")
def group(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    folder = tmp_path_factory.mktemp("two")
    port = 5000
    pods = []
    for rank in range(2):
        environment = {
            "WEIGHTS_PATH": str(model),
            "POD_NAME": f"phi-{rank}",
            "LEADER_ADDRESS": "127.80.0.1",
            benchmark.FILE: str(measured(folder, rank)),
            benchmark.SECONDS: "15",
        }
        pods.append(Pod(folder, f"127.80.0.{rank + 1}", port, FLAGS, environment))
    kubelet = Kubelet(pods)
    yield kubelet
    kubelet.stop()


def test_two_pods_answer_as_one_and_come_back_whole(alone: list[str], group: Kubelet) -> None:
    leader, worker = group.pods
    leader.wait_healthy(600)
    assert worker.healthy()
    assert group.ends == [], leader.tail()
    assert all(alone)
    assert answers(leader.url) == alone, "the same greedy tokens"

    # The group is measured once, through its first pod, beside which it answered.
    files = [measured(leader.log.parent, rank) for rank in range(2)]
    began = time.monotonic()
    while not files[0].exists():
        assert time.monotonic() - began < 300, leader.tail()
        time.sleep(0.2)
    told = json.loads(files[0].read_text())
    assert told["state"] == "done", told
    assert float(told["metrics"]["peakTokensPerMinute"]["value"]) > 0
    assert not files[1].exists()

    worker.kill()
    began = time.monotonic()
    while leader.address not in dict(group.ends):
        assert time.monotonic() - began < 30, "the leader lives on without its worker"
        time.sleep(0.1)
    assert [address for address, _ in group.ends] == [worker.address, leader.address], "each once"
    leader.wait_healthy(600)
    assert answers(leader.url) == alone
    assert leader.log.read_text().count("KAITO_BENCHMARK_RESULT") == 1
    assert not files[1].exists()
