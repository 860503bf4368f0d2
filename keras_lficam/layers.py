"""LFI-CAM in one file, in the order of the paper's figure.

A classifier is split after its last convolutional feature map `F`
`(B, h, w, C)`, before pooling. Between the map and the head stand four steps;
`I` is the image in gray, in [0, 1], resized to `h x w`, and `s` is the min-max
normalization over space.

    M_k = s(F_k) * I                       ImportanceMask
    w   = softmax(FIN(M))                  FeatureImportanceNetwork
    A   = s(ReLU(sum_k w_k F_k))           ClassActivationMap
    F'  = (1 + A) * F                      AttentionMechanism

A built model shows three of them. `FeatureImportanceNetwork` takes image and
features and computes the masks inside, so that their product may wait until
channels are few; `ImportanceMask` is the first step by itself. `SpatialMask`,
the last class here, is no part of the method: it makes models that are blind
in a part of the image, on which explanations are tested.

`A` is the heat map. It is made on the way to the prediction, so the one
cross-entropy of the classifier trains it, and it needs no gradient to be seen.

Reference:
    Lee, Park, Oh and Kwak, "LFI-CAM: Learning Feature Importance for Better
    Visual Explanation", ICCV 2021, https://arxiv.org/abs/2105.00937.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lficam import functional
from keras_lficam._checks import check_range, real_array
from keras_lficam.functional import Tensor


@keras.saving.register_keras_serializable(package="keras_lficam")
class ImportanceMask(keras.layers.Layer):
    """Masks the gray image with every normalised feature map.

    Args:
        value_range: Pair of the darkest and the brightest value that a pixel
            of the image can have.

    Call arguments:
        inputs: Pair of the RGB image `(batch, height, width, 3)`, or the gray
            one `(batch, height, width, 1)`, and its features `(batch, rows,
            columns, channels)`, 2x2 or larger.

    Output shape:
        `(batch, rows, columns, channels)`; in [0, 1].

    Raises:
        ValueError: If the inputs are not such a pair, or `value_range` does
            not rise.

    Examples:
        masks = ImportanceMask()([images, features])

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937.
    """

    def __init__(
        self, value_range: tuple[float, float] = (0, 255), **kwargs: Any
    ) -> None:
        # Without autocast the pixels reach the gray image unrounded.
        super().__init__(autocast=False, **kwargs)
        self.value_range = _checked_range(value_range)

    def build(self, input_shape: Any) -> None:
        _check_image_and_features(self, input_shape)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        image, features = inputs
        masks = functional.importance_masks(image, features, self.value_range)
        return ops.cast(masks, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape[1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "value_range": self.value_range}


@dataclasses.dataclass(frozen=True)
class _Form:
    """Convolutions of an importance network.

    `divisors` holds the channels of the features divided by each
    convolution's filters; None stands for the argument `reduction`, and for
    no fewer than `_LEAST_FILTERS`. If `pooled`, the masks are averaged over
    space before the convolutions instead of behind them.
    """

    kernels: tuple[int, ...]
    divisors: tuple[int | None, ...]
    relu_every: int
    pooled: bool = False


# The bottleneck of a small network is not to become a pinhole.
_LEAST_FILTERS = 8

_FORMS = {
    "bottleneck": _Form((1, 3, 1), (None, None, 1), relu_every=2),
    "pooled": _Form((1, 1), (None, 1), relu_every=1, pooled=True),
    "pointwise": _Form((1, 1, 1, 1), (1, 1, 2, 1), relu_every=2),
    "released": _Form((3, 3, 3, 3), (1, 1, 1, 1), relu_every=2),
}


@keras.saving.register_keras_serializable(package="keras_lficam")
class FeatureImportanceNetwork(keras.layers.Layer):
    """Weighs the feature maps by how much each matters to the image.

    Convolutions over the masks, each without bias and with a batch
    normalization, then global average pooling and a softmax over the channels.

    Args:
        form: Which convolutions. With `C` channels in the features:
            `"bottleneck"`: 1x1 to `C / reduction`, 3x3, 1x1 to `C`, about
            `0.07 C**2` weights;
            `"pooled"`: average pooling first, then 1x1 to `C / reduction` and
            to `C`, about `0.06 C**2` weights;
            `"pointwise"`: 1x1 to `C`, `C`, `C / 2` and `C`, `3 C**2` weights,
            the form whose number of parameters agrees with the paper;
            `"released"`: four times 3x3 to `C`, `36 C**2` weights, the form
            of the authors' release.
        reduction: How many times narrower the bottleneck is than the
            features, down to 8 filters; also of `"pooled"`. The other forms
            do not look at it.
        relu_every: A ReLU follows every such convolution. The default is the
            form's own: 1 for `"pooled"`, 2 for the others, so that the last
            convolution of the bottleneck is linear. The release has 2 in its
            CIFAR networks and 1 in its ImageNet networks.
        value_range: Pair of the darkest and the brightest value that a pixel
            of the image can have.

    Call arguments:
        inputs: Pair of the RGB image `(batch, height, width, 3)`, or the gray
            one `(batch, height, width, 1)`, and its features `(batch, rows,
            columns, channels)`, 2x2 or larger.
        training: Whether batch normalization uses the batch's statistics.

    Output shape:
        `(batch, channels)`, float32 under every dtype policy; non-negative,
        each row sums to 1.

    Raises:
        ValueError: If an argument is out of range, or the inputs are not such
            a pair.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937. The pointwise form
        and the two ReLUs are from the authors' release.

    Examples:
        importance = FeatureImportanceNetwork("released")([image, features])
    """

    def __init__(
        self,
        form: str = "bottleneck",
        *,
        reduction: int = 32,
        relu_every: int | None = None,
        value_range: tuple[float, float] = (0, 255),
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.form = form
        self.reduction = reduction
        self.value_range = _checked_range(value_range)
        if not isinstance(form, str) or form not in _FORMS:
            raise ValueError(
                f"Argument `form` must be one of {sorted(_FORMS)}. "
                f"Received: form={form!r}"
            )
        for name, value in [
            ("reduction", reduction),
            ("relu_every", relu_every),
        ]:
            if value is not None and not _is_positive_integer(value):
                raise ValueError(
                    f"Argument `{name}` must be an integer of at least 1. "
                    f"Received: {name}={value!r}"
                )
        self.relu_every = relu_every or _FORMS[form].relu_every

    def build(self, input_shape: Any) -> None:
        _check_image_and_features(self, input_shape)
        form = _FORMS[self.form]
        channels = input_shape[1][-1]
        self.convolutions = []
        self.normalizations = []
        shape = tuple(input_shape[1])
        if form.pooled:
            shape = (shape[0], 1, 1, channels)
        for kernel, divisor in zip(form.kernels, form.divisors, strict=True):
            if divisor is None:
                filters = max(_LEAST_FILTERS, channels // self.reduction)
            else:
                filters = max(1, channels // divisor)
            convolution = keras.layers.Conv2D(
                filters,
                kernel,
                padding="same",
                use_bias=False,
                kernel_initializer="he_normal",
                data_format="channels_last",
                dtype=self.dtype_policy,
            )
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            normalization = keras.layers.BatchNormalization(
                dtype=self.dtype_policy
            )
            normalization.build(shape)
            self.convolutions.append(convolution)
            self.normalizations.append(normalization)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        masks, factor = self._masks(*inputs)
        x = self._convolved(masks, factor, training)
        return ops.softmax(_mean(x)[:, 0, 0], axis=-1)

    def _masks(
        self, image: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The masks, and a factor of them that may follow a convolution."""
        form = _FORMS[self.form]
        arguments = image, features, self.value_range
        factor = None
        if form.pooled:
            masks = functional.pooled_importance_masks(*arguments)
            masks = masks[:, None, None]  # (B, 1, 1, C)
        elif form.kernels[0] == 1:
            masks, factor = functional.importance_mask_factors(*arguments)
            factor = ops.cast(factor, self.compute_dtype)
        else:
            masks = functional.importance_masks(*arguments)
        return ops.cast(masks, self.compute_dtype), factor

    def _convolved(
        self, x: Tensor, factor: Tensor, training: bool | None
    ) -> Tensor:
        steps = zip(self.convolutions, self.normalizations, strict=True)
        for number, (convolution, normalization) in enumerate(steps, start=1):
            has_relu = number % self.relu_every == 0
            is_last = number == len(self.convolutions)
            is_linear = convolution.kernel_size == (1, 1) and not has_relu
            if is_last and is_linear and not training:
                # All that is left is linear, so the mean may come first. A
                # training needs the pixels, for their statistics.
                x = _mean(x)
            x = convolution(x)
            if number == 1 and factor is not None:
                x = x * factor
            x = normalization(x, training=training)
            if has_relu:
                x = ops.relu(x)
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch, *_, channels = input_shape[1]
        return (batch, channels)

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None
    ) -> Any:
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "form": self.form,
            "reduction": self.reduction,
            "relu_every": self.relu_every,
            "value_range": self.value_range,
        }


