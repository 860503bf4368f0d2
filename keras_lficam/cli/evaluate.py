"""`keras-lficam evaluate`: one explainer on one model."""

import argparse

from keras_lficam.cli import _measuring, _output, _words


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure one explainer on a model and a data set",
        description="Explains pictures of a data set and measures how well "
        "the heat maps show what the model relies on and where the object is. "
        "Writes a table as evaluation.csv and evaluation.md, and a line for "
        "each picture as images.csv.",
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
    print(f"\n{_measuring.accuracy(measured)}\n")
    _output.show(measured.found)
    print(
        f"""
Written to {arguments.output}:

  evaluation.csv, .md  the table
  images.csv           the values of every picture"""
    )
    return 0
