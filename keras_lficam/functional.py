"""The tensor maths of LFI-CAM: pure functions, no state, any backend.

Axis letters, here and in the whole package: `B` batch, `H W` image, `h w`
feature map, `C` channels of the feature map, `K` classes.
"""

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
from keras import ops

from keras_lficam._checks import check_number, check_range, tensor_of

# A tensor of the backend, or what converts to one.
Tensor: TypeAlias = Any

# What is below these is rounding, not contrast.
_SMALLEST_RELATIVE_SPAN = 1e-5
_SMALLEST_SPAN = 1e-16
_SMALLEST_SPAN_OF_HALF = 2.0**-10

# Share of a pixel that is rounding of sizes, not a distance.
_SMALLEST_DISTANCE = 1e-4


def min_max(
    x: Tensor,
    axis: int | tuple[int, ...] = (1, 2),
    *,
    smallest_span: float | None = None,
) -> Tensor:
    """Normalizes `x` to [0, 1] over `axis`; what is constant becomes 0.

    What spans no more than 1e-5 of its largest magnitude, or no more than
    `smallest_span`, counts as constant; its gradient is 0 too. So neither the
    result nor its gradient leaves the finite numbers, whatever finite span
    `x` has.

    Args:
        x: Tensor of any shape.
        axis: Axis or axes over which minimum and maximum are taken; the
            default is the spatial axes of `(B, h, w, C)`.
        smallest_span: Largest span that is no contrast. The default is 1e-16,
            and 2**-10 for float16, where a gradient above 65504 overflows.

    Returns:
        Tensor of the shape of `x` in [0, 1], float32 or wider.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937, the function `s`.
        The authors' release maps a constant channel to ones unless it is
        zero; here a channel without contrast points nowhere and becomes 0.

    Examples:
        >>> min_max(np.array([[1.0, 2.0, 5.0]]), axis=1)
        # [[0.0, 0.25, 1.0]]
    """
    x = tensor_of("x", x)
    if smallest_span is None:
        smallest_span = _default_span(x)
    check_number("smallest_span", smallest_span, 0)
    x = _widen(x)
    low, scale = _low_and_scale(x, axis, smallest_span)
    return (x - low) * scale


def gray(images: Tensor, value_range: Sequence[float] = (0, 255)) -> Tensor:
    """Turns RGB images into gray ones: the plain mean of the channels.

    Args:
        images: Images `(B, H, W, 3)`, or gray ones `(B, H, W, 1)`, whose
            values are only scaled; in `value_range`.
        value_range: Darkest and brightest value that a pixel can have.

    Returns:
        Tensor `(B, H, W, 1)`, float32, in [0, 1].

    Examples:
        gray(images)
    """
    check_range("value_range", value_range)
    low, high = value_range
    images = ops.cast(tensor_of("images", images, 4), "float32")
    return (ops.mean(images, axis=-1, keepdims=True) - low) / (high - low)


def resize(images: Tensor, size: tuple[Any, Any]) -> Tensor:
    """Resizes bilinearly, without antialiasing, as the paper's release does.

    Unlike `keras.ops.image.resize` it takes a size that is a tensor, which
    the size of a feature map is where images of any size are taken.

    Args:
        images: Images or maps `(B, H, W, channels)`.
        size: Pair of the new height and width, in pixels.

    Returns:
        Tensor `(B, *size, channels)`, float32 or wider, in the range of
        `images`.

    Examples:
        smaller = resize(images, (16, 16))
    """
    images = tensor_of("images", images, 4)
    _check_size(size)
    for axis, length in enumerate(size, start=1):
        images = _resize_axis(images, axis, length)
    return images


class Placement(NamedTuple):
    """Where the cells of a map lie along one axis of an image.

    Lengths and coordinates are in pixels of the image. The centers of its
    pixels are 0, 1, ..., `length - 1`, its edges -0.5 and `length - 0.5`.

    Attributes:
        length: Height or width of the image.
        center: Coordinate of the center of the first cell.
        stride: Distance from a cell's center to the next; negative where the
            map is mirrored.
        low: Coordinate at which the part of the image that the model saw
            begins.
        high: Coordinate at which it ends.

    Examples:
        whole = Placement(32, center=3.5, stride=8, low=-0.5, high=31.5)
    """

    length: Any
    center: Any
    stride: Any
    low: Any
    high: Any


