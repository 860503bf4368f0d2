"""`keras-lficam export`: writes what a server or another runtime takes."""

import argparse
import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING

from keras_lficam.cli import _models, _output, _words
from keras_lficam.cli._words import whole_number
from keras_lficam.serving import FORMATS, Limits

if TYPE_CHECKING:
    import numpy as np

_CALIBRATED_WITH = 200
_LIMITS = dataclasses.asdict(Limits())


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
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
        help="size that images get, for a model that takes any size",
    )
    export.add_argument(
        "--top",
        type=_number_or_all,
        default=5,
        metavar="N",
        help="classes that evidence is given of, the likeliest, and that are "
        "named for an image; `all` for all classes in their order (default: "
        "%(default)s, or all if there are fewer)",
    )
    export.add_argument(
        "--calibration",
        type=pathlib.Path,
        metavar="FOLDER",
        help="images such as the model will see, for litert_int8",
    )
    export.add_argument(
        "--limits",
        nargs="+",
        type=_limit,
        default=[],
        metavar="NAME=N",
        help="what is refused before it costs memory or time, some of "
        f"{', '.join(f'{name}={most}' for name, most in _LIMITS.items())} "
        "(default: these)",
    )
    export.add_argument(
        "--repository",
        type=pathlib.Path,
        metavar="FOLDER",
        help="also write the version, of format onnx, to a model repository "
        "for Triton, KServe and OpenVINO Model Server",
    )
    export.add_argument(
        "--backend",
        choices=("onnxruntime", "python"),
        default="onnxruntime",
        help="backend of Triton in the repository: onnxruntime takes arrays; "
        "python takes image files, too, and its Python needs keras-lficam, "
        "onnxruntime and matplotlib (default: %(default)s)",
    )
    _words.add_bits_option(export, "those of the model's training, else 16")
    _words.add_activation_option(export)
    _words.add_import_option(export)
    export.set_defaults(run=run)


def _number_or_all(text: str) -> int | None:
    return None if text == "all" else whole_number(1, 1_000_000)(text)


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in _LIMITS:
        raise argparse.ArgumentTypeError(
            f"must be NAME=N of one of {', '.join(_LIMITS)}, is {text!r}"
        )
    return name, whole_number(1, 2**31 - 1)(number)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.repository and "onnx" not in arguments.formats:
        raise ValueError(
            "a repository needs the format onnx. To fix this: --formats "
            f"{' '.join(arguments.formats)} onnx"
        )
    with _output.folder(arguments.output) as folder:
        try:
            return _export(arguments)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"complete versions in {folder}: {_versions(folder)}"
            ) from None


def _versions(folder: pathlib.Path) -> str:
    numbers = sorted(
        int(path.name) for path in folder.iterdir() if path.name.isdecimal()
    )
    return ", ".join(map(str, numbers)) or "none"


def _export(arguments: argparse.Namespace) -> int:
    """Writes the version; returns the exit code."""
    _models.check_file(arguments.model)
    if "litert_int8" in arguments.formats and arguments.calibration is None:
        raise ValueError(
            "litert_int8 needs images. To fix this: give --calibration"
        )
    _models.start_keras()
    from keras_lficam import serving

    model = _models.load_model(arguments.model, arguments.imports)
    _models.explanation_view_of(
        model,
        arguments.model,
        top=arguments.top,
        activation=arguments.activation,
    )
    names = _models.class_names(arguments.model, model)
    size = arguments.image_size and tuple(arguments.image_size)
    bits = _models.bits(arguments.model, arguments.bits)
    calibration = None
    if "litert_int8" in arguments.formats:
        given = tuple(model.input_shape[1:3])
        calibration = _calibration_images(
            arguments.calibration,
            size if None in given else given,
            bits,
            gray=model.input_shape[-1] == 1,
        )
    try:
        folder = serving.export(
            model,
            arguments.output,
            class_names=names,
            formats=arguments.formats,
            version=arguments.version,
            image_size=size,
            top=arguments.top and min(arguments.top, len(names)),
            calibration=calibration,
            activation=arguments.activation,
            bits=bits,
            limits=Limits(**dict(arguments.limits)),
        )
    except ImportError as error:
        raise ValueError(str(error)) from None
    except serving.ExportError as error:
        if error.folder is None:
            raise ValueError(str(error)) from None
        _print_summary(error.folder)
        print(f"keras-lficam export: {error}", file=sys.stderr)
        return 1
    _print_summary(folder)
    if arguments.repository:
        target = serving.write_repository(
            folder, arguments.repository, backend=arguments.backend
        )
        _print_repository(target)
    return 0


def _calibration_images(
    folder: pathlib.Path,
    size: tuple[int, int],
    bits: int | None,
    *,
    gray: bool,
) -> "np.ndarray":
    """Reads some images below a folder at a size, as training reads them."""
    import numpy as np
    import tensorflow as tf

    from keras_lficam.data import read_image
    from keras_lficam.data._images import to_gray
    from keras_lficam.data._listing import images_below

    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of images")
    images: list[np.ndarray] = []
    for path in sorted(images_below(folder, root=None).images):
        if len(images) == _CALIBRATED_WITH:
            break
        try:
            pixels = read_image(path, bits=bits)
        except ValueError as error:
            print(f"Left out: {error}", file=sys.stderr)
            continue
        image = tf.image.resize(pixels, size, antialias=True)
        images.append(to_gray(image) if gray else image)
    if not images:
        raise ValueError(f"{folder}: there is no image that can be read")
    return np.stack(images)


def _print_summary(folder: pathlib.Path) -> None:
    size = sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file()
    )
    print(f"Written to {folder}: {size / 1e6:.1f} MB\n")
    for path in sorted(folder.iterdir()):
        if path.suffix in (".onnx", ".tflite", ".xml", ".pb"):
            print(f"  {path.name}")
    if not (folder / "saved_model.pb").is_file():
        return
    # Absolute, as "." could be any folder.
    root = folder.absolute().parents[1]
    print(
        f"\nStart TF Serving with all models in {root}:\n\n"
        f"  cd {root} && docker compose up\n\n"
        "and ask it:\n\n"
        f"  keras-lficam serve-check http://localhost:8501 --model "
        f"{folder.parent.name}\n"
        "  keras-lficam predict IMAGE... --url http://localhost:8501 \\\n"
        f"      --model {folder.parent.name} --output FOLDER"
    )


def _print_repository(folder: pathlib.Path) -> None:
    root = folder.absolute().parents[1]
    name = folder.parent.name
    print(
        f"\nWritten to the repository {root}: {name}, version {folder.name}\n\n"
        f"  tritonserver --model-repository {root}\n\n"
        "and ask it:\n\n"
        f"  keras-lficam serve-check http://localhost:8000 --model {name} \\\n"
        "      --protocol v2"
    )
