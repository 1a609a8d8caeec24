"""A model to a registry and back: what is sent, what is not sent again, and what happens in the middle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from include.workloads.contract import TryAgain, UserConfigError, UserDataError
from include.workloads.oci import session, transfers
from include.workloads.oci.registry import RegistryClient
from include.workloads.weights import fetch, from_image, hub, package
from include.workloads.weights.layers import LayerContent, layer_of
from include.workloads.weights.package import Request
from tests.support.registry_server import Handler, Registry
from tests.support.small_model import CARD, write_model

TAKEN = ["LICENSE", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
         "model.safetensors.index.json", "tokenizer.json"]  # fmt: skip


@pytest.fixture
def vouched(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("INSECURE_REGISTRIES", f"127.0.0.1:{registry.port}")
    monkeypatch.setattr(session, "RegistryClient", partial(RegistryClient, sleep=registry.slept.append))
    return registry


def request(registry: Registry, folder: Path, **more: object) -> Request:
    return Request(registry=f"127.0.0.1:{registry.port}", name="phi", tag="1", folder=str(folder), **more)


def packaged(registry: Registry, folder: Path, **more: object) -> dict:
    """The registry of the tests holds one repository, whatever it is called."""
    return package.package(request(registry, folder, **more))


def pulled(registry: Registry, monkeypatch: pytest.MonkeyPatch, target: Path, parts: str = "") -> dict:
    monkeypatch.setenv("WEIGHTS_SOURCE", "image")
    monkeypatch.setenv("WEIGHTS_PARTS", parts)
    monkeypatch.setenv("WEIGHTS_PATH", str(target))
    monkeypatch.setenv("MODEL_IMAGE", f"127.0.0.1:{registry.port}/kaito-phi:1")
    return fetch.fetch_weights()


def test_there_and_back(vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    folder = write_model(tmp_path / "model")
    before = {path.name: (path.read_bytes(), path.stat().st_mode) for path in folder.iterdir()}
    result = packaged(vouched, folder)
    assert result["image"] == f"127.0.0.1:{vouched.port}/kaito-phi:1"
    assert result["pushed"] is True
    assert {path.name: (path.read_bytes(), path.stat().st_mode) for path in folder.iterdir()} == before
    notes = json.loads(vouched.manifests["1"])["annotations"]
    assert notes["org.opencontainers.image.licenses"] == "apache-2.0"
    assert sorted(json.loads(notes["sh.kaito.model.files"])) == TAKEN

    got = pulled(vouched, monkeypatch, tmp_path / "weights")
    assert got["downloaded"] is True
    target = tmp_path / "weights"
    assert (target / TAKEN[2]).read_bytes() == (folder / TAKEN[2]).read_bytes()
    assert json.loads((target / "config.json").read_text()) == {"model_type": "llama"}
    assert sorted(p.name for p in target.iterdir() if not p.name.startswith(".")) == TAKEN[1:]
    vouched.asked.clear()
    assert pulled(vouched, monkeypatch, target)["downloaded"] is False
    assert not any("blobs" in path for _, path in vouched.asked)


def test_the_same_content_is_the_same_digest_and_is_not_sent_twice(vouched: Registry, tmp_path: Path):
    first = packaged(vouched, write_model(tmp_path / "one"))
    again = packaged(vouched, write_model(tmp_path / "two"))
    assert again == {**first, "pushed": False}
    vouched.manifests.clear()
    vouched.asked.clear()
    assert packaged(vouched, write_model(tmp_path / "three"))["pushed"] is True
    assert not any(method in ("POST", "PATCH") for method, _ in vouched.asked)


def test_only_the_tokenizer_s_files_are_asked_for_where_only_they_are_wanted(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    packaged(vouched, write_model(tmp_path / "model"))
    pulled(vouched, monkeypatch, tmp_path / "weights", "tokenizer")
    assert not list((tmp_path / "weights").glob("*.safetensors"))
    assert (tmp_path / "weights/tokenizer.json").is_file()


def big_layer(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 4000)
    return path, layer_of(path)


def put(registry: Registry, path: Path, layer, piece: int = 300_000) -> bool:
    return transfers.put_big_blob(
        registry.client(),
        layer.digest,
        layer.layer_size,
        lambda start: LayerContent(path, layer, start),
        piece=piece,
    )


def dying(on: Callable[[Handler], bool]) -> Callable[[Handler], bool]:
    """End one connection without an answer."""
    left = [1]

    def before(handler: Handler) -> bool:
        if not left[0] or not on(handler):
            return False
        left[0] -= 1
        return True

    return before


def is_piece(handler: Handler) -> bool:
    return handler.command == "PATCH" and not handler.headers["Content-Range"].startswith("0-")


def test_an_upload_goes_in_pieces_and_on_where_a_connection_broke(registry: Registry, tmp_path: Path):
    path, layer = big_layer(tmp_path)
    registry.before = dying(is_piece)
    assert put(registry, path, layer) is True
    assert len(registry.blobs[layer.digest]) == layer.layer_size
    pieces = [path for method, path in registry.asked if method == "PATCH"]
    assert len(pieces) == 5, "four pieces, one of them twice"
    assert [method for method, _ in registry.asked].count("POST") == 1


def test_a_piece_that_arrived_without_its_answer_is_not_sent_again(registry: Registry, tmp_path: Path):
    path, layer = big_layer(tmp_path)
    answered = []

    def before(handler: Handler) -> bool:
        if is_piece(handler) and not answered:
            answered.append(1)
            upload = handler.path.rpartition("/")[2].partition("?")[0]
            registry.uploads[upload] += handler.body
            return handler.reply(503)
        return False

    registry.before = before
    assert put(registry, path, layer) is True
    assert [method for method, _ in registry.asked].count("PATCH") == 4


@pytest.mark.parametrize("status", [400, 403, 404])
def test_an_upload_that_the_registry_has_forgotten_begins_again(
    status: int, registry: Registry, tmp_path: Path
):
    path, layer = big_layer(tmp_path)
    forgotten: list[str] = []

    def before(handler: Handler) -> bool:
        if is_piece(handler) and not forgotten:
            forgotten.append(handler.path)
            registry.uploads.clear()
            registry.uploads["0"] = b""
        if forgotten and "uploads/1?" in handler.path:
            return handler.reply(status)
        return False

    registry.before = before
    assert put(registry, path, layer) is True
    assert len(registry.blobs[layer.digest]) == layer.layer_size


def test_a_registry_that_refuses_the_first_piece_is_believed(registry: Registry, tmp_path: Path):
    path, layer = big_layer(tmp_path)
    registry.before = lambda handler: handler.command == "PATCH" and handler.reply(403)
    with pytest.raises(UserConfigError, match="refuses access"):
        put(registry, path, layer)


def test_a_registry_that_stays_away_ends_the_push(registry: Registry, tmp_path: Path):
    path, layer = big_layer(tmp_path)
    registry.before = lambda handler: handler.command == "PATCH" and handler.reply(503)
    with pytest.raises(TryAgain, match="503"):
        put(registry, path, layer)


class CutShort:
    """Sends less of a blob than it says, once or always."""

    def __init__(self, registry: Registry, after: int, times: int) -> None:
        self.registry, self.after, self.left = registry, after, times
        self.ranges: list[str] = []

    def __call__(self, handler: Handler) -> bool:
        if "/blobs/" not in handler.path or handler.command != "GET":
            return False
        content = self.registry.blobs[handler.path.rpartition("/")[2]]
        if len(content) < 100_000:
            return False
        self.ranges.append(handler.headers.get("Range", ""))
        if not self.left:
            return False
        self.left -= 1
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start : start + self.after])
        return True


def test_a_download_goes_on_where_the_connection_broke(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = write_model(tmp_path / "model", size=100_000, shards=1)
    packaged(vouched, folder)
    vouched.before = cut = CutShort(vouched, 150_000, 2)
    pulled(vouched, monkeypatch, tmp_path / "weights")
    assert cut.ranges == ["", "bytes=150000-", "bytes=300000-"]
    name = "model-00001-of-00001.safetensors"
    assert (tmp_path / "weights" / name).read_bytes() == (folder / name).read_bytes()


def test_a_download_that_gets_on_may_break_as_often_as_it_likes(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = write_model(tmp_path / "model", size=2_000_000, shards=1)
    packaged(vouched, folder)
    vouched.before = cut = CutShort(vouched, 1_300_000, 99)
    pulled(vouched, monkeypatch, tmp_path / "weights")
    assert len(cut.ranges) == 7, "more connections than there are tries"
    name = "model-00001-of-00001.safetensors"
    assert (tmp_path / "weights" / name).read_bytes() == (folder / name).read_bytes()


def test_the_next_pod_goes_on_where_the_last_one_ended(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = write_model(tmp_path / "model", size=100_000, shards=1)
    packaged(vouched, folder)
    vouched.before = CutShort(vouched, 30_000, 99)
    with pytest.raises(TryAgain):
        pulled(vouched, monkeypatch, tmp_path / "weights")
    vouched.before = cut = CutShort(vouched, 0, 0)
    pulled(vouched, monkeypatch, tmp_path / "weights")
    assert cut.ranges == ["bytes=120000-"], "four tries of 30,000 bytes each, of which a header has 512"
    assert not list((tmp_path / "weights").glob(".*.part"))


def test_a_registry_that_takes_no_ranges_is_read_from_the_beginning(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = write_model(tmp_path / "model", size=100_000, shards=1)
    packaged(vouched, folder)
    cut = CutShort(vouched, 150_000, 1)

    def before(handler: Handler) -> bool:
        if not cut.left:
            del handler.headers["Range"]
        return cut(handler)

    vouched.before = before
    pulled(vouched, monkeypatch, tmp_path / "weights")
    name = "model-00001-of-00001.safetensors"
    assert (tmp_path / "weights" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("where", [0, 600, -1])
def test_a_file_damaged_in_the_registry_never_gets_its_name(
    where: int, vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = write_model(tmp_path / "model", shards=1)
    packaged(vouched, folder)
    digest, content = max(vouched.blobs.items(), key=lambda item: len(item[1]))
    damaged = bytearray(content)
    damaged[where] ^= 1
    vouched.blobs[digest] = bytes(damaged)
    with pytest.raises(TryAgain, match=r"did not arrive with the digest .*push the image again"):
        pulled(vouched, monkeypatch, tmp_path / "weights")
    assert not (tmp_path / "weights/model-00001-of-00001.safetensors").exists()


def test_what_a_dead_pod_left_damaged_is_fetched_again(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = write_model(tmp_path / "model", shards=1)
    packaged(vouched, folder)
    target = tmp_path / "weights"
    target.mkdir()
    name = "model-00001-of-00001.safetensors"
    (target / name).write_bytes(b"x" * 10)
    pulled(vouched, monkeypatch, target)
    assert (target / name).read_bytes() == (folder / name).read_bytes()


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    packaged(vouched, write_model(tmp_path / "model"))
    vouched.asked.clear()
    usage = shutil._ntuple_diskusage(10, 10, 1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(UserConfigError, match=r"free, but .* still to be downloaded"):
        pulled(vouched, monkeypatch, tmp_path / "weights")
    assert not any("blobs" in path for _, path in vouched.asked)


def test_a_disk_that_fills_up_is_the_volume_s_fault(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    packaged(vouched, write_model(tmp_path / "model"))

    def full(_file: object, _content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(from_image, "_write", full)
    with pytest.raises(UserConfigError, match="is full while writing the weights"):
        pulled(vouched, monkeypatch, tmp_path / "weights")


def test_an_image_that_is_not_there_or_is_none_of_a_model(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with pytest.raises(UserConfigError, match="has no image kaito-phi with 1"):
        pulled(vouched, monkeypatch, tmp_path / "weights")
    vouched.manifests["1"] = b'{"schemaVersion": 2, "layers": []}'
    with pytest.raises(UserDataError, match="not of a model"):
        pulled(vouched, monkeypatch, tmp_path / "weights")


# What may be where


def open_to_the_world(monkeypatch: pytest.MonkeyPatch, shown: bool = False) -> None:
    monkeypatch.setattr(package, "is_inside", lambda _reference: False)
    monkeypatch.setattr(package, "anonymous_can_read", lambda _reference: shown)


@pytest.mark.parametrize(
    ("card", "more", "words"),
    [
        (CARD, {"gated": True}, "it is gated"),
        ("no front matter", {}, "its licence is not known"),
        (CARD.replace("apache-2.0", "llama2"), {}, "its licence llama2 is not one"),
    ],
)
def test_what_its_licence_forbids_is_not_made_public(
    card: str, more: dict, words: str, vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    folder = write_model(tmp_path / "model", card=card)
    open_to_the_world(monkeypatch)
    with pytest.raises(UserConfigError, match=f"{words}.*say --private"):
        packaged(vouched, folder, **more)
    assert vouched.asked == []
    open_to_the_world(monkeypatch, shown=True)
    with pytest.raises(UserConfigError, match="shows this repository to everybody"):
        packaged(vouched, folder, private=True, **more)
    assert vouched.uploads == {}
    open_to_the_world(monkeypatch)
    assert packaged(vouched, folder, private=True, **more)["pushed"] is True


def test_what_its_licence_allows_may_be_public(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    open_to_the_world(monkeypatch, shown=True)
    assert packaged(vouched, write_model(tmp_path / "model"))["pushed"] is True


@pytest.mark.parametrize(("status", "shown"), [(200, True), (401, False), (403, False), (404, False)])
def test_whether_everybody_can_read_a_repository_is_asked_without_the_password(
    status: int, shown: bool, vouched: Registry
):
    vouched.before = lambda handler: handler.reply(status, b"{}")
    reference = session.read_reference(f"127.0.0.1:{vouched.port}/kaito-phi:1")
    assert session.anonymous_can_read(reference) is shown
    assert session.is_inside(reference) is True


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"folder": ""}, "name a model of the hub"),
        ({"folder": "/nowhere/at/all"}, "is not a folder"),
        ({"name": "A B"}, "is not a name for an image"),
        ({"tag": ""}, "give --tag"),
        ({"parts": "x"}, "not one of mistral"),
    ],
)
def test_a_request_that_cannot_be_is_refused_before_anything_is_asked(
    wrong: dict, words: str, vouched: Registry, tmp_path: Path
):
    folder = write_model(tmp_path / "model")
    made = {"registry": f"127.0.0.1:{vouched.port}", "name": "phi", "tag": "1", "folder": str(folder)}
    with pytest.raises(UserConfigError, match=words):
        package.package(Request(**{**made, **wrong}))
    assert vouched.asked == []


def test_a_folder_that_is_no_whole_model_is_refused(vouched: Registry, tmp_path: Path):
    folder = write_model(tmp_path / "model")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserDataError, match="incomplete"):
        packaged(vouched, folder)
    assert vouched.uploads == {}


def test_a_model_of_the_hub_is_pinned_and_named_after_its_commit(
    vouched: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    held = write_model(tmp_path / "held")
    commit = "c" * 40
    monkeypatch.setattr(hub, "look_up", lambda model, revision: hub.Card(commit, "mit", False))

    def download(model: str, revision: str, folder: Path, parts: object) -> None:
        assert (model, revision) == ("team/phi", commit)
        shutil.copytree(held, folder, dirs_exist_ok=True)

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.com")
    made = Request(registry=f"127.0.0.1:{vouched.port}", name="phi", model="team/phi")
    result = package.package(made)
    assert result["image"].endswith(f"/kaito-phi:{commit[:12]}")
    notes = json.loads(vouched.manifests[commit[:12]])["annotations"]
    assert notes["org.opencontainers.image.revision"] == commit
    assert notes["org.opencontainers.image.source"] == "https://huggingface.co/team/phi"
    assert notes["sh.kaito.model.id"] == "team/phi"
