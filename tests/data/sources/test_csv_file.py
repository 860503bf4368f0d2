"""CSV files that list images: columns, labels, splits, masks, refusals."""

import logging
import re

import numpy as np
import PIL.Image
import pytest

from keras_lficam import data
from keras_lficam.data.sources.files import lot_of


def write(path, color=(0, 0, 0), size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, color).save(path)


@pytest.fixture
def folder(tmp_path):
    """Thirty images; the red of each is its number."""
    for i in range(30):
        write(tmp_path / "images" / f"{i:02d}.png", (i, 0, 9))
    return tmp_path


def listed(folder, lines, header="image,label", name="labels.csv", **options):
    text = "".join(f"{line}\n" for line in [header, *lines])
    (folder / name).write_bytes(text.encode("utf-8"))
    return data.source(folder / name, **options)


def classes(numbers=range(30)):
    """A line for each image: the even are cats, the odd are dogs."""
    return [f"images/{i:02d}.png,{['cat', 'dog'][i % 2]}" for i in numbers]


def members(source, split):
    """Labels by the number of the image."""
    ((images, labels),) = source.batches(
        split, batch_size=100
    ).as_numpy_iterator()
    numbers = images[:, 0, 0, 0].tolist()
    assert len(numbers) == source.count(split)
    return dict(zip(numbers, labels.tolist(), strict=True))


# ---------------------------------------------------------------- what is read


def test_images_and_labels_of_a_file(folder):
    source = listed(folder, classes())
    assert source.class_names == ["cat", "dog"]
    assert source.image_shape == (4, 6, 3)
    assert not source.multi_label
    assert not source.has_masks
    found = [members(source, split) for split in source.splits]
    together = {k: v for part in found for k, v in part.items()}
    assert together == {i: i % 2 for i in range(30)}
    assert sum(map(len, found)) == 30  # No image is in two splits.


def test_splits_that_are_not_given_are_drawn_by_the_name(folder):
    source = listed(folder, classes())
    lots = {i: lot_of(f"images/{i:02d}.png") for i in range(30)}
    for kind in (0, 1):
        of_class = {i: lots[i] for i in range(kind, 30, 2)}
        validation = {i for i, lot in of_class.items() if 0.1 <= lot < 0.2}
        if not validation:
            validation = {min(of_class, key=lambda i: abs(lots[i] - 0.15))}
        test = {i for i, lot in of_class.items() if lot < 0.1} - validation
        for split, expected in (("test", test), ("validation", validation)):
            found = members(source, split)
            assert {i for i, label in found.items() if label == kind} == (
                expected
            )


def test_a_file_as_spreadsheets_write_it(folder):
    """With a byte order mark, Windows's line ends, semicolons and quotes."""
    write(folder / "a, b; c.png", (77, 0, 0))
    lines = [line.replace(",", ";") for line in classes()]
    lines += ['"a, b; c.png";"big ""cat"""', ";;", " images\\00.png ; cat "]
    text = "\r\n".join(["IMAGE;Label;note", *(f"{x};" for x in lines)])
    text = text.replace(";;;", ";;") + "\r\n"
    (folder / "labels.CSV").write_bytes(b"\xef\xbb\xbf" + text.encode())
    source = data.source(str(folder / "labels.CSV"))
    assert source.class_names == ['big "cat"', "cat", "dog"]
    found = {}
    for split in source.splits:
        found |= members(source, split)
    assert len(found) == 31
    assert found[77] == 0
    assert found[0] == 1


def test_given_splits_are_taken(folder):
    words = {"Train": range(20), "val": range(20, 26), "TEST": range(26, 30)}
    lines = [
        f"{line},{word}"
        for word, numbers in words.items()
        for line in classes(numbers)
    ]
    source = listed(folder, lines, "image,label,split")
    assert [*source.splits] == ["train", "validation", "test"]
    for split, numbers in zip(source.splits, words.values(), strict=True):
        assert members(source, split).keys() == {*numbers}


def test_validation_is_drawn_where_only_training_is_given(folder):
    lines = [f"{line},train" for line in classes()]
    source = listed(folder, lines, "image,label,split")
    assert [*source.splits] == ["train", "validation"]
    assert source.count("train") + source.count("validation") == 30


