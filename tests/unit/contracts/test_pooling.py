"""A question to a model that embeds, ranks or scores, and what its answer says."""

from __future__ import annotations

from typing import Any

import pytest

from include.contracts import pooling


@pytest.mark.parametrize(
    ("listed", "task"),
    [
        ({"data": [{"id": "m", "task": "embed"}]}, "embed"),
        ({"data": [{"id": "m"}]}, ""),
        ({"data": [{"id": "m", "task": "dance"}]}, ""),
        ({"data": []}, ""),
        ({"data": "m"}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_the_list_of_models_tells_the_task(listed: Any, task: str) -> None:
    assert pooling.first_task(listed) == task


@pytest.mark.parametrize(
    ("task", "entry", "words"),
    [
        ("embed", {"embedding": [0.25, -0.5]}, "2 numbers, the first is 0.25"),
        ("classify", {"probs": [0.125]}, "1 number, the first is 0.125"),
        ("pooling", {"data": [[1.0, 2.0], [3.0, 4.0]]}, "4 numbers, the first is 1"),
    ],
)
def test_an_answer_in_words(task: str, entry: dict[str, Any], words: str) -> None:
    assert pooling.answer_of(task, {"data": [entry]}) == words


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"data": []},
        {"data": [{}]},
        {"data": [{"embedding": []}]},
        {"data": [{"embedding": [float("nan")]}]},
        {"data": [{"embedding": ["x"]}]},
        {"choices": [{"message": {"content": "Hello"}}]},
    ],
)
def test_an_answer_without_numbers_is_none(said: Any) -> None:
    with pytest.raises(ValueError, match="POST /v1/embeddings answered without numbers"):
        pooling.answer_of("embed", said)


def test_who_asks_it_to_write_is_told_where_to_ask() -> None:
    assert (
        pooling.told("classify", "judge") == "judge scores texts and writes none: ask it at POST /classify."
    )
    assert pooling.question("embed", "m", "Hi") == ("/v1/embeddings", {"model": "m", "input": "Hi"})
