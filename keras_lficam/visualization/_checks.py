"""Checks of what is shown."""

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from keras_lficam._checks import numbers_of


def checked_figure(
    pixels: np.ndarray,
    heat: np.ndarray,
    titles: Sequence[str] | None,
    masks: npt.ArrayLike | None,
) -> np.ndarray | None:
    """Checks what is drawn beside images and maps; returns the masks."""
    if len(pixels) == 0:
        raise ValueError(
            "Argument `images` must hold an image at least. "
            f"Received: images.shape={pixels.shape}"
        )
    if titles is not None:
        check_lines("titles", titles)
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


def checked(
    images: npt.ArrayLike, maps: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    pixels = numbers_of("images", images)
    heat = numbers_of("maps", maps).astype("float64")
    if pixels.ndim == 3 and heat.ndim == 4 and len(heat) == 1:
        heat = heat[0]  # What an explainer gives for a single image.
    if (
        pixels.ndim not in (3, 4)
        or pixels.shape[-1] not in (1, 3)
        or heat.shape != (*pixels.shape[:-1], 1)
    ):
        raise ValueError(
            "Argument `images` must have shape (batch, height, width, 3), or "
            "(batch, height, width, 1) if they are gray, and `maps` (batch, "
            "height, width, 1), or both lack the batch. Received: "
            f"images.shape={pixels.shape}, maps.shape={heat.shape}"
        )
    check_within("images", pixels, 255)
    check_within("maps", heat, 1)
    if pixels.dtype.kind == "f" and pixels.size and 0 < pixels.max() <= 1:
        warnings.warn(
            "Argument `images` should be pixels from 0 to 255, and these are "
            f"black. Received: maximum {pixels.max():.3g}. To fix this: 255 * "
            "images.",
            stacklevel=3,
        )
    # Of one channel matplotlib would make colors.
    rgb = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
    return rgb.astype("float64").clip(0, 255), heat.clip(0, 1)


def check_lines(name: str, lines: object) -> None:
    if isinstance(lines, str) or not (
        isinstance(lines, Iterable)
        and hasattr(lines, "__len__")
        and all(isinstance(line, str) for line in lines)
    ):
        raise TypeError(
            f"Argument `{name}` must be a list of strings. "
            f"Received: {name}={lines!r:.80}"
        )


def check_within(name: str, values: np.ndarray, highest: float) -> None:
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
