"""Runs explainers and metrics over a data set, in one pass."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from keras_lficam._checks import check_mapping
from keras_lficam.evaluation._batches import check_batches, check_classes
from keras_lficam.evaluation._named_metrics import NamedMetric, named_metrics
from keras_lficam.evaluation._pass import Clock, mean_of, measured
from keras_lficam.evaluation.metric import Metric
from keras_lficam.evaluation.results import Evaluation, Row


def evaluate(
    explainers: Mapping[str, Callable[..., Any]],
    metrics: Mapping[str, Callable[..., Any] | Metric],
    data: Iterable[Sequence[Any]],
    *,
    classes: str | Callable[..., Any] = "predicted",
    progress: bool = False,
) -> Evaluation:
    """Measures explainers by metrics.

    The data is gone through once, so that a set that is reshuffled in each
    pass stays paired. Of a batch, every explainer makes its maps once, and
    every metric is called with what its parameters are named after:

    - `images`: `(B, H, W, 3)`;
    - `maps`: what the explainer gave, `(B, H, W, 1)`;
    - `classes`: the explained classes, `(B,)`, or None for the predicted ones;
    - `masks`: masks of the objects, `(B, H, W, 1)`, if the data has them; an
      image whose mask is all NaN has none, and NaN as the value of the metric;
    - `other_maps`: what the explainer's counterpart gave, of a `Metric` that
      names it in `others`;
    - `explain`: the explainer, to explain changed images.

    So `metrics.pointing_game` and `metrics.max_sensitivity` are given as they
    are, and `metrics.average_drop`, which needs a model too, as
    `functools.partial(average_drop, model)`.

    The time of an explainer is that of its calls, without those on images of
    a shape that is new to it, for these may compile. If there is no other
    call, it is called once more on the last batch.

    Args:
        explainers: Names and explainers: functions of images and classes that
            give maps. The passes are read from `explainer.passes`, a pair, if
            it is there.
        metrics: Names and metrics: functions that give a value per image, or
            a `Metric` where more than the function is to be told.
        data: Batches `(images, labels)` or `(images, labels, masks)`, such as
            `data.load` gives.
        classes: Which class is explained: `"predicted"`, the one that each
            explainer's model predicts itself; `"label"`; or a function of
            the images, and of their labels if it has a parameter `labels`,
            that gives classes `(B,)`. With the function, an explainer of
            another model explains the same class.
        progress: Whether to show a bar with the remaining time.

    Returns:
        An `Evaluation`.

    Raises:
        TypeError: If a metric or an explainer cannot be called, or a batch is
            no tuple.
        ValueError: If a metric has a parameter that nobody gives, or needs
            masks or other maps that are not there, or gives not one value per
            image; if there are no explainers, metrics or images; or if a name
            is not known.

    Examples:
        result = evaluate(
            {"LFI-CAM": keras_lficam.explainers.AttentionMap(model)},
            {"brightness": lambda maps: maps.mean(axis=(1, 2, 3))},
            [(images, labels)],
        )
        print(result)
    """
    chosen = named_metrics(metrics)
    check_mapping("explainers", explainers)
    check_batches(data)
    _check_explainers(explainers, chosen)
    check_classes(classes)
    values, clocks, labels, explained = measured(
        explainers, chosen, data, classes, progress
    )
    rows = [
        _row(name, metric, values[name][metric.name], clock)
        for name, clock in clocks.items()
        for metric in chosen
        if metric.name in values[name]
    ]
    return Evaluation(tuple(rows), values, labels, explained)


def _check_explainers(
    explainers: Mapping[str, Callable[..., Any]], chosen: Iterable[NamedMetric]
) -> None:
    if not explainers:
        raise ValueError(
            "Argument `explainers` must hold at least one explainer. "
            "Received: none"
        )
    named = dict(explainers)
    for metric in chosen:
        for name, explainer in metric.others.items():
            if name not in explainers:
                raise ValueError(
                    f"`others` of metric {metric.name!r} must use names of "
                    f"{list(explainers)}. Received: {name!r}, which is not an "
                    "explainer here"
                )
            named[f"{name} for {metric.name}"] = explainer
    for name, explainer in named.items():
        if not callable(explainer):
            raise TypeError(
                f"Explainer {name!r} must be a function of images and "
                f"classes. Received: {explainer!r} of type "
                f"{type(explainer).__name__}"
            )


def _row(
    explainer: str, metric: NamedMetric, values: np.ndarray, clock: Clock
) -> Row:
    there = values[~np.isnan(values)]
    mean, half = mean_of(values), float("nan")
    if len(there) > 1:
        error = there.std(ddof=1) / len(there) ** 0.5
        half = float(special.stdtrit(len(there) - 1, 0.975) * error)
    return Row(
        explainer,
        metric.name,
        metric.better,
        mean,
        mean - half,
        mean + half,
        len(there),
        len(values) - len(there),
        clock.seconds_per_image,
        *clock.passes,
    )
