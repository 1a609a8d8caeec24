"""vLLM for processors as a pod's container would run it: an address of its own, the pod's environment, one end."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PYTHON = PROJECT_ROOT / ".venv-vllm" / "bin" / "python"
MODEL = "smollm2-135m-instruct"
# Greedy tokens of one engine and of two are only the same in the format that loses least; compiling takes minutes here.
SMALL = ("--enforce-eager", "--dtype=float32", "--max-model-len=1024", "--max-num-seqs=4")
START_SECONDS = 420
#: Of a file of tests of the real vLLM; each says for itself how long they may take.
MARKS = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.weights,
    pytest.mark.skipif(not PYTHON.exists(), reason="make vllm has not been run"),
]


def free_port(address: str) -> int:
    with socket.socket() as free:
        free.bind((address, 0))
        return int(free.getsockname()[1])


class Pod:
    """One container: started, restarted as the kubelet would, ended."""

    def __init__(
        self,
        folder: Path,
        address: str,
        port: int,
        flags: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        self.address, self.port = address, port
        self.log = folder / f"{address}.log"
        self._flags = list(flags)
        home = folder / f"home-{address}"
        home.mkdir(exist_ok=True)
        self._environment = {
            "PATH": f"{PYTHON.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "PYTHONPATH": str(PROJECT_ROOT),
            "HOST": address,
            "POD_IP": address,
            "PORT": str(port),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # What vLLM learns of a model's class by a process of its own, it writes down: all starts share it.
            "VLLM_CACHE_ROOT": str(PROJECT_ROOT / ".sandbox" / "vllm-cache"),
            "TERMINATION_LOG": str(folder / f"{address}.end"),
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(PYTHON), "-m", "include.workloads.serving.vllm", *self._flags],
                cwd=PROJECT_ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def wait_healthy(self, seconds: float = START_SECONDS) -> float:
        """Seconds until the pod was healthy."""
        began = time.monotonic()
        while not self.healthy():
            assert not self.ended, f"the server ended:\n{self.tail()}"
            assert time.monotonic() - began < seconds, f"not healthy after {seconds} s:\n{self.tail()}"
            time.sleep(0.5)
        return time.monotonic() - began

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        """End it as a container ends whose first process is gone: with all its processes, at once."""
        if self.process is None:
            return
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            for one in [*first.children(recursive=True), first]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        self.process.wait(30)


@contextmanager
def serving(
    folder: Path, address: str, flags: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Pod]:
    """A pod of this model server that answers, and its end."""
    pod = Pod(folder, address, free_port(address), flags, environment)
    try:
        pod.start()
        pod.wait_healthy()
        yield pod
    finally:
        pod.kill()


def openai_client(pod: Pod, key: str) -> Any:
    """The official client of a pod; skips the test where its package is not installed."""
    package = pytest.importorskip("openai")
    return package.OpenAI(base_url=f"{pod.url}/v1", api_key=key, max_retries=0, timeout=300)


def ask(url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> httpx.Response:
    """One chat completion, greedy."""
    question = {"model": MODEL, "max_tokens": 24, "temperature": 0, **body}
    return httpx.post(f"{url}/v1/chat/completions", json=question, headers=dict(headers or {}), timeout=300)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
