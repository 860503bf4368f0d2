"""Parts of which the classifiers of this package are made.

A part takes a feature map `(B, h, w, C)` and what its layers' names begin
with, and returns a feature map. A block is a part with a `scale`: how many
times wider the stage is than the first.

    branch(scale, stride)     what a block computes: basic, bottleneck
    block(branch, x, ...)     how it is wired: residual, preactivation
    stack(x, block, counts)   how often, in stages that halve the map
    classifier(features, ...) from pixels of 0 to 255 to class probabilities
"""

import dataclasses
import os
from collections.abc import Callable, Sequence

import keras

from keras_lficam.surgery import as_rgb


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Mean and standard deviation of pixels in [0, 1], per channel."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution without bias, on a square kernel of odd size."""

    filters: int
    kernel: int
    stride: int = 1
    groups: int = 1


Branch = Callable[[int, int], Sequence[Convolution]]


def classifier(
    features: Callable[[keras.KerasTensor], keras.KerasTensor],
    pixels: Pixels,
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
) -> keras.Model:
    """Builds a classifier, with the arguments of `keras.applications`.

    Args:
        features: Makes the last feature map of standardized images.
        pixels: By which the images are standardized.
        name: Name of the model.
        weights: None, or the path of a weights file.
        input_tensor: Images to start from; None makes an input.
        input_shape: Shape `(height, width, 3)`, or `(height, width, 1)` for
            gray images, which are repeated to three channels; None for an
            open size.
        classes: Number of classes.
        classifier_activation: Activation of the dense layer.

    Returns:
        A flat functional `keras.Model` from pixels of 0 to 255 to `(B, K)`.

    Raises:
        ValueError: If `weights` is `"imagenet"`.
    """
    if weights == "imagenet":
        raise ValueError(
            "Argument `weights` must be None or a weights file for a backbone "
            "that has no weights from ImageNet. Received: weights='imagenet'. "
            "To fix this: weights=None."
        )
    model = network(
        features,
        pixels,
        name,
        input_tensor=input_tensor,
        input_shape=input_shape,
        classes=classes,
        classifier_activation=classifier_activation,
    )
    if weights is not None:
        model.load_weights(weights)
    return model


def network(
    features: Callable[[keras.KerasTensor], keras.KerasTensor],
    pixels: Pixels,
    name: str,
    *,
    input_tensor: keras.KerasTensor | None,
    input_shape: tuple[int | None, int | None, int],
    classes: int,
    classifier_activation: str | None,
    dropout: float = 0.0,
) -> keras.Model:
    """Builds what `classifier` does, with random weights.

    Args:
        features: As for `classifier`, as are the others.
        pixels: By which the images are standardized.
        name: Name of the model.
        input_tensor: Images to start from; None makes an input.
        input_shape: Shape of the images.
        classes: Number of classes.
        classifier_activation: Activation of the dense layer.
        dropout: Rate of the dropout before the dense layer; 0 leaves it out.

    Returns:
        A flat functional `keras.Model` from pixels of 0 to 255 to `(B, K)`.
    """
    image = keras.Input(input_shape) if input_tensor is None else input_tensor
    moments = list(zip(pixels.mean, pixels.deviation, strict=True))
    x = keras.layers.Rescaling(
        [1 / (255 * deviation) for _, deviation in moments],
        [-mean / deviation for mean, deviation in moments],
        name="standardization",
    )(as_rgb(image))
    x = features(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="classifier_dropout")(x)
    x = keras.layers.Dense(
        classes, activation=classifier_activation, name="classifier"
    )(x)
    return keras.Model(image, x, name=name)


def stack(
    x: keras.KerasTensor,
    block: Callable[..., keras.KerasTensor],
    counts: Sequence[int],
    *,
    ahead: int | None = None,
) -> keras.KerasTensor:
    """Stacks blocks in stages; each but the first halves the map.

    Args:
        x: Feature map of the stem.
        block: Called with `x`, `scale`, `stride`, `name` and `ahead`.
        counts: Number of blocks in each stage.
        ahead: Number, from 1, of the stage whose strides look ahead.

    Returns:
        Feature map of the last stage.
    """
    for stage, count in enumerate(counts, start=1):
        for index in range(count):
            x = block(
                x,
                scale=2 ** (stage - 1),
                stride=2 if stage > 1 and index == 0 else 1,
                name=f"stage{stage}_block{index}",
                ahead=stage == ahead,
            )
    return x


def basic(filters: int, scale: int, stride: int) -> Sequence[Convolution]:
    """Two 3x3 convolutions."""
    filters = filters * scale
    return Convolution(filters, 3, stride), Convolution(filters, 3)


def bottleneck(
    filters: int, width: int, groups: int, scale: int, stride: int
) -> Sequence[Convolution]:
    """A 3x3 convolution between two of 1x1, the last with `filters`."""
    width = width * scale
    return (
        Convolution(width, 1),
        Convolution(width, 3, stride, groups),
        Convolution(filters * scale, 1),
    )


