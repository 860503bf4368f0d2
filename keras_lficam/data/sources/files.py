"""What sources of image files share: looking through, reading, splitting."""

import concurrent.futures
import contextlib
import hashlib
import logging
import math
import os
import pathlib
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lficam import _labels
from keras_lficam.data._annotations import (
    damaged_masks,
    masks_of,
    read_boxes_or_mask,
)
from keras_lficam.data._images import common_shape
from keras_lficam.data.image_files import bits_for, read
from keras_lficam.data.sources.base import Damaged, Source

_LOG = logging.getLogger("keras_lficam")
# Shares of a class that are set aside where the data has no split of its own.
SHARE = 0.1
# Pixels of an image that takes so much memory that it is decoded alone.
_LARGE = 8_000_000
_SHOWN = 20
# Ends the message of an image that was changed while a model was trained.
_CHANGED = "it could still be read when the {} was scanned"


class ImageFile(NamedTuple):
    """An image file.

    Attributes:
        path: The file.
        labels: Names of its classes, one of them where an image has one.
        lot: Number in [0, 1), by the path: decides what is set aside.
        mask: File of the mask of the object, or its boxes as text; empty
            where there is none.
    """

    path: str
    labels: tuple[str, ...]
    lot: float
    mask: str = ""


class Look(NamedTuple):
    """What is known of an image that was read once.

    Attributes:
        height: Its height in pixels.
        width: Its width in pixels.
        highest: The highest of 16-bit numbers whose range the file does not
            say; else None.
        pages: Pages of a TIFF, of which the first is read.
    """

    height: int
    width: int
    highest: int | None
    pages: int


class FilesSource(Source):
    """Images of files, which are decoded by `read_image`.

    A subclass sets `name`, `class_names`, `multi_label` and `has_masks`, the
    others by `_set_seen` and `_set_parts`.
    """

    # The paths are shuffled, not the pixels.
    _shuffled_together = tf.int64.max
    # What the files are listed by, for messages.
    _kind: str
    _parts: dict[str, list[ImageFile]]

    def _set_seen(
        self,
        looks: Mapping[str, Look | Damaged],
        damaged: Iterable[Damaged],
        bits: int | None,
    ) -> None:
        """Sets what follows from the files, by what was seen of them."""
        self.damaged = tuple(sorted(damaged))
        good = [look for look in looks.values() if isinstance(look, Look)]
        self.bits = decided_bits(pathlib.Path(self.name), good, bits)
        self.image_shape = common_shape([look[:2] for look in good])
        self._sizes = {
            path: look[:2]
            for path, look in looks.items()
            if isinstance(look, Look)
        }

    def _set_parts(
        self,
        given: Mapping[str, Iterable[ImageFile]],
        groups: Iterable[Sequence[ImageFile]],
        wanted: Mapping[str, float],
    ) -> None:
        """Sets the splits, by the arguments of `with_set_aside`."""
        self._parts = with_set_aside(given, groups, wanted)
        self.splits = {split: split for split in self._parts}

    def _count(self, split: str) -> int:
        return len(self._parts[split])

    def _examples(
        self, split: str, shuffle_seed: int | None
    ) -> tf.data.Dataset:
        images = self._parts[split]
        paths = [os.fsencode(image.path) for image in images]
        columns = {"path": np.array(paths), "label": self._labels(images)}
        if self.has_masks:
            masks = [os.fsencode(image.mask) for image in images]
            columns["mask"] = np.array(masks)
        dataset = tf.data.Dataset.from_tensor_slices(columns)
        if shuffle_seed is not None:
            dataset = dataset.shuffle(len(images), seed=shuffle_seed)
        return dataset

    def _masked(self, split: str) -> np.ndarray:
        return np.array([bool(image.mask) for image in self._parts[split]])

    def _labels(self, images: Sequence[ImageFile]) -> np.ndarray:
        number = {name: i for i, name in enumerate(self.class_names)}
        if not self.multi_label:
            labels = [number[image.labels[0]] for image in images]
            return np.array(labels, "int64")
        several = np.zeros((len(images), len(number)), "float32")
        for row, image in zip(several, images, strict=True):
            row[[number[name] for name in image.labels]] = 1
        return several

    def _image(self, example: dict[str, Any]) -> tf.Tensor:
        # Not by TensorFlow's decoders: a model is to be trained on the pixels
        # that it explains later, upright and with the colors as they are.
        image = tf.numpy_function(self._read, [example["path"]], tf.uint8)
        return tf.ensure_shape(image, self.image_shape)

    def _mask(self, example: dict[str, Any]) -> tf.Tensor:
        sides = self.image_shape[:2]

        def mask_of(path: bytes, image: bytes) -> np.ndarray:
            if path:
                # Of files the size was seen to be that of the image.
                size = self._sizes[os.fsdecode(image)]
                try:
                    mask = read_boxes_or_mask(os.fsdecode(path), size)
                except ValueError as error:
                    changed = _CHANGED.format(self._kind)
                    raise ValueError(f"{error}; {changed}") from None
                return mask.astype("float32")
            # One pixel along each side that images do not share.
            return np.full([*(side or 1 for side in sides), 1], np.nan, "f4")

        mask = tf.numpy_function(
            mask_of, [example["mask"], example["path"]], tf.float32
        )
        return tf.ensure_shape(mask, (*sides, 1))

    def _read(self, path: bytes) -> np.ndarray:
        name = os.fsdecode(path)
        changed = _CHANGED.format(self._kind)
        try:
            pixels = read(name, self.bits).pixels
        except ValueError as error:
            raise ValueError(f"{error}; {changed}") from None
        for side, before in zip(pixels.shape, self.image_shape, strict=True):
            if before not in (None, side):
                raise ValueError(
                    f"{name}: the image has another size than all had, "
                    f"{pixels.shape[0]} x {pixels.shape[1]}; {changed}"
                )
        return pixels


