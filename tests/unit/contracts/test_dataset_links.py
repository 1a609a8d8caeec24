"""Links that people copy out of a browser: the page, or the file."""

from __future__ import annotations

import pytest

from include.contracts.dataset_links import page_fault


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://huggingface.co/datasets/a/b/blob/main/x.jsonl", "write https://huggingface.co/datasets/a/b/resolve/main"),
        ("https://www.hf.co/datasets/a/b/blob/main/x.jsonl?x=1", "write https://hf.co/datasets/a/b/resolve/main/x.jsonl"),
        ("https://github.com/a/b/blob/main/x.jsonl", "write https://github.com/a/b/raw/main/x.jsonl"),
        ("https://huggingface.co/datasets/a/b", "a page about a dataset"),
        ("https://huggingface.co/datasets/a/b/tree/main", "a page about a dataset"),
        ("https://huggingface.co/datasets/a/b/viewer/default/train?p=1", "a page about a dataset"),
        ("https://huggingface.co/datasets/a/b/resolve/main/x.parquet?download=true", ""),
        ("https://huggingface.co/datasets/a/b/raw/main/x.jsonl", ""),
        ("https://huggingface.co/api/datasets/a/b/parquet/default/train/0.parquet", ""),
        ("https://example.com/datasets/a/b", ""),
        ("https://[x/datasets/", ""),
    ],
)  # fmt: skip
def test_a_page_is_told_from_a_file(url: str, words: str) -> None:
    told = page_fault(url)
    assert words in " ".join(told) if told else words == ""
