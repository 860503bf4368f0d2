"""Exported classifiers: what they answer without Keras, and to what."""

import base64
import concurrent.futures
import functools
import io
import json
import resource
import struct
import time
import zlib

import keras
import numpy as np
import PIL.Image
import psutil
import pytest
import tensorflow as tf
import yaml
from distributed_worker import lfi_cam
from google.protobuf import text_format
from interruptions import Killed
from processes import finish, start
from served import (
    DAMAGED,
    NAMES,
    SIDE,
    answers_of,
    declared,
    digits,
    digits_model,
    file_of,
    lively,
    load,
    photo,
    residual_backbone,
    shrunk,
    with_signatures,
)
from small_classifiers import backbone
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

import keras_lficam
from keras_lficam import explainers, visualization
from keras_lficam.data.image_files import read_image
from keras_lficam.serving import (
    _encoded_images,
    _formats,
    _server_files,
)
from keras_lficam.serving.stand_in import Loaded


@pytest.fixture(scope="module")
def model():
    return digits_model()


@pytest.fixture(scope="module")
def images():
    return digits(200)


@pytest.fixture(scope="module")
def by_keras(model):
    """Gives probabilities and maps of Keras."""
    explainer = explainers.AttentionMap(model)

    def answer(images):
        return np.asarray(model(images, training=False)), explainer(images)

    return answer


@pytest.fixture(scope="module")
def expected(by_keras, images):
    return by_keras(images)


