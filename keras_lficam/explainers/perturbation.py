"""Explainers that hide parts of the image and watch the class's score."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam import functional
from keras_lficam._checks import check_choice, check_integer, check_size
from keras_lficam.classifier import CompiledFunction
from keras_lficam.explainers.base import Explainer, largest_is_one, pixels_of
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

# Patches along each side, if their size is not given. A position is half a
# patch from the next, so there are 15 at most.
_PATCHES = 8
_PLACES = 2 * _PATCHES - 1
# A drop below this share of the logits is rounding.
_SMALLEST_DROP = 1e-6


class Occlusion(Explainer):
    """Hides a patch at each position, and measures how much the logit drops.

    As many forward passes of an image as there are positions of the patch, and
    one of the image as it is; no gradient. With the logit `f` of the class,
    and the positions `P` of the patch,

        a_ij = mean of f(x) - f(x without P) over the patches P that cover ij
        map = ReLU(a) / max_ij ReLU(a)

    Places are `stride` pixels apart, from the upper left; the last in a row
    and in a column ends at the border, so each pixel is covered, at the
    borders by fewer patches. `attributions` gives `a` itself. A map shows what
    speaks for the class alone; zero stays zero.

    A patch is to be larger than what the model tells by a few pixels beside
    it; a map is no finer than the patch.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        patch: Size of the patch in pixels: an integer, or height and width.
            An eighth of each side by default, rounded up: 28 of 224.
        stride: Pixels from one position to the next, no more than the patch: an
            integer, or down and across. Half of the patch by default, rounded
            up: 14 of 224, which makes 15 x 15 positions. Of any size it makes
            no more.
        fill: What the patch shows: a number, a color `(C,)` or an image
            `(H, W, C)` in the range that the model takes, by default 0, which
            is black from 0 to 255; or `"mean"` for the mean color of the image.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of positions that go through the model at once. The
            memory is that of a prediction of `chunk_size` images, and in bytes
            `20 * chunk_size * H * W * C`, whatever the number of positions.

    Raises:
        TypeError: If `model` is no `keras.Model`, or `fill` no numbers.
        ValueError: If another argument is out of its range, or the patch is
            larger than the images, or the model does not show its logits.

    Reference:
        Zeiler and Fergus, 2014, https://arxiv.org/abs/1311.2901, who show the
        probability at each position of a gray patch.

    Examples:
        maps = Occlusion(model, patch=8, stride=4, fill="mean")(images)
    """

    class_specific = True
    _one_by_one = True

    def __init__(
        self,
        model: keras.Model,
        *,
        patch: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        fill: Tensor | str = 0.0,
        activation: str | None = None,
        chunk_size: int = 32,
    ):
        super().__init__(model, activation=activation, chunk_size=chunk_size)
        self.classifier.check_logits()
        shape = self.classifier.image_shape
        self.patch = _pair("patch", patch)
        self.stride = _pair("stride", stride)
        _check_patch(self.patch, self.stride, shape[:2])
        self.fill: str | np.ndarray
        if isinstance(fill, str):
            check_choice("fill", fill, ("mean",))
            self.fill = fill
        else:
            self.fill = pixels_of("fill", fill, shape)

        def look(
            image: Tensor, fill: Tensor, down: Tensor, across: Tensor
        ) -> Tensor:
            """Hides the rows `(n, H)` and columns `(n, W)` of an image."""
            hidden = ops.logical_and(
                down[:, :, None, None], across[:, None, :, None]
            )
            return self.classifier.logits(ops.where(hidden, fill, image))

        self._look = CompiledFunction(model, look)

    @property
    def passes(self) -> tuple[int | None, int]:
        count = 1
        for axis, side in enumerate(self.classifier.image_shape[:2]):
            if side is not None:
                count *= len(self._starts(axis, side)[0])
            elif self.patch is None and self.stride is None:
                count *= _PLACES
            else:
                return None, 0
        return 1 + count, 0

    def attributions(
        self,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        context: Mapping[str, Tensor] | None = None,
    ) -> np.ndarray:
        """Gives the mean drop of the logit at each pixel.

        Args:
            images: As in a call.
            classes: As in a call.
            context: As in a call.

        Returns:
            Array `(B, H, W, 1)`, float32: positive where the logit drops when
            the pixel is hidden, negative where it rises.

        Raises:
            TypeError: As in a call.
            ValueError: As in a call.
        """
        checked = self._checked(images, classes)
        parts = self._of_chunks(self._attributions, *checked, context)
        return np.concatenate(list(parts)).astype("float32")

    def _explain(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> Tensor:
        found = self._attributions(images, classes)
        return largest_is_one(np.maximum(found, 0))

    def _attributions(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> np.ndarray:
        size = images.shape[1:3]
        _check_patch(self.patch, self.stride, size)
        if not isinstance(self.fill, str):
            pixels_of("fill", self.fill, images.shape[1:])
        rows, columns = (
            _covering(*self._starts(axis, side), side)
            for axis, side in enumerate(size)
        )
        down = np.repeat(rows, len(columns), axis=0)  # (n, H)
        across = np.tile(columns, (len(rows), 1))  # (n, W)
        covered = rows.sum(axis=0)[:, None] * columns.sum(axis=0)
        found = np.zeros((*images.shape[:3], 1))
        for index, image in enumerate(images):
            category = None if classes is None else classes[index]
            drops = self._drops(image, down, across, category)
            total = (down * drops[:, None]).T @ across  # (H, W)
            found[index, ..., 0] = total / covered
        return found

    def _drops(
        self,
        image: np.ndarray,
        down: np.ndarray,
        across: np.ndarray,
        category: np.ndarray | None,
    ) -> np.ndarray:
        """Measures by how much the logit drops behind each patch, `(n,)`."""
        is_mean = isinstance(self.fill, str)
        color = image.mean(axis=(0, 1)) if is_mean else self.fill
        fill = np.broadcast_to(color, image.shape)
        # The first hides nothing.
        down, across = (np.pad(x, ((1, 0), (0, 0))) for x in (down, across))
        count = math.ceil(len(down) / self.chunk_size)
        logits = np.concatenate(
            [
                self._look.run(image[None], fill[None], *part)
                for part in zip(
                    np.array_split(down, count),
                    np.array_split(across, count),
                    strict=True,
                )
            ]
        )
        logits = self.classifier.checked_answers(logits.astype("float64"))
        if category is None:
            category = logits[0].argmax()
        of_class = logits[:, category]
        drops: np.ndarray = of_class[0] - of_class[1:]
        rounding = _SMALLEST_DROP * np.abs(of_class).max()
        return np.where(np.abs(drops) <= rounding, 0.0, drops)

    def _starts(self, axis: int, side: int) -> tuple[np.ndarray, int]:
        """First pixels of the positions along an axis, length of the patch."""
        if self.patch is None:
            length = math.ceil(side / _PATCHES)
        else:
            length = self.patch[axis]
        if self.stride is None:
            stride = math.ceil(length / 2)
        else:
            stride = self.stride[axis]
        last = side - length
        return np.append(np.arange(0, last, stride), last), length


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
        checked = self._checked(images, classes)
        parts = self._of_chunks(self._saliency, *checked, context)
        return np.concatenate(list(parts)).astype("float32")

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


def _pair(name: str, value: object) -> tuple[int, int] | None:
    """Takes an integer, or a pair of height and width, as a pair."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list)):
        check_integer(name, value, least=1)
        value = value, value
    check_size(name, value)
    height, width = value
    return int(height), int(width)


def _check_patch(
    patch: tuple[int, int] | None,
    stride: tuple[int, int] | None,
    size: Iterable[int | None],
) -> None:
    for axis, side in enumerate(size):
        if patch is not None:
            length: int | None = patch[axis]
        else:
            length = None if side is None else math.ceil(side / _PATCHES)
        if length is None:
            continue
        if side is not None and length > side:
            raise ValueError(
                "Argument `patch` must fit into the images. Received: "
                f"patch={patch!r}, and an image of {side} pixels along axis "
                f"{axis}. To fix this: a smaller patch, or patch=None for an "
                "eighth of each side."
            )
        if stride is not None and stride[axis] > length:
            raise ValueError(
                "Argument `stride` must be no more than the patch, or some "
                f"pixels are never hidden. Received: stride={stride!r}, and "
                f"a patch of {length} pixels along axis {axis}. To fix this: "
                "a smaller stride, or stride=None for half of the patch."
            )


def _covering(starts: np.ndarray, length: int, side: int) -> np.ndarray:
    """Marks pixels `(positions, side)` along an axis that a patch covers."""
    after = np.arange(side) - starts[:, None]
    covered: np.ndarray = (after >= 0) & (after < length)
    return covered


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
