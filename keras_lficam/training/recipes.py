"""Recipes of training, as data."""

import dataclasses
import logging
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from keras_lficam._checks import (
    as_float,
    check_boolean,
    check_choice,
    check_integer,
    check_size,
    check_text,
    real_array,
)
from keras_lficam.data import augmentation as augmentations
from keras_lficam.training.guidance import (
    GUIDED,
    LOSSES as GUIDANCE_LOSSES,
)

_LOG = logging.getLogger("keras_lficam")
SMALL_SIDE = 64
MONITORS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "loss",
)
# Data sets of signs that a mirror turns into others.
_NOT_TO_BE_MIRRORED = frozenset(
    {"digits_in_photos", "emnist", "kmnist", "mnist", "svhn_cropped"}
)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    below: float = math.inf,
) -> None:
    if not _is_number(value):
        raise TypeError(
            f"Argument `{name}` must be a number. Received: {name}={value!r} "
            f"of type {type(value).__name__}"
        )
    enough = value >= 0 if above is None else value > above
    if not (enough and as_float(value) < below):
        lowest = "at least 0" if above is None else f"greater than {above}"
        highest = "finite" if below == math.inf else f"less than {below}"
        raise ValueError(
            f"Argument `{name}` must be {lowest} and {highest}. "
            f"Received: {name}={value}"
        )


def _check_numbers(name: str, values: Any) -> None:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(
            f"Argument `{name}` must be a tuple of numbers. Received: "
            f"{name}={values!r:.80} of type {type(values).__name__}"
        )
    for value in values:
        if not _is_number(value):
            raise TypeError(
                f"Argument `{name}` must hold numbers. Received: {value!r} in "
                f"{name}={values!r:.80}"
            )


