"""A folder of images, in a folder for each class."""

import concurrent.futures
import contextlib
import hashlib
import logging
import math
import os
import pathlib
import threading
import unicodedata
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lficam import _labels
from keras_lficam.data._images import common_shape
from keras_lficam.data._listing import (
    Listing,
    folders_in,
    images_below,
    is_image,
    report_others,
    split_folders,
)
from keras_lficam.data.pictures import bits_for, check_bits, read
from keras_lficam.data.sources.base import Damaged, Source

_LOG = logging.getLogger("keras_lficam")
# Shares of a class that are set aside where there is no folder for them.
_SHARE = 0.1
# Pixels of a picture that takes so much memory that it is decoded alone.
_LARGE = 8_000_000
# Ends the message of a picture that was changed while a model was trained.
_CHANGED = "it could still be read when the folder was scanned"


class _Picture(NamedTuple):
    path: str
    class_name: str
    # In [0, 1), by the path in the folder of classes.
    lot: float


# The pictures of each class of each split.
_Found = dict[str, dict[str, list[_Picture]]]


class FolderSource(Source):
    """Images of a folder; each is read once to find those damaged.

    Args:
        path: Folder, laid out as `data.source` says.
        bits: Bits that files of 16 bits use, as for `data.source`.

    Raises:
        ValueError: If there is no such folder, or if it cannot be used to
            train a classifier.
    """

    _contents = "pictures and their classes"
    # The paths are shuffled, not the pixels.
    _shuffled_together = tf.int64.max

    def __init__(
        self, path: str | os.PathLike[str], *, bits: int | None = None
    ):
        self.name = os.fspath(path)
        check_bits(bits)
        folder = pathlib.Path(path)
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: there is no such folder; give a folder that holds "
                "a folder of pictures for each class"
            )
        folders = split_folders(folder)
        listings: list[Listing] = []
        found, looks = _without_damaged(
            {
                split: _pictures_in(sub, listings)
                for split, sub in folders.items()
            }
        )
        report_others(folder, listings)
        closed = [
            Damaged(path, f"the folder cannot be read ({reason})")
            for listing in listings
            for path, reason in listing.closed
        ]
        self.damaged = _damaged(folder, looks, closed)
        sizes = [look for look in looks if isinstance(look, _Look)]
        self.bits = _bits(folder, sizes, bits)
        _check_classes(folder, found)
        self.class_names = sorted(found["train"], key=_normalized)
        try:
            _labels.check(self.class_names)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        wanted = {}
        if "validation" not in folders:
            wanted["validation"] = _SHARE
        if folders["train"] == folder:  # There are no folders of splits.
            wanted["test"] = 0.0
        self._parts = _set_aside(folder, found, wanted)
        self.splits = {split: split for split in self._parts}
        self.image_shape = common_shape([look[:2] for look in sizes])

    def _count(self, split: str) -> int:
        return len(self._parts[split])

    def _examples(
        self, split: str, shuffle_seed: int | None
    ) -> tf.data.Dataset:
        pictures = self._parts[split]
        number = {name: i for i, name in enumerate(self.class_names)}
        paths = [os.fsencode(picture.path) for picture in pictures]
        labels = [number[picture.class_name] for picture in pictures]
        dataset = tf.data.Dataset.from_tensor_slices(
            {"path": np.array(paths), "label": np.array(labels, "int64")}
        )
        if shuffle_seed is not None:
            dataset = dataset.shuffle(len(pictures), seed=shuffle_seed)
        return dataset

    def _image(self, example: dict[str, Any]) -> tf.Tensor:
        # Not by TensorFlow's decoders: a model is to be trained on the pixels
        # that it explains later, upright and with the colors as they are.
        image = tf.numpy_function(self._read, [example["path"]], tf.uint8)
        return tf.ensure_shape(image, self.image_shape)

    def _read(self, path: bytes) -> np.ndarray:
        name = os.fsdecode(path)
        try:
            pixels = read(name, self.bits).pixels
        except ValueError as error:
            raise ValueError(f"{error}; {_CHANGED}") from None
        for side, before in zip(pixels.shape, self.image_shape, strict=True):
            if before not in (None, side):
                raise ValueError(
                    f"{name}: the picture has another size than all had, "
                    f"{pixels.shape[0]} x {pixels.shape[1]}; {_CHANGED}"
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
    for line in str(error).splitlines():
        if line.endswith(_CHANGED):
            return line.partition("ValueError: ")[2] or line
    return None


# ------------------------------------------------------- what is in a folder


def _pictures_in(
    folder: pathlib.Path, listings: list[Listing]
) -> dict[str, list[_Picture]]:
    """Finds the pictures of each class in a folder of classes."""
    classes = folders_in(folder)
    files = [
        os.fspath(path)
        for path in sorted(folder.iterdir())
        if not path.is_dir() and not path.name.startswith(".")
    ]
    beside = [path for path in files if is_image(path)]
    if not classes and beside:
        raise ValueError(
            f"{folder}: it holds pictures, but no folders of classes; put the "
            "pictures of each class into a folder with its name"
        )
    if beside:
        _LOG.warning(
            "%s: %d pictures beside the folders of classes are left out",
            folder,
            len(beside),
        )
    others = [path for path in files if path not in set(beside)]
    listings.append(Listing([], others, [], []))
    pictures = {}
    for sub in classes:
        below = images_below(sub, root=folder)
        listings.append(below)
        pictures[sub.name] = [
            _Picture(path, sub.name, _lot(path, folder))
            for path in below.images
        ]
    return pictures


def _normalized(name: str) -> str:
    """The name as it reads: systems store an accent in one of two ways."""
    return unicodedata.normalize("NFC", name)


def _lot(path: str, folder: pathlib.Path) -> float:
    name = _normalized(pathlib.Path(path).relative_to(folder).as_posix())
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:8]) / 2**64


