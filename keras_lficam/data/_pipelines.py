"""The `tf.data` pipelines that every source shares."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_lficam._checks import check_boolean
from keras_lficam.data import _memory, augmentation as augmentations
from keras_lficam.data._checks import (
    check_batch_size,
    check_image_size,
    check_integer,
    check_resizing,
    check_shard,
)
from keras_lficam.data._images import as_bytes, resized, resized_mask

if TYPE_CHECKING:
    from keras_lficam.data.sources import Source

_SEEDS = 2**31 - 2  # TensorFlow takes so many of a graph, from 1 on.


def batches(
    source: "Source",
    split: str,
    *,
    image_size: tuple[int, int] | None,
    batch_size: int,
    shuffle: bool,
    seed: int,
    with_masks: bool,
    resizing: str,
    cache: bool,
) -> tf.data.Dataset:
    """Does what `Source.batches` says, for a split that `_own` gives."""
    check_batch_size(batch_size)
    check_integer("seed", seed, 0, "which decides the orders")
    check_resizing(resizing)
    check_boolean("shuffle", shuffle)
    check_boolean("with_masks", with_masks)
    check_boolean("cache", cache)
    if image_size is not None:
        check_image_size(image_size)
    _check_cache(cache, shuffle)
    _check_masks(source, with_masks)
    _check_one_size(source, image_size)
    dataset = source._examples(split, seed if shuffle else None)

    def decode(example: dict[str, Any]) -> tuple[tf.Tensor, ...]:
        image = resized(source._image(example), image_size, resizing)
        if not with_masks:
            return image, example["label"]
        mask = resized_mask(source._mask(example), image_size, resizing)
        return image, example["label"], mask

    dataset = dataset.map(
        decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    dataset = dataset.batch(batch_size)
    # Keras steps once past the end of a data set whose length it is not told,
    # and counts that step in the means of the losses of single outputs.
    dataset = dataset.apply(
        tf.data.experimental.assert_cardinality(
            math.ceil(source._count(split) / batch_size)
        )
    )
    if cache and _memory.fits(source._count(split) * _size(dataset)):
        dataset = dataset.cache()
    return dataset.prefetch(tf.data.AUTOTUNE)


def stream(
    source: "Source",
    split: str,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    seed: int,
    augmentation: Sequence[str],
    first_step: int,
    shard: tuple[int, int],
) -> tf.data.Dataset:
    """Does what `Source.stream` says, for a split that `_own` gives.

    The images stand in one endless row, epoch after epoch. What happens to
    one follows from its position in the row, so any step can be the first.
    """
    check_image_size(image_size)
    check_batch_size(batch_size)
    check_shard(shard, batch_size)
    check_integer("seed", seed, 0, "as TensorFlow wants it")
    check_integer("first_step", first_step, 0, "the step that comes first")
    names = augmentations.check(augmentation)
    index, shards = shard
    per_shard = batch_size // shards
    first = first_step * batch_size

    row = _endless_row(source, split, seed, first)
    if shards > 1:
        row = row.filter(
            lambda position, _: position % batch_size // per_shard == index
        )

    def resized_image(example: dict[str, Any]) -> tf.Tensor:
        image = resized(source._image(example), image_size, "stretch")
        return as_bytes(image)

    image_of = (
        (lambda number, example: as_bytes(source._image(example)))
        if augmentations.needs_whole_picture(names)
        else _memory.remembered(
            resized_image, (*image_size, 3), source._count(split)
        )
    )
    height, width = image_size
    augment = augmentations.image_function(names, (height, width))

    def make(position, numbered):
        number, example = numbered
        image = augment(image_of(number, example), tf.stack([seed, position]))
        image = tf.ensure_shape(image, (*image_size, 3))
        if "weight" in example:
            return image, example["label"], example["weight"]
        return image, example["label"]

    dataset = row.map(
        make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    ).batch(per_shard, drop_remainder=True)
    mix = augmentations.batch_function(names, len(source.class_names))
    if mix is not None and "weight" in row.element_spec[1][1]:
        raise ValueError(
            "Argument `augmentation` must not mix images that have sample "
            f"weights. Received: augmentation={names!r}. To fix this: leave "
            "mix_up and cut_mix out, or give no weights."
        )
    if mix is not None:
        dataset = dataset.enumerate(first_step).map(
            lambda step, batch: mix(
                batch[0], batch[1], tf.stack([seed, step * shards + index])
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    return dataset.prefetch(tf.data.AUTOTUNE)


def _endless_row(
    source: "Source", split: str, seed: int, first: int
) -> tf.data.Dataset:
    """Gives `(position, (number, example))` from a position on.

    The number is that of the example in its split. Examples are not decoded,
    so that passing over those before `first` is quick.
    """
    count = source._count(split)
    if count == 0:
        raise ValueError(
            f"`split` must have images to train with. Received: {split!r} of "
            f"{source.name}, which has none."
        )
    examples = source._examples(split, None).enumerate()
    buffer = min(count, source._shuffled_together)

    def epoch(number):
        # The seed of this function's graph. Without it that of the whole
        # program, which is the user's, would decide the order as well.
        tf.random.set_seed(1 + seed % _SEEDS)
        return examples.shuffle(
            buffer, seed=number + 1, reshuffle_each_iteration=False
        )

    epochs = tf.data.Dataset.range(first // count, tf.int64.max)
    return epochs.flat_map(epoch).skip(first % count).enumerate(first)


def _size(dataset: tf.data.Dataset) -> int:
    """Bytes of an image and what belongs to it, in a data set of batches."""
    return sum(
        math.prod(spec.shape[1:]) * spec.dtype.size
        for spec in tf.nest.flatten(dataset.element_spec)
    )


def _check_cache(cache: bool, shuffle: bool) -> None:
    if cache and shuffle:
        raise ValueError(
            "`cache=True` keeps batches as they first come, so that with "
            "`shuffle=True` every pass would repeat the order of the first. "
            "Ways out: drop one of the two; or, to train, "
            "fit(source.stream(split, image_size=..., batch_size=...), "
            "steps_per_epoch=...), which keeps images in memory and shuffles "
            "them anew for each epoch."
        )


def _check_masks(source: "Source", with_masks: bool) -> None:
    if with_masks and not source.has_masks:
        raise ValueError(
            "`with_masks=True` needs a data set with masks of the object, an "
            "image named 'mask' or one that is known, as digits_in_photos and "
            f"oxford_iiit_pet have. Received: {source.name!r}, which has "
            f"{source._contents}. Drop `with_masks` to load it."
        )


def _check_one_size(
    source: "Source", image_size: tuple[int, int] | None
) -> None:
    if image_size is None and None in source.image_shape:
        raise ValueError(
            "`image_size` must be given for a data set with images of "
            "different sizes, which cannot share a batch. Received: "
            f"image_size=None for name={source.name!r}. Pass, for example, "
            "image_size=(224, 224)."
        )
