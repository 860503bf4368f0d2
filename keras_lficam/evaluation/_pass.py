"""One pass over the data: maps, times and values."""

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tqdm

from keras_lficam.evaluation._batches import (
    check_masks,
    chosen_classes,
    unpacked,
)
from keras_lficam.evaluation._named_metrics import NamedMetric


def measured(
    explainers: Mapping[str, Callable[..., Any]],
    named: Sequence[NamedMetric],
    data: Iterable[Any],
    classes: str | Callable[..., Any],
    progress: bool,
) -> tuple[
    dict[str, dict[str, np.ndarray]],
    dict[str, "Clock"],
    np.ndarray,
    np.ndarray | None,
]:
    """Goes through the data, once.

    Returns:
        Values of each explainer and metric, clocks of the explainers, labels,
        and the classes that were explained.
    """
    clocks = {name: Clock(name, call) for name, call in explainers.items()}
    found: dict[str, dict[str, list[np.ndarray]]] = {
        name: {} for name in explainers
    }
    labels, explained = [], []
    bar = tqdm.tqdm(
        total=_length(data, len(explainers)),
        disable=not progress,
        leave=False,
        smoothing=0,  # Explainers differ in speed; the mean is what lasts.
        unit="batch",
    )
    with bar:
        for number, batch in enumerate(data):
            given: dict[str, Any] = unpacked(batch)
            if number == 0:
                check_masks(named, given)
            labels.append(given.pop("labels"))
            given["classes"] = chosen_classes(
                classes, given["images"], labels[-1]
            )
            explained.append(given["classes"])
            for name, clock in clocks.items():
                bar.set_postfix_str(name)
                maps = clock(given["images"], given["classes"])
                offered = {
                    **given,
                    "maps": maps,
                    "explain": explainers[name],
                }
                for metric in named:
                    if metric.compares and name not in metric.others:
                        continue
                    one = metric(name, offered)
                    found[name].setdefault(metric.name, []).append(one)
                bar.update()
    if not labels:
        raise ValueError(
            "Argument `data` must hold a batch at least. Received: no batch. "
            "To fix this: a generator gives its batches only once; rebuild "
            "it."
        )
    values = {
        name: {
            metric.name: metric.reduce(found[name][metric.name])
            for metric in named
            if metric.name in found[name]
        }
        for name in explainers
    }
    known = None if explained[0] is None else np.concatenate(explained)
    return values, clocks, np.concatenate(labels), known


class Clock:
    """Calls an explainer, and knows what that costs."""

    def __init__(self, name: str, explainer: Callable[..., Any]):
        self._name = name
        self._explainer = explainer
        self._shapes: set[tuple[int, ...]] = set()
        self._seconds: list[float] = []
        self._last: tuple[Any, ...] = ()

    def __call__(
        self, images: np.ndarray, classes: np.ndarray | None
    ) -> np.ndarray:
        start = time.perf_counter()
        maps = self._explainer(images, classes)
        maps = np.asarray(keras.ops.convert_to_numpy(maps))
        seconds = time.perf_counter() - start
        if maps.shape[:1] != images.shape[:1]:
            raise ValueError(
                f"Explainer {self._name!r} must give a map for each of the "
                f"{len(images)} images. Received: maps.shape={maps.shape}"
            )
        if images.shape in self._shapes:
            self._seconds.append(seconds / len(images))
        self._shapes.add(images.shape)
        self._last = images, classes
        return maps

    @functools.cached_property
    def seconds_per_image(self) -> float:
        if not self._seconds:
            self(*self._last)
        return statistics.median(self._seconds)

    @property
    def passes(self) -> tuple[int | None, int | None]:
        return getattr(self._explainer, "passes", (None, None))


def _length(data: Any, count: int) -> int | None:
    """Number of steps of the bar, or None if that is not known."""
    try:
        return len(data) * count
    except TypeError:
        return None


def mean_of(values: np.ndarray) -> float:
    """Mean of the values that are there, NaN if none is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
