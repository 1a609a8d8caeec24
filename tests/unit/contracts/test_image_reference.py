"""Image references as the distribution specification writes them."""

from __future__ import annotations

import pytest

from include.contracts.image_reference import parse_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("me/app:1", "docker.io/me/app:1"),
        ("example.azurecr.io/IMAGE:0.0.1".lower(), "example.azurecr.io/image:0.0.1"),
        ("localhost/app", "localhost/app:latest"),
        ("127.0.0.1:5000/adapters/phi:v1", "127.0.0.1:5000/adapters/phi:v1"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b"),
        (f"r.example.com/a@{DIGEST}", f"r.example.com/a@{DIGEST}"),
        (f"r.example.com/a:1@{DIGEST}", f"r.example.com/a:1@{DIGEST}"),
        ("MyACR.azurecr.io/a:1", "myacr.azurecr.io/a:1"),
        ("index.docker.io/phi:1", "docker.io/library/phi:1"),
        ("Docker.io/me/phi:1", "docker.io/me/phi:1"),
        ("Localhost/app", "localhost/app:latest"),
        ("r.example.com/a__b/c--d.e", "r.example.com/a__b/c--d.e:latest"),
    ],
)
def test_references(text: str, normal: str) -> None:
    assert str(parse_reference(text)) == normal


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a part of a repository name"),
        ("r.example.com/", "not a part"),
        ("r.example.com/Upper:1", "lower case"),
        ("r.example.com/a:", "not a tag"),
        ("r.example.com/a:b c", "not a tag"),
        ("r.example.com/a:" + "x" * 129, "not a tag"),
        ("r.example.com/a@sha256:12", "64 hex digits"),
        ("r.example.com/a@", "64 hex digits"),
        ("ACR_REPO_HERE.azurecr.io/a:1", "not a registry host"),
        ("https://r.example.com/a", "registry host"),
        ("r.example.com/../a", "not a part"),
        ("Registry/adapters/phi:1", "a registry has a dot or a port"),
        ("r.example.com/a@sha512:" + "ab" * 64, "sha256"),
        ("r.example.com:99999/a", "not a registry host"),
        ("r.example.com:0/a", "not a registry host"),
        ("[::z]/a", "not a registry host"),
        ("[:::]:5000/a", "not a registry host"),
        (" r.example.com/a", "not a registry host"),
        ("r.example.com/a:1\n", "not a tag"),
        ("ab" * 32, "image's id"),
        ("r.example.com/" + "a" * 300, "at most 255"),
    ],
)
def test_what_is_no_reference(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_reference(text)


def test_what_a_registry_is_asked() -> None:
    found = parse_reference(f"index.docker.io/me/phi:1@{DIGEST}")
    assert (found.name, found.version, found.api_host) == ("docker.io/me/phi", DIGEST, "registry-1.docker.io")
    assert found.by_digest("sha256:x") == "docker.io/me/phi@sha256:x"
    assert parse_reference("h.io:5000/a").api_host == "h.io:5000"


def test_a_signature_in_a_reference_is_not_shown() -> None:
    for text in ("https://h.io/a?sig=CANARY", "h.io/a?CANARY", "h.io/a:1?CANARY", "?CANARY/x.y/a"):
        with pytest.raises(ValueError) as error:  # noqa: PT011 - every sentence counts
            parse_reference(text)
        assert "CANARY" not in str(error.value)
