"""Finds the tokens of a transformer that are a map, and the grid they lie on.

The last tensor of tokens that everything goes through is often no map: behind
the last attention a class token has taken what it needs of the patches, which
then say nothing of the scores, and have no gradient. So what becomes of the
patches is followed to the scores, call by call.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_lficam.surgery._adapters import Encoder, encoder_of
from keras_lficam.surgery._cloning import takes_training
from keras_lficam.surgery._flow import followed, goes_through
from keras_lficam.surgery._paths import Call, Location
from keras_lficam.surgery._reading import (
    ATTENTIONS,
    Graph,
    are_tokens,
    has_space,
)

# Tokens in front of the patches: of the class, of distillation, registers.
_MOST_PREFIX = 8
# Layers that mix tokens, whatever their weights are now.
_MIXING = (*ATTENTIONS, keras.layers.Conv1D)
_NORMALIZATIONS = (
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens `(B, T, C)` that are the map of a classifier.

    In front of a last attention that writes to the class token alone they are
    the tokens as it takes them, which are normalized. What goes around the
    attention is then held: of the patches it says nothing to the scores.

    Attributes:
        grid: Rows and columns of the patches, `(h, w)`.
        prefix: Number of tokens in front of the patches.
        location: Location of the tokens that everything goes through; where
            they lie inside a layer, that of what the layer gives.
        source: Location of the map that the patches were cut out of, of at
            least as many cells; it may be the image.
        operations: The calls behind the tokens, in their order.
        normalized: Location of the normalized tokens, if these are the map.
        inside: What the layer that the tokens lie in computes; None where
            they lie in the graph.
        begin: Location of what this layer is given.
    """

    grid: tuple[int, int]
    prefix: int
    location: Location
    source: Location
    operations: tuple[keras.Operation, ...]
    normalized: Location | None = None
    inside: Encoder | None = None
    begin: Location | None = None


def find_tokens(
    graph: Graph,
    layer: str | None = None,
    grid: tuple[int, int] | None = None,
) -> Tokens | None:
    """Finds the last tokens on whose patches the scores depend.

    Args:
        graph: The classifier's.
        layer: Name of the layer whose output they are to be, if not found.
        grid: Rows and columns of the patches, where they are not found.

    Returns:
        The `Tokens`; None if there are none.

    Raises:
        ValueError: If it is not clear which grid the tokens lie on.
    """
    goal = Location((), graph.scores)
    for index, call in enumerate(graph.calls):
        if not _is_candidate(call, graph, layer):
            continue
        if not goes_through(call.after, goal, graph.image):
            continue
        count = call.after.tensor.shape[1]
        found = _grid_of(graph, graph.calls[index:], count, grid)
        if found is None:
            continue
        (rows, columns), source = found
        prefix = count - rows * columns
        behind = tuple(
            behind.operation
            for behind in graph.calls[:index][::-1]
            if not graph.opens(behind.operation)
        )
        tokens = Tokens((rows, columns), prefix, call.after, source, behind)
        if layer is not None:
            return tokens
        if _matter(tokens, goal):
            return _normalized(tokens, graph.calls[:index], goal)
        opened = _inside(tokens, call)
        if opened is not None:
            return opened
    return None


def _is_candidate(call: Call, graph: Graph, layer: str | None) -> bool:
    tensor = call.after.tensor
    return (
        are_tokens(tensor)
        and not graph.opens(call.operation)
        and layer in (None, call.operation.name)
    )


def _inside(tokens: Tokens, call: Call) -> Tokens | None:
    """Opens a layer that holds whole blocks, in front of the last of them."""
    encoder = encoder_of(call.operation)
    before, after = call.before.tensor, call.after.tensor
    if encoder is None or before.shape[1:] != after.shape[1:]:
        return None
    return dataclasses.replace(tokens, inside=encoder, begin=call.before)


def _normalized(
    tokens: Tokens, behind: Sequence[Call], goal: Location
) -> Tokens:
    """Goes on to normalized tokens, if patches matter through these alone.

    A normalization takes out the length of a token. So of the tokens in front
    of it the product with their gradient, which several methods sum, is zero.
    """
    for call in behind:
        is_next = call.before.tensor is tokens.location.tensor
        if not is_next or not isinstance(call.operation, _NORMALIZATIONS):
            continue
        found = dataclasses.replace(tokens, normalized=call.after)
        if not _matter(found, goal):
            return found
    return tokens


# The grid --------------------------------------------------------------------


def _grid_of(
    graph: Graph,
    calls: Sequence[Call],
    count: int,
    told: tuple[int, int] | None,
) -> tuple[tuple[int, int], Location] | None:
    """Finds the grid of tokens, and the map that it was cut out of."""
    image = Location((), graph.image)
    maps = [*_maps_before(calls), image]
    if told is not None:
        if not 0 <= count - math.prod(told) <= _MOST_PREFIX:
            return None
        larger = [m for m in maps if _cells(m) >= math.prod(told)]
        return told, (larger or [image])[0]
    for location in maps:
        if 0 <= count - _cells(location) <= _MOST_PREFIX:
            return tuple(location.tensor.shape[1:3]), location
    source = next((m for m in maps if _cells(m) > count), None)
    if source is None or _is_reduced(calls):
        return None
    found = _grids_by_strides(source.tensor.shape[1:3], count)
    if len(found) > 1:
        found = _grids_by_patch_size(found, calls, graph.image.shape[1:3])
    if len(found) > 1:
        raise ValueError(
            f"Model {graph.name!r} has {count} tokens, whose patches may lie "
            f"on one of several grids. Received: grid=None, where {found} "
            f"fit. To fix this: grid={found[0]}, with the rows and columns of "
            "the patches."
        )
    return (found[0], source) if found else None


