"""The data report as one page that needs nothing beside itself: no script, no font, no picture from elsewhere.

Rows are other people's texts: everything is escaped, and the page's own policy lets nothing run or load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from include.contracts.dataset_digest import short
from include.contracts.token_histogram import Histogram, histogram

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1d2126}
table{border-collapse:collapse;margin:.6rem 0 1.6rem}td,th{border:1px solid #d6d9de;padding:.3rem .5rem;text-align:left;
vertical-align:top;overflow-wrap:anywhere}th{background:#f3f4f6}td.number{font-variant-numeric:tabular-nums;
text-align:right}pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #d6d9de;padding:.5rem;
font:13px/1.4 ui-monospace,monospace}.learnt{background:#cfead6;color:#12391f}.bad{color:#a8201a}
svg text{font:11px system-ui,sans-serif}.note{color:#5b616b}
"""
_WIDTH, _HEIGHT = 640, 160

Sample = Sequence[tuple[str, bool]]


def page(report: Mapping[str, Any], samples: Iterable[Sample] = ()) -> str:
    """The HTML page of a dataset's report; `samples` are the first rows in pieces, each with whether it is learnt."""
    content = report.get("content") or {}
    parts = [
        f"<p>{escape(report['sentence'])}</p>",
        _findings(report.get("findings") or ()),
        "<h2>Rows</h2>",
        _table(("file", "layout", "used", "not used"), map(_source, report["sources"])),
        _counted("What is compared", "of the rows", _comparison(report.get("compared") or {})),
        _counted("Why rows are not used", "reason", report["dropped"]),
        _tokens(content),
        _held_out(content.get("held_out")),
        _counted(
            "Rows with what may be personal data or a secret", "looks like", content.get("personal") or {}
        ),
        _scanned(content),
        _counted("Writing systems", "share of the rows", _percent(content.get("scripts") or {})),
        _counted("Languages", "share of the rows", _percent(content.get("languages") or {})),
        _samples(samples, content.get("tokens") is not None),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width"><title>Dataset</title>'
        f"<style>{_STYLE}</style></head><body><h1>Dataset {escape(short(str(report['digest'])))}</h1>"
        f"{''.join(parts)}</body></html>\n"
    )


_COMPARED = {
    "pairs": "pairs of a better and a worse answer",
    "chosen_longer": "pairs whose better answer is the longer one",
    "good": "answers that are good",
    "bad": "answers that are bad",
}


def _comparison(found: Mapping[str, int]) -> dict[str, int]:
    return {_COMPARED.get(name, name): count for name, count in found.items()}


def _findings(findings: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(one)}</li>" for one in findings)
    return f"<ul>{items}</ul>" if items else ""


def _source(source: Mapping[str, Any]) -> tuple[object, ...]:
    dropped = sum((source.get("dropped") or {}).values())
    layout = f"{source.get('layout') or '-'} ({source.get('format')})"
    return source.get("url", ""), layout, source.get("rows", 0), dropped


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    def cell(value: object) -> str:
        kind = ' class="number"' if isinstance(value, int) else ""
        return f"<td{kind}>{escape(f'{value:,}' if isinstance(value, int) else str(value))}</td>"

    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _counted(title: str, what: str, counts: Mapping[str, object]) -> str:
    return f"<h2>{title}</h2>{_table((what, 'rows'), counts.items())}" if counts else ""


def _percent(shares: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{share:.1%}" for name, share in shares.items()}


def _tokens(content: Mapping[str, Any]) -> str:
    found = content.get("tokens")
    if not found:
        note = "The model's tokenizer is not on this machine: lengths are found when the training starts."
        return f'<h2>Tokens</h2><p class="note">{note}</p>'
    drawn = histogram(found, (_WIDTH, _HEIGHT))
    if drawn is None:
        return ""
    return f"<h2>Tokens a row</h2><p>{drawn.sentence}</p>{_bars(drawn, found['max_length'])}"


def _bars(drawn: Histogram, most: int) -> str:
    bars = "".join(
        f'<rect x="{bar.x}" y="{bar.y}" width="{bar.width}" height="{bar.height}" fill="#3b6fb6">'
        f"<title>{bar.title}</title></rect>"
        for bar in drawn.bars
    )
    mark = ""
    if (x := drawn.limit) is not None:
        mark = (
            f'<path d="M{x} 0V{_HEIGHT}" stroke="#a8201a"/><text x="{x + 4:.1f}" y="12">cut at {most}</text>'
        )
    axis = f'<text x="0" y="{_HEIGHT + 14}">0</text><text x="{_WIDTH - 40}" y="{_HEIGHT + 14}">{drawn.end}</text>'
    size = f'width="{_WIDTH}" height="{_HEIGHT + 18}" viewBox="0 0 {_WIDTH} {_HEIGHT + 18}"'
    return f'<svg role="img" aria-label="rows by tokens" {size}>{bars}{mark}{axis}</svg>'


def _held_out(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    note = "" if found["whole"] else " (of the rows that were looked at)"
    return (
        f"<h2>Held-out rows</h2><p>{found['rows']:,} rows are held out by their content{note}; the question of "
        f"{found['asked_in_training']:,} of them is also asked by a row that is trained on.</p>"
    )


def _scanned(content: Mapping[str, Any]) -> str:
    if not content.get("personal"):
        return ""
    return (
        f'<p class="note">Counted in {content["scanned_rows"]:,} of {content["rows"]:,} rows by simple patterns: some '
        "hits are none, and names and addresses are not recognised.</p>"
    )


def _samples(samples: Iterable[Sample], masked: bool) -> str:
    shown = "".join(f"<pre>{''.join(map(_piece, sample))}</pre>" for sample in samples)
    if not shown:
        return ""
    legend = (
        '<p class="note"><span class="learnt">Coloured</span>: what the loss is on.</p>' if masked else ""
    )
    return f"<h2>First rows, as the model reads them</h2>{legend}{shown}"


def _piece(piece: tuple[str, bool]) -> str:
    """Apart from its neighbours, so that text from right to left does not change their order."""
    text, learnt = piece
    kind = ' class="learnt"' if learnt else ""
    return f"<bdi{kind}>{escape(text)}</bdi>"
