"""Data sets of one's own as a source: what is taken and what is refused."""

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import COUNT, NAMES, assert_same, dataset, numbered

from keras_lficam import data


def test_data_sets_of_ones_own(source):
    assert source.class_names == NAMES
    assert source.image_shape == (4, 6, 3)
    assert source.damaged == ()
    assert not source.has_masks
    assert list(source.splits) == ["train", "validation", "test"]
    assert [source.count(split) for split in source.splits] == [COUNT, 3, 2]
    (batch,) = source.batches("train").as_numpy_iterator()
    assert_same([batch], [numbered(COUNT)])


def test_floats_are_rounded():
    images = np.array([0.4, 0.6, 254.7, 256.0], "float32")
    images = images[:, None, None, None] * np.ones((1, 2, 2, 3), "float32")
    pairs = tf.data.Dataset.from_tensor_slices((images, [0, 1, 1, 0])).batch(3)
    source = data.from_datasets(pairs, pairs, class_names=NAMES)
    ((found, _),) = source.batches("train").as_numpy_iterator()
    assert found.dtype == "uint8"
    assert found[:, 0, 0, 0].tolist() == [0, 1, 255, 255]


@pytest.mark.parametrize(
    ("training", "error", "message"),
    [
        ([1, 2], TypeError, "`training` must be a tf.data.Dataset.*list"),
        (dataset().unbatch(), ValueError, r"batches.*\.batch\(32\)"),
        (dataset().map(lambda x, y: x), ValueError, r"batches \(image, label"),
        (
            dataset().map(lambda x, y: (x, tf.one_hot(y, 2))),
            ValueError,
            "labels of one form",
        ),
        (dataset().repeat(), ValueError, "without end.*repeat"),
        (
            dataset().unbatch().shuffle(13).batch(5),
            ValueError,
            "same order.*shuffle",
        ),
        (dataset().take(0), ValueError, "empty"),
        (
            dataset().map(lambda x, y: (tf.cast(x, tf.float32) / 255, y)),
            ValueError,
            "0 to 255.*from 0 to 0.0156",
        ),
    ],
)
def test_data_sets_that_cannot_be_used(training, error, message):
    with pytest.raises(error, match=message):
        data.from_datasets(training, dataset(), class_names=NAMES)


def test_labels_need_names():
    source = data.from_datasets(
        dataset(), dataset().map(lambda x, y: (x, y + 1)), class_names=NAMES
    )
    with pytest.raises(ValueError, match="'validation'.*2 names.*label 2"):
        source.count("validation")


@pytest.mark.parametrize("names", ["ab", ["a"], [0, 1]])
def test_names_of_classes_are_strings(names):
    with pytest.raises(ValueError, match="`class_names` must be a list"):
        data.from_datasets(dataset(), dataset(), class_names=names)
