"""The state of a run between two of its steps."""

import dataclasses
import json
import pathlib
import zipfile
from typing import Any

import keras
import numpy as np

from keras_lficam._files import whole


@dataclasses.dataclass(frozen=True)
class State:
    """What a run needs to go on as if nothing had happened.

    Args:
        step: Steps that are done.
        finished: Whether training has ended.
        logs: Means of loss and metrics over the steps that are done of an
            epoch that is not.
        values: Values of the variables, in the order of `variables`.
    """

    step: int
    finished: bool
    logs: dict[str, float]
    values: list[np.ndarray]


def variables(model: keras.Model) -> list[keras.Variable]:
    """Lists what training changes in a model.

    Args:
        model: Model, compiled and built, and so its optimizer.

    Returns:
        Weights, states of random generators, and what the optimizer keeps.
    """
    return [*model.variables, *model.optimizer.variables]


def current(model: keras.Model) -> list[np.ndarray]:
    """Reads the variables of a model.

    Args:
        model: As for `variables`.

    Returns:
        Their values. Under a strategy of several workers all of them must
        call this together.
    """
    return [np.asarray(variable.numpy()) for variable in variables(model)]


def save(state: State, path: pathlib.Path) -> None:
    """Writes a state; the file that was there stays whole until it is done.

    Args:
        state: The state.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    arrays: dict[str, Any] = {
        # NumPy's files know no bfloat16; float32 holds each of its numbers.
        f"variable_{number}": value
        if value.dtype.kind in "biuf"
        else value.astype("float32")
        for number, value in enumerate(state.values)
    }
    about = {
        "step": state.step,
        "finished": state.finished,
        "logs": state.logs,
        "variables": len(state.values),
    }
    with whole(path) as partial, open(partial, "wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)
        file.flush()


def load(path: pathlib.Path) -> State:
    """Reads a state.

    Args:
        path: The file.

    Returns:
        The state.

    Raises:
        ValueError: If the file is no state.
    """
    try:
        with np.load(path) as arrays:
            about = json.loads(str(arrays["about"]))
            count = about.pop("variables")
            values = [arrays[f"variable_{number}"] for number in range(count)]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: this is no checkpoint of a run ({error})"
        ) from error
    return State(**about, values=values)


def restore(model: keras.Model, state: State, path: pathlib.Path) -> None:
    """Gives a model the values of a state.

    Args:
        model: As for `variables`.
        state: The state.
        path: Its file, for the message.

    Raises:
        ValueError: If the state is of another model or optimizer.
    """
    expected = [tuple(variable.shape) for variable in variables(model)]
    received = [value.shape for value in state.values]
    if expected != received:
        raise ValueError(
            f"{path}: this checkpoint is of another model or optimizer: "
            f"{len(received)} variables of {_size(received):,} numbers, "
            f"where {len(expected)} of {_size(expected):,} are expected. "
            "Build the same model, or begin in another folder."
        )
    for variable, value in zip(variables(model), state.values, strict=True):
        variable.assign(value)


def _size(shapes):
    return sum(int(np.prod(shape)) for shape in shapes)
