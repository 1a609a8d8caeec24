"""`python -m include.cli`: exit codes, outputs, files and folders; starts without Airflow."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.cli import text
from include.cli.__main__ import plan_for
from include.cli.main import main
from tests.support.quick_start import QUICK_START
from tests.support.workspaces import SERVING, TUNING, changed

ROOT = Path(__file__).parents[3]
BAD = QUICK_START.replace("qlora", "dora").replace("    imagePushSecret: acr-secret\n", "")


def run(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(arguments, out, plan_for), out.getvalue()


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "include.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """Writes a file and gives its name."""

    def write(content: str | bytes, name: str = "w.yaml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def test_a_good_workspace_is_ok_with_its_plan(file: Any) -> None:
    name = file(QUICK_START)
    code, shown = run("check", name)
    assert code == 0
    first, *plan, last = shown.splitlines()
    assert first == f"{name}:1:1: Workspace workspace-tuning-phi-3: OK"
    assert "    The plan is to tune phi-3-mini-128k-instruct with qlora on 1 x Standard_NC6s_v3" in plan[0]
    assert any("USD" in line for line in plan)
    assert any(line.startswith("    Warning: Standard_NC6s_v3 is deprecated") for line in plan)
    assert last == "1 Workspace: 1 OK"


def test_each_fault_is_a_line_with_its_place_in_the_order_of_the_file(file: Any) -> None:
    name = file(BAD)
    code, shown = run("check", name)
    assert code == 1
    lines = shown.splitlines()
    assert lines[0] == f"{name}:1:1: Workspace workspace-tuning-phi-3: 2 faults"
    assert lines[1].startswith(f"{name}:13:3: tuning.method: is not a tuning method (got 'dora'); ")
    assert lines[1].endswith("[U1]")
    assert lines[2].startswith(
        f"{name}:17:3: tuning.output.imagePushSecret: is required"
    )  # its parent's place
    assert lines[3] == "1 Workspace: 1 with 2 faults"


def test_quiet_prints_faults_only(file: Any) -> None:
    good, bad = file(QUICK_START, "good.yaml"), file(BAD + "---\nkind: Deployment\n", "bad.yaml")
    assert run("check", "--quiet", good) == (0, "")
    code, shown = run("check", "-q", good, bad)
    assert code == 1
    assert [line.split(": ")[1] for line in shown.splitlines()] == [
        "tuning.method",
        "tuning.output.imagePushSecret",
    ]


def test_several_documents_lists_and_other_kinds(file: Any) -> None:
    kubectl = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [SERVING, SERVING]})
    documents = [BAD, "kind: Deployment\nmetadata: {name: web}\n", "[1]\n", "apiVersion: v1\n", kubectl]
    name = file("---\n".join(documents))
    code, shown = run("check", name)
    assert code == 1
    assert f"{name}:20:1: Deployment web: passed over, not a Workspace" in shown
    assert "passed over: not an object" in shown
    assert "passed over: not a Workspace" in shown
    assert shown.count("Workspace ml/serve-phi: OK") == 2
    assert shown.splitlines()[-1] == "3 Workspaces: 2 OK, 1 with 2 faults; 3 other documents passed over"


@pytest.mark.parametrize(
    ("kind", "found"),
    [("Workspacee", 1), ("workspace", 1), ("null", 1), ("RAGEngine", 0), ("InferenceSet", 0)],
)
def test_a_misspelt_kind_is_a_fault_and_a_sibling_kind_is_none(file: Any, kind: str, found: int) -> None:
    code, shown = run("check", file(QUICK_START.replace("kind: Workspace", f"kind: {kind}")))
    assert code == found
    assert ("kind: " in shown) == bool(found)


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        ("", ":1:1: ", "holds no document"),
        ("# nothing\n---\n", ":1:1: ", "holds no document"),
        ("a: [", ":2:1: ", "not YAML"),
        ("a: 1\na: 2", ":2:1: ", "the key 'a' is given twice"),
        ("a:\n\tb: 1\n", ":2:1: ", "the line is indented with a tab; YAML takes spaces"),
        ("a: {{ .Values.a }}\n", ":1:5: ", "a key must be text; this looks like a template: render it first"),
        ("a: 1\nb: {{ .Values.a }}: c: d\n", ":2:", ""),
        (b"a: 1\nb: \xff", ":2:1: ", "is not UTF-8 text"),
        ("a: 1".encode("utf-16"), ":1:1: ", "UTF-16; save it as UTF-8"),
        (b"\x7fELF\x02\x01\x00", ":1:1: ", "U+007F may not stand in it; is this a binary file?"),
        (b"a: 1\nb: x\x00", ":2:5: ", "U+0000"),
        (b"x" * 10_000_000, ":1:1: ", "more than 1048576 bytes"),
        (
            "a: !!python/object/apply:os.system [id]",
            ":1:4: ",
            "the tag !!python/object/apply:os.system is not",
        ),
        ("[" * 100_000, ":1:65: ", "nests deeper than 64 levels"),
    ],
)
def test_what_is_no_usable_yaml_is_exit_code_2_and_one_line(
    file: Any, content: str | bytes, place: str, words: str
) -> None:
    name = file(content)
    code, shown = run("check", name)
    assert code == 2
    line, summary = shown.splitlines()
    assert line.startswith(name + place)
    assert words in line
    assert summary == "No Workspace; 1 unreadable"


def test_one_broken_document_does_not_hide_the_others(file: Any) -> None:
    name = file(QUICK_START + "---\na: [1\n---\n" + BAD)
    code, shown = run("check", name)
    assert code == 2
    assert shown.splitlines()[-1] == "2 Workspaces: 1 OK, 1 with 2 faults; 1 unreadable"
    assert f"{name}:35:3: tuning.method" in shown


def test_unreadable_names_are_sentences_and_the_rest_is_checked(file: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    good = file(QUICK_START)
    code, shown = run("check", str(tmp_path / "none.yaml"), str(tmp_path / "empty"), good)
    assert code == 2
    lines = shown.splitlines()
    assert lines[0] == f"{tmp_path}/none.yaml: cannot be read: there is no such file or folder"
    assert lines[1] == f"{tmp_path}/empty: the folder holds no file named *.yaml, *.yml, *.json"
    assert lines[2].endswith("OK")
    assert lines[-1] == "1 Workspace: 1 OK; 2 unreadable"


def test_permission_denied_is_a_sentence(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    name = file(QUICK_START)
    monkeypatch.setattr(Path, "open", refuse)
    code, shown = run("check", "-q", name)
    assert (code, shown) == (2, f"{name}: cannot be read: this user may not read it (permission denied)\n")


def test_a_folder_is_walked_and_what_is_not_ours_is_passed_over(file: Any, tmp_path: Path) -> None:
    file(QUICK_START, "a/w.yaml")
    file(json.dumps(SERVING), "b/w.json")
    file(QUICK_START, ".git/w.yaml")
    file(QUICK_START, "a/w.txt")
    file("a: {{ .Values.a }}\n", "chart/template.yaml")
    file("a: 1\n", "other.yml")
    (tmp_path / "b" / "again.yaml").symlink_to(tmp_path / "a" / "w.yaml")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    code, shown = run("check", str(tmp_path), str(tmp_path / "a" / "w.yaml"))
    assert code == 0
    assert f"{tmp_path}/chart/template.yaml:1:5: passed over: a key must be text" in shown
    assert "other.yml" not in shown
    assert shown.splitlines()[-1] == "2 Workspaces: 2 OK; 2 other documents passed over"
    file("apiVersion: kaito.sh/v1beta1\nkind: [", "chart/ours.yaml")
    assert run("check", str(tmp_path))[0] == 2


def test_switches_say_what_cluster_it_is_for(file: Any) -> None:
    name = file(QUICK_START.replace("huggingface.co", "127.0.0.1:8000"))
    assert run("check", name)[0] == 1
    assert run("check", "--allow-network", "127.0.0.0/8", name)[0] == 0
    own = yaml.safe_dump({**SERVING, "resource": {"labelSelector": {"matchLabels": {"gpu": "own"}}}})
    assert "[C4]" in run("check", file(own))[1]
    assert run("check", "--byo", file(own))[0] == 0
    assert "[C3]" in run("check", "--byo", file(yaml.safe_dump(SERVING)))[1]


def test_json_holds_everything_in_a_stable_shape(file: Any) -> None:
    good, bad = file(QUICK_START, "good.yaml"), file(BAD + "---\nkind: Pod\n---\na: [\n", "bad.yaml")
    code, shown = run("check", "--json", good, bad)
    report = json.loads(shown)
    assert (code, report["exitCode"], report["version"]) == (2, 2, 1)
    assert report["summary"] == {
        "workspaces": 2, "ok": 1, "faulty": 1, "faults": 2, "passedOver": 1, "unreadable": 1,
    }  # fmt: skip
    first, second = report["files"]
    assert first["path"] == good
    workspace = first["documents"][0]
    assert {key: workspace[key] for key in ("line", "column", "kind", "name", "namespace", "workspace", "ok")} == {
        "line": 1, "column": 1, "kind": "Workspace", "name": "workspace-tuning-phi-3", "namespace": "",
        "workspace": True, "ok": True,
    }  # fmt: skip
    assert workspace["plan"]["instance_type"] == "Standard_NC6s_v3"
    assert workspace["sentences"]
    assert any("deprecated" in notice for notice in workspace["notices"])
    workspace, pod = second["documents"]
    assert workspace["ok"] is False
    assert workspace["plan"] is None
    assert workspace["faults"][0] == {
        "file": bad, "line": 13, "column": 3, "configMap": None, "path": "tuning.method", "value": "'dora'",
        "rule": "U1", "message": "is not a tuning method", "hint": workspace["faults"][0]["hint"],
    }  # fmt: skip
    assert (pod["workspace"], pod["ok"], pod["passedOver"]) == (False, None, "passed over, not a Workspace")
    assert second["problems"][0]["line"] == 23


def test_github_annotations(file: Any) -> None:
    name = file(BAD, "a,b.yaml")
    _, shown = run("check", "--format", "github", name)
    first = shown.splitlines()[0]
    escaped = name.replace(",", "%2C")
    assert first.startswith(
        f"::error file={escaped},line=13,col=3,title=Workspace workspace-tuning-phi-3::tuning.method"
    )
    assert "::warning " in shown


def test_no_document_moves_the_cursor_or_forges_a_line(file: Any) -> None:
    evil = 'kind: Workspace\nmetadata: {name: "a\\e[2J\\nw.yaml:1:1: OK"}\n"x\\ny": 1\n'
    _, shown = run("check", file(evil))
    assert "\x1b" not in shown
    assert all(line.startswith((str(Path(file(evil)).parent), "1 Workspace")) for line in shown.splitlines())
    assert "Workspace a\\x1b[2J\\nw.yaml:1:1: OK" in shown


def test_colours_only_where_they_are_wanted(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in run("check", file(BAD))[1]
    out = Terminal()
    main(["check", file(BAD)], out)
    assert "\x1b[31;1m2 faults\x1b[0m" in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not text.Style.of(Terminal()).coloured


def test_the_schema_is_json() -> None:
    assert json.loads(run("schema")[1])["properties"]["tuning"]


def test_models_and_machines_are_listed_for_people_and_programs() -> None:
    code, shown = run("models", "PHI-3-mini")
    assert code == 0
    heading, *rows = shown.splitlines()
    assert heading.split()[:5] == ["NAME", "WEIGHTS", "CONTEXT", "TUNABLE", "LICENCE"]
    assert {row.split()[0] for row in rows} == {"phi-3-mini-4k-instruct", "phi-3-mini-128k-instruct"}
    model = json.loads(run("models", "phi-3-mini-128k", "--json")[1])[0]
    assert model["id"] == "microsoft/Phi-3-mini-128k-instruct"
    assert (model["tunable"], model["gated"], model["licence"]) == (True, False, "mit")
    machine = json.loads(run("machines", "standard_nc6s_v3", "--json")[1])[0]
    assert (machine["gpus"], machine["bfloat16"], machine["deprecated"]) == (1, False, True)
    assert "A100" in run("machines", "a100")[1]
    assert run("models", "nothing-like-it") == (0, "None of the models holds 'nothing-like-it'.\n")
    assert json.loads(run("machines", "nothing-like-it", "--json")[1]) == []


@pytest.mark.parametrize(
    "verb", [[], ["check"], ["convert"], ["models"], ["machines"], ["rules"], ["crd"], ["schema"]]
)
def test_every_verb_has_help(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) >= 6


def test_it_runs_as_a_program_without_airflow_or_a_cluster_client() -> None:
    code = (
        "import sys; sys.argv = ['', 'check', '-'];"
        "from include.cli.__main__ import run; code = run();"
        "loaded = {m.partition('.')[0] for m in sys.modules};"
        "assert not loaded & {'airflow', 'kubernetes', 'torch', 'aiohttp', 'requests', 'httpx'}, loaded; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=QUICK_START, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("-:1:1: Workspace workspace-tuning-phi-3: OK")


def test_a_reader_that_goes_away_is_no_error(file: Any) -> None:
    name = file("---\n".join([BAD] * 300))
    shell = f"{sys.executable} -m include.cli check {name} | head -1"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_a_terminal_without_utf8_gets_every_line(file: Any) -> None:
    name = file(QUICK_START.replace("name: workspace-tuning-phi-3", "name: é→"))
    done = program("check", name, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (1, "")
    assert "Workspace \\xe9\\u2192: 1 fault" in done.stdout


def test_gates_of_the_cluster_are_switches(file: Any) -> None:
    slices = changed(
        SERVING,
        {"resource.instanceType": "", "resource.partition": {"mode": "accelerator", "count": 1}},
    )
    name = file(yaml.safe_dump(slices))
    code, shown = run("check", "--byo", name)
    assert code == 1
    assert "are not enabled in this cluster" in shown
    assert run("check", "--byo", "--gate", "accelerator", name)[0] == 0
    with pytest.raises(SystemExit):
        run("check", "--gate", "warp", name)


def test_networks_and_registries_of_the_cluster_are_switches(file: Any) -> None:
    inside = changed(
        TUNING,
        {"tuning.input.urls": ["http://10.0.0.5:9000/a.jsonl"], "tuning.output.image": "10.0.0.6:5000/a:1"},
    )
    name = file(yaml.safe_dump(inside))
    code, shown = run("check", name)
    assert code == 1
    assert "[U7]" in shown
    assert "[U9]" in shown
    code, shown = run("check", "--allow-network", "10.0.0.5/32", name)
    assert "[U7]" not in shown
    assert "[U9]" in shown
    assert (
        run("check", "--allow-network", "10.0.0.5/32", "--insecure-registry", "10.0.0.6:5000", name)[0] == 0
    )


def test_what_is_no_network_is_told_at_once(file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("check", "--allow-network", "10.0.0.0/99", file(QUICK_START))
    assert stop.value.code == 2
    assert "is not a network like 10.0.0.0/8" in capsys.readouterr().err


CANARY = "CANARY7f3a9c"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tuning.input.urls", f"https://h.example/a?sig={CANARY}"),
        ("tuning.input.urls", [f"HTTPS://h.example:22/a?sig={CANARY}"]),
        ("tuning.input.urls", [f"/relative?sig={CANARY}"]),
        ("tuning.input.urls", [f"s3://bucket/a?X-Amz-Signature={CANARY}"]),
        ("tuning.input.urls", [f"https://me:{CANARY}@h.example/a"]),
        ("tuning.input.urls", [f"https://h.example/a b?sig={CANARY} {CANARY}"]),
        ("tuning.input.urls", {f"https://h.example/a?sig={CANARY}": 1}),
        ("tuning.input.image", f"https://h.example/a?sig={CANARY}"),
        ("tuning.output.image", f"h.example/a?{CANARY}"),
        ("tuning.output.image", f"me:{CANARY}@h.example/a:1"),
        ("tuning.preset.name", f"https://h.example/a?sig={CANARY}"),
        ("tuning.method", f"https://h.example/a?sig={CANARY}"),
        ("tuning.config", f"https://h.example/a?sig={CANARY}"),
        ("tuning.output.imagePushSecret", f"https://h.example/a?sig={CANARY}"),
        ("resource.instanceType", f"https://h.example/a?sig={CANARY}"),
        (f"https://h~example/a?sig={CANARY}", 1),
    ],
)
@pytest.mark.parametrize("shape", ["text", "json", "github"])
def test_no_fault_shows_a_secret(path: str, value: Any, shape: str, file: Any) -> None:
    code, shown = run("check", "--format", shape, file(yaml.safe_dump(changed(TUNING, {path: value}))))
    assert code == 1
    assert CANARY not in shown
