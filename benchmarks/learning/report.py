"""From records to what people and programs read: means and spreads over seeds, gains with intervals, tables.

The summary, which is also the JSON: `figures` has one entry a set, method, epsilon and place with the mean and standard
deviation over seeds of every figure; `relative` the AUPRC of pooled rows over the centralised model's; `gains` what the
deployed model gains over the bank's own, with the middle 95 % of draws of customers (each draw averaged over seeds);
`unit` is the privacy unit and `tuned` what was chosen for the centralised model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.learning.cells import POOLED, WITH_BUDGET, Record
from benchmarks.learning.figures import interval
from mintmark.plan import PrivacyUnit

OTHERS = {"auroc": "ROC-AUC", "recall": "recall", "value": "value"}
METHODS = {
    "own": "own models",
    "average": "their logit average",
    "federated": "federated",
    "linear": "linear",
    "deployed": "deployed",
    "central": "centralised",
}
NOTE = (
    "Own and deployed models score their own bank's test rows, all others score all rows. Share is of the centralised "
    "AUPRC. Recall and value (the frauds' amounts, not their number) are what is caught when .5 % of the honest rows are "
    "flagged. ± is the standard deviation over n seeds. Linear is logistic regression. Intervals are of the mean gain "
    "over seeds, under draws of customers. Hyper-parameters are chosen on validation customers inside the training rows. "
    "Banks are in the order of their size."
)
SHOWN_GAINS = (1.0, 4.0)
Summary = dict[str, Any]


def summarise(records: Sequence[Record], unit: PrivacyUnit, tuned: Mapping[str, Record]) -> Summary:
    """See the module. `tuned` says of each set what the centralised model's search chose."""
    figures = [_entry(key, group) for key, group in _grouped(records, ("set", "method", "epsilon", "where"))]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "unit": unit.value,
        "tuned": dict(tuned),
        "figures": figures,
        "relative": _relative(figures),
        "gains": _gains(records),
    }


def select(entries: Iterable[Record], **wanted: Any) -> list[Record]:
    """The entries whose fields are all as wanted."""
    return [entry for entry in entries if all(entry[name] == value for name, value in wanted.items())]


def _grouped(records: Sequence[Record], names: tuple[str, ...]) -> Iterable[tuple[Record, list[Record]]]:
    def key(record: Record) -> tuple[str, ...]:
        return tuple(str(record[name]) for name in names)

    for _, group in groupby(sorted(records, key=key), key):
        members = list(group)
        yield {name: members[0][name] for name in names}, members


def _entry(key: Record, group: list[Record]) -> Record:
    entry = {**key, "rows": group[0]["rows"], "seeds": len(group)}
    for figure in ("auprc", *OTHERS):
        values = [record[figure] for record in group]
        entry[figure] = round(float(np.mean(values)), 4)
        entry[f"{figure}_sd"] = round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None
    return entry


def _relative(figures: list[Record]) -> list[Record]:
    whole = {entry["set"]: entry["auprc"] for entry in select(figures, method="central", where=POOLED)}
    return [
        {name: entry[name] for name in ("set", "method", "epsilon")}
        | {"auprc": round(entry["auprc"] / whole[entry["set"]], 4)}
        for entry in select(figures, where=POOLED)
        if entry["set"] in whole
    ]


def _gains(records: Sequence[Record]) -> list[Record]:
    """For every bank and epsilon: AUPRC own and deployed, their difference, its interval, and the gain in per cent."""
    own = {(record["set"], record["where"], record["seed"]): record for record in select(records, method="own")}
    banks = [record for record in select(records, method="deployed") if record["where"] != POOLED]
    found = []
    for key, group in _grouped(banks, ("set", "epsilon", "where")):
        before = [own[record["set"], record["where"], record["seed"]] for record in group]
        differences = np.mean(
            [np.subtract(after["draws"], first["draws"]) for after, first in zip(group, before, strict=True)], axis=0
        )
        low, high = interval(differences)
        base, reached = (float(np.mean([record["auprc"] for record in part])) for part in (before, group))
        found.append(
            {"set": key["set"], "epsilon": key["epsilon"], "bank": key["where"], "rows": group[0]["rows"]}
            | {"own": round(base, 4), "deployed": round(reached, 4), "gain": round(reached - base, 4)}
            | {"low": round(low, 4), "high": round(high, 4), "percent": round(100 * (reached / base - 1), 1)}
            | {"kept_own": sum(record["keeps_own"] for record in group), "seeds": len(group)}
        )
    return sorted(found, key=lambda gain: -gain["rows"])


