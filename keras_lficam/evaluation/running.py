"""Runs explainers and metrics over a data set, in one pass."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from keras_lficam._checks import check_mapping
from keras_lficam.evaluation._batches import check_batches, check_classes
from keras_lficam.evaluation._metric import asked_metrics, check_known
from keras_lficam.evaluation._pass import mean_of, measured
from keras_lficam.evaluation.results import Evaluation, Row


def evaluate(
    explainers: Mapping[str, Callable[..., Any]],
    metrics: Mapping[str, Callable[..., Any]],
    data: Iterable[Sequence[Any]],
    *,
    classes: str | Callable[[np.ndarray], Any] = "predicted",
    others: Mapping[str, Mapping[str, Callable[..., Any]]] | None = None,
    reductions: Mapping[str, Callable[[np.ndarray], Any]] | None = None,
    better: Mapping[str, str] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measures explainers by metrics.

    The data is gone through once, so that a set that is shuffled anew in each
    pass stays paired. Of a batch, every explainer makes its maps once, and
    every metric is called with what its parameters are named after:

    - `images`: `(B, H, W, 3)`;
    - `maps`: what the explainer gave, `(B, H, W, 1)`;
    - `classes`: the explained classes, `(B,)`, or None for the predicted ones;
    - `masks`: masks of the objects, `(B, H, W, 1)`, if the data has them;
    - `other_maps`: what the explainer's counterpart of `others` gave.

    So `metrics.pointing_game` is given as it is, and `metrics.average_drop`,
    which needs a model too, as `functools.partial(average_drop, model)`.

    The time of an explainer is that of its calls, without those on images of
    a shape that is new to it, for these may compile. If there is no other
    call, it is called once more on the last batch.

    Args:
        explainers: Names and explainers: functions of images and classes that
            give maps. The passes are read from `explainer.passes`, a pair, if
            it is there.
        metrics: Names and metrics: functions that give a value per image.
        data: Batches `(images, labels)` or `(images, labels, masks)`, such as
            `data.load` gives.
        classes: Which class is explained: `"predicted"`, the one that each
            explainer's model predicts itself; `"label"`; or a function of
            the images that gives classes `(B,)`. With the function, an
            explainer of another model explains the same class.
        others: Of a metric that compares maps, its name, and for the name of
            each explainer the counterpart: the same explainer for another
            model, or for a randomized one. An explainer without a counterpart
            has no value for that metric.
        reductions: Of a metric that gives more than a value per image,
            `(B, ...)`, its name, and a function from `(N, ...)`, the answers
            for all images, to values `(N,)`, such as
            `metrics.max_box_accuracy`.
        better: `"higher"` or `"lower"` for names of metrics; the tables show
            it as an arrow.
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
    others = {} if others is None else others
    better = {} if better is None else better
    asked = asked_metrics(
        metrics, others, {} if reductions is None else reductions
    )
    check_mapping("explainers", explainers)
    check_mapping("better", better)
    check_batches(data)
    _check_explainers(explainers, metrics, others, better)
    check_classes(classes)
    values, clocks, labels, explained = measured(
        explainers, asked, data, classes, progress
    )
    rows = [
        _row(name, metric, better.get(metric, ""), array, clock)
        for name, clock in clocks.items()
        for metric, array in values[name].items()
    ]
    return Evaluation(tuple(rows), values, labels, explained)


def _check_explainers(explainers, metrics, others, better):
    if not explainers:
        raise ValueError(
            "Argument `explainers` must hold an explainer at least. "
            "Received: none"
        )
    check_known("better", better, metrics, "a metric")
    for name, word in better.items():
        if not isinstance(word, str) or word not in ("higher", "lower"):
            raise ValueError(
                "Argument `better` must say 'higher' or 'lower'. "
                f"Received: {word!r} for {name!r}"
            )
    named = dict(explainers)
    for metric, counterparts in others.items():
        check_mapping(f"others[{metric!r}]", counterparts)
        check_known(
            f"others[{metric!r}]", counterparts, explainers, "an explainer"
        )
        named |= {f"{name} for {metric}": x for name, x in counterparts.items()}
    for name, explainer in named.items():
        if not callable(explainer):
            raise TypeError(
                f"Explainer {name!r} must be a function of images and "
                f"classes. Received: {explainer!r} of type "
                f"{type(explainer).__name__}"
            )


def _row(explainer, metric, better, values, clock):
    there = values[~np.isnan(values)]
    mean, half = mean_of(values), float("nan")
    if len(there) > 1:
        error = there.std(ddof=1) / len(there) ** 0.5
        half = float(special.stdtrit(len(there) - 1, 0.975) * error)
    return Row(
        explainer,
        metric,
        better,
        mean,
        mean - half,
        mean + half,
        len(there),
        len(values) - len(there),
        clock.seconds_per_image,
        *clock.passes,
    )
