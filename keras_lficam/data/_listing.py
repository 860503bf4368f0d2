"""What is in a folder of images: files, classes and splits."""

import collections
import functools
import logging
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from keras_lficam.data.image_files import FOREIGN

_LOG = logging.getLogger("keras_lficam")
# Identified by Pillow, but none that it decodes by itself, or no images.
_NOT_IMAGES = {
    ".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".iim", ".mpeg", ".mpg",
    ".ps", ".wmf",
}  # fmt: skip
# What a split is called, in lower case.
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
}
# Written without a gap behind such a word, as in `trainset`.
_SUFFIX = re.compile(r"(set|data|dataset|split|images|imgs|img)$")
_SHOWN = 5


class Listing(NamedTuple):
    """Files below a folder, hidden ones left out.

    Attributes:
        images: Files that are images by their ending, or have none and are.
        others: Files that are none.
        again: Links to folders that are looked into already.
        closed: Folders that cannot be read, each with the reason.
    """

    images: list[str]
    others: list[str]
    again: list[str]
    closed: list[tuple[str, str]]


def images_below(
    folder: str | os.PathLike[str], *, root: str | os.PathLike[str] | None
) -> Listing:
    """Lists the files below a folder; links to folders are followed.

    Args:
        folder: The folder.
        root: Folder of which it is a part; no link leads back to it.
    """
    found = Listing([], [], [], [])
    seen: set[str] = set()
    for start in (folder, folder if root is None else root):
        real = pathlib.Path(os.path.realpath(start))
        seen |= {str(real), *map(str, real.parents)}
    _look_into(os.fspath(folder), seen, found)
    return found


def _look_into(folder: str, seen: set[str], found: Listing) -> None:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        found.closed.append((folder, error.strerror or str(error)))
        return
    for name in names:
        path = os.path.join(folder, name)
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            real = os.path.realpath(path)
            if real in seen:
                found.again.append(path)
                continue
            seen.add(real)
            _look_into(path, seen, found)
        elif is_image(path):
            found.images.append(path)
        else:
            found.others.append(path)


def holds_images(folder: str | os.PathLike[str]) -> bool:
    """Says whether there is an image anywhere below a folder."""
    return bool(images_below(folder, root=None).images)


def folders_in(
    folder: pathlib.Path, aside: pathlib.Path | None = None
) -> list[pathlib.Path]:
    """Lists the folders in a folder, links to folders as well, but `aside`."""
    real = None if aside is None else os.path.realpath(aside)
    return sorted(
        sub
        for sub in folder.iterdir()
        if sub.is_dir()
        and not sub.name.startswith(".")
        and os.path.realpath(sub) != real
    )


@functools.cache
def _endings() -> frozenset[str]:
    import PIL.Image

    PIL.Image.init()
    readable = {
        ending
        for ending, kind in PIL.Image.registered_extensions().items()
        if kind in PIL.Image.OPEN
    }
    return frozenset((readable - _NOT_IMAGES) | {".mpo"} | FOREIGN.keys())


