"""The HTTP face: KAITO's `/chat`, OpenAI's `/v1/chat/completions` and `/v1/models`, `/health`, `/metrics`.

Routes only translate; `Service` decides. Until the model is loaded every question gets 503, so that a readiness
probe on /health is the truth. Errors are OpenAI's objects on all routes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from include.workloads.contract import UserConfigError
from include.workloads.serving.dialects import (
    ApiError,
    ChatCompletion,
    KaitoChat,
    result_of,
    validation_error,
)
from include.workloads.serving.gateway.gateway import CHOSEN_ADAPTER, Gateway, Parts
from include.workloads.serving.generation import Closed
from include.workloads.serving.metrics import Metrics
from include.workloads.serving.service import Answer, Ask, Service

log = logging.getLogger("workload")


class Holder:
    """Where the service appears once it is loaded."""

    service: Service | None = None

    def ready(self) -> Service:
        if self.service is None:
            raise ApiError(503, "The model is still being loaded; try again in a moment.")
        return self.service


def build_app(holder: Holder, metrics: Metrics, parts: Parts | None = None) -> FastAPI:
    """The application behind its gateway, which holds key, limits, use and health."""
    app = FastAPI(title="KAITO on Airflow: inference", docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_state(app, holder, metrics)
    _add_questions(app, holder, metrics)
    _add_changes(app, holder)
    app.add_middleware(Gateway, parts=parts or Parts())
    return app


def _add_state(app: FastAPI, holder: Holder, metrics: Metrics) -> None:
    started = int(time.time())

    @app.get("/")
    async def root() -> dict[str, str]:
        return {"message": "Server is running: POST /chat or /v1/chat/completions."}

    @app.get("/health")
    @app.get("/healthz")
    async def health() -> Response:
        if holder.service is None:
            return JSONResponse({"detail": "Model not initialized"}, 503)
        return JSONResponse({"status": "Healthy"})

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        service = holder.ready()
        data = [
            {
                "id": name,
                "object": "model",
                "created": started,
                "owned_by": "kaito",
                "root": name if name in service.adapters else service.name,
                "parent": service.name if name in service.adapters else None,
            }
            for name in service.models
        ]
        return {"object": "list", "data": data}


def _add_questions(app: FastAPI, holder: Holder, metrics: Metrics) -> None:
    @app.post("/chat")
    async def chat(body: KaitoChat, request: Request) -> dict[str, str]:
        options = body.generate_kwargs
        prompt = None if body.prompt is None else (body.prefix or "") + body.prompt
        _, text = await _whole(
            holder,
            metrics,
            request,
            Ask(
                messages=[message.model_dump() for message in body.messages] if body.messages else None,
                prompt=prompt,
                sampling=options.sampling(),
                model=request.scope.get(CHOSEN_ADAPTER),
                max_new_tokens=options.max_new_tokens,
                max_length=options.max_length,
            ),
        )
        return {"Result": result_of(body, text)}

    @app.post("/v1/chat/completions", response_model=None)
    async def completions(body: ChatCompletion, request: Request) -> Response:
        ask = Ask(
            messages=[message.model_dump() for message in body.messages],
            prompt=None,
            sampling=body.sampling(),
            model=body.model,
            max_new_tokens=body.limit,
            stops=body.stops,
            seed=body.seed,
        )
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
        if body.stream:
            answer = await run_in_threadpool(holder.ready().ask, ask)
            usage = bool(body.stream_options and body.stream_options.include_usage)
            events = _events(answer, head, usage, _Clock(metrics, request, answer.model))
            return StreamingResponse(
                events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
            )
        answer, text = await _whole(holder, metrics, request, ask)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": answer.finish_reason,
            "logprobs": None,
        }
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": answer.usage})


class LoraLoad(BaseModel):
    """Body of `POST /v1/load_lora_adapter`, as vLLM has it."""

    lora_name: str = Field(min_length=1)
    lora_path: str = Field(min_length=1)


class LoraUnload(BaseModel):
    """Body of `POST /v1/unload_lora_adapter`, as vLLM has it."""

    lora_name: str = Field(min_length=1)


def _add_changes(app: FastAPI, holder: Holder) -> None:
    """vLLM's two routes to change adapters; the gateway lets this pod's own sidecar use them."""

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoraLoad) -> Response:
        adapters = holder.ready().adapters
        try:
            new = await run_in_threadpool(adapters.load, body.lora_name, Path(body.lora_path))
        except UserConfigError as error:
            raise ApiError(400, str(error), param="lora_path") from None
        except Closed:
            raise ApiError(503, "The server is stopping.") from None
        if not new:
            raise ApiError(400, f"The adapter {body.lora_name} has already been loaded.", param="lora_name")
        return Response(f"Success: LoRA adapter '{body.lora_name}' added.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: LoraUnload) -> Response:
        if not holder.ready().adapters.unload(body.lora_name):
            raise ApiError(404, f"There is no adapter {body.lora_name} here.", param="lora_name")
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed.")


class _Clock:
    """Counts one request in the metrics when it ends, however it ends."""

    def __init__(self, metrics: Metrics, request: Request, model: str) -> None:
        self._metrics, self._path, self._model = metrics, request.url.path, model
        self._began = time.monotonic()

    def end(self, answer: Answer) -> None:
        request = answer.request
        self._metrics.answered(
            self._path,
            self._model,
            time.monotonic() - self._began,
            request.first_token_seconds,
            len(request.prompt_ids),
            request.produced,
        )


async def _whole(holder: Holder, metrics: Metrics, request: Request, ask: Ask) -> tuple[Answer, str]:
    """Ask and wait for the whole text; a client that goes away frees the model."""
    answer = await run_in_threadpool(holder.ready().ask, ask)
    clock = _Clock(metrics, request, answer.model)
    text = asyncio.ensure_future(_joined(answer))
    try:
        while not text.done():
            await asyncio.wait([text], timeout=0.5)
            if not text.done() and await request.is_disconnected():
                answer.request.cancelled.set()
        clock.end(answer)
        return answer, text.result()
    except BaseException:
        answer.request.cancelled.set()
        raise


async def _joined(answer: Answer) -> str:
    return "".join([text async for text in answer.pieces()])


async def _events(answer: Answer, head: dict[str, Any], usage: bool, clock: _Clock) -> AsyncIterator[str]:
    """Server-sent events: role, text as it comes, finish reason, [DONE]."""

    def event(choices: list[dict[str, Any]], **extra: Any) -> str:
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': choices, **extra})}\n\n"

    def delta(content: dict[str, str], reason: str | None = None) -> str:
        return event([{"index": 0, "delta": content, "finish_reason": reason}])

    try:
        yield delta({"role": "assistant", "content": ""})
        async for text in answer.pieces():
            yield delta({"content": text})
        yield delta({}, answer.finish_reason)
        if usage:
            yield event([], usage=answer.usage)
        yield "data: [DONE]\n\n"
    except Exception as error:
        log.exception("A stream failed")
        yield f"data: {json.dumps(ApiError(500, f'Generation failed: {error}').body())}\n\n"
    finally:
        answer.request.cancelled.set()
        clock.end(answer)


def _add_errors(app: FastAPI) -> None:
    """Every refusal in OpenAI's shape."""

    def refuse(error: ApiError) -> Response:
        headers = {"Retry-After": "5"} if error.status in (429, 503) else None
        return JSONResponse(error.body(), error.status, headers=headers)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return refuse(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return refuse(validation_error(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        answer = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.")
        return JSONResponse(answer.body(), answer.status)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return refuse(ApiError(500, f"Generation failed: {error}"))
