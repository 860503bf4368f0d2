"""`keras-lficam explain`: says what a classifier sees in images, and why."""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_lficam import pretrained
from keras_lficam._files import atomic_write
from keras_lficam._names import nearest
from keras_lficam.cli import (
    _contact_sheet,
    _image_files,
    _models,
    _output,
    _words,
)

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from rich.table import Table

    from keras_lficam.explanation import Explanation, ExplanationView

_OVERLAY_SIDE = 512
# Longest side that a model which takes images of any size is given.
_OPEN_SIDE = 1024
# Classes whose evidence fits side by side in a figure.
_MOST_CLASSES = 20
# Names of classes that the line of the model shows.
_SHOWN = 10
_DPI = 150
# Longest side of the figure of an image that is very narrow.
_LONGEST = 8000
_SHEET = "contact_sheet.png"
# What ends so is a model, and anything else an image.
_MODELS = {".keras", ".h5", ".hdf5"}
_SHIPPED = (
    "No model is named, so the shipped one is used. It knows the handwritten "
    "digits 0 to 9 and nothing else, and calls every image one of them."
)


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    explain = commands.add_parser(
        "explain",
        help="classify images and show the evidence for each class",
        usage="keras-lficam explain [-h] [MODEL] IMAGE... --output FOLDER "
        "[options]",
        description="Prints the likeliest classes of each image: their "
        "probability and logit, how much of their evidence lies in the "
        "brightest region, and what the attention added to the logit. Writes "
        "the attention map over the image as NAME_overlay.png (of a model "
        "without attention, the evidence for the likeliest class); the signed "
        "evidence of each class as NAME_evidence.png, red for the class and "
        "blue against it; and of several images contact_sheet.png. An image "
        "is resized to what the model takes, and the maps back to the image. "
        "Images of several folders keep these below the output folder, as in "
        "cat/1_overlay.png and dog/1_overlay.png; images that differ in their "
        "endings alone keep these, as in 1.jpg_overlay.png.",
    )
    explain.add_argument(
        "files",
        type=pathlib.Path,
        metavar="IMAGE",
        nargs="+",
        help="image files, folders of them, or patterns in quotes, such as "
        "'photos/**/*.jpg'. Before them MODEL, the .keras file of any "
        "Functional or Sequential classifier that takes pixels from 0 to 255. "
        "Names of its classes are read from labels.txt beside it, one a line. "
        "A name such as EfficientNetLite0 is that backbone with weights from "
        "ImageNet and its 1000 classes, which sees images as 224x224. "
        "Without MODEL the shipped model is used, which knows the handwritten "
        "digits 0 to 9 and nothing else",
    )
    explain.add_argument(
        "--output",
        type=pathlib.Path,
        required=True,
        metavar="FOLDER",
        help="folder for the files; what is in it is never overwritten",
    )
    explain.add_argument(
        "--top",
        type=_words.whole_number(1, _MOST_CLASSES),
        default=3,
        metavar="N",
        help="number of classes to explain, the likeliest of each image "
        "(default: %(default)s)",
    )
    explain.add_argument(
        "--classes",
        nargs="+",
        metavar="CLASS",
        help="classes to explain instead, by name or number",
    )
    explain.add_argument(
        "--contrast",
        nargs=2,
        metavar=("A", "B"),
        help="two classes, by name or number: writes NAME_contrast.png, too, "
        "red where the image speaks for A rather than B, blue for the reverse",
    )
    explain.add_argument(
        "--json",
        action="store_true",
        help="print a line of JSON for each image and nothing else; what else "
        "there is to say goes to the error stream",
    )
    explain.add_argument(
        "--layer",
        metavar="NAME",
        help="layer whose output is the feature map (default: what the last "
        "global pooling or flattening takes)",
    )
    _words.add_bits_option(explain, "those of the model's training, else 16")
    _words.add_activation_option(explain)
    _words.add_import_option(explain)
    explain.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    model, named = _model_and_images(arguments.files)
    # Asked before the folder is made, which may have that name.
    is_name = _models.is_name(model)
    if not is_name:
        _models.check_file(model)
    if model != arguments.files[0]:
        _say(_SHIPPED, arguments)
    images = _image_files.listed(named, arguments.output)
    overlays = _output.overlay_names(images)
    sheet = _contact_sheet.ContactSheet()
    done = 0
    with _output.folder(arguments.output) as folder:
        _models.start_keras()
        task = _task(arguments, model, is_name)
        _say(_about(arguments, model, task), arguments)
        try:
            for ended_well in _explained(
                arguments, task, overlays, folder, sheet
            ):
                done += ended_well
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{done} of {len(images)} images were explained, their files "
                f"are in {folder}"
            ) from None
        problem = _write_sheet(sheet, folder / _SHEET)
        if done:
            shown = "" if problem else sheet.described()
            _say(_written(task, folder, shown), arguments)
    failed = len(images) - done
    if failed:
        problem += f"{failed} of {len(images)} images not explained\n"
    sys.stderr.write(problem)
    return 1 if problem else 0


