"""Does the heat map find the object? Metrics against a mask of it."""

from keras import ops

from keras_lficam.functional import Tensor


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Asks whether the brightest point of a map lies on the object.

    Several brightest points count by the share of them that hit, so that a
    constant map earns no more than chance.

    Args:
        maps: Heat maps `(B, H, W, 1)`; higher is more important.
        masks: Masks of the objects `(B, H, W, 1)`, 0 off the object and
            anything else on it; `box_masks` makes boxes of them.

    Returns:
        Tensor `(B,)`, float32, in [0, 1]: 1 for a hit, 0 for a miss. Higher
        is better.

    Raises:
        ValueError: If the shapes differ or are not `(B, H, W, 1)`.

    Reference:
        Zhang et al., 2016, https://arxiv.org/abs/1608.00507, without their
        margin of 15 pixels.

    Examples:
        >>> pointing_game(np.ones((1, 2, 2, 1)), np.eye(2)[None, ..., None])
        # [0.5]
    """
    maps, masks = _checked(maps, masks)
    highest = ops.max(maps, axis=(1, 2, 3), keepdims=True)
    brightest = ops.cast(maps == highest, "float32")
    hits = ops.sum(brightest * masks, axis=(1, 2, 3))
    return hits / ops.sum(brightest, axis=(1, 2, 3))


def energy_pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Measures the share of a map's energy that lies on the object.

    A map that is constant earns the share of the image that the object
    covers, and a map of zeros earns 0.

    Args:
        maps: Heat maps `(B, H, W, 1)`, non-negative.
        masks: Masks of the objects `(B, H, W, 1)`, 0 off the object and
            anything else on it; the original takes boxes, see `box_masks`.

    Returns:
        Tensor `(B,)`, float32, in [0, 1]. Higher is better.

    Raises:
        ValueError: If the shapes differ or are not `(B, H, W, 1)`.

    Reference:
        Wang et al., 2020, section 4.4, https://arxiv.org/abs/1910.01279.

    Examples:
        >>> maps = np.array([[3.0, 1.0]]).reshape(1, 1, 2, 1)
        >>> energy_pointing_game(maps, maps > 2)
        # [0.75]
    """
    maps, masks = _checked(maps, masks)
    inside = ops.sum(maps * masks, axis=(1, 2, 3))
    energy = ops.sum(maps, axis=(1, 2, 3))
    nothing = energy == 0
    return ops.where(nothing, 0.0, inside / ops.where(nothing, 1.0, energy))


def box_masks(masks: Tensor) -> Tensor:
    """Fills the tight box around every object.

    Args:
        masks: Masks of the objects `(B, H, W, 1)`, 0 off the object and
            anything else on it.

    Returns:
        Tensor `(B, H, W, 1)`, float32: 1 in the box, 0 elsewhere. A mask
        without an object gives no box.

    Raises:
        ValueError: If the shape is not `(B, H, W, 1)`.
    """
    masks, _ = _checked(masks, masks)
    rows = _filled(ops.max(masks, axis=2, keepdims=True), axis=1)
    columns = _filled(ops.max(masks, axis=1, keepdims=True), axis=2)
    return rows * columns


def _filled(line, axis):
    """Sets to 1 what lies between the first and the last 1 along an axis."""
    forward = ops.cumsum(line, axis=axis)
    backward = ops.flip(ops.cumsum(ops.flip(line, axis), axis=axis), axis)
    return ops.cast((forward > 0) & (backward > 0), "float32")


def _checked(maps, masks):
    maps = ops.convert_to_tensor(maps)
    masks = ops.convert_to_tensor(masks)
    shapes = tuple(maps.shape), tuple(masks.shape)
    if any(len(shape) != 4 or shape[-1] != 1 for shape in shapes) or not all(
        a == b or None in (a, b) for a, b in zip(*shapes, strict=True)
    ):
        raise ValueError(
            "Maps and masks must have the same shape (batch, height, width, "
            "1). Ways out: masks[..., None] adds the last axis, and an "
            "explainer gives maps of the size of the image. "
            f"Received: maps.shape={shapes[0]}, "
            f"masks.shape={shapes[1]}"
        )
    on = ops.cast(masks, "float32") != 0
    return ops.cast(maps, "float32"), ops.cast(on, "float32")
