"""Which keys of the Secret in `kaito.sh/dataset-secret` open a dataset, by the scheme of its URLs.

The names are those that the stores' own tools take from the environment. Nothing here may hold a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from include.contracts.dataset_urls import ABFS, GS, HF, S3, StoredObject, parse_url, scheme_of
from include.contracts.network_policy import Refused

#: The value of an Authorization header, for http and https.
AUTHORIZATION = "AUTHORIZATION"
HUB_TOKEN = "HF_TOKEN"  # noqa: S105 - a key's name
AWS_ID, AWS_SECRET, AWS_SESSION = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
GOOGLE_KEY = "GOOGLE_SERVICE_ACCOUNT_KEY"
AZURE_KEY, AZURE_SAS = "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"
#: How the dataset's pod has them in its environment: else a library might take them for itself.
PREFIX = "DATASET_"


@dataclass(frozen=True, slots=True)
class SecretKeys:
    """What a Secret must have: all of `required`, and one of `one_of` where there are any; `optional` beside them."""

    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.required, *self.one_of, *self.optional)


_BY_SCHEME = {
    HF: SecretKeys(required=(HUB_TOKEN,)),
    S3: SecretKeys(required=(AWS_ID, AWS_SECRET), optional=(AWS_SESSION,)),
    GS: SecretKeys(required=(GOOGLE_KEY,)),
    ABFS: SecretKeys(one_of=(AZURE_KEY, AZURE_SAS)),
}
_PLAIN = SecretKeys(required=(AUTHORIZATION,))


def keys_of(scheme: str) -> SecretKeys:
    """The keys for URLs of a scheme, as `dataset_urls.scheme_of` gives it."""
    return _BY_SCHEME.get(scheme, _PLAIN)


def misuse(urls: Sequence[str]) -> tuple[str, str] | None:
    """(what is wrong, what would be right) when one Secret must not be used for all of these URLs, else None.

    A credential is for one host, and never sent in the clear. The keys of S3 and of Google sign what is asked and are
    not sent. URLs that cannot be read have faults of their own and are left out.
    """
    readers: dict[str, str] = {}
    for url in urls:
        try:
            found = parse_url(url)
            parts = urlsplit(found.plain if found else url)
        except (Refused, ValueError):
            continue
        host = parts.netloc.rpartition("@")[2].lower()
        is_sent = not isinstance(found, StoredObject) or found.scheme == ABFS
        if is_sent and parts.scheme != "https":
            return "would be sent in the clear", "use https URLs"
        # The regions of S3 have a host each.
        signs_for_aws = isinstance(found, StoredObject) and found.scheme == S3 and not found.own_endpoint
        readers["s3" if signs_for_aws else f"{scheme_of(url)}://{host}"] = host
    if len(readers) > 1:
        shown = ", ".join(sorted(readers.values())[:3])
        return (
            f"would be sent to {len(readers)} hosts ({shown})",
            "take all files from one host, or use signed links",
        )
    return None
