"""Labels and probabilities of a data set, and what follows from them."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_lficam._checks import check_finite, numbers_of

# Of confidence, of equal width, as in the paper that made the error known.
BINS = 15
# Probabilities are float32: what is smaller than its spacing at 1 is 0.
_LEAST = float(np.finfo("float32").eps)


@dataclasses.dataclass(frozen=True)
class Answers:
    """Labels and probabilities of a data set, checked."""

    truth: np.ndarray  # Booleans (N, K).
    chances: np.ndarray  # float64 (N, K).
    labels: np.ndarray | None  # Integers (N,); None if multi-label.

    @property
    def predicted(self) -> np.ndarray:
        """Booleans (N, K)."""
        if self.labels is None:
            return self.chances > 0.5
        rows = np.zeros(self.truth.shape, bool)
        rows[np.arange(len(rows)), self.chances.argmax(1)] = True
        return rows


def answers_of(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Answers:
    """Checks labels and probabilities, as `accuracy` describes them."""
    chances = numbers_of("probabilities", probabilities).astype("float64")
    rows = np.ndim(labels) == 2
    if chances.ndim == 1 or (chances.ndim == 2 and chances.shape[1:] == (1,)):
        chances = chances.reshape(-1, 1)
        if not rows:
            chances = np.concatenate([1 - chances, chances], axis=1)
    if chances.ndim != 2 or chances.size == 0:
        raise ValueError(
            "Argument `probabilities` must have shape (images, classes), and "
            "at least one image. Received: probabilities.shape="
            f"{np.shape(probabilities)}. To fix this: give those of all "
            "images at once."
        )
    check_finite("probabilities", chances)
    if chances.min() < 0 or chances.max() > 1 + 1e-3:
        raise ValueError(
            "Argument `probabilities` must lie in 0 to 1. Received: values "
            f"from {chances.min():.3g} to {chances.max():.3g}. To fix this: "
            "where the model gives logits, keras.ops.softmax(logits)."
        )
    truth, numbers = truth_of(labels, chances.shape[1])
    if truth.shape != chances.shape:
        raise ValueError(
            "Arguments `labels` and `probabilities` must be of the same images "
            f"and classes. Received: labels.shape={np.shape(labels)}, "
            f"probabilities.shape={np.shape(probabilities)}. To fix this: "
            "labels (N,) of integers, or (N, K) of 0 and 1, and "
            "probabilities (N, K)."
        )
    return Answers(truth, np.minimum(chances, 1), numbers)


def truth_of(
    labels: npt.ArrayLike, classes: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels as Booleans (N, K), and as integers (N,) unless multi-label.

    Unless told, there are as many classes as the highest number needs.
    """
    array = numbers_of("labels", labels)
    if array.size == 0 or array.ndim > 2:
        raise ValueError(
            "Argument `labels` must have shape (images,) or (images, classes), "
            f"and at least one image. Received: labels.shape={array.shape}. To "
            "fix this: give those of all images at once."
        )
    if array.ndim == 2:
        if not np.isin(array, (0, 1)).all():
            raise ValueError(
                "Argument `labels` of shape (images, classes) must hold 0 and "
                "1. Received: other values. To fix this: labels > 0.5"
            )
        return array.astype(bool), None
    array = array.reshape(-1)
    if array.dtype.kind not in "iu":
        raise TypeError(
            "Argument `labels` of shape (images,) must hold integers. "
            f"Received: labels.dtype={array.dtype}. To fix this: "
            "labels.astype('int64')"
        )
    if classes is None:
        classes = int(array.max()) + 1
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"Argument `labels` must hold classes from 0 to {classes - 1}. "
            f"Received: {array.min()} to {array.max()}. To fix this: give "
            "probabilities of as many classes as there are."
        )
    numbers = array.astype(np.int64)
    return numbers[:, None] == np.arange(classes), numbers


def accuracy_of(answers: Answers) -> float:
    """Share of correct predictions; if multi-label, of correct labels."""
    if answers.labels is None:
        return float((answers.predicted == answers.truth).mean())
    return float((answers.chances.argmax(1) == answers.labels).mean())


