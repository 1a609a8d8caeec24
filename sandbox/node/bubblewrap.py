"""The walls around a container: the `bwrap` arguments that give it its files, user and process space.

The machine's own root is shown read-only; only what the pod declares is writable. A mount point that the machine does
not have is made by opening its nearest existing parent: an empty tmpfs there, with everything of the parent bound back
into it. The state folder is never shown: it holds keys and other pods' secrets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox.node.volumes import Mount

PROGRAM = "bwrap"
#: Mounted anew in every container, so never bound from the machine.
TMP = "/tmp"  # noqa: S108 - a path inside the container
OWN = ("/proc", "/dev", TMP)


@dataclass(frozen=True)
class Cell:
    """What one container may see and write."""

    mounts: tuple[Mount, ...]
    read_only_root: bool
    uid: int
    gid: int
    hostname: str
    working_dir: str
    hidden: Path  # the state folder
    shown: tuple[Path, ...] = ()  # the project and the interpreter, also where they lie below /tmp


def _parents_first(paths: Iterable[str]) -> list[str]:
    return sorted(set(paths), key=lambda path: (path.count("/"), path))


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_own(path: str) -> bool:
    return any(_below(path, own) for own in OWN)


def _place(target: str) -> str:
    """The target with the machine's symbolic links followed, because those are shown as they are."""
    return os.path.normpath(target) if _is_own(target) else os.path.realpath(target)


def _nearest_folder(path: str) -> str:
    """The deepest existing folder above a path that does not exist."""
    return next(str(parent) for parent in Path(path).parents if parent.is_dir())


def _contents(folder: str, skip: Iterable[str] = ()) -> Iterator[str]:
    """Arguments that show everything of `folder` in an empty one at the same place."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.path in skip:
                continue
            if entry.is_symlink():
                yield from ("--symlink", str(Path(entry.path).readlink()), entry.path)
            else:
                yield from ("--ro-bind-try", entry.path, entry.path)


def _opened(places: Iterable[str], covered: Iterable[str]) -> list[str]:
    """Folders of the machine that must be opened so that these places can be made in them."""
    covered, opened = list(covered), set()
    for place in places:
        in_a_mount = any(other != place and _below(place, other) for other in covered)
        if not in_a_mount and not _is_own(place) and not Path(place).exists():
            opened.add(_nearest_folder(place))
    return _parents_first(opened - {"/"})


def _make_mount_point(mounts: list[tuple[str, Mount]], place: str, source: Path) -> None:
    """A mount inside another volume needs its mount point there: that volume may be read-only in the container."""
    above = [(other, mount) for other, mount in mounts if other != place and _below(place, other)]
    if not above:
        return
    other, mount = max(above, key=lambda pair: len(pair[0]))
    point = mount.source / os.path.relpath(place, other)
    if not point.exists():
        if source.is_dir():
            point.mkdir(parents=True, exist_ok=True)
        else:
            point.parent.mkdir(parents=True, exist_ok=True)
            point.touch()


def _binds(mounts: Iterable[tuple[str, Mount]]) -> Iterator[str]:
    for place, mount in mounts:
        yield from ("--ro-bind" if mount.read_only else "--bind", str(mount.source), place)


def build_arguments(cell: Cell) -> list[str]:
    """The complete `bwrap` call up to the `--` before the container's own command.

    May make mount points inside the mounts' sources; raises OSError when it cannot.
    """
    mounts = sorted(
        ((_place(m.target), m) for m in cell.mounts), key=lambda pair: (pair[0].count("/"), pair[0])
    )
    places = [place for place, _ in mounts]
    for place, mount in mounts:
        _make_mount_point(mounts, place, mount.source)
    opened = _opened([*places, _place(cell.working_dir)], places)
    tmp_mounts = [pair for pair in mounts if pair[0] == TMP]
    args = [PROGRAM, "--die-with-parent", "--unshare-user", "--uid", str(cell.uid), "--gid", str(cell.gid)]
    args += [
        "--unshare-pid",
        "--as-pid-1",
        "--unshare-ipc",
        "--unshare-uts",
        "--hostname",
        cell.hostname[:63],
    ]
    args += [*_contents("/", skip=OWN), "--proc", "/proc", "--dev", "/dev"]
    for folder in opened:
        args += ["--tmpfs", folder, *_contents(folder)]
    args += [*_binds(tmp_mounts)] if tmp_mounts else ["--perms", "1777", "--tmpfs", TMP]
    for path in _parents_first(str(path) for path in cell.shown if _below(str(path), TMP)):
        args += ["--ro-bind", path, path]
    args += ["--tmpfs", str(cell.hidden), *_binds(pair for pair in mounts if pair[0] != TMP)]
    if not Path(cell.working_dir).is_dir():
        args += ["--dir", cell.working_dir]
    if cell.read_only_root:
        for folder in [*opened, str(cell.hidden), *([] if tmp_mounts else [TMP]), "/"]:
            args += ["--remount-ro", folder]
    return [*args, "--chdir", cell.working_dir]


def interpreter_folders() -> tuple[Path, ...]:
    """Where this Python and its packages live."""
    return tuple({Path(sys.prefix), Path(sys.base_prefix)})
