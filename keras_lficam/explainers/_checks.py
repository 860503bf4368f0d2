"""What explainers ask of their options."""

import numbers


def check_integer(name: str, value: int, *, least: int) -> None:
    """Raises a ValueError if an argument is no integer of at least `least`."""
    is_integer = isinstance(value, numbers.Integral)
    if not is_integer or isinstance(value, bool) or value < least:
        raise ValueError(
            f"Argument `{name}` must be an integer of at least {least}. "
            f"Received: {name}={value!r}"
        )
