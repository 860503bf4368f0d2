"""The embedded data set: its images, and through TFDS and back."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage
import tensorflow_datasets as tfds
from PIL import Image

from keras_lficam.data import digits_in_photos

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def examples():
    compose = digits_in_photos.compose
    return {
        split: [compose(split, index) for index in range(number)]
        for split, number in {
            "train": 300,
            "validation": 100,
            "test": 200,
        }.items()
    }


@pytest.fixture(scope="module")
def another_process():
    """What one says that imports the package, and then makes an image."""
    code = """if True:
        import hashlib
        import sys
        import tensorflow
        before = set(sys.modules)
        import keras_lficam.data.loading
        imported = set(sys.modules) - before
        heavy = {"tensorflow_datasets", "matplotlib", "sklearn", "skimage"}
        print(sorted(heavy & imported))
        print(keras_lficam.data.source("digits_in_photos/pairs").name)
        from keras_lficam.data.digits_in_photos import compose
        image = compose("test", 7)["image"]
        print(hashlib.sha256(image).hexdigest())
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def everything(examples):
    return [example for split in SPLITS for example in examples[split]]


def digest(*arrays):
    return hashlib.sha256(b"".join(map(np.ndarray.tobytes, arrays))).hexdigest()


def luminance(image):
    return image @ np.array([0.299, 0.587, 0.114])


def flat(mask):
    return mask[..., 0] > 0


# -------------------------------------------------------------- the images


def test_an_image_depends_on_split_index_and_seed_alone():
    def digests(indices, split="train", **kwargs):
        return {
            index: digest(
                digits_in_photos.compose(split, index, **kwargs)["image"]
            )
            for index in indices
        }

    first = digests(range(12))
    assert digests(reversed(range(12))) == first
    assert len(set(first.values())) == 12
    assert not set(digests(range(12), seed=1).values()) & set(first.values())
    assert not set(digests(range(12), "test").values()) & set(first.values())


@pytest.mark.end_to_end
def test_an_image_is_the_same_in_another_process(another_process, examples):
    assert another_process[-1] == digest(examples["test"][7]["image"])


def test_unknown_split_of_the_images():
    with pytest.raises(ValueError, match="train.*Received: split='dev'"):
        digits_in_photos.compose("dev", 0)


def test_no_digit_is_in_two_splits(examples):
    pools = {
        split: set(np.concatenate(digits_in_photos.digit_ids(split)))
        for split in SPLITS
    }
    assert sum(map(len, pools.values())) == 1797
    assert len(set.union(*pools.values())) == 1797
    for split in SPLITS:
        used = {example["digit"] for example in examples[split]}
        assert used <= pools[split]
        assert len(used) > 0.3 * min(len(pools[split]), len(examples[split]))


def test_each_split_has_the_same_share_of_every_class():
    for split, share in {
        "train": 0.6,
        "validation": 0.16,
        "test": 0.24,
    }.items():
        for ids in digits_in_photos.digit_ids(split):
            assert 178 * share == pytest.approx(len(ids), abs=4)


def test_the_splits_cut_every_photo_into_pieces_that_do_not_overlap():
    assert len(set(digits_in_photos.PHOTOS)) == len(digits_in_photos.PHOTOS)
    pieces = [digits_in_photos.photo_parts(split) for split in SPLITS]
    for photo, *parts in zip(digits_in_photos.photos(), *pieces, strict=True):
        assert min(side for part in parts for side in part.size) >= 64
        np.testing.assert_array_equal(
            np.concatenate([np.asarray(part) for part in parts], axis=1),
            np.asarray(photo),
        )


@pytest.mark.parametrize("split", SPLITS)
def test_images_show_photos_of_their_own_split_alone(monkeypatch, split):
    levels = dict.fromkeys(SPLITS, 20) | {split: 150}
    monkeypatch.setattr(
        digits_in_photos.drawing,
        "photo_parts",
        lambda name: (Image.new("RGB", (99, 99), (levels[name],) * 3),),
    )
    for index in range(10):
        example = digits_in_photos.compose(split, index)
        drawn = flat(example["mask"]) | flat(example["marks"])
        photo = example["image"][
            ~scipy.ndimage.binary_dilation(drawn, iterations=2)
        ]
        assert photo.min() >= 0.8 * 150 - 1
        assert photo.max() <= 1.2 * 150 + 1


