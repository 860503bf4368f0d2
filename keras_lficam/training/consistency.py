"""Consistency: the map of a moved image is the moved map."""

from typing import Any

import keras
from keras import ops

from keras_lficam.classifier import Classifier, training_activation
from keras_lficam.functional import Tensor
from keras_lficam.training.guidance import attention_of, with_output

OUTPUT = "consistency"


class MapConsistency(keras.layers.Layer):
    """Compares the map of a moved image with the moved map of the image.

    The images of a batch are shifted by -1, 0 or 1 cells of the map along each
    axis, with zeros where nothing is shifted to, and each is mirrored or not,
    all at random. With the map `A` and the move `T` the result is the mean of
    `|A(T x) - T A(x)|` over the cells that were not shifted in.

    At inference nothing is computed, and the result is 0.

    Args:
        maps: Model from images `(B, H, W, channels)` to maps `(B, h, w, 1)`.
        axes: Axes along which images may be mirrored: 1 for top and bottom, 2
            for left and right.
        seed: Seed of the moves.

    Call arguments:
        inputs: Pair of images and their maps.

    Output shape:
        `(B, 1)`, in [0, 1] for maps in [0, 1].

    Reference:
        Wang et al., 2020, https://arxiv.org/abs/2004.04581, the equivariant
        regularization of SEAM, for other moves.
    """

    def __init__(
        self, maps: keras.Model, axes: tuple[int, ...] = (), seed: int = 0
    ):
        super().__init__(dtype="float32", name=OUTPUT, autocast=False)
        self.maps = maps
        self.axes = axes
        image, found = maps.input_shape[1:3], maps.output_shape[1:3]
        self.stride = tuple(
            side // cells for side, cells in zip(image, found, strict=True)
        )
        self.seed_generator = keras.random.SeedGenerator(int(seed))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        images, maps = inputs
        if not training:
            return ops.zeros_like(maps[:, :1, 0, 0])
        move = self.drawn_move(ops.shape(images)[0])
        again = self.maps(self.moved(images, move, self.stride), training=True)
        expected = self.moved(maps, move, (1, 1))
        seen = self.moved(ops.ones_like(maps), move, (1, 1))
        distance = ops.sum(ops.abs(again - expected) * seen, axis=(1, 2))
        return distance / ops.sum(seen, axis=(1, 2))

    def drawn_move(self, batch: Any) -> tuple[Tensor, list[Tensor]]:
        """Draws a shift in cells for all, and for each image what is mirrored.

        Args:
            batch: Number of images.

        Returns:
            Integers `(2,)` from 0 to 2, of which 1 is no shift; and for each
            of `axes` a tensor `(batch, 1, 1, 1)` of 0 and 1.
        """
        shift = keras.random.randint((2,), 0, 3, seed=self.seed_generator)
        mirrored = [
            keras.random.randint(
                (batch, 1, 1, 1), 0, 2, seed=self.seed_generator
            )
            for _ in self.axes
        ]
        return shift, mirrored

    def moved(
        self,
        x: Tensor,
        move: tuple[Tensor, list[Tensor]],
        stride: tuple[int, int],
    ) -> Tensor:
        """Moves images or maps.

        Args:
            x: Tensor `(B, rows, columns, channels)`.
            move: As `drawn_move` gives it.
            stride: Rows and columns of a cell.

        Returns:
            Tensor of the shape of `x`.
        """
        shift, mirrored = move
        for axis, flags in zip(self.axes, mirrored, strict=True):
            x = ops.where(flags > 0, ops.flip(x, axis), x)
        margins = [(0, 0), *((size, size) for size in stride), (0, 0)]
        rows, columns = x.shape[1:3]
        taken = ops.arange(rows) + shift[0] * stride[0]
        x = ops.take(ops.pad(x, margins), taken, axis=1)
        return ops.take(x, ops.arange(columns) + shift[1] * stride[1], axis=2)


def with_consistency(
    trained: keras.Model,
    model: keras.Model,
    axes: tuple[int, ...] = (),
    seed: int = 0,
) -> keras.Model:
    """Adds an output that says how consistent the attention map is.

    Args:
        trained: Model that shares the layers of `model`, or is it.
        model: Classifier with an attention map.
        axes: As for `MapConsistency`.
        seed: As for `MapConsistency`.

    Returns:
        A model with the outputs of `trained` and `consistency`, `(B, 1)`.

    Raises:
        ValueError: If the model has no attention map, or takes images of any
            size, or the map does not divide them evenly.
    """
    attention, _ = attention_of(
        model, Classifier(model, training_activation(model))
    )
    image, maps = model.input_shape[1:3], tuple(attention.shape[1:3])
    if None in (*image, *maps) or any(
        side % cells for side, cells in zip(image, maps, strict=True)
    ):
        raise ValueError(
            "Argument `model` must have an attention map that divides its "
            "images into cells of whole pixels, by which they are shifted for "
            f"consistency. Received: {model.name!r} with images of {image} "
            f"pixels and maps of {maps} cells. To fix this: another "
            "input_shape, such as a multiple of 32."
        )
    image_input = model.inputs[0]
    layer = MapConsistency(keras.Model(image_input, attention), axes, seed)
    return with_output(trained, OUTPUT, layer([image_input, attention]))
