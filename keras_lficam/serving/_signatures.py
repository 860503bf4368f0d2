"""What a served model computes, as graphs that need no Keras."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lficam.explanation import AttentionOutputs
from keras_lficam.serving import Limits, _pictures
from keras_lficam.visualization import COLORMAP, OPACITY

_NO_CLASS = -1
# Computes the answers of a signature by their names.
Answering = Callable[..., dict[str, tf.Tensor]]


class Served(tf.Module):
    """The signatures of a classifier with a heat map.

    Args:
        model: Model that has an `attention_view`.
        class_names: Name of each class.
        image_size: `(height, width)` that images are brought to.
        top: Number of classes that are named for encoded pictures.
        value_range: Darkest and brightest value of a pixel of the model.
        limits: What is refused without being computed.
        activation: What makes probabilities of the model's scores, as for
            `classifier.Classifier`.
        bits: Bits that PNG files of 16 bits use and do not say.
    """

    def __init__(
        self,
        model: keras.Model,
        class_names: Sequence[str],
        image_size: tuple[int, int],
        top: int,
        value_range: tuple[float, float],
        limits: Limits,
        activation: str | None = None,
        bits: int | None = None,
    ) -> None:
        super().__init__()
        # The variables are enough of the model; this one is not tracked.
        self._outputs = AttentionOutputs(model, activation)
        self._variables = [variable.value for variable in model.variables]
        self._names = tf.constant([*class_names, ""])
        self._size = image_size
        self._top = top
        self._low, self._high = value_range
        self._limits = limits
        self._bits = bits
        self._channels = model.inputs[0].shape[-1]
        import matplotlib

        colors = matplotlib.colormaps[COLORMAP](np.arange(256))[:, :3]
        self._colors = tf.constant(255 * colors, tf.float32)

    def signatures(self) -> dict[str, Answering]:
        """Traces the signatures; returns them by their names."""
        pixels = [None, None, None, self._channels]
        return {
            "serving_default": self._traced(
                self.explain, tf.TensorSpec(pixels, tf.float32, "images")
            ),
            "uint8_images": self._traced(
                self.explain, tf.TensorSpec(pixels, tf.uint8, "images")
            ),
            "classify": self._traced(
                self.classify, tf.TensorSpec(pixels, tf.float32, "images")
            ),
            "encoded_images": self._traced(
                self.explain_encoded,
                tf.TensorSpec([None], tf.string, "image_bytes"),
            ),
        }

    def explain(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives class, probabilities, map and importance of images."""
        images, errors = self._checked(images)
        size = tuple(tf.unstack(tf.shape(images)[1:3]))
        shown = self._outputs(self._resized(images), size)
        return self._explained(shown, errors)

    def classify(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives class and probabilities of images, and nothing of the map."""
        images, errors = self._checked(images)
        probabilities = self._outputs.probabilities(self._resized(images))
        return self._classes(probabilities, errors)

    def explain_encoded(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives the same of JPEG and PNG files, and an overlay of each."""
        number = tf.size(_hidden(image_bytes))
        at_least_one = ["Input `image_bytes` must hold at least one picture."]
        with tf.control_dependencies(
            [
                tf.debugging.Assert(number > 0, at_least_one),
                self._few_enough("image_bytes", number),
            ]
        ):
            image_bytes = tf.identity(image_bytes)
        pictures = _pictures.decoded(
            image_bytes, self._size, self._limits, self._channels, self._bits
        )
        scale = (self._high - self._low) / 255
        images = self._low + scale * pictures.images
        shown = self._outputs(self._resized(images), self._size)
        errors, maps = pictures.errors, shown["attention_map"]
        answers = self._explained(shown, errors)
        values, places = tf.math.top_k(answers["probabilities"], self._top)
        places = tf.where(errors[:, None] == "", places, _NO_CLASS)
        return answers | {
            "top_classes": tf.gather(
                self._names, places % self._names.shape[0]
            ),
            "top_probabilities": values,
            "overlay_bytes": _pictures.overlays(
                pictures.canvases, maps, self._colors, OPACITY
            ),
        }

    def _traced(self, function: Answering, spec: tf.TensorSpec) -> Answering:
        # Nothing branches on tensors, so autograph would only cost seconds.
        traced = tf.function(function, input_signature=[spec], autograph=False)
        concrete: Answering = traced.get_concrete_function()
        return concrete

    def _resized(self, images: tf.Tensor) -> tf.Tensor:
        """Brings images of any size to that of the classifier."""
        images = tf.cast(images, tf.float32)
        if tuple(images.shape[1:3]) != self._size:
            images = tf.image.resize(
                images, self._size, "bilinear", antialias=True
            )
        return images

    def _explained(
        self, shown: dict[str, tf.Tensor], errors: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return self._classes(shown["probabilities"], errors) | {
            name: _blank(value, errors)
            for name, value in shown.items()
            if name != "probabilities"
        }

    def _classes(
        self, probabilities: tf.Tensor, errors: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        good = errors == ""
        index = tf.argmax(probabilities, axis=-1, output_type=tf.int64)
        index = tf.where(good, index, _NO_CLASS)
        return {
            "probabilities": _blank(probabilities, errors),
            "class_index": index,
            "class_name": tf.gather(self._names, index % self._names.shape[0]),
            "error": errors,
        }

    def _few_enough(self, name: str, number: tf.Tensor) -> tf.Operation:
        """Refuses a batch of more images than are to be held in memory."""
        most = self._limits.images
        words = f"Input `{name}` must hold at most {most} images. Received:"
        return tf.debugging.Assert(number <= most, [words, number])

    def _checked(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Refuses a batch of a wrong shape; finds images that hold nonsense."""
        shape = tf.shape(_hidden(images))
        expected = (
            "Input `images` must have shape (batch, height, width, "
            f"{self._channels}), none of it 0. Received shape:"
        )
        is_batch = tf.cond(
            tf.size(shape) == 4,
            lambda: (shape[3] == self._channels) & tf.reduce_all(shape > 0),
            lambda: False,
        )
        checks = [
            tf.debugging.Assert(is_batch, [expected, shape], summarize=8),
            self._few_enough("images", tf.reduce_max(shape[:1])),
        ]
        with tf.control_dependencies(checks):
            images = tf.identity(images)
        if images.dtype == tf.uint8:
            scale = (self._high - self._low) / 255
            errors = tf.fill(tf.shape(images)[:1], "")
            return self._low + scale * tf.cast(images, tf.float32), errors
        lowest = tf.reduce_min(images, axis=(1, 2, 3))
        highest = tf.reduce_max(images, axis=(1, 2, 3))
        finite = tf.reduce_all(tf.math.is_finite(images), axis=(1, 2, 3))
        inside = (lowest >= self._low) & (highest <= self._high)
        errors = tf.where(
            finite,
            tf.where(
                inside,
                "",
                "the image holds numbers outside of "
                f"{self._low:g} to {self._high:g}",
            ),
            "the image holds numbers that are not finite",
        )
        good = (errors == "")[:, None, None, None]
        return tf.where(good, images, 0.0), errors


def value_range_of(model: keras.Model) -> tuple[float, float]:
    """Finds the darkest and the brightest pixel that a model takes.

    Args:
        model: Model made by `build` or `attach`.

    Returns:
        The range, 0 to 255 unless `attach` was told another.
    """
    # By its name, for layers that augment images have such a range, too.
    for layer in model.layers:
        if layer.name == "importance" and hasattr(layer, "value_range"):
            low, high = layer.value_range
            return float(low), float(high)
    return 0.0, 255.0


def _blank(values: tf.Tensor, errors: tf.Tensor) -> tf.Tensor:
    """Sets to 0 what belongs to a picture that could not be read."""
    good = tf.reshape(errors == "", [-1] + [1] * (values.shape.rank - 1))
    return tf.where(good, values, 0.0)


def _hidden(tensor: tf.Tensor) -> tf.Tensor:
    """Forgets the shape that was declared, which a server may not check."""
    return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=None)
