"""A sample of a split: its classes, its order, its pixels."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from keras_lficam import data
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


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 0}, ValueError, "`count` must be at least 1"),
        ({"count": 2.5}, TypeError, "`count` must be an integer"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"split": "dev"}, ValueError, "`split` must be one of"),
    ],
)
def test_samples_that_cannot_be(options, error, message):
    arguments = {"split": "train", "count": 3} | options
    with pytest.raises(error, match=message):
        data.sample(sorted_source([4, 4, 4, 4]), **arguments)
