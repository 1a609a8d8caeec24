"""The definition of Workspaces in a cluster: installed by the first run, where it may."""

from __future__ import annotations

import time

from airflow.sdk.exceptions import AirflowFailException

from include.workspace import (
    workspace_crd,
)
from kaito.hooks.api import CRD, ClusterError
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.logger import Logger

CRD_SECONDS = 20


def need_crd(cluster: KaitoClusterHook, log: Logger) -> None:
    """Make the kind known when it is not; say who can when we may not.

    :raises AirflowFailException: it is not known, and we may not make it so.
    """
    definition = workspace_crd()
    name = definition["metadata"]["name"]
    try:
        if cluster.find(CRD, name):
            return
    except ClusterError as error:
        if error.status != 403:
            raise
        log.info("May not look at CustomResourceDefinitions (%s); taking %s as installed.", error, name)
        return
    log.info("The cluster does not know Workspaces yet: installing %s.", name)
    try:
        cluster.apply(CRD, definition)
    except ClusterError as error:
        if error.status != 403:
            raise
        raise AirflowFailException(
            f"The cluster does not know Workspaces, and this Airflow may not teach it ({error}): "
            "an administrator has to run kubectl apply -f presets/crds."
        ) from None
    deadline = time.monotonic() + CRD_SECONDS
    while time.monotonic() < deadline:
        seen = cluster.find(CRD, name) or {}
        listed = (seen.get("status") or {}).get("conditions") or []
        if any(c.get("type") == "Established" and c.get("status") == "True" for c in listed):
            return
        time.sleep(0.3)
    raise RuntimeError(f"{name} was installed but not established within {CRD_SECONDS} s.")