@keras.saving.register_keras_serializable(package="keras_lficam")
class ClassActivationMap(keras.layers.Layer):
    """Computes the heat map: the channels summed by importance.

    Call arguments:
        inputs: Pair of the features `(batch, rows, columns, channels)` and
            the importance of each channel `(batch, channels)`.

    Output shape:
        `(batch, rows, columns, 1)`, float32 under every dtype policy; in
        [0, 1], with maximum 1 unless the map is zero everywhere.

    Raises:
        ValueError: If the inputs are not such a pair.

    Examples:
        importance = np.full((4, 16), 1 / 16)
        heat_map = ClassActivationMap()([features, importance])

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)

    def build(self, input_shape: Any) -> None:
        features, importance = _pair(self, input_shape, "features, importance")
        _check_features(self, features)
        if len(importance) != 2 or importance[1] != features[3]:
            raise ValueError(
                f"Layer {self.name!r} must get an importance of shape "
                f"(batch, {features[3]}), a weight for every channel of the "
                f"features. Received: importance.shape={importance}"
            )
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        features, importance = inputs
        weighted = functional.class_activation_map(features, importance)
        return ops.cast(weighted, "float32")

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*input_shape[0][:-1], 1)

    def compute_output_spec(self, inputs: Any) -> Any:
        shape = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(shape, dtype="float32")


@keras.saving.register_keras_serializable(package="keras_lficam")
class AttentionMechanism(keras.layers.Layer):
    """Strengthens the features where the heat map is bright.

    Call arguments:
        inputs: Pair of the features `(batch, rows, columns, channels)` and
            the attention map `(batch, rows, columns, 1)`.

    Output shape:
        That of the features; between once and twice their values.

    Raises:
        ValueError: If the inputs are not such a pair.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937, and Fukui et al.,
        2019, https://arxiv.org/abs/1812.10025, whose attention is the same.

    Examples:
        attended = AttentionMechanism()([features, attention_map])
    """

    def build(self, input_shape: Any) -> None:
        features, attention = _pair(self, input_shape, "features, map")
        if len(features) != 4 or not _agree((*features[1:3], 1), attention[1:]):
            raise ValueError(
                f"Layer {self.name!r} must get features (batch, rows, columns, "
                "channels) and a map (batch, rows, columns, 1) of the same "
                f"rows and columns. Received: features.shape={features}, "
                f"map.shape={attention}"
            )
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        features, attention_map = inputs
        return features * (1 + attention_map)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape[0])


@keras.saving.register_keras_serializable(package="keras_lficam")
class SpatialMask(keras.layers.Layer):
    """Sets a fixed part of a feature map to zero: the model is blind there.

    Behind the last convolution of a backbone, and in front of the LFI-CAM
    branch and the pooling, it makes a model of which it is known what cannot
    matter: pixels that only masked cells look at, outside the receptive fields
    of all others. `metrics.leak` measures what an explainer finds there.

    That holds behind a ReLU, whose lowest value is the zero of the mask. Where
    features can be negative, the min-max normalization of the importance
    masks makes more than zero of the masked cells, and through them the
    importance network sees the gray image everywhere. Nor does it hold for
    the attention branch network, whose branch begins earlier, and for
    backbones that look at the whole image, as with squeeze-and-excitation or
    self-attention.

    Args:
        mask: Booleans, or 0 and 1, `(rows, columns)`: which cells are kept,
            one at least.

    Call arguments:
        inputs: Features `(batch, rows, columns, channels)`.

    Output shape:
        That of the features. Masked cells are 0 whatever they were, and their
        gradient is 0.

    Raises:
        ValueError: If the mask is no such array, or keeps no cell, or the
            features are of another size.

    Examples:
        left = np.tile(np.arange(8) < 4, (8, 1))  # Of 8x8 cells.
        seen = SpatialMask(left)(features)

    Reference:
        Taimeskhanov et al., 2024, https://arxiv.org/abs/2404.01964, for models
        that do not see a part of the image.
    """

    def __init__(self, mask: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask = _checked_mask(mask)

    def build(self, input_shape: Any) -> None:
        shape, size = tuple(input_shape), (len(self.mask), len(self.mask[0]))
        if len(shape) != 4 or not _agree(shape[1:3], size):
            raise ValueError(
                f"Layer {self.name!r} must get features (batch, {size[0]}, "
                f"{size[1]}, channels), of the size of its mask. Received: "
                f"features.shape={shape}"
            )
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        # Not a product, which is NaN of what is not finite.
        kept = ops.convert_to_tensor(self.mask, "bool")[None, :, :, None]
        return ops.where(kept, inputs, ops.zeros_like(inputs))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mask": self.mask}


def _mean(x: Tensor) -> Tensor:
    """The mean over space, `(B, 1, 1, C)` in float32."""
    return ops.mean(ops.cast(x, "float32"), axis=(1, 2), keepdims=True)


def _checked_range(value_range: Sequence[float]) -> list[float]:
    """Returns `value_range` as a list, the form that JSON gives back."""
    check_range("value_range", value_range)
    return list(value_range)


def _checked_mask(mask: Any) -> list[list[bool]]:
    """Returns a mask as lists, the form that JSON gives back."""
    array = real_array("mask", mask)
    if array.ndim != 2 or not np.isin(array, (0, 1)).all() or not array.any():
        raise ValueError(
            "Argument `mask` must have shape (rows, columns) and hold 0 or 1, "
            f"1 at least once. Received: mask={mask!r:.80}. To fix this: "
            "np.arange(columns) < columns / 2, repeated for every row, keeps "
            "the left half."
        )
    kept: list[list[bool]] = (array != 0).tolist()
    return kept


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _agree(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether two shapes can be equal, None being any size."""
    return len(shape) == len(other) and all(
        a == b or None in (a, b) for a, b in zip(shape, other, strict=True)
    )


