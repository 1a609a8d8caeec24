"""Links to a hub's page about a file, which people copy out of their browser, and the links to the file itself."""

from __future__ import annotations

from urllib.parse import urlsplit

# Host -> what the page has in its path, and what the file has there.
_PAGES = {
    "huggingface.co": ("/blob/", "/resolve/"),
    "hf.co": ("/blob/", "/resolve/"),
    "github.com": ("/blob/", "/raw/"),
}


def file_behind(url: str) -> str | None:
    """The link to the file, without its query, when `url` leads to a page about it; None for any other URL."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return None
    page, file = _PAGES.get(host, ("", ""))
    if not page or page not in parts.path:
        return None
    return f"{parts.scheme.lower()}://{host}{parts.path.replace(page, file, 1)}"
