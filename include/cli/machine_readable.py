"""A report for programs: one JSON document, or GitHub's annotations. Both shapes are promises.

JSON: {"version": 1, "exitCode", "summary": {workspaces, ok, faulty, faults, unreadable}, "files": [{"path",
"problems": [{line, column, message}], "documents": [{line, column, kind, name, namespace, workspace, ok, used,
passedOver, faults: [{file, line, column, configMap, path, value, rule, message, hint}], plan, sentences, notices}]}]}.
Lines and columns count from 1; 0 means that there is no place. Fields are only ever added.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from include.cli.report import (
    DocumentReport,
    FileReport,
    Finding,
    Report,
)
from include.contracts.redaction import redact, redacted

VERSION = 1


def as_json(report: Report) -> str:
    """The whole report as one JSON document (shape: the module's docstring)."""
    document = {
        "version": VERSION,
        "exitCode": report.exit_code,
        "summary": report.summary(),
        "files": [_file(file) for file in report.files],
    }
    return json.dumps(redacted(document), indent=2, default=str, allow_nan=False)


def _file(file: FileReport) -> dict[str, Any]:
    problems = [{"line": one.line, "column": one.column, "message": one.message} for one in file.problems]
    return {"path": file.name, "problems": problems, "documents": [_document(one) for one in file.documents]}


def _document(document: DocumentReport) -> dict[str, Any]:
    return {
        "line": document.line,
        "column": document.column,
        "kind": document.kind,
        "name": document.name,
        "namespace": document.namespace,
        "workspace": document.is_workspace,
        "ok": not document.faults if document.is_workspace else None,
        "used": document.used,
        "passedOver": None if document.used else document.passed_over or None,
        "faults": [_fault(one) for one in document.faults],
        "plan": document.plan,
        "sentences": document.sentences,
        "notices": document.notices,
    }


def _fault(finding: Finding) -> dict[str, Any]:
    fault = finding.fault
    return {
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "configMap": finding.config_map or None,
        "path": fault.path,
        "value": None if fault.value is None else fault.shown,
        "rule": fault.rule,
        "message": fault.message,
        "hint": fault.hint,
    }


def as_annotations(report: Report) -> Iterator[str]:
    """GitHub's workflow commands: errors for faults and unreadable files, warnings for notices."""
    for file in report.files:
        for problem in file.problems:
            yield _annotation(
                "error", file.name, problem.line, problem.column, "not readable", problem.message
            )
        for document in file.documents:
            for finding in document.faults:
                subject = f"ConfigMap {finding.config_map}" if finding.config_map else document.title
                where = finding.file, finding.line, finding.column
                yield _annotation("error", *where, subject, str(finding.fault))
            for notice in document.notices:
                where = document.file, document.line, document.column
                yield _annotation("warning", *where, document.title, notice)


def _annotation(level: str, file: str, line: int, column: int, title: str, message: str) -> str:
    place = f"file={_property(file)},line={line or 1},col={column or 1},title={_property(title)}"
    return f"::{level} {place}::{_data(redact(message))}"


def _data(text: str) -> str:
    """GitHub's escapes for the text of a command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
