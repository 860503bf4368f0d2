"""Starts Keras, and loads models."""

import json
import logging
import os
import sys
import tempfile
import zipfile

from keras_lficam import _labels


def start_keras():
    """Imports Keras without the lines that TensorFlow logs at its start."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow leaves oneDNN off on processors without AVX-512, as many of
    # AMD, where its own convolutions are slower.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # It warns of small models, compiled in a row, that are none of a loop.
    logging.getLogger("tensorflow").setLevel("ERROR")
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


def load_model(path):
    """Loads a model, or says in one line why that cannot be."""
    import keras

    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: the file is empty or damaged")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # A damaged file raises anything.
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path}: this is no model that Keras can load. {reason}"
        ) from None


def check_file(path):
    """Refuses the name of a model that is not there."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such model file")


def load_view(path):
    """Loads a model for its map, or says in one line why that cannot be."""
    return view_of(load_model(path), path)


def view_of(model, path):
    """Gives the view of a model that was loaded."""
    from keras_lficam.architectures import attention_view

    try:
        view = attention_view(model)
    except ValueError:
        raise ValueError(
            f"{path}: this model has no heat map of its own; one made by "
            "keras_lficam.build has"
        ) from None
    if len(view.inputs) != 1:
        raise ValueError(f"{path}: this model takes more than one picture")
    return view


def class_names(path, view):
    """Reads the names of the classes beside the model; numbers if none."""
    count = view.output["predictions"].shape[-1]
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


def bits(path, asked):
    """Finds the bits of 16-bit pictures that a model was trained on."""
    run = path.with_name("run.json")
    if asked is not None or not run.is_file():
        return asked
    try:
        about = json.loads(run.read_text(encoding="utf-8"))
        return about["data"].get("bits")
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # The file is of another program.
