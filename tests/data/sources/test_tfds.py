"""Data sets of TensorFlow Datasets: splits, parts, masks, preparation."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from numbered_images import NAMES, numbered, take

from keras_lficam import data
from keras_lficam.data.sources import tfds as tfds_source

NINE_TO_ONE = ["train[:90%]", "train[90%:]"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes", "splits"),
    [
        ("cifar10", 10, [*NINE_TO_ONE, "test"]),
        ("cifar100", 100, [*NINE_TO_ONE, "test"]),
        ("stl10", 10, [*NINE_TO_ONE, "test"]),
        (
            "cats_vs_dogs",
            2,
            ["train[:80%]", "train[80%:90%]", "train[90%:]"],
        ),
        ("imagenette", 10, [*NINE_TO_ONE, "validation[:100%]"]),
        ("imagenette/160px-v2", 10, [*NINE_TO_ONE, "validation[:100%]"]),
        ("imagenet2012", 1000, [*NINE_TO_ONE, "validation[:100%]"]),
        ("oxford_iiit_pet", 37, [*NINE_TO_ONE, "test"]),
    ],
)
def test_named_sets(name, classes, splits):
    with tfds.testing.mock_data(num_examples=7):
        source = data.source(name)
        assert list(source.splits) == ["train", "validation", "test"]
        assert list(source.splits.values()) == splits
        assert source.name == name
        assert len(source.class_names) == classes
        assert source.has_masks == (name == "oxford_iiit_pet")
        assert source.count("train") == source.count("train[:50%]") == 7
        options = {"image_size": (24, 16), "batch_size": 7}
        ((streamed, labels),) = take(source.stream("train", **options), 1)
        ((images, expected),) = source.batches("test", **options)
    # Mocked splits all have the same images.
    pairs, others = (
        sorted(zip(y.tolist(), x.reshape(7, -1).tolist(), strict=True))
        for x, y in [
            (streamed, labels),
            (np.rint(images), expected.numpy()),
        ]
    )
    assert pairs == others
    assert streamed.std() > 10


def prepared(folder, name, parts):
    """Makes TFDS believe that a data set with these parts is prepared."""
    builder = tfds.builder(name, data_dir=folder)
    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_path,
        dataset_name=name,
        filetype_suffix="tfrecord",
    )
    builder.info.set_splits(
        tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=part,
                    shard_lengths=[100],
                    num_bytes=1,
                    filename_template=template,
                )
                for part in parts
            ]
        )
    )
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            ["train", "validation", "test", "unlabelled"],
            ["train", "validation", "test"],
        ),
        (["test", "train"], ["train[:90%]", "train[90%:]", "test"]),
        (
            ["train", "validation"],
            ["train[:90%]", "train[90%:]", "validation[:100%]"],
        ),
        (["train"], ["train[:80%]", "train[80%:90%]", "train[90%:]"]),
    ],
)
def test_splits_follow_from_the_parts_that_there_are(tmp_path, parts, expected):
    prepared(tmp_path, "mnist", parts)
    found = data.source("mnist", data_dir=tmp_path).splits
    assert list(found) == ["train", "validation", "test"]
    assert list(found.values()) == expected


def test_a_set_without_training_images_is_refused(tmp_path):
    prepared(tmp_path, "mnist", ["test"])
    source = data.source("mnist", data_dir=tmp_path)
    with pytest.raises(ValueError, match="mnist: .*no part 'train'.*test.*"):
        source.splits  # noqa: B018


def test_a_key_is_a_split_and_a_bracket_is_that_of_tfds(tmp_path):
    """Imagenette's own part "validation" is for the test."""
    prepared(tmp_path, "imagenette", ["train", "validation"])
    source = data.source("imagenette", data_dir=tmp_path)
    assert source.count("train") == 90
    assert source.count("validation") == 10
    assert source.count("test") == 100
    assert (
        source.count("train[:100%]") == source.count("validation[:100%]") == 100
    )
    assert source.count("train[:25%]+validation[:5]") == 30
    for split, own in source.splits.items():
        assert source.count(own) == source.count(split)


