"""Puts the LFI-CAM branch into a classifier."""

import numbers
import os
from collections.abc import Callable

import keras

from keras_lficam import backbones, layers


def build(
    backbone: str | Callable[..., keras.Model] = "DenseNet121",
    classes: int = 1000,
    *,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    weights: str | os.PathLike[str] | None = None,
    architecture: str = "lfi_cam",
    importance_network: str | keras.layers.Layer = "bottleneck",
    classifier_activation: str | None = "softmax",
) -> keras.Model:
    """Builds a classifier that shows what it looked at.

    The images are RGB from 0 to 255; the backbone's preprocessing is part of
    the model. Train it with `compile` and `fit` like any other; the heat map
    needs no label and no loss of its own. `attention_view` shows the map.

    Args:
        backbone: Name of a backbone, one of `keras_lficam.backbones.names()`,
            or a function with the signature of those in `keras.applications`.
        classes: Number of classes, at least 1.
        input_shape: Shape `(height, width, 3)` of the images. None as height
            or width takes images of any size.
        weights: None for random ones, the path of a weights file of the
            backbone with as many classes, or `"imagenet"` for 1000 classes
            at the backbone's own image size.
        architecture: `"lfi_cam"`, or `"plain"` for the bare backbone, to
            compare with.
        importance_network: Form of the importance network: `"bottleneck"`,
            `"pointwise"` or `"released"`; or a `FeatureImportanceNetwork`, of
            which the model gets a new copy named `importance`.
        classifier_activation: Activation of the prediction: `"softmax"`,
            `"sigmoid"`, or None for logits.

    Returns:
        A `keras.Model` from images `(B, H, W, 3)` to `predictions (B, K)`,
        float32 under every dtype policy. Its layers `importance`,
        `attention_map`, `attention` and `head` are public.

    Raises:
        ValueError: If an argument is out of range, or the images are so small
            that the backbone's feature map is less than 2x2.
        TypeError: If `backbone`, `classes` or `importance_network` is of no
            such kind.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937.

    Examples:
        model = keras_lficam.build("ResNet20", 10, input_shape=(32, 32, 3))
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(images, labels)
    """
    _check_classes(classes)
    _check_input_shape(input_shape)
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "Images are (batch, height, width, 3) here. Received: "
            "keras.config.image_data_format() is 'channels_first'. Way out: "
            "keras.config.set_image_data_format('channels_last')."
        )
    if not isinstance(architecture, str) or architecture not in _WIRINGS:
        raise ValueError(
            f"Argument `architecture` must be one of {sorted(_WIRINGS)}. "
            f"Received: architecture={architecture!r}"
        )
    height, width, channels = input_shape
    split = backbones.load(
        backbone, int(classes), (height, width, channels), weights
    )
    logits = _WIRINGS[architecture](split, importance_network)
    predictions = keras.layers.Activation(
        classifier_activation or "linear", dtype="float32", name="predictions"
    )(logits)
    name = split.name if architecture == "plain" else f"{split.name}_lfi_cam"
    return keras.Model(split.image, predictions, name=name)


def attention_view(model: keras.Model) -> keras.Model:
    """Shows the heat map beside the prediction.

    Args:
        model: Model made by `build`, trained or loaded.

    Returns:
        A `keras.Model` that shares the weights of `model`, from images
        `(B, H, W, 3)` to a dictionary of `predictions (B, K)`,
        `attention_map (B, h, w, 1)` in [0, 1] at the size of the feature map,
        and `importance (B, C)`, non-negative with rows that sum to 1.

    Raises:
        ValueError: If `model` has no such layers.

    Examples:
        shown = keras_lficam.attention_view(model).predict(images)
        shown["attention_map"]
    """
    names = {layer.name for layer in getattr(model, "layers", [])}
    if not names.issuperset({"importance", "attention_map"}):
        raise ValueError(
            "Argument `model` must have the layers 'importance' and "
            "'attention_map', as a model made by keras_lficam.build has. "
            f"Received: {getattr(model, 'name', model)!r} without them."
        )
    return keras.Model(
        model.input,
        {
            "predictions": model.output,
            "attention_map": model.get_layer("attention_map").output,
            "importance": model.get_layer("importance").output,
        },
        name=f"{model.name}_view",
    )


def _lfi_cam(split, importance_network):
    network = _importance_layer(importance_network)
    importance = network([split.image, split.features])
    attention_map = layers.ClassActivationMap(name="attention_map")(
        [split.features, importance]
    )
    attended = layers.AttentionMechanism(name="attention")(
        [split.features, attention_map]
    )
    return split.head(attended)


def _importance_layer(network):
    if isinstance(network, str):
        return layers.FeatureImportanceNetwork(network, name="importance")
    if isinstance(network, layers.FeatureImportanceNetwork):
        return type(network).from_config(
            {**network.get_config(), "name": "importance"}
        )
    raise TypeError(
        "Argument `importance_network` must be the name of a form, such as "
        "'bottleneck', or a FeatureImportanceNetwork. Received: "
        f"importance_network={network!r} of type {type(network).__name__}"
    )


def _plain(split, importance_network):
    del importance_network  # The wirings have one signature.
    return split.head(split.features)


_WIRINGS = {"lfi_cam": _lfi_cam, "plain": _plain}


def _check_classes(classes):
    if isinstance(classes, bool) or not isinstance(classes, numbers.Integral):
        raise TypeError(
            "Argument `classes` must be an integer, the number of classes. "
            f"Received: classes={classes!r} of type {type(classes).__name__}"
        )
    if classes < 1:
        raise ValueError(
            "Argument `classes` must be at least 1. "
            f"Received: classes={classes}"
        )


def _is_size(size):
    integer = isinstance(size, numbers.Integral)
    return integer and not isinstance(size, bool) and size >= 1


def _check_input_shape(input_shape):
    if (
        not isinstance(input_shape, (tuple, list))
        or len(input_shape) != 3
        or input_shape[2] != 3
        or not all(size is None or _is_size(size) for size in input_shape)
    ):
        raise ValueError(
            "Argument `input_shape` must be (height, width, 3): RGB images, "
            "without the batch axis; height and width at least 1, or None. "
            "Way out for gray images: give them three equal channels. "
            f"Received: input_shape={input_shape!r}"
        )
