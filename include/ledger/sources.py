"""Where the books are: `status.cost` of the Workspaces in a cluster, and the events of Airflow's asset `kaito_ledger`.

Each source that cannot be read is a sentence, with what would help. Tokens and passwords come from the environment and
never show.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from include.ledger.books import Book, of_event, of_workspace
from include.workspace.api import names

ASSET = "kaito_ledger"
PAGE = 100
SECONDS = 30.0
TOKEN, USERNAME, PASSWORD = "AIRFLOW_TOKEN", "AIRFLOW_USERNAME", "AIRFLOW_PASSWORD"


class SourceError(RuntimeError):
    """A source that cannot be read; ``str()`` says why and what would help."""


def of_cluster(context: str | None = None) -> list[Book]:
    """The books of all Workspaces of the cluster that kubectl would talk to; ``context`` as `workspaces` takes it."""
    now = datetime.now(UTC).replace(microsecond=0)
    return [book for item in workspaces(context) if (book := of_workspace(item, now))]


def workspaces(context: str | None = None) -> list[dict[str, Any]]:
    """All Workspaces of the cluster that kubectl would talk to.

    :param context: a context of the kubeconfig; default: its current one, or the pod's own cluster.
    :raises SourceError: they cannot be read.
    """
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    load_kubeconfig(context, " or leave the cluster out with --no-cluster")
    api, found, token = client.CustomObjectsApi(), list[dict[str, Any]](), ""
    while True:
        try:
            page = api.list_cluster_custom_object(
                names.GROUP,
                names.STORED_VERSION,
                names.PLURAL,
                limit=PAGE,
                _continue=token,
                _request_timeout=SECONDS,
            )
        except ApiException as error:
            raise SourceError(_cluster_words(error)) from None
        except Exception as error:
            raise SourceError(f"The cluster does not answer: {error}") from None
        found += page["items"]
        token = (page.get("metadata") or {}).get("continue") or ""
        if not token:
            return found


def load_kubeconfig(context: str | None = None, otherwise: str = "") -> None:
    """Have the Kubernetes client ask the cluster that kubectl would: of KUBECONFIG, else the pod's own.

    :param context: a context of the kubeconfig; default: its current one.
    :param otherwise: what else would help, after "set KUBECONFIG,".
    :raises SourceError: there is none.
    """
    from kubernetes import config

    try:
        config.load_kube_config(context=context)
    except Exception as error:
        try:
            if context:
                raise
            config.load_incluster_config()
        except Exception:
            help_text = f"set KUBECONFIG{',' if otherwise else ''}{otherwise}"
            raise SourceError(f"There is no cluster to ask ({error}): {help_text}.") from None


def _cluster_words(error: Any) -> str:
    if error.status == 404:
        return "The cluster does not know Workspaces: kubectl apply -f presets/crds"
    if error.status in (401, 403):
        return "The cluster does not let this user list workspaces.kaito.sh in all namespaces: grant get and list."
    return f"The cluster refused to list Workspaces: {error.status} {error.reason}"


def of_airflow(url: str, environment: Mapping[str, str] = os.environ) -> list[Book]:
    """The books in all events of the asset, as Airflow at ``url`` keeps them."""
    try:
        with httpx.Client(base_url=url.rstrip("/"), timeout=SECONDS, follow_redirects=True) as http:
            http.headers["Authorization"] = f"Bearer {_token(http, environment)}"
            return [book for extra in _extras(http) if (book := of_event(extra))]
    except httpx.HTTPStatusError as error:
        raise SourceError(_airflow_words(url, error.response.status_code)) from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"Airflow at {url} does not answer as its API server does: {type(error).__name__}: {error}"
        ) from None


def _token(http: httpx.Client, environment: Mapping[str, str]) -> str:
    if environment.get(TOKEN):
        return environment[TOKEN]
    if environment.get(USERNAME):
        login = {"username": environment[USERNAME], "password": environment.get(PASSWORD, "")}
        answer = http.post("/auth/token", json=login)
    else:
        answer = http.get("/auth/token")
    return str(answer.raise_for_status().json()["access_token"])


def _extras(http: httpx.Client) -> Iterator[Mapping[str, Any]]:
    offset = 0
    while True:
        query: dict[str, Any] = {
            "name_pattern": ASSET,
            "order_by": "timestamp",
            "limit": PAGE,
            "offset": offset,
        }
        answer = http.get("/api/v2/assets/events", params=query).raise_for_status().json()
        events = answer["asset_events"]
        yield from (event["extra"] for event in events if event.get("name") == ASSET and event.get("extra"))
        offset += len(events)
        if not events or offset >= int(answer["total_entries"]):
            return


def _airflow_words(url: str, status: int) -> str:
    if status in (401, 403, 405, 422):
        return (
            f"Airflow at {url} wants to know who asks ({status}): set {TOKEN}, or {USERNAME} and {PASSWORD}, in the "
            "environment; the user needs the right to read assets."
        )
    return f"Airflow at {url} answers {status}: is this the address of its API server (3.3)?"
