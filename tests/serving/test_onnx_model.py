"""`OnnxModel`: what the graph of a SavedModel does, without TensorFlow."""

import base64
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest
import small_onnx
import tensorflow as tf
from served import (
    DAMAGED,
    NAMES,
    digits_model,
    file_of,
    load,
    photo,
    with_signatures,
)

import keras_lficam
from keras_lficam import visualization
from keras_lficam.serving import Limits, _encoded_images, _image_headers
from keras_lficam.serving.onnx_model import OnnxModel


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return OnnxModel(small_onnx.write(tmp_path_factory.mktemp("m") / "rgb/1"))


def solid(color, size=(2, 2)):
    return file_of(PIL.Image.new("RGB", size, color))


# ---------------------------------------------------------------- by hand


def test_images_are_answered_by_hand(small):
    images = np.zeros((2, 2, 2, 3))
    images[0] = (51, 102, 0)
    images[1, 0, 0] = 255
    answer = small.explain(images)
    np.testing.assert_allclose(
        answer["probabilities"], [[0.2, 0.4, 0], [0.25] * 3], atol=1e-6
    )
    assert answer["class_index"].tolist() == [1, 0]
    assert answer["class_name"].tolist() == [b"green", b"red"]
    assert answer["error"].tolist() == [b"", b""]
    assert answer["evidence_classes"].tolist() == [[0, 1, 2]] * 2
    np.testing.assert_allclose(answer["attention_map"][0], 0.2, atol=1e-6)


def test_nonsense_is_named_and_spoils_no_other(small):
    images = np.full((4, 2, 2, 3), 51.0)
    images[0, 0, 0, 0] = np.nan
    images[1, 1, 1, 2] = 256
    images[2, 0, 1, 1] = -1
    answer = small.explain(images)
    outside = b"the image holds numbers outside of 0 to 255"
    assert answer["error"].tolist() == [
        b"the image holds numbers that are not finite",
        outside,
        outside,
        b"",
    ]
    assert answer["class_index"].tolist() == [-1, -1, -1, 0]
    assert answer["class_name"].tolist() == [b"", b"", b"", b"red"]
    assert answer["evidence_classes"].tolist() == [[-1] * 3] * 3 + [[0, 1, 2]]
    for name in ("probabilities", "class_evidence", "attention_map"):
        assert not answer[name][:3].any()
        np.testing.assert_allclose(answer[name][3], 0.2, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((1, 2, 3, 3)), r"\(batch, 2, 2, 3\).*\(1, 2, 3, 3\)"),
        (np.zeros((2, 2, 3)), "must have shape"),
        (np.zeros((0, 2, 2, 3)), "at least one image.*Received: 0"),
        (np.zeros((5, 2, 2, 3)), "at most 4 images. Received: 5"),
        (np.full((1, 2, 2, 3), "a"), "must hold numbers"),
    ],
)
def test_wrong_arrays_are_refused(small, images, words):
    with pytest.raises(ValueError, match=words):
        small.explain(images)


def test_files_are_answered_by_hand(small):
    files = [
        solid((51, 102, 0)),
        b"nothing",
        base64.b64encode(solid((0, 0, 255), (6, 4))),
    ]
    answer = small.explain_files(files)
    np.testing.assert_allclose(
        answer["probabilities"], [[0.2, 0.4, 0], [0] * 3, [0, 0, 1]], atol=1e-6
    )
    assert answer["class_name"].tolist() == [b"green", b"", b"blue"]
    assert answer["top_classes"].tolist() == [
        [b"green", b"red"],
        [b"", b""],
        [b"blue", b"red"],
    ]
    np.testing.assert_allclose(
        answer["top_probabilities"], [[0.4, 0.2], [0, 0], [1, 0]], atol=1e-6
    )
    error = b"the file is neither a JPEG nor a PNG image"
    assert answer["error"].tolist() == [b"", error, b""]
    first, none, last = answer["overlay_bytes"]
    assert none == b""
    assert PIL.Image.open(io.BytesIO(last)).size == (6, 4)
    image = np.full((2, 2, 3), (51, 102, 0))
    expected = visualization.overlay(image, np.full((2, 2, 1), 0.2))
    shown = np.asarray(PIL.Image.open(io.BytesIO(first)), "int32")
    assert np.abs(shown - expected).max() <= 1


