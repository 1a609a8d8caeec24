"""The dataset run: bring the files, read and normalise every row, write train.parquet and then report.json.

report.json is written last and removed first, so it stands for a complete train.parquet; a pod that is killed
leaves nothing that looks finished. A second run over the same, unchanged sources does nothing.
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.contracts.adapter_record import FORMER_ROW_DIGESTS, ROW_DIGESTS
from include.contracts.methods import Objective
from include.workloads.chat import Conversation
from include.workloads.contract import (
    TryAgain,
    UserConfigError,
    UserDataError,
    WorkloadError,
    file_write_error,
    stop_requested,
)
from include.workloads.dataset import columns, layouts, row_digests
from include.workloads.dataset.blocks import Block
from include.workloads.dataset.brief import brief
from include.workloads.dataset.columns import Dropped, Kind, Usable, normalise
from include.workloads.dataset.columnwise import usable_rows
from include.workloads.dataset.connection import PinnedClient
from include.workloads.dataset.description import (
    PAGE,
    PARQUET,
    REPORT,
    SAMPLES,
    describe,
    read_samples,
    write_report,
)
from include.workloads.dataset.fetch import Fetcher, sha256_of
from include.workloads.dataset.former import renewed
from include.workloads.dataset.languages import Loading
from include.workloads.dataset.preferences import compared, one_sided
from include.workloads.dataset.readers import Names, read_parts
from include.workloads.dataset.request import Request
from include.workloads.dataset.sniff import sniff
from include.workloads.dataset.sources import SourceFile, download, named_files, walk
from include.workloads.dataset.store_client import StoreClient
from include.workloads.dataset.told import listed, sentence
from include.workloads.dataset.unzip import unzipped
from include.workloads.dataset.writer import RowWriter
from include.workloads.network import AddressPolicy

log = logging.getLogger("dataset")

WORK = ".fetch"
#: What may lie in the output, in the order in which it goes.
_OURS = (REPORT, PAGE, SAMPLES, PARQUET, ROW_DIGESTS, FORMER_ROW_DIGESTS)
# Each row costs 16 bytes until the end, and time even where it is dropped.
MAX_ROWS = 20_000_000
MAX_UNREAD, SAID_ROWS = 50, 100_000
# Compressed columns unpack; this many characters of text for each byte that the request may download.
MAX_EXPANSION = 4


@dataclass
class _Tally:
    """What the report says about the rows."""

    names: Names = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    unread: Names = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)


def run_job(request: Request, fetcher: Fetcher | None = None) -> dict[str, Any]:
    """Carry out a request and give the result for the termination message. Raises the contract's errors."""
    if request.folder and request.folder.resolve() == request.output.resolve():
        # Before anything else: a file of the user may have the name of one of ours.
        raise UserConfigError(
            f"The dataset cannot be read from {request.folder} and written there; use two folders."
        )
    if fetcher is None:
        client = PinnedClient(AddressPolicy(request.network))
        fetcher = Fetcher(StoreClient.of(client, request.credentials), request.limits)
    try:
        request.output.mkdir(parents=True, exist_ok=True)
        with _lock(request.output):
            report, model = _finished(request, fetcher), Loading()
            if report is None:
                model.begin()
                report = _build(request, fetcher)
            else:
                log.info("the dataset is already here and its sources are unchanged: nothing to do")
            report = describe(request, report, model)
            changes = _changes(request)
    except OSError as error:
        raise file_write_error(error, f"the dataset in {request.output}", request.output) from error
    return brief({**report, **changes}, read_samples(request))


def _changes(request: Request) -> dict[str, Any]:
    """Which rows are new and which are gone, where the request names what was there before and both are known."""
    now = request.output / ROW_DIGESTS
    if not request.known_rows or not now.is_file():
        return {}
    found = row_digests.changes_since(request.known_rows, now, request.output / PARQUET, MAX_ROWS)
    if found is None:
        return {}
    log.info("against what was learnt from last: %s", found)
    return {"added": found.added, "removed": found.removed}


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    """One writer at a time: a retry may start while the pod before it is still being stopped."""
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TryAgain("Another dataset pod is still writing to this volume.") from None
        except OSError:
            log.info("this volume cannot lock files; going on without")
        yield


def _finished(request: Request, fetcher: Fetcher) -> dict[str, Any] | None:
    """The report of an output that this request would write again, or None.

    That of a release before is renewed: a tuning's checkpoints hang on the bytes of train.parquet, so they must stay.
    """
    try:
        report = json.loads((request.output / REPORT).read_text())
        parquet, known = request.output / PARQUET, (request.fingerprint, request.former_fingerprint)
        same = report["fingerprint"] in known and report["file_sha256"] == sha256_of(parquet)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not same or not _unchanged(request, fetcher, report):
        return None
    return report if report["fingerprint"] == request.fingerprint else renewed(request, report)


