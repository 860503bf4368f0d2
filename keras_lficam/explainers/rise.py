"""RISE: shows random parts of the image."""

import math
import numbers
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_lficam import functional
from keras_lficam._checks import check_integer
from keras_lficam.classifier import CompiledFunction
from keras_lficam.explainers.base import Explainer
from keras_lficam.functional import Tensor


class RISE(Explainer):
    """Averages random masks, each weighted by the score of what it leaves.

    `samples` forward passes of an image, and one more where the class is to
    be predicted; no gradient, and no look into the model.

        map = s(sum_i p_c(X * M_i) M_i / (N keep))

    A mask `M_i` is a grid of `cells x cells` zeros and ones, resized bilinearly
    to `(cells + 1)^2` cells of `ceil(H / cells) x ceil(W / cells)` pixels, of
    which the image's size is cropped at a random position of its own. What it
    hides becomes 0, in whichever range the model takes. `s` is the min-max
    normalization; `saliency` gives the sum as it is published. The masks are
    the same for all images, and mask `i` depends on nothing but `seed`, `i`,
    `cells`, `keep` and the image's size.

    The masks do not cover all pixels equally, which shows in the map as
    noise; four times the samples halve it.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        samples: Number of masks, `N`, at least 1. The authors take 4000 or
            8000.
        cells: Number of cells along each side of the grid, at least 2.
        keep: Probability that a cell is kept, between 0 and 1.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits.
        chunk_size: Number of masked images that go through the model at once,
            and of images that a mask is made for at once. The memory is that
            of a prediction of `chunk_size` images, and in bytes
            `chunk_size * (40 * H * W + 32 * cells * (H + W))`, whatever the
            number of images and of samples.
        seed: Non-negative integer that the masks depend on.

    Raises:
        TypeError: If `model` is no `keras.Model`, or a number no integer.
        ValueError: If another argument is out of its range, or it is not
            known how to make probabilities of the model's scores.

    Attributes:
        grids: Array `(samples, cells, cells)`, bool: the cells kept.
        shifts: Array `(samples, 2)`, in [0, 1): where the image is cropped,
            in cells from the top and from the left, rounded down to pixels.

    Reference:
        Petsiuk et al., 2018, https://arxiv.org/abs/1806.07421. Between the
        center of an outermost cell and the border a mask is constant; in the
        authors' release the next cell is mirrored into it.

    Examples:
        maps = RISE(model, samples=100)(images)
    """

    class_specific = True
    _one_by_one = True

    def __init__(
        self,
        model: keras.Model,
        *,
        samples: int = 4000,
        cells: int = 8,
        keep: float = 0.5,
        activation: str | None = None,
        chunk_size: int = 32,
        seed: int = 0,
    ):
        super().__init__(model, activation=activation, chunk_size=chunk_size)
        self.classifier.check_probabilities()
        check_integer("samples", samples, least=1)
        check_integer("cells", cells, least=2)
        check_integer("seed", seed, least=0)
        is_number = isinstance(keep, numbers.Real)
        if not is_number or not 0 < keep < 1:
            raise ValueError(
                "Argument `keep` must be a number between 0 and 1. "
                f"Received: keep={keep!r}"
            )
        self.samples = samples
        self.cells = cells
        self.keep = keep
        self.seed = seed
        # Two streams, so that mask `i` does not depend on how many follow.
        for_grids, for_shifts = np.random.default_rng(seed).spawn(2)
        self.grids = for_grids.random((samples, cells, cells)) < keep
        self.shifts = for_shifts.random((samples, 2))

        def predicted(images: Tensor) -> Tensor:
            return ops.argmax(self.classifier.scores(images), axis=-1)

        def partial_sum(
            image: Tensor, down: Tensor, across: Tensor, category: Tensor
        ) -> Tensor:
            masked = _masked(image, down, across)
            probabilities = self.classifier.probabilities(masked)
            weights = ops.take(probabilities, category, axis=1)  # (n, 1)
            return _weighted_sum(weights, down, across)

        self._predicted = CompiledFunction(model, predicted)
        self._partial_sum = CompiledFunction(model, partial_sum)

    @property
    def passes(self) -> tuple[int, int]:
        return 1 + self.samples, 0

    def saliency(
        self,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        context: Mapping[str, Tensor] | None = None,
    ) -> np.ndarray:
        """Gives the sum as it is published, not normalized.

        Args:
            images: As in a call.
            classes: As in a call.
            context: As in a call.

        Returns:
            Array `(B, H, W, 1)`, float32, non-negative: at each pixel an
            estimate of the probability of the class where that pixel is kept.

        Raises:
            TypeError: As in a call.
            ValueError: As in a call.
        """
        return self._array_of_chunks(self._saliency, images, classes, context)

    def _explain(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> Tensor:
        return functional.min_max(self._saliency(images, classes))

    def _saliency(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> np.ndarray:
        if classes is None:
            classes = np.concatenate(
                [self._predicted.run(image[None]) for image in images]
            )
        size = images.shape[1:3]
        total = np.zeros((len(images), *size))
        for start in range(0, self.samples, self.chunk_size):
            part = slice(start, start + self.chunk_size)
            down, across = self._factors(part, size)
            for index, image in enumerate(images):
                total[index] += self._partial_sum.run(
                    image[None], down, across, classes[index, None]
                )
        saliency = total[..., None] / (self.samples * self.keep)
        return self.classifier.checked_answers(saliency)

    def _factors(
        self, part: slice, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Makes `(n, H, cells)` and `(n, cells, W)`, whose products are masks.

        Interpolation is linear along each axis, so a mask is the product of
        its grid with a matrix from the left and another from the right.
        """
        rows, columns = (
            _interpolation(self.cells, length, shifts)
            for length, shifts in zip(size, self.shifts[part].T, strict=True)
        )
        return rows @ self.grids[part], columns.transpose(0, 2, 1)


def _interpolation(cells: int, length: int, shifts: np.ndarray) -> np.ndarray:
    """Makes the matrices `(n, length, cells)` that enlarge and crop an axis."""
    cell = math.ceil(length / cells)
    size = (cells + 1) * cell
    centers = (np.arange(size) + 0.5) * cells / size - 0.5
    centers = np.clip(centers, 0, cells - 1)[:, None]
    weights: np.ndarray = np.maximum(0, 1 - np.abs(centers - np.arange(cells)))
    first = (shifts * cell).astype(int)[:, None]
    return weights.astype("float32")[first + np.arange(length)]


def _masked(image: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Multiplies an image `(1, H, W, 3)` by masks given as two factors."""
    shape = ops.shape(image)
    # In triplicate, for the colors lie beside one another: a broadcast over
    # them takes longer than the product of matrices.
    across = ops.repeat(across, image.shape[-1], axis=2)
    masks = ops.matmul(down, across)  # (n, H, W * 3)
    products = masks * ops.reshape(image, (1, shape[1], -1))
    return ops.reshape(products, (-1, *shape[1:]))


def _weighted_sum(weights: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Sums masks by weights `(n, 1)` into `(H, W)`, without making them."""
    width = ops.shape(across)[2]
    weighted = ops.transpose(weights[..., None] * down, (1, 0, 2))
    return ops.matmul(
        ops.reshape(weighted, (ops.shape(weighted)[0], -1)),  # (H, n * cells)
        ops.reshape(across, (-1, width)),
    )
