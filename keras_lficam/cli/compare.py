"""`keras-lficam compare`: explainers against each other, on one model."""

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

from keras_lficam.cli import _measuring, _output, _words

if TYPE_CHECKING:
    from keras_lficam.evaluation import Evaluation

# Images in the grid.
_SHOWN = 6


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    compare = commands.add_parser(
        "compare",
        help="measure several explainers on a model and a data set",
        description="Explains images of a data set by several methods and "
        "measures how well their heat maps show what the model relies on and "
        "where the object is. Writes a table as comparison.csv and "
        "comparison.md, a line for each image as images.csv, grid.png and "
        "quality_against_time.png.",
    )
    _words.add_measuring_options(compare)
    compare.add_argument(
        "--explainers",
        nargs="+",
        choices=_measuring.EXPLAINERS,
        metavar="NAME",
        help="some of %(choices)s (default: of "
        f"{', '.join(_measuring.STANDARD_EXPLAINERS)} those that can explain "
        "the model)",
    )
    compare.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    with _output.new_folder(arguments.output) as partial:
        measured = _measuring.measure(arguments, arguments.explainers)
        _measuring.write_tables(measured, arguments, partial, "comparison")
        _write_grid(measured, partial / "grid.png")
        _write_plot(measured.found, partial / "quality_against_time.png")
    print(f"\n{_measuring.accuracy(measured)}\n")
    _output.show(measured.found)
    print(
        f"""
Written to {arguments.output}:

  grid.png                  images and the maps of every explainer
  quality_against_time.png  the table as a plot
  comparison.csv, .md       the table
  images.csv                the values of every image"""
    )
    return 0


def _write_grid(measured: _measuring.Measured, partial: pathlib.Path) -> None:
    """Draws the first images and what every explainer says of them."""
    import keras
    import numpy as np

    from keras_lficam import metrics, visualization

    batches: Any = measured.planned.batches  # They are a tf.data.Dataset.
    rows = batches.unbatch().take(_SHOWN).as_numpy_iterator()
    images, labels, *masks = map(np.stack, zip(*rows, strict=True))
    scores = measured.classifier.probabilities(images.astype("float32"))
    predictions = keras.ops.convert_to_numpy(scores)
    classes = measured.planned.classes(images, labels)
    visualization.comparison_grid(
        images,
        {
            name: make(images, classes)
            for name, make in measured.planned.explainers.items()
        },
        titles=visualization.prediction_titles(
            predictions, measured.class_names, labels
        ),
        masks=metrics.box_masks(np.nan_to_num(masks[0])) if masks else None,
    ).savefig(partial, dpi=130)


def _write_plot(found: "Evaluation", partial: pathlib.Path) -> None:
    from keras_lficam import visualization

    quality: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in found.rows:
        points = quality.setdefault(row.metric, {})
        points[row.explainer] = row.mean, row.low, row.high
    visualization.quality_against_time(
        {row.explainer: row.seconds_per_image for row in found.rows},
        quality,
        better={row.metric: row.better for row in found.rows},
    ).savefig(partial, dpi=110)