@pytest.fixture(scope="module")
def importance(model, images):
    view = keras_lficam.attention_view(model)
    return np.asarray(view(images, training=False)["importance"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model):
    return keras_lficam.export(
        model, tmp_path_factory.mktemp("models") / "digits", class_names=NAMES
    )


@pytest.fixture(scope="module")
def in_every_format(tmp_path_factory, model, images):
    return keras_lficam.export(
        model,
        tmp_path_factory.mktemp("formats") / "digits",
        class_names=NAMES,
        formats=keras_lficam.serving.FORMATS,
        calibration=images[:100],
    )


@pytest.fixture(scope="module")
def signatures(exported):
    return load(str(exported)).signatures


@pytest.fixture(scope="module")
def session(exported):
    return Loaded(exported)


@pytest.fixture(scope="module")
def small():
    keras.utils.set_random_seed(0)
    return lively(lfi_cam())


@pytest.fixture(scope="module")
def open_size():
    """A model of images of any size, which gives logits."""
    keras.utils.set_random_seed(0)
    return lively(
        keras_lficam.build(
            residual_backbone(None),
            3,
            input_shape=(None, None, 3),
            classifier_activation=None,
        )
    )


@pytest.fixture
def encoded(session):
    # A session, as a new seed makes TensorFlow forget its compiled functions.
    def ask(*files):
        inputs = {"image_bytes": np.array(files, object)}
        return session.run("encoded_images", inputs)

    return ask


def assert_answers(answer, expected, tolerance=1e-4):
    probabilities, maps = expected
    np.testing.assert_allclose(
        answer["probabilities"], probabilities, rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(
        answer["attention_map"], maps, rtol=0, atol=tolerance
    )


def test_the_images_of_these_tests_differ(expected):
    probabilities, maps = expected
    assert len(set(probabilities.argmax(-1))) > 2
    assert probabilities.std(0).max() > 0.05
    assert maps.std(0).max() > 0.1


# ------------------------------------------------------------- without Keras


@pytest.mark.end_to_end
def test_a_process_with_tensorflow_alone_answers(
    tmp_path, exported, images, expected
):
    np.save(tmp_path / "images.npy", images[:50])
    program = f"""
import sys
# TensorFlow imports Keras where it is installed: so here it is not.
sys.modules.update({{"keras": None, "keras_lficam": None}})
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load({str(exported)!r})
images = np.load("images.npy")
answer = loaded.signatures["uint8_images"](images=tf.constant(images))
np.savez("answer.npz", **{{name: v.numpy() for name, v in answer.items()}})
image = tf.io.encode_png(images[0]).numpy()
answer = loaded.signatures["encoded_images"](image_bytes=tf.constant([image]))
assert answer["error"].numpy()[0] == b""
assert sys.modules["keras"] is sys.modules["keras_lficam"] is None
"""
    text = f"import os; os.chdir({str(tmp_path)!r})\n{program}"
    finish(start(["-c", text]))
    with np.load(tmp_path / "answer.npz", allow_pickle=True) as answer:
        assert_answers(answer, [value[:50] for value in expected])
        names = [NAMES[n].encode() for n in expected[0][:50].argmax(-1)]
        assert answer["class_name"].tolist() == names


def test_requests_are_answered_as_by_keras(
    session, images, expected, importance
):
    request = predict_pb2.PredictRequest()
    pixels = images.astype("float32")
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(pixels))
    response = session.predict(request)
    answer = {
        name: tf.make_ndarray(value) for name, value in response.outputs.items()
    }
    assert_answers(answer, expected)
    best = expected[0].argmax(-1)
    np.testing.assert_array_equal(answer["class_index"], best)
    names = [NAMES[index].encode() for index in best]
    assert answer["class_name"].tolist() == names
    assert answer["error"].tolist() == [b""] * 200
    np.testing.assert_allclose(
        answer["importance"], importance, rtol=0, atol=1e-4
    )
    request.model_spec.signature_name = "classify"
    response = session.predict(request)
    assert set(response.outputs) == {
        "probabilities",
        "class_index",
        "class_name",
        "error",
    }
    np.testing.assert_allclose(
        tf.make_ndarray(response.outputs["probabilities"]),
        expected[0],
        rtol=0,
        atol=1e-4,
    )


# ------------------------------------------------------------------- formats


def by_saved_model(folder, images):
    ask = load(str(folder)).signatures["serving_default"]
    return ask(images=tf.constant(images))


def by_saved_model_of_uint8(folder, images):
    ask = load(str(folder)).signatures["uint8_images"]
    return ask(images=tf.constant(images.astype("uint8")))


def by_onnx(folder, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert [value.name for value in session.get_inputs()] == ["images"]
    names = [value.name for value in session.get_outputs()]
    answers = session.run(names, {"images": images})
    return dict(zip(names, answers, strict=True))


def by_openvino(folder, images):
    import openvino

    compiled = openvino.compile_model(
        str(folder / "model.xml"),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    answer = compiled({"images": images})
    return {output.any_name: answer[output] for output in compiled.outputs}


def by_litert(suffix):
    def run(folder, images):
        interpreter = tf.lite.Interpreter(str(folder / f"model{suffix}.tflite"))
        return interpreter.get_signature_runner()(images=images)

    return run


@pytest.mark.every_format
@pytest.mark.parametrize(
    ("run", "tolerance"),
    [
        (by_saved_model, 1e-4),
        (by_saved_model_of_uint8, 1e-4),
        (by_onnx, 1e-4),
        (by_openvino, 1e-4),
        (by_litert(""), 1e-4),
        (by_litert("_float16"), 2e-2),
    ],
    ids=["float", "uint8", "onnx", "openvino", "litert", "litert_float16"],
)
def test_every_format_answers_as_keras(
    in_every_format, images, expected, importance, run, tolerance
):
    answer = run(in_every_format, images.astype("float32"))
    assert_answers(answer, expected, tolerance)
    np.testing.assert_allclose(
        answer["importance"], importance, rtol=0, atol=tolerance
    )


@pytest.fixture(scope="module")
def view(model):
    return keras_lficam.explanation_view(model)


def ranks(values):
    return np.argsort(np.argsort(values, axis=-1), axis=-1)


@pytest.mark.every_format
@pytest.mark.parametrize(
    ("run", "tolerance"),
    [
        (by_saved_model, 1e-4),
        (by_onnx, 1e-4),
        (by_openvino, 1e-4),
        (by_litert(""), 1e-4),
        (by_litert("_float16"), 5e-2),
        (by_litert("_int8"), None),
    ],
    ids=["float", "onnx", "openvino", "litert", "litert_float16", "int8"],
)
def test_every_format_gives_the_evidence(
    in_every_format, images, view, run, tolerance
):
    answer = run(in_every_format, images.astype("float32"))
    asked = np.asarray(answer["evidence_classes"])
    evidence = np.asarray(answer["class_evidence"])
    assert asked.shape == (200, 5)
    shown = view.predict(images, asked)
    logits = np.take_along_axis(np.asarray(answer["logits"]), asked, axis=1)
    # The likeliest first, of its own logits.
    np.testing.assert_array_equal(logits, -np.sort(-logits, axis=1))
    described = json.loads((in_every_format / "export.json").read_text())
    described = described["evidence"]
    assert described["exact"]
    if tolerance is None:
        # In 8 bits by rank: the locations of each image's likeliest class.
        found, expected = (
            ranks(maps[..., 0].reshape(200, -1))
            for maps in (evidence, shown["class_evidence"])
        )
        correlations = [
            np.corrcoef(one, other)[0, 1]
            for one, other in zip(found, expected, strict=True)
        ]
        assert np.median(correlations) > 0.95
        return
    scale = np.abs(shown["class_evidence"]).max()
    for name in ("class_evidence", "attention_logits"):
        np.testing.assert_allclose(
            answer[name], shown[name], rtol=0, atol=tolerance * scale
        )
    bias = np.array(described["bias"])[asked]
    total = evidence.mean(axis=(1, 2), dtype="float64") + bias
    # In float16 the weights are rounded, and in both places alike.
    np.testing.assert_allclose(
        total, logits, rtol=0, atol=max(tolerance, 1e-3) * scale / 10
    )


def test_evidence_of_classes_that_are_asked_for(session, images, view):
    asked = np.stack([np.arange(8) % 10, np.arange(3, 11) % 10], axis=1)
    asked[4] = [0, 10]
    answer = session.run(
        "images_and_classes",
        {
            "images": images[:8].astype("float32"),
            "classes": asked.astype("int32"),
        },
    )
    good = np.arange(8) != 4
    shown = view.predict(images[:8][good], asked[good])
    np.testing.assert_allclose(
        answer["class_evidence"][good],
        shown["class_evidence"],
        atol=1e-4 * np.abs(shown["class_evidence"]).max(),
    )
    np.testing.assert_array_equal(answer["evidence_classes"][good], asked[good])
    assert answer["error"][4] == (
        b"a class that is asked for is not one of 0 to 9"
    )
    assert not answer["class_evidence"][4].any()
    assert answer["class_index"].tolist()[4] == -1


@pytest.mark.slow
def test_overlays_of_classes_are_those_of_python(session, images, view):
    pixels = images[3]
    file = file_of(PIL.Image.fromarray(pixels), "PNG")
    answer = session.run(
        "encoded_images_and_classes",
        {
            "image_bytes": np.array([file, b"broken"], object),
            "classes": np.array([[7, 2], [7, 2]], "int32"),
        },
    )
    assert answer["evidence_overlay_bytes"][1].tolist() == [b"", b""]
    shown = view.predict(pixels[None], [7, 2])["class_evidence"]
    maps = np.asarray(view.upsample(shown, pixels.shape[:2]))
    gray = np.rint(pixels.mean(axis=-1, keepdims=True))
    for place, content in enumerate(answer["evidence_overlay_bytes"][0]):
        drawn = np.asarray(PIL.Image.open(io.BytesIO(content)))
        expected = visualization.signed_overlay(
            gray[None], maps[..., [place]], limit=np.abs(maps).max()
        )[0]
        # The color map has 256 levels in both, rounded each in its own way.
        assert np.abs(drawn.astype(int) - expected).max() <= 4


@pytest.mark.slow
def test_gradients_are_served(tmp_path, small, rng, monkeypatch):
    with_signatures(monkeypatch, "grad_cam", "attention")
    grad_cam = explainers.GradCAM(small)
    folder = keras_lficam.export(
        small,
        tmp_path / "small",
        explainers={
            "grad_cam": grad_cam,
            "attention": explainers.AttentionMap(small),
        },
    )
    served = Loaded(folder)
    shape = small.input_shape[1:]
    images = rng.uniform(0, 255, (4, *shape)).astype("float32")
    images[3] = np.nan
    classes = np.array([-1, 2, 9, -1], "int32")
    inputs = {"images": images, "classes": classes}
    answer = served.run("grad_cam", inputs)
    predicted = int(small.predict_on_batch(images[:1]).argmax())
    assert answer["class_index"].tolist() == [predicted, 2, -1, -1]
    expected = grad_cam(images[:2], [predicted, 2])
    np.testing.assert_allclose(answer["map"][:2], expected, atol=1e-5)
    assert not answer["map"][2:].any()
    assert answer["error"].tolist() == [
        b"",
        b"",
        b"the class is not one of 0 to 2, or -1",
        b"the image holds numbers that are not finite",
    ]
    answer = served.run("attention", inputs)
    np.testing.assert_allclose(
        answer["map"][:2],
        explainers.AttentionMap(small)(images[:2]),
        atol=1e-5,
    )


def test_explainers_that_cannot_be_served_are_refused(tmp_path, small):
    for given, message in (
        ({"rise": explainers.RISE(small)}, "call the model once.*'rise'"),
        ({"classify": explainers.GradCAM(small)}, "none of .*classify"),
        ({"a b": explainers.GradCAM(small)}, "identifiers.*'a b'"),
        ({"cam": small}, "explainers of the model that is exported"),
        ({"cam": explainers.GradCAM(lfi_cam())}, "that is exported"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_lficam.export(small, tmp_path / "small", explainers=given)
    with pytest.raises(TypeError, match="`explainers` must be a dictionary"):
        keras_lficam.export(small, tmp_path / "small", explainers=[])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_any_classifier_is_exported(tmp_path, rng, monkeypatch):
    with_signatures(
        monkeypatch, "serving_default", "images_and_classes", "encoded_images"
    )
    layers = keras.layers
    base = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(6, 3, strides=2, activation="relu"),
        ]
    )
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            base,
            layers.GlobalMaxPooling2D(),
            layers.Dense(3, "softmax"),
        ]
    )
    formats = ["saved_model", "onnx", "openvino", "litert"]
    class_names = ["cat", "dog", "owl"]
    folder = keras_lficam.export(
        model,
        tmp_path / "plain",
        formats=formats,
        top=None,
        class_names=class_names,
    )
    images = rng.uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    shown = keras_lficam.explanation_view(model, top=None).predict(images)
    # Classes by their names, as somebody without Keras names them.
    known = (folder / "labels.txt").read_text().splitlines()
    chosen = [known.index("owl"), known.index("cat")]
    expected = keras_lficam.explain(
        model, images, ["owl", "cat"], class_names=class_names
    ).coarse_evidence
    served = Loaded(folder).run(
        "images_and_classes",
        {"images": images, "classes": np.array([chosen] * 3, "int32")},
    )["class_evidence"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(served, expected, atol=1e-4 * scale)
    for run in (by_saved_model, by_onnx, by_openvino, by_litert("")):
        answer = run(folder, images)
        np.testing.assert_array_equal(
            answer["evidence_classes"], [[0, 1, 2]] * 3
        )
        evidence = np.asarray(answer["class_evidence"])
        np.testing.assert_allclose(
            evidence, shown["class_evidence"], atol=1e-4 * scale
        )
        np.testing.assert_allclose(
            evidence[..., chosen], expected, atol=1e-4 * scale
        )
        assert "attention_map" not in answer
    described = json.loads((folder / "export.json").read_text())
    assert described["evidence"] == {
        "exact": False,
        "unit": "logit",
        "bias": None,
    }
    encoded = Loaded(folder).run(
        "encoded_images",
        {"image_bytes": np.array([file_of(photo(), "PNG")], object)},
    )
    overlay = encoded["overlay_bytes"][0]
    assert overlay == encoded["evidence_overlay_bytes"][0, 0]
    assert PIL.Image.open(io.BytesIO(overlay)).mode == "RGB"


@pytest.mark.every_format
def test_convolutions_in_groups_are_written_in_every_format(tmp_path, rng):
    """Keras calls them by a function that it marks for XLA."""
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
    x = layers.Conv2D(8, 3, groups=4, padding="same", activation="relu")(x)
    model = keras_lficam.build(
        keras.Model(inputs, x), 3, input_shape=(16, 16, 3)
    )
    formats = ["saved_model", "onnx", "openvino", "litert"]
    folder = keras_lficam.export(model, tmp_path / "groups", formats=formats)
    images = rng.uniform(0, 1, (3, 16, 16, 3)).astype("float32")
    expected = keras_lficam.explanation_view(model).predict(images)
    for run in (by_saved_model, by_onnx, by_openvino, by_litert("")):
        answer = run(folder, images)
        for name in ("logits", "class_evidence", "attention_logits"):
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(
                np.asarray(answer[name]), expected[name], atol=1e-5 * scale
            )


@pytest.mark.every_format
def test_eight_bits_keep_the_classes_mostly(in_every_format, images, expected):
    answer = by_litert("_int8")(in_every_format, images.astype("float32"))
    same = answer["probabilities"].argmax(-1) == expected[0].argmax(-1)
    assert same.mean() > 0.9
    assert np.abs(answer["attention_map"] - expected[1]).mean() < 0.03
    size = [
        (in_every_format / f"model{suffix}.tflite").stat().st_size
        for suffix in ("_int8", "_float16", "")
    ]
    assert max(size[:2]) < size[2]


@pytest.mark.parametrize("name", ["serving_default", "uint8_images"])
def test_images_of_another_size_are_smoothed_and_their_map_is_theirs(
    session, model, name
):
    pixels = np.stack([np.asarray(photo(80, 100, left)) for left in (50, 150)])
    dtype = "float32" if name == "serving_default" else "uint8"
    answer = session.run(name, {"images": pixels.astype(dtype)})
    small = np.stack([shrunk(image) for image in pixels])
    view = keras_lficam.attention_view(model)
    shown = view(small, training=False)
    upsample = keras_lficam.architectures.upsampler(view)
    maps = upsample(shown["attention_map"], (100, 80), small.shape[1:3])
    assert_answers(answer, (shown["predictions"], np.asarray(maps)))


# -------------------------------------------------------------------- images


def turned(orientation, endian="<"):
    exif = PIL.Image.Exif()
    exif.endian = endian
    exif[0x010F] = "Maker"
    exif[0x0112] = orientation
    return file_of(photo(), "JPEG", quality=95, exif=exif)


def strayed():
    """A JPEG with bytes between two segments that belong to none."""
    content = turned(6)
    end = 4 + int.from_bytes(content[4:6], "big")
    return content[:end] + bytes(9) + content[end:]


def png(rows, depth, color, significant=b"", clear=b""):
    """Writes a PNG that Pillow does not: `rows` holds packed bytes."""

    def chunk(name, data):
        checked = zlib.crc32(name + data)
        return (
            struct.pack(">I", len(data))
            + name
            + data
            + struct.pack(">I", checked)
        )

    samples = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    width = len(rows[0]) * 8 // depth // samples
    header = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"sBIT", significant) if significant else b"")
        + (chunk(b"tRNS", clear) if clear else b"")
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def transparent(mode):
    image = photo().convert(mode)
    opacity = np.tile(np.linspace(0, 255, 120, dtype="uint8"), (90, 1))
    image.putalpha(PIL.Image.fromarray(opacity))
    return image


