"""`keras-lficam export`: writes what a server or another runtime takes."""

import argparse
import pathlib
import sys

from keras_lficam.cli import _models
from keras_lficam.cli._words import whole_number
from keras_lficam.serving import FORMATS

_CALIBRATED_WITH = 200


def add(commands: argparse._SubParsersAction) -> None:
    """Adds the command to the parser.

    Args:
        commands: What `add_subparsers` gave.

    Returns:
        Nothing.
    """
    export = commands.add_parser(
        "export",
        help="write a model for TF Serving and other runtimes",
        description="Writes a model that answers with class and heat map: a "
        "SavedModel for TF Serving, and files for ONNX Runtime, OpenVINO and "
        "LiteRT, as a new version in the output folder. What starts a server "
        "is written beside that folder.",
    )
    export.add_argument(
        "model",
        type=pathlib.Path,
        metavar="MODEL",
        help=".keras file; names of the classes are read from labels.txt "
        "beside it, one a line",
    )
    export.add_argument(
        "--output",
        type=pathlib.Path,
        required=True,
        metavar="FOLDER",
        help="folder of the model, whose name it is served by, such as "
        "saved_models/digits",
    )
    export.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        default=["saved_model"],
        metavar="FORMAT",
        help="some of %(choices)s (default: saved_model)",
    )
    export.add_argument(
        "--version",
        type=whole_number(1, 2**31 - 1),
        metavar="N",
        help="number of the version (default: the next)",
    )
    export.add_argument(
        "--image-size",
        type=whole_number(1, 100_000),
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size that pictures get, for a model that takes any size",
    )
    export.add_argument(
        "--top",
        type=whole_number(1, 1_000_000),
        default=5,
        metavar="N",
        help="classes that are named for a picture (default: %(default)s, or "
        "all if there are fewer)",
    )
    export.add_argument(
        "--calibration",
        type=pathlib.Path,
        metavar="FOLDER",
        help="pictures such as the model will see, for litert_int8",
    )
    export.add_argument(
        "--activation",
        choices=["softmax", "sigmoid", "linear"],
        help="what makes probabilities of the model's scores, if it does not "
        "end with it; linear if they are probabilities",
    )
    export.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Args:
        arguments: Its options.

    Returns:
        Exit code: 0, or 1 if some formats could not be written.
    """
    _models.check_file(arguments.model)
    if "litert_int8" in arguments.formats and arguments.calibration is None:
        raise ValueError("litert_int8 needs pictures: give --calibration")
    _models.start_keras()
    from keras_lficam import serving

    model = _models.load_model(arguments.model)
    view = _models.view_of(model, arguments.model)
    names = _models.class_names(arguments.model, view)
    size = arguments.image_size and tuple(arguments.image_size)
    calibration = None
    if "litert_int8" in arguments.formats:
        given = tuple(model.input_shape[1:3])
        calibration = _pictures(
            arguments.calibration, size if None in given else given
        )
    try:
        folder = serving.export(
            model,
            arguments.output,
            class_names=names,
            formats=arguments.formats,
            version=arguments.version,
            image_size=size,
            top=min(arguments.top, len(names)),
            calibration=calibration,
            activation=arguments.activation,
        )
    except ImportError as error:
        raise ValueError(str(error)) from None
    except serving.ExportError as error:
        if error.folder is None:
            raise ValueError(str(error)) from None
        _print_summary(arguments, error.folder)
        print(f"keras-lficam export: {error}", file=sys.stderr)
        return 1
    _print_summary(arguments, folder)
    return 0


def _pictures(folder, size):
    """Reads some pictures below a folder at a size."""
    import numpy as np
    import tensorflow as tf

    from keras_lficam.data import read_picture

    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of pictures")
    images = []
    for path in sorted(folder.rglob("*")):
        if len(images) == _CALIBRATED_WITH:
            break
        if path.is_file():
            try:
                picture = read_picture(path)
            except ValueError:
                continue
            images.append(tf.image.resize(picture, size, antialias=True))
    if not images:
        raise ValueError(f"{folder}: there is no picture that can be read")
    return np.stack(images)


def _print_summary(arguments, folder):
    size = sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file()
    )
    print(f"Written to {folder}: {size / 1e6:.1f} MB\n")
    for path in sorted(folder.iterdir()):
        if path.suffix in (".onnx", ".tflite", ".xml", ".pb"):
            print(f"  {path.name}")
    if not (folder / "saved_model.pb").is_file():
        return
    root = folder.parent.parent
    print(
        f"\nStart TF Serving with all models in {root}:\n\n"
        f"  cd {root} && docker compose up\n\n"
        "and ask it:\n\n"
        f"  keras-lficam serve-check http://localhost:8501 --model "
        f"{folder.parent.name}\n"
        "  keras-lficam predict PICTURE... --url http://localhost:8501 \\\n"
        f"      --model {folder.parent.name} --output FOLDER"
    )
