"""What data sets and folders of pictures have in common."""

import abc
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lficam.data import _pipelines
from keras_lficam.data._checks import check_text


class Damaged(NamedTuple):
    """A picture file that could not be read.

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
    `tf.data` data sets.

    Attributes:
        name: Name of the data set, or of the folder.
        class_names: Names of the classes, in the order of the labels.
        splits: For each of `"train"`, `"validation"` and, if there is one,
            `"test"` the images that it stands for, in the language of the data
            set. The three have no image in common.
        image_shape: `(height, width, 3)`; None where images differ.
        damaged: Files that could not be read and are left out.
        bits: Bits that files of 16 bits use and do not say; None where there
            are none.
        has_masks: Whether `batches` can add the mask of the object.
        multi_label: Whether an image can be of several classes at once: then
            labels are 0 or 1 for each of them, float32 `(batch, K)`.

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
    multi_label: bool = False
    # What a message says that there is instead of masks.
    _contents: str
    # How many encoded examples may be in memory to be shuffled.
    _shuffled_together: int

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
        check_text("split", split, '"train"')
        return self.splits.get(split, split)

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
    ) -> tf.data.Dataset:
        """Reads a split once, for evaluation or a `fit` of one's own.

        Args:
            split: `"train"`, `"validation"` or `"test"` as in `splits`. Of a
                TensorFlow data set also a split in its own language, with a
                bracket or a plus: `"train[:80%]"`, or `"train[:100%]"` for all
                that TensorFlow Datasets calls by that name.
            image_size: `(height, width)` to resize to. None keeps the size,
                which must then be one for all images.
            batch_size: Images per batch, at least 1; the last may hold fewer.
            shuffle: Whether each pass is in a new order.
            seed: Decides the orders, if `shuffle`.
            with_masks: Whether to add the mask of the object.
            resizing: `"stretch"` to the size, or `"center_crop"`: the shorter
                side becomes 8/7 of what is asked, 256 for 224, and the center
                is cut out.
            cache: Whether to keep the decoded images in memory, if they fit
                there.

        Returns:
            Batches as those of `data.load`.

        Raises:
            ValueError: If an argument has an impossible value.
            TypeError: If an argument is of the wrong type.
        """
        return _pipelines.batches(
            self,
            self._own(split),
            image_size=image_size,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            with_masks=with_masks,
            resizing=resizing,
            cache=cache,
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
    ) -> tf.data.Dataset:
        """Makes batches for training, without end.

        Pass follows pass, each in an order of its own and with no gap, so that
        every batch is full and no image is left out. The batch of a step
        depends on the arguments and the number of the step alone: a stream
        that begins at `first_step` goes on as one that came there, and shards
        are parts of the same batches.

        The order of a folder is drawn from all its images, that of other data
        from 10,000 at a time. Images are kept in memory at the size asked for
        if all fit into a quarter of what is free, and no random crop needs the
        whole picture.

        Args:
            split: As for `batches`.
            image_size: `(height, width)` of the images, in pixels.
            batch_size: Images in a step, of all shards together.
            seed: Decides order and augmentation.
            augmentation: Names of `data.augmentation`.
            first_step: Step that it begins with.
            shard: Number of this shard and of all; it gives the rows of the
                batch that are this shard's. Labels are mixed within them.

        Returns:
            Endless batches of images `(batch_size / shards, height, width, 3)`,
            float32 in 0 to 255, and labels: int64 `(batch_size / shards,)`, or
            float32 shares of the classes where an augmentation mixes them, or
            float32 `(batch_size / shards, K)` where images have several; then
            sample weights, float32 `(batch_size / shards,)`, if the data has
            them.

        Raises:
            ValueError: If an argument has an impossible value, or the shards
                do not divide the batch.
            TypeError: If an argument is of the wrong type.
        """
        return _pipelines.stream(
            self,
            self._own(split),
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            augmentation=augmentation,
            first_step=first_step,
            shard=shard,
        )

    def class_counts(self, split: str) -> np.ndarray:
        """Counts the images of each class.

        Args:
            split: As for `count`.

        Returns:
            Integers `(K,)`, in the order of the labels.

        Raises:
            ValueError: If there is no such split.
        """
        examples = self._examples(self._own(split), None)
        labels = examples.map(lambda example: example["label"]).batch(4096)
        counts = np.zeros(len(self.class_names), "int64")
        for batch in labels.as_numpy_iterator():
            if self.multi_label:
                counts += batch.astype("int64").sum(0)
            else:
                counts += np.bincount(batch, minlength=len(counts))
        return counts

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
