"""What an explainer computes with a classifier, compiled."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


class Step(keras.Model):
    """Compiles a function that calls the layers of a classifier.

    Call it by `run`. Keras compiles it as it does `predict_on_batch`:
    TensorFlow by `tf.function`, with XLA on accelerators only; JAX by `jit`;
    PyTorch runs it as it stands. The weights are read anew at each call, so
    that it follows the classifier when that learns.

    Args:
        model: Model that holds the layers.
        function: Function of tensors, without side effects, that gives a
            tensor or several.
    """

    def __init__(self, model: keras.Model, function: Callable[..., Any]):
        # In float32 no argument is rounded on the way in.
        super().__init__(name="step", dtype="float32")
        self.model = model  # Seen as a layer, so its weights are arguments.
        self.function = function
        self.built = True

    def call(self, inputs):
        return self.function(*inputs)

    def run(self, *arguments: np.ndarray | None) -> Any:
        """Computes the function, of all arguments but those that are None.

        Returns:
            What the function gives, as arrays.
        """
        return self.predict_on_batch([x for x in arguments if x is not None])
