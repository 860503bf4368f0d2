"""The state of a run between two of its steps."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_lficam._files import atomic_write


@dataclasses.dataclass(frozen=True)
class State:
    """What a run needs to go on as if nothing had happened.

    Args:
        step: Steps that are done.
        finished: Whether training has ended.
        rows: Logs of the epochs that are done, in their order.
        values: Values of the variables, in the order of `variables`.
        metrics: Values of the variables of the metrics, which know the steps
            that are done of an epoch that is not.
    """

    step: int
    finished: bool
    rows: list[dict[str, float | str]]
    values: list[np.ndarray]
    metrics: list[np.ndarray]


def variables(model: keras.Model) -> list[keras.Variable]:
    """Lists what training changes in a model.

    Args:
        model: Model, compiled and built, and so its optimizer.

    Returns:
        Weights, states of random generators, and what the optimizer keeps.
    """
    return [*model.variables, *model.optimizer.variables]


def read(variables: Iterable[keras.Variable]) -> list[np.ndarray]:
    """Reads variables.

    Args:
        variables: The variables.

    Returns:
        Their values. Under a strategy of several workers all of them must
        call this together.
    """
    return [np.asarray(variable.numpy()) for variable in variables]


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
        f"{kind}_{number}": value
        if value.dtype.kind in "biuf"
        else value.astype("float32")
        for kind, values in (
            ("variable", state.values),
            ("metric", state.metrics),
        )
        for number, value in enumerate(values)
    }
    about = {
        "step": state.step,
        "finished": state.finished,
        "rows": state.rows,
        "variables": len(state.values),
        "metrics": len(state.metrics),
    }
    with atomic_write(path) as partial, open(partial, "wb") as file:
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
            return State(
                step=int(about["step"]),
                finished=bool(about["finished"]),
                rows=[dict(row) for row in about["rows"]],
                values=_numbered(arrays, "variable", about["variables"]),
                metrics=_numbered(arrays, "metric", about["metrics"]),
            )
    except Exception as error:  # A damaged file raises anything.
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path}: this is no checkpoint of a run, or one of another "
            f"version of keras_lficam ({reason}). To fix this: put a copy of "
            "the file back; or remove it, and the run that is resumed begins "
            "at its first step; or begin in another folder."
        ) from error


def _numbered(
    arrays: Mapping[str, np.ndarray], kind: str, count: int
) -> list[np.ndarray]:
    return [arrays[f"{kind}_{number}"] for number in range(count)]


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
            "To fix this: build the same model, or begin in another folder."
        )
    assign(variables(model), state.values)


def assign(
    variables: Iterable[keras.Variable], values: Iterable[np.ndarray]
) -> None:
    """Gives variables their values.

    Args:
        variables: The variables.
        values: A value for each.
    """
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _size(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes)
