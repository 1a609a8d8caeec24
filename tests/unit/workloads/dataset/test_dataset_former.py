"""A finished dataset of a release before: a tuning that is tried again must find its rows as they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from include.contracts.methods import Objective
from include.workloads.contract import Stopped
from include.workloads.dataset import former
from include.workloads.dataset.job import run_job
from include.workloads.dataset.options import Options
from include.workloads.dataset.request import Request
from include.workloads.dataset.row_digests import former_digests, write
from tests.support.dataset_server import LOOPBACK, Web, send

ASKED = {"role": "user", "content": "one"}
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
}
CHATS = [
    {
        "messages": [
            ASKED,
            CALLED,
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "b", "weight": 1},
        ]
    },
    {"messages": [ASKED, {"role": "assistant", "content": "é\U0001f600"}], "tools": [{"name": "f"}]},
    {"question": "one", "answer": "a"},
    {"question": "one", "answer": "a"},
]
KINDS = [
    ([*CHATS, *({"question": f"q{number}", "answer": "a"} for number in range(1500))], Objective.SFT),
    ([{"text": "one"}, {"text": "two\n"}, {"text": "one"}], Objective.SFT),
    ([{"prompt": "p", "chosen": "good", "rejected": "bad one"}], Objective.DPO),
    ([{"prompt": "p", "completion": "c", "label": label} for label in (True, False)], Objective.KTO),
]


def ask(output: Path, url: str, objective: str = Objective.SFT) -> Request:
    return Request(output=output, urls=(url,), network=LOOPBACK, options=Options(objective=objective))


def serve(web: Web, rows: list[dict[str, Any]]) -> str:
    """Rows at an address that sends them once more only to who does not know them."""
    body = "\n".join(map(json.dumps, rows)).encode()

    def answer(handler: Any) -> None:
        known = handler.headers.get("If-None-Match") == '"1"'
        send(handler, b"" if known else body, 304 if known else 200, ETag='"1"')

    web.routes["/rows"] = answer
    return web.url("/rows")


def report_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "report.json").read_text())
    return found


def make_former(request: Request) -> bytes:
    """Turn a finished dataset into what the release before wrote; returns train.parquet."""
    output = request.output
    parquet = output / "train.parquet"
    table = pq.read_table(parquet)
    pq.write_table(table, parquet, compression="zstd", version="2.6", row_group_size=4096)
    content = parquet.read_bytes()
    (output / "rows.xxh3").unlink()
    write(former_digests(parquet), output / "rows.digests")
    report = report_of(output) | {
        "digest": "sha256:" + "0" * 64,
        "fingerprint": request.former_fingerprint,
        "bytes": len(content),
        "file_sha256": hashlib.sha256(content).hexdigest(),
    }
    report["content"] = {**report["content"], "personal": {"phone numbers": 7}}
    (output / "report.json").write_text(json.dumps(report))
    return content


def test_the_fingerprint_of_the_release_before_is_as_that_release_made_it(tmp_path: Path) -> None:
    request = ask(tmp_path, "https://example.com/rows")
    asked = [2, ["https://example.com/rows"], "None", None, [], request.options.identity]
    assert request.former_fingerprint == hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    assert request.former_fingerprint != request.fingerprint


@pytest.mark.parametrize(("rows", "objective"), KINDS)
def test_the_rows_stay_byte_by_byte_and_are_known_as_if_they_were_fetched_today(
    rows: list[dict[str, Any]], objective: str, web: Web, tmp_path: Path
) -> None:
    url = serve(web, rows)
    fresh, request = ask(tmp_path / "fresh", url, objective), ask(tmp_path / "old", url, objective)
    told = run_job(fresh)
    run_job(request)
    before = make_former(request)
    assert before != (fresh.output / "train.parquet").read_bytes(), "another form"
    asked = len(web.asked)

    result = run_job(request)
    assert [headers["If-None-Match"] for _, headers in web.asked[asked:]] == ['"1"'], "nothing is fetched"
    assert (request.output / "train.parquet").read_bytes() == before
    own = {"bytes": len(before), "file_sha256": hashlib.sha256(before).hexdigest()}
    assert report_of(request.output) == report_of(fresh.output) | own
    assert result == told | {"bytes": len(before)}
    assert (request.output / "rows.xxh3").read_bytes() == (fresh.output / "rows.xxh3").read_bytes()
    names = [sorted(path.name for path in one.output.iterdir()) for one in (request, fresh)]
    assert names[0] == names[1]
    assert run_job(request) == result, "from now on it is one of today's"


def test_renewing_that_is_killed_is_done_again(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask(tmp_path, serve(web, CHATS))
    told = run_job(request)
    before = make_former(request)

    def kill(*args: object) -> None:
        raise Stopped("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(former, "write_report", kill)
        with pytest.raises(Stopped):
            run_job(request)
    assert run_job(request) == told | {"bytes": len(before)}
    assert (tmp_path / "train.parquet").read_bytes() == before


def test_rows_of_a_release_before_that_are_not_what_is_asked_for_are_fetched_anew(
    web: Web, tmp_path: Path
) -> None:
    request = ask(tmp_path, serve(web, CHATS))
    run_job(request)
    make_former(request)
    serve(web, [{"text": "other"}])
    other = Request(output=tmp_path, urls=(f"{web.url('/rows')}?v=2",), network=LOOPBACK)
    assert run_job(other)["rows"] == 1
    assert not (tmp_path / "rows.digests").exists()


def test_the_row_digests_of_a_release_before_are_not_read_as_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(CHATS[0]))
    request = Request(output=tmp_path / "out", folder=tmp_path)
    run_job(request)
    before = make_former(request)
    assert run_job(request)["rows"] == 1
    assert (request.output / "train.parquet").read_bytes() == before
