"""Occlusion: hides a patch at each position of the image."""

import math
from collections.abc import Iterable, Mapping

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import check_choice, check_integer, check_size
from keras_lficam.classifier import CompiledFunction
from keras_lficam.explainers.base import Explainer, largest_is_one, pixels_of
from keras_lficam.functional import Tensor

# Patches along each side, if their size is not given. A position is half a
# patch from the next, so there are 15 at most.
_PATCHES = 8
_MOST_POSITIONS = 2 * _PATCHES - 1
# A drop below this share of the logits is rounding.
_SMALLEST_DROP = 1e-6


class Occlusion(Explainer):
    """Hides a patch at each position, and measures how much the logit drops.

    As many forward passes of an image as there are positions of the patch, and
    one of the image as it is; no gradient. With the logit `f` of the class,
    and the positions `P` of the patch,

        a_ij = mean of f(x) - f(x without P) over the patches P that cover ij
        map = ReLU(a) / max_ij ReLU(a)

    Positions are `stride` pixels apart, from the upper left; the last in a row
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
                count *= _MOST_POSITIONS
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
        return self._array_of_chunks(
            self._attributions, images, classes, context
        )

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
