"""Links to a hub's page about a file or a dataset, which people copy out of their browser."""

from __future__ import annotations

from urllib.parse import urlsplit

# Host -> what the page has in its path, and what the file has there.
_PAGES = {
    "huggingface.co": ("/blob/", "/resolve/"),
    "hf.co": ("/blob/", "/resolve/"),
    "github.com": ("/blob/", "/raw/"),
}


_HUBS = ("huggingface.co", "hf.co")


def page_fault(url: str) -> tuple[str, str] | None:
    """(what is wrong, what would be right) when `url` leads to a page about data and not to the data, else None."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return None
    page, file = _PAGES.get(host, ("", ""))
    if page and page in parts.path:
        behind = f"{parts.scheme.lower()}://{host}{parts.path.replace(page, file, 1)}"
        return "is a page that shows a file, not the file", f"write {behind}"
    is_file = "/resolve/" in parts.path or "/raw/" in parts.path
    if host in _HUBS and parts.path.startswith("/datasets/") and not is_file:
        return "is a page about a dataset, not a file of it", "give a file's link, which has /resolve/ in it"
    return None
