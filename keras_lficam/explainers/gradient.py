"""Explainers that differentiate the score of a class by the feature map."""

import abc
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam import functional
from keras_lficam._checks import check_integer, check_number
from keras_lficam.classifier import Halves
from keras_lficam.explainers.base import OneCallExplainer
from keras_lficam.functional import Tensor

# The gradients of a mean over a map are too small for float16 without it.
_SCALE_OF_HALF = 1024.0
# A sum that is a smaller share of its terms' magnitudes is rounding.
_SMALLEST_SHARE_OF_A_SUM = 1e-6


def logits_of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """Takes the logit of each image's class.

    Args:
        logits: Logits `(B, K)`.
        classes: Classes `(B, 1)`.

    Returns:
        Tensor `(B, 1)`.
    """
    return ops.take_along_axis(logits, classes, axis=-1)


class GradientExplainer(OneCallExplainer):
    """Base of the explainers that weigh the feature map by gradients.

    A subclass says how gradients become weights. This class differentiates
    the logit of the class by the feature map, and computes

        map = s(ReLU(sum_k w_k F_k))

    of the weights, with the min-max normalization `s`.

    The gradient is the partial derivative by the feature map: whatever does
    not depend on the map is held. So `layer` may be any layer of a model with
    LFI-CAM that the features go through, although the importance network looks
    at the image as well.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        layer: Name of the layer whose output is the feature map. By default
            that is what the last global pooling or flattening takes.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images, and of three
            times their feature map.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If there is no such layer, or another path goes around it,
            or the model does not show its logits.

    Examples:
        class AbsoluteCAM(GradientExplainer):
            @staticmethod
            def weights(features, gradients):
                return keras.ops.mean(abs(gradients), axis=(1, 2))

        maps = AbsoluteCAM(model)(images)
    """

    class_specific = True

    def __init__(
        self,
        model: keras.Model,
        *,
        layer: str | None = None,
        grid: tuple[int, int] | None = None,
        split: Halves | None = None,
        activation: str | None = None,
        chunk_size: int = 32,
    ):
        super().__init__(model, activation=activation, chunk_size=chunk_size)
        self.classifier.check_logits()
        parts = self.classifier.split(
            layer, grid=grid, halves=split, hold_image=True
        )

        def maps(images: Tensor, classes: Tensor | None = None) -> Tensor:
            features = parts.features(images)
            half = keras.backend.standardize_dtype(features.dtype) == "float16"
            with parts.holding(images):
                gradients = gradients_of_logits(
                    parts.logits,
                    features,
                    classes,
                    half=half,
                    objective=self._objective,
                )
            # In float16 the small numbers below would count as no contrast.
            features = ops.cast(parts.map_of(features), "float32")
            gradients = parts.map_of(gradients)
            weights = self.weights(features, gradients)
            # The map does not depend on their size, which may be tiny.
            axes = tuple(range(1, len(weights.shape)))
            largest = ops.max(ops.abs(weights), axis=axes, keepdims=True)
            weights = weights / ops.where(largest == 0, 1.0, largest)
            coarse = functional.class_activation_map(features, weights)
            return parts.geometry.upsample(coarse, ops.shape(images)[1:3])

        self._compile(maps)

    def _objective(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Gives what is differentiated of each image, the logit, `(B, 1)`."""
        return logits_of_classes(logits, classes)

    @staticmethod
    @abc.abstractmethod
    def weights(features: Tensor, gradients: Tensor) -> Tensor:
        """Turns gradients into weights.

        Args:
            features: Feature maps `(B, h, w, C)`, float32.
            gradients: Gradients of the logits by them, of the same shape.

        Returns:
            Weights `(B, C)` of the channels, or `(B, h, w, C)` of the elements.
            A factor that an image's weights share has no effect.
        """

    @property
    def passes(self) -> tuple[int, int]:
        return 1, 1


class GradCAM(GradientExplainer):
    """Weighs each channel by how the logit of the class grows with it.

    One forward pass of the model, and one backward pass from the logit to the
    feature map; in float16 that part is passed through twice, with and without
    scaled gradients.

        w_k = mean_ij(dy / dF_kij)          map = s(ReLU(sum_k w_k F_k))

    `y` is the logit, before a softmax or sigmoid, whatever the model gives; `s`
    is the min-max normalization. The map is made at the size of the feature
    map, and resized to the image by bilinear interpolation. Where
    no location speaks for the class it is zero everywhere.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        layer: Name of the layer whose output is the feature map. By default
            that is what the last global pooling or flattening takes, which is
            not always the output of a convolution.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images, and of three
            times their feature map.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If there is no such layer, or another path goes around it,
            or the model does not show its logits.

    Reference:
        Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391.

    Examples:
        maps = GradCAM(model)(images)
    """

    @staticmethod
    def weights(features: Tensor, gradients: Tensor) -> Tensor:
        del features
        return ops.mean(gradients, axis=(1, 2))  # (B, C)


class GradCAMPlusPlus(GradientExplainer):
    """Weighs each channel by its positive gradients, the rarer the more.

    One forward pass of the model, and one backward pass as of `GradCAM`. With
    the gradient `g` of the logit,

        alpha_kij = g_kij^2 / (2 g_kij^2 + sum_ab(F_kab) g_kij^3)
        w_k = sum_ij(alpha_kij ReLU(g_kij))

    and the map as of `GradCAM`. The authors explain `exp(y)`, whose three
    derivatives are `exp(y)` times `g`, `g^2` and `g^3`. That factor cancels in
    `alpha`, and then in the map, when that is min-max normalized; so it is
    never computed, and cannot overflow. The authors' release divides the
    `alpha` of a channel by their sum besides, which their paper does not.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        layer: Name of the layer whose output is the feature map. By default
            that is what the last global pooling or flattening takes.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images, and of six
            times their feature map.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If there is no such layer, or another path goes around it,
            or the model does not show its logits.

    Reference:
        Chattopadhay et al., 2018, https://arxiv.org/abs/1710.11063.

    Examples:
        maps = GradCAMPlusPlus(model)(images)
    """

    @staticmethod
    def weights(features: Tensor, gradients: Tensor) -> Tensor:
        total = ops.sum(features, axis=(1, 2), keepdims=True)  # (B, 1, 1, C)
        # The fraction without the square, which tiny gradients would lose.
        below = 2 + total * gradients
        zero = below == 0  # As published, a denominator of zero becomes 1.
        alpha = ops.where(zero, gradients**2, 1 / ops.where(zero, 1.0, below))
        return ops.sum(alpha * ops.relu(gradients), axis=(1, 2))  # (B, C)


class XGradCAM(GradientExplainer):
    """Weighs each channel by its gradients where the channel is active.

    One forward pass of the model, and one backward pass as of `GradCAM`. With
    the gradient `g` of the logit,

        w_k = sum_ij(g_kij F_kij) / sum_ij(F_kij)
        map = s(ReLU(sum_k w_k F_k))

    so the weighted channel sums to what the channel adds to the logit, as the
    gradients have it. A channel whose sum is zero, but for rounding, has the
    weight 0: behind a ReLU it is empty, and a signed one that cancels has no
    such weight. Where the head is a global average pooling and one dense layer
    the map is that of `GradCAM`.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        layer: Name of the layer whose output is the feature map. By default
            that is what the last global pooling or flattening takes.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images, and of five
            times their feature map.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If there is no such layer, or another path goes around it,
            or the model does not show its logits.

    Reference:
        Fu et al., 2020, https://arxiv.org/abs/2008.02312.

    Examples:
        maps = XGradCAM(model)(images)
    """

    @staticmethod
    def weights(features: Tensor, gradients: Tensor) -> Tensor:
        total = ops.sum(features, axis=(1, 2))  # (B, C)
        magnitude = ops.sum(ops.abs(features), axis=(1, 2))
        empty = ops.abs(total) <= _SMALLEST_SHARE_OF_A_SUM * magnitude
        seen = ops.sum(gradients * features, axis=(1, 2))
        return ops.where(empty, 0.0, seen / ops.where(empty, 1.0, total))


class HiResCAM(GradientExplainer):
    """Weighs each element of the feature map by its own gradient.

    One forward pass of the model, and one backward pass as of `GradCAM`. With
    the gradient `g` of the logit,

        map = s(ReLU(sum_k g_kij F_kij))

    `GradCAM` averages the gradients of a channel before, and may highlight
    locations that the model did not use. Where the head is a global average
    pooling and one dense layer the gradients of a channel are equal, and the
    two maps are, too: both are that of `CAM` with a ReLU.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        layer: Name of the layer whose output is the feature map. By default
            that is what the last global pooling or flattening takes.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images, and of four
            times their feature map.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If there is no such layer, or another path goes around it,
            or the model does not show its logits.

    Reference:
        Draelos and Carin, 2020, https://arxiv.org/abs/2011.08891.

    Examples:
        maps = HiResCAM(model)(images)
    """

    @staticmethod
    def weights(features: Tensor, gradients: Tensor) -> Tensor:
        del features
        return gradients  # (B, h, w, C)


class LayerCAM(GradientExplainer):
    """Weighs each element of the feature map by its positive gradient.

    One forward pass of the model, and one backward pass as of `GradCAM`. With
    the gradient `g` of the logit,

        map = s(ReLU(sum_k ReLU(g_kij) F_kij))

    Made for early layers as well, by `layer="..."`: their maps are finer, and
    the average of a channel's gradients says little about a single location.
    The authors also merge the maps of several layers, which this does not.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        layer: Name of the layer whose output is the feature map. By default
            that is what the last global pooling or flattening takes.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images, and of four
            times their feature map.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If there is no such layer, or another path goes around it,
            or the model does not show its logits.

    Reference:
        Jiang et al., 2021, https://doi.org/10.1109/TIP.2021.3089943.

    Examples:
        maps = LayerCAM(model)(images)
    """

    @staticmethod
    def weights(features: Tensor, gradients: Tensor) -> Tensor:
        del features
        return ops.relu(gradients)  # (B, h, w, C)


class FinerCAM(GradientExplainer):
    """Shows what sets a class apart from those that the model takes it for.

    One forward pass of the model, and one backward pass as of `GradCAM`. With
    the logits `y`, and the `n` classes `d_t` other than `c` whose logits are
    nearest to that of `c`, above or below it,

        g = d(y_c - gamma / n sum_t y_dt) / dF
        w_k = mean_ij(g_kij)                map = s(ReLU(sum_k w_k F_k))

    What speaks for all of them, such as the body of a bird, goes out; what
    speaks for `c` alone, such as its beak, stays. This is the variant with a
    plain mean over the other classes, on the weights of `GradCAM`. Another,
    that of pytorch-grad-cam, weighs them by their probabilities, which it
    differentiates as well, and has `gamma` 1. Of a model of two classes all
    others are one, and of one sigmoid the map is that of `GradCAM`.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        gamma: How much of the other classes is taken off, at least 0, which
            gives `GradCAM`.
        num_references: Number of the other classes, `n`, at least 1. Where the
            model has fewer, all of them count.
        layer: Name of the layer whose output is the feature map. By default
            that is what the last global pooling or flattening takes.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images, and of three
            times their feature map.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If there is no such layer, or another path goes around it,
            or the model does not show its logits, or `gamma` or
            `num_references` is no such number.

    Reference:
        Zhang et al., 2025, https://arxiv.org/abs/2501.11309.

    Examples:
        maps = FinerCAM(model, gamma=0.8)(images)
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        gamma: float = 0.6,
        num_references: int = 3,
        layer: str | None = None,
        grid: tuple[int, int] | None = None,
        split: Halves | None = None,
        activation: str | None = None,
        chunk_size: int = 32,
    ):
        super().__init__(
            model,
            layer=layer,
            grid=grid,
            split=split,
            activation=activation,
            chunk_size=chunk_size,
        )
        check_number("gamma", gamma, 0)
        check_integer("num_references", num_references, least=1)
        self.gamma = gamma
        self.num_references = num_references

    def _objective(self, logits: Tensor, classes: Tensor) -> Tensor:
        chosen = ops.take_along_axis(logits, classes, axis=-1)  # (B, 1)
        own = ops.arange(logits.shape[-1], dtype="int32") == classes
        distances = ops.where(own, np.inf, ops.abs(logits - chosen))
        number = min(self.num_references, logits.shape[-1] - 1)
        if number == 0:
            return chosen
        nearest = ops.argsort(distances, axis=-1)[:, :number]
        others = ops.take_along_axis(logits, nearest, axis=-1)
        return chosen - self.gamma * ops.mean(others, axis=-1, keepdims=True)

    @staticmethod
    def weights(features: Tensor, gradients: Tensor) -> Tensor:
        del features
        return ops.mean(gradients, axis=(1, 2))  # (B, C)


