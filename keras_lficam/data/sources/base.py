"""What every source of images has in common: contract and pipelines."""

import abc
import functools
import hashlib
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lficam import _checks
from keras_lficam.data import _memory, _pipelines, augmentation as augmentations
from keras_lficam.data._images import as_bytes, resized, resized_mask, to_gray

RESIZINGS = ("stretch", "center_crop")
# Stands in bytes for the mask that an image has not.
_UNKNOWN = 2


class Damaged(NamedTuple):
    """An image file that could not be read.

    Attributes:
        path: The file.
        reason: What is wrong with it.

    Examples:
        [bad.reason for bad in source.damaged]
    """

    path: str
    reason: str


class Source(abc.ABC):
    """Images with labels, in splits.

    `data.source` makes one of a name or a folder, `data.from_datasets` of
    `tf.data` data sets. A subclass sets the attributes and defines `_count`,
    `_examples` and `_image`, and with masks `_mask`.

    Attributes:
        name: Name of the data set, or of the folder.
        class_names: Names of the classes, in the order of the labels.
        splits: For each of `"train"`, `"validation"` and, if there is one,
            `"test"` the images that it stands for, in the language of the data
            set. The three have no image in common. `"test_shifted"` is there
            too, where the data has a second test of other circumstances.
        image_shape: `(height, width, 3)`; None where images differ.
        damaged: Files that could not be read and are left out.
        bits: Bits that files of 16 bits use and do not say; None where there
            are none.
        has_masks: Whether `batches` can add the mask of the object.
        masks: Where they lie, if that was given to `data.source`.
        multi_label: Whether an image can be of several classes at once: then
            labels are 0 or 1 for each of them, float32 `(batch, K)`.
        license: What the data says of its license; None if it says nothing.

    Examples:
        assert source.count("train") > 0
        images, labels = next(iter(source.batches("train", batch_size=2)))
    """

    name: str
    class_names: list[str]
    splits: dict[str, str]
    image_shape: tuple[int | None, int | None, int]
    damaged: tuple[Damaged, ...] = ()
    bits: int | None = None
    has_masks: bool = False
    masks: str | None = None
    multi_label: bool = False
    license: str | None = None
    # What a message says that there is instead of masks.
    _contents: str
    # How many encoded examples may be in memory to be shuffled.
    _shuffled_together: int
    # What a message says of splits that `splits` does not name.
    _language: str = ""

    @abc.abstractmethod
    def _count(self, split: str) -> int:
        """Counts the images of a split in the data set's own language."""

    @abc.abstractmethod
    def _examples(
        self, split: str, shuffle_seed: int | None
    ) -> tf.data.Dataset:
        """Opens a split: encoded examples, each a dictionary with `label`.

        Without a seed they come in the same order every time.
        """

    @abc.abstractmethod
    def _image(self, example: dict[str, Any]) -> tf.Tensor:
        """Decodes the image of an example, RGB `(H, W, 3)`."""

    def _mask(self, example: dict[str, Any]) -> tf.Tensor:
        """Decodes the mask of an example, `(H, W, 1)` float32 of 0 and 1."""
        raise NotImplementedError

    def _own(self, split: str) -> str:
        """Says in the data set's own language which images a split has."""
        _checks.check_text("split", split)
        if split not in self.splits:
            raise ValueError(
                f"Argument `split` must be one of {', '.join(self.splits)}"
                f"{self._language}. Received: split={split!r} for {self.name}."
            )
        return self.splits[split]

    def count(self, split: str) -> int:
        """Counts images.

        Args:
            split: As for `batches`.

        Returns:
            Number of images that can be read.

        Raises:
            ValueError: If there is no such split.
        """
        return self._count(self._own(split))

    def batches(
        self,
        split: str,
        *,
        image_size: tuple[int, int] | None = None,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        with_masks: bool = False,
        resizing: str = "stretch",
        cache: bool = False,
        channels: int = 3,
    ) -> tf.data.Dataset:
        """Reads a split once, for evaluation or a `fit` of one's own.

        Args:
            split: `"train"`, `"validation"` or `"test"`, as `splits` says
                which images they are. Of a TensorFlow data set also a split in
                its own language, with a bracket or a plus: `"train[:80%]"`,
                or `"train[:100%]"` for all that TensorFlow Datasets calls by
                that name.
            image_size: `(height, width)` to resize to. None keeps the size,
                which must then be one for all images.
            batch_size: Images per batch, at least 1; the last may hold fewer.
            shuffle: Whether each pass is in a new order. Otherwise every
                pass is in the same order.
            seed: Decides the orders, if `shuffle`.
            with_masks: Whether to add the mask of the object.
            resizing: `"stretch"` changes height and width each as needed.
                `"center_crop"` keeps their ratio and shows the middle: the
                image is resized to cover 8/7 of `image_size`, as 256 is for
                224, and what is outside is cut off.
            cache: Whether to keep the batches of the first pass in memory, if
                they fit into a quarter of it; not with `shuffle`.
            channels: 3 for RGB, also of gray files; 1 for gray, of colors by
                ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B.

        Returns:
            Batches of `(image, label)` or `(image, label, mask)`. Images are
            `(batch, height, width, channels)` in 0 to 255: uint8, or float32
            if they were resized. Labels are int64 `(batch,)`, or float32
            `(batch, K)` where images have several; masks float32
            `(batch, height, width, 1)`, 1 on the object and 0 elsewhere.

        Raises:
            ValueError: If an argument has an impossible value.
            TypeError: If an argument is of the wrong type.
        """
        _checks.check_integer("batch_size", batch_size, least=1)
        _checks.check_integer("seed", seed, least=0)
        _checks.check_choice("resizing", resizing, RESIZINGS)
        _checks.check_boolean("shuffle", shuffle)
        _checks.check_boolean("with_masks", with_masks)
        _checks.check_boolean("cache", cache)
        _check_channels(channels)
        if image_size is not None:
            _checks.check_size("image_size", image_size)
        if cache and shuffle:
            raise ValueError(
                "Argument `cache` must be False with shuffle=True: it keeps "
                "batches as they first come, so that every pass would repeat "
                "the order of the first. Received: cache=True. To fix this: "
                "drop one of the two; or, to train, "
                "fit(source.stream(split, image_size=..., batch_size=...), "
                "steps_per_epoch=...), which keeps images in memory and "
                "reshuffles them for each epoch."
            )
        if with_masks:
            self._check_masks()
        if image_size is None and None in self.image_shape:
            raise ValueError(
                "Argument `image_size` must be given for images of different "
                "sizes, which cannot share a batch. Received: "
                f"image_size=None for {self.name}. To fix this: pass, for "
                "example, image_size=(224, 224)."
            )

        def decode(example: dict[str, Any]) -> tuple[tf.Tensor, ...]:
            image = resized(self._image(example), image_size, resizing)
            if channels == 1:
                image = to_gray(image)
            if not with_masks:
                return image, example["label"]
            mask = resized_mask(self._mask(example), image_size, resizing)
            return image, example["label"], mask

        own = self._own(split)  # Last, for it may download the data set.
        examples = self._examples(own, seed if shuffle else None)
        images = _pipelines.mapped(examples, decode)
        return _pipelines.in_batches(
            images, self._count(own), batch_size, cache
        )

    def stream(
        self,
        split: str,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        seed: int = 0,
        augmentation: Sequence[str] = (),
        first_step: int = 0,
        shard: tuple[int, int] = (0, 1),
        channels: int = 3,
        with_masks: bool = False,
        mask_share: float = 1.0,
    ) -> tf.data.Dataset:
        """Makes batches for training, without end.

        Pass follows pass, each in an order of its own and with no gap, so that
        every batch is full and no image is left out. The batch of a step
        depends on the arguments and the number of the step alone: a stream
        that begins at `first_step` continues as one that came there, and shards
        are parts of the same batches.

        The order of a folder is drawn from all its images, that of other data
        from 10,000 at a time. Images are kept in memory at the size asked for
        if all fit into a quarter of what is free, and no random crop needs the
        whole image.

        Args:
            split: As for `batches`.
            image_size: `(height, width)` of the images, in pixels.
            batch_size: Images in a step, of all shards together.
            seed: Decides order and augmentation.
            augmentation: Names of `data.augmentation`.
            first_step: Step that it begins with.
            shard: Number of this shard and of all; it gives the rows of the
                batch that are this shard's. Labels are mixed within them.
            channels: As for `batches`.
            with_masks: Whether to add the mask of the object, moved by the
                augmentation as its image.
            mask_share: Share of the masks that are used, in (0, 1]. The seed
                chooses them, and those of a smaller share are among them.

        Returns:
            Endless batches of images `(batch_size / shards, height, width,
            channels)`, float32 in 0 to 255, and labels: int64
            `(batch_size / shards,)`, or float32 soft labels where an
            augmentation mixes them, or float32 `(batch_size / shards, K)`
            where images have several; then masks, float32 `(batch_size /
            shards, height, width, 1)` in 0 to 1, NaN where an image has none,
            if asked for; then sample weights, float32 `(batch_size /
            shards,)`, if the data has them.

        Raises:
            ValueError: If an argument has an impossible value, or the shards
                do not divide the batch.
            TypeError: If an argument is of the wrong type.
        """
        _checks.check_size("image_size", image_size)
        _checks.check_integer("batch_size", batch_size, least=1)
        _checks.check_integer("seed", seed, least=0)
        _checks.check_integer("first_step", first_step, least=0)
        _check_shard(shard, batch_size)
        _check_channels(channels)
        names = augmentations.check(augmentation)
        index, shards = shard
        per_shard = batch_size // shards
        height, width = image_size
        own = self._own(split)
        count = self._count(own)
        if count == 0:
            raise ValueError(
                "Argument `split` must have images to train with. Received: "
                f"split={split!r} of {self.name}, which has none."
            )
        examples = self._examples(own, None)
        is_weighted = "weight" in examples.element_spec
        mix = augmentations.batch_function(names, len(self.class_names))
        if mix is not None and is_weighted:
            raise ValueError(
                "Argument `augmentation` must not mix images that have sample "
                f"weights. Received: augmentation={names!r}. To fix this: "
                "leave mix_up and cut_mix out, or give no weights."
            )
        _checks.check_boolean("with_masks", with_masks)
        if with_masks:
            self._check_masks()
            if mix is not None:
                raise ValueError(
                    "Argument `augmentation` must not mix images that have "
                    f"masks. Received: augmentation={names!r}. To fix this: "
                    "leave mix_up and cut_mix out."
                )
            chosen = tf.constant(self._chosen_masks(split, mask_share, seed))

        # All images stand in one endless row. What happens to one follows
        # from its position in the row, so any step can be the first.
        row = _pipelines.endless_row(
            examples,
            count,
            self._shuffled_together,
            seed,
            first_step * batch_size,
        )
        if shards > 1:
            row = row.filter(
                lambda position, _: position % batch_size // per_shard == index
            )

        def original(number: tf.Tensor, example: dict[str, Any]) -> tf.Tensor:
            return as_bytes(self._image(example))

        def resized_image(example: dict[str, Any]) -> tf.Tensor:
            return as_bytes(
                resized(self._image(example), image_size, "stretch")
            )

        image_of = (
            original
            if augmentations.needs_whole_image(names)
            else _memory.remembered(resized_image, (height, width, 3), count)
        )
        augment = augmentations.image_function(names, (height, width))

        def resized_mask_of(example: dict[str, Any]) -> tf.Tensor:
            mask = self._mask(example)
            if not augmentations.needs_whole_image(names):
                mask = resized_mask(mask, image_size, "stretch")
            unknown = tf.fill(tf.shape(mask), tf.constant(_UNKNOWN, "uint8"))
            return tf.where(
                tf.math.is_nan(mask), unknown, tf.cast(mask, "uint8")
            )

        def original_mask(
            number: tf.Tensor, example: dict[str, Any]
        ) -> tf.Tensor:
            return resized_mask_of(example)

        mask_of = (
            original_mask
            if augmentations.needs_whole_image(names) or not with_masks
            else _memory.remembered(resized_mask_of, (height, width, 1), count)
        )
        move = augmentations.mask_function(names, (height, width))

        def moved_mask(
            position: tf.Tensor, number: tf.Tensor, example: dict[str, Any]
        ) -> tf.Tensor:
            mask = mask_of(number, example)
            known = tf.reduce_all(mask != _UNKNOWN) & tf.gather(chosen, number)
            moved = move(tf.cast(mask, "float32"), tf.stack([seed, position]))
            moved = tf.where(known, moved, float("nan"))
            return tf.ensure_shape(moved, (height, width, 1))

        def make(
            position: tf.Tensor, numbered: tuple[tf.Tensor, dict[str, Any]]
        ) -> tuple[tf.Tensor, ...]:
            number, example = numbered
            image = augment(
                image_of(number, example), tf.stack([seed, position])
            )
            image = tf.ensure_shape(image, (height, width, 3))
            parts = [image, example["label"]]
            if with_masks:
                parts.append(moved_mask(position, number, example))
            if is_weighted:
                parts.append(example["weight"])
            return tuple(parts)

        batches = _pipelines.mapped(row, make).batch(
            per_shard, drop_remainder=True
        )
        if mix is not None:
            batches = _pipelines.mapped(
                batches.enumerate(first_step),
                lambda step, batch: mix(
                    batch[0], batch[1], tf.stack([seed, step * shards + index])
                ),
            )
        if channels == 1:
            batches = _pipelines.mapped(
                batches, lambda images, *others: (to_gray(images), *others)
            )
        return batches.prefetch(tf.data.AUTOTUNE)

    def _masked(self, split: str) -> np.ndarray:
        """Says of each image of a split whether it has a mask, booleans."""
        return np.full(self._count(split), self.has_masks)

    def count_masks(self, split: str, mask_share: float = 1.0) -> int:
        """Counts the images with a mask of the object.

        Args:
            split: As for `count`.
            mask_share: As for `stream`.

        Returns:
            Number of images.

        Raises:
            ValueError: If there is no such split.
        """
        return int(self._chosen_masks(split, mask_share, 0).sum())

    def _chosen_masks(
        self, split: str, mask_share: float, seed: int
    ) -> np.ndarray:
        """Chooses a share of the masks of a split, booleans of all images."""
        _checks.check_number("mask_share", mask_share, 0)
        if not 0 < mask_share <= 1:
            raise ValueError(
                "Argument `mask_share` must be a share of the masks, in (0, "
                f"1]. Received: mask_share={mask_share}"
            )
        masked = np.flatnonzero(self._masked(self._own(split)))
        order = np.random.default_rng(seed).permutation(masked)
        chosen = np.zeros(self.count(split), bool)
        chosen[order[: math.ceil(mask_share * len(order))]] = True
        return chosen

    def _check_masks(self) -> None:
        if not self.has_masks:
            raise ValueError(
                "Argument `with_masks` must be False without masks of the "
                "object, an image named 'mask' or one that is known, as "
                "digits_in_photos and oxford_iiit_pet have. Received: "
                f"with_masks=True for {self.name!r}, which has "
                f"{self._contents}. To fix this: leave it out."
            )

    @functools.cached_property
    def _classes_counted(self) -> dict[str, np.ndarray]:
        """Images of each class, of the splits that were counted."""
        return {}

    def class_counts(self, split: str) -> np.ndarray:
        """Counts the images of each class; of a split once.

        Args:
            split: As for `count`.

        Returns:
            Integers `(K,)`, in the order of the labels.

        Raises:
            ValueError: If there is no such split.
        """
        own = self._own(split)
        if own in self._classes_counted:
            return self._classes_counted[own].copy()
        examples = self._examples(own, None)
        labels = examples.map(lambda example: example["label"]).batch(4096)
        counts = np.zeros(len(self.class_names), "int64")
        for batch in labels.as_numpy_iterator():
            if self.multi_label:
                counts += batch.astype("int64").sum(0)
            else:
                counts += np.bincount(batch, minlength=len(counts))
        self._classes_counted[own] = counts
        return counts.copy()

    def files(self, split: str) -> list[str] | None:
        """Names the files of a split.

        Args:
            split: As for `count`.

        Returns:
            Paths in the order of `batches`, unshuffled; None where images are
            no files.

        Raises:
            ValueError: If there is no such split.
        """
        examples = self._examples(self._own(split), None)
        if "path" not in examples.element_spec:
            return None
        paths = examples.map(lambda example: example["path"])
        return [os.fsdecode(path) for path in paths.as_numpy_iterator()]

    def digest(self) -> str:
        """Tells apart data that has as many images of as many classes.

        Returns:
            Digest of up to 256 images of each split as they are stored, and
            of their labels.
        """
        digest = hashlib.sha256()
        for split in self.splits.values():
            examples = self._examples(split, None)
            if "path" in examples.element_spec:  # Which cost nothing to pass.
                examples = examples.shard(1 + self._count(split) // 256, 0)
            for example in examples.take(256).as_numpy_iterator():
                for _, value in sorted(example.items()):
                    digest.update(np.asarray(value).tobytes())
                path = example.get("path")
                if path is not None:
                    digest.update(pathlib.Path(os.fsdecode(path)).read_bytes())
        return digest.hexdigest()


def _check_channels(channels: Any) -> None:
    _checks.check_integer("channels", channels, least=1)
    if channels not in (1, 3):
        raise ValueError(
            "Argument `channels` must be 3 for RGB or 1 for gray images. "
            f"Received: channels={channels}"
        )


def _check_shard(shard: Any, batch_size: int) -> None:
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise ValueError(
            "Argument `shard` must be a pair (index, number). Received: "
            f"shard={shard!r:.80}"
        )
    index, number = shard
    _checks.check_integer("shard[1]", number, least=1)
    _checks.check_integer("shard[0]", index, least=0)
    if index >= number:
        raise ValueError(
            "Argument `shard` must be a pair (index, number) with the index "
            f"below the number. Received: shard={shard!r}"
        )
    if batch_size % number:
        enough = -(-batch_size // number) * number
        raise ValueError(
            f"Argument `batch_size` must be a multiple of {number}, the "
            f"number of shards. Received: batch_size={batch_size}. To fix "
            f"this: pass, for example, batch_size={enough}."
        )
