"""A read-only view of a trained classifier: its scores and feature maps."""

import dataclasses
import functools
import weakref
from collections.abc import (
    Callable,
    Mapping,
    Sequence,
)
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import (
    array_of,
    check_finite,
    numbers_of,
    real_array,
)
from keras_lficam.classifier._chain import Chain
from keras_lficam.classifier._compiled import CompiledFunction, holding_also
from keras_lficam.classifier._exact import takes_all
from keras_lficam.classifier._geometry import Geometry
from keras_lficam.classifier._halves import (
    check_logits_agree,
    checked_grid,
    checked_halves,
    no_such_grid,
    patches_of,
    sample_of,
    without_traces,
)
from keras_lficam.classifier._split import (
    Halves,
    Patches,
    SplitFunctions,
    in_turn,
)
from keras_lficam.functional import Tensor
from keras_lficam.surgery import (
    Graph,
    LinearHead,
    Location,
    Tokens,
    averages_the_map,
    check_graph,
    check_images,
    find_tokens,
    has_space,
    last_activation,
    linear_head,
    node_of,
    path,
)

# What models give, compiled: to compile it for every metric and batch would
# take longer than all else. It holds the layers of a model, not the model, so
# that it ends with the model.
_compiled: weakref.WeakKeyDictionary[keras.Model, Any] = (
    weakref.WeakKeyDictionary()
)

# Cells that lie closer by this factor are finer, not rounded otherwise.
_FINER = 0.75
_BORDERS = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)

_PROBABILITIES = {
    "softmax": keras.activations.softmax,
    "sigmoid": keras.activations.sigmoid,
}


