"""Data sets that are `tf.data` objects already, as a source."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lficam import _labels
from keras_lficam.data._images import as_bytes, common_shape
from keras_lficam.data.sources.base import Source

# Images are shuffled decoded; so many of 224x224 pixels take 1.5 GB.
_SHUFFLE_BUFFER = 10_000


def from_datasets(
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    test: tf.data.Dataset | None = None,
    class_names: Sequence[str],
) -> Source:
    """Joins data sets of one's own to a source.

    They must end, and give the images in the same order each time: training
    repeats and shuffles them.

    Args:
        training: Batches of `(image, label)`: images `(batch, height, width,
            3)`, or gray `(batch, height, width, 1)`, in 0 to 255, which are
            rounded to uint8, and integer labels `(batch,)` from 0 on; or,
            where an image can be of several classes at once, 0 or 1 for each
            class, `(batch, classes)`. Masks of the object may follow,
            `(batch, height, width, 1)` of the size of the images, 1 on the
            object and 0 elsewhere, NaN for an image without one. A sample
            weight of at least 0 for each image, `(batch,)`, may come last: it
            multiplies the loss, in training and validation alike.
        validation: Batches that choose the best model.
        test: Batches that say how good it is.
        class_names: A name for each label, in their order.

    Returns:
        The source.

    Raises:
        ValueError: If a data set is of another form, is empty, has no end, or
            gives another first batch the second time.
        TypeError: If a data set is no `tf.data.Dataset`.

    Examples:

        images = np.zeros((4, 8, 8, 3), "uint8")
        batches = tf.data.Dataset.from_tensor_slices((images, [0, 1, 1, 0]))
        joined = from_datasets(
            batches.batch(2), batches.batch(2), class_names=["cat", "dog"]
        )
    """
    datasets = {"train": training, "validation": validation}
    if test is not None:
        datasets["test"] = test
    return DatasetSource(datasets, class_names)


class DatasetSource(Source):
    """Data sets of the user's own, one a split.

    Args:
        datasets: Data set of each split, as for `from_datasets`.
        class_names: A name for each label, in their order.

    Raises:
        ValueError: As for `from_datasets`.
        TypeError: As for `from_datasets`.
    """

    name = "tf.data"
    _contents = "batches (image, label)"
    _shuffled_together = _SHUFFLE_BUFFER

    def __init__(
        self, datasets: dict[str, tf.data.Dataset], class_names: Sequence[str]
    ):
        self.splits = {split: split for split in datasets}
        self.class_names = _checked_names(class_names)
        for split, dataset in datasets.items():
            argument = "training" if split == "train" else split
            _check_dataset(argument, dataset, len(self.class_names))
            _check_first_batch(argument, dataset)
        ranks = {
            dataset.element_spec[1].shape.rank for dataset in datasets.values()
        }
        if len(ranks) > 1:
            raise ValueError(
                "Argument `training` must have labels of one form with the "
                "other data sets: integer labels (batch,), or 0 or 1 for each "
                f"class (batch, classes). Received: both, in {list(datasets)}."
            )
        self.multi_label = ranks == {2}
        specs = [dataset.element_spec for dataset in datasets.values()]
        with_masks = {_has_mask(spec) for spec in specs}
        if len(with_masks) > 1:
            raise ValueError(
                "Argument `training` must have masks if the other data sets "
                f"have, and else none. Received: some with masks, of "
                f"{list(datasets)}. To fix this: NaN is the mask of an image "
                "without one."
            )
        (self.has_masks,) = with_masks
        self._datasets = {
            split: dataset.unbatch() for split, dataset in datasets.items()
        }
        shapes = [
            tuple(dataset.element_spec[0].shape)
            for dataset in self._datasets.values()
        ]
        self.image_shape = common_shape(shapes)

    @functools.cached_property
    def _known(self) -> dict[str, np.ndarray]:
        """For each split, whether its images have masks."""
        return {
            split: self._checked(split, dataset)
            for split, dataset in self._datasets.items()
        }

    def _checked(self, split: str, dataset: tf.data.Dataset) -> np.ndarray:
        classes = len(self.class_names)
        masked = []
        others = dataset.map(self._about).batch(4096)
        for labels, known, *weights in others.as_numpy_iterator():
            masked.append(known == 1)
            if (known > 1).any():
                raise ValueError(
                    f"Masks of argument `{split}` must be 1 on the object and "
                    "0 elsewhere, or NaN in all pixels of an image without "
                    "one. Received: others. To fix this: .map(lambda image, "
                    "label, mask: (image, label, tf.cast(mask > 0, "
                    "'float32'))), if it is above 0 on the object."
                )
            if self.multi_label:
                wrong = labels[(labels != 0) & (labels != 1)]
                form = "0 or 1 for each class"
            else:
                wrong = labels[(labels < 0) | (labels >= classes)]
                form = f"numbers from 0 on, as there are {classes} names"
            if wrong.size:
                raise ValueError(
                    "Argument `class_names` must have a name for each label "
                    f"of {split!r}, which are {form}. Received: {classes} "
                    f"names, and the label {wrong[0]}."
                )
            if weights and not (
                np.isfinite(weights[0]).all() and weights[0].min() >= 0
            ):
                raise ValueError(
                    f"Sample weights of argument `{split}` must be finite and "
                    f"at least 0. Received: from {weights[0].min()} to "
                    f"{weights[0].max()}"
                )
        return np.concatenate(masked)

    def _about(
        self, image: tf.Tensor, label: tf.Tensor, *others: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """All of an element but its pixels; 1 for a mask, 0 for none.

        2 stands for what is no mask.
        """
        del image
        if not self.has_masks:
            return label, tf.constant(0), *others
        mask, *weights = others
        unknown = tf.math.is_nan(mask)
        is_mask = tf.reduce_all((mask == 0) | (mask == 1))
        known = tf.where(is_mask, 1, 2)
        return label, tf.where(tf.reduce_all(unknown), 0, known), *weights

    def _count(self, split: str) -> int:
        return len(self._known[split])

    def _masked(self, split: str) -> np.ndarray:
        return self._known[split]

    def _examples(
        self, split: str, shuffle_seed: int | None
    ) -> tf.data.Dataset:
        dataset = self._datasets[split].map(
            self._example,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if shuffle_seed is not None:
            dataset = dataset.shuffle(_SHUFFLE_BUFFER, seed=shuffle_seed)
        return dataset

    def _example(
        self, image: tf.Tensor, label: tf.Tensor, *others: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        kind = tf.float32 if self.multi_label else tf.int64
        example = {"image": as_bytes(image), "label": tf.cast(label, kind)}
        if self.has_masks:
            example["mask"] = tf.cast(others[0], tf.float32)
        if len(others) > self.has_masks:
            example["weight"] = tf.cast(others[-1], tf.float32)
        return example

    def _mask(self, example: dict[str, Any]) -> tf.Tensor:
        return tf.ensure_shape(example["mask"], (*self.image_shape[:2], 1))

    def _image(self, example: dict[str, Any]) -> tf.Tensor:
        image = example["image"]
        if image.shape[-1] == 1:
            image = tf.image.grayscale_to_rgb(image)
        return tf.ensure_shape(image, self.image_shape)


def _checked_names(class_names: Any) -> list[str]:
    listed = isinstance(class_names, (Sequence, np.ndarray)) and not isinstance(
        class_names, (str, bytes)
    )
    names = list(class_names) if listed else []
    if len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "Argument `class_names` must be a list of two strings or more, in "
            "the order of the labels. Received: "
            f"class_names={class_names!r:.80}"
        )
    try:
        _labels.check(names)
    except ValueError as error:
        raise ValueError(f"Argument `class_names`: {error}.") from None
    return names


def _check_dataset(argument: str, dataset: Any, classes: int) -> None:
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            f"Argument `{argument}` must be a tf.data.Dataset. Received: "
            f"{argument}={dataset!r:.80} of type {type(dataset).__name__}. To "
            "fix this: tf.data.Dataset.from_tensor_slices((images, "
            "labels)).batch(32)."
        )
    spec = dataset.element_spec
    if not _is_batch(spec, classes):
        raise ValueError(
            f"Argument `{argument}` must give batches (image, label), images "
            "of shape (batch, height, width, 3), or 1 instead of 3 for gray "
            "ones, and integer labels of shape "
            f"(batch,), or 0 or 1 for each of the {classes} classes, (batch, "
            f"{classes}); masks (batch, height, width, 1) of floats may "
            "follow, and then a weight for each image, (batch,). "
            f"Received: elements {spec}. To fix this: batch it with "
            "`.batch(32)`, and bring it into this form with `.map`."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"Argument `{argument}` must end after each image was given once. "
            "Received: a data set without end. To fix this: drop its "
            "`.repeat()`; training repeats it."
        )


def _is_batch(spec: Any, classes: int) -> bool:
    if not isinstance(spec, tuple) or not 2 <= len(spec) <= 4:
        return False
    if not all(isinstance(part, tf.TensorSpec) for part in spec):
        return False
    image, label, *others = spec
    if image.shape.rank != 4 or image.shape[-1] not in (1, 3):
        return False
    if label.shape.rank == 1:
        right = label.dtype.is_integer
    else:
        right = label.shape.rank == 2 and label.shape[-1] == classes
    weights = others[1:] if _has_mask(spec) else others
    return (
        right
        and len(weights) < 2
        and all(part.shape.rank == 1 for part in weights)
    )


def _has_mask(spec: Any) -> bool:
    """Whether masks, of the size of the images, stand behind the labels."""
    return (
        len(spec) > 2
        and spec[2].shape.rank == 4
        and spec[2].dtype.is_floating
        and spec[2].shape[-1] == 1
        and spec[2].shape[1:3].is_compatible_with(spec[0].shape[1:3])
    )


def _check_first_batch(argument: str, dataset: tf.data.Dataset) -> None:
    """Finds what most often is wrong and cannot be seen from outside."""
    beginnings = [list(dataset.take(1).as_numpy_iterator()) for _ in range(2)]
    if not all(beginnings):
        raise ValueError(
            f"Argument `{argument}` must have images. Received: a data set "
            "that is empty."
        )
    (first,), (again,) = beginnings
    same = functools.partial(np.array_equal, equal_nan=True)
    if not all(map(same, first, again)):
        raise ValueError(
            f"Argument `{argument}` must give the images in the same order "
            "each time, so that a run can be resumed. Received: a data set "
            "that began with another batch the second time. To fix this: drop "
            "its `.shuffle` and random augmentation; training does both."
        )
    image, *_ = first
    if image.dtype.kind == "f" and (image.min() < 0 or image.max() <= 1):
        raise ValueError(
            f"Argument `{argument}` must give images in 0 to 255. Received: "
            f"images from {image.min():g} to {image.max():g}. To fix this: "
            "undo their scaling with `.map`; the model does its own."
        )
