"""The folder of a run: what is in it before, and what is written first."""

import dataclasses
import json
import logging
import numbers
import pathlib
import platform
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import keras

from keras_lficam import _labels
from keras_lficam._files import atomic_write
from keras_lficam.training import _state as state
from keras_lficam.training._run import Run
from keras_lficam.training.recipes import Recipe

_LOG = logging.getLogger("keras_lficam")
RUN, STATE, ROWS = "run.json", "checkpoint.npz", "log.csv"
MODEL, LABELS, METRICS = "model.keras", "labels.txt", "metrics.json"
DAMAGED = "damaged.txt"
# Where one of them is, another run has been.
_FILES = (RUN, STATE, ROWS, MODEL, LABELS, METRICS, DAMAGED)


def about_run(run: Run) -> dict[str, Any]:
    """What a run is, as JSON holds it."""
    about = {
        "data": {
            "name": run.source.name,
            "class_names": run.source.class_names,
            "images": {
                split: run.source.count(split) for split in run.source.splits
            },
            "damaged": len(run.source.damaged),
        }
        # Of no interest to other data, and to runs of before.
        | ({"bits": run.source.bits} if run.source.bits else {})
        | ({"masks": run.source.masks} if run.source.masks else {}),
        "image_size": run.image_size,
        "channels": run.channels,
        "activation": getattr(run.activation, "__name__", None),
        "parameters": run.model.count_params(),
        "recipe": dataclasses.asdict(run.recipe),
        "seed": run.seed,
        "class_weights": run.class_weights,
        "steps_per_epoch": run.steps,
    }
    # As it is read back.
    found: dict[str, Any] = json.loads(json.dumps(about, default=_of_python))
    return found


def _of_python(number: Any) -> int | float:
    """Makes of a number, as one of NumPy, what JSON can hold."""
    integer = isinstance(number, numbers.Integral)
    return int(number) if integer else float(number)


def versions() -> dict[str, str]:
    """The versions that numbers may hang on."""
    names = ("keras", "tensorflow", "numpy")
    return {name: version(name) for name in names} | {
        "python": platform.python_version(),
        "keras_backend": keras.backend.backend(),
    }


def begin(run: Run, resume: bool) -> state.State | None:
    """Makes the folder, or finds the state of the run in it."""
    about = about_run(run)
    path = run.folder / RUN
    if resume and path.is_file():
        _check_same_run(path, about)
        _write_names(run)  # The first time it may have been killed before.
        if (run.folder / STATE).is_file():
            return state.load(run.folder / STATE)
        _LOG.info("%s: nothing was saved yet; the run begins", run.folder)
        return None
    if run.writes:
        _check_free(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        about["versions"] = versions()
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(about, indent=2), encoding="utf-8")
        _write_names(run)
    return None


def _write_names(run: Run) -> None:
    """Writes the names of the classes and of the damaged images."""
    if not run.writes:
        return
    with atomic_write(run.folder / LABELS) as partial:
        _labels.write(partial, run.source.class_names)
    if run.source.damaged:
        lines = [f"{bad.path}: {bad.reason}" for bad in run.source.damaged]
        # A path may hold a line break, and bytes that are no text.
        text = "".join(line.replace("\n", "\\n") + "\n" for line in lines)
        with atomic_write(run.folder / DAMAGED) as partial:
            partial.write_bytes(text.encode("utf-8", "backslashreplace"))


def check_model(run: Run, restored: state.State | None) -> None:
    """Refuses a run whose best model, of the epochs before, is damaged."""
    path = run.folder / MODEL
    if restored is None or not restored.rows:
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged: object = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        damaged = error
    if damaged is not None:
        raise ValueError(
            f"{path}: the best model of the epochs before is missing or "
            f"damaged ({damaged}). To fix this: put a copy of the file back; "
            f"or remove {run.folder / STATE}, and the run that is resumed "
            "begins at its first step; or begin in another folder."
        )


def _check_free(folder: pathlib.Path) -> None:
    found = [name for name in _FILES if (folder / name).exists()]
    if found:
        raise ValueError(
            f"{folder}: there is a run in this folder already ({found[0]}). "
            "To fix this: resume it, or give another folder."
        )


def _check_same_run(path: pathlib.Path, about: Mapping[str, Any]) -> None:
    before = _read(path)
    if isinstance(before.get("recipe"), dict):
        # Of a run of before some fields were not known.
        fields = {f.name: f.default for f in dataclasses.fields(Recipe)}
        known = json.loads(json.dumps(fields))
        before["recipe"] = known | before["recipe"]
    for name, value in about.items():
        if before.get(name) != value:
            raise ValueError(
                f"{path}: the run that is to be resumed differs in {name}. It "
                f"was {_difference(before.get(name), value)}. To fix "
                "this: give the same, or begin in another folder."
            )


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        read: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        read = error
    if not isinstance(read, dict):
        raise ValueError(
            f"{path}: the file is damaged, so that the run cannot be resumed. "
            "To fix this: put a copy of the file back, or begin in another "
            "folder."
        )
    return read


def _difference(before: Any, now: Any) -> str:
    """Words two values, of dictionaries only what differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in now if before.get(key) != now[key]]
        before = {key: before.get(key) for key in keys}
        now = {key: now[key] for key in keys}
    return f"{before}, and is now {now}"