def test_several_labels_become_a_row_of_zeros_and_ones(folder):
    lines = classes(range(26))
    lines += ["images/26.png,dog | emu", "images/27.png,emu|dog|emu"]
    lines += ["images/28.png,", "images/29.png, emu |"]
    lines = [
        f"{line},{'val' if i > 20 else 'train'}" for i, line in enumerate(lines)
    ]
    lines[0] = "images/00.png,cat|emu,train"
    source = listed(folder, lines, "image,label,split")
    assert source.multi_label
    assert source.class_names == ["cat", "dog", "emu"]
    found = members(source, "validation")
    assert found[21] == [0, 1, 0]
    assert found[26] == found[27] == [0, 1, 1]
    assert found[28] == [0, 0, 0]
    assert found[29] == [0, 0, 1]
    batch = next(iter(source.stream("train", image_size=(4, 6), batch_size=4)))
    assert batch[1].dtype == "float32"
    assert batch[1].shape == (4, 3)
    np.testing.assert_array_equal(source.class_counts("train"), [11, 10, 1])


def test_the_rarest_of_several_labels_decides_what_is_set_aside(folder):
    """Three images have the rare one: one of them is for validation."""
    lines = [f"{line}|" for line in classes()]
    for i in (4, 5, 6):
        lines[i] += "rare"
    source = listed(folder, lines)
    rare = source.class_names.index("rare")
    assert source.class_counts("validation")[rare] == 1
    assert source.class_counts("train")[rare] >= 1


def test_masks_and_images_without_one(folder):
    mask = np.zeros((4, 6), "uint8")
    mask[1:3, 2:] = 1
    PIL.Image.fromarray(mask).save(folder / "mask.png")
    lines = [f"{line}," for line in classes()]
    lines[3] += "mask.png"
    lines = [
        f"{line},{'test' if i in (3, 4) else 'train'}"
        for i, line in enumerate(lines)
    ]
    source = listed(folder, lines, "image,label,mask,split")
    assert source.has_masks
    for size, resizing in ((None, "stretch"), ((8, 12), "center_crop")):
        ((images, _, masks),) = source.batches(
            "test", image_size=size, with_masks=True, resizing=resizing
        ).as_numpy_iterator()
        assert masks.shape == (*images.shape[:3], 1)
        assert np.isnan(masks[1]).all()
        assert set(np.unique(masks[0])) == {0, 1}
        if size is None:
            np.testing.assert_array_equal(masks[0, ..., 0], mask)


def test_masks_where_images_share_one_side(folder):
    """The mask that is not there has the side that they share."""
    for name in ("with.png", "without.png"):
        PIL.Image.new("RGB", (9, 4)).save(folder / name)
    PIL.Image.new("L", (9, 4), 1).save(folder / "mask.png")
    lines = [f"{line},,train" for line in classes()]
    lines += ["with.png,cat,mask.png,test", "without.png,cat,,test"]
    source = listed(folder, lines, "image,label,mask,split")
    assert source.image_shape == (4, None, 3)
    ((_, _, masks),) = source.batches(
        "test", image_size=(4, 9), with_masks=True
    ).as_numpy_iterator()
    assert sorted(np.isnan(masks).all(axis=(1, 2, 3))) == [False, True]
    np.testing.assert_array_equal(masks[~np.isnan(masks)], np.ones(36))


def test_a_validation_split_that_is_damaged_is_not_drawn(folder):
    (folder / "bad.png").write_bytes(b"nothing")
    lines = [f"{line},train" for line in classes()]
    with pytest.raises(ValueError, match="can be read for validation"):
        listed(folder, [*lines, "bad.png,cat,val"], "image,label,split")


def test_damaged_files_are_left_out_and_named(folder, caplog):
    (folder / "bad.png").write_bytes(b"nothing")
    PIL.Image.new("L", (5, 4)).save(folder / "wide.png")
    lines = [f"{line}," for line in classes()]
    lines[2] += "wide.png"
    with caplog.at_level(logging.WARNING):
        source = listed(folder, [*lines, "bad.png,cat,"], "image,label,mask")
    reasons = {bad.path: bad.reason for bad in source.damaged}
    assert reasons == {
        str(folder / "bad.png"): "the file is not an image",
        str(folder / "wide.png"): "the mask is 4 x 5, and its image 4 x 6",
    }
    assert sum(map(source.count, source.splits)) == 29
    assert "1 of 31 images cannot be read" in caplog.text
    assert "1 masks cannot be used" in caplog.text


