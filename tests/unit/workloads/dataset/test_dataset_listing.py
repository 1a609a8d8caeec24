"""Folders and patterns of object stores and hubs: which files they mean, by stores that check who lists them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from include.contracts.dataset_links import page_fault
from include.contracts.dataset_urls import StoredObject, is_whole_dataset, parse_url
from include.contracts.network_policy import Refused
from include.workloads.contract import TryAgain, UserConfigError, UserDataError
from include.workloads.dataset import hub_files, listing
from include.workloads.dataset.connection import PinnedClient
from include.workloads.dataset.credentials import Credentials
from include.workloads.dataset.fetch import Fetcher, Limits
from include.workloads.dataset.identity import Identity
from include.workloads.dataset.job import run_job
from include.workloads.dataset.request import Request
from include.workloads.dataset.store_client import StoreClient
from include.workloads.network import AddressPolicy
from tests.support.dataset_server import LOOPBACK, Web, send
from tests.support.object_stores import (
    AWS_ID,
    AWS_SECRET,
    AZURE_KEY,
    azure_list,
    blob,
    google_list,
    s3_list,
    s3_object,
)

ROW = b'{"text": "a"}\n'
AWS = {"AWS_ACCESS_KEY_ID": AWS_ID, "AWS_SECRET_ACCESS_KEY": AWS_SECRET}
OBJECTS = {
    "train/part-0 é&<+.jsonl": ROW * 2,
    "train/part-1.parquet": b"PAR1",
    "train/more/part-2.jsonl.gz": b"x",
    "train/part-3.jsonl": b"",
    "train/.hidden.jsonl": ROW,
    "train/_SUCCESS": b"",
    "train/README.md": b"# no data",
    "train/": b"",
    "training.jsonl": ROW,
}


def client(**values: str) -> StoreClient:
    return StoreClient.of(PinnedClient(AddressPolicy(LOOPBACK)), Credentials(values))


def fetcher(opener: StoreClient, **limits: Any) -> Fetcher:
    return Fetcher(opener, Limits(**limits), sleep=lambda seconds: None)


def bucket(web: Web, path: str, objects: dict[str, bytes] = OBJECTS) -> str:
    """The URL of a folder or a pattern of a bucket in S3 that has these objects."""
    web.routes["/rows"] = s3_list(objects)
    return f"s3://rows/{path}?endpoint={web.url('')}"


def names(urls: list[str]) -> list[str]:
    return [found.pattern for url in urls if (found := parse_url(url))]


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("train/", ["train/more/part-2.jsonl.gz", "train/part-0 é&<+.jsonl", "train/part-1.parquet"]),
        ("train/part-*", ["train/part-0 é&<+.jsonl", "train/part-1.parquet"]),
        ("train/*.parquet", ["train/part-1.parquet"]),
        ("*/more/*", ["train/more/part-2.jsonl.gz"]),
        ("train/*/", ["train/more/part-2.jsonl.gz"]),
        ("*", ["training.jsonl"]),
        (
            "",
            [
                "train/more/part-2.jsonl.gz",
                "train/part-0 é&<+.jsonl",
                "train/part-1.parquet",
                "training.jsonl",
            ],
        ),
    ],
)
def test_a_folder_and_a_pattern_mean_files_of_known_kinds_in_their_order(
    path: str, meant: list[str], web: Web
) -> None:
    url = bucket(web, path)
    assert is_whole_dataset(url)
    found = fetcher(client(**AWS)).files(url)
    assert names(found) == meant
    assert all(one.endswith(f"?endpoint={web.url('')}") for one in found)
    assert not any(AWS_SECRET in asked for asked, _ in web.asked)


def test_all_of_them_are_one_dataset_and_a_new_one_is_seen(web: Web, tmp_path: Path) -> None:
    objects = {"t/b.jsonl": b'{"text": "b"}\n', "t/a.jsonl": b'{"text": "a"}\n'}
    url = bucket(web, "t/", objects)

    def add(key: str, body: bytes) -> None:
        objects[key] = body
        web.routes[f"/rows/{key}"] = s3_object(body)

    for key, body in dict(objects).items():
        add(key, body)
    request = Request(output=tmp_path / "out", urls=(url,), network=LOOPBACK, credentials=Credentials(AWS))
    first = run_job(request)
    assert [source["url"].rpartition("/")[2] for source in first["sources"]] == ["a.jsonl", "b.jsonl"]
    assert pq.read_table(tmp_path / "out" / "train.parquet")["text"].to_pylist() == ["a", "b"]
    assert listing.mark_of(client(**AWS), url) == (before := listing.mark_of(client(**AWS), url))
    add("t/c.jsonl", b'{"text": "c"}\n')
    assert listing.mark_of(client(**AWS), url) != before
    assert run_job(request)["rows"] == 3


def test_a_container_is_listed_by_the_account_s_key(web: Web, tmp_path: Path) -> None:
    objects = {"t/a é.jsonl": ROW, "t/b.jsonl": ROW * 2, "u/c.jsonl": ROW}
    web.routes["/team1/rows"] = azure_list(objects, "team1")
    web.routes["/team1/rows/t/b.jsonl"] = blob(ROW * 2, "team1")
    opener = client(AZURE_STORAGE_ACCOUNT_KEY=AZURE_KEY)
    found = fetcher(opener).files(f"abfs://rows@team1/t/?endpoint={web.url('/team1')}")
    assert names(found) == ["t/a é.jsonl", "t/b.jsonl"]
    assert fetcher(opener).fetch(found[1], tmp_path / "b").bytes == len(ROW) * 2


def test_a_sas_is_added_to_the_question(web: Web) -> None:
    web.routes["/team1/rows"] = lambda handler: send(handler, b"<E><Blobs/></E>")
    with pytest.raises(UserDataError, match="means no file in"):
        fetcher(client(AZURE_STORAGE_SAS_TOKEN="?sv=1&sig=CANARY%3D")).files(
            f"abfs://rows@team1/t/?endpoint={web.url('/team1')}"
        )
    assert web.asked[-1][0] == "/team1/rows?comp=list&prefix=t%2F&restype=container&sv=1&sig=CANARY%3D"


def test_an_identity_lists_a_bucket_of_google_with_its_token(web: Web) -> None:
    found = parse_url("gs://rows/t/")
    identity = Identity(PinnedClient(), google=web.url(""), local=PinnedClient(AddressPolicy(LOOPBACK)))
    web.serve("/computeMetadata/v1/instance/service-accounts/default/token", b'{"access_token": "CANARY"}')
    asked = identity.request(found, {"list-type": "2", "prefix": "t/"})  # type: ignore[arg-type]
    assert asked.url == "https://storage.googleapis.com/rows?list-type=2&prefix=t%2F"
    assert asked.headers["Authorization"] == "Bearer CANARY"


EMAIL = "reader@team.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def made() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def account(made: rsa.RSAPrivateKey, **more: str) -> str:
    """The file of a service account's key."""
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps({"type": "service_account", "client_email": EMAIL, "private_key": pem, **more})