def _say(text: str, arguments: argparse.Namespace) -> None:
    """Prints what is no answer, which JSON lines have no room for."""
    print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)


def _model_and_images(
    files: list[pathlib.Path],
) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Tells the model from the images; without one takes the shipped one."""
    model, images = files[0], files[1:]
    if model.suffix.lower() not in _MODELS and not _models.is_name(model):
        model, images = pretrained.digits_in_photos(), files
    if not images:
        raise ValueError(
            f"{files[0]}: no image is named. To fix this: give images behind "
            "the model"
        )
    return model, images


@dataclasses.dataclass(frozen=True)
class _Task:
    """What is done with each image."""

    view: "ExplanationView"
    names: Sequence[str]
    classes: Sequence[int] | None
    contrast: tuple[int, int] | None
    bits: int | None
    is_name: bool


def _explained(
    arguments: argparse.Namespace,
    task: _Task,
    overlays: Mapping[pathlib.Path, pathlib.Path],
    folder: pathlib.Path,
    sheet: _contact_sheet.ContactSheet,
) -> Iterator[bool]:
    """Explains the images; yields for each whether that could be."""
    import tqdm

    for path in _output.progress(overlays, "image"):
        targets = _targets(folder / overlays[path], task)
        try:
            explanation, overlay = _explain_image(task, path, targets)
        except (ValueError, OSError) as error:
            told = str(error)
            if isinstance(error, OSError):
                told = _output.reason(error)
            tqdm.tqdm.write(told, file=sys.stderr)
            yield False
            continue
        title = _title(explanation)
        if len(overlays) > 1:
            name = str(overlays[path]).removesuffix("_overlay.png")
            sheet.add(explanation.images[0], overlay, name, title)
        if arguments.json:
            answer = _as_json(path, explanation, targets)
        else:
            answer = f"{path}: {title}, {targets['overlay']}\n" + (
                _output.rendered(_table(explanation))
            )
        tqdm.tqdm.write(answer, file=sys.stdout)
        yield True


def _task(
    arguments: argparse.Namespace, path: pathlib.Path, is_name: bool
) -> _Task:
    from keras_lficam import backbones

    if is_name:
        model = _models.imagenet_model(str(path))
    else:
        model = _models.load_model(path, arguments.imports)
    view = _models.explanation_view_of(
        model,
        path,
        top=arguments.top,
        activation=arguments.activation,
        layer=arguments.layer,
    )
    if is_name:
        names = backbones.imagenet_class_names()
    else:
        names = _models.class_names(path, view.model)
    classes = contrast = None
    if arguments.classes:
        asked = [_index(x, names, "--classes") for x in arguments.classes]
        classes = list(dict.fromkeys(asked))
        if len(classes) > _MOST_CLASSES:
            raise ValueError(
                f"--classes: at most {_MOST_CLASSES} classes are explained at "
                f"once, and {len(classes)} are named"
            )
    if arguments.contrast:
        one, other = (
            _index(x, names, "--contrast") for x in arguments.contrast
        )
        if one == other:
            raise ValueError(
                f"--contrast: both are class {names[one]!r}. To fix this: give "
                "two classes that differ"
            )
        contrast = one, other
    bits = arguments.bits if is_name else _models.bits(path, arguments.bits)
    return _Task(view, names, classes, contrast, bits, is_name)


def _index(word: str, names: Sequence[str], option: str) -> int:
    """Finds a class by its name, or else by its number."""
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    near = ", ".join(nearest(word, names) or names[:3])
    raise ValueError(
        f"{option}: {word!r} is no class of the model. To fix this: give the "
        f"name of one, such as {near}, or a number from 0 to {len(names) - 1}; "
        "and name images before the options"
    )


def _targets(overlay: pathlib.Path, task: _Task) -> dict[str, pathlib.Path]:
    """Names the files of an image, by their kinds."""
    stem = overlay.name.removesuffix("overlay.png")
    kinds = ["overlay", "evidence", *["contrast"] * bool(task.contrast)]
    return {kind: overlay.with_name(f"{stem}{kind}.png") for kind in kinds}


def _explain_image(
    task: _Task, path: pathlib.Path, targets: Mapping[str, pathlib.Path]
) -> "tuple[Explanation, PIL.Image.Image]":
    """Explains an image and writes its files, all of them or none."""
    import PIL.Image
    import tensorflow as tf

    from keras_lficam.data._images import to_gray
    from keras_lficam.data.image_files import read_image

    for target in targets.values():
        if target.exists():
            raise ValueError(
                f"{path}: {target} exists. To fix this: give another folder"
            )
    image = PIL.Image.fromarray(read_image(path, bits=task.bits))
    height, width, channels = task.view.classifier.image_shape
    if None in (height, width):
        open_width, open_height = _fitted(image.size, _OPEN_SIDE)
        height, width = height or open_height, width or open_width
    # As training and a server resize.
    pixels = tf.image.resize(
        _pixels(image), (height, width), "bilinear", antialias=True
    )
    if channels == 1:
        pixels = to_gray(pixels)
    size = _fitted(image.size, _OVERLAY_SIDE, enlarge=True)
    enlarged = _pixels(image.resize(size, PIL.Image.Resampling.LANCZOS))
    explanation = task.view.explain(
        pixels.numpy(), task.classes, class_names=task.names
    ).over(enlarged)
    figures = _figures(explanation, task)
    _write(figures, targets)
    return explanation, figures["overlay"]


def _figures(
    explanation: "Explanation", task: _Task
) -> "dict[str, PIL.Image.Image]":
    """Renders what is written of an image, by its kinds."""
    import PIL.Image

    from keras_lficam import visualization

    image = explanation.images.astype("uint8")
    if explanation.attention_map is not None:
        overlay = visualization.overlay(image, explanation.attention_map)
    else:
        overlay = visualization.signed_overlay(
            image, explanation.class_evidence[..., :1]
        )
    figure = explanation.plot()
    dpi = min(_DPI, _LONGEST / max(figure.get_size_inches()))
    figures = {
        "overlay": PIL.Image.fromarray(overlay[0]),
        "evidence": _contact_sheet.rendered(figure, dpi),
    }
    if task.contrast:
        why = visualization.signed_overlay(
            image, explanation.contrast(*task.contrast)
        )
        figures["contrast"] = PIL.Image.fromarray(why[0])
    return figures


def _write(
    figures: "Mapping[str, PIL.Image.Image]",
    targets: Mapping[str, pathlib.Path],
) -> None:
    """Writes the files of an image; takes them back if one cannot be."""
    written = []
    try:
        for kind, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target) as partial:
                figures[kind].save(partial)
            written.append(target)
    except BaseException:
        for target in written:
            target.unlink(missing_ok=True)
        raise


def _write_sheet(
    sheet: _contact_sheet.ContactSheet, target: pathlib.Path
) -> str:
    """Writes the contact sheet of several images; returns what went wrong."""
    if sheet.count < 2:
        return ""
    if target.exists():
        return (
            f"{target} exists and is left as it is. To fix this: give another "
            "folder\n"
        )
    try:
        sheet.write(target)
    except OSError as error:
        return f"{_output.reason(error)}\n"
    return ""


# What is said ---------------------------------------------------------------


def _about(
    arguments: argparse.Namespace, model: pathlib.Path, task: _Task
) -> str:
    """Says which model it is, what it knows, and what the columns mean."""
    lines = []
    unit = "logit" if task.view.in_logits else "probability"
    names, labels = task.names, model.with_name("labels.txt")
    if model == arguments.files[0]:
        known = ", ".join(names[:_SHOWN])
        if len(names) > _SHOWN:
            known += f" and {len(names) - _SHOWN} more"
        lines.append(f"Model: {model}, of {len(names)} classes: {known}")
        if not task.is_name and not labels.exists():
            lines.append(f"For names instead of numbers: {labels}, one a line")
    if task.view.has_attention:
        lines += [
            "evidence inside: how much of the evidence for a class lies in the "
            "brightest",
            "region of the attention map; attention added: to the "
            f"{unit} of the class",
        ]
    else:
        lines += [
            "evidence inside: how much of the evidence for a class lies in its "
            "brightest",
            "region",
        ]
    return "\n".join(lines)


def _title(explanation: "Explanation") -> str:
    """Words the prediction, also where other classes are explained.

    Where an image can have several labels, those of 50 % or more.
    """
    chances = explanation.probabilities[0]
    shown = [int(explanation.logits[0].argmax())]
    view = explanation.view
    several = view.model.outputs[0].shape[-1] > 1
    if several and view.classifier.activation == "sigmoid":
        in_order = sorted(range(len(chances)), key=lambda c: -chances[c])
        shown = [index for index in in_order if chances[index] >= 0.5]
    names = explanation.class_names
    words = [
        f"{names[index]} ({100 * chances[index]:.0f} %)" for index in shown
    ]
    return ", ".join(words) or "no class"


def _table(explanation: "Explanation") -> "Table":
    """Makes the table of an image: a row for each class."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 0, 0, 2))
    table.add_column("class", overflow="fold")
    titles = ["probability", "logit", "evidence inside"]
    if not explanation.view.in_logits:
        titles.remove("logit")
    if explanation.attention_logits is not None:
        titles.append("attention added")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for row in explanation.rows():
        inside = row["evidence_inside"]
        cells = {
            "probability": f"{100 * row['probability']:.1f} %",
            "logit": f"{row['logit']:.2f}",
            "evidence inside": (
                "none" if math.isnan(inside) else f"{100 * inside:.0f} %"
            ),
            "attention added": f"{row['attention']:+.2f}",
        }
        table.add_row(row["class"], *(cells[title] for title in titles))
    return table


