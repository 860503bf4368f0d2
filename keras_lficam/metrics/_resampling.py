"""Bootstrap of classification metrics, on counts instead of copies."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_lficam.metrics._answers import (
    BINS,
    Answers,
    cases_of,
    losses_of,
    mean_of,
)

# A class of fewer images would be missing from some of the resamples: of n
# images none is drawn with a probability of about exp(-n).
FEW = 20
# Steps of the rank metrics, images times classes times resamples; beyond it
# there are fewer resamples, and none for more images times classes.
_BUDGET = 2e8
_FEWEST = 100
_MOST_CELLS = 4_000_000


def is_stratified(labels: np.ndarray) -> bool:
    """Whether a class is so rare that resamples must keep its count."""
    counts = np.bincount(labels)
    return bool(counts[counts > 0].min() < FEW)


def weights_of_resamples(
    labels: np.ndarray, *, resamples: int, seed: int, stratified: bool
) -> Iterator[np.ndarray]:
    """Draws images with replacement, as often as there are images.

    Args:
        labels: What the strata are, integers `(N,)`.
        resamples: Number of resamples.
        seed: Decides which images are drawn.
        stratified: Whether each stratum keeps its number of images.

    Yields:
        How often each image was drawn, float64 `(N,)`; the sum is N.
    """
    rng = np.random.default_rng(seed)
    count = len(labels)
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)[labels[order]] if stratified else count
    starts = np.searchsorted(labels[order], labels[order]) if stratified else 0
    for _ in range(resamples):
        drawn = starts + (rng.random(count) * sizes).astype(np.int64)
        yield np.bincount(order[drawn], minlength=count).astype("float64")


class Ranking:
    """Areas under curves of each class against the rest, of weighted images.

    Args:
        truth: Which images are of which class, Booleans `(N, K)`.
        scores: Scores `(N, K)`.
    """

    def __init__(self, truth: np.ndarray, scores: np.ndarray):
        self._order = np.argsort(scores, axis=0, kind="stable")
        ordered = np.take_along_axis(scores, self._order, axis=0)
        self._truth = np.take_along_axis(truth, self._order, axis=0)
        count, classes = scores.shape
        self._first = np.empty((count, classes), np.int64)
        self._last = np.empty((count, classes), np.int64)
        for k in range(classes):  # Where a tie begins, and behind its end.
            column = ordered[:, k]
            self._first[:, k] = np.searchsorted(column, column, "left")
            self._last[:, k] = np.searchsorted(column, column, "right")

    def areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Computes ROC AUC and average precision.

        Args:
            weights: Weight of each image, `(N,)`.

        Returns:
            Pair of arrays `(K,)`; NaN where a class has no image, or, of the
            first, nothing but.
        """
        of_all = weights[self._order]  # (N, K), from the lowest score up.
        of_class = of_all * self._truth
        class_below = _sums_before(of_class)
        rest_below = _sums_before(of_all - of_class)
        class_sum, rest_sum = class_below[-1], rest_below[-1]
        lower = np.take_along_axis(rest_below, self._first, axis=0)
        up_to = np.take_along_axis(rest_below, self._last, axis=0)
        with np.errstate(invalid="ignore"):
            roc = (of_class * (lower + up_to) / 2).sum(0) / (
                class_sum * rest_sum
            )
            hits = class_sum - np.take_along_axis(
                class_below, self._first, axis=0
            )
            found = hits + rest_sum - lower
            # Where nothing is found, nothing is weighed either.
            precision = hits / np.where(found > 0, found, 1)
            average = (of_class * precision).sum(0) / class_sum
        return roc, average


def _sums_before(values: np.ndarray) -> np.ndarray:
    """Sums `(N + 1, K)` of the values before each place."""
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    return sums


def ranked_resamples(cells: int, resamples: int) -> int:
    """How many resamples metrics of ranks get, of images times classes."""
    if cells > _MOST_CELLS:
        return 0
    return min(resamples, max(_FEWEST, int(_BUDGET / cells)))