def packed(depth, color=0):
    rng = np.random.default_rng(0)
    samples = {0: 1, 2: 3, 4: 2}[color]
    return png(
        rng.integers(0, 256, (90, 120 * depth * samples // 8), "uint8"),
        depth,
        color,
    )


def deep(color, highest, significant=b"", shift=0, *, clear=False):
    """A photo as PNG of 16 bits a channel, whose white is `highest`.

    The color of its first pixel is `clear`.
    """
    pixels = np.asarray(photo(), "float64") / 255
    pixels = np.rint(pixels * highest).astype("uint16") << shift
    # Some color that is nowhere opaque by halves, some that is.
    opacity = np.asarray(transparent("L"))[..., 1:].astype("uint16") * 257
    channels = {
        0: pixels[..., :1],
        2: pixels,
        4: np.concatenate([pixels[..., :1], opacity], axis=-1),
        6: np.concatenate([pixels, opacity], axis=-1),
    }[color]
    rows = [row.astype(">u2").tobytes() for row in channels]
    nothing = rows[0][: 2 * channels.shape[-1]] if clear else b""
    return png(rows, 16, color, significant, nothing)


def gray(mode="L", **options):
    return file_of(photo().convert(mode), **options)


FRAMES = {"save_all": True, "append_images": [photo(left=300)]}
JPEG = {"kind": "JPEG", "quality": 95}
# Files, and how far from Pillow's a pixel may be.
IMAGE_FILES = {
    **{f"jpeg_{n}": (lambda n=n: turned(n), 2) for n in range(1, 9)},
    "jpeg_6_big_endian": (lambda: turned(6, ">"), 2),
    "progressive": (lambda: file_of(photo(), progressive=True, **JPEG), 2),
    "subsampled": (lambda: file_of(photo(), subsampling=2, **JPEG), 2),
    "stray_bytes": (strayed, 2),
    "gray_jpeg": (lambda: file_of(photo().convert("L"), **JPEG), 2),
    "cmyk": (lambda: file_of(photo().convert("CMYK"), **JPEG), 4),
    "rgb": (lambda: file_of(photo()), 0),
    "rgba": (lambda: file_of(transparent("RGB")), 1),
    "gray_alpha": (lambda: file_of(transparent("L")), 1),
    "palette": (lambda: file_of(photo().quantize(50)), 0),
    **{
        f"palette_of_{bits}_bits": (
            lambda bits=bits: file_of(photo().quantize(2**bits), bits=bits),
            0,
        )
        for bits in (1, 2, 4)
    },
    "transparent_palette_of_4_bits": (
        lambda: file_of(photo().quantize(9), bits=4, transparency=3),
        0,
    ),
    "transparent_palette": (
        lambda: file_of(photo().quantize(50), transparency=3),
        0,
    ),
    "transparent_gray": (lambda: gray(transparency=90), 0),
    "transparent_1": (lambda: gray("1", transparency=1), 0),
    "gray_1": (lambda: gray("1"), 0),
    "gray_2": (lambda: packed(2), 0),
    "gray_4": (lambda: packed(4), 0),
    "gray_16": (lambda: packed(16), 0),
    "rgb_16": (lambda: packed(16, 2), 0),
    "gray_alpha_16": (lambda: deep(4, 65535), 0),
    "rgb_alpha_16": (lambda: deep(6, 65535), 0),
    "gray_clear_16": (lambda: deep(0, 65535, clear=True), 0),
    "rgb_clear_16": (lambda: deep(2, 65535, clear=True), 0),
    "gray_of_12_bits_as_measured": (lambda: deep(0, 4095, b"\x0c"), 0),
    "rgb_of_12_bits_as_measured": (lambda: deep(2, 4095, b"\x0c" * 3), 0),
    "gray_of_12_bits_by_the_standard": (lambda: deep(0, 4095, b"\x0c", 4), 0),
    "gray_of_6_bits_as_measured": (lambda: deep(0, 63, b"\x06"), 0),
    "gray_of_all_bits": (lambda: deep(0, 4095, b"\x10"), 0),
    "animated": (lambda: file_of(photo(), **FRAMES), 0),
}


@pytest.fixture(scope="module")
def read_by_pillow(tmp_path_factory, by_keras):
    """Each file, its pixels, and what Keras, asked once, makes of them."""
    folder = tmp_path_factory.mktemp("images")
    for name, (make, _) in IMAGE_FILES.items():
        (folder / name).write_bytes(make())
    pixels = [read_image(folder / name) for name in IMAGE_FILES]
    answers = by_keras(np.stack([shrunk(image) for image in pixels]))
    return {
        name: ((folder / name).read_bytes(), image, answer)
        for name, image, *answer in zip(
            IMAGE_FILES, pixels, *answers, strict=True
        )
    }


@pytest.mark.parametrize("name", IMAGE_FILES)
def test_every_kind_of_file_is_read_as_pillow_does(
    encoded, read_by_pillow, name
):
    _, levels = IMAGE_FILES[name]
    content, pixels, expected = read_by_pillow[name]
    answer = encoded(content)
    assert answer["error"].tolist() == [b""]
    expected = [value[np.newaxis] for value in expected]
    # By a level of a pixel the answers of this net change by about 0.01.
    assert_answers(answer, expected, 2e-4 + 0.02 * levels)
    drawn = np.asarray(PIL.Image.open(io.BytesIO(answer["overlay_bytes"][0])))
    assert drawn.shape == pixels.shape
    heat = shrunk(answer["attention_map"][0], pixels.shape[:2])
    overlay = visualization.overlay(pixels, np.clip(heat, 0, 1))
    difference = np.abs(drawn.astype(int) - overlay)
    assert difference.max() <= 2 + levels
    assert difference.mean() <= 0.5 + levels / 4


@pytest.fixture(scope="module")
def of_12_bits(tmp_path_factory, model):
    """The model as it is served where it was trained on 12 bits."""
    path = tmp_path_factory.mktemp("deep") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        with_signatures(patch, "encoded_images")
        return keras_lficam.export(model, path, class_names=NAMES, bits=12)


@pytest.fixture(scope="module")
def session_of_12_bits(of_12_bits):
    return Loaded(of_12_bits)


@pytest.mark.every_format
@pytest.mark.parametrize(
    ("color", "highest", "significant"),
    [
        (0, 4095, b""),
        (2, 4095, b""),
        (4, 4095, b""),
        (6, 4095, b""),
        # All above is white.
        (0, 5000, b""),
        # What the file says comes first.
        (0, 1023, b"\x0a"),
    ],
)
def test_files_of_12_bits_are_served_as_they_are_explained(
    session_of_12_bits, encoded, by_keras, tmp_path, color, highest, significant
):
    path = tmp_path / "x_ray.png"
    path.write_bytes(deep(color, highest, significant))
    expected = by_keras(shrunk(read_image(path, bits=12))[np.newaxis])
    answer = session_of_12_bits.run(
        "encoded_images", {"image_bytes": np.array([path.read_bytes()])}
    )
    assert_answers(answer, expected, 2e-4)
    # By 16 bits it is black, which the model does not answer alike.
    if not significant:
        dark = encoded(path.read_bytes())["probabilities"]
        assert np.abs(dark - answer["probabilities"]).max() > 0.01


@pytest.mark.every_format
def test_the_export_says_which_bits_it_takes(of_12_bits, exported):
    def bits(folder):
        return json.loads((folder / "export.json").read_text())["bits"]

    assert (bits(of_12_bits), bits(exported)) == (12, None)


def test_the_eight_orientations_show_one_image(encoded):
    """Each is the upright image, turned back as EXIF says."""
    upright = photo()
    back = PIL.Image.Transpose
    ways = [
        None,
        back.FLIP_LEFT_RIGHT,
        back.ROTATE_180,
        back.FLIP_TOP_BOTTOM,
        back.TRANSPOSE,
        back.ROTATE_90,
        back.TRANSVERSE,
        back.ROTATE_270,
    ]
    files = []
    for orientation, way in enumerate(ways, start=1):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        image = upright if way is None else upright.transpose(way)
        files.append(
            file_of(image, "JPEG", quality=100, subsampling=0, exif=exif)
        )
    answer = encoded(*files)
    for content in answer["overlay_bytes"]:
        assert PIL.Image.open(io.BytesIO(content)).size == upright.size
    for name in ("probabilities", "attention_map"):
        assert np.abs(answer[name] - answer[name][0]).max() < 0.02


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("length", range(3))
def test_base64_is_decoded(encoded, kind, length):
    # Behind the end of an image nothing is read.
    content = file_of(photo(), kind) + length * b"\xff"
    plain = base64.b64encode(content)
    url_safe = base64.urlsafe_b64encode(content)
    forms = [
        plain,
        url_safe,
        url_safe.rstrip(b"="),
        base64.encodebytes(content),
    ]
    answer = encoded(content, *forms)
    assert answer["error"].tolist() == [b""] * 5
    for name in ("probabilities", "attention_map"):
        np.testing.assert_allclose(
            answer[name], answer[name][[0] * 5], rtol=0, atol=1e-5
        )
    assert len(set(answer["overlay_bytes"])) == 1


@pytest.mark.slow
def test_a_large_image_has_a_small_overlay(encoded, by_keras):
    large = photo(500, 400, 0).resize((2500, 2000))
    answer = encoded(file_of(large, "JPEG", quality=90, subsampling=0))
    with PIL.Image.open(io.BytesIO(answer["overlay_bytes"][0])) as overlay:
        assert overlay.size == (1024, 819)
    small = shrunk(large)[np.newaxis]
    assert_answers(answer, by_keras(small), 0.02)


def test_the_top_classes_are_sorted(encoded, images, expected):
    answer = encoded(*(file_of(PIL.Image.fromarray(i)) for i in images[:20]))
    chances = expected[0][:20]
    order = np.argsort(-chances, axis=-1)[:, :5]
    np.testing.assert_array_equal(
        answer["top_classes"], np.array([n.encode() for n in NAMES])[order]
    )
    np.testing.assert_allclose(
        answer["top_probabilities"],
        np.take_along_axis(chances, order, axis=-1),
        rtol=0,
        atol=1e-4,
    )


# -------------------------------------------------------------- wrong inputs


@pytest.mark.parametrize(
    "name", ["serving_default", "uint8_images", "classify"]
)
@pytest.mark.parametrize(
    "shape",
    [
        (64, 64, 3),
        (1, 1, 64, 64, 3),
        (64,),
        (),
        (2, 64, 64, 1),
        (2, 64, 64, 4),
        (2, 0, 64, 3),
        (2, 64, 0, 3),
        (0, 64, 64, 3),
    ],
    ids=str,
)
def test_a_wrong_shape_is_refused(session, name, shape):
    dtype = session.dtype(name, "images").as_numpy_dtype
    received = r"\[" + " ".join(map(str, shape)) + r"\]"
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"must have shape \(batch, height, width, 3\), none of it 0"
        rf".* Received shape:\] {received}",
    ):
        session.run(name, {"images": np.zeros(shape, dtype)})


def test_no_images_are_refused(session):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must hold at least one image"
    ):
        session.run("encoded_images", {"image_bytes": np.zeros(0, object)})


