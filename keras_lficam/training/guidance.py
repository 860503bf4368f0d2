"""Guidance: a map of the model is taught where the object is."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam import functional
from keras_lficam._checks import check_choice
from keras_lficam.classifier import Classifier, training_activation
from keras_lficam.data.targets import map_targets
from keras_lficam.functional import Placement, Tensor
from keras_lficam.surgery import Graph, LinearHead, Term, named_outputs

GUIDED = ("attention", "evidence")
OUTPUT = "guidance"
# A cell of a map counts as inside an object that covers this share of it: of
# thin objects, as a crack or a stroke, no cell would be inside else.
_INSIDE = 0.25


def _energy(maps: Tensor, masks: Tensor) -> Tensor:
    """`1 - sum(A m) / sum(A)`; 1 where the map is empty."""
    total = ops.sum(maps, axis=(1, 2))
    inside = ops.sum(maps * masks, axis=(1, 2))
    return 1 - _quotient(inside, total)


def _mask(maps: Tensor, masks: Tensor) -> Tensor:
    """`mean(|A / max(A) - m|)`."""
    return ops.mean(ops.abs(_by_maximum(maps) - masks), axis=(1, 2))


def _outside(maps: Tensor, masks: Tensor) -> Tensor:
    """`mean(((1 - m) A)^2)`."""
    return ops.mean(ops.square((1 - masks) * maps), axis=(1, 2))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "energy": _energy,
    "mask": _mask,
    "outside": _outside,
}


def _by_maximum(maps: Tensor) -> Tensor:
    return _quotient(maps, ops.max(maps, axis=(1, 2), keepdims=True))


def _quotient(x: Tensor, y: Tensor) -> Tensor:
    """`x / y`; 0, and so is its gradient, where `y` is 0."""
    positive = y > keras.config.epsilon()
    safe = ops.where(positive, y, ops.ones_like(y))
    return ops.where(positive, x / safe, ops.zeros_like(x))


@keras.saving.register_keras_serializable(package="keras_lficam")
class GuidanceLoss(keras.losses.Loss):
    """Tells how far a map lies outside of the mask of the object.

    Negative values of a map, which are evidence against a class, count as 0.
    With the map `A` and the mask `m`, each over the cells of the map:

    - `"energy"`: `1 - sum(A m) / sum(A)`, the share of the map outside the
      mask; 1 for an empty map. It does not say where inside the map should
      be bright.
    - `"mask"`: `mean(|A / max(A) - m|)`. The map should fill the mask.
    - `"outside"`: `mean(((1 - m) A)^2)`, in the unit of the map, squared; 0
      for an empty map.

    The first two are in [0, 1] and know no unit: a map that is strong has a
    small gradient. Of evidence, which grows while a model learns, the third
    pushes back the more the stronger it is. All are finite, with finite
    gradients, for empty maps and masks.

    Args:
        form: `"energy"`, `"mask"` or `"outside"`.
        name: Name of the loss.
        reduction: As for `keras.losses.Loss`.
        dtype: As for `keras.losses.Loss`.

    Call arguments:
        y_true: Masks `(B, h, w, C)` in [0, 1]; NaN where there is none. A map
            without a mask carries no loss.
        y_pred: Maps `(B, h, w, C)`. Where `C` is more than 1, the loss is the
            mean of those with a mask.

    Raises:
        ValueError: If `form` is another.

    Reference:
        Rao et al., 2023, https://arxiv.org/abs/2303.11932, whose energy loss
        is the first, with maps that are computed from gradients; Ross et al.,
        2017, https://arxiv.org/abs/1703.03717, who square what lies outside,
        as the third, of input gradients.

    Examples:
        >>> maps = np.array([[[[3.0], [1.0]]]])
        >>> masks = np.array([[[[1.0], [0.0]]]])
        >>> GuidanceLoss(reduction=None)(masks, maps)
        # [0.25]
    """

    def __init__(
        self,
        form: str = "energy",
        name: str = "guidance_loss",
        reduction: str = "sum_over_batch_size",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        check_choice("form", form, LOSSES)
        self.form = form

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        maps = ops.relu(ops.cast(y_pred, "float32"))
        masks = ops.cast(y_true, "float32")
        unknown = ops.isnan(masks)
        masks = ops.where(unknown, ops.zeros_like(masks), masks)
        known = ops.cast(~ops.any(unknown, axis=(1, 2)), "float32")
        losses = LOSSES[self.form](maps, masks)  # (B, C)
        count = ops.maximum(ops.sum(known, axis=-1), 1)
        return ops.sum(losses * known, axis=-1) / count

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        return config | {"form": self.form}


class Guidance:
    """A model with a map of its own as an output that can be taught.

    Args:
        model: Functional or Sequential classifier `(B, H, W, channels)`, of a
            fixed size. It is not changed.
        guided: `"attention"`, the attention map of a model of `build` or
            `attach`; or `"evidence"`, the class evidence of the classes of an
            image, which any model has whose head is a global average pooling
            and one dense layer. Where the classes exclude each other it is
            taken less its mean over all classes, which a softmax does not
            see: else the model could keep evidence outside of the object as
            evidence against all other classes.
        form: As for `GuidanceLoss`.

    Attributes:
        model: A model that shares all layers and weights. Its outputs are a
            dictionary: those of the classifier, of one alone by the name
            `predictions`, and `guidance`, the map `(B, h, w, 1)` in [0, 1], or
            the signed evidence `(B, h, w, K)`, of a softmax less its mean.
        loss: The `GuidanceLoss` for the output `guidance`.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If an argument is of another value, or the model has not
            such a map.

    Reference:
        Rao et al., 2023, https://arxiv.org/abs/2303.11932.

    Examples:
        guidance = keras_lficam.training.Guidance(model)
        guidance.model.compile(
            "adam",
            {
                "predictions": "sparse_categorical_crossentropy",
                "guidance": guidance.loss,
            },
        )
    """

    def __init__(
        self,
        model: keras.Model,
        guided: str = "attention",
        form: str = "energy",
    ):
        check_choice("guided", guided, GUIDED)
        self.guided = guided
        self.loss = GuidanceLoss(form)
        classifier = Classifier(model, training_activation(model))
        if guided == "attention":
            tensor, geometry = attention_of(model, classifier)
        else:
            tensor, geometry = _evidence(model, classifier)
        self.model = with_output(model, OUTPUT, tensor)
        shape = model.input_shape[1:3], tensor.shape[1:3]
        if None in (*shape[0], *shape[1]):
            raise ValueError(
                "Argument `model` must take images of one size, so that masks "
                f"can be resized to its map. Received: {model.name!r} with "
                f"input shape {model.input_shape}. To fix this: build it with "
                "input_shape, such as (224, 224, 3)."
            )
        self._shape = tuple(tensor.shape[1:])
        placements = geometry.placements(shape[0], tensor.shape)
        self._windows = [
            cell_windows(count, placement)
            for count, placement in zip(shape[1], placements, strict=True)
        ]

    def targets(self, masks: Any, labels: Any = None) -> Any:
        """Resizes masks to the map, by the area that each cell stands for.

        For the loss `"mask"` a cell has the share of it that is object. For
        the others it has four times as much, at most 1: where a quarter of a
        cell is object, the map may be bright. Cells are large, and of a thin
        object, such as a crack, none would be inside otherwise.

        Args:
            masks: Masks `(B, H, W, 1)` in [0, 1], at the size of the images;
                NaN for an image without one. None for no masks at all.
            labels: Labels of the images: integers `(B,)`, or `(B, K)`, of
                which those above 0.5 are the classes of an image. Needed for
                `"evidence"`, and where masks are None.

        Returns:
            float32 tensor `(B, h, w, 1)`, or `(B, h, w, K)` with the mask for
            each class of the image; NaN for the other classes, and for images
            without a mask.

        Examples:
            guidance = keras_lficam.training.Guidance(model)
            targets = guidance.targets(np.ones((4, *model.input_shape[1:3], 1)))
        """
        inside = 1.0 if self.loss.form == "mask" else _INSIDE
        classes = self._shape[-1] if self.guided == "evidence" else None
        return map_targets(
            masks, labels, self._windows, inside=inside, classes=classes
        )


def attention_of(
    model: keras.Model, classifier: Classifier
) -> tuple[keras.KerasTensor, Any]:
    """Finds the attention map of a model.

    Args:
        model: The model.
        classifier: The view of it.

    Returns:
        The tensor `(B, h, w, 1)` in the graph of the model, and the geometry
        of its cells.

    Raises:
        ValueError: If it has none.
    """
    names = {layer.name for layer in model.layers}
    if not names.issuperset({"attention", "attention_map"}):
        raise ValueError(
            "Argument `model` must have an attention map to be guided. "
            f"Received: {model.name!r} without a layer 'attention_map'. To "
            "fix this: keras_lficam.build or attach makes one; or "
            "guided='evidence', which needs none."
        )
    geometry = classifier.output_of("attention_map").geometry
    return model.get_layer("attention_map").output, geometry


def _evidence(model: keras.Model, classifier: Classifier) -> tuple[Any, Any]:
    split = classifier.split()
    scores = named_outputs(model)["predictions"]
    graph = Graph(model.name, model.inputs[0], scores)
    location, _ = graph.find_map()
    frames, features = [*location.frames], location.tensor
    while frames and features is frames[-1].begin:
        # What a nested head takes is what it is called on.
        features = frames.pop().entry
    term = _only_term(split.linear)
    if term is None or len(features.shape) != 4 or frames:
        reason = (
            "whose head is another"
            if term is None or len(features.shape) != 4
            else "whose feature map lies inside a nested model"
        )
        raise ValueError(
            "Argument `model` must end with a global average pooling and one "
            "dense layer for its class evidence to be guided. Received: "
            f"{model.name!r}, {reason}. To fix this: guided='attention', with "
            "a model of keras_lficam.build or attach; or put the pooling and "
            "the dense layer behind the feature map of the model."
        )
    evidence = _ClassEvidence(term, relative=classifier.activation == "softmax")
    return evidence(features), split.geometry


def _only_term(head: LinearHead | None) -> Term | None:
    """How a layer weighs the average of the map, if that is all of a head."""
    if head is None or len(head.terms) != 1:
        return None
    (term,) = head.terms
    is_simple = term.is_mean and not term.first and term.layer is not None
    return term if is_simple else None


def with_output(
    model: keras.Model, name: str, tensor: keras.KerasTensor
) -> keras.Model:
    """Makes a model of the same layers with one more output.

    Args:
        model: The model.
        name: Name of the output.
        tensor: What it is.

    Returns:
        A model with a dictionary of outputs. That of a model with one is
        called `predictions`.
    """
    outputs = named_outputs(model) | {name: tensor}
    made = keras.Model(model.inputs[0], outputs, name=model.name)
    # By it Keras decides whether the loss is scaled.
    made.dtype_policy = model.dtype_policy
    return made


class _ClassEvidence(keras.layers.Layer):
    """The evidence of all classes, by the weights of the model's own head."""

    def __init__(self, term: Term, *, relative: bool):
        # In half precision the sum would be rounded.
        super().__init__(dtype="float32", name=OUTPUT)
        self.linear: Any = term.layer
        self.scale = term.scale
        self.relative = relative

    def call(self, features: Tensor) -> Tensor:
        kernel = self.linear.kernel
        kernel = self.scale * ops.reshape(kernel, (-1, kernel.shape[-1]))
        if self.relative:
            kernel = kernel - ops.mean(kernel, axis=-1, keepdims=True)
        return functional.class_evidence(features, kernel)


def cell_windows(count: int, placement: Placement) -> np.ndarray:
    """Weights of the pixels in the mean over each cell, along one axis.

    Args:
        count: Number of cells.
        placement: Where they lie along an axis of the image.

    Returns:
        Array `(count, length)`, float64, by what share of its cell a pixel
        covers; rows add up to 1, or to 0 of a cell outside of the image.

    Examples:
        whole = Placement(4, center=0.5, stride=2, low=-0.5, high=3.5)
        cell_windows(2, whole)  # [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    """
    length, center, stride = placement[:3]
    centers = center + stride * np.arange(count)[:, None]
    begins, ends = centers - abs(stride) / 2, centers + abs(stride) / 2
    pixels = np.arange(length)
    covered = np.minimum(ends, pixels + 0.5) - np.maximum(begins, pixels - 0.5)
    covered = np.maximum(covered, 0)
    total = covered.sum(axis=1, keepdims=True)
    return np.asarray(covered / np.where(total > 0, total, 1))
