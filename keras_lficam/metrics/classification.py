"""Metrics of a classifier: one value per data set, with an interval.

The other metrics of this room give one value per image, which the caller
averages. A ROC AUC or a confusion matrix has no value for one image, so these
functions take the labels and probabilities of a whole data set.

`measure` gives all of them with bootstrap intervals. The functions beside it
give one number each and have one signature, so that a training can watch any
of them: `SCORES` has them by name.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_lficam._checks import (
    check_integer,
    check_names,
    check_number,
)
from keras_lficam.metrics import _resampling
from keras_lficam.metrics._answers import (
    BINS,
    Answers,
    accuracy_of,
    answers_of,
    average_precisions,
    cases_of,
    confusion_of,
    losses_of,
    majority_of,
    mean_of,
    roc_aucs,
    truth_of,
    with_both,
)
from keras_lficam.metrics._direction import higher_is_better, lower_is_better

__all__ = [
    "SCORES",
    "Classification",
    "Estimate",
    "OfClass",
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "expected_calibration_error",
    "log_loss",
    "macro_f1",
    "majority_accuracy",
    "measure",
    "roc_auc",
    "verdict",
]

# Images of a class from which its values have bootstrap intervals.
_FEWEST = 5
# Pairs of classes that are named.
_PAIRS = 20
# What is measured of each class, the class against the rest.
_OF_CLASSES = ("precision", "recall", "f1", "roc_auc", "average_precision")


@higher_is_better
def accuracy(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Measures the share of correct predictions.

    The predicted class is the one of highest probability. Where images have
    several labels it is the share of single labels that are right, at a
    threshold of 0.5, as `keras.metrics.BinaryAccuracy` counts it.

    Args:
        labels: Classes, integers `(N,)`, or 0 and 1 `(N, K)` where images have
            several.
        probabilities: Probabilities `(N, K)` in [0, 1], or `(N,)` those of
            class 1.

    Returns:
        Value in [0, 1]; higher is better.

    Raises:
        ValueError: If a shape or a value is not as described.
        TypeError: If an argument holds no numbers.

    Examples:
        >>> accuracy([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
        # [0.66666667]
    """
    answers = answers_of(labels, probabilities)
    return accuracy_of(answers)


@higher_is_better
def majority_accuracy(labels: npt.ArrayLike) -> float:
    """Measures the accuracy of always answering the most frequent class.

    A model has learned something only if its accuracy is higher. Where images
    have several labels the most frequent answer of each label is given.

    Args:
        labels: Classes, integers `(N,)`, or 0 and 1 `(N, K)` where images have
            several.

    Returns:
        Value in (0, 1].

    Raises:
        ValueError: If a shape or a value is not as described.
        TypeError: If the labels are no integers.

    Examples:
        >>> majority_accuracy([0, 0, 0, 1])
        # [0.75]
    """
    truth, numbers = truth_of(labels, None)
    return majority_of(truth, numbers is None)


@higher_is_better
def balanced_accuracy(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike
) -> float:
    """Averages the recall over the classes, each with the same weight.

    Classes without an image are left out. Where images have several labels,
    it is for each label the mean of the recall of its presence and of its
    absence, averaged over the labels that have both.

    Args:
        labels: As for `accuracy`.
        probabilities: As for `accuracy`.

    Returns:
        Value in [0, 1]; higher is better. Chance, and the majority class, give
        1 / K. NaN if several labels are given of which none has both answers.

    Raises:
        ValueError: If a shape or a value is not as described.
        TypeError: If an argument holds no numbers.

    Examples:
        >>> balanced_accuracy([0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
        # [0.5]
    """
    from sklearn import metrics as scores

    answers = answers_of(labels, probabilities)
    if answers.labels is not None:
        return float(
            scores.recall_score(
                answers.labels,
                answers.chances.argmax(1),
                labels=np.unique(answers.labels),
                average="macro",
            )
        )
    predicted = answers.predicted
    both = with_both(answers.truth)
    values = [
        scores.recall_score(
            answers.truth[:, k], predicted[:, k], average="macro"
        )
        for k in both
    ]
    return mean_of(values)