@pytest.mark.parametrize("name", ["serving_default", "classify"])
def test_an_image_of_nonsense_is_named_and_spoils_no_other(
    session, images, expected, name
):
    wrong = {
        1: (np.nan, "numbers that are not finite"),
        2: (np.inf, "numbers that are not finite"),
        3: (-np.inf, "numbers that are not finite"),
        5: (255.5, "numbers outside of 0 to 255"),
        6: (-0.1, "numbers outside of 0 to 255"),
    }
    pixels = images[:8].astype("float32")
    for place, (value, _) in wrong.items():
        pixels[place, 3, 4, 1] = value
    answer = session.run(name, {"images": pixels})
    good = [0, 4, 7]
    for place in range(8):
        words = f"the image holds {wrong[place][1]}" if place in wrong else ""
        assert answer["error"][place].decode() == words
        if words:
            assert answer["class_index"][place] == -1
            assert answer["class_name"][place] == b""
            for value in ("probabilities", "attention_map", "importance"):
                assert not np.any(answer.get(value, np.zeros(8))[place])
    np.testing.assert_allclose(
        answer["probabilities"][good], expected[0][good], rtol=0, atol=1e-4
    )
    if name == "serving_default":
        np.testing.assert_allclose(
            answer["attention_map"][good], expected[1][good], rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_alone_is_named(session, name):
    content, words = DAMAGED[name]
    files = np.array([content, None], object)[:1]
    answer = session.run("encoded_images", {"image_bytes": files})
    assert answer["error"][0].decode() == words
    assert answer["class_index"].tolist() == [-1]
    assert answer["class_name"].tolist() == [b""]
    assert answer["top_classes"].tolist() == [[b""] * 5]
    assert answer["overlay_bytes"].tolist() == [b""]
    for value in ("probabilities", "attention_map", "importance"):
        assert not answer[value].any()


def test_damaged_images_spoil_no_other(encoded, images, expected):
    number = len(DAMAGED)
    good = [file_of(PIL.Image.fromarray(image)) for image in images[:number]]
    files = []
    for content, (bad, _) in zip(good, DAMAGED.values(), strict=True):
        files += [content, bad]
    answer = encoded(*files)
    assert answer["error"][::2].tolist() == [b""] * number
    words = [words.encode() for _, words in DAMAGED.values()]
    assert answer["error"][1::2].tolist() == words
    assert_answers(
        {name: answer[name][::2] for name in answer},
        [value[:number] for value in expected],
    )


@pytest.mark.parametrize("name", ["padding", "segments", "exifs", "chunks"])
def test_a_header_costs_little_time(session, name):
    files = np.array(8 * [DAMAGED[name][0]], object)
    ask = functools.partial(
        session.run, "encoded_images", {"image_bytes": files}
    )
    ask()
    began = time.process_time()
    ask()
    # Where a byte after the other was looked at, 9 seconds.
    assert time.process_time() - began < 2


def test_a_header_alone_costs_no_memory(session):
    """Eight of them allocated 24 million pixels each, all at once."""
    files = np.array(8 * [declared()], object)
    session.run("encoded_images", {"image_bytes": files})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    session.run("encoded_images", {"image_bytes": files})
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 20_000  # Kilobytes.


@pytest.mark.slow
def test_limits_are_those_that_were_given():
    large, small = file_of(photo(100, 80)), file_of(photo(10, 20))
    limits = keras_lficam.serving.Limits(
        file_bytes=len(large), pixels=8000, batch_pixels=16_300
    )
    files = [
        large,
        large + b"\0",
        base64.b64encode(large),
        base64.b64encode(large + b"\0"),
        2 * base64.encodebytes(large),
        file_of(PIL.Image.new("L", (100, 81))),
        small,
        small,
    ]
    shown = _encoded_images.decoded(tf.constant(files), (8, 8), limits)
    long = f"the file has more than {len(large):,} bytes"
    assert [error.decode() for error in shown.errors.numpy()] == [
        "",
        long,
        "",
        long,
        long,
        "the image has more than 8,000 pixels",
        "",
        # 8000 + 8000 + 200 were decoded.
        "the images of this request have more than 16,300 pixels together",
    ]
    good = [0, 2, 6]
    assert [bool(canvas) for canvas in shown.canvases.numpy()] == [
        place in good for place in range(8)
    ]


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        # At the size of the model the first would be of 3 GB.
        ("serving_default", {"images": np.zeros((10**5, 1, 1, 3), "float32")}),
        ("uint8_images", {"images": np.zeros((257, 1, 1, 3), "uint8")}),
        ("classify", {"images": np.zeros((257, 1, 1, 3), "float32")}),
        ("encoded_images", {"image_bytes": np.array(10**5 * [b""], object)}),
    ],
    ids=["float", "uint8", "classify", "encoded"],
)
def test_too_many_images_are_refused(session, name, inputs):
    (given,) = inputs
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=f"`{given}` must hold at most 256 images",
    ):
        session.run(name, inputs)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "9", None, 2**31])
