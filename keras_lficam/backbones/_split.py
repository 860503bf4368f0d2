"""Where a classifier is cut: at the last tensor that still has space."""

import dataclasses

import keras

_POOLINGS = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
)


@dataclasses.dataclass(frozen=True)
class Split:
    """A classifier in two parts.

    Attributes:
        name: Name of the classifier.
        image: Input tensor `(B, H, W, 3)`.
        features: Last feature map `(B, h, w, C)`, made from `image`.
        head: Model from a feature map of that shape to the classifier's
            output; its weights are those of the classifier.
    """

    name: str
    image: keras.KerasTensor
    features: keras.KerasTensor
    head: keras.Model


def split_classifier(model: keras.Model) -> Split:
    """Cuts a flat functional classifier in front of its last pooling.

    Walking back from the output, the first global pooling or flattening whose
    input is four-dimensional and larger than 1x1 takes the feature map. The
    poolings of squeeze-and-excitation lie before it, those of a head that
    classifies with 1x1 convolutions see a 1x1 map.

    Args:
        model: Functional model with one input and one output.

    Returns:
        The `Split`, sharing its layers and weights with `model`.

    Raises:
        ValueError: If no such layer is found, or the output does not depend
            on its input alone, which happens when the images are so small
            that the true feature map is 1x1.
    """
    for layer in reversed(model.layers):
        if isinstance(layer, _POOLINGS) and has_space(layer.input):
            try:
                head = keras.Model(layer.input, model.output, name="head")
            except ValueError:
                break  # A pooling inside a block: the output goes around it.
            return Split(model.name, model.inputs[0], layer.input, head)
    raise ValueError(
        f"Model {model.name!r} has no feature map of at least 2x2 in front of "
        "a global pooling or a flattening, so there is nothing to draw. "
        f"Received: input shape {model.inputs[0].shape[1:]}. Ways out: larger "
        "images, or a backbone with fewer strides."
    )


def has_space(tensor):
    """Whether a tensor is a feature map `(B, h, w, C)` of at least 2x2."""
    shape = tensor.shape
    return len(shape) == 4 and shape[1] != 1 and shape[2] != 1
