"""Starts Keras, and loads models and data sets."""

import contextlib
import importlib
import importlib.util
import json
import logging
import os
import pathlib
import re
import sys
import tempfile
import types
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_lficam import _labels
from keras_lficam._names import nearest

if TYPE_CHECKING:
    import keras

    from keras_lficam.classifier import Classifier
    from keras_lficam.data import Source
    from keras_lficam.explanation import ExplanationView


def start_keras() -> None:
    """Imports Keras without the lines that TensorFlow logs at its start."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow leaves oneDNN off on processors without AVX-512, as many of
    # AMD, where its own convolutions are slower.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # It warns of small models, compiled in a row, that are none of a loop.
    logging.getLogger("tensorflow").setLevel("ERROR")
    logging.getLogger("absl").addFilter(_is_news)
    sys.stderr.flush()
    screen = os.dup(2)
    try:
        with tempfile.TemporaryFile() as log:
            os.dup2(log.fileno(), 2)
            try:
                import keras_lficam.architectures  # noqa: F401

                if "tensorflow" in sys.modules:
                    # It also logs when it looks for GPUs and finds none.
                    import tensorflow as tf

                    tf.config.list_physical_devices()
            finally:
                os.dup2(screen, 2)
    finally:
        os.close(screen)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the log is none of TFDS about its own code."""
    return not record.getMessage().startswith("`FeatureConnector.dtype` is dep")


def load_model(
    path: pathlib.Path, imports: Sequence[str] = ()
) -> "keras.Model":
    """Loads a model, or says in one line why that cannot be."""
    import keras

    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: the file is empty or damaged")
    known: dict[str, Any] = {}
    for name in imports:
        known |= _defined_by(_imported(name))
    try:
        return keras.models.load_model(
            path, compile=False, custom_objects=known
        )
    except Exception as error:  # A damaged file raises anything.
        raise ValueError(f"{path}: {_reason(path, error)}") from None