def test_a_limit_is_a_positive_integer(value):
    with pytest.raises(ValueError, match="`pixels` must be an integer"):
        keras_lficam.serving.Limits(pixels=value)


# --------------------------------------------------------------- many at once


@pytest.mark.slow
def test_threads_get_right_answers_and_memory_stays(
    signatures, images, expected
):
    good = [file_of(PIL.Image.fromarray(image)) for image in images[:25]]
    bad = list(DAMAGED.values())
    memory = psutil.Process().memory_info
    used = {}

    def ask(number):
        is_bad = number % 20 == 7
        content, words = (
            bad[number // 20 % len(bad)]
            if is_bad
            else (good[number % len(good)], "")
        )
        answer = signatures["encoded_images"](
            image_bytes=tf.constant([content])
        )
        right = answer["error"].numpy()[0].decode() == words
        if not is_bad:
            for name, value in zip(
                ("probabilities", "attention_map"), expected, strict=True
            ):
                difference = answer[name].numpy()[0] - value[number % len(good)]
                right &= np.abs(difference).max() < 1e-4
        return right

    assert ask(0)  # As warming up does; else each thread makes the graph.
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for start, end in ((0, 50), (50, 500)):
            assert all(pool.map(ask, range(start, end)))
            used[end] = memory().rss
    assert used[500] - used[50] < 50e6


# -------------------------------------------------------------------- export


def raising(error):
    def fail(*arguments, **options):
        raise error

    return fail


@pytest.mark.slow
@pytest.mark.usefixtures("one_signature")
def test_versions_are_counted_and_never_overwritten(tmp_path, small):
    path = tmp_path / "models" / "small"
    assert keras_lficam.export(small, path) == path / "1"
    before = {file: file.stat().st_mtime_ns for file in (path / "1").rglob("*")}
    with pytest.raises(FileExistsError, match="small/1: this version is there"):
        keras_lficam.export(small, path, version=1)
    assert before == {
        file: file.stat().st_mtime_ns for file in (path / "1").rglob("*")
    }
    with pytest.raises(ValueError, match=r"'saved_model'.*small/1/saved_model"):
        keras_lficam.export(small, path, formats=["litert"])
    assert [file.name for file in path.iterdir()] == ["1"]
    (path / "1" / "saved_model.pb").unlink()
    # As a number 10 is greater than 9, and what is no number does not count.
    for name in ("9", "10", "notes"):
        (path / name).mkdir()
    options = {"class_names": ["a", "b", "c"], "formats": ["litert"]}
    folder = keras_lficam.export(small, str(path), **options)
    assert folder == path / "11"
    assert sorted(file.name for file in folder.iterdir()) == [
        "export.json",
        "labels.txt",
        "model.tflite",
    ]
    assert (folder / "labels.txt").read_text() == "a\nb\nc\n"
    assert not list(path.glob(".*"))


@pytest.mark.usefixtures("one_signature")
@pytest.mark.parametrize(
    ("place", "name"),
    [
        # Not the module itself, which a converter may import another time.
        (lambda: tf.saved_model, "save"),
        (lambda: _server_files, "write_warmup"),
        (lambda: _formats.WRITERS, "onnx"),
    ],
    ids=["saved_model", "warmup", "onnx"],
)
def test_an_export_that_is_stopped_leaves_nothing(
    tmp_path, small, monkeypatch, place, name
):
    path = tmp_path / "models" / "small"
    with monkeypatch.context() as patch:
        if isinstance(place(), dict):
            patch.setitem(place(), name, raising(Killed()))
        else:
            patch.setattr(place(), name, raising(Killed()))
        with pytest.raises(Killed):
            keras_lficam.export(small, path, formats=["saved_model", "onnx"])
    assert not list(path.iterdir())
    assert list(path.parent.iterdir()) == [path]
    assert keras_lficam.export(small, path) == path / "1"


@pytest.mark.usefixtures("one_signature")
@pytest.mark.parametrize(
    "formats",
    [
        ["saved_model"],
        *(
            pytest.param([name], marks=pytest.mark.every_format)
            for name in ("onnx", "openvino", "litert")
        ),
    ],
    ids=" ".join,
)
def test_a_full_disk_leaves_nothing(tmp_path, small, formats):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(OSError):  # noqa: PT011
            keras_lficam.export(small, tmp_path / "small", formats=formats)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "small").iterdir())
    assert not (tmp_path / "models.config").exists()


