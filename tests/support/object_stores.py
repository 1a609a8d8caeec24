"""S3, Google's and Azure's stores and a hub, as one web server that checks what each checks: signatures and tokens.

The signatures are computed here anew from the stores' own documents, without the library that made them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.support.dataset_server import Answer, send

AWS_ID, AWS_SECRET = "AKIDEXAMPLE", "CANARY/secret+key"
AZURE_KEY = base64.b64encode(b"CANARY-account-key").decode()


def ranged(handler: BaseHTTPRequestHandler, body: bytes, etag: str = '"v1"', **headers: str) -> None:
    """Send a body, or the part of it that is asked for."""
    asked = handler.headers.get("Range", "")
    if not asked:
        send(handler, body, ETag=etag, Accept_Ranges="bytes", **headers)
        return
    first, _, last = asked.removeprefix("bytes=").partition("-")
    part = body[int(first) : int(last) + 1 if last else None]
    end = int(first) + len(part) - 1
    send(handler, part, 206, ETag=etag, Content_Range=f"bytes {first}-{end}/{len(body)}", **headers)


def s3_object(body: bytes, region: str = "us-east-1") -> Answer:
    """An object that only a request with a signature of these keys is given (AWS Signature Version 4, in the query)."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if _is_signed_for_s3(handler, region):
            ranged(handler, body, x_amz_version_id="3")
        else:
            send(handler, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", 403)

    return answer


def s3_list(objects: Mapping[str, bytes], region: str = "us-east-1", page: int = 2) -> Answer:
    """A bucket that lists its objects (ListObjectsV2), `page` at a time, to requests with a signature of these keys."""

    listed = _list_of_s3(objects, page)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if _is_signed_for_s3(handler, region):
            listed(handler)
        else:
            send(handler, b"<Error><Code>AccessDenied</Code></Error>", 403)

    return answer


def _list_of_s3(objects: Mapping[str, bytes], page: int) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        query = dict(parse_qsl(urlsplit(handler.path).query, keep_blank_values=True))
        keys = sorted(key for key in objects if key.startswith(query["prefix"]))
        begin = int(query.get("continuation-token", "0"))
        text = "".join(
            f"<Contents><Key>{escape(key)}</Key><ETag>&quot;{hashlib.md5(objects[key]).hexdigest()}&quot;</ETag>"
            f"<Size>{len(objects[key])}</Size></Contents>"
            for key in keys[begin : begin + page]
        )
        more = begin + page < len(keys)
        token = f"<NextContinuationToken>{begin + page}</NextContinuationToken>" if more else ""
        named = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        send(
            handler,
            f"<?xml version='1.0'?><ListBucketResult {named}>{token}{text}</ListBucketResult>".encode(),
        )

    return answer


def google_list(objects: Mapping[str, bytes], email: str, key: RSAPublicKey, page: int = 2) -> Answer:
    """A bucket of Google that lists its objects by its XML API to requests with a V4 signature of this account."""
    listed = _list_of_s3(objects, page)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if is_signed_for_google(handler.path, handler.headers["Host"], email, key):
            listed(handler)
        else:
            send(handler, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", 403)

    return answer


def is_signed_for_google(path: str, host: str, email: str, key: RSAPublicKey) -> bool:
    """By https://docs.cloud.google.com/storage/docs/authentication/signatures, for a GET without a body."""
    asked, _, signature = path.partition("?")[2].rpartition("&X-Goog-Signature=")
    query = dict(parse_qsl(asked, keep_blank_values=True))
    date = query.get("X-Goog-Date", "")
    scope = f"{date[:8]}/auto/storage/goog4_request"
    if query.get("X-Goog-Credential") != f"{email}/{scope}" or asked.split("&") != sorted(asked.split("&")):
        return False
    canonical = f"GET\n{urlsplit(path).path}\n{asked}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"GOOG4-RSA-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    try:
        key.verify(bytes.fromhex(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True


def azure_list(objects: Mapping[str, bytes], account: str) -> Answer:
    """A container that lists its blobs to requests with a service SAS of the account's key for that."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = dict(parse_qsl(parts.query))
        if not is_signed_for_azure(parts.path, query, account, listing=True):
            send(handler, b"<Error><Code>AuthorizationPermissionMismatch</Code></Error>", 403)
            return
        names = sorted(name for name in objects if name.startswith(query["prefix"]))
        begin = int(query.get("marker", "0"))
        text = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Etag>0x{len(objects[name])}</Etag>"
            f"<Content-Length>{len(objects[name])}</Content-Length></Properties></Blob>"
            for name in names[begin : begin + 1]
        )
        after = str(begin + 1) if begin + 1 < len(names) else ""
        body = (
            f"<EnumerationResults><Blobs>{text}</Blobs><NextMarker>{after}</NextMarker></EnumerationResults>"
        )
        send(handler, body.encode())

    return answer


def _is_signed_for_s3(handler: BaseHTTPRequestHandler, region: str) -> bool:
    parts = urlsplit(handler.path)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    signature = query.pop("X-Amz-Signature", "")
    date = query.get("X-Amz-Date", "")
    scope = f"{date[:8]}/{region}/s3/aws4_request"
    if query.get("X-Amz-Credential") != f"{AWS_ID}/{scope}":
        return False
    asked = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items())
    )
    path = quote(unquote(parts.path), safe="/-_.~")
    canonical = f"GET\n{path}\n{asked}\nhost:{handler.headers['Host']}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{AWS_SECRET}".encode()
    for part in (date[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), signature)


def blob(body: bytes, account: str, sas: str = "") -> Answer:
    """A blob that only a service SAS of the account's key opens, or the SAS that is given here."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        good = (
            parts.query == sas
            if sas
            else is_signed_for_azure(parts.path, dict(parse_qsl(parts.query)), account)
        )
        if good:
            ranged(handler, body)
        else:
            send(handler, b"<Error><Code>AuthenticationFailed</Code></Error>", 403)

    return answer


def is_signed_for_azure(path: str, query: dict[str, str], account: str, listing: bool = False) -> bool:
    """By the string to sign of a service SAS since version 2020-12-06, to read one blob or to list its container."""
    if (query.get("sr"), query.get("sp")) != (("c", "l") if listing else ("b", "r")) or query.get(
        "se", ""
    ) < f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}":
        return False
    resource = f"/blob/{account}{unquote(path).removeprefix(f'/{account}')}"
    lines = [
        query["sp"],
        query.get("st", ""),
        query["se"],
        resource,
        "",
        "",
        "",
        query["sv"],
        query["sr"],
        "",
        "",
        "",
        "",
        "",
        "",
        "",
    ]
    wanted = hmac.digest(base64.b64decode(AZURE_KEY), "\n".join(lines).encode(), "sha256")
    return hmac.compare_digest(base64.b64encode(wanted).decode(), query.get("sig", ""))
