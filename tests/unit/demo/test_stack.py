"""Processes are ended by their own id, and never somebody else's."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil

from demo import processes, stack


def test_a_process_id_that_was_used_again_is_not_ours(tmp_path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        home = tmp_path / "airflow"
        home.mkdir()
        (home / "airflow.pid").write_text(json.dumps({"pid": process.pid, "started": 1.0, "port": 1}))
        stack.stop_airflow(tmp_path)
        assert process.poll() is None
        assert not (home / "airflow.pid").exists()
    finally:
        process.kill()
        process.wait()


def test_stop_ends_the_whole_tree(tmp_path) -> None:
    code = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (children := psutil.Process(process.pid).children()):
        pass
    (tmp_path / "airflow").mkdir()
    record = {"pid": process.pid, "started": psutil.Process(process.pid).create_time(), "port": 1}
    (tmp_path / "airflow" / "airflow.pid").write_text(json.dumps(record))
    processes.STOP_SECONDS, before = 2, processes.STOP_SECONDS
    try:
        stack.stop_airflow(tmp_path)
    finally:
        processes.STOP_SECONDS = before
    assert not psutil.pid_exists(process.pid)
    assert not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE


def test_a_half_written_state_file_counts_as_missing(tmp_path) -> None:
    path = tmp_path / "sandbox.json"
    assert processes.read_record(path) is None
    path.write_text('{"pid": 1')
    assert processes.read_record(path) is None
    path.write_text("[1]")
    assert processes.read_record(path) is None


def test_a_reader_of_airflows_database_holds_up_no_writer(tmp_path: Path) -> None:
    path = stack.database(tmp_path).removeprefix("sqlite:///").partition("?")[0]
    with (
        contextlib.closing(sqlite3.connect(path, timeout=0)) as writer,
        contextlib.closing(sqlite3.connect(path, timeout=0)) as reader,
    ):
        writer.execute("CREATE TABLE t (x)")
        writer.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        writer.commit()
        halfway = reader.execute("SELECT x FROM t")
        assert halfway.fetchone() == (1,)
        writer.execute("INSERT INTO t VALUES (3)")
        writer.commit()
        assert halfway.fetchall() == [(2,)]
    assert stack.database(tmp_path).endswith("airflow.db?timeout=60")
