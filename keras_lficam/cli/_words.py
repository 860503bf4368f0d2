"""Words that several commands take."""

import argparse
import math
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The class takes no parameter at run time.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


# Those of `comparison`; the command knows them before Keras starts.
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


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """Makes a type of argument: a whole number in a range."""

    def parse(text: str) -> int:
        number = int(text) if text.lstrip("-").isdecimal() else None
        if number is None or not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {lowest} to {highest}, "
                f"is {text!r}"
            )
        return number

    return parse


def number(
    lowest: float, highest: float, *, above: bool = False
) -> Callable[[str], float]:
    """Makes a type of argument: a number in a range."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest or (above and value == lowest):
            word = "above" if above else "from"
            raise argparse.ArgumentTypeError(
                f"must be a number {word} {lowest} to {highest}, is {text!r}"
            )
        return value

    return parse


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option of the commands that load a model."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE|FILE",
        help="module, or file that ends with .py, which defines layers or "
        "functions of the model that are not Keras's; it is run before the "
        "model is loaded, and may be given more than once",
    )


def add_activation_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option of the commands that need probabilities."""
    parser.add_argument(
        "--activation",
        choices=["softmax", "sigmoid", "linear"],
        help="what makes probabilities of the model's scores, if it does not "
        "end with it; linear if they are probabilities",
    )


SERVERS = (
    "http://HOST:8501 for REST, grpc://HOST:8500 for gRPC; by protocol v2 "
    "http://HOST:8000"
)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the commands that ask a server."""
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="name of the model"
    )
    parser.add_argument(
        "--protocol",
        choices=("tf_serving", "v2"),
        default="tf_serving",
        help="that of TF Serving, or v2, the Open Inference Protocol of "
        "Triton, KServe and OpenVINO Model Server (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=number(0, 86_400, above=True),
        default=30.0,
        metavar="SECONDS",
        help="time after which an answer is given up (default: 30)",
    )


def add_bits_option(parser: argparse._ActionsContainer, default: str) -> None:
    """Adds the option of the commands that read images."""
    parser.add_argument(
        "--bits",
        type=whole_number(8, 16),
        metavar="N",
        help="bits that images of 16 bits use where their files do not say "
        f"it, such as 12 of X-rays (default: {default})",
    )


def add_masks_option(parser: argparse._ActionsContainer) -> None:
    """Adds the option of the commands that look at objects."""
    parser.add_argument(
        "--masks",
        metavar="FOLDER|FILE",
        help="masks of the objects of a folder or CSV file: a folder of mask "
        "images or of XML files of Pascal VOC, with the names of the images, "
        "or a JSON file of COCO (default: a folder masks beside the classes, "
        "or the column mask)",
    )


def check_masks(name: str | None) -> None:
    """Refuses masks that are not there, before TensorFlow starts."""
    if name is not None and not pathlib.Path(name).exists():
        raise ValueError(
            f"--masks {name}: there is no such file or folder. To fix this: a "
            "folder of mask images or of XML files of Pascal VOC, or a JSON "
            "file of COCO"
        )


def add_measuring_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the commands that measure explainers."""
    parser.add_argument(
        "model",
        type=pathlib.Path,
        metavar="MODEL",
        help=".keras file of a classifier that takes pixels from 0 to 255",
    )
    add_import_option(parser)
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME|FOLDER|FILE",
        help="data set by its TensorFlow Datasets name, digits_in_photos, "
        "elpv, a folder of images, or a CSV file that lists some; with "
        "masks of the objects, localization is measured too",
    )
    add_masks_option(parser)
    parser.add_argument(
        "--split",
        default="test",
        help="part of the data set (default: %(default)s)",
    )
    parser.add_argument(
        "--count",
        type=whole_number(1, 10_000_000),
        default=100,
        help="number of images, drawn by the seed with the classes in "
        "proportion (default: %(default)s)",
    )
    add_bits_option(parser, "those of the model's training")
    parser.add_argument(
        "--image-size",
        type=whole_number(1, 100_000),
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images, for a model that takes any",
    )
    parser.add_argument(
        "--samples",
        type=whole_number(1, 10_000_000),
        help="changed images that SmoothGrad, RISE and LIME look at for "
        "each image (default: 50, 4000 and 1000)",
    )
    add_activation_option(parser)
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=(*STANDARD_METRICS, *MORE_METRICS),
        metavar="NAME",
        help=f"some of {', '.join(STANDARD_METRICS)} (default: these; those "
        "against the object where the data has masks, stability with --other), "
        f"{', '.join(MORE_METRICS)}; adcc and max_sensitivity explain changed "
        "images, 1 and 10 for each",
    )
    parser.add_argument(
        "--other",
        type=pathlib.Path,
        metavar="MODEL2",
        help="the same classifier from another training; how far their maps "
        "agree is measured too",
    )
    parser.add_argument(
        "--batch-size",
        type=whole_number(1, 100_000),
        default=32,
        help="images that are explained at once (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**31 - 1),
        default=0,
        help="seed of the images, of random masks and random weights "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        required=True,
        metavar="FOLDER",
        help="new folder for the tables and the figures",
    )
