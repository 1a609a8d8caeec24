"""A serving pod in the sandbox, as the product makes it: its sidecar changes adapters while clients ask.

The sandbox alone, without Airflow: what a rollout writes (the ConfigMap, the pods' annotation) is written here.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.cluster import Kubectl
from demo.processes import PROJECT_ROOT
from demo.stack import Sandbox, start_sandbox, stop_sandbox
from include import manifests
from include.catalog import load_catalog
from include.contracts import canary
from include.manifests.settings import ManifestSettings
from include.planning import plan_serving
from include.reconcile import Activity, activity, surge
from include.reconcile.decision import Answers
from include.reconcile.surge import Stage
from include.workloads.tuning.standin import make_standin
from include.workspace import parse_workspace
from tests.support.cosign import key_pair

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PRESET, NAME, SECRET = "phi-3-mini-128k-instruct", "live", "pull"
ADAPTERS = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from peft import LoraConfig, get_peft_model
for seed, folder in enumerate(sys.argv[2:]):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["qkv_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
"""


@dataclass(frozen=True)
class Answered:
    """What one question got: status, the adapter's digest by its header, its text, and when it came."""

    status: int
    digest: str
    text: str
    moment: float
    request_id: str = ""


@dataclass
class Service:
    """The pod, its registry and the words to change it with."""

    sandbox: Sandbox
    kubectl: Kubectl
    workspace: dict[str, Any]
    images: list[str]
    unsigned: str
    trusted: str
    stateful_set: dict[str, Any] = field(default_factory=dict)

    def want(self, image: str, canary: str = "", percent: float = 0.0) -> None:
        """What a rollout does for another adapter of a service that stands, and the reconciler for a canary."""
        adapters = [manifests.tuned_adapter("mine", image, canary, percent)]
        self.kubectl.apply(manifests.wanted_config_map(parse_workspace(self.workspace), adapters))
        note = f"kaito.sh/adapters={manifests.wanted_digest(adapters)}"
        self.kubectl("annotate", "--overwrite", "pod", f"{NAME}-0", note)

    @property
    def url(self) -> str:
        address = self.kubectl("get", "pod", f"{NAME}-0", "-o", "jsonpath={.status.podIP}")
        return f"http://{address}:5000"


