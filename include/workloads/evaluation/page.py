"""The report as one page that needs nothing beside itself: no script, no font, no picture from elsewhere.

Prompts, answers and expectations are other people's texts: everything is escaped, and the page's own policy lets
nothing run or load.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from include.contracts.evaluation import (
    METRICS,
    Direction,
    GoldenRow,
    Interval,
    Metric,
    MetricFacts,
    Report,
    Subject,
)

_COLOURS = {Subject.BASE: "#8a8f98", Subject.CURRENT: "#3b6fb6", Subject.CANDIDATE: "#c0621f"}
_WIDTH, _BAR, _LEFT, _RIGHT = 560, 18, 90, 150
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1d2126}
table{border-collapse:collapse;width:100%;margin:.6rem 0 1.6rem}
td,th{border:1px solid #d6d9de;padding:.3rem .5rem;text-align:left;vertical-align:top}
th{background:#f3f4f6}td.number{font-variant-numeric:tabular-nums;white-space:nowrap}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;max-height:14rem;overflow:auto;
font:13px/1.35 ui-monospace,monospace}
.good{color:#17703b}.bad{color:#a8201a}.noise{color:#5b616b}figure{margin:0 0 1.2rem}
svg text{font:12px system-ui,sans-serif}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem}dt{color:#5b616b}
dd{margin:0;overflow-wrap:anywhere}
"""


def page(report: Report, digest: str) -> str:
    """The HTML page of a report; `digest` is the report's."""
    golden = _golden(report) if report.golden else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width"><title>Evaluation</title>'
        f"<style>{_STYLE}</style></head><body><h1>Evaluation of an adapter for {escape(report.model)}</h1>"
        f"{_facts(report, digest)}<h2>Metrics</h2>{_table(report)}{''.join(_charts(report))}{golden}</body></html>\n"
    )


def _facts(report: Report, digest: str) -> str:
    facts = {"report": digest, "base model": f"{report.model} {report.revision}".strip()}
    for subject, adapter in report.adapters.items():
        facts[f"{subject} adapter"] = adapter.image_digest or f"weights sha256:{adapter.weights_sha256}"
    if report.dataset_digest:
        facts["dataset"] = report.dataset_digest
    if (held := report.held_out) is not None:
        known = "" if held.current_overlap is None else f", {held.current_overlap} of them by the current one"
        facts["held-out rows"] = (
            f"{held.rows} of {held.rows + held.trained_rows} different rows; {held.overlap} of them were trained on"
            f"{known}"
        )
    facts["engine"] = f"{report.engine} on {report.device}, {report.dtype}"
    facts["intervals"] = (
        f"{report.confidence:.0%}, bootstrap of {report.bootstrap_samples} samples, seed {report.seed}; "
        "differences are paired"
    )
    facts["time"] = f"{report.seconds:.0f} s"
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return f"<dl>{rows}</dl>{f'<ul>{notes}</ul>' if notes else ''}"


def _subjects(report: Report) -> list[Subject]:
    return [subject for subject in Subject if subject in report.metrics]


def _table(report: Report) -> str:
    subjects = _subjects(report)
    others = [subject for subject in subjects if subject in report.differences]
    head = "".join(f"<th>{escape(str(one))}</th>" for one in subjects)
    head += "".join(f"<th>candidate against {escape(str(one))}</th>" for one in reversed(others))
    rows = []
    for metric, facts in METRICS.items():
        if metric not in report.metrics.get(Subject.CANDIDATE, {}):
            continue
        cells = "".join(_cell(report.metrics[one].get(metric), facts) for one in subjects)
        cells += "".join(_difference(report.differences[one].get(metric), facts) for one in reversed(others))
        sense = "more is better" if facts.better is Direction.HIGHER else "less is better"
        rows.append(
            f"<tr><td><b>{escape(str(metric))}</b><br>{escape(facts.title)}; {sense}</td>{cells}</tr>"
        )
    return f"<table><thead><tr><th>metric</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(interval: Interval | None, facts: MetricFacts) -> str:
    if interval is None:
        return "<td></td>"
    shown = f"{_number(interval.value, facts)}<br>{_number(interval.low, facts)} to {_number(interval.high, facts)}"
    return f'<td class="number">{shown}, n={interval.n}</td>'


