"""Checks of arguments, here and in rooms that build on this one."""

import numbers

# How the modules of Keras 2 begin, as `tf_keras` or inside TensorFlow.
_KERAS_2 = ("tf_keras.", "keras.src.engine.", "tensorflow.python.keras.")


def check_integer(name: str, value: object, *, least: int) -> None:
    """Raises a ValueError unless an argument is an integer of at least `least`.

    Integers are those of Python and NumPy, and no Booleans.
    """
    if not is_integer(value) or value < least:  # type: ignore[operator]
        raise ValueError(
            f"Argument `{name}` must be an integer of at least {least}. "
            f"Received: {name}={value!r}"
        )


def is_integer(value: object) -> bool:
    """Whether a value is an integer, of Python or NumPy, and no Boolean."""
    integer = isinstance(value, numbers.Integral)
    return integer and not isinstance(value, bool)


def refuse_keras_2(name: str, model: object) -> None:
    """Raises a TypeError if an argument is a model of Keras 2.

    It looks like one of Keras 3, and no function of Keras 3 takes it.
    """
    if any(
        f"{kind.__module__}.".startswith(_KERAS_2)
        for kind in type(model).__mro__
    ):
        raise TypeError(
            f"Argument `{name}` must be a model of Keras 3. Received: a "
            f"{type(model).__name__} of Keras 2 (tf_keras). To fix this: "
            "build the same layers with `import keras`, and copy the weights: "
            "new_model.set_weights(old_model.get_weights())."
        )
