"""Explainers that differentiate the score of a class by the pixels."""

import abc
import math
from collections.abc import Iterator, Mapping

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import check_choice, check_integer, check_number
from keras_lficam.classifier import CompiledFunction
from keras_lficam.explainers.base import Explainer, largest_is_one, pixels_of
from keras_lficam.explainers.gradient import gradients_of_logits
from keras_lficam.functional import Tensor

FORMS = ("signed", "absolute")
# A sum over the channels below this share of the largest part is rounding.
_SMALLEST_SUM = 1e-6


class _PixelGradients(Explainer):
    """Averages gradients by the pixels, over several changed images."""

    class_specific = True
    _one_by_one = True

    def __init__(
        self,
        model: keras.Model,
        number: int,
        *,
        form: str,
        activation: str | None,
        chunk_size: int,
    ):
        super().__init__(model, activation=activation, chunk_size=chunk_size)
        self.classifier.check_logits()
        _check_differentiable(model, self.classifier.image_dtype)
        check_choice("form", form, FORMS)
        self.form = form
        self._number = number
        half = any(
            layer.compute_dtype == "float16"
            for layer in model._flatten_layers()
        )

        def predicted(images: Tensor) -> Tensor:
            return ops.argmax(self.classifier.logits(images), axis=-1)

        def total(points: Tensor, category: Tensor) -> Tensor:
            classes = ops.broadcast_to(category, (ops.shape(points)[0],))
            gradients = gradients_of_logits(
                self.classifier.logits, points, classes, half=half
            )
            return ops.sum(gradients, axis=0, keepdims=True)

        self._predicted = CompiledFunction(model, predicted)
        self._total = CompiledFunction(model, total)

    @property
    def passes(self) -> tuple[int, int]:
        return 1 + self._number, self._number

    @abc.abstractmethod
    def _parts(self, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """Yields what makes the points of each chunk, for images of a shape."""

    @abc.abstractmethod
    def _points(self, image: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Gives the points `(n, H, W, C)` at which is differentiated."""

    @abc.abstractmethod
    def _attributed(
        self, images: np.ndarray, gradients: np.ndarray
    ) -> np.ndarray:
        """Turns the mean gradients of images into attributions."""

    def attributions(
        self,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        context: Mapping[str, Tensor] | None = None,
    ) -> np.ndarray:
        """Gives the signed values of each channel that a map is made of.

        Args:
            images: As in a call.
            classes: As in a call.
            context: As in a call.

        Returns:
            Array `(B, H, W, C)`, float32: positive where the pixel speaks for
            the class, negative where it speaks against it.

        Raises:
            TypeError: As in a call.
            ValueError: As in a call.
        """
        return self._array_of_chunks(
            self._attributions, images, classes, context
        )

    def _explain(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> Tensor:
        found = self._attributions(images, classes)
        magnitudes = np.abs(found)
        if self.form == "absolute":
            return largest_is_one(magnitudes.sum(axis=-1, keepdims=True))
        positive = np.maximum(found.sum(axis=-1, keepdims=True), 0)
        largest = magnitudes.max(axis=(1, 2, 3), keepdims=True)
        return largest_is_one(positive, _SMALLEST_SUM * largest)

    def _attributions(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> np.ndarray:
        if classes is None:
            classes = self._predicted.run(images)
        total = np.zeros(images.shape)
        for part in self._parts(images.shape[1:]):
            for index, image in enumerate(images):
                points = self._points(image, part)
                total[index] += self._total.run(points, classes[index, None])[0]
        found = self._attributed(images, total / self._number)
        return self.classifier.checked_answers(found)

    def _chunks(self) -> list[np.ndarray]:
        """Numbers of the points, in chunks of nearly one size."""
        count = math.ceil(self._number / self.chunk_size)
        return np.array_split(np.arange(self._number), count)


class IntegratedGradients(_PixelGradients):
    """Adds up the gradients of the logit on the way from a baseline.

    With the logit `f` of the class, the image `x` and the baseline `x0`,

        a = (x - x0) 1/m sum_j df/dx(x0 + (j - 1/2)/m (x - x0))
        map = ReLU(sum_c a_c) / max_ij ReLU(sum_c a_c)

    at the midpoints of `m` steps; `c` counts the channels of a pixel. The
    attributions `a` are complete: they sum to `f(x) - f(x0)`, up to an error
    of the steps. `completeness_error` measures it. Its share is large where
    the two logits are close, or where the gradient changes much on the way;
    take more steps then.
    `attributions` gives them as they are. A map shows what speaks for the
    class alone, so it is not complete; zero stays zero.

    What is like the baseline has no attribution: with a black one, nothing
    black is seen. A model made by `build` takes 0 to 255, where 0 is black; in
    another range black is another number.

    Args:
        model: Functional or Sequential classifier, flat or nested, of images
            of a floating-point type.
        steps: Number of steps, `m`, at least 1.
        baseline: The image `x0`, as the model takes it: a number, a color
            `(C,)` or an image `(H, W, C)`; finite.
        form: `"signed"`, the default, sums the attributions of a pixel's
            channels before the ReLU. `"absolute"` sums their magnitudes, so
            that what speaks against the class is bright, too.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of points on the way that go through the model at
            once. The memory is that of a gradient of as many images, and in
            bytes `20 * chunk_size * H * W * C`, whatever the number of steps.

    Raises:
        TypeError: If `model` is no `keras.Model`, or `baseline` no numbers.
        ValueError: If another argument is out of its range, or the model does
            not show its logits or takes images of integers.

    Reference:
        Sundararajan et al., 2017, https://arxiv.org/abs/1703.01365.

    Examples:
        explain = IntegratedGradients(model, steps=10)
        maps = explain(images)
        signed = explain.attributions(images, 0)  # (B, H, W, 3)
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        steps: int = 50,
        baseline: Tensor = 0.0,
        form: str = "signed",
        activation: str | None = None,
        chunk_size: int = 32,
    ):
        check_integer("steps", steps, least=1)
        super().__init__(
            model,
            steps,
            form=form,
            activation=activation,
            chunk_size=chunk_size,
        )
        self.steps = steps
        self.baseline = pixels_of(
            "baseline", baseline, self.classifier.image_shape
        )

    def completeness_error(
        self,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        context: Mapping[str, Tensor] | None = None,
    ) -> np.ndarray:
        """Measures how far the attributions are from complete.

        Args:
            images: As in a call.
            classes: As in a call.
            context: As in a call.

        Returns:
            Array `(B,)`, float32, at least 0: the difference between the sum
            of the attributions and that of the logits of image and baseline,
            as a share of the latter. 0.01 is 1 %; more steps make it less. It
            is infinite where the two logits are equal and the sum is not 0.

        Raises:
            TypeError: As in a call.
            ValueError: As in a call.

        Examples:
            explain = IntegratedGradients(model, steps=20)
            worst = explain.completeness_error(images).max()
        """
        attributions = self.attributions(images, classes, context=context)
        sums = attributions.sum(axis=(1, 2, 3), dtype="float64")
        expected = self._array_of_chunks(
            self._differences, images, classes, context
        )
        errors = np.abs(sums - expected)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(errors == 0, 0.0, errors / np.abs(expected))
        return shares.astype("float32")

    def _differences(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> np.ndarray:
        """Logits of images less those of the baseline, `(B,)`."""
        seen = self.classifier.predicted_logits(images)
        if classes is None:
            classes = seen.argmax(axis=-1)
        # Inputs beside the image are held for one image at a time.
        baseline = np.broadcast_to(self.baseline, images.shape[1:])[None]
        unseen = self.classifier.predicted_logits(baseline)
        difference: np.ndarray = np.take_along_axis(
            seen - unseen, classes[:, None], axis=1
        )[:, 0]
        return difference

    def _parts(self, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        pixels_of("baseline", self.baseline, shape)  # Models of any size.
        for numbers in self._chunks():
            fractions = (numbers + 0.5) / self.steps
            yield fractions.astype("float32")[:, None, None, None]

    def _points(self, image: np.ndarray, part: np.ndarray) -> np.ndarray:
        points: np.ndarray = self.baseline + part * (image - self.baseline)
        return points

    def _attributed(
        self, images: np.ndarray, gradients: np.ndarray
    ) -> np.ndarray:
        attributed: np.ndarray = (images - self.baseline) * gradients
        return attributed


class SmoothGrad(_PixelGradients):
    """Averages the gradients of the logit over noisy copies of the image.

    With the logit `f` of the class and `N` draws of Gaussian noise,

        a = 1/N sum_i df/dx(x + e_i)        e_i ~ N(0, s^2)
        s = noise (max(x) - min(x))
        map = sum_c |a_c| / max_ij sum_c |a_c|

    where `c` counts the channels of a pixel. A gradient says how the logit
    changes with the pixel, not how much of the logit is due to it: it depends
    on the sign whether a pixel should be brighter or darker, so the authors
    take magnitudes. The noise is not clipped to the range of the model, for
    that would shift its mean. It is the same for all images of a size, up to
    `s`, and draw `i` depends on nothing but `seed`, `i` and that size.
    `SmoothGrad(model, noise=0, samples=1)` is the plain gradient.

    Args:
        model: Functional or Sequential classifier, flat or nested, of images
            of a floating-point type.
        noise: Standard deviation of the noise, as a share of the range from
            the darkest to the brightest value of the image; not negative.
        samples: Number of noisy copies, `N`, at least 1.
        seed: Non-negative integer that the noise depends on.
        form: `"absolute"`, the default, sums the magnitudes of a pixel's
            channels; `"signed"` sums their signed values, and shows the
            pixels that raise the logit when they become brighter.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of noisy copies that go through the model at once.
            The memory is that of a gradient of as many images, and in bytes
            `20 * chunk_size * H * W * C`, whatever the number of samples.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If another argument is out of its range, or the model does
            not show its logits or takes images of integers.

    Reference:
        Smilkov et al., 2017, https://arxiv.org/abs/1706.03825.

    Examples:
        explain = SmoothGrad(model, samples=10, seed=1)
        maps = explain(images)
        gradients = explain.attributions(images, 0)  # (B, H, W, 3)
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        noise: float = 0.15,
        samples: int = 50,
        seed: int = 0,
        form: str = "absolute",
        activation: str | None = None,
        chunk_size: int = 32,
    ):
        check_number("noise", noise, 0)
        check_integer("samples", samples, least=1)
        check_integer("seed", seed, least=0)
        super().__init__(
            model,
            samples,
            form=form,
            activation=activation,
            chunk_size=chunk_size,
        )
        self.noise = noise
        self.samples = samples
        self.seed = seed

    def _parts(self, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        # One stream, so that it does not matter where it is divided.
        rng = np.random.default_rng(self.seed)
        for numbers in self._chunks():
            yield rng.standard_normal((len(numbers), *shape), "float32")

    def _points(self, image: np.ndarray, part: np.ndarray) -> np.ndarray:
        deviation = np.float32(self.noise) * (image.max() - image.min())
        points: np.ndarray = image + deviation * part
        return points

    def _attributed(
        self, images: np.ndarray, gradients: np.ndarray
    ) -> np.ndarray:
        del images
        return gradients


def _check_differentiable(model: keras.Model, dtype: str) -> None:
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            f"Model {model.name!r} must take images of a floating-point type, "
            f"by which scores can be differentiated. Received: {dtype}. To "
            "fix this: a keras.Model of the same layers behind a keras.Input "
            "of float32; or an explainer that needs no gradient, such as "
            "Occlusion."
        )
