"""Does the map depend on what the model learned? It should."""

import math
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import check_integer, refuse_keras_2
from keras_lficam.functional import Tensor
from keras_lficam.metrics import _checks
from keras_lficam.metrics._direction import lower_is_better
from keras_lficam.metrics._ranks import spearman


@lower_is_better
def rank_correlation(maps: Tensor, other_maps: Tensor) -> np.ndarray:
    """Compares the order in which two maps put the pixels.

    For the sanity check the first are the maps of the model, the second those
    of its `randomized` copy: maps that stay alike do not show what the model
    learned. It is Spearman's correlation; pixels of the same value share the
    mean of their ranks.

    Args:
        maps: Heat maps `(B, H, W, 1)`.
        other_maps: Heat maps `(B, H, W, 1)` of the same images.

    Returns:
        Array `(B,)`, float32, in [-1, 1]: 1 for the same order, -1 for the
        opposite one. Lower is better in the sanity check, and 0 means that
        nothing is left of the order. A constant map has no order, and the
        value is 0.

    Raises:
        TypeError: If the maps hold no real numbers.
        ValueError: If the shapes differ, or are not `(B, H, W, 1)`, or a
            value is not finite.

    Reference:
        Adebayo et al., 2018, https://arxiv.org/abs/1810.03292, without the
        absolute value, which they take for one of their curves.

    Examples:
        >>> maps = np.array([[1.0, 2.0, 3.0, 4.0]]).reshape(1, 1, 4, 1)
        >>> other_maps = np.array([[1.0, 2.0, 4.0, 3.0]]).reshape(1, 1, 4, 1)
        >>> rank_correlation(maps, other_maps)
        # [0.8]
    """
    pair = _checks.map_arrays(maps, other_maps, other_name="other_maps")
    values = [spearman(one, other) for one, other in zip(*pair, strict=True)]
    return np.array(values, "float32")


def randomized_from_top(
    model: keras.Model, *, seed: int
) -> Iterator[tuple[str, keras.Model]]:
    """Randomizes one layer after another, from the scores to the images.

    The cascading form of the model-parameter randomization test. It is the
    same copy of the model each time, with one layer more whose weights are
    those of `randomized`, which it equals at the end. An explainer made of the
    copy explains it in every state; made once, it is compiled once.

    Args:
        model: As in `randomized`; it stays as it is.
        seed: As in `randomized`.

    Returns:
        Iterator over pairs of the name of a layer and the copy, whose layers
        from the last to this one are randomized. Layers without weights are
        passed over.

    Raises:
        TypeError: As in `randomized`.
        ValueError: As in `randomized`.

    Reference:
        Adebayo et al., 2018, https://arxiv.org/abs/1810.03292.

    Examples:
        explain = None
        for name, copy in randomized_from_top(model, seed=0):
            explain = explain or keras_lficam.explainers.AttentionMap(copy)
            values = rank_correlation(maps, explain(images))
    """
    random = randomized(model, seed=seed)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    mine, its = _with_own_weights(copy), _with_own_weights(random)
    for (layer, own), (_, drawn) in reversed([*zip(mine, its, strict=True)]):
        for variable, other in zip(own, drawn, strict=True):
            variable.assign(other)
        yield layer.name, copy


def _with_own_weights(
    model: keras.Model,
) -> list[tuple[keras.layers.Layer, list[keras.Variable]]]:
    """Layers at any depth, in order, and weights of each that no part has."""
    seen: set[int] = set()
    found = []

    def visit(layer: keras.layers.Layer) -> None:
        for part in layer._flatten_layers(include_self=False, recursive=False):
            visit(part)
        own = [weight for weight in layer.weights if id(weight) not in seen]
        seen.update(map(id, own))
        if own:
            found.append((layer, own))

    visit(model)
    return found


def randomized(model: keras.Model, *, seed: int) -> keras.Model:
    """Makes a model of the same layers that has learned nothing.

    What a new model of its kind would start with at random, such as the
    kernels, is drawn from Glorot's uniform distribution. The rest is as a new
    model has it: biases of 0, the statistics of a normalization 0 and 1.

    Args:
        model: Functional or Sequential model, flat or nested. It stays as it
            is.
        seed: Integer of at least 0. The same seed gives the same weights, on
            every backend.

    Returns:
        A `keras.Model`, not compiled, that shares nothing with `model`.

    Raises:
        TypeError: If `model` is no `keras.Model`, or `seed` no integer.
        ValueError: If it cannot be made once more from its configuration, or
            `seed` is negative.

    Reference:
        Adebayo et al., 2018, https://arxiv.org/abs/1810.03292: all weights at
        once; layer after layer by `randomized_from_top`.

    Examples:
        explain = keras_lficam.explainers.AttentionMap
        random_maps = explain(randomized(model, seed=0))(images)
        values = rank_correlation(maps, random_maps)
    """
    refuse_keras_2("model", model)
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a keras.Model. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    check_integer("seed", seed, least=0)
    try:
        copy = keras.models.clone_model(model)
    except Exception as error:  # A layer of somebody's raises anything.
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"Model {model.name!r} cannot be made once more from its "
            f"configuration: {reason} To fix this: give every class of a layer "
            "a `get_config` that holds the arguments of its constructor."
        ) from error
    rng = np.random.default_rng(seed)
    for variable in copy.weights:
        if _starts_at_random(variable):
            limit = _glorot_limit(variable.shape)
            variable.assign(rng.uniform(-limit, limit, variable.shape))
    return copy


def _starts_at_random(variable: keras.Variable) -> bool:
    """Whether a weight of a new model holds what was drawn for it."""
    if not keras.backend.is_float_dtype(variable.dtype):
        return False
    start = ops.convert_to_numpy(variable)
    # A single number that was drawn is neither 0 nor 1.
    return bool((start != start.flat[0]).any()) or (
        start.size == 1 and start.item() not in (0, 1)
    )


def _glorot_limit(shape: tuple[int, ...]) -> float:
    """Largest value that Glorot's uniform distribution draws."""
    *field, fan_in, fan_out = (1, 1, *shape)
    return math.sqrt(6 / (math.prod(field) * (fan_in + fan_out)))
