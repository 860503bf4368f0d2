"""Sources: their splits, the stream for training, what becomes of pixels."""

import collections
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_lficam import data
from keras_lficam.data import _memory, _prepared, augmentation

COUNT = 13
NAMES = ["even", "odd"]


def numbered(count, size=(4, 6), dtype="uint8"):
    """Images that are their number all over; the label is its parity."""
    images = np.zeros((count, *size, 3), dtype)
    images += np.arange(count, dtype=dtype)[:, None, None, None]
    return images, np.arange(count) % 2


def dataset(count=COUNT, batch_size=5, **options):
    pairs = tf.data.Dataset.from_tensor_slices(numbered(count, **options))
    return pairs.batch(batch_size)


@pytest.fixture(scope="module")
def source():
    return data.from_datasets(
        dataset(), dataset(3), test=dataset(2), class_names=NAMES
    )


def take(stream, steps):
    return list(stream.take(steps).as_numpy_iterator())


def steps_of(source, steps=8, **options):
    options = {"image_size": (4, 6), "batch_size": 4} | options
    return take(source.stream("train", **options), steps)


@pytest.fixture(scope="module")
def begun_at_0(source):
    """Forty epochs of the stream."""
    return steps_of(source, steps=10 * COUNT)


def numbers(batches):
    return [int(n) for images, _ in batches for n in images[:, 0, 0, 0]]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


# --------------------------------------------------------------- the stream


def test_every_epoch_has_every_image_once_in_an_order_of_its_own(begun_at_0):
    batches = begun_at_0[: 4 * COUNT]
    order = numbers(batches)
    epochs = [order[i : i + COUNT] for i in range(0, 16 * COUNT, COUNT)]
    assert [sorted(epoch) for epoch in epochs] == 16 * [list(range(COUNT))]
    assert len(set(map(tuple, epochs))) == 16
    for images, labels in batches:
        assert images.dtype == "float32"
        assert images.shape == (4, 4, 6, 3)
        assert labels.dtype == "int64"
        np.testing.assert_array_equal(images[:, 0, 0, 0] % 2, labels)
        np.testing.assert_array_equal(
            images, images[:, :1, :1, :1] + 0 * images
        )


def test_images_that_are_first_and_last_change_from_epoch_to_epoch(begun_at_0):
    order = numbers(begun_at_0)
    firsts = collections.Counter(order[::COUNT])
    # 40 epochs; an image would be first in 10 or more of them less than once
    # in 600 trials, as a binomial with p = 1/13 says.
    assert max(firsts.values()) < 10
    assert len(firsts) > 8


# Epochs begin at the steps 3.25, 6.5, 9.75 and 13.
@pytest.mark.parametrize("first", [1, 3, 4, 6, 7, 13, 14, 100])
def test_what_begins_at_a_step_goes_on_as_if_it_had_begun_at_0(
    source, begun_at_0, first
):
    assert_same(
        begun_at_0[first : first + 8], steps_of(source, first_step=first)
    )


@pytest.mark.parametrize(
    "names", [("pad_crop", "flip"), ("random_resized_crop", "cut_mix")]
)
def test_augmentations_go_on_from_a_step_as_well(names):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 20, 24, 3), "uint8")
    pairs = tf.data.Dataset.from_tensor_slices((images, np.arange(COUNT) % 2))
    source = data.from_datasets(
        pairs.batch(5), pairs.batch(5), class_names=NAMES
    )
    options = {"image_size": (16, 16), "batch_size": 4, "augmentation": names}
    whole = take(source.stream("train", **options), 12)
    for first in (2, 10):
        stream = source.stream("train", first_step=first, **options)
        assert_same(take(stream, 2), whole[first : first + 2])
    assert whole[0][1].shape == ((4, 2) if "cut_mix" in names else (4,))


