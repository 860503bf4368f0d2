"""How good the trained classifier is, for `metrics.json`."""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_lficam.classifier import (
    Classifier,
    predictions_of,
    training_activation,
)
from keras_lficam.metrics.classification import measure
from keras_lficam.training._run import Run

_LOG = logging.getLogger("keras_lficam")


def classification(
    run: Run, batches: Iterable[Sequence[Any]]
) -> dict[str, Any] | None:
    """Measures the model of a run on batches of images and labels.

    Returns:
        What `Classification.to_dict` gives; None where the model has no finite
        probabilities, as one whose training diverged, which is logged.
    """
    try:
        classifier = Classifier(run.model, training_activation(run.model))
        labels, chances = predictions_of(classifier, batches)
        names = run.source.class_names
        return measure(labels, chances, names, seed=int(run.seed)).to_dict()
    except ValueError as error:
        _LOG.warning("No metrics of the classification: %s", error)
        return None


def as_text(metrics: Mapping[str, Any]) -> str:
    """Writes metrics as JSON, pairs and rows of numbers in one line each."""
    text = json.dumps(metrics, indent=2)
    # No string of JSON holds a line break, so that what is found is a list.
    return re.sub(
        r"\[\n[\s\d.,eE+\-]*\]",
        lambda found: json.dumps(json.loads(found[0])),
        text,
    )
