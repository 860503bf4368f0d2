"""Backbones of keras_cv and keras_hub, with their preprocessing inside."""

import contextlib
import functools
import importlib
import inspect
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_lficam._names import nearest
from keras_lficam.surgery import as_rgb

# Residual networks of keras_cv by their number of layers: kind of block, and
# blocks in each stage. The library fetches these few numbers from a network.
_RESIDUAL = {
    "18": ("basic_block", [2, 2, 2, 2]),
    "34": ("basic_block", [3, 4, 6, 3]),
    "50": ("block", [3, 4, 6, 3]),
    "101": ("block", [3, 4, 23, 3]),
    "152": ("block", [3, 8, 36, 3]),
}

# Arguments by which a family of keras_hub is built around an encoder.
_ENCODERS = {"backbone", "image_encoder", "vision_encoder"}

# Tokens in front of those of the patches: one for the class, in DeiT one for
# distillation, in DINO four registers.
_MOST_PREFIX_TOKENS = 8


def is_hub_name(name: str) -> bool:
    """Whether a name is that of a preset, such as `"keras_cv/resnet50_v2"`.

    Args:
        name: Name of a backbone.

    Returns:
        Whether it starts with `keras_cv/` or `keras_hub/`.
    """
    return name.startswith(("keras_cv/", "keras_hub/"))


def build_hub(
    name: str,
    input_shape: tuple[int | None, int | None, int],
    weights: str | os.PathLike[str] | None,
) -> keras.Model:
    """Builds a backbone of keras_cv or keras_hub, up to its feature map.

    A preset of keras_hub says how to scale and shift the pixels, which becomes
    a layer. The resizing it asks for does not, as `input_shape` is the size.
    Backbones of keras_cv divide by 255 themselves. The backbone is built for
    RGB; a gray image is repeated to three channels in front of it.

    Args:
        name: `"keras_cv/"` or `"keras_hub/"`, then the name of a preset or the
            path of a folder that holds one. The residual networks of keras_cv
            need no network if `weights` is None.
        input_shape: Shape `(height, width, channels)` of the images, of 3
            channels or 1; None for sizes that are to stay open, which most
            transformers do not allow.
        weights: None for random ones, or `"preset"`; also `"imagenet"`, if the
            name of the preset has that word.

    Returns:
        A `keras.Model` from images of this shape, from 0 to 255, to features
        `(B, h, w, C)`. The backbone is one of its layers.

    Raises:
        ImportError: If the library is not installed.
        ValueError: If `weights` is none of these; if the preset is unknown,
            out of reach or not for images of this shape; or if it gives no
            feature map.
    """
    library, _, preset = name.partition("/")
    allowed = [None, "preset"]
    if "imagenet" in preset:
        allowed.append("imagenet")
    if weights not in allowed:
        raise ValueError(
            f"Argument `weights` must be one of {allowed} for {name!r}. "
            f"Received: weights={weights!r}"
        )
    explained = functools.partial(_explained, name, input_shape, weights)
    load = _load_keras_cv if library == "keras_cv" else _load_keras_hub
    backbone, rescaling = load(
        preset, (*input_shape[:2], 3), weights is not None, explained
    )
    image = keras.Input(input_shape, name="image")
    pixels = as_rgb(image)
    if rescaling:
        pixels = rescaling(pixels)
    features = image_features(backbone, pixels)
    stem = os.path.basename(os.path.abspath(preset))
    model = keras.Model(image, features, name=re.sub(r"\W+", "_", stem))
    if None not in input_shape:
        # Some transformers take any shape, and fail at the first image.
        with explained():
            model(keras.ops.zeros((1, *input_shape)))
    return model


