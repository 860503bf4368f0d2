"""Fills in pixels of an image from those around them."""

import numpy as np
from scipy import sparse
from scipy.sparse import linalg

# Steps to half of the neighbors, and their weights; the other half lies on the
# other side.
_NEIGHBORS = {(0, 1): 1 / 6, (1, 0): 1 / 6, (1, 1): 1 / 12, (1, -1): 1 / 12}


def filled(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Makes removed pixels the weighted mean of their eight neighbors.

    All at once: a neighbor that is removed, too, has the value that it gets.
    The weights of the neighbors that there are at a border have the sum 1.

    Args:
        image: Image `(H, W, C)`.
        removed: Which pixels are removed `(H, W)`, not all of them.

    Returns:
        Image `(H, W, C)`, float64.

    Reference:
        Rong et al., 2022, https://arxiv.org/abs/2202.00449.
    """
    found = image.astype("float64")
    unknown = np.flatnonzero(removed)
    if not unknown.size:
        return found
    height, width, channels = image.shape
    numbers = np.arange(height * width).reshape(height, width)
    ones, others, weights = [], [], []
    for (down, right), weight in _NEIGHBORS.items():
        columns = slice(max(0, -right), width - max(0, right))
        beside = slice(max(0, right), width + min(0, right))
        one = numbers[: height - down, columns].ravel()
        other = numbers[down:, beside].ravel()
        ones += [one, other]
        others += [other, one]
        weights += [np.full(2 * len(one), weight)]
    count = height * width
    near = sparse.coo_array(
        (
            np.concatenate(weights),
            (np.concatenate(ones), np.concatenate(others)),
        ),
        shape=(count, count),
    ).tocsr()[unknown]
    flat = found.reshape(count, channels)
    known = flat * ~removed.reshape(count, 1)
    system = sparse.diags_array(near.sum(axis=1)) - near[:, unknown]
    solver = linalg.splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A")
    flat[unknown] = solver.solve(near @ known)
    return flat.reshape(image.shape)
