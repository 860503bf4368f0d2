"""How a scene of `digits_in_photos` is drawn: photo, marks, digit."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from PIL import Image

from keras_lficam.data.digits_in_photos._shapes import (
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

_FINENESS = 8


def check_split(split: str) -> None:
    """Raises a ValueError unless it is the name of a split."""
    if split not in SHARES:
        raise ValueError(
            f"Argument `split` must be one of {', '.join(SHARES)}. Received: "
            f"split={split!r}"
        )


def share(split: str, total: int) -> tuple[int, int]:
    """First and last, exclusive, of so many things that a split may use."""
    check_split(split)
    ends = [round(end * total) for end in SHARES.values()]
    index = list(SHARES).index(split)
    return ([0] + ends)[index], ends[index]


def generator(
    split: str, index: int, seed: int, *stream: int
) -> np.random.Generator:
    """Random numbers of one image, the same whatever was drawn before."""
    check_split(split)
    number = list(SHARES).index(split)
    return np.random.default_rng([seed, number, index, *stream])


@functools.cache
def digits() -> Any:
    """The digits of scikit-learn."""
    from sklearn.datasets import load_digits

    return load_digits()


@functools.cache
def _ink(digit: int) -> np.ndarray:
    """Ink of a digit, about 0 to 1, `_FINENESS` samples to one of its cells."""
    cells = np.pad(digits().images[digit] / 16, 2)
    ink = scipy.ndimage.zoom(
        cells, _FINENESS, order=3, mode="grid-constant", grid_mode=True
    )
    # A cell is an average: sharpening opens the loops that it closed.
    smooth = scipy.ndimage.gaussian_filter(ink, 0.28 * _FINENESS)
    wide = scipy.ndimage.gaussian_filter(ink, 1.3 * _FINENESS)
    sharp: np.ndarray = smooth + 1.4 * (smooth - wide)
    return sharp.astype("float32")


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
    parts: tuple[Image.Image, ...],
    ids: tuple[np.ndarray, ...],
    label: int,
    rng: np.random.Generator,
    canvas: Canvas,
) -> Sketch:
    """Draws photo and marks, and decides on the digit and its place.

    Parts of photos and the digits of each class are those of a split.
    """
    digit = int(rng.choice(ids[label]))
    strokes = write(digit, rng, canvas)
    height, width = strokes.shape
    for _ in range(20):  # until the spot and a pen make the digit legible
        scene = background(parts, rng, canvas)
        top = int(rng.integers(canvas.size - height + 1))
        left = int(rng.integers(canvas.size - width + 1))
        box = Box(top, left, top + height, left + width)
        color, legible = pen(scene, box.grown(2), rng)
        if legible:
            break
    marks = add_marks(scene, [box], color, parts, rng, canvas)
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
