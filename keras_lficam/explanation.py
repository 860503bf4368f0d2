"""What a model with a heat map of its own says of images, in one pass."""

from typing import Any

import keras

from keras_lficam.architectures import attention_view, upsampler
from keras_lficam.classifier import Classifier


class AttentionOutputs:
    """Computes probabilities, map at image size and importance together.

    What it is asked with `__call__` are tensors, in graphs, too; `predict`
    gives arrays. It is no layer and no `tf.Module`: what holds one of them
    does not track its model.

    Args:
        model: Model made by `build` or `attach`, or its `attention_view`.
        activation: What turns the model's scores into probabilities:
            `"softmax"` or `"sigmoid"` if it gives logits, `"linear"` if it
            gives probabilities. By default it is found out from the last
            layer.

    Raises:
        TypeError: If `model` is of Keras 2.
        ValueError: If it has no heat map, or gives logits and `activation` is
            None.

    Examples:
        shown = AttentionOutputs(model).predict(images)
        shown["probabilities"], shown["attention_map"], shown["importance"]
    """

    def __init__(
        self, model: keras.Model, activation: str | None = None
    ) -> None:
        self.view = attention_view(model)
        self._classifier = Classifier(self.view, activation)
        self._classifier.check_probabilities()
        self._upsample = upsampler(self.view)

    def __call__(self, images: Any, size: Any = None) -> dict[str, Any]:
        """Gives tensors.

        Args:
            images: Images `(B, H, W, C)`, as the model takes them.
            size: Height and width of the maps, by default those of `images`;
                integers or scalar tensors.

        Returns:
            Dictionary of float32: `probabilities (B, K)`, `attention_map
            (B, *size, 1)` and, of LFI-CAM, `importance (B, C)`.
        """
        shown = self.view(images, training=False)
        return self._together(shown, keras.ops.shape(images)[1:3], size)

    def predict(self, images: Any, size: Any = None) -> dict[str, Any]:
        """Gives the same as arrays, by the model's compiled function.

        Args:
            images: As for a call.
            size: As for a call.

        Returns:
            Dictionary of NumPy arrays.
        """
        shown = self.view.predict_on_batch(images)
        together = self._together(shown, images.shape[1:3], size)
        return {
            name: keras.ops.convert_to_numpy(value)
            for name, value in together.items()
        }

    def probabilities(self, images: Any) -> Any:
        """Gives the probabilities alone, as a tensor.

        Args:
            images: As for a call.

        Returns:
            Tensor `(B, K)`, float32.
        """
        shown = self.view(images, training=False)
        return self._classifier.as_probabilities(shown["predictions"])

    def _together(
        self,
        shown: Any,
        image_size: Any,
        size: Any,
    ) -> dict[str, Any]:
        image_size = tuple(image_size)
        maps = keras.ops.cast(shown["attention_map"], "float32")
        together = {
            "probabilities": self._classifier.as_probabilities(
                keras.ops.convert_to_tensor(shown["predictions"])
            ),
            "attention_map": self._upsample(
                maps, image_size if size is None else size, image_size
            ),
        }
        if "importance" in shown:
            importance = keras.ops.cast(shown["importance"], "float32")
            together["importance"] = importance
        return together