def test_evidence_is_shown_where_there_is_no_attention(tmp_path):
    model = OnnxModel(small_onnx.write(tmp_path / "rgb/1", attention=False))
    (overlay,) = model.explain_files([solid((255, 0, 0))])["overlay_bytes"]
    # The strongest evidence covers 0.8 of the gray, 85, by RdBu_r(1.0).
    expected = 85 * 0.2 + 0.8 * np.array([103, 0, 31])
    shown = np.asarray(PIL.Image.open(io.BytesIO(overlay)), float)
    np.testing.assert_allclose(
        shown, np.broadcast_to(expected, (2, 2, 3)), atol=1
    )


def test_a_png_of_16_bits_is_refused_by_name(small):
    rows = np.arange(4, dtype="uint16").reshape(2, 2) * 9000
    answer = small.explain_files([file_of(PIL.Image.fromarray(rows))])
    assert answer["error"][0].startswith(b"the PNG image has 16 bits a channel")


def test_the_predictor_can_be_another(tmp_path):
    folder = small_onnx.write(tmp_path / "rgb/1")
    (folder / "model.onnx").unlink()
    given = []

    def run(images):
        given.append(images)
        return {"probabilities": np.array([[0.0, 0.25, 0.75]], "float32")}

    answer = OnnxModel(folder, run).explain(np.ones((1, 2, 2, 3)))
    assert answer["class_name"].tolist() == [b"blue"]
    np.testing.assert_array_equal(given[0], np.ones((1, 2, 2, 3), "float32"))
    with pytest.raises(FileNotFoundError, match="without model.onnx"):
        OnnxModel(folder)


