"""Ways through a model's graph, into the models nested in it and out again."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from keras_lficam.surgery._cloning import (
    is_graph,
    nodes_backwards,
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
