"""A folder of images, in a folder for each class."""

import logging
import os
import pathlib

from keras_lficam.data._annotations import mirrored_masks
from keras_lficam.data._listing import (
    Listing,
    folders_in,
    images_below,
    is_image,
    report_others,
    split_folders,
)
from keras_lficam.data.image_files import check_bits
from keras_lficam.data.sources.base import Damaged
from keras_lficam.data.sources.files import (
    SHARE,
    FilesSource,
    ImageFile,
    looks_at,
    lot_of,
    report_damaged,
    report_damaged_masks,
    report_left_out,
    sorted_class_names,
    with_masks,
)

_LOG = logging.getLogger("keras_lficam")
# The images of each class of each split.
_Found = dict[str, dict[str, list[ImageFile]]]


class FolderSource(FilesSource):
    """Images of a folder; each is read once to find those damaged.

    Args:
        path: Folder, laid out as `data.source` says.
        bits: Bits that files of 16 bits use, as for `data.source`.
        masks: Masks of the images, as for `data.source`.

    Raises:
        ValueError: If there is no such folder, or if it cannot be used to
            train a classifier.
    """

    _contents = "images and their classes, and no folder 'masks' beside them"
    _kind = "folder"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        bits: int | None = None,
        masks: str | os.PathLike[str] | None = None,
    ):
        self.name = os.fspath(path)
        check_bits(bits)
        folder = pathlib.Path(path)
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: there is no such folder; give a folder that holds "
                "a folder of images for each class"
            )
        if masks is None:
            masks = mirrored_masks(folder)
        else:
            self.masks = os.fspath(masks)
        # Where it is one of the folders of classes, it is none of them.
        aside = None if masks is None else pathlib.Path(masks)
        folders = split_folders(folder, aside)
        listings: list[Listing] = []
        found: _Found = {
            split: _images_in(sub, listings, aside)
            for split, sub in folders.items()
        }
        if masks is not None:
            found = _with_masks(found, masks, folder)
            self.has_masks = True
        looks = looks_at(image.path for image in _every(found))
        report_others(folder, listings)
        damaged = report_damaged(folder, looks) + _closed(folder, listings)
        damaged += report_damaged_masks(folder, _every(found), looks)
        found = _without_damaged(found, {bad.path for bad in damaged})
        self._set_seen(looks, damaged, bits)
        _check_classes(folder, found)
        self.class_names = sorted_class_names(folder, found["train"])
        wanted = {}
        if "validation" not in folders:
            wanted["validation"] = SHARE
        if folders["train"] == folder:  # There are no folders of splits.
            wanted["test"] = 0.0
        given = {
            split: [one for images in classes.values() for one in images]
            for split, classes in found.items()
            if split != "train"
        }
        self._set_parts(given, found["train"].values(), wanted)
        if "validation" not in self._parts:
            raise ValueError(
                f"{folder}: there are too few images to set some aside for "
                "validation; give 3 or more of a class, or folders train and "
                "validation"
            )


# ------------------------------------------------------- what is in a folder


def _images_in(
    folder: pathlib.Path, listings: list[Listing], aside: pathlib.Path | None
) -> dict[str, list[ImageFile]]:
    """Finds the images of each class in a folder of classes."""
    classes = folders_in(folder, aside)
    files = [
        os.fspath(path)
        for path in sorted(folder.iterdir())
        if not path.is_dir() and not path.name.startswith(".")
    ]
    beside = [path for path in files if is_image(path)]
    if not classes and beside:
        raise ValueError(
            f"{folder}: it holds images, but no folders of classes; put the "
            "images of each class into a folder with its name"
        )
    if beside:
        _LOG.warning(
            "%s: %d images beside the folders of classes are left out",
            folder,
            len(beside),
        )
    others = [path for path in files if path not in set(beside)]
    listings.append(Listing([], others, [], []))
    images = {}
    for sub in classes:
        below = images_below(sub, root=folder)
        listings.append(below)
        images[sub.name] = [
            ImageFile(path, (sub.name,), _lot(path, folder))
            for path in below.images
        ]
    return images


def _lot(path: str, folder: pathlib.Path) -> float:
    return lot_of(pathlib.Path(path).relative_to(folder).as_posix())


def _every(found: _Found) -> list[ImageFile]:
    """All images of all classes and splits."""
    return [
        image
        for classes in found.values()
        for images in classes.values()
        for image in images
    ]


def _with_masks(
    found: _Found, masks: str | os.PathLike[str], folder: pathlib.Path
) -> _Found:
    """Gives the images the masks that lie elsewhere."""
    given = iter(with_masks(_every(found), masks, folder))
    return {
        split: {name: [next(given) for _ in classes[name]] for name in classes}
        for split, classes in found.items()
    }


def _without_damaged(found: _Found, lost: set[str]) -> _Found:
    return {
        split: {
            name: [
                image for image in images if not {image.path, image.mask} & lost
            ]
            for name, images in classes.items()
        }
        for split, classes in found.items()
    }


def _closed(folder: pathlib.Path, listings: list[Listing]) -> list[Damaged]:
    """Lists the folders that cannot be read, and names them in the log."""
    closed = [
        Damaged(path, f"the folder cannot be read ({reason})")
        for listing in listings
        for path, reason in listing.closed
    ]
    return report_left_out(folder, closed, "folders are left out")


def _check_classes(folder: pathlib.Path, found: _Found) -> None:
    train = found["train"]
    if not any(train.values()):
        raise ValueError(
            f"{folder}: there is no image to train with; give a folder that "
            "holds a folder for each class, with images that end in "
            ".jpeg .jpg .png .tif .webp or another that Pillow reads"
        )
    empty = [name for name, images in train.items() if not images]
    if empty:
        raise ValueError(
            f"{folder}: no image can be read in the class folder "
            f"{', '.join(empty)}; put images into it, or take it away"
        )
    if len(train) < 2:
        raise ValueError(
            f"{folder}: there is one class alone, {next(iter(train))}; give a "
            "folder with images of two classes or more"
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
                f"{folder}: no image can be read in the folder for {split}; "
                "put images into its folders of classes, or take it away"
            )
