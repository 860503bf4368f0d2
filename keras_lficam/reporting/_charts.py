"""Geometry of the charts, which the page draws in the colors of its reader."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 34


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve: its name, the points of its polyline, and its last value."""

    name: str
    parts: Sequence[str]
    dots: Sequence[tuple[float, float]]
    last: float


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves in a frame; places are in pixels of `WIDTH` by `HEIGHT`."""

    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    mark: float | None
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@dataclasses.dataclass(frozen=True)
class Bin:
    """A bin of the reliability diagram; `x`, `y` and `ideal` are places."""

    x: float
    y: float
    ideal: float
    radius: float
    confidence: float
    accuracy: float
    images: int


def learning_curves(
    curves: Mapping[str, Sequence[float]], best: int | None
) -> Chart | None:
    """Lays out curves over the epochs, from 1.

    Args:
        curves: Values of each epoch, by name; NaN leaves a gap.
        best: Epoch to mark, from 1.

    Returns:
        The chart; None if there is no finite value.
    """
    finite = [
        value
        for values in curves.values()
        for value in values
        if math.isfinite(value)
    ]
    if not finite:
        return None
    epochs = max(map(len, curves.values()))
    low, high, y_values = _nice(min(finite), max(finite))
    first, last = 1, max(epochs, 2)

    def x(epoch: float) -> float:
        inner = WIDTH - _LEFT - _RIGHT
        return round(_LEFT + inner * (epoch - first) / (last - first), 1)

    def y(value: float) -> float:
        inner = HEIGHT - _TOP - _BOTTOM
        return round(HEIGHT - _BOTTOM - inner * (value - low) / (high - low), 1)

    lines = []
    for name, values in curves.items():
        parts: list[list[tuple[float, float]]] = [[]]
        for epoch, value in enumerate(values, 1):
            if math.isfinite(value):
                parts[-1].append((x(epoch), y(value)))
            elif parts[-1]:
                parts.append([])
        known = [value for value in values if math.isfinite(value)]
        if known:
            lines.append(
                Line(
                    name,
                    [" ".join(f"{a},{b}" for a, b in p) for p in parts if p],
                    [p[0] for p in parts if len(p) == 1],
                    known[-1],
                )
            )
    _, _, x_values = _nice(first, last, whole=True)
    return Chart(
        lines,
        [(x(v), f"{v:g}") for v in x_values if first <= v <= epochs],
        [(y(v), f"{v:g}") for v in y_values],
        None if best is None else x(best),
    )


def reliability(
    calibration: Sequence[Sequence[float]], *, side: float = 300
) -> list[Bin]:
    """Lays out the reliability diagram in a square from 0 to 1.

    Args:
        calibration: Bins `(confidence, accuracy, images)`.
        side: Side of the square in pixels.

    Returns:
        The bins; the area of a dot is proportional to its images.
    """
    most = max((images for *_, images in calibration), default=1)
    return [
        Bin(
            x=round(side * confidence, 1),
            y=round(side * (1 - accuracy), 1),
            ideal=round(side * (1 - confidence), 1),
            radius=round(3 + 11 * math.sqrt(images / most), 1),
            confidence=confidence,
            accuracy=accuracy,
            images=int(images),
        )
        for confidence, accuracy, images in calibration
    ]


def _nice(
    low: float, high: float, *, whole: bool = False
) -> tuple[float, float, list[float]]:
    """Round ticks, and the range that they span."""
    from matplotlib.ticker import MaxNLocator

    if low == high:
        low, high = low - 0.5, high + 0.5
    locator = MaxNLocator(5, integer=whole)
    ticks = [float(value) for value in locator.tick_values(low, high)]
    return min(ticks[0], low), max(ticks[-1], high), ticks
