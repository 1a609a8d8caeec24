"""Reads a golden set: prompts with what a good answer is, written by the people who will use the model.

A YAML or JSON list, or JSON objects one a line. Every broken row is named at once, on the command line and in the
preflight, before a machine is paid for; the pod reads the same text by the same rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.contracts.evaluation import Matcher, digest_of
from include.contracts.faults import Fault, Hints
from include.contracts.yaml_documents.reader import BadDocument, check_depth, decode, load_one

RULE = "E2"
#: The key of the ConfigMap.
KEY = "golden.yaml"
MAX_ROWS = 2000
MAX_PROMPT, MAX_PATTERN = 32_000, 1000  # characters
MAX_TOKENS = 4096
MAX_ID = 100
#: The score from which a row passes, of matchers that give more than yes or no.
THRESHOLD = 0.5
FAULTS_SHOWN = 50
ROLES = ("system", "user", "assistant")
_KEYS = frozenset({"id", "prompt", "messages", "expected", "matcher", "threshold", "ignoreCase", "maxTokens"})
_MATCHERS = frozenset(map(str, Matcher))
_SCORED = (Matcher.ROUGE_L, Matcher.JUDGE)
_CASELESS = (Matcher.EXACT, Matcher.CONTAINS, Matcher.REGEX)

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """One row: what is asked, and how an answer is judged.

    :ivar expected: the text, the texts of which one has to be there, the pattern, or the JSON schema.
    :ivar threshold: the score (0 to 1) from which the row passes.
    :ivar max_tokens: the longest answer to this prompt, in tokens; None for the evaluation's own limit.
    """

    id: str
    messages: tuple[Message, ...]
    matcher: Matcher
    expected: Any
    threshold: float = THRESHOLD
    ignore_case: bool = False
    max_tokens: int | None = None

    @property
    def prompt(self) -> str:
        """The last message, for people."""
        return self.messages[-1]["content"]

    @property
    def shown_expected(self) -> str:
        return (
            self.expected if isinstance(self.expected, str) else json.dumps(self.expected, ensure_ascii=False)
        )


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """The rows, and the digest of the text that they were read from."""

    digest: str
    rows: tuple[GoldenPrompt, ...]

    @property
    def matchers(self) -> frozenset[Matcher]:
        return frozenset(row.matcher for row in self.rows)


class GoldenSetInvalid(ValueError):
    """A golden set that cannot be used; `faults` has every reason."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        shown = [str(fault) for fault in self.faults[:FAULTS_SHOWN]]
        left = len(self.faults) - len(shown)
        super().__init__("\n".join([*shown, *([f"and {left} more"] if left else [])]))


def read(data: str | bytes) -> GoldenSet:
    """The golden set that a text holds. Raises GoldenSetInvalid with every fault.

    :param data: YAML, JSON or JSON lines, at most 1 MiB.
    """
    try:
        text = decode(data)
        items = _items(text)
    except BadDocument as error:
        raise GoldenSetInvalid([Fault("", None, RULE, f"the golden set cannot be read: {error}")]) from None
    if not items:
        raise GoldenSetInvalid([Fault("", None, RULE, "the golden set has no rows")])
    if len(items) > MAX_ROWS:
        hint = "each of them is asked three times"
        raise GoldenSetInvalid(
            [Fault("", len(items), RULE, f"the golden set has more than {MAX_ROWS} rows", hint)]
        )
    reader, rows, faults = _Reader(), list[GoldenPrompt](), list[Fault]()
    for number, (path, item) in enumerate(items, 1):
        row, wrong = reader.row(path, item, number)
        faults += wrong
        if row is not None:
            rows.append(row)
    if faults:
        raise GoldenSetInvalid(faults)
    return GoldenSet(digest_of(text.encode()), tuple(rows))


