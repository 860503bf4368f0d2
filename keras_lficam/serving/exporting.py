"""`export`: one artefact that answers with class and heat map."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

import keras_lficam
from keras_lficam import _labels
from keras_lficam._checks import (
    check_finite,
    check_integer,
    check_mapping,
    check_names,
    check_range,
    check_size,
    path_of,
    real_array,
)
from keras_lficam._files import atomic_folder
from keras_lficam.classifier import Classifier
from keras_lficam.data.image_files import check_bits
from keras_lficam.explainers import Explainer
from keras_lficam.explainers.base import OneCallExplainer
from keras_lficam.explanation import ExplanationView
from keras_lficam.serving import FORMATS, Limits, _formats, _server_files
from keras_lficam.serving._signatures import (
    SIGNATURES,
    Served,
    value_range_of,
)


class ExportError(RuntimeError):
    """A format that could not be written.

    Args:
        message: What failed, and what was written.
        folder: Folder of the version with the formats that were written; None
            if there is none.
        failed: Error of each format that was not written.

    Examples:
        try:
            keras_lficam.export(model, "saved_models/digits")
        except ExportError as error:
            print(error.folder, list(error.failed))
    """

    def __init__(
        self,
        message: str,
        folder: pathlib.Path | None,
        failed: Mapping[str, Exception],
    ) -> None:
        super().__init__(message)
        self.folder = folder
        self.failed = dict(failed)


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    formats: Sequence[str] = ("saved_model",),
    version: int | None = None,
    image_size: tuple[int, int] | None = None,
    top: int | None = 5,
    value_range: tuple[float, float] | None = None,
    calibration: npt.ArrayLike | None = None,
    limits: Limits = Limits(),  # noqa: B008
    activation: str | None = None,
    bits: int | None = None,
    explainers: Mapping[str, Explainer] | None = None,
) -> pathlib.Path:
    """Writes a classifier that answers with its class, and why.

    The folder of a version is a SavedModel as TF Serving wants it, with the
    other formats as files in it. Its signatures:

    - `serving_default` of `images (B, H, W, 3)`, float32 in 0 to 255, of any
      size; `uint8_images` the same of uint8. They give `probabilities (B, K)`,
      `logits (B, K)`, `class_index (B,)` and `class_name (B,)`; the signed
      evidence `class_evidence (B, h, w, top)` at the size of the feature map,
      of the classes `evidence_classes (B, top)`, the likeliest first; and, if
      the model has them, `attention_map (B, H, W, 1)` in [0, 1],
      `attention_logits (B, top)`, `importance (B, C)` and `prefix_logits
      (B, top)`, as `explanation_view` describes them.
    - `images_and_classes` of the same and `classes (B, n)`, int32: evidence of
      the classes that are asked for, in place of the likeliest.
    - `encoded_images` of `image_bytes (B,)`, JPEG or PNG files or their
      URL-safe base64. A JPEG is turned upright by its EXIF orientation, and a
      PNG of 16 bits a channel is scaled as by `data.read_image`. Gives the
      same, the attention map at the model's size, `top_classes (B, top)`,
      names, `top_probabilities (B, top)`, and PNG files: `overlay_bytes (B,)`
      of the attention map, or of the likeliest class's evidence where there
      is none, and `evidence_overlay_bytes (B, top)` of each class's evidence,
      red for and blue against it. `encoded_images_and_classes` takes `classes
      (B, n)`, too.
    - `classify` of the same as `serving_default`, class and probabilities
      alone.

    All of them give `error (B,)`, why an image could not be answered, empty
    where it was; one that could not has the class -1 and zeros, and spoils no
    other. The other formats take `images (B, height, width, 3)` of one size
    and give what `serving_default` gives, but names and errors.

    Formats but the SavedModel compute in float32, whatever dtype policy the
    model has. Where some cannot be written, the others are, and an
    `ExportError` names both. `labels.txt` holds the names of the classes, one
    a line, and `export.json` the version of keras_lficam, the formats, the
    activation, the size and range of the images, the limits, the bits, and
    whether the evidence is exact: then its mean and the `bias` of a class,
    which stands there, and `prefix_logits` if given, are the logit. Its `unit`
    is that of the logits, or the probability of a model that shows nothing
    else.

    Beside the folder of the model, `models.config`, `batching.config` and
    `compose.yaml` start TF Serving with all models that are there.

    Args:
        model: Functional or Sequential classifier, made by `build` or
            `attach` or any other, that an `explanation_view` can be made of.
        path: Folder of the model, whose name it is served by.
        class_names: Name of each class; their numbers by default. A model
            with one score has two classes, of which it gives the second's.
        formats: One or several of `"saved_model"`, `"onnx"`, `"openvino"`,
            `"litert"`, `"litert_float16"` and `"litert_int8"`.
        version: Number of the version, at least 1; by default one more than
            the highest that is there.
        image_size: `(height, width)` that images are resized to; needed for a
            model that takes images of any size.
        top: Number of classes that evidence is given of, and that are named
            for encoded images; all, where there are fewer. None for all
            classes, whose evidence then is in their order.
        value_range: Darkest and brightest value of a pixel of the model; by
            default what `attach` was told for LFI-CAM, else 0 and 255.
        calibration: Images `(N, height, width, 3)` such as the model will see,
            a hundred or more, which `"litert_int8"` needs.
        limits: What the SavedModel refuses: too many bytes, pixels or images.
        activation: What turns the model's scores into probabilities:
            `"softmax"` or `"sigmoid"` if it gives logits, `"linear"` if it
            gives probabilities. By default it is found out from the last
            layer.
        bits: Bits that PNG files of 16 bits a channel use, 8 to 16, where they
            do not say it; 16 by default. Give what the model was trained with,
            `data.source(folder).bits`.
        explainers: Names and explainers of the model, such as `{"grad_cam":
            explainers.GradCAM(model)}`, that the SavedModel gets a signature
            of that name for: of `images`, as for `serving_default`, and
            `classes (B,)`, int32, -1 for the predicted one; it gives `map
            (B, H, W, 1)` in [0, 1], `class_index` and `error`. Gradients can
            be served so: no converter of the other formats knows them.

    Returns:
        Folder of the version.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the model has no feature map, or there is no
            `activation` and its last layer does not tell, an argument is out of
            range, or a version without a SavedModel would follow one that has
            it.
        ExportError: If a format cannot be written.
        FileExistsError: If the version is there already.
        ImportError: If the writer of a format is not installed.
        RuntimeError: If Keras runs on another backend than TensorFlow.
        OSError: If it cannot be written.

    Examples:
        folder = keras_lficam.export(model, "saved_models/digits")
        loaded = tf.saved_model.load(str(folder))
        answer = loaded.signatures["uint8_images"](
            images=tf.constant(images.astype("uint8"))
        )
        answer["class_name"], answer["class_evidence"]

    Reference:
        https://www.tensorflow.org/tfx/guide/serving
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "`export` needs Keras on TensorFlow. Received: Keras on "
            f"{keras.backend.backend()}. To fix this: save the model, and load "
            "it with KERAS_BACKEND=tensorflow."
        )
    path = path_of("path", path)
    if top is not None:
        check_integer("top", top, least=1)
    if not isinstance(limits, Limits):
        raise TypeError(
            "Argument `limits` must be a keras_lficam.serving.Limits. "
            f"Received: limits={limits!r:.80} of type {type(limits).__name__}"
        )
    check_bits(bits)
    classifier = Classifier(model, activation)
    if len(model.inputs) != 1:
        raise ValueError(
            "Argument `model` must take images alone. Received: "
            f"{model.name!r} with {len(model.inputs)} inputs. To fix this: "
            "keras_lficam.attention_view(model).export(path), which takes all."
        )
    served_explainers = _checked_explainers(explainers, model)
    size = _image_size(model, image_size)
    view = ExplanationView(model, top=top, activation=activation)
    classes = classifier.num_classes
    names = _checked_names(class_names, classes)
    pixels = _value_range(model, value_range)
    shape = (*size, model.inputs[0].shape[-1])
    _check_formats(formats)
    samples = _samples(calibration, shape) if "litert_int8" in formats else None
    # The model's name is that of its folder, and the server's files go beside
    # it: of "." and "a/.." neither can be read off.
    if not path.name or ".." in path.parts:
        path = pathlib.Path(os.path.abspath(path))
    if not path.name:
        raise ValueError(
            "Argument `path` must be a folder that has a name. Received: "
            f"path={str(path)!r}. To fix this: path='saved_models/digits'."
        )
    folder = path / str(_version(path, version))
    if folder.exists():
        raise FileExistsError(
            f"{folder}: this version is there already, and clients may use "
            "it. To fix this: give another `version`, or None for the next."
        )
    served_before = sorted(path.glob("[0-9]*/saved_model.pb"))
    if served_before and "saved_model" not in formats:
        raise ValueError(
            "Argument `formats` must hold 'saved_model' where a version is "
            "served already, for TF Serving would try to load the new one. "
            f"Received: formats={list(formats)} beside {served_before[-1]}. "
            "To fix this: add 'saved_model', or give another `path`."
        )
    path.mkdir(parents=True, exist_ok=True)

    @functools.cache
    def numeric() -> keras.Model:
        return _formats.numeric_model(model, size, top, activation)

    def write(name: str, target: pathlib.Path) -> None:
        if name == "saved_model":
            served = Served(
                model,
                names,
                size,
                top,
                pixels,
                limits,
                activation,
                bits,
                served_explainers,
            )
            signatures = served.signatures()
            tf.saved_model.save(served, str(target), signatures=signatures)
            _server_files.write_warmup(target, path.name, shape, pixels)
            return
        _formats.WRITERS[name](numeric(), target, samples)

    with atomic_folder(folder) as partial:
        failed = _write_each(formats, write, partial)
        written = [name for name in formats if name not in failed]
        # TF Serving would try to load what has no SavedModel.
        if not written or (served_before and "saved_model" in failed):
            _raise_failed(failed, None, [])
        description = {
            "keras_lficam": keras_lficam.__version__,
            "formats": written,
            "activation": classifier.activation or "linear",
            "image_size": size,
            "channels": shape[2],
            "top": view.top,
            "value_range": pixels,
            "limits": dataclasses.asdict(limits),
            "bits": bits,
            "evidence": {
                "exact": view.exact,
                "unit": "logit" if view.in_logits else "probability",
                "bias": None if view.bias is None else view.bias.tolist(),
            },
        }
        (partial / "export.json").write_text(
            json.dumps(description, indent=2) + "\n", encoding="utf-8"
        )
        _labels.write(partial / "labels.txt", names)
    if "saved_model" in written:
        _server_files.write(path.parent)
    if failed:
        _raise_failed(failed, folder, written)
    return folder


