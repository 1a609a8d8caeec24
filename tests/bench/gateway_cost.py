"""CPU time that the gateway adds to a streamed answer, beside the time that a request of SmolLM2-135M costs in vLLM.

    python -m tests.bench.gateway_cost

The application below it sends a whole answer at once, so nothing but the gateway's own work is counted. Throughput
under load shows the same within the noise of the machine: `tests.bench.serving_throughput --servers vllm,vllm-kaito`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time

from include.workloads.serving.gateway.asgi import App, Message, Receive, Scope, Send
from include.workloads.serving.gateway.gateway import Gateway, Parts

REQUESTS, ROUNDS, CHUNKS = 300, 7, 64
#: CPU time a token that `make bench-serving` prints for bare vLLM at 16 clients, where a token costs least.
ENGINE_MS = 10.6
PATH = "/v1/chat/completions"
CHUNK = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
BODY = json.dumps(
    {"model": "m", "stream": True, "messages": [{"role": "user", "content": "word " * 125}]}
).encode()


async def engine(scope: Scope, receive: Receive, send: Send) -> None:
    """A model server whose answer is ready."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def ask(app: App) -> None:
    """One request from its first byte to the end of its answer."""
    given = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> Message:
        return given.pop() if given else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        return

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
    scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "headers": headers}
    await app({**scope, "query_string": b"", "client": ("127.0.0.1", 1)}, receive, send)


async def seconds(app: App) -> float:
    """CPU seconds of a request, the median over the rounds."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(REQUESTS):
            await ask(app)
        found.append((time.process_time() - began) / REQUESTS)
    return statistics.median(found)


async def main() -> None:
    bare, behind = await seconds(engine), await seconds(Gateway(engine, Parts()))
    added = behind - bare
    print(f"a streamed answer of {CHUNKS} tokens: {1e6 * added:.0f} us of CPU time are the gateway's")
    print(f"of vLLM's {ENGINE_MS} ms a token on two cores: {100 * added / (CHUNKS * ENGINE_MS / 1000):.3f}%")


if __name__ == "__main__":
    asyncio.run(main())
