"""Explainers that read the activations of a forward pass."""

import keras

from keras_lficam.explainers.base import Explainer


class AttentionMap(Explainer):
    """Shows the attention map that the model itself used.

    One forward pass, no gradient. The map does not depend on a class.

    Args:
        model: Model with a layer `attention_map`, as `build` makes it.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images.

    Raises:
        ValueError: If the model has no such layer.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937.

    Examples:
        maps = AttentionMap(model)(images)
    """

    class_specific = False

    def __init__(self, model: keras.Model, *, chunk_size: int = 32):
        super().__init__(model, chunk_size=chunk_size)
        names = [layer.name for layer in model.layers]
        if "attention_map" not in names:
            raise ValueError(
                "Argument `model` must have a layer 'attention_map', as a "
                "model made by keras_lficam.build has. "
                f"Received: {model.name!r} without it."
            )
        self._view = keras.Model(
            model.input, model.get_layer("attention_map").output
        )

    @property
    def passes(self) -> tuple[int, int]:
        return 1, 0

    def _explain(self, images, classes):
        del classes  # The map is made before the classes are.
        return self._view.predict_on_batch(images)
