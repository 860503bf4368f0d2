"""`keras-lficam explain`: classifies pictures and draws their heat maps."""

import argparse
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from keras_lficam import pretrained
from keras_lficam._files import whole
from keras_lficam.cli import _models, _output, _words

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    from keras_lficam.explanation import AttentionOutputs

_OVERLAY_SIDE = 512
# Longest side that a model which takes pictures of any size is given.
_OPEN_SIDE = 1024
# What ends so is a model, and anything else a picture.
_MODELS = {".keras", ".h5", ".hdf5"}
_SHIPPED = (
    "No model is named, so the shipped one is used. It knows the handwritten "
    "digits 0 to 9 and nothing else, and calls every picture one of them."
)


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    explain = commands.add_parser(
        "explain",
        help="classify pictures and lay their heat maps over them",
        usage="keras-lficam explain [-h] [MODEL] IMAGE... --output FOLDER",
        description="Prints class and probability of each picture and writes "
        "the picture with its heat map over it, as NAME_overlay.png. Pictures "
        "of several folders keep these below the output folder, as in "
        "cat/1_overlay.png and dog/1_overlay.png; pictures that differ in "
        "their endings alone keep these, as in 1.jpg_overlay.png. A picture "
        "is stretched to the size that the model takes, and its map back to "
        "the picture.",
    )
    explain.add_argument(
        "files",
        type=pathlib.Path,
        metavar="IMAGE",
        nargs="+",
        help="pictures; before them, MODEL, the .keras file of a model made "
        "by keras_lficam.build. Names of its classes are read from labels.txt "
        "beside it, one a line. Without it a model that is shipped is used, "
        "which knows the handwritten digits 0 to 9 and nothing else",
    )
    explain.add_argument(
        "--output",
        type=pathlib.Path,
        required=True,
        metavar="FOLDER",
        help="folder for the overlays; files in it are never overwritten",
    )
    _words.add_bits_option(explain, "those of the model's training, else 16")
    _words.add_activation_option(explain)
    _words.add_import_option(explain)
    explain.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    model, images = _model_and_images(arguments.files)
    _models.check_file(model)
    if model != arguments.files[0]:
        print(_SHIPPED)
    overlays = _output.overlay_names(images)
    written = 0
    with _output.folder(arguments.output) as folder:
        try:
            for done in _explained(arguments, model, overlays, folder):
                written += done
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{written} of {len(images)} overlays were written to {folder}"
            ) from None
    failed = len(images) - written
    labels = model.with_name("labels.txt")
    if not labels.exists() and written:
        print(f"For names instead of numbers: {labels}, one a line")
    if failed:
        print(
            f"{failed} of {len(images)} pictures not explained",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _explained(
    arguments: argparse.Namespace,
    model: pathlib.Path,
    overlays: Mapping[pathlib.Path, pathlib.Path],
    folder: pathlib.Path,
) -> Iterator[bool]:
    """Explains the pictures; yields for each whether that could be."""
    _models.start_keras()
    import tqdm

    from keras_lficam.explanation import AttentionOutputs

    loaded = _models.load_model(model, arguments.imports)
    view = _models.view_of(loaded, model)
    classifier = _models.classifier_of(view, model, arguments.activation)
    outputs = AttentionOutputs(view, arguments.activation)
    names = _models.class_names(model, view)
    bits = _models.bits(model, arguments.bits)
    for path in _output.progress(overlays, "picture"):
        target = folder / overlays[path]
        try:
            line = _explain_picture(
                classifier.image_shape, outputs, names, path, target, bits
            )
        except (ValueError, OSError) as error:
            told = str(error)
            if isinstance(error, OSError):
                told = _output.reason(error)
            tqdm.tqdm.write(told, file=sys.stderr)
            yield False
        else:
            tqdm.tqdm.write(line, file=sys.stdout)
            yield True


def _model_and_images(
    files: list[pathlib.Path],
) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Tells the model from the pictures; without one takes the shipped one.

    A picture that is named twice is explained once.
    """
    model, images = files[0], files[1:]
    if model.suffix.lower() not in _MODELS:
        model, images = pretrained.digits_in_photos(), files
    if not images:
        raise ValueError(
            f"{files[0]}: no picture is named. To fix this: give pictures "
            "behind the model"
        )
    return model, list(
        {os.path.abspath(path): path for path in images}.values()
    )


def _explain_picture(
    image_shape: tuple[int | None, int | None, int],
    outputs: "AttentionOutputs",
    names: Sequence[str],
    path: pathlib.Path,
    target: pathlib.Path,
    bits: int | None,
) -> str:
    """Writes the overlay of one picture; returns its line of the report."""
    import PIL.Image
    import tensorflow as tf

    from keras_lficam import visualization
    from keras_lficam.data.pictures import read_picture

    picture = PIL.Image.fromarray(read_picture(path, bits=bits))
    if target.exists():
        raise ValueError(
            f"{path}: {target} exists. To fix this: give another folder"
        )
    height, width, channels = image_shape
    if None in (height, width):
        open_width, open_height = _fitted(picture.size, _OPEN_SIDE)
        height, width = height or open_height, width or open_width
    # As training and a server resize.
    pixels = tf.image.resize(
        _pixels(picture), (height, width), "bilinear", antialias=True
    )
    if channels == 1:
        pixels = tf.image.rgb_to_grayscale(pixels)
    size = _fitted(picture.size, _OVERLAY_SIDE, enlarge=True)
    enlarged = _pixels(picture.resize(size, PIL.Image.Resampling.LANCZOS))
    shown = outputs.predict(pixels.numpy(), enlarged.shape[1:3])
    overlays = visualization.overlay(enlarged, shown["attention_map"])
    title = visualization.prediction_titles(shown["probabilities"], names)[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole(target) as partial:
        PIL.Image.fromarray(overlays[0]).save(partial)
    return f"{path}: {title}, {target}"


def _fitted(
    size: tuple[int, int], side: int, *, enlarge: bool = False
) -> tuple[int, int]:
    """Scales width and height so that the longer of them is `side`."""
    scale = side / max(size)
    if scale > 1 and not enlarge:
        return size
    width, height = (max(1, round(length * scale)) for length in size)
    return width, height


def _pixels(picture: "PIL.Image.Image") -> "np.ndarray":
    """Returns a picture as a batch of one, `(1, H, W, 3)`."""
    import numpy as np

    return np.asarray(picture)[np.newaxis]