def _items(text: str) -> list[tuple[str, object]]:
    """Rows with the place of each. Raises BadDocument."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith("{") for _, line in lines):
        return [(f"line {number}", _json_line(line, number)) for number, line in lines]
    value = load_one(text) if text.strip() else []
    if isinstance(value, Mapping):
        rows = value.get("golden")
        if isinstance(rows, list) and len(value) == 1:
            return [(f"golden[{index}]", item) for index, item in enumerate(rows)]
        return [("[0]", value)]
    if not isinstance(value, list):
        raise BadDocument("it is not a list of rows")
    return [(f"[{index}]", item) for index, item in enumerate(value)]


def _json_line(line: str, number: int) -> object:
    try:
        value = json.loads(line)
        check_depth(value)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"not a JSON object: {error}", number) from None
    return value


class _Reader:
    """Reads rows, and knows the ids that were there before."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.hints = Hints()

    def row(self, path: str, item: object, number: int) -> tuple[GoldenPrompt | None, list[Fault]]:
        if not isinstance(item, Mapping):
            hint = "write a mapping with prompt, expected and matcher"
            return None, [Fault(path, item, RULE, "is not a row of a golden set", hint)]
        faults = [
            Fault(
                f"{path}.{key}",
                None,
                RULE,
                "is no field of a golden row",
                self.hints.did_you_mean(str(key), _KEYS),
            )
            for key in item
            if key not in _KEYS
        ]
        known = {key: value for key, value in item.items() if value is not None}
        faults += self._id(path, known, number)
        faults += _question_faults(path, known)
        matcher, wrong = self._matcher(path, known)
        faults += wrong
        if matcher is not None:
            faults += _expected_faults(f"{path}.expected", matcher, known.get("expected"))
            faults += _option_faults(path, matcher, known)
        if faults or matcher is None:
            return None, faults
        return _built(known, matcher, number), []

    def _id(self, path: str, item: Mapping[str, Any], number: int) -> Iterator[Fault]:
        name = item.get("id", f"row-{number}")
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ID:
            yield Fault(
                f"{path}.id", name, RULE, "is not a name", f"write text of at most {MAX_ID} characters"
            )
        elif name in self.ids:
            yield Fault(
                f"{path}.id", name, RULE, f"is the id of {self.ids[name]} too", "give each row its own"
            )
        else:
            self.ids[name] = path

    def _matcher(self, path: str, item: Mapping[str, Any]) -> tuple[Matcher | None, list[Fault]]:
        name = item.get("matcher", str(Matcher.EXACT))
        if isinstance(name, str) and name in _MATCHERS:
            return Matcher(name), []
        hint = self.hints.did_you_mean(str(name), _MATCHERS)
        return None, [Fault(f"{path}.matcher", name, RULE, "is no matcher", hint)]


def _built(item: Mapping[str, Any], matcher: Matcher, number: int) -> GoldenPrompt:
    messages = item.get("messages") or [{"role": "user", "content": item["prompt"]}]
    expected = item["expected"]
    if matcher is Matcher.JSON_SCHEMA and isinstance(expected, str):
        expected = json.loads(expected)
    return GoldenPrompt(
        id=item.get("id", f"row-{number}"),
        messages=tuple({"role": one["role"], "content": one["content"]} for one in messages),
        matcher=matcher,
        expected=expected,
        threshold=float(item.get("threshold", THRESHOLD)),
        ignore_case=item.get("ignoreCase", False),
        max_tokens=item.get("maxTokens"),
    )


def _question_faults(path: str, item: Mapping[str, Any]) -> Iterator[Fault]:
    prompt, messages = item.get("prompt"), item.get("messages")
    if (prompt is None) == (messages is None):
        yield Fault(path, None, RULE, "has neither or both of prompt and messages", "give one of them")
    elif messages is None:
        yield from _text_faults(f"{path}.prompt", prompt)
    elif not isinstance(messages, list) or not messages:
        yield Fault(f"{path}.messages", messages, RULE, "is not a list of messages")
    else:
        for index, message in enumerate(messages):
            yield from _message_faults(f"{path}.messages[{index}]", message)
        last = messages[-1]
        if isinstance(last, Mapping) and last.get("role") != "user":
            yield Fault(
                f"{path}.messages[{len(messages) - 1}].role",
                last.get("role"),
                RULE,
                "is not user",
                "end with a question",
            )


