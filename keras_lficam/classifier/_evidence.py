"""Signed evidence of a class at each location of the last feature map."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_lficam.classifier._exact import ExactEvidence, of_classes
from keras_lficam.classifier._split import Halves
from keras_lficam.classifier._view import Classifier
from keras_lficam.functional import Tensor

# Values of masked feature maps that the head is given at once, of an image.
_VALUES_AT_ONCE = 2**21


class Evidence:
    """Computes what each location of the feature map says of the classes.

    Where the logits are linear in the map, that is the class evidence, whose
    mean over the map and the bias are the logit: behind a global average
    pooling or a flattening and one dense layer, where the channels of the map
    are the classes, and where several such heads are averaged. For any other
    head it is that of Recipro-CAM: the logit of a feature map of which one
    location alone is left, less that of a feature map of zeros. It needs no
    gradient, but as many passes of the head as there are locations.

    Of tokens, the patches are the map. The tokens in front of them stay as
    they are; where they are averaged with the patches, what they add to a
    logit lies at no location, and is a number of its own.

    A classifier that shows probabilities and no logits, because it ends with an
    unusual activation, is asked for those: its evidence is in their unit, and
    never exact.

    Args:
        classifier: The classifier, which must show its logits, or
            probabilities.
        layer: Name of the layer whose output is the feature map; by default
            what the last global pooling or flattening takes.
        grid: Rows and columns of tokens, where they are not found.
        halves: Functions to a feature map and from it to logits, to take the
            place of the model's layers.

    Attributes:
        split: The classifier, split at the feature map.
        exact: Whether the mean of the evidence and the bias are the logit,
            together with what tokens in front of the patches add.

    Raises:
        ValueError: If the classifier shows neither logits nor probabilities,
            or there is no such feature map.

    Reference:
        Zhou et al., 2016, https://arxiv.org/abs/1512.04150; Byun and Lee,
        2022, https://arxiv.org/abs/2209.14074, with a mask of one location.
    """

    def __init__(
        self,
        classifier: Classifier,
        layer: str | None = None,
        *,
        grid: tuple[int, int] | None = None,
        halves: Halves | None = None,
    ):
        if classifier.gives != "probabilities":
            classifier.check_logits()
        self.split = split = classifier.split(layer, grid=grid, halves=halves)
        self._exact = None
        if classifier.shows_logits and split.linear is not None:
            self._exact = ExactEvidence(classifier, split)

    @property
    def exact(self) -> bool:
        return self._exact is not None

    @property
    def bias(self) -> Any:
        """The bias of each class `(K,)`, float32; None if not exact."""
        return None if self._exact is None else self._exact.bias

    @property
    def counts_prefix(self) -> bool:
        """Whether tokens in front of the patches add to exact evidence."""
        return self._exact is not None and self._exact.counts_prefix

    def of_prefix(self, features: Tensor, classes: Tensor | None) -> Tensor:
        """Computes what tokens in front of the patches add to the logits.

        Args:
            features: Tokens `(B, T, C)`, of a head that `counts_prefix`.
            classes: Integers `(B, n)`; None for all classes.

        Returns:
            Logits `(B, n)`, or `(B, K)`; float32.
        """
        assert self._exact is not None, "the head is not linear"
        return self._exact.of_prefix(features, classes)

    def __call__(self, features: Tensor, classes: Tensor | None) -> Tensor:
        """Computes the evidence.

        Args:
            features: Feature maps `(B, h, w, C)`, or tokens `(B, T, C)`.
            classes: Integers `(B, n)`; None for all classes, in their order.

        Returns:
            Signed maps `(B, h, w, n)`, or `(B, h, w, K)`; float32.
        """
        features = ops.convert_to_tensor(features)
        if self._exact is not None:
            return self._exact(features, classes)
        nothing = self.split.shown(self._emptied(features))
        nothing = ops.expand_dims(nothing, axis=(1, 2))
        maps = self._of_all_classes(features) - nothing
        return maps if classes is None else of_classes(maps, classes)

    def _emptied(self, features: Tensor) -> Tensor:
        """Sets a map, or the patches of tokens, to zero."""
        if self.split.tokens is None:
            return ops.zeros_like(features[:1])  # The same for all images.
        maps = ops.zeros_like(self.split.map_of(features))
        return self.split.with_map(features, maps)

    def of_single_locations(self, features: Tensor, classes: Tensor) -> Tensor:
        """Computes the logits of maps of which one location is left.

        Args:
            features: Feature maps `(B, h, w, C)`, or tokens `(B, T, C)`.
            classes: Integers `(B, n)`.

        Returns:
            Logits `(B, h, w, n)`, float32: what Recipro-CAM shows.
        """
        return of_classes(self._of_all_classes(features), classes)

    def _of_all_classes(self, features: Tensor) -> Tensor:
        """Gives the head each location alone, `(B, h, w, K)`."""
        batch, height, width, channels = ops.shape(self.split.map_of(features))
        if self.split.averages:
            # All that the head sees is the mean of a map, which is that of
            # its one location, divided by the number of locations.
            count = ops.cast(height * width, features.dtype)
            alone = ops.reshape(features / count, (-1, 1, 1, channels))
            logits = self.split.shown(alone)
        else:
            logits = self._by_masks(features)
        return ops.reshape(logits, (batch, height, width, logits.shape[-1]))

    def _by_masks(self, features: Tensor) -> Tensor:
        """Gives the head each location with zeros around, some at once."""
        maps = self.split.map_of(features)
        height, width, channels = ops.shape(maps)[1:]
        count = height * width
        size = count
        if isinstance(count, int):  # Of an open size a graph knows it later.
            chunks = math.ceil(count**2 * channels / _VALUES_AT_ONCE)
            size = math.ceil(count / min(chunks, count))
        starts = range(0, count, size) if isinstance(count, int) else [0]
        # Constants where they can be: OpenVINO reads no graph that makes one.
        eye = np.eye(count) if isinstance(count, int) else ops.eye(count)
        identity = ops.cast(eye, features.dtype)
        flat = ops.reshape(maps, (-1, 1, count, channels))
        parts = []
        for start in starts:
            mask = identity[start : start + size]
            copies = ops.shape(mask)[0]
            masked = flat * mask[None, :, :, None]  # (B, n, h w, C)
            masked = ops.reshape(masked, (-1, height, width, channels))
            masked = self.split.with_map(features, masked, copies)
            logits = self.split.shown(masked)
            parts.append(ops.reshape(logits, (-1, copies, logits.shape[-1])))
        return ops.concatenate(parts, axis=1)
