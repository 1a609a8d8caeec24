"""Parquet and Arrow files, decoded in a process of their own that may die and may not take much memory.

These formats say how far to read and how much to unpack: a file of 1 KB can ask for 20 GiB, and offsets behind a
buffer's end stop the process that follows them. So a child decodes, within a limit on its memory, every batch is
validated in full on both sides, and batches come back as an Arrow stream.
`python -m include.workloads.dataset.columnar FORMAT PATH` is the child; it knows nothing but the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import IO, Any

from include.workloads.contract import UserDataError
from include.workloads.dataset import layouts
from include.workloads.dataset.blocks import Block
from include.workloads.dataset.named import usable
from include.workloads.dataset.sniff import Format
from include.workloads.dataset.text import MAX_ROW_CHARS
from include.workloads.dataset.values import Literal, Other

#: Rows that are decoded at once, and those whose size is not known before they are.
BATCH_ROWS, FEW_ROWS = 1024, 64
#: Of one batch between the processes, of one row in it, and of a line with the columns' names.
BLOCK_BYTES, MAX_ROW_BYTES, MAX_LINE = 4 << 20, 4 * MAX_ROW_CHARS, 64 << 20
# What the child may take beside what its libraries do: half of a pod's usual limit. A row group's column must fit.
MAX_CHILD_BYTES = 2 << 30
MEMORY_VARIABLE = "DATASET_READER_BYTES"
# Keys of values that JSON has no form for, and of the lines that are no rows.
_NUMBER, _OTHER, _FAULT, _NAMES = "\0number", "\0other", "\0fault", "\0names"
_FAULTS = (ValueError, TypeError, OverflowError, RecursionError)


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

    def __iter__(self) -> Iterator[Block]:
        child = self._start()
        try:
            if child.stdout is None:
                raise ValueError("the reader's output is not a pipe")
            self._take_names(self._line(child, child.stdout).get(_NAMES, []))
            if self.usable:
                yield from self._blocks(child, child.stdout)
            self._line(child, child.stdout)
        finally:
            child.kill()
            child.wait()

    def _line(self, child: subprocess.Popen[bytes], output: IO[bytes]) -> dict[str, Any]:
        """One of the child's lines. UserDataError where it tells of a fault, or ended without."""
        try:
            found = dict(json.loads(output.readline(MAX_LINE)))
        except (ValueError, TypeError):
            raise self._damaged(_how_it_died(child.wait())) from None
        if _FAULT in found:
            raise self._damaged(str(found[_FAULT]))
        return found

    def _blocks(self, child: subprocess.Popen[bytes], output: IO[bytes]) -> Iterator[Block]:
        import pyarrow as pa

        try:
            with pa.ipc.open_stream(pa.PythonFile(output, "r")) as batches:
                for batch in batches:
                    batch.validate(full=True)
                    yield Block(pa.table(batch), partial(self._rows, batch), tuple(batch.schema.names))
        except (pa.ArrowException, OSError, EOFError):
            raise self._damaged(_how_it_died(child.wait())) from None

    def _rows(self, batch: Any) -> Iterator[dict[str, Any]]:
        """A batch's rows with their values as a JSON file would have them."""
        for start in range(0, batch.num_rows, FEW_ROWS):
            try:
                rows = batch.slice(start, FEW_ROWS).to_pylist()
                texts = list(map(_ENCODER.encode, rows))
            except _FAULTS as error:
                raise self._damaged(type(error).__name__) from None
            for text in texts:
                if len(text) >= MAX_ROW_CHARS:
                    raise UserDataError(
                        f"{self.shown} has a row of more than {MAX_ROW_CHARS >> 20} Mi characters."
                    )
                yield json.loads(text, object_hook=_special)

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
            pipesize=1 << 20,  # as far as the system lets it: a batch at once
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


def main(form: Format, path: Path, named: Sequence[str], out: IO[bytes]) -> None:
    """Write a line with the column names, the batches as an Arrow stream, and a line: {} when all were read."""
    import pyarrow as pa

    last: dict[str, Any] = {}
    try:
        with _opened(form, path) as (schema, batches):
            names = list(schema.names)
            _write_line(out, {_NAMES: names})
            wanted = {*layouts.read_columns(tuple(names)), *(n for n in names if layouts.fold(n) in named)}
            if usable(names, named) and not layouts.twice(names):
                _write_batches(out, schema, batches, [name for name in names if name in wanted])
    except (MemoryError, pa.ArrowMemoryError):
        last = {_FAULT: _MEMORY}
    except (pa.ArrowException, OSError, *_FAULTS) as error:
        # The library's sentences may quote the file; its first words say what kind of fault it is.
        last = {_FAULT: type(error).__name__}
    _write_line(out, last)


def _write_line(out: IO[bytes], line: dict[str, Any]) -> None:
    out.write(json.dumps(line).encode() + b"\n")
    out.flush()


def _write_batches(out: IO[bytes], schema: Any, batches: Any, names: list[str]) -> None:
    """Without dictionaries, in batches of a few mebibytes whatever the file has."""
    import pyarrow as pa

    fields = [schema.field(name) for name in names]
    plain = pa.schema([field.with_type(_plain(field.type)) for field in fields]).remove_metadata()
    rows = FEW_ROWS if any(_has_dictionary(field.type) for field in fields) else BATCH_ROWS
    with pa.ipc.new_stream(pa.PythonFile(out, "w"), plain) as writer:
        for batch in batches(names):
            batch.validate(full=True)
            for start in range(0, batch.num_rows, rows):
                for part in _parts(batch.slice(start, rows).cast(plain)):
                    writer.write_batch(part)
    out.flush()


def _parts(batch: Any) -> Iterator[Any]:
    if batch.nbytes <= BLOCK_BYTES or batch.num_rows < 2:
        if batch.nbytes > MAX_ROW_BYTES:
            raise _TooLong
        yield batch
        return
    half = batch.num_rows // 2
    yield from _parts(batch.slice(0, half))
    yield from _parts(batch.slice(half))


def _plain(kind: Any) -> Any:
    """A type without dictionaries: each batch stands for itself then."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    return kind


def _has_dictionary(kind: Any) -> bool:
    return bool(_plain(kind) != kind)


@contextlib.contextmanager
def _opened(form: Format, path: Path) -> Iterator[tuple[Any, Any]]:
    """The file's schema, and a function that gives its batches with the named columns."""
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet as pq

    if form is Format.PARQUET:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            # By the row group: nested dictionaries cannot be joined over their ends.
            yield (
                file.schema_arrow,
                lambda names: (
                    batch
                    for group in range(file.num_row_groups)
                    for batch in file.iter_batches(BATCH_ROWS, [group], names, use_threads=False)
                ),
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


class _TooLong(ValueError):
    """A row is longer than any model reads."""


def _encoded(value: object) -> dict[str, str]:
    return {_NUMBER: str(value)} if isinstance(value, Decimal) else {_OTHER: ""}


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_encoded, separators=(",", ":"))


def _bound_memory() -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + int(os.environ[MEMORY_VARIABLE])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run() -> None:
    """The child: `FORMAT PATH COLUMN...` on its command line, what `main` writes on its standard output."""
    import pyarrow.parquet  # noqa: F401 - before the limit: its code is not the file's doing

    _bound_memory()
    main(Format[sys.argv[1]], Path(sys.argv[2]), sys.argv[3:], sys.stdout.buffer)


if __name__ == "__main__":
    run()
