"""What a classifier predicts for all images of a data set."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_lficam.classifier._view import Classifier


def predictions_of(
    classifier: Classifier, batches: Iterable[Sequence[Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Collects labels and probabilities, batch by batch.

    Args:
        classifier: The classifier.
        batches: Batches of `(images, labels)`, and what may follow.

    Returns:
        Pair of arrays: the labels as they come, `(N,)` or `(N, K)`, and
        probabilities `(N, K)`, float32.

    Raises:
        ValueError: If it is not known how to get probabilities, or there is
            no batch.
    """
    classifier.check_probabilities()
    labels, chances = [], []
    for images, of_images, *_ in batches:
        scores = classifier.predicted_scores(classifier.checked_images(images))
        found = classifier.as_probabilities(ops.convert_to_tensor(scores))
        chances.append(ops.convert_to_numpy(found))
        labels.append(np.asarray(ops.convert_to_numpy(of_images)))
    if not labels:
        raise ValueError(
            "Argument `batches` must hold at least one batch. Received: none. "
            "To fix this: give a data set that can be read again."
        )
    return np.concatenate(labels), np.concatenate(chances)
