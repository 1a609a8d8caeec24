"""Links that are none to data: to a hub's page about a file, copied out of a browser, or with a pattern for files."""

from __future__ import annotations

from urllib.parse import urlsplit

from include.contracts.dataset_urls import WILDCARD
from include.contracts.network_policy import SCHEMES

# Host -> what the page has in its path, and what the file has there.
_PAGES = {
    "huggingface.co": ("/blob/", "/resolve/"),
    "hf.co": ("/blob/", "/resolve/"),
    "github.com": ("/blob/", "/raw/"),
}


_HUBS = ("huggingface.co", "hf.co")


def page_fault(url: str) -> tuple[str, str] | None:
    """(what is wrong, what would be right) when `url` is http(s) and leads to no file of data, else None."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return None
    if parts.scheme.lower() in SCHEMES and WILDCARD in parts.path:
        hint = (
            "a web server tells nobody its files: name each, or read them from s3://, gs://, abfs:// or hf://"
        )
        return f"has {WILDCARD}, which {parts.scheme.lower()}:// does not have", hint
    page, file = _PAGES.get(host, ("", ""))
    if page and page in parts.path:
        behind = f"{parts.scheme.lower()}://{host}{parts.path.replace(page, file, 1)}"
        return "is a page that shows a file, not the file", f"write {behind}"
    is_file = "/resolve/" in parts.path or "/raw/" in parts.path
    if host in _HUBS and parts.path.startswith("/datasets/") and not is_file:
        return "is a page about a dataset, not a file of it", "give a file's link, which has /resolve/ in it"
    return None
