"""Labels in the form that the loss of a classifier takes."""

from collections.abc import Sequence

import tensorflow as tf


def with_targets(
    batches: tf.data.Dataset,
    *,
    shares_of: int | None = None,
    outputs: Sequence[str] = (),
) -> tf.data.Dataset:
    """Makes what `model.fit` takes of batches of images and labels.

    Args:
        batches: Data set of `(images, labels)`. Labels are numbers of classes
            `(B,)` or already shares `(B, K)`.
        shares_of: Number K of classes, to make shares of numbers; None to
            leave labels as they are.
        outputs: Names of the outputs of a model with several, all of which
            learn the label.

    Returns:
        Data set of `(images, labels)`, or of images and a dictionary with the
        labels for each output.

    Examples:
        batches = source.batches("train", batch_size=2)
        pairs = with_targets(batches, shares_of=10)
    """

    def targets(images, labels):
        if shares_of is not None and labels.dtype.is_integer:
            labels = tf.one_hot(labels, shares_of)
        return images, dict.fromkeys(outputs, labels) if outputs else labels

    return batches.map(
        targets, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