def of_google(web: Web, objects: dict[str, bytes], made: rsa.RSAPrivateKey) -> StoredObject:
    """A folder of a bucket that Google's server, which is the test's, has."""
    web.routes["/rows"] = google_list(objects, EMAIL, made.public_key())
    found = parse_url("gs://rows/train/")
    assert isinstance(found, StoredObject)
    return replace(found, base=web.url(""))


def test_the_key_of_a_service_account_lists_a_folder(web: Web, made: rsa.RSAPrivateKey) -> None:
    found, key = of_google(web, OBJECTS, made), account(made, token_uri=web.url("/elsewhere"))
    files = listing.listed(client(GOOGLE_SERVICE_ACCOUNT_KEY=key), "gs://rows/train/", found)
    assert [(one.key, one.size) for one in files] == [
        ("train/more/part-2.jsonl.gz", 1),
        ("train/part-0 é&<+.jsonl", len(ROW) * 2),
        ("train/part-1.parquet", 4),
    ]
    assert len(web.asked) > 1, "page by page, each with a signature of its own"
    assert {urlsplit(path).path for path, _ in web.asked} == {"/rows"}, "no other place has been asked"
    assert not any("Authorization" in headers for _, headers in web.asked)


def test_a_service_account_that_may_not_list_is_told_what_is_missing(
    web: Web, made: rsa.RSAPrivateKey
) -> None:
    found, other = of_google(web, OBJECTS, made), account(rsa.generate_private_key(65537, 2048))
    with pytest.raises(UserConfigError, match="to list objects is a right of its own") as fault:
        listing.listed(client(GOOGLE_SERVICE_ACCOUNT_KEY=other), "gs://rows/train/", found)
    assert "X-Goog" not in str(fault.value)


