"""What is asked of whole numbers, here and in rooms that build on this one."""

import numbers


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
