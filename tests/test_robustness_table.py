"""The robustness benchmark's table: what is kept, under which attack least, and nothing invented where cells are gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.robustness.campaigns import Cell, CellStore
from benchmarks.robustness.table import draw_plot, markdown, summarise

RULES, ATTACKS = ("weighted_mean", "krum"), ("none", "alie", "mimic")


def records(figures: dict[tuple[str, str, int], float], store: CellStore) -> list[dict[str, object]]:
    cells = []
    for (rule, attack, seed), auprc in figures.items():
        cell = Cell(seed, "simulator", 8, "guided_boosting", attack, rule)
        assert not store.has(cell)
        store.write(cell, auprc, 1.0)
        assert store.has(cell)
        cells.append(store.read(cell))
    return cells


def test_what_is_kept_is_of_the_same_seeds(tmp_path: Path) -> None:
    """A seed without its clean campaign does not count in what is kept; a rule's worst attack is named."""
    figures = {("krum", "none", 1): 0.5, ("krum", "alie", 1): 0.4, ("krum", "alie", 2): 0.0, ("krum", "mimic", 1): 0.45}
    figures[("weighted_mean", "none", 1)] = 0.4
    (panel,) = summarise(records(figures, CellStore(tmp_path)), ATTACKS, RULES)
    assert panel.kept[1].tolist() == pytest.approx([1.0, 0.8, 0.9])
    assert panel.worst(1) == (pytest.approx(0.8), "alie")
    assert np.isnan(panel.worst(0)[0])
    text = markdown([panel])
    assert "80% (alie)" in text
    assert "| weighted_mean | 0.400 |  |  |  | 0% |" in text


def test_the_heat_map_is_drawn(tmp_path: Path) -> None:
    """Also with gaps."""
    (panel,) = summarise(
        records({("krum", "none", 1): 0.5, ("krum", "alie", 1): 0.4}, CellStore(tmp_path)), ATTACKS, RULES
    )
    draw_plot([panel, panel, panel], tmp_path / "plots" / "map.png")
    assert (tmp_path / "plots" / "map.png").stat().st_size > 5000
