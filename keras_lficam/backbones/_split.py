"""Where a classifier is cut: at the last tensor that still has space."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_lficam.backbones._graph import node_of, replay
from keras_lficam.backbones._strides import Strides

_POOLINGS = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
)
# Layers that leave scores what they are.
_PASSING = (
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Reshape,
)
# Layers that move pixels, such as begin a model that augments its images.
_MOVING = (
    keras.layers.CenterCrop,
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


@dataclasses.dataclass(frozen=True)
class Split:
    """A classifier in two parts.

    Attributes:
        name: Name of the classifier.
        image: Input tensor `(B, H, W, 3)`.
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
        return keras.Model(self.image, self.features)


def split_classifier(model: keras.Model, layer: str | None = None) -> Split:
    """Cuts a flat functional classifier in front of its last pooling.

    Walking back from the output, the first global pooling or flattening whose
    input is four-dimensional and larger than 1x1 takes the feature map; so
    does an average pooling of the whole map, if a flattening follows it. The
    poolings of squeeze-and-excitation lie before it, those of a head that
    classifies with 1x1 convolutions see a 1x1 map.

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
    if layer is not None:
        try:
            return _split_at(model, _named_map(model, layer))
        except _GoesAroundError as error:
            raise ValueError(
                f"Argument `layer` must be the name of a layer that everything "
                f"goes through. Received: layer={layer!r}, which another path "
                "goes around."
            ) from error
    followers = [*model.layers[1:], None]
    for candidate, follower in zip(
        reversed(model.layers), reversed(followers), strict=True
    ):
        if isinstance(candidate, keras.layers.InputLayer):
            continue
        if takes_the_map(
            candidate, candidate.input, candidate.output, follower
        ):
            try:
                return _split_at(model, candidate.input)
            except _GoesAroundError:
                break  # A pooling inside a block.
    raise no_map(model.name, model.inputs[0].shape[1:])


def no_map(name: str, shape: tuple[int | None, ...]) -> ValueError:
    """Makes the error for a model of this name and input shape."""
    return ValueError(
        f"Model {name!r} has no feature map of at least 2x2 in front of "
        "a global pooling or a flattening, so there is nothing to draw. "
        f"Received: input shape {shape}. Ways out: larger images, or a "
        "backbone with fewer strides."
    )


class _GoesAroundError(Exception):
    """The output of a model does not depend on the cut tensor alone."""


def _split_at(model, features):
    try:
        head = keras.Model(features, model.outputs[0], name="head")
    except ValueError as error:
        raise _GoesAroundError from error
    return Split(model.name, model.inputs[0], features, head)


def _named_map(model, name):
    # A layer that is called twice stands for its last call.
    outputs = {
        layer.name: layer._inbound_nodes[-1].outputs[0]
        for layer in model.layers
    }
    maps = {key: x for key, x in outputs.items() if has_space(x)}
    if name not in maps:
        raise ValueError(
            "Argument `layer` must be the name of a layer whose output is a "
            "feature map (batch, rows, columns, channels) of at least 2x2; "
            f"the last of them are {list(maps)[-5:]}. "
            f"Received: layer={name!r}"
        )
    return maps[name]


def takes_the_map(
    operation: keras.Operation,
    taken: Any,
    given: Any,
    follower: keras.Operation | None,
) -> bool:
    """Whether a call is the last pooling, which takes the feature map.

    Args:
        operation: What is called.
        taken: What it is called on.
        given: What it gives.
        follower: What is called next.
    """
    if isinstance(operation, keras.layers.AveragePooling2D):
        whole = tuple(given.shape[1:3]) == (1, 1)
        flattened = isinstance(
            follower, (keras.layers.Flatten, keras.layers.Reshape)
        )
        return has_space(taken) and whole and flattened
    return isinstance(operation, _POOLINGS) and has_space(taken)


def has_space(tensor: keras.KerasTensor) -> bool:
    """Whether a tensor is a feature map `(B, h, w, C)` of at least 2x2."""
    shape = tensor.shape
    return len(shape) == 4 and shape[1] != 1 and shape[2] != 1


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


def with_dropout(head: keras.Model, rate: float) -> keras.Model:
    """Copies a head, with a dropout of this rate before its last weights.

    A dropout that the head has gets the rate instead.
    """
    weighted = [layer for layer in head.layers if layer.weights]
    has_one = any(isinstance(la, keras.layers.Dropout) for la in head.layers)

    def dropped(tensors):
        return keras.layers.Dropout(rate, name="dropout")(tensors)

    def visit(layer, tensors, proceed):
        if isinstance(layer, keras.layers.Dropout):
            return proceed(tensors, rate=rate)
        if weighted and layer is weighted[-1] and not has_one:
            tensors = dropped(tensors)
        return proceed(tensors)

    map_ = keras.Input(head.inputs[0].shape[1:], dtype=head.inputs[0].dtype)
    x = map_ if weighted or has_one else dropped(map_)
    return keras.Model(map_, replay(head, x, visit), name="head")


def passes_scores_on(operation: keras.Operation) -> bool:
    """Whether scores go through an operation as they are."""
    idle = type(operation) is keras.layers.Activation and (
        operation.activation is keras.activations.linear
    )
    return idle or isinstance(operation, _PASSING)


def activation_of(operation: keras.Operation) -> Callable[..., Any] | None:
    """The activation that an operation ends with; None if it has none."""
    if isinstance(operation, keras.layers.Softmax):
        # Of scores `(B, K)` both are the classes.
        return keras.activations.softmax if operation.axis in (-1, 1) else None
    return getattr(operation, "activation", None)


def last_activation(model: keras.Model) -> Callable[..., Any]:
    """The activation of a classifier's answer; the identity if it has none."""
    names = {layer.name for layer in model.layers}
    last = (
        model.get_layer("predictions")
        if "predictions" in names
        else model.layers[-1]
    )
    return activation_of(last) or keras.activations.linear


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
    tensor = head.outputs[0]
    while passes_scores_on(tensor._keras_history.operation):
        (tensor,) = node_of(tensor).input_tensors
    last = tensor._keras_history.operation
    activation = activation_of(last)
    # What is not yet flat may hold more than one place for each class.
    if activation is None or tensor.shape[-1] != head.outputs[0].shape[-1]:
        return head, None

    def visit(layer, tensors, proceed):
        if layer is not last:
            return proceed(tensors)
        return proceed(tensors, activation=None) if last.weights else tensors

    return _copied_head(head, head.inputs[0], visit), activation


