"""Counts the strides of a backbone, and turns the last of them to 1."""

from typing import Any

import keras

from keras_lficam.backbones._graph import replay

_STRIDED = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
)
_PADDINGS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)


class Strides:
    """A visit, as `replay` calls it, that counts and limits strides.

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

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.passed = {1}
        self.hidden: set[str] = set()
        self._outputs: dict[int, tuple[Any, int]] = {}  # By identity.
        self._unpadded: dict[int, Any] = {}

    def __call__(self, layer, tensors, proceed):
        before = self.of(tensors)
        own = _own_stride(layer)
        if self._exceeds(before * own):
            tensors = self._unpadded.get(id(tensors), tensors)
            output = proceed(tensors, strides=1, padding="same")
            after = before
        else:
            output = proceed(tensors)
            if own == 1 and _hidden_stride(tensors, output) > 1:
                own = _hidden_stride(tensors, output)
                self.hidden.add(layer.name)
            after = before * own
            if self._exceeds(after):
                raise ValueError(
                    "Argument `output_stride` cannot be kept: layer "
                    f"{layer.name!r} of type {type(layer).__name__} reduces "
                    "the map inside itself. Received: output_stride="
                    f"{self.limit}. Ways out: output_stride=None, or another "
                    "backbone."
                )
        self.passed.add(before * own)
        for tensor in keras.tree.flatten(output):
            self._outputs[id(tensor)] = (tensor, after)
        if isinstance(layer, _PADDINGS):
            source = self._unpadded.get(id(tensors), tensors)
            self._unpadded[id(output)] = source
        return output

    def of(self, tensors) -> int:
        """Stride of a tensor, or the largest of several; 1 for the image."""
        return max(
            self._outputs.get(id(tensor), (tensor, 1))[1]
            for tensor in keras.tree.flatten(tensors)
        )

    def _exceeds(self, stride):
        return self.limit is not None and stride > self.limit


def last_stage(
    image: keras.KerasTensor, features: keras.KerasTensor
) -> tuple[keras.KerasTensor, keras.Model] | None:
    """Finds the part of a flat backbone from its last stride on.

    Args:
        image: Input tensor `(B, H, W, 3)`.
        features: Last feature map `(B, h, w, C)`, made from `image`.

    Returns:
        The last feature map of a larger size that everything goes through,
        and the model from there to `features`, which shares the backbone's
        layers. None if there is no such map, or if a layer reduces the map
        inside itself.
    """
    trunk = keras.Model(image, features)
    operations = [
        operation
        for operation in trunk.operations
        if not isinstance(operation, keras.layers.InputLayer)
    ]
    strides = Strides()
    for operation in operations:
        output = operation.output
        strides(operation, operation.input, lambda _, out=output: out)
    smaller = strides.passed - {strides.of(features)}
    for operation in reversed(_bridges(image, operations)):
        is_last = smaller and strides.of(operation.output) == max(smaller)
        if is_last and not isinstance(operation, _PADDINGS):
            stage = keras.Model(operation.output, features)
            names = {layer.name for layer in stage.layers}
            hidden = names & strides.hidden
            return None if hidden else (operation.output, stage)
    return None


def _bridges(image, operations):
    """Finds the operations that every path from image to features takes.

    Behind such an operation, of all that was computed, its output alone is
    still needed.
    """
    last_use = {}
    for index, operation in enumerate(operations):
        for tensor in keras.tree.flatten(operation.input):
            last_use[id(tensor)] = index
    bridges, needed = [], {id(image)}
    for index, operation in enumerate(operations):
        outputs = keras.tree.flatten(operation.output)
        needed |= {id(tensor) for tensor in outputs}
        needed = {key for key in needed if last_use.get(key, 0) > index}
        if needed == {id(operation.output)}:
            bridges.append(operation)
    return bridges


def at_stride_one(stage: keras.Model, features: keras.KerasTensor) -> Any:
    """Copies a stage so that it keeps the size of its map.

    Args:
        stage: Model from one feature map to another.
        features: Feature map of as many channels as the stage takes.

    Returns:
        Feature map of the same rows and columns. The layers have the weights
        of the stage's, and their names with `attention_` before them; they can
        be trained, even if the stage is frozen.
    """
    strides = Strides(limit=1)

    def visit(layer, tensors, proceed):
        def renamed(tensors, **changes):
            return proceed(tensors, name=f"attention_{layer.name}", **changes)

        return strides(layer, tensors, renamed)

    branch = replay(stage, features, visit)
    for layer in keras.Model(features, branch).layers:
        layer.trainable = True
    return branch


def _own_stride(layer):
    return max(layer.strides) if isinstance(layer, _STRIDED) else 1


def _hidden_stride(tensors, output):
    """Stride of a layer that has none of its own, seen by the map's size."""
    before = keras.tree.flatten(tensors)[0].shape
    after = keras.tree.flatten(output)[0].shape
    if len(before) != 4 or len(after) != 4 or None in (before[1], after[1]):
        return 1
    pools = after[1] == 1  # As squeeze-and-excitation does.
    return 1 if pools else max(1, round(before[1] / after[1]))