def _write_each(
    formats: Iterable[str],
    write: Callable[[str, pathlib.Path], None],
    folder: pathlib.Path,
) -> dict[str, Exception]:
    """Writes formats to a folder; gives the errors of those that failed."""
    failed: dict[str, Exception] = {}
    for name in dict.fromkeys(formats):
        target = folder / f".{name}"
        target.mkdir()
        try:
            write(name, target)
        except Exception as error:  # A converter raises anything.
            failed[name] = error
        else:
            for path in target.iterdir():
                path.rename(folder / path.name)
        shutil.rmtree(target)
    return failed


def _raise_failed(
    failed: Mapping[str, Exception],
    folder: pathlib.Path | None,
    written: Sequence[str],
) -> NoReturn:
    """Says which formats failed, each in one line, and which did not."""
    for error in failed.values():
        if not written and isinstance(error, OSError):
            raise error
        if not written and isinstance(error, tf.errors.OpError):
            raise OSError(
                f"it could not be written: {_one_line(error.message)}"
            ) from None
    reasons = "; ".join(
        f"{name}: {type(error).__name__}: {_one_line(error)}"
        for name, error in failed.items()
    )
    kept = (
        f"Written to {folder}: {', '.join(written)}"
        if written
        else "Nothing was written"
    )
    # Not `from` one of them, whose 100 kB would be shown, too.
    raise ExportError(
        f"Of the formats these could not be written: {reasons}. {kept}.",
        folder,
        failed,
    ) from None


