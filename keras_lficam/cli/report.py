"""`keras-lficam report`: a run as one page."""

import argparse
import pathlib

from keras_lficam.cli import _models, _words
from keras_lficam.cli._words import whole_number


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    report = commands.add_parser(
        "report",
        help="write all that there is to say of a run as one page",
        description="Writes an HTML page about a run of `keras-lficam train`: "
        "data and splits, learning curves, metrics with their intervals, "
        "confusions, calibration, images with attention maps and class "
        "evidence, what the program found, and settings to repeat it. It "
        "needs nothing beside itself, and prints well.",
    )
    report.add_argument(
        "folder",
        type=pathlib.Path,
        metavar="RUN",
        help="folder of a run that has ended, as --output of train",
    )
    report.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="FILE",
        help="new file (default: report.html in the folder of the run, which "
        "is replaced)",
    )
    report.add_argument(
        "--data",
        metavar="NAME|FOLDER",
        help="data of the run, if it is in another place now",
    )
    report.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="where TensorFlow Datasets keeps its data",
    )
    report.add_argument(
        "--model",
        type=pathlib.Path,
        metavar="FILE",
        help="model of the run, if it is in another place now",
    )
    report.add_argument(
        "--split",
        metavar="NAME",
        help="test or validation images (default: test, if there are any)",
    )
    report.add_argument(
        "--images",
        type=whole_number(0, 1000),
        default=8,
        metavar="N",
        help="errors, and doubtful images, that are shown at most (default: "
        "%(default)s)",
    )
    _words.add_import_option(report)
    report.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    folder = arguments.folder
    _check_folder(folder)
    path = arguments.model or folder / "model.keras"
    _models.check_file(path)
    _models.start_keras()
    from keras_lficam import reporting

    print(f"Reading {folder} and its data", flush=True)
    page = reporting.report(
        folder,
        data=arguments.data,
        model=_models.load_model(path, arguments.imports),
        output=arguments.output,
        split=arguments.split,
        images=arguments.images,
        data_dir=arguments.data_dir,
    )
    print(
        f"Written: {page}, {page.stat().st_size / 1e6:.1f} MB; open it in a "
        "browser, and print it from there"
    )
    return 0


def _check_folder(folder: pathlib.Path) -> None:
    """Refuses what is no run, or has not ended, before Keras starts."""
    if not (folder / "run.json").is_file():
        raise ValueError(
            f"{folder}: there is no run in this folder. To fix this: give the "
            "--output of keras-lficam train"
        )
    if not (folder / "metrics.json").is_file():
        raise ValueError(
            f"{folder}: the run has not ended. To fix this: keras-lficam train "
            f"--output {folder} --resume"
        )
