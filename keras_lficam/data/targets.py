"""Labels in the form that the loss of a classifier takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lficam.data.sources.base import Source


def with_targets(
    batches: tf.data.Dataset,
    *,
    shares_of: int | None = None,
    outputs: Sequence[str] = (),
    class_weights: Sequence[float] | Sequence[Sequence[float]] | None = None,
    more: Mapping[str, tuple[Callable[..., tf.Tensor], float]] | None = None,
    with_masks: bool = False,
) -> tf.data.Dataset:
    """Makes what `model.fit` takes of batches of images and labels.

    Args:
        batches: Data set of `(images, labels)` or `(images, labels, weights)`.
            Labels are numbers of classes `(B,)` or already shares `(B, K)`,
            weights `(B,)`.
        shares_of: Number K of classes, to make shares of numbers; None to
            leave labels as they are.
        outputs: Names of the outputs of a model with several, all of which
            learn the label.
        class_weights: A weight for each class, by which that of an image is
            multiplied. Of shares of classes it is the mean. Or a pair for
            each, of labels that are absent and present: then weights are of
            single labels, `(B, K)`.
        more: By the names of further outputs a function of masks (or None)
            and labels that gives what they learn, and a weight, by which that
            of an image is multiplied.
        with_masks: Whether masks stand between the labels and the weights.

    Returns:
        Data set of `(images, labels)`, and of weights `(B,)` or `(B, K)` where
        there are any. Instead of labels and weights a dictionary with them for
        each output, where outputs are named.

    Examples:
        batches = source.batches("train", batch_size=2)
        pairs = with_targets(batches, shares_of=10)
    """

    def as_fit_takes(
        images: tf.Tensor, labels: tf.Tensor, *others: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        masks = others[0] if with_masks else None
        weights = own = others[-1] if len(others) > with_masks else None
        targets = {
            name: function(masks, labels)
            for name, (function, _) in (more or {}).items()
        }
        if class_weights is not None:
            of_labels = _of_labels(labels, class_weights)
            if weights is not None and of_labels.shape.rank == 2:
                weights = weights[:, tf.newaxis]
            weights = of_labels if weights is None else weights * of_labels
        if shares_of is not None and labels.dtype.is_integer:
            labels = tf.one_hot(labels, shares_of)
        parts = [labels] if weights is None else [labels, weights]
        if outputs:
            parts = [dict.fromkeys(outputs, part) for part in parts]
        if more:
            ones = tf.ones(tf.shape(labels)[:1])
            if len(parts) == 1:
                parts.append(dict.fromkeys(outputs, ones))
            given = ones if own is None else own
            parts[0] |= targets
            parts[1] |= {
                name: weight * given for name, (_, weight) in more.items()
            }
        return images, *parts

    return batches.map(
        as_fit_takes, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def map_targets(
    masks: Any,
    labels: Any,
    windows: Sequence[np.ndarray],
    *,
    inside: float = 1.0,
    classes: int | None = None,
) -> tf.Tensor:
    """Makes of masks what a map learns.

    Args:
        masks: Masks `(B, H, W, 1)` in [0, 1], NaN for an image without one;
            None for no masks.
        labels: Numbers of classes `(B,)`, or shares `(B, K)`, of which those
            above 0.5 count. Not needed with masks and without `classes`.
        windows: For rows and columns the weights of the pixels in the mean
            over each cell, `(h, H)` and `(w, W)`.
        inside: Share of a cell that is enough for a target of 1.
        classes: Number K of classes with a map each; None for one map.

    Returns:
        float32 tensor `(B, h, w, 1)`, or `(B, h, w, K)` with the mask for the
        classes of an image; NaN for others, and where there is no mask.

    Examples:
        windows = [np.full((1, 8), 1 / 8)] * 2  # One cell is the whole.
        map_targets(np.ones((4, 8, 8, 1)), None, windows)
    """
    rows, columns = (tf.constant(weights, "float32") for weights in windows)
    if masks is None:
        size = (tf.shape(labels)[0], rows.shape[0], columns.shape[0])
        return tf.fill((*size, classes or 1), float("nan"))
    masks = tf.cast(masks, "float32")[..., 0]
    cells = tf.einsum("iy,byx,jx->bij", rows, masks, columns)[..., None]
    cells = tf.minimum(cells / inside, 1.0)
    if classes is None:
        return cells
    if len(labels.shape) == 1:
        # One score is that of the class 1, which is "yes".
        labels = (
            tf.cast(labels, "float32")[:, None]
            if classes == 1
            else tf.one_hot(labels, classes)
        )
    own = labels[:, None, None, :] > 0.5
    return tf.where(own, cells, float("nan"))


def zero_targets(masks: Any, labels: Any) -> tf.Tensor:
    """Makes a target of 0 for each image.

    Args:
        masks: Not looked at.
        labels: Labels of the images, `(B,)` or `(B, K)`.

    Returns:
        float32 tensor of zeros, `(B, 1)`.

    Examples:
        zero_targets(None, labels)
    """
    del masks
    return tf.zeros((tf.shape(labels)[0], 1))


def with_weights(
    batches: tf.data.Dataset, source: Source, split: str, batch_size: int
) -> tf.data.Dataset:
    """Adds sample weights to batches, if the data has them.

    Args:
        batches: What `source.batches` gives, not shuffled.
        source: The source.
        split: The split.
        batch_size: Images in a batch.

    Returns:
        Data set of `(images, labels, weights)`, or the batches.

    Examples:
        batches = source.batches("train", batch_size=2)
        weighted = with_weights(batches, source, "train", 2)
    """
    examples = source._examples(source.splits[split], None)
    if "weight" not in examples.element_spec:
        return batches
    weights = examples.map(lambda example: example["weight"]).batch(batch_size)
    number = tf.data.experimental.assert_cardinality(len(batches))
    return tf.data.Dataset.zip((batches, weights.apply(number))).map(
        lambda batch, weights: (*batch, weights)
    )


def _of_labels(labels: tf.Tensor, class_weights: Sequence[Any]) -> tf.Tensor:
    weights = tf.constant(class_weights, "float32")
    if weights.shape.rank == 2:  # Of labels that are absent and present.
        return (1 - labels) * weights[:, 0] + labels * weights[:, 1]
    if labels.dtype.is_integer:
        return tf.gather(weights, labels)
    return tf.linalg.matvec(labels, weights)
