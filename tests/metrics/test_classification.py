"""Metrics of a classifier: by hand, by scikit-learn, of copies of images."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as scores

from keras_lficam.metrics import _answers, _resampling, classification
from keras_lficam.metrics.classification import SCORES, measure, verdict

# Three classes; the third image of class 0 is taken for class 1, the only one
# of class 2 for class 0.
LABELS = np.array([0, 0, 0, 1, 1, 2])
CHANCES = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.6, 0.3, 0.1],
        [0.3, 0.5, 0.2],
        [0.1, 0.7, 0.2],
        [0.2, 0.6, 0.2],
        [0.5, 0.1, 0.4],
    ]
)


def some(images=60, classes=4, seed=0, ties=False):
    """Labels and probabilities that are better than chance."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), labels] += 1.0
    chances = np.exp(logits)
    chances /= chances.sum(1, keepdims=True)
    return labels, chances.round(1) if ties else chances


def several(images=50, classes=3, seed=0):
    """The same where images have several labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=(images, classes))
    chances = 1 / (1 + np.exp(-rng.normal(labels - 0.5, 1.0)))
    return labels, chances


def test_values_by_hand():
    values = {name: score(LABELS, CHANCES) for name, score in SCORES.items()}
    assert values["accuracy"] == 4 / 6
    assert classification.majority_accuracy(LABELS) == 3 / 6
    # Recall 2/3, 1, 0; precision 2/3, 2/3 and 0 of none.
    np.testing.assert_allclose(values["balanced_accuracy"], 5 / 9)
    f1 = [2 * 2 / (3 + 3), 2 * 2 / (2 + 3), 0]
    np.testing.assert_allclose(values["macro_f1"], sum(f1) / 3)
    # Of 9 pairs of class 0 and others 8 are in order: 0.3 stands below 0.5.
    # Of the 8 of class 1, all; of the 5 of class 2, all.
    np.testing.assert_allclose(values["roc_auc"], (8 / 9 + 1 + 1) / 3)
    # Class 0: found at ranks 1, 2 and 4.
    precision = (1 + 1 + 3 / 4) / 3
    np.testing.assert_allclose(values["average_precision"], (precision + 2) / 3)
    # 15 bins are 1/15 wide: 0.5 (two, both wrong), 0.6 (two, right), 0.7, 0.8.
    gaps = [2 * 0.5, 2 * 0.4, 0.3, 0.2]
    np.testing.assert_allclose(
        values["expected_calibration_error"], sum(gaps) / 6
    )
    logs = -np.log([0.8, 0.6, 0.3, 0.7, 0.6, 0.4])
    np.testing.assert_allclose(values["log_loss"], logs.mean())


def test_what_is_measured_by_hand():
    found = measure(LABELS, CHANCES, ["a", "b", "c"], resamples=0)
    assert (found.images, found.majority_class) == (6, "a")
    assert found.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert found.most_confused == [("a", "b", 1), ("c", "a", 1)]
    a, b, c = found.classes
    assert [(x.support, x.predicted) for x in (a, b, c)] == [
        (3, 3),
        (2, 3),
        (1, 0),
    ]
    assert c.values["precision"].value is None  # It was never predicted.
    assert c.values["recall"].value == 0
    np.testing.assert_allclose(b.values["precision"].value, 2 / 3)
    assert found.calibration == [
        (0.5, 0.0, 2),
        (pytest.approx(0.6), 1.0, 2),
        (0.7, 1.0, 1),
        (0.8, 1.0, 1),
    ]
    assert found.values["accuracy"].interval is None


def test_values_are_those_of_scikit_learn():
    labels, chances = some()
    said = chances.argmax(1)
    expected = {
        "accuracy": scores.accuracy_score(labels, said),
        "balanced_accuracy": scores.balanced_accuracy_score(labels, said),
        "macro_f1": scores.f1_score(labels, said, average="macro"),
        "roc_auc": scores.roc_auc_score(labels, chances, multi_class="ovr"),
        "log_loss": scores.log_loss(labels, chances),
        "average_precision": scores.average_precision_score(
            np.eye(4)[labels], chances
        ),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(SCORES[name](labels, chances), value)


def test_two_classes_may_have_one_probability():
    labels, chances = some(classes=2)
    for score in SCORES.values():
        both = score(labels, chances)
        np.testing.assert_allclose(score(labels, chances[:, 1]), both)
        np.testing.assert_allclose(score(labels, chances[:, 1:]), both)
    np.testing.assert_allclose(
        SCORES["roc_auc"](labels, chances),
        scores.roc_auc_score(labels, chances[:, 1]),
    )


def test_several_labels_by_hand():
    labels = [[1, 0], [1, 1], [0, 0], [1, 0]]
    chances = [[0.9, 0.2], [0.4, 0.6], [0.3, 0.7], [0.8, 0.1]]
    found = measure(labels, chances, ["x", "y"], resamples=0)
    assert found.multi_label
    assert found.majority_class is None
    assert found.majority_accuracy == 3 / 4  # Both labels: 3 of 4.
    assert found.values["accuracy"].value == 6 / 8
    assert found.values["exact_match"].value == 2 / 4
    # x: recall 2/3, of its absence 1; y: 1 and 2/3.
    np.testing.assert_allclose(
        found.values["balanced_accuracy"].value, (2 / 3 + 1 + 1 + 2 / 3) / 4
    )
    assert found.values["roc_auc"].value == pytest.approx(5 / 6)
    assert found.values["average_precision"].value == (1 + 1 / 2) / 2
    assert found.confusion.tolist() == [[[1, 0], [1, 2]], [[2, 1], [0, 1]]]
    assert found.most_confused == []
    right = np.array([0.9, 0.8, 0.4, 0.6, 0.7, 0.3, 0.8, 0.9])
    np.testing.assert_allclose(
        found.values["log_loss"].value, -np.log(right).mean()
    )
    # Each of the eight probabilities has a bin of its own.
    gaps = np.abs(np.ravel(chances) - np.ravel(labels))
    np.testing.assert_allclose(
        found.values["expected_calibration_error"].value, gaps.mean()
    )


@pytest.mark.parametrize("make", [some, lambda: some(ties=True), several])
def test_a_resample_counts_as_copies_of_images(make):
    labels, chances = make()
    answers = _answers.answers_of(labels, chances)
    weights = np.random.default_rng(3).integers(0, 3, len(labels))
    weights[0] += len(labels) - weights.sum()
    assert weights.min() >= 0
    row = _resampling.Counted(answers).values(weights.astype(float))
    ranking = _resampling.Ranking(answers.truth, answers.chances)
    roc, precision = ranking.areas(weights.astype(float))
    copies = np.repeat(labels, weights, axis=0), np.repeat(chances, weights, 0)
    check_counts(row, *copies)
    of_copies = measure(*copies, resamples=0)
    for k, one in enumerate(of_copies.classes):
        np.testing.assert_allclose(roc[k], one.values["roc_auc"].value)
        np.testing.assert_allclose(
            precision[k], one.values["average_precision"].value
        )


def check_counts(row, labels, chances):
    """Compares what was counted with scikit-learn."""
    for name, score in SCORES.items():
        if name in row:
            expected = score(labels, chances)
            np.testing.assert_allclose(row[name], expected, err_msg=name)
    said = chances > 0.5 if labels.ndim == 2 else chances.argmax(1)
    if labels.ndim == 2:
        np.testing.assert_allclose(
            row["exact_match"], scores.accuracy_score(labels, said)
        )
    expected = scores.precision_recall_fscore_support(
        labels, said, average=None, zero_division=np.nan
    )
    for name, values in zip(
        ("precision", "recall", "f1"), expected[:3], strict=True
    ):
        np.testing.assert_allclose(row[f"{name} of classes"], values)


@pytest.mark.parametrize("make", [some, lambda: some(ties=True), several])
def test_all_that_is_measured_is_that_of_scikit_learn(make):
    labels, chances = make()
    found = measure(labels, chances, resamples=0)
    row = {name: one.value for name, one in found.values.items()}
    for name in ("precision", "recall", "f1"):
        values = [one.values[name].value for one in found.classes]
        row[f"{name} of classes"] = values
    check_counts(row, labels, chances)
    assert set(SCORES) <= set(row)


def wilson(right, count, z=1.959964):
    """Written anew, from the paper of 1927."""
    share = right / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    half *= z / (1 + z**2 / count)
    return middle - half, middle + half


def test_shares_of_images_have_the_interval_of_a_proportion():
    labels = np.array([0] * 12 + [1] * 8)
    said = np.array([0] * 9 + [1] * 3 + [1] * 8)
    found = measure(labels, np.eye(2)[said], resamples=10)
    accuracy = found.values["accuracy"]
    assert accuracy.value == 17 / 20
    np.testing.assert_allclose(accuracy.interval, wilson(17, 20), rtol=1e-5)
    np.testing.assert_allclose(accuracy.interval, (0.6396, 0.9476), atol=5e-5)
    counts = {"recall": [(9, 12), (8, 8)], "precision": [(9, 9), (8, 11)]}
    for name, expected in counts.items():
        for one, (right, count) in zip(found.classes, expected, strict=True):
            np.testing.assert_allclose(
                one.values[name].interval, wilson(right, count), rtol=1e-5
            )
    exact = measure(
        np.array([[0, 1], [1, 1], [1, 0]]),
        [[0.2, 0.9], [0.7, 0.8], [0.7, 0.8]],
        resamples=10,
    ).values["exact_match"]
    np.testing.assert_allclose(exact.interval, wilson(2, 3), rtol=1e-5)


def test_resamples_that_agree_make_no_interval():
    labels = np.array([0] * 10 + [1] * 10 + [2] * 10)
    said = np.where(labels == 2, 0, labels)  # Of each class all or nothing.
    found = measure(labels, np.eye(3)[said] * 0.7 + 0.1, resamples=50)
    for name in ("balanced_accuracy", "macro_f1", "roc_auc"):
        assert found.values[name].value is not None
    assert found.values["balanced_accuracy"].interval is None
    assert found.classes[1].values["f1"] == classification.Estimate(1.0)
    accuracy = found.values["accuracy"]
    np.testing.assert_allclose(accuracy.interval, wilson(20, 30), rtol=1e-5)
    # All labels of all images right, far above the majority: still a verdict.
    several = np.repeat([[0, 1], [1, 0]], 20, axis=0)
    found = measure(several, several * 1.0, resamples=20)
    assert found.values["accuracy"] == classification.Estimate(1.0)
    assert verdict(found.to_dict()) == "above"
    unknown = measure(several, several * 1.0, resamples=0)
    assert verdict(unknown.to_dict()) == "unclear"


@pytest.mark.parametrize("make", [some, several])
def test_intervals_hold_the_value_and_the_seed_decides(make):
    labels, chances = make()
    found = measure(labels, chances, resamples=200)
    again = measure(labels, chances, resamples=200)
    other = measure(labels, chances, resamples=200, seed=1)
    assert found.to_dict() == again.to_dict()
    assert found.to_dict() != other.to_dict()
    for name, estimate in found.values.items():
        if name == "expected_calibration_error":
            continue  # It is biased upwards, and more so in a resample.
        low, high = estimate.interval
        assert low < estimate.value < high, name
    wide = measure(labels, chances, resamples=200, confidence=0.99)
    inner, outer = (x.values["accuracy"].interval for x in (found, wide))
    assert outer[0] <= inner[0]
    assert inner[1] <= outer[1]
    assert outer != inner


def test_a_rare_class_is_in_every_resample():
    labels = np.array([0] * 40 + [1] * 2)
    assert _resampling.is_stratified(labels)
    assert not _resampling.is_stratified(np.repeat([0, 2], 20))
    for weights in _resampling.weights_of_resamples(
        labels, resamples=50, seed=0, stratified=True
    ):
        assert weights[:40].sum() == 40
        assert weights[40:].sum() == 2
    plain = [
        weights[40:].sum()
        for weights in _resampling.weights_of_resamples(
            labels, resamples=50, seed=0, stratified=False
        )
    ]
    assert min(plain) == 0
    chances = np.linspace(0, 1, 42)
    found = measure(labels, chances, resamples=50)
    assert found.bootstrap == {
        "method": "percentile",
        "proportions": "wilson",
        "resamples": 50,
        "resamples_of_ranks": 50,
        "seed": 0,
        "confidence": 0.95,
        "stratified": True,
    }


def test_a_class_of_few_images_has_no_bootstrap_intervals():
    labels = np.array([0] * 30 + [1] * 5 + [2] * 4)
    chances = np.eye(3)[labels]
    chances[::4] = 1 / 3  # Class 0 is said; of each class some are.
    found = measure(labels, chances, resamples=20)
    f1 = [one.values["f1"] for one in found.classes]
    assert [one.interval is None for one in f1] == [False, False, True]
    assert found.classes[2].values["f1"].value == pytest.approx(6 / 7)
    recall = found.classes[2].values["recall"]
    np.testing.assert_allclose(recall.interval, wilson(3, 4), rtol=1e-5)


def test_a_class_without_images_is_left_out_of_the_means():
    labels, chances = some(classes=3)
    kept = labels != 2
    labels, chances = labels[kept], chances[kept]
    found = measure(labels, chances, resamples=50)
    absent = found.classes[2]
    assert absent.support == 0
    for name in ("recall", "roc_auc", "average_precision"):
        assert absent.values[name] == classification.Estimate(None)
    recalls = [one.values["recall"].value for one in found.classes[:2]]
    np.testing.assert_allclose(
        found.values["balanced_accuracy"].value, np.mean(recalls)
    )
    f1 = [one.values["f1"].value for one in found.classes[:2]]
    np.testing.assert_allclose(found.values["macro_f1"].value, np.mean(f1))
    json.dumps(found.to_dict(), allow_nan=False)


def test_images_of_one_class_have_no_roc():
    found = measure([1, 1, 1], [[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]])
    assert found.values["roc_auc"].value is None
    assert found.values["roc_auc"].interval is None
    assert found.values["accuracy"].value == 2 / 3
    assert found.majority_accuracy == 1
    assert verdict(found.to_dict()) == "not above"


def test_one_image_has_values_and_no_intervals():
    found = measure([1], [[0.2, 0.8]])
    assert found.values["accuracy"] == classification.Estimate(1.0)
    assert found.bootstrap["resamples"] == 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_several_labels_of_which_none_is_given():
    found = measure(np.zeros((3, 2), int), np.full((3, 2), 0.1), resamples=20)
    assert found.values["accuracy"].value == 1
    for name in ("macro_f1", "roc_auc", "average_precision"):
        assert found.values[name].value is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_label_alone():
    found = measure([[0], [1], [1]], [[0.2], [0.7], [0.4]], resamples=20)
    (one,) = found.classes
    assert one.values["precision"].value == 1
    assert one.values["recall"].value == 0.5
    assert found.confusion.tolist() == [[[1, 0], [1, 1]]]


def test_the_verdict_on_the_majority():
    labels = np.array([0] * 70 + [1] * 30)

    def said(right_of_0, right_of_1):
        answers = labels.copy()
        answers[right_of_0:70] = 1
        answers[70 + right_of_1 :] = 0
        return verdict(measure(labels, answers.astype(float)).to_dict())

    assert said(70, 0) == "not above"
    assert said(69, 4) == "unclear"
    assert said(70, 28) == "above"


@pytest.mark.slow
def test_a_thousand_classes_take_little_room():
    rng = np.random.default_rng(0)
    labels = rng.integers(1000, size=300)
    chances = rng.random((300, 1000)) ** 20
    chances[np.arange(150), labels[:150]] = 1.5
    chances /= chances.sum(1, keepdims=True)
    found = measure(labels, chances, resamples=5).to_dict()
    assert found["confusion"] is None
    assert len(found["most_confused"]) == 20
    assert len(found["classes"]) == 1000
    assert found["accuracy"]["value"] >= 0.5
    assert len(json.dumps(found)) < 500_000


def test_ranks_of_much_data_have_fewer_resamples():
    many = _resampling.ranked_resamples
    assert many(200_000, 1000) == 1000
    assert many(400_000, 1000) == 500
    assert many(4_000_000, 1000) == 100
    assert many(4_000_000, 10) == 10
    assert many(4_000_001, 1000) == 0


def test_sigmoids_of_single_labels_need_not_sum_to_one():
    chances = np.array([[0.9, 0.9], [0.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure([0, 1], chances, resamples=10)
    least = np.finfo("float32").eps
    np.testing.assert_allclose(
        found.values["log_loss"].value, (np.log(2) - np.log(least)) / 2
    )


@pytest.mark.parametrize(
    ("labels", "chances", "kind", "message"),
    [
        ([0, 1], [[0.1, np.nan], [0.5, 0.5]], ValueError, "probabilities at"),
        ([0, 1], [[2.0, -1.0], [0.5, 0.5]], ValueError, "softmax"),
        ([0, 2], [[0.1, 0.9], [0.5, 0.5]], ValueError, "from 0 to 1"),
        ([0, -1], [[0.1, 0.9], [0.5, 0.5]], ValueError, "from 0 to 1"),
        ([0.0, 1.0], [[0.1, 0.9], [0.5, 0.5]], TypeError, "int64"),
        ([0], [[0.1, 0.9], [0.5, 0.5]], ValueError, "same images"),
        ([[0, 1]], [[0.1, 0.9], [0.5, 0.5]], ValueError, "same images"),
        ([[0, 2]], [[0.1, 0.9]], ValueError, "labels > 0.5"),
        ([], np.zeros((0, 2)), ValueError, "at least one image"),
        ("cat", [[0.1, 0.9]], TypeError, "labels"),
        ([0], "sure", TypeError, "probabilities"),
    ],
)
def test_wrong_arguments_are_named(labels, chances, kind, message):
    for function in (measure, *SCORES.values()):
        with pytest.raises(kind, match=message):
            function(labels, chances)


def test_wrong_options_are_named():
    for options, message in [
        ({"class_names": ["a"]}, "class_names"),
        ({"class_names": "ab"}, "class_names"),
        ({"resamples": -1}, "resamples"),
        ({"confidence": 1}, "confidence"),
        ({"seed": 0.5}, "seed"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            measure(LABELS[:5], CHANCES[:5, :], **options)
    with pytest.raises(TypeError, match="bins"):
        classification.expected_calibration_error(LABELS, CHANCES, bins=1.5)


def test_the_scores_know_their_direction():
    lower = [n for n, f in SCORES.items() if not f.higher_is_better]
    assert lower == ["expected_calibration_error", "log_loss"]
