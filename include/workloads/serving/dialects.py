"""The two ways to ask: KAITO v0.2's `/chat` and OpenAI's `/v1/chat/completions`, as data and nothing else.

Both become a `Ask`: messages or a prompt, a limit, sampling. Whatever changes the meaning of a request and is not
supported is refused with the field's name, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_NEW_TOKENS = 200  # KAITO's max_length default; ours counts the answer only
MAX_PROMPT_CHARACTERS = 1_000_000
# Logits divided by less than this leave the range of numbers, and a draw from what is left poisons a CUDA device. vLLM
# keeps the same limit. Next to no temperature is none: greedy.
LEAST_TEMPERATURE = 0.01

Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(gt=0, le=1)]


def next_to_none(temperature: float | None) -> bool:
    """Whether a temperature asks for greedy answers."""
    return temperature is not None and temperature < LEAST_TEMPERATURE


class GenerateKwargs(BaseModel):
    """`generate_kwargs` of `/chat`: names of transformers' generate(), checked; greedy unless sampling is asked for."""

    model_config = ConfigDict(extra="forbid")

    max_length: int | None = Field(None, ge=1, description="prompt and answer together, in tokens")
    max_new_tokens: int | None = Field(None, ge=1)
    min_length: int = Field(0, ge=0)
    min_new_tokens: int | None = Field(None, ge=0)
    do_sample: bool | None = None
    temperature: Temperature | None = None
    top_k: int | None = Field(None, ge=0)
    top_p: Share | None = None
    typical_p: Share | None = None
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    no_repeat_ngram_size: int | None = Field(None, ge=0)
    num_beams: Literal[1] = 1
    num_return_sequences: Literal[1] = 1
    early_stopping: bool = False
    use_cache: bool = True
    pad_token_id: int | None = None
    eos_token_id: int | None = None

    @field_validator("min_length")
    @classmethod
    def _no_min_length(cls, value: int) -> int:
        if value:
            raise ValueError("it counts the prompt too, which no runtime does here; use min_new_tokens")
        return value

    def sampling(self) -> dict[str, Any]:
        """generate()'s arguments. A temperature of 0 means greedy; a temperature, top_p or top_k asks for sampling."""
        wished = self.do_sample
        if wished is None:
            wished = (
                self.temperature is not None or self.top_p not in (None, 1) or self.typical_p not in (None, 1)
            )
        found: dict[str, Any] = {}
        if wished and not next_to_none(self.temperature):
            found = {"do_sample": True, "temperature": self.temperature or 1.0}
            for key in ("top_k", "top_p", "typical_p"):
                if (value := getattr(self, key)) is not None:
                    found[key] = value
        for key in ("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"):
            if (value := getattr(self, key)) is not None:
                found[key] = value
        return found


class Message(BaseModel):
    """One chat message; text parts are joined."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str = ""

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        texts = []
        for part in value:
            if not isinstance(part, dict) or part.get("type") != "text":
                raise ValueError("only parts of type text can be read by this model")
            texts.append(str(part.get("text", "")))
        return "\n".join(texts)

    @field_validator("role")
    @classmethod
    def _developer_is_system(cls, value: str) -> str:
        return "system" if value == "developer" else value


class KaitoChat(BaseModel):
    """Body of `POST /chat`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = Field(None, min_length=1, max_length=MAX_PROMPT_CHARACTERS)
    messages: list[Message] | None = Field(None, min_length=1)
    return_full_text: bool = True
    clean_up_tokenization_spaces: bool = False
    prefix: str | None = None
    handle_long_generation: Literal["hole"] | None = None
    generate_kwargs: GenerateKwargs = Field(default_factory=GenerateKwargs)

    @model_validator(mode="after")
    def _one_question(self) -> KaitoChat:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt (text) or messages (a list of role and content), not both")
        return self


def result_of(question: KaitoChat, text: str) -> str:
    """`Result` of an answer: the text, after the prompt where the whole text is asked for (KAITO's default)."""
    if question.clean_up_tokenization_spaces:
        text = text.strip()
    if question.return_full_text and question.prompt is not None:
        return f"{question.prefix or ''}{question.prompt}\n{text}"
    return text


class Nothing(BaseModel):
    """A value that asks for nothing."""


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class ChatCompletion(BaseModel):
    """Body of `POST /v1/chat/completions`; fields without effect here are ignored, as OpenAI's clients expect."""

    model_config = ConfigDict(extra="ignore")

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: Temperature | None = None
    top_p: Share | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    tools: list[Nothing] | None = Field(None, max_length=0)
    response_format: dict[str, Any] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None

    @field_validator("stop")
    @classmethod
    def _stop_list(cls, value: str | list[str] | None) -> list[str]:
        found = [value] if isinstance(value, str) else list(value or [])
        if len(found) > 4 or not all(found):
            raise ValueError("at most 4 texts, none empty")
        return found

    @field_validator("response_format")
    @classmethod
    def _text_only(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value and value.get("type", "text") != "text":
            raise ValueError("only the type text is supported")
        return value

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        return list(self.stop or [])

    def sampling(self) -> dict[str, Any]:
        """generate()'s arguments; greedy unless temperature or top_p say otherwise."""
        if next_to_none(self.temperature) or (self.temperature is None and self.top_p in (None, 1)):
            return {}
        found: dict[str, Any] = {"do_sample": True, "temperature": self.temperature or 1.0, "top_k": 0}
        if self.top_p is not None:
            found["top_p"] = self.top_p
        return found


class ApiError(Exception):
    """An answer other than 200, in OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`"""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def validation_error(errors: list[Any]) -> ApiError:
    """All faults of a request body in one sentence, each with its field."""
    if any(item["type"] == "json_invalid" for item in errors):
        return ApiError(400, "The body is not valid JSON.")
    parts = []
    for item in errors:
        field = ".".join(str(part) for part in item["loc"] if part != "body")
        reason = str(item["msg"]).removeprefix("Value error, ")
        parts.append((field, f"{field}: {reason}" if field else reason))
    return ApiError(400, "; ".join(text for _, text in parts), param=parts[0][0] or None if parts else None)
