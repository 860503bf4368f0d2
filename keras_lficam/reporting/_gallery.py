"""Which images the report shows, and how."""

import base64
import dataclasses
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_lficam import visualization

# Longest side of an image of the page, in pixels.
_SIDE = 192
_QUALITY = 82
# Classes of which typical images are shown, and of each at most so many.
_CLASSES, _OF_CLASS = 12, 2


@dataclasses.dataclass(frozen=True)
class Choice:
    """An image that is shown.

    Attributes:
        index: Its number in the split.
        shown: Class that the model predicts, or, of several labels, the label
            that the image is chosen for.
        other: Class that it is contrasted with: the true one of a wrong
            prediction, else the next probable; None of several labels.
    """

    index: int
    shown: int
    other: int | None


@dataclasses.dataclass(frozen=True)
class Panel:
    """A figure of an image: its title, its alternative text and its data."""

    title: str
    alt: str
    uri: str


@dataclasses.dataclass(frozen=True)
class Item:
    """An image of the gallery, with what the page says of it."""

    name: str
    right: bool
    lines: Sequence[str]
    panels: Sequence[Panel]


def chosen(
    labels: np.ndarray, chances: np.ndarray, count: int
) -> dict[str, list[Choice]]:
    """Chooses images: confident errors, doubtful ones and typical ones.

    Args:
        labels: Classes `(N,)`, or 0 and 1 `(N, K)`.
        chances: Probabilities `(N, K)`.
        count: How many errors and doubtful ones at most.

    Returns:
        Choices for `"errors"`, `"doubtful"` and `"typical"`.
    """
    if labels.ndim == 2:
        return _of_several_labels(labels.astype(bool), chances, count)
    order = np.argsort(-chances, axis=1, kind="stable")
    first, second = order[:, 0], order[:, 1]
    rows = np.arange(len(labels))
    confidence = chances[rows, first]
    margin = confidence - chances[rows, second]
    wrong = first != labels

    def choice(index: int) -> Choice:
        other = labels[index] if wrong[index] else second[index]
        return Choice(int(index), int(first[index]), int(other))

    errors = [i for i in np.argsort(-confidence, kind="stable") if wrong[i]]
    doubtful = np.argsort(margin, kind="stable")
    typical: list[int] = []
    counts = np.bincount(labels, minlength=chances.shape[1])
    for k in sorted(_largest(counts)):
        of_class = np.flatnonzero((labels == k) & ~wrong)
        best = of_class[np.argsort(-confidence[of_class], kind="stable")]
        typical += best[:_OF_CLASS].tolist()
    shown = errors[:count]
    others = (i for i in doubtful if i not in shown)
    return {
        "errors": [choice(i) for i in shown],
        "doubtful": [choice(i) for i in itertools.islice(others, count)],
        "typical": [choice(i) for i in typical],
    }


def _of_several_labels(
    truth: np.ndarray, chances: np.ndarray, count: int
) -> dict[str, list[Choice]]:
    sure = np.abs(chances - 0.5)
    wrong = (chances > 0.5) != truth

    def choices(order: np.ndarray) -> Iterator[Choice]:
        seen = set()  # An image is shown once.
        for flat in order:
            index, k = np.unravel_index(flat, chances.shape)
            if index not in seen:
                seen.add(index)
                yield Choice(int(index), int(k), None)

    by_error = np.argsort(-np.where(wrong, sure, -1), axis=None, kind="stable")
    errors = by_error[: int(wrong.sum())]
    doubtful = np.argsort(sure, axis=None, kind="stable")
    typical = []
    for k in sorted(_largest(truth.sum(0))):
        order = np.argsort(-chances[:, k], kind="stable")
        right = (i for i in order if truth[i, k] and not wrong[i, k])
        best = itertools.islice(right, _OF_CLASS)
        typical += [Choice(int(i), k, None) for i in best]
    return {
        "errors": list(itertools.islice(choices(errors), count)),
        "doubtful": list(itertools.islice(choices(doubtful), count)),
        "typical": typical,
    }


def _largest(counts: np.ndarray) -> list[int]:
    """Classes of the most images, as many as are shown."""
    order = np.argsort(-counts, kind="stable")[:_CLASSES]
    return [int(k) for k in order if counts[k]]


