"""Masks and boxes beside images: folders, Pascal VOC, COCO, TFDS, streams."""

import json
import logging
import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_lficam import data
from keras_lficam.data import augmentation

NUMBER = 12  # Of each class.
SIZE = 8, 6  # Width and height.


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def image(number):
    return np.full((SIZE[1], SIZE[0], 3), number, "uint8")


def boxed(left, top, right, bottom):
    mask = np.zeros((SIZE[1], SIZE[0]), "uint8")
    mask[top:bottom, left:right] = 1
    return mask


@pytest.fixture
def folder(tmp_path):
    """Cats have the numbers 0 to 11, dogs 100 to 111."""
    for first, name in ((0, "cat"), (100, "dog")):
        for i in range(NUMBER):
            write(tmp_path / "in" / name / f"{i:02d}.png", image(first + i))
    return tmp_path / "in"


def masks(source):
    """The mask of each image of all splits by its number; None without."""
    found = {}
    for split in source.splits:
        for images, _, several in source.batches(split, with_masks=True):
            for number, mask in zip(
                images[:, 0, 0, 0].numpy(), several.numpy(), strict=True
            ):
                is_none = np.isnan(mask).all()
                assert is_none or not np.isnan(mask).any()
                found[int(number)] = None if is_none else mask[..., 0]
    assert len(found) == 2 * NUMBER
    return found


def assert_masks(source, expected):
    found = masks(source)
    assert {n for n, mask in found.items() if mask is not None} == {*expected}
    for number, mask in expected.items():
        np.testing.assert_array_equal(found[number], mask, str(number))
    for split in source.splits:
        own = sum(
            not np.isnan(batch).all()
            for *_, batch in source.batches(
                split, with_masks=True, batch_size=1
            ).as_numpy_iterator()
        )
        assert source.count_masks(split) == own


# -------------------------------------------------------------------- folders


def test_a_mirrored_folder_of_masks_is_found(folder):
    one, other = boxed(1, 2, 5, 4), boxed(0, 0, 2, 6)
    write(folder / "masks" / "cat" / "03.png", one * 255)
    write(folder / "masks" / "dog" / "03.bmp", other)
    source = data.source(folder)
    assert source.class_names == ["cat", "dog"]
    assert source.has_masks
    assert_masks(source, {3: one, 103: other})


def test_a_mirrored_folder_beside_splits(tmp_path):
    for number, (split, name) in enumerate(
        (s, n) for s in ("train", "val", "test") for n in ("cat", "dog")
    ):
        for i in range(4):
            path = tmp_path / split / name / f"{split}{i}.png"
            write(path, image(10 * number + i))
    mask = boxed(2, 1, 3, 3)
    write(tmp_path / "masks" / "train" / "dog" / "train2.png", mask)
    source = data.source(tmp_path)
    assert [source.count(split) for split in source.splits] == [8, 8, 8]
    assert [source.count_masks(split) for split in source.splits] == [1, 0, 0]


def test_a_class_may_be_called_masks(folder):
    for i in range(NUMBER):
        write(folder / "masks" / f"{i:02d}.png", image(200 + i))
    source = data.source(folder)
    assert source.class_names == ["cat", "dog", "masks"]
    assert not source.has_masks
    with pytest.raises(ValueError, match="no folder 'masks' beside them"):
        source.batches("train", with_masks=True)


def test_masks_lie_elsewhere_by_their_name_alone(folder, tmp_path, caplog):
    """Of 04 there are two images, of `only` one."""
    write(folder / "dog" / "only.png", image(112))
    write(tmp_path / "flat" / "only.png", boxed(0, 0, 1, 1))
    write(tmp_path / "flat" / "of_nothing.png", boxed(0, 0, 1, 1))
    caplog.set_level(logging.WARNING)
    source = data.source(folder, masks=tmp_path / "flat")
    assert sum(source.count_masks(split) for split in source.splits) == 1
    assert "1 of 2 masks belong to no image" in caplog.text
    assert "of_nothing" in caplog.text
    write(tmp_path / "flat" / "04.png", boxed(0, 0, 1, 1))
    with pytest.raises(ValueError, match="1 masks could be .* several images"):
        data.source(folder, masks=tmp_path / "flat")


