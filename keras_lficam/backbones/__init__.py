"""Backbones: a name or a function becomes image, features and head."""

import difflib
import inspect
import os
from collections.abc import Callable

import keras

from keras_lficam.backbones import cifar
from keras_lficam.backbones._applications import build_application
from keras_lficam.backbones._split import Split, split_classifier

__all__ = ["Split", "cifar", "load", "names", "split_classifier"]

_OWN = {"ResNet20": cifar.resnet(20)}


def names() -> list[str]:
    """Names the backbones that `build` knows.

    Returns:
        Sorted list of the names of `keras.applications`, and `"ResNet20"` for
        images of 32x32.
    """
    return sorted([*_applications(), *_OWN])


def load(
    backbone: str | Callable[..., keras.Model],
    classes: int,
    input_shape: tuple[int | None, int | None, int],
    weights: str | os.PathLike[str] | None = None,
) -> Split:
    """Builds a classifier and cuts it where space is last seen.

    Args:
        backbone: Name, one of `names()`, or a function with the keyword
            arguments `weights`, `input_tensor`, `input_shape`, `classes` and
            `classifier_activation` of those in `keras.applications`, such as
            `keras.applications.ResNet50` or `backbones.cifar.resnet(8)`.
        classes: Number of classes, at least 1.
        input_shape: Shape `(height, width, 3)` of the images; None for sizes
            that are to stay open.
        weights: None, `"imagenet"`, or the path of a weights file, as the
            function takes it.

    Returns:
        A `Split` whose image is RGB from 0 to 255 and whose head gives logits.

    Raises:
        TypeError: If `backbone` is neither a name nor a function.
        ValueError: If the name is unknown, the weights file is missing or
            has other classes, or the images are too small for the backbone to
            leave a feature map of 2x2.
    """
    if isinstance(backbone, str):
        backbone = _function(backbone)
    if isinstance(backbone, keras.Model) or not callable(backbone):
        raise TypeError(
            "Argument `backbone` must be a name such as 'DenseNet121' or a "
            "function such as keras.applications.DenseNet121. "
            f"Received: backbone={backbone!r} of type "
            f"{type(backbone).__name__}"
        )
    if weights == "imagenet" and classes != 1000:
        raise ValueError(
            "Argument `weights` can be 'imagenet' only where `classes` is "
            f"1000. Received: classes={classes}. Ways out: classes=1000, or "
            "the path of a weights file with as many classes."
        )
    if weights is not None and weights != "imagenet":
        _check_file(weights)
    model = build_application(backbone, classes, input_shape, weights)
    return split_classifier(model)


def _check_file(weights):
    is_path = isinstance(weights, (str, os.PathLike))
    if not is_path or not os.path.isfile(weights):
        raise ValueError(
            "Argument `weights` must be None, the path of a weights file that "
            "exists, or 'imagenet'. "
            f"Received: weights={weights!r}"
        )


def _applications():
    return {
        name: function
        for name, function in vars(keras.applications).items()
        if inspect.isfunction(function)
        and "include_top" in inspect.signature(function).parameters
    }


def _function(name):
    known = {**_applications(), **_OWN}
    if name in known:
        return known[name]
    folded = {known_name.lower(): known_name for known_name in known}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    nearest = ", ".join(repr(folded[match]) for match in close)
    raise ValueError(
        f"Argument `backbone` is no known name. Received: backbone={name!r}. "
        + (f"The nearest names are {nearest}. " if close else "")
        + "All names: keras_lficam.backbones.names()."
    )
