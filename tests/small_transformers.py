"""Transformers whose weights are set by hand, so that one patch decides."""

import keras
import numpy as np

SIDE = 4  # Pixels of the image along a side of a patch.
COLORS = 4  # Channels: the mean red, green and blue of a patch, and a note.
# What tells red from gray.
REDNESS = np.array([1.0, -0.5, -0.5, 0.0])


@keras.saving.register_keras_serializable("small_transformers")
class PrefixTokens(keras.layers.Layer):
    """Puts learned tokens in front of the patches."""

    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.number = number

    def build(self, shape):
        self.tokens = self.add_weight(
            shape=(1, self.number, shape[-1]), name="tokens"
        )

    def call(self, patches):
        shape = (keras.ops.shape(patches)[0], *self.tokens.shape[1:])
        front = keras.ops.broadcast_to(self.tokens, shape)
        return keras.ops.concatenate([front, patches], axis=1)

    def get_config(self):
        return {**super().get_config(), "number": self.number}


@keras.saving.register_keras_serializable("small_transformers")
class PatchEmbedding(keras.layers.Layer):
    """Cuts images into patches, and tells nobody of the grid."""

    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.number = number
        self.convolution = patches_of_colors()
        self.prefix = PrefixTokens(number)

    def build(self, shape):
        self.convolution.build(shape)
        self.prefix.build((None, None, COLORS))

    def call(self, images):
        maps = self.convolution(images)
        tokens = keras.ops.reshape(
            maps, (-1, maps.shape[1] * maps.shape[2], COLORS)
        )
        return self.prefix(tokens) if self.number else tokens

    def compute_output_shape(self, shape):
        cells = (shape[1] // SIDE) * (shape[2] // SIDE)
        return (shape[0], cells + self.number, COLORS)

    def get_config(self):
        return {**super().get_config(), "number": self.number}


@keras.saving.register_keras_serializable("small_transformers")
class Scale(keras.layers.Layer):
    """Scales the channels, as behind the parts of a block."""

    def build(self, shape):
        self.gamma = self.add_weight(
            shape=(shape[-1],), initializer="ones", name="gamma"
        )

    def call(self, tokens):
        return tokens * self.gamma


def patches_of_colors():
    return keras.layers.Conv2D(COLORS, SIDE, strides=SIDE, name="patches")


def block(tokens):
    """Attends and computes, each behind a normalization."""
    layers = keras.layers
    x = layers.LayerNormalization(epsilon=1e-6)(tokens)
    x = layers.MultiHeadAttention(1, 1, output_shape=COLORS)(x, x)
    tokens = layers.Add()([tokens, x])
    x = layers.LayerNormalization()(tokens)
    x = layers.Dense(6, activation="gelu")(x)
    x = Scale()(layers.Dense(COLORS)(x))
    return layers.Add()([tokens, x])


def head(tokens, kind, prefix):
    """Pools tokens: to that of the class, or to a mean or all of them."""
    layers = keras.layers
    if kind == "token":
        return layers.LayerNormalization()(tokens)[:, 0]
    if kind == "patches":
        return keras.ops.mean(tokens[:, prefix:], axis=1)
    if kind == "mean":
        return layers.GlobalAveragePooling1D()(tokens)
    if kind == "operation":
        return keras.ops.mean(tokens, axis=1)
    return layers.Flatten()(tokens)


def planted(
    grid, prefix, kind="token", *, hides_grid=False, activation="softmax"
):
    """Makes a classifier that finds out whether a patch is red.

    Args:
        grid: Rows and columns of its patches, of 4x4 pixels each.
        prefix: Number of tokens in front of the patches.
        kind: Head: `"token"`, which reads what the first token noted in the
            last attention; or `"patches"`, `"mean"`, `"operation"` or
            `"flat"`, which read the redness of each patch.
        hides_grid: Whether one layer makes tokens of the image.
        activation: Activation of the dense layer at the end.
    """
    layers = keras.layers
    image = keras.Input((SIDE * grid[0], SIDE * grid[1], 3))
    x = layers.Rescaling(1 / 255)(image)
    if hides_grid:
        x = PatchEmbedding(prefix)(x)
    else:
        x = patches_of_colors()(x)
        x = layers.Reshape((grid[0] * grid[1], COLORS))(x)
        x = PrefixTokens(prefix)(x) if prefix else x
    for _ in range(2):
        x = block(x)
    x = head(x, kind, prefix)
    dense = layers.Dense(2, activation, name="scores")
    model = keras.Model(image, dense(x))
    _plant(model, kind, dense, grid[0] * grid[1] + prefix)
    return model


def _plant(model, kind, dense, count):
    attentions = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.MultiHeadAttention)
    ]
    for attention in attentions:
        _attend_to_red(attention, is_last=attention is attentions[-1])
    # What gray is normalized to is to be zero.
    _layer_before(attentions[-1]).beta.assign(
        np.array([-1, -1, -1, 3]) / 3**0.5
    )
    for layer in model.layers:
        if isinstance(layer, (PatchEmbedding, keras.layers.Conv2D)):
            convolution = getattr(layer, "convolution", layer)
            kernel = np.zeros((SIDE, SIDE, 3, COLORS))
            for color in range(3):
                kernel[:, :, color, color] = 1 / SIDE**2
            convolution.kernel.assign(kernel)
            convolution.bias.assign(np.zeros(COLORS))
        elif isinstance(layer, keras.layers.Dense) and layer is not dense:
            layer.kernel.assign(0.0 * np.ones(layer.kernel.shape))
    for layer in model.layers:
        prefix = getattr(layer, "prefix", layer)
        if isinstance(prefix, PrefixTokens) and prefix.number:
            tokens = np.tile([0.0, 1.0, -1.0, 0.0], (1, prefix.number, 1))
            prefix.tokens.assign(tokens)  # Of no redness.
    redness = np.array([0, 0, 0, 1.0]) if kind == "token" else REDNESS
    column = np.tile(redness, count) if kind == "flat" else redness
    dense.kernel.assign(np.stack([2 * column, -2 * column], axis=1))
    dense.bias.assign([0.25, -0.5])