def _one_line(error: object) -> str:
    """The start of a message; that of a converter can hold 100 kB of code."""
    words = next((line for line in str(error).split("\n") if line.strip()), "")
    words = " ".join(words[:1000].split())
    return f"{words[:300]}..." if len(words) > 300 else words


def _checked_names(names: Sequence[str] | None, classes: int) -> list[str]:
    if names is None:
        return [str(number) for number in range(classes)]
    check_names("class_names", names)
    if len(names) != classes:
        raise ValueError(
            f"Argument `class_names` must name each of the {classes} classes. "
            f"Received: {len(names)} names"
        )
    try:
        _labels.check(names)
    except ValueError as error:
        raise ValueError(f"Argument `class_names`: {error}") from None
    return list(names)


def _image_size(
    model: keras.Model, image_size: tuple[int, int] | None
) -> tuple[int, int]:
    height, width = model.input_shape[1:3]
    given = height, width
    if image_size is not None:
        check_size("image_size", image_size)
        image_size = int(image_size[0]), int(image_size[1])
    if None in given:
        if image_size is None:
            raise ValueError(
                "Argument `image_size` must be given for a model that takes "
                f"images of any size, as {model.name!r} does. Received: None. "
                "To fix this: image_size=(224, 224)."
            )
        return image_size
    if image_size is not None and image_size != given:
        raise ValueError(
            f"Argument `image_size` must be that of the model, {given}. "
            f"Received: image_size={image_size!r}. To fix this: leave it out."
        )
    return given


