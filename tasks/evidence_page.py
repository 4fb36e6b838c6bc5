"""The evidence pack as one page for people: no script, no link to anything outside, plots inside, fit for printing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mintmark.canonical import canonical_json, digest
from tasks.evidence_plots import drift_rows, plots_of
from tasks.shipped import shipped

TEMPLATE = "evidence.html.jinja"
LABELS = {
    "rows": "held-out rows",
    "positives": "frauds",
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "recall_at_false_positives": "recall at fixed false alarms",
    "recall_at_alerts": "recall at the alert budget",
    "calibration_error": "calibration error",
    "value_detected": "value detected",
    "false_alarm_rate": "false alarms at one threshold",
}


def render(pack: Mapping[str, Any]) -> str:
    """HTML of a pack. Whatever text the pack holds is escaped; only our own plots are put in as they are."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    numbers = {record["key"]: place for place, record in enumerate(pack["records"], start=1)}
    environment.filters.update(number=number, percent=percent, interval=interval, paragraphs=paragraphs, when=when)
    environment.globals.update(record=numbers.__getitem__, labels=LABELS, drift_rows=drift_rows)
    template = environment.from_string(shipped(TEMPLATE).read_text())
    plots = {name: Markup(svg) for name, svg in plots_of(pack).items()}  # noqa: S704 - matplotlib escapes its text
    return template.render(pack=pack, plots=plots, pack_sha256=pack_digest(pack))


def pack_digest(pack: Mapping[str, Any]) -> str:
    """SHA-256 of the pack's canonical JSON, which is what its file holds."""
    return digest(canonical_json(dict(pack)))


def number(value: float | None, digits: int = 3) -> str:
    """For people: whole numbers with commas, others to three digits, and a dash for what is not defined.

    >>> number(12345.0), number(0.41234), number(1e-6), number(None)
    ('12,345', '0.412', '1e-06', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits else f"{value:.2g}"


def percent(share: float | None) -> str:
    """A share in per cent, to two places.

    >>> percent(0.00512), percent(None)
    ('0.51', '–')
    """
    return "–" if share is None else f"{100 * share:.2f}"


def interval(figure: Mapping[str, float | None]) -> str:
    """A figure's interval; empty for one that is not defined.

    >>> interval({"value": 0.5, "low": 0.4, "high": 0.61})
    '0.400 to 0.610'
    """
    return "" if figure["low"] is None else f"{number(figure['low'])} to {number(figure['high'])}"


def paragraphs(text: str) -> list[str]:
    """A card's text by its empty lines."""
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def when(moment: str) -> str:
    """A moment of ISO 8601 for people.

    >>> when("2026-03-02T09:02:40Z")
    '2026-03-02 09:02 UTC'
    """
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
