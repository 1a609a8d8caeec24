"""From a question to an answer: picks the model, applies the chat template, keeps the limits, streams text.

It knows neither HTTP nor tensors: routes hand it parsed requests, and the worker hands it token ids.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from include.workloads.serving.dialects import DEFAULT_NEW_TOKENS, ApiError
from include.workloads.serving.generation import Busy, Closed, Request, Settings, Worker, sampling
from include.workloads.serving.live import LiveAdapters


class Loaded(Protocol):
    """What the service reads of a loaded model."""

    tokenizer: Any
    context: int

    def decoder(self) -> Callable[[int], str]:
        """A new function from one token id to the text that it completes (may be "")."""


@dataclass(frozen=True)
class Ask:
    """One question in the model's terms; `model` None means the service's default."""

    messages: Sequence[Mapping[str, str]] | None
    prompt: str | None
    sampling: Mapping[str, Any]
    model: str | None = None
    max_new_tokens: int | None = None
    max_length: int | None = None
    stops: Sequence[str] = ()
    seed: int | None = None


@dataclass
class Answer:
    """A running generation: iterate `texts`, or `pieces` in an event loop, then read the rest."""

    request: Request
    model: str
    text: GrowingText

    @property
    def texts(self) -> Iterator[str]:
        """Text as it grows, and nothing from a stop text on."""
        for token in self.request.stream():
            if piece := self.text.take(token):
                yield piece
            if self._stopped():
                break
        if piece := self.text.rest():
            yield piece

    async def pieces(self) -> AsyncIterator[str]:
        """The same for an event loop."""
        async for tokens in self.request.arrivals():
            if piece := "".join(map(self.text.take, tokens)):
                yield piece
            if self._stopped():
                break
        if piece := self.text.rest():
            yield piece

    def _stopped(self) -> bool:
        if self.text.stopped:
            self.request.cancelled.set()
            self.request.finish_reason = "stop"
        return self.text.stopped

    @property
    def usage(self) -> dict[str, int]:
        """Tokens so far."""
        read, made = len(self.request.prompt_ids), self.request.produced
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}

    @property
    def finish_reason(self) -> str:
        return "stop" if self.request.finish_reason == "cancelled" else self.request.finish_reason


class Service:
    """Names, defaults and limits around one worker."""

    def __init__(
        self,
        loaded: Loaded,
        worker: Worker,
        name: str,
        adapters: LiveAdapters,
        default_adapter: str | None,
        max_model_len: int | None = None,
    ) -> None:
        """`max_model_len` in tokens lowers what the model itself can read."""
        self._context = min(loaded.context, max_model_len or loaded.context)
        self._lowered = self._context < loaded.context
        self._loaded = loaded
        self._worker = worker
        self.name = name
        self.adapters = adapters  # they may change while the server answers
        self.default_adapter = default_adapter

    @property
    def models(self) -> list[str]:
        """The base model's name, then the adapters'."""
        return [self.name, *self.adapters]

    def ask(self, ask: Ask) -> Answer:
        """Queue a question. Raises ApiError for an unknown model, a prompt too long, a full queue."""
        adapter = self._adapter(ask.model)
        ids = self._token_ids(ask)
        request = Request(
            prompt_ids=ids,
            max_new_tokens=self._limit(ask, len(ids)),
            settings=Settings(adapter, sampling(**ask.sampling), ask.seed),
        )
        try:
            self._worker.submit(request)
        except Busy:
            raise ApiError(429, "Too many requests are waiting; try again in a moment.") from None
        except Closed:
            raise ApiError(503, "The server is stopping.") from None
        return Answer(request, adapter or self.name, GrowingText(self._loaded.decoder(), list(ask.stops)))

    def _adapter(self, model: str | None) -> str | None:
        if model is None:
            return self.default_adapter
        if model == self.name:
            return None
        if model in self.adapters:
            return model
        public = dict.fromkeys(
            name.partition("@")[0] for name in self.models
        )  # a version's name goes with it
        raise ApiError(
            404,
            f"There is no model {model!r} here; there are {', '.join(public)}.",
            param="model",
            code="model_not_found",
        )

    def _token_ids(self, ask: Ask) -> list[int]:
        """Instruct models get their chat template; a model without one reads the prompt as it is."""
        tokenizer = self._loaded.tokenizer
        if tokenizer.chat_template:
            from jinja2 import TemplateError

            messages = ask.messages or [{"role": "user", "content": ask.prompt or ""}]
            try:
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            except TemplateError as error:
                raise ApiError(
                    400, f"The model's chat template refuses these messages: {error}", param="messages"
                ) from error
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if ask.prompt is not None:
            return list(tokenizer(ask.prompt)["input_ids"])
        raise ApiError(400, "This model has no chat template: ask it by prompt at /chat.", param="messages")

    def _limit(self, ask: Ask, prompt_tokens: int) -> int:
        room = self._context - prompt_tokens
        if room < 1:
            limit = "max-model-len lets this server read" if self._lowered else "this model reads"
            raise ApiError(
                400,
                f"The prompt has {prompt_tokens} tokens; {limit} at most {self._context} together with its answer.",
                param="messages" if ask.messages else "prompt",
                code="context_length_exceeded",
            )
        if ask.max_new_tokens is not None:
            return min(ask.max_new_tokens, room)
        if ask.max_length is not None:
            if ask.max_length <= prompt_tokens:
                raise ApiError(
                    400,
                    f"max_length is {ask.max_length}, but the prompt alone has {prompt_tokens} tokens; "
                    "use max_new_tokens to limit the answer.",
                    param="generate_kwargs.max_length",
                )
            return min(ask.max_length - prompt_tokens, room)
        return min(DEFAULT_NEW_TOKENS, room)


class GrowingText:
    """An answer's text as it grows; it ends before the first stop text. Only what is held back is kept."""

    def __init__(self, decode: Callable[[int], str], stops: Sequence[str]) -> None:
        """:param decode: gives the text that a token completes."""
        self._decode, self._stops = decode, stops
        self._held = ""  # the end of the text, which may be the beginning of a stop text
        self.stopped = False  # by a stop text

    def take(self, token: int) -> str:
        """What can be said after one more token."""
        if self.stopped:
            return ""
        text = self._held + self._decode(token)
        cut = first_stop(text, self._stops)
        if cut is not None:
            self._held, self.stopped = "", True
            return text[:cut]
        safe = len(text) - held_back(text, self._stops)
        self._held = text[safe:]
        return text[:safe]

    def rest(self) -> str:
        """What was held back, when no more tokens come."""
        text, self._held = self._held, ""
        return text


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the earliest stop text begins."""
    return min((index for stop in stops if (index := text.find(stop)) >= 0), default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may turn out to be the beginning of a stop text."""
    return max(
        (
            size
            for stop in stops
            for size in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:size])
        ),
        default=0,
    )
