"""Adapters that change beside a live server: no name twice for two versions, and nothing bad takes anything down."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.workloads.adapter.engine import EngineAway, EngineRefused, VllmEngine
from include.workloads.adapter.follow import DRAIN_SECONDS, KEEP_SECONDS, Follower
from include.workloads.adapter.versions import Names, read_wanted
from include.workloads.contract import TryAgain, UserDataError
from include.workloads.serving.gateway.aliases import Aliases


def image(number: int) -> str:
    return f"r.example.com/a@sha256:{number:064x}"


class FakeEngine:
    """Remembers what it was asked; refuses or is away when told to."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.error: Exception | None = None

    def load(self, target: str, path: str) -> None:
        if self.error:
            raise self.error
        assert Path(path, "adapter_config.json").is_file()
        self.loaded[target] = path

    def unload(self, target: str) -> None:
        if isinstance(self.error, EngineAway):
            raise self.error
        self.loaded.pop(target, None)


class Place:
    """One pod's files, and a registry of any images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wanted, self.names = folder / "wanted.json", folder / "names.json"
        self.pulls: list[str] = []
        self.error: Exception | None = None
        self.time = 0.0
        self.engine = FakeEngine()

    def want(self, canary: tuple[str, float] | None = None, **images: str) -> None:
        """`canary` is an image and its percent, beside each of the others."""
        beside = {"canary": {"image": canary[0], "percent": canary[1]}} if canary else {}
        listed = [{"name": name, "image": one, **beside} for name, one in images.items()]
        self.wanted.write_text(json.dumps({"adapters": listed}))

    def pull(self, reference: str, folder: Path) -> str:
        self.pulls.append(reference)
        if self.error:
            raise self.error
        (folder / "adapter_config.json").write_text("{}")
        return reference.partition("@")[2] or "sha256:" + "f" * 64

    def follower(self) -> Follower:
        return Follower(self.folder / "adapters", self.wanted, self.names, self.pull, lambda: self.time)

    def said(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.names.read_text())
        return found

    def targets(self) -> dict[str, str]:
        return {name: one["target"] for name, one in self.said()["adapters"].items()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.want(mine=image(1))
    made.follower().prepare()
    return made


def test_before_the_server_starts_everything_lies_under_its_lasting_name(place: Place) -> None:
    assert place.targets() == {"mine": "mine@000000000000"[:5] + f"{1:064x}"[:12]}
    assert (place.folder / "adapters" / place.targets()["mine"] / "adapter_config.json").is_file()
    assert place.said()["default"] == "mine"


def test_a_change_loads_the_new_version_moves_the_name_and_lets_the_old_one_go_later(tmp_path: Path) -> None:
    place = Place(tmp_path)
    first, second = f"r/a@sha256:{'a' * 64}", f"r/a@sha256:{'b' * 64}"
    place.want(mine=first)
    follower = place.follower()
    follower.prepare()
    place.engine.loaded["mine@aaaaaaaaaaaa"] = "at its start"
    place.want(mine=second)
    follower.step(place.engine)
    assert place.targets() == {"mine": "mine@bbbbbbbbbbbb"}
    assert set(place.engine.loaded) == {"mine@aaaaaaaaaaaa", "mine@bbbbbbbbbbbb"}, "answers under way go on"
    assert place.said()["pending"] == {}
    place.time += DRAIN_SECONDS
    follower.step(place.engine)
    assert set(place.engine.loaded) == {"mine@bbbbbbbbbbbb"}
    assert (tmp_path / "adapters" / "mine@aaaaaaaaaaaa").is_dir()
    place.time += KEEP_SECONDS
    follower.step(place.engine)
    assert not (tmp_path / "adapters" / "mine@aaaaaaaaaaaa").exists()
    assert place.pulls == [first, second], "each once"


def test_going_back_needs_no_pull_and_keeps_the_version(tmp_path: Path) -> None:
    place = Place(tmp_path)
    first, second = f"r/a@sha256:{'a' * 64}", f"r/a@sha256:{'b' * 64}"
    place.want(mine=first)
    follower = place.follower()
    follower.prepare()
    for wanted in (second, first):
        place.want(mine=wanted)
        follower.step(place.engine)
    assert place.targets() == {"mine": "mine@aaaaaaaaaaaa"}
    assert place.pulls == [first, second]
    place.time += KEEP_SECONDS + DRAIN_SECONDS
    follower.step(place.engine)
    follower.step(place.engine)
    assert (tmp_path / "adapters" / "mine@aaaaaaaaaaaa").is_dir(), "what is served never goes"


def test_adapters_are_added_and_removed(place: Place) -> None:
    follower = place.follower()
    place.want(mine=image(1), yours=image(2))
    follower.step(place.engine)
    assert set(place.targets()) == {"mine", "yours"}
    assert place.said()["default"] is None, "two: neither is the one that /chat means"
    place.want(yours=image(2))
    follower.step(place.engine)
    assert set(place.targets()) == {"yours"}


FIRST, SECOND, THIRD = (f"r/a@sha256:{letter * 64}" for letter in "abc")


def test_a_canary_is_loaded_beside_the_version_that_is_served_and_let_go_again(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.want((SECOND, 10), mine=FIRST)
    follower = place.follower()
    follower.prepare()
    assert place.pulls == [FIRST], "a canary keeps no server from starting"
    aliases = Aliases({}, place.names)
    follower.step(place.engine)
    beside = place.said()["adapters"]["mine"]["canary"]
    assert (beside["target"], beside["image"], beside["percent"]) == ("mine@bbbbbbbbbbbb", SECOND, 10)
    assert place.targets() == {"mine": "mine@aaaaaaaaaaaa"}
    assert aliases.canaries() == {SECOND.partition("@")[2]: 10}
    assert place.follower().now == follower.now, "a new life of the sidecar knows of it"
    place.want((SECOND, 50), mine=FIRST)
    follower.step(place.engine)
    assert aliases.canaries() == {SECOND.partition("@")[2]: 50}
    place.want(mine=FIRST)
    follower.step(place.engine)
    assert aliases.canaries() == {}, "no request is its from now on"
    assert "mine@bbbbbbbbbbbb" in place.engine.loaded, "answers under way go on"
    place.time += DRAIN_SECONDS
    follower.step(place.engine)
    assert "mine@bbbbbbbbbbbb" not in place.engine.loaded
    assert place.pulls == [FIRST, SECOND]


def test_a_canary_that_has_held_out_is_served_without_a_pull(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.want((SECOND, 10), mine=FIRST)
    follower = place.follower()
    follower.prepare()
    place.engine.loaded["mine@aaaaaaaaaaaa"] = "at its start"
    follower.step(place.engine)
    place.want(mine=SECOND)
    follower.step(place.engine)
    assert place.targets() == {"mine": "mine@bbbbbbbbbbbb"}
    place.time += DRAIN_SECONDS
    follower.step(place.engine)
    assert set(place.engine.loaded) == {"mine@bbbbbbbbbbbb"}
    assert place.pulls == [FIRST, SECOND]


def test_a_canary_that_cannot_be_had_leaves_all_requests_to_what_is_served(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.want(mine=FIRST)
    follower = place.follower()
    follower.prepare()
    place.want((SECOND, 10), mine=FIRST)
    place.engine.error = EngineRefused("rank 64 is more than max_lora_rank 16")
    for _ in range(3):
        follower.step(place.engine)
    aliases = Aliases({}, place.names)
    assert aliases.canaries() == {}
    assert aliases.refused() == [SECOND.partition("@")[2]]
    place.want(mine=FIRST)
    follower.step(place.engine)
    assert aliases.refused() == []


@pytest.mark.parametrize(
    ("pulling", "loading", "state"),
    [
        (UserDataError("the image cannot be used"), None, "Failed"),
        (TryAgain("the registry is away"), None, "Loading"),
        (None, EngineRefused("rank 64 is more than max_lora_rank 16"), "Failed"),
        (None, EngineAway("connection refused"), "Loading"),
        (OSError(28, "No space left on device"), None, "Failed"),
    ],
)
def test_what_cannot_be_had_leaves_what_is_served(
    place: Place, pulling: Exception | None, loading: Exception | None, state: str
) -> None:
    before = place.targets()
    follower = place.follower()
    place.error, place.engine.error = pulling, loading
    place.want(mine=image(2**250))
    for _ in range(3):
        follower.step(place.engine)
    assert place.targets() == before
    pending = place.said()["pending"]["mine"]
    assert pending["state"] == state
    assert pending["message"]
    assert len(place.pulls) == 2, "it is not tried at every look"
    place.error = place.engine.error = None
    place.time += 3600
    follower.step(place.engine)
    assert (place.targets() == before) == (state == "Failed"), "what may mend itself is tried again"
    place.want(mine=image(1))
    follower.step(place.engine)
    assert place.said()["pending"] == {}


def test_a_version_that_the_server_refused_is_not_there_when_it_starts_again(place: Place) -> None:
    served = set(place.targets().values())
    follower = place.follower()
    place.engine.error = EngineRefused("size mismatch")
    place.want(mine=image(2**250))
    follower.step(place.engine)
    assert {folder.name for folder in (place.folder / "adapters").iterdir()} == served
    # Refused under a second name of its image, the version that is served stays.
    place.want(mine=image(1).replace("r.example.com", "s.example.com"))
    follower.step(place.engine)
    assert place.said()["pending"]["mine"]["state"] == "Failed"
    assert {folder.name for folder in (place.folder / "adapters").iterdir()} == served


def test_a_rank_that_a_new_pod_would_have_room_for_says_so(place: Place) -> None:
    place.engine.error = EngineRefused("LoRA rank 64 is greater than max_lora_rank 16.")
    place.want(mine=image(2**250))
    place.follower().step(place.engine)
    assert "max_lora_rank 16. A new pod makes room for it" in place.said()["pending"]["mine"]["message"]
    place.engine.error = EngineRefused("size mismatch")
    place.want(mine=image(2**251))
    place.follower().step(place.engine)
    assert place.said()["pending"]["mine"]["message"].endswith("size mismatch")


def test_a_new_life_goes_on_from_the_names(place: Place) -> None:
    place.want(mine=image(3 << 230))
    place.follower().step(place.engine)
    again = place.follower()
    assert again.now == Names.read(place.names)
    pulls = list(place.pulls)
    again.step(place.engine)
    assert place.pulls == pulls


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"adapters": [1]}',
        '{"adapters": [{"name": "a"}]}',
        '{"adapters": [{"name": "a", "image": "r/a:1", "canary": {"image": "r/a:2", "percent": 100}}]}',
    ],
)
def test_a_list_that_is_none_changes_nothing(place: Place, content: str) -> None:
    before = place.said()
    place.wanted.write_text(content)
    place.follower().step(place.engine)
    assert place.said() == before


def test_the_gateway_reads_what_is_written(place: Place) -> None:
    aliases = Aliases({}, place.names)
    assert aliases.default() == "mine"
    found = aliases.resolve("mine")
    assert found is not None
    assert found.target == place.targets()["mine"]
    assert aliases.shown()["adapters"]["mine"]["image"] == image(1)
    place.want(mine=image(2**200))
    place.follower().step(place.engine)
    moved = aliases.resolve("mine")
    assert moved is not None
    assert moved.target == place.targets()["mine"]


images = st.sampled_from([f"r/a@sha256:{letter * 64}" for letter in "abc"])
wishes = st.dictionaries(st.sampled_from(["one", "two"]), images, max_size=2)


@given(
    st.lists(
        st.tuples(
            wishes,
            st.none() | st.tuples(images, st.sampled_from([10.0, 50.0])),
            st.sampled_from(["well", "away", "refuses"]),
            st.integers(0, 1000),
        ),
        max_size=8,
    )
)
def test_whatever_happens_a_name_means_a_version_that_is_there(
    tmp_path_factory: pytest.TempPathFactory,
    story: list[tuple[dict[str, str], tuple[str, float] | None, str, int]],
) -> None:
    place = Place(tmp_path_factory.mktemp("pod"))
    place.want(one=f"r/a@sha256:{'a' * 64}")
    follower = place.follower()
    follower.prepare()
    for wish, canary, mood, seconds in story:
        place.want(canary, **wish)
        place.engine.error = {"away": EngineAway("away"), "refuses": EngineRefused("no")}.get(mood)
        place.time += seconds
        follower.step(place.engine)
        for name, target in place.targets().items():
            assert target.startswith(f"{name}@")
            assert (place.folder / "adapters" / target).is_dir()
            if beside := place.said()["adapters"][name]["canary"]:
                assert (place.folder / "adapters" / beside["target"]).is_dir()
                assert beside["target"] in place.engine.loaded or beside["target"] == target
        assert set(place.targets()) <= {*wish}
    place.engine.error = None
    wish = {"two": f"r/a@sha256:{'d' * 64}"}
    place.want(**wish)
    follower.step(place.engine)
    assert place.targets() == {"two": "two@dddddddddddd"}


class _Vllm(BaseHTTPRequestHandler):
    answers: dict[str, tuple[int, dict[str, Any]]] = {}
    seen: list[tuple[str, dict[str, Any], str | None]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, body, self.headers.get("X-Kaito-Admin")))
        status, document = self.answers.get(body["lora_name"], (200, {"ok": True}))
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def vllm() -> Iterator[tuple[VllmEngine, type[_Vllm]]]:
    handler = type("Handler", (_Vllm,), {"answers": {}, "seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield VllmEngine("127.0.0.1", server.server_port, "token"), handler
    server.shutdown()
    server.server_close()


def test_the_engine_is_asked_with_the_pod_s_token(vllm: tuple[VllmEngine, type[_Vllm]]) -> None:
    engine, handler = vllm
    engine.load("a@1", "/x")
    engine.unload("a@1")
    assert handler.seen == [
        ("/v1/load_lora_adapter", {"lora_name": "a@1", "lora_path": "/x"}, "token"),
        ("/v1/unload_lora_adapter", {"lora_name": "a@1"}, "token"),
    ]


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, "The lora adapter 'a@1' has already been loaded.", None),
        (400, "rank 64 is greater than max_lora_rank 16", EngineRefused),
        (500, "size mismatch", EngineRefused),
        (503, "starting", EngineAway),
    ],
)
def test_the_engine_s_answers(
    vllm: tuple[VllmEngine, type[_Vllm]], status: int, message: str, error: type[Exception] | None
) -> None:
    engine, handler = vllm
    handler.answers["a@1"] = (status, {"error": {"message": message}})
    if error is None:
        engine.load("a@1", "/x")
        return
    with pytest.raises(error, match=message):
        engine.load("a@1", "/x")


def test_an_engine_that_is_not_there_is_away() -> None:
    with pytest.raises(EngineAway):
        VllmEngine("127.0.0.1", 1, "token").load("a@1", "/x")


def test_the_list_is_read_as_it_is_written_by_the_manifests(tmp_path: Path) -> None:
    file = tmp_path / "adapters.json"
    file.write_text('{"adapters": [{"name": "mine", "image": "r/a:1"}]}')
    assert [(one.name, one.image) for one in read_wanted(file)] == [("mine", "r/a:1")]
