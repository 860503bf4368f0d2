"""Where the cells of a map lie in the image, by images with one spot."""

import keras
import numpy as np
import pytest

import keras_lficam
from keras_lficam import backbones, functional
from keras_lficam.backbones import Classifier
from keras_lficam.explainers import (
    CAM,
    AttentionMap,
    GradCAM,
    GradCAMPlusPlus,
    ScoreCAM,
)

layers = keras.layers
MARGINS = ((24, 8), (4, 28))  # Of an image before it is cropped.


def applications():
    own = {**backbones.resnets.FAMILY, **backbones.cifar.FAMILY}
    return [name for name in backbones.names() if name not in own]


def looking_straight(model, rng):
    """Gives each convolution the middle of its kernel alone, and positive.

    What a cell of the map sees of the image is then small, and lies where the
    paddings and strides of Keras itself lead.
    """
    for weight in model.weights:
        shape = weight.shape
        if len(shape) != 4 or not weight.path.endswith("kernel"):
            continue
        kernel = np.zeros(shape, "float32")
        middle = tuple(
            slice((size - 1) // 2, size // 2 + 1) for size in shape[:2]
        )
        taps = kernel[middle].shape
        inputs = 1 if "depthwise" in weight.path else taps[2]
        kernel[middle] = rng.uniform(0.5, 1.5, taps) / (
            taps[0] * taps[1] * inputs
        )
        weight.assign(kernel)
    for layer in model.layers:
        # It would make all that is not black equally bright.
        if isinstance(layer, layers.LayerNormalization):
            layer.epsilon = 1e6
            layer.gamma.assign(1e3 * np.ones(layer.gamma.shape))


def background(model):
    """The color of images that the first convolution sees as zero."""
    first = next(
        layer
        for layer in model.layers
        if isinstance(layer, (layers.Conv2D, layers.ZeroPadding2D))
    )
    prepared = keras.Model(model.inputs[0], first.input)
    side = model.inputs[0].shape[1]
    colors = np.concatenate([np.zeros((1, 3)), np.eye(3)])
    images = np.broadcast_to(colors[:, None, None], (4, side, side, 3))
    zero, *units = keras.ops.convert_to_numpy(
        prepared(images.astype("float32"))
    )[:, side // 2, side // 2]
    return -np.linalg.solve(np.stack(units - zero, axis=1), zero)


def spots(places, shape, width, color):
    """Images of a color, each with a bright spot at its place."""
    axes = [np.arange(length) for length in shape]
    rows, columns = (
        np.exp(-(((axis - places[:, n : n + 1]) / width) ** 2) / 2)
        for n, axis in enumerate(axes)
    )
    bright = rows[:, :, None, None] * columns[:, None, :, None]
    return (color + 100 * bright).astype("float32")


def centers_of_mass(maps):
    """Row and column `(B, 2)` of the center of mass of each map."""
    maps = np.asarray(keras.ops.convert_to_numpy(maps), "float64")[..., 0]
    total = maps.sum(axis=(1, 2))
    rows = (maps.sum(axis=2) * np.arange(maps.shape[1])).sum(axis=1)
    columns = (maps.sum(axis=1) * np.arange(maps.shape[2])).sum(axis=1)
    return np.stack([rows, columns], axis=1) / total[:, None]


def features_of(cut, images):
    parts = [cut.features(images[n : n + 5]) for n in range(0, len(images), 5)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def errors_of(model, margins, cell, color, rng):
    """How far from 25 spots their maps lie `(25, 2)`, in cells.

    The spots are around the middle of what margins leave of the image.
    """
    shape = model.inputs[0].shape[1:3]
    middle = [
        before + (length - before - after) / 2
        for (before, after), length in zip(margins, shape, strict=True)
    ]
    places = middle + rng.uniform(-cell / 2, cell / 2, (25, 2))
    images = spots(places, shape, 0.45 * cell, color)
    empty = np.broadcast_to(color, (1, *shape, 3)).astype("float32")
    cut = Classifier(model).cut()
    difference = features_of(cut, images) - features_of(cut, empty)
    energy = np.abs(difference).sum(axis=-1, keepdims=True)
    # Gates and normalizations may react a little everywhere.
    energy[energy < 1e-3 * energy.max()] = 0
    maps = cut.geometry.upsample(energy, shape)
    return (centers_of_mass(maps) - places) / cell


def check_spots(name, side, cell, rng, **options):
    """Asks a backbone for spots, with and without a crop in front of it."""
    inner = keras_lficam.build(
        name, 3, input_shape=(side, side, 3), architecture="plain", **options
    )
    looking_straight(inner, rng)
    color = background(inner)
    (top, bottom), (left, right) = MARGINS
    image = keras.Input((top + side + bottom, left + side + right, 3))
    cropped = keras.Model(image, inner(layers.Cropping2D(MARGINS)(image)))
    for model, margins in [(inner, ((0, 0), (0, 0))), (cropped, MARGINS)]:
        errors = errors_of(model, margins, cell, color, rng)
        assert np.linalg.norm(errors, axis=1).max() < 0.5, name
        # An even grid would be half a cell beside the spots on average.
        assert np.abs(errors.mean(axis=0)).max() < 0.2, name


BACKBONES = {
    **dict.fromkeys(applications(), (160, 32)),
    **dict.fromkeys(backbones.resnets.FAMILY, (160, 32)),
    **dict.fromkeys(backbones.cifar.FAMILY, (64, 4)),
    "InceptionResNetV2": (224, 32),
    "InceptionV3": (224, 32),
}
USUAL = ("DenseNet121", "MobileNetV2", "ResNet18", "ResNet20")


@pytest.mark.parametrize("name", USUAL)
def test_spots_are_found_where_they_are(name, rng):
    check_spots(name, *BACKBONES[name], rng)


@pytest.mark.every_backbone
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - set(USUAL)))
def test_spots_are_found_by_every_backbone(name, rng):
    check_spots(name, *BACKBONES[name], rng)
    keras.backend.clear_session()


@pytest.mark.parametrize(("name", "stride"), [("ResNet20", 2), ("ResNet18", 8)])
def test_spots_are_found_with_fewer_strides(name, stride, rng):
    side = 32 if name == "ResNet20" else 64
    check_spots(name, side, stride, rng, output_stride=stride)