def items(
    choices: Sequence[Choice],
    images: np.ndarray,
    explanation: Any,
    *,
    labels: np.ndarray,
    chances: np.ndarray,
    names: Sequence[str],
    files: Sequence[str],
) -> list[Item]:
    """Makes the items of the gallery.

    Args:
        choices: What is shown.
        images: Their images `(n, H, W, C)`, 0 to 255.
        explanation: Their `Explanation`, of the classes of each choice; None
            where the model cannot be explained.
        labels: Labels of the split.
        chances: Probabilities of the split.
        names: Names of the classes.
        files: Names of the images, one for each choice.

    Returns:
        An item for each choice.
    """
    big = _enlarged(images)
    over = None if explanation is None else explanation.over(big)
    attention = None if over is None else over.attention_map
    evidence = None if over is None else over.class_evidence
    found = []
    for row, choice in enumerate(choices):
        right = _is_right(choice, labels, chances)
        shown = names[choice.shown]
        panels = [Panel("image", f"Image {files[row]}", _uri(big[row]))]
        if attention is not None:
            pixels = visualization.overlay(big[row], attention[row])
            panels.append(
                Panel(
                    "attention map",
                    f"Attention map over {files[row]}: bright where the model "
                    "attends",
                    _uri(pixels),
                )
            )
        limit = None
        if evidence is not None:
            signed = evidence[row : row + 1]
            limit = float(np.abs(signed).max()) or 1.0
            panels.append(
                Panel(
                    f"evidence for {shown}",
                    f"Evidence for {shown} in {files[row]}: red for it, blue "
                    "against it",
                    _signed(big[row], signed[..., :1], limit),
                )
            )
            if choice.other is not None:
                other = names[choice.other]
                contrast = signed[..., :1] - signed[..., 1:]
                panels.append(
                    Panel(
                        f"{shown} rather than {other}",
                        f"Contrast in {files[row]}: red for {shown}, blue for "
                        f"{other}",
                        _signed(big[row], contrast, None),
                    )
                )
        found.append(
            Item(
                files[row],
                right,
                _lines(choice, labels, chances, names, limit),
                panels,
            )
        )
    return found


def _is_right(choice: Choice, labels: np.ndarray, chances: np.ndarray) -> bool:
    if labels.ndim == 1:
        return bool(labels[choice.index] == choice.shown)
    said = chances[choice.index, choice.shown] > 0.5
    return bool(said == bool(labels[choice.index, choice.shown]))


def _lines(
    choice: Choice,
    labels: np.ndarray,
    chances: np.ndarray,
    names: Sequence[str],
    limit: float | None,
) -> list[str]:
    row = chances[choice.index]
    lines = []
    if labels.ndim == 2:
        present = np.flatnonzero(labels[choice.index]).tolist()
        given = [names[k] for k in present]
        lines.append(f"true: {', '.join(given) or 'no label'}")
        lines.append(f"{names[choice.shown]}: {row[choice.shown]:.1%}")
    else:
        true = int(labels[choice.index])
        lines.append(f"true: {names[true]} ({row[true]:.1%})")
        lines.append(
            f"predicted: {names[choice.shown]} ({row[choice.shown]:.1%})"
        )
        if choice.other not in (None, true):
            other = int(choice.other or 0)
            lines.append(f"next: {names[other]} ({row[other]:.1%})")
    if limit is not None:
        lines.append(f"full color: {limit:.3g} logits")
    return lines


def _enlarged(images: np.ndarray) -> np.ndarray:
    """Images `(n, H, W, C)` in the size that they are shown in, uint8."""
    import PIL.Image

    pixels = np.rint(images).clip(0, 255).astype("uint8")
    height, width = pixels.shape[1:3]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    rgb = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    resized = [
        PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.LANCZOS)
        for image in rgb
    ]
    return np.stack([np.asarray(image) for image in resized])


def _signed(
    image: np.ndarray, evidence: np.ndarray, limit: float | None
) -> str:
    return _uri(
        visualization.signed_overlay(image[None], evidence, limit=limit)[0]
    )


def _uri(pixels: np.ndarray) -> str:
    import PIL.Image

    content = io.BytesIO()
    PIL.Image.fromarray(pixels).save(
        content, "JPEG", quality=_QUALITY, optimize=True
    )
    text = base64.b64encode(content.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{text}"