# ------------------------------------------------------------ what can be read


class _Look(NamedTuple):
    height: int
    width: int
    # The highest of 16-bit numbers whose range the file does not say.
    highest: int | None


def _without_damaged(
    found: _Found,
) -> tuple[_Found, list[_Look | Damaged]]:
    """Reads all pictures, and gives the good ones, and what was seen of all.

    Pillow lets other threads run while it decodes. Large pictures are decoded
    one after another, for the memory they take.
    """
    alone = threading.Lock()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = {
            picture: pool.submit(_look, picture.path, alone)
            for classes in found.values()
            for pictures in classes.values()
            for picture in pictures
        }
        looks = {picture: work.result() for picture, work in results.items()}
    good = {
        split: {
            name: [
                picture
                for picture in pictures
                if not isinstance(looks[picture], Damaged)
            ]
            for name, pictures in classes.items()
        }
        for split, classes in found.items()
    }
    return good, list(looks.values())


def _look(path: str, alone: threading.Lock) -> _Look | Damaged:
    try:
        with alone if _is_large(path) else contextlib.nullcontext():
            pixels, highest = read(path, None)
    except ValueError as error:
        return Damaged(path, str(error).removeprefix(f"{path}: "))
    height, width, _ = pixels.shape
    return _Look(height, width, highest)


def _is_large(path: str) -> bool:
    import PIL.Image

    try:
        with PIL.Image.open(path) as opened:
            return math.prod(opened.size) > _LARGE
    except Exception:  # `read` says what is wrong.
        return False


def _damaged(
    folder: pathlib.Path, looks: list[_Look | Damaged], closed: list[Damaged]
) -> tuple[Damaged, ...]:
    damaged = [look for look in looks if isinstance(look, Damaged)]
    if damaged:
        _LOG.warning(
            "%s: %d of %d pictures cannot be read and are left out:\n%s",
            folder,
            len(damaged),
            len(looks),
            "\n".join(f"{path}: {reason}" for path, reason in sorted(damaged)),
        )
    if closed:
        _LOG.warning(
            "%s: %d folders are left out:\n%s",
            folder,
            len(closed),
            "\n".join(f"{path}: {reason}" for path, reason in closed),
        )
    return tuple(sorted(damaged + closed))


