"""EMA of the weights, and the batch statistics that belong to weights."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_lficam.classifier import CompiledFunction
from keras_lficam.training import _state as state

# So many images are enough: the error of a mean over them is 3 % of their
# standard deviation. Precise batch normalization takes 1,000 to 10,000:
# Wu and Johnson, 2021, https://arxiv.org/abs/2105.07576.
_IMAGES = 1024


class Shown(keras.callbacks.Callback):
    """Gives a model what it is validated and saved with.

    Between the epochs that are the averages of its weights, or the weights
    themselves, and the batch statistics that belong to them. The moving
    statistics of batch normalization are those of the weights of many steps
    before, and in the first few hundred steps still near where they began.

    Args:
        batches: Batches of training images `(B, H, W, 3)` that can be iterated
            again, the same each time.
        averaged: Whether the optimizer averages the weights.
        classifier: Model that the statistics are computed by: the one that is
            trained may show its layers changed images, too.
    """

    def __init__(
        self,
        batches: Iterable[np.ndarray],
        *,
        averaged: bool,
        classifier: keras.Model,
    ):
        super().__init__()
        self.classifier = classifier
        self.batches = batches
        self.averaged = averaged
        self._trained: list[np.ndarray] | None = None
        self._shown: list[np.ndarray] | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        self._statistics = BatchStatistics(self.classifier)
        self._learning = self._identities()

    def _identities(self) -> list[int]:
        return [id(variable) for variable in self.model.trainable_variables]

    def on_epoch_begin(
        self, epoch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        del epoch, logs
        self._hide()
        self._shown = None

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        self._show()

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        self._hide()

    def on_epoch_end(
        self, epoch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        del epoch, logs
        self._show()

    def _variables(self) -> list[keras.Variable]:
        return [
            *self.model.trainable_variables,
            *self._statistics.variables,
        ]

    def _show(self) -> None:
        if self._trained is not None:
            return
        if self._learning != self._identities():
            # A layer that was frozen learns now.
            self._statistics = BatchStatistics(self.classifier)
            self._learning = self._identities()
        self._trained = state.read(self._variables())
        if self._shown is None:
            weights = self.model.trainable_variables
            values = state.read(self._averages() if self.averaged else weights)
            state.assign(weights, values)
            self._shown = values + self._statistics.of(self.batches)
        state.assign(self._variables(), self._shown)

    def _averages(self) -> list[keras.Variable]:
        optimizer = self.model.optimizer
        # In mixed precision another optimizer scales the loss around it.
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        return [*optimizer._model_variables_moving_average]

    def _hide(self) -> None:
        if self._trained is not None:
            state.assign(self._variables(), self._trained)
            self._trained = None


class BatchStatistics:
    """Computes what batch normalization should know of a model's weights.

    That is mean and variance over images, where each batch is normalized by
    its own, as in training. Layers that training leaves as they are, and those
    that renormalize, keep theirs. The model is not changed.

    Args:
        model: Built model.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.layers = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
            and not layer.renorm
            and 0 <= layer.momentum < 1
        ]
        self.variables = [
            variable
            for layer in self.layers
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        self._calls: list[int] | None = None
        self._step = CompiledFunction(model, self._updated)

    def of(self, batches: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Computes the statistics of the weights that the model has now.

        Args:
            batches: Batches of images `(B, H, W, 3)`, each counted alike.

        Returns:
            Values for `variables`: mean and variance of each layer.
        """
        if not self.layers:
            return []
        moments = []
        for images in batches:
            if self._calls is None:
                self._calls = self._count_calls(images)
            moments.append(self._moments(images, self._calls))
        values = state.read(self.variables)
        for number, calls in enumerate(self._calls or ()):
            if calls:
                means = np.stack([batch[2 * number] for batch in moments])
                variances = np.stack(
                    [batch[2 * number + 1] for batch in moments]
                )
                mean = means.mean(0)
                # Of the images of all batches together.
                variance = (variances + (means - mean) ** 2).mean(0)
                values[2 * number : 2 * number + 2] = mean, variance
        return values

    def _moments(
        self, images: np.ndarray, counts: Sequence[int]
    ) -> list[np.ndarray]:
        """Mean and variance of a batch, for each layer in float64.

        A moving average that begins at zero is a known share of them, as each
        layer is called `counts` times.
        """
        shares = [
            1 - layer.momentum**calls
            for layer, calls in zip(self.layers, counts, strict=True)
            for _ in range(2)
        ]
        updated = self._run(images, 0.0)
        return [
            value / share if share else value
            for value, share in zip(updated, shares, strict=True)
        ]

    def _count_calls(self, images: np.ndarray) -> list[int]:
        """Finds how often each layer updates its statistics in a step.

        Layers may be shared, or be called with `training=False`. Each call
        leaves the share `momentum` of where the average began.
        """
        kept = [
            np.mean(one - zero)
            for one, zero in zip(
                self._run(images, 1.0), self._run(images, 0.0), strict=True
            )
        ]
        return [
            _logarithm(share, layer.momentum)
            for share, layer in zip(kept[::2], self.layers, strict=True)
        ]

    def _run(self, images: np.ndarray, start: float) -> list[np.ndarray]:
        updated = self._step.run(
            np.asarray(images), np.array([start], "float32")
        )
        return [np.asarray(value, "float64") for value in updated]

    def _updated(self, images: Any, start: Any) -> list[Any]:
        """The moving statistics after a step that they begin at one value."""
        ids = {id(variable) for variable in self.variables}
        others = self.model.non_trainable_variables
        _, values = self.model.stateless_call(
            [variable.value for variable in self.model.trainable_variables],
            [
                keras.ops.zeros_like(variable.value)
                + keras.ops.cast(start[0], variable.dtype)
                if id(variable) in ids
                else variable.value
                for variable in others
            ],
            images,
            training=True,
        )
        updated = {
            id(variable): value
            for variable, value in zip(others, values, strict=True)
        }
        return [
            keras.ops.cast(updated[id(variable)], "float32")
            for variable in self.variables
        ]


def first_images(stream: Any, batch_size: int, steps: int) -> Any:
    """Takes the images that batch statistics are computed from.

    Args:
        stream: Batches `(images, labels, ...)`, a `tf.data.Dataset`.
        batch_size: Images in a batch.
        steps: Steps in an epoch, of which no more are taken.

    Returns:
        Iterable of batches of images as arrays.
    """
    batches = stream.take(min(steps, math.ceil(_IMAGES / batch_size)))
    return _Images(batches)


class _Images:
    """Images of a data set, iterated again each time."""

    def __init__(self, batches: Any):
        self.batches = batches

    def __iter__(self) -> Iterator[np.ndarray]:
        for images, *_ in self.batches.as_numpy_iterator():
            yield images


def _logarithm(share: float, momentum: float) -> int:
    """How often a share was multiplied by the momentum."""
    if momentum == 0:
        return int(share < 0.5)
    return round(math.log(max(share, 1e-30)) / math.log(momentum))
