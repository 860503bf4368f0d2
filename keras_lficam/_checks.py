"""What every room asks of the arguments that it is given."""

import math
import numbers
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

# How the modules of Keras 2 begin, as `tf_keras` or inside TensorFlow.
_KERAS_2 = ("tf_keras.", "keras.src.engine.", "tensorflow.python.keras.")


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


def numbers_of(name: str, values: Any) -> np.ndarray:
    """Takes the values of an argument as an array of real numbers.

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
    return array


def real_array(name: str, values: Any) -> np.ndarray:
    """Takes the values of an argument as an array of float32.

    Raises:
        TypeError: As in `numbers_of`.
    """
    array = numbers_of(name, values)
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
            f"infinite {of} in the {name} at {bad.tolist()[:10]}. To fix this: "
            f"leave these out, or replace the {of}, as by numpy.nan_to_num."
        )


def tensor_of(name: str, values: Any, dimensions: int | None = None) -> Any:
    """Takes the values of an argument as a tensor, symbolic or not.

    Args:
        name: Name of the argument, for the message.
        values: Tensor of the backend, or what `array_of` takes.
        dimensions: Number of axes that it must have, if that is known.

    Raises:
        TypeError: If they hold no real numbers, or as in `array_of`.
        ValueError: If it has another number of axes.
    """
    if not ops.is_tensor(values) and not isinstance(
        values, (keras.KerasTensor, keras.Variable)
    ):
        numbers_of(name, values)
    elif _wrong_kind(values):
        array_of(name, values)  # Says what is wrong.
    tensor = ops.convert_to_tensor(values)
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if dtype == "string" or dtype.startswith("complex"):
        raise TypeError(
            f"Argument `{name}` must hold real numbers. "
            f"Received: {name}.dtype={dtype}"
        )
    if dimensions is not None and len(tensor.shape) != dimensions:
        raise ValueError(
            f"Argument `{name}` must have {dimensions} axes. "
            f"Received: {name}.shape={tuple(tensor.shape)}"
        )
    return tensor


def check_text(name: str, value: Any) -> None:
    """Raises a TypeError unless an argument is a string."""
    if not isinstance(value, str):
        raise TypeError(
            f"Argument `{name}` must be a string. "
            f"Received: {name}={value!r} of type {type(value).__name__}"
        )


def check_boolean(name: str, value: Any) -> None:
    """Raises a TypeError unless an argument is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"Argument `{name}` must be True or False. "
            f"Received: {name}={value!r:.80} of type {type(value).__name__}"
        )


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises unless an argument is one of some words.

    Raises:
        TypeError: If it is no string.
        ValueError: If it is another.
    """
    check_text(name, value)
    if value not in choices:
        raise ValueError(
            f"Argument `{name}` must be one of "
            f"{', '.join(map(repr, choices))}. Received: {name}={value!r}"
        )


def check_names(name: str, values: Any) -> None:
    """Raises a TypeError unless an argument is a list of strings.

    A tuple and an array, as scikit-learn gives names of classes, are one, too.
    """
    if (
        isinstance(values, (str, bytes))
        or not isinstance(values, (Sequence, np.ndarray))
        or not all(isinstance(value, str) for value in values)
    ):
        raise TypeError(
            f"Argument `{name}` must be a list of strings. Received: "
            f"{name}={values!r:.80} of type {type(values).__name__}"
        )


def path_of(name: str, value: Any) -> pathlib.Path:
    """Takes an argument as a path.

    Args:
        name: Name of the argument, for the message.
        value: String or path; bytes are none.

    Returns:
        The path.

    Raises:
        TypeError: If it is neither.
        ValueError: If it is empty, or holds a null character, which no file
            system takes.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise TypeError(
            f"Argument `{name}` must be a path, a string or a pathlib.Path. "
            f"Received: {name}={value!r:.80} of type {type(value).__name__}"
        )
    if not text or "\0" in text:
        raise ValueError(
            f"Argument `{name}` must be a path that a file can have. Received: "
            f"{name}={text!r}. To fix this: give '.' for the folder that the "
            "program runs in."
        )
    return pathlib.Path(text)


