"""A model saved by one backend answers the same on the others."""

import os
import subprocess
import sys

import numpy as np
import pytest

# Where a model is saved, and where it is loaded.
WAYS = {"tensorflow": "jax", "jax": "torch", "torch": "tensorflow"}
MODELS = {
    "lfi_cam": "build(backbones.cifar.resnet(8), 4, input_shape=(32, 32, 3))",
    "abn": "build(backbones.cifar.resnet(8), 4, "
    "input_shape=(32, 32, 3), architecture='abn')",
    "released": "build(backbones.cifar.densenet(22), 4, "
    "input_shape=(32, 32, 3), importance_network='released')",
    "fine": "build('MobileNetV2', 4, input_shape=(64, 48, 3), "
    "output_stride=16)",
    "open": "build('MobileNetV3Small', 4, input_shape=(None, None, 3))",
    "attached": "attach(backbones.resnets.resnet(18, squeeze=16)("
    "input_shape=(64, 64, 3), classes=4), value_range=(0, 255))",
}
SIZES = {
    "lfi_cam": (32, 32),
    "abn": (32, 32),
    "released": (32, 32),
    "fine": (64, 48),
}

START = """
import sys
import keras, numpy as np, keras_lficam
from keras_lficam import attach, backbones, build
folder = sys.argv[1]
def answers(model, size):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    for axis, length in enumerate(size, start=1):
        images = np.repeat(images, length // 4, axis)
    view = keras_lficam.attention_view(model)
    # A graph of TensorFlow that is used once is not worth while.
    view.run_eagerly = keras.backend.backend() == "tensorflow"
    return view.predict_on_batch(images)
"""
SAVE = """
for name, (code, size) in MODELS.items():
    keras.utils.set_random_seed(0)
    model = eval(code)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    shape = (8, *size, 3)
    noise = np.random.default_rng(1).uniform(0, 255, shape).astype("float32")
    model(noise, training=True)
    model.save(f"{folder}/{name}.keras")
"""
SAVE_AGAIN = """
here = keras.backend.backend()
for name, (_, size) in MODELS.items():
    model = keras.models.load_model(f"{folder}/{name}.keras")
    model.save(f"{folder}/{name}.{here}.keras")
    np.savez(f"{folder}/{name}.{here}.npz", **answers(model, size))
"""
LOAD = """
there = sys.argv[2]
for name, (_, size) in MODELS.items():
    model = keras.models.load_model(f"{folder}/{name}.{there}.keras")
    np.savez(f"{folder}/{name}.elsewhere.{there}.npz", **answers(model, size))
"""


def run(code, words_of):
    """Runs code beside each other on backends, with words for each."""
    models = {
        name: (text, SIZES.get(name, (64, 64))) for name, text in MODELS.items()
    }
    program = f"{START}MODELS = {models}\n{code}"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *words],
            env={**os.environ, "KERAS_BACKEND": backend},
        )
        for backend, words in words_of.items()
    ]
    assert [process.wait() for process in running] == [0] * len(running)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    run(SAVE + SAVE_AGAIN, {"tensorflow": [folder]})
    run(SAVE_AGAIN, {"jax": [folder], "torch": [folder]})
    run(LOAD, {here: [folder, there] for there, here in WAYS.items()})
    return folder


@pytest.mark.across_backends
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("there", list(WAYS))
def test_loaded_elsewhere_it_predicts_and_draws_the_same(name, there, folder):
    expected = np.load(folder / f"{name}.{there}.npz")
    actual = np.load(folder / f"{name}.elsewhere.{there}.npz")
    assert set(actual) == set(expected)
    for key in expected:
        # Another picture, another answer: it is not about constants.
        assert np.abs(expected[key][0] - expected[key][1]).max() > 1e-5
        np.testing.assert_allclose(actual[key], expected[key], atol=1e-4)
