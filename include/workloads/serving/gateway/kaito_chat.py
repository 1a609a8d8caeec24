"""KAITO's `POST /chat` over an OpenAI server: the question is translated there, the answer back.

It never streams (KAITO's never did), and it decides as this project's own server does: greedy unless sampling is asked
for, 200 new tokens unless a limit is given.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from include.workloads.serving.dialects import DEFAULT_NEW_TOKENS, KaitoChat, result_of, validation_error
from include.workloads.serving.gateway.asgi import (
    App,
    Caught,
    Receive,
    Refusal,
    Scope,
    asked,
    catch,
    given_again,
)

PATH = "/chat"
CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"
PASSED_ON = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "repetition_penalty": "repetition_penalty",
    "min_new_tokens": "min_tokens",
}
NOT_HERE = {
    "typical_p": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "pad_token_id": (None,),
    "eos_token_id": (None,),
}


def parse_chat(body: dict[str, Any]) -> KaitoChat:
    """The question. Raises Refusal 400 with every fault of it."""
    try:
        question = KaitoChat.model_validate(body)
    except ValidationError as error:
        fault = validation_error([{**item, "loc": ("body", *item["loc"])} for item in error.errors()])
        raise Refusal(400, str(fault), param=fault.param) from None
    for name, allowed in NOT_HERE.items():
        if getattr(question.generate_kwargs, name) not in allowed:
            raise Refusal(
                400,
                f"generate_kwargs.{name}: the runtime vllm has no such setting.",
                param=f"generate_kwargs.{name}",
            )
    return question


def messages_of(question: KaitoChat) -> list[dict[str, Any]]:
    """The question as chat messages."""
    if question.messages:
        return [message.model_dump() for message in question.messages]
    return [{"role": "user", "content": prompt_of(question) or ""}]


def prompt_of(question: KaitoChat) -> str | None:
    return None if question.prompt is None else (question.prefix or "") + question.prompt


def settings_of(question: KaitoChat) -> dict[str, Any]:
    """Sampling in vLLM's names."""
    sampling = question.generate_kwargs.sampling()
    found = {PASSED_ON[key]: value for key, value in sampling.items() if key in PASSED_ON}
    return found if sampling.get("do_sample") else {**found, "temperature": 0}


class KaitoDialect:
    """Answers /chat by asking the application below."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def ask(
        self, scope: Scope, receive: Receive, body: dict[str, Any], model: str | None
    ) -> tuple[Caught, bytes]:
        """The application's answer, and the body to send in its place: KAITO's, or the error as it came."""
        question = parse_chat(body)
        request: dict[str, Any] = {"messages": messages_of(question), **settings_of(question)}
        if model:
            request["model"] = model
        limit, refused = await self._limit(scope, receive, question, request)
        if refused is not None:
            return refused, refused.body
        request["max_tokens"] = limit
        caught = await self._post(scope, receive, CHAT, request)
        path = CHAT
        if caught.status == 400 and question.prompt is not None and _no_template(caught):
            path, request = COMPLETIONS, {**request, "prompt": prompt_of(question), "messages": None}
            caught = await self._post(scope, receive, path, request)
        if caught.status == 400 and b"max_tokens" in caught.body:  # less room than that: what there is
            caught = await self._post(scope, receive, path, {**request, "max_tokens": None})
        if caught.status != 200:
            return caught, caught.body
        text = _text(caught.json())
        return caught, json.dumps({"Result": result_of(question, text)}, ensure_ascii=False).encode()

    async def _limit(
        self, scope: Scope, receive: Receive, question: KaitoChat, request: dict[str, Any]
    ) -> tuple[int, Caught | None]:
        """New tokens at most; max_length counts the prompt as well, so it has to be counted first."""
        options = question.generate_kwargs
        if options.max_new_tokens is not None or options.max_length is None:
            return options.max_new_tokens or DEFAULT_NEW_TOKENS, None
        counted: dict[str, Any] = {key: request[key] for key in ("messages", "model") if key in request}
        caught = await self._post(scope, receive, TOKENIZE, counted)
        if caught.status == 400 and question.prompt is not None and _no_template(caught):
            caught = await self._post(
                scope, receive, TOKENIZE, {**counted, "prompt": prompt_of(question), "messages": None}
            )
        count = (caught.json() or {}).get("count")
        if caught.status != 200 or not isinstance(count, int):
            return 0, caught
        if options.max_length <= count:
            raise Refusal(
                400,
                f"max_length is {options.max_length}, but the prompt alone has {count} tokens; "
                "use max_new_tokens to limit the answer.",
                param="generate_kwargs.max_length",
            )
        return options.max_length - count, None

    async def _post(self, scope: Scope, receive: Receive, path: str, value: dict[str, Any]) -> Caught:
        body = json.dumps({key: item for key, item in value.items() if item is not None}).encode()
        # Compressed answers could not be read here.
        again = asked(scope, "POST", path, body, without=["accept-encoding"])
        return await catch(self._app, again, given_again(body, receive))


def _no_template(caught: Caught) -> bool:
    return b"chat template" in caught.body.lower()


def _text(answer: Any) -> str:
    choice = answer["choices"][0]
    return str(choice.get("text") or (choice.get("message") or {}).get("content") or "")