class Classifier:
    """Reads a classifier without touching it.

    No layer is copied or changed, so it stays true while the model learns, and
    the model is saved as before, with the same nodes in its layers. Models
    nested in the model are looked into. It can be used in several threads.

    A model with one score, the logit or the sigmoid of "yes", knows two
    classes: of class 1 the score is the model's, of class 0 it is the negated
    logit, or `1 - p`.

    Args:
        model: Functional or Sequential model, flat or nested, from images
            `(B, H, W, C)` to scores `(B, K)`; of several outputs, the one
            called `predictions`. Of several inputs one alone is an image; the
            others are held at given values, see `checked_context`.
        activation: What turns its scores into probabilities: `"softmax"` or
            `"sigmoid"` if it gives logits, `"linear"` if it gives
            probabilities. By default it is found out from the last layer.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If it is a subclassed model, or has not one image and one
            such output, or `activation` contradicts its last layer, or is a
            softmax of one score.

    Attributes:
        model: The model.
        image_shape: Shape `(H, W, C)` of its images; None where any fits.
        image_dtype: Type of its images, such as `"float32"`.
        num_scores: Number of scores that the model gives, `K`.
        num_classes: Number of classes: `K`, and 2 where the model has one
            score.
        activation: What turns its scores into probabilities, `"softmax"`,
            `"sigmoid"` or `"linear"`, wherever that is done; None if it is
            not known.
        gives: What its scores are: `"probabilities"`, `"logits"`, or None if
            that is not known.
    """

    def __init__(
        self, model: keras.Model, activation: str | None = None
    ) -> None:
        check_graph(model)
        self.model = model
        self._image = _image_of(model)
        self._others = [x for x in model.inputs if x is not self._image]
        self.image_shape = tuple(self._image.shape[1:])
        self.image_dtype: str = keras.backend.standardize_dtype(
            self._image.dtype
        )
        output = _scores_of(model)
        self._begin, self._finish = (
            Location((), tensor) for tensor in (self._image, output)
        )
        self._graph = Graph(model.name, self._image, output)
        self._found = _name_of(self._graph.end.activation)
        _check_activation(activation, self._found, model)
        is_one = output.shape[-1] == 1
        _check_one_score(activation, is_one, model)
        self._is_binary = is_one and self._found != "softmax"
        self.num_scores = output.shape[-1]
        self.num_classes = 2 if self._is_binary else self.num_scores
        self._told = activation
        self.activation = (
            self._found if self._found in _PROBABILITIES else activation
        )
        self.gives: str | None
        if self._found in _PROBABILITIES or activation == "linear":
            self.gives = "probabilities"
        elif self._found == "linear" or activation in _PROBABILITIES:
            self.gives = "logits"
        else:
            self.gives = None
        self._scores = Chain(self._begin, self._finish, self._image)

    def scores(self, images: Any) -> Any:
        """What the model gives for images, `(B, K)`, float32.

        With two columns where the model has one score.
        """
        return self.of_all_classes(self._scores(images))

    def logits(self, images: Any) -> Any:
        """Logits of the classes: the scores before a softmax or sigmoid.

        Args:
            images: Images `(B, H, W, C)`, as the model takes them.

        Returns:
            Tensor `(B, num_classes)`, float32.

        Raises:
            ValueError: If the model does not show them.
        """
        return self._logits_of_images(images)

    @functools.cached_property
    def _logits_of_images(self) -> Callable[[Any], Any]:
        return self._logits_from(self._begin)

    def _logits_from(
        self, location: Location, held: Location | None = None
    ) -> Callable[[Any], Any]:
        """A function from the tensor at a location to the logits.

        Raises:
            ValueError: If another path goes around the location.
        """
        steps = self._steps_to_logits(location, held)

        def logits(x: Tensor) -> Tensor:
            self.check_logits()
            return self.logits_of_all_classes(steps(x))

        return logits

    def _steps_to_logits(
        self, location: Location, held: Location | None = None
    ) -> Callable[[Any], Any]:
        """The same, of the classes that the model has; it holds no model.

        Raises:
            ValueError: If another path goes around the location.
        """
        end = self._graph.end
        steps: list[Callable[[Any], Any]]
        if self._found in _PROBABILITIES and end.can_be_reached:
            steps = [
                Chain(location, end.call.before, self._image, held=held),
                _without_activation(end.call.operation),
                Chain(end.call.after, self._finish, self._image),
            ]
        else:
            steps = [Chain(location, self._finish, self._image, held=held)]
        return in_turn(*steps)

    def of_all_classes(self, scores: Any) -> Any:
        """Turns what the model gives into a score for each class, float32.

        Args:
            scores: What the model gives, `(B, K)`, or `(B, 1)`; or such
                scores of all classes, which stay as they are.

        Returns:
            Tensor `(B, num_classes)`.
        """
        scores = ops.cast(scores, "float32")
        if self.gives != "probabilities":
            return self.logits_of_all_classes(scores)
        if not self._is_binary or scores.shape[-1] == 2:
            return scores
        return ops.concatenate([1 - scores, scores], axis=-1)

    def logits_of_all_classes(self, logits: Any) -> Any:
        """Adds the negated logit where the model has the one of "yes" alone.

        Args:
            logits: Tensor `(B, K)`, or whatever is linear in the logits, such
                as the weights `(C, K)` of the last layer.

        Returns:
            Tensor `(B, num_classes)`, float32.
        """
        logits = ops.cast(logits, "float32")
        if not self._is_binary or logits.shape[-1] == 2:
            return logits
        return ops.concatenate([-logits, logits], axis=-1)

    def predicted_scores(self, images: np.ndarray) -> np.ndarray:
        """Computes the scores of images, compiled.

        Args:
            images: Array `(B, H, W, C)`, as `checked_images` gives it.

        Returns:
            Array `(B, num_classes)`, float32.
        """
        compiled = self._compiled_once("scores", lambda: self._scores)
        scores: np.ndarray = ops.convert_to_numpy(
            self.of_all_classes(ops.convert_to_tensor(compiled.run(images)))
        )
        return scores

    def predicted_logits(self, images: np.ndarray) -> np.ndarray:
        """Computes the logits of images, compiled.

        Args:
            images: Array `(B, H, W, C)`, as `checked_images` gives it.

        Returns:
            Array `(B, num_classes)`, float32.

        Raises:
            ValueError: If the model does not show them.
        """
        self.check_logits()
        if self._found not in _PROBABILITIES:
            return self.predicted_scores(images)
        compiled = self._compiled_once(
            "logits", lambda: self._steps_to_logits(self._begin)
        )
        logits: np.ndarray = ops.convert_to_numpy(
            self.logits_of_all_classes(
                ops.convert_to_tensor(compiled.run(images))
            )
        )
        return logits

    def _compiled_once(
        self, name: str, make: Callable[[], Callable[..., Any]]
    ) -> CompiledFunction:
        """Compiles a function of the model, unless another object has."""
        finish = self._finish.tensor
        of_model = _compiled.setdefault(self.model, {})
        known, compiled = of_model.get(name, (None, None))
        if known is not finish:  # A Sequential model may have got layers.
            compiled = CompiledFunction(self.model, make())
            of_model[name] = finish, compiled
        found: CompiledFunction = compiled
        return found

    def probabilities(self, images: Any) -> Any:
        """Probabilities of the classes.

        Args:
            images: Images `(B, H, W, C)`, as the model takes them.

        Returns:
            Tensor `(B, num_classes)`, float32, in [0, 1].
        """
        return self.as_probabilities(self._scores(images))

    def as_probabilities(self, scores: Any) -> Any:
        """Turns what the model gives into probabilities of the classes.

        Args:
            scores: Scores as for `of_all_classes`.

        Returns:
            Tensor `(B, num_classes)`, float32, in [0, 1].

        Raises:
            ValueError: If it is not known how.
        """
        self.check_probabilities()
        scores = self.of_all_classes(scores)
        if self._told is None or self.gives == "probabilities":
            return scores
        return _PROBABILITIES[self._told](scores)

    def probabilities_of(self, logits: Any) -> Any:
        """Turns logits of all classes into probabilities.

        Args:
            logits: Tensor `(B, num_classes)`, as `SplitFunctions.logits` gives
                it.

        Returns:
            Tensor `(B, num_classes)`, float32, in [0, 1].

        Raises:
            ValueError: If it is not known how.
        """
        self.check_probabilities()
        if self.activation not in _PROBABILITIES:
            return self.as_probabilities(logits)
        return _PROBABILITIES[self.activation](logits)

    def check_probabilities(self) -> None:
        """Raises a ValueError unless it is known how to get probabilities."""
        if self.gives != "probabilities" and self._told is None:
            gives = self.gives or "scores of an unknown kind"
            ways = (
                "activation='sigmoid' if it has two classes and this is the "
                "logit of the second"
                if self._is_binary
                else "activation='softmax' if one class is right, "
                "activation='sigmoid' if several may be"
            )
            raise ValueError(
                f"Model {self.model.name!r} gives {gives}, of which this "
                f"needs the probabilities. To fix this: {ways}, "
                "activation='linear' if its scores are probabilities already."
            )

    @property
    def shows_logits(self) -> bool:
        """Whether the scores before a softmax or sigmoid can be seen."""
        if self._found in _PROBABILITIES:
            return self._graph.end.can_be_reached
        return self.gives == "logits"

    def check_logits(self) -> None:
        """Raises a ValueError unless the model shows its logits."""
        if not self.shows_logits:
            raise ValueError(
                f"Model {self.model.name!r} ends with the layer "
                f"{self._graph.end.call.operation.name!r}, which does not show "
                "the logits of its classes. To fix this: a model that ends "
                "with a softmax or a sigmoid; or activation='softmax' or "
                "'sigmoid', if its scores are logits; or keras_lficam.explain "
                "and explainers.ReciproCAM with activation='linear', which "
                "take probabilities for what they are."
            )

    def checked_images(self, images: Any) -> np.ndarray:
        """Takes images `(B, H, W, C)`, or one, as a finite array of float32.

        Raises:
            TypeError: If they hold no real numbers.
            ValueError: If there are none, or the model takes none of this
                shape, or they are not finite.
        """
        expected = self.image_shape
        images = real_array("images", images)
        given = images.shape
        if images.ndim == 3:
            images = images[np.newaxis]
        fits = images.ndim == 4 and all(
            size in (None, actual)
            for size, actual in zip(expected, images.shape[1:], strict=True)
        )
        if not fits or images.size == 0:
            shape = ", ".join(
                "any" if size is None else str(size) for size in expected
            )
            raise ValueError(
                f"Argument `images` must have shape (batch, {shape}), or be a "
                f"single image ({shape}), and hold at least one pixel. "
                f"Received: images.shape={given}"
            )
        check_finite("images", images, "pixels")
        checked: np.ndarray = images
        return checked

    def checked_context(
        self, context: Mapping[str, Any] | None, count: int
    ) -> dict[str, np.ndarray]:
        """Takes the values that the inputs beside the image are held at.

        Args:
            context: Values of each such input by its name, `(B, ...)`, or
                `(...)` for all images; None if there is no such input.
            count: Number of images, `B`.

        Returns:
            Arrays `(B, ...)` by the names of the inputs.

        Raises:
            TypeError: If it is no dictionary, or holds no real numbers.
            ValueError: If an input is missing or unknown, or its values have
                another shape, or are not finite.
        """
        expected = {x.name: tuple(x.shape[1:]) for x in self._others}
        context = {} if context is None else context
        if not isinstance(context, Mapping):
            raise TypeError(
                "Argument `context` must be a dictionary from the names of "
                "the inputs beside the image to their values. Received: "
                f"context={context!r} of type {type(context).__name__}"
            )
        if context.keys() != expected.keys():
            raise ValueError(
                "Argument `context` must hold a value for each input beside "
                f"the image, which are {sorted(expected)} in model "
                f"{self.model.name!r}. Received: {[*context]}. To fix "
                "this: context={name: values}, with values (batch, ...)."
            )
        return {
            name: _checked_values(name, context[name], shape, count)
            for name, shape in expected.items()
        }

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
        classes = array_of("classes", classes)
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
        # No backend takes every type as an index.
        return np.broadcast_to(classes.astype("int32"), (count,))

    def checked_answers(self, values: np.ndarray) -> np.ndarray:
        """Takes what was computed with the model, if it is finite.

        Raises:
            ValueError: If it is not.
        """
        if not np.isfinite(values).all():
            raise ValueError(
                f"Model {self.model.name!r} must give finite numbers. "
                "Received: NaN or infinite ones, for an image or for a changed "
                "one. To fix this: check the range of the pixels that the "
                "model takes; a dtype policy with a wider range, such as "
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
            ValueError: If there is no such layer, or its map cannot be
                brought back to the image.
        """
        for call in self._graph.calls:
            if call.operation.name == layer:
                shape = tuple(call.after.tensor.shape)
                chain = Chain(self._begin, call.after, self._image)
                geometry = Geometry(path(self._begin, call.after))
                return Output(shape, chain, geometry)
        raise ValueError(
            f"Argument `model` must have a layer {layer!r}, as a model made "
            f"by keras_lficam.build has. Received: {self.model.name!r} "
            "without it."
        )

    def finer_layer(self) -> str:
        """Finds a layer with a finer map than the one that the head takes.

        Returns:
            Name of the last layer whose cells lie closer in the image, and
            whose output everything goes through. A layer that only pads or
            crops, or has no weight behind the image, is none.

        Raises:
            ValueError: If there is no such layer.
        """
        split = self.split()
        stride, size = split.stride, split.shape[:2]
        calls = self._graph.calls
        seen = set()
        for index, call in enumerate(calls):
            name = call.operation.name
            shape = tuple(call.after.tensor.shape)
            if name in seen or not has_space(call.after.tensor):
                continue
            seen.add(name)
            if None not in size and shape[1:3] == size:
                continue  # Of as many cells; what follows takes longer to see.
            learns = any(
                getattr(x.operation, "weights", ()) for x in calls[index:]
            )
            if not learns or isinstance(call.operation, _BORDERS):
                continue
            try:
                self._path_to_scores(call.after, hold_image=True)
                found = Geometry(path(self._begin, call.after)).stride
            except ValueError:
                continue  # Another path goes around it, or it moves pixels.
            if found < _FINER * stride:
                return str(name)
        raise ValueError(
            f"Model {self.model.name!r} must have a layer whose map is finer "
            "than the last feature map, and that everything goes through. "
            "Received: none. To fix this: layers=['one', 'another'], named; or "
            "LayerCAM, which takes one."
        )

    def outputs_beside(self) -> dict[str, Location]:
        """Finds what the layers of the paper give, by their public names.

        Returns:
            Of a model made by `build` or `attach` the locations of
            `attention_map` and, of LFI-CAM, of `importance`; and of
            `features`, which the attention is applied to.
        """
        found: dict[str, Location] = {}
        for call in self._graph.calls:
            name = call.operation.name
            if name in ("attention_map", "importance"):
                found.setdefault(name, call.after)
            elif (
                name == "attention"
                and has_space(call.before.tensor)
                and call.before.tensor.shape == call.after.tensor.shape
            ):
                found.setdefault("features", call.before)
        return found if "attention_map" in found else {}

    def _path_to_scores(
        self, location: Location, *, hold_image: bool
    ) -> tuple[Chain, Location | None]:
        """Finds the path from a location to the scores, and what is held.

        Raises:
            ValueError: If another path goes around the location.
        """
        try:
            return Chain(location, self._finish, self._image), None
        except ValueError:
            held = self._seen_by_importance if hold_image else None
            if held is None:
                raise
            # What is held may be the image itself, of which no path is told
            # from another then: the features tell of the backbone's paths.
            features = self.outputs_beside()["features"]
            Chain(location, features, self._image)
            chain = Chain(location, self._finish, self._image, held=held)
            return chain, held

    @functools.cached_property
    def _seen_by_importance(self) -> Location | None:
        """The image as the importance network of LFI-CAM takes it."""
        if not {"importance", "features"} <= self.outputs_beside().keys():
            return None
        for call in self._graph.calls:
            if call.operation.name == "importance":
                # Image and features; a layer of others may have the name.
                inputs = node_of(call.after.tensor).input_tensors
                return call.before if len(inputs) == 2 else None
        return None

    def split(
        self,
        layer: str | None = None,
        *,
        grid: tuple[int, int] | None = None,
        halves: Halves | None = None,
        hold_image: bool = False,
    ) -> SplitFunctions:
        """Splits the classifier at a feature map.

        A transformer is split at the last tokens on whose patches the scores
        depend, which are a map but for the tokens in front of the patches.

        Args:
            layer: Name of the layer whose output is the feature map; by
                default that is what the last global pooling or flattening
                takes, or the tokens.
            grid: Rows and columns of the patches of tokens; by default they
                are found.
            halves: A function from images to a feature map or tokens, and one
                from there to the logits, in the place of both.
            hold_image: Whether a layer will do that the importance network
                of LFI-CAM goes around, which looks at the image, too. What it
                sees of the image must then be held: see
                `SplitFunctions.holding`.

        Returns:
            A `SplitFunctions`.

        Raises:
            TypeError: If `grid` or `halves` is no such pair.
            ValueError: If there is no such map, another path goes around it,
                or it cannot be brought back to the image.
        """
        grid = checked_grid(grid)
        if halves is not None:
            return self._split_by(checked_halves(halves, layer), grid)
        if grid is not None:
            tokens = find_tokens(self._graph, layer, grid)
            if tokens is None:
                raise no_such_grid(self.model.name, grid)
            return self._split_at_tokens(tokens)
        try:
            return self._split_at_map(layer, hold_image)
        except ValueError:
            tokens = find_tokens(self._graph, layer)
            if tokens is None:
                raise
        return self._split_at_tokens(tokens)

    def _split_at_map(
        self, layer: str | None, hold_image: bool
    ) -> SplitFunctions:
        location, operations = self._graph.find_map(layer)
        try:
            trunk = Chain(
                self._begin, location, self._image, self.outputs_beside()
            )
            to_finish, held = self._path_to_scores(
                location, hold_image=hold_image
            )
            logits = self._logits_from(location, held)
        except ValueError as error:
            raise self._graph.around(layer) from error

        def scores(features: Tensor) -> Tensor:
            return self.of_all_classes(to_finish(features))

        shape = tuple(location.tensor.shape[1:])
        geometry = Geometry(path(self._begin, location))
        return SplitFunctions(
            shape=shape,
            features=trunk,
            features_and_beside=trunk.with_beside,
            beside=trunk.beside,
            layer=location.tensor._keras_history.operation.name,
            scores=scores,
            logits=logits,
            shown=logits if self.shows_logits else scores,
            operations=operations,
            linear=self._linear_from(location, 0, shape),
            averages=averages_the_map(operations[0]),
            geometry=geometry,
            stride=geometry.stride,
            held=None
            if held is None
            else (held.tensor.name, Chain(self._begin, held, self._image)),
        )

    def _linear_from(
        self, location: Location, prefix: int, shape: tuple[int | None, ...]
    ) -> LinearHead | None:
        """How the logits are linear in the map, if they are."""
        end = self._graph.end.call.operation
        head = linear_head(
            location,
            self._finish.tensor,
            end if self._found in _PROBABILITIES else None,
        )
        return head if takes_all(head, prefix, shape) else None

    def _split_at_tokens(self, tokens: Tokens) -> SplitFunctions:
        """Splits the classifier at tokens, maybe inside a layer."""
        channels = tokens.location.tensor.shape[-1]
        shape = (*tokens.grid, channels)
        layer = tokens.location.tensor._keras_history.operation.name
        linear = None
        trunk: Callable[[Any], Any]
        to_finish: Callable[[Any], Any]
        logits: Callable[[Any], Any]
        if tokens.inside is not None:
            layer = tokens.inside.normalization.name
            trunk, to_finish, logits = self._halves_inside(tokens)
        elif tokens.normalized is not None:
            operation = tokens.normalized.tensor._keras_history.operation
            layer = operation.name
            trunk, to_finish, logits = self._halves_at_normalized(tokens)
        else:
            linear = self._linear_from(tokens.location, tokens.prefix, shape)
            trunk = Chain(self._begin, tokens.location, self._image)
            to_finish = Chain(tokens.location, self._finish, self._image)
            logits = self._logits_from(tokens.location)
        return self._split_of(
            layer,
            trunk,
            lambda features: self.of_all_classes(to_finish(features)),
            logits,
            shape,
            Patches(tokens.grid, tokens.prefix),
            tokens.source,
            linear,
            tokens.operations,
        )

    def _halves_at_normalized(
        self, tokens: Tokens
    ) -> tuple[Callable[[Any], Any], ...]:
        """Functions to normalized tokens, and from them to scores and logits.

        The tokens that go around the last attention are put beside them, as
        more channels.
        """
        held, location = tokens.normalized, tokens.location
        assert held is not None, "the tokens are normalized"
        trunk = Chain(self._begin, location, self._image)
        normalize = Chain(location, held, self._image)
        to_finish = Chain(location, self._finish, self._image, held=held)
        logits = self._logits_from(location, held)

        def features(images: Tensor) -> Tensor:
            stream = trunk(images)
            return ops.concatenate([normalize(stream), stream], axis=-1)

        def behind(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def computed(x: Tensor) -> Tensor:
                normalized, stream = ops.split(x, 2, axis=-1)
                with holding_also({held.tensor.name: normalized}):
                    return function(stream)

            return computed

        return features, behind(to_finish), behind(logits)

    def _halves_inside(
        self, tokens: Tokens
    ) -> tuple[Callable[[Any], Any], ...]:
        """The same of a layer that is opened in front of its last block."""
        inside, begin = tokens.inside, tokens.begin
        assert inside is not None, "the layer is known"
        assert begin is not None, "the layer is known"
        trunk = in_turn(Chain(self._begin, begin, self._image), inside.front)

        def features(images: Tensor) -> Tensor:
            stream = trunk(images)
            normalized = inside.normalization(stream)
            return ops.concatenate([normalized, stream], axis=-1)

        def rest(x: Tensor) -> Tensor:
            return inside.rest(*ops.split(x, 2, axis=-1))

        to_finish = Chain(tokens.location, self._finish, self._image)
        logits = self._logits_from(tokens.location)
        return features, in_turn(rest, to_finish), in_turn(rest, logits)

    def _split_by(
        self, halves: Halves, grid: tuple[int, int] | None
    ) -> SplitFunctions:
        """Splits the classifier by functions that somebody gives."""
        trunk, head = halves
        sample = sample_of(self.image_shape, self.image_dtype)
        features = without_traces(trunk, sample)
        patches = patches_of(features, self.image_shape, grid)

        def logits(x: Tensor) -> Tensor:
            self.check_logits()
            return self.logits_of_all_classes(head(x))

        def scores(x: Tensor) -> Tensor:
            if not self.shows_logits:
                return self.of_all_classes(head(x))
            if self.gives == "probabilities":
                return self.probabilities_of(logits(x))
            return logits(x)

        shown, expected = (
            (logits, self.logits)
            if self.shows_logits
            else (scores, self.scores)
        )
        check_logits_agree(
            without_traces(shown, features), without_traces(expected, sample)
        )
        rows, columns = patches.grid if patches else features.shape[1:3]
        shape = rows, columns, features.shape[-1]
        return self._split_of(
            "split", trunk, scores, logits, shape, patches, self._begin
        )

    def _split_of(
        self,
        layer: str,
        features: Callable[[Any], Any],
        scores: Callable[[Any], Any],
        logits: Callable[[Any], Any],
        shape: tuple[int, int, int],
        tokens: Patches | None,
        source: Location,
        linear: LinearHead | None = None,
        operations: tuple[keras.Operation, ...] = (),
    ) -> SplitFunctions:
        """Puts together what is not split at a map of the graph."""
        geometry = Geometry(path(self._begin, source))
        return SplitFunctions(
            shape=shape,
            features=features,
            features_and_beside=lambda images: (features(images), {}),
            beside=(),
            layer=layer,
            scores=scores,
            logits=logits,
            shown=logits if self.shows_logits else scores,
            operations=operations,
            linear=linear,
            averages=False,
            geometry=geometry,
            stride=geometry.stride * _ratio(source.tensor.shape[1:3], shape),
            tokens=tokens,
        )


@dataclasses.dataclass(frozen=True)
class Output:
    """What a layer gives: its shape, the function to it, and its locations."""

    shape: tuple[int | None, ...]
    function: Callable[[Any], Any]
    geometry: Geometry


def training_activation(model: keras.Model) -> str | None:
    """Names the activation that `fit` trains a model with, behind its own.

    Args:
        model: A classifier that `fit` takes.

    Returns:
        `"softmax"` for a model that gives logits, else None: what `activation`
        of a `Classifier` is for its probabilities.
    """
    gives_logits = last_activation(model) is keras.activations.linear
    return "softmax" if gives_logits else None


def _image_of(model: keras.Model) -> keras.KerasTensor:
    """Finds the input of a model that is an image `(B, H, W, C)`."""
    images = [x for x in model.inputs if len(x.shape) == 4]
    if len(model.inputs) == 1:
        check_images(model, model.inputs[0])
    if len(images) == 1:
        return images[0]
    raise ValueError(
        f"Model {model.name!r} must have one input that is an image (batch, "
        f"height, width, channels). Received: {len(images)} of them, among "
        f"inputs of shapes {[x.shape for x in model.inputs]}. To fix this: a "
        "keras.Model of the one image that matters."
    )


def _scores_of(model: keras.Model) -> keras.KerasTensor:
    """Finds the output `(B, K)` of a model that holds the scores."""
    outputs = model.outputs
    if len(outputs) > 1:
        named = model.output if isinstance(model.output, dict) else {}
        outputs = [named[key] for key in named if key == "predictions"]
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            f"Model {model.name!r} must have one output, scores (batch, "
            "classes), or one called 'predictions'. Received: outputs of "
            f"shapes {[tensor.shape for tensor in model.outputs]}. To fix "
            "this: keras.Model(model.input, the_output_with_the_scores)."
        )
    return outputs[0]


def _ratio(cells: Sequence[int | None], shape: Sequence[int | None]) -> float:
    """How many times the cells along an axis are more than those of a map."""
    return max(
        (have or 1) / (want or 1)
        for have, want in zip(cells, shape, strict=False)
    )


def _name_of(activation: Any) -> str | None:
    """Softmax, sigmoid or linear by its name; None if it is another."""
    for name in ("softmax", "sigmoid", "linear"):
        if activation is getattr(keras.activations, name):
            return name
    return None


def _without_activation(layer: keras.layers.Layer) -> Callable[..., Any]:
    """A function that calls a layer without the activation it ends with.

    The layer is seen by a second object with the same weights, as to change
    its activation even for a moment would change it for other threads.
    """
    if not hasattr(layer, "activation"):  # A softmax as a layer of its own.
        return lambda x: x
    twin: Callable[..., Any] = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__)
    twin.__dict__["activation"] = keras.activations.linear
    return twin


def _checked_values(
    name: str, values: Any, shape: Sequence[int | None], count: int
) -> np.ndarray:
    values = numbers_of(f"context[{name!r}]", values)
    given = values.shape
    if values.ndim == len(shape):
        values = np.broadcast_to(values, (count, *given))
    fits = len(values.shape) == len(shape) + 1 and all(
        size in (None, actual)
        for size, actual in zip((count, *shape), values.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"Argument `context` must hold values of shape {(count, *shape)} "
            f"for {name!r}, a row for each image, or {shape} for all. "
            f"Received: shape {given}"
        )
    with np.errstate(over="ignore"):  # What is too large is not finite.
        finite = np.isfinite(values.astype("float32"))
    if not finite.all():
        raise ValueError(
            f"Argument `context` must hold finite numbers for {name!r}, in "
            "float32. Received: NaN or infinite ones."
        )
    checked: np.ndarray = values
    return checked


def _check_one_score(
    activation: str | None, is_one: bool, model: keras.Model
) -> None:
    if is_one and activation == "softmax":
        raise ValueError(
            "Argument `activation` must not be 'softmax' for a model with one "
            f"score, as {model.name!r}: the softmax of one number is 1. "
            "Received: activation='softmax'. To fix this: "
            "activation='sigmoid', for two classes of which this is the logit "
            "of the second."
        )


def _check_activation(
    activation: str | None, found: str | None, model: keras.Model
) -> None:
    words = ("linear", *_PROBABILITIES)
    is_word = isinstance(activation, str) and activation in words
    if activation is not None and not is_word:
        raise ValueError(
            "Argument `activation` must be 'softmax', 'sigmoid', 'linear' or "
            f"None. Received: activation={activation!r}"
        )
    if found in _PROBABILITIES and activation in _PROBABILITIES:
        raise ValueError(
            "Argument `activation` must be None for a model that gives "
            f"probabilities, as {model.name!r} by its {found}; another "
            "activation would distort them. Received: "
            f"activation={activation!r}. To fix this: leave it out."
        )
