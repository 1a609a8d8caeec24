"""Volumes become folders with the right content, and never lead out of themselves."""

from __future__ import annotations

import base64

import pytest

from sandbox.node.image_volumes import ImageStore
from sandbox.node.volumes import VolumeProblem, VolumeSet, inside


@pytest.fixture
def set_up(cluster, pod, tmp_path):
    async def make(*volumes):
        pod["spec"]["volumes"] = list(volumes)
        made = VolumeSet(
            cluster, pod, tmp_path / "pod", tmp_path / "shm" / "pod", ImageStore(tmp_path / "images")
        )
        await made.set_up()
        return made

    return make


def mounts(volumes, *volume_mounts, env=None):
    return volumes.mounts({"volumeMounts": list(volume_mounts)}, env or {})


async def test_config_maps_become_files(cluster, set_up):
    data = {
        "data": {"a": "1", "b.yaml": "x: y"},
        "binaryData": {"raw": base64.b64encode(b"\x00\xff").decode()},
    }
    await cluster.create("configmaps", {"metadata": {"name": "cm"}, **data}, "default")
    volumes = await set_up({"name": "v", "configMap": {"name": "cm"}})
    mount = mounts(volumes, {"name": "v", "mountPath": "/mnt/config"})[0]
    assert mount.read_only
    assert {p.name: p.read_bytes() for p in mount.source.iterdir()} == {
        "a": b"1",
        "b.yaml": b"x: y",
        "raw": b"\x00\xff",
    }


async def test_items_choose_and_place_keys_with_their_mode(cluster, set_up):
    await cluster.create(
        "secrets", {"metadata": {"name": "s"}, "stringData": {"a": "1", "b": "2"}}, "default"
    )
    items = [{"key": "a", "path": "deep/a", "mode": 0o400}]
    volumes = await set_up({"name": "v", "secret": {"secretName": "s", "items": items, "defaultMode": 0o440}})
    source = mounts(volumes, {"name": "v", "mountPath": "/x"})[0].source
    assert [p.name for p in source.iterdir()] == ["deep"]
    assert (source / "deep" / "a").stat().st_mode & 0o777 == 0o400


async def test_projected_sources_share_a_folder(cluster, set_up):
    await cluster.create("configmaps", {"metadata": {"name": "cm"}, "data": {"a": "1"}}, "default")
    await cluster.create("secrets", {"metadata": {"name": "s"}, "stringData": {"b": "2"}}, "default")
    field = {"path": "labels", "fieldRef": {"fieldPath": "metadata.name"}}
    sources = [{"configMap": {"name": "cm"}}, {"secret": {"name": "s"}}, {"downwardAPI": {"items": [field]}}]
    volumes = await set_up({"name": "v", "projected": {"sources": sources}})
    source = mounts(volumes, {"name": "v", "mountPath": "/x"})[0].source
    assert {p.name: p.read_text() for p in source.iterdir()} == {"a": "1", "b": "2", "labels": "ws-0"}


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"configMap": {"name": "no"}}, 'configmap "no" not found'),
        ({"secret": {"secretName": "no"}}, 'secret "no" not found'),
        ({"persistentVolumeClaim": {"claimName": "no"}}, 'persistentvolumeclaim "no" not found'),
        ({"hostPath": {"path": "/does/not/exist", "type": "Directory"}}, "hostPath type check failed"),
        ({"nfs": {"server": "x", "path": "/"}}, "does not know volumes of type nfs"),
    ],
)
async def test_what_cannot_be_mounted_is_said(set_up, volume, words):
    with pytest.raises(VolumeProblem, match=words):
        await set_up({"name": "v", **volume})


async def test_optional_sources_may_be_missing(set_up):
    volumes = await set_up({"name": "v", "secret": {"secretName": "no", "optional": True}})
    assert list(mounts(volumes, {"name": "v", "mountPath": "/x"})[0].source.iterdir()) == []


async def test_a_sub_path_is_made_and_an_expression_is_filled_in(set_up):
    volumes = await set_up({"name": "v", "emptyDir": {}})
    found = mounts(
        volumes,
        {"name": "v", "mountPath": "/a", "subPath": "results"},
        {"name": "v", "mountPath": "/b", "subPathExpr": "$(POD)/x", "readOnly": True},
        env={"POD": "ws-0"},
    )
    assert [m.source.relative_to(found[0].source.parent).as_posix() for m in found] == ["results", "ws-0/x"]
    assert all(m.source.is_dir() for m in found)
    assert [m.read_only for m in found] == [False, True]


@pytest.mark.parametrize("relative", ["../secret", "a/../../b", "/etc/passwd"])
def test_no_path_leads_out_of_its_volume(tmp_path, relative):
    with pytest.raises(VolumeProblem, match="inside its volume"):
        inside(tmp_path, relative)


async def test_a_sub_path_that_leads_out_is_refused(set_up):
    volumes = await set_up({"name": "v", "emptyDir": {}})
    with pytest.raises(VolumeProblem):
        mounts(volumes, {"name": "v", "mountPath": "/x", "subPath": "../../other"})


async def test_host_paths_are_made_where_asked(set_up, tmp_path):
    volumes = await set_up(
        {"name": "v", "hostPath": {"path": str(tmp_path / "new"), "type": "DirectoryOrCreate"}}
    )
    assert mounts(volumes, {"name": "v", "mountPath": "/x"})[0].source == tmp_path / "new"
    volumes.tear_down()
    assert (tmp_path / "new").is_dir()


async def test_tearing_down_forgets_what_the_pod_wrote(set_up, tmp_path):
    volumes = await set_up({"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}})
    sources = [mounts(volumes, {"name": n, "mountPath": "/x"})[0].source for n in ("v", "m")]
    (sources[0] / "file").write_text("x")
    volumes.tear_down()
    assert not any(source.exists() for source in sources)