def _is_reduced(calls: Sequence[Call]) -> bool:
    """Whether Keras itself made tokens of a map, which are not its cells.

    As the mean over its rows, which leaves columns. Layers of others may cut
    a map into patches that are larger than its cells.
    """
    for call in calls:
        if has_space(call.before.tensor) and len(call.after.tensor.shape) == 3:
            return type(call.operation).__module__.startswith("keras.src.")
    return False


def _maps_before(calls: Sequence[Call]) -> Iterator[Location]:
    for call in calls:
        for location in (call.after, call.before):
            tensor = location.tensor
            if has_space(tensor) and None not in tensor.shape[1:3]:
                yield location


def _cells(location: Location) -> int:
    sides = location.tensor.shape[1:3]
    return 0 if None in sides else math.prod(sides)


def grids_of(size: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Lists the grids that tokens may lie on.

    Args:
        size: Height and width of the image, or of the map, that was cut into
            patches of equal sides.
        count: Number of tokens.

    Returns:
        Rows and columns of each grid that leaves 0 to 8 tokens in front of
        the patches; of those with patches of which a whole number fills the
        image, if there are such.
    """
    return _grids_by_strides(size, count)


def _grids_by_strides(size: Any, count: int) -> list[tuple[int, int]]:
    height, width = size
    strides = range(1, min(height, width) // 2 + 1)
    found: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for stride in strides:
        is_whole = height % stride == width % stride == 0
        for round_ in (math.floor, math.ceil):
            grid = round_(height / stride), round_(width / stride)
            fits = 0 <= count - math.prod(grid) <= _MOST_PREFIX
            if fits and grid not in found[is_whole]:
                found[is_whole].append(grid)
    return found[True] or found[False]


def _grids_by_patch_size(
    grids: list[tuple[int, int]], calls: Sequence[Call], size: Any
) -> list[tuple[int, int]]:
    """Keeps those that fit the size of patches that a layer tells."""
    for call in calls:
        told = getattr(call.operation, "patch_size", None)
        sides = (told, told) if isinstance(told, int) else told
        if isinstance(sides, (tuple, list)) and len(sides) == 2:
            grid = size[0] // sides[0], size[1] // sides[1]
            if grid in grids:
                return [grid]
    return grids


# Whether patches matter ------------------------------------------------------

# What a tensor is: tokens of which those in front do not depend on patches;
# something of the tokens in front alone; or something that patches matter to.
_TOKENS, _PREFIX, _MIXED, _NOTHING = "tokens", "prefix", "mixed", "nothing"


def _matter(tokens: Tokens, goal: Location) -> bool:
    """Whether the scores depend on the patches of tokens.

    Normalized tokens are held: whether they do on another way.
    """
    count = tokens.location.tensor.shape[1]
    probe = _Probe(count, tokens.prefix)
    held = tokens.normalized

    def step(node: Any, given: Sequence[str]) -> str:
        if held is not None and node.outputs[0] is held.tensor:
            return _NOTHING
        if _MIXED in given:
            return _MIXED
        if _TOKENS not in given:
            return _PREFIX if _PREFIX in given else _NOTHING
        if isinstance(node.operation, _MIXING):
            return _MIXED
        return probe(node, given)

    return followed(tokens.location, goal, _TOKENS, _NOTHING, step) == _MIXED


class _Probe:
    """Tries whether a call lets patches say something of other tokens.

    It is computed twice, of random numbers that differ in the patches alone.
    """

    def __init__(self, count: int, prefix: int) -> None:
        self._count, self._prefix = count, prefix

    def __call__(self, node: Any, given: Sequence[str]) -> str:
        try:
            one, other = self._computed(node, given)
        except Exception:  # A layer that takes no random numbers may mix all.
            return _MIXED
        if _equal(one, other):
            return _PREFIX
        are_tokens = one.ndim == 3 and one.shape[1] == self._count
        front = slice(0, self._prefix)
        if are_tokens and _equal(one[:, front], other[:, front]):
            return _TOKENS
        return _MIXED

    def _computed(
        self, node: Any, given: Sequence[str]
    ) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        values, others = {}, {}
        for tensor, form in zip(node.input_tensors, given, strict=True):
            shape = [size or 1 for size in tensor.shape]
            values[id(tensor)] = first = rng.normal(size=shape)
            others[id(tensor)] = second = first.copy()
            if form == _TOKENS:
                patches = second[:, self._prefix :]
                patches[...] = rng.normal(size=patches.shape)
        return (_value_of(node, numbers) for numbers in (values, others))


def _value_of(node: Any, values: dict[int, np.ndarray]) -> np.ndarray:
    """Computes a call, and writes nothing to its layer."""

    def given(arg: Any) -> Any:
        if not isinstance(arg, keras.KerasTensor):
            return arg
        return keras.ops.convert_to_tensor(values[id(arg)], dtype=arg.dtype)

    args, options = keras.tree.map_structure(
        given, (node.arguments.args, node.arguments.kwargs)
    )
    if takes_training(node.operation):
        options["training"] = False
    with keras.StatelessScope():
        outputs = node.operation(*args, **options)
    first = keras.tree.flatten(outputs)[0]
    array: np.ndarray = keras.ops.convert_to_numpy(first)
    return array


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=True)