def test_a_mask_of_another_size_takes_its_image_out(folder, caplog):
    write(folder / "masks" / "cat" / "00.png", boxed(0, 0, 1, 1)[:3])
    write(folder / "masks" / "cat" / "01.png", boxed(0, 0, 1, 1))
    source = data.source(folder)
    assert sum(source.count(split) for split in source.splits) == 23
    assert "the mask is 3 x 8, and its image 6 x 8" in source.damaged[0].reason
    assert "1 masks cannot be used" in caplog.text


# ---------------------------------------------------------------------- boxes


def voc(*boxes, filename="x.jpg"):
    objects = "".join(
        "<object><name>cat</name><bndbox>"
        + "".join(f"<{s}>{v}</{s}>" for s, v in box.items())
        + "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation><filename>{filename}</filename>{objects}</annotation>"


def test_boxes_of_pascal_voc(folder, tmp_path):
    """Its pixels count from 1, and the last one is the object's."""
    (tmp_path / "xml" / "cat").mkdir(parents=True)
    (tmp_path / "xml" / "dog").mkdir()
    two = [
        {"xmin": 2, "ymin": 3, "xmax": 4, "ymax": 3},
        {"xmin": 8, "ymin": 1, "xmax": 8, "ymax": 6},
    ]
    (tmp_path / "xml" / "cat" / "05.xml").write_text(voc(*two))
    (tmp_path / "xml" / "dog" / "05.xml").write_text(voc())
    source = data.source(folder, masks=tmp_path / "xml")
    mask = boxed(1, 2, 4, 3)
    mask[:, 7] = 1
    assert_masks(source, {5: mask})


def coco(path, boxes, names=None):
    names = names or {i: name for i, (name, _) in enumerate(boxes)}
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": name} for i, name in names.items()
                ],
                "annotations": [
                    {"id": i, "image_id": i, "bbox": box}
                    for i, (_, box) in enumerate(boxes)
                ],
            }
        )
    )
    return path


def test_boxes_of_coco(folder, tmp_path):
    """Left, top, width, height; a part of a pixel is the whole pixel."""
    boxes = [("cat/07.jpg", [1, 2, 3, 2]), ("dog/07.png", [5.5, 0.2, 9, 1])]
    source = data.source(folder, masks=coco(tmp_path / "boxes.json", boxes))
    assert_masks(source, {7: boxed(1, 2, 4, 4), 107: boxed(5, 0, 8, 2)})


def test_boxes_for_the_lines_of_a_csv_file(folder, tmp_path):
    """A mask that a line names comes first."""
    write(tmp_path / "own.png", boxed(0, 0, 8, 1))
    lines = [
        f"in/{name}/{i:02d}.png,{name},{'own.png' if i == 2 else ''}"
        for name in ("cat", "dog")
        for i in range(NUMBER)
    ]
    (tmp_path / "list.csv").write_text(
        "\n".join(["image,label,mask", *lines]) + "\n"
    )
    boxes = [("in/cat/02.png", [0, 0, 1, 1]), ("in/cat/03.png", [0, 0, 1, 1])]
    source = data.source(
        tmp_path / "list.csv", masks=coco(tmp_path / "boxes.json", boxes)
    )
    row = boxed(0, 0, 8, 1)
    assert_masks(source, {2: row, 102: row, 3: boxed(0, 0, 1, 1)})


def test_a_box_outside_of_its_image_takes_it_out(folder, tmp_path):
    boxes = [("cat/07.jpg", [20, 2, 3, 2]), ("cat/08.jpg", [0, 0, 1, 1])]
    source = data.source(folder, masks=coco(tmp_path / "boxes.json", boxes))
    (bad,) = source.damaged
    assert bad.path.endswith("07.png")
    assert bad.reason == "its boxes lie outside of the 6 x 8 pixels"


