"""The standard comparison: which explainers suit a model, by all metrics."""

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_lficam import (
    data as data_sets,
    explainers as kinds,
    metrics as measures,
)
from keras_lficam._checks import check_choice
from keras_lficam.classifier import Classifier
from keras_lficam.evaluation import Evaluation, Metric, evaluate

# All but the bases, in their order.
_KINDS = {
    name: getattr(kinds, name)
    for name in kinds.__all__
    if not inspect.isabstract(getattr(kinds, name))
}
# Those that are compared unless others are named. Every metric asks the model
# again for each of them, and a grid of more maps cannot be read.
STANDARD_EXPLAINERS = (
    "AttentionMap",
    "ClassEvidence",
    "CAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "ScoreCAM",
    "RISE",
    "LIME",
)

# Those that are measured unless others are named, as far as the data has masks
# and there is another model; and those that are measured where they are named.
STANDARD_METRICS = (
    "average_drop",
    "increase_in_confidence",
    "deletion_auc",
    "insertion_auc",
    "pointing_game",
    "energy_pointing_game",
    "localization_iou",
    "max_box_accuracy",
    "sanity",
    "stability",
)
MORE_METRICS = (
    "average_gain",
    "symmetric_relevance_gain",
    "single_deletion",
    "infidelity",
    "road",
    "adcc",
    "max_sensitivity",
    "sparseness",
    "complexity",
    "relevance_rank_accuracy",
)

Maker = Callable[[keras.Model], Callable[..., Any]]


