"""Splits a classifier after its last convolutional feature map."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lficam._checks import check_text
from keras_lficam.surgery._cloning import (
    PUBLIC_NAMES,
    Visit,
    check_graph,
    check_images,
    check_one,
    clone,
    is_graph,
    is_plain,
    nodes_backwards,
)
from keras_lficam.surgery._paths import calls_backwards
from keras_lficam.surgery._reading import (
    Graph,
    convolves_all,
    end_of,
    flattens,
    has_space,
    pools_all,
)
from keras_lficam.surgery._strides import Strides

# Layers that move pixels, such as begin a model that augments its images.
_MOVING = (
    keras.layers.AugMix,
    keras.layers.CenterCrop,
    keras.layers.Cropping2D,
    keras.layers.RandAugment,
    keras.layers.RandomCrop,
    keras.layers.RandomElasticTransform,
    keras.layers.RandomErasing,
    keras.layers.RandomFlip,
    keras.layers.RandomPerspective,
    keras.layers.RandomRotation,
    keras.layers.RandomShear,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.Resizing,
)
# Layers that change the values of pixels and leave them where they are.
_RECOLORING = (
    keras.layers.AutoContrast,
    keras.layers.Equalization,
    keras.layers.GaussianNoise,
    keras.layers.RandomBrightness,
    keras.layers.RandomColorDegeneration,
    keras.layers.RandomColorJitter,
    keras.layers.RandomContrast,
    keras.layers.RandomGaussianBlur,
    keras.layers.RandomGrayscale,
    keras.layers.RandomHue,
    keras.layers.RandomInvert,
    keras.layers.RandomPosterization,
    keras.layers.RandomSaturation,
    keras.layers.RandomSharpness,
    keras.layers.Solarization,
)


@dataclasses.dataclass(frozen=True)
class Split:
    """A classifier in two parts.

    Attributes:
        name: Name of the classifier.
        image: Input tensor `(B, H, W, channels)`.
        features: Last feature map `(B, h, w, C)`, made from `image`.
        head: Model from a feature map of that shape to the classifier's
            output; its weights are those of the classifier.
    """

    name: str
    image: keras.KerasTensor
    features: keras.KerasTensor
    head: keras.Model

    @property
    def trunk(self) -> keras.Model:
        """Model from the image to the features, of the same layers."""
        # A copy of a layer whose name is taken is called after the model.
        return keras.Model(self.image, self.features, name=self.name)


def split_copy(
    model: keras.Model,
    *,
    layer: str | None = None,
    output_stride: int | None = None,
) -> Split:
    """Copies a trained classifier and splits it at its feature map.

    Args:
        model: Functional or Sequential classifier, nested or not, with one
            input and one output. It stays as it is.
        layer: Name of the layer whose output is the feature map; by default
            it is found.
        output_stride: Pixels of the image that a row of the feature map
            stands for; None for as many as the model has.

    Returns:
        A `Split` with weights of its own, flat: no layer is a model.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If it is a subclassed model, takes no images, or has
            several inputs or outputs, no feature map is found, or the strides
            do not lead to `output_stride`.
    """
    check_graph(model)
    check_one("input", model, model.inputs)
    check_images(model, model.inputs[0])
    check_one("output", model, model.outputs)
    if layer is not None:
        check_text("layer", layer)
        layer = _innermost(model, layer)
    split = split_classifier(flat(model), layer)
    if output_stride is None:
        return split
    return rebuilt(split, split.image.shape[1:], output_stride)


def _innermost(model: keras.Model, name: str) -> str:
    """The name of the layer that makes the output of a nested model.

    That of another layer stays as it is.
    """
    for layer in model.layers:
        if is_graph(layer) and is_plain(layer):
            if layer.name != name:
                found = _innermost(layer, name)
                if found != name:
                    return found
            else:
                last = layer.outputs[0]._keras_history.operation
                return _innermost(layer, last.name)
    return name


def flat(model: keras.Model) -> keras.Model:
    """Copies a model so that no plain model is nested in it.

    Args:
        model: Model with one input.

    Returns:
        A functional model with weights of its own.
    """
    image = keras.Input(
        model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image"
    )
    output = clone(model, image, taken=PUBLIC_NAMES)
    return keras.Model(image, output, name=model.name)


def split_classifier(model: keras.Model, layer: str | None = None) -> Split:
    """Splits a flat functional classifier in front of its last pooling.

    Args:
        model: Functional model with one input and one output.
        layer: Name of the layer whose output is the feature map, if it is to
            be another one.

    Returns:
        The `Split`, sharing its layers and weights with `model`.

    Raises:
        ValueError: If no such layer is found, or the output does not depend
            on its input alone, which happens when the images are so small
            that the true feature map is 1x1.
    """
    graph = Graph(model.name, model.inputs[0], model.outputs[0], _unfolded)
    location, _ = graph.find_map(layer)
    try:
        head = keras.Model(location.tensor, model.outputs[0], name="head")
    except ValueError as error:
        raise graph.around(layer) from error
    return Split(model.name, model.inputs[0], location.tensor, head)


def _unfolded(operation: keras.Operation) -> bool:
    """Of a flat model no other is unfolded."""
    del operation
    return False


def new_head(
    features: keras.KerasTensor, classes: int, dropout: float = 0.0
) -> keras.Model:
    """Makes a head of global average pooling and a dense layer.

    Args:
        features: Feature map `(B, h, w, C)`.
        classes: Number of classes, `K`.
        dropout: Rate of the dropout between the two; 0 for none.

    Returns:
        Model from a feature map of that shape to logits `(B, K)`.
    """
    map_ = keras.Input(features.shape[1:], dtype=features.dtype)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(map_)
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    logits = keras.layers.Dense(classes, name="classifier")(x)
    return keras.Model(map_, logits, name="head")


def dropout_of(head: keras.Model) -> float:
    """Rate of the last dropout of a head, 0 if it has none."""
    rates = [
        layer.rate
        for layer in head.layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    return rates[-1] if rates else 0.0


def with_dropout(
    head: keras.Model,
    rate: float,
    features: keras.KerasTensor | None = None,
) -> keras.Model:
    """Copies a head, with a dropout of this rate before its last weights.

    A dropout that the head has gets the rate instead.

    Args:
        head: Model from a feature map to scores.
        rate: Rate of the dropout.
        features: Feature map that the copy is for; by default one of the
            same shape.
    """
    weighted = [layer for layer in head.layers if layer.weights]
    has_one = any(isinstance(la, keras.layers.Dropout) for la in head.layers)

    def dropped(tensors: Any) -> Any:
        return keras.layers.Dropout(rate, name="dropout")(tensors)

    def visit(
        layer: keras.Operation, tensors: Any, proceed: Callable[..., Any]
    ) -> Any:
        if isinstance(layer, keras.layers.Dropout):
            return proceed(tensors, rate=rate)
        if weighted and layer is weighted[-1] and not has_one:
            tensors = dropped(tensors)
        return proceed(tensors)

    features = head.inputs[0] if features is None else features
    map_ = keras.Input(features.shape[1:], dtype=features.dtype)
    x = map_ if weighted or has_one else dropped(map_)
    return keras.Model(map_, clone(head, x, visit), name="head")


def without_activation(
    head: keras.Model,
) -> tuple[keras.Model, Callable[..., Any] | None]:
    """Copies a head up to its last activation.

    Returns:
        The model that gives what the activation was applied to, and the
        activation: a function, that of the identity if the head ends with a
        layer that could have one. The head as it is, and None, if it ends
        otherwise.
    """
    end = end_of(head.outputs[0])
    last = end.call.operation
    # A model that is left nested is copied whole.
    if end.activation is None or end.call.after.frames:
        return head, None

    def visit(
        layer: keras.Operation, tensors: Any, proceed: Callable[..., Any]
    ) -> Any:
        if layer is not last:
            return proceed(tensors)
        if not getattr(last, "weights", ()):
            return tensors
        return proceed(tensors, activation=None)

    return _copied_head(head, head.inputs[0], visit), end.activation


def seen_image(split: Split) -> keras.KerasTensor:
    """Finds the image as the features see it.

    Behind the layers that move its pixels, if a model begins with such: the
    gray image that masks the features has to be moved with them. Where layers
    before them scale the pixels, the moved image is scaled back, for it is to
    have the values that the model takes.
    """
    takers: dict[int, list[Any]] = {}
    for node in nodes_backwards(split.image, split.features):
        for key in {id(tensor) for tensor in node.input_tensors}:
            takers.setdefault(key, []).append(node)
    tensor = seen = split.image
    scaled: list[tuple[Any, Any]] = []
    undone: list[tuple[Any, Any]] = []
    while len(takers.get(id(tensor), ())) == 1:
        (node,) = takers[id(tensor)]
        operation = node.operation
        scale = _scale_of(operation)
        if isinstance(operation, _MOVING):
            seen, undone = node.outputs[0], list(scaled)
        elif scale is not None:
            scaled.append(scale)
        elif not isinstance(operation, _RECOLORING) and not _repeats(node):
            break
        tensor = node.outputs[0]
    taken = {operation.name for operation in split.trunk.operations}
    for number, (factor, offset) in enumerate(reversed(undone)):
        name = f"seen_image_{number}"
        while name in taken:
            name += "_"
        seen = keras.layers.Rescaling(
            (1 / factor).tolist(),
            (-offset / factor).tolist(),
            dtype="float32",
            name=name,
        )(seen)
    return seen


def _scale_of(
    operation: keras.Operation,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and offset of a layer that scales pixels; None of any other."""
    if isinstance(operation, keras.layers.Rescaling):
        factor, offset = operation.scale, operation.offset
    elif (
        isinstance(operation, keras.layers.Normalization)
        and not operation.invert
        and operation.axis in ((3,), (-1,), (), None)
    ):
        mean, variance = map(
            keras.ops.convert_to_numpy, (operation.mean, operation.variance)
        )
        factor = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
        offset = -mean * factor
    else:
        return None
    factor, offset = np.broadcast_arrays(np.ravel(factor), np.ravel(offset))
    return (factor, offset) if np.all(factor != 0) else None


