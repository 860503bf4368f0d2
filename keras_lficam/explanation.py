"""What a classifier says of images, and why, in one forward pass.

    view = keras_lficam.explanation_view(model, top=3)
    view.predict(images)["class_evidence"]  # (B, h, w, 3), signed

`explanation_view` computes tensors, in graphs and exports, too; `explain`
makes an `Explanation` of them, with maps at the size of the images.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_lficam._checks import (
    array_of,
    check_finite,
    check_integer,
    check_names,
    is_integer,
    real_array,
)
from keras_lficam._names import nearest
from keras_lficam.classifier import (
    Classifier,
    CompiledFunction,
    Evidence,
    holding,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

# Locations where a map is at least this share of its maximum are its
# brightest region.
_BRIGHT = 0.5


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

    Attributes:
        model: The model.
        classifier: The `classifier.Classifier` that looks through it.
        top: Number of classes that evidence is computed for.
        exact: Whether the mean of a class's evidence over the map, and its
            bias, are the logit. If not, the evidence is Recipro-CAM's.
        bias: The bias of each class `(K,)`, float32; None if not exact.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of range, or the model has no
            feature map, or does not show its logits or probabilities.

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
    ) -> None:
        if top is not None:
            check_integer("top", top, least=1)
        self.model = model
        self.classifier = Classifier(model, activation)
        self.classifier.check_probabilities()
        known = self.classifier.num_classes
        self.top = known if top is None else min(top, known)
        self._in_order = top is None
        self._evidence = Evidence(self.classifier, layer)
        self._cut = self._evidence.cut
        self.exact = self._evidence.exact
        # The part of the model behind the attention, mostly its head.
        self._behind = None
        if "features" in self._cut.beside:
            is_map = self._cut.layer == "attention"
            self._behind = (
                self._cut if is_map else self.classifier.cut("attention")
            )
        self._compiled = CompiledFunction(model, self.__call__)

    @property
    def has_attention(self) -> bool:
        """Whether the model has an attention map."""
        return "attention_map" in self._cut.beside

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
              score has two classes, no and yes.
            - `top_classes`: `(B, n)`, int32, the classes of the evidence: the
              likeliest first; all in their order if `top` is None.
            - `class_evidence`: `(B, h, w, n)`, float32, signed, in the unit
              of the logits. Positive values are evidence for the class,
              negative ones against it.
            - If the model has them: `attention_map (B, h, w, 1)` in [0, 1],
              `importance (B, C)`, and `attention_logits (B, n)`, what the
              attention added to each logit.
        """
        features, beside = self._cut.features_and_beside(images)
        logits = self._cut.logits(features)
        asked = classes
        if classes is not None:
            classes = ops.cast(classes, "int32")
        elif self._in_order:
            every = ops.arange(self.top, dtype="int32")[None]
            shape = (ops.shape(logits)[0], self.top)
            classes = ops.broadcast_to(every, shape)
        else:
            classes = asked = ops.cast(ops.top_k(logits, self.top)[1], "int32")
        shown = {
            "probabilities": self.classifier.probabilities_of(logits),
            "logits": logits,
            "top_classes": classes,
            "class_evidence": self._evidence(features, asked),
        }
        for name in ("attention_map", "importance"):
            if name in beside:
                shown[name] = ops.cast(beside[name], "float32")
        if self._behind is not None:
            # What the same model says with an attention map of zeros.
            without = self._behind.logits(beside["features"])
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
        asked = self._checked_classes(classes, len(images))
        held = self.classifier.checked_context(context, len(images))
        parts = []
        for start in range(0, len(images), batch_size):
            chunk = slice(start, start + batch_size)
            with holding({name: held[name][chunk] for name in held}):
                parts.append(
                    self._compiled.run(
                        images[chunk], None if asked is None else asked[chunk]
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
    ) -> "Explanation":
        """Explains images, as the function `explain`, without compiling anew.

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
        known = self.classifier.num_classes
        if class_names is None:
            names = tuple(str(number) for number in range(known))
        else:
            check_names("class_names", class_names)
            names = tuple(class_names)
            if len(names) != known:
                raise ValueError(
                    f"Argument `class_names` must hold {known} names, one for "
                    f"each class. Received: {len(names)} names"
                )
        if classes is not None:
            classes = _class_indices(classes, names)
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
        return self._cut.geometry.upsample(maps, size, image_size or size)

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

    def _checked_classes(self, classes: Any, count: int) -> np.ndarray | None:
        if classes is None:
            return None
        asked = array_of("classes", classes)
        known = self.classifier.num_classes
        if not np.issubdtype(asked.dtype, np.integer):
            raise TypeError(
                "Argument `classes` must hold integers. "
                f"Received: classes.dtype={asked.dtype}"
            )
        if asked.size == 0 or not (
            asked.ndim == 1 or (asked.ndim == 2 and len(asked) == count)
        ):
            raise ValueError(
                "Argument `classes` must be a list of at least one class for "
                "all images, or have a row of them for each of the "
                f"{count} images. Received: classes.shape={asked.shape}"
            )
        if not 0 <= asked.min() <= asked.max() < known:
            raise ValueError(
                f"Argument `classes` must lie between 0 and {known - 1}. "
                f"Received: classes={asked.tolist()}"
            )
        return np.broadcast_to(asked.astype("int32"), (count, asked.shape[-1]))


def explanation_view(
    model: keras.Model,
    *,
    top: int | None = 5,
    activation: str | None = None,
    layer: str | None = None,
) -> ExplanationView:
    """Shows why a classifier chooses its classes, in the pass that classifies.

    The evidence of a class is a signed map: positive where the image speaks
    for the class, negative where it speaks against it. Behind a global average
    pooling and one dense layer (or a 1x1 convolution) it is exact,

        E_ijc = sum_k W_kc F_ijk,    logit_c = mean_ij(E_ijc) + b_c

    with the feature map `F` that is pooled, which in a model of `build` is the
    attended one. For any other head it is that of Recipro-CAM,

        E_ijc = H(F * onehot_ij)_c - H(0)_c

    the logit of what the head `H` says of one location alone, less that of an
    empty map; it needs no gradient, and does not add up to the logit.

    Args:
        model: Functional or Sequential classifier, flat or nested, ours or
            not. Neither it nor its layers are changed.
        top: Number of classes to compute evidence for, the likeliest of each
            image; None for all, in their order.
        activation: What turns the model's scores into probabilities:
            `"softmax"` or `"sigmoid"` if it gives logits. By default it is
            found out from the last layer, and asked for where that does not
            tell.
        layer: Name of the layer whose output is the feature map; by default
            what the last global pooling or flattening takes.

    Returns:
        An `ExplanationView`: `view(images)` gives a dictionary of tensors,
        `view.predict(images)` one of arrays, `view.exact` says which of the
        two evidences it is.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of range, or the model has no
            feature map, or does not show its logits or probabilities.

    Reference:
        Zhou et al., 2016, https://arxiv.org/abs/1512.04150; Brendel and
        Bethge, 2019, https://arxiv.org/abs/1904.00760; Byun and Lee, 2022,
        https://arxiv.org/abs/2209.14074.

    Examples:
        view = keras_lficam.explanation_view(model, top=3)
        evidence = view.predict(images)["class_evidence"]
    """
    return ExplanationView(model, top=top, activation=activation, layer=layer)


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Classes, evidence and attention of some images, as `explain` finds them.

    `B` images, `n` classes for each, maps at the size of the images.

    Attributes:
        images: The images `(B, H, W, C)`, float32.
        probabilities: Probabilities `(B, K)`.
        logits: Logits `(B, K)`.
        top_classes: Classes `(B, n)` that the evidence is of, integers.
        coarse_evidence: Evidence `(B, h, w, n)` at the size of the feature
            map, whose mean and the bias are the logit if `exact`.
        coarse_attention: Attention map `(B, h, w, 1)` at the size of the
            feature map; None if the model has none.
        attention_logits: What the attention added to each logit `(B, n)`;
            None if the model has no attention.
        importance: Importance of the channels `(B, C)`, or None.
        class_names: Name of each class.
        view: The `ExplanationView` that it comes from.

    Examples:
        explanation = keras_lficam.explain(model, images, top=2)
        explanation.class_evidence.shape, explanation.rows()[0]["class"]
    """

    images: np.ndarray
    probabilities: np.ndarray
    logits: np.ndarray
    top_classes: np.ndarray
    coarse_evidence: np.ndarray
    coarse_attention: np.ndarray | None
    attention_logits: np.ndarray | None
    importance: np.ndarray | None
    class_names: tuple[str, ...]
    view: ExplanationView
    _context: Mapping[str, Any] | None = None
    # What the model saw, where `images` are others.
    _seen: np.ndarray | None = None

    @property
    def exact(self) -> bool:
        """Whether the mean of the evidence and the bias are the logit."""
        return self.view.exact

    @functools.cached_property
    def class_evidence(self) -> np.ndarray:
        """Signed evidence `(B, H, W, n)`, float32, in the unit of the logits.

        Interpolated between the locations of the feature map.
        """
        return self._at_image_size(self.coarse_evidence)

    @functools.cached_property
    def attention_map(self) -> np.ndarray | None:
        """The attention map `(B, H, W, 1)` in [0, 1], or None."""
        if self.coarse_attention is None:
            return None
        fine = self.view.upsample_attention(
            self.coarse_attention,
            self.images.shape[1:3],
            self._model_images.shape[1:3],
        )
        array: np.ndarray = ops.convert_to_numpy(fine)
        return array.clip(0, 1)

    def contrast(self, one: int | str, other: int | str) -> np.ndarray:
        """Shows why one class and not another: the difference of evidence.

        Args:
            one: Number or name of a class.
            other: Number or name of the class that it is compared with.

        Returns:
            Signed maps `(B, H, W, 1)`, float32: positive where the image
            speaks for `one` rather than for `other`.

        Raises:
            TypeError: If a class is neither a number nor a name.
            ValueError: If the model does not know it.

        Examples:
            explanation = keras_lficam.explain(model, images)
            why = explanation.contrast(2, 0)
        """
        pair = _class_indices([one, other], self.class_names)
        shown = self.view.predict(
            self._model_images, pair, context=self._context
        )
        evidence = shown["class_evidence"]
        return self._at_image_size(evidence[..., :1] - evidence[..., 1:])

    def over(self, images: Any) -> "Explanation":
        """Gives the same explanation over the images in another size.

        A model takes small images, often of another aspect ratio: show the
        maps over the originals, which were resized for the model.

        Args:
            images: The same images, whole and `(B, H2, W2, C)`, in a size of
                their own; finite.

        Returns:
            An `Explanation` whose `images` they are, with maps at their size.

        Raises:
            TypeError: If they hold no real numbers.
            ValueError: If there is not one for each image.

        Examples:
            explanation = keras_lficam.explain(model, images)
            originals = images.repeat(4, axis=1).repeat(3, axis=2)
            explanation.over(originals).plot()
        """
        others = real_array("images", images)
        if others.ndim != 4 or len(others) != len(self.images):
            raise ValueError(
                f"Argument `images` must have shape ({len(self.images)}, "
                "height, width, channels), an image for each that was "
                f"explained. Received: images.shape={others.shape}"
            )
        check_finite("images", others, "pixels")
        return dataclasses.replace(
            self, images=others, _seen=self._model_images
        )

    def rows(self) -> list[dict[str, Any]]:
        """Lists what is said of each image and class.

        Returns:
            A dictionary for each image and each of its `n` classes:

            - `image`: number of the image; `class_index`, `class`,
              `probability`, `logit`: of the class;
            - `evidence_inside`: share, in [0, 1], of the class's positive
              evidence that lies in the brightest region: where the attention
              map is at least half its maximum, or the evidence itself, if the
              model has no attention map; NaN without positive evidence;
            - `inside`, `outside`, `bias`: what the brightest region and the
              rest of the map add to the logit. The three sum to it; NaN if
              not `exact`;
            - `attention`: what the attention added to the logit; NaN if the
              model has none.

        Examples:
            for row in keras_lficam.explain(model, images, top=1).rows():
                print(row["class"], row["probability"])
        """
        bright = self._brightest_region()
        positive = np.maximum(self.coarse_evidence, 0)
        total = positive.sum(axis=(1, 2))
        with np.errstate(invalid="ignore"):
            share = (positive * bright).sum(axis=(1, 2)) / total
        nothing = np.full(share.shape, np.nan)
        inside = outside = bias = nothing
        if self.exact:
            inside = (self.coarse_evidence * bright).mean(axis=(1, 2))
            outside = (self.coarse_evidence * ~bright).mean(axis=(1, 2))
            assert self.view.bias is not None
            bias = self.view.bias[self.top_classes]
        added = self.attention_logits
        columns = {
            "probability": self._of_shown(self.probabilities),
            "logit": self._of_shown(self.logits),
            "evidence_inside": share,
            "inside": inside,
            "outside": outside,
            "bias": bias,
            "attention": nothing if added is None else added,
        }
        return [
            {
                "image": image,
                "class_index": int(index),
                "class": self.class_names[index],
                **{
                    name: float(values[image, place])
                    for name, values in columns.items()
                },
            }
            for image, indices in enumerate(self.top_classes)
            for place, index in enumerate(indices)
        ]

    def to_frame(self) -> "pandas.DataFrame":
        """Makes a table of `rows`, for pandas.

        Returns:
            A `pandas.DataFrame` with a row for each image and class.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "`to_frame` needs pandas, which is not installed. To fix "
                "this: pip install pandas; or use `rows()`."
            ) from error
        return pandas.DataFrame(self.rows())

    def plot(self, *, columns: int | None = None) -> "Figure":
        """Renders image, attention map and evidence of the classes.

        The evidence of an image's classes is on one symmetric scale: red
        speaks for the class, blue against it, laid over the image.

        Args:
            columns: Number of classes to show; by default all that evidence
                was computed for.

        Returns:
            A matplotlib figure, a row for each image; none of pyplot's.

        Raises:
            TypeError: If `columns` is no integer.
            ValueError: If it is less than 1.

        Examples:
            figure = keras_lficam.explain(model, images[:2], top=3).plot()
        """
        from keras_lficam import visualization

        shown = self.top_classes.shape[1]
        if columns is not None:
            check_integer("columns", columns, least=1)
            shown = min(columns, shown)
        return visualization.evidence_grid(
            self.images,
            self.class_evidence[..., :shown],
            [
                [
                    f"{self.class_names[index]} ({100 * chance:.0f} %)"
                    for index, chance in zip(indices, chances, strict=True)
                ]
                for indices, chances in zip(
                    self.top_classes[:, :shown],
                    self._of_shown(self.probabilities)[:, :shown],
                    strict=True,
                )
            ],
            attention=self.attention_map,
        )

    def _brightest_region(self) -> np.ndarray:
        """Finds the brightest region at the size of the evidence, Boolean."""
        maps = np.maximum(self.coarse_evidence, 0)
        size = self.coarse_evidence.shape[1:3]
        attention = self.coarse_attention
        if attention is not None and attention.shape[1:3] == size:
            maps = np.broadcast_to(attention, maps.shape)
        largest = maps.max(axis=(1, 2), keepdims=True)
        bright: np.ndarray = (maps >= _BRIGHT * largest) & (largest > 0)
        return bright

    def _of_shown(self, values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, self.top_classes, axis=1)

    def _at_image_size(self, maps: np.ndarray) -> np.ndarray:
        fine = self.view.upsample(
            maps, self.images.shape[1:3], self._model_images.shape[1:3]
        )
        array: np.ndarray = ops.convert_to_numpy(fine)
        return array

    @property
    def _model_images(self) -> np.ndarray:
        return self.images if self._seen is None else self._seen


def explain(
    model: keras.Model,
    images: Any,
    classes: Any = None,
    *,
    top: int = 5,
    activation: str | None = None,
    class_names: Sequence[str] | None = None,
    layer: str | None = None,
    context: Mapping[str, Any] | None = None,
    batch_size: int = 32,
) -> Explanation:
    """Explains what a classifier says of images: which class, and why.

    One forward pass for each image, no gradient. For many calls make an
    `explanation_view` once, which is compiled once.

    Args:
        model: Functional or Sequential classifier, ours or not; it stays as
            it is.
        images: Images `(B, H, W, C)`, or one, in the range that the model
            takes; finite.
        classes: Classes to compute evidence for: numbers or names `(n,)` for
            all images, or `(B, n)`; None for the `top` of each image.
        top: Number of classes to compute evidence for.
        activation: What turns the model's scores into probabilities, if its
            last layer does not tell: `"softmax"` or `"sigmoid"`.
        class_names: Name of each class; by default its number.
        layer: Name of the layer whose output is the feature map; by default
            what the last global pooling or flattening takes.
        context: Values of the inputs beside the image, by their names.
        batch_size: Number of images that go through the model at once.

    Returns:
        An `Explanation`: arrays, `plot()`, `contrast(a, b)`, `rows()`,
        `to_frame()`.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of range, a class is unknown, or the
            model cannot be explained; the message says why.

    Examples:
        explanation = keras_lficam.explain(model, images)
        explanation.plot()
    """
    view = ExplanationView(model, top=top, activation=activation, layer=layer)
    return view.explain(
        images,
        classes,
        class_names=class_names,
        context=context,
        batch_size=batch_size,
    )


def _class_indices(classes: Any, names: Sequence[str]) -> np.ndarray:
    """Turns numbers or names of classes into numbers `(n,)` or `(B, n)`."""
    if is_integer(classes) or isinstance(classes, str):
        classes = [classes]
    asked = array_of("classes", classes)
    if asked.dtype.kind not in "UO":
        return asked
    # As NumPy would turn a number beside a name into text.
    mixed = np.asarray(classes, dtype=object)
    numbers = [_class_index(name, names) for name in mixed.ravel()]
    return np.reshape(numbers, mixed.shape)


def _class_index(name: Any, names: Sequence[str]) -> int:
    if is_integer(name):
        return int(name)
    if not isinstance(name, str):
        raise TypeError(
            "Argument `classes` must hold numbers or names of classes. "
            f"Received: {name!r} of type {type(name).__name__}"
        )
    if name not in names:
        near = nearest(name, names) or names[:5]
        raise ValueError(
            "Argument `classes` must hold classes that the model knows. "
            f"Received: {name!r}. To fix this: one of its names, such as "
            f"{list(near)}, or a number from 0 to {len(names) - 1}."
        )
    return list(names).index(str(name))