def test_boxes_without_an_area_are_left_out(folder, tmp_path, caplog):
    """Those of COCO have some."""
    boxes = [("cat/07.jpg", [3, 3, 0, 2]), ("cat/08.jpg", [0, 0, 1, 1])]
    source = data.source(folder, masks=coco(tmp_path / "boxes.json", boxes))
    assert_masks(source, {8: boxed(0, 0, 1, 1)})
    assert "cat/07: a box without a height or width is left out" in caplog.text


def test_a_mask_is_of_no_image_of_another_class(folder):
    """Its own image is gone, and a dog has the same name."""
    write(folder / "dog" / "left.png", image(112))
    write(folder / "masks" / "cat" / "left.png", boxed(0, 0, 1, 1))
    write(folder / "masks" / "cat" / "00.png", boxed(0, 0, 1, 1))
    source = data.source(folder)
    assert sum(source.count_masks(split) for split in source.splits) == 1


def test_annotations_lie_beside_the_images(folder):
    """As some programs write them; the images are no masks of themselves."""
    box = {"xmin": 1, "ymin": 1, "xmax": 2, "ymax": 1}
    (folder / "cat" / "04.xml").write_text(voc(box))
    source = data.source(folder, masks=folder)
    assert_masks(source, {4: boxed(0, 0, 2, 1)})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{}", "no annotation of COCO .KeyError: 'images'"),
        ("a.json", "{", "no annotation of COCO .JSONDecodeError"),
        ("xml/01.xml", "<a>", "no annotation of Pascal VOC"),
        (
            "xml/01.xml",
            voc({"xmin": 3, "ymin": 1, "xmax": 4}),
            "no annotation of Pascal VOC .could not convert",
        ),
        ("none", None, "Argument `masks` must be a folder or a JSON file"),
        ("xml/zz.xml", voc(), "Argument `masks` must hold a mask for an image"),
    ],
)
def test_what_is_no_annotation_is_refused(
    folder, tmp_path, name, text, message
):
    path = tmp_path / name
    if text is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    given = path.parent if path.suffix == ".xml" else path
    with pytest.raises(ValueError, match=message):
        data.source(folder, masks=given)


def test_masks_are_no_argument_of_other_data(tmp_path):
    with (
        tfds.testing.mock_data(num_examples=1),
        pytest.raises(
            ValueError, match="`masks` must be None but for a folder"
        ),
    ):
        data.source("cifar10", masks=tmp_path)


class Boxed(tfds.core.GeneratorBasedBuilder):
    """A data set with a box, of TFDS."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(__file__).parent  # This module is no package.

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(4, 8, 3)),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
            **self._boxes(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features)
        )

    def _boxes(self):
        return {"bbox": tfds.features.BBoxFeature()}

    def _box(self):
        box = tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.5, xmax=1.0)
        return {"bbox": box}

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(10):
            image = np.full((4, 8, 3), number, "uint8")
            yield number, {"image": image, "label": number % 2, **self._box()}


class Objects(Boxed):
    """A data set with several boxes, of TFDS."""

    pkg_dir_path = Boxed.pkg_dir_path

    def _boxes(self):
        box = {"bbox": tfds.features.BBoxFeature(), "of": np.int64}
        return {"objects": tfds.features.Sequence(box)}

    def _box(self):
        boxes = [
            tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.5, xmax=1.0),
            tfds.features.BBox(ymin=0.75, xmin=0.0, ymax=1.0, xmax=0.125),
        ]
        return {"objects": [{"bbox": box, "of": 0} for box in boxes]}


@pytest.mark.parametrize(("name", "several"), [("boxed", 0), ("objects", 1)])
def test_boxes_of_tensorflow_datasets(tmp_path, name, several):
    source = data.source(name, data_dir=tmp_path)
    assert source.has_masks
    expected = np.zeros((4, 8))
    expected[1, 4:] = 1
    expected[3, 0] = several
    for *_, masks in source.batches("train", with_masks=True):
        for mask in masks.numpy():
            np.testing.assert_array_equal(mask[..., 0], expected)
    assert source.count_masks("train") == source.count("train") == 8


# --------------------------------------------------------------------- streams


def bright(folder, count=3):
    """Images of a set whose bright pixels are the mask of every second."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for i in range(8):
            left, top = rng.integers(0, (8, 8))
            mask = np.zeros((16, 16), "uint8")
            mask[top : top + 6, left : left + 5] = 1
            pixels = np.repeat(mask[..., None] * 255, 3, -1).astype("uint8")
            write(folder / name / f"{i}.png", pixels)
            if i % 2:
                write(folder / "masks" / name / f"{i}.png", mask)
    return data.source(folder)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["flip"],
        ["flip_vertical", "pad_crop"],
        ["random_resized_crop", "flip"],
    ],
)
def test_a_mask_moves_as_its_image(tmp_path, names):
    """The object is white, so that the image says where its mask is."""
    source = bright(tmp_path)
    options = {"image_size": (16, 16), "batch_size": 8, "augmentation": names}
    count = source.count("train")
    masked = 0
    plain = source.stream("train", **options)
    stream = source.stream("train", with_masks=True, **options)
    steps = count  # Each image eight times.
    for (images, labels), (same, of_same, several) in zip(
        plain.take(steps), stream.take(steps), strict=True
    ):
        np.testing.assert_array_equal(images, same)
        np.testing.assert_array_equal(labels, of_same)
        for one, mask in zip(images.numpy(), several.numpy(), strict=True):
            if np.isnan(mask).all():
                continue
            masked += 1
            np.testing.assert_allclose(one[..., :1] / 255, mask, atol=1e-5)
    assert masked == 8 * source.count_masks("train")
    assert 0 < masked < 8 * count


