"""Causes each message of the page on troubleshooting, and compares."""

import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from processes import free_ports
from small_classifiers import backbone

import keras_lficam
from keras_lficam.cli import main
from keras_lficam.cli._models import classifier_of

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def messages():
    """Yields heading and message of each block of the page."""
    for section in re.split(r"^### ", PAGE, flags=re.M)[1:]:
        heading, _, text = section.partition("\n")
        for message in re.findall(r"```text\n(.*?)\n```", text, re.S):
            yield heading, message


MESSAGES = list(messages())


def built(classes, **options):
    shape = (32, 32, 3)
    return keras_lficam.build(
        backbone(shape), classes, input_shape=shape, **options
    )


def turned():
    layers = keras.layers
    rest = [layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")]
    return keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Permute((2, 1, 3)), *rest]
    )


@pytest.fixture(scope="module")
def model():
    return built(3)


@pytest.fixture(scope="module")
def plain():
    return built(3, architecture="plain")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Gives a function that runs a training in a folder where one has been."""
    path = tmp_path_factory.mktemp("begun")
    source = folder_of(path / "images", cat=12, dog=12)
    model = built(2, architecture="plain")

    def fit(batch_size=8, **options):
        recipe = keras_lficam.Recipe(epochs=1, batch_size=batch_size)
        options |= {"folder": path / "run", "verbose": 0}
        options |= {"heat_maps_every": 0}
        keras_lficam.fit(model, source, recipe, **options)

    fit()
    return fit


@pytest.fixture(scope="module")
def served(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("models") / "served"
    return keras_lficam.export(model, path, version=1)


def folder_of(path, **counts):
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype="uint8")
            Image.fromarray(pixels).save(path / name / f"{number}.png")
    return str(path)


def csv_file(path, without_file):
    folder_of(path, a=3)
    lines = ["image,label", "a/0.png,cat", "a/1.png,dog", "a/2.png,"]
    if without_file:
        lines[1:] = ["gone.png,cat"]
    (path / "labels.csv").write_text("\n".join(lines))
    keras_lficam.data.source(path / "labels.csv")


class Subclassed(keras.Model):
    def call(self, x):
        return x


def off_a_grid():
    image = keras.Input((12, 12, 3))
    x = keras.layers.Reshape((48, 9), name="tokens")(image)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, keras.layers.Dense(2, "softmax")(x))


def saved_and_loaded_without_us(model, path):
    model.save(path / "model.keras")
    code = "import keras, sys; keras.models.load_model(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path / "model.keras")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    raise ValueError(done.stderr)


def explained_without_its_layer(path, capsys):
    class Double(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    model = keras.Sequential([keras.Input((8, 8, 3)), Double()])
    model.save(path / "model.keras")
    words = ["explain", str(path / "model.keras"), "a.png"]
    assert main([*words, "--output", str(path / "out")]) == 2
    raise RuntimeError(capsys.readouterr().err)


def without_network(monkeypatch):
    def get_file(*arguments, **options):
        raise Exception("URL fetch failure")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    keras_lficam.build("MobileNet", weights="imagenet")


def damaged_checkpoint(path):
    (path / "checkpoint.npz").touch()
    keras_lficam.training._state.load(path / "checkpoint.npz")


def lost_worker(monkeypatch, capsys, path):
    def lost(*arguments):
        raise tf.errors.UnavailableError(None, None, "Connection reset by peer")

    monkeypatch.setattr("keras_lficam.cli.train._train", lost)
    options = ["--data", "cifar10", "--backbone", "ResNet20"]
    code = main(["train", *options, "--output", str(path / "run")])
    assert code == 75
    raise RuntimeError(capsys.readouterr().err)


def alone(monkeypatch):
    (port,) = free_ports(1)
    config = {
        "cluster": {"worker": ["127.0.0.1:1", f"127.0.0.1:{port}"]},
        "task": {"type": "worker", "index": 1},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    keras_lficam.distribution.strategy(agree_on={}, wait=1)


def empty_share(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")

    class Four:
        num_replicas_in_sync = 4

    data = tf.data.Dataset.range(10)
    keras_lficam.distribution.for_evaluation(
        Four(), data.batch(8), 10, batch_size=8
    )


def answered(served, signature, **inputs):
    answer = tf.saved_model.load(str(served)).signatures[signature](**inputs)
    assert answer["class_index"].numpy().tolist() == [-1]
    raise ValueError(answer["error"].numpy()[0].decode())


def asked_of_nobody(path, capsys):
    (path / "a.png").write_bytes(b"")
    code = main(
        ["predict", str(path / "a.png"), "--url", "http://localhost:9"]
        + ["--model", "digits"]
    )
    assert code != 0
    raise RuntimeError(capsys.readouterr().err)


def cause(heading, message, path, request):
    """Does what the section is about."""
    model, plain, monkeypatch, capsys = map(
        request.getfixturevalue, ["model", "plain", "monkeypatch", "capsys"]
    )
    explainers = keras_lficam.explainers
    images = np.zeros((4, 32, 32, 3))
    logits = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    recipe = keras_lficam.Recipe(epochs=1)
    one = {"cat": 0, "dog": 4} if "no image" in message else {"cat": 4}
    if "answered" in heading:
        served = request.getfixturevalue("served")
        too_bright = tf.fill((1, 32, 32, 3), 300.0)
        tiff = "TIFF" in message
        no_image = tf.constant([b"II*\0abc" if tiff else b"abc"])
        return (
            answered(served, "serving_default", images=too_bright)
            if "numbers" in message
            else answered(served, "encoded_images", image_bytes=no_image)
        )
    return {
        "A saved model does not load": lambda: (
            explained_without_its_layer(path, capsys)
            if "--import" in message
            else saved_and_loaded_without_us(model, path)
        ),
        "The model is of Keras 2": lambda: explainers.GradCAM(
            type("Functional", (), {"__module__": "tf_keras.src.engine"})()
        ),
        "The backbone has no known name": lambda: keras_lficam.build("ResNet5"),
        "The images are too small": lambda: keras_lficam.build(
            "MobileNet", 10, input_shape=(32, 32, 3)
        ),
        "The tokens of a transformer are not found": lambda: explainers.GradCAM(
            off_a_grid()
        ),
        "The model is subclassed": lambda: keras_lficam.attach(Subclassed()),
        "ImageNet's weights cannot be downloaded": lambda: without_network(
            monkeypatch
        ),
        "The model has no map": lambda: explainers.AttentionMap(plain),
        "The map cannot be brought back to the image": lambda: (
            explainers.GradCAM(turned())
        ),
        "Logits or probabilities?": lambda: (
            classifier_of(logits, "model.keras")
            if "--activation" in message
            else explainers.ScoreCAM(logits)(images)
        ),
        "Images of another shape": lambda: explainers.GradCAM(plain)(
            images[..., 0]
        ),
        "Only one class, or an empty one": lambda: keras_lficam.data.source(
            folder_of(path / "images", **one)
        ),
        "A CSV file is refused": lambda: csv_file(path, "missing" in message),
        "The classes do not match": lambda: keras_lficam.fit(
            model,
            folder_of(path / "images", cat=12, dog=12),
            recipe,
            folder=path / "run",
        ),
        "A run is there already": lambda: request.getfixturevalue("begun")(),
        "A run that is resumed was another one": lambda: (
            request.getfixturevalue("begun")(batch_size=4, resume=True)
        ),
        "A file of a run is damaged": lambda: damaged_checkpoint(path),
        "A worker was lost": lambda: lost_worker(monkeypatch, capsys, path),
        "A worker waits": lambda: alone(monkeypatch),
        "No machines are named": lambda: keras_lficam.distribution.strategy(
            "multi_worker"
        ),
        "Replicas on a CPU and an empty batch": lambda: empty_share(
            monkeypatch
        ),
        "The version is there": lambda: keras_lficam.export(
            model, request.getfixturevalue("served").parent, version=1
        ),
        "No server": lambda: asked_of_nobody(path, capsys),
        "A format needs more": lambda: keras_lficam.export(
            model, path / "served", formats=["litert_int8"]
        ),
    }[heading]()


@pytest.mark.parametrize(
    ("heading", "message"),
    MESSAGES,
    ids=[f"{index}: {heading}" for index, (heading, _) in enumerate(MESSAGES)],
)
def test_the_message_is_what_is_said(
    heading, message, tmp_path, monkeypatch, request
):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    kinds = (OSError, RuntimeError, TypeError, ValueError)
    with pytest.raises(kinds) as raised:
        cause(heading, message, tmp_path, request)
    said = " ".join(str(raised.value).split())
    pattern = ".*".join(map(re.escape, message.split("...")))
    assert re.search(pattern, said), said


def test_the_page_has_messages():
    assert len(MESSAGES) >= 20