@pytest.fixture
def vectors():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "softmax")]
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vectors", {}, "must be a classifier of images.*rows of a table"),
        ("open_size", {}, "`image_size` must be given .* any size.*To fix"),
        ("open_size", {"image_size": (0, 3)}, r"image_size=\(0, 3\)"),
        ("open_size", {"image_size": (3,)}, r"image_size=\(3,\)"),
        ("small", {"image_size": (32, 32)}, r"that of the model, \(16, 16\)"),
        ("small", {"class_names": ["a", "b"]}, "each of the 3 .*: 2 names"),
        (
            "small",
            {"formats": ["tflite"]},
            "some of saved_model, onnx, .*tflite",
        ),
        ("small", {"formats": "onnx"}, "`formats` must be a list"),
        ("small", {"formats": []}, "`formats` must be a list"),
        ("small", {"formats": ["litert_int8"]}, r"\(N, 16, 16, 3\).* None"),
        (
            "small",
            {
                "formats": ["litert_int8"],
                "calibration": np.zeros((5, 8, 16, 3)),
            },
            r"Received shape: \(5, 8, 16, 3\)",
        ),
        ("small", {"version": 0}, "at least 1. Received: version=0"),
        ("small", {"top": 0}, "`top` .*Received: top=0"),
        ("small", {"top": -2}, "`top` .*Received: top=-2"),
        ("small", {"value_range": (0,)}, r"value_range=\(0,\)"),
        ("small", {"value_range": 255}, "value_range=255"),
        ("small", {"value_range": (0, np.inf)}, r"value_range=\(0, inf\)"),
        ("small", {"image_size": 16}, "image_size=16"),
        ("small", {"bits": 7}, "`bits` must be an integer from 8.*bits=7"),
        ("small", {"bits": "12"}, "bits='12'"),
        ("small", {"formats": 3}, "`formats` must be a list.*formats=3"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path, request, name, options, message
):
    model = request.getfixturevalue(name)
    options = {"top": 2} | options
    with pytest.raises(ValueError, match=message):
        keras_lficam.export(model, tmp_path / "m" / "small", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": None}, "`path` must be a path.*path=None"),
        ({"path": b"small"}, "`path` must be a path.*of type bytes"),
        ({"class_names": "abc"}, "must be a list of strings.*'abc'"),
        ({"class_names": [1, 2, 3]}, "must be a list of strings"),
        ({"class_names": 3}, "must be a list of strings.*class_names=3"),
        ({"limits": {}}, "`limits` must be a keras_lficam.serving.Limits"),
        ({"version": True}, "at least 1. Received: version=True"),
        ({"version": "2"}, "at least 1. Received: version='2'"),
        ({"top": True}, "`top` .*Received: top=True"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(
    tmp_path, small, options, message
):
    options = {"path": tmp_path / "small"} | options
    with pytest.raises(TypeError, match=message):
        keras_lficam.export(small, **options)
    assert not list(tmp_path.iterdir())


def test_a_format_whose_writer_is_missing_names_the_way_out(
    tmp_path, small, monkeypatch
):
    monkeypatch.setitem(_formats._NEEDS, "onnx", "no_such_package")
    with pytest.raises(ImportError, match=r"keras-lficam\[serving\]"):
        keras_lficam.export(small, tmp_path / "small", formats=["onnx"])
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("one_signature")
def test_a_server_is_told_of_all_models(tmp_path, small):
    # Without a SavedModel it is none for this server.
    (tmp_path / "other" / "1").mkdir(parents=True)
    (tmp_path / "other" / "1" / "model.onnx").touch()
    for name in ("b", "a"):
        keras_lficam.export(small, tmp_path / name)
    told = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((tmp_path / "models.config").read_text(), told)
    assert [
        (model.name, model.base_path, model.model_platform)
        for model in told.model_config_list.config
    ] == [("a", "/models/a", "tensorflow"), ("b", "/models/b", "tensorflow")]
    compose = yaml.safe_load((tmp_path / "compose.yaml").read_text())
    service = compose["services"]["serving"]
    assert service["volumes"] == [".:/models:ro"]
    assert "--model_config_file=/models/models.config" in service["command"]
    (tmp_path / "models.config").write_text("# mine\n")
    (tmp_path / "compose.yaml").unlink()
    keras_lficam.export(small, tmp_path / "c")
    assert (tmp_path / "models.config").read_text() == "# mine\n"
    assert (tmp_path / "compose.yaml").exists()


def test_every_signature_is_warmed_up(exported, session):
    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    requests = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        requests.append(log.predict_log.request)
    names = [request.model_spec.signature_name for request in requests]
    assert sorted(names) == sorted(session.signatures)
    for request in requests:
        assert request.model_spec.name == "digits"
        response = session.predict(request)
        assert tf.make_ndarray(response.outputs["error"]).tolist() == [b""]


# -------------------------------------------------------------- other models


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def convolutions(activation):
    """A classifier of five classes, whose pixels are of -1 to 1."""
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            # Its range is not that of the pixels.
            keras.layers.RandomBrightness(0.1, value_range=(0, 255)),
            keras.layers.Conv2D(8, 3, 2, "same", activation="relu"),
            keras.layers.Conv2D(8, 3, 2, "same", activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation, kernel_initializer="normal"),
        ]
    )


