"""A folder of pictures, in a folder for each class."""

import concurrent.futures
import hashlib
import logging
import os
import pathlib
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_lficam import _labels
from keras_lficam.data._images import common_shape
from keras_lficam.data.pictures import read_picture
from keras_lficam.data.sources import Damaged, Source

_LOG = logging.getLogger("keras_lficam")
_EXTENSIONS = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
)  # fmt: skip
_SPLIT_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}
# Shares of a class that are set aside where there is no folder for them.
_SHARE = 0.1


class _Picture(NamedTuple):
    path: str
    class_name: str
    # In [0, 1), by the path in the folder of classes.
    lot: float


class Folder(Source):
    """Pictures of a folder; each is read once to find those damaged."""

    _contents = "pictures and their classes"
    # The paths are shuffled, not the pixels.
    _shuffled_together = tf.int64.max

    def __init__(self, path: str | os.PathLike[str]):
        self.name = os.fspath(path)
        folder = pathlib.Path(path)
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: there is no such folder; give a folder that holds "
                "a folder of pictures for each class"
            )
        folders = _split_folders(folder)
        found, sizes, self.damaged = _without_damaged(
            {split: _pictures_in(sub) for split, sub in folders.items()}
        )
        _report(folder, self.damaged, len(sizes))
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
        self.image_shape = common_shape(sizes)

    def _count(self, split: str) -> int:
        return len(self._pictures(split))

    def _examples(
        self, split: str, shuffle_seed: int | None
    ) -> tf.data.Dataset:
        pictures = self._pictures(split)
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
        image = tf.numpy_function(_read_again, [example["path"]], tf.uint8)
        return tf.ensure_shape(image, self.image_shape)

    def _pictures(self, split: str) -> list[_Picture]:
        if split not in self._parts:
            raise ValueError(
                f"`split` must be one of {', '.join(self._parts)}. Received: "
                f"split={split!r} for the folder {self.name}."
            )
        return self._parts[split]


def _read_again(path: bytes) -> np.ndarray:
    try:
        return read_picture(os.fsdecode(path))
    except ValueError as error:
        raise ValueError(
            f"{error}; it could still be read when the folder was looked "
            "through: bring it back, or begin anew without it"
        ) from None


# ------------------------------------------------------- what is in a folder


def holds_pictures(folder: str | os.PathLike[str]) -> bool:
    """Says whether there is a picture anywhere below a folder."""
    return any(True for _ in _pictures_below(pathlib.Path(folder)))


def _split_folders(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Finds the folders of classes: one for each split, or the only one."""
    inside = _folders_in(folder)
    found = {
        sub: _SPLIT_FOLDERS[sub.name.lower()]
        for sub in inside
        if sub.name.lower() in _SPLIT_FOLDERS
    }
    train = [sub for sub, split in found.items() if split == "train"]
    # Trains, too, can be a class: beside others, and without classes in it.
    if not train or (len(inside) > len(found) and not _folders_in(train[0])):
        return {"train": folder}
    if len(set(found.values())) < len(found):
        names = ", ".join(sub.name for sub in found)
        raise ValueError(
            f"{folder}: it holds two folders for one split, of {names}; "
            "leave one for each of train, validation and test"
        )
    others = [sub.name for sub in inside if sub not in found]
    if others:
        _LOG.warning(
            "%s: beside train, validation and test these folders are not "
            "looked into: %s",
            folder,
            ", ".join(others),
        )
    return {split: sub for sub, split in found.items()}


def _pictures_in(folder: pathlib.Path) -> dict[str, list[_Picture]]:
    """Finds the pictures of each class in a folder of classes."""
    classes = _folders_in(folder)
    beside = _pictures_of(folder)
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
    return {
        class_folder.name: [
            _Picture(path, class_folder.name, _lot(path, folder))
            for path in _pictures_below(class_folder)
        ]
        for class_folder in classes
    }


def _folders_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        sub
        for sub in folder.iterdir()
        if sub.is_dir() and not sub.name.startswith(".")
    )


def _pictures_of(folder: pathlib.Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if _is_picture(entry.name)]


def _pictures_below(folder: pathlib.Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if _is_picture(name):
                yield os.path.join(parent, name)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(_EXTENSIONS) and not name.startswith(".")


def _normalized(name: str) -> str:
    """The name as it reads: systems store an accent in one of two ways."""
    return unicodedata.normalize("NFC", name)


def _lot(path: str, folder: pathlib.Path) -> float:
    name = _normalized(pathlib.Path(path).relative_to(folder).as_posix())
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:8]) / 2**64


# ------------------------------------------------------------ what can be read


def _without_damaged(found):
    """Reads all pictures, and gives the good ones, their sizes, and the rest.

    Pillow lets other threads run while it decodes.
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = {
            picture: pool.submit(_look, picture.path)
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
    damaged = [look for look in looks.values() if isinstance(look, Damaged)]
    sizes = [look for look in looks.values() if not isinstance(look, Damaged)]
    return good, sizes, tuple(sorted(damaged))


def _look(path: str) -> tuple[int, int] | Damaged:
    try:
        height, width, _ = read_picture(path).shape
    except ValueError as error:
        return Damaged(path, str(error).removeprefix(f"{path}: "))
    return height, width


def _report(
    folder: pathlib.Path, damaged: tuple[Damaged, ...], good: int
) -> None:
    if damaged:
        _LOG.warning(
            "%s: %d of %d pictures cannot be read and are left out:\n%s",
            folder,
            len(damaged),
            len(damaged) + good,
            "\n".join(f"{path}: {reason}" for path, reason in damaged),
        )


# ---------------------------------------------------------------- the splits


def _check_classes(
    folder: pathlib.Path, found: dict[str, dict[str, list[_Picture]]]
) -> None:
    train = found["train"]
    if not any(train.values()):
        raise ValueError(
            f"{folder}: there is no picture to train with; give a folder that "
            "holds a folder for each class, with pictures that end in "
            f"{' '.join(_EXTENSIONS)}"
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
    found: dict[str, dict[str, list[_Picture]]],
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