@higher_is_better
def macro_f1(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Averages the F1 score over the classes that have an image.

    F1 is the harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN).

    Args:
        labels: As for `accuracy`.
        probabilities: As for `accuracy`.

    Returns:
        Value in [0, 1]; higher is better. NaN if no image has a label.

    Raises:
        ValueError: If a shape or a value is not as described.
        TypeError: If an argument holds no numbers.

    Examples:
        >>> macro_f1([0, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
        # [0.66666667]
    """
    from sklearn import metrics as scores

    answers = answers_of(labels, probabilities)
    truth, predicted = answers.truth, answers.predicted
    known = np.flatnonzero(truth.any(0))
    if not known.size:
        return math.nan
    if truth.shape[1] == 1:  # Of which scikit-learn makes two classes.
        return float(scores.f1_score(truth.ravel(), predicted.ravel()))
    return float(
        scores.f1_score(truth, predicted, labels=known, average="macro")
    )


@higher_is_better
def roc_auc(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Averages the area under the ROC curve, each class against the rest.

    The area is the probability that an image of the class has a higher score
    than one of another class. Of two classes both have the same area. Classes
    without images, or without images of others, are left out.

    Args:
        labels: As for `accuracy`.
        probabilities: As for `accuracy`.

    Returns:
        Value in [0, 1], 0.5 for chance; higher is better. NaN if no class has
        both images and images of others.

    Raises:
        ValueError: If a shape or a value is not as described.
        TypeError: If an argument holds no numbers.

    Reference:
        Fawcett, 2006, An introduction to ROC analysis,
        https://doi.org/10.1016/j.patrec.2005.10.010.

    Examples:
        >>> roc_auc([0, 1, 0, 1], [0.1, 0.4, 0.5, 0.8])
        # [0.75]
    """
    answers = answers_of(labels, probabilities)
    return mean_of(roc_aucs(answers))


@higher_is_better
def average_precision(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike
) -> float:
    """Averages the average precision, each class against the rest.

    It summarizes the curve of precision over recall: the sum of the precision
    at each threshold, times the rise in recall, without interpolation. Chance
    gives the share of the class, so it is the metric of rare classes. Classes
    without images are left out.

    Args:
        labels: As for `accuracy`.
        probabilities: As for `accuracy`.

    Returns:
        Value in [0, 1]; higher is better. NaN if no class has an image.

    Raises:
        ValueError: If a shape or a value is not as described.
        TypeError: If an argument holds no numbers.

    Examples:
        >>> average_precision([[0], [1], [0]], [[0.1], [0.4], [0.5]])
        # [0.5]
    """
    answers = answers_of(labels, probabilities)
    return mean_of(average_precisions(answers))


@lower_is_better
def expected_calibration_error(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, bins: int = BINS
) -> float:
    """Measures how far the confidence is from the accuracy.

    With the images in M bins of equal width by the probability of the
    predicted class, ECE = sum over bins of n_b / N |accuracy_b - confidence_b|.
    Where images have several labels, each label of each image is one case,
    in a bin by its probability p, and the bin compares the mean of p with the
    share of cases that have the label.

    Args:
        labels: As for `accuracy`.
        probabilities: As for `accuracy`.
        bins: Number M of bins over [0, 1], at least 1. The value depends on it.

    Returns:
        Value in [0, 1]; lower is better.

    Raises:
        ValueError: If a shape or a value is not as described.
        TypeError: If an argument holds no numbers.

    Reference:
        Guo et al., 2017, https://arxiv.org/abs/1706.04599, with M = 15.

    Examples:
        >>> expected_calibration_error([0, 0], [[0.9, 0.1], [0.2, 0.8]])
        # [0.45]
    """
    check_integer("bins", bins, least=1)
    answers = answers_of(labels, probabilities)
    cases = cases_of(answers, bins)
    return float(cases.error(np.ones(len(answers.truth))))


@lower_is_better
def log_loss(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Averages the negative logarithm of the probability of the true class.

    Rows that do not sum to 1, as those of sigmoids, are divided by their sum.
    Where images have several labels it is the binary cross-entropy, averaged
    over the labels. Probabilities below the spacing of float32 at 1, 1.2e-7,
    count as that, so that the value stays finite.

    Args:
        labels: As for `accuracy`.
        probabilities: As for `accuracy`.

    Returns:
        Value of at least 0, in nats; lower is better.

    Raises:
        ValueError: If a shape or a value is not as described.
        TypeError: If an argument holds no numbers.

    Examples:
        >>> log_loss([0, 1], [[0.5, 0.5], [0.5, 0.5]])
        # [0.69314718]
    """
    return float(losses_of(answers_of(labels, probabilities)).mean())


_Score = Callable[[npt.ArrayLike, npt.ArrayLike], float]
#: Functions of labels and probabilities, by name; each has the attribute
#: `higher_is_better`.
SCORES: Mapping[str, _Score] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "expected_calibration_error": expected_calibration_error,
    "log_loss": log_loss,
}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value of a data set, and its bootstrap interval.

    Attributes:
        value: The value; None where it is not defined.
        interval: Pair of bounds; None where there are none.

    Examples:
        Estimate(0.91, (0.88, 0.94))
    """

    value: float | None
    interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class OfClass:
    """What is measured of one class.

    Attributes:
        name: Name of the class.
        support: Images that are of the class.
        predicted: Images that are said to be of it.
        values: Estimates of `precision`, `recall`, `f1`, `roc_auc` and
            `average_precision`, the class against the rest. None stands where
            the class has no image; for the precision, where it was never
            predicted.

    Examples:
        OfClass("cat", 10, 12, {"recall": Estimate(0.9)})
    """

    name: str
    support: int
    predicted: int
    values: Mapping[str, Estimate]


@dataclasses.dataclass(frozen=True)
class Classification:
    """What `measure` finds out about a classifier on a data set.

    Attributes:
        images: Number of images.
        multi_label: Whether an image can be of several classes.
        majority_class: Name of the most frequent class; None if multi-label.
        majority_accuracy: Accuracy of always answering it.
        values: Estimates of all `SCORES`, and if multi-label of `exact_match`,
            the share of images of which every label is right.
        classes: What is measured of each class.
        confusion: Integers `(K, K)`, rows true, columns predicted. If
            multi-label `(K, 2, 2)`: for each label absent and present, rows
            true, columns predicted.
        most_confused: Pairs of classes `(true, predicted, images)` that are
            confused most, at most 20; none if multi-label.
        calibration: Bins of confidence that hold images, each
            `(confidence, accuracy, images)`: means in the bin.
        bootstrap: How the intervals were made: `method`, `proportions`, the
            method of those that are shares of images, `resamples`,
            `resamples_of_ranks`, which ROC AUC and average precision have,
            `seed`, `confidence`, `stratified`.

    Examples:
        found = measure([0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
        assert found.values["accuracy"].value == 2 / 3
    """

    images: int
    multi_label: bool
    majority_class: str | None
    majority_accuracy: float
    values: Mapping[str, Estimate]
    classes: Sequence[OfClass]
    confusion: np.ndarray
    most_confused: Sequence[tuple[str, str, int]]
    calibration: Sequence[tuple[float, float, int]]
    bootstrap: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Writes it as JSON holds it.

        A confusion matrix of more than 50 classes is left out: what of it is
        of interest is in `most_confused`.

        Returns:
            Dictionary; numbers are rounded to 6 digits, undefined ones None.
        """
        matrix = self.confusion.tolist() if len(self.classes) <= 50 else None
        return {
            "images": self.images,
            "multi_label": self.multi_label,
            "majority_class": self.majority_class,
            "majority_accuracy": round(self.majority_accuracy, 6),
            **{name: _plain(value) for name, value in self.values.items()},
            "bootstrap": dict(self.bootstrap),
            "classes": [
                {
                    "name": one.name,
                    "support": one.support,
                    "predicted": one.predicted,
                    **{name: _plain(of) for name, of in one.values.items()},
                }
                for one in self.classes
            ],
            "confusion": matrix,
            "most_confused": [list(pair) for pair in self.most_confused],
            "calibration": [
                [round(confidence, 6), round(right, 6), count]
                for confidence, right, count in self.calibration
            ],
        }


def measure(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    class_names: Sequence[str] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Classification:
    """Measures a classifier on a data set, with intervals.

    What is the share of some images that are right (accuracy, precision,
    recall, `exact_match`) has Wilson's interval of a binomial proportion: of 11
    images that are all right it says 74 to 100 %, where a bootstrap would say
    100 to 100 %. The intervals of the others, and of the accuracy where images
    have several labels, are percentiles over resamples of the images
    (bootstrap). If a class has fewer than 20 images, it would be missing from
    some of the resamples, so each class then keeps its number of images (a
    stratified bootstrap). Where images have several labels they are never
    stratified, and a label that is missing from a resample is left out of its
    means. A value has no bootstrap interval if all resamples agree, as of a
    ROC AUC of 1, or if its class has fewer than 5 images. The intervals hold
    for the trained model on other images of the same kind; they say nothing of
    another training.

    ROC AUC and average precision take time that grows with images times
    classes: their intervals are made of fewer resamples from 200,000 on, at
    least 100, and left out from 4 million on.

    Args:
        labels: As for `accuracy`.
        probabilities: As for `accuracy`.
        class_names: Name of each class; numbers by default.
        resamples: Number of resamples, 0 for no interval of any value.
        seed: Decides which images are drawn.
        confidence: Level of the intervals, between 0 and 1.

    Returns:
        All metrics, those of each class, confusions and calibration.

    Raises:
        ValueError: If a shape or a value is not as described.
        TypeError: If an argument is of the wrong type.

    Reference:
        Efron and Tibshirani, 1993, An Introduction to the Bootstrap, chapter
        13: percentile intervals. Brown, Cai and DasGupta, 2001,
        https://doi.org/10.1214/ss/1009213286: Wilson's interval.

    Examples:
        found = measure([0, 1, 1], [0.1, 0.6, 0.3], ["whole", "broken"])
        assert found.majority_class == "broken"
    """
    check_integer("resamples", resamples, least=0)
    check_integer("seed", seed, least=0)
    check_number("confidence", confidence, 0, 1)
    if not 0 < confidence < 1:
        raise ValueError(
            "Argument `confidence` must lie between 0 and 1. Received: "
            f"confidence={confidence!r}. To fix this: 0.95"
        )
    answers = answers_of(labels, probabilities)
    names = _names(class_names, answers.truth.shape[1])
    count = len(answers.truth)
    stratified = answers.labels is not None and _resampling.is_stratified(
        answers.labels
    )
    if count < 2:
        resamples = 0  # One image says nothing of how values vary.
    support, predicted = answers.truth.sum(0), answers.predicted.sum(0)
    counted = _resampling.Counted(answers)
    bounds = _resampling.intervals_of(
        answers, counted, resamples, seed, confidence, stratified
    )
    for name in bounds:
        if name.endswith(" of classes"):
            bounds[name][:, support < _FEWEST] = np.nan
    if resamples:
        bounds |= _of_proportions(answers, confidence)
    roc, precision = roc_aucs(answers), average_precisions(answers)
    values = counted.values(np.ones(count)) | {
        "roc_auc of classes": roc,
        "average_precision of classes": precision,
        "roc_auc": mean_of(roc),
        "average_precision": mean_of(precision),
    }
    single = answers.labels is not None
    confusion = confusion_of(answers)
    return Classification(
        images=count,
        multi_label=not single,
        majority_class=names[int(support.argmax())] if single else None,
        majority_accuracy=majority_of(answers.truth, not single),
        values={
            name: _estimate(values[name], bounds.get(name))
            for name in (*SCORES, "exact_match")
            if name in values
        },
        classes=[
            OfClass(
                names[k],
                int(support[k]),
                int(predicted[k]),
                {
                    name: _estimate(
                        values[f"{name} of classes"][k],
                        bounds.get(f"{name} of classes"),
                        k,
                    )
                    for name in _OF_CLASSES
                },
            )
            for k in range(len(names))
        ],
        confusion=confusion,
        most_confused=_most_confused(confusion, names) if single else [],
        calibration=cases_of(answers, BINS).means(),
        bootstrap={
            "method": "percentile",
            "proportions": "wilson",
            "resamples": resamples,
            "resamples_of_ranks": _resampling.ranked_resamples(
                answers.truth.size, resamples
            ),
            "seed": seed,
            "confidence": confidence,
            "stratified": stratified,
        },
    )


def verdict(found: Mapping[str, Any]) -> str:
    """Says in words how the accuracy compares to the majority class.

    Args:
        found: What `Classification.to_dict` gives.

    Returns:
        `"above"` if the interval of the accuracy lies above that of always
        answering the most frequent class, `"unclear"` if the interval has it
        inside, and `"not above"` if the accuracy is not higher.

    Examples:
        found = measure([0, 1, 1], [0.1, 0.6, 0.3]).to_dict()
        assert verdict(found) == "not above"
    """
    majority, value = found["majority_accuracy"], found["accuracy"]["value"]
    if value <= majority:
        return "not above"
    interval = found["accuracy"]["interval"]
    if interval is None:  # Without resamples, or all of them agree.
        return "above" if found["bootstrap"]["resamples"] else "unclear"
    return "above" if interval[0] > majority else "unclear"


def _of_proportions(
    answers: Answers, confidence: float
) -> dict[str, np.ndarray]:
    """Wilson's bounds of what is a share of images, `(2,)` or `(2, K)`."""
    right = answers.truth & answers.predicted
    counts = right.sum(0)
    bounds = {
        f"{name} of classes": np.stack(
            [
                _wilson(part, whole, confidence)
                for part, whole in zip(counts, of.sum(0), strict=True)
            ],
            axis=1,
        )
        for name, of in (
            ("precision", answers.predicted),
            ("recall", answers.truth),
        )
    }
    if answers.labels is None:
        name, exact = "exact_match", answers.truth == answers.predicted
        correct = exact.all(1)
    else:
        name, correct = "accuracy", right.any(1)
    bounds[name] = _wilson(correct.sum(), len(correct), confidence)
    return bounds


def _wilson(part: int, whole: int, confidence: float) -> np.ndarray:
    from scipy import stats

    if not whole:
        return np.full(2, np.nan)
    found = stats.binomtest(int(part), int(whole)).proportion_ci(
        confidence, method="wilson"
    )
    return np.array([found.low, found.high])


def _names(class_names: Sequence[str] | None, count: int) -> list[str]:
    if class_names is None:
        return [str(k) for k in range(count)]
    check_names("class_names", class_names)
    if len(class_names) != count:
        raise ValueError(
            f"Argument `class_names` must name the {count} classes of "
            f"`probabilities`. Received: {len(class_names)} names. To fix "
            "this: give a name for each."
        )
    return [str(name) for name in class_names]


def _most_confused(
    confusion: np.ndarray, names: Sequence[str]
) -> list[tuple[str, str, int]]:
    wrong = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [
        (names[row], names[column], int(wrong[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if wrong[row, column]
    ]


def _estimate(
    value: float, bounds: np.ndarray | None, k: int | None = None
) -> Estimate:
    if math.isnan(value):
        return Estimate(None)
    if bounds is None:
        return Estimate(float(value))
    low, high = bounds if k is None else bounds[:, k]
    if math.isnan(low):
        return Estimate(float(value))
    return Estimate(float(value), (float(low), float(high)))


def _plain(estimate: Estimate) -> dict[str, Any]:
    value, interval = estimate.value, estimate.interval
    return {
        "value": None if value is None else round(value, 6),
        "interval": None
        if interval is None
        else [round(bound, 6) for bound in interval],
    }
