"""What a check found, as values: the text, JSON and GitHub outputs are three views of the same report.

It must never hold more than it shows: no documents, no secrets (faults come without them).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from include.workspace.validation.faults import Fault

FINE, FAULTY, UNREADABLE = 0, 1, 2


class Finding(NamedTuple):
    """One fault and where it is; `config_map` names the ConfigMap whose content it is about, "" for the Workspace."""

    file: str
    line: int
    column: int
    fault: Fault
    config_map: str = ""


class Problem(NamedTuple):
    """Why a file, or one document of it, could not be read; line and column 0 when there is no such place."""

    file: str
    line: int
    column: int
    message: str


@dataclass(slots=True)
class DocumentReport:
    """One object of a file. Only a Workspace has faults, a plan and notices; `passed_over` says what another one is.

    `used` marks a ConfigMap that is checked with the Workspaces that name it, `remarkable` what deserves a line even
    where a whole folder is passed over.
    """

    file: str
    line: int
    column: int
    kind: str
    name: str = ""
    namespace: str = ""
    passed_over: str = ""
    used: bool = False
    remarkable: bool = False
    faults: list[Finding] = field(default_factory=list)
    plan: dict[str, Any] | None = None
    sentences: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def is_workspace(self) -> bool:
        return not self.passed_over

    @property
    def title(self) -> str:
        name = self.name or "(no name)"
        return f"{self.kind} {self.namespace}/{name}" if self.namespace else f"{self.kind} {name}"


@dataclass(slots=True)
class FileReport:
    """One file: what could not be read of it, and its objects in their order."""

    name: str
    problems: list[Problem] = field(default_factory=list)
    documents: list[DocumentReport] = field(default_factory=list)
    walked: bool = False  # found in a folder, not asked for by name

    def in_order(self) -> list[Problem | DocumentReport]:
        """Problems and documents as they come in the file."""
        return sorted([*self.problems, *self.documents], key=lambda one: (one.line, one.column))


@dataclass(frozen=True)
class Report:
    """Everything that a check found."""

    files: Sequence[FileReport]

    def workspaces(self) -> Iterator[DocumentReport]:
        return (document for file in self.files for document in file.documents if document.is_workspace)

    @property
    def exit_code(self) -> int:
        """0 all fine, 1 some Workspace has faults, 2 something could not be read (whatever else there is)."""
        if any(file.problems for file in self.files):
            return UNREADABLE
        return FAULTY if any(document.faults for document in self.workspaces()) else FINE

    def summary(self) -> dict[str, int]:
        """The counts of the last line."""
        found = list(self.workspaces())
        return {
            "workspaces": len(found),
            "ok": sum(not one.faults for one in found),
            "faulty": sum(bool(one.faults) for one in found),
            "faults": sum(len(one.faults) for one in found),
            "passedOver": sum(
                not one.is_workspace and not one.used for file in self.files for one in file.documents
            ),
            "unreadable": sum(len(file.problems) for file in self.files),
        }
