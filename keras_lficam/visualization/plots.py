"""Plots what explainers are worth and what they cost."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart when color-blind. As 7 and 4 have no common divisor, the pairs of
# color and marker repeat after 28 explainers.
_COLORS = (
    "#1f5f8b",
    "#c2570c",
    "#2f7d4f",
    "#a3195b",
    "#6a4fb3",
    "#7a5c1e",
    "#4a4a4a",
)
_MARKERS = ("o", "s", "^", "D")
_SIZE = 5  # Of a marker, in typographic points.


def quality_against_time(
    seconds: Mapping[str, float],
    quality: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    better: Mapping[str, str] | None = None,
    columns: int = 3,
) -> "Figure":
    """Plots how good the maps are against the time that they take.

    A panel is a metric and a point an explainer, of one color and marker in
    all panels, which the legend names. A bar shows the interval. Where lower is
    better the axis is turned, so that the best explainers are up and left in
    every panel.

    Args:
        seconds: Names of explainers, and seconds per image, greater than 0.
        quality: Names of metrics, and for names of explainers the mean and
            the ends of its interval, NaN if there is none.
        better: `"higher"` or `"lower"` for names of metrics.
        columns: Number of panels in a row, at least 1.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: If there is nothing to plot, a time is not greater than 0,
            or a time is missing.

    Examples:
        quality_against_time(
            {"LFI-CAM": 0.001, "RISE": 2.5},
            {"pointing game": {"LFI-CAM": (0.9, 0.8, 1), "RISE": (1, 1, 1)}},
            better={"pointing game": "higher"},
        )
    """
    from keras_lficam._figures import Figure

    _check_points(seconds, quality, columns)
    styles = dict(
        zip(
            seconds,
            zip(itertools.cycle(_COLORS), itertools.cycle(_MARKERS)),
            strict=False,
        )
    )
    columns = min(columns, len(quality))
    rows = -(-len(quality) // columns)
    drawn = {}
    lines = -(-len(seconds) // (2 * columns))  # Of the legend.
    figure = Figure((4.2 * columns, 3.1 * rows + 0.3 + 0.2 * lines))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(quality) :]:
        axis.set_axis_off()
    for axis, (metric, points) in zip(axes.flat, quality.items(), strict=False):
        word = (better or {}).get(metric, "")
        axis.set_title(metric, fontsize=10, loc="left")
        axis.set_ylabel(f"{word} is better" if word else "", fontsize=8)
        for name, (mean, low, high) in points.items():
            if np.isnan(mean):
                continue
            color, marker = styles[name]
            axis.plot([seconds[name]] * 2, [low, high], color=color, alpha=0.45)
            (drawn[name],) = axis.plot(
                *(seconds[name], mean, marker),
                color=color,
                alpha=0.8,
                markersize=_SIZE,
                linestyle="",
            )
        axis.set_xlabel("seconds per image", fontsize=8)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.tick_params(labelsize=8)
        axis.grid(color="#e6e6e6", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if word == "lower":
            axis.invert_yaxis()
    named = [name for name in seconds if name in drawn]
    figure.legend(
        [drawn[name] for name in named],
        named,
        loc="outside lower center",
        ncols=2 * columns,
        frameon=False,
        fontsize=8,
    )
    return figure


def _check_points(
    seconds: Mapping[str, float],
    quality: Mapping[str, Mapping[str, tuple[float, float, float]]],
    columns: int,
) -> None:
    if not quality or not any(quality.values()):
        raise ValueError(
            "Argument `quality` must hold at least one metric with an "
            "explainer. Received: none"
        )
    if columns < 1:
        raise ValueError(
            f"Argument `columns` must be at least 1. Received: {columns}"
        )
    for name in {name for points in quality.values() for name in points}:
        if not seconds.get(name, 0) > 0:
            raise ValueError(
                "Argument `seconds` must hold a time greater than 0 for each "
                f"explainer. Received: {seconds.get(name)} for {name!r}"
            )
