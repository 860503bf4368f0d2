"""Weights of the classes."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_lficam.data import Source


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
    weights = [1.0] * len(names)
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
            or not math.isfinite(weight)
            or weight < 0
        ):
            raise ValueError(
                "Argument `class_weight` must have weights that are finite "
                f"and at least 0. Received: {weight!r} for {key!r}"
            )
        weights[number] = float(weight)
    if not any(weights):
        raise ValueError(
            "Argument `class_weight` must leave a weight above 0. Received: "
            f"class_weight={asked!r}"
        )
    return weights
