"""Explains images of a classifier in one call."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_lficam.classifier import Halves
from keras_lficam.explanation.result import Explanation
from keras_lficam.explanation.view import ExplanationView


def explain(
    model: keras.Model,
    images: Any,
    classes: Any = None,
    *,
    top: int = 5,
    activation: str | None = None,
    class_names: Sequence[str] | None = None,
    layer: str | None = None,
    grid: tuple[int, int] | None = None,
    split: Halves | None = None,
    context: Mapping[str, Any] | None = None,
    batch_size: int = 32,
) -> Explanation:
    """Explains what a classifier says of images: which class, and why.

    One forward pass for each image, no gradient. For many calls make an
    `explanation_view` once, which is compiled once.

    Args:
        model: Functional or Sequential classifier, ours or not; it stays as
            it is.
        images: Images `(B, H, W, C)`, or one, in the range that the model
            takes; finite.
        classes: Classes to compute evidence for: numbers or names `(n,)` for
            all images, or `(B, n)`; None for the `top` of each image.
        top: Number of classes to compute evidence for.
        activation: What turns the model's scores into probabilities, if its
            last layer does not tell: `"softmax"` or `"sigmoid"`; or
            `"linear"` if they are probabilities.
        class_names: Name of each class; by default its number.
        layer: Name of the layer whose output is the feature map; by default
            what the last global pooling or flattening takes, or the last
            tokens of a transformer on whose patches the scores depend.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.
        context: Values of the inputs beside the image, by their names.
        batch_size: Number of images that go through the model at once.

    Returns:
        An `Explanation`: arrays, `plot()`, `contrast(a, b)`, `rows()`,
        `to_frame()`.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of range, a class is unknown, or the
            model cannot be explained; the message says why.

    Examples:
        explanation = keras_lficam.explain(model, images)
        explanation.plot()
    """
    view = ExplanationView(
        model,
        top=top,
        activation=activation,
        layer=layer,
        grid=grid,
        split=split,
    )
    return view.explain(
        images,
        classes,
        class_names=class_names,
        context=context,
        batch_size=batch_size,
    )
