"""Lays heat maps over their images, as pixels."""

import numpy as np
import numpy.typing as npt

from keras_lficam._checks import check_number
from keras_lficam.visualization._checks import checked

# Perceptually uniform: equal steps of the map look equally large.
COLORMAP = "inferno"
OPACITY = 0.65


def overlay(
    images: npt.ArrayLike,
    maps: npt.ArrayLike,
    *,
    opacity: float = OPACITY,
    colormap: str = COLORMAP,
) -> np.ndarray:
    """Lays heat maps over their images.

    The brighter the map, the more it covers: where it is 0 the image stays
    as it is, in gray so that color always means the map.

    Args:
        images: RGB images `(B, H, W, 3)` or gray ones `(B, H, W, 1)`, from 0
            to 255, or one `(H, W, 3)` or `(H, W, 1)`.
        maps: Heat maps `(B, H, W, 1)` in [0, 1], or one `(H, W, 1)`.
        opacity: How much of the image is covered where the map is 1, in
            [0, 1].
        colormap: Name of a matplotlib color map.

    Returns:
        Array `(B, H, W, 3)`, or one `(H, W, 3)`, uint8.

    Raises:
        ValueError: If the shapes do not match or a value is out of range.

    Examples:
        blended = overlay(image, maps[0])
    """
    pixels, heat = checked(images, maps)
    check_number("opacity", opacity, 0, 1)
    colors = 255 * _colors(heat, colormap)
    gray = pixels.mean(axis=-1, keepdims=True)
    # The square root lifts the middle of the map, which would else be faint.
    cover = opacity * np.sqrt(heat)
    mixed: np.ndarray = np.rint(gray * (1 - cover) + colors * cover)
    return mixed.astype("uint8")


def _colors(maps: np.ndarray, colormap: str) -> np.ndarray:
    """Returns RGB colors `(..., 3)` in [0, 1] of maps `(..., 1)`."""
    import matplotlib

    if not isinstance(colormap, str) or colormap not in matplotlib.colormaps:
        raise ValueError(
            "Argument `colormap` must be a color map of matplotlib, such as "
            f"'inferno' or 'viridis'. Received: colormap={colormap!r}"
        )
    colors: np.ndarray = matplotlib.colormaps[colormap](maps[..., 0])
    return colors[..., :3]
