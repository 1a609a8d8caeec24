"""From an answer to the data behind it, and from a dataset to what stands on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.cli.main import main
from include.retraining.lineage import links, trace

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
ROWS = f"sha256+columns:{'d' * 64}"


def workspace(name: str, served: str, **retrain: Any) -> dict[str, Any]:
    status: dict[str, Any] = {"adapter": {"digest": served}} if served else {}
    return {"kind": "Workspace", "metadata": {"name": name}, "status": {**status, "retrain": retrain}}


KNOWN = [
    workspace(
        "phi",
        B,
        versions=[
            {"version": "20261127.1", "digest": A, "state": "promoted", "dataset": {"digest": C, "rows": 9}},
            {
                "version": "20261128.1",
                "digest": B,
                "state": "promoted",
                "dataset": {"digest": ROWS, "rows": 11, "added": 3, "removed": 1},
            },
        ],
    ),
    workspace("other", A),
    workspace("empty", ""),
]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("phi", [("20261128.1", "served"), ("20261127.1", "promoted")]),
        ("default/other", [("original", "served")]),
        (ROWS, [("20261128.1", "served")]),
        ("d" * 12, [("20261128.1", "served")]),
        (A, [("original", "served"), ("20261127.1", "promoted")]),
        ("20261127.1", [("20261127.1", "promoted")]),
        ("d" * 11, []),
        ("empty", []),
    ],
)
def test_a_word_leads_both_ways(what: str, expected: list[tuple[str, str]]) -> None:
    assert [(link.version, link.state) for link in trace(links(KNOWN), what)] == expected


def test_what_the_first_tuning_has_learnt_from_is_known() -> None:
    first = workspace("phi", A)
    first["status"]["adapter"]["dataset"] = {"digest": ROWS, "rows": 30}
    [link] = trace(links([first]), ROWS)
    assert (
        link.sentence()
        == f"dataset {ROWS} (30 rows) -> adapter {A} (version original) -> default/phi: served"
    )


def test_a_dataset_stands_behind_what_was_trained_on_from_its_adapter() -> None:
    chain = [
        {"version": "1", "digest": A, "state": "promoted", "dataset": {"digest": ROWS}},
        {"version": "2", "digest": B, "state": "promoted", "dataset": {"digest": A}, "from": A},
        {"version": "3", "digest": C, "state": "candidate", "dataset": {"digest": B}, "from": B},
    ]
    found = trace(links([workspace("phi", C, versions=chain)]), ROWS)
    assert [link.version for link in found] == ["3", "1", "2"]
    assert f"(version 3, continued from {B})" in found[0].sentence()
    assert [link.version for link in trace(links([workspace("phi", C, versions=chain)]), "3")] == ["3"]


def test_the_command_reads_what_kubectl_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "all.json"
    listed.write_text(json.dumps({"kind": "List", "items": KNOWN}))
    assert main(["trace", "--file", str(listed), ROWS]) == 0
    out = capsys.readouterr().out
    data = f"dataset {ROWS} (11 rows, +3 \u22121 rows)"
    assert out == f"{data} -> adapter {B} (version 20261128.1) -> default/phi: served\n"
    assert main(["trace", "--file", str(listed), "nobody"]) == 1
    listed.write_text("{")
    assert main(["trace", "--file", str(listed), "phi"]) == 2