def until(met: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := met()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return found


def push(sandbox: Sandbox, folder: Path, tag: str, home: Path, **more: str) -> str:
    """Push an adapter as the product's own pod does; returns its reference by digest. `more` is environment."""
    login = f"{sandbox.registry_user}:{sandbox.registry_password}"
    auths = {"auths": {sandbox.registry: {"auth": base64.b64encode(login.encode()).decode()}}}
    (home / "config.json").write_text(json.dumps(auths))
    environment = {
        **os.environ,
        "ADAPTER_DIR": str(folder),
        "ADAPTER_IMAGE": f"{sandbox.registry}/team/mine:{tag}",
        "ADAPTER_NAME": "mine",
        "DOCKER_CONFIG": str(home),
        "INSECURE_REGISTRIES": sandbox.registry,
        "TERMINATION_LOG": str(home / "end"),
        **more,
    }
    command = [sys.executable, "-m", "include.workloads.adapter", "push"]
    subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=True, capture_output=True, timeout=120)
    return str(json.loads((home / "end").read_text())["reference"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("live")
    folder.chmod(0o755)
    weights = folder / "weights"
    make_standin(weights / PRESET)
    made = [folder / "one", folder / "two"]
    subprocess.run(
        [sys.executable, "-c", ADAPTERS, str(weights / PRESET), *map(str, made)],
        check=True,
        capture_output=True,
    )
    sandbox = start_sandbox(folder / "state")
    try:
        key, trusted = key_pair()
        images = [push(sandbox, one, one.name, folder, SIGNING_KEY=key) for one in made]
        unsigned = push(sandbox, made[0], "unsigned", folder, ADAPTER_ANNOTATIONS='{"by": "a stranger"}')
        kubectl = Kubectl(sandbox.kubeconfig)
        yield serve(Service(sandbox, kubectl, {}, images, unsigned, trusted), weights, folder)
    finally:
        stop_sandbox(folder / "state")


def serve(service: Service, weights: Path, folder: Path) -> Service:
    """Apply what a rollout applies, for a machine without a GPU, and wait until the pod is ready."""
    kubectl, catalog = service.kubectl, load_catalog()
    service.workspace = {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": NAME, "namespace": "default", "uid": "0b1c2d3e"},
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": NAME}}},
        "inference": {"preset": {"name": PRESET}},
    }
    workspace = parse_workspace(service.workspace)
    settings = ManifestSettings(
        "kaito-workloads",
        weights_mirror=str(weights),
        insecure_registries=(service.sandbox.registry,),
        bind_pod_ip=True,
        endpoint_delay_seconds=2,
        adapter_public_keys=service.trusted,
    )
    plan = plan_serving(workspace, catalog, runtimes=["transformers"])
    adapters = [{"name": "mine", "image": service.images[0], "secrets": [SECRET]}]
    stateful_set = manifests.stateful_set(workspace, plan, settings, "run", adapters)
    spec = stateful_set["spec"]["template"]["spec"]
    for key in ("nodeSelector", "affinity", "tolerations"):
        spec.pop(key, None)
    for container in [*spec["initContainers"], *spec["containers"]]:
        for amounts in container["resources"].values():
            amounts.pop("nvidia.com/gpu", None)
    main, headless = manifests.services(service.workspace)
    wanted = manifests.wanted_config_map(workspace, adapters)
    for one in (stateful_set, main, headless, wanted):
        one["metadata"].pop("ownerReferences", None)
    config = folder / "config.json"
    kubectl(
        "create",
        "secret",
        "generic",
        SECRET,
        f"--from-file=.dockerconfigjson={config}",
        "--type=kubernetes.io/dockerconfigjson",
    )
    service.stateful_set = stateful_set
    kubectl.apply(wanted, main, headless, stateful_set)
    kubectl("wait", f"pod/{NAME}-0", "--for=create", "--timeout=60s")
    kubectl("wait", f"pod/{NAME}-0", "--for=condition=Ready", "--timeout=300s")
    return service


@contextmanager
def asking(service: Service, clients: int = 2, url: str = "") -> Iterator[list[Answered]]:
    """Clients that ask without a pause for as long as the block runs; a connection that fails has the status 0.

    :param url: where, in place of the pod itself.
    """
    question = {
        "model": "mine",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "What is 2 plus 2?"}],
    }
    found: list[Answered] = []
    over, url = threading.Event(), url or service.url

    def client() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            while not over.is_set():
                try:
                    reply = http.post("/v1/chat/completions", json=question)
                except httpx.HTTPError as error:
                    found.append(Answered(0, "", repr(error), time.monotonic()))
                    continue
                text = (
                    reply.json()["choices"][0]["message"]["content"]
                    if reply.status_code == 200
                    else reply.text
                )
                digest = reply.headers.get("x-kaito-adapter-digest", "")
                name = reply.headers.get("x-request-id", "")
                found.append(Answered(reply.status_code, digest, text, time.monotonic(), name))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for one in threads:
        one.start()
    try:
        until(lambda: found, 60, "a first answer")
        yield found
    finally:
        over.set()
        for one in threads:
            one.join()


def test_an_adapter_is_replaced_in_seconds_and_no_request_fails(
    service: Service, record_property: Callable[[str, object], None]
) -> None:
    digests = [image.partition("@")[2] for image in service.images]
    with asking(service) as answers:
        edited = time.monotonic()
        service.want(service.images[1])
        until(lambda: any(one.digest == digests[1] for one in answers), 60, "the new version's answer")
        seconds = next(one.moment for one in answers if one.digest == digests[1]) - edited
        record_property("seconds_from_the_edit", round(seconds, 1))
        print(f"{seconds:.1f} s from the edit to the first answer of the new version")
        time.sleep(6)  # the old version is let go, under the same load
    assert {one.status for one in answers} == {200}
    texts = {digest: {one.text for one in answers if one.digest == digest} for digest in digests}
    assert [len(texts[digest]) for digest in digests] == [1, 1], (
        "no answer of the one under the other's digest"
    )
    assert texts[digests[0]] != texts[digests[1]]
    restarts = "jsonpath={.status.containerStatuses[*].restartCount}"
    assert service.kubectl("get", "pod", f"{NAME}-0", "-o", restarts) == "0 0"
    models = httpx.get(f"{service.url}/v1/models", timeout=10, trust_env=False).json()["data"]
    assert [(one["id"], one.get("digest")) for one in models] == [(PRESET, None), ("mine", digests[1])]


def told(service: Service) -> Activity:
    """What the server tells of its use."""
    found = activity.read(httpx.get(f"{service.url}/metrics", timeout=10, trust_env=False).text)
    assert found is not None
    return found