def intervals_of(
    answers: Answers,
    counted: "Counted",
    resamples: int,
    seed: int,
    confidence: float,
    stratified: bool,
) -> dict[str, np.ndarray]:
    """Bounds `(2,)` of the values, and `(2, K)` of those of classes."""
    strata = answers.labels
    if strata is None:
        strata = np.zeros(len(answers.truth), np.int64)
    ranked = ranked_resamples(answers.truth.size, resamples)
    ranking = None
    if ranked:
        ranking = Ranking(answers.truth, answers.chances)
    found: dict[str, list[Any]] = {}
    drawn = weights_of_resamples(
        strata, resamples=resamples, seed=seed, stratified=stratified
    )
    for number, weights in enumerate(drawn):
        row = counted.values(weights)
        if ranking is not None and number < ranked:
            roc, precision = ranking.areas(weights)
            row |= {
                "roc_auc of classes": roc,
                "average_precision of classes": precision,
                "roc_auc": mean_of(roc),
                "average_precision": mean_of(precision),
            }
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {
        name: _quantiles(np.array(values), tails)
        for name, values in found.items()
    }


def _quantiles(values: np.ndarray, tails: Sequence[float]) -> np.ndarray:
    """Quantiles over resamples, without those that are not defined.

    NaN for what is defined in none, and for what is the same in all of them:
    that resamples agree, as where all predictions are right, does not mean
    that the value is certain.
    """
    defined = ~np.isnan(values).all(0)
    filled = np.where(defined, values, 0)
    varies = np.nanmax(filled, axis=0) > np.nanmin(filled, axis=0)
    bounds: np.ndarray = np.nanquantile(filled, tails, axis=0)
    return np.where(defined & varies, bounds, np.nan)


class Counted:
    """Metrics of resamples that follow from counts."""

    def __init__(self, answers: Answers):
        self._truth = answers.labels
        self._classes = answers.truth.shape[1]
        self._losses = losses_of(answers)
        self._cases = cases_of(answers, BINS)
        predicted = answers.predicted
        if answers.labels is not None:
            self._said = answers.chances.argmax(1)
            self._right = self._said == answers.labels
            return
        self._rows = {
            "right": answers.truth & predicted,
            "support": answers.truth,
            "predicted": predicted,
        }
        self._rows = {k: v.astype("float64") for k, v in self._rows.items()}
        self._alike = (answers.truth == predicted).mean(1)
        self._exact = (answers.truth == predicted).all(1)

    def values(self, weights: np.ndarray) -> dict[str, Any]:
        """Values of one resample, `(K,)` of classes."""
        count = len(weights)
        right, support, predicted = self._counts(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = right / support
            row = {
                "precision of classes": right / predicted,
                "recall of classes": recall,
                "f1 of classes": 2 * right / (support + predicted),
            }
            row["macro_f1"] = mean_of(row["f1 of classes"][support > 0])
            if self._truth is not None:
                row["balanced_accuracy"] = mean_of(recall)
                row["accuracy"] = right.sum() / count
            else:
                absent = 1 - (predicted - right) / (count - support)
                row["balanced_accuracy"] = mean_of((recall + absent) / 2)
                row["accuracy"] = weights @ self._alike / count
                row["exact_match"] = weights @ self._exact / count
        row["log_loss"] = weights @ self._losses / count
        row["expected_calibration_error"] = self._cases.error(weights)
        return row

    def _counts(
        self, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._truth is None:
            rows = self._rows
            return (
                weights @ rows["right"],
                weights @ rows["support"],
                weights @ rows["predicted"],
            )
        size = self._classes
        return (
            np.bincount(self._truth, weights * self._right, size),
            np.bincount(self._truth, weights, size),
            np.bincount(self._said, weights, size),
        )
