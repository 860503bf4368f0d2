"""Where a classifier is cut: at the last tensor that still has space."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_lficam._checks import check_text
from keras_lficam.surgery._cloning import (
    PUBLIC_NAMES,
    check_graph,
    check_images,
    check_one,
    is_graph,
    is_plain,
    node_of,
    nodes_backwards,
    replay,
)
from keras_lficam.surgery._strides import STRIDED, Strides

_POOLINGS = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
)
_WINDOWED_POOLINGS = (
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
)
# Functions of `keras.ops` that reduce the axes that they are given.
_REDUCTIONS = ("Amax", "Max", "Mean", "Sum")
# Layers, and functions of `keras.ops`, that leave scores what they are.
_PASSING = (
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Reshape,
)
_PASSING_FUNCTIONS = ("Cast", "ConvertToTensor", "Reshape", "Squeeze")
# Functions that are these activations under another name, by the library that
# defines them and their name there.
_ACTIVATIONS = {
    ("keras", "sigmoid"): keras.activations.sigmoid,
    ("keras", "softmax"): keras.activations.softmax,
    ("jax", "sigmoid"): keras.activations.sigmoid,
    ("jax", "softmax"): keras.activations.softmax,
    ("tensorflow", "sigmoid"): keras.activations.sigmoid,
    ("tensorflow", "softmax_v2"): keras.activations.softmax,
}
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
        return keras.Model(self.image, self.features)


def cut(
    model: keras.Model,
    *,
    layer: str | None = None,
    output_stride: int | None = None,
) -> Split:
    """Copies a trained classifier and cuts it where space is last seen.

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


def _innermost(model, name):
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


def flat(model):
    """Copies a model so that no plain model is nested in it.

    Args:
        model: Model with one input.

    Returns:
        A functional model with weights of its own.
    """
    image = keras.Input(
        model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="image"
    )
    output = replay(model, image, taken=PUBLIC_NAMES)
    return keras.Model(image, output, name=model.name)