def test_a_canary_answers_its_share_then_all_then_none_and_no_request_fails(service: Service) -> None:
    served, tried = service.images[1], service.images[0]
    new, old = tried.partition("@")[2], served.partition("@")[2]
    before = told(service)
    with asking(service) as answers:
        service.want(served, tried, 50)
        until(lambda: told(service).canaries == {new: 50}, 60, "the canary's share")
        begin = len(answers) + 2  # those of the two clients that were under way
        until(lambda: len(answers) > begin + 30, 60, "answers of both")
        share = answers[begin:]
        service.want(tried)
        until(lambda: {one.digest for one in answers[-6:]} == {new}, 60, "answers of the promoted one")
        service.want(tried, served, 50)
        until(lambda: told(service).canaries == {old: 50}, 60, "the other as a canary")
        service.want(tried)
        until(lambda: not told(service).canaries, 60, "its end")
        after = len(answers) + 2
        until(lambda: len(answers) > after + 10, 60, "answers after it")
    assert {one.status for one in answers} == {200}
    assert {one.digest for one in answers[after:]} == {new}
    for one in share:
        assert one.digest == (new if canary.answers(one.request_id, 50) else old)
    assert {one.digest for one in share} == {old, new}
    texts = {digest: {one.text for one in answers if one.digest == digest} for digest in (old, new)}
    assert [len(one) for one in texts.values()] == [1, 1], "no answer of the one under the other's digest"
    counted = told(service)
    for digest in (old, new):
        since = counted.adapters[digest].answered - before.adapters.get(digest, Answers()).answered
        assert since == sum(one.digest == digest for one in answers)
    service.want(served)
    until(lambda: shown(service) == old, 60, "the way back")


def shown(service: Service) -> str:
    found = httpx.get(f"{service.url}/kaito/adapters", timeout=10, trust_env=False).json()
    return str(found["adapters"]["mine"]["digest"])


@pytest.mark.parametrize("why", ["absent", "has no signature"])
def test_a_version_that_cannot_be_had_leaves_the_old_one(service: Service, why: str) -> None:
    absent = f"{service.sandbox.registry}/team/absent@sha256:{'0' * 64}"
    before = httpx.get(f"{service.url}/kaito/adapters", timeout=10, trust_env=False).json()["adapters"]
    service.want(absent if why == "absent" else service.unsigned)

    def failed() -> dict[str, Any] | None:
        told = httpx.get(f"{service.url}/kaito/adapters", timeout=10, trust_env=False).json()
        assert told["adapters"] == before
        pending: dict[str, Any] = told["pending"].get("mine") or {}
        return pending if pending.get("state") == "Failed" else None

    until(lambda: why in (failed() or {}).get("message", ""), 60, "the failure")
    with asking(service) as answers:
        until(lambda: len(answers) > 3, 60, "answers")
    assert {(one.status, one.digest) for one in answers} == {(200, before["mine"]["digest"])}


def test_a_change_that_needs_a_new_pod_takes_no_answer_away(service: Service) -> None:
    kubectl = service.kubectl
    address = kubectl("get", "svc", NAME, "-o", "jsonpath={.spec.clusterIPs[0]}")
    before = kubectl("get", "pod", f"{NAME}-0", "-o", "jsonpath={.metadata.uid}")
    digest = service.images[1].partition("@")[2]
    service.want(service.images[1])
    until(lambda: shown(service) == digest, 60, "the adapter that both pods have")
    wanted = copy.deepcopy(service.stateful_set)
    main = next(one for one in wanted["spec"]["template"]["spec"]["containers"] if one["name"] == "serving")
    main["env"].append({"name": "CHANGED", "value": "yes"})

    def found(kind: str, *which: str) -> Any:
        return json.loads(kubectl("get", kind, *which, "-o", "json"))

    with asking(service, clients=1, url=f"http://{address}") as answers:
        for stage in (Stage.BESIDE, Stage.REPLACED):
            kubectl.apply(surge.at(wanted, stage))
            until(
                lambda number=stage.ordinal: (
                    surge.status(found("statefulset", NAME), found("pods")["items"], number).ready
                ),
                240,
                f"pod {stage.ordinal}",
            )
        kubectl.apply(wanted)
        kubectl("wait", f"pod/{NAME}-1", "--for=delete", "--timeout=90s")
        last = len(answers)
        until(lambda: len(answers) > last + 4, 60, "answers of the one that is left")
    assert [one for one in answers if (one.status, one.digest) != (200, digest)] == []
    print(f"{len(answers)} answers, none failed")
    assert kubectl("get", "pod", f"{NAME}-0", "-o", "jsonpath={.metadata.uid}") != before