def gradients_of_logits(
    logits: Callable[[Tensor], Tensor],
    inputs: Tensor,
    classes: Tensor | None,
    *,
    half: bool,
    objective: Callable[[Tensor, Tensor], Tensor] = logits_of_classes,
) -> Tensor:
    """Differentiates the logits of the classes, or what is made of them.

    Args:
        logits: Function of the inputs that gives logits `(B, K)`.
        inputs: Feature maps or images `(B, h, w, C)`, or tokens `(B, T, C)`.
        classes: Classes `(B,)`, or None for those of the highest logits.
        half: Whether a part between the two computes in float16.
        objective: What is differentiated: of logits `(B, K)` and classes
            `(B, 1)` a number for each image, `(B, 1)`.

    Returns:
        Gradients of the shape of the inputs, float32.
    """

    def total(inputs: Tensor, scale: float = 1.0) -> Tensor:
        scores = logits(inputs)
        chosen = ops.argmax(scores, axis=-1) if classes is None else classes
        chosen = ops.expand_dims(ops.cast(chosen, "int32"), axis=-1)
        # Of the sum, every image moves its own logits only.
        return scale * ops.sum(objective(scores, chosen))

    plain = ops.cast(_gradient(total, inputs), "float32")
    if not half:
        return plain
    scaled = _gradient(lambda inputs: total(inputs, _SCALE_OF_HALF), inputs)
    scaled = ops.cast(scaled, "float32") / _SCALE_OF_HALF
    axes = tuple(range(1, len(scaled.shape)))
    fits = ops.all(ops.isfinite(scaled), axis=axes, keepdims=True)
    return ops.where(fits, scaled, plain)


def _gradient(function: Callable[[Any], Any], x: Tensor) -> Tensor:
    """Differentiates a function that gives one number, on any backend."""
    gradients = {
        "tensorflow": _gradient_by_tensorflow,
        "jax": _gradient_by_jax,
        "torch": _gradient_by_torch,
    }
    return gradients[keras.backend.backend()](function, x)


def _gradient_by_tensorflow(
    function: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def _gradient_by_jax(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    import jax

    return jax.grad(function)(x)


def _gradient_by_torch(
    function: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    import torch

    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x)[0]
