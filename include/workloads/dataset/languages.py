"""Which languages texts are in, as far as their first words tell: a hint for the report, never a reason to drop a row.

The model is a file of the package (py3langid, 139 languages): nothing is fetched, and nothing of it can run code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

#: Characters that are looked at, and the least probability at which a language is named: code and numbers have none.
LOOKED_AT, SURE = 500, 0.5
UNKNOWN = "unknown"


def language_model() -> Any:
    """The model, which takes half a second to unpack and 80 MB of memory until it is let go."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Loading:
    """The model, unpacked in a thread from `begin` on: that takes no time while files are still on their way."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "languages")
        self._model: Future[Any] | None = None

    def begin(self) -> Future[Any]:
        """Begin, where that has not been done."""
        if self._model is None:
            self._model = self._thread.submit(language_model)
        return self._model


def languages(model: Any, texts: Sequence[str]) -> Counter[str]:
    """How many texts are in each language, by its ISO 639-1 code.

    `unknown` counts those of which it cannot be told: code, numbers, and a few words.
    """
    found = Counter[str]()
    for text in texts:
        language, sure = model.classify(text[:LOOKED_AT]) if any(map(str.isalpha, text)) else (UNKNOWN, 1.0)
        found[language if sure >= SURE else UNKNOWN] += 1
    return found