@pytest.mark.parametrize(
    "key", ["{}", "CANARY", "[1]", '{"client_email": "a@b", "private_key": "CANARY"}', "1"]
)
def test_a_service_account_s_key_that_is_none_is_named_without_being_shown(key: str) -> None:
    with pytest.raises(UserConfigError, match="is no key of a service account") as fault:
        fetcher(client(GOOGLE_SERVICE_ACCOUNT_KEY=key)).files("gs://rows/t/")
    assert "CANARY" not in str(fault.value)


def test_who_may_not_list_is_told_what_is_missing(web: Web) -> None:
    url = bucket(web, "t/")
    with pytest.raises(UserConfigError, match="to list objects is a right of its own"):
        fetcher(client(**AWS | {"AWS_SECRET_ACCESS_KEY": "CANARY"})).files(url)


def test_too_much_is_told_before_anything_is_fetched(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    url = bucket(web, "train/")
    with pytest.raises(UserDataError, match="is 3 files of 0 MiB, over the limit of 0 MiB"):
        fetcher(client(**AWS), max_bytes=20).files(url)
    monkeypatch.setattr(listing, "MAX_FILES", 2)
    with pytest.raises(UserDataError, match="is more than 2 files; name those that are wanted"):
        fetcher(client(**AWS)).files(url)
    monkeypatch.setattr(listing, "MAX_PAGES", 1)
    with pytest.raises(UserDataError, match="lies among more than 1000 objects; write a longer prefix"):
        fetcher(client(**AWS)).files(bucket(web, ""))


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b"<a>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"<a>" + b" " * (8 << 20) + b"</a>",
        b"\xff",
    ],
)
def test_an_answer_that_is_no_list_passes_or_is_told(answer: bytes, web: Web) -> None:
    web.serve("/rows", answer)
    with pytest.raises(TryAgain, match="the store's list of its objects is no"):
        fetcher(client()).files(f"s3://rows/t/?endpoint={web.url('')}")


def test_an_odd_list_means_what_can_be_read(web: Web) -> None:
    web.serve("/rows", b"<a><Contents><Size>x</Size></Contents><Contents><Key>t/a.csv</Key></Contents></a>")
    with pytest.raises(UserDataError, match="means no file"):
        fetcher(client()).files(f"s3://rows/t/?endpoint={web.url('')}")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://rows", "names no object"),
        ("s3://rows/a//", "names no object"),
        ("s3://rows/../", "names no object"),
        ("s3://rows/**/a.jsonl", "a / at the end means all files below"),
        ("hf://datasets/o/n/**", "a / at the end means all files below"),
        ("hf://datasets/o/n/a//", "its path is not one of a file"),
    ],
)
def test_what_is_no_folder_and_no_pattern(url: str, said: str) -> None:
    with pytest.raises(Refused) as fault:
        parse_url(url)
    assert said in f"{fault.value} {fault.value.hint}"


def test_a_web_server_has_no_patterns() -> None:
    told = page_fault("https://example.com/train/*.parquet")
    assert told is not None
    assert "name each" in told[1]
    assert page_fault("https://example.com/train/a.parquet?x=*") is None


@pytest.mark.parametrize(
    ("path", "meant"),
    [("data/", ["data/a.parquet", "data/b/c.parquet"]), ("data/*.parquet", ["data/a.parquet"])],
)
def test_a_folder_of_a_hub_s_dataset(path: str, meant: list[str], web: Web) -> None:
    files = ["data/b/c.parquet", "data/a.parquet", "README.md", "other/d.parquet"]
    info = {"sha": "ab" * 20, "siblings": [{"rfilename": name} for name in files]}
    web.serve("/api/datasets/org/facts/revision/main", json.dumps(info).encode())
    url = f"hf://datasets/org/facts/{path}?endpoint={web.url('')}"
    assert is_whole_dataset(url)
    assert names(fetcher(client()).files(url)) == meant


def test_a_pattern_of_a_hub_that_means_nothing() -> None:
    found = parse_url("hf://datasets/o/n/x/")
    with pytest.raises(UserDataError, match="means no file"):
        hub_files.chosen(found, ["data/a.parquet"], None, "it")  # type: ignore[arg-type]
