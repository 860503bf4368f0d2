"""What the metrics ask of their arguments, and as what they take them."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_lficam import functional
from keras_lficam._checks import as_float, check_finite, real_array
from keras_lficam.functional import Tensor


def map_arrays(
    maps: Tensor, others: Tensor, *, other_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Takes maps, and maps or masks of the same shape, as finite arrays.

    Args:
        maps: Heat maps `(B, H, W, 1)`.
        others: Maps or masks of the same shape.
        other_name: Name of the second argument.

    Returns:
        Pair of arrays `(B, H, W, 1)`, float32.

    Raises:
        TypeError: If they hold no real numbers.
        ValueError: If the shapes differ, or are not `(B, H, W, 1)`, or there
            is no pixel, or there are values that are not finite.
    """
    arrays = {
        name: real_array(name, values)
        for name, values in (("maps", maps), (other_name, others))
    }
    shapes = [array.shape for array in arrays.values()]
    if shapes[0] != shapes[1] or len(shapes[0]) != 4 or shapes[0][-1] != 1:
        raise ValueError(
            f"Arguments `maps` and `{other_name}` must have the same shape "
            f"(batch, height, width, 1). Received: maps.shape={shapes[0]}, "
            f"{other_name}.shape={shapes[1]}. To fix this: "
            f"{other_name}[..., None] adds the last axis, and an explainer "
            "gives maps of the size of the image."
        )
    if 0 in shapes[0]:
        raise ValueError(
            "Argument `maps` must hold at least one map of at least one pixel. "
            f"Received: maps.shape={shapes[0]}. To fix this: leave out empty "
            "batches."
        )
    for name, array in arrays.items():
        check_finite(name, array)
    return arrays["maps"], arrays[other_name]


def map_array(name: str, maps: Tensor) -> np.ndarray:
    """Takes maps or masks `(B, H, W, 1)` as a finite array of float32.

    Raises:
        TypeError: If they hold no real numbers.
        ValueError: If the shape is another, or there is no pixel, or there
            are values that are not finite.
    """
    array = real_array(name, maps)
    if array.ndim != 4 or array.shape[-1] != 1 or array.size == 0:
        raise ValueError(
            f"Argument `{name}` must have shape (batch, height, width, 1), and "
            f"at least one pixel. Received: {name}.shape={array.shape}. To fix "
            f"this: {name}[..., None] adds the last axis."
        )
    check_finite(name, array)
    return array


def check_thresholds(name: str, thresholds: Sequence[float]) -> None:
    """Raises a ValueError unless every threshold lies in (0, 1]."""
    given: Any = thresholds if np.ndim(thresholds) == 1 else [thresholds]
    if len(given) == 0:
        raise ValueError(
            f"Argument `{name}` must hold at least one threshold. "
            f"Received: {name}={thresholds!r}"
        )
    for threshold in given:
        if (
            not isinstance(threshold, numbers.Real)
            or isinstance(threshold, bool)
            or not 0 < as_float(threshold) <= 1
        ):
            raise ValueError(
                f"Argument `{name}` must be greater than 0 and at most 1, a "
                "share of the span of the map. "
                f"Received: {threshold!r} in {name}"
            )


def min_max_normalized(maps: np.ndarray) -> np.ndarray:
    """Normalizes every map to [0, 1]; a constant one becomes 0."""
    # The span of what is so large would overflow; a power of two is exact.
    large = np.abs(maps).max(axis=(1, 2, 3), keepdims=True) > 1e30
    maps = np.where(large, np.float32(2**-10), np.float32(1)) * maps
    found: np.ndarray = ops.convert_to_numpy(functional.min_max(maps))
    return found