def changed_file(error: BaseException) -> str | None:
    """Finds which image file was changed while a model was trained.

    TensorFlow reports it as an `InvalidArgumentError` with a traceback inside.

    Args:
        error: What reading batches or `fit` raised.

    Returns:
        One line with the file and what is wrong with it; None if the error is
        another.

    Examples:
        assert changed_file(ValueError("another")) is None
    """
    endings = tuple(_CHANGED.format(kind) for kind in ("folder", "CSV file"))
    for line in str(error).splitlines():
        if line.endswith(endings):
            return line.partition("ValueError: ")[2] or line
    return None


def listed(words: Sequence[str]) -> str:
    """Joins words for a message, which names 20 of them at most.

    Args:
        words: The words.

    Returns:
        One line.
    """
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def normalized(name: str) -> str:
    """Gives a name as it reads: systems store an accent in one of two ways.

    Args:
        name: The name.

    Returns:
        The name in the form NFC.
    """
    return unicodedata.normalize("NFC", name)


def lot_of(name: str) -> float:
    """Gives the number that a name has on every machine.

    Args:
        name: The name.

    Returns:
        Number in [0, 1).
    """
    digest = hashlib.sha256(os.fsencode(normalized(name))).digest()
    return int.from_bytes(digest[:8]) / 2**64


# ------------------------------------------------------------ what can be read


def looks_at(paths: Iterable[str]) -> dict[str, Look | Damaged]:
    """Reads images once, to find what is damaged, and how large they are.

    Pillow lets other threads run while it decodes. Large images are decoded
    one after another, for the memory they take.

    Args:
        paths: The files.

    Returns:
        What was seen of each.
    """
    alone = threading.Lock()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = {path: pool.submit(_look, path, alone) for path in paths}
        return {path: work.result() for path, work in results.items()}


def _look(path: str, alone: threading.Lock) -> Look | Damaged:
    try:
        with alone if _is_large(path) else contextlib.nullcontext():
            pixels, highest, pages = read(path, None)
    except ValueError as error:
        return Damaged(path, str(error).removeprefix(f"{path}: "))
    height, width, _ = pixels.shape
    return Look(height, width, highest, pages)


def _is_large(path: str) -> bool:
    import PIL.Image

    try:
        with PIL.Image.open(path) as opened:
            return math.prod(opened.size) > _LARGE
    except Exception:  # `read` says what is wrong.
        return False


def report_damaged(
    given: pathlib.Path, looks: Mapping[str, Look | Damaged]
) -> list[Damaged]:
    """Lists the images that cannot be read, and names them in the log.

    So are TIFF files of several pages.

    Args:
        given: Folder or file that was given.
        looks: What `looks_at` gave.

    Returns:
        The images.
    """
    damaged = [look for look in looks.values() if isinstance(look, Damaged)]
    report_left_out(
        given,
        damaged,
        f"of {len(looks)} images cannot be read and are left out",
    )
    several = [
        path
        for path, look in looks.items()
        if isinstance(look, Look) and look.pages > 1
    ]
    if several:
        _LOG.warning(
            "%s: %d TIFF files have several pages, of which the first is "
            "read: %s",
            given,
            len(several),
            listed(several),
        )
    return damaged