def _difference(interval: Interval | None, facts: MetricFacts) -> str:
    if interval is None:
        return "<td></td>"
    up = 1 if facts.better is Direction.HIGHER else -1
    low, high = sorted((up * interval.low, up * interval.high))
    verdict, name = ("better", "good") if low > 0 else ("worse", "bad") if high < 0 else ("noise", "noise")
    numbers = f"{interval.value:+.4g} ({interval.low:+.3g} to {interval.high:+.3g})"
    return f'<td class="number {name}">{numbers}<br>{verdict}</td>'


def _number(value: float, facts: MetricFacts) -> str:
    if facts.unit == "share":
        return f"{value:.1%}"
    return f"{value:.4g}{f' {facts.unit}' if facts.unit else ''}"


def _charts(report: Report) -> Iterable[str]:
    for metric, facts in METRICS.items():
        found = [
            (one, report.metrics[one][metric]) for one in _subjects(report) if metric in report.metrics[one]
        ]
        if found:
            yield _chart(metric, facts, found)


def _chart(metric: Metric, facts: MetricFacts, found: list[tuple[Subject, Interval]]) -> str:
    """Bars with whiskers: each value and its confidence interval."""
    top = 1.0 if facts.unit == "share" else max(interval.high for _, interval in found) * 1.05 or 1.0
    room = _WIDTH - _LEFT - _RIGHT
    parts = []
    for place, (subject, interval) in enumerate(found):
        y = place * (_BAR + 8) + 4
        middle = y + _BAR / 2
        value, low, high = (
            max(0.0, min(1.0, part / top)) * room for part in (interval.value, interval.low, interval.high)
        )
        parts.append(
            f'<text x="0" y="{middle + 4:.0f}">{escape(str(subject))}</text>'
            f'<rect x="{_LEFT}" y="{y}" width="{value:.1f}" height="{_BAR}" fill="{_COLOURS[subject]}"/>'
            f'<path d="M{_LEFT + low:.1f} {middle}H{_LEFT + high:.1f}M{_LEFT + low:.1f} {middle - 5}v10'
            f'M{_LEFT + high:.1f} {middle - 5}v10" stroke="#1d2126" fill="none"/>'
            f'<text x="{_WIDTH - _RIGHT + 8}" y="{middle + 4:.0f}">{escape(_number(interval.value, facts))}</text>'
        )
    height = len(found) * (_BAR + 8) + 8
    name = escape(f"{metric}: {facts.title}")
    return (
        f"<figure><figcaption>{name}</figcaption>"
        f'<svg role="img" aria-label="{name}" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _golden(report: Report) -> str:
    assert report.golden is not None  # noqa: S101 - for the type; the caller has asked
    subjects = _subjects(report)
    head = "".join(f"<th>{escape(str(one))}</th>" for one in subjects)
    # What the candidate fails comes first: that is what whoever approves has to see.
    rows = sorted(report.golden.rows, key=lambda row: row.answers[Subject.CANDIDATE].passed)
    body = "".join(_golden_row(row, subjects) for row in rows)
    return (
        f"<h2>Golden set</h2><p>{escape(report.golden.digest)}</p><table><thead><tr><th>prompt</th>"
        f"<th>expected</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _golden_row(row: GoldenRow, subjects: list[Subject]) -> str:
    cells = []
    for subject in subjects:
        answer = row.answers[subject]
        name = "good" if answer.passed else "bad"
        verdict = "passes" if answer.passed else "fails"
        why = f": {escape(answer.why)}" if answer.why else ""
        cells.append(
            f'<td><span class="{name}">{verdict}, {answer.score:.2f}{why}</span><pre>{escape(answer.answer)}</pre></td>'
        )
    return (
        f"<tr><td><b>{escape(row.id)}</b><pre>{escape(row.prompt)}</pre></td>"
        f"<td>{escape(str(row.matcher))}<pre>{escape(row.expected)}</pre></td>{''.join(cells)}</tr>"
    )
