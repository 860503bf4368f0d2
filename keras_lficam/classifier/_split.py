"""A classifier in two functions, from images to a map and on to scores."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
from keras import ops

from keras_lficam.classifier._compiled import holding_also
from keras_lficam.classifier._geometry import Geometry
from keras_lficam.surgery import LinearHead, dense_behind_pooling

# From images to features, and from features to logits.
Halves = tuple[Callable[[Any], Any], Callable[[Any], Any]]


@dataclasses.dataclass(frozen=True)
class Patches:
    """How tokens `(B, T, C)` lie in an image.

    Attributes:
        grid: Rows and columns of the patches, `(h, w)`.
        prefix: Number of tokens in front of the patches, such as that of the
            class.
    """

    grid: tuple[int, int]
    prefix: int


@dataclasses.dataclass(frozen=True)
class SplitFunctions:
    """A classifier in two functions of tensors of the backend.

    Attributes:
        shape: Shape `(h, w, C)` of the feature map.
        features: From images `(B, H, W, 3)` to the feature map
            `(B, h, w, C)`, or to tokens `(B, T, C)`, in the model's dtype;
            tokens may have more channels, which are not part of the map.
        features_and_beside: The same, and a dictionary of what the layers of
            the paper give on the way, see `Classifier.outputs_beside`.
        beside: The names in this dictionary.
        layer: Name of the layer whose output is the feature map.
        scores: From the features to what the model gives, `(B, K)`,
            float32.
        logits: From the features to the logits `(B, K)`, float32: the
            scores before a softmax or sigmoid. A ValueError, if the model
            does not show them.
        shown: The logits, or the scores where the model does not show them.
        operations: The layers behind the map, in their order.
        linear: What the logits are, where they are linear in the map; None of
            any other head.
        averages: Whether the first thing done with a map is to average it.
        geometry: Where the cells of the map lie in the images.
        stride: Pixels of the image from a cell to the next.
        tokens: How the features lie in an image if they are tokens; else None.
        held: Name of what `holding` holds, and the function that gives it.
    """

    shape: tuple[int | None, int | None, int]
    features: Callable[[Any], Any]
    features_and_beside: Callable[[Any], tuple[Any, dict[str, Any]]]
    beside: Collection[str]
    layer: str
    scores: Callable[[Any], Any]
    logits: Callable[[Any], Any]
    shown: Callable[[Any], Any]
    operations: tuple[keras.Operation, ...]
    linear: LinearHead | None
    averages: bool
    geometry: Geometry
    stride: float
    tokens: Patches | None = None
    held: tuple[str, Callable[[Any], Any]] | None = None

    def map_of(self, features: Any) -> Any:
        """Takes the map `(B, h, w, C)` out of features.

        Args:
            features: What `features` gives, or gradients by it.

        Returns:
            The same if it is a map; of tokens the patches, on their grid.
        """
        if self.tokens is None:
            return features
        channels = self.shape[-1]
        patches = features[:, self.tokens.prefix :, :channels]
        return ops.reshape(patches, (-1, *self.tokens.grid, channels))

    def with_map(self, features: Any, maps: Any, copies: Any = 1) -> Any:
        """Puts other maps in the place of that of features.

        Args:
            features: What `features` gives, of `B` images.
            maps: Maps `(B * copies, h, w, C)`, those of an image in a row.
            copies: Number of maps of each image.

        Returns:
            What `logits` takes, `B * copies` of it: maps, or tokens with
            those of `features` in front.
        """
        if self.tokens is None:
            return maps
        (height, width), channels = self.tokens.grid, self.shape[-1]
        prefix, (count, depth) = self.tokens.prefix, features.shape[1:]
        patches = ops.reshape(maps, (-1, height * width, channels))
        if prefix == 0 and depth == channels:
            return patches
        shape = (ops.shape(features)[0], copies, count, depth)
        tokens = ops.broadcast_to(features[:, None], shape)
        tokens = ops.reshape(tokens, (-1, count, depth))
        beside = tokens[:, prefix:, channels:]
        patches = ops.concatenate([patches, beside], axis=-1)
        return ops.concatenate([tokens[:, :prefix], patches], axis=1)

    @contextlib.contextmanager
    def holding(self, images: Any) -> Iterator[None]:
        """Holds what goes around the feature map, while it is used.

        Args:
            images: Images `(B, H, W, C)` that the feature maps are of.
        """
        if self.held is None:
            yield
            return
        name, function = self.held
        with holding_also({name: function(images)}):
            yield

    def dense_behind_pooling(self) -> keras.layers.Dense | None:
        """Finds the one dense layer of a head that a CAM can be read off.

        Returns:
            The layer; None if the head is not a global average pooling and a
            dense layer.
        """
        if self.tokens is not None or not self.operations:
            return None
        return dense_behind_pooling(self.operations)


def in_turn(*steps: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Makes a function that calls others in turn."""

    def function(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return function