def seen_image(split: Split) -> keras.KerasTensor:
    """Finds the image as the features see it.

    Behind the layers that move its pixels, if a model begins with such: the
    gray image that masks the features has to be moved with them.
    """
    image = split.image
    for operation in split.trunk.operations[1:]:
        if not isinstance(operation, _MOVING):
            break
        image = operation.output
    return image


def rebuilt(
    split: Split,
    input_shape: tuple[int | None, int | None, int],
    output_stride: int | None = None,
) -> Split:
    """Builds a classifier once more, for other images or with other strides.

    Args:
        split: The classifier. Its weights are copied.
        input_shape: Shape `(height, width, 3)`; None for an open size.
        output_stride: Pixels of the image that a row of the feature map is
            to stand for; None for as many as now.

    Returns:
        A `Split` with layers of the same names and weights.

    Raises:
        ValueError: If the head takes feature maps of its own size only, or
            the strides of the backbone do not lead there.
    """
    head = split.head
    _check_any_size(head, input_shape, output_stride)
    image = keras.Input(input_shape, dtype=split.image.dtype, name="image")
    strides = Strides(output_stride)
    features = replay(split.trunk, image, strides, deep=True)
    if output_stride not in (None, strides.of(features)):
        raise ValueError(
            "Argument `output_stride` must be one of the strides that the "
            f"backbone {split.name!r} goes through, "
            f"{sorted(strides.passed)}. "
            f"Received: output_stride={output_stride}"
        )
    return Split(split.name, image, features, _copied_head(head, features))


def _copied_head(head, features, visit=None):
    map_ = keras.Input(features.shape[1:], dtype=features.dtype)
    return keras.Model(map_, replay(head, map_, visit), name="head")


def _check_any_size(head, input_shape, output_stride):
    for layer in head.layers:
        flattens = isinstance(layer, keras.layers.Flatten)
        pools = isinstance(layer, keras.layers.AveragePooling2D) and (
            tuple(layer.output.shape[1:3]) == (1, 1)
        )
        if (flattens or pools) and has_space(layer.input):
            raise ValueError(
                "The head of this backbone takes feature maps of one size "
                f"only, for its layer {layer.name!r} "
                f"{'flattens' if flattens else 'pools a window of'} the map. "
                f"Received: input_shape={input_shape}, "
                f"output_stride={output_stride}. Ways out: give height and "
                "width as numbers and output_stride=None, or a backbone that "
                "ends with a global pooling."
            )