def _layer_before(layer):
    return layer._inbound_nodes[0].input_tensors[0]._keras_history.operation


def _attend_to_red(layer, *, is_last):
    """Each token notes, as its last channel, the redness that there is.

    In front of the last block nothing is noted yet.
    """
    layer.query_dense.kernel.assign(np.zeros((COLORS, 1, 1)))
    layer.query_dense.bias.assign([[1.0]])
    layer.key_dense.kernel.assign(3 * REDNESS.reshape(COLORS, 1, 1))
    layer.value_dense.kernel.assign(REDNESS.reshape(COLORS, 1, 1))
    note = np.eye(COLORS)[3] if is_last else np.zeros(COLORS)
    layer.output_dense.kernel.assign(note.reshape(1, 1, COLORS))
    for dense in (layer.key_dense, layer.value_dense, layer.output_dense):
        dense.bias.assign(np.zeros(dense.bias.shape))


def images_with_red(grid, cells):
    """Makes dark gray images `(B, H, W, 3)`, each with a red patch.

    Args:
        grid: Rows and columns of the patches.
        cells: Row and column of the red patch of each image.
    """
    rng = np.random.default_rng(0)
    shape = (len(cells), SIDE * grid[0], SIDE * grid[1], 1)
    images = np.repeat(rng.uniform(18, 22, shape), 3, axis=-1)
    for image, (row, column) in zip(images, cells, strict=True):
        red = image[SIDE * row :, SIDE * column :][:SIDE, :SIDE]
        red[...] = (250, 80, 80)
    return images.astype("float32")


def brightest_cells(maps, grid):
    """The cell in which each map has its largest mean."""
    count, height, width, _ = maps.shape
    cells = maps.reshape(count, grid[0], height // grid[0], grid[1], -1)
    flat = cells.mean(axis=(2, 4)).reshape(count, -1).argmax(axis=1)
    return [(int(i) // grid[1], int(i) % grid[1]) for i in flat]