def image_features(
    backbone: keras.Model, image: keras.KerasTensor
) -> keras.KerasTensor:
    """Applies a backbone as a layer and makes a feature map of what it gives.

    Args:
        backbone: Functional model whose one input is the image, be it alone
            or in a dictionary.
        image: Tensor `(B, H, W, channels)`, as the backbone expects its
            pixels.

    Returns:
        Tensor `(B, h, w, C)`.

    Raises:
        ValueError: If the backbone takes more than an image, or its output is
            no feature map.
    """
    shapes = [tensor.shape for tensor in keras.tree.flatten(backbone.input)]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            f"Backbone {backbone.name!r} must have one input, images (batch, "
            f"height, width, channels). Received: inputs of shapes {shapes}. "
            "To fix this: the part of it that encodes images, such as "
            "`backbone.vision_encoder`."
        )
    inputs = keras.tree.map_structure(lambda _: image, backbone.input)
    return feature_map(backbone(inputs), image.shape[1:])


def feature_map(
    output: Any, image_shape: tuple[int | None, int | None, int]
) -> keras.KerasTensor:
    """Makes a feature map of the output of a backbone.

    Args:
        output: Feature map `(B, h, w, C)`; or tokens `(B, T, C)`, first up to
            eight that stand for no location, then the patches row by row; or a
            dictionary or list of feature maps, of which the coarsest is taken.
        image_shape: Shape `(height, width, channels)` of the images; closed,
            unless `output` is one feature map.

    Returns:
        Tensor `(B, h, w, C)`.

    Raises:
        ValueError: If `output` is of another kind, there is not one coarsest
            map, or the number of tokens fits no grid of patches or several.
    """
    tensor = coarsest(output)
    if len(tensor.shape) == 3:
        return _token_grid(tensor, image_shape)
    if len(tensor.shape) != 4:
        raise _no_feature_map(f"of shape {tensor.shape}")
    return tensor


def coarsest(output: Any) -> keras.KerasTensor:
    """Picks the one output of a backbone, or its coarsest feature map.

    Args:
        output: Tensor, or a dictionary or list of some.

    Returns:
        One of the tensors.

    Raises:
        ValueError: If there are several and not one of them is the coarsest.
    """
    maps = keras.tree.flatten(output)
    if len(maps) == 1:
        return maps[0]
    shapes = [tensor.shape for tensor in maps]
    received = f"of shapes {shapes}"
    if any(len(shape) != 4 or None in shape[1:3] for shape in shapes):
        raise _no_feature_map(received)
    maps = sorted(maps, key=lambda tensor: tensor.shape[1] * tensor.shape[2])
    if maps[0].shape[1:3] == maps[1].shape[1:3]:
        raise _no_feature_map(received)
    return maps[0]


