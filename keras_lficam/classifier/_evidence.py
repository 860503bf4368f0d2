"""Signed evidence of a class at each location of the last feature map."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam import functional
from keras_lficam.classifier._view import Classifier
from keras_lficam.functional import Tensor
from keras_lficam.surgery import averages_the_map

# Values of masked feature maps that the head is given at once, of an image.
_VALUES_AT_ONCE = 2**21


class Evidence:
    """Computes what each location of the feature map says of the classes.

    Where the logits are linear in the average of the map, that is the class
    evidence, whose mean over the map and the bias are the logit. For any other
    head it is that of Recipro-CAM: the logit of a feature map of which one
    location alone is left, less that of a feature map of zeros. It needs no
    gradient, but as many passes of the head as there are locations.

    A classifier that shows probabilities and no logits, because it ends with an
    unusual activation, is asked for those: its evidence is in their unit, and
    never exact.

    Args:
        classifier: The classifier, which must show its logits, or
            probabilities.
        layer: Name of the layer whose output is the feature map; by default
            what the last global pooling or flattening takes.

    Attributes:
        split: The classifier, split at the feature map.
        exact: Whether the mean of the evidence and the bias are the logit.

    Raises:
        ValueError: If the classifier shows neither logits nor probabilities,
            or there is no such feature map.

    Reference:
        Zhou et al., 2016, https://arxiv.org/abs/1512.04150; Byun and Lee,
        2022, https://arxiv.org/abs/2209.14074, with a mask of one location.
    """

    def __init__(self, classifier: Classifier, layer: str | None = None):
        if classifier.gives != "probabilities":
            classifier.check_logits()
        self._classifier = classifier
        self.split = classifier.split(layer)
        self.exact = classifier.shows_logits and self.split.linear is not None

    @property
    def kernel(self) -> Any:
        """The weights `(C, K)` of a linear head, as they are now, float32."""
        linear = self.split.linear
        assert linear is not None, "the head is not linear"
        kernel = ops.reshape(linear.kernel, (-1, linear.kernel.shape[-1]))
        return self._classifier.logits_of_all_classes(kernel)

    @property
    def bias(self) -> Any:
        """The bias of each class `(K,)`, float32; None if not exact."""
        linear = self.split.linear
        if linear is None or not self.exact:
            return None
        if not linear.use_bias:
            return np.zeros(self._classifier.num_classes, "float32")
        bias = ops.convert_to_tensor(linear.bias)
        every = self._classifier.logits_of_all_classes(bias[None])[0]
        return ops.convert_to_numpy(every)

    def __call__(self, features: Tensor, classes: Tensor | None) -> Tensor:
        """Computes the evidence.

        Args:
            features: Feature maps `(B, h, w, C)`.
            classes: Integers `(B, n)`; None for all classes, in their order.

        Returns:
            Signed maps `(B, h, w, n)`, or `(B, h, w, K)`; float32.
        """
        features = ops.convert_to_tensor(features)
        if self.exact:
            # In half precision the sum would be rounded.
            wide = ops.cast(features, "float32")
            return functional.class_evidence(wide, self.kernel, classes)
        nothing = self.split.shown(ops.zeros_like(features[:1]))
        maps = self._of_all_classes(features) - nothing
        return maps if classes is None else _of_classes(maps, classes)

    def of_single_locations(self, features: Tensor, classes: Tensor) -> Tensor:
        """Computes the logits of maps of which one location is left.

        Args:
            features: Feature maps `(B, h, w, C)`.
            classes: Integers `(B, n)`.

        Returns:
            Logits `(B, h, w, n)`, float32: what Recipro-CAM shows.
        """
        return _of_classes(self._of_all_classes(features), classes)

    def _of_all_classes(self, features: Tensor) -> Tensor:
        """Gives the head each location alone, `(B, h, w, K)`."""
        batch, height, width, channels = ops.shape(features)
        pooling = self.split.operations[0]
        if averages_the_map(pooling) and not isinstance(
            pooling, keras.layers.AveragePooling2D
        ):
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
        height, width, channels = ops.shape(features)[1:]
        count = height * width
        size = count
        if isinstance(count, int):  # Of an open size a graph knows it later.
            chunks = math.ceil(count**2 * channels / _VALUES_AT_ONCE)
            size = math.ceil(count / min(chunks, count))
        starts = range(0, count, size) if isinstance(count, int) else [0]
        # Constants where they can be: OpenVINO reads no graph that makes one.
        eye = np.eye(count) if isinstance(count, int) else ops.eye(count)
        identity = ops.cast(eye, features.dtype)
        flat = ops.reshape(features, (-1, 1, count, channels))
        parts = []
        for start in starts:
            mask = identity[start : start + size]
            masked = flat * mask[None, :, :, None]  # (B, n, h w, C)
            masked = ops.reshape(masked, (-1, height, width, channels))
            logits = self.split.shown(masked)
            shape = (-1, ops.shape(mask)[0], logits.shape[-1])
            parts.append(ops.reshape(logits, shape))
        return ops.concatenate(parts, axis=1)


def _of_classes(maps: Tensor, classes: Tensor) -> Tensor:
    """Takes the maps `(B, h, w, n)` of classes `(B, n)` out of all."""
    index = ops.cast(classes, "int32")[:, None, None]  # (B, 1, 1, n)
    shape = (*ops.shape(maps)[:3], ops.shape(classes)[-1])
    index = ops.broadcast_to(index, shape)
    return ops.take_along_axis(maps, index, axis=-1)
