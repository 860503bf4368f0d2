"""`keras-lficam evaluate`: one explainer on one model."""

import argparse
import json
from typing import Any

from keras_lficam.cli import _classification, _measuring, _output, _words


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure one explainer on a model and a data set",
        description="Explains images of a data set and measures how well "
        "the heat maps show what the model relies on and where the object is. "
        "Writes a table as evaluation.csv and evaluation.md, a line for "
        "each image as images.csv, and how well the model classifies the "
        "images as metrics.json.",
    )
    _words.add_measuring_options(evaluate)
    evaluate.add_argument(
        "--explainer",
        required=True,
        choices=_measuring.EXPLAINERS,
        metavar="NAME",
        help="one of %(choices)s",
    )
    evaluate.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    with _output.new_folder(arguments.output) as partial:
        measured = _measuring.measure(arguments, [arguments.explainer])
        _measuring.write_tables(measured, arguments, partial, "evaluation")
        metrics = _classified(measured, arguments)
        text = json.dumps({arguments.split: metrics}, indent=2)
        (partial / "metrics.json").write_text(text, encoding="utf-8")
    print(f"\n{_measuring.accuracy(measured)}\n")
    _output.show(*_classification.shown({arguments.split: metrics}))
    print()
    _output.show(measured.found)
    print(
        f"""
Written to {arguments.output}:

  evaluation.csv, .md  the table
  images.csv           the values of every image
  metrics.json         accuracy and the like, with intervals"""
    )
    return 0


def _classified(
    measured: _measuring.Measured, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measures the classifier on the images that were explained."""
    from keras_lficam.classifier import predictions_of
    from keras_lficam.metrics.classification import measure

    labels, chances = predictions_of(
        measured.classifier, measured.planned.batches
    )
    found = measure(labels, chances, measured.class_names, seed=arguments.seed)
    return found.to_dict()
