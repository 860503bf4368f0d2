"""What is computed with the layers of a classifier, compiled."""

import contextlib
import contextvars
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

# Values of the inputs beside the image, by their names, while a function is
# computed; of each thread its own.
_held: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar(
    "held", default=types.MappingProxyType({})
)


@contextlib.contextmanager
def holding(values: Mapping[str, Any]) -> Iterator[None]:
    """Holds the inputs beside the image at values `(B, ...)`, by name."""
    token = _held.set(values)
    try:
        yield
    finally:
        _held.reset(token)


@contextlib.contextmanager
def holding_also(values: Mapping[str, Any]) -> Iterator[None]:
    """Holds tensors `(B, ...)`, by name, beside those that are held."""
    with holding({**_held.get(), **values}):
        yield


def held_value(name: str) -> Any:
    """The value that an input beside the image is held at."""
    return _held.get()[name]


@contextlib.contextmanager
def grouped_gradients_explained() -> Iterator[None]:
    """Says what is set where TensorFlow cannot differentiate a convolution.

    Its own kernels know no gradient of a grouped convolution on a CPU. XLA
    does, by which Keras compiles one wherever functions are not run eagerly,
    and so does oneDNN, which is not on everywhere.
    """
    try:
        yield
    except Exception as error:
        if "Gradients for grouped convolutions" not in str(error):
            raise
        raise RuntimeError(
            "TensorFlow cannot differentiate a grouped convolution, such as "
            "of ResNeXt or ConvNeXt, on a CPU where functions run eagerly "
            "and oneDNN is off. Received: "
            "tf.config.functions_run_eagerly() is True. To fix this: "
            "tf.config.run_functions_eagerly(False); or set the environment "
            "variable TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow starts."
        ) from error


class CompiledFunction(keras.Model):
    """Compiles a function that calls the layers of a classifier.

    Call it by `run`, from as many threads as you like: nothing is written to
    the classifier, neither a weight nor a loss. TensorFlow compiles it by
    `tf.function`, with XLA on accelerators only; JAX by `jit`; PyTorch runs it
    as it stands. The weights are read again at each call, so that it follows
    the classifier when that learns.

    Args:
        model: Model that holds the layers. It is not kept.
        function: Function of tensors, without side effects, that gives a
            tensor or several.
    """

    def __init__(
        self, model: keras.Model, function: Callable[..., Any]
    ) -> None:
        # In float32 no argument is rounded on the way in.
        super().__init__(name="compiled_function", dtype="float32")
        # The layers are not made its own: Keras forgets the losses of a layer
        # whenever one that holds it is called.
        if not all(layer.supports_jit for layer in model._flatten_layers()):
            self.jit_compile = False
        self.function = function
        self.built = True
        if keras.backend.backend() == "jax":
            self._by_jax = _jitted(model.variables, self)

    def call(self, inputs: Any) -> Any:
        if keras.backend.backend() == "jax":
            return self._computed(inputs)
        # Whatever a layer would write, as the loss of a regularizer, is lost.
        with keras.StatelessScope():
            return self._computed(inputs)

    def _computed(self, inputs: Any) -> Any:
        *arguments, held = inputs
        with holding(held):
            return self.function(*arguments)

    def run(self, *arguments: np.ndarray | None) -> Any:
        """Computes the function, of all arguments but those that are None.

        Returns:
            What the function gives, as arrays.
        """
        inputs = [x for x in arguments if x is not None] + [dict(_held.get())]
        if keras.backend.backend() == "jax":
            # Keras's own way writes the weights back, in every thread.
            return keras.tree.map_structure(np.array, self._by_jax(inputs))
        with grouped_gradients_explained():
            return self.predict_on_batch(inputs)


def _jitted(
    variables: Sequence[keras.Variable], function: Callable[..., Any]
) -> Callable[..., Any]:
    import jax

    @jax.jit
    def computed(values: Any, inputs: Any) -> Any:
        pairs = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return function(inputs)

    def run(inputs: Any) -> Any:
        return computed([variable.value for variable in variables], inputs)

    return run