def _value_range(
    model: keras.Model, value_range: tuple[float, float] | None
) -> tuple[float, float]:
    if value_range is None:
        value_range = value_range_of(model)
    check_range("value_range", value_range)
    low, high = value_range
    return float(low), float(high)


def _checked_explainers(
    explainers: Mapping[str, Explainer] | None, model: keras.Model
) -> dict[str, OneCallExplainer]:
    if explainers is None:
        return {}
    check_mapping("explainers", explainers)
    checked: dict[str, OneCallExplainer] = {}
    for name, explainer in explainers.items():
        is_name = isinstance(name, str) and name.isidentifier()
        if not is_name or name in SIGNATURES:
            raise ValueError(
                "Argument `explainers` must have names of signatures that are "
                f"identifiers, and none of {', '.join(SIGNATURES)}. Received: "
                f"{name!r}. To fix this: a name such as 'grad_cam'."
            )
        if not isinstance(explainer, Explainer) or explainer.model is not model:
            raise ValueError(
                "Argument `explainers` must hold explainers of the model that "
                f"is exported. Received: {name!r}: {explainer!r:.80}. To fix "
                "this: keras_lficam.explainers.GradCAM(model)."
            )
        if not isinstance(explainer, OneCallExplainer):
            raise ValueError(
                "Argument `explainers` must hold explainers that call the "
                f"model once. Received: {name!r}: {type(explainer).__name__}. "
                "To fix this: one such as GradCAM, CAM or ClassEvidence."
            )
        checked[name] = explainer
    return checked


def _check_formats(formats: object) -> None:
    if (
        not isinstance(formats, (list, tuple))
        or not formats
        or not all(isinstance(name, str) for name in formats)
        or not {*formats} <= {*FORMATS}
    ):
        raise ValueError(
            "Argument `formats` must be a list of some of "
            f"{', '.join(FORMATS)}. Received: formats={formats!r}"
        )
    for name in formats:
        _formats.check(name)


def _samples(
    calibration: npt.ArrayLike | None, shape: tuple[int, int, int]
) -> np.ndarray:
    images = None
    if calibration is not None:
        images = real_array("calibration", calibration)
    if images is None or images.shape[1:] != shape or not images.size:
        raise ValueError(
            "Argument `calibration` must hold images of shape (N, "
            f"{shape[0]}, {shape[1]}, {shape[2]}) for 'litert_int8', from "
            "which the range of numbers in the model is found. Received "
            f"shape: {None if images is None else images.shape}"
        )
    check_finite("calibration", images, "pixels")
    return images


def _version(path: pathlib.Path, version: int | None) -> int:
    if version is None:
        there = [
            int(folder.name)
            for folder in (path.iterdir() if path.is_dir() else ())
            if folder.name.isdecimal()
        ]
        return max(there, default=0) + 1
    check_integer("version", version, least=1)
    return version