@pytest.mark.parametrize("shards", [2, 4])
def test_the_shards_of_a_step_are_its_batch(source, begun_at_0, shards):
    parts = [
        steps_of(source, shard=(index, shards), first_step=2)
        for index in range(shards)
    ]
    joined = [
        tuple(np.concatenate(pieces) for pieces in zip(*step, strict=True))
        for step in zip(*parts, strict=True)
    ]
    assert {len(labels) for part in parts for _, labels in part} == {
        4 // shards
    }
    assert_same(joined, begun_at_0[2:10])


def test_order_follows_the_seed(source):
    first, again, other = (
        numbers(steps_of(source, seed=seed)) for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_an_epoch_is_not_that_of_the_next_seed(source):
    one = numbers(steps_of(source, steps=2, batch_size=COUNT, seed=1))
    two = numbers(steps_of(source, steps=2, batch_size=COUNT, seed=2))
    assert one[COUNT:] != two[:COUNT]


@pytest.mark.parametrize("seed", [0, 2**31 - 3, 2**31 - 2, 2**31 - 1, 2**40])
def test_seeds_are_taken_from_a_wide_range(source, seed):
    order = numbers(steps_of(source, seed=seed, batch_size=COUNT, steps=1))
    assert sorted(order) == list(range(COUNT))


def test_order_does_not_follow_the_seed_of_the_program(source, begun_at_0):
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        assert_same(steps_of(source), begun_at_0[:8])


def test_a_small_buffer_leaves_none_out(source, monkeypatch):
    monkeypatch.setattr(source, "_shuffled_together", 3)
    order = numbers(steps_of(source, steps=COUNT))
    for epoch in range(4):
        part = order[COUNT * epoch : COUNT * (epoch + 1)]
        assert sorted(part) == list(range(COUNT))
        # What comes first was among the first three.
        assert part[0] < 3


def test_each_image_is_made_once_if_all_fit_into_memory(source, monkeypatch):
    made = collections.Counter()

    def count(image):
        made[int(image[0, 0, 0])] += 1
        return image

    decode = source._image

    def counted(example):
        image = tf.numpy_function(count, [decode(example)], tf.uint8)
        return tf.ensure_shape(image, (4, 6, 3))

    monkeypatch.setattr(source, "_image", counted)
    # Images of 7x6 pixels take 126 bytes, of which a quarter is used.
    # Around the end of an epoch an image can be made for both before it is
    # kept, so a few are made twice.
    for available, enough in [
        (4 * COUNT * 126, True),
        (504 * COUNT - 4, False),
    ]:
        monkeypatch.setattr(_memory, "available_memory", lambda n=available: n)
        made.clear()
        order = numbers(
            steps_of(source, steps=20, batch_size=COUNT, image_size=(7, 6))
        )
        assert sorted(order) == sorted(20 * list(range(COUNT)))
        assert (made.total() < 10 * COUNT) == enough
        assert (min(made.values()) >= 20) != enough


@pytest.mark.parametrize("names", [(), ("flip",)])
def test_memory_decides_nothing_but_the_time(source, monkeypatch, names):
    options = {"image_size": (9, 7), "augmentation": names, "steps": 12}
    kept = steps_of(source, **options)
    monkeypatch.setattr(_memory, "available_memory", lambda: 0)
    assert_same(kept, steps_of(source, **options))


def test_images_are_rounded_as_they_are_kept():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 12, 12, 3), "uint8")
    pairs = tf.data.Dataset.from_tensor_slices((images, np.arange(6)))
    source = data.from_datasets(
        pairs.batch(6), pairs.batch(6), class_names=list("abcdef")
    )
    ((resized, _),) = source.batches("train", image_size=(5, 5))
    ((streamed, labels),) = take(
        source.stream("train", image_size=(5, 5), batch_size=6), 1
    )
    np.testing.assert_array_equal(streamed, np.rint(resized)[labels])


