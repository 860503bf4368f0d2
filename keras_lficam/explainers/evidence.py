"""Explainers that read what each location adds to a class, gradient-free."""

import abc

import keras
from keras import ops

from keras_lficam import functional
from keras_lficam.classifier import Evidence, Halves
from keras_lficam.explainers.base import OneCallExplainer
from keras_lficam.functional import Tensor


class _OfLocations(OneCallExplainer):
    """Base of the explainers that ask the head about each location."""

    class_specific = True

    def __init__(
        self,
        model: keras.Model,
        *,
        layer: str | None = None,
        grid: tuple[int, int] | None = None,
        split: Halves | None = None,
        activation: str | None = None,
        chunk_size: int = 32,
    ):
        super().__init__(model, activation=activation, chunk_size=chunk_size)
        self._evidence = evidence = Evidence(
            self.classifier, layer, grid=grid, halves=split
        )
        parts = evidence.split

        def maps(images: Tensor, classes: Tensor | None = None) -> Tensor:
            features = parts.features(images)
            if classes is None:
                classes = ops.argmax(parts.shown(features), axis=-1)
            classes = ops.expand_dims(classes, axis=-1)  # (B, 1)
            coarse = self._coarse(evidence, features, classes)
            return parts.geometry.upsample(coarse, ops.shape(images)[1:3])

        self._compile(maps)

    def _passes_of_locations(self, others: int) -> tuple[int | None, int]:
        """One for each location, and others; None for images of any size."""
        height, width, _ = self._evidence.split.shape
        if height is None or width is None:
            return None, 0
        return others + height * width, 0

    @staticmethod
    @abc.abstractmethod
    def _coarse(
        evidence: Evidence, features: Tensor, classes: Tensor
    ) -> Tensor:
        """Makes maps `(B, h, w, 1)` in [0, 1] of classes `(B, 1)`."""


class ClassEvidence(_OfLocations):
    """Shows the positive evidence for a class, of the pass that classifies.

    One forward pass, no gradient. Behind a global average pooling and one
    dense layer, or a 1x1 convolution,

        map = s(ReLU(sum_k W_kc F_k))

    with the feature map `F` that is pooled, which in a model of `build` is
    the attended one, and the min-max normalization `s`; there it equals
    `GradCAM` and `HiResCAM`. Behind a flattening each location has weights
    `W` of its own; where the pooled channels are the classes the map is that
    channel. For any other head the evidence is that of
    Recipro-CAM, by one pass of the head for each location. The signed values,
    whose mean is the logit, are given by `keras_lficam.explanation_view`:
    behind ReLU and `s` they do not add up to it.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        layer: Name of the layer whose output is the feature map. By default
            that is what the last global pooling or flattening takes.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images.

    Attributes:
        exact: Whether the evidence adds up to the logit.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If there is no such layer, or another path goes around it,
            or the model does not show its logits.

    Reference:
        Zhou et al., 2016, https://arxiv.org/abs/1512.04150; Brendel and
        Bethge, 2019, https://arxiv.org/abs/1904.00760.

    Examples:
        maps = ClassEvidence(model)(images)
    """

    @property
    def exact(self) -> bool:
        return self._evidence.exact

    @property
    def passes(self) -> tuple[int | None, int]:
        # Of the image; of an empty map; and of each location.
        return (1, 0) if self.exact else self._passes_of_locations(2)

    @staticmethod
    def _coarse(
        evidence: Evidence, features: Tensor, classes: Tensor
    ) -> Tensor:
        return functional.min_max(ops.relu(evidence(features, classes)))


class ReciproCAM(_OfLocations):
    """Shows the logit that each location of the feature map has alone.

    One forward pass of the model, and one of its head for each of the `h w`
    locations; no gradient. With the head `H` from feature map to logits,

        map = s(H(F * onehot_ij)_c)

    where `onehot_ij` keeps a location of all channels and sets the others to
    zero, and `s` is the min-max normalization. The authors also blur the mask
    over 3x3 locations, which this does not.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        layer: Name of the layer whose output is the feature map. By default
            that is what the last global pooling or flattening takes.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        activation: `"softmax"` or `"sigmoid"` if the model gives logits and
            that is not seen from its last layer.
        chunk_size: Number of images that go through the model at once. The
            memory is that of a prediction of as many images, and 8 MB of each
            image's masked feature maps; where the head begins with a global
            average pooling these are not made.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If there is no such layer, or another path goes around it,
            or the model does not show its logits.

    Reference:
        Byun and Lee, 2022, https://arxiv.org/abs/2209.14074, equation 2.

    Examples:
        maps = ReciproCAM(model)(images)
    """

    @property
    def passes(self) -> tuple[int | None, int]:
        return self._passes_of_locations(1)

    @staticmethod
    def _coarse(
        evidence: Evidence, features: Tensor, classes: Tensor
    ) -> Tensor:
        return functional.min_max(
            evidence.of_single_locations(features, classes)
        )
