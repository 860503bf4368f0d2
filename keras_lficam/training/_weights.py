"""Weights of the classes."""

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_lficam._checks import as_float
from keras_lficam.data import Source

_MOST = float(np.finfo("float32").max)


def class_weights(asked: Any, source: Source) -> list[float] | None:
    """Finds the weight of each class.

    Args:
        asked: What `fit` takes as `class_weight`.
        source: The data.

    Returns:
        A weight for each class, in their order; None for none.

    Raises:
        ValueError: If a weight or a class is not possible, or images have
            several labels.
        TypeError: If it is neither a dictionary nor a string.
    """
    if asked is None:
        return None
    if source.multi_label:
        raise ValueError(
            "Argument `class_weight` must be None where images have several "
            "labels, for the weight of an image would hang on all of them. "
            f"Received: class_weight={asked!r}. To fix this: give sample "
            "weights, as the third part of the batches of "
            "keras_lficam.data.from_datasets."
        )
    if isinstance(asked, str) and asked == "balanced":
        counts = np.maximum(source.class_counts("train"), 1)
        return [float(w) for w in source.count("train") / counts / len(counts)]
    if isinstance(asked, str) or not isinstance(asked, Mapping):
        kind = ValueError if isinstance(asked, str) else TypeError
        raise kind(
            "Argument `class_weight` must be 'balanced', or a dictionary from "
            "numbers or names of classes to weights, such as {0: 1.0, 1: 5.0}."
            f" Received: class_weight={asked!r}"
        )
    names = list(source.class_names)
    weights: list[float | None] = [None] * len(names)
    for key, weight in asked.items():
        number = names.index(key) if key in names else key
        known = isinstance(number, numbers.Integral) and not isinstance(
            number, bool
        )
        if not known or not 0 <= number < len(names):
            raise ValueError(
                "Argument `class_weight` must name classes of the data, by "
                f"their names {names} or numbers from 0 to {len(names) - 1}. "
                f"Received: {key!r}"
            )
        if (
            not isinstance(weight, numbers.Real)
            or isinstance(weight, bool)
            or not 0 <= as_float(weight) <= _MOST
        ):
            raise ValueError(
                "Argument `class_weight` must have weights that are finite "
                f"in float32 and at least 0. Received: {weight!r} for {key!r}"
            )
        if weights[number] is not None:
            raise ValueError(
                "Argument `class_weight` must give a class one weight. "
                f"Received: two for {names[number]!r}, by name and by number, "
                f"in class_weight={asked!r}"
            )
        weights[number] = float(weight)
    found = [1.0 if weight is None else weight for weight in weights]
    if not any(found):
        raise ValueError(
            "Argument `class_weight` must leave a weight above 0. Received: "
            f"class_weight={asked!r}"
        )
    return found
