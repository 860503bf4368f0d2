"""Draws the images of `digits_in_photos`, each from its number."""

import functools
import importlib.resources
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from PIL import Image

from keras_lficam.data.digits_in_photos._shapes import (
    SMALL,
    Box,
    Canvas,
    crop,
    luminance,
    mask_image,
    on_canvas,
    paint,
    random_shape,
    tight_box,
)

SEED = 20210503

# The end of each split's share, both of a photo's columns and of a class's
# digits. The digits are taken in the order of their file, where each writer's
# stand together, so that test digits come from hands unseen in training.
SHARES = {"train": 0.6, "validation": 0.76, "test": 1.0}

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

_FINENESS = 8


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
        left, right = _share(split, photo.width)
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
    labels = _digits().target
    members = [np.flatnonzero(labels == label) for label in range(10)]
    return tuple(ids[slice(*_share(split, len(ids)))] for ids in members)


def _check_split(split: str) -> None:
    if split not in SHARES:
        raise ValueError(
            f"Argument `split` must be one of {', '.join(SHARES)}. Received: "
            f"split={split!r}"
        )


def _share(split: str, total: int) -> tuple[int, int]:
    _check_split(split)
    ends = [round(share * total) for share in SHARES.values()]
    index = list(SHARES).index(split)
    return ([0] + ends)[index], ends[index]


@functools.cache
def _digits() -> Any:
    from sklearn.datasets import load_digits

    return load_digits()


@functools.cache
def _ink(digit: int) -> np.ndarray:
    """Ink of a digit, about 0 to 1, `_FINENESS` samples to one of its cells."""
    cells = np.pad(_digits().images[digit] / 16, 2)
    ink = scipy.ndimage.zoom(
        cells, _FINENESS, order=3, mode="grid-constant", grid_mode=True
    )
    # A cell is an average: sharpening opens the loops that it closed.
    smooth = scipy.ndimage.gaussian_filter(ink, 0.28 * _FINENESS)
    wide = scipy.ndimage.gaussian_filter(ink, 1.3 * _FINENESS)
    sharp: np.ndarray = smooth + 1.4 * (smooth - wide)
    return sharp.astype("float32")


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
    rng = generator(split, index, seed)
    return example_of(sketch(split, index % 10, rng, SMALL))


def generator(
    split: str, index: int, seed: int, *stream: int
) -> np.random.Generator:
    """Random numbers of one image, the same whatever was drawn before."""
    _check_split(split)
    number = list(SHARES).index(split)
    return np.random.default_rng([seed, number, index, *stream])


class Sketch(NamedTuple):
    """An image before its digit is drawn.

    Attributes:
        scene: Photo with marks `(size, size, 3)`, float32.
        label: Class of the digit.
        digit: The digit's position in scikit-learn's data set.
        opacity: Strokes of the digit `(size, size)`, 0 to 1.
        strength: How much of the photo the strokes cover, 0.88 to 1.
        color: Color of the strokes `(3,)`.
        marks: Where the marks are `(size, size)`, Boolean.
    """

    scene: np.ndarray
    label: int
    digit: int
    opacity: np.ndarray
    strength: float
    color: np.ndarray
    marks: np.ndarray


def sketch(
    split: str, label: int, rng: np.random.Generator, canvas: Canvas
) -> Sketch:
    """Draws photo and marks, and decides on the digit and its place."""
    digit = int(rng.choice(digit_ids(split)[label]))
    strokes = write(digit, rng, canvas)
    height, width = strokes.shape
    for _ in range(20):  # until the spot and a pen make the digit legible
        scene = background(photo_parts(split), rng, canvas)
        top = int(rng.integers(canvas.size - height + 1))
        left = int(rng.integers(canvas.size - width + 1))
        box = Box(top, left, top + height, left + width)
        color, legible = pen(scene, box.grown(2), rng)
        if legible:
            break
    marks = add_marks(scene, [box], color, photo_parts(split), rng, canvas)
    opacity = on_canvas(strokes, box, canvas.size)
    strength = rng.uniform(0.88, 1.0)
    return Sketch(scene, label, digit, opacity, strength, color, marks)


def example_of(drawn: Sketch) -> dict[str, Any]:
    """Draws the digit, and makes what `compose` gives."""
    paint(drawn.scene, drawn.opacity * drawn.strength, drawn.color)
    mask = drawn.opacity > 0.5
    return {
        "image": as_pixels(drawn.scene),
        "label": drawn.label,
        "mask": mask_image(mask),
        "box": tight_box(mask),
        "marks": mask_image(drawn.marks),
        "digit": drawn.digit,
    }


def as_pixels(scene: np.ndarray) -> np.ndarray:
    pixels: np.ndarray = np.rint(np.clip(scene, 0, 255)).astype("uint8")
    return pixels