def upsample(
    maps: Tensor,
    size: tuple[Any, Any],
    placements: tuple[Placement, Placement],
) -> Tensor:
    """Brings maps to an image, each cell to where the model saw it.

    Interpolates bilinearly between the centers of the cells. Outside of all
    centers the nearest cell counts, and what the model never saw is zero.
    Where the cells divide the image evenly that is `resize`.

    Args:
        maps: Maps `(B, h, w, channels)`.
        size: Pair of the height and width of the result, in pixels. It may
            differ from the size of the image that the model saw, which then
            is resized to it.
        placements: Where the rows and the columns lie.

    Returns:
        Tensor `(B, *size, channels)`, float32 or wider, in the range of
        `maps` and zero.

    Examples:
        # The model saw the middle half of the image.
        middle = Placement(32, center=10, stride=4, low=7.5, high=23.5)
        fine = upsample(attention_map[:, :4, :4], (32, 32), (middle, middle))
    """
    maps = ops.convert_to_tensor(maps)
    for axis, (length, placement) in enumerate(
        zip(size, placements, strict=True), start=1
    ):
        maps = _upsample_axis(maps, axis, length, placement)
    return maps


def importance_masks(
    images: Tensor,
    features: Tensor,
    value_range: Sequence[float] = (0, 255),
) -> Tensor:
    """Masks the gray image with every normalised channel, `M = s(F) * G`.

    Args:
        images: Images `(B, H, W, 3)` or gray ones `(B, H, W, 1)`, with values
            in `value_range`.
        features: Feature maps `(B, h, w, C)`.
        value_range: Darkest and brightest value that a pixel can have.

    Returns:
        Masks `(B, h, w, C)`, float32 or wider, in [0, 1].

    Examples:
        masks = importance_masks(images, features)

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937.
    """
    normalized, small = importance_mask_factors(images, features, value_range)
    return normalized * ops.cast(small, normalized.dtype)


def importance_mask_factors(
    images: Tensor,
    features: Tensor,
    value_range: Sequence[float] = (0, 255),
) -> tuple[Tensor, Tensor]:
    """Computes the two factors of the masks, `s(F)` and `G`.

    A 1x1 convolution without bias leaves the gray value of a pixel a factor,
    `conv(s(F) * G) = conv(s(F)) * G`. Behind it the product is cheaper, where
    channels are few.

    Args:
        images: Images `(B, H, W, 3)` or gray ones `(B, H, W, 1)`, with values
            in `value_range`.
        features: Feature maps `(B, h, w, C)`.
        value_range: Darkest and brightest value that a pixel can have.

    Returns:
        Pair of the normalized features `(B, h, w, C)`, float32 or wider, and
        the gray image at their size `(B, h, w, 1)`, float32; both in [0, 1].

    Examples:
        normalized, small = importance_mask_factors(images, features)
    """
    features = tensor_of("features", features, 4)
    size = ops.shape(features)[1:3]
    normalized = min_max(features)
    # Gray of the few pixels that are left equals the few of a gray image.
    return normalized, gray(resize(images, size), value_range)


