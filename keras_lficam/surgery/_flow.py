"""Follows through a graph what becomes of a tensor."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras

from keras_lficam.surgery._cloning import nodes_backwards
from keras_lficam.surgery._paths import Location, is_nested, path

Form = TypeVar("Form")


def followed(
    start: Location,
    goal: Location,
    form: Form,
    otherwise: Form,
    step: Callable[[Any, Sequence[Form]], Form],
) -> Form:
    """Computes with forms in place of values, from one location to another.

    Args:
        start: Location of the tensor that is followed.
        goal: Location whose form is wanted.
        form: Form of the tensor at the start.
        otherwise: Form of every tensor that does not depend on it.
        step: Gives the form of what a call gives, from the call and the forms
            of the tensors that it is given.

    Returns:
        The form of the tensor at the goal.
    """
    for begin, finish in path(start, goal):
        form = _followed_within(begin, finish, form, otherwise, step)
    return form


def _followed_within(
    begin: keras.KerasTensor,
    finish: keras.KerasTensor,
    form: Form,
    otherwise: Form,
    step: Callable[[Any, Sequence[Form]], Form],
) -> Form:
    forms = {id(begin): form}
    for node in reversed(nodes_backwards(begin, finish)):
        given = [forms.get(id(x), otherwise) for x in node.input_tensors]
        if not any(id(x) in forms for x in node.input_tensors):
            continue  # A weight, or another input.
        model = node.operation
        if is_nested(model):
            inside = model.inputs[0], model.outputs[0]
            found = _followed_within(*inside, given[0], otherwise, step)
        else:
            found = step(node, given)
        forms |= {id(output): found for output in node.outputs}
    return forms.get(id(finish), otherwise)


def goes_through(
    location: Location, goal: Location, image: keras.KerasTensor
) -> bool:
    """Whether every path from the image to a goal goes through a location."""
    frames = [*location.frames, *goal.frames]
    images = {id(tensor) for tensor in (image, *(f.begin for f in frames))}
    for begin, finish in path(location, goal):
        nodes = nodes_backwards(begin, finish)
        made = {id(begin)}.union(id(x) for n in nodes for x in n.outputs)
        needed = {id(x) for n in nodes for x in n.input_tensors}
        if images & ((needed | {id(finish)}) - made):
            return False
    return True