def write(digit: int, rng: np.random.Generator, canvas: Canvas) -> np.ndarray:
    """Draws a digit with a sharp pen: opacities, cropped to the digit."""
    ink = _ink(digit)
    rows = np.flatnonzero((ink > 0.5).any(axis=1))
    height = rng.uniform(*canvas.digit)
    scale = (rows[-1] - rows[0] + 1) / height  # samples of ink per pixel
    angle = np.deg2rad(rng.uniform(-16, 16))
    shear = rng.uniform(-0.15, 0.15)
    aspect = rng.uniform(0.85, 1.15)
    threshold = rng.uniform(0.50, 0.62)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = scale * (
        np.array([[cos, -sin], [sin, cos]])
        @ np.array([[1.0, 0.0], [shear, aspect]])
    )
    center = (np.array(ink.shape) - 1) / 2
    size = np.array([canvas.size, canvas.size])
    drawn = scipy.ndimage.affine_transform(
        ink,
        matrix,
        offset=center - matrix @ ((size - 1) / 2),
        output_shape=tuple(size),
        order=1,
    )
    # Across an edge the ink falls by about one per cell: so steep that the
    # edge is a pixel wide at any scale.
    steepness = _FINENESS / scale
    strokes: np.ndarray = np.clip((drawn - threshold) * steepness + 0.5, 0, 1)
    top, left, bottom, right = tight_box(strokes > 0)
    return strokes[top:bottom, left:right]


def background(
    parts: tuple[Image.Image, ...], rng: np.random.Generator, canvas: Canvas
) -> np.ndarray:
    """A crop of a photo at a random zoom, flipped and tinted at random."""
    scene = _crop(parts, canvas.size, *canvas.photo, rng)
    if rng.random() < 0.5:
        scene = scene[:, ::-1]
    if rng.random() < 0.25:
        scene = scene[::-1]
    tint = rng.uniform(0.8, 1.2, 3)
    return np.clip(scene * tint, 0, 255).astype("float32")


def _crop(
    parts: tuple[Image.Image, ...],
    size: int,
    smallest: float,
    largest: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A square of a photo, its side as given, resized to `(size, size, 3)`."""
    part = parts[rng.integers(len(parts))]
    side = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    side = min(side, *part.size)
    left = rng.uniform(0, part.width - side)
    top = rng.uniform(0, part.height - side)
    window = (left, top, left + side, top + side)
    crop = part.resize((size, size), Image.Resampling.BILINEAR, window)
    return np.asarray(crop, "float32")


def pen(
    scene: np.ndarray, box: Box, rng: np.random.Generator
) -> tuple[np.ndarray, bool]:
    """A color for a pen, and whether it stands out all over the box."""
    colors = rng.uniform(0, 255, (24, 3)) * rng.uniform(0.6, 1.0, (24, 1))
    colors[::2] = 255 - colors[::2]
    surround = luminance(crop(scene, box))
    distance = np.abs(luminance(colors)[:, None] - surround.reshape(1, -1))
    contrast = np.quantile(distance, 0.08, axis=1)
    good = np.flatnonzero(contrast > 52)
    if good.size:
        return colors[good[0]], True
    return colors[np.argmax(contrast)], False


# -------------------------------------------------------- what is no digit


def add_marks(
    scene: np.ndarray,
    digits: Sequence[Box],
    color: np.ndarray,
    parts: tuple[Image.Image, ...],
    rng: np.random.Generator,
    canvas: Canvas,
) -> np.ndarray:
    """Draws strokes, blobs and patches clear of the digits; says where."""
    wanted = rng.integers(2, 6)
    taken = [digit.grown(2) for digit in digits]
    marked = np.zeros((canvas.size, canvas.size), bool)
    for size in np.geomspace(*canvas.mark, 40) * rng.uniform(0.7, 1.1, 40):
        side = round(size)
        end = canvas.size - side + side // 4 + 1
        top, left = rng.integers(-side // 4, end, 2)
        box = Box(int(top), int(left), int(top) + side, int(left) + side)
        if any(box.touches(other) for other in taken):
            continue
        taken.append(box.grown(1))
        opacity = on_canvas(
            random_shape(side, rng, canvas.pen) * rng.uniform(0.88, 1.0),
            box,
            canvas.size,
        )
        dice = rng.random()
        if dice < 0.15:
            patch = _crop(parts, side, 1.5 * side, 3 * side, rng)
            paint(scene, opacity, on_canvas(patch, box, canvas.size))
        elif dice < 0.6:
            paint(scene, opacity, color + rng.normal(0, 8, 3))
        else:
            paint(scene, opacity, pen(scene, box, rng)[0])
        marked |= opacity > 0.5
        if len(taken) - len(digits) >= wanted:
            break
    return marked