def test_augmentations_are_seeded_by_position_and_step(source, monkeypatch):
    plain = numbers(steps_of(source, steps=6, seed=8))
    seen = []

    def image_function(names, image_size):
        assert names == ("random_resized_crop", "mix_up")
        assert image_size == (2, 2)

        def augment(image, seed):
            assert image.dtype == tf.uint8
            # The whole picture, not one of 2x2 pixels.
            seen.append(tuple(image.shape))
            pixel = [tf.cast(image[0, 0, 0], tf.int64), *tf.unstack(seed)]
            return tf.ones((2, 2, 1)) * tf.cast(tf.stack(pixel), tf.float32)

        return augment

    def batch_function(names, num_classes):
        assert num_classes == 2

        def mix(images, labels, seed):
            shares = tf.one_hot(labels, num_classes)
            return images, shares * 0 + tf.cast(seed, tf.float32)

        return mix

    monkeypatch.setattr(augmentation, "image_function", image_function)
    monkeypatch.setattr(augmentation, "batch_function", batch_function)
    for shards in (1, 2):
        for index in range(shards):
            batches = steps_of(
                source,
                steps=4,
                image_size=(2, 2),
                seed=8,
                augmentation=["random_resized_crop", "mix_up"],
                first_step=2,
                shard=(index, shards),
            )
            for step, (images, labels) in enumerate(batches, start=2):
                size = 4 // shards
                first = 4 * step + index * size
                pixels = images[:, 1, 1].astype(int)
                assert pixels[:, 0].tolist() == plain[first : first + size]
                assert pixels[:, 1].tolist() == size * [8]
                assert pixels[:, 2].tolist() == [*range(first, first + size)]
                assert labels.tolist() == size * [[8, shards * step + index]]
    assert set(seen) == {(4, 6, 3)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_size": None}, ValueError, "pair of positive.*=None"),
        ({"batch_size": 0}, ValueError, "at least 1.*batch_size=0"),
        ({"first_step": -1}, ValueError, "at least 0.*first_step=-1"),
        ({"first_step": 1.5}, TypeError, "`first_step` must be an integer"),
        ({"seed": -1}, ValueError, "at least 0.*seed=-1"),
        ({"shard": 1}, ValueError, "pair .index, number.*shard=1"),
        ({"shard": (2, 2)}, ValueError, r"pair .index.*\(2, 2\)"),
        ({"shard": (0, 3)}, ValueError, "multiple.*3.*4.*batch_size=6"),
        ({"augmentation": ("turn",)}, ValueError, "turn"),
    ],
)
def test_a_stream_that_cannot_be(source, options, error, message):
    arguments = {"image_size": (4, 6), "batch_size": 4} | options
    with pytest.raises(error, match=message):
        source.stream("train", **arguments)


# --------------------------------------------------------- sizes and batches


def test_center_crop_shows_the_middle():
    # Of 8x16 pixels, to cover 8/7 of 7x7, nothing is resized; 7 rows from 0
    # and 7 columns from 4 are in the middle.
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 3), "uint8")
    pairs = tf.data.Dataset.from_tensor_slices((images, [0, 1])).batch(2)
    source = data.from_datasets(pairs, pairs, class_names=NAMES)
    ((cropped, _),) = source.batches(
        "validation", image_size=(7, 7), resizing="center_crop"
    ).as_numpy_iterator()
    assert cropped.dtype == "float32"
    np.testing.assert_array_equal(cropped, images[:, :7, 4:11])


