"""Numbers and names of the classes that are to be explained."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lficam._checks import array_of, check_names, is_integer
from keras_lficam._names import nearest


def class_indices(classes: Any, names: Sequence[str]) -> np.ndarray:
    """Turns numbers or names of classes into numbers `(n,)` or `(B, n)`."""
    if is_integer(classes) or isinstance(classes, str):
        classes = [classes]
    array = array_of("classes", classes)
    if array.dtype.kind not in "UO":
        return array
    # As NumPy would turn a number beside a name into text.
    mixed = np.asarray(classes, dtype=object)
    numbers = [_class_index(name, names) for name in mixed.ravel()]
    return np.reshape(numbers, mixed.shape)


def _class_index(name: Any, names: Sequence[str]) -> int:
    if is_integer(name):
        return int(name)
    if not isinstance(name, str):
        raise TypeError(
            "Argument `classes` must hold numbers or names of classes. "
            f"Received: {name!r} of type {type(name).__name__}"
        )
    if name not in names:
        near = nearest(name, names) or names[:5]
        raise ValueError(
            "Argument `classes` must hold classes that the model knows. "
            f"Received: {name!r}. To fix this: one of its names, such as "
            f"{list(near)}, or a number from 0 to {len(names) - 1}."
        )
    return list(names).index(str(name))


def checked_classes(classes: Any, count: int, known: int) -> np.ndarray | None:
    """Checks classes `(n,)` or `(count, n)`, and gives each image a row."""
    if classes is None:
        return None
    array = array_of("classes", classes)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            "Argument `classes` must hold integers. "
            f"Received: classes.dtype={array.dtype}"
        )
    if array.size == 0 or not (
        array.ndim == 1 or (array.ndim == 2 and len(array) == count)
    ):
        raise ValueError(
            "Argument `classes` must be a list of at least one class for "
            "all images, or have a row of them for each of the "
            f"{count} images. Received: classes.shape={array.shape}"
        )
    if not 0 <= array.min() <= array.max() < known:
        raise ValueError(
            f"Argument `classes` must lie between 0 and {known - 1}. "
            f"Received: classes={array.tolist()}"
        )
    return np.broadcast_to(array.astype("int32"), (count, array.shape[-1]))


def checked_names(
    class_names: Sequence[str] | None, known: int
) -> tuple[str, ...]:
    """Checks that each class has a name; by default its number is."""
    if class_names is None:
        return tuple(str(number) for number in range(known))
    check_names("class_names", class_names)
    if len(class_names) != known:
        raise ValueError(
            f"Argument `class_names` must hold {known} names, one for each "
            f"class. Received: {len(class_names)} names"
        )
    return tuple(class_names)
