"""What the metrics ask of their arguments, and as what they take them."""

import numbers
from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_lficam import functional
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
            are values that are not finite.
    """
    arrays = {
        name: real_array(name, values)
        for name, values in (("maps", maps), (other_name, others))
    }
    shapes = [array.shape for array in arrays.values()]
    if shapes[0] != shapes[1] or len(shapes[0]) != 4 or shapes[0][-1] != 1:
        raise ValueError(
            f"Arguments `maps` and `{other_name}` must have the same shape "
            f"(batch, height, width, 1). Ways out: {other_name}[..., None] "
            "adds the last axis, and an explainer gives maps of the size of "
            f"the image. Received: maps.shape={shapes[0]}, "
            f"{other_name}.shape={shapes[1]}"
        )
    for name, array in arrays.items():
        check_finite(name, array)
    return arrays["maps"], arrays[other_name]


def real_array(name: str, values: Tensor) -> np.ndarray:
    """Takes the values of an argument as an array of float32."""
    array = np.asarray(ops.convert_to_numpy(values))
    # The kind of bfloat16, which is none of NumPy's own, is "V".
    if array.dtype.kind not in "biufV":
        raise TypeError(
            f"Argument `{name}` must hold real numbers. "
            f"Received: {name}.dtype={array.dtype}"
        )
    with np.errstate(over="ignore"):  # What is too large is not finite.
        return array.astype("float32")


def check_finite(name: str, array: np.ndarray) -> None:
    """Raises a ValueError that names the entries with NaN or infinity."""
    axes = tuple(range(1, array.ndim))
    bad = np.flatnonzero(~np.isfinite(array).all(axis=axes))
    if bad.size:
        raise ValueError(
            f"Argument `{name}` must be finite in float32. Received: NaN or "
            f"infinite values in the {name} at {bad.tolist()[:10]}. Way out: "
            "leave these out, or replace the values, as by numpy.nan_to_num."
        )


def check_thresholds(name: str, thresholds: Sequence[float]) -> None:
    """Raises a ValueError unless every threshold lies in (0, 1]."""
    for threshold in thresholds:
        if not isinstance(threshold, numbers.Real) or not 0 < threshold <= 1:
            raise ValueError(
                f"Argument `{name}` must be greater than 0 and at most 1, a "
                "share of the span of the map. "
                f"Received: {threshold!r} in {name}"
            )


def stretched(maps: np.ndarray) -> np.ndarray:
    """Stretches every map to [0, 1]; a constant one becomes 0."""
    return ops.convert_to_numpy(functional.min_max(maps))
