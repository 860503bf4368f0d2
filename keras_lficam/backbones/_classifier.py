"""A trained classifier as it is, seen through: its answers and its map."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam.backbones._graph import check_graph
from keras_lficam.backbones._split import (
    activation_of,
    has_space,
    no_map,
    passes_scores_on,
    takes_the_map,
)
from keras_lficam.backbones._ways import (
    Chain,
    Place,
    calls_backwards,
    is_nested,
    way,
)

_PROBABILITIES = {
    "softmax": keras.activations.softmax,
    "sigmoid": keras.activations.sigmoid,
}


class Classifier:
    """Looks through a classifier without touching it.

    No layer is copied or called anew, so it stays true while the model learns,
    and the model is saved as before. Models nested in the model are looked
    into.

    Args:
        model: Functional or Sequential model, flat or nested, from images
            `(B, H, W, 3)` to scores `(B, K)`; of several outputs, the one
            called `predictions`.
        activation: What turns its scores into probabilities: `"softmax"` or
            `"sigmoid"` if it gives logits, `"linear"` if it gives
            probabilities. By default it is found out from the last layer.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If it is a subclassed model, or has not one input and one
            such output, or `activation` contradicts its last layer.

    Attributes:
        model: The model.
        image_shape: Shape `(H, W, 3)` of its images; None where any fits.
        num_classes: Number of classes, `K`.
        gives: What its scores are: `"probabilities"`, `"logits"`, or None if
            that is not known.
    """

    def __init__(self, model: keras.Model, activation: str | None = None):
        check_graph(model)
        self.model = model
        self.image_shape = tuple(model.inputs[0].shape[1:])
        output = _scores_of(model)
        self.num_classes = output.shape[-1]
        self._begin, self._finish = (
            Place((), tensor) for tensor in (model.inputs[0], output)
        )
        self._calls = list(calls_backwards(model.inputs[0], output))
        self._end = _end_of(self._calls)
        self._found = _name_of_activation(self._end.operation)
        _check_activation(activation, self._found, model)
        self._activation = activation
        self.gives: str | None
        if self._found in _PROBABILITIES or activation == "linear":
            self.gives = "probabilities"
        elif self._found == "linear" or activation in _PROBABILITIES:
            self.gives = "logits"
        else:
            self.gives = None
        self._whole = Chain(way(self._begin, self._finish))

    def scores(self, images: Any) -> Any:
        """What the model gives for images, `(B, K)`, float32."""
        return ops.cast(self._whole(images), "float32")

    def probabilities(self, images: Any) -> Any:
        """Probabilities of the classes.

        Args:
            images: Images `(B, H, W, 3)`, as the model takes them.

        Returns:
            Tensor `(B, K)`, float32, in [0, 1].
        """
        return self.as_probabilities(self.scores(images))

    def as_probabilities(self, scores: Any) -> Any:
        """Turns what the model gives, `(B, K)`, into probabilities."""
        self.check_probabilities()
        if self._activation is None or self.gives == "probabilities":
            return scores
        return _PROBABILITIES[self._activation](scores)

    def check_probabilities(self) -> None:
        """Raises a ValueError unless it is known how to get probabilities."""
        if self.gives != "probabilities" and self._activation is None:
            gives = self.gives or "scores of an unknown kind"
            raise ValueError(
                f"Model {self.model.name!r} gives {gives}, of which this "
                "needs the probabilities. Ways out: activation='softmax' if "
                "one class is right, activation='sigmoid' if several may be, "
                "activation='linear' if its scores are probabilities already."
            )

    def check_logits(self) -> None:
        """Raises a ValueError unless the model shows its logits."""
        if self.gives is None or (
            self.gives == "probabilities" and self._found not in _PROBABILITIES
        ):
            raise ValueError(
                f"Model {self.model.name!r} ends with the layer "
                f"{self._end.operation.name!r}, which does not show the logits "
                "of its classes. Ways out: a model that ends with a softmax or "
                "a sigmoid; or activation='softmax' or 'sigmoid', if its "
                "scores are logits."
            )

    def checked_images(self, images: Any) -> np.ndarray:
        """Takes images `(B, H, W, 3)`, or one, as a finite array of float32.

        Raises:
            TypeError: If they hold no real numbers.
            ValueError: If there are none, or the model takes none of this
                shape, or they are not finite.
        """
        expected = self.image_shape
        images = ops.convert_to_numpy(images)
        given = images.shape
        if images.ndim == 3:
            images = images[np.newaxis]
        fits = images.ndim == 4 and all(
            size in (None, actual)
            for size, actual in zip(expected, images.shape[1:], strict=True)
        )
        if not fits or len(images) == 0:
            shape = ", ".join(
                "any" if size is None else str(size) for size in expected
            )
            raise ValueError(
                f"Argument `images` must have shape (batch, {shape}), or be a "
                f"single image ({shape}). Received: images.shape={given}"
            )
        # The kind of bfloat16, which is none of NumPy's own, is "V".
        if images.dtype.kind not in "biufV":
            raise TypeError(
                "Argument `images` must hold real numbers. "
                f"Received: images.dtype={images.dtype}"
            )
        with np.errstate(over="ignore"):  # What is too large is found below.
            images = images.astype("float32")
        bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        if bad.size:
            raise ValueError(
                "Argument `images` must be finite in float32. Received: NaN "
                f"or infinite pixels in the images at {bad.tolist()[:10]}. Way "
                "out: leave these out, or replace the pixels, as by "
                "numpy.nan_to_num."
            )
        return images

    def checked_classes(self, classes: Any, count: int) -> np.ndarray | None:
        """Takes a class for all of `count` images or for each; None as None.

        Raises:
            TypeError: If they are no integers.
            ValueError: If there is not one for each, or the model does not
                know them.
        """
        if classes is None:
            return None
        number = self.num_classes
        classes = np.asarray(ops.convert_to_numpy(classes))
        if not np.issubdtype(classes.dtype, np.integer):
            raise TypeError(
                "Argument `classes` must hold integers. "
                f"Received: classes.dtype={classes.dtype}"
            )
        if classes.shape not in ((), (count,)):
            raise ValueError(
                "Argument `classes` must be one integer, or one for each of "
                f"the {count} images. Received: classes.shape={classes.shape}"
            )
        if classes.size and not 0 <= classes.min() <= classes.max() < number:
            raise ValueError(
                f"Argument `classes` must lie between 0 and {number - 1}. "
                f"Received: classes={classes.tolist()}"
            )
        return np.broadcast_to(classes, (count,))

    def checked_answers(self, values: np.ndarray) -> np.ndarray:
        """Takes what was computed with the model, if it is finite.

        Raises:
            ValueError: If it is not.
        """
        if not np.isfinite(values).all():
            raise ValueError(
                f"Model {self.model.name!r} must give finite numbers. "
                "Received: NaN or infinite ones, for an image or for a changed "
                "one. Ways out: check the range of the pixels that the model "
                "takes; a dtype policy with a wider range, such as "
                "'mixed_bfloat16' instead of 'mixed_float16'."
            )
        return values

    def output_of(self, layer: str) -> "Output":
        """Finds what a layer makes of images.

        Args:
            layer: Name of a layer, which may lie in a nested model.

        Returns:
            An `Output`.

        Raises:
            ValueError: If there is no such layer.
        """
        for call in self._calls:
            if call.operation.name == layer:
                shape = tuple(call.after.tensor.shape)
                return Output(shape, Chain(way(self._begin, call.after)))
        raise ValueError(
            f"Argument `model` must have a layer {layer!r}, as a model made "
            f"by keras_lficam.build has. Received: {self.model.name!r} "
            "without it."
        )

    def cut(self, layer: str | None = None) -> "Cut":
        """Cuts the classifier at a feature map.

        Args:
            layer: Name of the layer whose output is the feature map; by
                default that is what the last global pooling or flattening
                takes.

        Returns:
            A `Cut`.

        Raises:
            ValueError: If there is no such map, or another path goes around
                it.
        """
        if layer is None:
            index, place = _last_map(self._calls, self.model)
        else:
            index, place = _named_map(self._calls, layer)
        end = self._end
        to_finish = Chain(way(place, self._finish))
        to_end = Chain(way(place, end.before))
        rest = Chain(way(end.after, self._finish))
        trunk = Chain(way(self._begin, place))
        try:
            for chain in (trunk, to_finish, to_end, rest):
                chain.build()
        except ValueError as error:
            if layer is None:  # A pooling inside a block.
                raise no_map(self.model.name, self.image_shape) from error
            raise ValueError(
                "Argument `layer` must be the name of a layer that everything "
                f"goes through. Received: layer={layer!r}, around which "
                f"another path goes in {self.model.name!r}."
            ) from error

        def scores(features):
            return ops.cast(to_finish(features), "float32")

        def logits(features):
            self.check_logits()
            if self._found not in _PROBABILITIES:
                return scores(features)
            x = _without_activation(end.operation, to_end(features))
            return ops.cast(rest(x), "float32")

        return Cut(
            shape=tuple(place.tensor.shape[1:]),
            features=trunk,
            scores=scores,
            logits=logits,
            operations=tuple(
                call.operation
                for call in reversed(self._calls[:index])
                if not is_nested(call.operation)
            ),
        )


@dataclasses.dataclass(frozen=True)
class Output:
    """What a layer gives: its shape, and the function from images to it."""

    shape: tuple[int | None, ...]
    function: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Cut:
    """A classifier in two functions of tensors of the backend.

    Attributes:
        shape: Shape `(h, w, C)` of the feature map.
        features: From images `(B, H, W, 3)` to the feature map
            `(B, h, w, C)`, in the model's dtype.
        scores: From the feature map to what the model gives, `(B, K)`,
            float32.
        logits: From the feature map to the logits `(B, K)`, float32: the
            scores before a softmax or sigmoid. A ValueError, if the model
            does not show them.
        operations: The layers behind the map, in their order.
    """

    shape: tuple[int | None, int | None, int]
    features: Callable[[Any], Any]
    scores: Callable[[Any], Any]
    logits: Callable[[Any], Any]
    operations: tuple[keras.Operation, ...]


def _scores_of(model):
    """Finds the output `(B, K)` of a model that holds the scores."""
    outputs = model.outputs
    if len(outputs) > 1:
        named = model.output if isinstance(model.output, dict) else {}
        outputs = [named[key] for key in named if key == "predictions"]
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            f"Model {model.name!r} must have one output, scores (batch, "
            "classes), or one called 'predictions'. Received: outputs of "
            f"shapes {[tensor.shape for tensor in model.outputs]}. Way out: "
            "keras.Model(model.input, the_output_with_the_scores)."
        )
    return outputs[0]


def _end_of(calls):
    """The last call that makes scores, not just passes them on."""
    for call in calls:
        operation = call.operation
        passes = isinstance(operation, keras.layers.Dropout) or is_nested(
            operation
        )
        if not passes and not passes_scores_on(operation):
            break
    return call


def _name_of_activation(operation):
    """Softmax, sigmoid or linear by its name; None if it is another."""
    activation = activation_of(operation)
    for name in ("softmax", "sigmoid", "linear"):
        if activation is getattr(keras.activations, name):
            return name
    return None


def _without_activation(layer, x):
    """Calls a layer without the softmax or sigmoid that it ends with."""
    if isinstance(layer, keras.layers.Softmax):
        return x
    kept, layer.activation = layer.activation, keras.activations.linear
    try:
        return layer(x)
    finally:
        layer.activation = kept


def _last_map(calls, model):
    """Finds the map that the last pooling takes, and its call's number."""
    follower = None
    for index, call in enumerate(calls):
        if is_nested(call.operation):
            continue
        before, after = call.before.tensor, call.after.tensor
        if takes_the_map(call.operation, before, after, follower):
            return index + 1, call.before
        follower = call.operation
    raise no_map(model.name, model.inputs[0].shape[1:])


def _named_map(calls, name):
    maps = {}
    for index, call in enumerate(calls):
        if has_space(call.after.tensor):
            maps.setdefault(call.operation.name, (index, call.after))
    if name not in maps:
        raise ValueError(
            "Argument `layer` must be the name of a layer whose output is a "
            "feature map (batch, rows, columns, channels) of at least 2x2; "
            f"the last of them are {list(maps)[:5][::-1]}. "
            f"Received: layer={name!r}"
        )
    return maps[name]


def _check_activation(activation, found, model):
    if activation not in (None, "linear", *_PROBABILITIES):
        raise ValueError(
            "Argument `activation` must be 'softmax', 'sigmoid', 'linear' or "
            f"None. Received: activation={activation!r}"
        )
    if found in _PROBABILITIES and activation in _PROBABILITIES:
        raise ValueError(
            f"Model {model.name!r} gives probabilities, for its last layer "
            f"ends with {found}; another activation would distort them. "
            f"Received: activation={activation!r}. Way out: leave it out."
        )
