"""Who we are to Azure and how it refuses us: connection, credentials, and the SDK's exceptions as sentences.

Reads Airflow connections of type `azure` as the Azure provider does, for Azure's current SDKs. Nothing here may log a
token or a secret.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.microsoft.azure.hooks.base_azure import _AZURE_CLOUD_ENVIRONMENTS
from airflow.providers.microsoft.azure.utils import (
    get_async_default_azure_credential,
    get_sync_default_azure_credential,
)

from kaito.hooks.api import CloudError

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

ROLE = "Azure Kubernetes Service Contributor Role"
TOKEN_SECONDS = 300
RETRIES, LONGEST_RETRY = 5, 20  # of the SDK, on 429, 5xx and broken connections; the pause in seconds
_BUSY_CODES = re.compile(
    r"OperationNotAllowed|AnotherOperationInProgress|OperationPreempted|Conflict", re.IGNORECASE
)
_BUSY = re.compile(r"in[- ]progress|is being|pending", re.IGNORECASE)
_POOL = re.compile(r"agent ?pool", re.IGNORECASE)
#: These sentences name the kind that was asked for, too: "... of type 'managedClusters/agentPools', because ...".
_PARENT_CODES = frozenset({"parentresourcenotfound", "resourcegroupnotfound", "subscriptionnotfound"})
_ACTION = re.compile(r"perform action '(?P<action>[^']+)' over scope '(?P<scope>[^']+)'")


class AksError(CloudError):
    """Azure refused, or did not answer (`status` 0). ``str()`` is a sentence with Azure's code and words."""

    @property
    def busy(self) -> bool:
        """Whether another operation on the cluster is in the way; a later try may succeed."""
        return (
            self.status == 409 and bool(_BUSY_CODES.fullmatch(self.code)) and bool(_BUSY.search(self.message))
        )

    @property
    def no_such_pool(self) -> bool:
        """Whether the agent pool does not exist; a cluster or resource group that does not is another matter."""
        if self.code.lower() in _PARENT_CODES:
            return False
        return self.status == 404 and bool(_POOL.search(f"{self.code} {self.message}"))

    @property
    def stale(self) -> bool:
        """Whether the pool is not as the request's condition says: changed, made or deleted by somebody else."""
        return self.status == 412


class ConnectionIncomplete(ValueError):
    """The Airflow connection lacks something; the message names each extra."""


@dataclass(frozen=True)
class AksAccount:
    """Where the cluster is, and how to reach Azure. `authority` is the sign-in host, `ca_file` a sandbox's CA."""

    subscription: str
    group: str
    cluster: str
    base_url: str
    authority: str
    scopes: tuple[str, ...]
    tenant: str | None = None
    client_id: str | None = None
    secret: str | None = None
    managed_identity: str | None = None
    workload_tenant: str | None = None
    token_file: str | None = None
    ca_file: str | None = None

    def __repr__(self) -> str:
        return f"AksAccount({self.subscription}/{self.group}/{self.cluster})"

    @property
    def place(self) -> tuple[str, str]:
        return self.group, self.cluster

    @classmethod
    def from_connection(cls, conn_id: str, conn: Any, extra: Mapping[str, Any]) -> AksAccount:
        """Read a connection.

        :raises ConnectionIncomplete: what is missing or cannot be used, all at once.
        """
        faults = [
            f"extra {key} is missing ({what})"
            for key, what in (
                ("subscriptionId", "the Azure subscription's id"),
                ("resourceGroup", "the AKS cluster's resource group"),
                ("clusterName", "the AKS cluster's name"),
            )
            if not extra.get(key)
        ]
        if extra.get("key_path") or extra.get("key_json"):
            faults.append(
                "extras key_path and key_json are for Azure's old SDKs: use login, password and extra tenantId instead"
            )
        name = extra.get("cloud_environment") or "AzurePublicCloud"
        cloud = _AZURE_CLOUD_ENVIRONMENTS.get(name)
        if cloud is None:
            faults.append(
                f"extra cloud_environment is {name!r}: use one of {', '.join(_AZURE_CLOUD_ENVIRONMENTS)}"
            )
        if faults:
            raise ConnectionIncomplete(f"Airflow connection {conn_id}: {'; '.join(faults)}.")
        assert cloud is not None  # noqa: S101 - for mypy: no cloud is a fault above
        return cls(
            subscription=str(extra["subscriptionId"]),
            group=str(extra["resourceGroup"]),
            cluster=str(extra["clusterName"]),
            base_url=str(extra.get("base_url") or cloud["base_url"]),
            authority=str(cloud["authority"]),
            scopes=tuple(cloud["credential_scopes"]),
            tenant=extra.get("tenantId"),
            client_id=conn.login,
            secret=conn.password,
            managed_identity=extra.get("managed_identity_client_id"),
            workload_tenant=extra.get("workload_identity_tenant_id"),
            token_file=extra.get("token_file"),
            ca_file=extra.get("ca_file"),
        )

    def options(self) -> dict[str, Any]:
        """What both clients are built with."""
        # At INFO it tells all headers of all requests, which would drown a task's own words.
        logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)
        result: dict[str, Any] = {
            "base_url": self.base_url,
            "credential_scopes": list(self.scopes),
            "retry_total": RETRIES,
            "retry_backoff_max": LONGEST_RETRY,
        }
        return {**result, "connection_verify": self.ca_file} if self.ca_file else result


