"""Classifiers of keras.applications, with their preprocessing inside."""

import functools
import inspect
import os
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lficam.surgery import as_rgb, copy_weights

# The size at which a model with an open input size is first built: even all
# the way down, so that strided layers pad as for any other even size.
_SIZE_OF_OPEN_INPUT = 224


@keras.saving.register_keras_serializable(package="keras_lficam")
class Preprocessing(keras.layers.Layer):
    """Prepares RGB images as a family of `keras.applications` wants them.

    Args:
        family: Module of `keras.applications`, such as `"densenet"`, whose
            `preprocess_input` is applied.

    Call arguments:
        images: RGB images `(batch, height, width, 3)`, from 0 to 255.

    Output shape:
        That of the images, float32; the range is the family's own.

    Raises:
        ValueError: If `family` is no such module.
    """

    def __init__(self, family: str, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.family = family
        if _preprocess(family) is None:
            raise ValueError(
                "Argument `family` must be a module of keras.applications "
                "that has `preprocess_input`, such as 'densenet'. "
                f"Received: family={family!r}"
            )

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, images: Any) -> Any:
        # A copy, for with PyTorch some families write into what they are given,
        # and the gray image is made from the same tensor.
        images = keras.ops.copy(keras.ops.cast(images, "float32"))
        preprocess = _preprocess(self.family)
        return preprocess(images, data_format="channels_last")

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def compute_output_spec(
        self, images: keras.KerasTensor
    ) -> keras.KerasTensor:
        return keras.KerasTensor(images.shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "family": self.family}


def build_application(
    function: Callable[..., keras.Model],
    classes: int,
    input_shape: tuple[int | None, int | None, int],
    weights: str | os.PathLike[str] | None,
) -> keras.Model:
    """Builds the classifier of `function`, from pixels of 0 to 255 to logits.

    A function of `keras.applications` is built for RGB images, whose
    preprocessing has a mean for every color: a gray image is repeated to
    three channels in front of it.

    Args:
        function: One of `keras.applications`, or a `functools.partial` of
            one; or one that takes the same keyword arguments and its images
            as they are.
        classes: Number of classes.
        input_shape: Shape `(height, width, channels)`, of 3 channels or 1.
            For None, an open size, some number is taken.
        weights: None, `"imagenet"`, or the path of a weights file.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If the weights cannot be had or do not fit.
    """
    height, width, channels = input_shape
    closed_shape = (
        height or _SIZE_OF_OPEN_INPUT,
        width or _SIZE_OF_OPEN_INPUT,
        channels,
    )
    image = keras.Input(closed_shape, name="image")
    family = _family(function)
    if family is None:
        tensor = image
    else:
        tensor = Preprocessing(family, name="preprocessing")(as_rgb(image))
        closed_shape = (*closed_shape[:2], 3)
    model = function(
        weights=None,
        input_tensor=tensor,
        input_shape=closed_shape,
        classes=classes,
        classifier_activation=None,
    )
    if weights == "imagenet":
        _take_weights(_imagenet_donor(function), model)
    elif weights is not None:
        _take_weights(_donor(function, classes, closed_shape, weights), model)
    return model


def _imagenet_donor(function: Callable[..., Any]) -> keras.Model:
    try:
        return function(weights="imagenet", classifier_activation=None)
    except Exception as error:
        if "URL fetch failure" not in str(error):
            raise
        raise ValueError(
            "The weights from ImageNet could not be downloaded. Received: "
            "weights='imagenet'. To fix this: try again with a network, or "
            "download the file elsewhere and give its path as `weights`."
        ) from error


def _donor(
    function: Callable[..., Any],
    classes: int,
    shape: tuple[int | None, ...],
    path: str | os.PathLike[str],
) -> keras.Model:
    """Builds the model that the weights in a file are of."""
    options = [{"classes": classes}, {"classes": 1000}]
    if "include_top" in inspect.signature(function).parameters:
        options.append({"include_top": False})
    reasons = []
    for option in options:
        try:
            # Keras warns of what is missing in the file, then it raises.
            with warnings.catch_warnings(action="ignore"):
                return function(
                    weights=path,
                    input_shape=shape,
                    classifier_activation=None,
                    **option,
                )
        except (KeyError, OSError, ValueError) as error:
            reasons.append(f"with {option}: {error}")
    raise ValueError(
        "Argument `weights` must be the path of a weights file of this "
        f"backbone: with its head for {classes} or 1000 classes, or without "
        f"its head. Received: weights={os.fspath(path)!r}, of which Keras "
        "says " + "; ".join(reasons)
    )


def _take_weights(donor: keras.Model, model: keras.Model) -> None:
    """Copies weights layer by layer; a head of other classes stays random."""
    theirs = [layer for layer in donor.layers if layer.weights]
    ours = [layer for layer in model.layers if layer.weights]
    for old, new in zip(theirs, ours, strict=False):
        same = [w.shape for w in old.weights] == [w.shape for w in new.weights]
        if same:
            copy_weights(old, new)
        elif new is not ours[-1]:
            raise ValueError(
                f"The weights of layer {old.name!r} do not fit layer "
                f"{new.name!r} of {model.name!r}. To fix this: an input_shape "
                "of the size that the weights were trained at."
            )
    _take_scale(donor, model)


def _take_scale(donor: keras.Model, model: keras.Model) -> None:
    """Folds EfficientNet's last rescaling into its normalization.

    Keras adds that layer only if it is to load the weights from ImageNet.
    """
    theirs, ours = (
        [la for la in each.layers if isinstance(la, keras.layers.Rescaling)]
        for each in (donor, model)
    )
    for rescaling in theirs[len(ours) :]:
        (normalization,) = (
            layer
            for layer in model.layers
            if isinstance(layer, keras.layers.Normalization)
        )
        mean, variance, count = normalization.get_weights()
        variance = variance / np.square(rescaling.scale)
        normalization.set_weights([mean, variance, count])
        normalization.finalize_state()


def _family(function: Callable[..., Any]) -> str | None:
    """Module of `keras.applications` that a function is of, or None.

    Any other function takes its images as they are, whatever its name.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if not any(function is one for one in vars(keras.applications).values()):
        return None
    return function.__module__.rpartition(".")[2]


def _preprocess(family: str) -> Any:
    """Returns the family's `preprocess_input`, None if there is no such."""
    module = getattr(keras.applications, family, None)
    return getattr(module, "preprocess_input", None)
