"""`labels.txt`: whatever classes are called, old files and files of others."""

import os
import types

import keras
import pytest
import tensorflow as tf

from keras_lficam import _labels, data
from keras_lficam.cli import _models
from keras_lficam.training import _folder

ODD = [
    "two\nlines",
    "form\ffeed",
    "separated\u2028here",
    "next\u0085line",
    " space before",
    "space behind ",
    "carriage return\r",
    '"quoted"',
    '"begun',
    "\ufeffmarked",
    "a\\nb",
    "tab\there",
    "żółw 🐢",
    "\N{ZERO WIDTH JOINER}",
    "",
    "plain",
]


def test_any_name_is_read_back(tmp_path):
    path = tmp_path / "labels.txt"
    for names in (ODD, ODD[::-1], ["last one ends ", "\n"]):
        _labels.write(path, names)
        assert _labels.read(path) == names
        # Other programs find a name in each line.
        assert len(path.read_text("utf-8").splitlines()) == len(names)


def test_names_that_a_line_holds_stand_in_it_as_they_are():
    names = ["cat", "São Tomé", "it's", 'a "b"', "a, b", "tab\there"]
    assert _labels.to_text(names) == "\n".join(names) + "\n"


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"ant\nbee", ["ant", "bee"]),
        (b"ant\nbee\n\n \n", ["ant", "bee"]),
        (b"ant\r\nbee\r\n", ["ant", "bee"]),
        (b"\xef\xbb\xbfant\nbee\n", ["ant", "bee"]),
        (b" ant\nbee \n", [" ant", "bee "]),
        (b'"ant\nb"ee"\n', ['"ant', 'b"ee"']),
        (b'"\n"12"x\n', ['"', '"12"x']),
    ],
)
def test_files_of_others_and_of_before(tmp_path, content, names):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert _labels.read(path) == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ant\nb\xff\n", "labels.txt: the file is no UTF-8 text"),
        (b"ant\nbee\nant\n", "labels.txt: the classes 0 and 2 .*'ant'"),
        (b'ant\n"ant"\n', "the classes 0 and 1 have the same name, 'ant'"),
        (b'ant\n"\\udcff"\n', r"'\\udcff' is no UTF-8 text"),
    ],
)
def test_files_that_name_no_classes(tmp_path, content, message):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        _labels.read(path)


def test_sources_refuse_names_before_training(tmp_path):
    for name in (b"cat", b"dog\xff"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        for number in range(5):
            # An image of one black pixel.
            with open(os.path.join(folder, b"%d.png" % number), "wb") as file:
                file.write(b"P4 1 1\n\x80")
    with pytest.raises(ValueError, match=r"'dog\\udcff' is no UTF-8 text. To"):
        data.source(tmp_path)
    pairs = tf.data.Dataset.from_tensors((tf.zeros([4, 4, 3]), 0)).batch(1)
    with pytest.raises(ValueError, match="`class_names`: the classes 0 and 1"):
        data.from_datasets(pairs, pairs, class_names=["a", "a"])


def test_a_run_writes_what_explain_reads(tmp_path):
    damaged = [
        data.Damaged("a\udcff\nb.png", "empty"),
        data.Damaged("c", "cut"),
    ]
    source = types.SimpleNamespace(class_names=ODD, damaged=damaged)
    run = types.SimpleNamespace(folder=tmp_path, writes=True, source=source)
    _folder._write_names(run)
    layers = keras.layers
    scores = layers.Dense(len(ODD), "softmax", name="predictions")
    model = keras.Sequential(
        [keras.Input((2, 2, 3)), layers.GlobalAveragePooling2D(), scores]
    )
    assert _models.class_names(tmp_path / "model.keras", model) == ODD
    listed = (tmp_path / "damaged.txt").read_text().splitlines()
    assert listed == ["a\\udcff\\nb.png: empty", "c: cut"]
