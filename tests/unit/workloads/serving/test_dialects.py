from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from include.workloads.serving.dialects import ChatCompletion, GenerateKwargs, KaitoChat, validation_error

HELLO = [{"role": "user", "content": "hi"}]


def test_chat_with_a_prompt_alone_is_greedy_and_full_text() -> None:
    body = KaitoChat.model_validate({"prompt": "YOUR QUESTION HERE"})
    assert body.return_full_text is True
    assert body.generate_kwargs.sampling() == {}


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"temperature": 0.7}, {"do_sample": True, "temperature": 0.7}),
        ({"temperature": 0}, {}),
        ({"do_sample": True, "top_k": 10}, {"do_sample": True, "temperature": 1.0, "top_k": 10}),
        ({"do_sample": False, "temperature": 0.7}, {}),
        ({"top_p": 1, "top_k": 10}, {}),
        ({"top_p": 0.5}, {"do_sample": True, "temperature": 1.0, "top_p": 0.5}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
    ],
)
def test_generate_kwargs_become_sampling(kwargs: dict[str, Any], expected: dict[str, Any]) -> None:
    assert GenerateKwargs.model_validate(kwargs).sampling() == expected


@pytest.mark.parametrize(
    "body",
    [{}, {"prompt": "a", "messages": HELLO}, {"prompt": ""}, {"prompt": "a", "promt": "b"}],
)
def test_chat_bodies_without_one_clear_question_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KaitoChat.model_validate(body)


def test_a_least_length_that_no_runtime_keeps_is_refused() -> None:
    assert GenerateKwargs.model_validate({"min_length": 0, "min_new_tokens": 5}).sampling() == {
        "min_new_tokens": 5
    }
    with pytest.raises(ValidationError, match="use min_new_tokens"):
        KaitoChat.model_validate({"prompt": "a", "generate_kwargs": {"min_length": 20}})


def test_openai_parts_are_joined_and_images_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = ChatCompletion.model_validate(
        {"model": "m", "messages": [{"role": "developer", "content": parts}]}
    )
    assert (body.messages[0].role, body.messages[0].content) == ("system", "a\nb")
    with pytest.raises(ValidationError, match="only parts of type text"):
        ChatCompletion.model_validate(
            {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}
        )


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, {}),
        ({"temperature": 0}, {}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5, "top_k": 0}),
        ({"top_p": 0.9}, {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 0.9}),
    ],
)
def test_openai_sampling(extra: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ChatCompletion.model_validate({"model": "m", "messages": HELLO, **extra}).sampling() == expected


@pytest.mark.parametrize(
    "extra",
    [
        {"n": 2},
        {"logprobs": True},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"presence_penalty": 0.5},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"max_tokens": 0},
        {"temperature": 3},
    ],
)
def test_what_would_change_the_meaning_is_refused_by_name(extra: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatCompletion.model_validate({"model": "m", "messages": HELLO, **extra})
    error = validation_error(list(caught.value.errors()))
    assert error.status == 400
    assert str(error).startswith(next(iter(extra)))


def test_all_faults_of_a_body_come_together() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatCompletion.model_validate({"messages": [{"role": "robot", "content": "x"}], "temperature": 9})
    body = validation_error(list(caught.value.errors())).body()["error"]
    assert body["type"] == "invalid_request_error"
    for field in ("model: ", "messages.0.role: ", "temperature: "):
        assert field in body["message"]
