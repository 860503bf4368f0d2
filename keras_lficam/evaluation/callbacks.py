"""Map quality while a model is trained."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_lficam.evaluation._batches import (
    check_batches,
    check_classes,
    check_masks,
    unpacked,
)
from keras_lficam.evaluation._named_metrics import named_metrics
from keras_lficam.evaluation._pass import mean_of, measured
from keras_lficam.evaluation.metric import Metric


class MapQuality(keras.callbacks.Callback):
    """Reports the quality of heat maps after each epoch of `fit`.

    The mean of each metric goes into the logs as `val_` and its name: where
    the history, `CSVLogger`, `EarlyStopping` and `ModelCheckpoint` find it.
    These look when it is their turn, so `MapQuality` stands before them in
    the list of callbacks.

    Args:
        explainer: Function that makes an explainer of the model, such as
            `explainers.AttentionMap`. It is called once, when training
            begins; what it gives has to follow the model, as those of this
            package do.
        metrics: Names and metrics, as for `evaluate`, but none that compares
            maps with others.
        data: Batches, as for `evaluate`; gone through after every epoch, so
            it cannot be a generator.
        classes: Which class is explained, as for `evaluate`.

    Raises:
        TypeError: As for `evaluate`.
        ValueError: As for `evaluate`, before the first epoch begins. Also if
            `data` can be gone through only once.

    Examples:
        pointing_game = keras_lficam.metrics.pointing_game
        masks = np.ones((4, 32, 32, 1))
        quality = MapQuality(
            keras_lficam.explainers.AttentionMap,
            {"pointing_game": pointing_game},
            [(images, labels, masks)],
        )
        stop = keras.callbacks.EarlyStopping("val_pointing_game", mode="max")
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(images, labels, callbacks=[quality, stop], verbose=0)
    """

    def __init__(
        self,
        explainer: Callable[[keras.Model], Callable[..., Any]],
        metrics: Mapping[str, Callable[..., Any] | Metric],
        data: Iterable[Sequence[Any]],
        *,
        classes: str | Callable[[np.ndarray], Any] = "predicted",
    ):
        super().__init__()
        self.explainer = explainer
        self.metrics = metrics
        self.data = data
        self.classes = classes
        if not callable(explainer):
            raise TypeError(
                "Argument `explainer` must be a function of a model, such as "
                f"explainers.AttentionMap. Received: explainer={explainer!r} "
                f"of type {type(explainer).__name__}"
            )
        self._named = named_metrics(metrics)
        comparing = [metric.name for metric in self._named if metric.compares]
        if comparing:
            raise ValueError(
                "Argument `metrics` must hold none that compares maps with "
                "others, for the model is a new one after every epoch. "
                f"Received: {comparing}"
            )
        check_batches(data)
        check_classes(classes)
        if isinstance(data, Iterator):
            raise ValueError(
                "Argument `data` must be such that it can be gone through "
                "after every epoch. Received: an iterator, which is used up "
                "after the first. To fix this: a tf.data.Dataset, or a list of "
                "batches."
            )
        for batch in data:
            check_masks(self._named, unpacked(batch))
            break

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        self._explain = self.explainer(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch
        values, *_ = measured(
            {"model": self._explain},
            self._named,
            self.data,
            self.classes,
            progress=False,
        )
        # Keras hands the same dictionary from one callback to the next.
        logs.update(
            {
                f"val_{metric}": mean_of(array)
                for metric, array in values["model"].items()
            }
        )
