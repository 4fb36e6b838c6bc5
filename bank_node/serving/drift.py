"""This month's payments beside the bank's own rows: features and scores, on public bins. Nothing leaves the bank.

measured = measure_drift(Path("november.parquet"), table, served.scorer)
measured["amount"].reading, measured["score"].index.value
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bank_node.personal.pictures import save_figure
from bank_node.personal.scorer import Scores
from bank_node.personal.scoring import BATCH_ROWS, batch_features
from mintmark.drift import SOME, STRONG, Drift, drift_of
from mintmark.errors import DataError
from mintmark.models.bins import Bins, NumberBins, public_bins
from mintmark.models.score_histogram import FEW_CELLS, score_edges
from mintmark.schema import FeatureSchema
from mintmark.table import Table

BINS = 20  # of a number; a category has one a word
SCORE = "score"
SHOWN = 30
COLOURS = {"none": "#c9ced6", "little": "#8fb3e0", "some": "#e0a030", "strong": "#c2410c"}

Floats = npt.NDArray[np.float64]
Counts = dict[str, Floats]


def measure_drift(file: Path, table: Table, scorer: Scores) -> dict[str, Drift]:
    """The drift of the score, then of every feature, largest first: from the bank's `table` to the rows of a Parquet file.

    Features are compared with the training rows', scores with the held-out rows', which no model has seen. Labels are not
    needed. Raises `DataError`: not readable, a column missing, or no rows.
    """
    schema = table.schema
    bins = public_bins(schema, BINS)
    before = _added(None, table.train().features, scorer, schema, bins)
    if table.test.any():
        before[SCORE] = _added(None, table.test_part().features, scorer, schema, bins)[SCORE]
    after: Counts | None = None
    try:
        with pq.ParquetFile(file) as source:
            if missing := [name for name in schema.names if name not in source.schema_arrow.names]:
                raise DataError(f"expected the columns {', '.join(schema.names)}, got no {', '.join(missing)}")
            outside = dict.fromkeys(schema.names, 0)
            for batch in source.iter_batches(BATCH_ROWS, columns=list(schema.names)):
                after = _added(after, batch_features(batch, schema, outside), scorer, schema, bins)
    except DataError as error:
        raise DataError(f"{file.name}: {error}") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file.name}: expected a readable Parquet file, got {type(error).__name__}") from None
    if after is None:
        raise DataError(f"{file.name}: expected rows, got an empty file")
    drifts = {name: drift_of(before[name], after[name]) for name in schema.names}
    largest = sorted(drifts, key=lambda name: -(drifts[name].index.value or 0.0))
    return {SCORE: drift_of(before[SCORE], after[SCORE])} | {name: drifts[name] for name in largest}


def draw_drift(path: Path, measured: dict[str, Drift], title: str) -> None:
    """A bar each, coloured where it is more than chance makes, with the chance's bound and the usual readings."""
    from matplotlib.figure import Figure

    names = list(measured)[:SHOWN]
    drawn = [measured[name] for name in names]
    figure = Figure(figsize=(8, 1.6 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    axes.barh(places, [drift.index.value or 0.0 for drift in drawn], color=[COLOURS[drift.reading] for drift in drawn])
    axes.plot(
        [drift.by_chance for drift in drawn], places, "|", color="#333333", markersize=12, label="by chance, 95 %"
    )
    for bound, word in ((SOME, "some"), (STRONG, "strong")):
        axes.axvline(bound, color="#7a869a", linewidth=1, linestyle=":")
        axes.annotate(word, (bound, -0.9), fontsize=8, color="#7a869a", ha="center", annotation_clip=False)
    axes.set(yticks=places, yticklabels=names, xlabel="population stability index")
    axes.set_ylim(len(names) - 0.5, -1.2)
    axes.legend(frameon=False, loc="lower right")
    figure.suptitle(title)
    save_figure(figure, path)


def _added(
    counts: Counts | None, features: Floats, scorer: Scores, schema: FeatureSchema, bins: tuple[Bins, ...]
) -> Counts:
    """The counts so far and those of more rows: of scores, and of every feature, missing values first."""
    probability = 1 / (1 + np.exp(-scorer.raw(features)))
    found = {
        SCORE: np.bincount(np.searchsorted(score_edges(FEW_CELLS), probability), minlength=FEW_CELLS).astype(float)
    }
    for column, (name, own) in enumerate(zip(schema.names, bins, strict=True)):
        found[name] = count_bins(own, features[:, column])
    return found if counts is None else {name: counts[name] + more for name, more in found.items()}


def count_bins(bins: Bins, values: Floats) -> Floats:
    """How many of the values [n] lie in each bin, missing first: [bins + 1].

    >>> count_bins(NumberBins(np.array([1.0, 2.0])), np.array([0.5, 1.0, 1.5, 9.0, np.nan])).tolist()
    [1.0, 2.0, 1.0, 1.0]
    """
    known = values[~np.isnan(values)]
    if isinstance(bins, NumberBins):
        at, count = np.searchsorted(bins.edges, known, side="left"), len(bins.edges) + 1
    else:
        group = {code: place for place, codes in enumerate(bins.groups) for code in codes}
        at, count = np.array([group[int(code)] for code in range(len(group))])[known.astype(int)], len(bins.groups)
    return np.append(len(values) - len(known), np.bincount(at, minlength=count)).astype(float)