def _unchanged(request: Request, fetcher: Fetcher, report: dict[str, Any]) -> bool:
    sources = report["sources"]
    if request.urls:
        if request.expected_sha256:
            return True
        urls = named_files(request.urls, fetcher)
        return len(urls) == len(sources) and all(
            fetcher.unchanged(url, source.get("etag"), source.get("last_modified"))
            for url, source in zip(urls, sources, strict=True)
        )
    if request.image:
        from include.workloads.dataset.image import resolve_digest

        return bool(report.get("image_digest") == resolve_digest(request.image))
    files = _folder_files(request)
    return [file.sha256 for file in files] == [source["sha256"] for source in sources]


def _folder_files(request: Request) -> list[SourceFile]:
    folder = request.folder or Path()
    ours = [request.output / name for name in _OURS]
    return walk(folder, request.limits.max_bytes, str(folder), ours)


def _files(request: Request, fetcher: Fetcher, extra: dict[str, Any]) -> Iterable[SourceFile]:
    work = request.output / WORK
    if request.urls:
        return download(named_files(request.urls, fetcher), request.expected_sha256, fetcher, work)
    if request.image:
        from include.workloads.dataset.image import pull_data

        pulled = pull_data(request.image, work / "image", request.limits.max_bytes)
        extra["image_digest"] = pulled.digest
        return walk(pulled.folder, request.limits.max_bytes, pulled.reference)
    return _folder_files(request)


def _build(request: Request, fetcher: Fetcher) -> dict[str, Any]:
    output, work = request.output, request.output / WORK
    # A failed run must not leave the rows of another request for the tuning to find.
    for name in _OURS:
        (output / name).unlink(missing_ok=True)
    work.mkdir(exist_ok=True)
    temporary = work / PARQUET
    tally, extra = _Tally(), dict[str, Any]()
    try:
        with RowWriter(temporary, request.limits.max_bytes * MAX_EXPANSION) as writer:
            for source in _files(request, fetcher, extra):
                _read(source, writer, tally, request)
        if not writer.rows:
            raise _nothing_usable(tally, request.options.objective)
        _check_share(writer.rows, tally, request)
        if writer.kind is Kind.MARKED and (told := one_sided(writer.good, writer.rows)):
            raise UserDataError(told)
        report = _report(request, writer, tally, temporary) | extra
    except TryAgain:
        raise  # what has been downloaded serves the next try
    except WorkloadError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    row_digests.write(writer.row_digests, output / ROW_DIGESTS)
    temporary.replace(output / PARQUET)
    write_report(output, report)
    shutil.rmtree(work, ignore_errors=True)
    _say(report)
    return report


def _read(source: SourceFile, writer: RowWriter, tally: _Tally, request: Request) -> None:
    before = writer.rows
    dropped: Counter[str] = Counter()
    names: Names = {}
    said = 0
    work, limit = request.output / WORK / "unpacked", request.limits.max_bytes * MAX_EXPANSION
    with unzipped(source.path, work, source.url, limit) as (path, packed):
        form = sniff(path, source.url)
        for part in read_parts(path, form, source.url, names, request.options.named.roles):
            for row in _taken(part, writer, tally, request, source.url):
                found = _normalised(row, request)
                if isinstance(found, Usable):
                    tally.unread.update(dict.fromkeys(found.unread))
                refused = found if isinstance(found, Dropped) else writer.add(found, source.url)
                if refused is not None:
                    dropped[refused.reason] += 1
            said = _keep_going(
                writer.rows - before, dropped, writer.rows + tally.dropped.total(), source.url, said
            )
    used, named = writer.rows - before, request.options.named
    tally.names.update(names)
    if used:
        idle = [name for name in names if layouts.fold(name) not in named.roles]
        tally.unread.update(dict.fromkeys(name for name in idle if not layouts.read_columns((name,))))
        tally.unread.update(dict.fromkeys(named.unread(names)))
    tally.dropped.update(dropped)
    if not used and (missing := named.missing(names)):
        raise UserDataError(
            f"{source.url} has no column {' and no column '.join(missing)}; found: {listed(names) or 'none'}."
        )
    if dropped.get(columns.NO_COLUMNS) and not used:
        raise _no_columns(source.url, names, request.options.objective)
    kind = f"{form.value} in {packed}" if packed else form.value
    log.info("  %s: %d rows used, %d dropped (%s)", source.url, used, dropped.total(), kind)
    tally.sources.append(
        source.describe()
        | {"rows": used, "format": kind, "columns": list(names), "dropped": dict(dropped.most_common())}
        | {"layout": "named columns" if named else layouts.layout_of(names)}
    )


