"""Runs the layers between two tensors of a classifier, as they stand."""

from typing import Any

import keras
from keras import ops

from keras_lficam.classifier._compiled import held_value
from keras_lficam.functional import Tensor
from keras_lficam.surgery import Location, nodes_backwards, path, takes_training


class Chain:
    """Runs the layers from one location to another.

    A `keras.Model` from one tensor to the other would do the same, but it
    leaves a node in every layer of the model that is looked through.

    Args:
        start: Location that it is given the tensor of.
        goal: Location whose tensor it gives.
        image: Input tensor of the image. All other inputs are held.

    Raises:
        ValueError: If a path from the image goes around `start`.
    """

    def __init__(
        self, start: Location, goal: Location, image: keras.KerasTensor
    ) -> None:
        frames = [*start.frames, *goal.frames]
        images = {id(tensor) for tensor in (image, *(f.begin for f in frames))}
        self._parts = [
            _Part(begin, finish, images)
            for begin, finish in path(start, goal)
            if begin is not finish
        ]

    def __call__(self, x: Any) -> Any:
        for part in self._parts:
            x = part(x)
        return x


class _Part:
    """The calls of one graph between two of its tensors."""

    def __init__(
        self, begin: keras.KerasTensor, finish: keras.KerasTensor, images: Any
    ) -> None:
        self._begin, self._finish = begin, finish
        self._nodes = nodes_backwards(begin, finish)[::-1]
        known = {id(begin)}.union(
            id(tensor) for node in self._nodes for tensor in node.outputs
        )
        needed = [x for node in self._nodes for x in node.input_tensors]
        self._held = {
            id(tensor): tensor
            for tensor in (*needed, finish)
            if id(tensor) not in known
        }
        if images & self._held.keys():
            raise ValueError(
                f"Another path goes around the tensor {begin.name!r}."
            )

    def __call__(self, x: Tensor) -> Tensor:
        x = ops.convert_to_tensor(x, dtype=self._begin.dtype)
        values = {id(self._begin): x}
        for tensor in self._held.values():
            value = ops.convert_to_tensor(
                held_value(tensor.name), dtype=tensor.dtype
            )
            shape = (ops.shape(x)[0], *ops.shape(value)[1:])
            values[id(tensor)] = ops.broadcast_to(value, shape)
        for node in self._nodes:
            self._compute(node, values)
        return values[id(self._finish)]

    def _compute(self, node: Any, values: dict[int, Any]) -> None:
        def given(arg: Any) -> Any:
            is_symbol = isinstance(arg, keras.KerasTensor)
            return values[id(arg)] if is_symbol else arg

        args, options = keras.tree.map_structure(
            given, (node.arguments.args, node.arguments.kwargs)
        )
        if takes_training(node.operation):
            options["training"] = False
        outputs = keras.tree.flatten(node.operation(*args, **options))
        for tensor, value in zip(node.outputs, outputs, strict=True):
            values[id(tensor)] = value
