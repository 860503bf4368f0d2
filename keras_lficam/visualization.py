"""Draws heat maps: overlays as pixels, grids and plots as figures."""

import itertools
import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from keras_lficam._checks import check_mapping, check_number, numbers_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Perceptually uniform: equal steps of the map look equally large.
COLORMAP = "inferno"
OPACITY = 0.65
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


def overlay(
    images: npt.ArrayLike,
    maps: npt.ArrayLike,
    *,
    opacity: float = OPACITY,
    colormap: str = COLORMAP,
) -> np.ndarray:
    """Lays heat maps over their images.

    The brighter the map, the more it covers: where it is 0 the picture stays
    as it is, in gray so that color always means the map.

    Args:
        images: RGB images `(B, H, W, 3)` or gray ones `(B, H, W, 1)`, from 0
            to 255, or one `(H, W, 3)` or `(H, W, 1)`.
        maps: Heat maps `(B, H, W, 1)` in [0, 1], or one `(H, W, 1)`.
        opacity: How much of the picture is covered where the map is 1, in
            [0, 1].
        colormap: Name of a matplotlib color map.

    Returns:
        Array `(B, H, W, 3)`, or one `(H, W, 3)`, uint8.

    Raises:
        ValueError: If the shapes do not match or a value is out of range.

    Examples:
        picture = overlay(image, maps[0])
    """
    pixels, heat = _checked(images, maps)
    check_number("opacity", opacity, 0, 1)
    colors = 255 * _colors(heat, colormap)
    gray = pixels.mean(axis=-1, keepdims=True)
    # The square root lifts the middle of the map, which would else be faint.
    cover = opacity * np.sqrt(heat)
    return np.rint(gray * (1 - cover) + colors * cover).astype("uint8")


