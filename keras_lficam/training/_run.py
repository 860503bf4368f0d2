"""What a run is, before its first step."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import keras

from keras_lficam import surgery
from keras_lficam.data import Source, augmentation
from keras_lficam.training import _stages, consistency, guidance
from keras_lficam.training.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class Run:
    """What is known of a run before its first step."""

    model: keras.Model
    source: Source
    recipe: Recipe
    folder: pathlib.Path
    seed: int
    image_size: tuple[int, int]
    steps: int  # In an epoch.
    strategy: Any  # None on other backends than TensorFlow.
    writes: bool
    # Of several labels a pair for each, see `_weights.class_weights`.
    class_weights: list[float] | list[list[float]] | None = None
    # What teaches the model's map, and the model with it as an output.
    guide: guidance.Guidance | None = None
    with_more_outputs: keras.Model | None = None

    @property
    def trained(self) -> keras.Model:
        """The model whose `fit` is called; it shares the layers of `model`."""
        return self.with_more_outputs or self.model

    @property
    def frozen_epochs(self) -> int:
        """Epochs of the first stage, in which the trunk is frozen."""
        return _stages.frozen_epochs(self.recipe)

    @property
    def classes(self) -> int:
        return len(self.source.class_names)

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for gray images."""
        return self.model.input_shape[-1] or 3

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs where there are several, all for the label."""
        output = output_of(self.trained)
        names = tuple(output) if isinstance(output, dict) else ()
        more = guidance.OUTPUT, consistency.OUTPUT
        return tuple(name for name in names if name not in more)

    @property
    def accuracy(self) -> str:
        return "predictions_accuracy" if self.outputs else "accuracy"

    @property
    def predicts(self) -> bool:
        """Whether epochs are compared by all predictions together."""
        return self.recipe.monitor not in ("accuracy", "loss")

    @property
    def monitor(self) -> str:
        """Name in the logs of what epochs are compared by."""
        name = self.recipe.monitor
        return f"val_{self.accuracy if name == 'accuracy' else name}"

    @property
    def activation(self) -> Callable[..., Any]:
        return surgery.last_activation(self.model)

    @property
    def shares_labels(self) -> bool:
        """Whether labels are shares `(B, K)` of the classes, not numbers."""
        return (
            self.source.multi_label
            or self.recipe.label_smoothing > 0
            or augmentation.mixes_labels(self.recipe.augmentation)
            or self.activation is keras.activations.sigmoid
        )


def output_of(model: keras.Model) -> Any:
    """The structure of outputs, which a `Sequential` has not till a call."""
    if isinstance(model, keras.Sequential):
        return model.outputs[0]
    return model.output