@pytest.mark.every_format
def test_a_model_of_few_classes_of_any_size_and_of_logits(tmp_path, open_size):
    pixels = digits(4)[:, :32, :48].astype("float32")
    options = {"image_size": (32, 48)}
    with pytest.raises(ValueError, match="gives logits.*activation='softmax'"):
        keras_lficam.export(open_size, tmp_path / "m", **options)
    assert not list(tmp_path.iterdir())
    folder = keras_lficam.export(
        open_size, tmp_path / "m", activation="softmax", **options
    )
    session = Loaded(folder)
    scores, maps = answers_of(open_size, pixels)
    assert not np.allclose(scores.sum(-1), 1, atol=1e-2)
    expected = (softmax(scores), maps)
    answer = session.run("serving_default", {"images": pixels})
    assert_answers(answer, expected)
    np.testing.assert_allclose(answer["probabilities"].sum(-1), 1, atol=1e-5)
    files = [file_of(PIL.Image.fromarray(p.astype("uint8"))) for p in pixels]
    answer = session.run(
        "encoded_images", {"image_bytes": np.array(files, object)}
    )
    assert_answers(answer, expected)
    assert answer["top_classes"].shape == (4, 3)


@pytest.mark.every_format
def test_pixels_come_in_the_range_that_the_model_takes(tmp_path, images):
    keras.utils.set_random_seed(1)
    trained = convolutions("softmax")
    model = lively(keras_lficam.attach(trained, value_range=(-1, 1)), (-1, 1))
    pixels = images[:10] / np.float32(127.5) - 1
    expected = answers_of(model, pixels)
    folder = keras_lficam.export(model, tmp_path / "m")
    session = Loaded(folder)
    files = [file_of(PIL.Image.fromarray(image)) for image in images[:10]]
    for name, inputs in {
        "serving_default": {"images": pixels},
        "uint8_images": {"images": images[:10]},
        "encoded_images": {"image_bytes": np.array(files, object)},
    }.items():
        assert_answers(session.run(name, inputs), expected)
    answer = session.run("classify", {"images": pixels + np.float32(0.5)})
    words = b"the image holds numbers outside of -1 to 1"
    assert answer["error"].tolist() == [words] * 10


@pytest.mark.slow
def test_an_attention_branch_network_of_sigmoids(tmp_path, images, monkeypatch):
    """No layer of it remembers the range of pixels, so that is given."""
    with_signatures(monkeypatch, "serving_default", "uint8_images")
    keras.utils.set_random_seed(2)
    trained = convolutions("sigmoid")
    model = lively(keras_lficam.attach(trained, architecture="abn"), (-1, 1))
    arguments = {"value_range": (-1.0, 1.0), "top": 1}
    formats = ["saved_model", "onnx"]
    folder = keras_lficam.export(
        model, tmp_path / "abn", formats=formats, **arguments
    )
    pixels = images[:20] / np.float32(127.5) - 1
    expected = answers_of(model, pixels)
    # Unlike logits they stay as they are.
    assert not np.allclose(expected[0].sum(-1), 1, atol=1e-2)
    for run, given in [
        (by_saved_model, pixels),
        (by_onnx, pixels),
        (by_saved_model_of_uint8, images[:20]),
    ]:
        answer = run(folder, given)
        assert "importance" not in answer
        assert_answers(answer, expected)
    with pytest.raises(ValueError, match=r"that rises.*=\(1, 0\)"):
        keras_lficam.export(model, tmp_path / "abn", value_range=(1, 0))


# --------------------------------------------- dtype policies, heads, formats


RUNS = {
    "saved_model": by_saved_model,
    "onnx": by_onnx,
    "openvino": by_openvino,
    "litert": by_litert(""),
    "litert_float16": by_litert("_float16"),
    "litert_int8": by_litert("_int8"),
}
# How far from the answers of Keras, which computes in these, others may be.
POLICIES = {
    "float32": 1e-4,
    "mixed_float16": 5e-3,
    "float16": 5e-3,
    "mixed_bfloat16": 4e-2,
    "bfloat16": 4e-2,
    "float64": 1e-4,
}
# Classes, activation of the model, the one that `export` is given, and a
# policy: each head and each policy is in every format, not each with each.
HEADS = {
    "softmax": (3, "softmax", None, "float32"),
    "logits_of_a_softmax": (3, None, "softmax", "mixed_float16"),
    "sigmoids": (3, "sigmoid", None, "float16"),
    "logits_of_sigmoids": (3, None, "sigmoid", "mixed_bfloat16"),
    "known_probabilities": (3, "softmax", "linear", "bfloat16"),
    "one_sigmoid": (1, "sigmoid", None, "float64"),
    "one_logit": (1, None, "sigmoid", "mixed_float16"),
    "attention_branch": (3, "softmax", None, "mixed_float16"),
}


def tiny(classes=3, activation="softmax", architecture="lfi_cam", seed=0):
    keras.utils.set_random_seed(seed)
    model = keras_lficam.build(
        backbone((16, 16, 3)),
        classes,
        input_shape=(16, 16, 3),
        architecture=architecture,
        classifier_activation=activation,
    )
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([10 * w for w in layer.get_weights()])
    return model


def pixels_of_noise(number=6):
    shape = (number, 16, 16, 3)
    return np.random.default_rng(1).integers(0, 256, shape).astype("float32")


def chances_of(scores, activation):
    """Works probabilities of all classes out, in float64."""
    scores = np.asarray(scores, "float64")
    if activation == "softmax":
        return softmax(scores)
    if activation == "sigmoid":
        scores = 1 / (1 + np.exp(-scores))
    if scores.shape[-1] == 1:
        return np.concatenate([1 - scores, scores], axis=-1)
    return scores


def written(folder, model, activation=None):
    """Exports all formats; gives the folder and what Keras answers."""
    pixels = pixels_of_noise()
    before = [value.copy() for value in model.get_weights()]
    config = str(model.get_config())

    with pytest.MonkeyPatch.context() as patch:
        with_signatures(patch, "serving_default")
        folder = keras_lficam.export(
            model,
            folder / "tiny",
            formats=keras_lficam.serving.FORMATS,
            calibration=pixels,
            activation=activation,
        )
    # The model is as it was.
    assert str(model.get_config()) == config
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    view = keras_lficam.attention_view(model)
    shown = view(pixels, training=False)
    scores = keras.ops.cast(shown["predictions"], "float32")
    upsample = keras_lficam.architectures.upsampler(view)
    maps = upsample(shown["attention_map"], (16, 16))
    return folder, chances_of(scores, activation), np.asarray(maps)


@pytest.fixture(scope="module", params=HEADS)
def of_a_head(request, tmp_path_factory):
    classes, activation, told, policy = HEADS[request.param]
    is_abn = request.param == "attention_branch"
    arguments = (classes, activation, "abn" if is_abn else "lfi_cam")
    weights = tiny(*arguments).get_weights()
    keras.config.set_dtype_policy(policy)
    try:
        model = tiny(*arguments)
        model.set_weights(weights)
        folder = tmp_path_factory.mktemp(request.param)
        return *written(folder, model, told), POLICIES[policy]
    finally:
        keras.config.set_dtype_policy("float32")


