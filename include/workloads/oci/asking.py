"""Asks a registry from the control plane: which needs `requests` and no library of OCI.

It follows the same network policy as a pod and answers the same challenges. Nothing is tried again, since somebody
waits, and no sentence holds a secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

from include.contracts.image_reference import ImageReference
from include.contracts.network_policy import NetworkPolicy
from include.workloads.contract import UserConfigError
from include.workloads.deadline import Deadline
from include.workloads.network import AddressPolicy, AddressRefused
from include.workloads.oci.authorization import TokenRefused, authorize
from include.workloads.oci.checked_http import CheckedAdapter
from include.workloads.oci.credentials import Credentials, advice
from include.workloads.oci.media import ACCEPT, sha256
from include.workloads.oci.transport import Answer, TooBig, TooSlow, Transport

SECONDS = 15.0
MAX_MANIFEST_BYTES = 4 << 20
_WRONG = (400, 404, 405)


class Unanswered(Exception):
    """The registry could not be asked from here; str() says why. It may be there for the pods."""


class NotToBeHad(Exception):
    """The registry has no such image, or does not give it to us; str() says why and what to look at."""


@dataclass(frozen=True)
class Described:
    """What a registry holds under a reference now: its digest and its manifest, or index of manifests."""

    digest: str
    document: Mapping[str, Any]


def describe(
    reference: ImageReference,
    credentials: Credentials | None,
    policy: NetworkPolicy,
    seconds: float = SECONDS,
) -> Described:
    """What a reference means at this moment. Raises NotToBeHad, or Unanswered."""
    repository = Repository(reference, credentials, policy, seconds)
    url = f"{repository.url}/manifests/{reference.version}"
    with Deadline(seconds) as deadline:
        try:
            answer = repository.ask("GET", url, {"Accept": ACCEPT}, limit=MAX_MANIFEST_BYTES)
        except AddressRefused as error:
            raise NotToBeHad(f"the registry {reference.registry} cannot be used: {error}") from None
        except TokenRefused as refused:
            why = f"its token server answered {refused.status}"
            raise NotToBeHad(_refused(reference, credentials, why)) from None
        except (requests.RequestException, UserConfigError, TooBig) as error:
            raise Unanswered(unanswered(reference, error, deadline)) from None
        if deadline.expired:
            raise Unanswered(unanswered(reference, TimeoutError(), deadline))
    if answer.status in (401, 403):
        raise NotToBeHad(_refused(reference, credentials, f"it answered {answer.status}"))
    if answer.status in _WRONG:
        raise NotToBeHad(
            f"the registry {reference.registry} has no image {reference.repository} with {reference.version}"
        )
    if answer.status != 200:
        raise Unanswered(f"the registry {reference.registry} answered {answer.status}")
    return Described(sha256(answer.content), _document(answer, reference))


def _document(answer: Answer, reference: ImageReference) -> Mapping[str, Any]:
    try:
        found = json.loads(answer.content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise NotToBeHad(f"{reference} is not an image: its manifest is not a JSON object")
    return found


def _refused(reference: ImageReference, credentials: Credentials | None, why: str) -> str:
    return (
        f"the registry {reference.registry} does not give the image {reference.repository} ({why}); "
        f"{advice(credentials, reference)}"
    )


class Repository:
    """A repository of a registry, asked within the network policy.

    :param seconds: how long the registry may take for the headers of an answer.
    """

    def __init__(
        self,
        reference: ImageReference,
        credentials: Credentials | None,
        policy: NetworkPolicy,
        seconds: float,
    ) -> None:
        self.reference, self.credentials = reference, credentials
        self.insecure = reference.registry in policy.registries
        plain = reference.registry if self.insecure else ""
        adapter = CheckedAdapter(AddressPolicy(policy, registry=True), plain)
        self.transport = Transport(adapter, header_seconds=seconds)
        scheme = "http" if self.insecure else "https"
        self.url = f"{scheme}://{reference.api_host}/v2/{reference.repository}"

    def ask(self, method: str, url: str, headers: Mapping[str, str], **more: Any) -> Answer:
        """Ask, and once more with what the registry wants to see where it wants to see something."""
        answer = self.transport.ask(method, url, headers, **more)
        if answer.status != 401:
            return answer
        challenge = answer.headers.get("WWW-Authenticate", "")
        found = authorize(challenge, self.credentials, self.transport, self.insecure)
        if found is None:
            return answer
        self.transport.authorization[self.reference.api_host] = found
        return self.transport.ask(method, url, headers, **more)


def unanswered(reference: ImageReference, error: Exception, deadline: Deadline) -> str:
    """A sentence for Unanswered."""
    if isinstance(error, UserConfigError | TooSlow):  # of two nested deadlines the inner one may end first
        message = str(error)
    else:
        message = f"no answer within {deadline.seconds:.0f} s" if deadline.expired else type(error).__name__
    return f"the registry {reference.registry} cannot be reached from Airflow ({message})"
