"""A registry client on the `oras` library: its references and URLs, with the manners that a pod needs.

Added to the library: bounds on bytes and on the time of a whole transfer, few and short tries, Basic or Bearer as the
registry asks, streamed uploads, verified downloads, and faults as sentences that name registry, repository and secret,
never a password.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import oras.provider
import oras.utils
import requests

from include.contracts.image_reference import ImageReference
from include.workloads.contract import TryAgain, UserConfigError, UserDataError, WorkloadError
from include.workloads.deadline import Deadline
from include.workloads.network import AddressPolicy, AddressRefused
from include.workloads.oci.authorization import TokenRefused, authorize
from include.workloads.oci.checked_http import CheckedAdapter
from include.workloads.oci.credentials import Credentials, advice
from include.workloads.oci.media import ACCEPT, OCI_MANIFEST, sha256
from include.workloads.oci.transport import MAX_NOTE_BYTES, Answer, TooBig, TooSlow, Transport, chunks

log = logging.getLogger("registry")

T = TypeVar("T")

MAX_MANIFEST_BYTES = 4 << 20
# One deadline over each transfer, its tries included: of a manifest or another small question, and of a blob.
CALL_SECONDS, BLOB_SECONDS = 600.0, 3600.0
ATTEMPTS = 4
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
OctetStream = {"Content-Type": "application/octet-stream"}


class Passing(Exception):
    """A fault worth another try."""


@dataclass(frozen=True)
class Manifest:
    """A manifest as the registry holds it; `digest` is computed from `content`."""

    content: bytes
    digest: str

    @property
    def document(self) -> dict[str, Any]:
        """The parsed content; UserDataError when it is no JSON object."""
        try:
            document = json.loads(self.content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise UserDataError(f"The manifest {self.digest} is not a JSON object.")
        return document


class RegistryClient(oras.provider.Registry):  # type: ignore[misc]
    """Talks to the registry about one repository."""

    def __init__(
        self,
        reference: ImageReference,
        credentials: Credentials | None = None,
        insecure: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        addresses: AddressPolicy | None = None,
    ) -> None:
        super().__init__(hostname=reference.api_host, insecure=insecure)
        self.reference, self.credentials = reference, credentials
        self.insecure, self.sleep = insecure, sleep
        self.base = f"{self.prefix}://{reference.api_host}/v2/{reference.repository}"
        # Who lists a registry as insecure has vouched for it, wherever it is; not for where it redirects to.
        vouched = reference.registry if insecure else ""
        self.transport = Transport(CheckedAdapter(addresses or AddressPolicy(registry=True), vouched))
        self.session = self.transport.session
        self.call_seconds, self.blob_seconds = CALL_SECONDS, BLOB_SECONDS

    def manifest(self, version: str) -> Manifest | None:
        """The manifest of a tag or digest, its digest verified; None when there is none."""
        try:
            answer = self.call("GET", self._manifest_url(version), {"Accept": ACCEPT}, ok=(200, 404))
        except TooBig:
            raise UserDataError(
                f"{self.reference.name}: the manifest {version} is too big to be one."
            ) from None
        if answer.status == 404:
            return None
        digest = sha256(answer.content)
        reported = answer.headers.get("Docker-Content-Digest", digest)
        if digest != reported or (version.startswith("sha256:") and digest != version):
            raise TryAgain(f"{self.reference.name}: the manifest {version} arrived with the digest {digest}.")
        return Manifest(answer.content, digest)

    def reported_digest(self, version: str) -> str | None:
        """The digest that the registry gives a tag or digest, or None when it has no such manifest."""
        answer = self.call("HEAD", self._manifest_url(version), {"Accept": ACCEPT}, ok=(200, 404))
        if answer.status == 404:
            return None
        digest = answer.headers.get("Docker-Content-Digest")
        if digest:
            return str(digest)
        found = self.manifest(version)
        return found.digest if found else None

    def put_manifest(self, version: str, content: bytes, media_type: str = OCI_MANIFEST) -> None:
        """Store a manifest, or an index of some, under a tag or its digest."""
        headers = {"Content-Type": media_type}
        self.call("PUT", self._manifest_url(version), headers, data=lambda: content, ok=(200, 201, 202))

    def put_blob(self, digest: str, open_content: Callable[[], Any]) -> bool:
        """Upload a blob unless it is there; whether it was uploaded. `open_content` is called for each try."""
        if self.call("HEAD", self.blob_url(digest), ok=(200, 404)).status == 200:
            return False
        self.tries(lambda: self._upload(digest, open_content), self.blob_seconds)
        return True

    def get_blob_into(self, digest: str, target: Path, max_bytes: int) -> int:
        """Download a blob to a file, verified; its size. UserDataError when it is bigger than `max_bytes`."""
        return self.tries(lambda: self._download(digest, target, max_bytes), self.blob_seconds)

    def call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        data: Callable[[], Any] | None = None,
        ok: tuple[int, ...] = (200,),
    ) -> Answer:
        """One request with authentication and tries; a fault of the contract when the answer is not in `ok`.

        Raises TooBig when the answer has more bytes than a manifest may have.
        """
        return self.tries(lambda: self.answer(method, url, headers, data, ok), self.call_seconds)

    def _manifest_url(self, version: str) -> str:
        return f"{self.base}/manifests/{version}"

    def blob_url(self, digest: str) -> str:
        """Where a blob of the repository is."""
        return f"{self.base}/blobs/{digest}"

    def open_upload(self) -> str:
        """Begin an upload; the URL that its bytes go to. One try."""
        start = f"{self.base}/blobs/uploads/"
        # requests leaves the length out of an empty POST; some registries want it.
        session = self.answer("POST", start, {**OctetStream, "Content-Length": "0"}, None, (202,))
        return urljoin(start, session.headers.get("Location", ""))

    def _upload(self, digest: str, open_content: Callable[[], Any]) -> None:
        url = oras.utils.append_url_params(self.open_upload(), {"digest": digest})
        self.answer("PUT", url, OctetStream, open_content, (200, 201, 202))

    def open_blob(self, digest: str, start: int = 0) -> requests.Response:
        """The unread answer with a blob, or with what follows its first `start` bytes (206); the caller closes it.

        A registry may answer 200 with the whole blob all the same. One try; Passing or a fault of the contract.
        """
        url, headers = self.blob_url(digest), {"Range": f"bytes={start}-"} if start else {}
        response = self.transport.open("GET", url, headers)
        if response.status_code == 401 and self._log_in(response.headers):
            response.close()
            response = self.transport.open("GET", url, headers)
        if response.status_code in (200, 206 if start else 200):
            return response
        with response:
            body = b"".join(chunks(response, MAX_NOTE_BYTES))
            raise self._fault("GET", Answer(response.status_code, response.headers, body, response.url))

    def _download(self, digest: str, target: Path, max_bytes: int) -> int:
        hasher, size = hashlib.sha256(), 0
        with self.open_blob(digest) as response, target.open("wb") as file:
            for chunk in chunks(response, max_bytes + 1):
                size += len(chunk)
                if size > max_bytes:
                    raise UserDataError(f"{self.reference.name}: the blob {digest} is bigger than expected.")
                hasher.update(chunk)
                file.write(chunk)
        if f"sha256:{hasher.hexdigest()}" != digest:
            raise Passing(f"the blob {digest} arrived changed or cut short")
        return size

    def tries(self, once: Callable[[], T], seconds: float) -> T:
        """What `once` gives, tried a few times within a time; TryAgain when that does not help."""
        with Deadline(seconds) as deadline:
            for attempt in range(1, ATTEMPTS + 1):
                why = "it still sends"
                try:
                    found = once()
                    # What the deadline has ended looks complete, and so does what is judged by it.
                    if not deadline.expired:
                        return found
                except AddressRefused as error:
                    raise self._not_there(error) from None
                except requests.exceptions.SSLError as error:
                    if not deadline.expired:
                        raise self._tls_fault(error) from None
                except (Passing, requests.RequestException) as error:
                    why = str(error) if isinstance(error, Passing | TooSlow) else type(error).__name__
                except (WorkloadError, TooBig):
                    if not deadline.expired:
                        raise
                if deadline.expired or attempt == ATTEMPTS:
                    raise self._given_up(why, seconds if deadline.expired else None) from None
                log.info("%s: %s; trying again", self.reference.name, why)
                self.sleep(2.0 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _not_there(self, error: AddressRefused) -> UserConfigError:
        registry, repository = self.reference.registry, self.reference.repository
        return UserConfigError(f"The registry {registry} cannot be used for {repository}: {error}.")

    def _given_up(self, why: str, seconds: float | None) -> TryAgain:
        registry, repository = self.reference.registry, self.reference.repository
        if seconds is not None:
            return TryAgain(
                f"The registry {registry} took longer than {seconds:.0f} s ({repository}: {why})."
            )
        return TryAgain(
            f"The registry {registry} does not work for now ({repository}: {why}; tried {ATTEMPTS} times)."
        )

    def answer(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        data: Callable[[], Any] | None = None,
        ok: tuple[int, ...] = (200,),
    ) -> Answer:
        """One request with authentication, without further tries; Passing or a fault of the contract."""
        answer = self.transport.ask(method, url, headers, data, MAX_MANIFEST_BYTES)
        if answer.status == 401 and self._log_in(answer.headers):
            answer = self.transport.ask(method, url, headers, data, MAX_MANIFEST_BYTES)
        if answer.status in ok:
            return answer
        raise self._fault(method, answer)

    def _log_in(self, headers: Mapping[str, str]) -> bool:
        challenge = headers.get("WWW-Authenticate", "")
        try:
            found = authorize(challenge, self.credentials, self.transport, self.insecure)
        except TokenRefused as refused:
            raise self._refused(f"its token server answered {refused.status}") from None
        known = self.transport.authorization.get(self.reference.api_host)
        if found is None or (found == known and found.startswith("Basic")):
            return False
        self.transport.authorization[self.reference.api_host] = found
        return True

    def _fault(self, method: str, answer: Answer) -> Exception:
        # Somebody else's answer is not shown: a redirect may have led to what only the cluster can reach.
        own = urlsplit(answer.url).netloc == self.reference.api_host
        status, said = answer.status, _said(answer) if own else ""
        if status in (401, 403):
            return self._refused(f"it answered {status}{said}")
        if status in PASSING:
            return Passing(f"it answered {status}{said}")
        return UserConfigError(
            f"The registry {self.reference.registry} answered {status} to {method} for the repository "
            f"{self.reference.repository}{said}."
        )

    def _refused(self, why: str) -> UserConfigError:
        registry, repository = self.reference.registry, self.reference.repository
        return UserConfigError(
            f"The registry {registry} refuses access to the repository {repository} ({why}); "
            f"{advice(self.credentials, self.reference)}."
        )

    def _tls_fault(self, error: Exception) -> UserConfigError:
        text = str(error)
        if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text.lower():
            hint = "it seems to speak plain http; list it in INSECURE_REGISTRIES if that is meant"
        else:
            hint = "its certificate is not trusted (REQUESTS_CA_BUNDLE can name an authority of your own)"
        return UserConfigError(f"No secure connection to the registry {self.reference.registry}: {hint}.")


def _said(answer: Answer) -> str:
    """The registry's own message, as `: message`, or nothing."""
    try:
        error = json.loads(answer.content[:MAX_NOTE_BYTES])["errors"][0]
        text = str(error.get("message") or error.get("code") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return ""
    return f": {text[:200]}" if text else ""
