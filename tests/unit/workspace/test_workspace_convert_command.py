"""`convert` prints Workspaces in the other version, and everything else as its author wrote it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from include.cli.converting import convert_text
from include.cli.main import main
from include.contracts.yaml_documents.reader import load_all
from tests.support.quick_start import QUICK_START

OTHER = "# kept\nkind: Deployment   # as it is\nmetadata: {name: web}\n"


def test_other_kinds_pass_through_and_there_and_back_is_the_same() -> None:
    text = "---\n".join([OTHER, QUICK_START, OTHER])
    beta, problems = convert_text(text.encode(), "v1beta1")
    assert problems == []
    assert beta.startswith(OTHER)
    assert beta.endswith("---\n" + OTHER)
    assert list(load_all(beta))[1]["apiVersion"] == "kaito.sh/v1beta1"
    back, _ = convert_text(beta.encode(), "v1alpha1")
    assert list(load_all(back)) == list(load_all(text))
    assert convert_text(text.encode(), "v1alpha1")[0] == text


@pytest.mark.parametrize("bad", ["a: [", "apiVersion: kaito.sh/v9\nkind: Workspace\n"])
def test_what_cannot_be_converted_is_printed_as_it_is_and_told(
    bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.yaml").write_text(QUICK_START + "---\n" + bad)
    out = io.StringIO()
    assert main(["convert", "--to", "v1beta1", str(tmp_path / "w.yaml")], out) == 2
    assert out.getvalue().endswith("---\n" + bad)
    assert "line 2" in capsys.readouterr().err
