"""The walls: what is shown, what is writable, how missing mount points are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.node.bubblewrap import Cell, build_arguments
from sandbox.node.volumes import Mount


@pytest.fixture
def walls(tmp_path):
    def make(*mounts: Mount, read_only_root: bool = True, **fields):
        cell = Cell(
            **{
                "mounts": mounts,
                "read_only_root": read_only_root,
                "uid": 1000,
                "gid": 1000,
                "hostname": "ws-0",
                "working_dir": "/",
                "hidden": tmp_path / "state",
                **fields,
            }
        )
        return build_arguments(cell)

    return make


def position(args: list[str], *wanted: str) -> int:
    """Where this run of arguments starts; fails when it is not there."""
    for start in range(len(args)):
        if tuple(args[start : start + len(wanted)]) == wanted:
            return start
    raise AssertionError(f"{wanted} is not in {args}")


def has(args: list[str], *wanted: str) -> bool:
    try:
        return position(args, *wanted) >= 0
    except AssertionError:
        return False


def test_everything_dies_with_the_agent_and_has_its_own_user_and_processes(walls):
    args = walls()
    for option in ("--die-with-parent", "--unshare-user", "--unshare-pid", "--as-pid-1"):
        assert option in args
    assert has(args, "--uid", "1000")
    assert has(args, "--hostname", "ws-0")


def test_nothing_of_the_machine_is_writable(walls):
    args = walls()
    assert "--bind" not in args
    assert "--dev-bind" not in args
    assert has(args, "--ro-bind-try", "/usr", "/usr")


def test_a_volume_at_a_new_top_folder_needs_no_opening(walls, tmp_path):
    args = walls(Mount(tmp_path, "/no-such-folder/weights", False))
    assert has(args, "--bind", str(tmp_path), "/no-such-folder/weights")
    assert not has(args, "--tmpfs", "/no-such-folder")


def test_a_volume_below_an_existing_folder_opens_it_and_shows_its_content_again(walls, tmp_path):
    args = walls(Mount(tmp_path, "/etc/kaito-test/registry", True))
    opened = position(args, "--tmpfs", "/etc")
    shown = position(args, "--ro-bind-try", "/etc/passwd", "/etc/passwd")
    bound = position(args, "--ro-bind", str(tmp_path), "/etc/kaito-test/registry")
    assert opened < shown < bound < position(args, "--remount-ro", "/etc")


def test_an_existing_file_is_covered_without_opening_its_folder(walls, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.touch()
    args = walls(Mount(hosts, "/etc/hosts", True))
    assert has(args, "--ro-bind", str(hosts), "/etc/hosts")
    assert not has(args, "--tmpfs", "/etc")


def test_inner_mounts_come_after_outer_ones_and_get_their_mount_point(walls, tmp_path):
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    outer.mkdir()
    inner.mkdir()
    args = walls(Mount(inner, "/mnt/data/deep/er", False), Mount(outer, "/mnt/data", True))
    assert position(args, "--ro-bind", str(outer), "/mnt/data") < position(
        args, "--bind", str(inner), "/mnt/data/deep/er"
    )
    assert (outer / "deep" / "er").is_dir()


def test_a_read_only_root_has_a_read_only_tmp_unless_a_volume_is_there(walls, tmp_path):
    assert has(walls(), "--remount-ro", "/tmp")
    with_volume = walls(Mount(tmp_path, "/tmp", False))
    assert has(with_volume, "--bind", str(tmp_path), "/tmp")
    assert not has(with_volume, "--remount-ro", "/tmp")
    assert not has(with_volume, "--tmpfs", "/tmp")


def test_a_writable_root_is_writable_only_where_it_is_the_containers_own(walls):
    args = walls(read_only_root=False)
    assert "--remount-ro" not in args
    assert has(args, "--tmpfs", "/tmp")
    assert "--bind" not in args


def test_the_state_folder_is_hidden_and_volumes_out_of_it_are_not(walls, tmp_path):
    state = tmp_path / "state"
    volume = state / "volumes" / "pvc-1"
    volume.mkdir(parents=True)
    args = walls(Mount(volume, "/mnt/data", False), shown=(tmp_path,))
    shown = position(args, "--ro-bind", str(tmp_path), str(tmp_path))
    hidden = position(args, "--tmpfs", str(state))
    assert shown < hidden < position(args, "--bind", str(volume), "/mnt/data")


def test_a_missing_working_folder_is_made(walls):
    args = walls(working_dir="/no-such-folder/work")
    assert position(args, "--dir", "/no-such-folder/work") < position(args, "--chdir", "/no-such-folder/work")
    assert has(walls(working_dir="/usr"), "--chdir", "/usr")
    assert not has(walls(working_dir="/usr"), "--dir", "/usr")


def test_symbolic_links_of_the_machine_are_followed_for_mount_points(walls, tmp_path):
    if not Path("/var/run").is_symlink():
        pytest.skip("this machine's /var/run is no link")
    args = walls(Mount(tmp_path, "/var/run/secrets-test", True))
    assert has(args, "--ro-bind", str(tmp_path), f"{Path('/var/run').resolve()}/secrets-test")