def grid(
    images: npt.ArrayLike,
    maps: npt.ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    masks: npt.ArrayLike | None = None,
    columns: int = 2,
    colormap: str = COLORMAP,
) -> "Figure":
    """Shows image, heat map and overlay of every image side by side.

    Args:
        images: RGB images `(B, H, W, 3)` or gray ones `(B, H, W, 1)`, from 0
            to 255, or one `(H, W, 3)` or `(H, W, 1)`.
        maps: Heat maps `(B, H, W, 1)` in [0, 1], or one.
        titles: A line for each image, such as `prediction_titles` makes.
        masks: Masks `(B, H, W, 1)` of the true objects, outlined on image
            and map.
        columns: Number of images in a row, at least 1.
        colormap: Name of a matplotlib color map.

    Returns:
        A matplotlib figure, shown by a notebook as the last line of a cell,
        and saved by its `savefig`. It is none of pyplot's, whose figures and
        current figure stay as they are.

    Raises:
        ValueError: If the shapes or the number of titles do not match.

    Examples:
        grid(images, maps, titles=prediction_titles(predictions))
    """
    from keras_lficam._figures import Figure

    pixels, heat = _checked(images, maps)
    if pixels.ndim == 3:
        pixels, heat = pixels[np.newaxis], heat[np.newaxis]
    outlines = _checked_figure(pixels, heat, titles, masks)
    count = len(pixels)
    if (
        not isinstance(columns, numbers.Integral)
        or isinstance(columns, bool)
        or columns < 1
    ):
        raise ValueError(
            "Argument `columns` must be an integer of at least 1. "
            f"Received: columns={columns!r}"
        )
    columns = min(columns, count)
    rows = -(-count // columns)
    height = 1.4 if titles is None else 1.65
    figure = Figure((4.2 * columns + 0.2, height * rows + 0.35))
    blocks = figure.subfigures(rows, columns, squeeze=False).ravel()
    overlays = overlay(pixels, heat, colormap=colormap)
    for index, block in enumerate(blocks[:count]):
        axes = block.subplots(1, 3)
        axes[0].imshow(np.rint(pixels[index]).astype("uint8"))
        axes[1].imshow(heat[index], cmap=colormap, vmin=0, vmax=1)
        axes[2].imshow(overlays[index])
        for axis in axes:
            axis.set_axis_off()
        if outlines is not None:
            for axis in axes[:2]:
                _outline(axis, outlines[index, ..., 0])
        if titles is not None:
            block.suptitle(titles[index], fontsize=9)
    return figure


def comparison_grid(
    images: npt.ArrayLike,
    maps: Mapping[str, npt.ArrayLike],
    *,
    titles: Sequence[str] | None = None,
    masks: npt.ArrayLike | None = None,
    colormap: str = COLORMAP,
) -> "Figure":
    """Shows what several explainers say: image by explainer.

    A row is an image: first as it is, then with the map of each explainer
    laid over it.

    Args:
        images: RGB images `(B, H, W, 3)` or gray ones `(B, H, W, 1)`, from 0
            to 255, or one `(H, W, 3)` or `(H, W, 1)`.
        maps: Names of explainers, and their heat maps `(B, H, W, 1)` in
            [0, 1], or one each.
        titles: A line for each image, such as `prediction_titles` makes.
        masks: Masks `(B, H, W, 1)` of the true objects, outlined.
        colormap: Name of a matplotlib color map.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: If there are no maps or images, or the shapes or the number
            of titles do not match.

    Examples:
        comparison_grid(images, {"LFI-CAM": maps, "nothing": 0 * maps})
    """
    from keras_lficam._figures import Figure

    check_mapping("maps", maps)
    if not maps:
        raise ValueError(
            "Argument `maps` must hold the maps of an explainer at least. "
            "Received: none"
        )
    heats = {}
    for name, values in maps.items():
        pixels, heats[name] = _checked(images, values)
    if pixels.ndim == 3:
        pixels = pixels[np.newaxis]
        heats = {name: heat[np.newaxis] for name, heat in heats.items()}
    outlines = _checked_figure(pixels, heats[name], titles, masks)
    count, height, width = pixels.shape[:3]
    columns = {"image": np.rint(pixels).astype("uint8")} | {
        name: overlay(pixels, heat, colormap=colormap)
        for name, heat in heats.items()
    }
    figure = Figure(
        (
            1.25 * len(columns) + (0.1 if titles is None else 0.45),
            1.25 * count * height / width + 0.35,
        )
    )
    axes = figure.subplots(
        count,
        len(columns),
        squeeze=False,
        gridspec_kw={"wspace": 0.03, "hspace": 0.03},
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for column, (name, drawn) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=8)
        for row in range(count):
            axes[row, column].imshow(drawn[row])
            if outlines is not None:
                _outline(axes[row, column], outlines[row, ..., 0])
    for row, title in enumerate(titles or []):
        axes[row, 0].set_ylabel(title.replace(", ", "\n"), fontsize=8)
    return figure


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


def prediction_titles(
    predictions: npt.ArrayLike,
    names: Sequence[str] | None = None,
    labels: npt.ArrayLike | None = None,
) -> list[str]:
    """Words predictions: the class, its probability, and the true class.

    Args:
        predictions: Probabilities `(B, K)`.
        names: Name of each class; the default is its number.
        labels: True classes `(B,)`; where one differs from the prediction it
            is named too.

    Returns:
        A line for each prediction, such as `"7 (98 %)"` or
        `"7 (61 %), truly 1"`.

    Raises:
        ValueError: If the predictions are no such probabilities, or `names`
            has not one name for each class.

    Examples:
        titles = prediction_titles(predictions, labels=labels)
    """
    rows = numbers_of("predictions", predictions)
    if rows.ndim != 2:
        raise ValueError(
            "Argument `predictions` must have shape (batch, classes). "
            f"Received: predictions.shape={rows.shape}"
        )
    _check_within("predictions", rows, 1)
    if names is None:
        names = [str(number) for number in range(rows.shape[1])]
    _check_lines("names", names)
    if len(names) != rows.shape[1]:
        raise ValueError(
            f"Argument `names` must hold {rows.shape[1]} names, one "
            f"for each class. Received: {len(names)} names"
        )
    best = rows.argmax(axis=-1)
    true = best if labels is None else numbers_of("labels", labels)
    if true.shape != best.shape or (
        true.dtype.kind not in "iu"
        or (true.size and not 0 <= true.min() <= true.max() < len(names))
    ):
        raise ValueError(
            "Argument `labels` must hold an integer for each of the "
            f"{len(rows)} predictions, from 0 to {len(names) - 1}. "
            f"Received: labels={labels!r:.80}"
        )
    titles = []
    for row, guess, truth in zip(rows, best, true, strict=True):
        title = f"{names[guess]} ({100 * row[guess]:.0f} %)"
        if guess != truth:
            title += f", truly {names[truth]}"
        titles.append(title)
    return titles


def _colors(maps, colormap):
    """Returns RGB colors `(..., 3)` in [0, 1] of maps `(..., 1)`."""
    import matplotlib

    if not isinstance(colormap, str) or colormap not in matplotlib.colormaps:
        raise ValueError(
            "Argument `colormap` must be a color map of matplotlib, such as "
            f"'inferno' or 'viridis'. Received: colormap={colormap!r}"
        )
    return matplotlib.colormaps[colormap](maps[..., 0])[..., :3]


def _outline(axis, mask):
    """Draws the edge of a mask, also where it meets the edge of the image."""
    height, width = mask.shape
    axis.contour(
        np.arange(-1, width + 1),
        np.arange(-1, height + 1),
        np.pad(mask, 1).astype(float),
        levels=[0.5],
        colors="#35e0ff",
        linewidths=1,
    )


def _name_points(axis, seconds, points, colors):
    """Writes each name where it covers neither points nor other names."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    pixel = axis.figure.dpi / 72  # Of a typographic point.
    places, taken = {}, []
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
        text = axis.annotate(
            ", ".join(names),
            axis.transData.inverted().transform(place),
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
            box = Bbox.from_bounds(*corner, size.width, size.height).padded(1)
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
        text.arrow_patch.set_visible(led)
        taken.append(box)


def _covering(places, reach):
    """Groups names whose points are nearer to one another than `reach`."""
    groups = []
    for name in sorted(places, key=lambda name: places[name][0]):
        for group in groups:
            spans = [places[name] - places[other] for other in group]
            if all(np.hypot(*span) < reach for span in spans):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _distance(box, point):
    """Distance of a point from a box, 0 inside."""
    beyond = np.maximum(box.min - point, point - box.max)
    return np.hypot(*np.maximum(beyond, 0))


def _passes(place, box, point, reach):
    """Whether the line from a box to a place comes near a point."""
    start = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    along = place - start
    share = np.clip((point - start) @ along / (along @ along), 0, 1)
    return np.hypot(*(start + share * along - point)) < reach


def _offsets(width):
    """Places around a point for a name, the nearest first."""
    aside = width / 2 + 7
    yield from [(aside, 0), (-aside, 0)]
    for y in range(7, 90, 6):
        yield from [(aside, y), (aside, -y), (-aside, y), (-aside, -y)]
        yield from [(0, y + 4), (0, -y - 4)]


def _shared_area(box, other):
    width = min(box.x1, other.x1) - max(box.x0, other.x0)
    height = min(box.y1, other.y1) - max(box.y0, other.y0)
    return max(0, width) * max(0, height)


def _check_points(seconds, quality, columns):
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


def _checked_figure(pixels, heat, titles, masks):
    """Checks what is drawn beside images and maps; returns the masks."""
    if len(pixels) == 0:
        raise ValueError(
            "Argument `images` must hold an image at least. "
            f"Received: images.shape={pixels.shape}"
        )
    if titles is not None:
        _check_lines("titles", titles)
    if titles is not None and len(titles) != len(pixels):
        raise ValueError(
            f"Argument `titles` must hold a line for each of the "
            f"{len(pixels)} images. Received: {len(titles)} titles"
        )
    if masks is not None:
        masks = numbers_of("masks", masks)
        if masks.shape != heat.shape:
            raise ValueError(
                "Argument `masks` must have the shape of `maps`, "
                f"{heat.shape}. Received: masks.shape={masks.shape}"
            )
    return masks


def _checked(images, maps):
    images = numbers_of("images", images)
    maps = numbers_of("maps", maps).astype("float64")
    if images.ndim == 3 and maps.ndim == 4 and len(maps) == 1:
        maps = maps[0]  # What an explainer gives for a single image.
    if (
        images.ndim not in (3, 4)
        or images.shape[-1] not in (1, 3)
        or maps.shape != (*images.shape[:-1], 1)
    ):
        raise ValueError(
            "Argument `images` must have shape (batch, height, width, 3), or "
            "(batch, height, width, 1) if they are gray, and `maps` (batch, "
            "height, width, 1), or both lack the batch. Received: "
            f"images.shape={images.shape}, maps.shape={maps.shape}"
        )
    _check_within("images", images, 255)
    _check_within("maps", maps, 1)
    if images.dtype.kind == "f" and images.size and 0 < images.max() <= 1:
        warnings.warn(
            "Argument `images` should be pixels from 0 to 255, and these are "
            f"black. Received: maximum {images.max():.3g}. Way out: 255 * "
            "images.",
            stacklevel=3,
        )
    # Of one channel matplotlib would make colors.
    rgb = np.broadcast_to(images, (*images.shape[:-1], 3))
    return rgb.astype("float64").clip(0, 255), maps.clip(0, 1)


def _check_lines(name, lines):
    if isinstance(lines, str) or not (
        isinstance(lines, Iterable)
        and hasattr(lines, "__len__")
        and all(isinstance(line, str) for line in lines)
    ):
        raise TypeError(
            f"Argument `{name}` must be a list of strings. "
            f"Received: {name}={lines!r:.80}"
        )


def _check_within(name, values, highest):
    # Written so that NaN, which compares false to everything, is refused.
    # A last digit of rounding is let through.
    slack = 1e-5 * highest
    if values.size and not (
        values.min() >= -slack and values.max() <= highest + slack
    ):
        raise ValueError(
            f"Argument `{name}` must lie between 0 and {highest}. Received: "
            f"values from {values.min()} to {values.max()}"
        )
