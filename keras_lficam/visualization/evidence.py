"""Shows signed evidence of classes over the images."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from keras_lficam._checks import check_integer, check_number, numbers_of
from keras_lficam.visualization._checks import check_lines, check_within
from keras_lficam.visualization.overlays import overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Diverging and even in lightness: red speaks for a class, blue against it.
SIGNED_COLORMAP = "RdBu_r"
SIGNED_OPACITY = 0.8
# Of the image below the evidence, as a share of its own.
_SATURATION = 0.4


def signed_overlay(
    images: npt.ArrayLike,
    evidence: npt.ArrayLike,
    *,
    limit: float | None = None,
    opacity: float = SIGNED_OPACITY,
) -> np.ndarray:
    """Lays signed evidence over the images, in color over muted color.

    Red speaks for the class and blue against it, the stronger the more it
    covers. The colors of the image are muted, so that those of the evidence
    differ from them.

    Args:
        images: RGB images `(B, H, W, 3)` or gray ones `(B, H, W, 1)`, from 0
            to 255.
        evidence: Signed maps `(B, H, W, 1)`.
        limit: Evidence of full color, positive; by default the largest
            magnitude of each image. Give one to compare classes or images.
        opacity: How much of the image is covered at full color, in [0, 1].

    Returns:
        Array `(B, H, W, 3)`, uint8.

    Raises:
        ValueError: If the shapes do not match or a value is out of range.

    Examples:
        shown = signed_overlay(images, 2 * maps - 1)
    """
    import matplotlib

    pixels, signed = _checked(images, evidence)
    if signed.shape[-1] != 1:
        raise ValueError(
            "Argument `evidence` must be that of one class, (batch, height, "
            f"width, 1). Received: evidence.shape={signed.shape}"
        )
    check_number("opacity", opacity, 0, 1)
    scale = np.abs(signed).max(axis=(1, 2, 3), keepdims=True)
    if limit is not None:
        check_number("limit", limit, 0)
        scale = np.full_like(scale, limit)
    relative = signed / np.where(scale == 0, 1, scale)
    relative = relative.clip(-1, 1)
    colors = matplotlib.colormaps[SIGNED_COLORMAP]((relative[..., 0] + 1) / 2)
    gray = pixels.mean(axis=-1, keepdims=True)
    pixels = gray + _SATURATION * (pixels - gray)
    # The power lifts weak evidence, which would else be faint.
    cover = opacity * np.abs(relative) ** 0.75
    mixed = pixels * (1 - cover) + 255 * colors[..., :3] * cover
    shown: np.ndarray = np.rint(mixed).astype("uint8")
    return shown


def evidence_grid(
    images: npt.ArrayLike,
    evidence: npt.ArrayLike,
    titles: Sequence[Sequence[str]],
    *,
    attention: npt.ArrayLike | None = None,
    wrap: int | None = None,
) -> "Figure":
    """Shows image, attention map, and evidence of classes, a row an image.

    Args:
        images: RGB images `(B, H, W, 3)` or gray ones `(B, H, W, 1)`, from 0
            to 255; others are min-max normalized for the figure.
        evidence: Signed maps `(B, H, W, n)` of `n` classes.
        titles: For each image a line for each class.
        attention: Attention maps `(B, H, W, 1)` in [0, 1], or None.
        wrap: Number of panels side by side at most, at least 1: the others go
            on below, as for a narrow page. By default all are side by side.

    Returns:
        A matplotlib figure. The evidence of an image is on one symmetric scale,
        which the bar beside it shows in the unit of the evidence.

    Raises:
        TypeError: If `wrap` is no integer.
        ValueError: If the shapes do not match, or `wrap` is less than 1.

    Examples:
        evidence_grid(images[:1], maps[:1] - 0.5, [["cat (98 %)"]])
    """
    import matplotlib.cm
    import matplotlib.colors

    from keras_lficam._figures import Figure

    pixels, signed = _checked(_as_pixels(images), evidence)
    count, height, width, number = signed.shape
    if len(titles) != count or any(len(row) != number for row in titles):
        raise ValueError(
            f"Argument `titles` must hold {number} lines for each of the "
            f"{count} images. Received: {[len(row) for row in titles]} lines"
        )
    for lines in titles:
        check_lines("titles", lines)
    heat = None if attention is None else overlay(pixels, attention)
    fixed = 1 if heat is None else 2
    panels = number + fixed
    if wrap is not None:
        check_integer("wrap", wrap, least=1)
    across = panels if wrap is None else min(wrap, panels)
    lines_of_image = math.ceil(panels / across)
    side = 1.9
    figure = Figure(
        (
            side * across + 0.9,
            (side * height / width + 0.3) * count * lines_of_image + 0.1,
        )
    )
    axes = figure.subplots(count * lines_of_image, across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, every in enumerate(axes.reshape(count, -1)):
        shown = every[:panels]
        limit = float(np.abs(signed[row]).max()) or 1.0
        shown[0].imshow(pixels[row].astype("uint8"))
        shown[0].set_title("image", fontsize=8)
        if heat is not None:
            shown[1].imshow(heat[row])
            shown[1].set_title("attention map", fontsize=8)
        for column, axis in enumerate(shown[fixed:]):
            maps = signed[row : row + 1, ..., column : column + 1]
            axis.imshow(
                signed_overlay(pixels[row : row + 1], maps, limit=limit)[0]
            )
            # A name may hold a "$", which would begin a formula.
            axis.set_title(titles[row][column], fontsize=8, parse_math=False)
        scale = matplotlib.cm.ScalarMappable(
            matplotlib.colors.Normalize(-limit, limit), SIGNED_COLORMAP
        )
        bar = figure.colorbar(
            scale,
            # Of the lines where evidence is, to their ends.
            ax=list(every[fixed // across * across :]),
            shrink=0.9,
            aspect=14 * (lines_of_image - fixed // across),
            pad=0.01,
        )
        bar.set_ticks([-limit, 0, limit])
        bar.ax.set_yticklabels(
            [f"{-limit:.3g}", "0", f"{limit:.3g}"], fontsize=7
        )
        bar.set_label("against \N{EM DASH} for", fontsize=7)
        bar.outline.set_visible(False)
    return figure


def _as_pixels(images: npt.ArrayLike) -> np.ndarray:
    """Brings images in another range than 0 to 255 to it."""
    pixels = numbers_of("images", images).astype("float64")
    if pixels.size and (pixels.min() < 0 or pixels.max() <= 1):
        low, high = pixels.min(), pixels.max()
        pixels = 255 * (pixels - low) / (high - low or 1)
    return pixels


def _checked(
    images: npt.ArrayLike, evidence: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    pixels = numbers_of("images", images).astype("float64")
    signed = numbers_of("evidence", evidence).astype("float64")
    if (
        pixels.ndim != 4
        or pixels.shape[-1] not in (1, 3)
        or signed.shape[:-1] != pixels.shape[:-1]
        or signed.size == 0
    ):
        raise ValueError(
            "Argument `images` must have shape (batch, height, width, 3), or "
            "(batch, height, width, 1) if they are gray, and `evidence` "
            "(batch, height, width, classes). Received: images.shape="
            f"{pixels.shape}, evidence.shape={signed.shape}"
        )
    check_within("images", pixels, 255)
    if not np.isfinite(signed).all():
        raise ValueError(
            "Argument `evidence` must hold finite numbers. Received: NaN or "
            "infinite ones."
        )
    rgb = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
    return rgb.clip(0, 255), signed
