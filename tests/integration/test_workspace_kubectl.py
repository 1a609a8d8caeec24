"""The real kubectl, our CustomResourceDefinition and an API server: what users see when they apply a Workspace.

One API server for all tests of this file, the sandbox's or an external cluster's; each test has Workspaces of its own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from include.workspace import parse_workspace
from include.workspace.api.convert import convert
from sandbox.api.cluster import Cluster
from sandbox.api.http import certificates, server
from sandbox.faults import Faults
from tests.support.api_server import TOKEN, ApiServer
from tests.support.external import borrowed
from tests.support.quick_start import QUICK_START

pytestmark = [
    pytest.mark.any_cluster,
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]

CRD = Path(__file__).parents[2] / "presets" / "crds" / "kaito.sh_workspaces.yaml"
COLUMNS = ["NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"]
NOW = "2026-11-23T13:00:00Z"
REMOVE = object()

TUNING = QUICK_START.replace("workspace-tuning-phi-3", "NAME")
SERVING = """\
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata:
  name: NAME
resource:
  instanceType: Standard_NC24ads_A100_v4
  labelSelector:
    matchLabels: {app: serve}
inference:
  preset:
    name: phi-4-mini-instruct
    presetOptions: {modelAccessSecret: hf}
  adapters:
  - source: {name: dolly, image: r.example.com/dolly:1}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="sandbox")
async def api_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[ApiServer]:
    folder = tmp_path_factory.mktemp("api")
    async with AsyncExitStack() as held:
        if request.config.getoption("--cluster") == "external":
            kubeconfig = held.enter_context(borrowed(folder, request.config.getoption("--kubeconfig")))
        else:
            kubeconfig = await held.enter_async_context(served(folder))
        found = ApiServer(kubeconfig, folder)
        await found.kubectl("apply", "--server-side", "-f", str(CRD))
        await found.kubectl("wait", "--for=condition=Established", "crd/workspaces.kaito.sh", "--timeout=10s")
        yield found


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Path]:
    """The sandbox's API server in this process; yields its kubeconfig."""
    cluster, faults = Cluster(folder), Faults()
    tls = certificates.ensure(folder / "pki")
    runner = await server.serve(cluster, "127.0.0.1", 0, tls, {TOKEN: "admin"}, folder / "logs", faults)
    url = f"https://127.0.0.1:{server.bound_port(runner)}"
    certificates.write_kubeconfig(folder / "kubeconfig", url, tls.ca, TOKEN)
    yield folder / "kubeconfig"
    await runner.cleanup()
    cluster.close()