def as_float(value: numbers.Real) -> float:
    """Takes a number as a float: infinity where an integer is beyond all."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def check_number(
    name: str, value: Any, low: float, high: float = math.inf
) -> None:
    """Raises a ValueError unless an argument is a number in [low, high]."""
    if (
        not isinstance(value, numbers.Real)
        or isinstance(value, bool)
        or not low <= as_float(value) <= high
        or not math.isfinite(as_float(value))
    ):
        limits = f"of at least {low}"
        if high < math.inf:
            limits = f"from {low} to {high}"
        raise ValueError(
            f"Argument `{name}` must be a number {limits}. "
            f"Received: {name}={value!r}"
        )


def check_range(name: str, value: Any) -> None:
    """Raises a ValueError unless an argument is a pair that rises."""
    if (
        not isinstance(value, (tuple, list))
        or len(value) != 2
        or not all(isinstance(each, numbers.Real) for each in value)
        or not -math.inf < as_float(value[0]) < as_float(value[1]) < math.inf
    ):
        raise ValueError(
            f"Argument `{name}` must be a pair (darkest, brightest) that "
            f"rises, such as (0, 255). Received: {name}={value!r}"
        )


def check_mapping(name: str, value: Any) -> None:
    """Raises a TypeError unless an argument is a dictionary."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"Argument `{name}` must be a dictionary. "
            f"Received: {name}={value!r:.80} of type {type(value).__name__}"
        )


def _wrong_kind(values: object) -> tuple[str, str] | None:
    """What is wrong with a container, and how to fix it; None if nothing is."""
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
    module_parts = {
        part.strip("_")
        for kind in type(values).__mro__
        for part in kind.__module__.split(".")
    }
    if layout.startswith("torch.sparse") or module_parts & {
        "sparse",
        "sparse_tensor",
        "indexed_slices",
    }:
        return "a sparse one", (
            "make it dense, by tf.sparse.to_dense(x), x.to_dense(), "
            "x.todense() or x.toarray()."
        )
    if "ragged" in module_parts:
        return "a ragged one", "make it dense, by x.to_tensor()."
    return None


def check_size(name: str, value: Any) -> None:
    """Raises a ValueError unless an argument is a pair of height and width."""
    if (
        not isinstance(value, (tuple, list))
        or len(value) != 2
        or not all(is_integer(side) and side > 0 for side in value)
    ):
        raise ValueError(
            f"Argument `{name}` must be a pair of positive integers (height, "
            f"width), such as (224, 224). Received: {name}={value!r:.80}"
        )


def check_integer(name: str, value: Any, *, least: int) -> None:
    """Raises unless an argument is an integer of at least `least`.

    Raises:
        TypeError: If it is no integer of Python or NumPy; a Boolean is none.
        ValueError: If it is less.
    """
    wanted = f"Argument `{name}` must be an integer of at least {least}."
    if not is_integer(value):
        raise TypeError(
            f"{wanted} Received: {name}={value!r:.80} of type "
            f"{type(value).__name__}"
        )
    if value < least:
        raise ValueError(f"{wanted} Received: {name}={value!r:.80}")


def is_integer(value: object) -> bool:
    """Whether a value is an integer, of Python or NumPy, and no Boolean."""
    integer = isinstance(value, numbers.Integral)
    return integer and not isinstance(value, bool)


def refuse_keras_2(name: str, model: object) -> None:
    """Raises a TypeError if an argument is a model of Keras 2.

    It looks like one of Keras 3, and no function of Keras 3 takes it.
    """
    if any(
        f"{kind.__module__}.".startswith(_KERAS_2)
        for kind in type(model).__mro__
    ):
        raise TypeError(
            f"Argument `{name}` must be a model of Keras 3. Received: a "
            f"{type(model).__name__} of Keras 2 (tf_keras). To fix this: "
            "build the same layers with `import keras`, and copy the weights: "
            "new_model.set_weights(old_model.get_weights())."
        )
