"""Passes over the images of a run: predictions, twins, chosen images."""

import collections
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_lficam._names import printable
from keras_lficam.classifier import Classifier
from keras_lficam.data import Source
from keras_lficam.reporting._findings import Twins

# Images of all splits together that are compared with each other.
_COMPARED = 50_000
_BATCH = 32


class Images:
    """The images of a run, as its model takes them.

    Args:
        source: The data.
        classifier: The model.
        size: Height and width.
        resizing: How validation and test images are resized.
    """

    def __init__(
        self,
        source: Source,
        classifier: Classifier,
        size: tuple[int, int],
        resizing: str,
    ):
        self.source = source
        self._options: dict[str, Any] = {
            "image_size": size,
            "batch_size": _BATCH,
            "resizing": resizing,
            "channels": classifier.image_shape[-1] or 3,
        }
        self._names: dict[str, list[str]] = {}

    def batches(
        self, split: str, *, with_masks: bool = False
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Reads images, labels and, if asked for, masks, in their order."""
        batches = self.source.batches(
            split, with_masks=with_masks, **self._options
        )
        yield from batches.as_numpy_iterator()

    def of(self, split: str, indices: Sequence[int]) -> np.ndarray:
        """Reads some images of a split, in the order of `indices`."""
        found, _ = self._some(split, indices, with_masks=False)
        return found

    def with_masks(
        self, split: str, indices: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same with their masks."""
        found, masks = self._some(split, indices, with_masks=True)
        assert masks is not None
        return found, masks

    def _some(
        self, split: str, indices: Sequence[int], *, with_masks: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        wanted = set(indices)
        images: dict[int, np.ndarray] = {}
        masks: dict[int, np.ndarray] = {}
        number = 0
        for batch in self.batches(split, with_masks=with_masks):
            for row in range(len(batch[0])):
                if number in wanted:
                    images[number] = batch[0][row]
                    if with_masks:
                        masks[number] = batch[2][row]
                number += 1
            if len(images) == len(wanted):
                break
        shown = np.stack([images[i] for i in indices]).astype("float32")
        if not with_masks:
            return shown, None
        return shown, np.stack([masks[i] for i in indices])

    def names(self, split: str) -> list[str]:
        """Names the images of a split: their files, else their numbers."""
        if split not in self._names:
            self._names[split] = self._named(split)
        return self._names[split]

    def _named(self, split: str) -> list[str]:
        files = self.source.files(split)
        if files is None:
            count = self.source.count(split)
            return [f"{split} image {number}" for number in range(count)]
        root = pathlib.Path(self.source.name)
        if root.is_file():  # It lists them, by paths from its folder.
            root = root.parent
        return [printable(_relative(path, root)) for path in files]

    def twins(self) -> Twins:
        """Compares all images with each other, by hashes of their pixels."""
        splits = [*self.source.splits]
        total = sum(self.source.count(split) for split in splits)
        if total > _COMPARED:
            return Twins([], 0, 0, 0)
        groups: dict[bytes, list[tuple[str, int]]] = collections.defaultdict(
            list
        )
        labels: dict[bytes, set[bytes]] = collections.defaultdict(set)
        for split in splits:
            number = 0
            for images, of_images in self.batches(split):
                pixels = np.rint(images).clip(0, 255).astype("uint8")
                for one, label in zip(pixels, of_images, strict=True):
                    digest = hashlib.blake2b(
                        one.tobytes(), digest_size=16
                    ).digest()
                    groups[digest].append((split, number))
                    labels[digest].add(np.asarray(label).tobytes())
                    number += 1
        across, within = [], 0
        for group in groups.values():
            met = {split for split, _ in group}
            within += len(group) - len(met)
            if len(met) < 2:
                continue
            firsts = dict(reversed(group))
            across.append(
                [
                    f"{self.names(split)[firsts[split]]} ({split})"
                    for split in splits
                    if split in met
                ]
            )
        contradicting = sum(len(of_group) > 1 for of_group in labels.values())
        return Twins(across, within, contradicting, total)


def _relative(path: str, root: pathlib.Path) -> str:
    normal = pathlib.Path(os.path.normpath(path))
    try:
        return os.fspath(normal.relative_to(os.path.normpath(root)))
    except ValueError:
        return path