def test_lines_that_repeat_another_count_once(folder, caplog):
    lines = classes()
    with caplog.at_level(logging.WARNING):
        source = listed(folder, [*lines, lines[3], "./images/03.png,dog"])
    assert sum(map(source.count, source.splits)) == 30
    assert "2 lines repeat another and are left out: line 32, line 33" in (
        caplog.text
    )


def test_bits_are_those_of_all_files(folder):
    for i, top in enumerate((1000, 4000)):
        pixels = np.full((4, 6), top, "uint16")
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{i:02d}.png")
    source = listed(folder, classes())
    assert source.bits == 12
    found = {}
    for split in source.splits:
        found |= members(source, split)
    assert 62 in found  # 1000 / 4095 * 255
    assert 249 in found
    assert listed(folder, classes(), bits=16).bits == 16


def test_a_changed_file_is_named(folder):
    source = listed(folder, classes())
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(Exception, match="when the CSV file was scanned") as e:
        members(source, "train")
    assert data.changed_file(e.value).startswith(str(folder / "images"))


# ------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("image,label", [], "lists no image"),
        ("imag,label", ["x,y"], r"'image' is missing .*mean 'imag'"),
        ("image,label,image", ["x,y,z"], "'image' is there twice"),
        ("image,label", ["a,b,cat", "x"], "line 2 has 3, line 3 has 1"),
        ("image,label", ['"a,cat'], "line 2 cannot be read"),
        ("image,label", [",cat", "x,dog"], "line 2 does not"),
        (
            "image,label",
            ["gone.png,cat", "away.png,dog", "images/00.png,cat"],
            r"2 files are missing: .*gone.png in line 2, .*away.png in line 3",
        ),
        ("image,label", classes([0, 1]) + ["images/02.png,"], "line 4 has non"),
        ("image,label", classes() + ["images/00.png,dog"], "lines 2 and 32"),
        (
            "image,label,split",
            ["images/00.png,cat,trian", "images/01.png,dog,x"],
            "'trian' in line 2, 'x' in line 3",
        ),
        (
            "image,label,split",
            ["images/00.png,cat,train", "images/01.png,dog,"],
            "line 3 does not",
        ),
        ("image,label,split", ["images/00.png,cat,test"], "no line is for tr"),
        (
            "image,label,split",
            ["images/00.png,cat,train", "images/01.png,dog,val"],
            "no image to train with has the label dog",
        ),
        ("image,label", classes(range(0, 30, 2)), "one class alone, cat"),
        ("image,label", classes([0, 1]), "no image that can be read for valid"),
        (
            "image,label",
            [f"images/{i:02d}.png,{i / 7}" for i in range(1, 30)],
            "regression is not supported",
        ),
        ("image,label,mask", ["images/00.png,cat,m.png"], "m.png in line 2"),
    ],
)
def test_what_is_wrong_is_named_with_the_way_out(
    folder, header, lines, message
):
    with pytest.raises(ValueError, match=message) as raised:
        listed(folder, lines, header)
    assert str(raised.value).startswith(str(folder / "labels.csv"))


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        data.source("nowhere/labels.csv")
    (tmp_path / "a.csv").write_bytes("image,label\nä.png,é".encode("utf-16"))
    with pytest.raises(ValueError, match="no UTF-8 text"):
        data.source(tmp_path / "a.csv")


def test_a_folder_that_ends_in_csv_is_a_folder(tmp_path):
    for i in range(4):
        write(tmp_path / "my.csv" / "ab"[i % 2] / f"{i}.png")
        write(tmp_path / "my.csv" / "ab"[i % 2] / f"{i}b.png")
    assert data.source(tmp_path / "my.csv").class_names == ["a", "b"]


def test_many_missing_files_are_counted(tmp_path):
    lines = [f"{i}.png,{i % 2}" for i in range(25)]
    match = re.escape("19.png in line 21 and 5 more. To fix this")
    with pytest.raises(ValueError, match=match):
        listed(tmp_path, lines)
