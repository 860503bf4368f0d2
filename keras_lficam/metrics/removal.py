"""What does the model lose without a part of the image? And does the map know?

Parts that are the same for all maps are hidden, or the pixels that the map
names are filled in from their neighbors. Memory as in `faithfulness`.
"""

import numbers
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_lficam._checks import as_float, check_integer, check_number
from keras_lficam.functional import Tensor
from keras_lficam.metrics._direction import higher_is_better, lower_is_better
from keras_lficam.metrics._masked import MaskedLogitPredictor, MaskedPredictor
from keras_lficam.metrics._ranks import spearman


@higher_is_better
def single_deletion(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    cells: int = 4,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Compares a map with what the logit loses without each part of the image.

    The image is divided into a grid. One cell after another is replaced by the
    mean color of the image, and the drop of the class's logit is noted. The
    value is Spearman's rank correlation of these drops and the sums of the map
    in the cells; of equal ones each has the mean of their ranks. So most of
    the image is always there, and a map may be signed: a negative value says
    that the logit rises without the cell.

    Args:
        model: Classifier, as in `average_drop`, that shows its logits.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`, of [0, 1] or signed.
        classes: The classes to follow, as in `average_drop`.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        cells: Number of rows of cells, and of columns, at least 2. Where it
            does not divide a side, cells differ by a pixel.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B,)`, float32, in [-1, 1]. Higher is better. It is 0 if the map
        is constant, or no cell changes the logit more than another.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`, but for probabilities, which are not
            needed; or if the model does not show its logits, or `cells` is
            less than 2, or more than the pixels of a side.

    Reference:
        Hesse et al., 2024, https://arxiv.org/abs/2407.11910, who fine-tune the
        model on images with such holes first, which is not done here.

    Examples:
        >>> model = keras.Sequential(  # Its logits: the mean of each color.
        ...     [keras.Input((2, 2, 3)), keras.layers.GlobalAveragePooling2D()]
        ... )
        >>> gray = np.array([[0.9, 0.5], [0.3, 0.1]]).reshape(1, 2, 2, 1)
        >>> images = np.repeat(gray, 3, axis=-1)  # What is bright is missed.
        >>> maps = np.array([[3.0, 4.0], [2.0, 1.0]]).reshape(1, 2, 2, 1)
        >>> single_deletion(
        ...     model, images, maps, activation="softmax", cells=2
        ... )
        # [0.8]
    """
    predictor = MaskedLogitPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    drops = predictor.drops(predictor.cells(cells))
    pairs = zip(drops, predictor.sums(cells), strict=True)
    values = np.array([spearman(drop, heat) for drop, heat in pairs])
    # Of unequal cells the largest would have most of a constant map.
    return np.where(predictor.varied(), values, 0).astype("float32")


@lower_is_better
def infidelity(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    draws: int = 64,
    seed: int = 0,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Measures how badly a map tells what the logit loses without a square.

    Squares of random place and size, an eighth to a half of the shorter side,
    become the mean color of the image. With the drop `d` of the class's logit
    without a square and the sum `s` of the map in it, over all squares,

        min_b sum (b s - d)**2 / sum d**2,    b >= 0

    The map is scaled by the `b` that is best for it, as a heat map has no
    unit, and the error is relative, so that images and models compare.

    Args:
        model: Classifier, as in `average_drop`, that shows its logits.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`, of [0, 1] or signed.
        classes: The classes to follow, as in `average_drop`.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        draws: Number of squares, at least 2; each takes a forward pass.
        seed: Decides the squares, which are the same for all images.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B,)`, float32, in [0, 1]. Lower is better. A map of zeros, or
        one that is right with the wrong sign, has 1; where no square changes
        the logit the value is 0.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`, but for probabilities, which are not
            needed; or if the model does not show its logits, or an argument
            is out of its range.

    Reference:
        Yeh et al., 2019, with square removal,
        https://arxiv.org/abs/1901.09392, who do not divide by `sum d**2`.

    Examples:
        values = infidelity(model, images, maps)
    """
    check_integer("draws", draws, least=2)
    check_integer("seed", seed, least=0)
    predictor = MaskedLogitPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    regions = _squares(predictor.images.shape[1:3], draws, seed)
    drops = predictor.drops(regions).astype("float64")
    sums = predictor.sums_inside(regions)
    together = np.maximum((sums * drops).sum(axis=-1), 0)
    scale = (sums**2).sum(axis=-1) * (drops**2).sum(axis=-1)
    explained = together**2 / np.where(scale > 0, scale, 1)
    left = np.where((drops != 0).any(axis=-1), 1 - explained, 0)
    return np.clip(left, 0, 1).astype("float32")


def _squares(size: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """Draws squares inside an image, as masks `(count, H, W)`."""
    rng = np.random.default_rng(seed)
    shorter = min(size)
    smallest = max(1, shorter // 8)
    found = np.zeros((count, *size), bool)
    for square in found:
        side = int(rng.integers(smallest, max(smallest, shorter // 2) + 1))
        top, left = (int(rng.integers(whole - side + 1)) for whole in size)
        square[top : top + side, left : left + side] = True
    return found


@higher_is_better
def road(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    noise: float = 0.01,
    seed: int = 0,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Removes pixels and debiases: what filled-in pixels do not give away.

    Pixels that are replaced by one color draw the outline of the map into the
    image, and the model may answer to that. Here a removed pixel becomes the
    weighted mean of its eight neighbors, removed or not, which is one system
    of linear equations for all of them, plus a little noise. With the
    probability of the class without the pixels of the lowest values (LeRF) and
    without those of the highest (MoRF) it is `(LeRF - MoRF) / 2`, the mean
    over the shares of pixels removed. Pixels of the same value go in a random
    order, the same in both, so a constant map has 0.

    Args:
        model: Classifier, as in `average_drop`.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`, of [0, 1] or signed.
        classes: The classes to follow, as in `average_drop`.
        activation: What makes probabilities, as in `average_drop`.
        shares: Shares of the pixels that are removed, each in (0, 1).
        noise: Standard deviation of the noise of removed pixels, as a share
            of the span of the values of an image, in [0, 1]; 0 for none.
        seed: Decides noise and order of equal pixels.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B,)`, float32, in [-1/2, 1/2]. Higher is better; a map that
        says nothing has 0 on average.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`, or if an argument is out of its range.

    Reference:
        Rong et al., 2022, https://arxiv.org/abs/2202.00449; the sign and the
        half as in pytorch-grad-cam.

    Examples:
        values = road(model, images, maps)
    """
    _check_shares(shares)
    check_number("noise", noise, 0, 1)
    check_integer("seed", seed, least=0)
    predictor = MaskedPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    without_highest, without_lowest = predictor.imputed(shares, noise, seed)
    difference = without_lowest.astype("float64") - without_highest
    gain: np.ndarray = difference.mean(axis=-1) / 2
    return gain.astype("float32")


def _check_shares(shares: Sequence[float]) -> None:
    given = shares if isinstance(shares, (list, tuple)) else []
    if not given or not all(
        isinstance(share, numbers.Real)
        and not isinstance(share, bool)
        and 0 < as_float(share) < 1
        for share in given
    ):
        raise ValueError(
            "Argument `shares` must be a list of numbers between 0 and 1, "
            f"both excluded. Received: shares={shares!r:.80}. To fix this: "
            "(0.2, 0.4, 0.6, 0.8)."
        )
