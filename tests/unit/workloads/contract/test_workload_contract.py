"""Exit codes, termination messages and the promise that no secret leaves a workload."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from include.contracts import redaction
from include.workloads import contract
from include.workloads.contract import TryAgain, UserConfigError, UserDataError

CANARY = "canary-7f3a9c-secret"


@pytest.fixture
def termination_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv("TERMINATION_LOG", str(path))
    monkeypatch.setattr(redaction, "_secrets", set())
    contract._stop.clear()
    return path


@pytest.fixture
def keep_signal_handlers():
    held = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in held.items():
        signal.signal(number, handler)
    contract._stop.clear()


def run(main: Callable[[], dict | None], on_stop: Callable[[], None] | None = None) -> int:
    with pytest.raises(SystemExit) as stopped:
        contract.run(main, on_stop)
    return int(stopped.value.code)


def failing(error: BaseException) -> Callable[[], dict]:
    def main() -> dict:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "fault"),
    [
        (UserConfigError("the URL is wrong"), 64, "config"),
        (UserDataError("no rows"), 65, "data"),
        (TryAgain("registry is down"), 75, "transient"),
        (ZeroDivisionError("oops"), 1, "internal"),
    ],
)
def test_each_fault_has_its_exit_code_and_class(
    error, code, fault, termination_log, keep_signal_handlers, capsys
):
    assert run(failing(error)) == code
    written = json.loads(termination_log.read_text())
    assert written["class"] == fault
    assert str(error) in written["error"]
    assert str(error) in capsys.readouterr().out


def test_result_is_the_termination_message(termination_log, keep_signal_handlers):
    assert run(lambda: {"rows": 3}) == 0
    assert json.loads(termination_log.read_text()) == {"rows": 3}


def test_without_a_kubelet_the_result_is_the_last_line_of_stdout(
    tmp_path, monkeypatch, capsys, keep_signal_handlers
):
    monkeypatch.delenv("TERMINATION_LOG", raising=False)
    monkeypatch.setattr(contract, "DEFAULT_TERMINATION_LOG", tmp_path / "none")
    assert run(lambda: {"rows": 3}) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"rows": 3}


def test_secrets_reach_neither_log_nor_message_nor_traceback(termination_log, keep_signal_handlers, capsys):
    def main() -> dict:
        redaction.hide(CANARY)
        contract.log.info("token is %s", CANARY)
        contract.log.info("see https://host/path?sig=%s#x and https://me:%s@host/x", CANARY[1:], CANARY[2:])
        contract.log.info("Authorization: Bearer abcdefghijklmnopqrstuvwxyz0123")
        raise RuntimeError(f"could not use {CANARY} at https://host/file?sig={CANARY[3:]}")

    assert run(main) == 1
    out, err = capsys.readouterr()
    seen = out + err + termination_log.read_text()
    assert CANARY[3:] not in seen
    assert "abcdefghijklmnopqrstuvwxyz0123" not in seen
    assert "https://host/path" in out
    assert "https://host/file" in err


def test_a_secret_with_json_characters_is_hidden_in_results(termination_log):
    secret = 'a"b\\c' + CANARY
    redaction.hide(secret)
    contract.write_result({"nested": [{"text": f"got {secret}"}]})
    assert json.loads(termination_log.read_text()) == {"nested": [{"text": "got ***"}]}


def test_an_oversized_result_stays_valid_json_below_the_kubelets_limit(termination_log):
    contract.write_result(
        {"digest": "sha256:1", "sources": [{"url": f"https://h/{i}"} for i in range(999)], "note": "é" * 9000}
    )
    raw = termination_log.read_bytes()
    assert len(raw) < 4096
    written = json.loads(raw)
    assert written["digest"] == "sha256:1"
    assert set(written["truncated"]) == {"sources", "note"}
    assert written["sources"][0] == {"url": "https://h/0"}


def test_sigterm_is_a_clean_stop_that_may_be_tried_again(termination_log, keep_signal_handlers):
    def main() -> dict:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail("a library's `except Exception` must not catch the stop")
        return {}

    assert run(main) == 75
    assert json.loads(termination_log.read_text())["class"] == "transient"


def test_on_stop_lets_the_workload_end_by_itself(termination_log, keep_signal_handlers):
    called = []

    def main() -> dict:
        os.kill(os.getpid(), signal.SIGTERM)
        return {"saved": contract.stop_requested()}

    assert run(main, on_stop=lambda: called.append(True)) == 0
    assert called == [True]
    assert json.loads(termination_log.read_text()) == {"saved": True}


def test_missing_variable_is_named(monkeypatch):
    monkeypatch.delenv("ADAPTER_IMAGE", raising=False)
    with pytest.raises(UserConfigError, match="ADAPTER_IMAGE"):
        contract.required("ADAPTER_IMAGE")


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, UserConfigError), (errno.EACCES, UserConfigError), (errno.EIO, TryAgain)],
)
def test_file_faults_have_a_class(number, kind):
    assert isinstance(contract.file_write_error(OSError(number, "x"), "data"), kind)


def test_a_full_volume_is_named_with_its_size(tmp_path: Path) -> None:
    fault = contract.file_write_error(OSError(errno.ENOSPC, ""), "results", tmp_path)
    assert isinstance(fault, contract.UserConfigError)
    assert re.search(
        rf"The volume at {re.escape(str(tmp_path))} \(\d+\.\d [GM]iB, \d+\.\d [GM]iB free\) is full",
        str(fault),
    )
    gone = contract.file_write_error(OSError(errno.ENOSPC, ""), "results", tmp_path / "gone")
    assert f"The volume at {tmp_path / 'gone'} is full" in str(gone)
