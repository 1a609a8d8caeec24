"""What a run's conf may say: the fields of its DAG's form and nothing else, and always which Workspace is meant.

Airflow takes any JSON as a conf and fills in the form's defaults, so that a typing error would run on them. No I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from include.contracts.plural import plural
from include.contracts.redaction import is_signed, redact_url
from include.workspace.validation.faults import did_you_mean

WORKSPACE = "workspace"
#: What a Workspace has at its top and no form has: somebody sent the YAML itself.
WORKSPACE_KEYS = frozenset({"apiVersion", "kind", "metadata", "spec", "resource", "inference", "tuning"})
NAMED = '{"workspace": {"metadata": {"name": "NAME", "namespace": "NAMESPACE"}}}'


def conf_faults(conf: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return a sentence for everything in a conf that its DAG does not know.

    :param conf: what the caller sent.
    :param known: the names of the form's fields.
    """
    faults = []
    for key in conf:
        if key in known:
            continue
        hint = did_you_mean(str(key), known)
        if key in WORKSPACE_KEYS and WORKSPACE in known:
            hint = f"a Workspace is written below the key {WORKSPACE}"
        faults.append(f"{key}: is no field of this DAG; {hint}")
    return faults


def identity_faults(params: Mapping[str, Any]) -> list[str]:
    """Return a sentence when a run does not say which Workspace it is for.

    :param params: the form's values with the conf merged in.
    """
    if params.get(WORKSPACE) or params.get("name"):
        return []
    return [f"name: is required; fill in the form, or name a Workspace that is in the cluster: {NAMED}"]


def secret_faults(params: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each dataset URL that opens something to whoever reads it: Airflow stores and shows confs.

    :param params: the form's values with the conf merged in.
    """
    document: Any = params.get(WORKSPACE) or {}
    for key in ("tuning", "input", "urls"):
        document = document.get(key) if isinstance(document, Mapping) else None
    given = {"dataset_url": params.get("dataset_url")}
    if isinstance(document, list):
        given |= {f"{WORKSPACE}.tuning.input.urls[{index}]": url for index, url in enumerate(document)}
    return [
        f"{path}: {redact_url(url)} is a signed URL, and a run's conf is stored and shown by Airflow; kubectl apply "
        f"the Workspace and name it: {NAMED}"
        for path, url in given.items()
        if isinstance(url, str) and is_signed(url)
    ]


def refuse(faults: Collection[str]) -> None:
    """Raise with all of the faults, if there are any: before anything is looked up, written or made."""
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise AirflowFailException(
            f"This run's conf cannot be used, {plural(len(faults), 'fault')}:\n{lines}"
        )
