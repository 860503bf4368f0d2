"""Evidence whose mean over the map and the bias are the logit."""

from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_lficam import functional
from keras_lficam.classifier._split import SplitFunctions
from keras_lficam.functional import Tensor
from keras_lficam.surgery import LinearHead, Term

if TYPE_CHECKING:
    from keras_lficam.classifier._view import Classifier


class ExactEvidence:
    """Computes the evidence of a head that is linear in the feature map.

    The weights are read at each call, so that it follows the classifier.

    Args:
        classifier: The classifier.
        split: The classifier, split at the feature map, with a linear head.
    """

    def __init__(self, classifier: "Classifier", split: SplitFunctions) -> None:
        assert split.linear is not None, "the head is not linear"
        self._classifier = classifier
        self._split = split
        self._head: LinearHead = split.linear

    @property
    def counts_prefix(self) -> bool:
        """Whether tokens in front of the patches add to the logits, too."""
        return any(term.first < self._prefix for term in self._head.terms)

    @property
    def bias(self) -> np.ndarray:
        """The bias of each class `(K,)`, float32."""
        total: Any = np.float32(self._head.offset)
        for term in self._head.terms:
            if term.layer is not None and term.layer.use_bias:
                total = total + term.scale * ops.convert_to_tensor(
                    term.layer.bias
                )
        number = self._classifier.num_scores
        every = ops.broadcast_to(ops.cast(total, "float32"), (1, number))
        every = self._classifier.logits_of_all_classes(every)[0]
        bias: np.ndarray = ops.convert_to_numpy(every)
        return bias

    def __call__(self, features: Tensor, classes: Tensor | None) -> Tensor:
        """Computes maps `(B, h, w, n)` of features, see `Evidence`."""
        maps = ops.cast(self._split.map_of(features), "float32")
        parts = [
            self._factor(term) * self._of_patches(term, maps, classes)
            for term in self._head.terms
        ]
        return sum(parts[1:], start=parts[0])

    def of_prefix(self, features: Tensor, classes: Tensor | None) -> Tensor:
        """Computes what the tokens in front add to the logits, `(B, n)`."""
        # In half precision the sum would be rounded.
        tokens = ops.cast(features[:, : self._prefix], "float32")
        total: Any = 0.0
        for term in self._head.terms:
            counted = tokens[:, term.first :]
            if term.first == self._prefix:
                continue
            kernel = self._kernel(term, counted.shape[1], from_end=False)
            weighed = (
                self._classifier.logits_of_all_classes(counted)
                if kernel is None
                else ops.einsum(
                    "btc,ck->btk" if term.is_mean else "btc,tck->btk",
                    counted,
                    kernel,
                )
            )
            scale = term.scale / (self._pooled(term) if term.is_mean else 1)
            total = total + scale * ops.sum(weighed, axis=1)
        if classes is None:
            return total
        return ops.take_along_axis(total, ops.cast(classes, "int32"), axis=1)

    @property
    def _prefix(self) -> int:
        tokens = self._split.tokens
        return 0 if tokens is None else tokens.prefix

    def _locations(self) -> int:
        height, width, _ = self._split.shape
        assert height is not None, "a map of an open size is not flattened"
        assert width is not None, "a map of an open size is not flattened"
        return height * width

    def _pooled(self, term: Term) -> int:
        """Number of locations and tokens that a term pools."""
        return self._locations() + self._prefix - term.first

    def _factor(self, term: Term) -> float:
        """What makes the mean over the locations what the term adds."""
        if not term.is_mean:
            return term.scale * self._locations()
        if term.first == self._prefix:
            return term.scale
        return term.scale * self._locations() / self._pooled(term)

    def _kernel(self, term: Term, count: int, *, from_end: bool) -> Any:
        """Weights `(C, K)`, or of some of the locations `(n, C, K)`."""
        if term.layer is None:
            return None
        kernel = ops.convert_to_tensor(term.layer.kernel)
        outputs = kernel.shape[-1]
        kernel = ops.reshape(kernel, (-1, outputs))
        kernel = self._classifier.logits_of_all_classes(kernel)
        if term.is_mean:
            return kernel
        channels = self._split.shape[-1]
        kernel = ops.reshape(kernel, (-1, channels, kernel.shape[-1]))
        return kernel[-count:] if from_end else kernel[:count]

    def _of_patches(
        self, term: Term, maps: Tensor, classes: Tensor | None
    ) -> Tensor:
        if term.layer is None:
            every = self._classifier.logits_of_all_classes(maps)
            return every if classes is None else of_classes(every, classes)
        if term.is_mean:
            kernel = self._kernel(term, 0, from_end=True)
            return functional.class_evidence(maps, kernel, classes)
        height, width, channels = self._split.shape
        kernel = self._kernel(term, self._locations(), from_end=True)
        kernel = ops.reshape(kernel, (height, width, channels, -1))
        if classes is None:
            return ops.einsum("bhwc,hwck->bhwk", maps, kernel)
        # The columns are taken before the product, which is of few classes.
        columns = ops.take(ops.moveaxis(kernel, -1, 0), classes, axis=0)
        return ops.einsum("bhwc,bnhwc->bhwn", maps, columns)


def of_classes(maps: Tensor, classes: Tensor) -> Tensor:
    """Takes the maps `(B, h, w, n)` of classes `(B, n)` out of all."""
    index = ops.cast(classes, "int32")[:, None, None]  # (B, 1, 1, n)
    shape = (*ops.shape(maps)[:3], ops.shape(classes)[-1])
    index = ops.broadcast_to(index, shape)
    return ops.take_along_axis(maps, index, axis=-1)


def takes_all(
    head: LinearHead | None, prefix: int, shape: tuple[int | None, ...]
) -> bool:
    """Whether a head is linear, and its terms take all patches of the map."""
    if head is None:
        return False
    whole = all(term.is_mean for term in head.terms) or None not in shape
    return whole and all(term.first <= prefix for term in head.terms)
