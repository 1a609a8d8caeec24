"""Models of the hub that Workspaces name and no preset is: looked up for `check --hub`, and only then.

One question a name, whatever number of Workspaces name it. It must never be asked without the switch: a check works
without a network, and tells nobody what somebody is about to run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from include.catalog import Catalog, Model
from include.workspace.validation.faults import Fault

Resolve = Callable[[str], Model]  # raises include.catalog.hub.HubError


def from_the_hub(name: str) -> Model:
    """Ask the hub (HF_ENDPOINT, else huggingface.co), with the token of HF_TOKEN where there is one."""
    from include.catalog.hub import resolve

    return resolve(name, token=os.environ.get("HF_TOKEN", "").strip() or None)


class HubModels:
    """The catalogue of each Workspace: the presets, and the model of the hub that it names."""

    def __init__(self, catalog: Catalog, resolve: Resolve | None) -> None:
        """`resolve` is None where the hub may not be asked."""
        self._catalog = catalog
        self._resolve = resolve
        self._known: dict[str, tuple[Catalog, Fault | None]] = {}

    def of(self, document: Mapping[str, Any]) -> tuple[Catalog, Fault | None]:
        """The catalogue for a document of any shape, and why the hub's model is not in it."""
        for section in ("tuning", "inference"):
            part = document.get(section)
            preset = part.get("preset") if isinstance(part, Mapping) else None
            name = preset.get("name") if isinstance(preset, Mapping) else None
            if self._resolve is None or not isinstance(name, str) or self._catalog.has_model(name):
                continue
            key = f"{section} {name}"
            if key not in self._known:
                self._known[key] = self._ask(f"{section}.preset.name", name, self._resolve)
            return self._known[key]
        return self._catalog, None

    def _ask(self, path: str, name: str, resolve: Resolve) -> tuple[Catalog, Fault | None]:
        from include.catalog.hub import HubError, could_be_on_the_hub

        if not could_be_on_the_hub(name):
            return self._catalog, None
        try:
            return self._catalog.with_hub_model(resolve(name)), None
        except HubError as error:
            return self._catalog, Fault(path, name, "I4", str(error).rstrip("."))
        except ValueError as error:
            return self._catalog, Fault(path, name, "I4", f"{error}, under another name")
