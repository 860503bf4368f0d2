"""What the command says of the metrics of a classifier."""

import numpy as np
import pytest

from keras_lficam.cli import _classification
from keras_lficam.metrics.classification import measure

# Of 100 images 70 are of the first class.
LABELS = np.array([0] * 70 + [1] * 30)


def metrics(right, labels=LABELS, names=("fine", "broken")):
    """Of a model that is right on the first images, and sure of all."""
    first = (np.arange(len(labels)) < right).reshape(
        -1, *[1] * (labels.ndim - 1)
    )
    said = np.where(first, labels, 1 - labels)
    return measure(labels, said.astype(float), names).to_dict()


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (
            98,
            "On the test images: The accuracy of 98.0% is above that of the "
            "majority class: always answering the most frequent class, fine, "
            "gives 70.0%.",
        ),
        (
            73,
            "On the test images: The accuracy of 73.0% is not clearly above "
            "that of the majority class: always answering the most frequent "
            "class, fine, gives 70.0%, which lies in the interval.",
        ),
        (
            60,
            "On the test images: THE ACCURACY OF 60.0% IS NOT ABOVE THAT OF "
            "THE MAJORITY CLASS: always answering the most frequent class, "
            "fine, gives 70.0%. Look at the balanced accuracy; --class-weight "
            "balanced, if it was not on, or more epochs may help.",
        ),
    ],
    ids=["above", "unclear", "not above"],
)
def test_the_accuracy_beside_the_majority(right, words):
    assert _classification.sentence(metrics(right), "test") == words


def test_a_name_that_is_long_or_moves_the_line():
    names = ("\x1b[2J" + "x" * 60, "broken")
    said = _classification.sentence(metrics(98, names=names), "test")
    shown = r"\x1b[2J" + "x" * 32 + "\N{HORIZONTAL ELLIPSIS}"
    assert f"most frequent class, {shown}, gives" in said


def test_the_majority_of_several_labels():
    labels = np.stack([LABELS, np.zeros_like(LABELS)], axis=-1)
    said = _classification.sentence(metrics(100, labels), "validation")
    # 70 of 100 lack the first label, all the second.
    assert "the most frequent answer of each label gives 85.0%" in said