@pytest.mark.parametrize(
    ("shape", "size", "before"),
    [
        # ImageNet's: the shorter side becomes 256.
        ((375, 500), (224, 224), (256, 341)),
        ((500, 375), (224, 224), (341, 256)),
        # The height has to cover 32 and then is 40, as the width covers 80.
        ((60, 120), (28, 70), (40, 80)),
    ],
)
def test_center_crop_is_of_a_picture_resized_by_pillow(shape, size, before):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), "uint8"))
    image = np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))
    pairs = tf.data.Dataset.from_tensors((image, 0)).batch(1)
    source = data.from_datasets(pairs, pairs, class_names=NAMES)
    ((cropped, _),) = source.batches(
        "validation", image_size=size, resizing="center_crop"
    ).as_numpy_iterator()
    resized = Image.fromarray(image).resize(
        before[::-1], Image.Resampling.BILINEAR
    )
    top, left = ((b - s) // 2 for b, s in zip(before, size, strict=True))
    expected = np.asarray(resized)[top : top + size[0], left : left + size[1]]
    np.testing.assert_allclose(cropped[0], expected, atol=1.5)


def test_a_cache_gives_the_same_without_making_it_again(monkeypatch):
    passes = []

    def generate():
        passes.append(None)
        yield from zip(*numbered(COUNT), strict=True)

    pairs = tf.data.Dataset.from_generator(
        generate,
        output_signature=(
            tf.TensorSpec((4, 6, 3), tf.uint8),
            tf.TensorSpec((), tf.int64),
        ),
    ).batch(5)
    source = data.from_datasets(pairs, dataset(), class_names=NAMES)
    assert source.count("train") == COUNT
    plain = list(source.batches("train").as_numpy_iterator())
    # An image of 4x6x3 pixels with its label of 8 bytes, a quarter of what is
    # there.
    for available, expected in [(4 * COUNT * 80, 1), (4 * COUNT * 80 - 4, 3)]:
        monkeypatch.setattr(_memory, "available_memory", lambda n=available: n)
        batches = source.batches("train", cache=True)
        passes.clear()
        for _ in range(3):
            assert_same(list(batches.as_numpy_iterator()), plain)
        assert len(passes) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": True, "shuffle": True}, r"drop one.*source\.stream\("),
        ({"resizing": "crop"}, "'stretch', 'center_crop'.*'crop'"),
        ({"with_masks": True}, "masks of the object.*batches .image, label"),
        ({"split": "dev"}, "train, validation, test.*'dev'"),
    ],
)
def test_batches_that_cannot_be(source, options, message):
    with pytest.raises(ValueError, match=message):
        source.batches(**{"split": "train"} | options)


def test_available_memory_is_that_of_the_container(tmp_path, monkeypatch):
    machine = _memory.available_memory()
    assert machine > 2**20
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(_memory, "_LIMIT", limit)
    monkeypatch.setattr(_memory, "_USED", used)
    used.write_text("300\n")
    for text, expected in [("1000\n", 700), ("200\n", 0)]:
        limit.write_text(text)
        assert _memory.available_memory() == expected
    limit.write_text("max\n")
    assert _memory.available_memory() > 2**20


# ------------------------------------------------------ data sets of one's own


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


# ----------------------------------------------------- TensorFlow Datasets


NINE_TO_ONE = ["train[:90%]", "train[90%:]"]


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
        assert data.splits(name) == source.splits
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
    found = data.splits("mnist", data_dir=tmp_path)
    assert list(found) == ["train", "validation", "test"]
    assert list(found.values()) == expected


def test_a_set_without_training_images_is_refused(tmp_path):
    prepared(tmp_path, "mnist", ["test"])
    with pytest.raises(ValueError, match="mnist: .*no part 'train'.*test.*"):
        data.splits("mnist", data_dir=tmp_path)


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
        monkeypatch.setattr(_prepared, "_SMALL", -1)
        assert data.source("cifar10")._shuffled_together == 10_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "no/such/folder: there is no such folder"),
        ("Cats_vs_Dog", "nearest: cats_vs_dogs"),
        ("CIFAR-10", "nearest: cifar10"),
        ("my pictures", "folder that exists, or .*'my pictures'"),
        ("cifar11", "folder that exists, or .*'cifar11'.*cifar10"),
    ],
)
def test_a_name_is_a_folder_or_a_data_set(name, message):
    with pytest.raises(ValueError, match=message):
        data.source(name)
