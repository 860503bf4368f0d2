"""Checks what tells a classifier where its map is: a grid, or two functions."""

import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam.classifier._split import Halves, Patches
from keras_lficam.surgery import grids_of


def checked_grid(grid: Any) -> tuple[int, int] | None:
    """Takes rows and columns of patches; None as None.

    Raises:
        ValueError: If it is no pair of integers of at least 2.
    """
    if grid is None:
        return None
    sides = tuple(grid) if isinstance(grid, (tuple, list)) else ()
    if len(sides) != 2 or not all(
        isinstance(side, numbers.Integral)
        and not isinstance(side, bool)
        and int(side) >= 2
        for side in sides
    ):
        raise ValueError(
            "Argument `grid` must be a pair of integers, the rows and columns "
            f"of a transformer's patches, at least 2 each. Received: "
            f"grid={grid!r}. To fix this: grid=(14, 14), or None to find it."
        )
    return int(sides[0]), int(sides[1])


def no_such_grid(name: str, grid: tuple[int, int]) -> ValueError:
    """Makes the error for a grid that no tokens of a model lie on."""
    count = grid[0] * grid[1]
    return ValueError(
        f"Argument `grid` must have as many cells as model {name!r} has "
        f"tokens, but for up to 8 in front of the patches. Received: "
        f"grid={grid}, of {count} cells, which no tokens fit that everything "
        "goes through and that the scores depend on. To fix this: leave it "
        "out; or layer='...', which names the layer that gives the tokens."
    )


def checked_halves(halves: Any, layer: str | None) -> Halves:
    """Takes two functions, from images to features and on to logits.

    Raises:
        TypeError: If they are no pair of functions.
        ValueError: If a layer is named beside.
    """
    is_pair = isinstance(halves, (tuple, list)) and len(halves) == 2
    if not is_pair or not all(callable(half) for half in halves):
        raise TypeError(
            "Argument `split` must be a pair of functions: from images to a "
            "feature map (batch, rows, columns, channels) or tokens (batch, "
            "tokens, channels), and from there to the logits (batch, "
            f"classes). Received: split={halves!r:.80} of type "
            f"{type(halves).__name__}. To fix this: split=(trunk, head)."
        )
    if layer is not None:
        raise ValueError(
            "Arguments `split` and `layer` must not be given together, for "
            f"either says where the map is. Received: layer={layer!r}. To fix "
            "this: leave one out."
        )
    return halves[0], halves[1]


def sample_of(shape: tuple[int | None, ...], dtype: str) -> Any:
    """Makes two images to try functions with, of random pixels.

    Raises:
        ValueError: If the model takes images of any size.
    """
    sides = [side for side in shape if side is not None]
    if len(sides) < len(shape):
        raise ValueError(
            "Argument `split` must be given for a model that takes images of "
            f"one size. Received: images of shape {shape}. To fix this: a "
            "keras.Model with the height and width of keras.Input as numbers."
        )
    pixels = np.random.default_rng(0).uniform(0, 255, (2, *sides))
    return ops.convert_to_tensor(pixels.astype(dtype))


def patches_of(
    features: Any,
    image_shape: tuple[int | None, ...],
    grid: tuple[int, int] | None,
) -> Patches | None:
    """Finds how features lie in an image; None of a feature map.

    Raises:
        ValueError: If they are neither a map nor tokens, or it is not clear
            which grid the tokens lie on.
    """
    shape = tuple(features.shape)
    if len(shape) == 4:
        return None
    if len(shape) != 3:
        raise ValueError(
            "Argument `split` must begin with a function that gives a feature "
            "map (batch, rows, columns, channels) or tokens (batch, tokens, "
            f"channels). Received: one that gives shape {shape}."
        )
    height, width = image_shape[:2]
    assert height is not None, "the sample is of one size"
    assert width is not None, "the sample is of one size"
    fitting = grids_of((height, width), shape[1])
    found = fitting if grid is None else [grid]
    if len(found) != 1 or not 0 <= shape[1] - math.prod(found[0]) <= 8:
        raise ValueError(
            "Argument `grid` must hold the rows and columns of the patches, "
            f"where functions give {shape[1]} tokens of images of "
            f"{height}x{width} pixels. Received: grid={grid}; "
            f"{fitting or 'no grid'} would fit. To fix this: grid=(14, 14), "
            "or what it is."
        )
    (sides,) = found
    return Patches(sides, shape[1] - math.prod(sides))


def check_logits_agree(found: Any, expected: Any) -> None:
    """Raises a ValueError unless two functions give the model's logits."""
    found, expected = map(ops.convert_to_numpy, (found, expected))
    fits = found.shape == expected.shape
    if not fits or not np.allclose(
        found, expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max()
    ):
        difference = np.abs(found - expected).max() if fits else found.shape
        raise ValueError(
            "Argument `split` must be two functions that together give the "
            "logits of the model, before a softmax or sigmoid. Received: "
            f"functions that differ from it by {difference} on a random image. "
            "To fix this: head must end in front of the activation, and both "
            "must compute as at inference."
        )


def without_traces(function: Any, x: Any) -> Any:
    """Computes a function, and writes nothing to the layers it calls."""
    with keras.StatelessScope():
        return function(x)
