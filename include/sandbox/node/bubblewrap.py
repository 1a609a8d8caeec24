"""The walls around a container: the `bwrap` arguments that give it its files, user and process space.

The machine's own root is shown read-only; only what the pod declares is writable. A mount point that the machine does
not have is made by opening its nearest existing parent: an empty tmpfs there, with everything of the parent bound back
into it. The state folder is never shown: it holds keys and other pods' secrets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from include.sandbox.node.volumes import Mount

PROGRAM = "bwrap"
#: Mounted anew in every container, so never bound from the machine.
OWN = ("/proc", "/dev", "/tmp")  # noqa: S108 - a path inside the container


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
    shown: tuple[Path, ...] = field(
        default=()
    )  # the project and the interpreter, also where they lie below /tmp


def _parents_first(paths: Iterable[str]) -> list[str]:
    return sorted(set(paths), key=lambda path: (path.count("/"), path))


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _place(target: str) -> str:
    """The target with the machine's symbolic links followed, because those are shown as they are."""
    if any(_below(target, own) for own in OWN):
        return os.path.normpath(target)
    return os.path.realpath(target)


def _nearest_folder(path: str) -> str:
    """The deepest existing folder above a path that does not exist."""
    parent = os.path.dirname(path)
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    return parent


def _contents(folder: str, skip: Iterable[str] = ()) -> Iterator[str]:
    """Arguments that show everything of `folder` in an empty one at the same place."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            path = os.path.join(folder, entry.name)
            if path in skip:
                continue
            if entry.is_symlink():
                yield from ("--symlink", os.readlink(path), path)
            else:
                yield from ("--ro-bind-try", path, path)


def _opened(places: Iterable[str], covered: Iterable[str]) -> list[str]:
    """Folders of the machine that must be opened so that these places can be made in them."""
    covered = list(covered)
    opened = set()
    for place in places:
        above = [c for c in covered if c != place and _below(place, c)]
        if not above and not os.path.exists(place) and not any(_below(place, own) for own in OWN):
            opened.add(_nearest_folder(place))
    return _parents_first(opened - {"/"})


def _make_mount_point(mounts: list[tuple[str, Mount]], place: str, source: Path) -> None:
    """A mount inside another volume needs its mount point there, since that volume may be read-only in the container."""
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


def _bind(place: str, mount: Mount) -> list[str]:
    return ["--ro-bind" if mount.read_only else "--bind", str(mount.source), place]


def build_arguments(cell: Cell) -> list[str]:
    """The complete `bwrap` call up to the `--` before the container's own command."""
    mounts = [(_place(mount.target), mount) for mount in cell.mounts]
    places = [place for place, _ in mounts]
    for place, mount in mounts:
        _make_mount_point(mounts, place, mount.source)
    made = [*places, _place(cell.working_dir)]
    opened = _opened(made, places)
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
    by_depth = sorted(mounts, key=lambda pair: (pair[0].count("/"), pair[0]))
    if OWN[2] not in places:
        args += ["--perms", "1777", "--tmpfs", OWN[2]]
    for place, mount in by_depth:
        if place == OWN[2]:
            args += _bind(place, mount)
    for path in _parents_first(map(str, cell.shown)):
        if _below(path, OWN[2]):
            args += ["--ro-bind", path, path]
    args += ["--tmpfs", str(cell.hidden)]
    for place, mount in by_depth:
        if place != OWN[2]:
            args += _bind(place, mount)
    if not os.path.isdir(cell.working_dir):
        args += ["--dir", cell.working_dir]
    if cell.read_only_root:
        own_tmp = [] if OWN[2] in places else [OWN[2]]
        for folder in [*opened, str(cell.hidden), *own_tmp, "/"]:
            args += ["--remount-ro", folder]
    return [*args, "--chdir", cell.working_dir]


def interpreter_folders() -> tuple[Path, ...]:
    return tuple({Path(sys.prefix), Path(sys.base_prefix)})
