"""Classifiers for small images, as in the experiments on CIFAR.

An image of 32x32 leaves a map of 8x8. A cell of it stands for its own location
in the image to within half a pixel, for which the last stride looks ahead and
those before it look back; in the published networks all look back.

Numbers of weights, for ten classes, where sources disagree:

- ResNet-20 has 272,474, and 0.27 M in He et al., table 6, whose shortcuts
  have no weights: 269,722. With convolutions, as in the releases of LFI-CAM
  and ABN, a network of basic blocks has 2,752 more at any depth.
- The "ResNet-110" of those releases has 1,704,154, in He et al.'s form it
  has 1,730,714. From depth 44 on the releases put bottlenecks of three
  layers where they count two, so theirs is 164 layers deep. Here a depth is
  what it says, and `ResNet110Bottleneck` names the network of the releases.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_lficam._checks import check_integer, is_integer
from keras_lficam.backbones import _blocks

# Mean and standard deviation of the CIFAR-10 training pixels.
_PIXELS = _blocks.Pixels((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def resnet(
    depth: int,
    *,
    block: str = "basic",
    stem_stride: int = 1,
    squeeze: int | None = None,
) -> Callable[..., keras.Model]:
    """Returns the residual network of a depth, to be given to `build`.

    Three stages of blocks with 16, 32 and 64 filters at strides 1, 2 and 2,
    then average pooling and a dense layer. Bottlenecks have four times as
    many channels in the end. A shortcut that changes shape is a strided 1x1
    convolution. A cell of the feature map stands for its own location in the
    image to within half a pixel, with `stem_stride` 1 or 2.

    Args:
        depth: Number of weighted layers, with n at least 1: `6 n + 2` in
            basic blocks, `9 n + 2` in bottlenecks.
        block: `"basic"`, two 3x3 convolutions, or `"bottleneck"`, one 3x3
            between two of 1x1.
        stem_stride: Stride of the first convolution. 1 leaves an 8x8 feature
            map of a 32x32 image, 2 one of a 64x64 image.
        squeeze: How many times squeeze-and-excitation reduces the channels,
            16 in its paper; None leaves it out.

    Returns:
        A function with the keyword arguments of those in
        `keras.applications`, taking RGB or gray images from 0 to 255.

    Raises:
        ValueError: If the depth is not of this kind, the block is neither, or
            a number is below 1.
        TypeError: If another number is no integer.

    Reference:
        He et al., 2016, section 4.2, https://arxiv.org/abs/1512.03385.
        Hu et al., 2018, https://arxiv.org/abs/1709.01507.

    Examples:
        model = keras_lficam.build(
            resnet(8, stem_stride=2), classes=10, input_shape=(64, 64, 3)
        )
    """
    if not isinstance(block, str) or block not in ("basic", "bottleneck"):
        raise ValueError(
            "Argument `block` must be 'basic' or 'bottleneck'. "
            f"Received: block={block!r}"
        )
    branch: _blocks.Branch
    if block == "basic":
        count = _blocks_per_stage(depth, 6, 2)
        branch = functools.partial(_blocks.basic, 16)
    else:
        count = _blocks_per_stage(depth, 9, 2)
        branch = functools.partial(_blocks.bottleneck, 64, 16, 1)
    check_integer("stem_stride", stem_stride, least=1)
    if squeeze is not None:
        check_integer("squeeze", squeeze, least=1)
    stem = _blocks.Convolution(16, 3, stem_stride)
    prefix = "" if squeeze is None else "se"
    suffix = "" if block == "basic" else block
    return _classifier(
        functools.partial(_residual_features, stem, branch, count, squeeze),
        f"{prefix}resnet{depth}{suffix}",
    )


def wide_resnet(depth: int = 28, width: int = 10) -> Callable[..., keras.Model]:
    """Returns the Wide ResNet of a depth and width, to be given to `build`.

    Three stages of basic blocks that normalize before they convolve, with 16,
    32 and 64 times `width` filters at strides 1, 2 and 2. There is no dropout.

    Args:
        depth: Number of weighted layers, `6 n + 4` with n at least 1.
        width: How many times wider it is than a residual network.

    Returns:
        A function with the keyword arguments of those in
        `keras.applications`, taking RGB or gray images from 0 to 255.

    Raises:
        ValueError: If the depth is not of this kind, or the width below 1.
        TypeError: If another number is no integer.

    Reference:
        Zagoruyko and Komodakis, 2016, table 1,
        https://arxiv.org/abs/1605.07146.

    Examples:
        model = keras_lficam.build(
            wide_resnet(16, 2), classes=10, input_shape=(32, 32, 3)
        )
    """
    count = _blocks_per_stage(depth, 6, 4)
    check_integer("width", width, least=1)
    branch = functools.partial(_blocks.basic, 16 * width)
    return _classifier(
        functools.partial(_preactivation_features, branch, count),
        f"wideresnet{depth}_{width}",
    )


def resnext(
    depth: int = 29, *, groups: int = 8, group_width: int = 64
) -> Callable[..., keras.Model]:
    """Returns the ResNeXt of a depth and cardinality, to be given to `build`.

    Three stages of bottlenecks with 256, 512 and 1024 channels at strides 1,
    2 and 2, whose 3x3 convolution is in groups.

    Args:
        depth: Number of weighted layers, `9 n + 2` with n at least 1.
        groups: Number of groups, the cardinality.
        group_width: Channels of a group in the first stage; each stage after
            it doubles them.

    Returns:
        A function with the keyword arguments of those in
        `keras.applications`, taking RGB or gray images from 0 to 255.

    Raises:
        ValueError: If the depth is not of this kind, or a number is below 1.
        TypeError: If another number is no integer.

    Reference:
        Xie et al., 2017, section 5.3, https://arxiv.org/abs/1611.05431.

    Examples:
        model = keras_lficam.build(
            resnext(11, groups=4, group_width=8),
            classes=10,
            input_shape=(32, 32, 3),
        )
    """
    count = _blocks_per_stage(depth, 9, 2)
    check_integer("groups", groups, least=1)
    check_integer("group_width", group_width, least=1)
    branch = functools.partial(
        _blocks.bottleneck, 256, groups * group_width, groups
    )
    stem = _blocks.Convolution(64, 3)
    return _classifier(
        functools.partial(_residual_features, stem, branch, count, None),
        f"resnext{depth}_{groups}x{group_width}d",
    )


def densenet(
    depth: int = 100, *, growth: int = 12
) -> Callable[..., keras.Model]:
    """Returns the DenseNet-BC of a depth and growth, to be given to `build`.

    Three stages in which every block puts `growth` new channels beside those
    of all before it. Between them the channels are halved and the map is
    averaged over 2x2, which leaves each cell at its own location.

    Args:
        depth: Number of weighted layers, `6 n + 4` with n at least 1.
        growth: New channels of a block, whose 1x1 convolution has four times
            as many.

    Returns:
        A function with the keyword arguments of those in
        `keras.applications`, taking RGB or gray images from 0 to 255.

    Raises:
        ValueError: If the depth is not of this kind, or the growth below 1.
        TypeError: If another number is no integer.

    Reference:
        Huang et al., 2017, sections 3 and 4, https://arxiv.org/abs/1608.06993.

    Examples:
        model = keras_lficam.build(
            densenet(22, growth=8), classes=10, input_shape=(32, 32, 3)
        )
    """
    count = _blocks_per_stage(depth, 6, 4)
    check_integer("growth", growth, least=1)
    return _classifier(
        functools.partial(_dense_features, count, growth),
        f"densenet{depth}_{growth}",
    )


def _classifier(
    features: Callable[..., Any], name: str
) -> Callable[..., keras.Model]:
    return functools.partial(
        _blocks.classifier,
        features,
        _PIXELS,
        name,
        input_shape=(32, 32, 3),
        classes=10,
    )


def _residual_features(
    stem: _blocks.Convolution,
    branch: Any,
    count: int,
    squeeze: int | None,
    x: keras.KerasTensor,
) -> keras.KerasTensor:
    x = _blocks.normalized_convolution(x, stem, "stem")
    x = keras.layers.ReLU(name="stem_relu")(x)
    block = functools.partial(_blocks.residual_block, branch, squeeze=squeeze)
    return _blocks.stack(x, block, [count] * 3, ahead=3)


def _preactivation_features(
    branch: Any, count: int, x: keras.KerasTensor
) -> keras.KerasTensor:
    x = _blocks.convolve(x, _blocks.Convolution(16, 3), "stem")
    block = functools.partial(_blocks.preactivation_block, branch)
    x = _blocks.stack(x, block, [count] * 3, ahead=3)
    return _blocks.activation(x, "final")


def _dense_features(
    count: int, growth: int, x: keras.KerasTensor
) -> keras.KerasTensor:
    x = _blocks.convolve(x, _blocks.Convolution(2 * growth, 3), "stem")
    for stage in (1, 2, 3):
        if stage > 1:
            x = _blocks.transition(x, f"transition{stage - 1}")
        for index in range(count):
            x = _blocks.dense_block(x, growth, f"stage{stage}_block{index}")
    return _blocks.activation(x, "final")


def _blocks_per_stage(depth: int, step: int, rest: int) -> int:
    """Solves `depth = step n + rest` for n."""
    least = step + rest
    if not is_integer(depth) or depth < least or (depth - rest) % step:
        raise ValueError(
            f"Argument `depth` must be an integer {step} n + {rest} with n at "
            f"least 1, such as {least} or {least + 2 * step}. "
            f"Received: depth={depth!r}"
        )
    return (depth - rest) // step


FAMILY: Mapping[str, Callable[..., keras.Model]] = {
    "ResNet8": resnet(8),
    "ResNet20": resnet(20),
    "ResNet32": resnet(32),
    "ResNet44": resnet(44),
    "ResNet56": resnet(56),
    "ResNet110": resnet(110),
    # The releases' own count of its layers; they are 164.
    "ResNet110Bottleneck": resnet(164, block="bottleneck"),
    "SEResNet20": resnet(20, squeeze=16),
    "SEResNet56": resnet(56, squeeze=16),
    "SEResNet110": resnet(110, squeeze=16),
    "WideResNet28_10": wide_resnet(28, 10),
    "ResNeXt29_8x64d": resnext(29, groups=8, group_width=64),
    "DenseNet100_12": densenet(100, growth=12),
}
