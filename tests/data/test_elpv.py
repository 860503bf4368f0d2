"""The solar cells of `elpv`, from the installed package."""

import collections
import importlib
import pathlib

import elpv_dataset
import numpy as np
import PIL.Image
import pytest

from keras_lficam import data
from keras_lficam.cli import main
from keras_lficam.data import elpv

FOLDER = pathlib.Path(elpv_dataset.__file__).parent / "data"
# Cells of each probability and type in the package.
CELLS = {
    ("0.0", "mono"): 588,
    ("0.0", "poly"): 920,
    ("0.3333333333333333", "mono"): 117,
    ("0.3333333333333333", "poly"): 178,
    ("0.6666666666666666", "mono"): 56,
    ("0.6666666666666666", "poly"): 50,
    ("1.0", "mono"): 313,
    ("1.0", "poly"): 402,
}
# A quarter of each for the test and a tenth for validation, by hand.
TEST = (147, 230, 29, 44, 14, 12, 78, 100)
VALIDATION = (59, 92, 12, 18, 6, 5, 31, 40)


def table():
    """Probability and type by the name of the file."""
    lines = (FOLDER / "labels.csv").read_text().splitlines()
    return {
        file: (chance, kind) for file, chance, kind in map(str.split, lines)
    }


def counted(cells):
    found = collections.Counter((cell.probability, cell.type) for cell in cells)
    return tuple(found[key] for key in CELLS)


def test_parts_have_their_share_of_each_probability_and_type():
    parts = elpv._split(elpv._cells(FOLDER))
    assert collections.Counter(table().values()) == CELLS
    assert counted(parts["test"]) == TEST
    assert counted(parts["validation"]) == VALIDATION
    files = [cell.file for part in parts.values() for cell in part]
    assert len(files) == len(set(files)) == 2624
    assert set(files) == set(table())
    assert {part: len(cells) for part, cells in parts.items()} == {
        "train": 1707,
        "validation": 263,
        "test": 654,
    }


def test_parts_are_the_same_in_every_version():
    cells = elpv._cells(FOLDER)
    parts = elpv._split(cells[::-1])
    first = [cell.file[-8:-4] for cell in parts["test"][:6]]
    assert first == ["0002", "0003", "0006", "0009", "0018", "0029"]
    assert parts == elpv._split(cells)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which every fortieth cell is prepared by `load` itself."""
    folder = tmp_path_factory.mktemp("tfds")
    every = elpv._cells
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elpv, "_cells", lambda home: every(home)[::40])
        for name in ("elpv", "elpv/four"):
            data.load(name, "test", data_dir=folder)
    return folder


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        (
            "elpv",
            {
                "0.0": "functional",
                "0.3333333333333333": "functional",
                "0.6666666666666666": "defective",
                "1.0": "defective",
            },
        ),
        (
            "elpv/four",
            {
                "0.0": "functional",
                "0.3333333333333333": "functional, unsure",
                "0.6666666666666666": "defective, unsure",
                "1.0": "defective",
            },
        ),
    ],
)
def test_images_and_classes_are_those_of_the_package(name, classes, folder):
    source = data.source(name, data_dir=folder)
    assert source.class_names == list(dict.fromkeys(classes.values()))
    assert source.splits == {
        part: part for part in ("train", "validation", "test")
    }
    assert source.image_shape == (300, 300, 3)
    cells = elpv._split(elpv._cells(FOLDER)[::40])
    seen = 0
    for part in source.splits:
        images, labels = next(
            source.batches(part, batch_size=99).as_numpy_iterator()
        )
        expected = {}
        for cell in cells[part]:
            pixels = np.asarray(PIL.Image.open(FOLDER / cell.file))
            expected[pixels.tobytes()] = classes[table()[cell.file][0]]
        assert len(images) == len(expected) == source.count(part)
        np.testing.assert_array_equal(images[..., 0], images[..., 2])
        found = {
            image[..., 0].astype("uint8").tobytes(): source.class_names[label]
            for image, label in zip(images, labels, strict=True)
        }
        assert found == expected
        seen += len(images)
    assert seen == 66


def test_license_and_sources_are_told(folder):
    info = elpv.Elpv(data_dir=folder).info
    assert "CC BY-NC-SA 4.0" in info.redistribution_info.license
    assert "10.1016/j.solener.2019.02.067" in info.citation
    assert info.features["cell_type"].names == ["mono", "poly"]


def test_missing_package_is_named(monkeypatch, tmp_path, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "elpv_dataset" else found(name),
    )
    with pytest.raises(ImportError, match="pip install elpv-dataset"):
        data.load("elpv", "test", data_dir=tmp_path)
    command = ["train", "--backbone", "ResNet8", "--data", "elpv", "--output"]
    assert (
        main([*command, str(tmp_path / "run"), "--data-dir", str(tmp_path)])
        == 2
    )
    assert "pip install elpv-dataset" in capsys.readouterr().err