def _imported(name: str) -> types.ModuleType:
    """Imports a module by its name, from the working folder too, or a file."""
    try:
        if not name.endswith(".py"):
            sys.path.insert(0, os.getcwd())
            try:
                return importlib.import_module(name)
            finally:
                sys.path.remove(os.getcwd())
        path = pathlib.Path(name)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None  # The name of the file ends in .py.
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # It may do anything.
        raise ValueError(
            f"--import {name}: it cannot be imported "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from None
    return module


def _defined_by(module: types.ModuleType) -> dict[str, Any]:
    """Classes and functions of a module, also if they are not registered."""
    return {
        name: thing
        for name, thing in vars(module).items()
        if callable(thing)
        and getattr(thing, "__module__", None) == module.__name__
    }


def _reason(path: pathlib.Path, error: Exception) -> str:
    """Says why Keras did not load a file."""
    version = _version_of_keras(path)
    if version is not None and int(version.split(".")[0]) < 3:
        return (
            f"the file is of Keras {version}, which is Keras 2 (tf_keras), "
            "and Keras 3 cannot load it. To fix this: build the model again "
            "with Keras 3, load its weights with load_weights, and save it"
        )
    text = str(error).strip()
    found = re.search(r"Could not locate (\w+) '([^']+)'", text)
    found = found or re.search(r"Unknown (\w+): '([^']+)'", text)
    if found:
        return (
            f"the model has a {found[1]} {found[2]!r} that Keras does not "
            "know. To fix this: give the module or the file that defines it "
            "with --import, such as --import my_layers.py"
        )
    # Keras tells of each layer that the fault is in before the fault.
    _, _, text = f": {text}".rpartition("Exception encountered: ")
    return f"this is no model that Keras can load. {_first_line(text)}"


def _version_of_keras(path: pathlib.Path) -> str | None:
    """The version of Keras that wrote a file; None if it does not say."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                about = json.loads(archive.read("metadata.json"))
            return str(about["keras_version"])
        import h5py

        with h5py.File(path, "r") as file:
            return str(file.attrs["keras_version"])
    except Exception:  # It is no model, as the caller found.
        return None


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]


def is_name(path: pathlib.Path) -> bool:
    """Whether an argument may be the name of a backbone, and is no file."""
    named = re.fullmatch(r"[A-Z][A-Za-z0-9_]+", str(path))
    return bool(named) and not path.exists()


def imagenet_model(name: str) -> "keras.Model":
    """Builds a classifier of the 1000 classes of ImageNet, with its weights."""
    import keras_lficam

    if name not in keras_lficam.backbones.names():
        near = nearest(name, keras_lficam.backbones.names())
        hint = f"; the nearest names: {', '.join(near)}" if near else ""
        raise ValueError(
            f"{name}: there is no such file, and no backbone of this name{hint}"
        )
    return keras_lficam.build(
        name, 1000, weights="imagenet", architecture="plain"
    )


def check_file(path: pathlib.Path) -> None:
    """Refuses the name of a model that is not there."""
    if not os.path.isfile(path):  # Also where the name is too long.
        raise ValueError(f"{path}: there is no such model file")


def classifier_of(
    model: "keras.Model", path: pathlib.Path, activation: str | None = None
) -> "Classifier":
    """Finds out how a model gives probabilities, or says what is missing."""
    from keras_lficam.classifier import Classifier

    try:
        classifier = Classifier(model, activation)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if classifier.gives != "probabilities" and activation is None:
        several = len(model.outputs) > 1
        scores = model.output["predictions"] if several else model.outputs[0]
        ways = (
            "--activation sigmoid if this is the logit of the second of two "
            "classes, --activation linear if it is its probability"
            if scores.shape[-1] == 1
            else "--activation softmax if one class is right, --activation "
            "sigmoid if several may be, --activation linear if they are "
            "probabilities"
        )
        raise ValueError(
            f"{path}: this model gives {classifier.gives or 'scores'}. To fix "
            f"this: say what makes probabilities of them, with {ways}"
        )
    return classifier


def explanation_view_of(
    model: "keras.Model",
    path: pathlib.Path,
    *,
    top: int | None,
    activation: str | None = None,
    layer: str | None = None,
) -> "ExplanationView":
    """Views any classifier, or says in one line why that cannot be."""
    from keras_lficam.explanation import ExplanationView

    classifier = classifier_of(model, path, activation)
    if len(model.inputs) != 1:
        raise ValueError(
            f"{path}: this model takes {len(model.inputs)} inputs, and the "
            "command has images alone. To fix this: explain it in Python, "
            "keras_lficam.explain(model, images, context={...}), and serve it "
            "by keras_lficam.attention_view(model).export(folder)"
        )
    channels = classifier.image_shape[-1]
    if channels not in (1, 3):
        raise ValueError(
            f"{path}: this model takes images of {channels or 'any number of'} "
            "channels, and image files have 3, or 1 if they are gray. To fix "
            "this: explain it in Python, keras_lficam.explain(model, images)"
        )
    try:
        return ExplanationView(
            model, top=top, activation=activation, layer=layer
        )
    except ValueError as error:
        # It names arguments of Python.
        told = re.sub(r"Argument `layer`", "--layer", str(error))
        told = re.sub(r"\blayer=", "--layer ", told)
        raise ValueError(f"{path}: {told}") from None


def class_names(path: pathlib.Path, view: "keras.Model") -> list[str]:
    """Reads the names of the classes beside the model; numbers if none."""
    from keras_lficam.classifier import Classifier

    count = Classifier(view).num_classes
    labels = path.with_name("labels.txt")
    if not labels.is_file():
        return [str(number) for number in range(count)]
    names = _labels.read(labels)
    if len(names) != count:
        raise ValueError(
            f"{labels}: a line for each of the model's {count} classes is "
            f"needed, and {len(names)} were found"
        )
    return names


def bits(path: pathlib.Path, given: int | None) -> int | None:
    """Finds the bits of 16-bit images that a model was trained on."""
    run = path.with_name("run.json")
    if given is not None or not run.is_file():
        return given
    try:
        about = json.loads(run.read_text(encoding="utf-8"))
        found: int | None = about["data"].get("bits")
        return found
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # The file is of another program.


def source(
    name: str, bits: int | None = None, masks: str | None = None
) -> "Source":
    """Makes or downloads a data set; its bars go to the error stream."""
    import tensorflow_datasets as tfds

    from keras_lficam import data

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with contextlib.redirect_stdout(None):  # The words of TFDS.
        found = data.source(name, bits=bits, masks=masks)
        assert found.class_names
    return found
