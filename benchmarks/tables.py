"""Rows of the CSV files here, tables of Markdown, and means with intervals."""

import collections
import csv
import math
import pathlib
import statistics

HERE = pathlib.Path(__file__).parent


def rows_of(name, **chosen):
    """Rows of a CSV file, those with the chosen values."""
    with (HERE / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        row
        for row in rows
        if all(row[column] == value for column, value in chosen.items())
    ]


def machines(rows):
    """Words for the machines of rows, that of most rows first.

    Args:
        rows: Rows of a table with the columns `measuring.MACHINE`.
    """
    counts = collections.Counter(
        (row["processor"], row["onednn"]) for row in rows
    )
    words = [
        ("processor unknown" if name == "unknown" else name)
        + (f", {used}" if used == "not TensorFlow" else f", oneDNN {used}")
        + (f" ({count} rows)" if len(counts) > 1 else "")
        for (name, used), count in counts.most_common()
    ]
    return "; ".join(words)


def table(header, rows, align=None):
    """Markdown of a table: `align` has l or r for each column."""
    marks = {"l": "---", "r": "---:"}
    lines = [header, [marks[letter] for letter in align or "l" * len(header)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *rows])


def interval(values):
    """Mean, and the half width of its 95 % interval by Student's t."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), _student(len(values) - 1) * error


def interval_of_pairs(values):
    """The same for values of pairs, as of two models, which share members.

    Leaving out one member after another, with all its pairs, tells how far the
    mean depends on who was drawn (the jackknife).

    Args:
        values: Dictionary from pairs to values, of at least three members.
    """
    members = sorted({member for pair in values for member in pair})
    means = [
        statistics.mean(
            value for pair, value in values.items() if member not in pair
        )
        for member in members
    ]
    number = len(members)
    error = math.sqrt((number - 1) * statistics.pvariance(means))
    return statistics.mean(values.values()), _student(number - 1) * error


def _student(freedom):
    """Deviations from the mean within which 95 % of Student's t lie."""
    from scipy import stats

    return float(stats.t.ppf(0.975, freedom))
