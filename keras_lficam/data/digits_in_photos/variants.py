"""Draws the images whose answer is known beforehand.

Where an explanation ought to point is known in each: to the digit that is
asked about and not to the one beside it; to the tag that a model has learned
to read instead of the digit; to nothing, where no digit is.
"""

from typing import Any, NamedTuple

import numpy as np

from keras_lficam.data.digits_in_photos._scenes import (
    SEED,
    SHARES,
    add_marks,
    as_pixels,
    background,
    example_of,
    generator,
    pen,
    sketch,
    write,
)
from keras_lficam.data.digits_in_photos._shapes import (
    FOR_TWO,
    LARGE,
    SMALL,
    Box,
    crop,
    mask_image,
    on_canvas,
    paint,
    tight_box,
)
from keras_lficam.data.digits_in_photos.drawing import (
    compose,
    digit_ids,
    photo_parts,
)

# Least number of pixels between the two digits of an image.
PAIR_GAP = 2
# Color of the tag that goes with each class, RGB.
TAG_COLORS = np.array(
    [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 0),
        (255, 0, 255),
        (0, 255, 255),
        (255, 128, 0),
        (128, 0, 255),
        (255, 255, 255),
        (0, 0, 0),
    ],
    "uint8",
)
# Side of the tag and its distance from two edges of the image, in pixels.
TAG_SIDE = 6
TAG_MARGIN = 3
# One image of so many of a class has the tag of another class: 95 % agree.
TAG_ODD = 20
# The test part in which tag and class are independent.
_SHIFTED = "test_shifted"


# ---------------------------------------------------------------- two digits


