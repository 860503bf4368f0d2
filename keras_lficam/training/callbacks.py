"""What happens between the steps of a run."""

import csv
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from keras_lficam import visualization
from keras_lficam._checks import (
    array_of,
    check_boolean,
    check_choice,
    check_finite,
    check_integer,
    check_names,
    numbers_of,
    path_of,
)
from keras_lficam._files import atomic_write
from keras_lficam.classifier import Classifier
from keras_lficam.training import _state as state

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class HeatMaps(keras.callbacks.Callback):
    """Draws heat maps of the same images every few epochs of `fit`.

    So one sees where a classifier looks while it learns, in a notebook's own
    `model.fit` as in a run of this package.

    Args:
        explainer: Function that makes an explainer of the model, such as
            `explainers.AttentionMap`. It is called once, when training
            begins.
        images: Images `(B, H, W, 3)` in 0 to 255.
        labels: Their classes `(B,)`, to name the true one under a wrong
            answer.
        class_names: Name of each class; numbers by default.
        every: Epochs between two drawings, at least 1. The first and the last
            epoch are drawn, too.
        folder: Where `epoch_0001.png` and so on are written; None for nowhere.
        log_dir: Folder of TensorBoard's logs, where the drawings appear under
            Images; None for nowhere.
        draw: Whether this process draws. Of several workers that train
            together each must have the callback, and one should draw.
        activation: What turns the model's scores into probabilities:
            `"softmax"` or `"sigmoid"` if it gives logits, `"linear"` if it
            gives probabilities. By default it is found out from the last
            layer.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `every` is less than 1, both `folder` and `log_dir` are
            None, or another argument is not as described. When training
            begins, if the model gives logits and `activation` is None.
        ImportError: If `log_dir` is given and TensorBoard is not installed.

    Examples:
        maps = keras_lficam.training.HeatMaps(
            keras_lficam.explainers.AttentionMap, images, folder="maps"
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(images, labels, epochs=2, callbacks=[maps], verbose=0)
    """

    def __init__(
        self,
        explainer: Callable[[keras.Model], Callable[..., Any]],
        images: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        *,
        class_names: Sequence[str] | None = None,
        every: int = 1,
        folder: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        draw: bool = True,
        activation: str | None = None,
    ):
        super().__init__()
        if not callable(explainer):
            raise TypeError(
                "Argument `explainer` must be a function of a model, such as "
                f"explainers.AttentionMap. Received: explainer={explainer!r} "
                f"of type {type(explainer).__name__}"
            )
        check_integer("every", every, least=1)
        if class_names is not None:
            check_names("class_names", class_names)
        check_boolean("draw", draw)
        if activation is not None:
            words = ("softmax", "sigmoid", "linear")
            check_choice("activation", activation, words)
        if folder is None and log_dir is None:
            raise ValueError(
                "Argument `folder` or `log_dir` must say where the drawings "
                "go. Received: None for both"
            )
        self.explainer = explainer
        self.images = _checked_images(images)
        self.labels = None
        if labels is not None:
            self.labels = _checked_labels(labels, len(self.images))
        self.class_names = class_names
        self.every = every
        self.folder = None if folder is None else path_of("folder", folder)
        logs = None if log_dir is None else path_of("log_dir", log_dir)
        self.draw = draw
        self.activation = activation
        self._writer: Any = None  # Of TensorBoard's logs.
        if logs is not None and draw:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(os.fspath(logs))

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        self._explain = self.explainer(self.model)
        self._classifier = Classifier(self.model, self.activation)
        self._classifier.check_probabilities()
        self._drawn: int | None = None

    def on_epoch_end(
        self, epoch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        del logs
        self._epoch = epoch
        if epoch == 0 or (epoch + 1) % self.every == 0:
            self._show(epoch)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        epoch = getattr(self, "_epoch", None)
        if epoch is not None and epoch != self._drawn:
            self._show(epoch)

    def _show(self, epoch: int) -> None:
        self._drawn = epoch
        maps = keras.ops.convert_to_numpy(self._explain(self.images))
        images = self.images.astype("float32")
        chances = self._classifier.probabilities(images)
        if not self.draw:
            return
        titles = visualization.prediction_titles(
            keras.ops.convert_to_numpy(chances), self.class_names, self.labels
        )
        figure = visualization.grid(self.images, maps, titles=titles)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(
                self.folder / f"epoch_{epoch + 1:04d}.png"
            ) as partial:
                figure.savefig(partial, dpi=100)
        if self._writer is not None:
            self._write(figure, epoch)

    def _write(self, figure: "Figure", epoch: int) -> None:
        import tensorflow as tf
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[np.newaxis, ..., :3]
        with self._writer.as_default():
            tf.summary.image("heat_maps", pixels, step=epoch)
        self._writer.flush()


def _checked_images(images: npt.ArrayLike) -> np.ndarray:
    images = numbers_of("images", images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            "Argument `images` must hold images (batch, height, width, 3). "
            f"Received: images.shape={images.shape}"
        )
    with np.errstate(over="ignore"):  # What is too large is not finite.
        check_finite("images", images.astype("float32"), "pixels")
    return images


def _checked_labels(labels: npt.ArrayLike, count: int) -> np.ndarray:
    labels = array_of("labels", labels)
    if labels.ndim == 2 and len(labels) == count:
        return labels  # Of several classes; the titles check them.
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            "Argument `labels` must hold integers. "
            f"Received: labels.dtype={labels.dtype}"
        )
    if labels.shape != (count,) or labels.min() < 0:
        raise ValueError(
            f"Argument `labels` must hold a class, from 0 on, for each of the "
            f"{count} images. Received: labels={labels.tolist()!r:.80}"
        )
    return labels


