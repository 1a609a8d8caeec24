"""Push and pull through a real docker-registry with a password, by the commands that the pods run."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from include.contracts.image_reference import parse_reference
from include.contracts.network_policy import NetworkPolicy
from include.workloads.adapter.layout import build_image
from include.workloads.oci.credentials import Credentials
from include.workloads.oci.media import sha256
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.transfers import put_big_blob
from include.workloads.oci.trial import PushRefused, try_push
from tests.support.adapters import write_adapter
from tests.support.cosign import key_pair
from tests.support.real_registry import PASSWORD, USER, RealRegistry, running

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="the Debian package docker-registry"),
]

PROJECT_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running(tmp_path_factory.mktemp("registry")) as found:
        yield found


@dataclass
class Outcome:
    """How a workload ended: exit code, termination message, everything it printed."""

    code: int
    result: dict
    output: str


@pytest.fixture
def workload(registry: RealRegistry, tmp_path: Path):
    """Runs a workload's command like its pod would."""

    def run(*command: str, password: str = PASSWORD, **env: str) -> Outcome:
        secret = tmp_path / "secret"
        secret.mkdir(exist_ok=True)
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        (secret / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        log = tmp_path / "termination-log"
        log.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=PROJECT_ROOT,
            env={
                **os.environ,
                "DOCKER_CONFIG": str(secret),
                "INSECURE_REGISTRIES": f"other:1,{registry.host}",
                "TERMINATION_LOG": str(log),
                **env,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        output = done.stdout + done.stderr
        assert "CANARY" not in output + log.read_text()
        assert auth not in output + log.read_text()
        return Outcome(done.returncode, json.loads(log.read_text()), output)

    return run


def push(workload, adapter: Path, image: str, **more: str) -> Outcome:
    annotations = json.dumps({"sh.kaito.model.name": "phi-3-mini-128k-instruct", "io.kaito.run-id": "r1"})
    return workload(
        "include.workloads.adapter",
        "push",
        ADAPTER_DIR=str(adapter),
        ADAPTER_IMAGE=image,
        ADAPTER_ANNOTATIONS=annotations,
        **more,
    )


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def test_push_verify_push_again_and_pull(registry: RealRegistry, workload, adapter: Path, tmp_path: Path):
    image = f"{registry.host}/team/phi-adapter:0.0.1"
    pushed = push(workload, adapter, image)
    assert pushed.code == 0, pushed.output
    assert pushed.result["pushed"] is True
    assert pushed.result["reference"] == f"{registry.host}/team/phi-adapter@{pushed.result['digest']}"

    content, headers = registry.get(
        "team/phi-adapter/manifests/0.0.1", "application/vnd.oci.image.manifest.v1+json"
    )
    assert headers["Docker-Content-Digest"] == pushed.result["digest"]
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == pushed.result["digest"]
    manifest = json.loads(content)
    assert manifest["annotations"]["sh.kaito.model.name"] == "phi-3-mini-128k-instruct"
    assert [layer["digest"] for layer in manifest["layers"]] == [pushed.result["layer_digest"]]

    again = push(workload, adapter, image)
    assert again.code == 0
    assert again.result == {**pushed.result, "pushed": False}

    for version in (f"@{pushed.result['digest']}", ":0.0.1"):
        pulled = workload(
            "include.workloads.adapter",
            "pull",
            ADAPTER_IMAGE=f"{registry.host}/team/phi-adapter{version}",
            ADAPTER_NAME="phi",
            ADAPTERS_DIR=str(tmp_path / "adapters"),
        )
        assert pulled.code == 0, pulled.output
        assert pulled.result["digest"] == pushed.result["digest"]
        assert pulled.result["model"] == "phi-3-mini-128k-instruct"
        assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["phi"]
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            assert (tmp_path / "adapters/phi" / name).read_bytes() == (adapter / name).read_bytes()


def test_the_report_of_an_evaluation_is_found_by_the_adapters_digest(
    registry: RealRegistry, workload, adapter: Path, tmp_path: Path
):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "report.json").write_text("{}")
    (folder / "report.html").write_text("<!doctype html>")
    image = f"{registry.host}/team/evaluated:0.0.1"
    pushed = push(workload, adapter, image, EVALUATION_DIR=str(folder))
    assert pushed.code == 0, pushed.output
    # docker-registry 2 has no question for referrers: then the specification's tag has the list.
    tag = pushed.result["digest"].replace(":", "-")
    oci = "application/vnd.oci.image."
    index = json.loads(registry.get(f"team/evaluated/manifests/{tag}", f"{oci}index.v1+json")[0])
    (entry,) = index["manifests"]
    assert entry["digest"] == pushed.result["report"]
    place = f"team/evaluated/manifests/{entry['digest']}"
    manifest = json.loads(registry.get(place, f"{oci}manifest.v1+json")[0])
    assert manifest["subject"]["digest"] == pushed.result["digest"]
    assert registry.get(f"team/evaluated/blobs/{manifest['layers'][0]['digest']}")[0] == b"{}"
    assert (
        push(workload, adapter, image, EVALUATION_DIR=str(folder)).result["report"] == pushed.result["report"]
    )


def test_an_image_of_two_layers_made_elsewhere_is_overlaid(registry: RealRegistry, workload, tmp_path: Path):
    """What the early KAITO pushed: a base image's layers, then the adapter's, with other files around."""
    old = build_image(write_adapter(tmp_path / "old", r=2), {})
    new = build_image(write_adapter(tmp_path / "new", r=8), {})

    client = RegistryClient(
        parse_reference(f"{registry.host}/team/layers:1"), Credentials("x", USER, PASSWORD), insecure=True
    )
    diff_ids = [json.loads(image.config)["rootfs"]["diff_ids"][0] for image in (old, new)]
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    manifest = json.loads(new.manifest)
    manifest["layers"] = json.loads(old.manifest)["layers"] + manifest["layers"]
    manifest["config"] |= {"digest": sha256(config), "size": len(config)}
    for image in (old, new):
        client.put_blob(image.layer.digest, partial(image.layer.open_at, 0))
    client.put_blob(sha256(config), lambda: config)
    client.put_manifest("1", json.dumps(manifest).encode())

    pulled = workload(
        "include.workloads.adapter",
        "pull",
        ADAPTER_IMAGE=f"{registry.host}/team/layers:1",
        ADAPTER_NAME="phi",
        ADAPTERS_DIR=str(tmp_path / "adapters"),
    )
    assert pulled.code == 0, pulled.output
    assert json.loads((tmp_path / "adapters/phi/adapter_config.json").read_text())["r"] == 8


def test_a_wrong_password_is_a_fault_of_the_secret(registry: RealRegistry, workload, adapter: Path):
    outcome = push(workload, adapter, f"{registry.host}/team/phi:1", password="CANARY-wrong")
    assert outcome.code == 64
    for part in (registry.host, "team/phi", ".dockerconfigjson", "401"):
        assert part in outcome.result["error"]


def test_an_incomplete_adapter_is_refused_before_the_registry_is_asked(workload, adapter: Path):
    (adapter / "adapter_model.safetensors").unlink()
    outcome = push(workload, adapter, "127.0.0.1:1/team/phi:1")
    assert outcome.code == 65
    assert "adapter_model.safetensors" in outcome.result["error"]


def test_a_missing_image_is_named(registry: RealRegistry, workload, tmp_path: Path):
    outcome = workload(
        "include.workloads.adapter",
        "pull",
        ADAPTER_IMAGE=f"{registry.host}/team/none:9",
        ADAPTER_NAME="phi",
        ADAPTERS_DIR=str(tmp_path / "adapters"),
    )
    assert outcome.code == 64
    assert "no image team/none with 9" in outcome.result["error"]
    assert list((tmp_path / "adapters").iterdir()) == []


def test_a_blob_damaged_in_the_registry_is_not_served(
    registry: RealRegistry, workload, adapter: Path, tmp_path: Path
):
    image = f"{registry.host}/team/damaged:1"
    pushed = push(workload, adapter, image)
    hexdigest = pushed.result["layer_digest"].removeprefix("sha256:")
    blob = registry.root / f"storage/docker/registry/v2/blobs/sha256/{hexdigest[:2]}/{hexdigest}/data"
    held = blob.read_bytes()
    try:
        blob.write_bytes(held[:700] + b"\1" * 20 + held[720:])
        outcome = workload(
            "include.workloads.adapter",
            "pull",
            ADAPTER_IMAGE=image,
            ADAPTER_NAME="phi",
            ADAPTERS_DIR=str(tmp_path / "adapters"),
        )
    finally:
        blob.write_bytes(held)
    assert outcome.code == 75
    assert "arrived changed" in outcome.result["error"]
    assert list((tmp_path / "adapters").iterdir()) == []


def test_a_push_waits_for_a_registry_that_restarts(registry: RealRegistry, workload, adapter: Path):
    registry.stop()
    assert push(workload, adapter, f"{registry.host}/team/late:1").code == 75
    registry.start()
    assert push(workload, adapter, f"{registry.host}/team/late:1").code == 0


def test_an_upload_goes_on_when_the_registry_was_killed_in_the_middle(registry: RealRegistry):
    size, piece = 24 << 20, 4 << 20
    content = os.urandom(size)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    starts: list[int] = []

    def open_at(start: int) -> io.BytesIO:
        starts.append(start)
        if len(starts) == 4:
            assert registry.process is not None
            registry.process.kill()
            registry.process.wait()
            registry.process = None
            registry.start()
        return io.BytesIO(content[start:])

    client = RegistryClient(
        parse_reference(f"{registry.host}/team/killed:1"), Credentials("x", USER, PASSWORD), insecure=True
    )
    assert put_big_blob(client, digest, size, open_at, piece=piece) is True
    held, _ = registry.get(f"team/killed/blobs/{digest}")
    assert held == content
    assert starts.count(0) == 1


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="the Debian package skopeo")
def test_kaito_s_puller_reads_the_image(registry: RealRegistry, workload, adapter: Path, tmp_path: Path):
    """The commands of KAITO's puller.sh: copied with skopeo, decompressed, each layer unpacked by tar."""
    pushed = push(workload, adapter, f"{registry.host}/team/kaito:1")
    assert pushed.code == 0, pushed.output
    layout = tmp_path / "layout"
    source = f"docker://{registry.host}/team/kaito@{pushed.result['digest']}"
    login = (f"--src-creds={USER}:{PASSWORD}", "--src-tls-verify=false")
    copy = ["skopeo", "copy", "-q", "--insecure-policy", "--dest-decompress", *login, source, f"dir:{layout}"]
    subprocess.run(copy, check=True)
    [layer] = json.loads((layout / "manifest.json").read_text())["layers"]
    subprocess.run(["tar", "x", "-f", layout / layer["digest"][7:], "-C", tmp_path], check=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "data" / name).read_bytes() == (adapter / name).read_bytes()


