"""Probabilities, signed evidence of classes and attention, in one pass."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import check_integer
from keras_lficam.classifier import (
    Classifier,
    CompiledFunction,
    Evidence,
    Halves,
    holding,
)
from keras_lficam.explanation._classes import (
    checked_classes,
    checked_names,
    class_indices,
)
from keras_lficam.explanation.result import Explanation


class ExplanationView:
    """Shows probabilities, signed evidence of classes and attention together.

    `explanation_view` makes it. Called on tensors it gives tensors, also in
    the graph of an export; `predict` takes and gives arrays. It copies and
    changes nothing of the model, and follows it when it is trained further.
    It is no layer: save the model, and make the view again.

    Args:
        model: Functional or Sequential classifier, flat or nested.
        top: Number of classes to compute evidence for; None for all.
        activation: What turns the model's scores into probabilities.
        layer: Name of the layer whose output is the feature map.
        grid: Rows and columns of a transformer's patches.
        split: Two functions in the place of `layer`.

    Attributes:
        model: The model.
        classifier: Its read-only `classifier.Classifier`.
        top: Number of classes that evidence is computed for.
        exact: Whether the mean of a class's evidence over the map, and its
            bias, are the logit; of a model that `counts_prefix`, together with
            its `prefix_logits`. If not, the evidence is Recipro-CAM's.
        counts_prefix: Whether a transformer averages or flattens its patches
            with tokens in front of them, as that of the class. What these add
            to a logit lies at no location.
        bias: The bias of each class `(K,)`, float32; None if not exact.
        in_logits: Whether `logits` and evidence are in the unit of logits. Of
            a model that ends with an unusual activation, which hides its
            logits, they are its probabilities, and nothing is exact.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of range, or the model has no
            feature map, or shows neither logits nor probabilities.

    Examples:
        view = ExplanationView(model, top=2)
        view.exact, view.predict(images)["class_evidence"].shape
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        top: int | None = 5,
        activation: str | None = None,
        layer: str | None = None,
        grid: tuple[int, int] | None = None,
        split: Halves | None = None,
    ) -> None:
        if top is not None:
            check_integer("top", top, least=1)
        self.model = model
        self.classifier = Classifier(model, activation)
        self.classifier.check_probabilities()
        known = self.classifier.num_classes
        self.top = known if top is None else min(top, known)
        self._in_order = top is None
        self._evidence = Evidence(
            self.classifier, layer, grid=grid, halves=split
        )
        self._split = self._evidence.split
        self.exact = self._evidence.exact
        self.counts_prefix = self._evidence.counts_prefix
        self.in_logits = self.classifier.shows_logits
        # The part of the model behind the attention, mostly its head.
        self._behind = None
        if "features" in self._split.beside:
            is_map = self._split.layer == "attention"
            self._behind = (
                self._split if is_map else self.classifier.split("attention")
            )
        self._compiled = CompiledFunction(model, self.__call__)

    @property
    def has_attention(self) -> bool:
        """Whether the model has an attention map."""
        return "attention_map" in self._split.beside

    @property
    def bias(self) -> np.ndarray | None:
        bias: np.ndarray | None = self._evidence.bias
        return bias

    def __call__(self, images: Any, classes: Any = None) -> dict[str, Any]:
        """Gives tensors.

        Args:
            images: Images `(B, H, W, C)`, as the model takes them.
            classes: Classes to compute evidence for, integers `(B, n)`; None
                for the `top` classes of each image.

        Returns:
            Dictionary of tensors:

            - `probabilities`, `logits`: `(B, K)`, float32. A model with one
              score has two classes, no and yes. Where not `in_logits` both
              are the probabilities.
            - `top_classes`: `(B, n)`, int32, the classes of the evidence: the
              likeliest first; all in their order if `top` is None.
            - `class_evidence`: `(B, h, w, n)`, float32, signed, in the unit
              of the logits. Positive values are evidence for the class,
              negative ones against it.
            - If the model has them: `attention_map (B, h, w, 1)` in [0, 1],
              `importance (B, C)`, and `attention_logits (B, n)`, what the
              attention added to each logit.
            - If the model `counts_prefix`: `prefix_logits (B, n)`, what the
              tokens in front of the patches add to each logit.
        """
        features, beside = self._split.features_and_beside(images)
        logits = self._split.shown(features)
        chosen = classes
        if classes is not None:
            classes = ops.cast(classes, "int32")
        elif self._in_order:
            every = ops.arange(self.top, dtype="int32")[None]
            shape = (ops.shape(logits)[0], self.top)
            classes = ops.broadcast_to(every, shape)
        else:
            classes = chosen = ops.cast(ops.top_k(logits, self.top)[1], "int32")
        shown = {
            "probabilities": (
                self.classifier.probabilities_of(logits)
                if self.in_logits
                else logits
            ),
            "logits": logits,
            "top_classes": classes,
            "class_evidence": self._evidence(features, chosen),
        }
        if self.counts_prefix:
            shown["prefix_logits"] = self._evidence.of_prefix(features, chosen)
        for name in ("attention_map", "importance"):
            if name in beside:
                shown[name] = ops.cast(beside[name], "float32")
        if self._behind is not None:
            # What the same model says with an attention map of zeros.
            without = self._behind.shown(beside["features"])
            shown["attention_logits"] = ops.take_along_axis(
                logits - without, classes, axis=1
            )
        return shown

    def predict(
        self,
        images: Any,
        classes: Any = None,
        *,
        context: Mapping[str, Any] | None = None,
        batch_size: int = 32,
    ) -> dict[str, np.ndarray]:
        """Gives arrays, batch by batch, by a compiled function.

        Args:
            images: Images `(B, H, W, C)`, or one, in the range that the model
                takes; finite.
            classes: Classes to compute evidence for: integers `(n,)` for all
                images, or `(B, n)`; None for the `top` of each image.
            context: Values of the inputs beside the image, by their names.
            batch_size: Number of images that go through the model at once.

        Returns:
            Dictionary of NumPy arrays, as for a call.

        Raises:
            TypeError: If an argument is of another type.
            ValueError: If an argument is not as described, or the model gives
                numbers that are not finite.

        Examples:
            shown = ExplanationView(model).predict(images, classes=[0, 1])
        """
        check_integer("batch_size", batch_size, least=1)
        images = self.classifier.checked_images(images)
        rows = checked_classes(
            classes, len(images), self.classifier.num_classes
        )
        held = self.classifier.checked_context(context, len(images))
        parts = []
        for start in range(0, len(images), batch_size):
            chunk = slice(start, start + batch_size)
            with holding({name: held[name][chunk] for name in held}):
                parts.append(
                    self._compiled.run(
                        images[chunk], None if rows is None else rows[chunk]
                    )
                )
        together = {
            name: np.concatenate([part[name] for part in parts])
            for name in parts[0]
        }
        for values in together.values():
            self.classifier.checked_answers(values)
        return together

    def explain(
        self,
        images: Any,
        classes: Any = None,
        *,
        class_names: Sequence[str] | None = None,
        context: Mapping[str, Any] | None = None,
        batch_size: int = 32,
    ) -> Explanation:
        """Explains images, as the function `explain`, without compiling again.

        Args:
            images: As for `predict`.
            classes: Classes to compute evidence for: numbers or names `(n,)`
                for all images, or `(B, n)`; None for the `top` of each image.
            class_names: Name of each class; by default its number.
            context: As for `predict`.
            batch_size: As for `predict`.

        Returns:
            An `Explanation`.

        Raises:
            TypeError: If an argument is of another type.
            ValueError: If an argument is out of range, or a class is unknown.

        Examples:
            view = ExplanationView(model, top=2)
            rows = [view.explain(image[None]).rows() for image in images]
        """
        names = checked_names(class_names, self.classifier.num_classes)
        if classes is not None:
            classes = class_indices(classes, names)
        images = self.classifier.checked_images(images)
        shown = self.predict(
            images, classes, context=context, batch_size=batch_size
        )
        return Explanation(
            images=images,
            probabilities=shown["probabilities"],
            logits=shown["logits"],
            top_classes=shown["top_classes"],
            coarse_evidence=shown["class_evidence"],
            coarse_attention=shown.get("attention_map"),
            attention_logits=shown.get("attention_logits"),
            prefix_logits=shown.get("prefix_logits"),
            importance=shown.get("importance"),
            class_names=names,
            view=self,
            _context=context,
        )

    def upsample(self, maps: Any, size: Any, image_size: Any = None) -> Any:
        """Resizes evidence to an image, each cell to where the model saw it.

        Args:
            maps: Maps `(B, h, w, n)`, as `class_evidence`.
            size: Height and width that they are to have.
            image_size: Height and width of the images that the model saw, by
                default `size`.

        Returns:
            Tensor `(B, *size, n)`, float32; zero where the model never saw
            the image.

        Examples:
            view = ExplanationView(model)
            maps = view.predict(images)["class_evidence"]
            fine = view.upsample(maps, images.shape[1:3])
        """
        return self._split.geometry.upsample(maps, size, image_size or size)

    def upsample_attention(
        self, maps: Any, size: Any, image_size: Any = None
    ) -> Any:
        """Resizes attention maps to an image.

        Args:
            maps: Maps `(B, h, w, 1)`, as `attention_map`.
            size: As for `upsample`.
            image_size: As for `upsample`.

        Returns:
            Tensor `(B, *size, 1)`, float32.

        Raises:
            ValueError: If the model has no attention map.
        """
        geometry = self._attention_geometry
        return geometry.upsample(maps, size, image_size or size)

    @functools.cached_property
    def _attention_geometry(self) -> Any:
        return self.classifier.output_of("attention_map").geometry


