"""Checks of the arguments of this room."""

import json
import numbers
from typing import Any

from keras_lficam._checks import as_float, check_mapping

_LONGEST_WAIT = 10**8  # Seconds, three years.


def check_strategy(strategy: Any, attribute: str = "cluster_resolver") -> None:
    # By its attribute, as strategies of others are no subclasses.
    if not hasattr(strategy, attribute):
        raise TypeError(
            "Argument `strategy` must be a tf.distribute.Strategy. Received: "
            f"strategy={strategy!r:.80} of type {type(strategy).__name__}. To "
            "fix this: keras_lficam.distribution.strategy()"
        )


def check_wait(seconds: Any) -> None:
    if (
        not isinstance(seconds, numbers.Real)
        or isinstance(seconds, bool)
        or not 0 <= as_float(seconds) <= _LONGEST_WAIT
    ):
        raise ValueError(
            "Argument `wait` must be a number of seconds from 0 to "
            f"{_LONGEST_WAIT:,}. Received: wait={seconds!r:.80}"
        )


def check_told(name: str, about: Any) -> None:
    """Refuses what workers cannot tell one another."""
    check_mapping(name, about)
    try:
        json.dumps([*about.items()], sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"Argument `{name}` must hold what JSON holds: text, numbers, "
            f"lists and dictionaries. Received: {error}. To fix this: give "
            "their `str` or a digest."
        ) from None
    if not all(isinstance(key, str) for key in about):
        raise TypeError(
            f"Argument `{name}` must have strings as its names. Received: "
            f"{[*about]!r:.80}"
        )