def document(text: str, name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """A Workspace with some values replaced, by dotted path."""
    found: dict[str, Any] = yaml.safe_load(text.replace("NAME", name))
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = found
        for step in parents:
            place = place.setdefault(step, {})
        if value is REMOVE:
            place.pop(last, None)
        else:
            place[last] = value
    return found


async def apply(sandbox: ApiServer, content: dict[str, Any], *options: str, fails: bool = False) -> str:
    result = await sandbox.kubectl("apply", "-f", "-", *options, stdin=json.dumps(content), fails=fails)
    return result.err if fails else result.out


@pytest.mark.parametrize(("text", "name"), [(TUNING, "quick-start"), (SERVING, "serve")])
async def test_what_is_applied_comes_back_in_both_versions(sandbox: ApiServer, text: str, name: str) -> None:
    wanted = document(text, name)
    assert await apply(sandbox, wanted) == f"workspace.kaito.sh/{name} created\n"
    assert await apply(sandbox, wanted) == f"workspace.kaito.sh/{name} unchanged\n"
    for version in ("v1alpha1", "v1beta1"):
        found = await sandbox.json("get", f"workspaces.{version}.kaito.sh", name)
        assert found["apiVersion"] == f"kaito.sh/{version}"
        half = "tuning" if "tuning" in wanted else "inference"
        assert found["resource"]["count"] == 1, "the schema's default"
        assert found[half]["preset"]["name"] == wanted[half]["preset"]["name"]
        options = found[half]["preset"].get("presetOptions")
        if options is not None:
            shown = {"modelAccessSecret": "hf"} if version == "v1beta1" else {}
            assert options == shown, "v1alpha1 has no such field"
        workspace = parse_workspace(found)
        assert workspace.dialect == wanted["apiVersion"], "the author's version is known in both"
        assert workspace.rollout is (half == "tuning")


async def test_columns_names_and_categories(sandbox: ApiServer) -> None:
    await apply(sandbox, document(TUNING, "columns"))
    for name in ("workspace", "workspaces", "wk", "wks"):
        assert (await sandbox.kubectl("get", name, "columns")).out.splitlines()[0].split() == COLUMNS
    wide = (await sandbox.kubectl("get", "wk", "columns", "-o", "wide")).out
    assert "JOBSTARTED" in wide.splitlines()[0]
    assert wide.splitlines()[1].split()[1] == "Standard_NC6s_v3"
    assert "columns" in (await sandbox.kubectl("get", "workspace")).out


async def test_v1alpha1_has_a_default_machine_and_v1beta1_none(sandbox: ApiServer) -> None:
    bare = {"resource.instanceType": REMOVE}
    await apply(sandbox, document(TUNING, "alpha-bare", bare))
    found = await sandbox.json("get", "wk", "alpha-bare")
    assert found["resource"]["instanceType"] == "Standard_NC24ads_A100_v4"
    await apply(sandbox, document(SERVING, "beta-bare", bare))
    assert "instanceType" not in (await sandbox.json("get", "wk", "beta-bare"))["resource"]


ADAPTER = {"name": "a", "image": "r.example.com/a:1"}


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        (TUNING, {"tuning": REMOVE}, ["exactly one of inference and tuning is needed"]),
        (TUNING, {"inference": {"preset": {"name": "phi-4"}}}, ["exactly one of inference and tuning"]),
        (
            TUNING,
            {"tuning.method": "dora"},
            ["tuning.method: Invalid value", "dora", "must be lora or qlora"],
        ),
        (TUNING, {"tuning.method": REMOVE}, ["tuning.method: Required value"]),
        (TUNING, {"tuning.preset": REMOVE}, ["tuning.preset: Required value"]),
        (TUNING, {"tuning.input": {}}, ["tuning.input: Invalid value", "exactly one of urls, image"]),
        (TUNING, {"tuning.input": REMOVE}, ["tuning.input: Required value"]),
        (TUNING, {"tuning.input.urls": ["ftp://example.com/x"]}, ["tuning.input.urls[0]: Invalid value"]),
        (
            TUNING,
            {"tuning.output.imagePushSecret": REMOVE},
            ["tuning.output.imagePushSecret: Required value"],
        ),
        (TUNING, {"resource.count": 2}, ["resource.count: tuning runs on a single node"]),
        (TUNING, {"resource.count": "one"}, ["resource.count", "must be of type integer"]),
        (TUNING, {"resource.labelSelector": REMOVE}, ["resource.labelSelector: Required value"]),
        (TUNING, {"resource.partition": {"mode": "mig"}}, ['unknown field "resource.partition"']),
        (TUNING, {"tuning.inputt": {}}, ['unknown field "tuning.inputt"']),
        (TUNING, {"spec": {}}, ['unknown field "spec"']),
        (SERVING, {"inference": {}}, ["inference: Invalid value", "exactly one of preset and template"]),
        (SERVING, {"inference.adapters": [{"source": ADAPTER}] * 2}, ["source.name may be used once"]),
        (SERVING, {"inference.adapters": [{}]}, ["inference.adapters[0].source: Required value"]),
        (SERVING, {"inference.adapters": [{"source": ADAPTER, "strength": "2"}]}, ["adapters[0].strength"]),
        (SERVING, {"resource.partition": {"mode": "slices"}}, ["resource.partition.mode: Unsupported value"]),
    ],
)
async def test_invalid_workspaces_are_refused_by_the_server_with_the_field(
    sandbox: ApiServer, text: str, changes: dict[str, Any], words: list[str]
) -> None:
    said = await apply(sandbox, document(text, "refused", changes), fails=True)
    for word in words:
        assert word in said
    assert not [sign for sign in ("Traceback", "InternalError", "panic", "500") if sign in said]
    await sandbox.kubectl("get", "wk", "refused", fails=True)


async def test_all_faults_come_at_once(sandbox: ApiServer) -> None:
    changes = {"tuning.method": "dora", "resource.count": 0, "tuning.config": "My Config"}
    said = await apply(sandbox, document(TUNING, "refused", changes), fails=True)
    for field in ("tuning.method", "resource.count", "tuning.config"):
        assert f"{field}: " in said


@pytest.mark.parametrize(
    ("text", "changes", "field"),
    [
        (TUNING, {"tuning.method": "lora"}, "tuning.method"),
        (TUNING, {"tuning.preset.name": "phi-4"}, "tuning.preset.name"),
        (TUNING, {"tuning.input.name": "other"}, "tuning.input.name"),
        (TUNING, {"resource.instanceType": "Standard_NC12s_v3"}, "resource.instanceType"),
        (TUNING, {"resource.labelSelector.matchLabels": {"app": "b"}}, "resource.labelSelector.matchLabels"),
        (TUNING, {"tuning": None, "inference": {"preset": {"name": "phi-4"}}}, "inference and tuning"),
        (SERVING, {"inference.preset": None, "inference.template": {"spec": {}}}, "inference.preset"),
        (
            SERVING,
            {"inference.preset.presetOptions.modelAccessSecret": "x"},
            "inference.preset.presetOptions",
        ),
        (SERVING, {"resource.count": 3}, "resource.count"),
        (SERVING, {"resource.partition": {"mode": "mig"}}, "resource.partition"),
    ],
)
async def test_immutable_fields_are_immutable(
    sandbox: ApiServer, text: str, changes: dict[str, Any], field: str
) -> None:
    name = "fixed-tuning" if text is TUNING else "fixed-serving"
    await apply(sandbox, document(text, name))
    before = await sandbox.json("get", "wk", name)
    patch: dict[str, Any] = {}
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = patch
        for step in parents:
            place = place.setdefault(step, {})
        place[last] = value
    said = await sandbox.kubectl("patch", "wk", name, "--type=merge", "-p", json.dumps(patch), fails=True)
    assert "is invalid" in said.err
    assert field in said.err
    after = await sandbox.json("get", "wk", name)
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_what_may_change_changes_and_counts_generations(sandbox: ApiServer) -> None:
    await apply(sandbox, document(TUNING, "edited"))
    changes = {
        "tuning.method": "QLoRA",
        "tuning.output.image": "example.azurecr.io/adapters/phi-3:0.0.2",
        "resource.instanceType": "standard_nc6s_v3",
        "tuning.config": "mine",
    }
    assert "configured" in await apply(sandbox, document(TUNING, "edited", changes))
    found = await sandbox.json("get", "wk", "edited")
    assert found["metadata"]["generation"] == 2
    assert found["tuning"]["output"]["image"].endswith(":0.0.2")


