"""The contract that every explainer keeps."""

import abc

import keras
import numpy as np

from keras_lficam import functional
from keras_lficam.backbones import Classifier, check_integer
from keras_lficam.functional import Tensor


class Explainer(abc.ABC):
    """Explains a classifier's answers by heat maps.

    Any explainer can stand where another stands: it is made for a model and
    called on images. A subclass says how the maps of one chunk are made; this
    class checks the images, cuts them into chunks, and brings the maps to the
    size of the images.

    Args:
        model: Functional or Sequential classifier, flat or nested, from images
            `(B, H, W, 3)` to scores `(B, K)`. It is looked through, not
            copied: after more training it is explained as it then is.
        activation: What turns its scores into probabilities: `"softmax"` or
            `"sigmoid"` if it gives logits, `"linear"` if it gives
            probabilities. By default it is found out from the last layer, and
            asked for where that does not tell.
        chunk_size: Number of images that go through the model at once, at
            least 1. It bounds the memory and does not change the maps.

    Call arguments:
        images: Images `(B, H, W, 3)`, or a single one `(H, W, 3)`, in the
            range that the model takes; finite.
        classes: The class to explain: an integer for all images, an integer
            for each of them, or None for the class that is predicted. Of one
            sigmoid, class 0 is all there is: what speaks for a yes.

    Output shape:
        `(B, H, W, 1)`, a NumPy array, float32, in [0, 1].

    Raises:
        TypeError: If `model` is no `keras.Model`, or `classes` no integers.
        ValueError: If another argument is not as described, or numbers of the
            model are not finite.

    Attributes:
        model: The model.
        classifier: The `backbones.Classifier` that looks through it.
        chunk_size: Number of images that go through the model at once.
        class_specific: Whether the map depends on the class asked for. Where
            it does not, `classes` is checked and has no effect.

    Examples:
        assert issubclass(keras_lficam.explainers.CAM, Explainer)
    """

    class_specific: bool

    def __init__(
        self,
        model: keras.Model,
        *,
        activation: str | None = None,
        chunk_size: int = 32,
    ):
        self.classifier = Classifier(model, activation)
        check_integer("chunk_size", chunk_size, least=1)
        self.model = model
        self.chunk_size = chunk_size

    def __call__(
        self, images: Tensor, classes: Tensor | None = None
    ) -> np.ndarray:
        images, classes = self._checked(images, classes)
        maps = []
        for start in range(0, len(images), self.chunk_size):
            chunk = slice(start, start + self.chunk_size)
            made = self._explain(
                images[chunk], None if classes is None else classes[chunk]
            )
            if tuple(made.shape[1:3]) != images.shape[1:3]:
                made = functional.resize(made, images.shape[1:3])
            made = keras.ops.convert_to_numpy(made)
            maps.append(self.classifier.checked_answers(made))
        # Interpolation rounds, and may leave [0, 1] by a last digit.
        return np.clip(np.concatenate(maps), 0, 1, dtype="float32")

    def _checked(
        self, images: Tensor, classes: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Checks what a call is given, and makes arrays of it."""
        images = self.classifier.checked_images(images)
        return images, self.classifier.checked_classes(classes, len(images))

    @property
    @abc.abstractmethod
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes of the model for an image, at most."""

    @abc.abstractmethod
    def _explain(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> Tensor:
        """Makes the maps of one chunk.

        Args:
            images: Array `(B, H, W, 3)`.
            classes: Array `(B,)` of integers, or None for the predicted ones.

        Returns:
            Maps `(B, h, w, 1)` of any size, in [0, 1]. Those that are not of
            the size of the images are resized outside the compiled step,
            which takes some milliseconds.
        """
