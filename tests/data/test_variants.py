"""Images with a known answer: their pixels, and through TFDS and back."""

import pathlib
import re

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow_datasets as tfds
from PIL import Image

from keras_lficam import data, evaluation, metrics
from keras_lficam.data import digits_in_photos
from keras_lficam.data.digits_in_photos import builder

SMALL = {
    "pairs": {"train": 20, "validation": 10, "test": 20},
    "shortcut": {
        "train": 20,
        "validation": 10,
        "test": 20,
        "test_shifted": 20,
    },
    "absent": {"test": 10},
    "large": {"train": 4, "validation": 2, "test": 2},
}


@pytest.fixture(scope="module")
def pairs():
    return [digits_in_photos.compose_pair("test", n) for n in range(90)]


@pytest.fixture(scope="module")
def tagged():
    """Images with a tag, and the same as they are without it."""
    return [
        (
            digits_in_photos.compose_shortcut("train", n),
            digits_in_photos.compose("train", n),
        )
        for n in range(200)
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with small sets, each prepared by `load` itself."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "NUM_EXAMPLES_OF", SMALL)
        for name in SMALL:
            data.load(f"digits_in_photos/{name}", "test", data_dir=folder)
    return folder


def flat(mask):
    return mask[..., 0] > 0


def on_gray(monkeypatch):
    """Photos of one gray, so that what is drawn is all that differs."""
    monkeypatch.setattr(
        digits_in_photos.variants,
        "photo_parts",
        lambda split: (Image.new("RGB", (99, 99), (120,) * 3),),
    )


# ---------------------------------------------------------------- two digits


def test_of_90_pairs_each_pair_of_classes_is_one(pairs):
    found = [pair["labels"] for pair in pairs]
    expected = [(a, b) for a in range(10) for b in range(10) if a != b]
    assert sorted(found) == expected
    for pair in pairs:
        for label, digit in zip(pair["labels"], pair["digits"], strict=True):
            assert digit in digits_in_photos.digit_ids("test")[label]


def test_the_digits_of_a_pair_lie_apart(pairs):
    side_by_side = 0
    for pair in pairs:
        one, other = pair["boxes"]
        gaps = [
            max(one[axis], other[axis]) - min(one[axis + 2], other[axis + 2])
            for axis in (0, 1)
        ]
        assert max(gaps) >= 2
        side_by_side += gaps[1] >= 2
        for box, mask in zip(pair["boxes"], pair["masks"], strict=True):
            rows, columns = np.nonzero(flat(mask))
            assert box == (
                rows.min(),
                columns.min(),
                rows.max() + 1,
                columns.max() + 1,
            )
            top, left, bottom, right = box
            assert 15 < bottom - top < 40
            assert not pair["marks"][top:bottom, left:right].any()
    assert 30 < side_by_side < 80


def test_masks_of_a_pair_are_where_its_digits_are(monkeypatch):
    on_gray(monkeypatch)
    for number in range(20):
        pair = digits_in_photos.compose_pair("train", number)
        one, other = map(flat, pair["masks"])
        assert not (one & other).any()
        drawn = scipy.ndimage.binary_dilation(
            one | other | flat(pair["marks"]), iterations=2
        )
        image = pair["image"].astype(int)
        (color,) = np.unique(image[~drawn], axis=0)
        assert (np.abs(image - color).max(axis=-1)[one | other] > 15).all()


def test_a_pair_depends_on_split_index_and_seed_alone(pairs):
    again = digits_in_photos.compose_pair("test", 7)["image"]
    np.testing.assert_array_equal(again, pairs[7]["image"])
    for split, seed in [
        ("train", builder.compose.__defaults__[0]),
        ("test", 1),
    ]:
        other = digits_in_photos.compose_pair(split, 7, seed)["image"]
        assert (other != again).mean() > 0.5


# ---------------------------------------------------------------- a shortcut


def test_a_tag_is_all_that_differs_from_the_plain_image(tagged):
    for example, plain in tagged:
        top, left, bottom, right = example["tag_box"]
        assert (bottom - top, right - left) == (6, 6)
        assert top in (3, 55)
        assert left in (3, 55)
        inside = flat(digits_in_photos.tag_mask(example["tag_box"]))
        assert inside.sum() == 36
        assert inside[top:bottom, left:right].all()
        np.testing.assert_array_equal(
            example["image"][inside],
            np.tile(digits_in_photos.TAG_COLORS[example["tag"]], (36, 1)),
        )
        np.testing.assert_array_equal(
            example["image"][~inside], plain["image"][~inside]
        )
        assert not example["marks"][inside].any()
        box_of_digit = flat(metrics.box_masks(plain["mask"][None] > 0)[0])
        assert not (box_of_digit & inside).any()
        for key in ("label", "mask", "box", "digit"):
            np.testing.assert_array_equal(example[key], plain[key])
    corners = {example["tag_box"][:2] for example, _ in tagged}
    assert len(corners) == 4


def test_the_tag_goes_with_the_class_in_19_of_20_images(tagged):
    agrees = np.array([one["tag"] == one["label"] for one, _ in tagged])
    labels = np.array([one["label"] for one, _ in tagged])
    assert agrees.sum() == 190
    assert np.bincount(labels[~agrees]).tolist() == [1] * 10


def test_the_other_tags_are_spread_over_the_nine_other_classes():
    indices = 3 + 10 * (19 + 20 * np.arange(9))
    found = [
        digits_in_photos.compose_shortcut("train", int(index))["tag"]
        for index in indices
    ]
    assert sorted(found) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_in_the_shifted_part_tag_and_class_are_independent():
    shifted, biased = (
        [digits_in_photos.compose_shortcut(split, n) for n in range(100)]
        for split in ("test_shifted", "test")
    )
    combinations = {(one["label"], one["tag"]) for one in shifted}
    assert len(combinations) == 100
    assert sum(one["label"] == one["tag"] for one in biased) == 100
    for one, other in zip(shifted, biased, strict=True):
        assert one["tag_box"] == other["tag_box"]
        outside = ~flat(digits_in_photos.tag_mask(one["tag_box"]))
        np.testing.assert_array_equal(
            one["image"][outside], other["image"][outside]
        )


def test_colors_of_tags_are_far_apart():
    colors = digits_in_photos.TAG_COLORS.astype(int)
    distances = np.abs(colors[:, None] - colors).max(axis=-1)
    assert distances[~np.eye(10, dtype=bool)].min() >= 127


def test_unknown_split_of_a_shortcut():
    with pytest.raises(ValueError, match="test_shifted.*split='shifted'"):
        digits_in_photos.compose_shortcut("shifted", 0)


# ------------------------------------------------------ no digit; large images


def test_without_its_digit_an_image_is_the_same_elsewhere():
    for number in range(30):
        absent = digits_in_photos.compose_absent("test", number)
        plain = digits_in_photos.compose("test", number)
        assert not absent["mask"].any()
        assert absent["mask"].shape == (64, 64, 1)
        assert absent["label"] == plain["label"] == number % 10
        differs = (absent["image"] != plain["image"]).any(axis=-1)
        strokes = flat(plain["mask"])
        assert differs[strokes].mean() > 0.99
        near = scipy.ndimage.binary_dilation(strokes, np.ones((3, 3)))
        assert not differs[~near].any()
        np.testing.assert_array_equal(absent["marks"], plain["marks"])


def test_large_images_have_224_pixels_and_digits_of_the_stated_size():
    examples = [digits_in_photos.compose_large("test", n) for n in range(30)]
    heights, areas = [], []
    for number, example in enumerate(examples):
        assert example["image"].shape == (224, 224, 3)
        assert example["label"] == number % 10
        top, left, bottom, right = example["box"]
        assert flat(example["mask"])[top:bottom, left:right].sum() == (
            flat(example["mask"]).sum()
        )
        heights.append(bottom - top)
        areas.append((bottom - top) * (right - left) / 224**2)
    assert min(heights) >= 40
    assert max(heights) <= 105
    # Of a small image it is 15 %.
    assert 0.04 < np.mean(areas) < 0.08


def test_large_images_show_photos_of_their_own_split_alone(monkeypatch):
    seen = []

    def parts(split):
        seen.append(split)
        return (Image.new("RGB", (300, 300), (120,) * 3),)

    monkeypatch.setattr(digits_in_photos.variants, "photo_parts", parts)
    digits_in_photos.compose_large("validation", 0)
    assert set(seen) == {"validation"}


# ------------------------------------------------------ through TFDS and back


def test_the_plain_set_keeps_its_name_and_folder(prepared, small_set):
    for folder in (prepared, small_set):
        plain = tfds.builder("digits_in_photos", data_dir=folder)
        assert plain.data_path == folder / "digits_in_photos" / "1.0.0"
        assert plain.info.full_name == "digits_in_photos/1.0.0"
        assert sorted(plain.info.features) == ["bbox", "image", "label", "mask"]
    assert tfds.builder("digits_in_photos", data_dir=small_set).is_prepared()
    # One of the others is not taken for it.
    assert not tfds.builder("digits_in_photos", data_dir=prepared).is_prepared()


@pytest.mark.parametrize("name", ["pairs", "shortcut", "large"])
def test_a_set_has_its_splits(prepared, name):
    source = data.source(f"digits_in_photos/{name}", data_dir=prepared)
    assert {split: source.count(split) for split in source.splits} == SMALL[
        name
    ]
    assert source.splits == {split: split for split in SMALL[name]}
    assert source.class_names == list("0123456789")
    assert source.has_masks
    side = 224 if name == "large" else 64
    assert source.image_shape == (side, side, 3)


def test_full_sets_are_balanced():
    numbers = digits_in_photos.NUM_EXAMPLES_OF
    assert numbers.keys() == SMALL.keys()
    assert numbers["shortcut"] == {
        "train": 20_000,
        "validation": 1_000,
        "test": 2_000,
        "test_shifted": 2_000,
    }
    # 19 of 20 images of a class, and all combinations of tag and class.
    assert all(number % 200 == 0 for number in numbers["shortcut"].values())
    assert all(number % 20 == 0 for number in numbers["pairs"].values())


def test_an_image_of_two_digits_is_there_once_for_each(prepared):
    stored = tfds.load(
        "digits_in_photos/pairs", split="test", data_dir=prepared
    )
    by_number = {}
    for example in stored.as_numpy_iterator():
        by_number.setdefault(int(example["image_number"]), []).append(example)
    assert sorted(by_number) == list(range(10))
    for number, both in by_number.items():
        pair = digits_in_photos.compose_pair("test", number)
        both.sort(key=lambda one: pair["labels"].index(one["label"]))
        for this, example in enumerate(both):
            other = 1 - this
            np.testing.assert_array_equal(example["image"], pair["image"])
            assert example["label"] == pair["labels"][this]
            assert example["other_label"] == pair["labels"][other]
            np.testing.assert_array_equal(example["mask"], pair["masks"][this])
            np.testing.assert_array_equal(
                example["other_mask"], pair["masks"][other]
            )
            np.testing.assert_array_equal(
                example["bbox"], np.array(pair["boxes"][this]) / 64
            )
        assert len(both) == 2


def test_the_second_test_part_of_the_shortcut(prepared):
    name = "digits_in_photos/shortcut"
    expected = [
        digits_in_photos.compose_shortcut("test_shifted", n) for n in range(20)
    ]
    by_pixels = {one["image"].tobytes(): one for one in expected}
    ((images, labels, masks),) = data.load(
        name, "test_shifted", with_masks=True, data_dir=prepared
    ).as_numpy_iterator()
    for image, label, mask in zip(images, labels, masks, strict=True):
        one = by_pixels.pop(image.tobytes())
        assert label == one["label"]
        np.testing.assert_array_equal(mask, one["mask"] / 255)
    assert not by_pixels
    stored = tfds.load(name, split="test_shifted", data_dir=prepared)
    for example in stored.as_numpy_iterator():
        top, left, bottom, right = (64 * example["tag_bbox"]).astype(int)
        inside = np.zeros((64, 64), bool)
        inside[top:bottom, left:right] = True
        np.testing.assert_array_equal(flat(example["tag_mask"]), inside)
        np.testing.assert_array_equal(
            np.unique(example["image"][inside], axis=0),
            digits_in_photos.TAG_COLORS[[example["tag"]]],
        )


def test_images_without_a_digit_can_be_measured(prepared):
    source = data.source("digits_in_photos/absent", data_dir=prepared)
    assert source.count("test") == 10
    assert source.class_counts("test").tolist() == [1] * 10
    batches = data.sample(source, "test", 10).batches("test", with_masks=True)
    ((_, labels, masks),) = batches.as_numpy_iterator()
    assert sorted(labels) == list(range(10))
    assert not masks.any()
    found = evaluation.evaluate(
        {"even": lambda images, classes: np.ones((*images.shape[:3], 1))},
        {"energy_pointing_game": metrics.energy_pointing_game},
        batches,
        classes="label",
    )
    assert found.rows[0].mean == 0


def test_pointing_on_pairs_asks_for_the_class(prepared):
    """A map that knows the class hits both digits, one that does not one."""
    batches = data.load(
        "digits_in_photos/pairs", "test", with_masks=True, data_dir=prepared
    )
    masks = {}
    for images, labels, of_labels in batches.as_numpy_iterator():
        for image, label, mask in zip(images, labels, of_labels, strict=True):
            masks[image.tobytes(), label] = mask

    def of_class(images, classes):
        return np.stack(
            [
                masks[image.tobytes(), label]
                for image, label in zip(images, classes, strict=True)
            ]
        )

    def of_one_digit(images, classes):
        del classes
        return np.stack(
            [
                next(
                    mask
                    for (pixels, _), mask in masks.items()
                    if pixels == image.tobytes()
                )
                for image in images
            ]
        )

    found = evaluation.evaluate(
        {"of the class": of_class, "of one digit": of_one_digit},
        {"pointing_game": metrics.pointing_game},
        batches,
        classes="label",
    )
    assert [row.mean for row in found.rows] == [1.0, 0.5]


def test_python_of_the_page_runs(prepared, monkeypatch):
    """With the small sets in the place of the full ones."""
    page = pathlib.Path(__file__).parents[2] / "docs" / "training.md"
    section = page.read_text().split("### Sets with a known answer")[1]
    blocks = re.findall(r"```py\n(.*?)```", section.split("\n## ")[0], re.S)
    assert len(blocks) == 2
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(prepared))
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            keras.layers.Conv2D(4, 3, 8, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    names = {"model": model}
    for block in blocks:
        exec(compile(block, "training.md", "exec"), names)
    ((images, _, masks),) = names["on_tags"].as_numpy_iterator()
    assert images.shape == (20, 64, 64, 3)
    np.testing.assert_array_equal((masks > 0).sum((1, 2, 3)), [36] * 20)
    assert names["found"].rows[0].images == 20
