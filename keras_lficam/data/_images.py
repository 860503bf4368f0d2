"""Resizes images and masks."""

from collections.abc import Sequence

import tensorflow as tf

# Gray as Pillow makes it of colors, by ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)
# ImageNet is evaluated on the middle 224 pixels of a shorter side of 256.
_MARGIN = 256 / 224


def resized(
    image: tf.Tensor, size: tuple[int, int] | None, resizing: str
) -> tf.Tensor:
    """Gives an image `(H, W, 3)` as float32 of a size, or as it is."""
    if size is None:
        return image
    if resizing == "center_crop":
        size_before = _size_before_crop(tf.shape(image), size)
        image = tf.image.resize(image, size_before, "bilinear", antialias=True)
        return _middle(image, size)
    return tf.image.resize(image, size, "bilinear", antialias=True)


def resized_mask(
    mask: tf.Tensor, size: tuple[int, int] | None, resizing: str
) -> tf.Tensor:
    """Gives a mask `(H, W, 1)` of a size, or as it is."""
    if size is None:
        return mask
    if resizing == "center_crop":
        size_before = _size_before_crop(tf.shape(mask), size)
        return _middle(tf.image.resize(mask, size_before, "nearest"), size)
    return tf.image.resize(mask, size, "nearest")


def to_gray(image: tf.Tensor) -> tf.Tensor:
    """Makes gray `(..., 1)` of RGB `(..., 3)`; uint8 stays uint8."""
    colors = tf.cast(image, tf.float32)
    gray = tf.reduce_sum(colors * _LUMA, axis=-1, keepdims=True)
    return as_bytes(gray) if image.dtype == tf.uint8 else gray


def common_shape(
    shapes: Sequence[tuple[int | None, ...]],
) -> tuple[int | None, int | None, int]:
    """Gives `(height, width, 3)`, with `None` where images differ."""
    heights, widths = ({shape[axis] for shape in shapes} for axis in (0, 1))
    height = heights.pop() if len(heights) == 1 else None
    width = widths.pop() if len(widths) == 1 else None
    return height, width, 3


def as_bytes(image: tf.Tensor) -> tf.Tensor:
    """Rounds an image in 0 to 255 to uint8."""
    if image.dtype == tf.uint8:
        return image
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def _size_before_crop(shape: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    sides = tf.cast(shape[:2], tf.float64)
    wanted = tf.constant(size, tf.float64) * _MARGIN
    scale = tf.reduce_max(wanted / sides)
    return tf.cast(tf.round(sides * scale), tf.int32)


def _middle(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    top, left = tf.unstack((tf.shape(image)[:2] - size) // 2)
    return tf.image.crop_to_bounding_box(image, top, left, *size)
