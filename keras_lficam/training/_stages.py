"""Two stages of a run: with a frozen trunk first, then with all layers."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_lficam.surgery import (
    Graph,
    Location,
    is_graph,
    named_outputs,
    nodes_backwards,
    outer_first,
    path,
)
from keras_lficam.training.recipes import Recipe

# So much smaller is the map that a layer gives, where it reduces its size.
_REDUCES = 1.5


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer with weights of a model's trunk.

    Attributes:
        layer: The layer.
        depth: How many stages it lies below the head: 1 for those whose
            output has the size of the last feature map, 2 for those of the
            size before, and so on.
    """

    layer: keras.layers.Layer
    depth: int


def trunk_of(model: keras.Model) -> list[Part]:
    """Finds the layers of a classifier that make its feature map.

    Of a model with an attention map these are the layers from the image to
    the features that are attended to and, in an attention branch network,
    those from there to the head. Neither the branch nor the head is among
    them. Where no feature map is found, all layers but the last are the
    trunk, of one stage.

    Args:
        model: Functional or Sequential classifier; of several outputs one is
            `predictions`.

    Returns:
        Its layers with weights, from the image on, each once.
    """
    scores = named_outputs(model)["predictions"]
    image = model.inputs[0]
    graph = Graph(model.name, image, scores)
    try:
        location, _ = graph.find_map()
    except ValueError:
        return _all_but_the_last(graph)
    start, pairs = Location((), image), []
    names = {layer.name for layer in model.layers}
    if names.issuperset({"attention", "attention_map"}):
        # The output of the backbone, of which the branch is made as well.
        attention = model.get_layer("attention")
        features = attention._inbound_nodes[0].input_tensors[0]
        pairs = [(image, features)]
        start = Location((), attention.output)
    pairs += path(start, location)
    levels: dict[keras.layers.Layer, int] = {}
    level = 0
    for begin, finish in pairs:
        level = _add_levels(begin, finish, level, levels)
    if not levels:  # The map is the image itself.
        return _all_but_the_last(graph)
    return [Part(layer, level - own + 1) for layer, own in levels.items()]


def _all_but_the_last(graph: Graph) -> list[Part]:
    weighted = [
        call.operation
        for call in graph.calls[::-1]
        if getattr(call.operation, "variables", ())
        and not is_graph(call.operation)
    ]
    return [Part(layer, 1) for layer in dict.fromkeys(weighted[:-1])]


def _add_levels(
    begin: keras.KerasTensor,
    finish: keras.KerasTensor,
    level: int,
    found: dict[keras.layers.Layer, int],
) -> int:
    """Counts for each layer how often the map was reduced up to its output.

    Returns:
        The count at the end.
    """
    levels = {id(begin): level}
    for node in nodes_backwards(begin, finish)[::-1]:
        own = max(levels.get(id(x), level) for x in node.input_tensors)
        operation = node.operation
        if is_graph(operation) and (
            len(operation.inputs) == len(operation.outputs) == 1
        ):
            own = _add_levels(
                operation.inputs[0], operation.outputs[0], own, found
            )
        else:
            own += _reduces(node)
            if getattr(operation, "variables", ()):
                found.setdefault(operation, own)
        levels |= dict.fromkeys(map(id, node.outputs), own)
    return levels.get(id(finish), level)


def _reduces(node: Any) -> bool:
    shapes = node.input_tensors[0].shape, node.outputs[0].shape
    if any(len(shape) != 4 for shape in shapes):
        return False
    before, after = (shape[1] for shape in shapes)
    if before is None or after is None:
        strides = getattr(node.operation, "strides", 1)
        return bool(np.max(strides) > 1)
    # A squeeze-and-excitation has maps of 1x1, which lie beside the path.
    return bool(after > 1 and before >= _REDUCES * after)


class Freezing:
    """Freezes layers of a model's trunk, as a context that undoes it.

    Args:
        model: The model.
        recipe: Says what is frozen, and how fast the rest learns.
    """

    def __init__(self, model: keras.Model, recipe: Recipe):
        self._decay = recipe.layer_decay
        has_stages = (
            frozen_epochs(recipe) > 0
            or recipe.freeze_batch_norm
            or recipe.layer_decay < 1
        )
        self.trunk = trunk_of(model) if has_stages else []
        self._layers = [
            (layer, layer.trainable) for layer in outer_first(model)
        ]
        self._variables = [(v, v.trainable) for v in model.variables]
        layers = [part.layer for part in self.trunk]
        normalizing = [
            inner
            for layer in layers
            for inner in layer._flatten_layers()
            if isinstance(inner, keras.layers.BatchNormalization)
        ]
        self._stages = {
            True: layers,
            False: normalizing if recipe.freeze_batch_norm else [],
        }
        self._frozen: bool | None = None

    def __enter__(self) -> "Freezing":
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def freeze(self, frozen: bool) -> None:
        """Freezes the trunk, or of it what is frozen in the second stage."""
        self.restore()
        self._frozen = frozen
        for layer in self._stages[frozen]:
            layer.trainable = False

    def restore(self) -> None:
        """Gives the model the flags back that it came with."""
        self._frozen = None
        for layer, trainable in self._layers:
            if layer.trainable != trainable:
                layer.trainable = trainable  # Of all inside, too.
        for variable, trainable in self._variables:
            if variable.trainable != trainable:
                variable.trainable = trainable

    @contextlib.contextmanager
    def as_built(self) -> Iterator[None]:
        """Gives the model its own flags, for as long as it is saved."""
        frozen = self._frozen
        self.restore()
        try:
            yield
        finally:
            if frozen is not None:
                self.freeze(frozen)

    def factors(self, variables: Sequence[keras.Variable]) -> list[float]:
        """Finds by how much lower the learning rate of each variable is.

        Args:
            variables: Variables of the model.

        Returns:
            A factor for each; none if all learn alike.
        """
        if self._decay == 1:
            return []
        of_trunk = {
            id(variable): self._decay**part.depth
            for part in self.trunk
            for variable in part.layer.variables
        }
        return [of_trunk.get(id(variable), 1.0) for variable in variables]


class Stages(keras.callbacks.Callback):
    """Begins the second stage of a run between two of its epochs.

    Args:
        frozen_epochs: Epochs of the first stage.
        frozen: Whether training begins in it.
        begin: Function that is called with whether the trunk is `frozen` from
            now on.
    """

    def __init__(
        self, frozen_epochs: int, *, frozen: bool, begin: Callable[..., None]
    ):
        super().__init__()
        self.frozen_epochs = frozen_epochs
        self.frozen = frozen
        self.begin = begin

    def on_epoch_begin(
        self, epoch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        del logs
        frozen = epoch < self.frozen_epochs
        if frozen != self.frozen:
            self.frozen = frozen
            self.begin(frozen=frozen)


def frozen_epochs(recipe: Recipe) -> int:
    """Counts the epochs of the first stage; the second has one at least."""
    return min(round(recipe.frozen_share * recipe.epochs), recipe.epochs - 1)


def of_stage(recipe: Recipe, *, frozen: bool) -> Recipe:
    """Makes the recipe of one of the stages.

    Args:
        recipe: The recipe of a run.
        frozen: Whether the stage is the first, whose learning rate is
            constant.

    Returns:
        A recipe of as many epochs as the stage has.
    """
    first = frozen_epochs(recipe)
    if frozen:
        return dataclasses.replace(
            recipe,
            epochs=first,
            schedule="constant",
            decay_at=(),
            warmup_epochs=0,
        )
    return dataclasses.replace(recipe, epochs=recipe.epochs - first)