@pytest.mark.parametrize(
    "split", ["train", "validation", "test", "train[:100%]", "train+test"]
)
def test_load_and_batches_mean_the_same_by_a_split(
    tmp_path, monkeypatch, split
):
    """Of CIFAR-10's 50,000 images "train" has 45,000, whoever reads them."""
    prepared(tmp_path, "cifar10", ["train", "test"])
    opened = []

    def as_dataset(self, split, **options):
        opened.append(split)
        count = self.info.splits[split].num_examples
        return tf.data.Dataset.from_tensors(
            {"image": tf.zeros([], tf.string), "label": tf.zeros([], tf.int64)}
        ).repeat(count)

    kind = type(tfds.builder("cifar10", data_dir=tmp_path))
    monkeypatch.setattr(kind, "as_dataset", as_dataset)
    source = data.source("cifar10", data_dir=tmp_path)
    source.count(split)
    data.load("cifar10", split, data_dir=tmp_path)
    source.batches(split)
    assert len(set(opened)) == 1
    expected = {
        "train": "train[:90%]",
        "validation": "train[90%:]",
    }
    assert opened[0] == expected.get(split, split)


def test_an_unknown_split_is_refused_before_a_download(tmp_path, monkeypatch):
    def download_and_prepare(self):
        raise AssertionError("it must not come to that")

    source = data.source("stl10", data_dir=tmp_path)
    kind = type(tfds.builder("stl10", data_dir=tmp_path))
    monkeypatch.setattr(kind, "download_and_prepare", download_and_prepare)
    for split in ("tset", "unlabelled"):
        for call in (source.count, source.batches):
            with pytest.raises(
                ValueError,
                match=f"one of train, validation, test, or .*plus.*'{split}'",
            ):
                call(split)


def test_a_part_that_is_no_split_goes_by_a_bracket(tmp_path):
    prepared(tmp_path, "stl10", ["train", "test", "unlabelled"])
    source = data.source("stl10", data_dir=tmp_path)
    assert source.count("unlabelled[:100%]") == 100


def test_a_set_without_training_images_can_be_loaded(tmp_path):
    prepared(tmp_path, "mnist", ["test"])
    assert data.source("mnist", data_dir=tmp_path).count("test") == 100


class Shades(tfds.core.GeneratorBasedBuilder):
    """A data set of three images, for TFDS to prepare."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(__file__).parent  # This module is no package.
    meanwhile = staticmethod(lambda: None)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "label": tfds.features.ClassLabel(names=NAMES),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        images, labels = numbered(3, (4, 4))
        for number, (image, label) in enumerate(
            zip(images, labels, strict=True)
        ):
            yield number, {"image": image, "label": label}
        self.meanwhile()


def test_a_set_may_be_prepared_by_another_process_meanwhile(
    tmp_path, monkeypatch
):
    """As by a second worker of the same machine, in a first training."""

    def by_another():
        monkeypatch.undo()
        tfds.builder("shades", data_dir=tmp_path).download_and_prepare()

    monkeypatch.setattr(Shades, "meanwhile", staticmethod(by_another))
    batches = data.load("shades", "train[:100%]", data_dir=tmp_path)
    (found,) = batches.as_numpy_iterator()
    assert sorted(found[0][:, 0, 0, 0]) == [0, 1, 2]
    assert Shades.meanwhile() is None  # The other one was there.


def test_masks_of_pets_are_what_is_pet_for_sure():
    with tfds.testing.mock_data(num_examples=1):
        source = data.source("oxford_iiit_pet")
    trimap = np.array([[[1], [2], [3]], [[3], [1], [2]]], "uint8")
    example = {"segmentation_mask": tf.io.encode_png(trimap)}
    mask = source._mask(example)
    assert mask.dtype == tf.float32
    assert mask.numpy()[..., 0].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_masks_are_cropped_as_their_images_are(monkeypatch):
    def as_dataset(self, *arguments, **options):
        image = np.random.default_rng(0).integers(0, 256, (8, 16, 3), "uint8")
        # On the object where there is much red.
        trimap = np.where(image[..., :1] > 127, 1, 3).astype("uint8")
        return tf.data.Dataset.from_tensors(
            {
                "image": tf.io.encode_png(image),
                "label": np.int64(5),
                "segmentation_mask": tf.io.encode_png(trimap),
            }
        )

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        ((images, labels, masks),) = data.load(
            "oxford_iiit_pet",
            "test",
            image_size=(7, 7),
            resizing="center_crop",
            with_masks=True,
        )
    assert labels.numpy().tolist() == [5]
    assert masks.shape == (1, 7, 7, 1)
    np.testing.assert_array_equal(masks, images[..., :1] > 127)


def test_large_sets_are_shuffled_in_part(monkeypatch):
    with tfds.testing.mock_data(num_examples=3):
        assert data.source("cifar10")._shuffled_together >= 60_000
        monkeypatch.setattr(tfds_source, "_SMALL", -1)
        assert data.source("cifar10")._shuffled_together == 10_000
