"""A model saved by one backend answers the same on the others."""

import pathlib
import sys

import keras
import numpy as np
import processes
import pytest

from keras_lficam import attach, attention_view, backbones, build

HERE = keras.backend.backend()
OTHERS = [name for name in ("tensorflow", "jax", "torch") if name != HERE]
# A model is saved here, loaded and saved by each of the others in turn, and
# loaded here again; it answers at each stage.
STAGES = [HERE, *OTHERS, HERE]


def somebodys():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(16, 7, 2, "same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.ZeroPadding2D(1),
            layers.MaxPooling2D(3, 2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, "softmax"),
        ]
    )


MODELS = {
    "lfi_cam": lambda: build("ResNet8", 4, input_shape=(32, 32, 3)),
    "abn": lambda: build(
        "ResNet8", 4, input_shape=(32, 32, 3), architecture="abn"
    ),
    "released": lambda: build(
        backbones.cifar.densenet(10),
        4,
        input_shape=(32, 32, 3),
        importance_network="released",
    ),
    "fine": lambda: build(
        "MobileNet", 4, input_shape=(96, 64, 3), output_stride=16
    ),
    "open": lambda: build(
        backbones.cifar.resnet(8, squeeze=16), 4, input_shape=(None, None, 3)
    ),
    "imagenet": lambda: build(
        "EfficientNetLite0", 4, input_shape=(64, 80, 3), weights="imagenet"
    ),
    "attached": lambda: attach(somebodys(), value_range=(0, 255)),
}


def settle(model, size):
    """Makes batch normalization fit its inputs, as training would."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    rng = np.random.default_rng(1)
    model(rng.uniform(0, 255, (8, *size, 3)).astype("float32"), training=True)


def keep(model, size, path):
    """Saves a model and what it answers to two images."""
    model.save(f"{path}.keras")
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    for axis, length in enumerate(size, start=1):
        images = np.repeat(images, length // 4, axis)
    view = attention_view(model)
    # A graph of TensorFlow that is used once is not worth while.
    view.run_eagerly = keras.backend.backend() == "tensorflow"
    np.savez(f"{path}.npz", **view.predict_on_batch(images))


def size_of(name):
    return {"fine": (96, 64), "imagenet": (64, 80)}.get(name, (32, 32))


def begin(folder):
    for name, make in MODELS.items():
        keras.utils.set_random_seed(0)
        model = make()
        settle(model, size_of(name))
        keep(model, size_of(name), folder / f"{name}.0")


def go_on(folder, stage):
    for name in MODELS:
        model = keras.models.load_model(folder / f"{name}.{stage - 1}.keras")
        keep(model, size_of(name), folder / f"{name}.{stage}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    begin(folder)
    for stage, backend in enumerate(OTHERS, start=1):
        program = processes.start(
            [__file__, folder, stage],
            KERAS_BACKEND=backend,
            PYTHONPATH=processes.modules_of(__file__),
        )
        processes.finish(program, timeout=900)
    go_on(folder, len(OTHERS) + 1)
    return folder


@pytest.mark.across_backends
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("stage", [1, 2, 3], ids=STAGES[1:])
def test_loaded_elsewhere_it_predicts_and_draws_the_same(name, stage, folder):
    expected = np.load(folder / f"{name}.{stage - 1}.npz")
    actual = np.load(folder / f"{name}.{stage}.npz")
    assert set(actual) == set(expected)
    for key in expected:
        # Another image, another answer: it is not about constants.
        assert np.abs(expected[key][0] - expected[key][1]).max() > 5e-5
        np.testing.assert_allclose(actual[key], expected[key], atol=2e-5)


if __name__ == "__main__":
    go_on(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