class Checkpoints(keras.callbacks.Callback):
    """Saves the state of a run, and lets an interrupted epoch resume.

    Args:
        path: File of the state.
        steps: Steps in an epoch.
        every: Steps between two states within an epoch.
        restored: State that the run resumes from; None at its beginning.
        rows: Logs of the epochs that are done; `Log` adds to them.
        build_metrics: Function that makes the variables of the metrics, which
            Keras leaves to the first step.
        write: Whether this process writes. Of several workers each must have
            the callback, for together they read the variables.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        steps: int,
        every: int,
        restored: state.State | None,
        rows: list[dict[str, float | str]],
        build_metrics: Callable[[], None],
        write: bool,
    ):
        super().__init__()
        self.path = path
        self.steps = steps
        self.build_metrics = build_metrics
        self.every = every
        self.rows = rows
        self.write = write
        self._restored_step = 0 if restored is None else restored.step
        self._metrics = [] if restored is None else restored.metrics
        self._last = self._restored_step

    def on_epoch_begin(
        self, epoch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        # What belongs to the epoch before, its line in the log among it, is
        # done by now; at its end it would not be.
        del logs
        self._epoch = epoch
        if epoch * self.steps > self._restored_step:
            self._save(epoch * self.steps)
        if epoch == self._restored_step // self.steps and self._metrics:
            if len(self._of_metrics()) < len(self._metrics):
                self.build_metrics()
            state.assign(self._of_metrics(), self._metrics)

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        del logs
        done = batch + 1
        step = self._epoch * self.steps + done
        if step - self._last >= self.every and done < self.steps:
            self._save(step, state.read(self._of_metrics()))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch
        logs["learning_rate"] = float(
            keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        )

    def _of_metrics(self) -> list[keras.Variable]:
        return [*self.model.metrics_variables]

    def _save(
        self,
        step: int,
        metrics: Sequence[np.ndarray] = (),
        *,
        finished: bool = False,
    ) -> None:
        self._last = step
        values = state.read(state.variables(self.model))
        if self.write:
            state.save(
                state.State(step, finished, self.rows, values, list(metrics)),
                self.path,
            )

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        self._save((self._epoch + 1) * self.steps, finished=True)


class Log(keras.callbacks.Callback):
    """Keeps the logs of the epochs, and writes them as a table.

    It stands behind the callbacks that add to the logs.

    Args:
        path: The `.csv` file.
        rows: Logs of the epochs before; those of new ones are added.
        write: Whether this process writes.
    """

    def __init__(
        self,
        path: pathlib.Path,
        rows: list[dict[str, float | str]],
        *,
        write: bool,
    ):
        super().__init__()
        self.path = path
        self.rows = rows
        self.write = write

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch
        self.rows.append({name: _plain(logs[name]) for name in sorted(logs)})
        if self.write:
            self.save()

    def save(self) -> None:
        """Writes the table, a line for each epoch."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with (
            atomic_write(self.path) as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.DictWriter(file, ["epoch", *names], restval="NA")
            table.writeheader()
            for epoch, row in enumerate(self.rows):
                table.writerow({"epoch": epoch} | row)