def with_masks(
    images: Sequence[ImageFile],
    masks: str | os.PathLike[str],
    root: pathlib.Path,
) -> list[ImageFile]:
    """Gives images without a mask those that lie elsewhere.

    Args:
        images: The images.
        masks: As for `data.source`.
        root: Folder that the names of images begin at.

    Returns:
        The images.

    Raises:
        ValueError: As for `masks_of`.
    """
    found = masks_of(masks, [image.path for image in images], root)
    return [
        image._replace(mask=image.mask or found.get(image.path, ""))
        for image in images
    ]


def report_damaged_masks(
    given: pathlib.Path,
    images: Iterable[ImageFile],
    looks: Mapping[str, Look | Damaged],
) -> list[Damaged]:
    """Lists masks that cannot be used, and names them in the log.

    Args:
        given: Folder or file that was given.
        images: The images.
        looks: What `looks_at` gave.

    Returns:
        The masks, or of boxes the images.
    """
    masked = [
        (image.path, image.mask, look[:2])
        for image in images
        if image.mask and isinstance(look := looks[image.path], Look)
    ]
    return report_left_out(
        given,
        damaged_masks(masked),
        "masks cannot be used, and their images are left out",
    )


def report_left_out(
    given: pathlib.Path, damaged: list[Damaged], words: str
) -> list[Damaged]:
    """Names in the log what is left out, if there is anything.

    Args:
        given: Folder or file that was given.
        damaged: What is left out, and why.
        words: What it is, behind its number.

    Returns:
        The argument `damaged`.
    """
    if damaged:
        _LOG.warning(
            "%s: %d %s:\n%s",
            given,
            len(damaged),
            words,
            "\n".join(f"{path}: {reason}" for path, reason in sorted(damaged)),
        )
    return damaged


def decided_bits(
    given: pathlib.Path, looks: Iterable[Look], asked: int | None
) -> int | None:
    """Decides how many bits images of 16 use that do not say it.

    Args:
        given: Folder or file that was given.
        looks: What was seen of the images.
        asked: The argument `bits`.

    Returns:
        The bits; None where no image needs them.
    """
    highest = [look.highest for look in looks if look.highest is not None]
    if not highest:
        return None
    bits = bits_for(max(highest)) if asked is None else asked
    above = sum(number >= 2**bits for number in highest)
    _LOG.log(
        logging.WARNING if above or bits not in (asked, 16) else logging.INFO,
        "%s: %d images of 16 bits do not say how many of them they use; "
        "their highest number is %d, and %d, the most of %d bits, is white%s",
        given,
        len(highest),
        max(highest),
        2**bits - 1,
        bits,
        f". {above} images have numbers above it" if above else "",
    )
    return bits


# -------------------------------------------------------- classes and splits


def sorted_class_names(given: pathlib.Path, names: Iterable[str]) -> list[str]:
    """Puts the names of classes in the order of their labels.

    Args:
        given: Folder or file that was given.
        names: The names.

    Returns:
        The names.

    Raises:
        ValueError: If they cannot be told apart, or be written as lines.
    """
    found = sorted(names, key=normalized)
    try:
        _labels.check(found)
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None
    return found


def with_set_aside(
    given: Mapping[str, Iterable[ImageFile]],
    groups: Iterable[Sequence[ImageFile]],
    wanted: Mapping[str, float],
) -> dict[str, list[ImageFile]]:
    """Takes splits that the data does not have from the training images.

    Which images, is decided in each group by their lots, so that an image does
    not change its split when others come. One exception: a group of 3 images
    or more has one for validation, that with the nearest lot.

    Args:
        given: Splits that the data has, but that for training.
        groups: The training images, a group for each class.
        wanted: Splits to make, each with the lot where its share begins.

    Returns:
        The splits that have images, in the order of training, validation and
        test; in each the images by their paths.
    """
    parts = {split: [*images] for split, images in given.items()}
    parts |= {"train": []} | {split: [] for split in wanted}
    for images in groups:
        *left, last = sorted(images, key=lambda image: image.lot)
        for split, lowest in wanted.items():
            chosen = [one for one in left if 0 <= one.lot - lowest < SHARE]
            if split == "validation" and not chosen and len(images) >= 3:
                middle = lowest + SHARE / 2
                chosen = [min(left, key=lambda one: abs(one.lot - middle))]
            parts[split] += chosen
            taken = {one.path for one in chosen}
            left = [one for one in left if one.path not in taken]
        # Each group has one to train with, whatever its lot.
        parts["train"] += [*left, last]
    return {
        split: sorted(parts[split], key=lambda one: normalized(one.path))
        for split in ("train", "validation", "test")
        if parts.get(split)
    }