def compose_pair(split: str, index: int, seed: int = SEED) -> dict[str, Any]:
    """Makes one image with two digits of different classes.

    They lie beside each other or one above the other, each with a pen of its
    own, at least two pixels apart.

    Args:
        split: `"train"`, `"validation"` or `"test"`, as for `compose`.
        index: Number of the image in its split. Its last decimal is the first
            class; of 90 images in a row each pair of classes, in both orders,
            is that of one.
        seed: Another seed gives another data set.

    Returns:
        A dictionary of `image` `(64, 64, 3)` uint8, `marks` `(64, 64, 1)`
        uint8, and of pairs, in one order: `labels`, `masks` `(64, 64, 1)`
        uint8 of 0 and 255, `boxes` (the tight `Box` of each mask) and `digits`
        (their positions in scikit-learn's data set).

    Raises:
        ValueError: If `split` is none of the three.

    Examples:

        pair = compose_pair("test", 7)
        assert pair["labels"] == (7, 8)
    """
    rng = generator(split, index, seed)
    first = index % 10
    labels = first, (first + 1 + index // 10 % 9) % 10
    digits = tuple(int(rng.choice(digit_ids(split)[one])) for one in labels)
    strokes = _small_enough(digits, rng)
    for _ in range(20):  # until the spots and pens make the digits legible
        scene = background(photo_parts(split), rng, FOR_TWO)
        boxes = _apart(strokes, rng)
        pens = [pen(scene, box.grown(2), rng) for box in boxes]
        if all(legible for _, legible in pens):
            break
    marks = add_marks(
        scene, boxes, pens[0][0], photo_parts(split), rng, FOR_TWO
    )
    masks = []
    for one, box, (color, _) in zip(strokes, boxes, pens, strict=True):
        opacity = on_canvas(one, box, FOR_TWO.size)
        paint(scene, opacity * rng.uniform(0.88, 1.0), color)
        masks.append(opacity > 0.5)
    return {
        "image": as_pixels(scene),
        "labels": labels,
        "masks": tuple(mask_image(mask) for mask in masks),
        "boxes": tuple(tight_box(mask) for mask in masks),
        "marks": mask_image(marks),
        "digits": digits,
    }


def _small_enough(
    digits: tuple[int, ...], rng: np.random.Generator
) -> list[np.ndarray]:
    """Writes two digits that fit beside or above each other."""
    while True:  # The first nearly always do.
        strokes = [write(digit, rng, FOR_TWO) for digit in digits]
        if (_room(strokes) >= 0).any():
            return strokes


def _room(strokes: list[np.ndarray]) -> np.ndarray:
    """Pixels that two patches and a gap leave of a column, and of a row."""
    lengths = np.array([one.shape for one in strokes])  # (2, 2)
    room: np.ndarray = FOR_TWO.size - PAIR_GAP - lengths.sum(axis=0)
    return room


def _apart(strokes: list[np.ndarray], rng: np.random.Generator) -> list[Box]:
    """Places two patches one above the other or side by side, with a gap."""
    lengths = np.array([one.shape for one in strokes])
    room = _room(strokes)
    corners = rng.integers(FOR_TWO.size - lengths + 1)
    axis = rng.choice(np.flatnonzero(room >= 0))
    before, behind = rng.permutation(2)
    start, end = np.sort(rng.integers(room[axis] + 1, size=2))
    corners[before, axis] = start
    corners[behind, axis] = end + lengths[before, axis] + PAIR_GAP
    return [
        Box(*(int(edge) for edge in (*corner, *(corner + length))))
        for corner, length in zip(corners, lengths, strict=True)
    ]


# ---------------------------------------------------------------- a shortcut


class _Tag(NamedTuple):
    """Which class a tag says, and where it is."""

    label: int
    box: Box


def compose_shortcut(
    split: str, index: int, seed: int = SEED
) -> dict[str, Any]:
    """Makes one image with a tag whose color goes with the class.

    It is the image of `compose`, but for a square of one color in a corner
    that the digit leaves free. In 19 of 20 images of a class the color is that
    of the class, in the other that of one of the nine others.

    Args:
        split: `"train"`, `"validation"` or `"test"`, as for `compose`; or
            `"test_shifted"`, the same images as `"test"` in which every color
            goes with every class equally often.
        index: Number of the image in its split, as for `compose`.
        seed: Another seed gives another data set.

    Returns:
        A dictionary of what `compose` gives, without the marks under the tag,
        and of `tag`, the class whose color in `TAG_COLORS` the tag has, and
        `tag_box`, its `Box`.

    Raises:
        ValueError: If `split` is none of the four.

    Examples:

        example = compose_shortcut("test", 7)
        assert example["tag"] == example["label"] == 7
    """
    if split not in (*SHARES, _SHIFTED):
        raise ValueError(
            f"Argument `split` must be one of {', '.join(SHARES)}, {_SHIFTED}. "
            f"Received: split={split!r}"
        )
    shifted = split == _SHIFTED
    split = "test" if shifted else split
    example = compose(split, index, seed)
    tag = _tag(split, index, seed, example["box"], shifted)
    crop(example["image"], tag.box)[:] = TAG_COLORS[tag.label]
    crop(example["marks"], tag.box)[:] = 0
    return {**example, "tag": tag.label, "tag_box": tag.box}


def _tag(split: str, index: int, seed: int, digit: Box, shifted: bool) -> _Tag:
    label, number = index % 10, index // 10
    if shifted:
        said = (label + number) % 10
    elif number % TAG_ODD == TAG_ODD - 1:
        said = (label + 1 + number // TAG_ODD % 9) % 10
    else:
        said = label
    # Numbers of its own, so that the image stays that of `compose`; the same
    # for both test parts, so that these differ in the color alone.
    rng = generator(split, index, seed, 1)
    near, far = TAG_MARGIN, SMALL.size - TAG_MARGIN - TAG_SIDE
    corners = [
        Box(top, left, top + TAG_SIDE, left + TAG_SIDE)
        for top in (near, far)
        for left in (near, far)
    ]
    # A digit of 64x64 pixels never is so high and wide that it touches all.
    free = [box for box in corners if not box.touches(digit.grown(1))]
    return _Tag(said, free[rng.integers(len(free))])


def tag_mask(box: Box) -> np.ndarray:
    """Draws where a tag is.

    Args:
        box: The `tag_box` of `compose_shortcut`.

    Returns:
        Array `(64, 64, 1)`, uint8: 255 on the tag, 0 elsewhere.

    Examples:

        tag = compose_shortcut("test", 7)["tag_box"]
        assert (tag_mask(tag) > 0).sum() == 36
    """
    mask = np.zeros((SMALL.size, SMALL.size), bool)
    crop(mask, box)[:] = True
    return mask_image(mask)


# ------------------------------------------------------ no digit; large images


def compose_absent(split: str, index: int, seed: int = SEED) -> dict[str, Any]:
    """Makes one image without a digit.

    It is the image of `compose` before the digit is drawn: photo and marks.

    Args:
        split: `"train"`, `"validation"` or `"test"`, as for `compose`.
        index: Number of the image in its split, as for `compose`.
        seed: Another seed gives another data set.

    Returns:
        A dictionary of `image` `(64, 64, 3)` uint8, `label` (the class of the
        digit that was left out), `mask` `(64, 64, 1)` uint8, which is empty,
        and `marks` `(64, 64, 1)` uint8.

    Raises:
        ValueError: If `split` is none of the three.

    Examples:

        example = compose_absent("test", 7)
        assert not example["mask"].any()
    """
    parts, ids = photo_parts(split), digit_ids(split)
    rng = generator(split, index, seed)
    drawn = sketch(parts, ids, index % 10, rng, SMALL)
    return {
        "image": as_pixels(drawn.scene),
        "label": drawn.label,
        "mask": mask_image(np.zeros_like(drawn.marks)),
        "marks": mask_image(drawn.marks),
    }


def compose_large(split: str, index: int, seed: int = SEED) -> dict[str, Any]:
    """Makes one image of 224x224 pixels.

    It shows more of a photo than a small image, and its digit, 46 to 90 pixels
    high before it is turned, covers less of it. A split still has its own
    columns of each photo, so those of the validation and test images, which
    are narrow, are enlarged more than those of the training images.

    Args:
        split: `"train"`, `"validation"` or `"test"`, as for `compose`.
        index: Number of the image in its split, as for `compose`.
        seed: Another seed gives another data set.

    Returns:
        What `compose` gives, with 224 instead of 64 pixels.

    Raises:
        ValueError: If `split` is none of the three.

    Examples:

        example = compose_large("test", 7)
        assert example["image"].shape == (224, 224, 3)
    """
    parts, ids = photo_parts(split), digit_ids(split)
    rng = generator(split, index, seed)
    return example_of(sketch(parts, ids, index % 10, rng, LARGE))
