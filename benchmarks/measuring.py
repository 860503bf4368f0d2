"""What the benchmarks share: times of two calls in turn, and tables."""

import csv
import itertools
import statistics
import time


def in_turn(first, second, most_rounds, most_seconds):
    """Times two calls in turn, so that a busy minute falls on both.

    Args:
        first: The call that is measured.
        second: The call that it is measured against.
        most_rounds: Rounds at most.
        most_seconds: Seconds after which it stops, with three rounds at least.

    Returns:
        Dictionary of `seconds` and `seconds_other`, medians; the median and
        the quartiles of the ratios of the rounds, and `rounds`.
    """
    first(), second()  # Compile.
    seconds = [], []
    began = time.perf_counter()
    for number in itertools.count():
        enough = time.perf_counter() - began > most_seconds
        if number == most_rounds or (number >= 3 and enough):
            break
        for call, times in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    pairs = zip(*seconds, strict=True)
    lower, middle, upper = statistics.quantiles(a / b for a, b in pairs)
    return {
        "seconds": f"{statistics.median(seconds[0]):.4f}",
        "seconds_other": f"{statistics.median(seconds[1]):.4f}",
        "ratio": f"{middle:.3f}",
        "ratio_lower_quartile": f"{lower:.3f}",
        "ratio_upper_quartile": f"{upper:.3f}",
        "rounds": len(seconds[0]),
    }


def write(table, columns, rows):
    """Writes a table; the one before is whole until it is done."""
    partial = table.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(table)
