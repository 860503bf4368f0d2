"""What a reader should know first, found by the program."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_lficam.metrics.classification import verdict

# A map is on the border if so much of the room between chance and all of it
# lies in the outermost cells; flat if it fills so much of the image; and the
# same as others if it correlates so much with their mean.
_ON_BORDER, _FLAT, _SAME = 0.5, 0.9, 0.95
# Shares of images from which it is worth a warning.
_SOME, _MOST = 0.25, 0.5
# Classes or images that are named.
_NAMED = 5
_MISCALIBRATED = 0.1
# The largest class over one that is rare.
_RARE = 1.5


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that the program found.

    Attributes:
        level: `"problem"`, `"warning"`, `"note"` or `"good"`.
        title: What it is, in a few words.
        text: What follows from it.
    """

    level: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Twins:
    """Images that are equal to each other, pixel by pixel.

    Attributes:
        across: Names of such images in different splits, a list for each.
        within: How many images repeat another of their split.
        contradicting: How many of the groups have different labels.
        compared: How many images were compared; 0 if they were too many.
    """

    across: Sequence[Sequence[str]]
    within: int
    contradicting: int
    compared: int


def of_accuracy(found: Mapping[str, Any], split: str) -> Iterator[Finding]:
    """Compares the accuracy to the most frequent class, and the confidence."""
    value, majority = found["accuracy"]["value"], found["majority_accuracy"]
    always = f"always answering the most frequent class gives {majority:.1%}"
    if found["multi_label"]:
        always = f"the most frequent answer of each label gives {majority:.1%}"
    word = verdict(found)
    if word == "above":
        yield Finding(
            "good",
            f"Accuracy {value:.1%}, above the majority class",
            f"On the {found['images']:,} {split} images {always}.",
        )
    elif word == "unclear":
        yield Finding(
            "warning",
            f"Accuracy {value:.1%}, not clearly above the majority class",
            f"On the {found['images']:,} {split} images {always}, which lies "
            "in the interval of the accuracy.",
        )
    else:
        yield Finding(
            "problem",
            f"Accuracy {value:.1%} is not above the majority class",
            f"On the {found['images']:,} {split} images {always}: by its "
            "accuracy the model has learned nothing. Look at the balanced "
            "accuracy and at the recall of the rare classes.",
        )
    error = found["expected_calibration_error"]["value"]
    if error > _MISCALIBRATED:
        yield Finding(
            "warning",
            f"Calibration error {error:.1%}",
            "The probabilities do not mean what they say; see the reliability "
            "diagram before a threshold is chosen.",
        )


def of_rare_classes(
    found: Mapping[str, Any], counts: np.ndarray, weighted: bool
) -> Iterator[Finding]:
    """Names rare classes that are missed more often than the others.

    Args:
        found: Metrics of a split.
        counts: Training images of each class.
        weighted: Whether the classes had weights in training.
    """
    recalls = [one["recall"]["value"] for one in found["classes"]]
    known = [value for value in recalls if value is not None]
    if not known:
        return
    mean = sum(known) / len(known)
    missed = []
    for one, count in zip(found["classes"], counts.tolist(), strict=True):
        interval = one["recall"]["interval"]
        is_rare = 0 < _RARE * count < counts.max()
        if is_rare and interval and interval[1] < mean:
            low, high = interval
            missed.append(
                f"{one['name']} ({one['recall']['value']:.1%}, interval "
                f"{low:.1%} to {high:.1%}; training images: {count:,})"
            )
    if missed:
        way_out = (
            "The classes had weights in training already: look at the errors "
            "below, and for more images."
            if weighted
            else "To weigh rare classes more in training: --class-weight "
            "balanced."
            if counts.min() > 0
            else "To weigh rare classes more in training: fit(class_weight="
            "{...})."
        )
        yield Finding(
            "warning",
            f"{_number(len(missed), 'rare class is', 'rare classes are')} "
            "missed more often than others",
            f"Recall of {_listed(missed)}, where the mean of the classes is "
            f"{mean:.1%}. {way_out}",
        )


def of_data(
    names: Sequence[str], counts: Mapping[str, np.ndarray], damaged: int
) -> Iterator[Finding]:
    """Looks for classes without images, and names images left out."""
    for split, numbers in counts.items():
        empty = [names[k] for k in np.flatnonzero(numbers == 0).tolist()]
        if empty:
            yield Finding(
                "warning",
                f"{_number(len(empty), 'class', 'classes')} without {split} "
                "images",
                f"{_listed(empty)}: the numbers on the {split} images say "
                "nothing of "
                f"{'this class' if len(empty) == 1 else 'these classes'}.",
            )
    few = [
        names[k] for k, number in enumerate(counts["train"]) if 0 < number < 10
    ]
    if few:
        yield Finding(
            "note",
            f"{_number(len(few), 'class', 'classes')} with fewer than 10 "
            "training images",
            f"{_listed(few)}.",
        )
    if damaged:
        yield Finding(
            "note",
            f"{_number(damaged, 'image file', 'image files')} left out",
            "What could not be read is named in damaged.txt in the folder of "
            "the run.",
        )