def is_image(path: str) -> bool:
    """Says whether a file is an image by its name, or else by its content.

    Its name says it by an ending: letters and digits, one letter at least.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending in _endings():
        return True
    if re.fullmatch(r"\.(?=.*[a-z])[a-z0-9_~]{1,8}", ending):
        return False
    import PIL.Image

    # A format that any file could be is none to guess.
    kinds = [kind for kind in PIL.Image.ID if PIL.Image.OPEN[kind][1]]
    try:
        if not os.path.isfile(path):
            return False
        with PIL.Image.open(path, formats=kinds):
            return True
    except Exception:  # Of another kind, damaged, or not to be read.
        return False


def report_others(folder: pathlib.Path, listings: list[Listing]) -> None:
    """Says which files and links are left out without being read."""
    others = [path for listing in listings for path in listing.others]
    if others:
        endings = collections.Counter(
            os.path.splitext(path)[1].lower() or "no ending" for path in others
        )
        _LOG.warning(
            "%s: %d files are no images and are left out (%s): %s",
            folder,
            len(others),
            ", ".join(f"{n} of {name}" for name, n in endings.most_common()),
            few(others),
        )
    again = [path for listing in listings for path in listing.again]
    if again:
        _LOG.warning(
            "%s: %d links lead to folders that are looked into already and "
            "are left out: %s",
            folder,
            len(again),
            few(again),
        )


def few(paths: Sequence[str]) -> str:
    """Joins names for a message, which shows the first of them."""
    more = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


# ---------------------------------------------------------------- the splits


def split_folders(
    folder: pathlib.Path, aside: pathlib.Path | None = None
) -> dict[str, pathlib.Path]:
    """Finds the folders of classes: one for each split, or the only one.

    Args:
        folder: The folder.
        aside: A folder in it that is neither a class nor a split.
    """
    inside = folders_in(folder, aside)
    named = {sub: split for sub in inside if (split := _split_of(sub.name))}
    exact = {split for sub, split in named.items() if _is_exact(sub)}
    # `train_masks` beside `train` is none.
    found = {
        sub: split
        for sub, split in named.items()
        if _is_exact(sub) or split not in exact
    }
    others = [
        sub
        for sub in inside
        if found and sub not in named and holds_images(sub)
    ]
    if not _are_splits(found, others):
        _check_no_splits(folder, inside)
        return {"train": folder}
    if len(set(found.values())) < len(found):
        names = ", ".join(sub.name for sub in found)
        raise ValueError(
            f"{folder}: it holds two folders for one split, of {names}; "
            "leave one for each of train, validation and test"
        )
    others += named.keys() - found.keys()
    if others:
        _LOG.warning(
            "%s: beside train, validation and test these folders are not "
            "looked into: %s",
            folder,
            ", ".join(sorted(sub.name for sub in others)),
        )
    if "train" not in found.values():
        raise ValueError(
            f"{folder}: its folders are splits by their names, "
            f"{', '.join(sub.name for sub in found)}, and none is for "
            "training. To fix this: name a folder train, or rename them if "
            "they are classes"
        )
    return {split: _innermost(sub, split) for sub, split in found.items()}


def _split_of(name: str) -> str | None:
    """Tells a split by a word of a folder's name, as `seg_train` or `TestSet`.

    A name with the words of two splits is that of none.
    """
    words = re.findall(
        r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    )
    found = {
        split
        for word in words
        for short in (word, _SUFFIX.sub("", word))
        if (split := SPLIT_WORDS.get(short))
    }
    return found.pop() if len(found) == 1 else None


def _are_splits(
    found: dict[pathlib.Path, str], others: list[pathlib.Path]
) -> bool:
    """Whether folders with such names are splits, and not classes.

    Trains and tests can be classes, too: beside others, and without classes in
    them, or alone of their kind.
    """
    kinds = set(found.values())
    filled = {split for sub, split in found.items() if folders_in(sub)}
    train = [sub for sub, split in found.items() if split == "train"]
    if not others:
        return len(kinds) > 1 or (
            "train" in kinds
            and ("train" in filled or any(map(_is_exact, train)))
        )
    if any(_is_exact(sub) and folders_in(sub) for sub in train):
        return True
    return "train" in filled and len(filled) > 1


def _is_exact(folder: pathlib.Path) -> bool:
    return folder.name.lower() in SPLIT_WORDS


def _innermost(folder: pathlib.Path, split: str) -> pathlib.Path:
    """Goes into `seg_train/seg_train`, as archives are unpacked."""
    inside = folders_in(folder)
    while len(inside) == 1 and _split_of(inside[0].name) == split:
        folder = inside[0]
        inside = folders_in(folder)
    return folder


def _check_no_splits(folder: pathlib.Path, classes: list[pathlib.Path]) -> None:
    """Refuses "classes" that hold the same folders, which so are no classes."""
    if len(classes) < 2:
        return
    inside = [{sub.name for sub in folders_in(each)} for each in classes]
    same = set.intersection(*inside)
    # One, as `images`, sorts nothing.
    if len(same) > 1 or any(map(_split_of, same)):
        raise ValueError(
            f"{folder}: each of its folders "
            f"{few([each.name for each in classes])} holds the folders "
            f"{few(sorted(same))}, so it is not clear which are the classes. "
            "To fix this: name the folders train, validation and test if they "
            "are splits, with the classes in them; or put the images of "
            "each class into its folder, without folders in it"
        )
