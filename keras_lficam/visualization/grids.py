"""Shows images and their heat maps side by side, as figures."""

import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from keras_lficam._checks import check_mapping, numbers_of
from keras_lficam.visualization._checks import (
    check_lines,
    check_within,
    checked,
    checked_figure,
)
from keras_lficam.visualization.overlays import COLORMAP, overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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

    pixels, heat = checked(images, maps)
    if pixels.ndim == 3:
        pixels, heat = pixels[np.newaxis], heat[np.newaxis]
    outlines = checked_figure(pixels, heat, titles, masks)
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
        pixels, heats[name] = checked(images, values)
    if pixels.ndim == 3:
        pixels = pixels[np.newaxis]
        heats = {name: heat[np.newaxis] for name, heat in heats.items()}
    outlines = checked_figure(pixels, heats[name], titles, masks)
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
            is named too. Or 0 or 1 for each class `(B, K)`, where an image can
            have several: then all classes of 50 % or more are named.

    Returns:
        A line for each prediction, such as `"7 (98 %)"` or
        `"7 (61 %), label: 1"`; of several labels `"7 (98 %), 1 (61 %)"` or
        `"none, labels: 1"`.

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
    check_within("predictions", rows, 1)
    if names is None:
        names = [str(number) for number in range(rows.shape[1])]
    check_lines("names", names)
    if len(names) != rows.shape[1]:
        raise ValueError(
            f"Argument `names` must hold {rows.shape[1]} names, one "
            f"for each class. Received: {len(names)} names"
        )
    best = rows.argmax(axis=-1)
    true = best if labels is None else numbers_of("labels", labels)
    if true.ndim == 2:
        return _titles_of_several(rows, names, true)
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
            title += f", label: {names[truth]}"
        titles.append(title)
    return titles


def _titles_of_several(
    rows: np.ndarray, names: Sequence[str], labels: np.ndarray
) -> list[str]:
    if labels.shape != rows.shape or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            "Argument `labels` must hold 0 or 1 for each class of each of the "
            f"predictions, {rows.shape}. Received: labels.shape="
            f"{labels.shape}, and values from {labels.min()} to {labels.max()}"
        )
    titles = []
    for row, truth in zip(rows, labels == 1, strict=True):
        guessed = row >= 0.5
        title = ", ".join(
            f"{name} ({100 * chance:.0f} %)"
            for name, chance in zip(names, row, strict=True)
            if chance >= 0.5
        )
        title = title or "none"
        if (guessed != truth).any():
            true = [
                name for name, is_it in zip(names, truth, strict=True) if is_it
            ]
            title += f", labels: {', '.join(true) or 'none'}"
        titles.append(title)
    return titles


def _outline(axis: "Axes", mask: np.ndarray) -> None:
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
