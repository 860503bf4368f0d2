"""What all sources share: the stream for training, and batches."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from numbered_images import (
    COUNT,
    NAMES,
    assert_same,
    dataset,
    numbered,
    take,
)
from PIL import Image

from keras_lficam import data
from keras_lficam.data import _memory, augmentation


def steps_of(source, steps=8, **options):
    options = {"image_size": (4, 6), "batch_size": 4} | options
    return take(source.stream("train", **options), steps)


@pytest.fixture(scope="module")
def begun_at_0(source):
    """Forty epochs of the stream."""
    return steps_of(source, steps=10 * COUNT)


def numbers(batches):
    return [int(n) for images, _ in batches for n in images[:, 0, 0, 0]]


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
            # The whole image, not one of 2x2 pixels.
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


def colored(count=6, size=(4, 6)):
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (count, *size, 3)).astype("uint8")


@pytest.mark.parametrize("names", [[], ["flip", "mix_up"]])
def test_gray_is_the_luma_of_what_is_in_color(names):
    pairs = tf.data.Dataset.from_tensor_slices((colored(), np.arange(6) % 2))
    source = data.from_datasets(
        pairs.batch(3), pairs.batch(3), class_names=NAMES
    )
    luma = np.array([[0.299], [0.587], [0.114]])
    color = steps_of(source, augmentation=names)
    gray = steps_of(source, augmentation=names, channels=1)
    for (rgb, label), (one, same) in zip(color, gray, strict=True):
        assert one.shape == (4, 4, 6, 1)
        np.testing.assert_allclose(one, rgb @ luma, atol=1e-3)
        np.testing.assert_array_equal(label, same)
    for size in (None, (3, 5)):
        options = {"image_size": size, "batch_size": 6}
        ((rgb, _),) = source.batches("validation", **options)
        ((one, _),) = source.batches("validation", channels=1, **options)
        assert one.dtype == rgb.dtype
        exact = np.array(rgb, "float64") @ luma
        exact = np.rint(exact) if size is None else exact
        np.testing.assert_allclose(one, exact, atol=1e-3)


def test_gray_data_is_of_three_equal_channels_or_one():
    gray = colored()[..., :1]
    pairs = tf.data.Dataset.from_tensor_slices((gray, np.arange(6) % 2))
    source = data.from_datasets(
        pairs.batch(3), pairs.batch(3), class_names=NAMES
    )
    assert source.image_shape == (4, 6, 3)
    for channels in (1, 3):
        ((images, _),) = source.batches("train", channels=channels)
        assert images.dtype == "uint8"
        np.testing.assert_array_equal(images, np.repeat(gray, channels, -1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_size": None}, ValueError, "pair of positive.*=None"),
        ({"batch_size": 0}, ValueError, "at least 1.*batch_size=0"),
        ({"batch_size": True}, TypeError, "at least 1.*batch_size=True"),
        ({"first_step": -1}, ValueError, "at least 0.*first_step=-1"),
        ({"first_step": 1.5}, TypeError, "`first_step` must be an integer"),
        ({"seed": -1}, ValueError, "at least 0.*seed=-1"),
        ({"shard": 1}, ValueError, "pair .index, number.*shard=1"),
        ({"shard": (0, 1, 2)}, ValueError, r"pair .index.*\(0, 1, 2\)"),
        ({"shard": (2, 2)}, ValueError, r"pair .index.*\(2, 2\)"),
        ({"shard": (True, 2)}, TypeError, r"an integer.*shard\[0\]=True"),
        ({"shard": (0, True)}, TypeError, r"an integer.*shard\[1\]=True"),
        ({"shard": (-1, 2)}, ValueError, r"at least 0.*shard\[0\]=-1"),
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
def test_center_crop_is_of_an_image_resized_by_pillow(shape, size, before):
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
        ({"channels": 4}, "3 for RGB or 1 for gray.*channels=4"),
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
