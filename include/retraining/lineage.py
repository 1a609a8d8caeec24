"""Which data is behind an answer, and what stands on a dataset: read from the status of Workspaces, both ways.

What is known is what `status.adapter` and `status.retrain` say. A version that a Workspace no longer keeps is not found
here; its image still says where it comes from, in its annotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from include.contracts.dataset_digest import SHORT, digits
from include.contracts.row_changes import RowChanges
from include.retraining.versions import ORIGINAL

SERVED = "served"


@dataclass(frozen=True, slots=True)
class Link:
    """One version: the dataset that it learnt from, its adapter, and what has become of it.

    `added` and `removed` are rows of its dataset against what was learnt from before it, None where that is not known.
    """

    workspace: str
    version: str
    adapter: str
    dataset: str
    rows: int | None
    state: str
    run: str
    origin: str = ""
    added: int | None = None
    removed: int | None = None

    @property
    def serves(self) -> bool:
        return self.state == SERVED

    def sentence(self) -> str:
        """As a line for people: dataset -> adapter -> Workspace."""
        moved = RowChanges.of(self.added, self.removed)
        rows = f" ({self.rows} rows{f', {moved}' if moved else ''})" if self.rows else ""
        data = f"dataset {self.dataset or 'not known'}{rows}"
        after = f", continued from {self.origin}" if self.origin else ""
        made = f"adapter {self.adapter or 'none'} (version {self.version}{after})"
        return f"{data} -> {made} -> {self.workspace}: {self.state}"


def links(workspaces: Iterable[Mapping[str, Any]]) -> Iterator[Link]:
    """All versions of these Workspaces, as the cluster returned them."""
    for one in workspaces:
        metadata, status = one["metadata"], one.get("status") or {}
        name = f"{metadata.get('namespace') or 'default'}/{metadata['name']}"
        adapter = status.get("adapter") or {}
        served = str(adapter.get("digest") or "")
        known = (status.get("retrain") or {}).get("versions") or ()
        for entry in known:
            yield _link(name, entry, served)
        if served and not any(entry.get("digest") == served for entry in known):
            run = str((status.get("run") or {}).get("id") or "")
            yield _link(name, {**adapter, "version": ORIGINAL, "run": run}, served)


def _link(name: str, entry: Mapping[str, Any], served: str) -> Link:
    data, digest = entry.get("dataset") or {}, str(entry.get("digest") or "")
    state = SERVED if digest and digest == served else str(entry.get("state") or "")
    rows, added, removed = (_number(data.get(key)) for key in ("rows", "added", "removed"))
    return Link(
        name,
        str(entry.get("version") or ""),
        digest,
        str(data.get("digest") or ""),
        rows,
        state,
        str(entry.get("run") or ""),
        str(entry.get("from") or ""),
        added,
        removed,
    )


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def trace(found: Iterable[Link], what: str) -> list[Link]:
    """The versions that a word means, what is served first.

    :param what: the digest of an adapter or of a dataset (or twelve digits of its beginning), a Workspace's name with
        or without its namespace, or a version.
    """
    bare = digits(what)
    every = list(found)
    mine = _with_what_came_of_them(every, [link for link in every if _means(link, what, bare)])
    return sorted(mine, key=lambda link: (not link.serves, link.workspace, link.version))


def _with_what_came_of_them(every: list[Link], mine: list[Link]) -> list[Link]:
    """And the versions that were trained on from these: they have learnt from the same rows."""
    while True:
        adapters = {link.adapter for link in mine if link.adapter}
        more = [link for link in every if link.origin in adapters and link not in mine]
        if not more:
            return mine
        mine += more


def _means(link: Link, what: str, bare: str) -> bool:
    if what in (link.workspace, link.workspace.partition("/")[2], link.version):
        return True
    digests = (digits(link.adapter), digits(link.dataset))
    return len(bare) >= SHORT and any(digest.startswith(bare) for digest in digests)
