"""A pod's workload identity, exchanged at a server that plays the clouds; the metadata services are nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from include.contracts.dataset_urls import StoredObject, parse_url
from include.contracts.redaction import redact
from include.workloads.contract import UserConfigError
from include.workloads.dataset.connection import PinnedClient
from include.workloads.dataset.credentials import Credentials
from include.workloads.dataset.identity import Identity
from include.workloads.dataset.store_client import StoreClient
from include.workloads.network import AddressPolicy
from tests.support.dataset_server import LOOPBACK, Web

Identified = Callable[..., StoreClient]


@pytest.fixture
def identified(web: Web, tmp_path: Path) -> Identified:
    """A client of a pod with this environment, whose clouds are all the test's server."""
    token = tmp_path / "token"
    token.write_text("CANARY-projected\n")

    def make(clock: Callable[[], float] = lambda: 0.0, **environment: str) -> StoreClient:
        plain = PinnedClient(AddressPolicy(LOOPBACK, lambda host, port: ["127.0.0.1"]))
        given = {name: str(token) if value == "TOKEN" else value for name, value in environment.items()}
        own = Identity(
            plain, local=plain, google=web.url(""), agents=(web.url("/"),), sts=web.url("/sts-{region}"),
            environment=given, clock=clock,
        )  # fmt: skip
        return StoreClient(plain, Credentials(identity=True), own)

    return make


def requested(opener: StoreClient, url: str) -> Any:
    found = parse_url(url)
    assert isinstance(found, StoredObject)
    assert opener.identity is not None
    return opener.identity.request(found)


def test_an_identity_of_azure_is_exchanged_for_a_token(web: Web, identified: Identified) -> None:
    web.serve("/team/oauth2/v2.0/token", b'{"access_token": "CANARY-azure"}')
    opener = identified(
        AZURE_AUTHORITY_HOST=web.url("/"), AZURE_TENANT_ID="team", AZURE_CLIENT_ID="me",
        AZURE_FEDERATED_TOKEN_FILE="TOKEN",
    )  # fmt: skip
    asked = requested(opener, "abfs://rows@team1.dfs.core.windows.net/a")
    assert asked.headers["Authorization"] == "Bearer CANARY-azure"
    assert asked.headers["x-ms-version"]
    assert dict(parse_qsl(web.posted[0]))["client_assertion"] == "CANARY-projected"
    requested(opener, "abfs://rows@team2.dfs.core.windows.net/b")
    assert len(web.posted) == 1
    assert "CANARY" not in redact("x CANARY-azure CANARY-projected")


def test_an_identity_of_google_asks_the_metadata_service(web: Web, identified: Identified) -> None:
    path = "/computeMetadata/v1/instance/service-accounts/default/token"
    web.serve(path, b'{"access_token": "CANARY-google", "expires_in": 3599}')
    now = [0.0]
    opener = identified(clock=lambda: now[0])
    assert requested(opener, "gs://rows/a").headers["Authorization"] == "Bearer CANARY-google"
    assert web.asked[0][1]["Metadata-Flavor"] == "Google"
    now[0] = 301.0
    requested(opener, "gs://rows/a")
    assert len(web.asked) == 2, "a token is asked for anew before it can run out"


KEYS = "<X><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>tok</SessionToken></X>"


def test_an_identity_of_aws_is_exchanged_for_keys(web: Web, identified: Identified) -> None:
    web.serve("/sts-eu-west-1", KEYS.encode())
    opener = identified(AWS_ROLE_ARN="arn:aws:iam::1:role/r", AWS_WEB_IDENTITY_TOKEN_FILE="TOKEN")
    url = requested(opener, "s3://rows/a?region=eu-west-1").url
    assert url.startswith("https://s3.eu-west-1.amazonaws.com/rows/a?")
    assert "X-Amz-Credential=ASIA" in url
    assert "X-Amz-Security-Token=tok" in url
    assert "CANARY-projected" in web.posted[0]


def test_an_agent_of_eks_gives_keys_and_no_other_address_may_be_one(web: Web, identified: Identified) -> None:
    web.serve("/v1/credentials", b'{"AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "tok"}')
    more = {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "TOKEN"}
    opener = identified(AWS_CONTAINER_CREDENTIALS_FULL_URI=web.url("/v1/credentials"), **more)
    assert "X-Amz-Credential=ASIA" in requested(opener, "s3://rows/a").url
    assert web.asked[0][1]["Authorization"] == "CANARY-projected"
    other = identified(AWS_CONTAINER_CREDENTIALS_FULL_URI="http://169.254.169.254/latest", **more)
    with pytest.raises(UserConfigError, match="not the address of EKS's agent"):
        requested(other, "s3://rows/a")


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("s3://rows/a", {}, "AWS_ROLE_ARN is not set"),
        ("abfs://rows@team1.dfs.core.windows.net/a", {}, "AZURE_TENANT_ID is not set"),
        ("s3://rows/a?endpoint=https://evil.example.com", {}, "goes to its own cloud only"),
        ("s3://rows/a", {"AWS_ROLE_ARN": "r", "AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such"}, "cannot be read"),
        ("gs://rows/a", {}, "answered 404"),
    ],
)
def test_a_pod_without_an_identity_says_what_is_missing(
    url: str, environment: dict[str, str], said: str, identified: Identified
) -> None:
    with pytest.raises(UserConfigError, match=said):
        requested(identified(**environment), url)


def test_the_metadata_service_is_reached_by_an_identity_alone() -> None:
    plain = StoreClient.of(PinnedClient(AddressPolicy(LOOPBACK)), Credentials())
    assert plain.identity is None
    own = StoreClient.of(PinnedClient(AddressPolicy(LOOPBACK)), Credentials(identity=True)).identity
    assert own is not None
    assert own.local.policy.addresses("169.254.169.254", 80) == ["169.254.169.254"]
    for client in (own.client, plain.client):
        with pytest.raises(UserConfigError, match="not a public address"):
            client.policy.addresses("169.254.169.254", 80)