def _taken(
    part: dict[str, Any] | Dropped | Block, writer: RowWriter, tally: _Tally, request: Request, shown: str
) -> Iterable[dict[str, Any] | Dropped]:
    """The rows that have to be looked at one by one: none of a block that could be taken as a whole."""
    if not isinstance(part, Block):
        return (part,)
    plain = not request.options.named and request.options.objective == Objective.SFT
    rows = usable_rows(part.table) if plain else None
    if rows is None or not request.options.shows_all(rows):
        return part.rows()
    writer.add_rows(rows, shown)
    tally.unread.update(dict.fromkeys(rows.unread))
    return ()


def _normalised(row: dict[str, Any] | Dropped, request: Request) -> Usable | Dropped:
    found = row if isinstance(row, Dropped) else _normal(row, request)
    if isinstance(found, Usable) and isinstance(found.value, Conversation):
        reason = request.options.refused_by_template(found.value)
        return found if reason is None else Dropped(reason)
    return found


def _normal(row: dict[str, Any], request: Request) -> Usable | Dropped:
    named, objective = request.options.named, request.options.objective
    if objective != Objective.SFT:
        return compared(row, objective)
    if missing := named.missing(row):
        return Dropped(f"there is no column {missing[0]}")
    return normalise(row if not named else named.read(row), request.options.preference)


def _keep_going(used: int, dropped: Counter[str], before: int, shown: str, said: int) -> int:
    """Check the limits, and say how far it is: the hundred thousands of rows that were said."""
    if before + dropped.total() > MAX_ROWS:
        raise UserDataError(
            f"{shown} takes the dataset over {MAX_ROWS} rows; split it, or leave out what is not needed."
        )
    now = (used + dropped.total()) // SAID_ROWS
    if now > said:
        log.info("  %d rows read", now * SAID_ROWS)
        if stop_requested():
            raise TryAgain("Stopped while reading the dataset; it can be started again.")
    return now


def _check_share(rows: int, tally: _Tally, request: Request) -> None:
    dropped, share = tally.dropped.total(), request.options.max_dropped_share
    if dropped > share * (rows + dropped):
        raise UserDataError(
            f"{sentence(rows, tally.dropped)}. More than {share:.0%} of the rows cannot be used "
            "(DatasetConfig.max_dropped_share in the training config): mend them, or raise the share."
        )


def _no_columns(shown: str, names: Names, objective: str) -> UserDataError:
    found = f"found: {listed(names)}" if names else "no named columns were found"
    return UserDataError(f"{shown} has no usable columns ({found}). Accepted: {layouts.accepted(objective)}.")


def _nothing_usable(tally: _Tally, objective: str) -> UserDataError:
    reasons = "; ".join(f"{count} x {reason}" for reason, count in tally.dropped.most_common(5))
    why = f"all {tally.dropped.total()} rows were dropped: {reasons}" if reasons else "there are no rows"
    found = f" Columns found: {listed(tally.names)}." if tally.names else ""
    return UserDataError(
        f"The dataset has no usable row ({why}).{found} Accepted: {layouts.accepted(objective)}."
    )


def _report(request: Request, writer: RowWriter, tally: _Tally, parquet: Path) -> dict[str, Any]:
    return {
        "rows": writer.rows,
        "format": writer.kind.value if writer.kind else None,
        "columns": list(tally.names),
        "digest": writer.digest,
        "bytes": parquet.stat().st_size,
        "file_sha256": sha256_of(parquet),
        "sources": tally.sources,
        "dropped_rows": tally.dropped.total(),
        "dropped": dict(tally.dropped.most_common()),
        "unread": list(tally.unread)[:MAX_UNREAD],
        "sentence": sentence(writer.rows, tally.dropped, tally.unread),
        "duplicate_rows": writer.duplicates,
        "characters": {"total": writer.chars, **writer.length_statistics()},
        "roles": dict(sorted(writer.roles.items())),
        **({"compared": comparison} if (comparison := _comparison(writer)) else {}),
        "fingerprint": request.fingerprint,
    }


def _comparison(writer: RowWriter) -> dict[str, int]:
    """What preference data is like, in numbers; nothing of other data."""
    if writer.kind is Kind.PAIRS:
        return {"pairs": writer.rows, "chosen_longer": writer.longer}
    if writer.kind is Kind.MARKED:
        return {"good": writer.good, "bad": writer.rows - writer.good}
    return {}


def _say(report: dict[str, Any]) -> None:
    log.info("dataset ready: %s; kind %s, digest %s", report["sentence"], report["format"], report["digest"])
    for reason, count in report["dropped"].items():
        log.info("  dropped %d rows: %s", count, reason)
    if report["duplicate_rows"]:
        log.info("  %d rows repeat an earlier row", report["duplicate_rows"])
