"""A date may stand in a file's URL, and nothing that computes or hides something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.retraining.dated_urls import faults


@pytest.mark.parametrize(
    "url",
    [
        "https://data.example.com/a.parquet",
        "https://data.example.com/{{ ds }}/{{ds_nodash}}.parquet",
        "https://data.example.com/{{ data_interval_start.strftime('%Y/%m') }}.csv",
        "s3://rows/{{ ds }}.parquet?region=eu-west-1",
        "hf://datasets/o/n@main/{{ ds }}.parquet",
        'http://10.0.0.1:8000/{{ logical_date.strftime("%Y-%m-%d") }}.csv',
    ],
)
def test_dates(url: str) -> None:
    assert list(faults(url)) == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://x.io/{{ ds }", "does not end"),
        ("https://x.io/{% if 1 %}a{% endif %}", "is no date"),
        ("https://x.io/{{ conn.secret.password }}", "is no date"),
        ("https://x.io/{{ var.value.x }}", "is no date"),
        ("https://x.io/{{ macros.os.system('x') }}", "is no date"),
        ("https://x.io/{{ ds.__class__ }}", "is no date"),
        ("https://x.io/{{ run_id }}", "is nothing of a run's date"),
        ("https://x.io/{{ dss }}", "did you mean ds"),
        ("https://x.io/a?sig=SECRET", "no place for secrets"),
        ("https://user:word@x.io/a", "no place for secrets"),
        ("ftp://bucket/{{ ds }}", "is not a scheme"),
        ("https://[x.io/", "is no URL"),
    ],
)
def test_what_is_no_date(url: str, told: str) -> None:
    assert any(told in fault for fault in faults(url)), list(faults(url))


@given(st.text(alphabet="{}%#ds. ()'_x/", max_size=30))
def test_whatever_is_written_only_a_date_is_ever_rendered(text: str) -> None:
    url = f"https://x.io/{text}"
    if not list(faults(url)):
        for part in url.split("{{")[1:]:
            assert part.partition("}}")[0].strip().partition(".")[0] in ("ds",)
        assert "{%" not in url
