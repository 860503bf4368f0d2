"""Data sets and folders by their name, as batches."""

import hashlib
import inspect

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_lficam import data
from keras_lficam.data import digits_in_photos


def digest(*arrays):
    return hashlib.sha256(b"".join(map(np.ndarray.tobytes, arrays))).hexdigest()


def test_load_takes_what_batches_takes():
    """The two signatures are written out, for who reads them."""
    given = dict(inspect.signature(data.load).parameters)
    del given["name"], given["data_dir"]
    options = dict(inspect.signature(data.Source.batches).parameters)
    del options["self"]
    assert given == options


def load_all(folder, split="train", **kwargs):
    """All of a split in one batch, as NumPy arrays."""
    batches = data.load(
        "digits_in_photos", split, batch_size=99, data_dir=folder, **kwargs
    )
    (batch,) = batches.as_numpy_iterator()
    return batch


def assert_pairs(images, labels, masks):
    originals = {
        digest(e["image"]): e
        for e in (digits_in_photos.compose("train", i) for i in range(40))
    }
    assert len(images) == 40
    for image, label, mask in zip(images, labels, masks, strict=True):
        original = originals.pop(digest(image))
        assert label == original["label"]
        np.testing.assert_array_equal(mask, original["mask"] / 255)


@pytest.mark.parametrize("shuffle", [False, True])
def test_images_labels_and_masks_stay_together(small_set, shuffle):
    batch = load_all(small_set, with_masks=True, shuffle=shuffle)
    assert [part.dtype for part in batch] == ["uint8", "int64", "float32"]
    assert_pairs(*batch)


def test_order_is_fixed_without_shuffle(small_set):
    first = load_all(small_set)[0]
    np.testing.assert_array_equal(load_all(small_set, seed=5)[0], first)


def test_order_follows_the_seed_with_shuffle(small_set):
    plain = load_all(small_set)[0]
    first = load_all(small_set, shuffle=True, seed=1)[0]
    again = load_all(small_set, shuffle=True, seed=1)[0]
    other = load_all(small_set, shuffle=True, seed=2)[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, plain)
    assert not np.array_equal(first, other)


def test_every_pass_has_a_new_order_with_shuffle(small_set):
    batches = data.load(
        "digits_in_photos",
        "train",
        batch_size=40,
        shuffle=True,
        data_dir=small_set,
    )
    first, second = (next(iter(batches))[0].numpy() for _ in range(2))
    assert not np.array_equal(first, second)


def test_batches_have_the_size_asked_for(small_set):
    batches = data.load(
        "digits_in_photos", "train", batch_size=16, data_dir=small_set
    )
    assert [len(labels) for _, labels in batches] == [16, 16, 8]


def test_slices_of_a_split(small_set):
    whole = load_all(small_set)[0]
    head = load_all(small_set, "train[:80%]")[0]
    tail = load_all(small_set, "train[80%:]")[0]
    np.testing.assert_array_equal(np.concatenate([head, tail]), whole)
    assert len(load_all(small_set, "validation+test")[0]) == 30


@pytest.mark.parametrize("size", [(32, 32), (48, 100)])
def test_images_are_resized_without_aliasing(small_set, size):
    whole = load_all(small_set, "test")
    images, labels = load_all(small_set, "test", image_size=size)
    np.testing.assert_array_equal(labels, whole[1])
    assert images.dtype == np.float32
    for image, original in zip(images, whole[0], strict=True):
        expected = Image.fromarray(original).resize(
            size[::-1], Image.Resampling.BILINEAR
        )
        np.testing.assert_allclose(image, expected, atol=1.5)


def test_masks_are_resized_by_nearest_neighbor(small_set):
    _, _, whole = load_all(small_set, "test", with_masks=True)
    _, _, masks = load_all(
        small_set, "test", with_masks=True, image_size=[128, 192]
    )
    np.testing.assert_array_equal(masks, whole.repeat(2, 1).repeat(3, 2))


# ------------------------------------------------------------ other data sets


