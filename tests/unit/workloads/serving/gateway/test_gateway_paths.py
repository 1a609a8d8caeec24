"""Which of vLLM's paths are work, which are the sidecar's alone, and which failures are the engine's own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from include.workloads.serving.gateway.aliases import Adapter, Aliases
from include.workloads.serving.gateway.gateway import ADMIN
from include.workloads.serving.gateway.queue_guard import QueueGuard, guarded
from include.workloads.serving.gateway.use import Use
from tests.support.model_server import Below, client, value_of

ROOT = Path(__file__).parents[5]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
COMPLETIONS = "/v1/completions"

WORK = ["/invocations", "/detokenize", "/generative_scoring", "/inference/v1/generate", "/v1/systemone"]


@pytest.mark.parametrize("path", [*WORK, "/cohere/v2/chat", "/v1/messages", "/v1/chat/completions/batch"])
async def test_all_work_knows_public_names_counts_as_use_and_is_refused_where_it_would_wait(
    path: str,
) -> None:
    below, use = Below(), Use()
    waiting = [0.0]
    aliases = Aliases({"mine": Adapter("mine@0123456789ab", "sha256:01")})
    guard = QueueGuard(lambda: 1, lambda: waiting[0])
    async with client(below, use=use, aliases=aliases, guard=guard) as ask:
        assert (await ask.post(path, json={"model": "mine"})).status_code == 200
        waiting[0] = 9
        assert (await ask.post(path, json={"model": "mine"})).status_code == 429
    assert below.asked == [(path, {"model": "mine@0123456789ab"})]
    assert value_of(use.text().decode(), "kaito_serving_last_request_timestamp_seconds") > 0


async def test_work_can_be_taken_back_whatever_waits() -> None:
    below = Below()
    async with client(below, guard=QueueGuard(lambda: 1, lambda: 9)) as ask:
        assert (await ask.post("/v1/responses/resp_1/cancel")).status_code == 200
    assert below.asked == [("/v1/responses/resp_1/cancel", None)]


async def test_made_up_paths_leave_few_lines_of_metrics() -> None:
    use = Use()
    async with client(Below(), use=use, key=lambda: "right") as ask:
        for number in range(9):
            for path in (f"/chat/{number}", f"/v1/responses/{number}", f"/{number}"):
                await ask.post(path, json={}, headers={"authorization": "Bearer right"})
                await ask.post(path, json={})
    lines = [
        one for one in use.text().decode().splitlines() if one.startswith("kaito_serving_requests_total")
    ]
    labelled = {one.partition('endpoint="')[2].partition('"')[0] for one in lines}
    assert labelled == {"/chat", "/v1/responses", "other"}


REFUSED = b'data: {"error": {"message": "unknown tool", "type": "BadRequestError", "code": 400}}\n\n'
BROKEN = b'data: {"error": {"message": "4", "type": "InternalServerError", "code": 500}}\n\n'


@pytest.mark.parametrize(
    ("status", "content", "healthy"),
    [
        (501, {"error": {"message": "The model does not support Score API"}}, True),
        (200, [b"data: {}\n\n", REFUSED], True),
        (200, [b"data: {}\n\n", BROKEN], False),
        (500, {"error": {}}, False),
    ],
)
async def test_what_a_model_cannot_do_is_no_sign_of_ill_health(
    status: int, content: Any, healthy: bool
) -> None:
    async with client(Below(v1__completions=lambda _: (status, content)), use=Use(failures=1)) as ask:
        await ask.post(COMPLETIONS, json={})
        assert ((await ask.get("/health")).status_code == 200) is healthy


ROUTES = """
import json
from typing import get_args
from vllm import tasks
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
found = set()
for kind in (tasks.GenerationTask, tasks.PoolingTask):
    for route in build_app(arguments, get_args(kind)).routes:
        if {"POST", "PUT", "PATCH", "DELETE"} & set(getattr(route, "methods", None) or ()):
            found.add(route.path)
print(json.dumps(sorted(found)))
"""
# They change nothing and compute nothing.
HARMLESS = {"/ping", "/is_scaling_elastic_ep", "/v1/responses/{response_id}/cancel"}


@pytest.mark.slow
@pytest.mark.skipif(not VLLM_PYTHON.is_file(), reason="make vllm")
@pytest.mark.parametrize("developing", ["0", "1"])
def test_every_path_of_the_installed_vllm_is_work_or_the_sidecar_s(developing: str, tmp_path: Path) -> None:
    told = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_SERVER_DEV_MODE": developing,
        "HOME": str(tmp_path),
    }
    answered = subprocess.run(
        [str(VLLM_PYTHON), "-c", ROUTES],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **told},
    )
    paths = json.loads(answered.stdout.splitlines()[-1])
    assert {COMPLETIONS, "/v1/load_lora_adapter"} <= set(paths)
    assert {one for one in paths if not guarded(one) and not one.startswith(ADMIN)} <= HARMLESS
