"""Counts the strides of a backbone, and turns the last of them to 1."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_lficam.surgery._cloning import clone, node_of, nodes_backwards

STRIDED = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
)
_PADDINGS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)


class Strides:
    """A visit, as `clone` calls it, that counts and limits strides.

    A layer whose stride would lead beyond the limit gets stride 1. It then
    keeps the size of what it is given: it pads by itself, and a padding or
    cropping that stood before it to suit the stride is left out. No layer
    gains or loses a weight.

    Args:
        limit: Largest number of pixels of the image that a row of a feature
            map may stand for; None for no limit.

    Attributes:
        passed: All the strides that the backbone would go through.
        hidden: Names of the layers that reduce the map inside themselves.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.passed = {1}
        self.hidden: set[str] = set()
        self._outputs: dict[int, tuple[Any, int]] = {}  # By identity.
        self._unpadded: dict[int, Any] = {}
        self._is_turned: dict[int, bool] = {}

    def __call__(
        self, layer: keras.Operation, tensors: Any, proceed: Callable[..., Any]
    ) -> Any:
        own = max(layer.strides) if isinstance(layer, STRIDED) else 1
        before = self.of(tensors)
        is_turned = self._exceeds(before * own)
        if own > 1 and layer.weights:
            self._check_shared(layer, is_turned)
        if is_turned:
            tensors = self._unpadded.get(id(tensors), tensors)
            output = proceed(tensors, strides=1, padding="same")
            after = before
            self.passed.add(before * own)
        else:
            output = proceed(tensors)
            after = self._after(layer, own, output)
            self.passed.add(after)
        for tensor in keras.tree.flatten(output):
            self._outputs[id(tensor)] = (tensor, after)
        if isinstance(layer, _PADDINGS):
            source = self._unpadded.get(id(tensors), tensors)
            self._unpadded[id(output)] = source
        return output

    def of(self, tensors: Any) -> int:
        """Stride of a tensor, or the largest of several; 1 for the image."""
        return max(
            self._outputs.get(id(tensor), (tensor, 1))[1]
            for tensor in keras.tree.flatten(tensors)
        )

    def _exceeds(self, stride: int) -> bool:
        return self.limit is not None and stride > self.limit

    def _after(self, layer: keras.Operation, own: int, output: Any) -> int:
        given = node_of(keras.tree.flatten(output)[0]).input_tensors
        before = self.of(given)
        if isinstance(layer, (*STRIDED, *_PADDINGS)):
            return before * own
        after = max(
            self.of(tensor) * _hidden_stride(tensor, output) for tensor in given
        )
        if after > before:
            self.hidden.add(layer.name)
        if self._exceeds(after):
            raise ValueError(
                "Argument `output_stride` must be one that the backbone can "
                f"keep: layer {layer.name!r} of type {type(layer).__name__} "
                "reduces the map inside itself. Received: output_stride="
                f"{self.limit}. To fix this: output_stride=None, or another "
                "backbone."
            )
        return after

    def _check_shared(self, layer: keras.Operation, is_turned: bool) -> None:
        if self._is_turned.setdefault(id(layer), is_turned) != is_turned:
            raise ValueError(
                "Argument `output_stride` must not lie between the strides of "
                "two calls of a layer that shares its weights between them. "
                f"Layer {layer.name!r} of type {type(layer).__name__} would "
                "keep its stride in one call and lose it in another. "
                f"Received: output_stride={self.limit}. To fix this: "
                "output_stride=None, another output_stride, or a layer of its "
                "own for every call."
            )


def last_stage(
    image: keras.KerasTensor, features: keras.KerasTensor
) -> tuple[keras.KerasTensor, keras.Model] | None:
    """Finds the part of a flat backbone from its last stride on.

    Args:
        image: Input tensor `(B, H, W, channels)`.
        features: Last feature map `(B, h, w, C)`, made from `image`.

    Returns:
        The last feature map of a larger size that everything goes through,
        and the model from there to `features`, which shares the backbone's
        layers. None if there is no such map, if a layer reduces the map
        inside itself, or if the last stage calls a layer that is called
        before it, too: a copy of the stage would part the two.
    """
    nodes = nodes_backwards(image, features)[::-1]
    strides = Strides()
    for node in nodes:
        strides(node.operation, node.input_tensors, lambda _, n=node: n.outputs)
    smaller = strides.passed - {strides.of(features)}
    for index in reversed(_bridges(image, nodes)):
        operation, extracted = nodes[index].operation, nodes[index].outputs[0]
        is_last = smaller and strides.of(extracted) == max(smaller)
        if is_last and not isinstance(operation, _PADDINGS):
            earlier = {id(node.operation) for node in nodes[: index + 1]}
            later = [node.operation for node in nodes[index + 1 :]]
            if any(
                id(operation) in earlier or operation.name in strides.hidden
                for operation in later
            ):
                return None
            return extracted, keras.Model(extracted, features)
    return None


def _bridges(image: keras.KerasTensor, nodes: Sequence[Any]) -> list[int]:
    """Finds the calls that every path from image to features takes.

    Behind such a call, of all that was computed, its output alone is still
    needed. Given are the calls in an order in which they can be computed.

    Returns:
        The indices of the calls in that order.
    """
    last_use = {}
    for index, node in enumerate(nodes):
        for tensor in node.input_tensors:
            last_use[id(tensor)] = index
    bridges, needed = [], {id(image)}
    for index, node in enumerate(nodes):
        needed |= {id(tensor) for tensor in node.outputs}
        needed = {key for key in needed if last_use.get(key, 0) > index}
        if needed == {id(node.outputs[0])}:
            bridges.append(index)
    return bridges


def at_stride_one(
    stage: keras.Model,
    features: keras.KerasTensor,
    *,
    taken: Iterable[str] = (),
) -> Any:
    """Copies a stage so that it keeps the size of its map.

    Args:
        stage: Model from one feature map to another.
        features: Feature map of as many channels as the stage takes.
        taken: Names that no layer may have.

    Returns:
        Feature map of the same rows and columns. The layers have the weights
        of the stage's, and their names with `attention_` before them; they can
        be trained, even if the stage is frozen.
    """
    strides = Strides(limit=1)

    def visit(
        layer: keras.Operation, tensors: Any, proceed: Callable[..., Any]
    ) -> Any:
        def renamed(tensors: Any, **changes: Any) -> Any:
            return proceed(tensors, name=f"attention_{layer.name}", **changes)

        return strides(layer, tensors, renamed)

    branch = clone(stage, features, visit, taken=taken)
    for layer in keras.Model(features, branch).layers:
        layer.trainable = True
    return branch


def _hidden_stride(tensor: keras.KerasTensor, output: Any) -> int:
    """Stride of a layer that has none of its own, seen by the map's size."""
    before = tensor.shape
    after = keras.tree.flatten(output)[0].shape
    if len(before) != 4 or len(after) != 4 or None in (before[1], after[1]):
        return 1
    pools = after[1] == 1  # As squeeze-and-excitation does.
    return 1 if pools else max(1, round(before[1] / after[1]))