def check_format(name, folder, chances, maps, tolerance):
    answer = RUNS[name](folder, pixels_of_noise())
    more = {"litert_float16": 2e-2, "litert_int8": 0.25}.get(name, 0)
    assert np.asarray(answer["probabilities"]).shape == chances.shape
    # Not all alike, or the comparison would say nothing.
    assert chances.std(0).max() > 1e-3
    assert_answers(answer, (chances, maps), tolerance + more)


@pytest.mark.every_format
@pytest.mark.parametrize("name", RUNS)
def test_every_head_and_policy_in_every_format(of_a_head, name):
    check_format(name, *of_a_head)


def of_one_score(activation):
    """A classifier whose score is -37 times the mean gray of its image."""
    image = keras.Input((4, 4, 1))
    gray = keras.layers.Rescaling(1 / 255)(image)
    heat = keras.layers.Conv2D(1, 1, use_bias=False, name="attention_map")
    score = keras.layers.Dense(1, use_bias=False)
    pooled = keras.layers.GlobalAveragePooling2D()(heat(gray))
    name = {"name": "predictions"}
    end = keras.layers.Activation(activation or "linear", **name)
    model = keras.Model(image, end(score(pooled)))
    heat.set_weights([np.ones((1, 1, 1, 1))])
    score.set_weights([np.full((1, 1), -37.0)])
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "activation",
    ["sigmoid", pytest.param(None, marks=pytest.mark.every_format)],
)
def test_one_score_has_two_classes_and_one_channel(
    tmp_path, activation, monkeypatch
):
    asked = ("serving_default", "uint8_images", "classify", "encoded_images")
    with_signatures(monkeypatch, *asked)
    names = ["healthy", "ill"]
    model = of_one_score(activation)
    told = None if activation else "sigmoid"
    if told:
        with pytest.raises(ValueError, match="gives logits.*'sigmoid'"):
            keras_lficam.export(model, tmp_path / "m", class_names=names)
    with pytest.raises(ValueError, match="each of the 2 classes.*: 1 names"):
        keras_lficam.export(
            model, tmp_path / "m", class_names=["ill"], activation=told
        )
    folder = keras_lficam.export(
        model,
        tmp_path / "m",
        class_names=names,
        activation=told,
        formats=["saved_model", "litert"],
    )
    assert (folder / "labels.txt").read_text() == "healthy\nill\n"
    described = json.loads((folder / "export.json").read_text())
    assert described == {
        "keras_lficam": keras_lficam.__version__,
        "formats": ["saved_model", "litert"],
        "activation": "sigmoid",
        "image_size": [4, 4],
        "value_range": [0.0, 255.0],
        "limits": {
            "file_bytes": 30_000_000,
            "pixels": 60_000_000,
            "batch_pixels": 240_000_000,
            "images": 256,
            "scans": 100,
            "segments": 1000,
        },
        "bits": None,
        "channels": 1,
        "top": 2,
        "evidence": {"exact": True, "unit": "logit", "bias": [0.0, 0.0]},
    }
    session = Loaded(folder)
    pixels = np.zeros((2, 4, 4, 1), "float32")
    pixels[0] = 255  # A sigmoid of -37 is 9e-17.
    files = [file_of(PIL.Image.new("L", (4, 4), level)) for level in (255, 0)]
    for name, inputs in {
        "serving_default": {"images": pixels},
        "uint8_images": {"images": pixels.astype("uint8")},
        "classify": {"images": pixels},
        "encoded_images": {"image_bytes": np.array(files, object)},
    }.items():
        answer = session.run(name, inputs)
        assert answer["error"].tolist() == [b"", b""]
        np.testing.assert_allclose(
            answer["probabilities"], [[1, 8.5e-17], [0.5, 0.5]], rtol=0.01
        )
        assert answer["class_index"].tolist() == [0, 0]
        assert answer["class_name"].tolist() == [b"healthy"] * 2
    assert answer["top_classes"][0].tolist() == [b"healthy", b"ill"]
    answer = by_litert("")(folder, pixels)
    np.testing.assert_allclose(
        answer["probabilities"], [[1, 8.5e-17], [0.5, 0.5]], rtol=0.01
    )
    # A color is as gray as Pillow makes it: 0.299 * 255 of red.
    red = file_of(PIL.Image.new("RGB", (4, 4), (255, 0, 0)))
    inputs = {"image_bytes": np.array([red, None], object)[:1]}
    chances = session.run("encoded_images", inputs)["probabilities"]
    np.testing.assert_allclose(
        chances[0, 1], 1 / (1 + np.exp(37 * 0.299)), rtol=1e-3
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="width, 1\\)"):
        session.run("classify", {"images": np.zeros((1, 4, 4, 3), "float32")})


# --------------------------------------------------------- formats that fail


def of_much_code(*arguments):
    del arguments
    raise RuntimeError("could not be converted\n" + 10_000 * "loc(unknown)\n")


@pytest.mark.slow
@pytest.mark.usefixtures("one_signature")
def test_a_format_that_fails_loses_no_other(tmp_path, small, monkeypatch):
    monkeypatch.setitem(_formats.WRITERS, "onnx", of_much_code)
    formats = ["onnx", "saved_model", "litert"]
    with pytest.raises(keras_lficam.serving.ExportError) as caught:
        keras_lficam.export(small, tmp_path / "small", formats=formats)
    error = caught.value
    assert list(error.failed) == ["onnx"]
    assert error.folder == tmp_path / "small" / "1"
    assert {path.name for path in error.folder.iterdir()} >= {
        "saved_model.pb",
        "model.tflite",
        "labels.txt",
        "export.json",
    }
    words = str(error)
    assert "onnx: RuntimeError: could not be converted." in words
    assert f"Written to {error.folder}: saved_model, litert." in words
    assert len(words) < 500
    described = json.loads((error.folder / "export.json").read_text())
    assert described["formats"] == ["saved_model", "litert"]
    assert not list(error.folder.glob(".*"))
    assert (tmp_path / "models.config").exists()


@pytest.mark.usefixtures("one_signature")
def test_without_its_saved_model_no_version_follows_a_served_one(
    tmp_path, small, monkeypatch
):
    keras_lficam.export(small, tmp_path / "small")
    monkeypatch.setattr(tf.saved_model, "save", of_much_code)
    monkeypatch.setitem(_formats.WRITERS, "onnx", lambda *arguments: None)
    formats = ["saved_model", "onnx"]
    with pytest.raises(keras_lficam.serving.ExportError, match="Nothing was"):
        keras_lficam.export(small, tmp_path / "small", formats=formats)
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["1"]


@pytest.mark.slow
def test_an_explanation_by_gradients_can_be_a_saved_model(tmp_path):
    """So the pages say; other formats cannot hold one."""
    model = tiny()
    pixels = pixels_of_noise(2)

    def saliency(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            best = tf.reduce_max(model(images, training=False), axis=-1)
        return tf.abs(tape.gradient(best, images))

    module = tf.Module()
    module.variables_of_it = [variable.value for variable in model.variables]
    spec = tf.TensorSpec([None, 16, 16, 3], tf.float32)
    traced = tf.function(saliency, input_signature=[spec], autograph=False)
    signature = traced.get_concrete_function()
    tf.saved_model.save(module, str(tmp_path), signatures=signature)
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    (answer,) = loaded(tf.constant(pixels)).values()
    expected = saliency(tf.constant(pixels)).numpy()
    assert expected.max() > 0
    np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-7)
