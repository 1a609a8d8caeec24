"""The cluster that kubectl would talk to, as the verbs that look at it need it: Workspaces, Events, logs, services.

Whatever goes wrong is a sentence (`SourceError`): no verb shows a stack trace for a cluster that is away.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from include.contracts.redaction import hide
from include.ledger.sources import SourceError, load_kubeconfig
from include.workspace.api import access, names
from include.workspace.api.dialect import as_written
from include.workspace.api.parse import parse_workspace
from include.workspace.validation.faults import WorkspaceInvalid

SECONDS = 30.0
#: Port of every Workspace's Service.
PORT = 80

Object = Mapping[str, Any]


class Cluster:
    """The cluster that kubectl would talk to.

    :param context: a context of the kubeconfig; default: its current one, or the pod's own cluster.
    :param seconds: how long it has for each answer.
    :raises SourceError: there is none.
    """

    def __init__(self, context: str | None = None, seconds: float = SECONDS) -> None:
        from kubernetes import client

        load_kubeconfig(context)
        self._seconds = seconds
        self._custom, self._core = client.CustomObjectsApi(), client.CoreV1Api()

    def workspaces(self, namespace: str | None) -> list[Object]:
        """All Workspaces, or those of a namespace."""
        which = names.GROUP, names.STORED_VERSION
        result: list[Object] = []
        token = ""
        while True:
            more: dict[str, Any] = {"limit": 200, "_continue": token, "_request_timeout": self._seconds}
            if namespace:
                call = self._ask(
                    self._custom.list_namespaced_custom_object, *which, namespace, names.PLURAL, **more
                )
            else:
                call = self._ask(self._custom.list_cluster_custom_object, *which, names.PLURAL, **more)
            result += call["items"]
            token = (call.get("metadata") or {}).get("continue") or ""
            if not token:
                return result

    def workspace(self, namespace: str, name: str) -> Object:
        """One Workspace."""
        which = names.GROUP, names.STORED_VERSION, namespace, names.PLURAL, name
        result: Object = self._ask(
            self._custom.get_namespaced_custom_object, *which, _request_timeout=self._seconds
        )
        return result

    def events(self, namespace: str, name: str) -> list[Object]:
        """The Events about a Workspace; none where they may not be read."""
        selector = f"involvedObject.kind={names.KIND},involvedObject.name={name}"
        try:
            found = self._core.list_namespaced_event(
                namespace, field_selector=selector, _request_timeout=self._seconds, _preload_content=False
            )
        except Exception:
            return []
        return list(json.loads(found.data)["items"])

    def pods(self, namespace: str, name: str) -> list[Object]:
        """The pods of a Workspace, oldest first."""
        selector = f"{names.WORKSPACE}={name}"
        answer = self._ask(
            self._core.list_namespaced_pod,
            namespace,
            label_selector=selector,
            _request_timeout=self._seconds,
            _preload_content=False,
            what=f"pods in namespace {namespace}",
        )
        pods: list[Object] = json.loads(answer.data)["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def log(
        self, namespace: str, pod: str, container: str, *, lines: int, follow: bool, previous: bool
    ) -> Iterator[str]:
        """The lines of a container's log, and with `follow` those to come until it ends.

        :param lines: how many of those that are there, from the end.
        :param previous: of the container before its last restart.
        """
        limit = None if follow else self._seconds
        answer = self._ask(
            self._core.read_namespaced_pod_log,
            pod,
            namespace,
            container=container,
            tail_lines=lines,
            follow=follow,
            previous=previous,
            _request_timeout=limit,
            _preload_content=False,
            what=f"the log of container {container} of pod {pod}",
        )
        return _lines(answer)

    def service_key(self, live: Object) -> str | None:
        """The API key of a Workspace's service; None where it has none."""
        try:
            secret = access.api_key_secret(parse_workspace(as_written(live)))
        except WorkspaceInvalid as error:
            raise SourceError(f"The Workspace has faults: {error}") from None
        if secret is None:
            return None
        namespace = names.namespace(live)
        answer = self._ask(
            self._core.read_namespaced_secret,
            secret,
            namespace,
            _request_timeout=self._seconds,
            _preload_content=False,
            what=f"Secret {secret} in namespace {namespace}",
        )
        try:
            key = base64.b64decode(json.loads(answer.data)["data"][access.KEY]).decode()
        except (KeyError, ValueError):
            raise SourceError(
                f"Secret {secret} has no {access.KEY}, so the service cannot be asked."
            ) from None
        hide(key)
        return key

    def ask_service(
        self, live: Object, path: str, body: Object | None, key: str | None, seconds: float
    ) -> Iterator[str]:
        """The lines that a Workspace's service answers, through the API server's proxy.

        :param body: what is posted as JSON; None asks with GET.
        :param key: the service's API key; it goes as X-Api-Key, since the API server keeps Authorization for itself.
        """
        name, namespace = str(live["metadata"]["name"]), names.namespace(live)
        headers = {"Accept": "*/*", "Content-Type": "application/json"} | ({"X-Api-Key": key} if key else {})
        answer = self._ask(
            self._core.api_client.call_api,
            f"/api/v1/namespaces/{namespace}/services/{name}:{PORT}/proxy/{path}",
            "GET" if body is None else "POST",
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=seconds,
            what=f"service {name} in namespace {namespace}",
        )
        return _lines(answer)

    def _ask(self, call: Callable[..., Any], *which: str, what: str = "", **more: Any) -> Any:
        from kubernetes.client.exceptions import ApiException

        try:
            return call(*which, **more)
        except ApiException as error:
            if error.status == 404 and not what:
                problem = f"There is no Workspace {which[-1]} in namespace {which[2]}."
                if len(which) < 5:
                    problem = "The cluster does not know Workspaces: kubectl apply -f presets/crds"
                raise SourceError(problem) from None
            raise SourceError(_refusal(error, what)) from None
        except Exception as error:
            raise SourceError(f"The cluster does not answer: {error}") from None


def _lines(answer: Any) -> Iterator[str]:
    """The lines of an answer as they come. It is closed when the reader leaves."""
    try:
        rest = b""
        for part in answer.stream(amt=None, decode_content=True):
            *whole, rest = (rest + part).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")
    except Exception as error:  # urllib3's many, once the head of the answer was there
        raise SourceError(f"The answer was cut off: {error}") from None
    finally:
        answer.close()


def _refusal(error: Any, what: str) -> str:
    """What the API server, or a service behind it, said when it refused."""
    try:
        parsed = json.loads(error.body)
        inner = parsed.get("error")
        message = str(
            inner.get("message") if isinstance(inner, Mapping) else parsed.get("message") or inner or ""
        )
    except (ValueError, TypeError, AttributeError):
        message = ""
    about = f" ({what})" if what else ""
    return f"The cluster refused{about}: {error.status} {error.reason}{f': {message}' if message else ''}"
