"""Draws heat maps: overlays as pixels, grids as figures."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Perceptually uniform: equal steps of the map look equally large.
COLORMAP = "inferno"


def overlay(
    images: npt.ArrayLike,
    maps: npt.ArrayLike,
    *,
    opacity: float = 0.65,
    colormap: str = COLORMAP,
) -> np.ndarray:
    """Lays heat maps over their images.

    The brighter the map, the more it covers: where it is 0 the picture stays
    as it is, in gray so that color always means the map.

    Args:
        images: RGB images `(B, H, W, 3)` from 0 to 255, or one `(H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)` in [0, 1], or one `(H, W, 1)`.
        opacity: How much of the picture is covered where the map is 1, in
            [0, 1].
        colormap: Name of a matplotlib color map.

    Returns:
        Array of the shape of `images`, uint8.

    Raises:
        ValueError: If the shapes do not match or a value is out of range.

    Examples:
        picture = overlay(image, maps[0])
    """
    pixels, heat = _checked(images, maps)
    if not 0 <= opacity <= 1:
        raise ValueError(
            "Argument `opacity` must be between 0 and 1. "
            f"Received: opacity={opacity}"
        )
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
        images: RGB images `(B, H, W, 3)` from 0 to 255, or one `(H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)` in [0, 1], or one.
        titles: A line for each image, such as `prediction_titles` makes.
        masks: Masks `(B, H, W, 1)` of the true objects, outlined on image
            and map.
        columns: Number of images in a row, at least 1.
        colormap: Name of a matplotlib color map.

    Returns:
        A matplotlib figure, shown by a notebook as the last line of a cell,
        and saved by its `savefig`.

    Raises:
        ValueError: If the shapes or the number of titles do not match.

    Examples:
        grid(images, maps, titles=prediction_titles(predictions))
    """
    from matplotlib import pyplot

    pixels, heat = _checked(images, maps)
    if pixels.ndim == 3:
        pixels, heat = pixels[np.newaxis], heat[np.newaxis]
    if len(pixels) == 0:
        raise ValueError(
            "Argument `images` must hold an image at least. "
            f"Received: images.shape={pixels.shape}"
        )
    count = len(pixels)
    if titles is not None and len(titles) != count:
        raise ValueError(
            f"Argument `titles` must hold a line for each of the {count} "
            f"images. Received: {len(titles)} titles"
        )
    if masks is not None:
        masks = np.asarray(masks)
        if masks.shape != heat.shape:
            raise ValueError(
                "Argument `masks` must have the shape of `maps`, "
                f"{heat.shape}. Received: masks.shape={masks.shape}"
            )
    if columns < 1:
        raise ValueError(
            f"Argument `columns` must be at least 1. Received: {columns}"
        )
    columns = min(columns, count)
    rows = -(-count // columns)
    height = 1.4 if titles is None else 1.65
    figure = pyplot.figure(
        figsize=(4.2 * columns + 0.2, height * rows + 0.35),
        layout="constrained",
    )
    blocks = figure.subfigures(rows, columns, squeeze=False).ravel()
    overlays = overlay(pixels, heat, colormap=colormap)
    for index, block in enumerate(blocks[:count]):
        axes = block.subplots(1, 3)
        axes[0].imshow(np.rint(pixels[index]).astype("uint8"))
        axes[1].imshow(heat[index], cmap=colormap, vmin=0, vmax=1)
        axes[2].imshow(overlays[index])
        for axis in axes:
            axis.set_axis_off()
        if masks is not None:
            for axis in axes[:2]:
                _outline(axis, masks[index, ..., 0])
        if titles is not None:
            block.suptitle(titles[index], fontsize=9)
    # Closed, the figure is not shown a second time by a notebook.
    pyplot.close(figure)
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
    """
    rows = np.asarray(predictions)
    if rows.ndim != 2:
        raise ValueError(
            "Argument `predictions` must have shape (batch, classes). "
            f"Received: predictions.shape={rows.shape}"
        )
    _check_within("predictions", rows, 1)
    if names is None:
        names = [str(number) for number in range(rows.shape[1])]
    if len(names) != rows.shape[1]:
        raise ValueError(
            f"Argument `names` must hold {rows.shape[1]} names, one "
            f"for each class. Received: {len(names)} names"
        )
    best = rows.argmax(axis=-1)
    true = best if labels is None else np.asarray(labels)
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

    if colormap not in matplotlib.colormaps:
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


def _checked(images, maps):
    images, maps = np.asarray(images), np.asarray(maps, dtype="float64")
    if (
        images.ndim not in (3, 4)
        or images.shape[-1] != 3
        or maps.shape != (*images.shape[:-1], 1)
    ):
        raise ValueError(
            "Images must have shape (batch, height, width, 3) and maps "
            "(batch, height, width, 1), or both lack the batch. Received: "
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
    return images.astype("float64").clip(0, 255), maps.clip(0, 1)


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