def _plain(value: Any) -> float | str:
    """What JSON reads back as it was; callbacks of the user log anything."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


class BestModel(keras.callbacks.Callback):
    """Keeps the weights of the best epoch, and the model with them in a file.

    Best is the highest value of what is monitored; of equal ones the lowest
    loss.

    Args:
        path: The `.keras` file.
        monitor: Its name in the logs, such as `"val_accuracy"`. Of
            `"val_loss"` the lowest is best.
        rows: Logs of the epochs before, if the run is resumed.
        write: Whether this process writes.
        saved: The classifier that is saved, which shares all layers with the
            model that is trained, or is it.
        as_built: Makes a context in which the model is saved, with the flags
            `trainable` that it came with.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        monitor: str,
        rows: Sequence[dict[str, float | str]],
        write: bool,
        saved: keras.Model,
        as_built: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        super().__init__()
        self.as_built = as_built
        self.saved = saved
        self.path = path
        self.monitor = monitor
        self.write = write
        self.weights: list[np.ndarray] | None = None
        scores = [self._score(row) for row in rows]
        best = max(scores, default=None)
        self._best = best
        self.epoch = None if best is None else scores.index(best)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        score = self._score(logs)
        if self._best is None or score > self._best:
            self._best, self.epoch = score, epoch
            self.weights = self.saved.get_weights()
            if self.write:
                with atomic_write(self.path) as partial, self.as_built():
                    for_use(self.saved).save(partial)

    def _score(self, logs: Mapping[str, Any]) -> tuple[float, float]:
        loss, value = -logs["val_loss"], logs[self.monitor]
        if self.monitor == "val_loss":
            value = loss
        # A comparison with NaN is always false: such an epoch is the worst.
        value, loss = (-np.inf if np.isnan(x) else x for x in (value, loss))
        return value, loss


class OfClassifier(keras.callbacks.Callback):
    """Shows callbacks the classifier, not the model with more outputs.

    Of that one they could neither save nor compare predictions as usual. It
    stands behind them.

    Args:
        callbacks: The callbacks.
        classifier: The model that they are given. It shares layers and
            optimizer with the one that is trained.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        classifier: keras.Model,
    ):
        super().__init__()
        self.callbacks = callbacks
        self.classifier = classifier

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        for callback in self.callbacks:
            callback.set_model(self.classifier)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        self.classifier.stop_training = False

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        del batch, logs
        self._stop()

    def on_epoch_end(
        self, epoch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        del epoch, logs
        self._stop()

    def _stop(self) -> None:
        if self.classifier.stop_training:
            self.model.stop_training = True


class RestoredStopping(keras.callbacks.Callback):
    """Restores early stopping from the epochs before the run was resumed.

    Args:
        stopping: The callback; it stands before this one.
        rows: Logs of those epochs.
    """

    def __init__(
        self,
        stopping: keras.callbacks.EarlyStopping,
        rows: Sequence[dict[str, float | str]],
    ):
        super().__init__()
        self.stopping = stopping
        self.rows = rows

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        for epoch, row in enumerate(self.rows):
            self.stopping.on_epoch_end(epoch, row)


def for_use(model: keras.Model) -> keras.Model:
    """Takes a model without what only its training needs.

    A file without the optimizer is a third as large, and loads where the
    optimizer's class is not known.

    Args:
        model: Functional or Sequential model; others are returned as they are.

    Returns:
        A model that shares its layers.
    """
    try:
        return keras.Model(model.input, model.output, name=model.name)
    except (AttributeError, ValueError):
        return model
