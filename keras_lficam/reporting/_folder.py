"""What the folder of a run says of it."""

import csv
import dataclasses
import json
import math
import pathlib
from typing import Any

RUN, METRICS, ROWS = "run.json", "metrics.json", "log.csv"
MODEL, OPTIONS, REPORT = "model.keras", "options.json", "report.html"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run that has ended.

    Attributes:
        path: Its folder.
        about: `run.json`.
        metrics: `metrics.json`.
        curves: Columns of `log.csv`, NaN where there is no number.
        options: `options.json`, which the command writes; else empty.
    """

    path: pathlib.Path
    about: dict[str, Any]
    metrics: dict[str, Any]
    curves: dict[str, list[float]]
    options: dict[str, Any]


def read_folder(path: pathlib.Path) -> RunFolder:
    """Reads the folder of a run.

    Raises:
        ValueError: If it is no folder of a run, the run has not ended, or a
            file is damaged.
    """
    if not (path / RUN).is_file():
        raise ValueError(
            "Argument `run` must be the folder of a run of keras_lficam.fit "
            f"or `keras-lficam train`, with {RUN} in it. Received: {path}. To "
            "fix this: give the folder that was its `folder` or --output."
        )
    about = _json(path / RUN)
    if not (path / METRICS).is_file():
        raise ValueError(
            f"{path}: the run has not ended, for there is no {METRICS}. To fix "
            "this: go on with it by fit(..., resume=True) or "
            f"`keras-lficam train --output {path} --resume`"
        )
    options = _json(path / OPTIONS) if (path / OPTIONS).is_file() else {}
    return RunFolder(
        path, about, _json(path / METRICS), _curves(path / ROWS), options
    )


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        read: object = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise ValueError(
            f"{path}: the file is damaged. To fix this: put a copy of it back"
        )
    return read


def _curves(path: pathlib.Path) -> dict[str, list[float]]:
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0]) if rows else []
    return {name: [_number(row[name]) for row in rows] for name in names}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
