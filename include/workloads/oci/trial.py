"""Whether a registry would take a push, asked before anything is trained for it: an upload is opened and given up.

Runs on the control plane, so it needs less than the client that pushes: `requests`, no library of OCI. It follows the
same network policy and answers the same challenges. Nothing is stored in the registry, and no sentence holds a secret.
"""

from __future__ import annotations

import json
from urllib.parse import urljoin, urlsplit

import requests

from include.contracts.image_reference import ImageReference
from include.contracts.network_policy import NetworkPolicy
from include.workloads.contract import UserConfigError
from include.workloads.deadline import Deadline
from include.workloads.network import AddressRefused
from include.workloads.oci.asking import MAX_MANIFEST_BYTES, SECONDS, Repository, Unanswered, unanswered
from include.workloads.oci.authorization import TokenRefused
from include.workloads.oci.credentials import Credentials, advice
from include.workloads.oci.transport import Answer, TooBig, Transport

#: What may be otherwise in a minute; nobody's fault.
PASSING = frozenset({408, 425, 429})
#: What the adapter image of a Workspace says of it, and how long `namespace/name` may be.
WORKSPACE_ANNOTATION, MAX_NAME = "sh.kaito.workspace", 320
_MANIFEST = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
_UPLOAD = {"Content-Type": "application/octet-stream", "Content-Length": "0"}


class PushRefused(Exception):
    """The registry would refuse the push; str() says why and what to look at."""


def try_push(
    reference: ImageReference,
    credentials: Credentials | None,
    policy: NetworkPolicy,
    seconds: float = SECONDS,
) -> None:
    """Return if the registry opens an upload for the repository with these credentials.

    Raises PushRefused, or Unanswered.
    """
    repository = Repository(reference, credentials, policy, seconds)
    start = f"{repository.url}/blobs/uploads/"
    with Deadline(seconds) as deadline:
        try:
            answer = repository.ask("POST", start, _UPLOAD)
        except AddressRefused as error:
            raise PushRefused(f"the registry {reference.registry} cannot be used: {error}") from None
        except TokenRefused as refused:
            why = f"its token server answered {refused.status}"
            raise PushRefused(_refusal(reference, credentials, why)) from None
        except (requests.RequestException, UserConfigError, TooBig) as error:
            raise Unanswered(unanswered(reference, error, deadline)) from None
        if deadline.expired:
            raise Unanswered(unanswered(reference, TimeoutError(), deadline))
        _judge(answer, reference, credentials)
        _give_up(answer, start, repository.transport)


def published_by(
    reference: ImageReference,
    credentials: Credentials | None,
    policy: NetworkPolicy,
    seconds: float = SECONDS,
) -> str:
    """The Workspace, as `namespace/name`, whose adapter a tag holds; "" where it holds none or nobody says.

    A tag is asked only after `try_push` has been answered: what goes wrong here is no verdict.
    """
    repository = Repository(reference, credentials, policy, seconds)
    url = f"{repository.url}/manifests/{reference.version}"
    with Deadline(seconds) as deadline:
        try:
            answer = repository.ask("GET", url, _MANIFEST, limit=MAX_MANIFEST_BYTES)
        except (requests.RequestException, UserConfigError, TooBig, AddressRefused, TokenRefused):
            return ""
        if deadline.expired or answer.status != 200:
            return ""
    try:
        notes = json.loads(answer.content).get("annotations") or {}
        return str(notes.get(WORKSPACE_ANNOTATION) or "")[:MAX_NAME]
    except (ValueError, AttributeError, RecursionError):
        return ""


def _judge(answer: Answer, reference: ImageReference, credentials: Credentials | None) -> None:
    status = answer.status
    if status == 202:
        return
    if status >= 500 or status in PASSING:
        raise Unanswered(f"the registry {reference.registry} answered {status}")
    why = f"it answered {status}"
    if status in (401, 403):
        raise PushRefused(_refusal(reference, credentials, why))
    raise PushRefused(f"the registry {reference.registry} opens no upload for {reference.repository} ({why})")


def _give_up(answer: Answer, start: str, transport: Transport) -> None:
    """End the upload. Registries forget uploads that nobody goes on with, so that nothing hangs on it."""
    location = urljoin(start, answer.headers.get("Location", ""))
    if location == start or urlsplit(location)[:2] != urlsplit(start)[:2]:
        return
    try:
        transport.ask("DELETE", location)
    except (requests.RequestException, UserConfigError, TooBig):
        return


def _refusal(reference: ImageReference, credentials: Credentials | None, why: str) -> str:
    return (
        f"the registry {reference.registry} refuses a push to {reference.repository} ({why}); "
        f"{advice(credentials, reference)}"
    )
