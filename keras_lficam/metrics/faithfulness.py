"""Does the model rely on what the map shows? Metrics that ask the model.

Each changes the pixels of the images by their maps, and looks at how the
probability of a class follows. The model itself predicts,
compiled, with `chunk_size` images at once. So the memory, beside the images, is
that of a prediction of as many, and of four copies of their pixels.
"""

from collections.abc import Mapping

import keras
import numpy as np
from scipy import ndimage

from keras_lficam.functional import Tensor
from keras_lficam.metrics._direction import higher_is_better, lower_is_better
from keras_lficam.metrics._masked import MaskedPredictor, pixels_replaced

_BLUR_SIGMA = 5
_BLUR_RADIUS = 5  # A kernel of 11 pixels.


@lower_is_better
def average_drop(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Measures what share of its confidence the map costs the model.

    With the probability `Y` of the class for the image, and `O` for the image
    times its map, it is `max(0, Y - O) / Y`. The map is min-max normalized
    before; where it is 0 the pixels become 0, whatever that is to the model.

    Args:
        model: Functional or Sequential classifier, flat or nested, from images
            `(B, H, W, 3)` to scores `(B, K)`.
        images: Images `(B, H, W, 3)`, in the range that the model takes.
        maps: Heat maps of the images `(B, H, W, 1)`; higher is more important.
        classes: The class: an integer for all images, an integer for each of
            them, or None for the class that is predicted for the whole image.
        activation: What turns the scores into probabilities: `"softmax"` or
            `"sigmoid"` if the model gives logits, `"linear"` if it gives
            probabilities. By default it is found out from the last layer.
        chunk_size: Number of images that go through the model at once. It
            does not change the result.
        context: For a model with inputs beside the image, a dictionary of
            their names and values `(B, ...)`, or `(...)` for all images.

    Returns:
        Array `(B,)`, float32, in [0, 1]. Lower is better. A constant map shows
        nothing and leaves a black image. Where `Y` is 0, so is the drop.

    Raises:
        TypeError: If `model` is no `keras.Model`, `classes` holds no integers
            or another argument no real numbers.
        ValueError: If another argument is not as described, or the model gives
            values that are not finite, or its probabilities are not known.

    Reference:
        Chattopadhay et al., 2018, https://arxiv.org/abs/1710.11063, who
        give the mean over images in percent.

    Examples:
        >>> model = keras.Sequential(  # Its answers: the mean of each color.
        ...     [keras.Input((1, 4, 3)), keras.layers.GlobalAveragePooling2D()]
        ... )
        >>> images = np.full((1, 1, 4, 3), 0.8)
        >>> maps = np.array([[1.0, 0.0, 0.0, 0.0]]).reshape(1, 1, 4, 1)
        >>> average_drop(model, images, maps, activation="linear")
        # [0.75]
    """
    predictor = MaskedPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    return predictor.share_lost()


@higher_is_better
def average_gain(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Measures how much surer the model is of what the map shows.

    With the probability `Y` of the class for the image, and `O` for the image
    times its map as in `average_drop`, it is `max(0, O - Y) / (1 - Y)`: the
    share of what there was to gain. `increase_in_confidence` asks whether.

    Args:
        model: Classifier, as in `average_drop`.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`.
        classes: The classes to follow, as in `average_drop`.
        activation: What makes probabilities, as in `average_drop`.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B,)`, float32, in [0, 1]. Higher is better. Where `Y` is 1
        there is nothing to gain, and the value is 0.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`.

    Reference:
        Zhang et al., 2023, https://arxiv.org/abs/2301.07002, who give the
        mean over images in percent.

    Examples:
        >>> model = keras.Sequential(  # Its answers: the mean of each color.
        ...     [keras.Input((1, 2, 3)), keras.layers.GlobalAveragePooling2D()]
        ... )
        >>> images = np.array([[[[-0.2], [0.6]]]])
        >>> images = np.repeat(images, 3, axis=-1)
        >>> maps = np.array([[[[0.0], [1.0]]]])  # From 0.2 to 0.3.
        >>> average_gain(model, images, maps, activation="linear")
        # [0.125]
    """
    predictor = MaskedPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    unmasked, masked = predictor.unmasked(), predictor.masked()
    gained = np.maximum(0, masked - unmasked)
    left = np.where(unmasked < 1, 1 - unmasked, 1)
    shares = np.where(unmasked < 1, gained / left, 0)
    found: np.ndarray = np.minimum(shares, 1).astype("float32")
    return found


@higher_is_better
def increase_in_confidence(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Asks whether the model is surer of what the map shows than of the image.

    With the probability `Y` of the class for the image, and `O` for the image
    times its map as in `average_drop`, it asks whether `Y < O`.

    Args:
        model: Classifier, as in `average_drop`.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`.
        classes: The classes to follow, as in `average_drop`.
        activation: What makes probabilities, as in `average_drop`.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B,)`, float32: 1 for yes, 0 for no. Higher is better.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`.

    Reference:
        Chattopadhay et al., 2018, https://arxiv.org/abs/1710.11063, who
        give the mean over images in percent.

    Examples:
        >>> model = keras.Sequential(  # Its answers: the mean of each color.
        ...     [keras.Input((1, 2, 3)), keras.layers.GlobalAveragePooling2D()]
        ... )
        >>> images = np.array([[[[-0.2], [0.6]]], [[[0.2], [0.6]]]])
        >>> images = np.repeat(images, 3, axis=-1)
        >>> maps = np.array([[[[0.0], [1.0]]], [[[0.0], [1.0]]]])
        >>> increase_in_confidence(model, images, maps, activation="linear")
        # [1.0, 0.0]
    """
    predictor = MaskedPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    return (predictor.unmasked() < predictor.masked()).astype("float32")


def deletion_curve(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    steps: int = 28,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Follows the probability of a class while its pixels are taken away.

    The pixels are replaced by the mean color of their image, those with the
    highest value in the map first. Pixels of the same value go in the order
    of reading, from the top left.

    Args:
        model: Classifier, as in `average_drop`.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`.
        classes: The classes to follow, as in `average_drop`.
        activation: What makes probabilities, as in `average_drop`.
        steps: Number of steps in which all pixels are replaced, at least 1. A
            step is `H * W / steps` pixels: 1792 by default for 224x224.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B, steps + 1)`, float32, in [0, 1]. At `k` the model sees its
        image with `round(k * H * W / steps)` pixels replaced. Falling early
        is better.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`.

    Reference:
        Petsiuk et al., 2018, https://arxiv.org/abs/1806.07421.

    Examples:
        >>> model = keras.Sequential(  # Its answers: the brightest of a color.
        ...     [keras.Input((1, 2, 3)), keras.layers.GlobalMaxPooling2D()]
        ... )
        >>> images = np.repeat([[[[0.9], [0.1]]]], 3, axis=-1)
        >>> maps = np.array([[[[1.0], [0.0]]]])
        >>> deletion_curve(model, images, maps, activation="linear", steps=2)
        # [[0.9, 0.5, 0.5]]
    """
    predictor = MaskedPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    return _deleted(predictor, steps)


@lower_is_better
def deletion_auc(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    steps: int = 28,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Measures the area under the `deletion_curve`.

    Args:
        model: Classifier, as in `average_drop`.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`.
        classes: The classes to follow, as in `average_drop`.
        activation: What makes probabilities, as in `average_drop`.
        steps: Number of steps in which all pixels are replaced, as in
            `deletion_curve`.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B,)`, float32, in [0, 1]: the area over the share of pixels
        replaced, by the trapezoid rule. Lower is better.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`.

    Reference:
        Petsiuk et al., 2018, https://arxiv.org/abs/1806.07421.

    Examples:
        >>> model = keras.Sequential(  # Its answers: the brightest of a color.
        ...     [keras.Input((1, 2, 3)), keras.layers.GlobalMaxPooling2D()]
        ... )
        >>> images = np.repeat([[[[0.9], [0.1]]]], 3, axis=-1)
        >>> maps = np.array([[[[1.0], [0.0]]]])
        >>> deletion_auc(model, images, maps, activation="linear", steps=2)
        # [0.6]
    """
    curve = deletion_curve(
        model,
        images,
        maps,
        classes,
        activation=activation,
        steps=steps,
        chunk_size=chunk_size,
        context=context,
    )
    return _area_under(curve, np.shape(maps))


@higher_is_better
def symmetric_relevance_gain(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    steps: int = 28,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Measures the area between the deletion curves of both orders (SRG).

    Once the pixels with the lowest value in the map go first, once, as in
    `deletion_curve`, those with the highest. How far pixels of one color
    confuse the model, wherever they are, is in both curves and cancels in
    their difference. Pixels of the same value go in the order of reading
    in both, so a constant map has exactly 0.

    Args:
        model: Classifier, as in `average_drop`.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`, of [0, 1] or signed.
        classes: The classes to follow, as in `average_drop`.
        activation: What makes probabilities, as in `average_drop`.
        steps: Number of steps in which all pixels are replaced, as in
            `deletion_curve`; each order takes `steps + 1` passes.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B,)`, float32, in [-1, 1]. Higher is better; a map that says
        nothing has 0 on average.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`.

    Reference:
        Blücher et al., 2024, https://arxiv.org/abs/2401.06654.

    Examples:
        >>> model = keras.Sequential(  # Its answers: the brightest of a color.
        ...     [keras.Input((1, 2, 3)), keras.layers.GlobalMaxPooling2D()]
        ... )
        >>> images = np.repeat([[[[0.9], [0.1]]]], 3, axis=-1)
        >>> maps = np.array([[[[1.0], [0.0]]]])  # Areas: 0.8 and 0.6.
        >>> symmetric_relevance_gain(
        ...     model, images, maps, activation="linear", steps=2
        ... )
        # [0.2]
    """
    predictor = MaskedPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    lowest_first = _deleted(predictor, steps, lowest_first=True)
    return _area_under(
        lowest_first - _deleted(predictor, steps), np.shape(maps)
    )


def insertion_curve(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    steps: int = 28,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Follows the probability of a class while its pixels become sharp.

    At first the image is blurred, by a Gaussian of 5 pixels in a kernel of
    11x11, mirrored at the edges so that these stay as bright as they are. Then
    its own pixels come back, those with the highest value in the map first.
    Pixels of the same value go in the order of reading, from the top left.

    Args:
        model: Classifier, as in `average_drop`.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`.
        classes: The classes to follow, as in `average_drop`.
        activation: What makes probabilities, as in `average_drop`.
        steps: Number of steps in which all pixels come back, at least 1. A
            step is `H * W / steps` pixels: 1792 by default for 224x224.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B, steps + 1)`, float32, in [0, 1]. At `k` the model sees
        `round(k * H * W / steps)` pixels of its image. Rising early is better.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`.

    Reference:
        Petsiuk et al., 2018, https://arxiv.org/abs/1806.07421.
        Their release has zeros beyond the edges, which darkens these.

    Examples:
        >>> model = keras.Sequential(  # Its answers: the brightest of a color.
        ...     [keras.Input((1, 2, 3)), keras.layers.GlobalMaxPooling2D()]
        ... )
        >>> images = np.full((1, 1, 2, 3), 0.9)  # It is blurred already.
        >>> maps = np.array([[[[1.0], [0.0]]]])
        >>> insertion_curve(model, images, maps, activation="linear", steps=2)
        # [[0.9, 0.9, 0.9]]
    """
    predictor = MaskedPredictor(
        model, images, maps, classes, activation, chunk_size, context
    )
    blurred = ndimage.gaussian_filter(
        predictor.images,
        _BLUR_SIGMA,
        mode="reflect",
        radius=_BLUR_RADIUS,
        axes=(1, 2),
    )
    return predictor.curve(blurred, predictor.images, steps)


@higher_is_better
def insertion_auc(
    model: keras.Model,
    images: Tensor,
    maps: Tensor,
    classes: Tensor | None = None,
    *,
    activation: str | None = None,
    steps: int = 28,
    chunk_size: int = 32,
    context: Mapping[str, Tensor] | None = None,
) -> np.ndarray:
    """Measures the area under the `insertion_curve`.

    Args:
        model: Classifier, as in `average_drop`.
        images: Images `(B, H, W, 3)`.
        maps: Heat maps `(B, H, W, 1)`.
        classes: The classes to follow, as in `average_drop`.
        activation: What makes probabilities, as in `average_drop`.
        steps: Number of steps in which all pixels come back, as in
            `insertion_curve`.
        chunk_size: Number of images that go through the model at once.
        context: Values of the inputs beside the image, as in `average_drop`.

    Returns:
        Array `(B,)`, float32, in [0, 1]: the area over the share of pixels
        that are back, by the trapezoid rule. Higher is better.

    Raises:
        TypeError: As in `average_drop`.
        ValueError: As in `average_drop`.

    Reference:
        Petsiuk et al., 2018, https://arxiv.org/abs/1806.07421.

    Examples:
        >>> model = keras.Sequential(  # Its answers: the brightest of a color.
        ...     [keras.Input((1, 2, 3)), keras.layers.GlobalMaxPooling2D()]
        ... )
        >>> images = np.full((1, 1, 2, 3), 0.9)  # It is blurred already.
        >>> maps = np.array([[[[1.0], [0.0]]]])
        >>> insertion_auc(model, images, maps, activation="linear")
        # [0.9]
    """
    curve = insertion_curve(
        model,
        images,
        maps,
        classes,
        activation=activation,
        steps=steps,
        chunk_size=chunk_size,
        context=context,
    )
    return _area_under(curve, np.shape(maps))


def _deleted(
    predictor: MaskedPredictor, steps: int, *, lowest_first: bool = False
) -> np.ndarray:
    """Curve of images whose pixels become their mean color."""
    mean = predictor.images.mean(axis=(1, 2), keepdims=True, dtype="float64")
    return predictor.curve(
        predictor.images,
        mean.astype("float32"),
        steps,
        lowest_first=lowest_first,
    )


def _area_under(curve: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Area by the trapezoid rule, with the whole image as unit."""
    pixels = pixels_replaced(shape, curve.shape[1] - 1)
    area: np.ndarray = np.trapezoid(
        curve.astype("float64"), pixels / pixels[-1], axis=-1
    )
    return area.astype("float32")
