"""Masks and boxes of objects that lie beside the images, in files of others."""

import collections
import json
import logging
import math
import os
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TypeAlias

import numpy as np

from keras_lficam.data._listing import few, folders_in, images_below
from keras_lficam.data.image_files import read_mask
from keras_lficam.data.sources.base import Damaged

_LOG = logging.getLogger("keras_lficam")
# Begins what stands for a mask and is no path of a file.
_BOXES = "\0boxes:"

# `(left, top, right, bottom)` in pixels, from 0 on, the ends left out.
Box: TypeAlias = tuple[float, float, float, float]


def mirrored_masks(folder: pathlib.Path) -> pathlib.Path | None:
    """Finds the folder `masks` that mirrors the folders beside it.

    Args:
        folder: Folder of images.

    Returns:
        The folder; None where there is none, or it may be a class: it holds
        files, or folders that are not beside it.
    """
    masks = folder / "masks"
    if not masks.is_dir():
        return None
    inside = {sub.name for sub in folders_in(masks)}
    beside = {sub.name for sub in folders_in(folder)} - {"masks"}
    files = [one for one in masks.iterdir() if not one.is_dir()]
    visible = [one for one in files if not one.name.startswith(".")]
    return masks if inside and inside <= beside and not visible else None


def masks_of(
    given: str | os.PathLike[str],
    images: Iterable[str],
    root: pathlib.Path,
) -> dict[str, str]:
    """Finds the mask or the boxes of each image.

    Args:
        given: Folder of masks, which are image files, or of XML files of
            Pascal VOC; or a JSON file of COCO. They are those of the images
            with the same path below `root`, whatever the ending; or with the
            same name, where one image alone has it.
        images: Paths of the images.
        root: Folder that their names begin at.

    Returns:
        For each image that has one a path of a mask, or its boxes as text;
        see `read_boxes_or_mask`.

    Raises:
        ValueError: If the file or folder cannot be read, or is none of these.
    """
    path = pathlib.Path(given)
    images = [*images]
    if path.is_dir():
        found = _in_folder(path, {os.path.realpath(one) for one in images})
    elif path.suffix.lower() == ".json" and path.is_file():
        found = _of_coco(path)
    else:
        raise ValueError(
            f"Argument `masks` must be a folder or a JSON file of COCO. "
            f"Received: masks={os.fspath(given)!r}, which is "
            f"{'no such file' if path.exists() else 'not there'}. To fix "
            "this: a folder of masks as images or of XML files of Pascal VOC, "
            "with the names of the images."
        )
    matched, others = _matched(path, found, images, root)
    if others:
        _LOG.warning(
            "%s: %d of %d masks belong to no image and are not used: %s",
            path,
            len(others),
            len(found),
            few(others),
        )
    if not matched:
        raise ValueError(
            f"Argument `masks` must hold a mask for an image of {root}. "
            f"Received: masks={os.fspath(given)!r}, with "
            f"{few(sorted(found)) or 'nothing'}. To fix this: name masks as "
            f"their images, such as {few([_name(p, root) for p in images])}."
        )
    return matched


def read_boxes_or_mask(mask: str, size: tuple[int, int]) -> np.ndarray:
    """Reads a mask, or draws it of boxes.

    Args:
        mask: Path, or text of boxes.
        size: Height and width of the image.

    Returns:
        Array `(H, W, 1)`, bool.

    Raises:
        ValueError: If the file cannot be read, or its size is another.
    """
    if not mask.startswith(_BOXES):
        read = read_mask(mask)
        if read.shape[:2] != tuple(size):
            raise ValueError(
                f"{mask}: the mask is {read.shape[0]} x {read.shape[1]}, and "
                f"its image {size[0]} x {size[1]}"
            )
        return read
    drawn = np.zeros((*size, 1), bool)
    for left, top, right, bottom in json.loads(mask.removeprefix(_BOXES)):
        rows = slice(max(math.floor(top), 0), max(math.ceil(bottom), 0))
        columns = slice(max(math.floor(left), 0), max(math.ceil(right), 0))
        drawn[rows, columns] = True
    return drawn


def damaged_masks(
    images: Iterable[tuple[str, str, tuple[int, int]]],
) -> list[Damaged]:
    """Lists masks that cannot be read or are of another size.

    Args:
        images: For each image its path, its mask and its height and width.

    Returns:
        The masks, and what is wrong with each.
    """
    damaged = []
    for path, mask, size in images:
        try:
            drawn = read_boxes_or_mask(mask, size)
        except ValueError as error:
            told = str(error).removeprefix(f"{mask}: ")
            damaged.append(Damaged(mask, told))
            continue
        if mask.startswith(_BOXES) and not drawn.any():
            told = f"its boxes lie outside of the {size[0]} x {size[1]} pixels"
            damaged.append(Damaged(path, told))
    return damaged