def _bits(
    folder: pathlib.Path, looks: list[_Look], asked: int | None
) -> int | None:
    """Decides how many bits pictures of 16 use that do not say it."""
    highest = [look.highest for look in looks if look.highest is not None]
    if not highest:
        return None
    bits = bits_for(max(highest)) if asked is None else asked
    above = sum(number >= 2**bits for number in highest)
    _LOG.log(
        logging.WARNING if above or bits not in (asked, 16) else logging.INFO,
        "%s: %d pictures of 16 bits do not say how many of them they use; "
        "their highest number is %d, and %d, the most of %d bits, is white%s",
        folder,
        len(highest),
        max(highest),
        2**bits - 1,
        bits,
        f". {above} pictures have numbers above it" if above else "",
    )
    return bits


# ---------------------------------------------------------------- the splits


def _check_classes(folder: pathlib.Path, found: _Found) -> None:
    train = found["train"]
    if not any(train.values()):
        raise ValueError(
            f"{folder}: there is no picture to train with; give a folder that "
            "holds a folder for each class, with pictures that end in "
            ".jpeg .jpg .png .tif .webp or another that Pillow reads"
        )
    empty = [name for name, pictures in train.items() if not pictures]
    if empty:
        raise ValueError(
            f"{folder}: no picture can be read in the class folder "
            f"{', '.join(empty)}; put pictures into it, or take it away"
        )
    if len(train) < 2:
        raise ValueError(
            f"{folder}: there is one class alone, {next(iter(train))}; give a "
            "folder with pictures of two classes or more"
        )
    for split, classes in found.items():
        unknown = sorted(set(classes) - set(train))
        if unknown:
            raise ValueError(
                f"{folder}: {split} has the class {', '.join(unknown)} that "
                "train lacks; the folders of classes must have the same names"
            )
        if not any(classes.values()):
            raise ValueError(
                f"{folder}: no picture can be read in the folder for {split}; "
                "put pictures into its folders of classes, or take it away"
            )


def _set_aside(
    folder: pathlib.Path,
    found: _Found,
    wanted: dict[str, float],
) -> dict[str, list[_Picture]]:
    """Takes splits that have no folder from the training pictures.

    Which pictures, is decided in each class by their lots, so that a picture
    does not change its split when others come. One exception: a class of 3
    pictures or more has one for validation, that with the nearest lot.

    Args:
        folder: Folder that was given, for a message.
        found: Splits, in each the pictures of each class.
        wanted: Splits to make, each with the lot where its share begins.
    """
    parts: dict[str, list[_Picture]] = {
        split: [one for pictures in classes.values() for one in pictures]
        for split, classes in found.items()
        if split != "train"
    }
    parts |= {"train": []} | {split: [] for split in wanted}
    for pictures in found["train"].values():
        *left, last = sorted(pictures, key=lambda picture: picture.lot)
        for split, lowest in wanted.items():
            chosen = [one for one in left if 0 <= one.lot - lowest < _SHARE]
            if split == "validation" and not chosen and len(pictures) >= 3:
                middle = lowest + _SHARE / 2
                chosen = [min(left, key=lambda one: abs(one.lot - middle))]
            parts[split] += chosen
            left = [one for one in left if one not in chosen]
        # Each class has one to train with, whatever its lot.
        parts["train"] += [*left, last]
    if not parts["validation"]:
        raise ValueError(
            f"{folder}: there are too few pictures to set some aside for "
            "validation; give 3 or more of a class, or folders train and "
            "validation"
        )
    return {
        split: sorted(parts[split], key=lambda one: _normalized(one.path))
        for split in ("train", "validation", "test")
        if parts.get(split)
    }