def explanation_view(
    model: keras.Model,
    *,
    top: int | None = 5,
    activation: str | None = None,
    layer: str | None = None,
    grid: tuple[int, int] | None = None,
    split: Halves | None = None,
) -> ExplanationView:
    """Shows why a classifier chooses its classes, in the pass that classifies.

    The evidence of a class is a signed map: positive where the image speaks
    for the class, negative where it speaks against it. Behind a global average
    pooling and one dense layer (or a 1x1 convolution) it is exact,

        E_ijc = sum_k W_kc F_ijk,    logit_c = mean_ij(E_ijc) + b_c

    with the feature map `F` that is pooled, which in a model of `build` is the
    attended one. So it is behind a flattening and one dense layer, where each
    location has weights of its own, `E_ijc = h w sum_k W_ijkc F_ijk`; where
    the pooled channels are the classes, `E_ijc = F_ijc`; and where several
    such heads are averaged. For any other head it is that of Recipro-CAM,

        E_ijc = H(F * onehot_ij)_c - H(0)_c

    the logit of what the head `H` says of one location alone, less that of an
    empty map; it needs no gradient, and does not add up to the logit. A model
    that ends with an activation other than softmax and sigmoid hides its
    logits; with `activation="linear"` its probabilities take their place.

    Args:
        model: Functional or Sequential classifier, flat or nested, ours or
            not. Neither it nor its layers are changed.
        top: Number of classes to compute evidence for, the likeliest of each
            image; None for all, in their order.
        activation: What turns the model's scores into probabilities:
            `"softmax"` or `"sigmoid"` if it gives logits, `"linear"` if it
            gives probabilities. By default it is found out from the last
            layer, and asked for where that does not tell.
        layer: Name of the layer whose output is the feature map; by default
            what the last global pooling or flattening takes, or the last
            tokens of a transformer on whose patches the scores depend.
        grid: Rows and columns of a transformer's patches, where they are not
            found.
        split: Two functions in the place of `layer`, from images to a feature
            map or tokens, and from there to the logits.

    Returns:
        An `ExplanationView`: `view(images)` gives a dictionary of tensors,
        `view.predict(images)` one of arrays, `view.exact` says which of the
        two evidences it is.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of range, or the model has no
            feature map, or shows neither logits nor probabilities.

    Reference:
        Zhou et al., 2016, https://arxiv.org/abs/1512.04150; Brendel and
        Bethge, 2019, https://arxiv.org/abs/1904.00760; Byun and Lee, 2022,
        https://arxiv.org/abs/2209.14074.

    Examples:
        view = keras_lficam.explanation_view(model, top=3)
        evidence = view.predict(images)["class_evidence"]
    """
    return ExplanationView(
        model,
        top=top,
        activation=activation,
        layer=layer,
        grid=grid,
        split=split,
    )
