"""Parquet and Arrow files, decoded in a process of their own that may die and may not take much memory.

These formats say how far to read and how much to unpack: a file of 1 KB can ask for 20 GiB, and offsets behind a
buffer's end stop the process that follows them. So a child decodes, within a limit on its memory, every batch is
validated in full, and rows come back as JSON lines. `python -m include.workloads.dataset.columnar FORMAT PATH` is the
child; it knows nothing but the file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from include.workloads.contract import UserDataError
from include.workloads.dataset import layouts
from include.workloads.dataset.named import usable
from include.workloads.dataset.sniff import Format
from include.workloads.dataset.text import MAX_ROW_CHARS, lines
from include.workloads.dataset.values import Literal, Other

BATCH_ROWS = 64
# What the child may take beside what its libraries do: half of a pod's usual limit. A row group's column must fit.
MAX_CHILD_BYTES = 2 << 30
MEMORY_VARIABLE = "DATASET_READER_BYTES"
# Keys of values that JSON has no form for, and of the lines that are no rows.
_NUMBER, _OTHER, _FAULT, _NAMES = "\0number", "\0other", "\0fault", "\0names"


@dataclass
class Columnar:
    """Rows of one file. When the first was asked for, `names` are its columns and `usable` whether they suit.

    `named` are columns that the training config names, as names are compared.
    """

    path: Path
    form: Format
    shown: str
    named: tuple[str, ...] = ()
    names: list[str] = field(default_factory=list)
    usable: bool = True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        child = self._start()
        try:
            ended = False
            with io.TextIOWrapper(child.stdout, "utf-8", newline="\n") as text:  # type: ignore[type-var]
                for line in lines(text, self.shown):
                    value = json.loads(line, object_hook=_special)
                    if _NAMES in value:
                        self._take_names(value[_NAMES])
                    elif _FAULT in value:
                        raise self._damaged(str(value[_FAULT]))
                    elif value:
                        yield value
                    else:
                        ended = True
            if not ended:
                raise self._damaged(_how_it_died(child.wait()))
        finally:
            child.kill()
            child.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # Their reserves count as memory taken.
            "ARROW_DEFAULT_MEMORY_POOL": "system",
            "MALLOC_ARENA_MAX": "1",
            MEMORY_VARIABLE: str(MAX_CHILD_BYTES),
        }
        module = ["-m", "include.workloads.dataset.columnar"]
        command = [sys.executable, *module, self.form.name, str(self.path), *self.named]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def _take_names(self, names: list[str]) -> None:
        self.names = names
        self.usable = usable(names, self.named)
        if name := layouts.twice(names):
            raise UserDataError(f"{self.shown} has two columns named {name!r}; keep one of them.")

    def _damaged(self, why: str) -> UserDataError:
        if why == _MEMORY:
            return UserDataError(
                f"{self.shown} needs more than {MAX_CHILD_BYTES >> 30} GiB of memory to be read ({self.form.value}); "
                "write it with smaller row groups or batches."
            )
        return UserDataError(f"{self.shown} is damaged or cut short ({self.form.value}: {why}).")


_MEMORY = "memory"


def _how_it_died(code: int) -> str:
    if code in (-signal.SIGKILL, -signal.SIGABRT):
        return _MEMORY
    return f"reading it ended with {signal.Signals(-code).name}" if code < 0 else "it cannot be read"


def _special(value: dict[str, Any]) -> Any:
    if _NUMBER in value:
        return Literal(value[_NUMBER])
    return Other() if _OTHER in value else value


def main(form: Format, path: Path, named: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The child's lines: the column names, each row, and an empty object when all were read."""
    import pyarrow as pa

    try:
        with _opened(form, path) as (schema, batches):
            names = list(schema.names)
            yield {_NAMES: names}
            wanted = {*layouts.read_columns(tuple(names)), *(n for n in names if layouts.fold(n) in named)}
            if usable(names, named) and not layouts.twice(names):
                for batch in batches([name for name in names if name in wanted]):
                    batch.validate(full=True)
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        yield from batch.slice(start, BATCH_ROWS).to_pylist()
        yield {}
    except (MemoryError, pa.ArrowMemoryError):
        yield {_FAULT: _MEMORY}
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        # The library's sentences may quote the file; its first words say what kind of fault it is.
        yield {_FAULT: f"{type(error).__name__}"}


@contextlib.contextmanager
def _opened(form: Format, path: Path) -> Iterator[tuple[Any, Any]]:
    """The file's schema, and a function that gives its batches with the named columns."""
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet as pq

    if form is Format.PARQUET:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield (
                file.schema_arrow,
                lambda names: file.iter_batches(batch_size=BATCH_ROWS, columns=names, use_threads=False),
            )
        return
    # Never mapped: a file that ends early would end the process, and its pages would count as memory.
    with pa.OSFile(str(path), "rb") as source:
        if form is Format.ARROW_FILE:
            reader = pa.ipc.open_file(source)
            found: Iterable[Any] = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            reader = pa.ipc.open_stream(source)
            found = reader
        yield reader.schema, lambda names: (_checked(batch).select(names) for batch in found)


def _checked(batch: Any) -> Any:
    batch.validate(full=True)
    return batch


def _encoded(value: object) -> dict[str, str]:
    return {_NUMBER: str(value)} if isinstance(value, Decimal) else {_OTHER: ""}


def _bound_memory() -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(os.environ[MEMORY_VARIABLE])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run() -> None:
    """The child: `FORMAT PATH COLUMN...` on its command line, rows on its standard output."""
    import pyarrow.parquet  # noqa: F401 - before the limit: its code is not the file's doing

    _bound_memory()
    encoder = json.JSONEncoder(ensure_ascii=False, default=_encoded, separators=(",", ":"))
    out = sys.stdout.buffer
    for line in main(Format[sys.argv[1]], Path(sys.argv[2]), sys.argv[3:]):
        text = encoder.encode(line)
        if len(text) > 2 * MAX_ROW_CHARS:
            text = encoder.encode({_FAULT: "a row is longer than any model reads"})
        out.write(text.encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    run()
