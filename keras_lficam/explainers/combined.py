"""Explainers that combine the maps of several layers."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_lficam import functional
from keras_lficam.explainers.base import Explainer
from keras_lficam.explainers.gradient import LayerCAM
from keras_lficam.functional import Tensor


class RefineCAM(Explainer):
    """Multiplies the maps of a coarse layer and of finer ones.

    With the map of each layer as `LayerCAM` makes it, min-max normalized and
    interpolated to the size of the image,

        map = s(prod_l up(s(ReLU(sum_k ReLU(g_lkij) F_lkij))))

    so the late layer says where the class is, and an early one how far it
    reaches. The authors multiply maps of any method; this takes `LayerCAM`,
    which is made for early layers as well.

    A location that one layer leaves out is left out of the product. So a layer
    whose map is empty empties the whole map: where no location of it speaks for
    the class the result is zero everywhere, whatever the other layers show.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        layers: Names of two or more layers whose outputs are the feature maps,
            in any order. By default the map that the last global pooling or
            flattening takes, and the last map before it that is finer.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images, of four times
            their finest feature map, and in bytes `8 * H * W` for each image
            and layer.

    Raises:
        TypeError: If `model` is no `keras.Model`, or `layers` no list of
            names.
        ValueError: If there is no such layer, or another path goes around it,
            or fewer than two are named or found, or the model does not show
            its logits.

    Reference:
        Domeniconi et al., 2026, https://arxiv.org/abs/2605.14641.

    Examples:
        maps = RefineCAM(model)(images)
    """

    class_specific = True

    def __init__(
        self,
        model: keras.Model,
        *,
        layers: Sequence[str] | None = None,
        activation: str | None = None,
        chunk_size: int = 32,
    ):
        super().__init__(model, activation=activation, chunk_size=chunk_size)
        self.layers = None if layers is None else _checked_layers(layers)
        self._parts = [
            LayerCAM(model, layer=name, activation=activation)
            for name in self.layers or (self.classifier.finer_layer(), None)
        ]

    @property
    def passes(self) -> tuple[int, int]:
        return 1 + len(self._parts), len(self._parts)

    def _explain(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> Tensor:
        if classes is None:
            # Once for all, or rounding may choose another for a layer.
            scores = self.classifier.predicted_scores(images)
            classes = scores.argmax(axis=-1).astype("int32")
        maps = [part._explain(images, classes) for part in self._parts]
        return functional.min_max(math.prod(maps))


def _checked_layers(layers: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(layers, (list, tuple)) or not all(
        isinstance(name, str) for name in layers
    ):
        raise TypeError(
            "Argument `layers` must be a list of names of layers. "
            f"Received: layers={layers!r:.80} of type {type(layers).__name__}. "
            "To fix this: layers=['one', 'another']."
        )
    names = tuple(layers)
    if len(names) < 2 or any(names.count(name) > 1 for name in names):
        raise ValueError(
            "Argument `layers` must hold the names of at least two layers, "
            f"each once. Received: layers={layers!r:.80}. To fix this: "
            "layers=['one', 'another'], or LayerCAM for one."
        )
    return names
