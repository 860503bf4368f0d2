"""Folders of images: what is found, split, read and refused."""

import hashlib
import io
import logging
import os
import re
import time
import unicodedata

import numpy as np
import PIL.Image
import pytest
import small_classifiers
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_lficam
from keras_lficam import data
from keras_lficam.cli import _models
from keras_lficam.data import image_files
from keras_lficam.data.sources import files

KINDS = ("cat", "dog", "emu")


def write(path, color=(0, 0, 0), size=(6, 4)):
    """Writes an image of one color, `size` is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, color).save(path)


def write_classes(folder, number=20, kinds=KINDS):
    """The red of an image is its class, the green its number."""
    for kind, name in enumerate(kinds):
        for i in range(number):
            write(folder / name / f"{i:03d}.png", (kind, i, 7))


def members(source, split):
    """The images of a split, as pairs of class and number."""
    batches = source.batches(split, batch_size=500)
    ((images, labels),) = batches.as_numpy_iterator()
    assert len(images) == source.count(split)
    pairs = [tuple(image[0, 0, :2].tolist()) for image in images]
    assert labels.dtype == "int64"
    assert [kind for kind, _ in pairs] == labels.tolist()
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def lot(name):
    digest = hashlib.sha256(name.encode()).hexdigest()
    return int(digest[:16], 16) / 16**16


# ------------------------------------------------------------------ splits


def test_splits_follow_from_the_names_alone(tmp_path):
    write_classes(tmp_path / "here", 60)
    source = data.source(tmp_path / "here")
    assert source.class_names == list(KINDS)
    assert list(source.splits) == ["train", "validation", "test"]
    expected = {"train": set(), "validation": set(), "test": set()}
    for kind, name in enumerate(KINDS):
        for i in range(60):
            number = lot(f"{name}/{i:03d}.png")
            split = "train"
            if number < 0.2:
                split = "test" if number < 0.1 else "validation"
            expected[split].add((kind, i))
    for split, pairs in expected.items():
        assert members(source, split) == pairs


def test_more_images_do_not_move_others(tmp_path):
    write_classes(tmp_path / "a", 40)
    write_classes(tmp_path / "b" / "c", 90)
    few, many = data.source(tmp_path / "a"), data.source(tmp_path / "b" / "c")
    for split in few.splits:
        assert members(few, split) <= members(many, split)


def test_one_in_ten_is_for_validation_and_one_for_the_test():
    lots = [files.lot_of(f"{i}.png") for i in range(10_000)]
    counts, _ = np.histogram(lots, bins=10, range=(0, 1))
    # Chi-square with 9 degrees of freedom; 27.9 is exceeded in one of 1000.
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9


@pytest.mark.parametrize("number", [3, 4, 5, 8])
def test_small_classes_have_images_to_train_with_and_to_validate(
    tmp_path, number
):
    kinds = [f"kind {i:02d}" for i in range(40)]
    for kind, name in enumerate(kinds):
        for i in range(number):
            write(tmp_path / name / f"{i}.png", (kind, i, 7), (2, 2))
    source = data.source(tmp_path)
    seen = set()
    for split in source.splits:
        pairs = members(source, split)
        seen |= pairs
        if split != "test":
            assert {kind for kind, _ in pairs} == set(range(40))
    assert len(seen) == 40 * number


def test_validation_takes_the_nearest_of_a_small_class(tmp_path):
    """Of the lots, none is for validation; 0.15 is in the middle of it."""
    names = {}
    for i in range(200):
        number = lot(f"cat/{i}.png")
        for key, (low, high) in {
            "test": (0.02, 0.09),
            "near": (0.2, 0.205),
            "far": (0.5, 0.9),
        }.items():
            if low <= number < high:
                names.setdefault(key, i)
    for i in names.values():
        write(tmp_path / "cat" / f"{i}.png", (0, i, 7))
    write_classes(tmp_path, 40, ("dog", "emu"))
    for path in (tmp_path / "dog").iterdir():
        write(path, (1, int(path.stem), 7))
    for path in (tmp_path / "emu").iterdir():
        write(path, (2, int(path.stem), 7))
    source = data.source(tmp_path)
    assert (0, names["near"]) in members(source, "validation")
    assert (0, names["test"]) in members(source, "test")
    assert (0, names["far"]) in members(source, "train")


def test_a_name_is_the_same_however_its_accents_are_stored():
    composed, decomposed = (
        files.lot_of(unicodedata.normalize(form, "é/è.png"))
        for form in ("NFC", "NFD")
    )
    assert composed == decomposed == lot("\u00e9/\u00e8.png")


@pytest.mark.parametrize("name", ["validation", "val", "Valid"])
def test_folders_of_splits(tmp_path, name):
    write_classes(tmp_path / "Train", 4)
    write_classes(tmp_path / name, 3)
    write_classes(tmp_path / "test", 2)
    source = data.source(tmp_path)
    assert source.splits == {
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
    assert [source.count(split) for split in source.splits] == [12, 9, 6]
    assert len(members(source, "test")) == 6


def test_train_and_validation_alone_leave_no_test(tmp_path):
    write_classes(tmp_path / "train", 4)
    write_classes(tmp_path / "val", 3)
    assert list(data.source(tmp_path).splits) == ["train", "validation"]


@pytest.mark.parametrize("test", [False, True])
def test_train_alone_gives_a_tenth_for_validation(tmp_path, test):
    write_classes(tmp_path / "train", 60)
    if test:
        write_classes(tmp_path / "test", 2)
    source = data.source(tmp_path)
    assert ("test" in source.splits) == test
    chosen = {
        (kind, i)
        for kind, name in enumerate(KINDS)
        for i in range(60)
        if 0.1 <= lot(f"{name}/{i:03d}.png") < 0.2
    }
    assert members(source, "validation") == chosen
    assert source.count("train") == 180 - len(chosen)


def test_labels_are_those_of_train_where_validation_lacks_a_class(tmp_path):
    write_classes(tmp_path / "train", 4)
    for i in range(3):
        write(tmp_path / "validation" / "emu" / f"{i}.png", (2, i, 7))
    assert members(data.source(tmp_path), "validation") == {
        (2, 0),
        (2, 1),
        (2, 2),
    }


def test_trains_can_be_a_class(tmp_path):
    write_classes(tmp_path, 20, ("car", "plane", "train"))
    source = data.source(tmp_path)
    assert source.class_names == ["car", "plane", "train"]
    assert sum(map(source.count, source.splits)) == 60


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("Training", "Validation", "Testing"),
        ("training_set", "validation_set", "test_set"),
        ("seg_train", "seg_val", "seg_test"),
        ("train_images", "val_images", "test_images"),
        ("TrainSet", "ValidSet", "TestSet"),
        ("trainset", "valset", "testset"),
        ("fer2013-train", "fer2013-valid", "fer2013-test"),
        ("train2017", "val2017", "test2017"),
        ("seg_train/seg_train", "val/val", "test_set/test_set"),
    ],
)
def test_folders_of_splits_by_a_word_of_their_names(
    tmp_path, train, validation, test
):
    write_classes(tmp_path / train, 4, ("cat", "dog"))
    write_classes(tmp_path / validation, 3, ("cat", "dog"))
    write_classes(tmp_path / test, 2, ("cat", "dog"))
    source = data.source(tmp_path)
    assert source.class_names == ["cat", "dog"]
    assert [source.count(split) for split in source.splits] == [8, 6, 4]


def test_other_folders_beside_such_splits_are_named(tmp_path, caplog):
    for name in ("seg_train", "seg_test"):
        write_classes(tmp_path / name, 4)
    write(tmp_path / "seg_pred" / "a.png")
    source = data.source(tmp_path)
    assert source.class_names == list(KINDS)
    assert source.count("test") == 12
    assert caplog.messages[0].endswith("are not looked into: seg_pred")


def test_masks_of_a_split_are_no_split(tmp_path, caplog):
    for name in ("train", "train_masks", "test", "test_extra"):
        write_classes(tmp_path / name, 4)
    assert data.source(tmp_path).count("test") == 12
    assert caplog.messages[0].endswith("looked into: test_extra, train_masks")


@pytest.mark.parametrize(
    "kinds",
    [
        ("bullet_train", "car", "test_tube"),
        ("bullet_train", "steam_train"),
        ("train_station", "airport"),
        ("contest", "strain"),
    ],
)
def test_classes_whose_names_hold_such_words(tmp_path, kinds):
    write_classes(tmp_path, 4, kinds)
    assert data.source(tmp_path).class_names == sorted(kinds)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (("part1", "part2"), ("cat", "dog")),
        (("cat", "dog"), ("train", "test")),
        (("cat", "dog"), ("train",)),
    ],
)
def test_folders_that_hold_the_same_folders_are_refused(tmp_path, outer, inner):
    for name in outer:
        write_classes(tmp_path / name, 4, inner)
    message = f"folders {', '.join(outer)} holds the folders .* To fix this:"
    with pytest.raises(ValueError, match=message):
        data.source(tmp_path)


def test_one_folder_in_each_class_sorts_nothing(tmp_path):
    for name in ("cat", "dog"):
        write_classes(tmp_path / name, 4, ("images",))
    assert data.source(tmp_path).class_names == ["cat", "dog"]


def test_splits_without_one_for_training_are_refused(tmp_path):
    write_classes(tmp_path / "Testing", 4)
    write_classes(tmp_path / "Validation", 4)
    with pytest.raises(ValueError, match="Testing, Validation, and none is"):
        data.source(tmp_path)


def test_splits_without_classes_are_refused(tmp_path):
    for name in ("train_images", "test_images"):
        write(tmp_path / name / "a.png")
    with pytest.raises(ValueError, match="_images: it holds images, but"):
        data.source(tmp_path)


# ------------------------------------------------------- which files are read


def test_what_can_be_read_is_read_and_the_rest_is_named(tmp_path, caplog):
    write_classes(tmp_path, 5, ("cat", "dog"))
    cat = tmp_path / "cat"
    for number, (name, kind) in enumerate(
        {
            "a.jfif": "JPEG",
            "b.jpe": "JPEG",
            "c.ppm": "PPM",
            "d.jp2": "JPEG2000",
            "e.webp": "WEBP",
            "f.avif": "AVIF",
            "g": "PNG",
            "Dr. Who, 10.30": "PNG",
            "h.png!small": "PNG",
        }.items()
    ):
        image = PIL.Image.new("RGB", (6, 4), (0, 50 + 20 * number, 0))
        image.save(cat / name, kind)
    (cat / "i.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    (cat / "j.jxl").write_bytes(b"\xff\x0a")
    (cat / "empty.jpg").write_bytes(b"")
    for name in ("notes.txt", "more.txt", "table.csv", "README"):
        (cat / name).write_text("text")
    source = data.source(tmp_path)
    assert sum(map(source.count, source.splits)) == 10 + 9
    reasons = {os.path.basename(bad.path): bad.reason for bad in source.damaged}
    assert sorted(reasons) == ["empty.jpg", "i.heic", "j.jxl"]
    assert reasons["i.heic"].startswith("the file is HEIF, which Pillow")
    second, first = caplog.messages
    assert "3 of 22 images cannot be read" in first
    assert "4 files are no images and are left out (2 of .txt" in second
    for name in ("notes.txt", "more.txt", "table.csv", "README"):
        assert f"{os.sep}{name}" in second


def test_links_are_followed_and_do_not_go_round(tmp_path, caplog):
    write_classes(tmp_path / "mine", 5, ("cat", "dog"))
    write_classes(tmp_path, 4, ("elsewhere",))
    cat = tmp_path / "mine" / "cat"
    links = {
        "more": tmp_path / "elsewhere",
        "more_again": tmp_path / "elsewhere",
        "itself": cat,
        "up": tmp_path / "mine",
        "above": tmp_path,
        "loop": cat / "loop",
        "gone.png": tmp_path / "nothing.png",
    }
    for name, target in links.items():
        (cat / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(cat)
    (tmp_path / "elsewhere" / "down").mkdir()
    write(tmp_path / "elsewhere" / "down" / "1.png", (0, 99, 7))
    source = data.source(tmp_path / "mine")
    assert sum(map(source.count, source.splits)) == 10 + 5
    ((path, reason),) = source.damaged
    assert path.endswith("gone.png")
    assert reason == "there is no such file"
    (again,) = [
        message for message in caplog.messages if " links lead" in message
    ]
    assert "5 links lead to folders" in again
    for name in ("more_again", "itself", "up", "above", "back"):
        assert f"{os.sep}{name}" in again


def test_a_folder_that_is_closed_is_named(tmp_path, caplog, monkeypatch):
    write_classes(tmp_path, 5, ("cat", "dog"))
    write(tmp_path / "cat" / "closed" / "a.png")
    listdir = os.listdir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    (bad,) = data.source(tmp_path).damaged
    assert bad.path.endswith("closed")
    assert bad.reason == "the folder cannot be read (Permission denied)"
    assert bad.path in caplog.messages[0]


def write_deep(folder, highest):
    """Images of 16 bits, of which the brightest holds `highest`."""
    for kind, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            values = np.full((2, 2), (highest - 100 * i) >> kind, "uint16")
            PIL.Image.fromarray(values).save(folder / name / f"{i:03d}.png")


@pytest.mark.parametrize(
    ("highest", "asked", "bits", "level"),
    [
        (3900, None, 12, "WARNING"),
        (4096, None, 13, "WARNING"),
        (60000, None, 16, "INFO"),
        (3900, 13, 13, "INFO"),
        (3900, 11, 11, "WARNING"),
        (3900, 16, 16, "INFO"),
    ],
)
def test_bits_follow_from_the_whole_folder(
    tmp_path, caplog, highest, asked, bits, level
):
    write_deep(tmp_path, highest)
    with caplog.at_level(logging.INFO, "keras_lficam"):
        source = data.source(tmp_path, bits=asked)
    assert source.bits == bits
    (record,) = caplog.records
    assert record.levelname == level
    message = record.getMessage()
    assert "24 images of 16 bits do not say how many" in message
    assert f"highest number is {highest}, and {2**bits - 1}, the" in message
    expected = {
        min(round(((highest - 100 * i) >> kind) / (2**bits - 1) * 255), 255)
        for kind in range(2)
        for i in range(12)
    }
    found = set()
    for split in source.splits:
        ((images, _),) = source.batches(split, batch_size=99)
        found |= set(images[..., 0].numpy().ravel().tolist())
    assert found == expected


def test_a_run_keeps_the_bits_of_its_images(tmp_path):
    write_deep(tmp_path / "data", 3900)
    model = small_classifiers.of_channels([[1, 0], [0, 1], [0, 0]])
    keras_lficam.fit(
        model,
        tmp_path / "data",
        keras_lficam.Recipe(epochs=1, batch_size=8),
        folder=tmp_path / "run",
        heat_maps_every=0,
        verbose=0,
    )
    path = tmp_path / "run" / "model.keras"
    assert _models.bits(path, None) == 12
    assert _models.bits(path, 13) == 13


def test_bits_are_of_folders_with_files_that_have_them(tmp_path):
    write_classes(tmp_path, 5)
    assert data.source(tmp_path, bits=12).bits is None
    with pytest.raises(ValueError, match="`bits` must be an integer from 8"):
        data.source(tmp_path, bits=20)
    with pytest.raises(ValueError, match="`bits` must be None but for a fold"):
        data.source("cifar10", bits=12)


def test_images_of_any_depth_and_of_known_kinds_are_found(tmp_path):
    write_classes(tmp_path, 5, ("cat", "dog"))
    for number, name in enumerate(
        ["a/b/c.JPG", "a.Tiff", "b.tif", "c.webp", "d.BMP", "e.gif", "f.jpeg"]
    ):
        write(tmp_path / "cat" / name, (0, 10 + number, 0))
    for name in (".hidden.png", "._a.png", ".cache/a.png", "notes.txt"):
        path = tmp_path / "cat" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("not an image")
    (tmp_path / ".git").mkdir()
    source = data.source(tmp_path)
    assert sum(map(source.count, source.splits)) == 17
    assert source.class_names == ["cat", "dog"]
    assert source.damaged == ()


def test_names_need_not_be_text(tmp_path):
    write_classes(tmp_path, 5, ("cat", "dog"))
    strange = os.path.join(os.fsencode(tmp_path / "cat"), b"\xff.png")
    os.rename(tmp_path / "cat" / "000.png", strange)
    source = data.source(os.fspath(tmp_path))
    pairs = set.union(*(members(source, split) for split in source.splits))
    assert pairs == {(kind, i) for kind in range(2) for i in range(5)}


def test_training_sees_the_pixels_that_are_explained(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 6, 3), dtype="uint8")
    image = PIL.Image.fromarray(pixels)
    (tmp_path / "odd").mkdir()
    turned = PIL.Image.Exif()
    turned[0x0112] = 6  # To be turned by 90 degrees.
    image.save(tmp_path / "odd" / "turned.jpg", exif=turned)
    image.convert("CMYK").save(tmp_path / "odd" / "cmyk.jpg")
    PIL.Image.fromarray(pixels[..., 0].astype("uint16") * 257).save(
        tmp_path / "odd" / "deep.png"
    )
    image.convert("P").save(tmp_path / "odd" / "palette.gif")
    image.save(tmp_path / "odd" / "lossless.webp", lossless=True)
    write_classes(tmp_path, 5, ("even",))
    source = data.source(tmp_path)
    assert source.image_shape == (None, None, 3)
    seen = 0
    for split in source.splits:
        read = source._examples(split, None).map(
            lambda example: (example["path"], source._image(example))
        )
        for path, image in read.as_numpy_iterator():
            expected = data.read_image(os.fsdecode(path))
            np.testing.assert_array_equal(image, expected)
            seen += 1
    assert seen == 10
    assert data.read_image(tmp_path / "odd" / "turned.jpg").shape == (6, 8, 3)


def test_image_shape_is_known_where_all_are_alike(tmp_path):
    write_classes(tmp_path)
    assert data.source(tmp_path).image_shape == (4, 6, 3)
    write(tmp_path / "cat" / "wide.png", size=(9, 4))
    source = data.source(tmp_path)
    assert source.image_shape == (4, None, 3)
    with pytest.raises(ValueError, match="`image_size` must be given"):
        source.batches("train")


def test_load_takes_a_folder(tmp_path):
    write_classes(tmp_path)
    source = data.source(tmp_path)
    for name in (tmp_path, str(tmp_path)):
        ((images, labels),) = data.load(
            name, "validation", image_size=(5, 5), batch_size=99
        )
        assert images.shape == (source.count("validation"), 5, 5, 3)
        np.testing.assert_allclose(images[:, 0, 0, 0], labels, atol=1e-5)


def test_order_follows_the_seed_with_shuffle(tmp_path):
    write_classes(tmp_path, 20)

    def order(**options):
        batches = data.load(tmp_path, "train", batch_size=99, **options)
        ((images, _),) = batches.as_numpy_iterator()
        return images[:, 0, 0, :2].tolist()

    first = order(shuffle=True, seed=1)
    assert first == order(shuffle=True, seed=1)
    assert first != order(shuffle=True, seed=2)
    assert sorted(first) == order()


# -------------------------------------------------------------- damaged files


def damage(folder):
    """Damages 5 of the images in 5 ways, and gives their paths."""
    rng = np.random.default_rng(1)
    noise = PIL.Image.fromarray(rng.integers(0, 256, (40, 40, 3), "uint8"))
    ways = []
    for extension in ("JPEG", "PNG"):
        file = io.BytesIO()
        noise.save(file, extension)
        ways.append(file.getvalue()[: len(file.getvalue()) // 2])
    ways += [b"", b"This is a text.", ways[1][:20]]
    names = ["cut.jpg", "half.png", "empty.webp", "text.jpg", "head.png"]
    paths = []
    for kind, name, content in zip("01234", names, ways, strict=True):
        path = folder / f"class {kind}" / name
        path.write_bytes(content)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def folder_of_200(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_classes(folder, 39, [f"class {kind}" for kind in range(5)])
    return folder, damage(folder)


def test_damaged_images_are_named_counted_and_skipped(folder_of_200, caplog):
    folder, paths = folder_of_200
    with caplog.at_level(logging.WARNING, "keras_lficam"):
        source = data.source(folder)
    assert sorted(bad.path for bad in source.damaged) == sorted(paths)
    reasons = {os.path.basename(path): why for path, why in source.damaged}
    assert reasons["empty.webp"] == "the file is empty"
    assert reasons["text.jpg"] == "the file is not an image"
    assert reasons["cut.jpg"].startswith("the file is damaged (")
    (record,) = caplog.records
    assert "5 of 200 images cannot be read" in record.getMessage()
    for path in paths:
        assert path in record.getMessage()
    assert sum(map(source.count, source.splits)) == 195
    pairs = set.union(*(members(source, split) for split in source.splits))
    assert len(pairs) == 195


def test_an_epoch_has_every_good_image_once(folder_of_200):
    source = data.source(folder_of_200[0])
    count = source.count("train")
    steps = source.stream("train", image_size=(4, 6), batch_size=count)
    for images, labels in steps.take(3).as_numpy_iterator():
        pairs = {tuple(image[0, 0, :2]) for image in images}
        assert pairs == members(source, "train")
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


def test_an_image_that_vanishes_is_named(tmp_path):
    write_classes(tmp_path)
    source = data.source(tmp_path)
    (tmp_path / "dog" / "007.png").unlink()
    message = r"dog.007\.png: there is no such file; it could still be read"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        [members(source, split) for split in source.splits]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:45]), "damaged"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("text"), "the file is not an image"),
        (lambda path: write(path, size=(7, 4)), "another size .*, 4 x 7"),
    ],
)
def test_an_image_that_changes_is_found_in_the_error_of_a_step(
    tmp_path, change, reason
):
    write_classes(tmp_path)
    source = data.source(tmp_path)
    change(tmp_path / "dog" / "007.png")
    stream = source.stream("train", image_size=(4, 6), batch_size=8)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(stream.take(2 * source.count("train")))
    message = data.changed_file(caught.value)
    assert re.fullmatch(
        rf"\S+dog.007\.png: .*{reason}.*could still be read.*", message
    )
    assert "\n" not in message
    assert data.changed_file(ValueError("another")) is None


def test_large_images_are_refused_and_named(tmp_path, monkeypatch):
    write_classes(tmp_path, 5, ("cat", "dog"))
    write(tmp_path / "cat" / "large.png", size=(9, 9))
    monkeypatch.setattr(image_files, "MAX_PIXELS", 80)
    (bad,) = data.source(tmp_path).damaged
    assert bad.path.endswith("large.png")
    assert "has 81 pixels, 9 x 9, and at most 80 are read" in bad.reason


def test_images_that_need_much_memory_are_decoded_alone(tmp_path, monkeypatch):
    write_classes(tmp_path, 8, ("cat", "dog"))
    at_once, most = [], []
    read = files.read

    def slow(path, bits):
        at_once.append(path)
        most.append(len(at_once))
        time.sleep(0.002)
        at_once.remove(path)
        return read(path, bits)

    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(files, "read", slow)
    data.source(tmp_path)
    assert max(most) > 1
    most.clear()
    monkeypatch.setattr(files, "_LARGE", 5)
    data.source(tmp_path)
    assert max(most) == 1


# ------------------------------------------------------------------- refusals


def nothing(folder):
    pass


def no_folder(folder):
    folder.rmdir()


def a_file(folder):
    folder.rmdir()
    folder.write_text("text")


def no_images(folder):
    (folder / "cat").mkdir()
    (folder / "cat" / "notes.txt").write_text("text")


def one_class(folder):
    write_classes(folder, 5, ("cat",))


def empty_class(folder):
    write_classes(folder, 5)
    (folder / "fox").mkdir()


def damaged_class(folder):
    write_classes(folder, 5)
    (folder / "fox").mkdir()
    (folder / "fox" / "1.png").write_bytes(b"text")


def no_classes(folder):
    write(folder / "a.png")


def no_classes_in_train(folder):
    write(folder / "train" / "a.png")
    write_classes(folder / "test", 5)


def unknown_class(folder):
    write_classes(folder / "train", 5, ("cat", "dog"))
    write_classes(folder / "test", 5, ("cat", "fox"))


def too_few(folder):
    write_classes(folder, 1)


def empty_validation(folder):
    write_classes(folder / "train", 5)
    (folder / "val" / "cat").mkdir(parents=True)


def two_validations(folder):
    for name in ("train", "val", "valid"):
        write_classes(folder / name, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_folder, "there is no such folder; give a folder that holds"),
        (a_file, "there is no such folder; give a folder that holds"),
        (nothing, "no image to train with; .*a folder for each class"),
        (no_images, r"no image to train with; .*\.jpeg \.jpg"),
        (one_class, "there is one class alone, cat; give .*two classes"),
        (empty_class, "no image can be read in the class folder fox; put"),
        (damaged_class, "no image can be read in the class folder fox; put"),
        (no_classes, "holds images, but no folders of classes; put"),
        (no_classes_in_train, "train: it holds images, but no folders"),
        (unknown_class, "test has the class fox that train lacks; the fold"),
        (too_few, "too few images .*validation; give 3 or more"),
        (empty_validation, "no image .* the folder for validation; put"),
        (two_validations, "two folders for one split, of train, val, valid;"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(
    tmp_path, make, message
):
    folder = tmp_path / "mine"
    folder.mkdir()
    make(folder)
    with pytest.raises(ValueError, match=message) as caught:
        data.source(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train[:50%]", "dev"])
def test_unknown_split_of_a_folder(tmp_path, split):
    write_classes(tmp_path, 5)
    with pytest.raises(ValueError, match="one of train, validation"):
        data.load(tmp_path, split)


def test_what_is_left_out_is_said(tmp_path, caplog):
    write_classes(tmp_path / "train", 4)
    write_classes(tmp_path / "notes", 1)
    write(tmp_path / "train" / "beside.png")
    with caplog.at_level(logging.WARNING, "keras_lficam"):
        data.source(tmp_path)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.endswith("are not looked into: notes")
    assert "1 images beside the folders of classes" in second


def test_a_folder_of_prepared_data_is_no_folder_of_images(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    prepared = tmp_path / "cifar10" / "3.0.2"
    prepared.mkdir(parents=True)
    (prepared / "cifar10-train.tfrecord-00000-of-00001").write_bytes(b"")
    with tfds.testing.mock_data(num_examples=8):
        assert len(data.source("cifar10").class_names) == 10
    # Images in it are what is meant.
    for name in ("a", "b"):
        folder = tmp_path / "cifar10" / name
        folder.mkdir()
        for number in range(9):
            image = PIL.Image.new("RGB", (8, 8))
            image.save(folder / f"{number}.png")
    (prepared / "cifar10-train.tfrecord-00000-of-00001").unlink()
    prepared.rmdir()
    assert data.source("cifar10").class_names == ["a", "b"]
