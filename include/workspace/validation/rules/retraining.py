"""Rules about retraining: the annotations that say when, in which time zone and by which policy."""

from __future__ import annotations

from collections.abc import Iterator

from include.contracts.held_out import MAX_SHARE
from include.workspace.api import names
from include.workspace.validation.faults import Fault
from include.workspace.validation.rules.context import Context, Rule, secret_name_fault


def schedule_fires(context: Context) -> Iterator[Fault]:
    """D1 and D4."""
    given = context.ws.annotations.get(names.RETRAIN_SCHEDULE)
    if given is None:
        return
    from include.retraining.schedule import BadSchedule, parse

    path = f"metadata.annotations[{names.RETRAIN_SCHEDULE}]"
    try:
        schedule = parse(given)
    except BadSchedule as error:
        yield Fault(path, given, "D1", str(error), error.hint)
        return
    source = context.ws.tuning.input if context.ws.tuning else None
    if schedule.on_data and source is not None and not (source.urls or source.image):
        hint = "name the data by urls or an image, or write a cron expression"
        yield Fault(path, given, "D4", "a volume cannot be watched for new data", hint)


def time_zone_exists(context: Context) -> Iterator[Fault]:
    """D2."""
    given = context.ws.annotations.get(names.RETRAIN_TIMEZONE)
    if given is None:
        return
    from include.retraining.schedule import BadSchedule, zone_of

    path = f"metadata.annotations[{names.RETRAIN_TIMEZONE}]"
    try:
        zone_of(given)
    except BadSchedule as error:
        yield Fault(path, given, "D2", str(error), error.hint)
        return
    if names.RETRAIN_SCHEDULE not in context.ws.annotations:
        yield Fault(
            path, given, "D2", "has no schedule to apply to", f"set {names.RETRAIN_SCHEDULE}, or remove it"
        )


def there_is_an_image_to_version(context: Context) -> Iterator[Fault]:
    """D3."""
    given = context.ws.annotations.get(names.RETRAIN_SCHEDULE)
    if given is None or (context.ws.tuning is not None and context.ws.tuning.output.image):
        return
    path = f"metadata.annotations[{names.RETRAIN_SCHEDULE}]"
    hint = "remove it, or push the adapter of a tuning (tuning.output.image)"
    yield Fault(path, given, "D3", "there is no pushed adapter of which this could make versions", hint)


def policy_is_a_config_map(context: Context) -> Iterator[Fault]:
    """D5: what it holds is checked where it can be read."""
    given = context.ws.annotations.get(names.RETRAIN_POLICY)
    if given is not None:
        yield from secret_name_fault(f"metadata.annotations[{names.RETRAIN_POLICY}]", given, "D5")


def held_out_share_is_one(context: Context) -> Iterator[Fault]:
    """E3."""
    given = context.ws.annotations.get(names.HELD_OUT)
    if given is None:
        return
    try:
        share = float(given)
    except ValueError:
        share = -1.0
    if not 0 <= share <= MAX_SHARE:
        path = f"metadata.annotations[{names.HELD_OUT}]"
        hint = f"write one from 0 to {MAX_SHARE}: the rest is trained on"
        yield Fault(path, given, "E3", "is not a share of rows", hint)


RULES: tuple[Rule, ...] = (
    schedule_fires,
    time_zone_exists,
    there_is_an_image_to_version,
    policy_is_a_config_map,
    held_out_share_is_one,
)
