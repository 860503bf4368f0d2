"""`keras-lficam explain`: classifies pictures and draws their heat maps."""

import argparse
import pathlib
import sys

from keras_lficam import pretrained
from keras_lficam.cli import _models, _output, _words

_OVERLAY_SIDE = 512
# Longest side that a model which takes pictures of any size is given.
_OPEN_SIDE = 1024
# What ends so is a model, and anything else a picture.
_MODELS = {".keras", ".h5", ".hdf5"}


def add(commands: argparse._SubParsersAction) -> None:
    """Adds the command to the parser.

    Args:
        commands: What `add_subparsers` gave.

    Returns:
        Nothing.
    """
    explain = commands.add_parser(
        "explain",
        help="classify pictures and lay their heat maps over them",
        usage="keras-lficam explain [-h] [MODEL] IMAGE... --output FOLDER",
        description="Prints class and probability of each picture and writes "
        "the picture with its heat map over it, as NAME_overlay.png. A "
        "picture is stretched to the size that the model takes, and its map "
        "back to the picture.",
    )
    explain.add_argument(
        "files",
        type=pathlib.Path,
        metavar="IMAGE",
        nargs="+",
        help="pictures; before them, MODEL, the .keras file of a model made "
        "by keras_lficam.build. Names of its classes are read from labels.txt "
        "beside it, one a line. Without it a model that is shipped looks for "
        "handwritten digits in photographs",
    )
    explain.add_argument(
        "--output",
        type=pathlib.Path,
        required=True,
        metavar="FOLDER",
        help="folder for the overlays; files in it are never overwritten",
    )
    _words.add_bits_option(explain, "those of the model's training, else 16")
    explain.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command.

    Args:
        arguments: Its options.

    Returns:
        Exit code: 0, or 1 if some pictures could not be explained.
    """
    model, images = _model_and_images(arguments.files)
    _models.check_file(model)
    _output.make_folder(arguments.output)
    _models.start_keras()
    import tqdm

    from keras_lficam.architectures import upsampler

    view = _models.load_view(model)
    upsample = upsampler(view)
    names = _models.class_names(model, view)
    bits = _models.bits(model, arguments.bits)
    failed = 0
    for path in _output.progress(images, "picture"):
        try:
            line = _explain_picture(
                view, upsample, names, path, arguments.output, bits
            )
            tqdm.tqdm.write(line, file=sys.stdout)
        except (ValueError, OSError) as error:
            failed += 1
            tqdm.tqdm.write(str(error), file=sys.stderr)
    labels = model.with_name("labels.txt")
    if not labels.exists() and failed < len(images):
        print(f"For names instead of numbers: {labels}, one a line")
    if failed:
        print(
            f"{failed} of {len(images)} pictures not explained",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _model_and_images(files):
    """Tells the model from the pictures; without one takes the shipped one."""
    if files[0].suffix.lower() not in _MODELS:
        return pretrained.digits_in_photos(), files
    if len(files) == 1:
        raise ValueError(f"{files[0]}: give pictures behind the model")
    return files[0], files[1:]


def _explain_picture(view, upsample, names, path, folder, bits):
    """Writes the overlay of one picture; returns its line of the report."""
    import PIL.Image
    import tensorflow as tf

    from keras_lficam import visualization
    from keras_lficam.architectures import probabilities
    from keras_lficam.data.pictures import read_picture

    picture = PIL.Image.fromarray(read_picture(path, bits=bits))
    target = folder / f"{path.stem}_overlay.png"
    if target.exists():
        raise ValueError(f"{path}: {target} exists; give another folder")
    height, width = view.inputs[0].shape[1:3]
    if None in (height, width):
        open_width, open_height = _fitted(picture.size, _OPEN_SIDE)
        height, width = height or open_height, width or open_width
    # As training and a server resize.
    pixels = tf.image.resize(
        _pixels(picture), (height, width), "bilinear", antialias=True
    )
    shown = view.predict_on_batch(pixels.numpy())
    size = _fitted(picture.size, _OVERLAY_SIDE, enlarge=True)
    enlarged = _pixels(picture.resize(size, PIL.Image.Resampling.LANCZOS))
    maps = upsample(
        shown["attention_map"], enlarged.shape[1:3], (height, width)
    )
    overlays = visualization.overlay(enlarged, _numpy(maps))
    try:
        PIL.Image.fromarray(overlays[0]).save(target)
    except OSError:  # A full disk leaves half a picture.
        target.unlink(missing_ok=True)
        raise
    chances = _numpy(probabilities(view, shown["predictions"]))
    title = visualization.prediction_titles(chances, names)[0]
    return f"{path}: {title}, {target}"


def _fitted(size, side, *, enlarge=False):
    """Scales width and height so that the longer of them is `side`."""
    scale = side / max(size)
    if scale > 1 and not enlarge:
        return size
    return [max(1, round(length * scale)) for length in size]


def _pixels(picture):
    """Returns a picture as a batch of one, `(1, H, W, 3)`."""
    import numpy as np

    return np.asarray(picture)[np.newaxis]


def _numpy(tensor):
    import keras

    return keras.ops.convert_to_numpy(tensor)
