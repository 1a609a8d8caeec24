"""Names for lineage tools: the same thing always has the same name, and none of them holds a secret."""

from __future__ import annotations

from typing import Any

import pytest

from include.retraining.places import Place, adapter_place, dataset_places, service_place

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("source", "places"),
    [
        (
            {
                "urls": [
                    "abfs://rows@team1.dfs.core.windows.net/a.csv",
                    "abfs://rows:pw@team1.dfs.core.windows.net/a.csv",
                    "s3://rows/a/b.csv?region=eu-west-1",
                ]
            },
            [
                Place("abfs://rows@team1.dfs.core.windows.net", "/a.csv", "sha256:d"),
                Place("abfs://team1.dfs.core.windows.net", "/a.csv", "sha256:d"),
                Place("s3://rows", "/a/b.csv", "sha256:d"),
            ],
        ),
        (
            {"urls": ["https://user:word@x.io:8443/a.csv?sig=SECRET", "http://x.io"]},
            [Place("https://x.io", "/a.csv", "sha256:d"), Place("http://x.io", "/", "sha256:d")],
        ),
        ({"image": f"r.io/data@{DIGEST}"}, [Place("oci://r.io", "data", DIGEST)]),
        ({"image": "r.io/data:1"}, [Place("oci://r.io", "data", "1")]),
        ({"image": "no image"}, []),
        (
            {"volumeSource": {"persistentVolumeClaim": {"claimName": "rows"}}},
            [Place("x-kaito://volumes", "rows", "sha256:d")],
        ),
        ({"volumeSource": {"nfs": {}}}, []),
        ({}, []),
    ],
)
def test_a_dataset(source: dict[str, Any], places: list[Place]) -> None:
    assert dataset_places({"tuning": {"input": source}}, "sha256:d") == places


def test_an_adapter_is_one_place_whichever_of_its_versions_it_is() -> None:
    by_tag, by_digest = (
        adapter_place("r.io/phi:1-20261128.1", DIGEST),
        adapter_place(f"r.io/phi@{DIGEST}", None),
    )
    assert by_tag == by_digest == [Place("oci://r.io", "phi", DIGEST)]
    assert adapter_place(None, None) == []


def test_a_service_is_named_by_its_workspace() -> None:
    assert service_place("ml", "phi", None) == Place("x-kaito://served", "ml/phi")
