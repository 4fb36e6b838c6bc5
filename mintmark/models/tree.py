"""A tree: the value that structures are drawn as, that sums are asked for, and that the model is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Tree:
    """A binary tree of m splits and m + 1 leaves.

    `feature`, `threshold`, `missing_left`, `left`, `right` are [m]; a child >= 0 is a split, a child c < 0 is the leaf
    ~c. `leaf_value` [m + 1] holds raw scores (log-odds), already scaled by the step. Split 0 is the root. A number x goes
    left when x <= threshold. At a split that is in `categories`, the codes listed there go left and all else goes right:
    other codes, unknown ones, missing values; its threshold and missing_left say nothing.
    """

    feature: npt.NDArray[np.integer]
    threshold: npt.NDArray[np.float64]
    missing_left: npt.NDArray[np.bool_]
    left: npt.NDArray[np.integer]
    right: npt.NDArray[np.integer]
    leaf_value: npt.NDArray[np.float64]
    categories: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def leaves(self) -> int:
        return len(self.leaf_value)

    def structure(self) -> list[Any]:
        """Everything but the leaf values, for canonical JSON: what decides which leaf a row falls in."""
        arrays = (self.feature, self.threshold, self.missing_left, self.left, self.right)
        listed = [[split, sorted(codes)] for split, codes in sorted(self.categories.items())]
        return [*(array.tolist() for array in arrays), listed]