def _token_grid(
    tokens: keras.KerasTensor, image_shape: Sequence[Any]
) -> keras.KerasTensor:
    height, width = image_shape[:2]
    count = tokens.shape[1]
    if None in (height, width, count):
        raise _no_feature_map(
            f"of shape {tokens.shape}, for images of {image_shape}"
        )
    grids = [
        (height // size, width // size)
        for size in range(1, min(height, width) // 2 + 1)
        if height % size == 0 and width % size == 0
    ]
    fitting = [
        (rows, columns)
        for rows, columns in grids
        if 0 <= count - rows * columns <= _MOST_PREFIX_TOKENS
    ]
    if len(fitting) != 1:
        raise _no_feature_map(
            f"of {count} tokens for images of {image_shape}, where they fit "
            f"the grids {fitting}"
        )
    ((rows, columns),) = fitting
    prefix = count - rows * columns
    patches = keras.layers.Cropping1D((prefix, 0), name="patch_tokens")(tokens)
    return keras.layers.Reshape((rows, columns, -1), name="token_grid")(patches)


def _no_feature_map(received: str) -> ValueError:
    return ValueError(
        "A backbone must give one feature map (batch, rows, columns, "
        "channels), a pyramid of them with one coarsest, or tokens of one "
        f"grid of patches. Received: an output {received}. To fix this: an "
        "input_shape with height and width, larger images, or a keras.Model "
        "of the backbone that ends at the feature map."
    )


def _load_keras_cv(
    preset: str, input_shape: Any, load_weights: bool, explained: Any
) -> tuple[keras.Model, None]:
    models = _installed("keras_cv").models
    families = _families_of_keras_cv()
    options = {"include_rescaling": True, "input_shape": input_shape}
    residual = re.match(r"resnet(\d+)(_v2)?", preset)
    if preset in families and residual and not load_weights:
        kind, blocks = _RESIDUAL[residual[1]]
        version = "V2" if residual[2] else ""
        backbone = getattr(models, f"ResNet{version}Backbone")(
            stackwise_filters=[64, 128, 256, 512],
            stackwise_blocks=blocks,
            stackwise_strides=[1, 2, 2, 2],
            block_type=kind,
            **options,
        )
        return backbone, None
    with explained():
        backbone = families.get(preset, models.Backbone).from_preset(
            preset, load_weights=load_weights, **options
        )
    return backbone, None


def _families_of_keras_cv() -> dict[str, Any]:
    """The class of each preset, for the base class knows none by name."""
    models = _installed("keras_cv").models
    families: list[Any] = [
        family
        for family in vars(models).values()
        if isinstance(family, type) and issubclass(family, models.Backbone)
    ]
    return {preset: family for family in families for preset in family.presets}


def _load_keras_hub(
    preset: str, input_shape: Any, load_weights: bool, explained: Any
) -> tuple[keras.Model, keras.layers.Layer | None]:
    keras_hub = _installed("keras_hub")
    base = keras_hub.models.Backbone
    with explained():
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
        # A converter of no family in particular leaves the family open.
        family = converter.backbone_cls or type(
            base.from_preset(preset, load_weights=False)
        )
    shape = _shape_argument(family, preset)
    with explained():
        backbone = base.from_preset(
            preset, load_weights=load_weights, **{shape: input_shape}
        )
    return backbone, keras.layers.Rescaling(
        1.0 if converter.scale is None else converter.scale,
        0.0 if converter.offset is None else converter.offset,
        dtype="float32",
        name="preprocessing",
    )


def _shape_argument(family: Any, preset: str) -> str:
    arguments = inspect.signature(family).parameters
    around = sorted(_ENCODERS.intersection(arguments))
    if around:
        raise ValueError(
            "Argument `backbone` must take images alone and give their "
            f"features alone. Received: preset {preset!r}, a "
            f"{family.__name__}, which does more. To fix this: build("
            f"backbone.{around[0]}), where backbone is "
            f"keras_hub.models.{family.__name__}.from_preset({preset!r})."
        )
    for argument in ("image_shape", "input_shape"):
        if argument in arguments:
            return argument
    raise ValueError(
        "Argument `backbone` must take images of a given shape. Received: "
        f"preset {preset!r}, a {family.__name__}, which does not. To fix this: "
        "a preset of another family, such as one of "
        "keras_hub.models.ResNetBackbone.presets."
    )


def _installed(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ImportError(
            f"A backbone of {library} needs that library. "
            'To fix this: pip install "keras-lficam[hub]"'
        ) from error


@contextlib.contextmanager
def _explained(
    name: str,
    input_shape: tuple[int | None, int | None, int],
    weights: str | os.PathLike[str] | None,
) -> Iterator[None]:
    """Turns what a library raises over a preset into one ValueError."""
    try:
        yield
    except Exception as error:  # Network and files have no common class.
        library, _, preset = name.partition("/")
        # What a layer raised stands behind its name or configuration.
        parts = re.split(r"Exception encountered: |\.call\(\)\.", str(error))
        reason = re.sub(r"\x1b\[\d+m", "", parts[-1])
        ways = [
            f"a preset of {library} by its name, where there is a network",
            f"'{library}/' and the path of a folder with all its files",
            "an input_shape of closed and equal height and width, best those "
            "of the preset",
        ]
        if weights is not None:
            ways.append("weights=None")
        raise ValueError(
            f"Backbone {name!r} could not be built for "
            f"input_shape={input_shape} with weights={weights!r}. {library} "
            f"says: {textwrap.shorten(reason, 300)} "
            f"{_nearest(library, preset)}To fix this: {'; '.join(ways)}."
        ) from error


def _nearest(library: str, preset: str) -> str:
    if library == "keras_cv":
        known = list(_families_of_keras_cv())
    else:
        known = list(_installed(library).models.Backbone.presets)
    close = nearest(preset, known)
    if preset in known or not close:
        return ""
    return f"The nearest are {', '.join(repr(name) for name in close)}. "