def _as_json(
    path: pathlib.Path,
    explanation: "Explanation",
    targets: Mapping[str, pathlib.Path],
) -> str:
    """Makes the line of an image; JSON has null for what is not a number."""
    rows: list[dict[str, Any]] = [
        {
            name: None if isinstance(x, float) and math.isnan(x) else x
            for name, x in row.items()
            if name != "image"
        }
        for row in explanation.rows()
    ]
    files = {kind: str(target) for kind, target in targets.items()}
    return json.dumps({"file": str(path), "rows": rows, **files})


def _written(task: _Task, folder: pathlib.Path, sheet: str) -> str:
    """Says what the files in the output folder show."""
    has_attention = task.view.has_attention
    first = "the attention map" if has_attention else "the evidence of a class"
    files = {
        "NAME_overlay.png": f"{first} over the image",
        "NAME_evidence.png": "red speaks for a class, blue against it",
    }
    if task.contrast:
        one, other = (task.names[index] for index in task.contrast)
        files["NAME_contrast.png"] = f"red speaks for {one}, blue for {other}"
    if sheet:
        files[_SHEET] = sheet
    width = max(map(len, files))
    lines = [f"  {name:{width}}  {what}" for name, what in files.items()]
    return "\n".join([f"Written to {folder}:", *lines])


def _fitted(
    size: tuple[int, int], side: int, *, enlarge: bool = False
) -> tuple[int, int]:
    """Scales width and height so that the longer of them is `side`."""
    scale = side / max(size)
    if scale > 1 and not enlarge:
        return size
    width, height = (max(1, round(length * scale)) for length in size)
    return width, height


def _pixels(image: "PIL.Image.Image") -> "np.ndarray":
    """Returns an image as a batch of one, `(1, H, W, 3)`."""
    import numpy as np

    return np.asarray(image)[np.newaxis]
