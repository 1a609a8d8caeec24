"""A retraining's policy: what makes a candidate good enough, how often the data is looked at, who must approve.

It is the text `retrain_policy.yaml` of a ConfigMap, the part `policy` of a file in dags/retraining, or a dict in
Python. All faults are reported at once, with the nearest known name for a misspelt one. Without an evaluation nothing
measured can speak for a candidate, so a person has to, unless the policy says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from include.contracts.evaluation_policy import EvaluationPolicy
from include.contracts.faults import Fault, did_you_mean
from include.contracts.yaml_documents.reader import BadDocument, load_one
from include.retraining.durations import duration

KEY = "retrain_policy.yaml"
RULE = "D6"

CONFIG_MAP_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"

Length = Annotated[timedelta, BeforeValidator(duration)]


def _some(length: timedelta) -> timedelta:
    if not length:
        raise ValueError("would be without a pause; write 1m or more, such as 1h")
    return length


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class When(StrEnum):
    """What a time of the schedule means."""

    #: Train each time.
    ALWAYS = "always"
    #: Train when the dataset has changed.
    CHANGED = "changed"


class OnTimeout(StrEnum):
    """What happens when nobody has answered in time."""

    REFUSE = "refuse"
    PROMOTE = "promote"


class Start(StrEnum):
    """What a candidate's training begins with."""

    #: The base model alone: each version stands on its dataset and nothing else.
    SCRATCH = "scratch"
    #: The adapter that answers today.
    CURRENT = "current"


class MinimumChange(_Part):
    """How much of the data must have changed."""

    rows: int = Field(default=0, ge=0)
    share: float = Field(default=0.0, ge=0.0, le=1.0, strict=False)


class Watch(_Part):
    """How often the dataset's server is asked; never more often than that."""

    every: Annotated[Length, AfterValidator(_some)] = timedelta(hours=1)


class Approval(_Part):
    """Whether a person decides. `required` None: where nothing is measured."""

    required: bool | None = None
    by: tuple[str, ...] = Field(default=(), strict=False)
    timeout: Length = timedelta(days=3)
    on_timeout: OnTimeout = Field(default=OnTimeout.REFUSE, alias="onTimeout", strict=False)


class Bake(_Part):
    """How long a promoted version is watched before it counts as good, and what takes it back.

    `errors` is the share of its answers that may fail. `latency` is how many times as long as before its answers may
    take on average, 0 for any time. `questions` is how many golden questions the service is asked when it has been
    rolled out, of those that the candidate has passed.
    """

    time: Length = timedelta(minutes=2)
    errors: float = Field(default=0.05, ge=0.0, le=1.0, strict=False)
    latency: float = Field(default=3.0, ge=0.0, le=100.0, strict=False)
    questions: int = Field(default=3, ge=0, le=50)


class Canary(_Part):
    """A trial before the promotion: both versions in one server, and the new one answers `percent` of the requests.

    The bake's limits hold, against what the version that is served does meanwhile. `time` is how long it must hold out.
    """

    percent: float = Field(gt=0.0, lt=100.0, strict=False)
    time: Length = timedelta(minutes=2)


class Policy(_Part):
    """A whole policy.

    `gate` has expressions that must all be true of the evaluation's report; `evaluation` says what is measured.
    `config` names a ConfigMap with another training_config.yaml than the Workspace's own tuning had: who goes on from
    an adapter needs fewer passes than who begins.
    """

    when: When = Field(default=When.CHANGED, strict=False)
    gate: tuple[str, ...] = Field(default=(), strict=False, max_length=50)
    evaluation: EvaluationPolicy | None = None
    minimum_change: MinimumChange = Field(default=MinimumChange(), alias="minimumChange")
    cool_down: Length = Field(default=timedelta(), alias="coolDown")
    watch: Watch = Watch()
    approval: Approval = Approval()
    canary: Canary | None = None
    bake: Bake = Bake()
    keep: int = Field(default=5, ge=1, le=100)
    start: Start = Field(default=Start.SCRATCH, alias="from", strict=False)
    config: Annotated[str, Field(pattern=CONFIG_MAP_NAME)] | None = None

    @property
    def needs_approval(self) -> bool:
        required = self.approval.required
        return self.evaluation is None if required is None else required

    def as_dict(self) -> dict[str, Any]:
        """The policy as its author would write it, with every default: small and plain, for XCom."""
        found = self.model_dump(mode="json", by_alias=True)
        return _with_lengths(found, self)


