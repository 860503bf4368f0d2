"""What `evaluate` and `compare` share: from a model's file to a table."""

import argparse
import dataclasses
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_lficam.cli import _models, _words

if TYPE_CHECKING:
    import keras

    from keras_lficam.classifier import Classifier
    from keras_lficam.comparison import Comparison
    from keras_lficam.evaluation import Evaluation

# By the names of their classes; the command knows them before Keras starts.
EXPLAINERS = (
    "AttentionMap",
    "EigenCAM",
    "ClassEvidence",
    "CAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "XGradCAM",
    "HiResCAM",
    "LayerCAM",
    "FinerCAM",
    "RefineCAM",
    "AblationCAM",
    "ReciproCAM",
    "IntegratedGradients",
    "SmoothGrad",
    "Occlusion",
    "ScoreCAM",
    "RISE",
    "LIME",
)
# Those that are compared unless others are named.
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
# Classes that are named in a line.
_SHOWN = 20
_LEGEND = {
    "pointing_game": "against the box around the object",
    "energy_pointing_game": "against the box around the object",
    "sanity": "rank correlation with the maps of the model with random weights",
    "stability": "overlap with the maps of the other model",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model that was explained, what was planned and what was found."""

    classifier: "Classifier"
    planned: "Comparison"
    class_names: list[str]
    found: "Evaluation"


def measure(
    arguments: argparse.Namespace, names: Sequence[str] | None
) -> Measured:
    """Runs explainers, None for the standard ones, and metrics."""
    _models.check_file(arguments.model)
    _words.check_masks(arguments.masks)
    if arguments.other is not None:
        _models.check_file(arguments.other)
    print("1/3  Starting TensorFlow", flush=True)
    _models.start_keras()
    from keras_lficam import comparison

    model = _models.load_model(arguments.model, arguments.imports)
    classifier = _models.classifier_of(
        model, arguments.model, arguments.activation
    )
    other = _other(arguments)
    print(
        f"2/3  Reading {arguments.data}, {arguments.split}; a data set that "
        "is not on this disk yet is made or downloaded first",
        flush=True,
    )
    bits = arguments.bits
    if os.path.exists(arguments.data):  # A folder or a CSV file.
        bits = _models.bits(arguments.model, bits)
    source = _models.source(arguments.data, bits, arguments.masks)
    planned = comparison.plan(
        model,
        source,
        explainers=names,
        metrics=arguments.metrics,
        split=arguments.split,
        count=arguments.count,
        seed=arguments.seed,
        image_size=arguments.image_size,
        batch_size=arguments.batch_size,
        samples=arguments.samples,
        activation=arguments.activation,
        other=other,
    )
    _say_classes(planned.source, arguments.split)
    for name, reason in planned.left_out.items():
        print(f"     {name} left out: {reason}")
    print(f"3/3  Explaining by {', '.join(planned.explainers)}", flush=True)
    found = planned.run(progress=sys.stderr.isatty())
    return Measured(classifier, planned, source.class_names, found)


def write_tables(
    measured: Measured,
    arguments: argparse.Namespace,
    partial: pathlib.Path,
    name: str,
) -> None:
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


def accuracy(measured: Measured) -> str:
    """Words how often the model is right on the images."""
    found = measured.found
    assert found.classes is not None  # They are those of the plan.
    if found.labels.ndim == 2:
        return (
            f"The {len(found.labels)} images can have several labels. Of "
            "each the likeliest of its labels is explained, of one without a "
            "label the likeliest of all."
        )
    right = (found.classes == found.labels).mean()
    return (
        f"The model is right on {right:.1%} of the {len(found.labels)} "
        "images. The class that it predicts is explained."
    )


def _other(arguments: argparse.Namespace) -> "keras.Model | None":
    """Loads the other model, which may end with an activation of its own."""
    from keras_lficam.classifier import Classifier

    if arguments.other is None:
        return None
    loaded = _models.load_model(arguments.other, arguments.imports)
    known = Classifier(loaded).gives == "probabilities"
    _models.classifier_of(
        loaded, arguments.other, None if known else arguments.activation
    )
    return loaded


def _say_classes(chosen: Any, split: str) -> None:
    """Says how many images of each class there are, and warns of none."""
    counts = chosen.counts
    shown = [f"{name}: {counts[name]}" for name in list(counts)[:_SHOWN]]
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    print(
        f"     Images: {chosen.count(split)} ({', '.join(shown)}{more})",
        flush=True,
    )
    absent = chosen.absent
    if absent:
        print(
            f"Warning: {len(absent)} of {len(counts)} classes have no image "
            f"among them: {', '.join(absent[:_SHOWN])}"
            f"{' and more' if len(absent) > _SHOWN else ''}; the numbers say "
            "nothing of these",
            file=sys.stderr,
        )
