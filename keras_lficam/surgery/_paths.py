"""Paths through a model's graph, into the models nested in it and out again."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_lficam.surgery._cloning import is_graph, nodes_backwards


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A model nested in another, as it is called there."""

    entry: keras.KerasTensor  # In the outer model: what it is called on,
    result: keras.KerasTensor  # and what it gives.
    begin: keras.KerasTensor  # In itself: its input,
    finish: keras.KerasTensor  # and its output.
    is_single: bool = True  # Whether it has no other input.


@dataclasses.dataclass(frozen=True, eq=False)
class Location:
    """A tensor, and the frames around it from the outermost on."""

    frames: tuple[Frame, ...]
    tensor: keras.KerasTensor


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, from its first input to its output."""

    operation: keras.Operation
    before: Location
    after: Location


def is_nested(operation: keras.Operation) -> bool:
    """Whether an operation is a model of one input and one output."""
    return is_graph(operation) and (
        len(operation.inputs) == len(operation.outputs) == 1
    )


def calls_backwards(
    begin: keras.KerasTensor,
    finish: keras.KerasTensor,
    frames: tuple[Frame, ...] = (),
    *,
    opens: Callable[[keras.Operation], bool] = is_nested,
) -> Iterator[Call]:
    """Yields the calls between two tensors of a graph, the last first.

    A nested model comes before the calls in it, if `opens` says that they are
    to be looked at; it says so of none but models of one input and output.
    """
    for node in nodes_backwards(begin, finish):
        before, after = node.input_tensors[0], node.outputs[0]
        operation = node.operation
        yield Call(operation, Location(frames, before), Location(frames, after))
        if opens(operation):
            inside = operation.inputs[0], operation.outputs[0]
            yield from calls_backwards(
                *inside, (*frames, Frame(before, after, *inside)), opens=opens
            )


def path(start: Location, goal: Location) -> list[tuple[Any, Any]]:
    """Lists pairs of tensors of one model each, from start to goal.

    It goes out of the models around the start, and into those around the goal.
    """
    shared = 0
    for one, other in zip(start.frames, goal.frames, strict=False):
        if one.result is not other.result:
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
