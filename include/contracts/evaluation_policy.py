"""What a policy says about its evaluation: where the golden set lies, who judges answers, which tasks are run."""

from __future__ import annotations

import re
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from include.contracts.dataset_keys import misuse
from include.contracts.dataset_links import page_fault
from include.contracts.dataset_urls import is_whole_dataset, parse_url
from include.contracts.held_out import MAX_SHARE
from include.contracts.image_reference import InvalidReference, parse_reference
from include.contracts.network_policy import Refused

#: Of a ConfigMap or a Secret.
OBJECT_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
PLAIN_URL = re.compile(r"https?://[^\s?#@/][^\s?#@]*", re.IGNORECASE)
#: Of lm-eval: names in its own index.
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
MAX_TASKS = 20


class GoldenSource(BaseModel):
    """Where a golden set lies: in a ConfigMap with the key golden.yaml, at a URL, or in an image as /data/golden.yaml.

    A URL is one of a dataset's (`dataset_urls`). `secret` is for what is private: with a dataset's keys for a URL
    (`dataset_keys`), of the type kubernetes.io/dockerconfigjson for an image. Only a ConfigMap's name is written alone,
    as a text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    config_map: str | None = Field(default=None, alias="configMap", pattern=OBJECT_NAME)
    url: str | None = Field(default=None, max_length=500)
    image: str | None = Field(default=None, min_length=1, max_length=500)
    secret: str | None = Field(default=None, pattern=OBJECT_NAME)

    @field_validator("url")
    @classmethod
    def _is_a_file(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if told := page_fault(url):
            raise ValueError(f"{told[0]}: {told[1]}")
        try:
            named = parse_url(url)
        except Refused as refused:
            raise ValueError(f"{refused}; {refused.hint}") from None
        if named is None and not PLAIN_URL.fullmatch(url):
            raise ValueError(
                "is no URL of a file without a query or a password, such as https://example.com/golden.yaml"
            )
        if is_whole_dataset(url):
            raise ValueError("names more than one file: give the path of the one that has the golden set")
        return url

    @field_validator("image")
    @classmethod
    def _is_a_reference(cls, image: str | None) -> str | None:
        try:
            parse_reference(image or "x")
        except InvalidReference as error:
            raise ValueError(f"is not an image reference: {error}") from None
        return image

    @model_validator(mode="after")
    def _is_one_of_them(self) -> GoldenSource:
        given = [name for name in (self.config_map, self.url, self.image) if name]
        if len(given) != 1:
            raise ValueError("needs one of configMap, url and image, and no two of them")
        if self.secret and (self.config_map or (self.url and misuse([self.url]))):
            raise ValueError(
                "has a secret, which is for an image or a URL that is not sent in the clear (https://)"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        written: dict[str, Any] = {key: value for key, value in handler(self).items() if value is not None}
        return self.config_map or written

    def __str__(self) -> str:
        """In words, for a sentence."""
        return f"ConfigMap {self.config_map}" if self.config_map else str(self.url or f"image {self.image}")


class JudgePolicy(BaseModel):
    """A model that scores answers: an OpenAI-shaped endpoint, which gets every golden prompt of matcher judge.

    `url` is what stands before /chat/completions; `secret` is a Secret with the key API_KEY.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    url: str = Field(pattern=r"^https?://[^\s?#@]+$", max_length=500)
    model: str = Field(min_length=1, max_length=200)
    secret: str | None = Field(default=None, pattern=OBJECT_NAME)


class LmEvalPolicy(BaseModel):
    """Tasks of the package lm-eval, by their names in it.

    `limit` is how many rows of each task are asked, `few_shot` how many solved rows stand before each; None leaves that
    to the task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    tasks: tuple[str, ...] = Field(strict=False)
    limit: int = Field(default=100, ge=1, le=10_000)
    few_shot: int | None = Field(default=None, alias="fewShot", ge=0, le=50)

    @field_validator("tasks")
    @classmethod
    def _are_names(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        if not 0 < len(tasks) <= MAX_TASKS:
            raise ValueError(f"needs 1 to {MAX_TASKS} names of tasks")
        if wrong := [name for name in tasks if not TASK_NAME.fullmatch(name)]:
            raise ValueError(f"has no name of a task in {wrong[0][:100]!r}: letters, digits, _, . and -")
        return tasks


class EvaluationPolicy(BaseModel):
    """What a policy says about its evaluation.

    `golden_set` is where the golden set lies, or the name of its ConfigMap. `held_out` is the share of the dataset's
    rows that is never trained on; 0 holds none out. `max_tokens` bounds an answer. `seed` is that of the bootstrap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    golden_set: GoldenSource | None = Field(default=None, alias="goldenSet")
    held_out: float = Field(default=0.1, alias="heldOut")
    held_out_prompts: int = Field(default=50, alias="heldOutPrompts", ge=0, le=1000)
    max_tokens: int = Field(default=128, alias="maxTokens", ge=1, le=4096)
    seed: int = Field(default=0, ge=0, lt=2**32)
    judge: JudgePolicy | None = None
    lm_eval: LmEvalPolicy | None = Field(default=None, alias="lmEval")

    @field_validator("held_out")
    @classmethod
    def _leaves_rows_to_train_on(cls, share: float) -> float:
        if not 0 <= share <= MAX_SHARE:
            why = "leaves too little to train on" if share > MAX_SHARE else "is no share of the rows"
            raise ValueError(f"{why}; write one from 0 to {MAX_SHARE}")
        return share

    @field_validator("lm_eval", mode="before")
    @classmethod
    def _by_their_names(cls, given: object) -> object:
        return {"tasks": given} if isinstance(given, list | tuple) else given

    @field_validator("golden_set", mode="before")
    @classmethod
    def _by_name(cls, given: object) -> object:
        return {"configMap": given} if isinstance(given, str) else given
