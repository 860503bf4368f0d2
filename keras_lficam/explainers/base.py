"""The contract that every explainer keeps."""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_lficam import functional
from keras_lficam._checks import check_finite, check_integer, real_array
from keras_lficam.classifier import Classifier, CompiledFunction, holding
from keras_lficam.functional import Tensor


class Explainer(abc.ABC):
    """Explains a classifier's answers by heat maps.

    Any explainer can stand where another stands: it is made for a model and
    called on images. A subclass says how the maps of one chunk are made; this
    class checks the images, divides them into chunks, and brings the maps to
    the size of the images.

    Args:
        model: Functional or Sequential classifier, flat or nested, from images
            `(B, H, W, C)` to scores `(B, K)`; inputs beside the image are held
            at the values of `context`. It is read, neither copied
            nor changed: after more training it is explained as it then is.
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
            for each of them, or None for the class that is predicted. A model
            with one sigmoid or one logit has two classes: 1 is "yes", and
            the map of 0 shows what speaks against it.
        context: For a model with inputs beside the image, a dictionary of
            their names and values `(B, ...)`, or `(...)` for all images. They
            are held at these values while the image is explained.

    Output shape:
        `(B, H, W, 1)`, a NumPy array, float32, in [0, 1].

    Raises:
        TypeError: If `model` is no `keras.Model`, or `classes` or
            `chunk_size` no integers.
        ValueError: If another argument is not as described, or numbers of the
            model are not finite.

    Attributes:
        model: The model.
        classifier: Its read-only `classifier.Classifier`.
        chunk_size: Number of images that go through the model at once.
        class_specific: Whether the map depends on the class asked for. Where
            it does not, `classes` is checked and has no effect.

    Examples:
        assert issubclass(keras_lficam.explainers.CAM, Explainer)
    """

    class_specific: bool
    # Whether `_explain` goes through the images one by one.
    _one_by_one = False

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
        self,
        images: Tensor,
        classes: Tensor | None = None,
        *,
        context: Mapping[str, Tensor] | None = None,
    ) -> np.ndarray:
        images, classes = self._checked(images, classes)
        maps = []
        for made in self._of_chunks(self._explain, images, classes, context):
            if tuple(made.shape[1:3]) != images.shape[1:3]:
                made = functional.resize(made, images.shape[1:3])
            made = keras.ops.convert_to_numpy(made)
            maps.append(self.classifier.checked_answers(made))
        # Interpolation rounds, and may leave [0, 1] by a last digit.
        clipped: np.ndarray = np.clip(
            np.concatenate(maps), 0, 1, dtype="float32"
        )
        return clipped

    def _of_chunks(
        self,
        function: Callable[[np.ndarray, np.ndarray | None], Any],
        images: np.ndarray,
        classes: np.ndarray | None,
        context: Mapping[str, Tensor] | None,
    ) -> Iterator[Any]:
        """Calls a function for the images of each chunk, and their classes."""
        held = self.classifier.checked_context(context, len(images))
        size = 1 if held and self._one_by_one else self.chunk_size
        for start in range(0, len(images), size):
            chunk = slice(start, start + size)
            with holding({name: held[name][chunk] for name in held}):
                found = function(
                    images[chunk], None if classes is None else classes[chunk]
                )
            yield found

    def _array_of_chunks(
        self,
        function: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
        images: Tensor,
        classes: Tensor | None,
        context: Mapping[str, Tensor] | None,
    ) -> np.ndarray:
        """Puts what a function gives of each chunk together, in float32."""
        checked = self._checked(images, classes)
        parts = self._of_chunks(function, *checked, context)
        return np.concatenate(list(parts)).astype("float32")

    def _checked(
        self, images: Tensor, classes: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Checks what a call is given, and makes arrays of it."""
        images = self.classifier.checked_images(images)
        return images, self.classifier.checked_classes(classes, len(images))

    @property
    @abc.abstractmethod
    def passes(self) -> tuple[int | None, int]:
        """Forward and backward passes for an image, at most.

        A forward pass is counted whenever the model, or the part of it behind
        the feature map, computes scores: of an image, a changed one, or a
        changed feature map. A backward pass is counted for each gradient of a
        score. Float16 differentiates twice, which counts once. None where the
        number depends on the size of the image.
        """

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


class OneCallExplainer(Explainer):
    """Base of the explainers that make all maps of a chunk in one call.

    A subclass gives its constructor a function to `_compile`. As no call
    depends on the answer of another, the maps can be part of a graph.

    Args:
        model: As for `Explainer`.
        activation: As for `Explainer`.
        chunk_size: As for `Explainer`.

    Examples:
        maps = keras_lficam.explainers.CAM(model).tensors(images)
    """

    _maps: CompiledFunction

    def _compile(self, maps: Callable[..., Tensor]) -> None:
        """Takes the function of images, and of classes if they matter."""
        self._maps = CompiledFunction(self.model, maps)

    @property
    def passes(self) -> tuple[int | None, int]:
        return 1, 0

    def tensors(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """Computes maps as tensors, as in the graph of an export.

        Nothing is checked, and all images are one chunk.

        Args:
            images: Images `(B, H, W, C)`, a tensor of float32.
            classes: Classes `(B,)`; None for those that are predicted.

        Returns:
            Maps `(B, H, W, 1)` in [0, 1].

        Examples:
            maps = keras_lficam.explainers.GradCAM(model).tensors(images)
        """
        if classes is None or not self.class_specific:
            return self._maps.function(images)
        return self._maps.function(images, classes)

    def _explain(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> Tensor:
        return self._maps.run(images, classes if self.class_specific else None)


def pixels_of(name: str, value: Any, shape: Sequence[int | None]) -> np.ndarray:
    """Takes an argument that stands for the pixels of an image.

    Args:
        name: Name of the argument, for the message.
        value: Number, color `(C,)` or image `(H, W, C)`.
        shape: Shape `(H, W, C)` of the images; None where any fits.

    Returns:
        Array of float32, which broadcasts to the images.

    Raises:
        TypeError: If the value holds no real numbers.
        ValueError: If it has another shape, or is not finite.
    """
    array = real_array(name, value)
    fits = array.ndim in (0, 1, 3) and all(
        size in (None, actual)
        for size, actual in zip(
            shape[3 - array.ndim :], array.shape, strict=True
        )
    )
    if not fits:
        expected = ", ".join("any" if s is None else str(s) for s in shape)
        raise ValueError(
            f"Argument `{name}` must be a number, a color (channels,) or an "
            f"image ({expected}) of the size of those explained. Received: "
            f"{name} of shape {array.shape}. To fix this: give one number, "
            "such as 0, or one for each channel."
        )
    check_finite(name, array[np.newaxis])
    return array


def largest_is_one(
    attributions: np.ndarray, rounding: np.ndarray | float = 0.0
) -> np.ndarray:
    """Divides non-negative maps by the largest value of each.

    Zero stays zero, unlike in a min-max normalization.

    Args:
        attributions: Maps `(B, H, W, 1)`.
        rounding: A map whose largest value is no more than this becomes zero.

    Returns:
        Maps of that shape in [0, 1].
    """
    largest = attributions.max(axis=(1, 2, 3), keepdims=True)
    is_rounding = largest <= rounding
    maps: np.ndarray = np.where(
        is_rounding, 0.0, attributions / np.where(is_rounding, 1.0, largest)
    )
    return maps
