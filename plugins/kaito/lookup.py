"""The catalogue that a run goes by: the presets, and the one model of the hub that its Workspace may name instead.

KAITO takes any `org/model`. The hub is asked once, in a run's first task; the plan carries what it said (commit, size,
names), so no later task asks again. A commit that the Workspace was given before stays. It must never be imported by a
DAG file's parse for its effects: asking is a call.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from include.catalog import Catalog, load_catalog
from include.workspace import Fault
from include.workspace.status import base_model
from kaito.settings import hub_lookup

log = logging.getLogger(__name__)

KEY = "HF_TOKEN"


@dataclass(frozen=True)
class Lookup:
    """A catalogue, and why the model that was asked for is not in it.

    :param transient: the hub gave no answer, so the same question may have one later.
    """

    catalog: Catalog
    fault: Fault | None = None
    transient: bool = False

    def with_doubt(self, faults: list[Fault]) -> list[Fault]:
        """Return the faults with the hub's own reason in the place of "is not a known preset"."""
        if self.fault is None:
            return faults
        return [self.fault, *(fault for fault in faults if fault.path != self.fault.path)]


def look_up(document: Mapping[str, Any], token: Callable[[], str | None]) -> Lookup:
    """Return the catalogue for a Workspace document, with the model of the hub that it names, if it names one.

    :param token: gives the hub token, and is only called when the hub is asked.
    """
    catalog = load_catalog()
    if not asks_the_hub(document):
        return Lookup(catalog)
    from include.catalog.hub import HubError, resolve

    path, name = base_model.preset_of(document)
    revision = base_model.kept(document) or base_model.asked(document) or "main"
    try:
        model = resolve(name, revision=revision, token=token())
        known = catalog.with_hub_model(model)
    except HubError as error:
        return Lookup(catalog, Fault(path, name, "I4", str(error).rstrip(".")), error.transient)
    except ValueError as error:
        return Lookup(catalog, Fault(path, name, "I4", f"{error}, under another name"))
    log.info("%s is not in the catalogue; the hub has it at %s.", name, model.revision)
    return Lookup(known)


def asks_the_hub(document: Mapping[str, Any]) -> bool:
    """Return whether a document names a model that only the hub may know, and the hub may be asked."""
    _, name = base_model.preset_of(document)
    if not name or load_catalog().has_model(name) or not hub_lookup():
        return False
    from include.catalog.hub import could_be_on_the_hub

    return could_be_on_the_hub(name)


def token_in(secret: Mapping[str, Any] | None) -> str | None:
    """Return the hub token that a Secret holds, or None."""
    encoded = ((secret or {}).get("data") or {}).get(KEY)
    try:
        text = base64.b64decode(encoded or "", validate=True).decode().strip()
    except (binascii.Error, ValueError, TypeError):
        return None
    return text if text.isascii() and text.isprintable() and text else None