def test_it_needs_neither_keras_nor_tensorflow(tmp_path):
    folder = small_onnx.write(tmp_path / "rgb/1")
    program = """if True:
        import importlib.util, sys
        found = importlib.util.find_spec
        gone = ("keras", "tensorflow")
        importlib.util.find_spec = lambda n, *a: (
            None if n in gone else found(n, *a)
        )
        sys.modules["keras"] = sys.modules["tensorflow"] = None
        from keras_lficam.serving import client
        from keras_lficam.serving.onnx_model import OnnxModel
        answer = OnnxModel(sys.argv[1]).explain([[[[0, 255, 0]] * 2] * 2])
        print(answer["class_name"][0].decode())
    """
    said = subprocess.run(
        [sys.executable, "-c", program, folder],
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout == "green\n"


# ----------------------------------------------------------------- limits


def in_graph(file, limits):
    shown = _encoded_images.decoded(tf.constant([file]), (8, 8), limits)
    return shown.errors.numpy()[0].decode()


def of_segments(number):
    """A JPEG with that many segments before those of Pillow."""
    content = file_of(photo(), "JPEG")
    return content[:2] + number * b"\xff\xe0\0\2" + content[2:]


def of_chunks(number):
    """A PNG with that many chunks between its header and its pixels."""
    content = file_of(PIL.Image.new("RGB", (120, 90)))
    text = b"tEXta\0b"
    chunk = struct.pack(">I", 3) + text + struct.pack(">I", zlib.crc32(text))
    return content[:33] + number * chunk + content[33:]


# File, limit, and the largest value of the limit that refuses it. A progressive
# JPEG of libjpeg has 10 scans. Before its frame a JPEG of Pillow has a start,
# an APP0 and two tables; a PNG has its header and then the pixels.
BREAKS = {
    "file_bytes": (b"\xff\xd8\xff" + bytes(97), "file_bytes", 99, "99 bytes"),
    "pixels": (file_of(photo(12, 9)), "pixels", 107, "107 pixels"),
    "batch": (
        file_of(photo(12, 9)),
        "batch_pixels",
        107,
        "107 pixels together",
    ),
    "scans": (
        file_of(photo(), "JPEG", progressive=True),
        "scans",
        9,
        "9 scans",
    ),
    "segments": (of_segments(6), "segments", 9, "damaged or cut off"),
    "chunks": (of_chunks(5), "segments", 6, "damaged or cut off"),
}


@pytest.mark.parametrize("name", sorted(BREAKS))
def test_a_file_breaks_its_limit_in_the_graph_and_by_pillow(tmp_path, name):
    file, limit, most, words = BREAKS[name]
    refusing, taking = Limits(**{limit: most}), Limits(**{limit: most + 1})
    for limits, is_refused in ((refusing, True), (taking, False)):
        model = OnnxModel(
            small_onnx.write(tmp_path / f"{most}/{is_refused:d}", limits=limits)
        )
        (by_pillow,) = model.explain_files([file])["error"]
        for error in (in_graph(file, limits), by_pillow.decode()):
            assert (words in error) == is_refused, error


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damaged_files_have_the_words_of_the_graph(small, name):
    content, words = DAMAGED[name]
    (error,) = small.explain_files([content])["error"]
    assert error.decode() == words


def test_headers_cost_little(small):
    """A header of gigapixels, or a megabyte of padding, is refused at once."""
    bombs = [name for name, (_, words) in DAMAGED.items() if "60,000" in words]
    assert len(bombs) == 2
    for name in bombs:
        content = DAMAGED[name][0]
        assert "60,000,000" in _image_headers.fault_of(content, Limits())


# --------------------------------------------------- the SavedModel's answers


@pytest.mark.slow
def test_answers_are_those_of_the_saved_model(tmp_path, monkeypatch):
    with_signatures(monkeypatch, "encoded_images")
    folder = keras_lficam.export(
        digits_model(),
        tmp_path / "digits",
        class_names=NAMES,
        formats=["saved_model", "onnx"],
    )
    image = photo()
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    transparent = image.convert("RGBA")
    transparent.putalpha(PIL.Image.linear_gradient("L").resize(image.size))
    files = [
        file_of(image),
        file_of(image, "JPEG"),
        file_of(image, "JPEG", exif=turned),
        file_of(image, "JPEG", progressive=True),
        file_of(image.convert("L")),
        file_of(image.convert("P")),
        file_of(transparent),
        base64.urlsafe_b64encode(file_of(photo(300, 200))),
        *(content for content, _ in DAMAGED.values()),
    ]
    loaded = load(str(folder)).signatures["encoded_images"]
    expected = loaded(image_bytes=tf.constant(files))
    answer = OnnxModel(folder).explain_files(files)
    assert len(answer["error"]) == 8 + len(DAMAGED)
    assert not any(answer["error"][:8])
    for name in ("error", "class_name", "class_index", "evidence_classes"):
        np.testing.assert_array_equal(answer[name], expected[name].numpy())
    np.testing.assert_array_equal(
        answer["top_classes"], expected["top_classes"].numpy()
    )
    for name in ("probabilities", "attention_map", "class_evidence", "logits"):
        value = expected[name].numpy()
        scale = max(1, np.abs(value).max())
        np.testing.assert_allclose(
            answer[name] / scale, value / scale, rtol=0, atol=1e-4
        )
    for ours, theirs in zip(
        answer["overlay_bytes"][:8],
        expected["overlay_bytes"].numpy()[:8],
        strict=True,
    ):
        pixels = [
            np.asarray(PIL.Image.open(io.BytesIO(content)), float)
            for content in (ours, theirs)
        ]
        # Where two levels of a color map meet, either is near enough.
        assert np.abs(pixels[0] - pixels[1]).max() <= 3
