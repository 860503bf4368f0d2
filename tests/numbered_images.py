"""Images that are their number all over, for tests of sources."""

import numpy as np
import tensorflow as tf

COUNT = 13
NAMES = ["even", "odd"]


def numbered(count, size=(4, 6), dtype="uint8"):
    """Images and labels; a label is the parity of its image."""
    images = np.zeros((count, *size, 3), dtype)
    images += np.arange(count, dtype=dtype)[:, None, None, None]
    return images, np.arange(count) % 2


def dataset(count=COUNT, batch_size=5, **options):
    pairs = tf.data.Dataset.from_tensor_slices(numbered(count, **options))
    return pairs.batch(batch_size)


def take(stream, steps):
    return list(stream.take(steps).as_numpy_iterator())


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
