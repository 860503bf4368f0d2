"""Reads off a head how its logits are a weighted sum of the feature map.

The forms that the map takes on the way are followed: tokens that were sliced,
their mean or flattening, and sums of these by the weights of dense layers.
Any call that is not known to be linear ends the search.
"""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import keras

from keras_lficam.surgery._flow import followed
from keras_lficam.surgery._paths import Call, Location
from keras_lficam.surgery._reading import (
    activation_of,
    averages,
    convolves_all,
    flattens,
    gives_scores_on,
    is_function,
)


@dataclasses.dataclass(frozen=True)
class Term:
    """One sum over the map: `scale * pooled(map) @ kernel + scale * bias`.

    Attributes:
        is_mean: Whether the map is averaged over its locations; else it is
            flattened.
        first: The first of the tokens that are pooled; 0 of a map.
        layer: The dense layer or convolution that weighs it; None if the
            channels are the classes already.
        scale: Factor of the term.
    """

    is_mean: bool
    first: int = 0
    layer: keras.layers.Layer | None = None
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """A head whose logits are the sum of terms and a number.

    Attributes:
        terms: The terms, at least one.
        offset: What is added to the logit of every class.
    """

    terms: tuple[Term, ...]
    offset: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Map:
    """The feature map itself, or all its tokens from the first one on."""

    first: int = 0


_Form = LinearHead | _Map | str

_WHOLE: _Form = _Map()
# What does not depend on the map, and what is not known to be linear in it.
_NOTHING: _Form = "nothing"
_OTHER: _Form = "other"


def linear_head(
    location: Location,
    scores: keras.KerasTensor,
    end: keras.Operation | None,
) -> LinearHead | None:
    """Finds the weights by which the logits are linear in the feature map.

    Args:
        location: Location of the feature map `(B, h, w, C)`, or of tokens
            `(B, T, C)`.
        scores: Output tensor of the classifier.
        end: The call whose activation makes probabilities of the logits, and
            is no part of them; None where there is none.

    Returns:
        The `LinearHead`; None if anything else changes the logits.
    """

    def step(node: Any, given: Sequence[_Form]) -> _Form:
        return _after(node, given, node.operation is end)

    goal = Location((), scores)
    found = followed(location, goal, _WHOLE, _NOTHING, step)
    if not isinstance(found, LinearHead):
        return None
    # A flattening alone would give a class to each location.
    weighed = all(term.is_mean or term.layer for term in found.terms)
    return found if weighed else None


def _after(node: Any, given: Sequence[_Form], is_end: bool) -> _Form:
    operation = node.operation
    if _OTHER in given:
        return _OTHER
    if len(given) > 1:
        widths = {x.shape[-1] for x in node.input_tensors}
        if widths != {node.outputs[0].shape[-1]}:
            return _OTHER  # A term of one class is added to all.
        return _combined(operation, given)
    (form,) = given
    if isinstance(form, _Map):
        return _pooled(node, form)
    assert isinstance(form, LinearHead)
    if gives_scores_on(operation):
        return form
    if not getattr(operation, "weights", ()):
        scaled = _scaled(node, form)
        if scaled is not _OTHER or not is_end:
            return scaled
        return form  # An activation of its own, such as a softmax.
    return _weighed(operation, form, is_end)


def _pooled(node: Any, form: _Map) -> _Form:
    operation, taken = node.operation, node.input_tensors[0]
    call = Call(operation, Location((), taken), Location((), node.outputs[0]))
    if flattens(call):
        return LinearHead((Term(False, form.first),))
    if convolves_all(call):
        term = Term(False, form.first, operation)
        return LinearHead((term,)) if _is_idle(operation) else _OTHER
    if averages(call):
        return LinearHead((Term(True, form.first),))
    if isinstance(operation, (keras.layers.Dropout, keras.layers.Identity)):
        return form
    first = first_of_slice(node)
    return _OTHER if first is None else _Map(form.first + first)


