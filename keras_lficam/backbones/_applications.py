"""Classifiers of keras.applications, with their preprocessing inside."""

import os
from collections.abc import Callable

import keras

from keras_lficam.backbones._split import has_space

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

    def __init__(self, family: str, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.family = family
        if _preprocess(family) is None:
            raise ValueError(
                "Argument `family` must be a module of keras.applications "
                "that has `preprocess_input`, such as 'densenet'. "
                f"Received: family={family!r}"
            )

    def build(self, input_shape):
        self.built = True

    def call(self, images):
        images = keras.ops.cast(images, "float32")
        preprocess = _preprocess(self.family)
        return preprocess(images, data_format="channels_last")

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def compute_output_spec(self, images):
        return keras.KerasTensor(images.shape, dtype="float32")

    def get_config(self):
        return {**super().get_config(), "family": self.family}


def build_application(
    function: Callable[..., keras.Model],
    classes: int,
    input_shape: tuple[int | None, int | None, int],
    weights: str | os.PathLike[str] | None,
) -> keras.Model:
    """Builds the classifier of `function`, from RGB of 0 to 255 to logits.

    Args:
        function: One of `keras.applications`, or one that takes the same
            keyword arguments and its images as they are.
        classes: Number of classes.
        input_shape: Shape `(height, width, 3)`; None for an open size.
        weights: None, or what the function takes.

    Returns:
        A flat functional `keras.Model`.
    """
    height, width, channels = input_shape
    closed_shape = (
        height or _SIZE_OF_OPEN_INPUT,
        width or _SIZE_OF_OPEN_INPUT,
        channels,
    )
    image = keras.Input(closed_shape, name="image")
    family = getattr(function, "__module__", "").rpartition(".")[2]
    if _preprocess(family) is None:
        tensor = image
    else:
        tensor = Preprocessing(family, name="preprocessing")(image)
    model = function(
        weights=weights,
        input_tensor=tensor,
        input_shape=closed_shape,
        classes=classes,
        classifier_activation=None,
    )
    if None in (height, width):
        model = _reopen(model, input_shape)
    return model


def _reopen(model, input_shape):
    """Copies a model, weights and all, onto an input of an open size."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Flatten) and has_space(layer.input):
            raise ValueError(
                f"Backbone {model.name!r} does not take images of an open "
                "size, for its head flattens the feature map. Received: "
                f"input_shape={input_shape}. Way out: give height and width."
            )
    image = keras.Input(input_shape, name="image")
    opened = keras.models.clone_model(
        model,
        input_tensors=keras.tree.map_structure(lambda _: image, model.input),
    )
    opened.set_weights(model.get_weights())
    return opened


def _preprocess(family):
    """Returns the family's `preprocess_input`, None if there is no such."""
    module = getattr(keras.applications, family, None)
    return getattr(module, "preprocess_input", None)
