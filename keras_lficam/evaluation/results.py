"""What an evaluation found: rows, tables and files."""

import csv
import dataclasses
import io
import os
import pathlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from keras_lficam._files import atomic_write

_Column: TypeAlias = tuple[str, list[str]]  # Title and cells.
_ARROWS = {"higher": "↑", "lower": "↓", "": ""}


@dataclasses.dataclass(frozen=True)
class Row:
    """What one metric says of one explainer.

    Attributes:
        explainer: Name of the explainer.
        metric: Name of the metric.
        better: `"higher"`, `"lower"`, or `""` where that was not told.
        mean: Mean over the images that have a value; NaN if none has.
        low: Lower end of the 95 % interval of the mean, by Student's t; NaN
            for fewer than two values. It holds for the choice of the images,
            not for another training of the model, and may reach beyond the
            range of the metric.
        high: Upper end of that interval.
        images: Number of images that have a value.
        missing: Number of images whose value is NaN. They are left out.
        seconds_per_image: Time of the explainer for an image of a batch:
            median over the batches, without the calls that compile.
        forward_passes: Forward passes of the model for an image; None where
            the explainer does not tell.
        backward_passes: Backward passes, likewise.

    Examples:
        result = keras_lficam.evaluation.evaluate(
            {"LFI-CAM": keras_lficam.explainers.AttentionMap(model)},
            {"brightness": lambda maps: maps.mean(axis=(1, 2, 3))},
            [(images, labels)],
        )
        result.rows[0].mean, result.rows[0].low, result.rows[0].high
    """

    explainer: str
    metric: str
    better: str
    mean: float
    low: float
    high: float
    images: int
    missing: int
    seconds_per_image: float
    forward_passes: int | None
    backward_passes: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    `print` shows the table, and `rich.print` one as wide as the terminal.

    Attributes:
        rows: A `Row` for each explainer and metric.
        values: The values behind the means: `values[explainer][metric]` is an
            array `(N,)`, float64, in the order of the images.
        labels: Labels of the images, `(N,)` or whatever the data holds.
        classes: Classes that were explained, `(N,)`; None where each explainer
            took what its model predicts.

    Examples:
        result = keras_lficam.evaluation.evaluate(
            {"LFI-CAM": keras_lficam.explainers.AttentionMap(model)},
            {"brightness": lambda maps: maps.mean(axis=(1, 2, 3))},
            [(images, labels)],
        )
        result.values["LFI-CAM"]["brightness"]
    """

    rows: tuple[Row, ...]
    values: Mapping[str, Mapping[str, np.ndarray]]
    labels: np.ndarray
    classes: np.ndarray | None

    def __str__(self) -> str:
        return self.table()

    def table(self, width: int = 80) -> str:
        """Shows the means, a line for each explainer, to be read as text.

        Args:
            width: Characters in a line. Columns that do not fit go into
                further blocks below.

        Returns:
            Lines of text: mean ± half of the 95 % interval, an arrow up where
            higher is better and down where lower is, and the costs.
        """
        with io.StringIO() as file:
            console = Console(
                file=file, width=width, force_terminal=False, color_system=None
            )
            console.print(self)
            lines = file.getvalue().splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """Lets `rich.print` show the table as wide as the terminal is."""
        del console
        first, *columns = self._columns()
        while columns:
            taken = [first, columns.pop(0)]
            while columns and _width([*taken, columns[0]]) <= options.max_width:
                taken.append(columns.pop(0))
            yield _block(taken)
            yield Text()
        yield from map(Text, self._notes())

    def markdown(self) -> str:
        """Shows the same as `table`, as a table in Markdown.

        Returns:
            Lines of Markdown.
        """
        columns = [[title, *cells] for title, cells in self._columns()]
        lines = [f"| {' | '.join(row)} |" for row in zip(*columns, strict=True)]
        lines.insert(1, "|---" + "|---:" * (len(columns) - 1) + "|")
        return "\n".join([*lines, "", *self._notes()])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the rows, with the names of their attributes as header.

        Args:
            path: File to make. It appears when it is complete.

        Raises:
            ValueError: If the file exists. It is left as it is.
        """
        header = [field.name for field in dataclasses.fields(Row)]
        _write_csv(path, header, map(dataclasses.astuple, self.rows))

    def values_to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the value of every image.

        A line is an explainer and an image: its number in the data, from 0
        on, its label, the class that was explained if that is known, and a
        column for each metric. Several labels of an image are `0|2`.

        Args:
            path: File to make. It appears when it is complete.

        Raises:
            ValueError: If the file exists. It is left as it is.
        """
        metrics = list(dict.fromkeys(row.metric for row in self.rows))
        _write_csv(
            path,
            ["explainer", "image", "label", "class", *metrics],
            self._lines(metrics),
        )

    def _lines(self, metrics: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        labels = self.labels.tolist()
        if self.labels.ndim == 2:
            labels = [
                "|".join(map(str, np.flatnonzero(row))) for row in self.labels
            ]
        classes = [""] * len(labels)
        if self.classes is not None:
            classes = self.classes.tolist()
        for explainer, values in self.values.items():
            for image, label in enumerate(labels):
                yield (
                    explainer,
                    image,
                    label,
                    classes[image],
                    *(values[m][image] if m in values else "" for m in metrics),
                )

    def _columns(self) -> list[_Column]:
        """Title and cells of every column of a table."""
        found = {(row.explainer, row.metric): row for row in self.rows}
        titles = {
            row.metric: f"{row.metric} {_ARROWS[row.better]}".strip()
            for row in self.rows
        }
        costs = {row.explainer: row for row in self.rows}
        return [
            ("explainer", list(costs)),
            *(
                (title, [_cell(found.get((name, metric))) for name in costs])
                for metric, title in titles.items()
            ),
            ("seconds", [_digits(r.seconds_per_image) for r in costs.values()]),
            ("forward", [_count(row.forward_passes) for row in costs.values()]),
            (
                "backward",
                [_count(row.backward_passes) for row in costs.values()],
            ),
        ]

    def _notes(self) -> list[str]:
        notes = [
            f"Mean over {len(self.labels)} images ± half of its 95 % interval "
            "(Student's t); seconds, forward and backward passes for an image."
        ]
        missing = [
            f"{row.missing} of {row.explainer} for {row.metric}"
            for row in self.rows
            if row.missing
        ]
        if missing:
            notes.append(f"Images without a value: {', '.join(missing)}.")
        return notes


def _width(columns: Iterable[_Column]) -> int:
    return sum(_width_of(*column) + 2 for column in columns) - 2


def _width_of(title: str, cells: Iterable[str]) -> int:
    return max(map(len, [*cells, *_words(title).split(" ")]))


def _words(title: str) -> str:
    # The arrow is not to stand alone on a line.
    return title.replace(" ", "\xa0").replace("_", " ")


def _block(columns: Sequence[_Column]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, (title, cells) in enumerate(columns):
        width = _width_of(title, cells)
        # Rich itself would break the line in front of the arrow.
        lines = textwrap.wrap(_words(title), width, break_on_hyphens=False)
        table.add_column(
            Text("\n".join(lines).replace("\xa0", " ")),
            width=width,
            justify="right" if number else "left",
        )
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _cell(row: Row | None) -> str:
    if row is None or np.isnan(row.mean):
        return "-"
    if np.isnan(row.high):
        return f"{row.mean:.3f}"
    return f"{row.mean:.3f} ± {row.high - row.mean:.3f}"


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _digits(number: float) -> str:
    """Writes a number with three digits, never as a power of ten."""
    return np.format_float_positional(
        number, precision=3, unique=False, fractional=False, trim="-"
    )


def _write_csv(
    path: str | os.PathLike[str],
    header: Sequence[str],
    lines: Iterable[Iterable[Any]],
) -> None:
    path = pathlib.Path(path)
    if path.exists():
        raise ValueError(
            "Argument `path` must be a file that is not there yet. "
            f"Received: {path}, which is left as it is"
        )
    with (
        atomic_write(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
