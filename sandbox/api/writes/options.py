"""How a request wants its object written; shared by every step of a write."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WriteOptions:
    """What a request says about how to write. `warnings` collects sentences for the Warning header."""

    manager: str = "sandbox"
    dry_run: bool = False
    force: bool = False
    validation: str = "Ignore"  # Ignore, Warn or Strict: what to do about unknown fields
    form: str = "body"  # body, patch or apply: how refusals are worded
    needs_version: bool = False  # a PUT over HTTP: kinds that demand a resourceVersion do so
    warnings: list[str] = field(default_factory=list)
