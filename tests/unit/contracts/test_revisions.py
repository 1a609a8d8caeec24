"""What counts as a commit, and what could be a revision, of a repository on a hub."""

from __future__ import annotations

import pytest

from include.contracts.revisions import is_commit, is_revision

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_commit_is_forty_digits() -> None:
    assert is_commit(COMMIT)


@pytest.mark.parametrize(
    "text", ["", "main", COMMIT[:-1], f"{COMMIT}0", COMMIT.upper(), f"{COMMIT}\n", "g" * 40]
)
def test_what_may_move_is_no_commit(text: str) -> None:
    assert not is_commit(text)


@pytest.mark.parametrize("text", ["main", "v1.0", "refs/pr/12", "a-branch_2", COMMIT, "a" * 100])
def test_commits_branches_and_tags_are_revisions(text: str) -> None:
    assert is_revision(text)


@pytest.mark.parametrize(
    "text", ["", "../main", "a/../b", "a..b", "/main", "-x", "a b", "a?b", "main\n", "a" * 101]
)
def test_what_would_lead_elsewhere_is_no_revision(text: str) -> None:
    assert not is_revision(text)
