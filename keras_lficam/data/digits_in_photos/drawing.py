"""Draws the images of `digits_in_photos`, each from its number."""

import functools
import importlib.resources
import io
from typing import Any

import numpy as np
from PIL import Image

from keras_lficam.data.digits_in_photos._scenes import (
    SEED,
    digits,
    example_of,
    generator,
    share,
    sketch,
)
from keras_lficam.data.digits_in_photos._shapes import SMALL

PHOTOS = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "brick.png"),
    ("skimage.data", "camera.png"),
    ("skimage.data", "chelsea.png"),
    ("skimage.data", "coffee.png"),
    ("skimage.data", "grass.png"),
    ("skimage.data", "gravel.png"),
    ("skimage.data", "hubble_deep_field.jpg"),
    ("skimage.data", "ihc.png"),
    ("skimage.data", "moon.png"),
    ("skimage.data", "motorcycle_left.png"),
    ("skimage.data", "retina.jpg"),
    ("skimage.data", "rocket.jpg"),
    ("sklearn.datasets.images", "china.jpg"),
    ("sklearn.datasets.images", "flower.jpg"),
)

# --------------------------------------------------------------- sources


@functools.cache
def photos() -> tuple[Image.Image, ...]:
    """Reads the photos from the installed packages.

    Returns:
        The whole photos as RGB, in the order of `PHOTOS`.

    Examples:
        photos()[0].size
    """
    images = []
    for package, name in PHOTOS:
        path = importlib.resources.files(package) / name
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        if name == "retina.jpg":  # leave out the black frame, halve the rest
            image = image.crop((216, 216, 1196, 1196)).reduce(2)
        images.append(image)
    return tuple(images)


@functools.cache
def photo_parts(split: str) -> tuple[Image.Image, ...]:
    """Cuts out the columns of each photo that belong to a split.

    The parts are images of their own, since a resize would otherwise read
    beyond its box into the columns of another split.

    Args:
        split: `"train"`, `"validation"` or `"test"`.

    Returns:
        A part of each photo, in the order of `PHOTOS`.

    Examples:
        photo_parts("test")[0].size
    """
    parts = []
    for photo in photos():
        left, right = share(split, photo.width)
        parts.append(photo.crop((left, 0, right, photo.height)))
    return tuple(parts)


@functools.cache
def digit_ids(split: str) -> tuple[np.ndarray, ...]:
    """Says which of scikit-learn's digits a split may use.

    Args:
        split: `"train"`, `"validation"` or `"test"`.

    Returns:
        For each class the positions `(number,)` of its digits.

    Examples:
        len(digit_ids("test"))
    """
    labels = digits().target
    members = [np.flatnonzero(labels == label) for label in range(10)]
    return tuple(ids[slice(*share(split, len(ids)))] for ids in members)


# ------------------------------------------------------------- one image


def compose(split: str, index: int, seed: int = SEED) -> dict[str, Any]:
    """Makes one image.

    Args:
        split: `"train"`, `"validation"` or `"test"`; decides which digits
            and which parts of the photos may appear.
        index: Number of the image in its split. The label is its last
            decimal, so that the classes are balanced.
        seed: Another seed gives another data set.

    Returns:
        A dictionary of `image` `(64, 64, 3)` uint8, `label`, `mask`
        `(64, 64, 1)` uint8 of 0 and 255, `box` (the tight `Box` of the mask),
        `marks` `(64, 64, 1)` uint8 (255 on what is drawn but no digit) and
        `digit` (the digit's position in scikit-learn's data set).

    Raises:
        ValueError: If `split` is none of the three.

    Examples:

        example = compose("test", 7)
        assert example["label"] == 7
    """
    parts, ids = photo_parts(split), digit_ids(split)
    rng = generator(split, index, seed)
    return example_of(sketch(parts, ids, index % 10, rng, SMALL))
