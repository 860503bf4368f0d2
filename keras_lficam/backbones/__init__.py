"""Backbones: a name, a function or a model becomes image, features and head."""

import dataclasses
import inspect
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras

from keras_lficam._checks import refuse_keras_2
from keras_lficam._names import nearest
from keras_lficam.backbones import cifar, efficientnet_lite, resnets
from keras_lficam.backbones._applications import build_application
from keras_lficam.backbones._hubs import (
    build_hub,
    coarsest,
    feature_map,
    image_features,
    is_hub_name,
)
from keras_lficam.surgery import (
    PUBLIC_NAMES,
    Split,
    as_rgb,
    check_graph,
    check_images,
    check_one,
    clone,
    copied,
    flat,
    has_space,
    is_graph,
    is_plain,
    new_head,
    rebuilt,
    split_classifier,
    with_dropout,
)

__all__ = [
    "cifar",
    "efficientnet_lite",
    "imagenet_class_names",
    "load",
    "names",
    "resnets",
]

_OWN = {**resnets.FAMILY, **efficientnet_lite.FAMILY, **cifar.FAMILY}


def names() -> list[str]:
    """Names the backbones that `build` knows.

    Returns:
        Sorted list of the names of `keras.applications` and of our own
        families in `backbones.resnets`, `backbones.efficientnet_lite` and
        `backbones.cifar`. Presets of KerasHub and KerasCV are not listed.

    Examples:
        assert "ResNet50" in names()
    """
    return sorted([*_applications(), *_OWN])


def imagenet_class_names() -> list[str]:
    """Names the classes of a head with `weights="imagenet"`.

    Returns:
        The 1000 names of ILSVRC 2012 in the order of the classes, of each the
        first word of its WordNet synset: `"Egyptian cat"` for 285. Two cranes
        are `"crane (bird)"` and `"crane (machine)"`.

    Reference:
        Russakovsky et al., 2015, https://arxiv.org/abs/1409.0575.

    Examples:
        assert imagenet_class_names()[285] == "Egyptian cat"
    """
    path = pathlib.Path(__file__).with_name("imagenet_classes.txt")
    return path.read_text(encoding="utf-8").splitlines()


def load(
    backbone: str | Callable[..., keras.Model] | keras.Model,
    classes: int,
    input_shape: tuple[int | None, int | None, int],
    weights: str | os.PathLike[str] | None = None,
    *,
    output_stride: int | None = None,
    dropout: float | None = None,
) -> Split:
    """Builds a classifier and splits it before its last pooling.

    Args:
        backbone: Name, one of `names()`, or `"keras_hub/..."` or
            `"keras_cv/..."` with the name of a preset; or a function with the
            keyword arguments `weights`, `input_tensor`, `input_shape`,
            `classes` and `classifier_activation` of those in
            `keras.applications`, such as `keras.applications.ResNet50` or
            `backbones.cifar.resnet(8)`; or a `keras.Model` from images to a
            feature map, such as a backbone of KerasHub. Of a model from
            images to classes the head is left out.
        classes: Number of classes, at least 1.
        input_shape: Shape `(height, width, 3)` of RGB images, or `(height,
            width, 1)` of gray ones; None for sizes that are to stay open.
        weights: None, `"imagenet"`, the path of a weights file, or
            `"preset"`.
        output_stride: Pixels of the image that a row of the feature map
            stands for; None for as many as the backbone has.
        dropout: Rate of the dropout before the classifying layer; None for
            that of the backbone.

    Returns:
        A `Split` whose image is of this shape, from 0 to 255, and whose head
        gives logits.

    Raises:
        TypeError: If `backbone` is of another kind.
        ValueError: If the name is unknown, the weights do not fit, the
            strides do not lead to `output_stride`, or the images are too
            small for the backbone to leave a feature map of 2x2.
    """
    if isinstance(backbone, str) and is_hub_name(backbone):
        model = build_hub(backbone, input_shape, weights)
        split = _with_new_head(model, classes)
    elif isinstance(backbone, keras.Model):
        model = _trunk(backbone, input_shape, weights)
        split = _with_new_head(model, classes)
    else:
        if isinstance(backbone, str):
            backbone = _function(backbone)
        split = _classifier(backbone, classes, input_shape, weights)
    # The head keeps its names to itself.
    names = {layer.name for layer in split.trunk.layers[1:]}
    if (
        output_stride is not None
        or split.image.shape[1:] != input_shape
        or names & {*PUBLIC_NAMES}
    ):
        return rebuilt(split, input_shape, output_stride, dropout)
    if dropout is None:
        return split
    return dataclasses.replace(split, head=with_dropout(split.head, dropout))


