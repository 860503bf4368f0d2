"""Reads what the graph of a classifier shows: its map, end and activation.

Surgery splits where the view of a classifier looks, since both search here.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_lficam.surgery._cloning import is_graph, node_of
from keras_lficam.surgery._paths import (
    Call,
    Frame,
    Location,
    calls_backwards,
    is_nested,
)
from keras_lficam.surgery._strides import STRIDED

_POOLINGS = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
)
_AVERAGES = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
)
_WINDOWED_POOLINGS = (
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
)
ATTENTIONS = (
    keras.layers.AdditiveAttention,
    keras.layers.Attention,
    keras.layers.GroupQueryAttention,
    keras.layers.MultiHeadAttention,
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
# Activations that take each number by itself.
_OF_EACH = (keras.activations.linear, keras.activations.sigmoid)
# Functions that are these activations under another name, by the library that
# defines them and their name there.
_ACTIVATIONS: dict[tuple[str, Any], Callable[..., Any]] = {
    ("keras", "sigmoid"): keras.activations.sigmoid,
    ("keras", "softmax"): keras.activations.softmax,
    ("jax", "sigmoid"): keras.activations.sigmoid,
    ("jax", "softmax"): keras.activations.softmax,
    ("tensorflow", "sigmoid"): keras.activations.sigmoid,
    ("tensorflow", "softmax_v2"): keras.activations.softmax,
}


class Graph:
    """The calls of a classifier, and what they show.

    Args:
        name: Name of the classifier.
        image: Input tensor `(B, H, W, channels)`.
        scores: Output tensor `(B, K)`.
        opens: Whether to look into a model nested in the classifier.

    Attributes:
        image: The input tensor.
        scores: The output tensor.
        calls: All calls between the two tensors, the last first.
    """

    def __init__(
        self,
        name: str,
        image: keras.KerasTensor,
        scores: keras.KerasTensor,
        opens: Callable[[keras.Operation], bool] = is_nested,
    ) -> None:
        self.name = name
        self.calls = tuple(calls_backwards(image, scores, opens=opens))
        self.image = image
        self.opens = opens
        self.scores = scores

    @functools.cached_property
    def end(self) -> "End":
        """What makes the scores."""
        return end_of(self.scores)

    def find_map(
        self, layer: str | None = None
    ) -> tuple[Location, tuple[keras.Operation, ...]]:
        """Finds the feature map.

        Walking back from the output, call by call, the first global pooling
        or flattening whose input is four-dimensional and larger than 1x1
        takes the feature map; so does an average or maximum pooling of the
        whole map, if a flattening follows it, `keras.ops.mean` over rows and
        columns, and a convolution of the size of the map. The poolings of
        squeeze-and-excitation lie before it, those of a head that classifies
        with 1x1 convolutions see a 1x1 map.

        Args:
            layer: Name of the layer whose output is the feature map, if it is
                to be another one. A layer that is called twice stands for its
                last call.

        Returns:
            The location of the map, and the layers behind it in their order.

        Raises:
            ValueError: If there is no such map.
        """
        find = self._last_map if layer is None else self._named_map
        index, location = find(layer)
        behind = [call.operation for call in self.calls[:index]]
        return location, tuple(
            operation for operation in behind[::-1] if not self.opens(operation)
        )

    def _last_map(self, layer: Any) -> tuple[int, Location]:
        del layer
        follower = None
        for index, call in enumerate(self.calls):
            if self.opens(call.operation):
                continue
            if _takes_the_map(call, follower):
                return index + 1, call.before
            follower = call.operation
        raise self._no_map()

    def _named_map(self, layer: Any) -> tuple[int, Location]:
        maps: dict[str, tuple[int, Location]] = {}
        for index, call in enumerate(self.calls):
            if has_space(call.after.tensor):
                maps.setdefault(call.operation.name, (index, call.after))
        if not isinstance(layer, str) or layer not in maps:
            raise ValueError(
                "Argument `layer` must be the name of a layer whose output is "
                "a feature map (batch, rows, columns, channels) of at least "
                f"2x2; the last of them are {list(maps)[:5][::-1]}. "
                f"Received: layer={layer!r}"
            )
        return maps[layer]

    def around(self, layer: str | None) -> ValueError:
        """Makes the error for a map that another path goes around.

        Args:
            layer: Name of the layer that was asked for; None if the map was
                searched, and is what a pooling inside a block takes.
        """
        if layer is None:
            return self._no_map()
        return ValueError(
            "Argument `layer` must be the name of a layer that everything "
            f"goes through. Received: layer={layer!r}, around which another "
            f"path goes in {self.name!r}."
        )

    def _no_map(self) -> ValueError:
        calls = [c for c in self.calls if not self.opens(c.operation)]
        maps = [
            call.operation.name
            for call in calls
            if has_space(call.after.tensor)
        ]
        tokens = [
            call.operation.name
            for call in calls
            if are_tokens(call.after.tensor)
        ]
        attends = any(isinstance(call.operation, ATTENTIONS) for call in calls)
        reduced = _reduced_by_strides(calls)
        if tokens and not reduced and (attends or not maps):
            return ValueError(
                f"Model {self.name!r} must have a feature map (batch, rows, "
                "columns, channels) that a global pooling or a flattening "
                "takes; or, to be explained, tokens (batch, tokens, channels) "
                "on a grid that everything goes through and that the scores "
                f"depend on. Received: tokens of {tokens[:5][::-1]}, behind "
                "which that is not so or not seen. To fix this: explain it "
                "with grid=(rows, columns), layer='...', or split=(trunk, "
                "head), two functions; `build` and `attach` take no tokens."
            )
        if not maps or reduced:
            return ValueError(
                f"Model {self.name!r} has no feature map of at least 2x2 in "
                "front of a global pooling or a flattening, so there is "
                "nothing to draw. Received: input shape "
                f"{tuple(self.image.shape[1:])}. To fix this: larger images, "
                "or a backbone with fewer strides."
            )
        return ValueError(
            f"Model {self.name!r} must have a global pooling or a flattening "
            "that everything goes through, for what it takes is the feature "
            f"map. Received: a head that begins otherwise, behind {maps[0]!r}."
            " To fix this: name the layer of the feature map, "
            f"layer={maps[0]!r} or another of {maps[:5][::-1]}; or give "
            "`build` a keras.Model that ends there."
        )


# The map --------------------------------------------------------------------


def has_space(tensor: keras.KerasTensor) -> bool:
    """Whether a tensor is a feature map `(B, h, w, C)` of at least 2x2."""
    shape = tensor.shape
    return len(shape) == 4 and shape[1] != 1 and shape[2] != 1


def are_tokens(tensor: keras.KerasTensor) -> bool:
    """Whether a tensor may be tokens `(B, T, C)` of at least 2x2 patches."""
    shape = tensor.shape
    return len(shape) == 3 and shape[1] is not None and shape[1] >= 4


def _takes_the_map(call: Call, follower: keras.Operation | None) -> bool:
    """Whether a call is the last pooling; `follower` is called next."""
    operation, taken = call.operation, call.before.tensor
    if not has_space(taken):
        return False
    if is_function(operation, *_REDUCTIONS):
        axes = operation.axis or ()
        return sorted(axis % 4 for axis in axes) == [1, 2]
    if pools_all(call):
        return isinstance(
            follower, (keras.layers.Flatten, keras.layers.Reshape)
        ) or is_function(follower, "Reshape", "Squeeze")
    return (
        isinstance(operation, _POOLINGS)
        or flattens(call)
        or convolves_all(call)
    )


def averages_the_map(operation: keras.Operation) -> bool:
    """Whether a call averages a map of any size over its locations."""
    if is_function(operation, "Mean"):
        return sorted(axis % 4 for axis in operation.axis or ()) == [1, 2]
    return isinstance(operation, keras.layers.GlobalAveragePooling2D)


def dense_behind_pooling(
    operations: Sequence[keras.Operation],
) -> keras.layers.Dense | None:
    """Finds the one dense layer of a head, behind a global average pooling.

    Args:
        operations: The layers behind the feature map, in their order.

    Returns:
        The layer; None if the head has others that change the scores.
    """
    passing = keras.layers.Dropout, keras.layers.ReLU
    pooling, *others = operations
    rest = [
        operation
        for operation in others
        # What has weights, such as a dense layer, ends with an activation.
        if getattr(operation, "weights", ())
        or not isinstance(operation, passing)
        and not passes_scores_on(operation)
        and activation_of(operation) is None
    ]
    is_pooling = isinstance(pooling, keras.layers.AveragePooling2D)
    if not (is_pooling or averages_the_map(pooling)) or len(rest) != 1:
        return None
    return rest[0] if isinstance(rest[0], keras.layers.Dense) else None


def pools_all(call: Call) -> bool:
    """Whether a pooling has one window, which is the whole map."""
    operation, taken, given = (
        call.operation,
        call.before.tensor,
        call.after.tensor,
    )
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


def averages(call: Call) -> bool:
    """Whether a call averages a map, or all tokens, over the locations."""
    operation, taken = call.operation, call.before.tensor
    if getattr(operation, "data_format", None) == "channels_first":
        return False
    if is_function(operation, "Mean"):
        count = len(taken.shape)
        axes = operation.axis
        axes = [axes] if isinstance(axes, int) else axes or ()
        return sorted(axis % count for axis in axes) == [*range(1, count - 1)]
    is_pooling = isinstance(operation, keras.layers.AveragePooling2D)
    return isinstance(operation, _AVERAGES) or (is_pooling and pools_all(call))


def convolves_all(call: Call) -> bool:
    """Whether a convolution has one window, which is the whole map."""
    operation, taken, given = (
        call.operation,
        call.before.tensor,
        call.after.tensor,
    )
    return (
        type(operation) is keras.layers.Conv2D
        and operation.groups == 1
        and operation.data_format == "channels_last"
        and tuple(given.shape[1:3]) == (1, 1)
        and tuple(taken.shape[1:3]) == tuple(operation.kernel_size)
        and operation.padding == "valid"
        and tuple(taken.shape[1:3]) != (1, 1)
    )


def flattens(call: Call) -> bool:
    """Whether a call makes one axis of all the values of each image."""
    operation = call.operation
    if isinstance(operation, keras.layers.Flatten):
        return True
    if not isinstance(operation, keras.layers.Reshape) and not is_function(
        operation, "Reshape"
    ):
        return False
    values, shape = call.before.tensor.shape[1:], call.after.tensor.shape[1:]
    if len(shape) != 1:
        return False
    return None in (*values, *shape) or shape[0] == math.prod(values)


def is_function(operation: keras.Operation, *names: str) -> bool:
    """Whether a call is of a function of `keras.ops`, by its class's name.

    Keras does not export the classes.
    """
    kind = type(operation)
    return kind.__module__.startswith("keras.src.ops.") and (
        kind.__name__ in names
    )


def _reduced_by_strides(calls: Iterable[Call]) -> bool:
    """Whether a pooling or flattening takes a map that strides made 1x1."""
    pools = any(
        isinstance(call.operation, (*_POOLINGS, keras.layers.Flatten))
        and len(call.before.tensor.shape) == 4
        and not has_space(call.before.tensor)
        for call in calls
    )
    # Of a residual block the shortcut may do it by a function.
    return pools and any(
        isinstance(call.operation, STRIDED)
        and has_space(call.before.tensor)
        and len(call.after.tensor.shape) == 4
        and not has_space(call.after.tensor)
        for call in calls
    )


# The end --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class End:
    """What makes the scores of a classifier, and does not just pass them on.

    Attributes:
        call: The call that does.
        activation: The activation that the scores end with, the identity if
            a layer that could have one has none; None if it is not known.
    """

    call: Call
    activation: Callable[..., Any] | None

    @property
    def can_be_reached(self) -> bool:
        """Whether one path leads into each model around the end."""
        return all(frame.is_single for frame in self.call.after.frames)


def end_of(scores: keras.KerasTensor) -> End:
    """Finds what makes scores, in whatever model it is nested.

    Walking back, whatever gives scores as they are at inference is passed: a
    dropout, a change of shape, the identity.

    Args:
        scores: Tensor `(B, K)`.

    Returns:
        The `End`.
    """
    frames: tuple[Frame, ...] = ()
    tensor = scores
    while True:
        node = node_of(tensor)
        operation = node.operation
        if frames and tensor is frames[-1].begin:
            tensor, frames = frames[-1].entry, frames[:-1]
        elif is_graph(operation) and len(operation.outputs) == 1:
            frame = Frame(
                node.input_tensors[0],
                node.outputs[0],
                operation.inputs[0],
                operation.outputs[0],
                is_single=len(operation.inputs) == 1,
            )
            tensor, frames = operation.outputs[0], (*frames, frame)
        elif gives_scores_on(operation) and node.input_tensors:
            tensor = node.input_tensors[0]
        else:
            break
    before = node.input_tensors[0] if node.input_tensors else tensor
    call = Call(operation, Location(frames, before), Location(frames, tensor))
    activation = activation_of(operation)
    if activation not in _OF_EACH and tensor.shape[-1] != scores.shape[-1]:
        # Not over the classes, but over those at each of several locations.
        activation = None
    return End(call, activation)


def gives_scores_on(operation: keras.Operation) -> bool:
    is_dropout = isinstance(operation, keras.layers.Dropout)
    return is_dropout or passes_scores_on(operation)


def passes_scores_on(operation: keras.Operation) -> bool:
    """Whether scores go through an operation as they are."""
    idle = type(operation) is keras.layers.Activation and (
        operation.activation is keras.activations.linear
    )
    return (
        idle
        or isinstance(operation, _PASSING)
        or is_function(operation, *_PASSING_FUNCTIONS)
    )


def activation_of(operation: keras.Operation) -> Callable[..., Any] | None:
    """The activation that an operation ends with; None if it has none.

    Softmax and sigmoid are those of `keras.activations`, whether they are a
    layer, a function of `keras.ops`, or one of TensorFlow or JAX.
    """
    if isinstance(operation, keras.layers.Softmax) or is_function(
        operation, "Softmax"
    ):
        # Of scores `(B, K)` both are the classes.
        softmax = _ACTIVATIONS["keras", "softmax"]
        return softmax if operation.axis in (-1, 1) else None
    if is_function(operation, "Sigmoid"):
        return _ACTIVATIONS["keras", "sigmoid"]
    if isinstance(operation, keras.layers.Lambda):
        known = _known_activation(operation.function)
        return None if operation.arguments else known
    activation: Callable[..., Any] | None = getattr(
        operation, "activation", None
    )
    return _known_activation(activation) or activation


def _known_activation(function: Any) -> Callable[..., Any] | None:
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__name__", None)
    return _ACTIVATIONS.get((module.partition(".")[0], name))


def named_outputs(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """The outputs of a classifier by name; of one alone, `predictions`."""
    # A `Sequential` that was never called has no `output`.
    if len(model.outputs) == 1:
        return {"predictions": model.outputs[0]}
    return dict(model.output)


def last_activation(model: keras.Model) -> Callable[..., Any]:
    """The activation of a classifier's scores; the identity if it has none."""
    if not is_graph(model):
        last = model.layers[-1]
        if isinstance(last, keras.Model):
            return last_activation(last)
        return activation_of(last) or keras.activations.linear
    scores = model.outputs[0]
    names = {layer.name for layer in model.layers}
    if len(model.outputs) > 1 and "predictions" in names:
        scores = model.get_layer("predictions").output
    return end_of(scores).activation or keras.activations.linear