class FileToken:
    """A bearer token that somebody else keeps fresh in a file, read at each use (a sandbox's, for one)."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        from azure.core.credentials import AccessToken

        return AccessToken(self._path.read_text().strip(), int(time.time()) + TOKEN_SECONDS)


class AsyncFileToken(FileToken):
    async def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        return super().get_token(*scopes)

    async def close(self) -> None:
        """There is nothing to close."""

    async def __aenter__(self) -> AsyncFileToken:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def credential(account: AksAccount) -> TokenCredential:
    """A service principal if the connection names one, else the environment's: workload or managed identity, az."""
    if account.token_file:
        return FileToken(account.token_file)
    from azure.identity import ClientSecretCredential

    return _signed_in(account, ClientSecretCredential, get_sync_default_azure_credential)


def async_credential(account: AksAccount) -> Any:
    """Return the same identity for the asyncio client."""
    if account.token_file:
        return AsyncFileToken(account.token_file)
    from azure.identity.aio import ClientSecretCredential

    return _signed_in(account, ClientSecretCredential, get_async_default_azure_credential)


def _signed_in(account: AksAccount, principal: Callable[..., Any], environment: Callable[..., Any]) -> Any:
    """The credential by the means of either kind of client: a principal's secret, or what the environment has."""
    if account.client_id and account.secret and account.tenant:
        return principal(account.tenant, account.client_id, account.secret, authority=account.authority)
    return environment(
        managed_identity_client_id=account.managed_identity,
        workload_identity_tenant_id=account.workload_tenant,
    )


@contextmanager
def azure_errors(conn_id: str) -> Iterator[None]:
    """Turn the SDK's exceptions into AksError, with the right to grant where one is missing."""
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        status, found = int(error.status_code or 0), error.error
        code, message = (found.code or "", found.message or "") if found else ("", "")
        if not status and isinstance(error, ClientAuthenticationError):
            code, message = "AuthenticationFailed", str(error.message)
        raise AksError(
            status, code or str(error.reason or ""), _advised(conn_id, message or str(error.message))
        ) from None
    except AzureError as error:
        raise AksError(0, "ConnectionFailed", f"Azure did not answer: {error.message}") from None


def _advised(conn_id: str, message: str) -> str:
    denied = _ACTION.search(message)
    if denied is None:
        return message
    return (
        f"{message} Grant the identity of Airflow connection {conn_id} the role '{ROLE}' (or the action "
        f"{denied['action']}) on the cluster."
    )
