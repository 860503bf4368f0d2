"""Classifiers so small that their maps are worked out by hand."""

import keras
import numpy as np


def of_channels(kernel, *, activation="softmax", pooled=True, size=2):
    """Makes a classifier whose feature map is its image, color by color.

    Args:
        kernel: Weights `(3, K)` of its dense layer, or `(size * size * 3, K)`
            if it is not `pooled`.
        activation: Activation of the dense layer.
        pooled: Whether it pools the map, or flattens it.
        size: Height and width of image and map.
    """
    layers = keras.layers
    image = keras.Input((size, size, 3))
    colors = layers.Conv2D(3, 1, use_bias=False, name="colors")
    features = colors(image)
    pooling = layers.GlobalAveragePooling2D if pooled else layers.Flatten
    dense = layers.Dense(len(kernel[0]), activation, use_bias=False)
    model = keras.Model(image, dense(pooling()(features)))
    colors.set_weights([np.eye(3, dtype="float32").reshape(1, 1, 3, 3)])
    dense.set_weights([np.asarray(kernel, "float32")])
    return model


def backbone(shape=(16, 12, 3), channels=6):
    """Makes a model of two convolutions, from an image to a quarter of it.

    Both pad even sizes at their end alone: the first looks at the pixels
    `2 j` to `2 j + 2`, so the cells of the map are centered on 3, 7, 11...
    """
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, 2, "same", activation="relu"),
            layers.Conv2D(channels, 3, 2, "same", name="last_convolution"),
            layers.LeakyReLU(negative_slope=0.3, name="features"),
        ],
        name="backbone",
    )


def head(activation="softmax", channels=6):
    """Makes the layers of a pooling head that can be read off."""
    return [
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(4, activation, kernel_initializer="random_normal"),
    ]


def hidden(
    size=6,
    *,
    activation="softmax",
    channels=5,
    classes=3,
    leak=0.5,
    policy=None,
):
    """Makes a classifier of which the slopes differ from place to place."""
    rng = np.random.default_rng(1)
    layers = keras.layers
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(channels, 3, padding="same", dtype=policy)(image)
    x = layers.LeakyReLU(leak, name="features", dtype=policy)(x)
    x = layers.Flatten(dtype=policy)(x)
    x = layers.Dense(7, activation="relu", dtype=policy)(x)
    model = keras.Model(
        image, layers.Dense(classes, activation, dtype=policy)(x)
    )
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return model


def labeled_images(number, seed):
    """Makes images `(number, 16, 16, 3)`, uint8, of three kinds, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 3
    images = rng.integers(60, 120, (number, 16, 16, 3))
    images[labels == 0, ::2] += 120
    images[labels == 1, ::3, ::3] += 130
    return images.astype("uint8"), labels


def normalized_backbone():
    """Makes a model with batch normalization, from such an image."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    for filters in (6, 8):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(image, x)