def test_a_mask_is_turned_as_its_image():
    """Of images that are gray outside only their bright part can be asked."""
    names = ["rand_augment"]
    image = np.zeros((32, 32, 3), "float32")
    image[8:20, 10:18] = 255
    mask = image[..., :1] / 255
    augment = augmentation.image_function(names, (32, 32))
    move = augmentation.mask_function(names, (32, 32))
    moved = 0
    for number in range(40):
        seed = tf.constant([number, 3], "int64")
        turned, found = augment(image, seed).numpy(), move(mask, seed).numpy()
        assert found.min() >= 0
        assert found.max() <= 1
        inside = found[..., 0] > 0.99
        if not inside.any():
            continue  # Moved out of the image.
        outside = found[..., 0] < 0.01
        # A transform may make it darker or lighter, all of it alike.
        if np.ptp(turned[inside].mean(-1)) > 1:
            continue
        level = turned[inside].mean()
        near = np.abs(turned.mean(-1) - level) < 1
        if not near[outside].any():
            moved += not np.array_equal(found, mask)
            np.testing.assert_array_equal(near[inside], True)
    assert moved > 10


def test_a_share_of_the_masks_is_chosen_by_the_seed(tmp_path):
    source = bright(tmp_path)
    number = source.count("train")
    masked = source.count_masks("train")
    options = {"image_size": (16, 16), "batch_size": number}

    def chosen(share, seed):
        """The images with a mask in an epoch, by the order of all."""
        stream = source.stream(
            "train", with_masks=True, mask_share=share, seed=seed, **options
        )
        ((images, _, several),) = stream.take(1).as_numpy_iterator()
        known = ~np.isnan(several).any(axis=(1, 2, 3))
        return {image.tobytes() for image in images[known]}

    for seed in (0, 1):
        half, all_of = chosen(0.5, seed), chosen(1.0, seed)
        assert len(all_of) == masked
        assert len(half) == source.count_masks("train", 0.5) == -(-masked // 2)
        assert len(chosen(1e-6, seed)) == 1
        assert chosen(1e-6, seed) < half < all_of
    assert chosen(0.5, 0) != chosen(0.5, 1)
    with pytest.raises(ValueError, match="`mask_share` must be a share"):
        source.stream("train", with_masks=True, mask_share=0, **options)


def test_masks_and_mixed_images_exclude_each_other(tmp_path):
    source = bright(tmp_path)
    with pytest.raises(ValueError, match="must not mix images that have masks"):
        source.stream(
            "train",
            image_size=(16, 16),
            batch_size=4,
            with_masks=True,
            augmentation=["mix_up"],
        )