def pooled_importance_masks(
    images: Tensor,
    features: Tensor,
    value_range: Sequence[float] = (0, 255),
) -> Tensor:
    """Averages the masks over space without making them.

    The mean of `s(F_k) * G` is a scalar product of `F_k` and `G`, moved and
    scaled, so the features are read and nothing of their size is written.

    Args:
        images: Images `(B, H, W, 3)` or gray ones `(B, H, W, 1)`, with values
            in `value_range`.
        features: Feature maps `(B, h, w, C)`.
        value_range: Darkest and brightest value that a pixel can have.

    Returns:
        Means `(B, C)`, float32 or wider, in [0, 1]: those of
        `importance_masks` over its rows and columns, but for rounding.

    Examples:
        means = pooled_importance_masks(images, features)
    """
    features = tensor_of("features", features, 4)
    smallest_span = _default_span(features)
    features = _widen(features)
    small = gray(resize(images, ops.shape(features)[1:3]), value_range)
    small = ops.cast(small, features.dtype)
    low, scale = _low_and_scale(features, (1, 2), smallest_span)
    seen = ops.einsum("bhwc,bhw->bc", features, small[..., 0])
    brightness = ops.sum(small, axis=(1, 2))  # (B, 1)
    count = ops.sum(ops.ones_like(small), axis=(1, 2))
    low, scale = low[:, 0, 0], scale[:, 0, 0]  # (B, C)
    return (seen - low * brightness) * scale / count


def class_activation_map(features: Tensor, importance: Tensor) -> Tensor:
    """Sums the channels by importance, `A = s(ReLU(sum_k w_k F_k))`.

    Args:
        features: Feature maps `(B, h, w, C)`.
        importance: Weight of every channel `(B, C)`, or of every element of
            the feature maps `(B, h, w, C)`.

    Returns:
        Maps `(B, h, w, 1)`, float32 or wider, in [0, 1]. A weighted sum that
        is nowhere positive, or is constant, gives a map of zeros.

    Raises:
        ValueError: If an argument has another number of axes.

    Examples:
        importance = np.full((4, 16), 1 / 16)
        heat_map = class_activation_map(features, importance)

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937.
    """
    features = tensor_of("features", features, 4)
    importance = tensor_of("importance", importance)
    axes = {2: "bc", 4: "bhwc"}.get(len(importance.shape))
    if axes is None:
        raise ValueError(
            "Argument `importance` must have 2 or 4 axes. "
            f"Received: importance.shape={tuple(importance.shape)}"
        )
    weighted = ops.einsum(
        f"bhwc,{axes}->bhw", _widen(features), _widen(importance)
    )
    positive = ops.expand_dims(ops.relu(weighted), axis=-1)  # (B, h, w, 1)
    return min_max(positive, smallest_span=_default_span(features))


def class_evidence(
    features: Tensor, kernel: Tensor, classes: Tensor | None = None
) -> Tensor:
    """Computes what each location adds to the logit of each class.

    Behind a global average pooling and a dense layer with the kernel `W` and
    the bias `b` the evidence

        E_ijc = sum_k W_kc F_ijk

    is exact: the logit of class `c` is `mean_ij(E_ijc) + b_c`. A positive
    value is evidence for the class, a negative one against it.

    Args:
        features: Feature maps `(B, h, w, C)` that the pooling averages.
        kernel: Kernel `(C, K)` of the dense layer.
        classes: The classes asked for, integers `(B, n)`; None for all, in
            their order.

    Returns:
        Signed maps `(B, h, w, n)`, or `(B, h, w, K)`; float32 or wider, in
        the unit of the logits.

    Raises:
        ValueError: If an argument has another number of axes.

    Examples:
        evidence = class_evidence(features, np.ones((16, 3)))
        logits = keras.ops.mean(evidence, axis=(1, 2))  # (B, 3), without bias.

    Reference:
        Zhou et al., 2016, https://arxiv.org/abs/1512.04150, equation 2, with
        the mean in place of the sum; "class evidence" as in Brendel and
        Bethge, 2019, https://arxiv.org/abs/1904.00760.
    """
    features = _widen(tensor_of("features", features, 4))
    kernel = ops.cast(tensor_of("kernel", kernel, 2), features.dtype)
    if classes is None:
        return ops.einsum("bhwc,ck->bhwk", features, kernel)
    classes = tensor_of("classes", classes, 2)
    # The columns are taken before the product, which is of few classes then.
    columns = ops.take(ops.transpose(kernel), classes, axis=0)  # (B, n, C)
    return ops.einsum("bhwc,bnc->bhwn", features, columns)