def test_a_dataset_may_come_as_an_image(registry: RealRegistry, workload, tmp_path: Path):
    from tests.support.adapters import layer

    client = RegistryClient(
        parse_reference(f"{registry.host}/team/data:1"), Credentials("x", USER, PASSWORD), insecure=True
    )
    blob = layer(
        tmp_path / "layer",
        ("data/a.jsonl", b'{"prompt": "p", "completion": "c"}'),
        ("data/b/c.csv", b"text\nx\n"),
    ).read_bytes()
    only = layer(tmp_path / "layer2", ("data/.wh.b", b""), ("etc/passwd", b"x")).read_bytes()
    layers = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": sha256(b), "size": len(b)}
        for b in (blob, only)
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": sha256(b"{}"),
            "size": 2,
        },
        "layers": layers,
    }
    for content in (blob, only, b"{}"):
        client.put_blob(sha256(content), lambda content=content: content)
    client.put_manifest("1", json.dumps(manifest).encode())
    for _ in range(2):
        outcome = workload(
            "include.workloads.dataset",
            DATASET_IMAGE=f"{registry.host}/team/data:1",
            DATASET_OUTPUT=str(tmp_path / "out"),
        )
        assert outcome.code == 0, outcome.output
        assert outcome.result["rows"] == 1
    assert "nothing to do" in outcome.output
    assert outcome.result["sources"][0]["url"].startswith(f"{registry.host}/team/data@sha256:")


