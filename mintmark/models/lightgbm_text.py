"""Trees written as a LightGBM text model, which `lightgbm.Booster` loads.

A tree's splits send x <= threshold left; a missing value (NaN) goes the way the split says. A split on a category lists
the codes that go left, as LightGBM's own; missing and unknown go right. No gains, covers or counts of
data are written: they would tell about rows. `tree_sizes` is left out because LightGBM aborts the whole process on a
wrong one. The base score is a first tree of one leaf. LightGBM takes numbers within 1e-35 of a threshold at zero for zero.

>>> import numpy as np
>>> stump = Tree(np.array([0]), np.array([1.5]), np.array([True]), np.array([-1]), np.array([-2]), np.array([0.25, -0.25]))
>>> load(write([stump], names=("amount",), base_score=-2.0)).predict([[1.0], [2.0]], raw_score=True).tolist()
[-1.75, -2.25]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mintmark.models.tree import Tree

if TYPE_CHECKING:
    import lightgbm

_MISSING_LEFT, _MISSING_RIGHT, _CATEGORY = 10, 8, 9  # decision_type: missing means NaN (8), default left (2), list (1)
_WORD_BITS = 32  # of the sets of codes


def write(trees: Iterable[Tree], *, names: Sequence[str], base_score: float) -> str:
    """The LightGBM text (format v4, binary objective) of `base_score` plus the sum of `trees`.

    Raises `ValueError` for a threshold or leaf value that is not finite.
    """
    blocks = [_constant(base_score), *(_tree(tree) for tree in trees)]
    header = {
        "version": "v4",
        "num_class": 1,
        "num_tree_per_iteration": 1,
        "label_index": 0,
        "max_feature_idx": len(names) - 1,
        "objective": "binary sigmoid:1",
        "feature_names": " ".join(names),
        "feature_infos": " ".join(["[-1e+308:1e+308]"] * len(names)),
    }
    parts = ["tree", *(f"{key}={value}" for key, value in header.items()), ""]
    for number, block in enumerate(blocks):
        parts += [f"Tree={number}", *(f"{key}={value}" for key, value in block.items()), "", ""]
    parts += ["end of trees", "", "feature_importances:", "", "parameters:", "[boosting: gbdt]", "[objective: binary]"]
    parts += ["end of parameters", "", "pandas_categorical:null", ""]
    return "\n".join(parts)


def load(text: str) -> lightgbm.Booster:
    """The Booster of a text that this module wrote. Never give it a text from outside: LightGBM trusts its input."""
    import lightgbm  # 1.3 CPU-seconds

    lightgbm.register_logger(_Silent())
    return lightgbm.Booster(model_str=text)


class _Silent:
    """LightGBM prints to stdout, which at a bank belongs to the worker's protocol."""

    def info(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...


def _constant(value: float) -> dict[str, object]:
    return {"num_leaves": 1, "num_cat": 0, "leaf_value": _numbers([value]), "is_linear": 0, "shrinkage": 1}


def _tree(tree: Tree) -> dict[str, object]:
    splits = len(tree.feature)
    if splits == 0:
        return _constant(float(tree.leaf_value[0]))
    categorical = sorted(tree.categories)
    threshold = tree.threshold.tolist()
    for place, split in enumerate(categorical):
        threshold[split] = place
    below = _leaves_below(tree)  # neutral covers, so that `pred_contrib` works: every leaf counts as one row
    return {
        "num_leaves": tree.leaves,
        "num_cat": len(categorical),
        "split_feature": " ".join(map(str, tree.feature.tolist())),
        "split_gain": " ".join(["1"] * splits),
        "threshold": _numbers(threshold),
        "decision_type": " ".join(map(str, _decision_types(tree))),
        "left_child": " ".join(map(str, tree.left.tolist())),
        "right_child": " ".join(map(str, tree.right.tolist())),
        "leaf_value": _numbers(tree.leaf_value.tolist()),
        "leaf_weight": " ".join(["1"] * tree.leaves),
        "leaf_count": " ".join(["1"] * tree.leaves),
        "internal_value": " ".join(["0"] * splits),
        "internal_weight": " ".join(map(str, below)),
        "internal_count": " ".join(map(str, below)),
        **_code_sets([tree.categories[split] for split in categorical]),
        "is_linear": 0,
        "shrinkage": 1,
    }


def _decision_types(tree: Tree) -> list[int]:
    return [
        _CATEGORY if split in tree.categories else _MISSING_LEFT if left else _MISSING_RIGHT
        for split, left in enumerate(tree.missing_left)
    ]


def _code_sets(sets: list[tuple[int, ...]]) -> dict[str, object]:
    """Sets of codes as bits in words of 32, one after the other; `cat_boundaries` are where each begins and ends."""
    if not sets:
        return {}
    words, boundaries = [], [0]
    for codes in sets:
        bits = sum(1 << code for code in codes)
        length = max(codes) // _WORD_BITS + 1
        words += [bits >> _WORD_BITS * place & (1 << _WORD_BITS) - 1 for place in range(length)]
        boundaries.append(len(words))
    return {"cat_boundaries": " ".join(map(str, boundaries)), "cat_threshold": " ".join(map(str, words))}


def _leaves_below(tree: Tree) -> list[int]:
    counts = [0] * len(tree.feature)
    for split in _children_first(tree):
        counts[split] = sum(1 if child < 0 else counts[child] for child in (tree.left[split], tree.right[split]))
    return counts


def _children_first(tree: Tree) -> list[int]:
    order, stack = [], [0]
    while stack:
        split = stack.pop()
        order.append(split)
        stack += [int(child) for child in (tree.left[split], tree.right[split]) if child >= 0]
    return order[::-1]


def _numbers(values: Iterable[float]) -> str:
    """Shortest decimals that read back to the same float64."""
    texts = [repr(float(value)) for value in values]
    if any(text in ("nan", "inf", "-inf") for text in texts):
        raise ValueError("expected finite thresholds and leaf values, got one that is not")
    return " ".join(texts)