def condition(kind: str, status: str = "True") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": "Said",
        "message": "",
        "lastTransitionTime": NOW,
        "observedGeneration": 1,
    }


async def apply_status(sandbox: ApiServer, name: str, manager: str, status: dict[str, Any]) -> None:
    content = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "status": status,
    }
    options = ("--server-side", "--subresource=status", f"--field-manager={manager}")
    await sandbox.kubectl("apply", "-f", "-", *options, stdin=json.dumps(content))


async def test_status_is_a_subresource(sandbox: ApiServer) -> None:
    await apply(sandbox, document(TUNING, "status", {"status": {"state": "Ready"}}))
    assert "status" not in await sandbox.json("get", "wk", "status"), "not through the Workspace itself"
    patch = {"status": {"state": "Running", "progress": {"step": 3, "total": 9, "loss": 1.5}}, "tuning": None}
    await sandbox.kubectl(
        "patch", "wk", "status", "--subresource=status", "--type=merge", "-p", json.dumps(patch)
    )
    found = await sandbox.json("get", "wk", "status")
    assert found["status"] == patch["status"]
    assert found["metadata"]["generation"] == 1
    assert found["tuning"]["method"] == "qlora", "and nothing but the status through the subresource"


async def test_foreign_status_fields_and_conditions_survive(sandbox: ApiServer) -> None:
    """With the plain list of KAITO's own definition the second writer would take all conditions."""
    await apply(sandbox, document(TUNING, "shared"))
    theirs = {"conditions": [condition("TheirsReady")], "theirField": {"any": [1, "x"]}}
    await apply_status(sandbox, "shared", "another-controller", theirs)
    for status in ("False", "True"):
        ours = {"conditions": [condition("WorkspaceReady", status)], "run": {"id": "r", "attempt": 1}}
        await apply_status(sandbox, "shared", "kaito-airflow", ours)
    for version in ("v1alpha1", "v1beta1"):
        found = (await sandbox.json("get", f"workspaces.{version}.kaito.sh", "shared"))["status"]
        assert {each["type"]: each["status"] for each in found["conditions"]} == {
            "TheirsReady": "True",
            "WorkspaceReady": "True",
        }
        assert found["theirField"] == {"any": [1, "x"]}
        assert found["run"] == {"id": "r", "attempt": 1}
    shown = (await sandbox.kubectl("get", "wk", "shared")).out.splitlines()[1].split()
    assert shown[COLUMNS.index("WORKSPACEREADY") - 2] == "True"


async def test_a_bad_status_is_refused_with_its_field(sandbox: ApiServer) -> None:
    await apply(sandbox, document(TUNING, "bad-status"))
    patch = {"status": {"conditions": [{**condition("A"), "status": "Perhaps"}], "targetNodeCount": "one"}}
    said = await sandbox.kubectl(
        "patch",
        "wk",
        "bad-status",
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps(patch),
        fails=True,
    )
    assert "status.conditions[0].status: Unsupported value" in said.err
    assert "status.targetNodeCount" in said.err


async def test_a_converted_workspace_goes_through_v1alpha1_and_comes_back_whole(sandbox: ApiServer) -> None:
    """Upstream, a write through v1alpha1 erases what only v1beta1 has."""
    wanted = document(SERVING, "there-and-back")
    await apply(sandbox, convert(wanted, "v1alpha1"))
    found = await sandbox.json("get", "workspaces.v1alpha1.kaito.sh", "there-and-back")
    back = convert(found, "v1beta1")
    assert back["inference"]["preset"]["presetOptions"] == {"modelAccessSecret": "hf"}
    assert parse_workspace(back).model_access_secret == "hf"


async def test_kubectl_explains_the_fields(sandbox: ApiServer) -> None:
    said = (await sandbox.kubectl("explain", "workspace.status.progress")).out
    assert "tokensPerSecond" in said
    assert "Optimizer steps done" in said