def _classifier(
    function: Callable[..., Any],
    classes: int,
    input_shape: tuple[int | None, int | None, int],
    weights: str | os.PathLike[str] | None,
) -> Split:
    refuse_keras_2("backbone", function)
    if not callable(function):
        raise TypeError(
            "Argument `backbone` must be a name such as 'DenseNet121', a "
            "function such as keras.applications.DenseNet121, or a "
            "keras.Model from images to a feature map. "
            f"Received: backbone={function!r} of type "
            f"{type(function).__name__}"
        )
    if weights is not None and weights != "imagenet":
        _check_file(weights)
    model = build_application(function, classes, input_shape, weights)
    if any(is_graph(layer) for layer in model.layers):
        model = flat(model)
    return split_classifier(model)


def _trunk(
    model: keras.Model,
    input_shape: tuple[int | None, int | None, int],
    weights: str | os.PathLike[str] | None,
) -> keras.Model:
    """Copies a model up to its feature map, for images of another shape."""
    check_graph(model)
    check_one("input", model, model.inputs)
    check_images(model, model.inputs[0])
    if weights is not None:
        raise ValueError(
            "Argument `weights` must be None where `backbone` is a "
            f"keras.Model, which has its own. Received: weights={weights!r}"
        )
    own_shape = tuple(model.inputs[0].shape[1:])
    *own_size, own_channels = own_shape
    *size, channels = input_shape
    if own_channels not in (None, channels) and (own_channels, channels) != (
        3,
        1,
    ):
        raise ValueError(
            "Argument `input_shape` must have the channels that the backbone "
            f"{model.name!r} takes, {own_channels}. Received: input_shape="
            f"{input_shape}. To fix this: give input_shape="
            f"{(*size, own_channels)}."
        )
    ranks = {len(tensor.shape) for tensor in model.outputs}
    if 3 in ranks and own_size != size:
        raise ValueError(
            f"Argument `input_shape` must be {(*own_size, channels)} for "
            f"backbone {model.name!r}, which gives tokens and takes images of "
            f"one size only. Received: input_shape={input_shape}."
        )
    image = keras.Input(input_shape, name="image")
    pixels = as_rgb(image) if own_channels == 3 else image
    if ranks == {2}:
        split = split_classifier(flat(model))
        if own_shape == input_shape and split.image.dtype == image.dtype:
            image, output = split.image, split.features
        else:
            output = clone(split.trunk, pixels, taken=PUBLIC_NAMES)
    elif not is_plain(model) and own_size in (size, [None, None]):
        # A copy is called, for a call of the model itself would stay in it.
        output = image_features(copied(model, taken=PUBLIC_NAMES), pixels)
    else:
        trunk = keras.Model(model.inputs[0], coarsest(model.outputs))
        deep = not is_plain(model)
        output = clone(trunk, pixels, taken=PUBLIC_NAMES, deep=deep)
        output = feature_map(output, own_shape)
    return keras.Model(image, output, name=model.name)


def _with_new_head(trunk: keras.Model, classes: int) -> Split:
    (image,), (features,) = trunk.inputs, trunk.outputs
    if not has_space(features):
        raise ValueError(
            "Argument `input_shape` must leave a feature map of at least 2x2 "
            f"behind backbone {trunk.name!r}. Received: "
            f"input_shape={image.shape[1:]}. To fix this: larger images."
        )
    return Split(trunk.name, image, features, new_head(features, classes))


def _check_file(weights: str | os.PathLike[str]) -> None:
    is_path = isinstance(weights, (str, os.PathLike))
    if not is_path or not os.path.isfile(weights):
        raise ValueError(
            "Argument `weights` must be None, the path of a weights file that "
            "exists, or 'imagenet'. "
            f"Received: weights={weights!r}"
        )


def _applications() -> dict[str, Callable[..., keras.Model]]:
    return {
        name: function
        for name, function in vars(keras.applications).items()
        if inspect.isfunction(function)
        and "include_top" in inspect.signature(function).parameters
    }


def _function(name: str) -> Callable[..., keras.Model]:
    known = {**_applications(), **_OWN}
    if name in known:
        return known[name]
    close = ", ".join(map(repr, nearest(name, known)))
    raise ValueError(
        f"Argument `backbone` must be a known name. Received: "
        f"backbone={name!r}. To fix this: "
        + (f"one of the nearest names, {close}; or " if close else "")
        + "one of keras_lficam.backbones.names()."
    )
