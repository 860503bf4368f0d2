"""Plots what explainers are worth and what they cost."""

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import BboxBase

# Of points: dark enough to be read as names, and told apart when color-blind.
_COLORS = (
    "#1f5f8b",
    "#c2570c",
    "#2f7d4f",
    "#a3195b",
    "#6a4fb3",
    "#7a5c1e",
    "#4a4a4a",
)
_DOT = 5  # Their width, in typographic points.


def quality_against_time(
    seconds: Mapping[str, float],
    quality: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    better: Mapping[str, str] | None = None,
    columns: int = 3,
) -> "Figure":
    """Plots how good the maps are against the time that they take.

    A panel is a metric and a point an explainer, of one color in all panels,
    with its name in that color beside it. A line leads from a name to its
    point where another point is near. Points that cover one another share a
    name, such as `"CAM, Grad-CAM"`. Where lower is better the axis is turned,
    so that the best explainers are up and left in every panel.

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
    colors = dict(zip(seconds, itertools.cycle(_COLORS), strict=False))
    columns = min(columns, len(quality))
    rows = -(-len(quality) // columns)
    figure = Figure((4.2 * columns, 3.1 * rows + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(quality) :]:
        axis.set_axis_off()
    for axis, (metric, points) in zip(axes.flat, quality.items(), strict=False):
        word = (better or {}).get(metric, "")
        axis.set_title(metric, fontsize=10, loc="left")
        axis.set_ylabel(f"{word} is better" if word else "", fontsize=8)
        for name, (mean, low, high) in points.items():
            color, place = colors[name], seconds[name]
            axis.plot([place] * 2, [low, high], color=color, alpha=0.45)
            axis.plot(place, mean, "o", color=color, markersize=_DOT)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.margins(x=0.3, y=0.12)
        axis.tick_params(labelsize=8)
        axis.grid(color="#e6e6e6", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if word == "lower":
            axis.invert_yaxis()
    figure.supxlabel("seconds per image", fontsize=9)
    # Places on the paper are known when the layout is done, and hold from
    # then on.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis, points in zip(axes.flat, quality.values(), strict=False):
        _name_points(axis, seconds, points, colors)
    return figure


def _name_points(
    axis: "Axes",
    seconds: Mapping[str, float],
    points: Mapping[str, tuple[float, float, float]],
    colors: Mapping[str, str],
) -> None:
    """Writes each name where it covers neither points nor other names."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    pixel = axis.figure.dpi / 72  # Of a typographic point.
    places: dict[str, np.ndarray] = {}
    taken: list[BboxBase] = []
    for name, (mean, *ends) in points.items():
        if np.isnan(mean):
            continue
        heights = [mean, *(end for end in ends if not np.isnan(end))]
        drawn = axis.transData.transform([(seconds[name], y) for y in heights])
        places[name] = drawn[0]
        taken.append(Bbox([drawn.min(axis=0), drawn.max(axis=0)]).padded(4))
    panel = axis.get_window_extent()
    for names in _covering(places, _DOT * pixel):
        place = np.mean([places[name] for name in names], axis=0)
        others = [places[name] for name in places if name not in names]
        x, y = axis.transData.inverted().transform(place)
        text = axis.annotate(
            ", ".join(names),
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=colors[names[0]] if len(names) == 1 else "#333333",
            arrowprops={
                "arrowstyle": "-",
                "color": "#8a8a8a",
                "linewidth": 0.7,
                "shrinkA": 0,
                "shrinkB": _DOT / 2,
            },
        )
        size = Text.get_window_extent(text)
        choices = []
        for x, y in _offsets(size.width / pixel):
            corner = place + pixel * np.array([x, y])
            corner -= [size.width / 2, size.height / 2]
            bounds = (*corner, size.width, size.height)
            box = Bbox.from_bounds(*bounds).padded(1)
            covered = sum(_shared_area(box, other) for other in taken)
            outside = box.width * box.height - _shared_area(box, panel)
            near = min((_distance(box, at) for at in others), default=np.inf)
            led = near < 2.5 * _distance(box, place)
            # A line over another point would lead astray.
            astray = led and any(
                _passes(place, box, at, _DOT * pixel) for at in others
            )
            # Whole pixels, so that rounding does not choose.
            cost = round(covered + outside + 100 * astray)
            choices.append((cost, (x, y), box, led))
        # Of the best the first, which is the nearest.
        _, offset, box, led = min(choices, key=lambda choice: choice[0])
        text.set_position(offset)
        arrow: Any = text.arrow_patch  # There is one, by `arrowprops`.
        arrow.set_visible(led)
        taken.append(box)


def _covering(
    places: Mapping[str, np.ndarray], reach: float
) -> list[list[str]]:
    """Groups names whose points are nearer to one another than `reach`."""
    groups: list[list[str]] = []
    for name in sorted(places, key=lambda name: places[name][0]):
        for group in groups:
            spans = [places[name] - places[other] for other in group]
            if all(np.hypot(*span) < reach for span in spans):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _distance(box: "BboxBase", point: np.ndarray) -> float:
    """Distance of a point from a box, 0 inside."""
    beyond = np.maximum(box.min - point, point - box.max)
    return float(np.hypot(*np.maximum(beyond, 0)))


def _passes(
    place: np.ndarray, box: "BboxBase", point: np.ndarray, reach: float
) -> bool:
    """Whether the line from a box to a place comes near a point."""
    start = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    along = place - start
    share = np.clip((point - start) @ along / (along @ along), 0, 1)
    return bool(np.hypot(*(start + share * along - point)) < reach)


def _offsets(width: float) -> Iterator[tuple[float, float]]:
    """Places around a point for a name, the nearest first."""
    aside = width / 2 + 7
    yield from [(aside, 0), (-aside, 0)]
    for y in range(7, 90, 6):
        yield from [(aside, y), (aside, -y), (-aside, y), (-aside, -y)]
        yield from [(0, y + 4), (0, -y - 4)]


def _shared_area(box: "BboxBase", other: "BboxBase") -> float:
    width = min(box.x1, other.x1) - max(box.x0, other.x0)
    height = min(box.y1, other.y1) - max(box.y0, other.y0)
    return max(0, width) * max(0, height)


def _check_points(
    seconds: Mapping[str, float],
    quality: Mapping[str, Mapping[str, tuple[float, float, float]]],
    columns: int,
) -> None:
    if not quality or not any(quality.values()):
        raise ValueError(
            "Argument `quality` must hold a metric with an explainer at "
            "least. Received: none"
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
