"""Whether higher or lower values of a metric are better, beside the metric."""

from collections.abc import Callable
from typing import Any, TypeVar

_Metric = TypeVar("_Metric", bound=Callable[..., Any])


def higher_is_better(metric: _Metric) -> _Metric:
    """Notes it as an attribute of the same name, which `evaluation` reads."""
    vars(metric)["higher_is_better"] = True
    return metric


def lower_is_better(metric: _Metric) -> _Metric:
    """Notes it as the attribute `higher_is_better`."""
    vars(metric)["higher_is_better"] = False
    return metric