def _pair(
    layer: keras.layers.Layer, shapes: Any, names: str
) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Returns the shapes of a layer's two inputs, which may be dynamic."""
    if len(shapes) == 2 and all(isinstance(s, (tuple, list)) for s in shapes):
        return tuple(shapes[0]), tuple(shapes[1])
    raise ValueError(
        f"Layer {layer.name!r} must be called on a pair [{names}]. "
        f"Received: input shapes {shapes}"
    )


def _check_image_and_features(layer: keras.layers.Layer, shapes: Any) -> None:
    image, features = _pair(layer, shapes, "image, features")
    if len(image) != 4 or image[-1] not in (1, 3):
        raise ValueError(
            f"Layer {layer.name!r} must be called on [image, features] with an "
            "RGB image of shape (batch, height, width, 3), or a gray one "
            f"(batch, height, width, 1). Received: image.shape={image}"
        )
    _check_features(layer, features)


def _check_features(
    layer: keras.layers.Layer, shape: Sequence[int | None]
) -> None:
    if len(shape) != 4 or shape[-1] is None:
        raise ValueError(
            f"Layer {layer.name!r} must get features of shape (batch, rows, "
            "columns, channels) with a known number of channels. Received: "
            f"features.shape={shape}. To fix this: mind the order of its two "
            "inputs."
        )
    if shape[1] == 1 or shape[2] == 1:
        raise ValueError(
            f"Layer {layer.name!r} must get a feature map of at least 2x2, for "
            "a map of one row or column cannot show where. "
            f"Received: features.shape={shape}. To fix this: larger images, or "
            "an earlier feature map."
        )