def test_box_is_the_tight_box_of_the_mask(everything):
    for example in everything:
        rows, columns = np.nonzero(flat(example["mask"]))
        assert example["box"] == (
            rows.min(),
            columns.min(),
            rows.max() + 1,
            columns.max() + 1,
        )


def test_digits_are_whole_and_of_the_stated_size(everything):
    heights = [box.bottom - box.top for box in (e["box"] for e in everything)]
    assert np.quantile(heights, 0.01) >= 20
    assert np.quantile(heights, 0.99) <= 42
    assert np.quantile(heights, 0.9) - np.quantile(heights, 0.1) > 8
    assert set(np.unique([e["mask"] for e in everything])) == {0, 255}


def test_digits_lie_anywhere(everything):
    boxes = np.array([example["box"] for example in everything])
    assert boxes.min() <= 1
    assert boxes.max() >= 63
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    np.testing.assert_allclose(centers.mean(axis=0), 32, atol=1.5)
    assert centers.std(axis=0).min() > 7


def test_masks_show_the_digit_of_the_label(examples):
    from sklearn.neighbors import KNeighborsClassifier

    def shapes(split):
        for example in examples[split]:
            top, left, bottom, right = example["box"]
            mask = Image.fromarray(example["mask"][top:bottom, left:right, 0])
            yield np.asarray(mask.resize((10, 14)), float).ravel()

    def labels(split):
        return [example["label"] for example in examples[split]]

    nearest = KNeighborsClassifier(3).fit([*shapes("train")], labels("train"))
    assert nearest.score([*shapes("test")], labels("test")) > 0.85


def test_strokes_stand_out_from_what_surrounds_them(everything):
    contrasts = []
    for example in everything:
        strokes = flat(example["mask"])
        near = scipy.ndimage.binary_dilation(strokes, iterations=5)
        around = near & ~scipy.ndimage.binary_dilation(strokes, iterations=2)
        light = luminance(example["image"])
        contrasts.append(np.median(light[strokes]) - np.median(light[around]))
    contrasts = np.array(contrasts) / 255
    assert np.mean(np.abs(contrasts) > 0.17) >= 0.99
    assert 0.25 < np.mean(contrasts > 0) < 0.75


def test_classes_are_balanced(examples):
    for split in SPLITS:
        counts = np.bincount([example["label"] for example in examples[split]])
        assert counts.tolist() == [len(examples[split]) // 10] * 10


def test_marks_are_there_and_clear_of_the_digit(everything):
    areas = []
    for example in everything:
        top, left, bottom, right = example["box"]
        assert not example["marks"][top:bottom, left:right].any()
        areas.append(
            (flat(example["marks"]).sum(), flat(example["mask"]).sum())
        )
    marks, digits = np.array(areas).T
    assert np.mean(marks > 30) > 0.98
    assert 0.5 < marks.mean() / digits.mean() < 2


def test_neither_color_nor_brightness_gives_the_digit_away(everything):
    """The pixel furthest from the mean color is often not on the digit."""
    found = []
    for example in everything:
        image = example["image"].astype(float)
        away = np.linalg.norm(image - image.mean(axis=(0, 1)), axis=-1)
        found.append(flat(example["mask"]).ravel()[away.argmax()])
    assert np.mean(found) < 0.4


# ----------------------------------------------------- through TFDS and back


def test_tfds_gives_back_what_was_composed(small_set):
    counts = {"train": 40, "validation": 10, "test": 20}
    for split, number in counts.items():
        stored = list(
            tfds.load(
                "digits_in_photos", split=split, data_dir=small_set
            ).as_numpy_iterator()
        )
        expected = {
            digest(e["image"]): e
            for e in (
                digits_in_photos.compose(split, index)
                for index in range(number)
            )
        }
        assert len(stored) == len(expected) == number
        for example in stored:
            original = expected.pop(digest(example["image"]))
            assert example["label"] == original["label"]
            np.testing.assert_array_equal(example["mask"], original["mask"])
            np.testing.assert_array_equal(
                example["bbox"], np.array(original["box"]) / 64
            )


@pytest.mark.end_to_end
def test_import_is_light(another_process):
    assert another_process[0] == "[]"


@pytest.mark.end_to_end
def test_a_configuration_is_found_before_the_set_is_imported(another_process):
    assert another_process[1] == "digits_in_photos/pairs"