# ------------------------------------------------------------------- reading


def _in_folder(folder: pathlib.Path, images: Set[str]) -> dict[str, str]:
    """Masks of a folder, that are none of the images, without ending."""
    listing = images_below(folder, root=None)
    listing = listing._replace(
        images=[
            path
            for path in listing.images
            if os.path.realpath(path) not in images
        ]
    )
    boxes = [path for path in listing.others if path.lower().endswith(".xml")]
    found = {_name(path, folder): path for path in listing.images}
    twice = len(listing.images) - len(found)
    of_boxes = {_name(path, folder): _of_voc(path) for path in boxes}
    twice += len(found.keys() & of_boxes.keys())
    if twice:
        raise ValueError(
            f"{folder}: {twice} masks have the name of another, without the "
            "ending. To fix this: leave one for each image"
        )
    return found | {
        name: _text(some) for name, some in of_boxes.items() if some
    }


def _of_voc(path: str) -> list[Box]:
    """Reads the boxes of an XML file of Pascal VOC."""
    try:
        # No file of others is looked at: Python's parser reads none.
        root = ElementTree.parse(path).getroot()
        boxes = [
            tuple(
                float(box.findtext(side, "").strip())
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
            for box in root.iter("bndbox")
        ]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise ValueError(
            f"{path}: this is no annotation of Pascal VOC ({error}). To fix "
            "this: correct the file, or move it elsewhere"
        ) from None
    # Its pixels count from 1, and the last is one of the object's.
    return _checked(
        path, [(x0 - 1, y0 - 1, x1, y1) for x0, y0, x1, y1 in boxes]
    )


def _of_coco(path: pathlib.Path) -> dict[str, str]:
    """Boxes of a JSON file of COCO, by the names of images without ending."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        names = {
            image["id"]: _without_ending(str(image["file_name"]))
            for image in read["images"]
        }
        boxes: dict[str, list[Box]] = collections.defaultdict(list)
        for one in read["annotations"]:
            left, top, width, height = (float(x) for x in one["bbox"])
            boxes[names[one["image_id"]]].append(
                (left, top, left + width, top + height)
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path}: this is no annotation of COCO ({reason}). To fix this: a "
            "JSON file with `images` of `id` and `file_name`, and "
            "`annotations` of `image_id` and `bbox`"
        ) from None
    good = {
        name: _checked(f"{path}, {name}", some) for name, some in boxes.items()
    }
    return {name: _text(some) for name, some in good.items() if some}


def _checked(where: str, boxes: Sequence[Box]) -> list[Box]:
    """Leaves out boxes without an area, as those of COCO have some."""
    good = []
    for box in boxes:
        left, top, right, bottom = box
        if all(map(math.isfinite, box)) and left < right and top < bottom:
            good.append(box)
        else:
            _LOG.warning(
                "%s: a box without a height or width is left out: left=%s, "
                "top=%s, right=%s, bottom=%s",
                where,
                *box,
            )
    return good


def _text(boxes: Sequence[Box]) -> str:
    return _BOXES + json.dumps(boxes)


# ------------------------------------------------------------------ matching


def _matched(
    given: pathlib.Path,
    found: Mapping[str, str],
    images: Sequence[str],
    root: pathlib.Path,
) -> tuple[dict[str, str], list[str]]:
    """Gives masks to images by their paths, or else by their names alone.

    A mask in a folder that images have, too, is of none but those in it.
    """
    by_path: dict[str, list[str]] = collections.defaultdict(list)
    by_name: dict[str, list[str]] = collections.defaultdict(list)
    for path in images:
        name = _name(path, root)
        by_path[name].append(path)
        by_name[name.rpartition("/")[2]].append(path)
    folders = {name.rpartition("/")[0] for name in by_path}
    matched: dict[str, str] = {}
    others, unclear = [], []
    for name, mask in found.items():
        folder, _, alone = name.rpartition("/")
        own = by_path.get(name, [])
        if not own and (not folder or folder not in folders):
            own = by_name.get(alone, [])
        if len(own) > 1 or any(path in matched for path in own):
            unclear.append(name)
        elif own:
            matched[own[0]] = mask
        else:
            others.append(name)
    if unclear:
        raise ValueError(
            f"{given}: {len(unclear)} masks could be those of several images, "
            f"or an image has several: {few(unclear)}. To fix this: put them "
            "into folders as the images are"
        )
    return matched, others


def _name(path: str, root: pathlib.Path) -> str:
    return _without_ending(os.path.relpath(path, root).replace(os.sep, "/"))


def _without_ending(name: str) -> str:
    return os.path.splitext(name.replace("\\", "/").removeprefix("./"))[0]
