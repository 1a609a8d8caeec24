"""Every text and every control of the pages stands out from what is behind it, as WCAG 2.2 AA counts it."""

from __future__ import annotations

import re

import pytest
from kaito.ui.rendering import HERE

CSS = (HERE / "static" / "kaito.css").read_text()
THEMES = [
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for block in re.findall(r"\{[^{}]*--back:[^{}]*\}", CSS)
]
TEXTS = [
    (text, back) for text in ("text", "soft", "link", "bad", "good", "busy") for back in ("back", "raised")
]
TEXTS += [(tone, f"{tone}-back") for tone in ("good", "bad", "busy", "idle")] + [("text", "bad-back")]
CONTROLS = [("edge", "back"), ("edge", "raised")]
#: Criterion 1.4.3 for texts, 1.4.11 for the edges of what can be filled in or pressed.
LEAST = dict.fromkeys(TEXTS, 4.5) | dict.fromkeys(CONTROLS, 3.0)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", THEMES)
def test_a_theme_has_contrast(theme: dict[str, str]) -> None:
    for (front, back), least in LEAST.items():
        darker, lighter = sorted((luminance(theme[front]), luminance(theme[back])))
        found = (lighter + 0.05) / (darker + 0.05)
        assert found >= least, f"--{front} on --{back} has {found:.2f}"


def test_the_dark_themes_are_one() -> None:
    """One for the system's setting, one for Airflow's: a colour that is changed in one is changed in both."""
    light, *dark = THEMES
    assert len(dark) == 2
    assert dark[0] == dark[1] != light
    assert set(light) == set(dark[0])