def _check_size(size: Any) -> None:
    """Refuses what is no height and width; a graph has some as tensors."""
    lengths = list(size) if isinstance(size, (tuple, list)) else []
    if len(lengths) != 2 or any(
        isinstance(length, (str, float, bool, type(None)))
        or (isinstance(length, int) and length < 1)
        for length in lengths
    ):
        raise ValueError(
            "Argument `size` must be a pair (height, width) of at least one "
            f"pixel each. Received: size={size!r}"
        )


def _low_and_scale(
    x: Tensor, axis: int | Sequence[int] | None, smallest_span: float | None
) -> tuple[Tensor, Tensor]:
    """Minimum, and what to multiply with; 0 where `x` is constant."""
    low = ops.min(x, axis=axis, keepdims=True)
    high = ops.max(x, axis=axis, keepdims=True)
    magnitude = ops.maximum(ops.abs(low), ops.abs(high))
    least = ops.maximum(_SMALLEST_RELATIVE_SPAN * magnitude, smallest_span)
    span = high - low
    constant = span <= least
    # The inner choice keeps the gradient of the one not taken finite.
    scale = ops.where(constant, 0.0, 1 / ops.where(constant, 1.0, span))
    return low, scale


def _resize_axis(images: Tensor, axis: int, new_length: Any) -> Tensor:
    """Spreads the pixels of an axis evenly over its new length."""
    centers = _centers(ops.shape(images)[axis], new_length)
    return _interpolate(images, axis, centers)


def _centers(length: Any, new_length: Any) -> Tensor:
    """Coordinates, among `length` pixels, of the centers of the new ones."""
    ratio = ops.cast(length, "float32") / ops.cast(new_length, "float32")
    return (ops.cast(ops.arange(new_length), "float32") + 0.5) * ratio - 0.5


def _upsample_axis(
    maps: Tensor, axis: int, new_length: Any, placement: Placement
) -> Tensor:
    length, center, stride, low, high = placement
    if _is_even(placement, ops.shape(maps)[axis]):
        return _resize_axis(maps, axis, new_length)
    pixels = _centers(length, new_length)
    fine = _interpolate(maps, axis, (pixels - center) / stride)
    if _are_small(low + 0.5, length - 0.5 - high):
        return fine
    seen = (pixels >= low) & (pixels <= high)
    return ops.where(_along(seen, axis), fine, 0.0)


def _is_even(placement: Placement, count: Any) -> bool:
    """Whether it is known that `count` cells divide the image evenly."""
    if not all(isinstance(x, numbers.Real) for x in (*placement, count)):
        return False
    length, center, stride, low, high = placement
    return _are_small(
        low + 0.5, length - 0.5 - high, center - (stride - 1) / 2
    ) and _are_small(count * stride - length)


def _are_small(*distances: Any) -> bool:
    """Whether distances are known and are no more than rounding."""
    return all(
        isinstance(distance, numbers.Real)
        and abs(float(distance)) < _SMALLEST_DISTANCE
        for distance in distances
    )


def _interpolate(images: Tensor, axis: int, centers: Tensor) -> Tensor:
    """Interpolates between the two pixels nearest to each new center."""
    length = ops.shape(images)[axis]
    centers = ops.clip(centers, 0, ops.cast(length - 1, "float32"))
    before = ops.cast(ops.floor(centers), "int32")
    after = ops.minimum(before + 1, length - 1)
    near = _widen(ops.take(images, before, axis=axis))
    far = _widen(ops.take(images, after, axis=axis))
    share = centers - ops.cast(before, "float32")
    share = ops.cast(_along(share, axis), near.dtype)
    return near + (far - near) * share


def _along(values: Tensor, axis: int) -> Tensor:
    """Shapes values as an axis of images."""
    return ops.reshape(values, [-1 if a == axis else 1 for a in range(4)])


def _default_span(x: Tensor) -> float:
    half = keras.backend.standardize_dtype(x.dtype) == "float16"
    return _SMALLEST_SPAN_OF_HALF if half else _SMALLEST_SPAN


def _widen(x: Tensor) -> Tensor:
    dtype = keras.backend.standardize_dtype(x.dtype)
    return ops.cast(x, keras.backend.result_type(dtype, "float32"))