def residual_block(
    branch: Branch,
    x: keras.KerasTensor,
    *,
    scale: int,
    stride: int,
    name: str,
    ahead: bool,
    squeeze: int | None = None,
    epsilon: float = 1e-3,
) -> keras.KerasTensor:
    """Adds a branch to its input, and normalizes after each convolution.

    A shortcut that changes shape is a strided 1x1 convolution. With `squeeze`
    the branch passes through squeeze-and-excitation before it is added.
    """
    convolutions = branch(scale, stride)
    shortcut = x
    if _changes_shape(x, convolutions, stride):
        projection = Convolution(convolutions[-1].filters, 1, stride)
        shortcut = normalized_convolution(
            x, projection, f"{name}_shortcut", ahead=ahead, epsilon=epsilon
        )
    for number, convolution in enumerate(convolutions, start=1):
        if number > 1:
            x = keras.layers.ReLU(name=f"{name}_{number - 1}_relu")(x)
        x = normalized_convolution(
            x, convolution, f"{name}_{number}", ahead=ahead, epsilon=epsilon
        )
    if squeeze is not None:
        x = squeeze_excitation(x, squeeze, name)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def preactivation_block(
    branch: Branch,
    x: keras.KerasTensor,
    *,
    scale: int,
    stride: int,
    name: str,
    ahead: bool,
) -> keras.KerasTensor:
    """Adds a branch to its input, and normalizes before each convolution.

    A shortcut that changes shape starts behind the first normalization and
    its ReLU, as in the release of the Wide ResNets.
    """
    convolutions = branch(scale, stride)
    projected = _changes_shape(x, convolutions, stride)
    projection = Convolution(convolutions[-1].filters, 1, stride)
    shortcut = x
    for number, convolution in enumerate(convolutions, start=1):
        x = activation(x, f"{name}_{number}")
        if number == 1 and projected:
            shortcut = convolve(x, projection, f"{name}_shortcut", ahead=ahead)
        x = convolve(x, convolution, f"{name}_{number}", ahead=ahead)
    return keras.layers.Add(name=f"{name}_add")([shortcut, x])


def dense_block(
    x: keras.KerasTensor, growth: int, name: str
) -> keras.KerasTensor:
    """Puts `growth` new channels beside those of the input."""
    new = activation(x, f"{name}_1")
    new = convolve(new, Convolution(4 * growth, 1), f"{name}_1")
    new = activation(new, f"{name}_2")
    new = convolve(new, Convolution(growth, 3), f"{name}_2")
    return keras.layers.Concatenate(name=f"{name}_concatenate")([x, new])


def transition(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Halves the channels, then the map."""
    filters = x.shape[-1] // 2
    x = activation(x, name)
    x = convolve(x, Convolution(filters, 1), name)
    return keras.layers.AveragePooling2D(2, name=f"{name}_pooling")(x)


def squeeze_excitation(
    x: keras.KerasTensor, reduction: int, name: str
) -> keras.KerasTensor:
    """Scales each channel by what all channels are on average.

    Two 1x1 convolutions with biases make the scales, in (0, 1), of the means;
    the first has `reduction` times fewer filters, and at least one.
    """
    channels = x.shape[-1]
    scales = keras.layers.GlobalAveragePooling2D(
        keepdims=True, name=f"{name}_squeeze"
    )(x)
    scales = keras.layers.Conv2D(
        max(1, channels // reduction),
        1,
        activation="relu",
        kernel_initializer="he_normal",
        name=f"{name}_reduction",
    )(scales)
    scales = keras.layers.Conv2D(
        channels,
        1,
        activation="sigmoid",
        kernel_initializer="he_normal",
        name=f"{name}_excitation",
    )(scales)
    return keras.layers.Multiply(name=f"{name}_scale")([x, scales])


def activation(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Normalizes, then sets what is negative to zero."""
    x = keras.layers.BatchNormalization(name=f"{name}_normalization")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def normalized_convolution(
    x: keras.KerasTensor,
    convolution: Convolution,
    name: str,
    *,
    ahead: bool = False,
    epsilon: float = 1e-3,
) -> keras.KerasTensor:
    """Convolves, then normalizes."""
    x = convolve(x, convolution, name, ahead=ahead)
    return keras.layers.BatchNormalization(
        epsilon=epsilon, name=f"{name}_normalization"
    )(x)


def convolve(
    x: keras.KerasTensor,
    convolution: Convolution,
    name: str,
    *,
    ahead: bool = False,
) -> keras.KerasTensor:
    """Convolves; the map keeps its size, but for the stride.

    With stride 2 each output stands for two rows, and a kernel of odd size is
    centered on one of them: the first, or the second if `ahead`. Where the
    last stage looks ahead and those before it do not, the map moves by half a
    pixel of the image; all alike would move it by 1.5 after two strides, 3.5
    after three.
    """
    half = convolution.kernel // 2
    strided = convolution.stride > 1
    if strided and half:
        margin = (half - 1, half) if ahead else (half, half)
        x = keras.layers.ZeroPadding2D((margin, margin), name=f"{name}_pad")(x)
    elif strided and ahead:
        x = keras.layers.Cropping2D(((1, 0), (1, 0)), name=f"{name}_crop")(x)
    return keras.layers.Conv2D(
        convolution.filters,
        convolution.kernel,
        strides=convolution.stride,
        padding="valid" if strided else "same",
        groups=convolution.groups,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_convolution",
    )(x)


def _changes_shape(
    x: keras.KerasTensor, convolutions: Sequence[Convolution], stride: int
) -> bool:
    return stride != 1 or x.shape[-1] != convolutions[-1].filters
