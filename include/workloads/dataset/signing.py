"""Turns an object of a store, or a listing, into a request that the store lets pass: a signed URL, or a token.

obstore only computes the signature, from keys that are here; it opens no connection. The request itself goes the way of
every other one, by a `PinnedClient`, so that an object store is no way around the network policy.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from include.contracts.dataset_keys import AWS_ID, AWS_SECRET, AWS_SESSION, AZURE_KEY, AZURE_SAS, GOOGLE_KEY
from include.contracts.dataset_urls import ABFS, GS, S3, StoredObject
from include.contracts.redaction import hide, redact
from include.workloads.contract import UserConfigError
from include.workloads.dataset.credentials import Credentials
from include.workloads.dataset.google_key import ServiceAccount

if TYPE_CHECKING:
    from obstore.store import S3Config

#: A signature begins one request only; clocks may differ by as much.
VALID = timedelta(minutes=15)
#: The version of Azure's API that takes tokens and long ranges.
_AZURE_API = "2023-11-03"


@dataclass(frozen=True, slots=True)
class Request:
    """Where an object is fetched, and with which headers; neither may be logged."""

    url: str
    headers: Mapping[str, str]


#: What a listing asks the bucket (or container) for; None: the object itself.
Query: TypeAlias = Mapping[str, str] | None


def signed(found: StoredObject, credentials: Credentials, listing: Query = None) -> Request:
    """The request with the Secret's keys, or the plain one where it has none. Raises UserConfigError."""
    plain = _address(found, listing)
    if found.scheme == ABFS:
        token = credentials.get(AZURE_SAS).lstrip("?")
        if key := credentials.get(AZURE_KEY):
            token = _sas(found, key, datetime.now(UTC), listing is not None)
        return Request(f"{plain}{'?' if listing is None else '&'}{token}" if token else plain, {})
    if listing is not None:
        if found.scheme == S3 and credentials.get(AWS_ID):
            return Request(_listing_of_aws(found, credentials, listing, datetime.now(UTC)), {})
        if found.scheme == GS and (account := credentials.get(GOOGLE_KEY)):
            return Request(_listing_of_google(found, account, listing, datetime.now(UTC)), {})
        return Request(plain, {})
    store = _STORES[found.scheme](found, credentials)
    return Request(_sign(store, found) if store else found.plain, {})


def with_token(found: StoredObject, token: str, listing: Query = None) -> Request:
    """The request with the token of an identity."""
    version = {"x-ms-version": _AZURE_API} if found.scheme == ABFS else {}
    return Request(_address(found, listing), {"Authorization": f"Bearer {token}", **version})


def _address(found: StoredObject, listing: Query) -> str:
    return found.plain if listing is None else f"{found.base}/{found.bucket}?{_canonical(listing)}"


def _canonical(query: Mapping[str, str]) -> str:
    return "&".join(
        f"{quote(key, safe='~')}={quote(value, safe='~')}" for key, value in sorted(query.items())
    )


def _listing_of_aws(
    found: StoredObject, credentials: Credentials, listing: Mapping[str, str], now: datetime
) -> str:
    """The URL of a listing with AWS Signature Version 4 in its query; obstore signs objects only.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    """
    hide(secret := credentials.get(AWS_SECRET))
    scope = (f"{now:%Y%m%d}", found.region, "s3", "aws4_request")

    def sign(text: str) -> str:
        key = f"AWS4{secret}".encode()
        for part in scope:
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()

    query = dict(listing)
    if session := credentials.get(AWS_SESSION):
        query["X-Amz-Security-Token"] = session
    maker = _Maker("X-Amz-", "AWS4-HMAC-SHA256", credentials.get(AWS_ID), scope, sign)
    return _signed_listing(f"{found.base}/{found.bucket}", query, maker, now)


def _listing_of_google(found: StoredObject, key: str, listing: Mapping[str, str], now: datetime) -> str:
    """The URL of a listing with a V4 signature of a service account in its query: its key itself is not sent.

    https://docs.cloud.google.com/storage/docs/authentication/signatures
    """
    account = ServiceAccount.of(key)
    scope = (f"{now:%Y%m%d}", "auto", "storage", "goog4_request")
    maker = _Maker("X-Goog-", "GOOG4-RSA-SHA256", account.email, scope, account.sign)
    return _signed_listing(f"{found.base}/{found.bucket}", listing, maker, now)


