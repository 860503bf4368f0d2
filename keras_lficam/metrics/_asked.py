"""Asks a model about images whose pixels are changed by their maps."""

import functools
from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import check_finite, check_integer, real_array
from keras_lficam.classifier import Classifier, holding
from keras_lficam.functional import Tensor
from keras_lficam.metrics import _checks


class Asked:
    """Images and their maps, and the class that is asked about in each."""

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
        self._classifier.check_probabilities()
        check_integer("chunk_size", chunk_size, least=1)
        self._chunk_size = chunk_size
        self.images = self._classifier.checked_images(images)
        self._maps = _checked_maps(maps, self.images.shape)
        self._context = self._classifier.checked_context(
            context, len(self.images)
        )
        chosen = self._classifier.checked_classes(classes, len(self.images))
        if chosen is None:
            chosen = self._whole_scores.argmax(axis=-1)
        self._classes = chosen

    @functools.cached_property
    def _whole_scores(self) -> np.ndarray:
        chunks = self._chunks(len(self.images))
        return np.concatenate(
            [self._scores(self.images[chunk], chunk) for chunk in chunks]
        )

    def whole(self) -> np.ndarray:
        """Probability of the class for every image, `(B,)`."""
        return self._probability(self._whole_scores, self._classes)

    def shown(self) -> np.ndarray:
        """Probability of the class for every image times its map, `(B,)`."""
        maps = _checks.stretched(self._maps)
        return self._probabilities(
            np.arange(len(self.images)),
            lambda chunk: self.images[chunk] * maps[chunk],
        )

    def curve(
        self, before: np.ndarray, after: np.ndarray, steps: int
    ) -> np.ndarray:
        """Probability of the class while pixels go over, `(B, steps + 1)`.

        Both arguments are images, or one color for each image.
        """
        check_integer("steps", steps, least=1)
        count = len(self.images)
        places = _places(self._maps.reshape(count, -1))
        places = places.reshape(self._maps.shape)
        limits = pixels_replaced(self._maps.shape, steps)
        # Image by image: (0, 0), (0, 1), ..., (1, 0), (1, 1), ...
        numbers = np.repeat(np.arange(count), steps + 1)
        limits = np.tile(limits, count)[:, None, None, None]

        def pictures(chunk: slice) -> np.ndarray:
            image = numbers[chunk]
            changed = places[image] < limits[chunk]
            return np.where(changed, after[image], before[image])

        return self._probabilities(numbers, pictures).reshape(count, steps + 1)

    def _probabilities(
        self, numbers: np.ndarray, pictures: Callable[[slice], np.ndarray]
    ) -> np.ndarray:
        """Probabilities for pictures, of which `numbers` names the images."""
        return np.concatenate(
            [
                self._probability(
                    self._scores(pictures(chunk), numbers[chunk]),
                    self._classes[numbers[chunk]],
                )
                for chunk in self._chunks(len(numbers))
            ]
        )

    def _probability(
        self, scores: np.ndarray, classes: np.ndarray
    ) -> np.ndarray:
        tensor = self._classifier.as_probabilities(
            ops.convert_to_tensor(scores)
        )
        every: np.ndarray = ops.convert_to_numpy(tensor)
        return np.take_along_axis(every, classes[:, None], axis=-1)[:, 0]

    def _scores(
        self, pictures: np.ndarray, numbers: slice | np.ndarray
    ) -> np.ndarray:
        """What the model gives, `(B, K)`, for changed images `numbers`."""
        held = {name: rows[numbers] for name, rows in self._context.items()}
        with holding(held):
            scores = self._classifier.predicted_scores(pictures)
        return self._classifier.checked_answers(scores)

    def _chunks(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self._chunk_size):
            yield slice(start, start + self._chunk_size)


def _places(values: np.ndarray) -> np.ndarray:
    """Place of every value in its row, 0 for the highest, `(B, H * W)`."""
    order = np.argsort(-values, axis=-1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(values.shape[-1])[None], axis=-1)
    return places


def pixels_replaced(shape: tuple[int, ...], steps: int) -> np.ndarray:
    """Number of pixels replaced at every point of a curve."""
    _, height, width, _ = shape
    return np.rint(np.linspace(0, height * width, steps + 1)).astype("int64")


def _checked_maps(maps: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    found = real_array("maps", maps)
    if found.shape != (*shape[:3], 1):
        raise ValueError(
            "Argument `maps` must have one map for each image, of its size: "
            f"{(*shape[:3], 1)} for images of shape {shape}. Ways out: "
            "maps[..., None] adds the last axis, and an explainer gives maps "
            f"of the size of the image. Received: maps.shape={found.shape}"
        )
    check_finite("maps", found)
    return found
