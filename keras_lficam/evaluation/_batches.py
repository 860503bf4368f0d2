"""Batches as arrays, and the classes that are explained in them."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_lficam._checks import array_of
from keras_lficam.evaluation._named_metrics import NamedMetric


def unpacked(batch: Any) -> dict[str, np.ndarray]:
    """Arrays of a batch by their names."""
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        shown = f"one of type {type(batch).__name__}"
        if isinstance(batch, (tuple, list)):
            shown = f"one of {len(batch)} parts"
        raise TypeError(
            "Argument `data` must give batches (images, labels) or (images, "
            f"labels, masks). Received: {shown}. To fix this: "
            "data.map(function) of a tf.data.Dataset."
        )
    names = ("images", "labels", "masks")
    arrays = {
        name: array_of(name, values)
        for name, values in zip(names, batch, strict=False)
    }
    lengths = {
        name: len(array) if array.ndim else None
        for name, array in arrays.items()
    }
    if len(set(lengths.values())) > 1 or None in lengths.values():
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(
            "Argument `data` must give batches with a label, and a mask if "
            f"there are masks, for each image. Received: shapes {shapes}"
        )
    if lengths["images"] == 0:
        raise ValueError(
            "Argument `data` must give batches of at least one image. "
            f"Received: images.shape={arrays['images'].shape}. To fix this: "
            "leave out empty batches."
        )
    return arrays


def chosen_classes(
    classes: str | Callable[..., Any],
    images: np.ndarray,
    labels: np.ndarray,
) -> np.ndarray | None:
    """Classes to explain, `(B,)`, or None for those that are predicted."""
    if classes == "predicted":
        return None
    found = labels
    if not isinstance(classes, str):
        known = {"labels": labels} if _takes_labels(classes) else {}
        answer = classes(images, **known)
        found = np.asarray(keras.ops.convert_to_numpy(answer))
    if found.shape != (len(images),) or found.dtype.kind not in "iu":
        raise ValueError(
            "Argument `classes` must lead to an integer for each of the "
            f"{len(images)} images. Received: classes={classes!r}, that is "
            f"shape {found.shape} and type {found.dtype}. To fix this: "
            "scores.argmax(axis=-1) of scores or of one-hot labels; for "
            "several labels an image, a function of `images` and `labels` "
            "that chooses one."
        )
    return found


def _takes_labels(classes: Callable[..., Any]) -> bool:
    try:
        return "labels" in inspect.signature(classes).parameters
    except ValueError:  # It does not tell, as a function of C.
        return False


def check_batches(data: object) -> None:
    """Refuses what holds no batches, before anything is asked of it."""
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(
        data, Iterable
    ):
        raise TypeError(
            "Argument `data` must hold batches (images, labels), such as "
            f"data.load gives. Received: data={data!r:.80} of type "
            f"{type(data).__name__}"
        )


def check_classes(classes: object) -> None:
    """Refuses what is no way to choose classes."""
    is_word = isinstance(classes, str) and classes in ("predicted", "label")
    if not is_word and not callable(classes):
        raise ValueError(
            "Argument `classes` must be 'predicted', 'label' or a function "
            f"of images. Received: classes={classes!r}"
        )


def check_masks(
    named: Iterable[NamedMetric], given: Mapping[str, np.ndarray]
) -> None:
    """Refuses metrics of masks, if a batch has none."""
    without = [metric.name for metric in named if "masks" in metric.needs]
    if without and "masks" not in given:
        raise ValueError(
            f"Metrics {without} need masks of the objects. Received: data of "
            "batches (images, labels). To fix this: data.load(..., "
            "with_masks=True); or leave these metrics out."
        )
