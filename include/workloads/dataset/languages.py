"""Which languages texts are in, as far as their first words tell: a hint for the report, never a reason to drop a row.

The model is a file of the package (py3langid, 139 languages): nothing is fetched, and nothing of it can run code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

#: Characters that are looked at, and the least probability at which a language is named: code and numbers have none.
LOOKED_AT, SURE = 500, 0.5
UNKNOWN = "unknown"


def languages(texts: Sequence[str]) -> Counter[str]:
    """How many texts are in each language, by its ISO 639-1 code.

    `unknown` counts those of which it cannot be told: code, numbers, and a few words. The model takes 80 MB of memory
    and is given back at the end.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = Counter[str]()
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    for text in texts:
        language, sure = model.classify(text[:LOOKED_AT]) if any(map(str.isalpha, text)) else (UNKNOWN, 1.0)
        found[language if sure >= SURE else UNKNOWN] += 1
    return found
