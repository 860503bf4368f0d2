"""Metrics with their names, and what of a batch they are called with."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_lficam._checks import check_mapping
from keras_lficam.evaluation.metric import Metric

# What a metric can ask for, by the names of its parameters.
_OFFERED = ("images", "maps", "classes", "masks", "other_maps", "explain")


class NamedMetric:
    """A metric that knows what it is called with."""

    def __init__(self, name: str, metric: Metric):
        self.name = name
        self.better = metric.better
        others = metric.others
        self.others = others or {}
        self._function = metric.function
        self._reduction = metric.reduction
        parameters = _parameters(name, metric.function)
        self._wanted = [key for key in parameters if key in _OFFERED]
        self.needs = [key for key, needed in parameters.items() if needed]
        self.compares = "other_maps" in self._wanted and (
            others is not None or "other_maps" in self.needs
        )
        self._check(others)

    def __call__(self, explainer: str, given: Mapping[str, Any]) -> np.ndarray:
        """Values of one batch, `(B,)`, or `(B, ...)` if they are reduced."""
        if self.compares:
            other = self.others[explainer]
            maps = other(given["images"], given["classes"])
            given = {**given, "other_maps": maps}
        arguments = {key: given[key] for key in self._wanted if key in given}
        count = len(given["images"])
        if "masks" not in arguments:
            return self._values(arguments, count)
        without = np.isnan(arguments["masks"]).all(axis=(1, 2, 3))
        if not without.any():
            return self._values(arguments, count)
        if without.all():
            return np.full(count, np.nan)
        there = {
            key: value
            if value is None or key == "explain"
            else np.asarray(value)[~without]
            for key, value in arguments.items()
        }
        found = self._values(there, int((~without).sum()))
        values = np.full((count, *found.shape[1:]), np.nan)
        values[~without] = found
        return values

    def _values(self, arguments: Mapping[str, Any], count: int) -> np.ndarray:
        values = self._function(**arguments)
        return self._checked(values, count, self._reduction is not None)

    def reduce(self, batches: Sequence[np.ndarray]) -> np.ndarray:
        """Values of all images, `(N,)`, float64; NaN without a mask."""
        if self._reduction is None:
            return np.concatenate(batches).astype("float64")
        shape = max((values.shape[1:] for values in batches), key=len)
        values = np.concatenate(
            [
                values
                if values.shape[1:] == shape
                else np.full((len(values), *shape), np.nan)
                for values in batches
            ]
        )
        # Only those that are there: the reduction is over all images.
        axes = tuple(range(1, values.ndim))
        there = ~np.isnan(values).all(axis=axes)
        reduced = np.full(len(values), np.nan)
        if there.any():
            reduced[there] = self._checked(
                self._reduction(values[there]), int(there.sum()), False
            )
        return reduced

    def _checked(
        self, values: Any, count: int, may_be_many: bool
    ) -> np.ndarray:
        found = np.asarray(keras.ops.convert_to_numpy(values))
        if not (
            found.shape == (count,)
            or (may_be_many and found.shape[:1] == (count,))
        ):
            raise ValueError(
                f"Metric {self.name!r} must give a value for each of the "
                f"{count} images. Received: shape {found.shape}. To fix this: "
                "evaluation.Metric(function, reduction=...), with a function "
                "that makes one of several for each image."
            )
        return found

    def _check(self, others: Mapping[str, Callable[..., Any]] | None) -> None:
        if "maps" not in self._wanted:
            raise ValueError(
                f"Metric {self.name!r} must have a parameter `maps`. "
                f"Received: a function of {self._wanted or 'nothing'}"
            )
        strange = [key for key in self.needs if key not in _OFFERED]
        if strange:
            raise ValueError(
                f"Metric {self.name!r} must have parameters of "
                f"{list(_OFFERED)} only, or defaults. Received: a function "
                f"that needs {strange}, too. To fix this: "
                f"functools.partial(metric, {strange[0]})"
            )
        if "other_maps" in self.needs and others is None:
            raise ValueError(
                f"Metric {self.name!r} compares maps with other maps. "
                "Received: none in its `others`. To fix this: "
                "evaluation.Metric(function, others={name: another}) with "
                "the names of the explainers."
            )
        if "other_maps" not in self._wanted and others is not None:
            raise ValueError(
                f"Metric {self.name!r} must have a parameter `other_maps` "
                f"to have `others`. Received: a function of {self._wanted}"
            )


def named_metrics(
    metrics: Mapping[str, Callable[..., Any] | Metric],
) -> list[NamedMetric]:
    """Knows each metric by its name; a plain function is one, too."""
    check_mapping("metrics", metrics)
    if not metrics:
        raise ValueError(
            "Argument `metrics` must hold at least one metric. Received: none"
        )
    return [
        NamedMetric(name, _as_metric(name, metric))
        for name, metric in metrics.items()
    ]


def _as_metric(name: str, metric: Callable[..., Any] | Metric) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise TypeError(
            f"Metric {name!r} must be a function or an evaluation.Metric. "
            f"Received: {metric!r:.80} of type {type(metric).__name__}"
        )
    return Metric(metric)


def _parameters(name: str, function: Callable[..., Any]) -> dict[str, bool]:
    """Names of the parameters of a metric, and whether each is needed."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        raise ValueError(
            f"Metric {name!r} must tell the names of its parameters. "
            f"Received: {function!r}, which does not. To fix this: "
            "lambda maps: metric(maps)"
        ) from None
    # What a partial has fixed by name stays as it is fixed.
    fixed = getattr(function, "keywords", {})
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        key: parameter.default is inspect.Parameter.empty
        for key, parameter in parameters.items()
        if parameter.kind not in starred and key not in fixed
    }
