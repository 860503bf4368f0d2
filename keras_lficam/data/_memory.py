"""Keeps decoded images in memory where they fit."""

import math
import pathlib
from collections.abc import Callable

import tensorflow as tf

# The rest is for the model, for batches on their way, and for programs beside.
_SHARE = 1 / 4
# Where a container or a job of a cluster has a limit of its own.
_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")
_USED = pathlib.Path("/sys/fs/cgroup/memory.current")


def available_memory() -> int:
    """Says how many bytes this process can still take.

    Returns:
        The memory of the machine that is free or can be freed, or what is
        left of the limit of the container, if that is less.
    """
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        left = int(_LIMIT.read_text()) - int(_USED.read_text())
    except (OSError, ValueError):  # There is no limit, it reads "max".
        return available
    return max(min(available, left), 0)


def fits(num_bytes: int) -> bool:
    """Says whether so much may be kept for as long as a model is trained."""
    return num_bytes <= _SHARE * available_memory()


def remembered(
    make: Callable[[tf.Tensor], tf.Tensor], shape: tuple[int, ...], count: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Makes each image once, if all of them fit into memory.

    `Dataset.cache` would have to make them in their fixed order, all of them
    before the first batch of an order that is shuffled.

    Args:
        make: Makes an image from an example.
        shape: Shape of each image, uint8.
        count: Number of images.

    Returns:
        Function of an image's number and its example that gives what `make`
        gives.
    """
    if not fits(count * math.prod(shape)):
        return lambda number, example: make(example)
    with tf.device("CPU"):
        table = tf.lookup.experimental.MutableHashTable(
            tf.int64, tf.string, default_value=""
        )

    def recall(number: tf.Tensor, example: tf.Tensor) -> tf.Tensor:
        kept = table.lookup(number)

        def first_time() -> tf.Tensor:
            image = make(example)
            table.insert(number, tf.io.serialize_tensor(image))
            return image

        image = tf.cond(
            tf.equal(kept, ""),
            first_time,
            lambda: tf.io.parse_tensor(kept, tf.uint8),
        )
        return tf.ensure_shape(image, shape)

    return recall
