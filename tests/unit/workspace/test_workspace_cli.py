"""`python -m include.workspace`: exit codes, several documents, no Airflow."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workspaces import QUICK_START, SERVING

from include.workspace.cli import main

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(arguments, out), out.getvalue()


def test_a_good_workspace_is_ok_with_its_notices(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(QUICK_START)
    code, text = run("check", str(tmp_path / "w.yaml"))
    assert code == 0
    assert "w.yaml: Workspace workspace-tuning-phi-3: OK" in text
    assert "Standard_NC6s_v3 is deprecated" in text


def test_faults_of_every_document_and_other_kinds_passed_over(tmp_path: Path) -> None:
    bad = QUICK_START.replace("qlora", "dora").replace("kind: Workspace", "kind: Workspacee")
    documents = [bad, yaml.safe_dump(SERVING), "kind: ConfigMap\napiVersion: v1\n", "[1]\n"]
    (tmp_path / "w.yaml").write_text("---\n".join(documents))
    code, text = run("check", str(tmp_path / "w.yaml"))
    assert code == 1
    assert "Workspace workspace-tuning-phi-3: 2 faults" in text
    assert "[U1]" in text
    assert "[S2]" in text
    assert "Workspace serve-phi: OK" in text
    assert "passed over ConfigMap" in text
    assert "passed over a document that is no object" in text


@pytest.mark.parametrize(
    ("content", "words"), [("", "holds no document"), ("a: [", "not YAML"), ("a: 1\na: 2", "twice")]
)
def test_what_holds_no_workspace(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "w.yaml").write_text(content)
    code, text = run("check", str(tmp_path / "w.yaml"))
    assert (code, words in text) == (1, True)


def test_a_missing_file_is_exit_code_2_and_the_rest_is_still_checked(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(QUICK_START)
    code, text = run("check", str(tmp_path / "none.yaml"), str(tmp_path / "w.yaml"))
    assert code == 2
    assert "none.yaml: cannot be read: No such file or directory" in text
    assert "OK" in text


def test_private_addresses_by_option(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(QUICK_START.replace("huggingface.co", "127.0.0.1:8000"))
    assert run("check", str(tmp_path / "w.yaml"))[0] == 1
    assert run("check", "--allow-network", "127.0.0.0/8", str(tmp_path / "w.yaml"))[0] == 0


def test_the_schema_is_json() -> None:
    assert json.loads(run("schema")[1])["properties"]["tuning"]


def test_it_runs_as_a_program_without_airflow_or_a_cluster_client() -> None:
    code = (
        "import sys; from include.workspace.cli import main; code = main(['check', '-']);"
        "loaded = {m.partition('.')[0] for m in sys.modules};"
        "assert not loaded & {'airflow', 'kubernetes', 'torch', 'aiohttp', 'requests'}, loaded; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=QUICK_START, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("-: Workspace workspace-tuning-phi-3: OK")
