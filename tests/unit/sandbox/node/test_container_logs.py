"""The CRI log format."""

from __future__ import annotations

import asyncio
import re

from sandbox.node.logs import LONGEST_LINE, LogFile, tail, timestamp

RECORD = re.compile(rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)$", re.DOTALL)


async def written(tmp_path, *chunks: bytes, stream: str = "stdout") -> list[tuple[str, bytes]]:
    log = LogFile(tmp_path / "c" / "0.log")
    reader = asyncio.StreamReader()
    for chunk in chunks:
        reader.feed_data(chunk)
    reader.feed_eof()
    await log.take(stream, reader)
    log.close()
    records = [RECORD.match(line) for line in log.path.read_bytes().splitlines()]
    assert all(records), log.path.read_bytes()
    return [(match[2].decode(), match[3]) for match in records]


def test_timestamps_have_nanoseconds():
    assert timestamp(1_000_000_001) == "1970-01-01T00:00:01.000000001Z"


async def test_each_line_is_a_record_whatever_the_chunks(tmp_path):
    assert await written(tmp_path, b"on", b"e\ntw", b"o\n\nthree") == [
        ("F", b"one"),
        ("F", b"two"),
        ("F", b""),
        ("F", b"three"),
    ]


async def test_long_lines_come_in_parts(tmp_path):
    line = bytes(range(32, 127)) * 500
    records = await written(tmp_path, line + b"\nend\n")
    assert [tag for tag, _ in records] == ["P", "P", "F", "F"]
    assert b"".join(text for _, text in records[:-1]) == line
    assert max(len(text) for _, text in records) == LONGEST_LINE


async def test_the_tail_is_the_last_lines_without_their_heads(tmp_path):
    await written(tmp_path, b"".join(b"line %d\n" % n for n in range(200)), stream="stderr")
    text = tail(tmp_path / "c" / "0.log")
    assert text.splitlines()[-1] == "line 199"
    assert len(text.splitlines()) == 80
    assert tail(tmp_path / "none.log") == ""


async def test_the_tail_is_at_most_2048_bytes(tmp_path):
    await written(tmp_path, b"x" * 1000 + b"\n" + b"y" * 3000 + b"\n")
    assert tail(tmp_path / "c" / "0.log") == "y" * 2048
