"""A sample of a split: its classes, its order, its pixels."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from keras_lficam import data, evaluation
from keras_lficam.data import sampling

NAMES = ["ant", "bee", "cow", "dog"]


def sorted_source(numbers):
    """Images in the order of their classes; each is its position all over."""
    labels = np.repeat(np.arange(len(numbers)), numbers)
    images = np.ones((len(labels), 4, 6, 3)) * np.arange(len(labels)).reshape(
        -1, 1, 1, 1
    )
    pairs = tf.data.Dataset.from_tensor_slices(
        (images.astype("uint8"), labels)
    ).batch(8)
    return data.from_datasets(pairs, pairs, class_names=NAMES)


def drawn(source, *arguments, **options):
    chosen = data.sample(source, "validation", *arguments, **options)
    batches = chosen.batches("validation", batch_size=7)
    images, labels = (
        np.concatenate(parts)
        for parts in zip(*batches.as_numpy_iterator(), strict=True)
    )
    assert len(images) == chosen.count("validation")
    return images[:, 0, 0, 0].tolist(), labels.tolist(), chosen


@pytest.mark.parametrize(
    ("numbers", "count", "expected"),
    [
        ([40, 40, 40, 40], 20, [5, 5, 5, 5]),
        ([100, 50, 30, 20], 20, [10, 5, 3, 2]),
        # The shares are 9.7, 0.1, 0.1 and 0.1.
        ([194, 2, 2, 2], 10, [7, 1, 1, 1]),
        ([50, 50, 0, 0], 10, [5, 5, 0, 0]),
        ([3, 2, 1, 1], 100, [3, 2, 1, 1]),
    ],
)
def test_each_class_has_its_share(numbers, count, expected):
    positions, labels, chosen = drawn(sorted_source(numbers), count)
    assert len(set(positions)) == sum(expected)
    found = collections.Counter(labels)
    assert [found[label] for label in range(4)] == expected
    assert chosen.counts == dict(zip(NAMES, expected, strict=True))
    assert chosen.absent == [
        name for name, n in zip(NAMES, expected, strict=True) if n == 0
    ]
    bounds = np.cumsum(numbers)
    assert labels == np.searchsorted(bounds, positions, "right").tolist()


def test_the_seed_decides_which_and_in_which_order():
    source = sorted_source([50, 50, 50, 50])
    first, labels, _ = drawn(source, 24, seed=1)
    assert drawn(source, 24, seed=1)[0] == first
    assert sorted(drawn(source, 24, seed=2)[0]) != sorted(first)
    # The first of a grid are not all of the first class.
    assert len(set(labels[:8])) > 1


def test_fewer_images_than_classes_are_of_different_ones():
    labels = np.repeat(np.arange(100), 5)
    for seed in range(5):
        chosen = sampling._stratified(labels, 30, seed)
        assert len(set(labels[chosen])) == len(chosen) == 30


def test_every_image_is_as_likely_as_another():
    labels = np.repeat([0, 1], [30, 10])
    counts = np.zeros(40)
    for seed in range(1000):
        counts[sampling._stratified(labels, 8, seed)] += 1
    # Binomial with p = 1/5: within five standard deviations of 200.
    assert np.abs(counts - 200).max() < 5 * np.sqrt(160)


SEVERAL = [[1, 0, 0, 0]] * 30 + [[1, 1, 0, 0]] * 20 + [[0, 1, 0, 1]] * 10


def source_of_several(labels):
    """Images of several labels; each is its position all over."""
    images = np.ones((len(labels), 4, 6, 3)) * np.arange(len(labels)).reshape(
        -1, 1, 1, 1
    )
    pairs = tf.data.Dataset.from_tensor_slices(
        (images.astype("uint8"), np.array(labels, "uint8"))
    ).batch(8)
    return data.from_datasets(pairs, pairs, class_names=NAMES)


def test_each_combination_of_labels_has_its_share():
    source = source_of_several(SEVERAL)
    positions, labels, chosen = drawn(source, 12, seed=3)
    assert len(set(positions)) == 12
    assert labels == [SEVERAL[int(position)] for position in positions]
    # 12 of 60: a fifth of each.
    found = collections.Counter(map(tuple, labels))
    assert found == {(1, 0, 0, 0): 6, (1, 1, 0, 0): 4, (0, 1, 0, 1): 2}
    assert chosen.counts == {"ant": 10, "bee": 6, "cow": 0, "dog": 2}
    assert chosen.absent == ["cow"]
    assert chosen.multi_label
    assert chosen.class_counts("validation").tolist() == [10, 6, 0, 2]
    assert drawn(source, 12, seed=3)[0] == positions
    assert sorted(drawn(source, 12, seed=4)[0]) != sorted(positions)
    assert sorted(drawn(source, 99)[0]) == list(range(60))


def test_rare_combinations_of_labels_are_as_likely_as_frequent_ones():
    # Two of 45 images, and ten of one image each.
    numbers = [1, 2, *range(3, 13)]
    sizes = [45, 45, *[1] * 10]
    labels = np.repeat(
        [[n >> bit & 1 for bit in range(4)] for n in numbers], sizes, axis=0
    )
    counts = np.zeros(100)
    for seed in range(1000):
        chosen = sampling._spread(labels, 7, seed)
        assert len(set(chosen)) == 7
        counts[chosen] += 1
    # Binomial with p = 7/100: within five standard deviations of 70.
    assert np.abs(counts - 70).max() < 5 * np.sqrt(70 * 0.93)


def test_images_of_several_labels_are_compared():
    chosen = data.sample(source_of_several(SEVERAL), "train", 5)
    batches = chosen.batches("train", batch_size=4)

    def gray(images, classes=None):
        return np.asarray(images)[..., :1] / 255

    def mean(maps):
        return maps.mean(axis=(1, 2, 3))

    def compared(classes):
        return evaluation.evaluate(
            {"gray": gray}, {"mean": mean}, batches, classes=classes
        )

    found = compared(lambda images: np.zeros(len(images), "int64"))
    assert found.labels.shape == (5, 4)
    with pytest.raises(ValueError, match="argmax.*one-hot labels"):
        compared("label")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 0}, ValueError, "`count` must be an integer of at least 1"),
        ({"count": 2.5}, TypeError, "`count` must be an integer"),
        ({"seed": -1}, ValueError, "`seed` must be an integer of at least 0"),
        ({"split": "dev"}, ValueError, "`split` must be one of"),
    ],
)
def test_samples_that_cannot_be(options, error, message):
    arguments = {"split": "train", "count": 3} | options
    with pytest.raises(error, match=message):
        data.sample(sorted_source([4, 4, 4, 4]), **arguments)


def test_a_sample_has_no_other_split():
    """It once counted its own images for any name."""
    chosen = data.sample(sorted_source([4, 4, 4, 4]), "validation", 8)
    assert chosen.count("validation") == 8
    for call in (chosen.count, chosen.batches, chosen.class_counts):
        with pytest.raises(ValueError, match="one of validation.*'train'"):
            call("train")
