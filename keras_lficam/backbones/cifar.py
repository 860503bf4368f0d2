"""Residual networks for small images, as in the CIFAR experiments."""

import functools
from collections.abc import Callable

import keras

# Mean and standard deviation of the CIFAR-10 training pixels, per channel.
_MEAN = (0.4914, 0.4822, 0.4465)
_DEVIATION = (0.2023, 0.1994, 0.2010)


def resnet(depth: int, *, stem_stride: int = 1) -> Callable[..., keras.Model]:
    """Returns the residual network of a depth, to be given to `build`.

    Three stages of basic blocks with 16, 32 and 64 filters at strides 1, 2
    and 2, then average pooling and a dense layer. A shortcut that changes
    shape is a strided 1x1 convolution. A cell of the feature map stands for
    its own place in the image to within half a pixel, with `stem_stride` 1
    or 2.

    Args:
        depth: Number of weighted layers, `6 n + 2` with n at least 1.
        stem_stride: Stride of the first convolution. 1 leaves an 8x8 feature
            map of a 32x32 image, 2 one of a 64x64 image.

    Returns:
        A function with the keyword arguments of those in
        `keras.applications`, taking RGB images from 0 to 255.

    Raises:
        ValueError: If the depth is not of this kind, or the stride below 1.

    Reference:
        He et al., 2016, section 4.2, https://arxiv.org/abs/1512.03385.

    Examples:
        model = keras_lficam.build(
            resnet(8, stem_stride=2), classes=10, input_shape=(64, 64, 3)
        )
    """
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise ValueError(
            "Argument `depth` must be an integer 6 n + 2 with n at least 1, "
            f"such as 8, 20 or 56. Received: depth={depth!r}"
        )
    if not isinstance(stem_stride, int) or stem_stride < 1:
        raise ValueError(
            "Argument `stem_stride` must be an integer of at least 1. "
            f"Received: stem_stride={stem_stride!r}"
        )
    return functools.partial(_resnet, depth, stem_stride)


def _resnet(
    depth,
    stem_stride,
    *,
    weights=None,
    input_tensor=None,
    input_shape=(32, 32, 3),
    classes=10,
    classifier_activation="softmax",
):
    image = keras.Input(input_shape) if input_tensor is None else input_tensor
    x = keras.layers.Rescaling(
        [1 / (255 * deviation) for deviation in _DEVIATION],
        [-mean / dev for mean, dev in zip(_MEAN, _DEVIATION, strict=True)],
        name="standardization",
    )(image)
    x = _convolution(x, 16, 3, stem_stride, "stem")
    x = keras.layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate([16, 32, 64], start=1):
        for block in range((depth - 2) // 6):
            stride = 2 if stage > 1 and block == 0 else 1
            name = f"stage{stage}_block{block}"
            x = _basic_block(x, filters, stride, name, ahead=stage == 3)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    x = keras.layers.Dense(
        classes, activation=classifier_activation, name="classifier"
    )(x)
    model = keras.Model(image, x, name=f"resnet{depth}")
    if weights == "imagenet":
        raise ValueError(
            "This backbone has no weights from ImageNet. Received: "
            "weights='imagenet'. Ways out: None, or a weights file."
        )
    if weights is not None:
        model.load_weights(weights)
    return model


def _basic_block(x, filters, stride, name, *, ahead):
    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        shortcut = _convolution(
            x, filters, 1, stride, f"{name}_shortcut", ahead=ahead
        )
    x = _convolution(x, filters, 3, stride, f"{name}_1", ahead=ahead)
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = _convolution(x, filters, 3, 1, f"{name}_2")
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _convolution(x, filters, kernel, stride, name, *, ahead=False):
    """Convolves and normalizes.

    With stride 2 each output stands for two rows, and a kernel of odd size is
    centered on one of them: the first, or the second if `ahead`. The last
    stage looks ahead and those before it do not, which moves the map by half
    a pixel of the image; all alike would move it by 1.5, or 3.5 with a
    strided stem.
    """
    if ahead and stride > 1 and kernel == 1:
        x = keras.layers.Cropping2D(((1, 0), (1, 0)), name=f"{name}_crop")(x)
    elif kernel > 1:
        margin = (0, 1) if ahead and stride > 1 else (1, 1)
        x = keras.layers.ZeroPadding2D((margin, margin), name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_convolution",
    )(x)
    return keras.layers.BatchNormalization(name=f"{name}_normalization")(x)
