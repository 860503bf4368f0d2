"""A metric with all that an evaluation has to know of it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from keras_lficam._checks import check_boolean, check_mapping


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric, its direction, and what it needs beside maps.

    A function that needs none of this is given to `evaluate` as it is.

    Args:
        function: Function that gives a value per image. Of a batch it gets
            what its parameters are named after, as `evaluate` says.
        higher_is_better: Its direction, which tables show as an arrow. By
            default that of the function: its attribute `higher_is_better`,
            which the metrics of this package have; None if it has none.
        others: Where it compares maps, for the name of each explainer the
            counterpart: the same explainer for another model, or for a
            randomized one. An explainer without a counterpart has no value.
        reduction: Where `function` gives more than a value per image,
            `(B, ...)`: a function from `(N, ...)`, the answers for all images,
            to values `(N,)`, such as `metrics.max_box_accuracy`.

    Raises:
        TypeError: If an argument is of the wrong type.

    Examples:
        keras_lficam.evaluation.Metric(
            keras_lficam.metrics.box_accuracy,
            reduction=keras_lficam.metrics.max_box_accuracy,
        )
    """

    function: Callable[..., Any]
    higher_is_better: bool | None = None
    others: Mapping[str, Callable[..., Any]] | None = None
    reduction: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("function", "reduction"):
            value = getattr(self, name)
            if not callable(value) and (name, value) != ("reduction", None):
                raise TypeError(
                    f"Argument `{name}` must be a function. Received: "
                    f"{name}={value!r:.80} of type {type(value).__name__}"
                )
        if self.others is not None:
            check_mapping("others", self.others)
        if self.higher_is_better is None:
            direction = _direction(self.function)
            object.__setattr__(self, "higher_is_better", direction)
        else:
            check_boolean("higher_is_better", self.higher_is_better)

    @property
    def better(self) -> str:
        """`"higher"`, `"lower"`, or `""` where the direction is not known."""
        words = {True: "higher", False: "lower", None: ""}
        return words[self.higher_is_better]


def _direction(function: Callable[..., Any]) -> bool | None:
    while isinstance(function, functools.partial):
        function = function.func
    found = getattr(function, "higher_is_better", None)
    return found if isinstance(found, bool) else None