def first_of_slice(node: Any) -> int | None:
    """The first token of those that `x[:, first:]` keeps; None of others."""
    if not is_function(node.operation, "GetItem"):
        return None
    arguments = node.arguments
    key = [*arguments.args[1:], *arguments.kwargs.values()][0]
    key = key if isinstance(key, tuple) else (key,)
    whole = slice(None)
    if not all(isinstance(one, slice) for one in key) or len(key) > 3:
        return None
    batch, tokens, channels = (*key, whole, whole)[:3]
    first = tokens.start or 0
    is_plain = (
        (batch, channels) == (whole, whole)
        and tokens.stop is None
        and tokens.step in (None, 1)
        and isinstance(first, int)
        and first >= 0
    )
    return first if is_plain else None


def _combined(operation: keras.Operation, given: Sequence[_Form]) -> _Form:
    heads = [form for form in given if isinstance(form, LinearHead)]
    if len(heads) != len(given):
        return _OTHER
    layers = keras.layers
    if isinstance(operation, layers.Subtract) or is_function(
        operation, "Subtract"
    ):
        heads[1] = _times(heads[1], -1.0)
    elif isinstance(operation, layers.Average):
        heads = [_times(head, 1 / len(heads)) for head in heads]
    elif not (
        isinstance(operation, layers.Add) or is_function(operation, "Add")
    ):
        return _OTHER
    return LinearHead(
        tuple(term for head in heads for term in head.terms),
        sum(head.offset for head in heads),
    )


def _scaled(node: Any, form: LinearHead) -> _Form:
    """Follows a product or a sum with a number, or a quotient by one."""
    operation = node.operation
    if type(operation) is keras.layers.Rescaling:
        scale, offset = operation.scale, operation.offset
        if isinstance(scale, numbers.Real) and isinstance(offset, numbers.Real):
            return _plus(_times(form, float(scale)), float(offset))
        return _OTHER
    arguments = [*node.arguments.args, *node.arguments.kwargs.values()]
    if len(arguments) != 2:
        return _OTHER
    is_first = isinstance(arguments[0], keras.KerasTensor)
    number = arguments[1] if is_first else arguments[0]
    if not isinstance(number, numbers.Real):
        return _OTHER
    number = float(number)
    if is_function(operation, "Multiply"):
        return _times(form, number)
    if is_function(operation, "Add"):
        return _plus(form, number)
    if is_function(operation, "TrueDivide", "Divide") and is_first and number:
        return _times(form, 1 / number)
    if is_function(operation, "Subtract"):
        sign = 1.0 if is_first else -1.0
        return _plus(_times(form, sign), -sign * number)
    return _OTHER


def _times(head: LinearHead, factor: float) -> LinearHead:
    terms = tuple(
        dataclasses.replace(term, scale=factor * term.scale)
        for term in head.terms
    )
    return LinearHead(terms, factor * head.offset)


def _plus(head: LinearHead, number: float) -> LinearHead:
    return dataclasses.replace(head, offset=head.offset + number)


def _weighed(layer: keras.Operation, form: LinearHead, is_end: bool) -> _Form:
    """Follows a dense layer, or a 1x1 convolution, of what is pooled."""
    plain = Term(form.terms[0].is_mean, form.terms[0].first)
    if form != LinearHead((plain,)):
        return _OTHER  # Its weights would be multiplied with others.
    # A subclass may compute something else of its weights.
    is_linear = type(layer) is keras.layers.Dense or (
        type(layer) is keras.layers.Conv2D
        and layer.kernel_size == (1, 1)
        and layer.groups == 1
    )
    quantized = getattr(layer, "quantization_mode", None) is not None
    if not is_linear or quantized or not (is_end or _is_idle(layer)):
        return _OTHER
    return LinearHead((dataclasses.replace(plain, layer=layer),))


def _is_idle(layer: keras.Operation) -> bool:
    return activation_of(layer) is keras.activations.linear
