"""Dataset URLs of all schemes: what each names, the one place that it leads to, and which keys open it."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.dataset_keys import keys_of, misuse
from include.contracts.dataset_urls import (
    HubDataset,
    StoredObject,
    check_url,
    is_whole_dataset,
    parse_url,
    plain_url,
    scheme_of,
)
from include.contracts.network_policy import NetworkPolicy, Refused
from include.contracts.redaction import redact, redact_url

COMMIT = "0123456789abcdef" * 2 + "01234567"
HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://example.com/a?sig=x", "https://example.com/a?sig=x"),
        ("s3://data/a/b c.jsonl".replace(" ", "%20"), "https://s3.us-east-1.amazonaws.com/data/a/b%20c.jsonl"),
        ("S3A://data/a?region=eu-west-1", "https://s3.eu-west-1.amazonaws.com/data/a"),
        ("s3://data/a?endpoint=https%3A%2F%2Fminio.example.com/", "https://minio.example.com/data/a"),
        ("gs://data/a/b.parquet", "https://storage.googleapis.com/data/a/b.parquet"),
        ("abfs://rows@team1.dfs.core.windows.net/a.csv", "https://team1.blob.core.windows.net/rows/a.csv"),
        ("abfss://rows@team1.blob.core.chinacloudapi.cn/a", "https://team1.blob.core.chinacloudapi.cn/rows/a"),
        ("abfs://rows@team1/a?endpoint=http://127.0.0.1:1/team1", "http://127.0.0.1:1/team1/rows/a"),
        ("hf://datasets/org/name", f"{HUB}/api/datasets/org/name/revision/main"),
        ("hf://datasets/squad@v1?split=train", f"{HUB}/api/datasets/squad/revision/v1"),
        ("hf://datasets/o/n@refs%2Fpr%2F1/x", f"{HUB}/datasets/o/n/resolve/refs%2Fpr%2F1/x"),
        (f"hf://datasets/o/n@{COMMIT}/a@b/x.jsonl", f"{HUB}/datasets/o/n/resolve/{COMMIT}/a%40b/x.jsonl"),
        ("hf://datasets/o/n/x.jsonl", f"{HUB}/datasets/o/n/resolve/main/x.jsonl"),
    ],
)  # fmt: skip
def test_a_url_leads_to_one_place(url: str, plain: str) -> None:
    assert plain_url(url) == plain


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("htps://a.example.com/x", "did you mean https?"),
        ("azure://a/x", "use https, http, hf, s3, gs, abfs"),
        ("s3://", "names no object"),
        ("s3://data", "names no object"),
        ("s3://data/a/../b", "names no object"),
        ("s3://data/a//b", "names no object"),
        ("s3://data/a%0Ab", "names no object"),
        ("s3://data/a b", "is not a URL"),
        ("s3://Data_X!/a", "its bucket"),
        ("s3://user:pw@data/a", "its bucket"),
        ("s3://data/a?regoin=eu-west-1", "did you mean region?"),
        ("s3://data/a?region=eu west".replace(" ", "%20"), "its region is not one"),
        ("s3://data/a?region=x.evil.example%2F", "its region is not one"),
        ("s3://data/a?region=a1&region=b2", "a parameter twice"),
        ("s3://data/a?endpoint=ftp://x", "its endpoint is not an http"),
        ("s3://data/a?endpoint=https://u:p@x", "its endpoint is not an http"),
        ("gs://data/a?endpoint=https://x", "takes no parameter 'endpoint'"),
        ("abfs://rows@evil.example.com/a", "names no storage account"),
        ("abfs://rows@evil.example.com/.dfs.core.windows.net/a", "names no storage account"),
        ("abfs://rows/a", "names no storage account"),
        ("abfs://ROWS@team1.dfs.core.windows.net/a", "its container"),
        ("hf://models/a/b", "names no dataset"),
        ("hf://datasets/", "names no dataset"),
        ("hf://datasets/a/..", "names no dataset"),
        ("hf://datasets/a/b@..%2F..%2Fmodels/x", "its revision"),
        ("hf://datasets/a/b@main/x.jsonl?split=train", "has no split"),
    ],
)
def test_a_url_that_means_nothing_is_refused(url: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_url(url)
    assert said in f"{refused.value}; {refused.value.hint}"


@pytest.mark.parametrize(
    "url",
    [
        "s3://data/a?endpoint=http://169.254.169.254",
        "s3://data/a?endpoint=http://10.0.0.1",
        "s3://data/a?endpoint=http://metadata.google.internal",
        "s3://data/a?endpoint=https://minio.example.com:9000",
        "abfs://rows@team1/a?endpoint=http://127.0.0.1",
        "hf://datasets/a/b?endpoint=http://localhost",
    ],
)
def test_an_endpoint_keeps_to_the_network_policy(url: str) -> None:
    with pytest.raises(Refused):
        check_url(NetworkPolicy(), url)
    assert (
        check_url(NetworkPolicy.of(["10.0.0.0/8"]), "s3://data/a?endpoint=http://10.0.0.1:9000").port == 9000
    )


@given(st.sampled_from(["s3", "gs"]), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3))
def test_no_key_changes_the_host_and_what_is_taken_stays_the_key(scheme: str, parts: list[str]) -> None:
    key = "/".join(parts)
    try:
        found = parse_url(f"{scheme}://data/{quote(key, safe='/')}")
    except Refused:
        return
    assert isinstance(found, StoredObject)
    assert found.key == key
    there = urlsplit(found.plain)
    assert f"{there.scheme}://{there.netloc}" == found.base
    assert there.path.startswith("/data/")
    assert not there.query
    assert not there.fragment


def test_a_file_of_a_hub_s_dataset_is_named_again_at_its_commit() -> None:
    found = parse_url("hf://datasets/o/n@main?endpoint=http://127.0.0.1:1")
    assert isinstance(found, HubDataset)
    again = parse_url(found.file("data/a b.jsonl", COMMIT))
    assert isinstance(again, HubDataset)
    assert (again.name, again.path, again.revision, again.endpoint) == (
        "o/n", "data/a b.jsonl", COMMIT, "http://127.0.0.1:1",
    )  # fmt: skip
    assert again.is_pinned
    assert not found.is_pinned
    assert is_whole_dataset("hf://datasets/o/n")
    assert not is_whole_dataset("hf://datasets/o/n/x.jsonl")
    assert not is_whole_dataset("s4://x")


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        (["https://a.example.com/x", "https://a.example.com/y"], ""),
        (["https://a.example.com/x", "https://b.example.com/y"], "2 hosts"),
        (["http://a.example.com/x"], "in the clear"),
        (["s3://one/x?region=eu-west-1", "s3://two/y"], ""),
        (["s3://one/x", "s3://one/x?endpoint=https://evil.example.com"], "2 hosts"),
        (["s3://one/x?endpoint=http://10.0.0.1:9000"], ""),
        (["gs://one/x", "s3://one/x"], "2 hosts"),
        (["gs://one/x/", "gs://two/y"], ""),
        (["abfs://rows@team1.dfs.core.windows.net/a", "abfs://rows@team2.dfs.core.windows.net/a"], "2 hosts"),
        (["abfs://rows@team1/a?endpoint=http://10.0.0.1:9000"], "in the clear"),
        (["hf://datasets/o/n", f"hf://datasets/o/n@{COMMIT}/x"], ""),
        (["hf://datasets/o/n?endpoint=http://10.0.0.1"], "in the clear"),
        (["https://[", "s4://x"], ""),
    ],
)
def test_one_secret_is_for_one_host(urls: list[str], said: str) -> None:
    told = misuse(urls)
    assert said in told[0] if told else said == ""


def test_the_keys_of_a_scheme() -> None:
    assert keys_of(scheme_of("https://x")).required == ("AUTHORIZATION",)
    assert keys_of(scheme_of("ABFSS://x")).one_of == ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN")
    assert keys_of(scheme_of("s3a://x")).all == (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "abfs://rows@team1.dfs.core.windows.net/a?endpoint=x",
            "abfs://rows@team1.dfs.core.windows.net/a?...",
        ),
        ("abfss://rows@team1.dfs.core.windows.net/a", "abfss://rows@team1.dfs.core.windows.net/a"),
        ("abfs://rows:CANARY@team1.dfs.core.windows.net/a", "abfs://team1.dfs.core.windows.net/a"),
        ("s3://CANARY@rows/a", "s3://rows/a"),
        ("hf://datasets/o/n@main?split=train", "hf://datasets/o/n@main?..."),
    ],
)
def test_what_is_shown_of_a_url_still_names_it(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert redact(f"see {url} there").startswith(f"see {shown}")


def test_a_url_whose_parameters_were_redacted_can_still_be_read() -> None:
    assert is_whole_dataset(redact_url("hf://datasets/o/n@main?split=train"))
