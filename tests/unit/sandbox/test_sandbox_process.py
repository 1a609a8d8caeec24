"""Finding, describing and sweeping up after the sandbox's process; the command line."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys

import pytest
import yaml

from sandbox import lifecycle
from sandbox.__main__ import main
from sandbox.layout import Layout
from sandbox.lifecycle import SandboxProcess, own_record
from sandbox.registry import Credentials, bcrypt_hash, configuration


@pytest.fixture
def layout(tmp_path):
    return Layout.at(tmp_path)


def test_the_own_process_is_found(layout):
    layout.pid_file.write_text(json.dumps(own_record()))
    assert SandboxProcess.read(layout.pid_file).pid == os.getpid()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 999999999, "started": 5}'])
def test_torn_and_stale_pid_files_name_nobody(layout, text):
    layout.pid_file.write_text(text)
    assert SandboxProcess.read(layout.pid_file) is None


def test_a_number_used_again_is_not_the_sandbox(layout):
    layout.pid_file.write_text(json.dumps({**own_record(), "started": 1}))
    assert SandboxProcess.read(layout.pid_file) is None
    assert lifecycle.stop(layout) is False


def test_a_process_that_has_ended_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", ""])
    started = SandboxProcess(process.pid, 0)
    process.wait()
    assert not started.alive


def test_sweeping_removes_the_notes_of_a_dead_sandbox_only(layout):
    layout.description.write_text("{}")
    layout.pid_file.write_text(json.dumps(own_record()))
    lifecycle.sweep(layout)
    assert layout.description.exists()
    layout.pid_file.write_text('{"pid": 999999999, "started": 5}')
    lifecycle.sweep(layout)
    assert not layout.description.exists()
    assert not layout.pid_file.exists()


def test_down_and_status_without_a_sandbox(tmp_path, capsys):
    state = ["--state-dir", str(tmp_path)]
    assert main(["down", *state]) == 0
    assert main(["status", *state]) == 1
    assert main(["fault", "list", *state]) == 1
    shown = capsys.readouterr()
    assert "No sandbox runs here." in shown.out
    assert "No sandbox runs with the state folder" in shown.err


def test_missing_programs_are_named_with_the_command_that_installs_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lifecycle.shutil, "which", lambda name: None)  # type: ignore[attr-defined]
    assert main(["up", "--state-dir", str(tmp_path)]) == 1
    assert "apt-get install -y bubblewrap docker-registry" in capsys.readouterr().err


def test_help_names_every_fault(capsys):
    from sandbox.faults import FaultKind

    with pytest.raises(SystemExit):
        main(["fault", "--help"])
    shown = capsys.readouterr().out
    assert [kind for kind in FaultKind if kind.value not in shown] == []


def test_the_registrys_password_lives_as_long_as_the_state_folder_and_is_private(layout):
    first = Credentials.load_or_make(layout.registry_credentials)
    assert Credentials.load_or_make(layout.registry_credentials) == first
    assert layout.registry_credentials.stat().st_mode & 0o077 == 0
    assert len(first.password) >= 20


def test_bcrypt_hashes_are_what_libcrypt_verifies():
    hashed = bcrypt_hash("secret")
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    assert hashed.startswith("$2b$05$")
    assert library.crypt(b"secret", hashed.encode()).decode() == hashed
    assert library.crypt(b"wrong", hashed.encode()).decode() != hashed


def test_the_registry_asks_for_the_password_and_allows_deletion(tmp_path):
    config = configuration(tmp_path, "127.0.0.1:5000")
    assert yaml.safe_load(yaml.safe_dump(config)) == config
    assert config["http"]["addr"] == "127.0.0.1:5000"
    assert config["auth"]["htpasswd"]["path"] == str(tmp_path / "htpasswd")
    assert config["storage"]["delete"] == {"enabled": True}


def test_two_state_folders_have_numbers_of_their_own(tmp_path):
    assert Layout.at(tmp_path / "a").number != Layout.at(tmp_path / "b").number
    assert Layout.at(tmp_path / "a") == Layout.at(tmp_path / "b" / ".." / "a")