def compare(
    model: keras.Model,
    data: Any,
    *,
    explainers: Sequence[str] | Mapping[str, Maker] | None = None,
    metrics: Sequence[str] | Mapping[str, Any] | None = None,
    split: str = "test",
    count: int = 100,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 32,
    samples: int | None = None,
    activation: str | None = None,
    other: keras.Model | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measures explainers of a model by metrics, on images of a data set.

    The class that the model predicts is explained; where images have several
    labels, the likeliest of those of the image, and of an image without a
    label the likeliest of all. The standard metrics are
    those of `standard_metrics`. `evaluation.evaluate` does the work and takes
    other explainers, metrics and classes, too.

    Args:
        model: Classifier of images in 0 to 255.
        data: Name or folder, as for `data.source`, or a source, of which
            `count` images are drawn with its classes in proportion; or batches
            as for `evaluation.evaluate`, which are all measured, as they are.
        explainers: Names of `keras_lficam.explainers`, all of which must be
            able to explain the model; or names of one's own, and functions
            that make an explainer of a model. By default those of
            `comparison.STANDARD_EXPLAINERS` that can explain the model.
        metrics: Names of `comparison.STANDARD_METRICS`, by default all for
            which there is what they need, and of `comparison.MORE_METRICS`; or
            names of one's own and what `evaluate` takes.
        split: Split of a source.
        count: Images to draw from a source, at least 1.
        seed: Decides the images, random masks and random weights.
        image_size: `(height, width)` of the images of a source, for a model
            that takes any.
        batch_size: Images of a source that are explained at once.
        samples: Changed images that SmoothGrad, RISE and LIME look at for each
            image; their defaults if None. Of explainers that are named alone.
        activation: What turns the model's scores into probabilities:
            `"softmax"` or `"sigmoid"` if it gives logits, `"linear"` if it
            gives probabilities. By default it is found out from the last
            layer.
        other: The same classifier from another training, for `"stability"`.
        progress: Whether to show a bar with the remaining time.

    Returns:
        An `evaluation.Evaluation`, with a row for each explainer and metric.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an explainer that is named cannot explain the model,
            none can, model and data do not fit, or an argument is out of its
            range.

    Examples:
        found = keras_lficam.comparison.compare(
            model, source, split="validation", explainers=["AttentionMap"]
        )
        print(found)
    """
    return plan(
        model,
        data,
        explainers=explainers,
        metrics=metrics,
        split=split,
        count=count,
        seed=seed,
        image_size=image_size,
        batch_size=batch_size,
        samples=samples,
        activation=activation,
        other=other,
    ).run(progress=progress)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison that has not been run yet.

    Attributes:
        explainers: Names and explainers of the model.
        metrics: Names and metrics, with the counterparts of the explainers.
        batches: Images with labels and, where there are some, masks.
        classes: Function of images and labels: the classes that are explained,
            those that the model predicts, or the likeliest of several labels.
        left_out: Names of explainers that cannot explain the model, and why;
            those of the other model begin with `"other: "`.
        source: The images that were drawn, with `counts` and `absent`; None
            if batches were given.

    Examples:
        planned = keras_lficam.comparison.plan(model, [(images, labels)])
        planned.explainers.keys(), planned.left_out
    """

    explainers: Mapping[str, Callable[..., Any]]
    metrics: Mapping[str, Any]
    batches: Iterable[Sequence[Any]]
    classes: Callable[..., np.ndarray]
    left_out: Mapping[str, str]
    source: Any

    def run(self, *, progress: bool = False) -> Evaluation:
        """Measures.

        Args:
            progress: Whether to show a bar with the remaining time.

        Returns:
            An `evaluation.Evaluation`.
        """
        return evaluate(
            self.explainers,
            self.metrics,
            self.batches,
            classes=self.classes,
            progress=progress,
        )


def plan(
    model: keras.Model,
    data: Any,
    *,
    explainers: Sequence[str] | Mapping[str, Maker] | None = None,
    metrics: Sequence[str] | Mapping[str, Any] | None = None,
    split: str = "test",
    count: int = 100,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
    batch_size: int = 32,
    samples: int | None = None,
    activation: str | None = None,
    other: keras.Model | None = None,
) -> Comparison:
    """Prepares what `compare` runs, to be looked at before.

    Args:
        model: As for `compare`, as all arguments.
        data: Likewise.
        explainers: Likewise.
        metrics: Likewise.
        split: Likewise.
        count: Likewise.
        seed: Likewise.
        image_size: Likewise.
        batch_size: Likewise.
        samples: Likewise.
        activation: Likewise.
        other: Likewise.

    Returns:
        A `Comparison`.

    Raises:
        TypeError: As `compare`.
        ValueError: As `compare`.

    Examples:
        planned = keras_lficam.comparison.plan(model, [(images, labels)])
        print(*planned.explainers)
    """
    classifier = Classifier(model, activation)
    classifier.check_probabilities()
    if other is not None:
        _check_same(classifier, Classifier(other))
    drawn, batches = None, data
    if isinstance(data, (str, os.PathLike, data_sets.Source)):
        source = _source(data)
        size = _image_size(classifier, source, image_size)
        drawn = data_sets.sample(source, split, count, seed=seed)
        batches = drawn.batches(
            split,
            image_size=size,
            batch_size=batch_size,
            with_masks=source.has_masks,
            channels=classifier.image_shape[-1] or 3,
        )
    options = {"samples": samples, "seed": seed}
    makers = _makers(explainers, options | {"activation": activation})
    named = explainers is not None
    made, left_out = _made(makers, model, must=named)
    makers = {name: makers[name] for name in made}
    if isinstance(metrics, Mapping):
        asked = metrics
    else:
        if metrics is not None:
            for name in _names("metrics", metrics):
                check_choice("metrics", name, STANDARD_METRICS + MORE_METRICS)
        compared = None
        if other is not None:
            told = None if _gives_probabilities(other) else activation
            others = _makers(explainers, options | {"activation": told})
            others = {name: others[name] for name in made}
            compared, reasons = _made(others, other, must=False)
            left_out |= {f"other: {name}": why for name, why in reasons.items()}
        with_masks = drawn.has_masks if drawn else _have_masks(batches)
        is_sane = metrics is None or "sanity" in metrics
        standard = standard_metrics(
            model,
            makers if is_sane else {},
            with_masks=with_masks,
            seed=seed,
            activation=activation,
            stable_with=compared,
        )
        more = _more_metrics(model, with_masks, seed, activation)
        asked = _chosen(metrics, standard, more)
    return Comparison(
        explainers=made,
        metrics=asked,
        batches=batches,
        classes=functools.partial(_explained, classifier),
        left_out=left_out,
        source=drawn,
    )


def standard_metrics(
    model: keras.Model,
    makers: Mapping[str, Maker],
    *,
    with_masks: bool = False,
    seed: int = 0,
    activation: str | None = None,
    stable_with: Mapping[str, Callable[..., Any]] | None = None,
) -> dict[str, Metric]:
    """Makes the metrics by which explainers are compared.

    Four of faithfulness; with masks four of localization, those of the
    pointing game against the box around the object; `"sanity"`, the rank
    correlation with the maps of the model with random weights; and, with
    `stable_with`, `"stability"`, the overlap with the maps of those.

    Args:
        model: Classifier.
        makers: Names of the explainers, and functions that make one of a
            model; an empty dictionary leaves `"sanity"` out.
        with_masks: Whether the data has masks.
        seed: Decides the random weights.
        activation: As for `compare`.
        stable_with: Names of explainers, and for each the explainer whose
            maps should be the same, such as that of another training.

    Returns:
        Names and metrics, as `evaluation.evaluate` takes them.

    Raises:
        ValueError: If the model cannot be made once more with random weights.

    Examples:
        makers = {"LFI-CAM": keras_lficam.explainers.AttentionMap}
        asked = keras_lficam.comparison.standard_metrics(model, makers)
        {name: metric.better for name, metric in asked.items()}
    """
    asked = {
        metric.__name__: Metric(
            functools.partial(metric, model, activation=activation)
        )
        for metric in (
            measures.average_drop,
            measures.increase_in_confidence,
            measures.deletion_auc,
            measures.insertion_auc,
        )
    }
    if with_masks:
        asked |= {
            "pointing_game": _of_boxes(measures.pointing_game),
            "energy_pointing_game": _of_boxes(measures.energy_pointing_game),
            "localization_iou": Metric(measures.localization_iou),
            "max_box_accuracy": Metric(
                measures.box_accuracy, reduction=measures.max_box_accuracy
            ),
        }
    if makers:
        random = measures.randomized(model, seed=seed)
        asked["sanity"] = Metric(
            measures.rank_correlation,
            others={name: make(random) for name, make in makers.items()},
        )
    if stable_with is not None:
        asked["stability"] = Metric(measures.map_iou, others=stable_with)
    return asked


def _more_metrics(
    model: keras.Model, with_masks: bool, seed: int, activation: str | None
) -> dict[str, Metric]:
    """Makes those that are measured where they are named."""
    # What asks for logits knows of no probabilities.
    of_logits = None if activation == "linear" else activation
    of_model = functools.partial(functools.partial, model=model)
    found = [
        of_model(measures.average_gain, activation=activation),
        of_model(measures.symmetric_relevance_gain, activation=activation),
        of_model(measures.single_deletion, activation=of_logits),
        of_model(measures.infidelity, activation=of_logits, seed=seed),
        of_model(measures.road, activation=activation, seed=seed),
        of_model(measures.adcc, activation=activation),
        functools.partial(measures.max_sensitivity, seed=seed),
        functools.partial(measures.sparseness),
        functools.partial(measures.complexity),
    ]
    if with_masks:
        found.append(functools.partial(measures.relevance_rank_accuracy))
    return {each.func.__name__: Metric(each) for each in found}


def _of_boxes(metric: Any) -> Metric:
    """Asks a metric of masks about the boxes around the objects."""
    return Metric(
        lambda maps, masks: metric(maps, measures.box_masks(masks)),
        higher_is_better=metric.higher_is_better,
    )


def _explained(
    classifier: Classifier, images: Any, labels: Any = None
) -> np.ndarray:
    """The classes that are predicted, of several labels among these."""
    scores = classifier.scores(np.asarray(images, "float32"))
    scores = keras.ops.convert_to_numpy(scores)
    if np.ndim(labels) == 2:
        present = np.asarray(labels) > 0
        # Of an image without a label all count.
        present |= ~present.any(axis=-1, keepdims=True)
        scores = np.where(present, scores, -np.inf)
    classes: np.ndarray = scores.argmax(axis=-1)
    return classes


def _makers(explainers: Any, options: Any) -> dict[str, Maker]:
    """Functions that make the explainers of a model, by their names."""
    if isinstance(explainers, Mapping):
        return dict(explainers)
    if explainers is None:
        explainers = STANDARD_EXPLAINERS
    makers: dict[str, Maker] = {}
    for name in _names("explainers", explainers):
        check_choice("explainers", name, _KINDS)
        taken = inspect.signature(_KINDS[name]).parameters
        given = {
            option: value
            for option, value in options.items()
            if option in taken and value is not None
        }
        makers[name] = functools.partial(_KINDS[name], **given)
    return makers


def _source(data: Any) -> data_sets.Source:
    return (
        data if isinstance(data, data_sets.Source) else data_sets.source(data)
    )


def _names(argument: str, names: Any) -> Sequence[str]:
    if isinstance(names, str) or not isinstance(names, (list, tuple)):
        raise TypeError(
            f"Argument `{argument}` must be a list of names, or a dictionary. "
            f"Received: {argument}={names!r:.80} of type "
            f"{type(names).__name__}"
        )
    return names


def _made(
    makers: Mapping[str, Maker], model: keras.Model, *, must: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Makes the explainers that can explain a model; else says why not."""
    made, left_out = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make(model)
        except ValueError as error:
            if must:
                raise
            left_out[name] = re.split(r"\.? To fix this\b", str(error))[0]
    if not made:
        reasons = [f"{name}: {reason}" for name, reason in left_out.items()]
        raise ValueError(
            "Argument `explainers` must hold one that can explain "
            f"{model.name!r}. Received: {'; '.join(reasons) or 'none'}"
        )
    return made, left_out


def _chosen(
    names: Sequence[str] | None,
    standard: dict[str, Metric],
    more: dict[str, Metric],
) -> dict[str, Metric]:
    if names is None:
        return standard
    known = standard | more
    for name in names:
        if name not in known:
            what = "another model" if name == "stability" else "masks"
            way_out = {
                "masks": "data with masks of the objects",
                "another model": "other=model, in the command --other",
            }[what]
            raise ValueError(
                f"Argument `metrics` must not hold {name!r} without {what}. "
                f"Received: metrics={names!r:.80}. To fix this: {way_out}."
            )
    return {name: known[name] for name in names}


def _have_masks(batches: Any) -> bool:
    if isinstance(batches, (list, tuple)):
        return len(batches) > 0 and len(batches[0]) == 3
    spec = getattr(batches, "element_spec", None)
    return isinstance(spec, tuple) and len(spec) == 3


def _gives_probabilities(model: keras.Model) -> bool:
    return Classifier(model).gives == "probabilities"


def _check_same(classifier: Classifier, other: Classifier) -> None:
    mine = classifier.image_shape, classifier.num_classes
    its = other.image_shape, other.num_classes
    if mine != its:
        raise ValueError(
            "Argument `other` must take and know what `model` does: images "
            f"{mine[0]} and {mine[1]} classes. Received: {other.model.name!r}, "
            f"which takes {its[0]} and knows {its[1]} classes"
        )


def _image_size(
    classifier: Classifier, source: Any, asked: Any
) -> tuple[int, int] | None:
    """Size of the images for a model, which must fit the data."""
    *size, channels = classifier.image_shape
    if channels not in (1, 3, None):
        raise ValueError(
            "Argument `model` must take images of 3 channels, or 1 for gray "
            "ones, as the data has them. Received: "
            f"{classifier.model.name!r}, which takes {channels}"
        )
    known, names = classifier.num_classes, source.class_names
    if len(names) != known:
        raise ValueError(
            "Argument `data` must have the classes that the model was trained "
            f"for. Received: a model that knows {known} classes, and "
            f"{source.name} has {len(names)}"
        )
    if None in size:
        return asked and tuple(asked)
    if asked is not None and list(asked) != size:
        raise ValueError(
            f"Argument `image_size` must be {tuple(size)} or None for a model "
            f"of that size. Received: image_size={asked!r:.80}. To fix this: "
            "leave it out."
        )
    return tuple(size)