def _with_lengths(found: dict[str, Any], policy: Policy) -> dict[str, Any]:
    from include.retraining.durations import in_words

    found["coolDown"] = in_words(policy.cool_down)
    found["watch"]["every"] = in_words(policy.watch.every)
    found["approval"]["timeout"] = in_words(policy.approval.timeout)
    found["bake"]["time"] = in_words(policy.bake.time)
    if policy.canary:
        found["canary"]["time"] = in_words(policy.canary.time)
    return found


class PolicyInvalid(ValueError):
    """A policy that cannot be used; `faults` has every reason."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("\n".join(map(str, faults)))


def read(text: str) -> Policy:
    """A policy from its YAML. Raises PolicyInvalid."""
    return of(document(text))


def document(text: str) -> object:
    """What the YAML of a policy holds, {} for none. Raises PolicyInvalid where it is no YAML."""
    if not text.strip():
        return {}
    try:
        return load_one(text)
    except BadDocument as error:
        raise PolicyInvalid([Fault("", None, RULE, f"the policy is no YAML: {error}")]) from None


def of(value: object) -> Policy:
    """A policy from a mapping. Raises PolicyInvalid with every fault."""
    policy, found = examine(value)
    if policy is None or found:
        raise PolicyInvalid(found)
    return policy


def examine(value: object, path: str = "") -> tuple[Policy | None, list[Fault]]:
    """The policy and everything that is wrong with it; `path` is where it stands."""
    if not isinstance(value, Mapping):
        return None, [Fault(path, value, RULE, "a policy is a mapping of keys to values")]
    try:
        policy = Policy.model_validate(dict(value))
    except ValidationError as error:
        return None, list(_faults(error, path))
    if policy.gate and policy.evaluation is None:
        where = f"{path}.gate" if path else "gate"
        hint = "give the policy an evaluation (a goldenSet, or heldOut rows), or leave the gate out"
        return None, [Fault(where, None, RULE, "has nothing to judge by", hint)]
    return policy, []


def _faults(error: ValidationError, path: str) -> Iterator[Fault]:
    for one in error.errors(include_url=False):
        where = path
        for step in one["loc"]:
            where = f"{where}[{step}]" if isinstance(step, int) else f"{where}.{step}" if where else str(step)
        given = one.get("input")
        if one["type"] == "extra_forbidden":
            name = str(one["loc"][-1])
            yield Fault(
                where, name, RULE, "is not a key of a policy", did_you_mean(name, _keys(one["loc"][:-1]))
            )
        elif one["type"] == "missing":
            yield Fault(where, None, RULE, "is required")
        else:
            yield Fault(where, _plain(given), RULE, _sentence(one["msg"]))


def _keys(path: tuple[int | str, ...]) -> frozenset[str]:
    """The keys that a part of the policy has."""
    model: Any = Policy
    for step in path:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        model = _model(fields[str(step)].annotation) if str(step) in fields else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return frozenset()
    return frozenset(field.alias or name for name, field in model.model_fields.items())


def _model(annotation: object) -> Any:
    """The model of a field that may be left out."""
    return next((one for one in getattr(annotation, "__args__", ()) if one is not type(None)), annotation)


def _plain(given: object) -> object:
    return given if isinstance(given, (str, int, float, bool, type(None))) else type(given).__name__


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "should be")
