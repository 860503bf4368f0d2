"""Residual networks for photos, wired and sized as in torchvision.

The stride of a bottleneck is in its 3x3 convolution and padding is the same on
all sides, so weights from torchvision fit once their axes are in the order of
Keras. `keras.applications.ResNet50` strides in the first 1x1 convolution, as
the paper does, and its convolutions have biases, which add 26,560 weights.

A cell of the map thereby looks 15.5 pixels up and left of where an even grid
would put it, unlike those of `cifar`. The explainers know, see `upsampler`.

Networks with groups want a GPU to train: on a CPU, TensorFlow and JAX take many
times as long for the gradient of a convolution in groups.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_lficam._checks import check_integer, is_integer
from keras_lficam.backbones import _blocks

# Mean and standard deviation of the pixels of ImageNet.
_PIXELS = _blocks.Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Torchvision's, to which its weights are used; that of Keras is 1e-3.
_EPSILON = 1e-5

# Blocks in each stage, by depth: He et al., 2016, table 1.
_BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet(
    depth: int,
    *,
    groups: int = 1,
    group_width: int = 64,
    squeeze: int | None = None,
) -> Callable[..., keras.Model]:
    """Returns the residual network of a depth, to be given to `build`.

    A 7x7 convolution and a maximum pooling at stride 2 each, then four stages
    at strides 1, 2, 2 and 2, average pooling and a dense layer: an image of
    224x224 leaves a map of 7x7. A shortcut that changes shape is a strided
    1x1 convolution. Depths 18 and 34 have basic blocks and 512 channels in
    the end, the others bottlenecks and 2048.

    Args:
        depth: Number of weighted layers: 18, 34, 50, 101 or 152.
        groups: Number of groups in the 3x3 convolution of a bottleneck,
            called cardinality in ResNeXt.
        group_width: Channels of a group in the first stage; each stage after
            it doubles them.
        squeeze: How many times squeeze-and-excitation reduces the channels,
            16 in its paper; None leaves it out.

    Returns:
        A function with the keyword arguments of those in
        `keras.applications`, taking RGB or gray images from 0 to 255.

    Raises:
        ValueError: If the depth is none of these, groups are asked of basic
            blocks, or a number is below 1.
        TypeError: If a number is no integer.

    Reference:
        He et al., 2016, table 1, https://arxiv.org/abs/1512.03385.
        Xie et al., 2017, table 1, https://arxiv.org/abs/1611.05431.
        Hu et al., 2018, table 1, https://arxiv.org/abs/1709.01507.

    Examples:
        model = keras_lficam.build(
            resnet(18, squeeze=16), classes=37, input_shape=(224, 224, 3)
        )
    """
    _check_depth(depth)
    check_integer("groups", groups, least=1)
    check_integer("group_width", group_width, least=1)
    if squeeze is not None:
        check_integer("squeeze", squeeze, least=1)
    grouped = (groups, group_width) != (1, 64)
    if depth in _BASIC and grouped:
        raise ValueError(
            "Arguments `groups` and `group_width` must be left out below depth "
            "50, where there are no bottlenecks. Received: "
            f"depth={depth}, groups={groups}, group_width={group_width}. "
            "To fix this: depth=50, or neither."
        )
    branch: _blocks.Branch
    if depth in _BASIC:
        branch = functools.partial(_blocks.basic, 64)
    else:
        width = groups * group_width
        branch = functools.partial(_blocks.bottleneck, 256, width, groups)
    counts = {**_BASIC, **_BOTTLENECK}[depth]
    prefix = "" if squeeze is None else "se"
    name = f"resnet{depth}"
    if grouped:
        name = f"resnext{depth}_{groups}x{group_width}d"
    return functools.partial(
        _blocks.classifier,
        functools.partial(_features, branch, counts, squeeze),
        _PIXELS,
        prefix + name,
    )


def _features(
    branch: Any,
    counts: Sequence[int],
    squeeze: int | None,
    x: keras.KerasTensor,
) -> keras.KerasTensor:
    stem = _blocks.Convolution(64, 7, stride=2)
    x = _blocks.normalized_convolution(x, stem, "stem", epsilon=_EPSILON)
    x = keras.layers.ReLU(name="stem_relu")(x)
    # After a ReLU, zeros around the map are never the only largest.
    x = keras.layers.ZeroPadding2D(1, name="stem_pooling_pad")(x)
    x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pooling")(x)
    block = functools.partial(
        _blocks.residual_block, branch, squeeze=squeeze, epsilon=_EPSILON
    )
    return _blocks.stack(x, block, counts)


def _check_depth(depth: int) -> None:
    depths = [*_BASIC, *_BOTTLENECK]
    if not is_integer(depth) or depth not in depths:
        raise ValueError(
            f"Argument `depth` must be one of {depths}. "
            f"Received: depth={depth!r}"
        )


FAMILY: Mapping[str, Callable[..., keras.Model]] = {
    "ResNet18": resnet(18),
    "ResNet34": resnet(34),
    "ResNeXt50_32x4d": resnet(50, groups=32, group_width=4),
    "ResNeXt101_32x8d": resnet(101, groups=32, group_width=8),
    "SEResNet50": resnet(50, squeeze=16),
    "SEResNeXt50_32x4d": resnet(50, groups=32, group_width=4, squeeze=16),
}