def of_twins(twins: Twins) -> Iterator[Finding]:
    """Tells of images that are in several splits."""
    how = (
        "Compared were hashes of the decoded pixels, at the size that the "
        "model sees"
    )
    if not twins.compared:
        yield Finding(
            "note",
            "Not looked for: images in several splits",
            "There are too many images to compare.",
        )
        return
    if twins.across:
        shown = "; ".join(" = ".join(group) for group in twins.across[:_NAMED])
        more = len(twins.across) - _NAMED
        yield Finding(
            "problem",
            f"{_number(len(twins.across), 'image is', 'images are')} in more "
            "than one split",
            f"{shown}{f'; and {more:,} more' if more > 0 else ''}. The model "
            "is tested on images that it was trained on, so that the numbers "
            f"are too good. {how}.",
        )
    else:
        yield Finding(
            "good",
            "No image is in two splits",
            f"{how}, of {twins.compared:,} images; near duplicates are not "
            "found so.",
        )
    if twins.within:
        yield Finding(
            "note",
            f"{_number(twins.within, 'image repeats', 'images repeat')} "
            "another of its split",
            f"{how}.",
        )
    if twins.contradicting:
        yield Finding(
            "warning",
            f"{_number(twins.contradicting, 'image', 'images')} with different "
            "labels",
            "The same image is there with one label and with another, and no "
            f"classifier can be right about both. {how}.",
        )


def of_maps(
    kind: str, maps: np.ndarray, predicted: np.ndarray | None = None
) -> Iterator[Finding]:
    """Looks at maps of many images for what no map of an object looks like.

    Args:
        kind: What they are, such as `"attention maps"`.
        maps: Maps `(n, h, w)`; of signed ones their positive part counts for
            the border, their magnitude for the rest.
        predicted: Classes `(n,)`, if maps of different classes are not to be
            compared.

    Yields:
        Findings.
    """
    number = len(maps)
    if number == 0 or maps.shape[1] * maps.shape[2] < 4:
        return
    share = float((border_shares(maps) > _ON_BORDER).mean())
    if share >= _SOME:
        yield Finding(
            "warning",
            f"{share:.0%} of the {kind} lie on the border",
            "Most of such a map is in the outermost cells, where padding, a "
            "frame or a caption is rather than an object.",
        )
    share = float((filled_shares(maps) > _FLAT).mean())
    if share >= _SOME:
        yield Finding(
            "warning",
            f"{share:.0%} of the {kind} are flat",
            "They have nearly the same value everywhere, so that they show no "
            "location.",
        )
    share = float((likeness(maps, predicted) > _SAME).mean())
    if share >= _MOST:
        of = "of all images" if predicted is None else "of their class"
        yield Finding(
            "warning",
            f"{share:.0%} of the {kind} are the same map",
            f"They correlate with the mean {of} by more than {_SAME}: the map "
            "says little of the single image. Where objects always lie in the "
            "same place that may be right.",
        )


def of_objects(kind: str, inside: np.ndarray, area: np.ndarray) -> Finding:
    """Compares maps to the masks of objects.

    Args:
        kind: What they are, such as `"evidence"`.
        inside: Shares of each map that lie in the mask `(n,)`.
        area: Shares of each image that the mask covers `(n,)`.

    Returns:
        A finding.
    """
    mean, cover = float(inside.mean()), float(area.mean())
    outside = float((inside < 0.5).mean())
    what = (
        f"In the mean {mean:.0%} of the {kind} lies inside the masks, which "
        f"cover {cover:.0%} of the image ({len(inside):,} images with masks)."
    )
    if outside > _MOST:
        return Finding(
            "warning", f"The {kind} is mostly outside of the object", what
        )
    return Finding("good", f"The {kind} is mostly inside the object", what)


def border_shares(maps: np.ndarray) -> np.ndarray:
    """How much of each map is in its outermost cells, 0 for chance, 1 all.

    Maps with fewer than 5 rows or columns have hardly anything else: 0.
    """
    number, height, width = maps.shape
    if min(height, width) < 5:
        return np.zeros(number)
    positive = np.maximum(maps, 0)
    inner = positive[:, 1:-1, 1:-1].sum((1, 2))
    whole = positive.sum((1, 2))
    share = 1 - inner / np.where(whole > 0, whole, 1)
    chance = 1 - (height - 2) * (width - 2) / (height * width)
    found: np.ndarray = np.where(
        whole > 0, (share - chance) / (1 - chance), 0.0
    )
    return found


def filled_shares(maps: np.ndarray) -> np.ndarray:
    """What part of each map is filled: (sum m)^2 / (n sum m^2), 1 if flat."""
    size = np.abs(maps).reshape(len(maps), -1).astype("float64")
    squares = size.shape[1] * (size**2).sum(1)
    found: np.ndarray = np.where(
        squares > 0, size.sum(1) ** 2 / np.where(squares > 0, squares, 1), 1.0
    )
    return found


def likeness(maps: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Correlation of each map with the mean of the others of its group."""
    flat = maps.reshape(len(maps), -1).astype("float64")
    flat = flat - flat.mean(1, keepdims=True)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat / np.where(lengths > 0, lengths, 1)
    found = np.zeros(len(maps))
    groups = np.zeros(len(maps), int) if groups is None else groups
    for group in np.unique(groups):
        rows = flat[groups == group]
        others = rows.sum(0) - rows
        sizes = np.linalg.norm(others, axis=1)
        found[groups == group] = (rows * others).sum(1) / np.where(
            sizes > 0, sizes, 1
        )
    return found


def _number(count: int, one: str, more: str) -> str:
    return f"1 {one}" if count == 1 else f"{count:,} {more}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    listed = ", ".join(names[:_NAMED])
    return f"{listed} and {more:,} more" if more > 0 else listed
