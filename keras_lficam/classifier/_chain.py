"""Runs the layers between two tensors of a classifier, as they stand."""

import types
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_lficam.classifier._compiled import held_value
from keras_lficam.functional import Tensor
from keras_lficam.surgery import Location, nodes_backwards, path, takes_training


class Chain:
    """Runs the layers from one location to another.

    A `keras.Model` from one tensor to the other would do the same, but it
    leaves a node in every layer of the model that is viewed.

    Args:
        start: Location that it is given the tensor of.
        goal: Location whose tensor it gives.
        image: Input tensor of the image. All other inputs are held.
        beside: Locations whose tensors are asked for as well, by a name;
            those that do not lie on the way are left out.
        held: Location of a tensor that is held, whatever it depends on.

    Raises:
        ValueError: If a path from the image goes around `start`.
    """

    def __init__(
        self,
        start: Location,
        goal: Location,
        image: keras.KerasTensor,
        beside: Mapping[str, Location] = types.MappingProxyType({}),
        held: Location | None = None,
    ) -> None:
        frames = [*start.frames, *goal.frames]
        images = {id(tensor) for tensor in (image, *(f.begin for f in frames))}
        self._parts = [
            _Part(begin, finish, images, held)
            for begin, finish in path(start, goal)
            if begin is not finish
        ]
        ways = set().union(*(part.known for part in self._parts))
        self.beside = {
            name: id(location.tensor)
            for name, location in beside.items()
            if id(location.tensor) in ways
        }

    def __call__(self, x: Any) -> Any:
        return self.with_beside(x)[0]

    def with_beside(self, x: Any) -> tuple[Any, dict[str, Any]]:
        """Gives the tensor of the goal, and those beside by their names."""
        found: dict[str, Any] = {}
        for part in self._parts:
            values = part(x)
            x = values[part.finish]
            found |= {
                name: values[key]
                for name, key in self.beside.items()
                if key in values
            }
        return x, found


class _Part:
    """The calls of one graph between two of its tensors."""

    def __init__(
        self,
        begin: keras.KerasTensor,
        finish: keras.KerasTensor,
        images: set[int],
        held: Location | None,
    ) -> None:
        self._begin, self.finish = begin, id(finish)
        ends = set() if held is None else {id(held.tensor)}
        self._nodes = nodes_backwards(begin, finish, ends)[::-1]
        self.known = known = {id(begin)}.union(
            id(tensor) for node in self._nodes for tensor in node.outputs
        )
        needed = [x for node in self._nodes for x in node.input_tensors]
        self._held = {
            id(tensor): tensor
            for tensor in (*needed, finish)
            if id(tensor) not in known
        }
        if images & (self._held.keys() - ends):
            raise ValueError(
                f"Another path goes around the tensor {begin.name!r}."
            )

    def __call__(self, x: Tensor) -> dict[int, Tensor]:
        """Gives the values of all tensors, by their identities."""
        x = ops.convert_to_tensor(x, dtype=self._begin.dtype)
        values = {id(self._begin): x}
        for tensor in self._held.values():
            value = ops.convert_to_tensor(
                held_value(tensor.name), dtype=tensor.dtype
            )
            shape = (ops.shape(x)[0], *ops.shape(value)[1:])
            values[id(tensor)] = ops.broadcast_to(value, shape)
        for node in self._nodes:
            self._compute(node, values)
        return values

    def _compute(self, node: Any, values: dict[int, Any]) -> None:
        def given(arg: Any) -> Any:
            is_symbol = isinstance(arg, keras.KerasTensor)
            return values[id(arg)] if is_symbol else arg

        args, options = keras.tree.map_structure(
            given, (node.arguments.args, node.arguments.kwargs)
        )
        if takes_training(node.operation):
            options["training"] = False
        outputs = keras.tree.flatten(node.operation(*args, **options))
        for tensor, value in zip(node.outputs, outputs, strict=True):
            values[id(tensor)] = value
