"""How much of the image does a map mark? Metrics of the map alone.

They say nothing of whether the map is right: a single pixel, wherever it lies,
is as concentrated as a map can be. Read them beside faithfulness.
"""

import numpy as np

from keras_lficam.functional import Tensor
from keras_lficam.metrics import _checks
from keras_lficam.metrics._direction import higher_is_better, lower_is_better


@higher_is_better
def sparseness(maps: Tensor) -> np.ndarray:
    """Measures how unequal the values of a map are: the Gini index.

    With the magnitudes `v` of its `n` pixels in rising order it is

        1 - 2 sum_k v_k / sum(v) (n - k + 1/2) / n,    k = 1 to n

    Args:
        maps: Heat maps `(B, H, W, 1)`, of [0, 1] or signed.

    Returns:
        Array `(B,)`, float32, in [0, 1): 0 if all pixels have one magnitude,
        `1 - 1 / n` if one pixel has it all. Higher is better. A map of zeros
        has 0.

    Raises:
        TypeError: If the maps hold no real numbers.
        ValueError: If the shape is not `(B, H, W, 1)`, or there is no pixel,
            or a value is not finite.

    Reference:
        Chalasani et al., 2018, https://arxiv.org/abs/1810.06583.

    Examples:
        >>> maps = np.array([[3.0, 0.0, 1.0, 0.0]]).reshape(1, 1, 4, 1)
        >>> sparseness(maps)
        # [0.625]
    """
    shares = np.sort(_shares(maps), axis=-1)
    count = shares.shape[-1]
    weights = 2 * np.arange(1, count + 1) - count - 1
    # Of equal pixels rounding may leave less than nothing.
    found: np.ndarray = np.maximum((shares * weights).sum(axis=-1) / count, 0)
    return found.astype("float32")


@lower_is_better
def complexity(maps: Tensor) -> np.ndarray:
    """Measures over how many pixels a map is spread: its entropy.

    It is that of the magnitudes, each divided by their sum, in nats. A map
    that is upsampled marks more pixels; compare maps of one size.

    Args:
        maps: Heat maps `(B, H, W, 1)`, of [0, 1] or signed.

    Returns:
        Array `(B,)`, float32, in `[0, log(H * W)]`: 0 if one pixel has all,
        `log(n)` if `n` pixels share it equally. Lower is better. A map of
        zeros has 0.

    Raises:
        TypeError: As in `sparseness`.
        ValueError: As in `sparseness`.

    Reference:
        Bhatt et al., 2020, https://arxiv.org/abs/2005.00631.

    Examples:
        >>> maps = np.array([[1.0, 0.0, 1.0, 0.0]]).reshape(1, 1, 4, 1)
        >>> complexity(maps)
        # [0.6931472]
    """
    from scipy import special

    found: np.ndarray = special.entr(_shares(maps)).sum(axis=-1)
    return found.astype("float32")


def _shares(maps: Tensor) -> np.ndarray:
    """Share of each pixel of the magnitudes of its map, `(B, n)`, float64."""
    array = _checks.map_array("maps", maps).astype("float64")
    magnitudes = np.abs(array).reshape(len(array), -1)
    total = magnitudes.sum(axis=-1, keepdims=True)
    found: np.ndarray = magnitudes / np.where(total == 0, 1, total)
    return found
