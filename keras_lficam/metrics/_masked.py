"""Predicts images whose pixels are masked or replaced by their maps."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import check_finite, check_integer, real_array
from keras_lficam.classifier import Classifier, holding
from keras_lficam.functional import Tensor
from keras_lficam.metrics import _checks
from keras_lficam.metrics._imputation import filled


class MaskedPredictor:
    """Probability of one class for each image, as its map changes the image."""

    def __init__(
        self,
        model: keras.Model,
        images: Tensor,
        maps: Tensor,
        classes: Tensor | None,
        activation: str | None,
        chunk_size: int,
        context: Mapping[str, Tensor] | None,
    ):
        self._classifier = Classifier(model, activation)
        self._check_model()
        check_integer("chunk_size", chunk_size, least=1)
        self._chunk_size = chunk_size
        self.images = self._classifier.checked_images(images)
        self._maps = _checked_maps(maps, self.images.shape)
        self._context = self._classifier.checked_context(
            context, len(self.images)
        )
        chosen = self._classifier.checked_classes(classes, len(self.images))
        if chosen is None:
            chosen = self._unmasked_scores.argmax(axis=-1)
        self.classes = chosen

    @functools.cached_property
    def _unmasked_scores(self) -> np.ndarray:
        chunks = self._chunks(len(self.images))
        return np.concatenate(
            [self._scores(self.images[chunk], chunk) for chunk in chunks]
        )

    def unmasked(self) -> np.ndarray:
        """Probability of the class for every image, `(B,)`."""
        return self._class_values(self._unmasked_scores, self.classes)

    def normalized_maps(self) -> np.ndarray:
        """The maps min-max normalized, `(B, H, W, 1)`."""
        return _checks.min_max_normalized(self._maps)

    def share_lost(self) -> np.ndarray:
        """What share of it the probability loses by the map, `(B,)`."""
        unmasked = self.unmasked()
        lost = np.maximum(0, unmasked - self.masked())
        shares: np.ndarray = lost / np.where(unmasked > 0, unmasked, 1)
        return shares

    def masked(self) -> np.ndarray:
        """Probability of the class for every image times its map, `(B,)`."""
        maps = self.normalized_maps()
        return self._values_of(
            np.arange(len(self.images)),
            lambda chunk: self.images[chunk] * maps[chunk],
        )

    def curve(
        self,
        before: np.ndarray,
        after: np.ndarray,
        steps: int,
        *,
        lowest_first: bool = False,
    ) -> np.ndarray:
        """Probability of the class while pixels go over, `(B, steps + 1)`.

        The first two arguments are images, or one color for each image. The
        pixels with the highest value in the map go first, or the lowest.
        """
        check_integer("steps", steps, least=1)
        count = len(self.images)
        maps = -self._maps if lowest_first else self._maps
        ranks = _ranks(maps.reshape(count, -1))
        ranks = ranks.reshape(self._maps.shape)
        limits = pixels_replaced(self._maps.shape, steps)
        # Image by image: (0, 0), (0, 1), ..., (1, 0), (1, 1), ...
        numbers = np.repeat(np.arange(count), steps + 1)
        limits = np.tile(limits, count)[:, None, None, None]

        def replaced(chunk: slice) -> np.ndarray:
            image = numbers[chunk]
            is_after = ranks[image] < limits[chunk]
            return np.where(is_after, after[image], before[image])

        return self._values_of(numbers, replaced).reshape(count, steps + 1)

    def imputed(
        self, shares: Sequence[float], noise: float, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probability of the class without pixels, which are filled in.

        What is random is the same for all images.

        Returns:
            Two arrays `(B, len(shares))`: without the pixels with the highest
            values in the map, and without those with the lowest.
        """
        count, *shape = self.images.shape
        pixels = shape[0] * shape[1]
        rng = np.random.default_rng(seed)
        # Pixels of the same value go in an order of chance, the same in both.
        order = rng.permutation(pixels)
        jitter = noise * rng.normal(0, 1, (len(shares), *shape))
        flat = self._maps.reshape(count, pixels)[:, order]
        span = np.ptp(self.images.reshape(count, -1), axis=-1)
        # Image by image: (0, 0), (0, 1), ..., (1, 0), (1, 1), ...
        numbers = np.repeat(np.arange(count), len(shares))
        steps = np.tile(np.arange(len(shares)), count)

        def values(sign: int) -> np.ndarray:
            ranked = order[np.argsort(sign * flat, axis=-1, kind="stable")]

            def without(index: int, step: int) -> np.ndarray:
                hole = np.zeros(pixels, bool)
                # From what is left the others are filled in.
                removed = min(round(shares[step] * pixels), pixels - 1)
                hole[ranked[index, :removed]] = True
                hole = hole.reshape(shape[:2])
                image = filled(self.images[index], hole)
                image += span[index] * jitter[step] * hole[..., None]
                return image

            def changed(chunk: slice) -> np.ndarray:
                pairs = zip(numbers[chunk], steps[chunk], strict=True)
                images = np.stack([without(*pair) for pair in pairs])
                return images.astype("float32")

            return self._values_of(numbers, changed).reshape(count, -1)

        return values(-1), values(1)

    def _values_of(
        self, numbers: np.ndarray, changed: Callable[[slice], np.ndarray]
    ) -> np.ndarray:
        """Value of the class for changed images, `numbers` of `images`."""
        return np.concatenate(
            [
                self._class_values(
                    self._scores(changed(chunk), numbers[chunk]),
                    self.classes[numbers[chunk]],
                )
                for chunk in self._chunks(len(numbers))
            ]
        )

    def _check_model(self) -> None:
        self._classifier.check_probabilities()

    def _class_values(
        self, scores: np.ndarray, classes: np.ndarray
    ) -> np.ndarray:
        """Probabilities of the classes, from the scores of the model."""
        tensor = self._classifier.as_probabilities(
            ops.convert_to_tensor(scores)
        )
        every: np.ndarray = ops.convert_to_numpy(tensor)
        return np.take_along_axis(every, classes[:, None], axis=-1)[:, 0]

    def _scores(
        self, images: np.ndarray, numbers: slice | np.ndarray
    ) -> np.ndarray:
        """Scores of the model, `(B, K)`, for changed images `numbers`."""
        held = {name: rows[numbers] for name, rows in self._context.items()}
        with holding(held):
            scores = self._predicted(images)
        return self._classifier.checked_answers(scores)

    def _predicted(self, images: np.ndarray) -> np.ndarray:
        return self._classifier.predicted_scores(images)

    def _chunks(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self._chunk_size):
            yield slice(start, start + self._chunk_size)


