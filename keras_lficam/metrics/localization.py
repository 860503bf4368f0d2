"""Does the heat map find the object? Metrics against a mask of it."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from scipy import ndimage

from keras_lficam._checks import check_finite, real_array
from keras_lficam.functional import Tensor
from keras_lficam.metrics import _checks
from keras_lficam.metrics._direction import higher_is_better, lower_is_better

# Slices of its rows and of its columns.
_Box: TypeAlias = tuple[slice, slice]

_THRESHOLDS = tuple(percent / 100 for percent in range(1, 101))


@higher_is_better
def pointing_game(maps: Tensor, masks: Tensor) -> np.ndarray:
    """Asks whether the brightest point of a map lies on the object.

    Several brightest points count by the share of them that hit, so that a
    constant map earns no more than chance.

    Args:
        maps: Heat maps `(B, H, W, 1)`; higher is more important.
        masks: Masks of the objects `(B, H, W, 1)`, 0 off the object and
            anything else on it; `box_masks` makes boxes of them.

    Returns:
        Array `(B,)`, float32, in [0, 1]: 1 for a hit, 0 for a miss. Higher
        is better.

    Raises:
        TypeError: If maps or masks hold no real numbers.
        ValueError: If the shapes differ, or are not `(B, H, W, 1)`, or there
            is no pixel, or a value is not finite.

    Reference:
        Zhang et al., 2016, https://arxiv.org/abs/1608.00507, without their
        margin of 15 pixels.

    Examples:
        >>> pointing_game(np.ones((1, 2, 2, 1)), np.eye(2)[None, ..., None])
        # [0.5]
    """
    maps, masks = _checks.map_arrays(maps, masks, other_name="masks")
    brightest = maps == maps.max(axis=(1, 2, 3), keepdims=True)
    hits = (brightest & (masks != 0)).sum(axis=(1, 2, 3))
    shares: np.ndarray = hits / brightest.sum(axis=(1, 2, 3))
    return shares.astype("float32")


@higher_is_better
def energy_pointing_game(maps: Tensor, masks: Tensor) -> np.ndarray:
    """Measures the share of a map's energy that lies on the object.

    A map that is constant earns the share of the image that the object
    covers, and a map of zeros earns 0.

    It is also the grid pointing game (GridPG): the images are mosaics of
    images of different classes, and a mask is the cell of the image whose
    class the map is of. Of `n x n` cells a constant map earns `1 / n**2`.

    Args:
        maps: Heat maps `(B, H, W, 1)`, non-negative.
        masks: Masks of the objects `(B, H, W, 1)`, 0 off the object and
            anything else on it; the original takes boxes, see `box_masks`.

    Returns:
        Array `(B,)`, float32, in [0, 1]. Higher is better.

    Raises:
        TypeError: If maps or masks hold no real numbers.
        ValueError: If the shapes differ, or are not `(B, H, W, 1)`, or there
            is no pixel, or a value is not finite, or a map is negative.

    Reference:
        Wang et al., 2020, section 4.4, https://arxiv.org/abs/1910.01279; the
        grid: Boehle et al., 2021, https://arxiv.org/abs/2104.00032, and Rao et
        al., 2022, https://arxiv.org/abs/2205.10435.

    Examples:
        >>> maps = np.array([[3.0, 1.0]]).reshape(1, 1, 2, 1)
        >>> energy_pointing_game(maps, maps > 2)
        # [0.75]
    """
    maps, masks = _checks.map_arrays(maps, masks, other_name="masks")
    negative = np.flatnonzero((maps < 0).any(axis=(1, 2, 3)))
    if negative.size:
        raise ValueError(
            "Argument `maps` must be non-negative: its sum is the energy. "
            "Received: negative values in the maps at "
            f"{negative.tolist()[:10]}. To fix this: numpy.maximum(maps, 0) "
            "leaves out what speaks against the class."
        )
    maps = maps.astype("float64")  # The sum may be no float32.
    inside = (maps * (masks != 0)).sum(axis=(1, 2, 3))
    energy = maps.sum(axis=(1, 2, 3))
    shares: np.ndarray = inside / np.where(energy == 0, 1, energy)
    return shares.astype("float32")


@lower_is_better
def leak(maps: Tensor, masks: Tensor) -> np.ndarray:
    """Measures the share of a map where the model cannot see.

    A model is made so that a part of the image provably cannot change its
    scores, as by `layers.SpatialMask`. What a map marks there is not what the
    model looked at. The part has to lie outside the receptive fields of all
    cells that the scores depend on; a pixel beside a masked cell may be seen
    by the next one. At the size of the feature map it is the masked cells.

    Args:
        maps: Heat maps `(B, H, W, 1)`, of [0, 1] or signed; of a signed map
            the magnitudes count.
        masks: Where the model cannot see, `(B, H, W, 1)`: 0 where it may and
            anything else where it cannot.

    Returns:
        Array `(B,)`, float32, in [0, 1]. Lower is better: 0 if nothing is
        there, and for a map of zeros. A constant map has the share of the
        image that cannot be seen.

    Raises:
        TypeError: As in `pointing_game`.
        ValueError: As in `pointing_game`.

    Reference:
        Taimeskhanov et al., 2024, https://arxiv.org/abs/2404.01964, for the
        question.

    Examples:
        >>> maps = np.array([[3.0, 0.0, -1.0, 0.0]]).reshape(1, 1, 4, 1)
        >>> masks = np.array([[0, 0, 1, 1]]).reshape(1, 1, 4, 1)
        >>> leak(maps, masks)
        # [0.25]
    """
    maps, masks = _checks.map_arrays(maps, masks, other_name="masks")
    magnitudes = np.abs(maps.astype("float64"))
    unseen = (magnitudes * (masks != 0)).sum(axis=(1, 2, 3))
    total = magnitudes.sum(axis=(1, 2, 3))
    shares: np.ndarray = unseen / np.where(total == 0, 1, total)
    return shares.astype("float32")


@higher_is_better
def relevance_rank_accuracy(maps: Tensor, masks: Tensor) -> np.ndarray:
    """Measures how many of the brightest pixels lie on the object.

    As many pixels are taken as the object has, those with the highest values.
    Where several pixels share the lowest of these values, they count by the
    share of them that lies on the object.

    Args:
        maps: Heat maps `(B, H, W, 1)`; higher is more important.
        masks: Masks of the objects `(B, H, W, 1)`, 0 off the object and
            anything else on it.

    Returns:
        Array `(B,)`, float32, in [0, 1]. Higher is better. A constant map has
        the share of the image that the object covers; without an object the
        value is 0.

    Raises:
        TypeError: As in `pointing_game`.
        ValueError: As in `pointing_game`.

    Reference:
        Arras et al., 2022, https://arxiv.org/abs/2003.07258.

    Examples:
        >>> maps = np.array([[4.0, 1.0, 3.0, 2.0]]).reshape(1, 1, 4, 1)
        >>> masks = np.array([[1, 1, 0, 0]]).reshape(1, 1, 4, 1)
        >>> relevance_rank_accuracy(maps, masks)  # Of 4 and 3 one.
        # [0.5]
    """
    maps, masks = _checks.map_arrays(maps, masks, other_name="masks")
    values = []
    for one, mask in zip(maps, masks != 0, strict=True):
        size = int(mask.sum())
        if not size:
            values.append(0.0)
            continue
        lowest = np.partition(one, -size, axis=None)[-size]
        above, equal = one > lowest, one == lowest
        left = (size - above.sum()) / equal.sum()
        hits = (above & mask).sum() + left * (equal & mask).sum()
        values.append(hits / size)
    return np.array(values, "float32")


def box_masks(masks: Tensor) -> np.ndarray:
    """Fills the tight box around every object.

    Args:
        masks: Masks of the objects `(B, H, W, 1)`, 0 off the object and
            anything else on it.

    Returns:
        Array `(B, H, W, 1)`, float32: 1 in the box, 0 elsewhere. A mask
        without an object gives no box.

    Raises:
        TypeError: If the masks hold no real numbers.
        ValueError: If the shape is not `(B, H, W, 1)`, or there is no pixel,
            or a value is not finite.

    Examples:
        boxes = box_masks(maps > 0.5)
    """
    on = _checks.map_array("masks", masks) != 0
    rows = _filled(on.any(axis=2, keepdims=True), axis=1)
    columns = _filled(on.any(axis=1, keepdims=True), axis=2)
    boxes: np.ndarray = rows & columns
    return boxes.astype("float32")


@higher_is_better
def localization_iou(
    maps: Tensor, masks: Tensor, *, threshold: float = 0.2
) -> np.ndarray:
    """Compares the box that a map draws with the box around the object.

    The map's box is the tight one around its largest bright region: pixels
    that reach `threshold` after the map has been min-max normalized, and that
    touch each other, at corners too. Of several largest the first from the
    top counts.

    Args:
        maps: Heat maps `(B, H, W, 1)`; higher is more important.
        masks: Masks of the objects `(B, H, W, 1)`, 0 off the object and
            anything else on it. All of it is one object, with one box.
        threshold: Share of the span of a map that its bright region reaches,
            in (0, 1].

    Returns:
        Array `(B,)`, float32, in [0, 1]: area that both boxes cover, divided
        by area that either covers. Higher is better. It is 0 where there is
        no box, for the map is constant or the mask empty.

    Raises:
        TypeError: If maps or masks hold no real numbers.
        ValueError: If the shapes differ, or are not `(B, H, W, 1)`, or a
            value is not finite, or `threshold` not in its range.

    Reference:
        Zhou et al., 2016, https://arxiv.org/abs/1512.04150, for the box and
        for the threshold.

    Examples:
        >>> maps = np.array([[0.9, 1.0, 0.0, 0.5]]).reshape(1, 1, 4, 1)
        >>> masks = np.array([[0, 1, 1, 0]]).reshape(1, 1, 4, 1)
        >>> localization_iou(maps, masks)
        # [0.33333333]
    """
    _checks.check_thresholds("threshold", [threshold])
    return _box_ious(maps, masks, [threshold])[:, 0].astype("float32")


@higher_is_better
def box_accuracy(
    maps: Tensor,
    masks: Tensor,
    *,
    thresholds: Sequence[float] = _THRESHOLDS,
    iou: float = 0.5,
) -> np.ndarray:
    """Asks at every threshold whether a map's box is right.

    A box is right if its `localization_iou` is at least `iou`. The answers of
    all batches, one below another, are what `max_box_accuracy` takes.

    Args:
        maps: Heat maps `(B, H, W, 1)`; higher is more important.
        masks: Masks of the objects `(B, H, W, 1)`, 0 off the object and
            anything else on it.
        thresholds: Thresholds to try, each in (0, 1]; by default 0.01, 0.02
            and so on to 1.
        iou: Overlap that makes a box right, in (0, 1].

    Returns:
        Array `(B, thresholds)`, float32: 1 for a right box, 0 for a wrong one.
        Higher is better.

    Raises:
        TypeError: If maps or masks hold no real numbers.
        ValueError: If the shapes differ, or are not `(B, H, W, 1)`, or a
            value is not finite, or a threshold or `iou` not in its range.

    Reference:
        Choe et al., "Evaluating Weakly Supervised Object Localization Methods
        Right", 2020, https://arxiv.org/abs/2001.07437. Their release tries
        every 0.001.

    Examples:
        >>> maps = np.array([[0.4, 1.0, 0.9, 0.0]]).reshape(1, 1, 4, 1)
        >>> masks = np.array([[0, 1, 0, 0]]).reshape(1, 1, 4, 1)
        >>> box_accuracy(maps, masks, thresholds=[0.2, 0.5, 1.0])
        # [[0.0, 1.0, 1.0]]
    """
    _checks.check_thresholds("thresholds", thresholds)
    _checks.check_thresholds("iou", [iou])
    return (_box_ious(maps, masks, thresholds) >= iou).astype("float32")


def max_box_accuracy(accuracies: Tensor) -> np.ndarray:
    """Takes the threshold that is best for the whole data set.

    Its number is `accuracies.mean(axis=0).argmax()`: of several that are best,
    the first.

    Args:
        accuracies: Answers of `box_accuracy` for all images of a data set,
            `(images, thresholds)`.

    Returns:
        Array `(images,)`, float32: 1 where the box at the best threshold is
        right, 0 where it is wrong. Higher is better. Its mean is MaxBoxAcc.

    Raises:
        TypeError: If `accuracies` holds no real numbers.
        ValueError: If it is not of that shape, or empty, or not finite.

    Reference:
        Choe et al., 2020, https://arxiv.org/abs/2001.07437.

    Examples:
        >>> answers = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0]])
        >>> max_box_accuracy(answers)
        # [1.0, 0.0, 1.0]
    """
    answers = real_array("accuracies", accuracies)
    if answers.ndim != 2 or answers.size == 0:
        raise ValueError(
            "Argument `accuracies` must have shape (images, thresholds). "
            f"Received: accuracies.shape={answers.shape}. To fix this: "
            "numpy.concatenate of what box_accuracy gives for each batch."
        )
    check_finite("accuracies", answers)
    return answers[:, answers.mean(axis=0, dtype="float64").argmax()]


def _box_ious(
    maps: Tensor, masks: Tensor, thresholds: Sequence[float]
) -> np.ndarray:
    """Overlap of the boxes of maps and masks at every threshold, `(B, T)`."""
    maps, masks = _checks.map_arrays(maps, masks, other_name="masks")
    maps = _checks.min_max_normalized(maps)[..., 0]  # (B, H, W)
    ious = np.zeros((len(maps), len(thresholds)))
    for image, mask in enumerate(masks[..., 0] != 0):
        truth = _box_of_the_largest(mask.astype("int32"))
        for column, threshold in enumerate(thresholds):
            # At corners, too.
            regions, _ = ndimage.label(
                maps[image] >= threshold, structure=np.ones((3, 3))
            )
            ious[image, column] = _overlap(_box_of_the_largest(regions), truth)
    return ious


def _box_of_the_largest(regions: np.ndarray) -> _Box | None:
    """Slices of rows and columns of the region with the most pixels.

    `regions` holds the number of the region of each pixel, or 0 off them.
    """
    sizes = np.bincount(regions.ravel())[1:]
    return ndimage.find_objects(regions)[sizes.argmax()] if sizes.size else None


def _overlap(box: _Box | None, other: _Box | None) -> float:
    """Intersection over union of two boxes, each a pair of slices."""
    if box is None or other is None:
        return 0.0
    shared = _area(
        [
            slice(max(one.start, two.start), min(one.stop, two.stop))
            for one, two in zip(box, other, strict=True)
        ]
    )
    return shared / (_area(box) + _area(other) - shared)


def _area(box: Sequence[slice]) -> int:
    rows, columns = (max(0, side.stop - side.start) for side in box)
    return int(rows * columns)


def _filled(line: np.ndarray, axis: int) -> np.ndarray:
    """Sets what lies between the first and the last True along an axis."""
    forward = np.logical_or.accumulate(line, axis=axis)
    backward = np.logical_or.accumulate(np.flip(line, axis), axis=axis)
    return forward & np.flip(backward, axis)
