"""What does the explainer say of changed images? Metrics that ask it again."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import (
    check_finite,
    check_integer,
    check_number,
    real_array,
)
from keras_lficam.functional import Tensor
from keras_lficam.metrics import _checks
from keras_lficam.metrics._direction import higher_is_better, lower_is_better
from keras_lficam.metrics._masked import MaskedPredictor

_Explainer = Callable[..., Any]


@lower_is_better
def max_sensitivity(
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    explain: _Explainer,
    radius: float = 0.02,
    draws: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Measures how far a map changes when the image hardly does.

    To every value of an image noise is added, uniform in `[-r, r]`, where `r`
    is `radius` times the span of the image's values, and nothing is clipped.
    It is the largest `|map(x + noise) - map(x)| / |map(x)|` of several draws,
    by Euclidean norms. A map that never changes is perfect by this: read it
    beside faithfulness.

    Args:
        images: Images `(B, H, W, C)`.
        maps: Heat maps of the images `(B, H, W, 1)`, as `explain` gives them.
        classes: The classes that the maps are of, an integer for all images or
            for each of them. None lets the explainer choose, each time.
        explain: The explainer: a function of images and classes.
        radius: Share of the span of an image's values, in [0, 1].
        draws: Number of noisy images, at least 1. Each is explained once, so
            the cost is that of as many more maps.
        seed: Decides the noise.

    Returns:
        Array `(B,)`, float32, of at least 0. Lower is better. Of a map of
        zeros the change itself is taken.

    Raises:
        TypeError: If images or maps hold no real numbers, or `explain` is no
            function.
        ValueError: If the shapes do not fit, a value is not finite, or an
            argument is out of its range.

    Reference:
        Yeh et al., 2019, https://arxiv.org/abs/1901.09392.

    Examples:
        explain = keras_lficam.explainers.AttentionMap(model)
        values = max_sensitivity(images, explain(images), explain=explain)
    """
    _check_explainer(explain)
    check_number("radius", radius, 0, 1)
    check_integer("draws", draws, least=1)
    check_integer("seed", seed, least=0)
    images, maps = _images_and_maps(images, maps)
    rng = np.random.default_rng(seed)
    pixels = tuple(range(1, images.ndim))
    most = radius * np.ptp(images, axis=pixels, keepdims=True)
    norms = np.linalg.norm(maps.reshape(len(maps), -1), axis=-1)
    largest = np.zeros(len(maps))
    for _ in range(draws):
        noise = rng.uniform(-1, 1, images.shape) * most
        found = _explained(explain, (images + noise).astype("float32"), classes)
        change = (found - maps).reshape(len(maps), -1)
        largest = np.maximum(largest, np.linalg.norm(change, axis=-1))
    return (largest / np.where(norms > 0, norms, 1)).astype("float32")


@higher_is_better
def adcc(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    explain: _Explainer,
    activation: str | None = None,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Combines average drop, coherency and complexity (ADCC).

    The harmonic mean of three numbers in [0, 1]: `1 - average_drop`; the
    coherency `(1 + r) / 2`, with Pearson's correlation `r` of the map and that
    of the image times its map; and one minus the mean of the map. The maps are
    min-max normalized before.

    Args:
        model: Classifier, as in `average_drop`.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps of the images `(B, H, W, 1)`, as `explain` gives them.
        classes: The classes to follow, as in `average_drop`.
        explain: The explainer: a function of images and classes.
        activation: What makes probabilities, as in `average_drop`.
        chunk_size: Number of images that go through the model at once. The
            explainer is called once, with all images.
        context: Values of the inputs beside the image, as in `average_drop`;
            the explainer is not given them.

    Returns:
        Array `(B,)`, float32, in [0, 1]. Higher is better; 0 where one of the
        three is 0. A constant map correlates with none, `r = 0`.

    Raises:
        TypeError: As in `average_drop`, or if `explain` is no function.
        ValueError: As in `average_drop`.

    Reference:
        Poppi et al., 2021, https://arxiv.org/abs/2104.10252.

    Examples:
        explain = keras_lficam.explainers.GradCAM(model)
        values = adcc(model, images, explain(images), explain=explain)
    """
    _check_explainer(explain)
    predictor = MaskedPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    shown = predictor.normalized_maps()
    again = _explained(explain, predictor.images * shown, predictor.classes)
    coherency = (1 + _pearson(shown, _checks.min_max_normalized(again))) / 2
    covered = shown.mean(axis=(1, 2, 3), dtype="float64")
    parts = np.stack([1 - predictor.share_lost(), coherency, 1 - covered])
    whole = (parts > 0).all(axis=0)
    inverse = (1 / np.where(parts > 0, parts, 1)).sum(axis=0)
    return np.where(whole, 3 / inverse, 0).astype("float32")


def _check_explainer(explain: Any) -> None:
    if not callable(explain):
        raise TypeError(
            "Argument `explain` must be an explainer, a function of images "
            f"and classes. Received: explain={explain!r:.80} of type "
            f"{type(explain).__name__}. To fix this: "
            "explain=keras_lficam.explainers.GradCAM(model)."
        )


def _images_and_maps(
    images: Tensor, maps: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    pixels = real_array("images", images)
    found = _checks.map_array("maps", maps)
    if pixels.ndim != 4 or pixels.shape[:3] != found.shape[:3]:
        raise ValueError(
            "Arguments `images` and `maps` must be of the same images: "
            "(B, H, W, C) and (B, H, W, 1). Received: "
            f"images.shape={pixels.shape}, maps.shape={found.shape}"
        )
    check_finite("images", pixels)
    return pixels, found


def _explained(
    explain: _Explainer, images: np.ndarray, classes: Tensor | None
) -> np.ndarray:
    maps = np.asarray(ops.convert_to_numpy(explain(images, classes)))
    expected = (*images.shape[:3], 1)
    if maps.shape != expected:
        raise ValueError(
            "Argument `explain` must give maps of the size of the images, "
            f"{expected}. Received: maps of shape {maps.shape}"
        )
    found = maps.astype("float32")
    bad = np.flatnonzero(~np.isfinite(found).all(axis=(1, 2, 3)))
    if bad.size:
        raise ValueError(
            "Argument `explain` must give maps that are finite in float32. "
            f"Received: NaN or infinity in the maps at {bad.tolist()[:10]}"
        )
    return found


def _pearson(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each pair of maps, `(B,)`; 0 of a constant."""
    x, y = (
        each.reshape(len(each), -1).astype("float64") for each in (one, other)
    )
    x, y = (each - each.mean(axis=-1, keepdims=True) for each in (x, y))
    scale = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    found: np.ndarray = (x * y).sum(axis=-1) / np.where(scale > 0, scale, 1)
    return found
