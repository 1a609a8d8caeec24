"""Image references as the distribution specification writes them."""

from __future__ import annotations

import pytest

from include.workspace.validation.images import parse_image

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
        ("r.example.com/a__b/c--d.e", "r.example.com/a__b/c--d.e:latest"),
    ],
)
def test_references(text: str, normal: str) -> None:
    assert str(parse_image(text)) == normal


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
        ("r.example.com/" + "a" * 300, "at most 255"),
    ],
)
def test_what_is_no_reference(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_image(text)
