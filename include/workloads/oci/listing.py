"""What a repository of a registry holds, asked by the control plane; and to have it forget a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from include.contracts.image_reference import ImageReference
from include.contracts.network_policy import NetworkPolicy
from include.workloads.contract import UserConfigError
from include.workloads.deadline import Deadline
from include.workloads.network import AddressRefused
from include.workloads.oci.asking import MAX_MANIFEST_BYTES, SECONDS, Repository, Unanswered, unanswered
from include.workloads.oci.authorization import TokenRefused
from include.workloads.oci.credentials import Credentials
from include.workloads.oci.media import ACCEPT
from include.workloads.oci.transport import Answer, TooBig
from include.workloads.oci.trial import PASSING

#: Pages of tags that are read; what stands behind them is not known, and so not judged.
MAX_PAGES, PAGE = 20, 1000


class Refused(Exception):
    """The registry will not do it; str() says why."""


class Listing(Repository):
    """A repository that is looked through.

    :param seconds: how long each answer may take.
    """

    def __init__(
        self,
        reference: ImageReference,
        credentials: Credentials | None,
        policy: NetworkPolicy,
        seconds: float = SECONDS,
    ) -> None:
        super().__init__(reference, credentials, policy, seconds)
        self.seconds = seconds

    def tags(self) -> list[str]:
        """Every tag of the repository, [] where there is no such repository. Raises Unanswered, Refused."""
        found: list[str] = []
        url = f"{self.url}/tags/list?n={PAGE}"
        for _ in range(MAX_PAGES):
            answer = self._answer("GET", url, {}, limit=MAX_MANIFEST_BYTES)
            if answer.status == 404:
                return []
            found += [str(tag) for tag in self._object(answer).get("tags") or ()]
            following = answer.headers.get("Link", "").partition("<")[2].partition(">")[0]
            url = urljoin(url, following)
            if not following or urlsplit(url)[:2] != urlsplit(self.url)[:2]:
                break
        return found

    def digest(self, version: str) -> str | None:
        """The digest that a tag holds, None where there is none. Raises Unanswered, Refused."""
        answer = self._answer("HEAD", f"{self.url}/manifests/{version}", {"Accept": ACCEPT})
        return None if answer.status == 404 else answer.headers.get("Docker-Content-Digest") or None

    def manifest(self, version: str) -> dict[str, Any] | None:
        """The manifest of a tag or digest, None where there is none. Raises Unanswered, Refused."""
        answer = self._answer(
            "GET", f"{self.url}/manifests/{version}", {"Accept": ACCEPT}, limit=MAX_MANIFEST_BYTES
        )
        return None if answer.status == 404 else self._object(answer)

    def forget(self, digest: str) -> None:
        """Delete a manifest with all of its tags; one that is gone is fine. Raises Unanswered, Refused.

        Its layers go when the registry collects what nothing refers to.
        """
        self._answer("DELETE", f"{self.url}/manifests/{digest}", {})

    def _answer(self, method: str, url: str, headers: Mapping[str, str], **more: Any) -> Answer:
        with Deadline(self.seconds) as deadline:
            try:
                answer = self.ask(method, url, headers, **more)
            except (requests.RequestException, UserConfigError, TooBig) as error:
                raise Unanswered(unanswered(self.reference, error, deadline)) from None
            except (AddressRefused, TokenRefused) as error:
                raise Refused(f"the registry {self.reference.registry} cannot be used: {error}") from None
            if deadline.expired:
                raise Unanswered(unanswered(self.reference, TimeoutError(), deadline))
        if answer.status in (200, 202, 404):
            return answer
        told = f"the registry {self.reference.registry} answered {answer.status} to {method}"
        if answer.status >= 500 or answer.status in PASSING:
            raise Unanswered(told)
        raise Refused(f"{told}{' (deletion is switched off there)' if answer.status == 405 else ''}")

    def _object(self, answer: Answer) -> dict[str, Any]:
        try:
            found = json.loads(answer.content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Refused(f"the registry {self.reference.registry} answered with no JSON object")
        return found