def test_a_stopped_push_is_transient(registry: RealRegistry, adapter: Path, tmp_path: Path):
    """SIGTERM while the registry does not answer: a clean end with a message, exit 75."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        host = f"127.0.0.1:{mute.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "include.workloads.adapter", "push"],
            cwd=PROJECT_ROOT,
            env={
                **os.environ,
                "ADAPTER_DIR": str(adapter),
                "ADAPTER_IMAGE": f"{host}/a:1",
                "INSECURE_REGISTRIES": host,
                "TERMINATION_LOG": str(tmp_path / "log"),
            },
            stdout=subprocess.PIPE,
        )
        connection, _ = mute.accept()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
        connection.close()
    assert json.loads((tmp_path / "log").read_text())["class"] == "transient"


@pytest.mark.parametrize("password", [PASSWORD, "CANARY-old-password"])
def test_a_push_is_tried_at_a_real_registry_and_leaves_nothing(registry: RealRegistry, password: str):
    reference = parse_reference(f"{registry.host}/trial/phi:1")
    policy = NetworkPolicy.of((), [registry.host])
    if password == PASSWORD:
        try_push(reference, Credentials("entry", USER, password), policy)
    else:
        with pytest.raises(PushRefused, match="refuses a push to trial/phi"):
            try_push(reference, Credentials("entry", USER, password), policy)
    uploads = registry.root / "storage/docker/registry/v2/repositories/trial/phi/_uploads"
    # This registry keeps the folder of an upload that was given up until it sweeps; the upload itself is gone.
    assert [path for path in uploads.rglob("*") if path.name in ("data", "startedat")] == []


def test_weights_that_the_training_did_not_make_are_not_pushed(
    registry: RealRegistry, workload, adapter: Path
):
    image = f"{registry.host}/other/phi:1"
    outcome = push(workload, adapter, image, ADAPTER_SHA256="0" * 64)
    assert outcome.code == 65
    assert "another adapter lies there now" in outcome.result["error"]
    digest = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert push(workload, adapter, image, ADAPTER_SHA256=digest).code == 0


class _Engine(http.server.BaseHTTPRequestHandler):
    """What vLLM answers behind the gateway, as far as the sidecar asks it."""

    seen: list[tuple[str, str, bool]]
    token: Path

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.headers.get("X-Kaito-Admin") == self.token.read_text()
        self.seen.append((self.path.rpartition("/")[2], body["lora_name"], known))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def test_the_sidecar_follows_its_list_without_the_server_s_end(
    registry: RealRegistry, workload, adapter: Path, tmp_path: Path
):
    """The pod's own commands: one before the server starts, one beside it, over the registry with its password."""
    references = []
    for number, folder in enumerate((adapter, write_adapter(tmp_path / "second", lora_alpha=16))):
        pushed = push(workload, folder, f"{registry.host}/team/followed:{number}")
        assert pushed.code == 0, pushed.output
        references.append(pushed.result["reference"])
    targets = ["mine@" + reference.partition("@sha256:")[2][:12] for reference in references]
    wanted, names, token = tmp_path / "wanted.json", tmp_path / "names.json", tmp_path / "token"

    def want(reference: str) -> None:
        new = tmp_path / "new.json"
        new.write_text(json.dumps({"adapters": [{"name": "mine", "image": reference}]}))
        new.rename(wanted)

    def serving() -> str:
        return json.loads(names.read_text())["adapters"]["mine"]["target"]

    want(references[0])
    environment = {
        "ADAPTERS_DIR": str(tmp_path / "adapters"),
        "ADAPTERS_WANTED": str(wanted),
        "KAITO_ADAPTERS_FILE": str(names),
        "KAITO_ADMIN_TOKEN_FILE": str(token),
    }
    prepared = workload("include.workloads.adapter", "prepare", **environment)
    assert prepared.code == 0, prepared.output
    assert serving() == targets[0]
    assert (tmp_path / "adapters" / targets[0] / "adapter_config.json").is_file()

    handler = type("Engine", (_Engine,), {"seen": [], "token": token})
    engine = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=engine.serve_forever, args=(0.05,), daemon=True).start()
    sidecar = subprocess.Popen(
        [sys.executable, "-m", "include.workloads.adapter", "follow"],
        cwd=PROJECT_ROOT,
        env={
            **os.environ,
            **environment,
            "DOCKER_CONFIG": str(tmp_path / "secret"),
            "INSECURE_REGISTRIES": registry.host,
            "POD_IP": "127.0.0.1",
            "PORT": str(engine.server_port),
            "TERMINATION_LOG": str(tmp_path / "end"),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        want(f"{registry.host}/team/absent@sha256:{'0' * 64}")
        until(lambda: json.loads(names.read_text())["pending"].get("mine", {}).get("state") == "Failed")
        assert serving() == targets[0], "what is served stays"
        want(references[1])
        until(lambda: serving() == targets[1])
        until(lambda: ("unload_lora_adapter", targets[0], True) in handler.seen)  # type: ignore[attr-defined]
        assert handler.seen[0] == ("load_lora_adapter", targets[1], True)  # type: ignore[attr-defined]
        assert sidecar.poll() is None
    finally:
        sidecar.terminate()
        sidecar.wait(30)
        engine.shutdown()
        engine.server_close()


def until(met: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_signed_adapter_is_served_where_keys_are_named_and_no_other(
    registry: RealRegistry, workload, adapter: Path, tmp_path: Path
):
    key, public = key_pair("its password")
    _, stranger = key_pair()
    image = f"{registry.host}/team/signed:0.0.1"
    signing = {"SIGNING_KEY": key, "SIGNING_PASSWORD": "its password"}

    def pull(reference: str, keys: str) -> Outcome:
        return workload(
            "include.workloads.adapter",
            "pull",
            ADAPTER_IMAGE=reference,
            ADAPTER_NAME="phi",
            ADAPTERS_DIR=str(tmp_path / "adapters"),
            ADAPTER_PUBLIC_KEYS=keys,
        )

    untrusted = push(workload, adapter, image, **signing, ADAPTER_PUBLIC_KEYS=stranger)
    assert (untrusted.code, "none of [kaito] adapter_public_keys" in untrusted.output) == (64, True)
    unsigned = push(workload, adapter, f"{registry.host}/team/signed:unsigned")
    refused = pull(unsigned.result["reference"], public)
    assert (refused.code, "has no signature" in refused.output) == (65, True), refused.output
    assert not (tmp_path / "adapters" / "phi").exists()

    pushed = push(workload, adapter, image, **signing, ADAPTER_PUBLIC_KEYS=public)
    assert pushed.code == 0, pushed.output
    again = push(workload, adapter, image, **signing)
    assert again.result == {**pushed.result, "pushed": False}
    tag = pushed.result["digest"].replace(":", "-")
    _, headers = registry.get(
        f"team/signed/manifests/{tag}.sig", "application/vnd.oci.image.manifest.v1+json"
    )
    assert headers["Docker-Content-Digest"] == pushed.result["signature"]

    assert pull(pushed.result["reference"], stranger).code == 65
    pulled = pull(image, stranger + public)
    assert pulled.code == 0, pulled.output
    assert pulled.result["digest"] == pushed.result["digest"]


@pytest.mark.skipif(not shutil.which("skopeo"), reason="Debian's package skopeo is not installed")
def test_another_program_that_knows_cosign_s_signatures_takes_the_signed_adapter_and_no_other(
    registry: RealRegistry, workload, adapter: Path, tmp_path: Path
):
    """skopeo checks what cosign signs (as CRI-O and Podman do on a node), by a policy that names the key."""
    key, public = key_pair()
    _, stranger = key_pair()
    pushed = push(workload, adapter, f"{registry.host}/team/skopeo:0.0.1", SIGNING_KEY=key)
    assert pushed.code == 0, pushed.output
    unsigned = push(workload, adapter, f"{registry.host}/team/skopeo-unsigned:0.0.1")
    assert unsigned.code == 0, unsigned.output
    (tmp_path / "registries.d").mkdir()
    (tmp_path / "registries.d" / "default.yaml").write_text(
        "default-docker: {use-sigstore-attachments: true}"
    )

    def copy(image: str, trusted: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "cosign.pub").write_text(trusted)
        signed = {"type": "sigstoreSigned", "keyPath": str(tmp_path / "cosign.pub")}
        policy = {"default": [{**signed, "signedIdentity": {"type": "matchRepository"}}]}
        (tmp_path / "policy.json").write_text(json.dumps(policy))
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        options = ["--policy", tmp_path / "policy.json", "--registries.d", tmp_path / "registries.d"]
        source = [
            "--src-tls-verify=false",
            f"--src-creds={USER}:{PASSWORD}",
            f"docker://{registry.host}/{image}",
        ]
        return subprocess.run(
            ["skopeo", *options, "copy", *source, f"dir:{tmp_path / 'copy'}"],
            capture_output=True,
            text=True,
            check=False,
        )

    taken = copy("team/skopeo:0.0.1", public)
    if "sigstore disabled" in taken.stderr:
        pytest.skip("Debian 12 has taken sigstore out of its skopeo; Debian 13's 1.18 has it")
    assert taken.returncode == 0, taken.stderr
    for image, trusted, why in (
        ("team/skopeo:0.0.1", stranger, "signature"),
        ("team/skopeo-unsigned:0.0.1", public, "signature was required, but no signature exists"),
    ):
        refused = copy(image, trusted)
        assert refused.returncode, refused.stdout
        assert why in refused.stderr
