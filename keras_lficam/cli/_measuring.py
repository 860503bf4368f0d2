"""What `evaluate` and `compare` share: from a model's file to a table."""

import contextlib
import dataclasses
import functools
import inspect
import pathlib
import shlex
import sys
from typing import Any

from keras_lficam.cli import _models

# By the names of their classes; the command knows them before Keras starts.
EXPLAINERS = (
    "AttentionMap",
    "CAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "ScoreCAM",
    "RISE",
    "LIME",
)
BETTER = {
    "average_drop": "lower",
    "increase_in_confidence": "higher",
    "deletion_auc": "lower",
    "insertion_auc": "higher",
    "pointing_game": "higher",
    "energy_pointing_game": "higher",
    "localization_iou": "higher",
    "max_box_accuracy": "higher",
    "sanity": "lower",
    "stability": "higher",
}
# Classes that are named in a line.
_SHOWN = 20
_LEGEND = {
    "pointing_game": "against the box around the object",
    "energy_pointing_game": "against the box around the object",
    "sanity": "rank correlation with the maps of the model with random weights",
    "stability": "overlap with the maps of the other model",
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model that is explained.

    `activation` is what explainers and metrics are told, None where they see
    it themselves.
    """

    path: pathlib.Path
    model: Any
    classifier: Any
    activation: str | None


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model, its explainers, the data and what was found."""

    subject: Subject
    explainers: dict[str, Any]
    batches: Any
    has_masks: bool
    class_names: list[str]
    found: Any


def measure(arguments, names, *, all_of_them):
    """Runs explainers and metrics.

    Args:
        arguments: The options.
        names: Names of the explainers.
        all_of_them: Whether one that cannot explain the model is an error.
            Else it is left out, and a line says why.

    Returns:
        A `Measured`.
    """
    _models.check_file(arguments.model)
    if arguments.other is not None:
        _models.check_file(arguments.other)
    print("1/3  Starting TensorFlow", flush=True)
    _models.start_keras()
    from keras_lficam import evaluation, metrics

    subject = _subject(arguments.model, arguments.activation, arguments.imports)
    other = _other_subject(arguments, subject)
    print(
        f"2/3  Reading {arguments.data}, {arguments.split}; a data set that "
        "is not on this disk yet is made or downloaded first",
        flush=True,
    )
    class_names, batches, has_masks = _read(arguments, subject)
    explainers = _explainers(subject, names, arguments, all_of_them)
    print(f"3/3  Explaining by {', '.join(explainers)}", flush=True)
    random = dataclasses.replace(
        subject, model=metrics.randomized(subject.model, seed=arguments.seed)
    )
    others = {"sanity": _explainers(random, explainers, arguments, True)}
    if other is not None:
        others["stability"] = _explainers(other, explainers, arguments, False)
    asked = _metrics(subject, has_masks, others)
    found = evaluation.evaluate(
        explainers,
        asked,
        batches,
        classes=functools.partial(_predicted, subject),
        others=others,
        reductions={"max_box_accuracy": metrics.max_box_accuracy}
        if has_masks
        else None,
        better={name: BETTER[name] for name in asked},
        progress=sys.stderr.isatty(),
    )
    return Measured(subject, explainers, batches, has_masks, class_names, found)


def write_tables(measured, arguments, partial, name):
    """Writes `name.csv`, `name.md` and a line for each image."""
    found = measured.found
    found.to_csv(partial / f"{name}.csv")
    found.values_to_csv(partial / "images.csv")
    legend = [
        f"- `{metric}`: {words}."
        for metric, words in _LEGEND.items()
        if any(row.metric == metric for row in found.rows)
    ]
    lines = [
        f"`keras-lficam {shlex.join(arguments.words)}`",
        accuracy(measured),
        found.markdown(),
        "\n".join(legend),
    ]
    text = "\n\n".join(lines) + "\n"
    (partial / f"{name}.md").write_text(text, encoding="utf-8")


def accuracy(measured):
    """Words how often the model is right on the pictures."""
    found = measured.found
    right = (found.classes == found.labels).mean()
    return (
        f"The model is right on {right:.1%} of the {len(found.labels)} "
        "pictures. The class that it predicts is explained."
    )


def _subject(path, activation, imports):
    model = _models.load_model(path, imports)
    classifier = _models.classifier_of(model, path, activation)
    if classifier.image_shape[-1] not in (3, None):
        raise ValueError(
            f"{path}: this model takes pictures of "
            f"{classifier.image_shape[-1]} channels; the data has 3"
        )
    return Subject(path, model, classifier, activation)


def _other_subject(arguments, subject):
    from keras_lficam.classifier import Classifier

    if arguments.other is None:
        return None
    loaded = _models.load_model(arguments.other, arguments.imports)
    known = Classifier(loaded).gives == "probabilities"
    other = _subject(
        arguments.other,
        None if known else subject.activation,
        arguments.imports,
    )
    mine, its = subject.classifier, other.classifier
    if (mine.image_shape, mine.num_classes) != (
        its.image_shape,
        its.num_classes,
    ):
        raise ValueError(
            f"{arguments.other}: this model takes {its.image_shape} and knows "
            f"{its.num_classes} classes, and {arguments.model} takes "
            f"{mine.image_shape} and knows {mine.num_classes}; give one that "
            "was trained for the same"
        )
    return other


def _read(arguments, subject):
    """Class names, batches, and whether these have masks."""
    import tensorflow_datasets as tfds

    from keras_lficam import data

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    bits = arguments.bits
    if pathlib.Path(arguments.data).is_dir():
        bits = _models.bits(arguments.model, bits)
    source = data.source(arguments.data, bits=bits)
    with contextlib.redirect_stdout(None):  # The words of TFDS.
        names = source.class_names
    known = subject.classifier.num_classes
    if len(names) != known:
        raise ValueError(
            f"{arguments.model}: this model knows {known} classes, and "
            f"{arguments.data} has {len(names)}; give the data set that it "
            "was trained for"
        )
    chosen = data.sample(
        source, arguments.split, arguments.count, seed=arguments.seed
    )
    _say_classes(chosen, arguments.split)
    examples = chosen.batches(
        arguments.split,
        image_size=_image_size(arguments, subject),
        batch_size=arguments.batch_size,
        with_masks=source.has_masks,
    )
    return names, examples, source.has_masks


def _say_classes(chosen, split):
    """Says how many pictures of each class there are, and warns of none."""
    counts = chosen.counts
    shown = [f"{name}: {counts[name]}" for name in list(counts)[:_SHOWN]]
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    print(
        f"     Pictures: {chosen.count(split)} ({', '.join(shown)}{more})",
        flush=True,
    )
    absent = chosen.absent
    if absent:
        print(
            f"Warning: {len(absent)} of {len(counts)} classes have no picture "
            f"among them: {', '.join(absent[:_SHOWN])}"
            f"{' and more' if len(absent) > _SHOWN else ''}; the numbers say "
            "nothing of these",
            file=sys.stderr,
        )


def _image_size(arguments, subject):
    height, width, _ = subject.classifier.image_shape
    if None in (height, width):
        return arguments.image_size and tuple(arguments.image_size)
    if arguments.image_size not in (None, [height, width]):
        raise ValueError(
            f"{arguments.model}: this model takes pictures of "
            f"{height} x {width}; leave --image-size out"
        )
    return height, width


def _explainers(subject, names, arguments, all_of_them):
    """Makes the explainers that can explain a model."""
    from keras_lficam import explainers

    options = {
        "activation": subject.activation,
        "samples": arguments.samples,
        "seed": arguments.seed,
    }
    made = {}
    for name in names:
        kind = getattr(explainers, name)
        taken = inspect.signature(kind).parameters
        given = {
            option: value
            for option, value in options.items()
            if option in taken and value is not None
        }
        try:
            made[name] = kind(subject.model, **given)
        except ValueError as error:
            if all_of_them:
                raise ValueError(f"{subject.path}: {error}") from None
            reason = str(error).partition(" Way")[0]
            print(f"     {name} left out of {subject.path}: {reason}")
    if not made:
        raise ValueError(f"{subject.path}: none of the explainers can do it")
    return made


def _metrics(subject, has_masks, others):
    from keras_lficam import metrics

    asked = {
        name: functools.partial(
            getattr(metrics, name), subject.model, activation=subject.activation
        )
        for name in (
            "average_drop",
            "increase_in_confidence",
            "deletion_auc",
            "insertion_auc",
        )
    }
    if has_masks:
        asked |= {
            "pointing_game": _of_boxes(metrics.pointing_game),
            "energy_pointing_game": _of_boxes(metrics.energy_pointing_game),
            "localization_iou": metrics.localization_iou,
            "max_box_accuracy": metrics.box_accuracy,
        }
    asked["sanity"] = metrics.rank_correlation
    if "stability" in others:
        asked["stability"] = metrics.map_iou
    return asked


def _of_boxes(metric):
    """Asks a metric of masks about the boxes around the objects."""
    from keras_lficam import metrics

    return lambda maps, masks: metric(maps, metrics.box_masks(masks))


def _predicted(subject, images):
    import keras

    scores = subject.classifier.scores(images.astype("float32"))
    return keras.ops.convert_to_numpy(scores).argmax(axis=-1)