class MaskedLogitPredictor(MaskedPredictor):
    """The same with the logit of the class."""

    def drops(self, regions: np.ndarray) -> np.ndarray:
        """What a logit loses without each region, `(B, n)`.

        Args:
            regions: Masks `(n, H, W)`, the same for all images; the pixels
                in a region become the mean color of their image.
        """
        count, many = len(self.images), len(regions)
        mean = self.images.mean(axis=(1, 2), keepdims=True, dtype="float64")
        colors = mean.astype("float32")
        # Image by image: (0, 0), (0, 1), ..., (1, 0), (1, 1), ...
        numbers = np.repeat(np.arange(count), many)
        hidden = np.tile(np.arange(many), count)

        def occluded(chunk: slice) -> np.ndarray:
            image = numbers[chunk]
            inside = regions[hidden[chunk]][..., None]
            return np.where(inside, colors[image], self.images[image])

        without = self._values_of(numbers, occluded).reshape(count, many)
        drops: np.ndarray = self.unmasked()[:, None] - without
        return drops

    def sums_inside(self, regions: np.ndarray) -> np.ndarray:
        """Sum of each map in each region, `(B, n)`, float64."""
        maps = self._maps.astype("float64").reshape(len(self._maps), -1)
        found: np.ndarray = maps @ regions.reshape(len(regions), -1).T
        return found

    def cells(self, number: int) -> np.ndarray:
        """Cells of a grid as regions, in the order of reading, `(n * n, H, W)`.

        The grid has `n = number` rows and as many columns.
        """
        _check_cells(number, list(self.images.shape[1:3]))
        grid = cell_numbers(self.images.shape, number)[..., 0]
        found: np.ndarray = np.arange(number**2)[:, None, None] == grid
        return found

    def sums(self, cells: int) -> np.ndarray:
        """Sum of each map in each cell, `(B, n * n)`, float64."""
        grid = cell_numbers(self._maps.shape, cells).ravel()
        flat = self._maps.reshape(len(self._maps), -1)
        rows = [
            np.bincount(grid, one, minlength=cells**2)  # In float64.
            for one in flat
        ]
        return np.stack(rows)

    def varied(self) -> np.ndarray:
        """Whether a map has more than one value, `(B,)`."""
        flat = self._maps.reshape(len(self._maps), -1)
        found: np.ndarray = flat.max(axis=1) > flat.min(axis=1)
        return found

    def _check_model(self) -> None:
        self._classifier.check_logits()

    def _class_values(
        self, scores: np.ndarray, classes: np.ndarray
    ) -> np.ndarray:
        return np.take_along_axis(scores, classes[:, None], axis=-1)[:, 0]

    def _predicted(self, images: np.ndarray) -> np.ndarray:
        return self._classifier.predicted_logits(images)


def cell_numbers(shape: tuple[int, ...], cells: int) -> np.ndarray:
    """Number of the cell that each pixel lies in, `(H, W, 1)`."""
    rows, columns = (
        np.searchsorted(
            np.rint(np.linspace(0, side, cells + 1))[1:-1],
            np.arange(side),
            side="right",
        )
        for side in shape[1:3]
    )
    found: np.ndarray = rows[:, None, None] * cells + columns[None, :, None]
    return found


def _check_cells(cells: int, sides: list[int]) -> None:
    check_integer("cells", cells, least=2)
    if cells > min(sides):
        raise ValueError(
            "Argument `cells` must be at most the number of pixels of the "
            f"shorter side, {min(sides)}. Received: cells={cells}. To fix "
            "this: leave it out, or give larger images."
        )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank of every value in its row, 0 for the highest, `(B, H * W)`."""
    order = np.argsort(-values, axis=-1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(values.shape[-1])[None], axis=-1)
    return ranks


def pixels_replaced(shape: tuple[int, ...], steps: int) -> np.ndarray:
    """Number of pixels replaced at every point of a curve."""
    _, height, width, _ = shape
    return np.rint(np.linspace(0, height * width, steps + 1)).astype("int64")


def _checked_maps(maps: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    found = real_array("maps", maps)
    if found.shape != (*shape[:3], 1):
        raise ValueError(
            "Argument `maps` must have one map for each image, of its size: "
            f"{(*shape[:3], 1)} for images of shape {shape}. Received: "
            f"maps.shape={found.shape}. To fix this: maps[..., None] adds the "
            "last axis, and an explainer gives maps of the size of the image."
        )
    check_finite("maps", found)
    return found
