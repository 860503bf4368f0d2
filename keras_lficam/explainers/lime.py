"""LIME: hides superpixels and fits a linear model."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import check_integer
from keras_lficam.classifier import CompiledFunction
from keras_lficam.explainers.base import Explainer
from keras_lficam.functional import Tensor

# As published, and as the `lime` package has them.
_KERNEL_WIDTH = 0.25
_RIDGE_PENALTY = 1.0
# Coefficients below this share of the probability are rounding.
_SMALLEST_COEFFICIENT = 1e-6
# Quickshift, published for images of 224x224.
_QUICKSHIFT_SIDE = 224
_QUICKSHIFT_KERNEL = 4
_QUICKSHIFT_DISTANCE = 50  # In kernels: 200 pixels.
_QUICKSHIFT_RATIO = 0.2


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """The linear model that LIME fits around one image.

    With `S` superpixels and `N` samples, of which the first keeps all.

    Attributes:
        segments: Array `(H, W)` of integers from 0 to `S - 1`: the superpixel
            of each pixel.
        samples: Array `(N, S)`, bool: the superpixels that a sample keeps.
        probabilities: Array `(N,)`, in [0, 1]: of the class, for each sample.
        weights: Array `(N,)`, in (0, 1]: how near a sample is to the image.
        coefficients: Array `(S,)`: by how much a superpixel that is kept
            raises the probability.
        intercept: Probability where none is kept.
    """

    segments: np.ndarray
    samples: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray
    coefficients: np.ndarray
    intercept: float


class LIME(Explainer):
    """Fits a linear model of which superpixels raise the probability.

    `samples` forward passes of an image, no gradient, and no look into the
    model. The image is divided into superpixels; each sample keeps a random
    half of them and paints the others in their mean color; the first keeps all.
    The probabilities of the samples are fitted by a linear model of what is
    kept,

        min sum_i w_i (p_i - b - z_i beta)^2 + |beta|^2
        w_i = sqrt(exp(-d_i^2 / 0.25^2))

    with the cosine distance `d_i` between what sample `i` keeps and all. The
    map paints each superpixel by its coefficient over the largest one. As in
    the figures of the authors, only evidence for the class is shown: what
    speaks against it is 0, like what says nothing. `surrogates` gives the
    coefficients themselves.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        samples: Number of samples, `N`, at least 1.
        segments: Function that divides an image `(H, W, 3)` into superpixels,
            an array `(H, W)` of integer labels, as
            `skimage.segmentation.slic` does. It is given the image as skimage
            wants it, whatever range the model takes: float64, its darkest
            value scaled to 0 and its brightest to 1; a gray image has its
            channel three times. By default quickshift with the ratio 0.2, the
            kernel 4 and distances up to 50 kernels. Under 224 pixels on the
            shorter side the kernel shrinks in proportion, so that a photo has
            about 30 superpixels at any size. A kernel is at least 1, so an
            image under 56 pixels is enlarged for it, by a whole number. The
            colors are compared in Lab; bands that are no RGB, such as four or
            two, as they are, from 0 to 100 as the lightness in Lab.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits.
        chunk_size: Number of samples that go through the model at once. The
            memory is that of a prediction of `chunk_size` images, and in
            bytes `20 * chunk_size * H * W + 20 * N * S + 20 * S**2`, with `S`
            superpixels.
        seed: Non-negative integer that the samples depend on.

    Raises:
        TypeError: If `model` is no `keras.Model`, `segments` no function, or
            a number no integer.
        ValueError: If another argument is out of its range, or it is not
            known how to make probabilities of the model's scores. In a call
            also if an image has one superpixel only, whose map would be empty.

    Reference:
        Ribeiro et al., 2016, https://arxiv.org/abs/1602.04938. Kernel and
        penalty are those of the authors' package `lime`, and superpixels at
        224x224, too.

    Examples:
        maps = LIME(model, samples=100)(images)
    """

    class_specific = True
    _one_by_one = True

    def __init__(
        self,
        model: keras.Model,
        *,
        samples: int = 1000,
        segments: Callable[[np.ndarray], np.ndarray] | None = None,
        activation: str | None = None,
        chunk_size: int = 32,
        seed: int = 0,
    ):
        super().__init__(model, activation=activation, chunk_size=chunk_size)
        self.classifier.check_probabilities()
        check_integer("samples", samples, least=1)
        check_integer("seed", seed, least=0)
        if segments is not None and not callable(segments):
            raise TypeError(
                "Argument `segments` must be a function of an image, or None. "
                f"Received: segments={segments!r}. To fix this: "
                "functools.partial(skimage.segmentation.slic, n_segments=50)."
            )
        self.samples = samples
        self.segments = segments
        self.seed = seed

        def look(
            image: Tensor, fill: Tensor, kept: Tensor
        ) -> tuple[Tensor, Tensor]:
            """Shows the samples `(n, H, W * 3)` of an image to the model."""
            flat = (1, ops.shape(image)[1], -1)
            mixed = ops.where(
                kept, ops.reshape(image, flat), ops.reshape(fill, flat)
            )
            scores = self.classifier.scores(
                ops.reshape(mixed, (-1, *ops.shape(image)[1:]))
            )
            probabilities = self.classifier.as_probabilities(scores)
            return probabilities, ops.argmax(scores, axis=-1)

        self._look = CompiledFunction(model, look)

    @property
    def passes(self) -> tuple[int, int]:
        return self.samples, 0

    def surrogates(
        self,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        context: Mapping[str, Tensor] | None = None,
    ) -> list[Surrogate]:
        """Fits the linear model of each image.

        Args:
            images: As in a call.
            classes: As in a call.
            context: As in a call.

        Returns:
            List of `B` of `Surrogate`.

        Raises:
            TypeError: As in a call.
            ValueError: As in a call, or if `segments` gives no integer labels
                `(H, W)`, or one superpixel only.
        """
        checked = self._checked(images, classes)
        parts = self._of_chunks(self._surrogates, *checked, context)
        return [found for part in parts for found in part]

    def _explain(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> Tensor:
        return np.stack(
            [_painted(found) for found in self._surrogates(images, classes)]
        )

    def _surrogates(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> list[Surrogate]:
        # First, because what is refused is to cost no pass.
        segments = [self._superpixels(image) for image in images]
        categories: Iterable[Any] = (
            [None] * len(images) if classes is None else classes
        )
        return [
            self._surrogate(*each)
            for each in zip(images, segments, categories, strict=True)
        ]

    def _surrogate(
        self, image: np.ndarray, segments: np.ndarray, category: int | None
    ) -> Surrogate:
        number = segments.max() + 1
        rng = np.random.default_rng(self.seed)
        samples = rng.integers(0, 2, (self.samples, number), "uint8") > 0
        samples[0] = True
        fill = _means(image, segments)
        triple = np.repeat(segments, image.shape[-1], axis=1)
        parts = []
        for start in range(0, self.samples, self.chunk_size):
            part = samples[start : start + self.chunk_size]
            kept = np.take(part, triple, axis=1)  # (n, H, W * 3)
            found, best = self._look.run(image[None], fill[None], kept)
            if category is None:
                category = best[0]
            parts.append(found[:, category])
        probabilities = self.classifier.checked_answers(np.concatenate(parts))
        distances = 1 - np.sqrt(samples.mean(axis=1))  # Cosine, of 0 and 1.
        weights = np.sqrt(np.exp(-((distances / _KERNEL_WIDTH) ** 2)))
        coefficients, intercept = _ridge(samples, probabilities, weights)
        return Surrogate(
            segments, samples, probabilities, weights, coefficients, intercept
        )

    def _superpixels(self, image: np.ndarray) -> np.ndarray:
        scaled = image.astype("float64")  # What it spans may be no float32.
        scaled -= scaled.min()
        scaled /= max(scaled.max(), 1e-30)
        if image.shape[-1] == 1:
            scaled = np.repeat(scaled, 3, axis=-1)
        function = self.segments or self._quickshift
        segments = np.asarray(function(scaled))
        if segments.shape != image.shape[:2] or not np.issubdtype(
            segments.dtype, np.integer
        ):
            raise ValueError(
                "Argument `segments` must give integer labels of shape "
                f"{image.shape[:2]}. Received: labels of shape "
                f"{segments.shape} and dtype {segments.dtype}"
            )
        names, segments = np.unique(segments, return_inverse=True)
        if len(names) < 2:
            raise ValueError(
                "Argument `segments` must divide an image into at least two "
                "superpixels: the map of one is zero everywhere. Received: "
                f"one, of an image of shape {image.shape}. To fix this: a "
                "function that divides it more finely, such as "
                "functools.partial(skimage.segmentation.slic, n_segments=50); "
                "or a larger image."
            )
        return segments.reshape(image.shape[:2])

    def _quickshift(self, image: np.ndarray) -> np.ndarray:
        from skimage.segmentation import quickshift
        from skimage.transform import resize

        *size, bands = image.shape
        side = min(size)
        # A kernel is at least 1.
        times = math.ceil(_QUICKSHIFT_SIDE / _QUICKSHIFT_KERNEL / side)
        if times > 1:
            large = [times * length for length in size]
            image = resize(image, large, order=1, mode="edge")
        kernel = _QUICKSHIFT_KERNEL * min(1, times * side / _QUICKSHIFT_SIDE)
        is_rgb = bands == 3
        segments: np.ndarray = quickshift(
            # From black to white it is 100, as in Lab.
            image if is_rgb else 100 / math.sqrt(bands) * image,
            ratio=_QUICKSHIFT_RATIO,
            kernel_size=kernel,
            max_dist=_QUICKSHIFT_DISTANCE * kernel,
            convert2lab=is_rgb,
            rng=self.seed,
        )
        return segments[times // 2 :: times, times // 2 :: times]


def _means(image: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Paints every superpixel in its mean color, `(H, W, 3)`, float32."""
    labels = segments.ravel()
    sums = [
        np.bincount(labels, color.ravel()) for color in np.rollaxis(image, 2)
    ]
    means = np.stack(sums, axis=-1) / np.bincount(labels)[:, None]
    painted: np.ndarray = means.astype("float32")[segments]
    return painted


def _ridge(
    samples: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, float]:
    """Solves the weighted ridge regression, whose intercept is free."""
    shares = weights / weights.sum()
    centers = shares @ samples  # (S,)
    mean = shares @ probabilities
    # The intercept makes the weighted residuals sum to 0, so it drops out.
    centered = samples - centers
    weighted = weights[:, None] * centered
    normal = centered.T @ weighted + _RIDGE_PENALTY * np.eye(len(centers))
    coefficients = np.linalg.solve(normal, weighted.T @ (probabilities - mean))
    return coefficients, float(mean - centers @ coefficients)


def _painted(surrogate: Surrogate) -> np.ndarray:
    """Paints positive coefficients, the largest 1, `(H, W, 1)`."""
    positive = np.maximum(surrogate.coefficients, 0)
    largest = positive.max()
    rounding = _SMALLEST_COEFFICIENT * surrogate.probabilities.max()
    if largest <= rounding:
        largest = np.inf
    painted: np.ndarray = (positive / largest)[surrogate.segments]
    return painted[..., None]