def _repeats(node: Any) -> bool:
    """Whether a call puts a gray image beside itself, as for RGB."""
    tensors = node.input_tensors
    return isinstance(node.operation, keras.layers.Concatenate) and (
        len({id(tensor) for tensor in tensors}) == 1
    )


def rebuilt(
    split: Split,
    input_shape: tuple[int | None, int | None, int],
    output_stride: int | None = None,
    dropout: float | None = None,
) -> Split:
    """Builds a classifier once more, for other images or with other strides.

    Args:
        split: The classifier. Its weights are copied.
        input_shape: Shape `(height, width, channels)`; None for an open size.
        output_stride: Pixels of the image that a row of the feature map is
            to stand for; None for as many as now.
        dropout: Rate of the dropout before the last weights; None for that of
            the head.

    Returns:
        A `Split` with layers of the same names and weights; no layer of the
        trunk has one of `PUBLIC_NAMES`.

    Raises:
        ValueError: If the head takes feature maps of its own size only, or
            the strides of the backbone do not lead there.
    """
    head = split.head
    is_changed = (
        output_stride is not None or split.image.shape[1:] != input_shape
    )
    if is_changed:
        _check_any_size(head, input_shape, output_stride)
    image = keras.Input(input_shape, dtype=split.image.dtype, name="image")
    strides = Strides(output_stride)
    features = clone(
        split.trunk, image, strides, taken=PUBLIC_NAMES, deep=is_changed
    )
    if output_stride not in (None, strides.of(features)):
        raise ValueError(
            "Argument `output_stride` must be one of the strides that the "
            f"backbone {split.name!r} goes through, "
            f"{sorted(strides.passed)}. "
            f"Received: output_stride={output_stride}"
        )
    if dropout is None:
        head = _copied_head(head, features)
    else:
        head = with_dropout(head, dropout, features)
    return Split(split.name, image, features, head)


def _copied_head(
    head: keras.Model, features: keras.KerasTensor, visit: Visit | None = None
) -> keras.Model:
    map_ = keras.Input(features.shape[1:], dtype=features.dtype)
    return keras.Model(map_, clone(head, map_, visit), name="head")


def _check_any_size(
    head: keras.Model, input_shape: Any, output_stride: int | None
) -> None:
    for call in calls_backwards(
        head.inputs[0], head.outputs[0], opens=_unfolded
    ):
        kinds = {
            "flattens": flattens,
            "pools a window of": pools_all,
            "convolves all of": convolves_all,
        }
        if not has_space(call.before.tensor):
            continue
        for how in (how for how, is_kind in kinds.items() if is_kind(call)):
            raise ValueError(
                "The head of this backbone takes feature maps of one size "
                f"only, for its layer {call.operation.name!r} "
                f"{how} the map. "
                f"Received: input_shape={input_shape}, "
                f"output_stride={output_stride}. To fix this: give height and "
                "width as numbers and output_stride=None, or a backbone that "
                "ends with a global pooling."
            )
