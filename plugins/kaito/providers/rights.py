"""Whether the cluster lets us make what machines come from, asked before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.workspace.api import names
from kaito.hooks.api import ClusterError, Kind
from kaito.hooks.cluster_calls import ClusterCalls


async def need_rights(cluster: ClusterCalls, kind: Kind, labels: Mapping[str, Any]) -> None:
    """Raise ValueError where the cluster does not know what machines are made as, or does not let us make it.

    :param labels: of few objects; the kind is listed by them.
    """
    other = (
        f"choose who else makes machines (setting [kaito] pool_provider, annotation {names.POOL_PROVIDER})"
    )
    try:
        await cluster.list(kind, labels=labels)
    except ClusterError as error:
        if error.status == 404:
            message = (
                f"The cluster knows no {kind.name}s: install Karpenter or the gpu-provisioner, or {other}."
            )
            raise ValueError(message) from None
        if error.status != 403:
            raise
    verbs = ("list", "create", "patch", "delete")
    lacking = [verb for verb in verbs if not await cluster.may(verb, kind)]
    if lacking:
        raise ValueError(
            f"Airflow's account in the cluster may not {', '.join(lacking)} {kind.plural}.{kind.group}: grant it that "
            f"(kubectl apply -f presets/rbac), or {other}."
        )
