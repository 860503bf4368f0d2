"""Spearman's rank correlation, which several metrics are."""

import numpy as np
from scipy import stats


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Correlates the ranks of values; equal ones share the mean of theirs.

    Args:
        one: Values of any shape.
        other: As many values, in the same order.

    Returns:
        A number in [-1, 1]; 0 if all values of one of them are equal.
    """
    x, y = (stats.rankdata(values) for values in (one, other))
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / scale, -1, 1)) if scale > 0 else 0.0
