"""The pod's workload identity, exchanged for what opens an object of its cloud's store.

Only a pod whose Workspace asks for it does this (kaito.sh/dataset-identity). The clouds' webhooks say in its
environment where the exchange is; those addresses keep to the network policy, and the metadata services are the
constants below: no name or URL of a Workspace ever leads to them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from include.contracts.dataset_keys import AWS_ID, AWS_SECRET, AWS_SESSION
from include.contracts.dataset_urls import ABFS, GS, S3, StoredObject
from include.contracts.network_policy import NetworkPolicy
from include.contracts.redaction import hide
from include.workloads.contract import UserConfigError
from include.workloads.dataset.connection import PinnedClient
from include.workloads.dataset.credentials import Credentials
from include.workloads.dataset.signing import Query, Request, signed, with_token
from include.workloads.network import AddressPolicy

GOOGLE_METADATA = "http://169.254.169.254"
EKS_AGENTS = ("http://169.254.170.23/", "http://[fd00:ec2::23]/")
_METADATA_NETWORKS = ("169.254.169.254/32", "169.254.170.23/32", "fd00:ec2::23/128")
_GOOGLE_TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105 - a path
_STORAGE_SCOPE = "https://storage.azure.com/.default"
#: What is exchanged is asked for anew before any cloud lets it run out (an hour, of EKS fifteen minutes at least).
KEPT_SECONDS = 300.0
MAX_ANSWER = 1 << 16


def _metadata_client() -> PinnedClient:
    return PinnedClient(
        AddressPolicy(NetworkPolicy.of(_METADATA_NETWORKS)), read_seconds=20, header_seconds=20
    )


@dataclass
class Identity:
    """What this pod is in its cloud. `client` keeps to the network policy, `local` reaches metadata services only."""

    client: PinnedClient
    local: PinnedClient = field(default_factory=_metadata_client)
    google: str = GOOGLE_METADATA
    agents: tuple[str, ...] = EKS_AGENTS
    sts: str = "https://sts.{region}.amazonaws.com/"
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[float, Credentials]] = {}

    def request(self, found: StoredObject, listing: Query = None) -> Request:
        """The request for an object, or a listing.

        Raises PassingFault, or UserConfigError where the pod has no identity.
        """
        if found.own_endpoint:
            raise UserConfigError(
                f"{found.plain} is not of a cloud, and an identity goes to its own cloud only."
            )
        if found.scheme == S3:
            credentials = self._cached(found.scheme, found.region, lambda: self._aws(found.region))
            return signed(found, credentials, listing)
        ask = self._google_token if found.scheme == GS else self._azure_token
        token = self._cached(found.scheme, "", lambda: Credentials({"token": ask()})).get("token")
        return with_token(found, token, listing)

    def _cached(self, scheme: str, region: str, ask: Callable[[], Credentials]) -> Credentials:
        known = self._kept.get((scheme, region))
        if known is not None and self.clock() - known[0] <= KEPT_SECONDS:
            return known[1]
        found = ask()
        for value in found.values.values():
            hide(value)
        self._kept[scheme, region] = (self.clock(), found)
        return found

    def _google_token(self) -> str:
        answer = self._ask(self.local, self.google + _GOOGLE_TOKEN, {"Metadata-Flavor": "Google"})
        return _text(
            _object(answer, "Google's metadata service"), "access_token", "Google's metadata service"
        )

    def _azure_token(self) -> str:
        tenant, account = self._variable(ABFS, "AZURE_TENANT_ID"), self._variable(ABFS, "AZURE_CLIENT_ID")
        asked = {
            "grant_type": "client_credentials",
            "client_id": account,
            "scope": _STORAGE_SCOPE,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": self._file(ABFS, "AZURE_FEDERATED_TOKEN_FILE"),
        }
        authority = self.environment.get("AZURE_AUTHORITY_HOST") or "https://login.microsoftonline.com/"
        url = f"{authority.rstrip('/')}/{tenant}/oauth2/v2.0/token"
        return _text(
            _object(self._post(url, asked), "Microsoft Entra ID"), "access_token", "Microsoft Entra ID"
        )

    def _aws(self, region: str) -> Credentials:
        if agent := self.environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
            return self._agent(agent)
        asked = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": self._variable(S3, "AWS_ROLE_ARN"),
            "RoleSessionName": "kaito-airflow-dataset",
            "WebIdentityToken": self._file(S3, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        }
        answer = self._post(self.sts.format(region=region), asked).decode("utf-8", "replace")
        names = (("AccessKeyId", AWS_ID), ("SecretAccessKey", AWS_SECRET), ("SessionToken", AWS_SESSION))
        return Credentials({key: _element(answer, name) for name, key in names})

    def _agent(self, url: str) -> Credentials:
        """What EKS's agent on the node gives a pod."""
        if not url.startswith(self.agents):
            raise UserConfigError("AWS_CONTAINER_CREDENTIALS_FULL_URI is not the address of EKS's agent.")
        token = self._file(S3, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        found = _object(self._ask(self.local, url, {"Authorization": token}), "EKS's agent")
        names = (("AccessKeyId", AWS_ID), ("SecretAccessKey", AWS_SECRET), ("Token", AWS_SESSION))
        return Credentials({key: _text(found, name, "EKS's agent") for name, key in names})

    def _post(self, url: str, asked: Mapping[str, str]) -> bytes:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._ask(self.client, url, form, urlencode(asked).encode())

    def _ask(
        self, client: PinnedClient, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> bytes:
        denied = "it does not know the identity of this pod's service account (kaito.sh/dataset-identity)"
        answer = client.open(url, headers, body=body, denied=denied, redirects=0)
        try:
            return answer.read(MAX_ANSWER)
        finally:
            answer.close()

    def _variable(self, scheme: str, name: str) -> str:
        value = self.environment.get(name, "")
        if not value:
            raise UserConfigError(
                f"This pod has no workload identity for {scheme}:// ({name} is not set): the service account of "
                "kaito.sh/dataset-identity has no annotation of its cloud, or the cloud's webhook is not installed."
            )
        return value

    def _file(self, scheme: str, name: str) -> str:
        path = Path(self._variable(scheme, name))
        try:
            value = path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise UserConfigError(f"The token of this pod's identity ({name}) cannot be read.") from None
        hide(value)
        return value


def _object(answer: bytes, who: str) -> Mapping[str, object]:
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserConfigError(f"{who} gave no JSON object for this pod's identity.")
    return found


def _text(found: Mapping[str, object], name: str, who: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value.isprintable():
        raise UserConfigError(f"{who} gave no {name} for this pod's identity.")
    return value


def _element(answer: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<>\s]+)</{name}>", answer)
    if found is None:
        raise UserConfigError(f"AWS STS gave no {name} for this pod's identity.")
    return found[1]
