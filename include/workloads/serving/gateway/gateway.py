"""The gateway itself: one ASGI application around a model server, and the order in which a request meets its parts.

Health and metrics stay open and answer at once, whatever the load; everything else needs the key. It must never keep a
request's text longer than the request lives.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from include.contracts import canary, pooling
from include.workloads.serving.gateway.aliases import Adapter, Aliases
from include.workloads.serving.gateway.asgi import (
    App,
    Receive,
    Refusal,
    Scope,
    Send,
    answer,
    asked,
    catch,
    given_again,
    header,
    sized,
)
from include.workloads.serving.gateway.kaito_chat import PATH as KAITO_CHAT
from include.workloads.serving.gateway.kaito_chat import KaitoDialect
from include.workloads.serving.gateway.queue_guard import QueueGuard, endpoint, guarded
from include.workloads.serving.gateway.use import Use
from include.workloads.serving.gateway.walls import Intake, bearer, check_key, parse

log = logging.getLogger("workload")

OPEN = frozenset({"/", "/health", "/healthz", "/metrics"})
MODELS = "/v1/models"
ADAPTERS = "/kaito/adapters"
PERFORMANCE = "/kaito/performance"
# They change the server for everybody: only who runs beside it in the pod may.
ADMIN = (
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/adapters",
    "/shutdown",
    "/sleep",
    "/wake_up",
    "/pause",
    "/resume",
    "/collective_rpc",
    "/reset_",
    "/start_",
    "/stop_profile",
    "/update_",
    "/finish_weight_update",
    "/init_weight",
    "/weight_checker",
    "/release_kv_cache_memory",
    "/scale_elastic_ep",
    "/fault_tolerance",
    "/abort_requests",
    "/inference/v1/abort_requests",
    "/server_info",
)
ADMIN_HEADER = "x-kaito-admin"
ADAPTER_HEADER = b"x-kaito-adapter-digest"
# Where a server with a /chat of its own finds the adapter to ask: KAITO's body has no field for it.
CHOSEN_ADAPTER = "kaito.adapter"
BODIES = ("POST", "PUT", "PATCH")
# Questions for text, which a model that embeds, ranks or scores has no answer to.
WRITING = (KAITO_CHAT, "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
LEAVING = "This server is being stopped and takes no new requests; ask again."


@dataclass
class Parts:
    """What a gateway is made of; None leaves a part out."""

    use: Use = field(default_factory=Use)
    intake: Intake = field(default_factory=Intake)
    key: Callable[[], str] | None = None
    admin: Callable[[], str] | None = None  # the token of this pod's own sidecar
    guard: QueueGuard | None = None
    aliases: Aliases = field(default_factory=Aliases)
    translates_chat: bool = False  # whether the server below lacks KAITO's /chat
    performance: Callable[[], Mapping[str, Any]] = lambda: {"state": "off"}  # what the benchmark says
    chat_adapter: str | None = None  # the public name that /chat asks, where there is one
    leaving: Callable[[], bool] = lambda: False  # whether the server is on its way out
    told_to_go: Callable[[], bool] = lambda: False  # whether its pod is, and it still answers
    task: Callable[[], str] = lambda: ""  # of a model that writes no text (include/contracts/pooling.py)


class Gateway:
    """ASGI middleware. Everything but HTTP and websockets passes untouched."""

    def __init__(self, app: App, parts: Parts) -> None:
        self._app, self._parts = app, parts
        self._dialect = KaitoDialect(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        path = scope["path"]
        try:
            if scope["type"] == "websocket":
                return await self._websocket(scope, receive, send)
            if path in ("/health", "/healthz"):
                return await self._health(scope, receive, send)
            if path == "/metrics":
                return await self._metrics(scope, receive, send)
            if self._parts.leaving():
                raise Refusal(503, LEAVING, headers={"retry-after": "1", "connection": "close"})
            await self._request(scope, receive, send)
        except Refusal as refusal:
            if not refusal.counted:
                self._parts.use.refused(endpoint(path), refusal.status)
            await answer(send, refusal.status, refusal.body(), refusal.headers)
        return None

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The server's own word, unless its answers fail one after the other."""
        if self._parts.leaving():
            return await answer(send, 503, {"detail": LEAVING})
        if trouble := self._parts.use.trouble():
            return await answer(send, 503, {"detail": f"{trouble} The server should be restarted."})
        return await self._app({**scope, "path": "/health", "raw_path": b"/health"}, receive, send)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = asked(scope, scope["method"], "/metrics", without=["accept-encoding", "accept"])
        plain["query_string"] = scope.get("query_string", b"")
        caught = await catch(self._app, plain, receive)
        await caught.send_on(send, caught.body + (self._told() if caught.status == 200 else b""))

    def _told(self) -> bytes:
        parts = self._parts
        limit = parts.guard.limit if parts.guard is not None else None
        return parts.use.text(parts.aliases.canaries(), parts.aliases.refused(), limit)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check_rights(scope)
        except Refusal:
            await send({"type": "websocket.close", "code": 1008, "reason": "this server wants its key"})
            return
        await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if method == "OPTIONS":  # a browser asks without a key whether it may ask
            return await self._app(scope, receive, send)
        self._check_rights(scope)
        if method == "GET" and (path == MODELS or path.startswith(MODELS + "/")):
            return await self._models(scope, receive, send)
        if method == "GET" and path == ADAPTERS:
            return await answer(send, 200, self._parts.aliases.shown())
        if method == "GET" and path == PERFORMANCE:
            return await answer(send, 200, self._parts.performance())
        if method not in BODIES:
            return await self._app(scope, receive, send)
        body = await self._parts.intake.read(scope, receive)
        if body is None:
            return None
        if (task := self._parts.task()) and path.startswith(WRITING):
            raise Refusal(404, pooling.told(task, "This model"), param="model", code="model_not_supported")
        if not guarded(path):
            return await self._app(scope, given_again(body, receive), send)
        return await self._generate(scope, receive, send, body)

    def _check_rights(self, scope: Scope) -> None:
        path = scope["path"]
        if path.startswith(ADMIN):
            if self._parts.admin is None:
                raise Refusal(403, f"{path} is not open to clients.", code="forbidden")
            check_key(header(scope, ADMIN_HEADER), self._parts.admin())
        elif self._parts.key is not None and path not in OPEN:
            check_key(bearer(scope) or header(scope, "x-api-key"), self._parts.key())

    async def _generate(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """A question to the model: the only requests that count as use."""
        parts, path = self._parts, scope["path"]
        request_id = header(scope, canary.HEADER) or canary.fresh_id()
        value, adapter = self._question(scope, body, request_id)
        with parts.use.watched(endpoint(path), send, adapter.digest if adapter else "") as answering:
            answering.headers.append((canary.HEADER.encode(), request_id.encode("latin-1")))
            if parts.told_to_go():
                answering.headers.append((b"connection", b"close"))
            receive = answering.hearing(receive)
            if parts.guard is not None:
                try:
                    parts.guard.check(parts.use.current)
                except Refusal:
                    parts.use.rejected.inc()
                    raise
            if adapter is not None and adapter.digest:
                answering.headers.append((ADAPTER_HEADER, adapter.digest.encode()))
            if path == KAITO_CHAT and parts.translates_chat and value is not None:
                return await self._kaito_chat(scope, receive, answering.send, value, adapter)
            if adapter is not None and path == KAITO_CHAT:
                scope = {**scope, CHOSEN_ADAPTER: adapter.target}
            elif adapter is not None and value is not None:
                scope, body = _addressed(scope, body, value, adapter)
            try:
                return await self._app(scope, given_again(body, receive), answering.send)
            except Exception:  # a task group may have wrapped it
                if not answering.left:
                    raise
                log.warning("%s: the client went away or takes nothing; the answer is dropped.", path)

    def _chat_adapter(self) -> str | None:
        """The adapter that /chat asks, which has no field for a model."""
        return self._parts.chat_adapter or self._parts.aliases.default()

    def _question(
        self, scope: Scope, body: bytes, request_id: str
    ) -> tuple[dict[str, Any] | None, Adapter | None]:
        """The body as a value (None for uploads), and the adapter that it asks."""
        kind = (header(scope, "content-type") or "").partition(";")[0].strip().lower()
        if kind.startswith("multipart/"):
            return None, None
        value = parse(body)
        model = value.get("model")
        if scope["path"] == KAITO_CHAT:
            model = self._chat_adapter()
        return value, self._parts.aliases.resolve(model if isinstance(model, str) else None, request_id)

    async def _kaito_chat(
        self, scope: Scope, receive: Receive, send: Send, value: dict[str, Any], adapter: Adapter | None
    ) -> None:
        model = adapter.target if adapter else self._chat_adapter()
        caught, body = await self._dialect.ask(scope, receive, value, model)
        await caught.send_on(send, body)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The list under public names, and one entry of it by its id (which vLLM does not have)."""
        plain = asked(scope, "GET", MODELS, without=["accept-encoding"])
        caught = await catch(self._app, plain, receive)
        found = caught.json()
        if caught.status != 200 or not isinstance(found, Mapping):
            return await caught.send_on(send)
        listed = self._parts.aliases.public(list(found.get("data") or []))
        if task := self._parts.task():
            listed = [{**entry, pooling.KEY: task} for entry in listed]
        if scope["path"] == MODELS:
            return await answer(send, 200, {**found, "data": listed})
        name = unquote(scope["path"][len(MODELS) + 1 :])
        entry = next((one for one in listed if one.get("id") == name), None)
        if entry is None:
            there = ", ".join(str(one.get("id")) for one in listed)
            raise Refusal(
                404,
                f"There is no model {name[:200]!r} here; there are {there}.",
                param="model",
                code="model_not_found",
            )
        return await answer(send, 200, entry)


def _addressed(scope: Scope, body: bytes, value: dict[str, Any], adapter: Adapter) -> tuple[Scope, bytes]:
    """The question under the name that the engine knows the adapter by."""
    if value.get("model") == adapter.target:
        return scope, body
    body = json.dumps({**value, "model": adapter.target}, ensure_ascii=False).encode()
    return sized(scope, body), body