def split_classifier(model: keras.Model, layer: str | None = None) -> Split:
    """Cuts a flat functional classifier in front of its last pooling.

    Walking back from the output, call by call, the first global pooling or
    flattening whose input is four-dimensional and larger than 1x1 takes the
    feature map; so does an average or maximum pooling of the whole map, if a
    flattening follows it, and `keras.ops.mean` over rows and columns. The
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
    # A layer that is called twice takes another tensor in each of its calls.
    calls = [
        (node.operation, node.input_tensors[0], node.outputs[0])
        for node in nodes_backwards(model.inputs[0], model.outputs[0])
    ]
    follower = None
    for operation, taken, given in calls:
        if takes_the_map(operation, taken, given, follower):
            try:
                return _split_at(model, taken)
            except _GoesAroundError:
                break  # A pooling inside a block.
        follower = operation
    raise no_map(model.name, model.inputs[0].shape[1:], calls)


def no_map(
    name: str,
    shape: tuple[int | None, ...],
    calls: Iterable[tuple[keras.Operation, Any, Any]] = (),
) -> ValueError:
    """Makes the error for a model in which no feature map was found.

    Args:
        name: Name of the model.
        shape: Shape of its input, without the batch.
        calls: What is called in it, on what, and what that gives; the last
            call first.
    """
    calls = list(calls)
    maps = [operation.name for operation, _, given in calls if has_space(given)]
    if not maps or _reduced_by_strides(calls):
        return ValueError(
            f"Model {name!r} has no feature map of at least 2x2 in front of "
            "a global pooling or a flattening, so there is nothing to draw. "
            f"Received: input shape {shape}. Ways out: larger images, or a "
            "backbone with fewer strides."
        )
    return ValueError(
        f"Model {name!r} must have a global pooling or a flattening that "
        "everything goes through, for what it takes is the feature map. "
        f"Received: a head that begins otherwise, behind {maps[0]!r}. To fix "
        f"this: name the layer of the feature map, layer={maps[0]!r} or "
        f"another of {maps[:5][::-1]}; or give `build` a keras.Model that ends "
        "there."
    )


def _reduced_by_strides(calls):
    """Whether a pooling or flattening takes a map that strides made 1x1."""
    pools = any(
        isinstance(operation, (*_POOLINGS, keras.layers.Flatten))
        and len(taken.shape) == 4
        and not has_space(taken)
        for operation, taken, _ in calls
    )
    # Of a residual block the shortcut may do it by a function.
    return pools and any(
        isinstance(operation, STRIDED)
        and has_space(taken)
        and len(given.shape) == 4
        and not has_space(given)
        for operation, taken, given in calls
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
    maps: dict[str, keras.KerasTensor] = {}
    for node in nodes_backwards(model.inputs[0], model.outputs[0]):
        if has_space(node.outputs[0]):
            # A layer that is called twice stands for its last call.
            maps.setdefault(node.operation.name, node.outputs[0])
    if name not in maps:
        raise ValueError(
            "Argument `layer` must be the name of a layer whose output is a "
            "feature map (batch, rows, columns, channels) of at least 2x2; "
            f"the last of them are {list(maps)[:5][::-1]}. "
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
    if not has_space(taken):
        return False
    if _is_function(operation, *_REDUCTIONS):
        axes = operation.axis or ()
        return sorted(axis % 4 for axis in axes) == [1, 2]
    if _pools_all(operation, taken, given):
        return isinstance(
            follower, (keras.layers.Flatten, keras.layers.Reshape)
        ) or _is_function(follower, "Reshape", "Squeeze")
    return isinstance(operation, _POOLINGS) or _flattens(
        operation, taken, given
    )


def averages_the_map(operation: keras.Operation) -> bool:
    """Whether what takes the feature map averages it over its places."""
    return isinstance(
        operation,
        (keras.layers.GlobalAveragePooling2D, keras.layers.AveragePooling2D),
    ) or _is_function(operation, "Mean")


def has_space(tensor: keras.KerasTensor) -> bool:
    """Whether a tensor is a feature map `(B, h, w, C)` of at least 2x2."""
    shape = tensor.shape
    return len(shape) == 4 and shape[1] != 1 and shape[2] != 1


def _pools_all(operation, taken, given):
    """Whether a pooling has one window, which is the whole map."""
    return (
        isinstance(operation, _WINDOWED_POOLINGS)
        and tuple(given.shape[1:3]) == (1, 1)
        and all(
            size is not None and size <= window
            for size, window in zip(
                taken.shape[1:3], operation.pool_size, strict=True
            )
        )
    )


def _flattens(operation, taken, given):
    """Whether a call makes one axis of all the values of each image."""
    if isinstance(operation, keras.layers.Flatten):
        return True
    if not isinstance(operation, keras.layers.Reshape) and not _is_function(
        operation, "Reshape"
    ):
        return False
    values, shape = taken.shape[1:], given.shape[1:]
    if len(shape) != 1:
        return False
    return None in (*values, *shape) or shape[0] == math.prod(values)


def _is_function(operation, *names):
    """Whether a call is of a function of `keras.ops`, by its class's name.

    Keras does not export the classes.
    """
    kind = type(operation)
    return kind.__module__.startswith("keras.src.ops.") and (
        kind.__name__ in names
    )


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
    return (
        idle
        or isinstance(operation, _PASSING)
        or _is_function(operation, *_PASSING_FUNCTIONS)
    )


def activation_of(operation: keras.Operation) -> Callable[..., Any] | None:
    """The activation that an operation ends with; None if it has none.

    Softmax and sigmoid are those of `keras.activations`, whether they are a
    layer, a function of `keras.ops`, or one of TensorFlow or JAX.
    """
    if isinstance(operation, keras.layers.Softmax) or _is_function(
        operation, "Softmax"
    ):
        # Of scores `(B, K)` both are the classes.
        return keras.activations.softmax if operation.axis in (-1, 1) else None
    if _is_function(operation, "Sigmoid"):
        return keras.activations.sigmoid
    if isinstance(operation, keras.layers.Lambda):
        known = _known_activation(operation.function)
        return None if operation.arguments else known
    activation = getattr(operation, "activation", None)
    return _known_activation(activation) or activation


def _known_activation(function):
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__name__", None)
    return _ACTIVATIONS.get((module.partition(".")[0], name))


def last_activation(model: keras.Model) -> Callable[..., Any]:
    """The activation of a classifier's answer; the identity if it has none."""
    names = {layer.name for layer in model.layers}
    if not is_graph(model):
        last = model.layers[-1]
        if isinstance(last, keras.Model):
            return last_activation(last)
    elif len(model.outputs) > 1 and "predictions" in names:
        last = model.get_layer("predictions")
    else:
        last = _last_operation(model)
    return activation_of(last) or keras.activations.linear


def _last_operation(model):
    """The last operation that makes scores, in whatever model it is nested."""
    tensor = model.outputs[0]
    while True:
        node = node_of(tensor)
        if is_graph(node.operation) and len(node.operation.outputs) == 1:
            tensor = node.operation.outputs[0]
        elif passes_scores_on(node.operation) and node.input_tensors:
            tensor = node.input_tensors[0]
        else:
            return node.operation


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
        if not getattr(last, "weights", ()):
            return tensors
        return proceed(tensors, activation=None)

    return _copied_head(head, head.inputs[0], visit), activation


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


def _scale_of(operation):
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


def _repeats(node):
    """Whether a call puts a gray image beside itself, as for RGB."""
    tensors = node.input_tensors
    return isinstance(node.operation, keras.layers.Concatenate) and (
        len({id(tensor) for tensor in tensors}) == 1
    )


def rebuilt(
    split: Split,
    input_shape: tuple[int | None, int | None, int],
    output_stride: int | None = None,
) -> Split:
    """Builds a classifier once more, for other images or with other strides.

    Args:
        split: The classifier. Its weights are copied.
        input_shape: Shape `(height, width, channels)`; None for an open size.
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
    for node in nodes_backwards(head.inputs[0], head.outputs[0]):
        call = node.operation, node.input_tensors[0], node.outputs[0]
        flattens = _flattens(*call)
        if has_space(call[1]) and (flattens or _pools_all(*call)):
            raise ValueError(
                "The head of this backbone takes feature maps of one size "
                f"only, for its layer {node.operation.name!r} "
                f"{'flattens' if flattens else 'pools a window of'} the map. "
                f"Received: input_shape={input_shape}, "
                f"output_stride={output_stride}. Ways out: give height and "
                "width as numbers and output_stride=None, or a backbone that "
                "ends with a global pooling."
            )
