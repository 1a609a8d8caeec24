"""Takes secrets out of whatever is printed: signed URLs, passwords in URLs, Authorization values, known tokens.

One function for every printed value, in the control plane and in pods: logs, status, events, faults, results. It errs
on the side of hiding: a query string is cut off whatever it holds, since any of them may be a signature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
CUT = "?..."

_secrets: set[str] = set()

_END = r"\s\"'<>`"
# user:password@ of any scheme, and without one (but not the @ of a digest, nor the container of an Azure URL).
_CREDENTIALS = re.compile(rf"(?<=//)(?:(?<!abfs://)(?<!abfss://)|(?=[^/@?#{_END}]*:))[^/@?#{_END}]*@")
_BARE_CREDENTIALS = re.compile(
    rf"(?<![^{_END}=(,\[])[^/@?#:,{_END}]{{1,256}}:[^/@?#{_END}]+@(?!sha\d+:)(?=[\w\[])"
)
# Query and fragment of anything that has a scheme, whatever its letters; and of the rest where it reads as a query. The
# scheme is bounded: else a megabyte of letters takes the square of its length. Of a longer one the end matches.
_QUERY = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]{{0,40}}:/[^?#{_END}]*)[?#][^{_END}]*")
_BARE_QUERY = re.compile(rf"\?[^{_END}=?]+=[^{_END}]*")
_PARAMETER = re.compile(
    rf"(?i)\b((?:x-(?:amz|goog|ms)-)?(?:sig|signature|credential|security-token|access_token|token|password|"
    rf"accountkey|sharedaccesskey|sharedaccesssignature|awsaccesskeyid|api_key|client_secret))=[^&;{_END}]+"
)
_AUTHORIZATION = re.compile(r"(?i)\b(basic|bearer) +[a-z0-9._~+/=-]{20,}")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


def hide(secret: str | None) -> None:
    """Make `redact` replace this value from now on, wherever it turns up in this process."""
    if secret and len(secret) >= 4:
        _secrets.add(secret)


def redact(text: str) -> str:
    """The text without known secrets, credentials and queries of URLs, Authorization values and tokens."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _CREDENTIALS.sub("", text)
    if "@" in text:  # else each = of a long text would be a beginning to look from
        text = _BARE_CREDENTIALS.sub("", text)
    text = _QUERY.sub(lambda found: found[1] + CUT, text)
    text = _BARE_QUERY.sub(CUT, text)
    text = _PARAMETER.sub(rf"\1={HIDDEN}", text)
    text = _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text)
    return _HUB_TOKEN.sub(HIDDEN, text)


def is_signed(url: str) -> bool:
    """Whether a URL holds what opens it: a user, a password, or a query with a signature or a token."""
    return bool(_CREDENTIALS.search(url) or _PARAMETER.search(url))


def redact_url(url: str) -> str:
    """A value that is one URL or one reference: everything after the first ? or # goes, blanks and quotes included."""
    end = re.search(r"[?#]", url)
    if end is None:
        return redact(url)
    return redact(url[: end.start()]) + (CUT if url[end.end() :] else "")


def redacted(value: object) -> Any:
    """The same value with every text in it redacted, keys of mappings included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    return value
