"""What every room asks of arrays that it is given."""

from typing import Any

import numpy as np
from keras import ops


def array_of(name: str, values: Any) -> np.ndarray:
    """Takes the values of an argument as an array of any type.

    Args:
        name: Name of the argument, for the message.
        values: Array, tensor of any backend, number, or nested lists of one
            length in each depth.

    Returns:
        The array.

    Raises:
        TypeError: If the values are no array: None, text, lists of unequal
            lengths, a tensor that is sparse, ragged or symbolic, or an array
            of which some values are masked out.
    """
    wrong = _wrong_kind(values)
    if wrong:
        what, way_out = wrong
        raise TypeError(
            f"Argument `{name}` must be a dense array of numbers. Received: "
            f"{what} of type {type(values).__name__}. To fix this: {way_out}"
        )
    try:
        array = np.asarray(ops.convert_to_numpy(values))
    except Exception as error:  # Each backend and container has its own.
        reason = str(error).strip().split("\n")[0][:200]
        raise TypeError(
            f"Argument `{name}` must be an array that holds values. Received: "
            f"an object of type {type(values).__name__}, of which none can be "
            f"made: {reason} To fix this: pass a NumPy array or a tensor "
            "outside of a graph."
        ) from error
    if array.dtype.kind == "O":
        raise TypeError(
            f"Argument `{name}` must be an array of numbers of one type. "
            f"Received: objects in a value of type {type(values).__name__}. "
            "To fix this: pass a NumPy array of numbers."
        )
    return array


def real_array(name: str, values: Any) -> np.ndarray:
    """Takes the values of an argument as an array of float32.

    Raises:
        TypeError: If they hold no real numbers, or as in `array_of`.
    """
    array = array_of(name, values)
    # The kind of bfloat16, which is none of NumPy's own, is "V".
    if array.dtype.kind not in "biufV" or array.dtype.type is np.void:
        raise TypeError(
            f"Argument `{name}` must hold real numbers. "
            f"Received: {name}.dtype={array.dtype}"
        )
    with np.errstate(over="ignore"):  # What is too large is not finite.
        return array.astype("float32")


def check_finite(name: str, array: np.ndarray, of: str | None = None) -> None:
    """Raises a ValueError that names the entries with NaN or infinity.

    Args:
        name: Name of the argument.
        array: Its values; the first axis counts the entries.
        of: What of the entries is not finite, such as their pixels; by
            default their values.
    """
    axes = tuple(range(1, array.ndim))
    bad = np.flatnonzero(~np.isfinite(array).all(axis=axes))
    if bad.size:
        of = of or "values"
        raise ValueError(
            f"Argument `{name}` must be finite in float32. Received: NaN or "
            f"infinite {of} in the {name} at {bad.tolist()[:10]}. Way out: "
            f"leave these out, or replace the {of}, as by numpy.nan_to_num."
        )


def _wrong_kind(values):
    """What is wrong with a container, and the way out; None if nothing is."""
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            return "masked values", "fill them, array.filled(0)."
        return None
    if isinstance(values, np.ndarray):
        return None
    if values is None or isinstance(values, (str, bytes, dict, set)):
        return f"{values!r:.40}", "pass a NumPy array or a tensor."
    # The libraries are not imported: whose object it is, its class tells.
    layout = str(getattr(values, "layout", ""))
    places = {
        part.strip("_")
        for kind in type(values).__mro__
        for part in kind.__module__.split(".")
    }
    if layout.startswith("torch.sparse") or places & {
        "sparse",
        "sparse_tensor",
        "indexed_slices",
    }:
        return "a sparse one", (
            "make it dense, by tf.sparse.to_dense(x), x.to_dense(), "
            "x.todense() or x.toarray()."
        )
    if "ragged" in places:
        return "a ragged one", "make it dense, by x.to_tensor()."
    return None
