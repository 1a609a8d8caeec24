"""The examples are right as they stand, and their table names them all."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from include.cli.__main__ import plan_for
from include.cli.main import main
from include.contracts.yaml_documents.reader import load_all

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def check(file: Path) -> dict[str, Any]:
    out = io.StringIO()
    main(["check", "--json", str(file)], out, plan_for)
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_an_example_passes_check_without_a_doubt(file: Path) -> None:
    report = check(file)
    assert report["exitCode"] == 0
    assert report["summary"]["workspaces"] == 1
    assert report["summary"]["passedOver"] == 0, "an example holds what its Workspace uses, and nothing else"
    workspace = next(one for one in report["files"][0]["documents"] if one["workspace"])
    assert all("deprecated" in notice for notice in workspace["notices"])  # the quick start's machine is
    assert workspace["plan"] or "own-nodes" in file.name
    assert workspace["sentences"], "what it takes, or why that cannot be told"


def test_the_table_names_every_example() -> None:
    table = (EXAMPLES / "README.md").read_text()
    named = re.findall(r"^\| \[(.+?)\]\(\1\) \| .+ \|$", table, re.MULTILINE)
    assert sorted(named) == [file.name for file in FILES]


def test_all_examples_at_once_are_fine() -> None:
    assert main(["check", str(EXAMPLES)], io.StringIO(), plan_for) == 0


def test_own_nodes_need_the_annotation_or_the_switch(tmp_path: Path) -> None:
    text = (EXAMPLES / "serving-own-nodes.yaml").read_text()
    bare = tmp_path / "bare.yaml"
    bare.write_text(re.sub(r"  annotations:\n    .*\n", "", text))
    assert main(["check", "--quiet", str(bare)], io.StringIO()) == 1
    assert main(["check", "--quiet", "--byo", str(bare)], io.StringIO()) == 0


def test_the_quick_start_s_dialect_is_kept_field_by_field() -> None:
    (found,) = load_all((EXAMPLES / "tuning-v1alpha1.yaml").read_bytes())
    output = found["tuning"].pop("output")
    assert set(output) == {"image", "imagePushSecret"}
    assert found == {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": "workspace-tuning-phi-3"},
        "resource": {
            "instanceType": "Standard_NC6s_v3",
            "labelSelector": {"matchLabels": {"app": "tuning-phi-3"}},
        },
        "tuning": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "method": "qlora",
            "input": {
                "urls": [
                    "https://huggingface.co/datasets/philschmid/dolly-15k-oai-style/resolve/main/data/"
                    "train-00000-of-00001-54e3756291ca09c6.parquet?download=true"
                ]
            },
        },
    }