def _message_faults(path: str, message: object) -> Iterator[Fault]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        yield Fault(path, None, RULE, "is not a message", "write role and content, nothing else")
        return
    if message["role"] not in ROLES:
        yield Fault(f"{path}.role", message["role"], RULE, "is no role", f"one of {', '.join(ROLES)}")
    yield from _text_faults(f"{path}.content", message["content"])


def _text_faults(path: str, text: object, limit: int = MAX_PROMPT) -> Iterator[Fault]:
    if not isinstance(text, str):
        yield Fault(path, text, RULE, "is not text", "write it in quotes")
    elif not text.strip():
        yield Fault(path, text, RULE, "is empty")
    elif len(text) > limit:
        yield Fault(path, text, RULE, f"is longer than {limit} characters")


def _expected_faults(path: str, matcher: Matcher, expected: object) -> Iterator[Fault]:
    if expected is None:
        yield Fault(path, None, RULE, "is missing", "say what a good answer is")
    elif matcher is Matcher.JSON_SCHEMA:
        yield from _schema_faults(path, expected)
    elif matcher is Matcher.REGEX:
        yield from _pattern_faults(path, expected)
    elif matcher is Matcher.CONTAINS and isinstance(expected, list) and expected:
        for index, one in enumerate(expected):
            yield from _text_faults(f"{path}[{index}]", one)
    else:
        yield from _text_faults(path, expected)


def _pattern_faults(path: str, pattern: object) -> Iterator[Fault]:
    import regex

    faults = list(_text_faults(path, pattern, MAX_PATTERN))
    yield from faults
    if faults:
        return
    try:
        regex.compile(str(pattern))
    except (regex.error, OverflowError, RecursionError) as error:
        yield Fault(path, pattern, RULE, f"is no regular expression: {error}")


def _schema_faults(path: str, schema: object) -> Iterator[Fault]:
    import jsonschema

    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            yield Fault(path, schema, RULE, f"is no JSON schema: {error}")
            return
    if not isinstance(schema, Mapping):
        yield Fault(path, schema, RULE, "is no JSON schema", "write a mapping such as {type: object}")
        return
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        yield Fault(path, None, RULE, f"is no JSON schema: {error.json_path}: {error.message[:200]}")
    for pattern in _patterns(schema):
        yield from _pattern_faults(path, pattern)
    references = (one for one in _named(schema, "$ref") if isinstance(one, str))
    if not all(one.startswith("#") for one in references):
        yield Fault(
            path, None, RULE, "refers to another schema", "write it under $defs, and refer to #/$defs/..."
        )


def _patterns(schema: object) -> Iterator[str]:
    yield from (one for one in _named(schema, "pattern") if isinstance(one, str))
    for properties in _named(schema, "patternProperties"):
        yield from map(str, properties) if isinstance(properties, Mapping) else ()


def _named(value: object, key: str) -> Iterator[object]:
    """Whatever stands under this key, at any depth."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name == key:
                yield item
            yield from _named(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item, key)


def _option_faults(path: str, matcher: Matcher, item: Mapping[str, Any]) -> Iterator[Fault]:
    threshold, caseless, tokens = (item.get(key) for key in ("threshold", "ignoreCase", "maxTokens"))
    if threshold is not None:
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not number or not 0 < threshold <= 1:
            yield Fault(f"{path}.threshold", threshold, RULE, "is not a number above 0 and at most 1")
        elif matcher not in _SCORED:
            hint = f"only {' and '.join(_SCORED)} give a score"
            yield Fault(f"{path}.threshold", threshold, RULE, f"has no sense for {matcher}", hint)
    if caseless is not None:
        if not isinstance(caseless, bool):
            yield Fault(f"{path}.ignoreCase", caseless, RULE, "is not true or false")
        elif matcher not in _CASELESS:
            yield Fault(f"{path}.ignoreCase", caseless, RULE, f"has no sense for {matcher}")
    if tokens is not None and (type(tokens) is not int or not 0 < tokens <= MAX_TOKENS):
        yield Fault(f"{path}.maxTokens", tokens, RULE, f"is not a whole number from 1 to {MAX_TOKENS}")
