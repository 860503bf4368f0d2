"""Weights of the classes."""

import numbers
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_lficam._checks import as_float
from keras_lficam.data import Source

_MOST = float(np.finfo("float32").max)


class EachLabel(keras.losses.Loss):
    """Binary cross-entropy of each label, `(B, K)`.

    That of Keras is the mean over the labels of an image, to which no weights
    of single labels can be given.

    Args:
        label_smoothing: Share of the label that goes to its opposite, [0, 1).
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__(name="binary_crossentropy")
        self.label_smoothing = label_smoothing

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> Any:
        if sample_weight is not None and len(sample_weight.shape) == 1:
            # Of images alone, as in validation.
            sample_weight = keras.ops.expand_dims(sample_weight, -1)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.losses.binary_crossentropy(
            keras.ops.expand_dims(y_true, -1),
            keras.ops.expand_dims(y_pred, -1),
            label_smoothing=self.label_smoothing,
        )


def class_weights(
    class_weight: Any, source: Source
) -> list[float] | list[list[float]] | None:
    """Finds the weight of each class.

    Args:
        class_weight: What `fit` takes as `class_weight`.
        source: The data.

    Returns:
        A weight for each class, in their order; where images have several
        labels, a pair for each: of its absence and its presence. None for
        none.

    Raises:
        ValueError: If a weight or a class is not possible, or a class has no
            training images.
        TypeError: If it is neither a dictionary nor a string.
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, str) and class_weight == "balanced":
        return _balanced(source)
    weights = _given(class_weight, source)
    if source.multi_label:
        return [[1.0, weight] for weight in weights]
    return weights


def _balanced(source: Source) -> list[float] | list[list[float]]:
    counts = source.class_counts("train")
    number = source.count("train")
    _check_counts(counts, "no training images", source)
    if not source.multi_label:
        return [float(weight) for weight in number / counts / len(counts)]
    # Each label is a problem of two classes.
    _check_counts(number - counts, "all training images", source)
    pairs = np.stack([number - counts, counts], axis=-1)
    return [[float(w) for w in pair] for pair in number / pairs / 2]


def _check_counts(counts: np.ndarray, what: str, source: Source) -> None:
    names = [
        name
        for name, count in zip(source.class_names, counts, strict=True)
        if count == 0
    ]
    if names:
        raise ValueError(
            "Argument `class_weight` must not be 'balanced' where a class has "
            f"{what}, for its weight would be infinite. Received: {what} of "
            f"{source.name} for {', '.join(map(repr, names[:5]))}"
            f"{' and others' if len(names) > 5 else ''}. To fix this: leave "
            "the class out of the data; or give the weights as a dictionary, "
            "such as {0: 1.0, 1: 5.0}."
        )


def _given(class_weight: Any, source: Source) -> list[float]:
    if isinstance(class_weight, str) or not isinstance(class_weight, Mapping):
        kind = ValueError if isinstance(class_weight, str) else TypeError
        raise kind(
            "Argument `class_weight` must be 'balanced', or a dictionary from "
            "numbers or names of classes to weights, such as {0: 1.0, 1: 5.0}."
            f" Received: class_weight={class_weight!r}"
        )
    names = list(source.class_names)
    weights: list[float | None] = [None] * len(names)
    for key, weight in class_weight.items():
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
                f"in class_weight={class_weight!r}"
            )
        weights[number] = float(weight)
    found = [1.0 if weight is None else weight for weight in weights]
    if not any(found):
        raise ValueError(
            "Argument `class_weight` must leave a weight above 0. Received: "
            f"class_weight={class_weight!r}"
        )
    return found
