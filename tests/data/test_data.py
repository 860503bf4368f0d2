"""The embedded data set as pictures, and the loading of any data set."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_lficam import data
from keras_lficam.data import digits_in_photos

SPLITS = ("train", "validation", "test")
SMALL = {"train": 40, "validation": 10, "test": 20}


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
    """What one says that imports the package, and then makes a picture."""
    code = """if True:
        import hashlib
        import sys
        import tensorflow
        before = set(sys.modules)
        import keras_lficam.data.loading
        imported = set(sys.modules) - before
        heavy = {"tensorflow_datasets", "matplotlib", "sklearn", "skimage"}
        print(sorted(heavy & imported))
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


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """A folder with a small `digits_in_photos`, prepared by `load` itself."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_in_photos, "NUM_EXAMPLES", SMALL)
        data.load("digits_in_photos", "test", data_dir=folder)
    return folder


def digest(*arrays):
    return hashlib.sha256(b"".join(map(np.ndarray.tobytes, arrays))).hexdigest()


def luminance(image):
    return image @ np.array([0.299, 0.587, 0.114])


def flat(mask):
    return mask[..., 0] > 0


# ------------------------------------------------------------ the pictures


def test_a_picture_depends_on_split_index_and_seed_alone():
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


def test_a_picture_is_the_same_in_another_process(another_process, examples):
    assert another_process[-1] == digest(examples["test"][7]["image"])


def test_unknown_split_of_the_pictures():
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
def test_pictures_show_photos_of_their_own_split_alone(monkeypatch, split):
    levels = dict.fromkeys(SPLITS, 20) | {split: 150}
    monkeypatch.setattr(
        digits_in_photos,
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
    for split, number in SMALL.items():
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
    names = data.class_names("digits_in_photos", data_dir=small_set)
    assert names == list("0123456789")


def test_class_names_come_from_the_prepared_data(tmp_path):
    """CIFAR-10, for one, has numbers for names until it is prepared."""
    builder = tfds.builder("cifar10", data_dir=tmp_path)
    builder.info.features["label"].names = [f"class {i}" for i in range(10)]
    builder.info.set_splits(tfds.core.splits.SplitDict([]))
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)
    names = data.class_names("cifar10", data_dir=tmp_path)
    assert names == [f"class {i}" for i in range(10)]


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


def test_class_names_of_what_has_none():
    with pytest.raises(ValueError, match="'image' and 'label'"):
        data.class_names("coco")


def test_import_is_light(another_process):
    assert another_process[0] == "[]"