def majority_of(truth: np.ndarray, multi_label: bool) -> float:
    """Accuracy of the most frequent class; if multi-label, of each label."""
    shares = truth.mean(0)
    if multi_label:
        return float(np.maximum(shares, 1 - shares).mean())
    return float(shares.max())


def with_both(truth: np.ndarray) -> list[int]:
    """Classes with images and images of others."""
    found: list[int] = np.flatnonzero(truth.any(0) & ~truth.all(0)).tolist()
    return found


def roc_aucs(answers: Answers) -> np.ndarray:
    """ROC AUC of each class against the rest; NaN where not defined."""
    from sklearn import metrics as scores

    values = np.full(answers.truth.shape[1], np.nan)
    for k in with_both(answers.truth):
        values[k] = scores.roc_auc_score(
            answers.truth[:, k], answers.chances[:, k]
        )
    return values


def average_precisions(answers: Answers) -> np.ndarray:
    """Average precision of each class; NaN where not defined."""
    from sklearn import metrics as scores

    values = np.full(answers.truth.shape[1], np.nan)
    for k in np.flatnonzero(answers.truth.any(0)):
        values[k] = scores.average_precision_score(
            answers.truth[:, k], answers.chances[:, k]
        )
    return values


def losses_of(answers: Answers) -> np.ndarray:
    """Cross-entropy of each image."""
    if answers.labels is None:
        chances = np.clip(answers.chances, _LEAST, 1 - _LEAST)
        of_labels = np.where(answers.truth, chances, 1 - chances)
        losses: np.ndarray = -np.log(of_labels).mean(1)
        return losses
    sums = answers.chances.sum(1)
    # A sigmoid may give nothing to any class.
    of_true = answers.chances[answers.truth] / np.maximum(sums, _LEAST)
    losses = -np.log(np.clip(of_true, _LEAST, 1))
    return losses


def confusion_of(answers: Answers) -> np.ndarray:
    """Counts `(K, K)`; if multi-label `(K, 2, 2)`."""
    from sklearn import metrics as scores

    if answers.labels is None:
        matrix = [
            scores.confusion_matrix(
                answers.truth[:, k],
                answers.predicted[:, k],
                labels=[False, True],
            )
            for k in range(answers.truth.shape[1])
        ]
        return np.array(matrix)
    found: np.ndarray = scores.confusion_matrix(
        answers.labels,
        answers.chances.argmax(1),
        labels=np.arange(answers.truth.shape[1]),
    )
    return found


@dataclasses.dataclass(frozen=True)
class Cases:
    """Predictions in bins of confidence."""

    confidence: np.ndarray  # (N,), or (N, K) if multi-label.
    right: np.ndarray  # The same shape.
    bins: np.ndarray  # Their bins.
    number: int

    def error(self, weights: np.ndarray) -> float:
        """Computes the calibration error of weighted images."""
        shape = (-1,) + (1,) * (self.confidence.ndim - 1)
        gaps = (self.right - self.confidence) * weights.reshape(shape)
        sums = np.bincount(self.bins.ravel(), gaps.ravel(), self.number)
        return float(np.abs(sums).sum() / self.confidence.size)

    def means(self) -> list[tuple[float, float, int]]:
        """Means of confidence and accuracy in each bin that is not empty."""
        flat = self.bins.ravel()
        counts = np.bincount(flat, minlength=self.number)
        sure = np.bincount(flat, self.confidence.ravel(), self.number)
        right = np.bincount(flat, self.right.ravel(), self.number)
        return [
            (float(sure[b] / counts[b]), float(right[b] / counts[b]), int(n))
            for b, n in enumerate(counts)
            if n
        ]


def cases_of(answers: Answers, number: int) -> Cases:
    """Puts predictions into bins of confidence."""
    if answers.labels is None:
        confidence, right = answers.chances, answers.truth
    else:
        confidence = answers.chances.max(1)
        right = answers.chances.argmax(1) == answers.labels
    # A bin holds its upper bound, and the first also 0.
    bins = np.clip(np.ceil(confidence * number) - 1, 0, number - 1)
    return Cases(
        confidence, right.astype("float64"), bins.astype(np.int64), number
    )


def mean_of(values: Sequence[float] | np.ndarray) -> float:
    """Mean of what is no NaN; NaN if nothing is left."""
    array = np.asarray(values, "float64")
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else math.nan
