"""Makes the sample Workspaces importable (tests are not packages here), and counts comparisons of names."""

import difflib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that difflib is asked to compare with known ones, one entry a look: that is what takes time."""
    seen: list[str] = []
    real = difflib.SequenceMatcher.set_seq1

    def counted(self: difflib.SequenceMatcher[str], name: str) -> None:
        seen.append(name)
        real(self, name)

    monkeypatch.setattr(difflib.SequenceMatcher, "set_seq1", counted)
    return seen
