"""What the epochs of a run are compared by."""

import logging
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_lficam.classifier import (
    Classifier,
    predictions_of,
    training_activation,
)
from keras_lficam.distribution.peers import first_value
from keras_lficam.metrics.classification import SCORES
from keras_lficam.training._run import Run

_LOG = logging.getLogger("keras_lficam")


class Monitored(keras.callbacks.Callback):
    """Adds a metric of all validation images together to the logs.

    Keras averages metrics over batches, or counts in bins; these have one
    value for all predictions.

    Args:
        run: The run, whose recipe names the metric.
        batches: Batches `(images, labels)` of the validation images, a
            `tf.data.Dataset`.
    """

    def __init__(self, run: Run, batches: Any):
        super().__init__()
        self.run = run
        self.batches = batches

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        # The one that is trained may have outputs that are no scores.
        activation = training_activation(self.run.model)
        self._classifier = Classifier(self.run.model, activation)
        self._classifier.check_probabilities()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch
        labels, chances = predictions_of(
            self._classifier, self.batches.as_numpy_iterator()
        )
        value = float("nan")  # Of a training that diverged.
        if np.isfinite(chances).all():
            value = SCORES[self.run.recipe.monitor](labels, chances)
        # Workers that compute on unlike processors must stop together.
        logs[self.run.monitor] = first_value(self.run.strategy, value)


def check_monitor(run: Run) -> None:
    """Names classes that the metric of a recipe has to leave out.

    Raises:
        ValueError: If it is not defined for the validation images.
    """
    name = run.recipe.monitor
    if not run.predicts:
        return
    counts = run.source.class_counts("validation")
    images = run.source.count("validation")
    names = np.array(run.source.class_names, dtype=object)
    both = (counts > 0) & (counts < images)
    needs_both = name == "roc_auc" or (
        name == "balanced_accuracy" and run.source.multi_label
    )
    if not (both if needs_both else counts > 0).any():
        raise ValueError(
            f"Argument `monitor` must be a metric that the {images} validation "
            f"images define. Received: monitor={name!r}, and all of them, or "
            f"none, are of {', '.join(map(repr, names[~both][:5]))}. To fix "
            "this: monitor='loss'; or validation images with and without a "
            "class."
        )
    missing = counts == 0
    if needs_both:
        missing |= counts == images
    if missing.any():
        _LOG.warning(
            "Validation images of %s%s are missing: %s leaves %s out",
            ", ".join(map(repr, names[missing][:5]))
            + (" and others" if missing.sum() > 5 else ""),
            ", or of other classes," if needs_both else "",
            name,
            "it" if missing.sum() == 1 else "them",
        )
