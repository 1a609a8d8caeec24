"""A cluster with the definitions installed: the sandbox's API server in this process, and a scripted Airflow."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
import yaml
from kaito.controller.dag_runs import AirflowRuns
from kaito.controller.reconciler import Outcome, Reconciler
from kaito.hooks import api
from kaito.hooks.api import CRD, EVENT, SECRET, WORKSPACE, Kind
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.installation import installation

from include.workspace import workspace_crd
from sandbox.cloud import crds
from tests.support.api_server import Sandbox
from tests.support.fake_cluster import QUICK_START
from tests.support.supervisor import Supervisor

KEY = ("default", "workspace-tuning-phi-3")


class Installed:
    """A cluster with the definitions installed, and the words of these tests.

    What is ours goes through `hook`, which has the rights of presets/rbac and no others; users are administrators.
    """

    def __init__(
        self, admin: AsyncKaitoClusterHook, hook: AsyncKaitoClusterHook, airflow: Supervisor
    ) -> None:
        self.admin, self.hook, self.airflow = admin, hook, airflow

    async def apply(self, kind: Kind, manifest: dict[str, Any]) -> dict[str, Any]:
        metadata = (
            {"namespace": "default", **manifest["metadata"]} if kind.namespaced else manifest["metadata"]
        )
        document = {"apiVersion": kind.api_version, "kind": kind.name, **manifest, "metadata": metadata}
        made: dict[str, Any] = await self.admin.send(api.create(kind, document))
        return made

    async def quick_start(self, name: str = KEY[1], **changes: Any) -> dict[str, Any]:
        document = copy.deepcopy(QUICK_START)
        document["metadata"]["name"] = name
        document["tuning"] |= changes
        text = json.dumps(document)
        document["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": text}
        kind = Kind("kaito.sh", "v1alpha1", "workspaces", "Workspace")
        made: dict[str, Any] = await self.admin.send(api.create(kind, document))
        return made

    async def look(self, *keys: tuple[str, str], everything: bool = False) -> Outcome:
        runs = AirflowRuns(self.airflow)
        log = logging.getLogger("reconcile-test")
        return await Reconciler(self.hook, runs, installation(), log).run(
            None if everything else keys or (KEY,)
        )

    async def get(self, name: str = KEY[1]) -> dict[str, Any]:
        found = await self.hook.find(WORKSPACE, name, "default")
        assert found is not None
        return found

    async def condition(self, kind: str, name: str = KEY[1]) -> dict[str, Any]:
        told = ((await self.get(name)).get("status") or {}).get("conditions") or []
        return next((c for c in told if c["type"] == kind), {})

    async def events(self, name: str = KEY[1]) -> list[dict[str, Any]]:
        return [e for e in await self.hook.list(EVENT, "default") if e["involvedObject"]["name"] == name]


RIGHTS = Path(__file__).parents[2] / "presets" / "rbac"


async def _account(admin: AsyncKaitoClusterHook, config: dict[str, Any]) -> dict[str, Any]:
    """Airflow's own kubeconfig: that of the account of presets/rbac, whose rights the API server enforces."""
    for path in sorted(RIGHTS.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            group, _, version = document["apiVersion"].rpartition("/")
            namespaced = "namespace" in document["metadata"]
            kind = Kind(group, version, f"{document['kind'].lower()}s", document["kind"], namespaced)
            await admin.send(api.create(kind, document))
    path = Kind("", "v1", "serviceaccounts", "ServiceAccount").path("kaito-airflow", "kaito-system", "token")
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
    token = (await admin.send(api.Request("POST", path, body=body)))["status"]["token"]
    users = [{**user, "user": {"token": token}} for user in config["users"]]
    return {**config, "users": users}


@pytest_asyncio.fixture
async def cluster(sandbox: Sandbox) -> AsyncIterator[Installed]:
    config = yaml.safe_load(sandbox.kubeconfig.read_text())
    async with AsyncKaitoClusterHook(conn_id=None, config_dict=config).connected() as admin:
        for definition in (workspace_crd(), *crds.definitions()):
            await admin.send(api.create(CRD, definition))
        dags = {"kaito_tune": False, "kaito_serve": False, "kaito_release": False}
        account = AsyncKaitoClusterHook(conn_id=None, config_dict=await _account(admin, config))
        async with account.connected() as hook:
            installed = Installed(admin, hook, Supervisor(dags))
            await _push_secret(installed)
            yield installed


async def _push_secret(installed: Installed) -> None:
    await installed.apply(
        SECRET,
        {
            "metadata": {"name": "push"},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": "e30="},
        },
    )