def test_cifar10_comes_as_tfds_has_it():
    with tfds.testing.mock_data(num_examples=7):
        batches = list(data.load("cifar10", "train", batch_size=4))
    assert [images.shape for images, _ in batches] == [
        (4, 32, 32, 3),
        (3, 32, 32, 3),
    ]
    assert batches[0][0].dtype == tf.uint8
    assert batches[0][0].numpy().std() > 0


def test_gray_images_become_rgb():
    with tfds.testing.mock_data(num_examples=3):
        images, _ = next(iter(data.load("mnist", "test")))
    assert images.shape == (3, 28, 28, 3)
    red, green, blue = np.moveaxis(images.numpy(), -1, 0)
    assert red.std() > 0
    np.testing.assert_array_equal(red, green)
    np.testing.assert_array_equal(red, blue)


def test_images_of_many_sizes_are_resized():
    with tfds.testing.mock_data(num_examples=3):
        batches = data.load("imagenette", "train", image_size=(40, 30))
        images, _ = next(iter(batches))
    assert images.shape == (3, 40, 30, 3)
    assert images.dtype == tf.float32


def test_class_names(small_set):
    source = data.source("digits_in_photos", data_dir=small_set)
    assert source.class_names == list("0123456789")


def test_class_names_come_from_the_prepared_data(tmp_path):
    """CIFAR-10, for one, has numbers for names until it is prepared."""
    builder = tfds.builder("cifar10", data_dir=tmp_path)
    builder.info.features["label"].names = [f"class {i}" for i in range(10)]
    builder.info.set_splits(tfds.core.splits.SplitDict([]))
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)
    source = data.source("cifar10", data_dir=tmp_path)
    assert source.class_names == [f"class {i}" for i in range(10)]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"name": "cifr10"}, ValueError, "Received: name='cifr10'.*cifar10"),
        ({"name": "zzzzzz"}, ValueError, "zzzzzz.*digits_in_photos"),
        ({"name": 10}, TypeError, "`name` must be a string.*10 of type int"),
        ({"split": None}, TypeError, "`split` must be a string.*NoneType"),
        ({"split": "tset"}, ValueError, "train, validation, test.*'tset'"),
        ({"split": "train[:"}, ValueError, r"\[:80%\].*'train\[:'"),
        ({"batch_size": 0}, ValueError, "at least 1.*batch_size=0"),
        ({"batch_size": 2.5}, TypeError, "integer.*2.5 of type float"),
        ({"image_size": 64}, ValueError, r"\(height, width\).*image_size=64"),
        ({"image_size": (64, 0)}, ValueError, r"positive.*\(64, 0\)"),
        ({"image_size": (64, 64, 3)}, ValueError, r"pair.*\(64, 64, 3\)"),
        ({"name": "imdb_reviews"}, ValueError, r"'image' and 'label'.*'text'"),
        ({"name": "coco"}, ValueError, "'image' and 'label'.*'objects'"),
        (
            {"name": "cifar10", "with_masks": True},
            ValueError,
            r"named 'mask'.*'cifar10'.*\['id', 'image', 'label'\]",
        ),
        (
            {"name": "cats_vs_dogs", "with_masks": True},
            ValueError,
            "named 'mask'.*'image/filename'",
        ),
        (
            {"name": "oxford_iiit_pet"},
            ValueError,
            r"different sizes.*image_size=None.*\(224, 224\)",
        ),
    ],
)
def test_errors_say_what_is_wrong_and_the_way_out(
    small_set, kwargs, error, message
):
    arguments = {"name": "digits_in_photos", "split": "train"} | kwargs
    with pytest.raises(error, match=message):
        data.load(**arguments, data_dir=small_set)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "no/such/folder: there is no such folder"),
        ("Cats_vs_Dog", "nearest: cats_vs_dogs"),
        ("CIFAR-10", "nearest: cifar10"),
        ("my images", "folder that exists, or .*'my images'"),
        ("cifar11", "folder that exists, or .*'cifar11'.*cifar10"),
    ],
)
def test_a_name_is_a_folder_or_a_data_set(name, message):
    with pytest.raises(ValueError, match=message):
        data.source(name)
