"""The explanation of some images, as arrays, rows and a figure."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_lficam._checks import check_finite, check_integer, real_array
from keras_lficam.explanation._classes import class_indices

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from keras_lficam.explanation.view import ExplanationView

# Locations where a map is at least this share of its maximum are its
# brightest region.
_BRIGHT = 0.5


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
        prefix_logits: What tokens in front of a transformer's patches add to
            each logit `(B, n)`; None if they add nothing of their own, or it
            is not known.
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
    prefix_logits: np.ndarray | None
    importance: np.ndarray | None
    class_names: tuple[str, ...]
    view: "ExplanationView"
    _context: Mapping[str, Any] | None = None
    # What the model saw, where `images` are others.
    _seen: np.ndarray | None = None

    @property
    def exact(self) -> bool:
        """Whether the mean of the evidence and the bias are the logit.

        Where there are `prefix_logits` they are added, too.
        """
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
        pair = class_indices([one, other], self.class_names)
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
            - `prefix`: what tokens in front of a transformer's patches add to
              the logit, of a model that averages them with these; then the
              four sum to it;
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
        added, prefix = self.attention_logits, self.prefix_logits
        columns = {
            "probability": self._of_shown(self.probabilities),
            "logit": self._of_shown(self.logits),
            "evidence_inside": share,
            "inside": inside,
            "outside": outside,
            "bias": bias,
            **({} if prefix is None else {"prefix": prefix}),
            "attention": nothing if added is None else added,
        }
        return [
            {
                "image": image,
                "class_index": int(index),
                "class": self.class_names[index],
                **{
                    name: float(values[image, column])
                    for name, values in columns.items()
                },
            }
            for image, indices in enumerate(self.top_classes)
            for column, index in enumerate(indices)
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

    def plot(
        self, *, columns: int | None = None, wrap: int | None = None
    ) -> "Figure":
        """Renders image, attention map and evidence of the classes.

        The evidence of an image's classes is on one symmetric scale: red
        speaks for the class, blue against it, laid over the image.

        Args:
            columns: Number of classes to show; by default all that evidence
                was computed for.
            wrap: Number of panels side by side at most, for a narrow page; by
                default all of an image.

        Returns:
            A matplotlib figure, a row for each image; none of pyplot's.

        Raises:
            TypeError: If `columns` or `wrap` is no integer.
            ValueError: If one of them is less than 1.

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
            wrap=wrap,
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
