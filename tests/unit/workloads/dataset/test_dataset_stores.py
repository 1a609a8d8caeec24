"""Object stores and hubs as a web server that checks signatures: what opens them, and where nothing may go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import obstore
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from obstore.store import AzureStore

from include.contracts.dataset_urls import StoredObject, parse_url
from include.contracts.redaction import redact
from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.dataset.connection import PinnedClient
from include.workloads.dataset.credentials import Credentials, from_environment
from include.workloads.dataset.fetch import Fetcher
from include.workloads.dataset.signing import VALID, _sas, signed
from include.workloads.dataset.store_client import StoreClient
from include.workloads.network import AddressPolicy
from tests.support.dataset_server import LOOPBACK, Web, send
from tests.support.object_stores import AWS_ID, AWS_SECRET, AZURE_KEY, blob, is_signed_for_azure, s3_object

ROWS = b'{"text": "a"}\n' * 3
COMMIT = "ab" * 20
AWS = {"AWS_ACCESS_KEY_ID": AWS_ID, "AWS_SECRET_ACCESS_KEY": AWS_SECRET}


def client(policy: AddressPolicy | None = None, **values: str) -> StoreClient:
    return StoreClient.of(PinnedClient(policy or AddressPolicy(LOOPBACK)), Credentials(values))


def fetched(opener: StoreClient, url: str, target: Path) -> bytes:
    return Fetcher(opener, sleep=lambda seconds: None).fetch(url, target).path.read_bytes()


def s3(web: Web, key: str = "data/a b+c=(é).jsonl", **more: str) -> str:
    """The URL of an object that is served at this key of the bucket `rows`."""
    web.routes[f"/rows/{quote(key, safe='/~')}"] = s3_object(ROWS, more.get("region", "us-east-1"))
    named = "".join(f"&{name}={value}" for name, value in more.items())
    return f"s3://rows/{quote(key)}?endpoint={web.url('')}{named}"


@pytest.mark.parametrize("more", [{}, {"region": "eu-central-1"}])
def test_an_object_of_s3_is_opened_by_a_signature(more: dict[str, str], web: Web, tmp_path: Path) -> None:
    assert fetched(client(**AWS), s3(web, **more), tmp_path / "a") == ROWS
    path, headers = web.asked[-1]
    assert "X-Amz-Signature=" in path
    assert AWS_SECRET not in path
    assert "Authorization" not in headers


def test_an_object_that_is_public_needs_none(web: Web, tmp_path: Path) -> None:
    web.serve("/rows/a", ROWS)
    assert fetched(client(), f"s3://rows/a?endpoint={web.url('')}", tmp_path / "a") == ROWS


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the annotation"),
        (AWS | {"AWS_SECRET_ACCESS_KEY": "CANARY-other"}, "kaito.sh/dataset-secret has no access to it"),
    ],
)
def test_a_refusal_names_the_keys(values: dict[str, str], said: str, web: Web, tmp_path: Path) -> None:
    with pytest.raises(UserConfigError, match=said) as fault:
        fetched(client(**values), s3(web), tmp_path / "a")
    assert "CANARY" not in str(fault.value)
    assert "X-Amz" not in str(fault.value)


def test_a_download_of_an_object_goes_on_where_it_broke_off(web: Web, tmp_path: Path) -> None:
    url, whole = s3(web), web.routes
    good = whole[f"/rows/{quote('data/a b+c=(é).jsonl', safe='/~')}"]
    path = f"/rows/{quote('data/a b+c=(é).jsonl', safe='/~')}"

    def breaks(handler: Any) -> None:
        web.routes[path] = good
        send(handler, ROWS[:10], length=len(ROWS), ETag='"v1"')

    web.routes[path] = breaks
    assert fetched(client(**AWS), url, tmp_path / "a") == ROWS
    assert web.asked[-1][1]["Range"] == "bytes=10-"


def test_a_store_is_not_followed_to_another_place(web: Web, tmp_path: Path) -> None:
    web.redirect("/rows/a", web.serve("/elsewhere", ROWS))
    with pytest.raises(UserConfigError, match="redirects to elsewhere, which is not followed"):
        fetched(client(**AWS), f"s3://rows/a?endpoint={web.url('')}", tmp_path / "a")
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    "url", ["s3://rows/a", "gs://rows/a", "abfs://rows@team1.dfs.core.windows.net/a", "hf://datasets/o/n/a"]
)
def test_the_address_of_a_store_is_judged_when_it_is_connected_to(url: str, tmp_path: Path) -> None:
    inside = AddressPolicy(LOOPBACK, lambda host, port: ["169.254.169.254"])
    with pytest.raises(UserConfigError, match="not a public address"):
        fetched(client(inside, **AWS), url, tmp_path / "a")


def azure(web: Web) -> str:
    return f"abfs://rows@team1/data/a é.jsonl?endpoint={web.url('/team1')}".replace(" ", "%20")


@pytest.mark.parametrize(
    ("values", "sas"),
    [
        ({"AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY}, ""),
        (
            {"AZURE_STORAGE_SAS_TOKEN": "?sv=2024-11-04&sig=CANARY%2Fsig%3D"},
            "sv=2024-11-04&sig=CANARY%2Fsig%3D",
        ),
    ],
)
def test_a_blob_is_opened_by_the_account_s_key_or_a_sas(
    values: dict[str, str], sas: str, web: Web, tmp_path: Path
) -> None:
    web.routes[f"/team1/rows/{quote('data/a é.jsonl')}"] = blob(ROWS, "team1", sas)
    assert fetched(client(**values), azure(web), tmp_path / "a") == ROWS
    with pytest.raises(UserConfigError, match="AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"):
        fetched(client(), azure(web), tmp_path / "b")


def test_obstore_signs_a_blob_with_a_plain_name_in_the_same_way() -> None:
    found = parse_url("abfs://rows@team1.dfs.core.windows.net/data/a.jsonl")
    assert isinstance(found, StoredObject)
    store = AzureStore("rows", account_name="team1", account_key=AZURE_KEY)
    theirs = dict(parse_qsl(urlsplit(obstore.sign(store, "GET", "data/a.jsonl", VALID)).query))
    end = datetime.fromisoformat(theirs["se"])
    ours = dict(parse_qsl(_sas(found, AZURE_KEY, end - VALID)))
    assert {**ours, "sig": "", "st": ""} == {**theirs, "sig": "", "st": ""}
    path = "/rows/data/a.jsonl"
    assert is_signed_for_azure(path, ours, "team1")
    assert is_signed_for_azure(path, theirs, "team1")
    assert not is_signed_for_azure("/rows/data/b.jsonl", theirs, "team1")


def test_a_key_that_is_none_is_named_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(UserConfigError, match="cannot be signed with the Secret"):
        fetched(
            client(AZURE_STORAGE_ACCOUNT_KEY="CANARY {"),
            "abfs://rows@team1.dfs.core.windows.net/a",
            tmp_path / "a",
        )
    with pytest.raises(UserConfigError, match="cannot be signed with the Secret"):
        fetched(client(GOOGLE_SERVICE_ACCOUNT_KEY="{CANARY"), "gs://rows/a", tmp_path / "a")


def test_an_object_of_google_has_a_signature_of_the_service_account() -> None:
    made = rsa.generate_private_key(65537, 2048)
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {
        "type": "service_account",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "a@p.iam.gserviceaccount.com",
    }
    found = parse_url("gs://rows/a%20b.jsonl")
    assert isinstance(found, StoredObject)
    credentials = Credentials.of(["gs://rows/a"], {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}.get)
    url = signed(found, credentials).url
    assert url.startswith("https://storage.googleapis.com/rows/a%20b.jsonl?X-Goog-Algorithm=GOOG4-RSA-SHA256")
    assert pem.splitlines()[3] not in redact(pem)


def test_a_key_file_that_would_lead_elsewhere_is_refused() -> None:
    found = parse_url("gs://rows/a")
    assert isinstance(found, StoredObject)
    made = rsa.generate_private_key(65537, 2048)
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "a@p",
        "gcs_base_url": "https://evil.example.com",
    }
    with pytest.raises(UserConfigError, match="cannot be signed"):
        signed(found, Credentials({"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}))


def hub(web: Web, files: list[str], card: Any = None) -> str:
    info = {"sha": COMMIT, "cardData": card, "siblings": [{"rfilename": name} for name in files]}
    web.routes["/api/datasets/org/facts/revision/main"] = lambda handler: send(
        handler, json.dumps(info).encode()
    )
    return f"hf://datasets/org/facts?endpoint={web.url('')}"


def test_a_dataset_of_a_hub_is_its_files_at_one_commit(web: Web, tmp_path: Path) -> None:
    url = hub(web, ["README.md", "data/train-1.jsonl", "data/train-0.jsonl", "data/test.jsonl"])
    opener = client(HF_TOKEN="hf_CANARY")
    files = Fetcher(opener).files(url)
    assert [name.partition("?")[0] for name in files] == [
        f"hf://datasets/org/facts@{COMMIT}/data/train-{n}.jsonl" for n in (0, 1)
    ]
    web.redirect(
        f"/datasets/org/facts/resolve/{COMMIT}/data/train-0.jsonl", web.url("/cdn", "cdn.example.com")
    )
    web.serve("/cdn", ROWS)
    resolving = client(AddressPolicy(LOOPBACK, lambda host, port: ["127.0.0.1"]), HF_TOKEN="hf_CANARY")
    assert fetched(resolving, files[0], tmp_path / "a") == ROWS
    assert [headers.get("Authorization") for _, headers in web.asked] == [
        "Bearer hf_CANARY",
        "Bearer hf_CANARY",
        None,
    ]


def test_a_hub_that_says_nothing_readable_is_asked_again(web: Web) -> None:
    url, answers = hub(web, ["a.jsonl"]), [b"<html>", b"[]"]
    good = web.routes["/api/datasets/org/facts/revision/main"]
    web.routes["/api/datasets/org/facts/revision/main"] = lambda handler: (
        send(handler, answers.pop()) if answers else good(handler)
    )
    assert len(Fetcher(client(), sleep=lambda seconds: None).files(url)) == 1
    assert len(web.asked) == 3


SPLITS = [
    "en/train.jsonl",
    "en/valid.jsonl",
    "de/train.jsonl",
    "dataset_info.json",
    ".hidden/train.jsonl",
    "x.bin",
]
CARD = {
    "configs": [
        {
            "config_name": "en",
            "data_files": [{"split": "train", "path": "en/*.jsonl"}, {"split": "odd", "path": ["de/t*"]}],
        },
        {"config_name": "de", "data_dir": "de", "default": True},
        {"config_name": "all", "data_files": "**/*.jsonl"},
    ]
}


@pytest.mark.parametrize(
    ("files", "card", "asked", "wanted"),
    [
        (["b.csv", "a.csv"], None, "", ["a.csv", "b.csv"]),
        (["b.csv"], None, "split=train", ["b.csv"]),
        (["contrain.csv", "test.csv"], None, "split=test", ["test.csv"]),
        (["x-eval.parquet"], None, "", ["x-eval.parquet"]),
        (SPLITS, None, "subset=en&split=validation", ["en/valid.jsonl"]),
        (SPLITS, None, "subset=de", ["de/train.jsonl"]),
        (SPLITS, None, "", ["de/train.jsonl", "en/train.jsonl"]),
        (SPLITS, CARD, "", ["de/train.jsonl"]),
        (SPLITS, CARD, "subset=en", ["en/train.jsonl", "en/valid.jsonl"]),
        (SPLITS, CARD, "subset=en&split=odd", ["de/train.jsonl"]),
        (SPLITS, CARD, "subset=all", ["de/train.jsonl", "en/train.jsonl", "en/valid.jsonl"]),
        (["a.jsonl.gz", "a.py"], {"configs": "broken"}, "", ["a.jsonl.gz"]),
    ],
)
def test_which_files_a_split_has(
    files: list[str], card: Any, asked: str, wanted: list[str], web: Web
) -> None:
    found = Fetcher(client()).files(f"{hub(web, files, card)}&{asked}".rstrip("&"))
    assert [one.partition(f"@{COMMIT}/")[2].partition("?")[0] for one in found] == wanted


@pytest.mark.parametrize(
    ("files", "card", "asked", "said"),
    [
        (SPLITS, None, "split=vaildation&subset=en", "has no split 'vaildation'; did you mean validation?"),
        (SPLITS, CARD, "subset=fr", "has no subset 'fr'; known here: all, de, en"),
        (["val.csv", "test.csv"], None, "", "several of split: write ?split= and one of test, validation"),
        (["a.bin"], None, "", "has no file in Parquet"),
        (SPLITS, {"configs": [{"data_files": "fr/*"}]}, "", "has no file in Parquet.* for its split 'train'"),
    ],
)
def test_a_split_that_is_not_there_is_named(
    files: list[str], card: Any, asked: str, said: str, web: Web
) -> None:
    with pytest.raises((UserConfigError, UserDataError), match=said.replace("?", "[?]")):
        Fetcher(client()).files(f"{hub(web, files, card)}&{asked}".rstrip("&"))


def test_the_environment_gives_the_keys_of_the_urls_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASET_HF_TOKEN", " hf_CANARY12345\n")
    monkeypatch.setenv("DATASET_AUTHORIZATION", "Bearer CANARY")
    found = from_environment(["hf://datasets/o/n"])
    assert found.values == {"HF_TOKEN": "hf_CANARY12345"}
    assert "CANARY" not in repr(found)
    assert not found.identity
    monkeypatch.setenv("DATASET_AWS_SECRET_ACCESS_KEY", "CANARY\nX: 1")
    with pytest.raises(UserConfigError, match="AWS_SECRET_ACCESS_KEY") as fault:
        from_environment(["s3://rows/a"])
    assert "CANARY" not in str(fault.value)


def test_a_pod_reads_an_object_with_the_keys_of_its_environment(web: Web, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[4]),
        "DATASET_URLS": json.dumps([s3(web)]),
        "DATASET_OUTPUT": str(tmp_path / "out"),
        "ALLOWED_NETWORKS": "127.0.0.1/32",
        "TERMINATION_LOG": str(tmp_path / "result.json"),
        **{f"DATASET_{key}": value for key, value in AWS.items()},
    }
    command = [sys.executable, "-m", "include.workloads.dataset"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"] == 3
    [source] = report["sources"]
    assert source["url"].startswith("s3://rows/data/")
    told = ended.stdout + ended.stderr + (tmp_path / "result.json").read_text() + json.dumps(report)
    assert AWS_SECRET not in told
    assert "X-Amz" not in told
