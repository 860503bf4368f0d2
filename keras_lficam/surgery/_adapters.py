"""Opens layers that hold all blocks of a transformer, as KerasHub's do.

Such a layer has one call in the graph, although its tokens are a map between
its blocks, too. The table says of each known class what it is made of.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_lficam.surgery._cloning import takes_training


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What a layer of several blocks computes, one after the other.

    Attributes:
        front: From what the layer is given to the tokens that enter its last
            block.
        normalization: The layer that normalizes them for the last attention.
        rest: From normalized tokens, and those that go around the attention,
            to what the layer gives.
    """

    front: Callable[[Any], Any]
    normalization: keras.layers.Layer
    rest: Callable[[Any, Any], Any]


def encoder_of(operation: keras.Operation) -> Encoder | None:
    """What a layer is made of; None of a layer that is not known."""
    kind = type(operation)
    opened = _ADAPTERS.get((kind.__module__, kind.__name__))
    return None if opened is None else opened(operation)


def _vit(encoder: Any) -> Encoder:
    *others, last = encoder.encoder_layers

    def rest(normalized: Any, stream: Any) -> Any:
        stream = stream + last.mha(normalized, normalized)
        stream = stream + last.mlp(last.layer_norm_2(stream))
        return encoder.layer_norm(stream)

    return Encoder(_after_each(others), last.layer_norm_1, rest)


def _deit(encoder: Any) -> Encoder:
    *others, last = encoder.encoder_layers

    def rest(normalized: Any, stream: Any) -> Any:
        stream = stream + last.mha(normalized, normalized)
        computed = last.mlp(last.layer_norm_2(stream))
        return encoder.layer_norm(last.output_layer(computed, stream))

    return Encoder(_after_each(others), last.layer_norm_1, rest)


def _dinov2(encoder: Any) -> Encoder:
    *others, last = encoder.layers

    def rest(normalized: Any, stream: Any) -> Any:
        attended = last.attention(normalized, training=False)
        stream = stream + last.layer_scale1(attended)
        computed = last.mlp(last.norm2(stream), training=False)
        return stream + last.layer_scale2(computed)

    return Encoder(_after_each(others), last.norm1, rest)


def _after_each(blocks: list[Any]) -> Callable[[Any], Any]:
    """Calls blocks in turn, at inference."""

    def tokens_after(x: Any) -> Any:
        for block in blocks:
            options = {"training": False} if takes_training(block) else {}
            x = block(x, **options)
            # DeiT's blocks give what their attention was, too.
            x = x[0] if isinstance(x, (tuple, list)) else x
        return x

    return tokens_after


# By the module and the name of the class: KerasHub need not be installed.
_ADAPTERS: dict[tuple[str, str], Callable[[Any], Encoder]] = {
    ("keras_hub.src.models.vit.vit_layers", "ViTEncoder"): _vit,
    ("keras_hub.src.models.deit.deit_layers", "DeiTEncoder"): _deit,
    ("keras_hub.src.models.dinov2.dinov2_layers", "DINOV2Encoder"): _dinov2,
}
