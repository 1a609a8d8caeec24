"""Which secret entry belongs to which registry, and that secrets stay hidden."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from include.contracts.image_reference import parse_reference
from include.contracts.redaction import redact
from include.workloads.contract import UserConfigError
from include.workloads.oci.credentials import load_credentials


def config(folder: Path, auths: object) -> Path:
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    return folder


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("myacr.azurecr.io", "myacr.azurecr.io/a"),
        ("https://myacr.azurecr.io", "myacr.azurecr.io/a"),
        ("https://myacr.azurecr.io/v2/", "myacr.azurecr.io/a"),
        ("*.azurecr.io", "myacr.azurecr.io/a"),
        ("myacr.azurecr.io", "MyACR.azurecr.io/a"),
        ("MyACR.azurecr.io", "myacr.azurecr.io/a"),
        ("https://index.docker.io/v1/", "me/phi"),
        ("docker.io", "index.docker.io/me/phi"),
        ("127.0.0.1:5000", "127.0.0.1:5000/a"),
        ("h.io/team", "h.io/team/phi"),
    ],
)
def test_the_entry_is_found_under_every_spelling(key, image, tmp_path):
    found = load_credentials(config(tmp_path, {key: {"auth": encoded("u", "p:w")}}), parse_reference(image))
    assert found is not None
    assert (found.username, found.password, found.entry) == ("u", "p:w", key)


@pytest.mark.parametrize(
    ("key", "image"),
    [("other.io", "h.io/a"), ("*.io", "a.b.io/x"), ("h.io/team", "h.io/teamwork/a"), ("h.io:5000", "h.io/a")],
)
def test_other_entries_are_not_used(key, image, tmp_path):
    assert (
        load_credentials(config(tmp_path, {key: {"auth": encoded("u", "pass")}}), parse_reference(image))
        is None
    )


def test_the_most_specific_entry_wins(tmp_path):
    keys = ["*.io", "h.io", "h.io/team"]
    auths = {key: {"username": key, "password": "secret"} for key in keys}
    found = [
        load_credentials(config(tmp_path, auths), parse_reference(i))
        for i in ("h.io/team/a", "h.io/a", "x.io/a")
    ]
    assert [one.username for one in found if one] == ["h.io/team", "h.io", "*.io"]


def test_secrets_are_hidden_and_not_in_repr(tmp_path):
    auths = {"h.io": {"auth": encoded("u", "CANARYPASS"), "identitytoken": "CANARYTOKEN"}}
    found = load_credentials(config(tmp_path, auths), parse_reference("h.io/a"))
    assert found is not None
    assert "CANARY" not in repr(found)
    assert "CANARY" not in redact(f"x CANARYPASS CANARYTOKEN {found.password}")
    assert redact(found.basic) == redact(encoded("u", "CANARYPASS")) == "***"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"auths": []}', '{"auths": {"h.io": 3}}'])
def test_a_secret_of_another_kind_is_named_by_its_key(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserConfigError, match=r"\.dockerconfigjson"):
        load_credentials(tmp_path, parse_reference("h.io/a"))


def test_no_secret_is_anonymous(tmp_path):
    assert load_credentials(None, parse_reference("h.io/a")) is None
    assert load_credentials(tmp_path, parse_reference("h.io/a")) is None


def test_every_secret_of_the_folder_is_looked_at(tmp_path: Path) -> None:
    """A pod with several pull secrets has them side by side; the most specific entry of all wins, else the first."""
    config(tmp_path, {"h.io": {"auth": encoded("first", "p")}})
    for number, key in ((1, "h.io/team"), (2, "h.io")):
        text = json.dumps({"auths": {key: {"auth": encoded(f"u{number}", "p")}}})
        (tmp_path / f"config-{number}.json").write_text(text)

    def user(image: str) -> str:
        found = load_credentials(tmp_path, parse_reference(image))
        assert found is not None
        return found.username

    assert user("h.io/team/a:1") == "u1"
    assert user("h.io/other/a:1") == "first"
