"""Bins and coefficients written as a scikit-learn pipeline, which ends in a `LogisticRegression`.

Every step is scikit-learn's own: missing values become the lowest number, numbers become bins, bins become one-hot columns,
and the columns have coefficients. Nothing in it is code, so skops can store it and say what is inside. It predicts what
the learner's own scores say, on edges and missing values too. Unlike the LightGBM text it refuses infinite values.

    pipeline(schema.names, bins, Coefficients(-4.6, weights)).predict_proba(features)[:, 1]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mintmark.models.bins import Bins, NumberBins
from mintmark.models.logistic_step import Coefficients

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

TRUSTED_TYPES = ["numpy.dtype"]
"""What skops is told to trust beyond scikit-learn and arrays: the imputer keeps the type of its numbers."""

_LOWEST = -float(np.finfo(np.float64).max)
_ZERO = float(np.float32(1e-35))  # numbers this near to zero are zero (LightGBM's rule)

Floats = npt.NDArray[np.float64]


def pipeline(names: Sequence[str], bins: Sequence[Bins], coefficients: Coefficients) -> Pipeline:
    """The finished model over columns `names` [F]; `coefficients.weights` is [F, W]."""
    from sklearn.impute import SimpleImputer  # two CPU-seconds that no bank's round needs
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder

    edges = [_edges_going_right(own) for own in bins]
    columns = [_weights_by_column(own, weights) for own, weights in zip(bins, coefficients.weights, strict=True)]
    nothing = np.zeros((1, len(names)))
    missing = SimpleImputer(strategy="constant", fill_value=_LOWEST, keep_empty_features=True).fit(nothing)
    missing.feature_names_in_ = np.array(names, dtype=object)
    discretizer = KBinsDiscretizer(encode="ordinal")
    discretizer.n_features_in_ = len(names)
    discretizer.n_bins_ = np.array([len(own) + 1 for own in edges])
    discretizer.bin_edges_ = np.empty(len(edges), dtype=object)
    for place, own in enumerate(edges):
        discretizer.bin_edges_[place] = np.concatenate([[_LOWEST], own, [np.inf]])
    one_hot = OneHotEncoder(categories=[np.arange(len(own) + 1.0) for own in edges]).fit(nothing)
    regression = LogisticRegression()
    regression.classes_ = np.array([0, 1])
    regression.coef_ = np.concatenate(columns)[None]
    regression.intercept_ = np.array([coefficients.intercept])
    regression.n_features_in_ = regression.coef_.shape[1]
    return Pipeline(
        [("missing", missing), ("bins", discretizer), ("one_hot", one_hot), ("logistic_regression", regression)]
    )


def _edges_going_right(bins: Bins) -> Floats:
    """Edges where scikit-learn's bins part: it sends an edge itself right, ours go left. The first parts the missing."""
    if isinstance(bins, NumberBins):
        left = np.where(np.abs(bins.edges) > _ZERO, bins.edges, _ZERO)
        return np.asarray(np.nextafter(np.concatenate([[_LOWEST], left]), np.inf))
    codes = sum(len(group) for group in bins.groups)  # a value is cut to a whole number: up to -1 is no code
    return np.array([np.nextafter(-1.0, 0.0), *range(1, codes + 1)])


def _weights_by_column(bins: Bins, weights: Floats) -> Floats:
    """The coefficients of one feature's one-hot columns. A category has a column a code, and one for unknown codes."""
    if isinstance(bins, NumberBins):
        return np.asarray(weights[: bins.splits + 2])
    own = {code: weights[1 + place] for place, group in enumerate(bins.groups) for code in group}
    return np.array([weights[0], *(own[code] for code in sorted(own)), weights[0]])
