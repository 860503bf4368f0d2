"""Ways through a model's graph, into the models nested in it and out again."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_lficam.backbones._compiled import held_value
from keras_lficam.backbones._graph import (
    is_graph,
    nodes_backwards,
    takes_training,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A model nested in another, as it is called there."""

    entry: keras.KerasTensor  # In the outer model: what it is called on,
    result: keras.KerasTensor  # and what it gives.
    begin: keras.KerasTensor  # In itself: its input,
    finish: keras.KerasTensor  # and its output.


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A tensor, and the frames around it from the outermost on."""

    frames: tuple[Frame, ...]
    tensor: keras.KerasTensor


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, from the place of its first input to its output."""

    operation: keras.Operation
    before: Place
    after: Place


def calls_backwards(begin, finish, frames=()) -> Iterator[Call]:
    """Yields the calls between two tensors of a graph, the last first.

    A nested model comes before the calls in it.
    """
    for node in nodes_backwards(begin, finish):
        before, after = node.input_tensors[0], node.outputs[0]
        operation = node.operation
        yield Call(operation, Place(frames, before), Place(frames, after))
        if is_nested(operation):
            inside = operation.inputs[0], operation.outputs[0]
            yield from calls_backwards(
                *inside, (*frames, Frame(before, after, *inside))
            )


def is_nested(operation):
    return is_graph(operation) and (
        len(operation.inputs) == len(operation.outputs) == 1
    )


def way(start: Place, goal: Place) -> list[tuple[Any, Any]]:
    """Lists pairs of tensors of one model each that lead from place to place.

    It goes out of the models around the start, and into those around the goal.
    """
    shared = 0
    for one, other in zip(start.frames, goal.frames, strict=False):
        if one is not other:
            break
        shared += 1
    pairs, tensor = [], start.tensor
    for frame in reversed(start.frames[shared:]):
        pairs.append((tensor, frame.finish))
        tensor = frame.result
    for frame in goal.frames[shared:]:
        pairs.append((tensor, frame.entry))
        tensor = frame.begin
    return [*pairs, (tensor, goal.tensor)]


class Chain:
    """Runs the layers from one place to another.

    A `keras.Model` from one tensor to the other would do the same, but it
    leaves a node in every layer of the model that is looked through.

    Args:
        start: Place that it is given the tensor of.
        goal: Place whose tensor it gives.
        image: Input tensor of the image. All other inputs are held.

    Raises:
        ValueError: If a path from the image goes around `start`.
    """

    def __init__(self, start: Place, goal: Place, image: keras.KerasTensor):
        frames = [*start.frames, *goal.frames]
        images = {id(tensor) for tensor in (image, *(f.begin for f in frames))}
        self._parts = [
            _Part(begin, finish, images)
            for begin, finish in way(start, goal)
            if begin is not finish
        ]

    def __call__(self, x: Any) -> Any:
        for part in self._parts:
            x = part(x)
        return x


class _Part:
    """The calls of one graph between two of its tensors."""

    def __init__(self, begin, finish, images):
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

    def __call__(self, x):
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

    def _compute(self, node, values):
        def given(arg):
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