def _checked_class_weight(class_weight: Any) -> Any:
    """Makes of weights of classes what can be compared and hashed."""
    if class_weight is None or (
        isinstance(class_weight, str) and class_weight == "balanced"
    ):
        return class_weight
    pairs = (
        class_weight.items()
        if isinstance(class_weight, Mapping)
        else class_weight
    )
    if not isinstance(pairs, (str, bytes)):
        try:
            return tuple((key, weight) for key, weight in pairs)
        except (TypeError, ValueError):
            pass
    kind = ValueError if isinstance(class_weight, str) else TypeError
    raise kind(
        "Argument `class_weight` must be 'balanced', or a dictionary from "
        "numbers or names of classes to weights, such as {0: 1.0, 1: 5.0}. "
        f"Received: class_weight={class_weight!r:.80}"
    )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Learning rate and batch size are those of the whole step, however many
    replicas share it: with 4 replicas and `batch_size=128` each takes 32
    images, and the learning rate stays what it is.

    Args:
        epochs: Passes over the training images, at least 1.
        batch_size: Images in a step, of all replicas together.
        optimizer: `"sgd"`, with momentum 0.9, or `"adamw"`.
        learning_rate: Highest learning rate.
        weight_decay: With `"sgd"` an L2 penalty on every weight, added to its
            gradient; with `"adamw"` decoupled from it, on kernels alone.
        schedule: `"steps"` divides the learning rate by 10 at each of
            `decay_at`; `"cosine"` lets it fall to 0; `"constant"`.
        decay_at: Shares of the epochs, each in (0, 1), rising.
        warmup_epochs: Epochs in which the learning rate rises from 0, with
            `"cosine"` alone.
        label_smoothing: Share of the label that goes to all classes, [0, 1).
        ema_epochs: About how many epochs the EMA of the weights spans,
            exponentially; the averages are validated and saved. 0 for none.
        recompute_statistics: Whether batch normalization is validated and
            saved with statistics that are computed from 1,024 training images
            at the end of each epoch, rather than with moving ones, which need
            hundreds of steps. Those of an EMA always are.
        augmentation: Names of `keras_lficam.data.augmentation`.
        resizing: How images for validation and test get their size,
            `"stretch"` or `"center_crop"`, as for `data.load`.
        monitor: What chooses the epoch whose weights are kept, and stops
            training: `"accuracy"` or `"loss"` of the validation images; or,
            of all of them together, `"balanced_accuracy"`, `"macro_f1"`,
            `"roc_auc"` or `"average_precision"`, the means over the classes
            that `keras_lficam.metrics.classification` describes. Of equal
            epochs the one of lower loss is kept.
        patience: Epochs without a better `monitor` after which training
            stops; None never stops it.
        frozen_share: Share of the epochs, at the beginning, in which the trunk
            of the model, the layers that make its feature map, is frozen, so
            that the head and the branch learn alone; [0, 1). Their learning
            rate is constant; then all layers learn by the schedule.
        layer_decay: Factor of the learning rate from each stage of the trunk,
            the layers of one size of the map, to the one below, in (0, 1]. The
            head and the branch learn with the full rate; the last stage of the
            trunk with this share of it, the one before with its square.
        freeze_batch_norm: Whether batch normalization in the trunk keeps its
            statistics, scale and shift, and normalizes in training as in
            inference.
        class_weight: Weights of the classes in the training loss, as `fit`
            takes them: `"balanced"`, or a dictionary by numbers or names,
            kept as a tuple of pairs; None for none.
        guidance: Weight of the loss by which a map of the model is taught to
            lie on the masks of the training images; 0 for none. It is that of
            the mean over the images with a mask, however few they are.
        guided: What is taught: `"attention"`, the attention map, or
            `"evidence"`, the class evidence of an image's own classes, see
            `keras_lficam.training.Guidance`. Features outside of the
            attention map are still there for the head, so that only the
            evidence keeps a model from a shortcut.
        guidance_loss: `"energy"`, `"mask"` or `"outside"`, see
            `keras_lficam.training.GuidanceLoss`.
        guidance_share: Share of the masks that are used, in (0, 1]; the seed
            of the run chooses them.
        consistency: Weight of the loss by which the attention map of a moved
            image is taught to be the moved map: `|A(T x) - T A(x)|`, with
            shifts by a cell of the map and what of `"flip"` and
            `"flip_vertical"` is among the augmentations; 0 for none. Each
            image then goes through the model a second time.

    Raises:
        ValueError: If a value is out of its range.
        TypeError: If a value is of the wrong type.

    Examples:
        dataclasses.replace(keras_lficam.training.recipe("modern"), epochs=30)
    """

    epochs: int = 100
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    decay_at: tuple[float, ...] = ()
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    ema_epochs: float = 0.0
    recompute_statistics: bool = False
    augmentation: tuple[str, ...] = ()
    resizing: str = "stretch"
    monitor: str = "accuracy"
    patience: int | None = None
    frozen_share: float = 0.0
    layer_decay: float = 1.0
    freeze_batch_norm: bool = False
    class_weight: (
        str
        | Mapping[int | str, float]
        | tuple[tuple[int | str, float], ...]
        | None
    ) = None
    guidance: float = 0.0
    guided: str = "attention"
    guidance_loss: str = "energy"
    guidance_share: float = 1.0
    consistency: float = 0.0

    def __post_init__(self) -> None:
        _check_numbers("decay_at", self.decay_at)
        augmentations.check(self.augmentation)
        object.__setattr__(self, "decay_at", tuple(self.decay_at))
        object.__setattr__(self, "augmentation", tuple(self.augmentation))
        weights = _checked_class_weight(self.class_weight)
        object.__setattr__(self, "class_weight", weights)
        for name, lowest in {"epochs": 1, "batch_size": 1}.items():
            check_integer(name, getattr(self, name), least=lowest)
        if self.patience is not None:
            check_integer("patience", self.patience, least=1)
        check_choice("monitor", self.monitor, MONITORS)
        check_choice("optimizer", self.optimizer, ("sgd", "adamw"))
        schedules = ("steps", "cosine", "constant")
        check_choice("schedule", self.schedule, schedules)
        check_choice("resizing", self.resizing, ("stretch", "center_crop"))
        _check_number("learning_rate", self.learning_rate, above=0)
        _check_number("weight_decay", self.weight_decay)
        _check_number("warmup_epochs", self.warmup_epochs)
        _check_number("ema_epochs", self.ema_epochs)
        _check_number("label_smoothing", self.label_smoothing, below=1)
        _check_number("frozen_share", self.frozen_share, below=1)
        _check_number("layer_decay", self.layer_decay, above=0)
        if self.layer_decay > 1:
            raise ValueError(
                "Argument `layer_decay` must be at most 1. "
                f"Received: layer_decay={self.layer_decay}"
            )
        _check_number("guidance", self.guidance)
        _check_number("consistency", self.consistency)
        check_choice("guided", self.guided, GUIDED)
        check_choice("guidance_loss", self.guidance_loss, GUIDANCE_LOSSES)
        _check_number("guidance_share", self.guidance_share, above=0)
        if self.guidance_share > 1:
            raise ValueError(
                "Argument `guidance_share` must be at most 1. "
                f"Received: guidance_share={self.guidance_share}"
            )
        if self.guidance > 0 and augmentations.mixes_labels(self.augmentation):
            raise ValueError(
                "Argument `guidance` must be 0 with an augmentation that mixes "
                f"images. Received: guidance={self.guidance} with augmentation="
                f"{self.augmentation}. To fix this: leave mix_up and cut_mix "
                "out."
            )
        check_boolean("freeze_batch_norm", self.freeze_batch_norm)
        check_boolean("recompute_statistics", self.recompute_statistics)
        if self.warmup_epochs > 0 and self.schedule != "cosine":
            raise ValueError(
                "Argument `warmup_epochs` must be 0 unless schedule='cosine'. "
                f"Received: warmup_epochs={self.warmup_epochs} with "
                f"schedule={self.schedule!r}"
            )
        shares = (0, *self.decay_at, 1)
        if not all(a < b for a, b in zip(shares, shares[1:], strict=False)):
            raise ValueError(
                "Argument `decay_at` must be rising shares of the epochs "
                "between 0 and 1, such as (0.5, 0.75). Received: "
                f"decay_at={self.decay_at}"
            )


_CIFAR = Recipe(
    epochs=300,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    schedule="steps",
    decay_at=(0.5, 0.75),
    augmentation=("pad_crop", "flip"),
)
_LARGE = dataclasses.replace(
    _CIFAR,
    batch_size=256,
    weight_decay=1e-4,
    augmentation=("random_resized_crop", "flip"),
    resizing="center_crop",
)
_MODERN = Recipe(
    epochs=100,
    batch_size=128,
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup_epochs=5,
    label_smoothing=0.1,
    ema_epochs=1,
)
_FINE_TUNE = Recipe(
    epochs=16,
    batch_size=32,
    learning_rate=1e-3,
    weight_decay=1e-2,
    warmup_epochs=1,
    label_smoothing=0.1,
    recompute_statistics=True,
    patience=8,
    frozen_share=0.2,
    layer_decay=0.5,
    freeze_batch_norm=True,
)
# Fewer steps are too few to learn from, however few the images are.
_LEAST_STEPS = 800
# The largest class over the smallest, between which the classes have weights:
# beyond, single images would decide a step.
_UNEQUAL = 1.5, 20

# By name, and for small and large images.
RECIPES: dict[str, dict[str, Recipe]] = {
    "paper": {"small": _CIFAR, "large": _LARGE},
    "modern": {
        "small": dataclasses.replace(
            _MODERN, augmentation=("pad_crop", "flip")
        ),
        "large": dataclasses.replace(
            _MODERN,
            augmentation=("random_resized_crop", "flip"),
            resizing="center_crop",
        ),
    },
    "fine_tune": {
        "small": dataclasses.replace(
            _FINE_TUNE, augmentation=("pad_crop", "flip")
        ),
        "large": dataclasses.replace(
            _FINE_TUNE, augmentation=("pad_crop", "flip")
        ),
    },
}


def recipe(
    name: str,
    *,
    data: str = "",
    backbone: str = "",
    image_size: tuple[int, int] = (224, 224),
    images: int | None = None,
    class_counts: npt.ArrayLike | None = None,
) -> Recipe:
    """Finds the recipe for a data set and a backbone.

    `"paper"` is what the authors of LFI-CAM released: stochastic gradient
    descent for 300 epochs, for each data set and model that they name, and for
    others by the size of the images. `"modern"` trains from random weights
    with AdamW, warm-up, cosine, label smoothing and an EMA of the weights.
    `"fine_tune"` trains pretrained weights further: head and branch alone at
    first, then all layers, the lower the slower, and the normalization of the
    trunk stays as it is.

    Args:
        name: One of `RECIPES`.
        data: Name of the data set. Where images are of digits or letters,
            they are not mirrored.
        backbone: Name of the backbone, or of the model: in `"paper"` the
            weight decay of a ResNet-110 is smaller than that of others.
        image_size: `(height, width)` of the images in pixels; up to 64 are
            small.
        images: Number of training images. Where they are so few that
            `"modern"` or `"fine_tune"` would make less than 800 steps, all
            that is counted in epochs, `patience` too, is as many times as
            long as makes them. None for many.
        class_counts: Number of training images of each class, where an image
            has one. If the largest has more than 1.5 times as many as the
            smallest, and at most 20 times, `"modern"` and `"fine_tune"` weigh
            the classes: `class_weight="balanced"`. None does not.

    Returns:
        The recipe. Change it with `dataclasses.replace`.

    Raises:
        ValueError: If there is no recipe of this name, `image_size` is no
            pair of positive integers, or `images` is less than 1.
        TypeError: If an argument is of the wrong type.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937, and the settings
        in the code that its authors released.

    Examples:
        keras_lficam.training.recipe("paper", data="cifar10").weight_decay
    """
    check_choice("name", name, RECIPES)
    check_text("data", data)
    check_text("backbone", backbone)
    check_size("image_size", image_size)
    if images is not None:
        check_integer("images", images, least=1)
    unequal = class_counts is not None and _unequal(class_counts)
    small = max(image_size) <= SMALL_SIDE
    found = RECIPES[name]["small" if small else "large"]
    if name == "paper" and small and "resnet110" in backbone.lower():
        found = dataclasses.replace(found, weight_decay=1e-4)
    if data in _NOT_TO_BE_MIRRORED:
        left = tuple(part for part in found.augmentation if part != "flip")
        found = dataclasses.replace(found, augmentation=left)
    if unequal and name != "paper":
        found = dataclasses.replace(found, class_weight="balanced")
    if images is not None and name != "paper":
        found = _of_steps(found, math.ceil(images / found.batch_size))
    return found


def _unequal(class_counts: npt.ArrayLike) -> bool:
    """Whether classes need weights, and can have them; logs if they cannot."""
    counts = real_array("class_counts", class_counts)
    if counts.ndim != 1 or not counts.size or (counts < 0).any():
        raise ValueError(
            "Argument `class_counts` must hold a number of images for each "
            f"class, (K,). Received: class_counts={class_counts!r:.80}. To "
            "fix this: source.class_counts('train')."
        )
    some, most = _UNEQUAL
    largest, smallest = counts.max(), counts.min()
    if largest > most * smallest:
        _LOG.info(
            "The classes have %d to %d training images, which is too unequal "
            "to weigh them without being asked to: class_weight='balanced', or "
            "a dictionary of weights, does",
            smallest,
            largest,
        )
        return False
    return bool(largest > some * smallest)


def _of_steps(recipe: Recipe, steps: int) -> Recipe:
    """Makes a recipe longer whose epochs have so few steps."""
    times = _LEAST_STEPS / (recipe.epochs * steps)
    if times <= 1:
        return recipe
    patience = recipe.patience
    return dataclasses.replace(
        recipe,
        epochs=math.ceil(times * recipe.epochs),
        warmup_epochs=times * recipe.warmup_epochs,
        ema_epochs=times * recipe.ema_epochs,
        patience=None if patience is None else math.ceil(times * patience),
    )
