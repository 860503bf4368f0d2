"""A part of a split that is like the whole."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_lficam._checks import check_integer
from keras_lficam.data.sources.base import Source


def sample(source: Source, split: str, count: int, *, seed: int = 0) -> Source:
    """Draws images of a split at random, with its classes in proportion.

    Each class gets its share of the images, rounded, and one at least where
    there are as many images as classes. So a mean over the sample is that of
    the split up to chance, which the first images of a folder, all of one
    class, do not give. All images are taken where there are not more.

    Where an image can have several labels, each combination of labels gets its
    share, and every image is as likely as another. Rare combinations, and so
    rare classes, may have none; `absent` says which.

    Args:
        source: Images with labels.
        split: As for `Source.batches`.
        count: Images, at least 1.
        seed: Decides which images, and their order.

    Returns:
        A source that has this split alone. Its `counts` says how many images
        each class has in it, one of several classes for each of them, its
        `absent` which classes have none.

    Raises:
        ValueError: If an argument is out of range, or there is no such split.
        TypeError: If an argument is of the wrong type.

    Examples:
        few = sample(source, "train", 3, seed=1)
        images, labels = next(iter(few.batches("train")))
    """
    if not isinstance(source, Source):
        raise TypeError(
            "Argument `source` must be what keras_lficam.data.source or "
            f"from_datasets gives. Received: source={source!r:.80} of type "
            f"{type(source).__name__}"
        )
    check_integer("count", count, least=1)
    check_integer("seed", seed, least=0)
    return _Sample(source, split, count, seed)


class _Sample(Source):
    """Some images of a split, in an order of their own."""

    def __init__(self, source: Source, split: str, count: int, seed: int):
        self._source = source
        own = source._own(split)
        examples = source._examples(own, None)
        batches = examples.map(lambda example: example["label"]).batch(4096)
        labels = np.concatenate([*batches.as_numpy_iterator()])
        self.name = source.name
        self.class_names = source.class_names
        self.splits = {split: own}
        self.image_shape = source.image_shape
        self.damaged = source.damaged
        self.bits = source.bits
        self.has_masks = source.has_masks
        self.multi_label = source.multi_label
        self._contents = source._contents
        self._shuffled_together = count
        self._seed = seed
        self._chosen = np.zeros(len(labels), bool)
        if self.multi_label:
            self._chosen[_spread(labels, count, seed)] = True
            numbers = labels[self._chosen].astype("int64").sum(axis=0)
        else:
            self._chosen[_stratified(labels, count, seed)] = True
            numbers = np.bincount(
                labels[self._chosen], minlength=len(self.class_names)
            )
        self.counts = dict(zip(self.class_names, numbers.tolist(), strict=True))
        self.absent = [name for name, n in self.counts.items() if n == 0]

    def _count(self, split: str) -> int:
        return int(self._chosen.sum())

    def _examples(
        self, split: str, shuffle_seed: int | None
    ) -> tf.data.Dataset:
        chosen = tf.constant(self._chosen)
        examples = (
            self._source._examples(split, None)
            .enumerate()
            .filter(lambda number, example: chosen[number])
            .map(lambda number, example: example)
        )
        count = max(self._count(split), 1)
        # So the first few are not all of one class.
        examples = examples.shuffle(
            count, seed=self._seed, reshuffle_each_iteration=False
        )
        if shuffle_seed is not None:
            examples = examples.shuffle(count, seed=shuffle_seed)
        return examples

    def _image(self, example: dict[str, Any]) -> tf.Tensor:
        return self._source._image(example)

    def _mask(self, example: dict[str, Any]) -> tf.Tensor:
        return self._source._mask(example)


def _stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws the positions of `count` labels, of each class its share."""
    rng = np.random.default_rng(seed)
    if count >= len(labels):
        return np.arange(len(labels))
    sizes = np.unique(labels, return_counts=True)[1]
    shares = count * sizes / len(labels)
    quotas = np.floor(shares).astype(int)
    if count >= len(sizes):
        quotas = np.maximum(quotas, 1)
    # What is left goes to the classes that lack most, drawn where they tie.
    tie = rng.permutation(len(sizes))
    while quotas.sum() < count:
        lack = np.where(quotas < sizes, shares - quotas, -np.inf)
        quotas[np.lexsort((tie, lack))[-1]] += 1
    while quotas.sum() > count:
        excess = np.where(quotas > 1, quotas - shares, -np.inf)
        quotas[np.lexsort((tie, excess))[-1]] -= 1
    return np.concatenate(
        [
            rng.permutation(np.flatnonzero(labels == label))[:quota]
            for label, quota in zip(np.unique(labels), quotas, strict=True)
        ]
    )


def _spread(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws the positions of `count` rows of labels, spread over their kinds.

    There may be as many combinations as images, of which `_stratified` would
    draw the frequent alone. So rows are sorted by combination, at random
    within one, and every n-th is taken.
    """
    rng = np.random.default_rng(seed)
    if count >= len(labels):
        return np.arange(len(labels))
    kinds = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((rng.permutation(len(labels)), kinds))
    steps = (rng.uniform() + np.arange(count)) * (len(labels) / count)
    # A sum of floats may round up to the end.
    drawn: np.ndarray = order[np.minimum(steps.astype(int), len(labels) - 1)]
    return drawn