def print_report(summary: Summary, console: Console) -> None:
    """The tables, for a terminal."""
    console.print(f"Privacy unit: {summary['unit']}. {NOTE}")
    for title, head, rows in tables(summary):
        table = RichTable(title=title, title_justify="left")
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def markdown(summary: Summary) -> str:
    """The section for docs/benchmarks.md."""
    lines = [f"## Learning, {summary['unit']} as unit ({summary['date']})", "", NOTE, ""]
    for title, head, rows in tables(summary):
        lines += [title, "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    lines += [_tuned_sentence(name, chosen) for name, chosen in summary["tuned"].items()]
    return "\n".join([*lines, ""])


def _tuned_sentence(name: str, chosen: Record) -> str:
    values = ", ".join(f"{key} {value}" for key, value in chosen["parameters"].items())
    reached = f"validation AUPRC {_number(chosen['auprc'])}, the best of {chosen['trials']}"
    return f"- {name}, centralised: {chosen['trees']} trees, {values} ({reached})"


def tables(summary: Summary) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """(title, head, rows) of the tables of each set: all figures on all test rows, AUPRC by bank, gains by bank."""
    for name in sorted({entry["set"] for entry in summary["figures"]}):
        figures = select(summary["figures"], set=name)
        budgets = sorted({_rank(entry["epsilon"]) for entry in figures if entry["method"] in WITH_BUDGET})
        shown = 4.0 if 4.0 in budgets else budgets[-1]
        yield f"{name}: all test rows", *_by_method(select(figures, where=POOLED), budgets)
        yield f"{name}: AUPRC on each bank's test rows at {_label(shown)}", *_by_bank(figures, shown)
        for rank in [rank for rank in budgets if rank in SHOWN_GAINS] or budgets[-1:]:
            gains = [gain for gain in select(summary["gains"], set=name) if _rank(gain["epsilon"]) == rank]
            yield f"{name}: deployed over own model at {_label(rank)}", *_gains_table(gains)


def _by_method(pooled: list[Record], budgets: list[float]) -> tuple[list[str], list[list[str]]]:
    """One row a method and epsilon."""
    whole = _at(pooled, "central", budgets[0])
    rows = []
    for method, text in METHODS.items():
        for rank in budgets if method in WITH_BUDGET else budgets[:1]:
            if entry := _at(pooled, method, rank):
                named = f"{text}, {_label(rank)}" if method in WITH_BUDGET else text
                share = f"{100 * entry['auprc'] / whole['auprc']:.0f} %" if whole else "-"
                others = [_number(entry[name]) for name in OTHERS]
                rows.append([named, _mean(entry, "auprc"), share, *others, str(entry["seeds"])])
    return ["", "AUPRC", "share", *OTHERS.values(), "n"], rows


def _by_bank(figures: list[Record], rank: float) -> tuple[list[str], list[list[str]]]:
    ranked = sorted(select(figures, method="own"), key=lambda entry: -entry["rows"])
    banks = [entry["where"] for entry in ranked if entry["where"] != POOLED]
    rows = []
    for bank in banks:
        entries = [_at(select(figures, where=bank), method, rank) for method in METHODS]
        rows.append([bank, *(_number(entry["auprc"]) if entry else "-" for entry in entries)])
    return ["bank", *METHODS], rows


def _gains_table(gains: list[Record]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for gain in gains:
        spread = f"{_signed(gain['low'])} to {_signed(gain['high'])}"
        reached = [_number(gain["own"]), _number(gain["deployed"]), f"{gain['percent']:+.1f} %"]
        rows.append([gain["bank"], *reached, spread, f"{gain['kept_own']} of {gain['seeds']}"])
    return ["bank", "own", "deployed", "gain", "95 % of AUPRC gained", "kept own"], rows


def _at(entries: list[Record], method: str, rank: float) -> Record | None:
    """The method's entry at an epsilon; what knows no epsilon has one only."""
    found = [
        entry
        for entry in select(entries, method=method)
        if method not in WITH_BUDGET or _rank(entry["epsilon"]) == rank
    ]
    return found[0] if found else None


def _mean(entry: Record, figure: str) -> str:
    spread = entry[f"{figure}_sd"]
    return _number(entry[figure]) + (f" ±{_number(spread)}" if spread is not None else "")


def _number(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("0.", ".", 1)


def _rank(epsilon: float | None) -> float:
    return float("inf") if epsilon is None else epsilon


def _label(rank: float) -> str:
    return "no noise" if rank == float("inf") else f"epsilon {rank:g}"
