"""The parts of `tf.data` pipelines that every source shares."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_lficam.data import _memory

_SEEDS = 2**31 - 2  # TensorFlow takes so many of a graph, from 1 on.


def in_batches(
    images: tf.data.Dataset, count: int, batch_size: int, cache: bool
) -> tf.data.Dataset:
    """Batches the decoded images of a split, and keeps them if they fit."""
    batches = images.batch(batch_size)
    # Keras steps once past the end of a data set whose length it is not told,
    # and counts that step in the means of the losses of single outputs.
    batches = batches.apply(
        tf.data.experimental.assert_cardinality(math.ceil(count / batch_size))
    )
    if cache and _memory.fits(count * _size(batches)):
        batches = batches.cache()
    return batches.prefetch(tf.data.AUTOTUNE)


def endless_row(
    examples: tf.data.Dataset, count: int, buffer: int, seed: int, first: int
) -> tf.data.Dataset:
    """Gives `(position, (number, example))` from a position on.

    Epoch follows epoch, each in an order of its own. The number is that of
    the example in its split. Examples are not decoded, so that passing over
    those before `first` is quick.
    """
    numbered = examples.enumerate()

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        # The seed of this function's graph. Without it that of the whole
        # program, which is the user's, would decide the order as well.
        tf.random.set_seed(1 + seed % _SEEDS)
        return numbered.shuffle(
            min(count, buffer), seed=number + 1, reshuffle_each_iteration=False
        )

    epochs = tf.data.Dataset.range(first // count, tf.int64.max)
    return epochs.flat_map(epoch).skip(first % count).enumerate(first)


def mapped(
    dataset: tf.data.Dataset, function: Callable[..., Any]
) -> tf.data.Dataset:
    """Maps elements in parallel, and keeps their order."""
    return dataset.map(
        function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def _size(batches: tf.data.Dataset) -> int:
    """Bytes of an image and what belongs to it, in a data set of batches."""
    return sum(
        math.prod(spec.shape[1:]) * spec.dtype.size
        for spec in tf.nest.flatten(batches.element_spec)
    )