@dataclass(frozen=True)
class _Maker:
    """What Amazon's and Google's signatures differ in: names, whose key it is, what it is for, and how it signs."""

    prefix: str
    algorithm: str
    who: str
    scope: tuple[str, ...]
    sign: Callable[[str], str]


def _signed_listing(url: str, listing: Mapping[str, str], maker: _Maker, now: datetime) -> str:
    place, scope = urlsplit(url), "/".join(maker.scope)
    date = f"{now:%Y%m%dT%H%M%SZ}"
    said = {
        "Algorithm": maker.algorithm,
        "Credential": f"{maker.who}/{scope}",
        "Date": date,
        "Expires": str(int(VALID.total_seconds())),
        "SignedHeaders": "host",
    }
    asked = _canonical({**listing, **{f"{maker.prefix}{name}": value for name, value in said.items()}})
    request = f"GET\n{quote(place.path, safe='/~')}\n{asked}\nhost:{place.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(request.encode()).hexdigest()
    signature = maker.sign("\n".join((maker.algorithm, date, scope, digest)))
    return f"{place.geturl()}?{asked}&{maker.prefix}Signature={signature}"


def _sign(store: Callable[[], Any], found: StoredObject) -> str:
    import obstore
    from obstore.exceptions import BaseError

    try:
        url = str(obstore.sign(store(), "GET", found.key, VALID))
    except (BaseError, ValueError) as error:  # ValueError: of what the keys are made of
        raise UserConfigError(
            f"{found.plain} cannot be signed with the Secret of kaito.sh/dataset-secret: "
            f"{redact(str(error)).splitlines()[0][:200]}"
        ) from None
    if url.partition("?")[0] != found.plain:
        # Else what is connected to would be another place than the one that was judged.
        raise UserConfigError(
            f"{found.plain} cannot be signed: its key has characters that are not taken here."
        )
    return url


def _sas(found: StoredObject, key: str, now: datetime, listing: bool = False) -> str:
    """The query of a service SAS that reads one blob, or lists its container.

    https://learn.microsoft.com/rest/api/storageservices/create-service-sas, for versions since 2020-12-06. obstore 0.12
    signs the encoded name of a blob, where that page asks for the decoded one.
    """
    signed_at, end = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (now - VALID, now + VALID))
    permission, kind = ("l", "c") if listing else ("r", "b")
    resource = f"/blob/{found.account}/{found.bucket}" + ("" if listing else f"/{found.key}")
    lines = [permission, signed_at, end, resource, "", "", "", _AZURE_API, kind, *[""] * 7]
    try:
        secret = base64.b64decode(key, validate=True)
    except binascii.Error:
        raise UserConfigError(
            f"{found.plain} cannot be signed with the Secret of kaito.sh/dataset-secret: its {AZURE_KEY} is not base64."
        ) from None
    signature = base64.b64encode(hmac.digest(secret, "\n".join(lines).encode(), "sha256")).decode()
    return urlencode(
        {"sv": _AZURE_API, "sr": kind, "sp": permission, "st": signed_at, "se": end, "sig": signature}
    )


def _s3(found: StoredObject, credentials: Credentials) -> Callable[[], Any] | None:
    key, secret = credentials.get(AWS_ID), credentials.get(AWS_SECRET)
    if not key:
        return None

    def store() -> Any:
        from obstore.store import S3Store

        config: S3Config = {
            "access_key_id": key,
            "secret_access_key": secret,
            "region": found.region,
            "endpoint": found.base,
            "virtual_hosted_style_request": False,
        }
        if session := credentials.get(AWS_SESSION):
            config["session_token"] = session
        return S3Store(found.bucket, config=config, client_options={"allow_http": True})

    return store


def _gs(found: StoredObject, credentials: Credentials) -> Callable[[], Any] | None:
    key = credentials.get(GOOGLE_KEY)
    if not key:
        return None

    def store() -> Any:
        from obstore.store import GCSStore

        return GCSStore(found.bucket, service_account_key=key)

    return store


_STORES: Mapping[str, Callable[[StoredObject, Credentials], Callable[[], Any] | None]] = {
    S3: _s3,
    GS: _gs,
}
