"""What a served model computes, as graphs that need no Keras."""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lficam.explainers.base import OneCallExplainer
from keras_lficam.explanation import ExplanationView
from keras_lficam.serving import Limits, _encoded_images
from keras_lficam.visualization import (
    COLORMAP,
    OPACITY,
    SIGNED_COLORMAP,
    SIGNED_OPACITY,
)

# Signatures of every classifier.
SIGNATURES = (
    "serving_default",
    "uint8_images",
    "classify",
    "images_and_classes",
    "encoded_images",
    "encoded_images_and_classes",
)
_NO_CLASS = -1
# Computes the answers of a signature by their names.
Answering = Callable[..., dict[str, tf.Tensor]]


class Served(tf.Module):
    """The signatures of a classifier that explains itself.

    Args:
        model: Model that has an `explanation_view`.
        class_names: Name of each class.
        image_size: `(height, width)` that images are resized to.
        top: Number of classes that evidence is given of, and that are named
            for encoded images.
        value_range: Darkest and brightest value of a pixel of the model.
        limits: What is refused without being computed.
        activation: What makes probabilities of the model's scores, as for
            `classifier.Classifier`.
        bits: Bits that PNG files of 16 bits use and do not say.
        explainers: Explainers of the model that get a signature each, of the
            name that they have here.
    """

    def __init__(
        self,
        model: keras.Model,
        class_names: Sequence[str],
        image_size: tuple[int, int],
        top: int | None,
        value_range: tuple[float, float],
        limits: Limits,
        activation: str | None = None,
        bits: int | None = None,
        explainers: Mapping[str, OneCallExplainer] = types.MappingProxyType({}),
    ) -> None:
        super().__init__()
        # As a module it would track a dictionary.
        self._explainers = tuple(explainers.items())
        # The variables are enough of the model; this one is not tracked.
        self._view = ExplanationView(model, top=top, activation=activation)
        self._variables = [variable.value for variable in model.variables]
        self._names = tf.constant([*class_names, ""])
        self._size = image_size
        self._top = self._view.top
        self._low, self._high = value_range
        self._limits = limits
        self._bits = bits
        self._channels = model.inputs[0].shape[-1]
        import matplotlib

        self._colors, self._signed_colors = (
            tf.constant(
                255 * matplotlib.colormaps[name](np.arange(256))[:, :3],
                tf.float32,
            )
            for name in (COLORMAP, SIGNED_COLORMAP)
        )

    def signatures(self) -> dict[str, Answering]:
        """Traces the signatures; returns them by their names."""
        return {
            name: self._traced(function, *specs)
            for name, (function, *specs) in self.declared().items()
        }

    def declared(self) -> dict[str, tuple[Answering, *tuple[Any, ...]]]:
        """The function of each signature and the specifications it takes."""
        pixels = [None, None, None, self._channels]
        images = tf.TensorSpec(pixels, tf.float32, "images")
        small = tf.TensorSpec(pixels, tf.uint8, "images")
        encoded = tf.TensorSpec([None], tf.string, "image_bytes")
        several = tf.TensorSpec([None, None], tf.int32, "classes")
        one_each = tf.TensorSpec([None], tf.int32, "classes")
        found: dict[str, tuple[Answering, *tuple[Any, ...]]] = {
            "serving_default": (self.explain, images),
            "uint8_images": (self.explain, small),
            "classify": (self.classify, images),
            "images_and_classes": (self.explain, images, several),
            "encoded_images": (self.explain_encoded, encoded),
            "encoded_images_and_classes": (
                self.explain_encoded,
                encoded,
                several,
            ),
        }
        for name, explainer in self._explainers:
            explain = functools.partial(self.explain_by, explainer)
            found[name] = (explain, images, one_each)
        return found

    def explain(
        self, images: tf.Tensor, classes: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Gives class, probabilities, evidence and attention of images."""
        images, errors = self._checked(images)
        size = tuple(tf.unstack(tf.shape(images)[1:3]))
        if classes is not None:
            classes, errors = self._checked_classes(classes, errors)
        return self._explained(self._resized(images), errors, size, classes)

    def explain_by(
        self, explainer: OneCallExplainer, images: tf.Tensor, classes: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Gives the maps of an explainer; of the class -1 the predicted's."""
        images, errors = self._checked(images)
        size = tf.shape(images)[1:3]
        resized = self._resized(images)
        expected = (
            "Input `classes` must hold a class for each image, or -1 for the "
            "class that is predicted. Received shape:"
        )
        shape = tf.shape(_hidden(classes))
        is_one_each = tf.cond(
            tf.size(shape) == 1,
            lambda: shape[0] == tf.size(errors),
            lambda: False,
        )
        check = tf.debugging.Assert(is_one_each, [expected, shape])
        with tf.control_dependencies([check]):
            classes = tf.identity(classes)
        known = self._view.classifier.num_classes
        inside = (classes >= _NO_CLASS) & (classes < known)
        wrong = f"the class is not one of 0 to {known - 1}, or -1"
        errors = tf.where((errors == "") & ~inside, wrong, errors)
        with keras.StatelessScope():
            predicted = tf.argmax(
                self._view.classifier.scores(resized),
                axis=-1,
                output_type=tf.int32,
            )
            classes = tf.where(inside & (classes >= 0), classes, predicted)
            maps = explainer.tensors(resized, classes)
        maps = tf.image.resize(tf.cast(maps, tf.float32), size, "bilinear")
        return {
            "map": tf.clip_by_value(_blank(maps, errors), 0.0, 1.0),
            "class_index": tf.where(errors == "", classes, _NO_CLASS),
            "error": errors,
        }

    def classify(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Gives class and probabilities of images, and nothing of the map."""
        images, errors = self._checked(images)
        classifier = self._view.classifier
        with keras.StatelessScope():
            probabilities = classifier.probabilities(self._resized(images))
        return self._classes(probabilities, errors)

    def explain_encoded(
        self, image_bytes: tf.Tensor, classes: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Gives the same of JPEG and PNG files, and overlays of each."""
        number = tf.size(_hidden(image_bytes))
        at_least_one = ["Input `image_bytes` must hold at least one image."]
        with tf.control_dependencies(
            [
                tf.debugging.Assert(number > 0, at_least_one),
                self._few_enough("image_bytes", number),
            ]
        ):
            image_bytes = tf.identity(image_bytes)
        decoded = _encoded_images.decoded(
            image_bytes, self._size, self._limits, self._channels, self._bits
        )
        errors = decoded.errors
        if classes is not None:
            classes, errors = self._checked_classes(classes, errors)
        scale = (self._high - self._low) / 255
        images = self._low + scale * decoded.images
        answers = self._explained(
            self._resized(images), errors, self._size, classes
        )
        values, indices = tf.math.top_k(answers["probabilities"], self._top)
        indices = tf.where(errors[:, None] == "", indices, _NO_CLASS)
        canvases = tf.where(errors == "", decoded.canvases, "")
        evidence = self._view.upsample(
            answers["class_evidence"], self._size, self._size
        )
        answers |= {
            "top_classes": tf.gather(
                self._names, indices % self._names.shape[0]
            ),
            "top_probabilities": values,
            "evidence_overlay_bytes": _encoded_images.evidence_overlays(
                canvases, evidence, self._signed_colors, SIGNED_OPACITY
            ),
        }
        if "attention_map" in answers:
            answers["overlay_bytes"] = _encoded_images.overlays(
                canvases, answers["attention_map"], self._colors, OPACITY
            )
        else:  # That of the first class, which is the likeliest.
            answers["overlay_bytes"] = answers["evidence_overlay_bytes"][:, 0]
        return answers

    def _traced(self, function: Answering, *specs: tf.TensorSpec) -> Answering:
        # Nothing branches on tensors, so autograph would only cost seconds.
        traced = tf.function(function, input_signature=specs, autograph=False)
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
        self,
        images: tf.Tensor,
        errors: tf.Tensor,
        size: tuple[Any, Any],
        classes: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        """Explains images of the classifier's size; maps are of `size`."""
        shown = served_answers(self._view, images, size, classes)
        probabilities = shown.pop("probabilities")
        chosen = shown.pop("evidence_classes")
        good = (errors == "")[:, None]
        return (
            self._classes(probabilities, errors)
            | {name: _blank(value, errors) for name, value in shown.items()}
            | {"evidence_classes": tf.where(good, chosen, _NO_CLASS)}
        )

    def _checked_classes(
        self, classes: tf.Tensor, errors: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes classes `(B, n)`; those that are none spoil their image."""
        shape = tf.shape(_hidden(classes))
        is_row_each = tf.cond(
            tf.size(shape) == 2,
            lambda: (shape[0] == tf.size(errors)) & (shape[1] > 0),
            lambda: False,
        )
        expected = (
            "Input `classes` must have a row for each image, (batch, n), of "
            "at least one class. Received shape:"
        )
        check = tf.debugging.Assert(is_row_each, [expected, shape])
        with tf.control_dependencies([check]):
            classes = tf.identity(classes)
        known = self._view.classifier.num_classes
        inside = tf.reduce_all((classes >= 0) & (classes < known), axis=1)
        wrong = f"a class that is asked for is not one of 0 to {known - 1}"
        errors = tf.where((errors == "") & ~inside, wrong, errors)
        return tf.where(inside[:, None], classes, 0), errors

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


def served_answers(
    view: ExplanationView,
    images: tf.Tensor,
    size: tuple[Any, Any],
    classes: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Computes what every format answers, whatever runs it.

    Args:
        view: The view of the classifier.
        images: Images of the size that it takes.
        size: Height and width of the attention map.
        classes: Classes `(B, n)` to give evidence of; None for the likeliest.

    Returns:
        Tensors of the view; its `top_classes` are called `evidence_classes`,
        as those of encoded images are names, and the attention map is of
        the size `size`.
    """
    # What a layer would write, as the loss of a regularizer, is lost.
    with keras.StatelessScope():
        shown = view(images, classes)
    shown["evidence_classes"] = shown.pop("top_classes")
    if "attention_map" in shown:
        shown["attention_map"] = view.upsample_attention(
            shown["attention_map"], size, tuple(images.shape[1:3])
        )
    return shown


def value_range_of(model: keras.Model) -> tuple[float, float]:
    """Finds the darkest and the brightest pixel that a model takes.

    Args:
        model: Classifier.

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
    """Sets to 0 what belongs to an image that could not be read."""
    good = tf.reshape(errors == "", [-1] + [1] * (values.shape.rank - 1))
    return tf.where(good, values, 0.0)


def _hidden(tensor: tf.Tensor) -> tf.Tensor:
    """Forgets the shape that was declared, which a server may not check."""
    return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=None)
