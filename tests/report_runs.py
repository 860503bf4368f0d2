"""Folders of runs, written by hand, and the parser of their pages."""

import html.parser
import json

import keras
import numpy as np
import tensorflow as tf
from small_classifiers import backbone

import keras_lficam
from keras_lficam import data
from keras_lficam.classifier import (
    Classifier,
    predictions_of,
    training_activation,
)
from keras_lficam.metrics.classification import measure

SIZE = (16, 12)
EVIL = "<script>alert('x')</script> & \"co\""


def images_of(labels, seed):
    """Noise with a bright row where the class says."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (len(labels), *SIZE, 3))
    for image, label in zip(images, labels, strict=True):
        image[3 * (int(np.max(label)) % 4) :][:3] += 150
    return images.astype("uint8")


def source_of(labels, names, **more):
    """A source whose splits have these labels, each by its name."""
    parts = {
        split: tf.data.Dataset.from_tensor_slices(
            (images_of(rows, seed), np.asarray(rows))
        ).batch(4)
        for seed, (split, rows) in enumerate(labels.items())
    }
    train, validation = parts.pop("train"), parts.pop("validation")
    return data.from_datasets(
        train, validation, class_names=names, **parts, **more
    )


def classifier(classes=3, channels=3, **options):
    keras.utils.set_random_seed(5)
    shape = (*SIZE, channels)
    return keras_lficam.build(
        backbone(shape), classes, input_shape=shape, **options
    )


def write_run(folder, source, model, *, measured=True, channels=3, **more):
    """Writes what `fit` would write of a run that has ended.

    More is what `run.json` says beside or instead of the usual.
    """
    folder.mkdir(parents=True)
    about = {
        "data": {
            "name": source.name,
            "class_names": source.class_names,
            "images": {one: source.count(one) for one in source.splits},
            "damaged": 0,
        },
        "image_size": SIZE,
        "parameters": model.count_params(),
        "recipe": {"epochs": 2, "augmentation": ["flip"]},
        "seed": 0,
        "class_weights": None,
        "steps_per_epoch": 3,
        "versions": {"keras": keras.__version__},
    }
    (folder / "run.json").write_text(json.dumps(about | more))
    (folder / "log.csv").write_text(
        "epoch,accuracy,loss,val_accuracy,val_loss\n"
        "0,0.5,1.0,0.4,1.1\n1,0.7,0.6,NA,0.9\n"
    )
    metrics = {"epochs": 2, "best_epoch": 1, "validation_accuracy": 0.4}
    known = Classifier(model, training_activation(model))
    for split in ("validation", "test") if measured else ():
        if split in source.splits:
            batches = source.batches(split, image_size=SIZE, channels=channels)
            batches = batches.as_numpy_iterator()
            found = measure(
                *predictions_of(known, batches),
                source.class_names,
                resamples=20,
            )
            metrics[split] = found.to_dict()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    model.save(folder / "model.keras")
    return metrics


class Page(html.parser.HTMLParser):
    """A page, taken apart: elements, texts and what is wrong with it."""

    VOID = frozenset(["meta", "img", "br", "link", "hr", "input"])

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.faults = [], [], []
        self._open = []
        self.feed(text)
        self.close()
        self.faults += [f"{tag} stays open" for tag in self._open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"{tag} is closed at {self.getpos()}")

    def handle_data(self, text):
        if self._open and self._open[-1] != "style":
            self.texts.append(text)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())
