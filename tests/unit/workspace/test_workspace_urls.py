"""The first wall against forged requests: literal addresses in every spelling."""

from __future__ import annotations

import pytest

from include.workspace.validation.urls import redact, url_fault


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/a/b.parquet?download=true",
        "http://example.com:8080/a",
        "HTTPS://EXAMPLE.COM/a",
        "https://8.8.8.8/a",
        "https://[2606:4700::1111]/a",
        "https://localhost.example.com/a",
        "https://1e100.net/a",
    ],
)
def test_public_urls_are_fine(url: str) -> None:
    assert url_fault(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/a",
        "http://LOCALHOST:9000/a",
        "http://localhost./a",
        "http://x.localhost/a",
        "http://printer.local/a",
        "http://metadata.google.internal/computeMetadata",
        "http://metadata/a",
        "http://instance-data.ec2.internal/a",
        "http://svc.cluster.internal/a",
        "http://127.0.0.1/a",
        "http://127.1/a",
        "http://0x7f000001/a",
        "http://2130706433/a",
        "http://0177.0.0.1/a",
        "http://0/a",
        "http://10.0.0.5/a",
        "http://172.16.3.4/a",
        "http://192.168.0.1/a",
        "http://100.64.0.1/a",
        "http://169.254.169.254/latest/meta-data",
        "http://0xa9fea9fe/latest",
        "http://[::1]/a",
        "http://[::ffff:127.0.0.1]/a",
        "http://[fe80::1]/a",
        "http://[fd00:ec2::254]/a",
        "http://[2002:7f00:1::]/a",
    ],
)
def test_addresses_inside_are_refused(url: str) -> None:
    assert url_fault(url) is not None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/a/b",
        "example.com/a",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "https://",
        "https:///a",
        "https://user@example.com/a",
        "https://user:pw@example.com/a",
        "https://exa mple.com/a",
        "https://example.com/a b",
        "https://example.com:99999/a",
        "https://[::1/a",
        "https://[not-an-address]/",
    ],
)
def test_what_is_no_fetchable_url(url: str) -> None:
    assert url_fault(url) is not None


def test_the_allow_list_opens_its_networks_only() -> None:
    assert url_fault("http://127.0.0.1:1/a", ["127.0.0.0/8"]) is None
    assert url_fault("http://[::1]/a", ["127.0.0.0/8", "::1/128"]) is None
    assert url_fault("http://10.0.0.1/a", ["127.0.0.0/8"]) is not None
    assert url_fault("http://localhost/a", ["127.0.0.0/8"]) is not None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@example.com:8443/a/b?sig=1#x", "https://example.com:8443/a/b?..."),
        ("https://example.com/a", "https://example.com/a"),
        ("https://user:pw@example.com:99999/a?sig=1", "example.com:99999/a"),
    ],
)
def test_redaction(url: str, shown: str) -> None:
    assert redact(url) == shown
