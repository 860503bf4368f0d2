"""Every family of backbones that keras_cv and keras_hub have for images."""

import inspect
import json
import sys

import keras
import lazy_loader
import numpy as np
import pytest

from keras_lficam import backbones
from keras_lficam.backbones._hubs import (
    _shape_argument,
    build_hub,
    feature_map,
    image_features,
    is_hub_name,
)

# They take seconds, in each process that reads this file to test others.
keras_cv = lazy_loader.load("keras_cv")
keras_hub = lazy_loader.load("keras_hub")

SHAPE = (64, 64, 3)
TRANSFORMER = {
    "patch_size": 16,
    "num_layers": 2,
    "hidden_dim": 8,
    "num_heads": 2,
    "intermediate_dim": 16,
}

# Every family of keras_hub that has presets: the smallest of its kind, and the
# shape of its feature map for images of 64x64.
HUB = {
    "CSPNetBackbone": (
        {
            "stem_filters": 8,
            "stem_kernel_size": 3,
            "stem_strides": 1,
            "stackwise_depth": [1, 1, 1],
            "stackwise_strides": [2, 2, 2],
            "stackwise_num_filters": [8, 8, 16],
            "block_type": "dark_block",
            "stage_type": "dark",
        },
        (8, 8, 16),
    ),
    "DINOV2Backbone": (
        {
            **TRANSFORMER,
            "num_register_tokens": 4,
            "position_embedding_shape": SHAPE,
        },
        (4, 4, 8),
    ),
    "DINOV3Backbone": (TRANSFORMER, (4, 4, 8)),
    "DeiTBackbone": (TRANSFORMER, (4, 4, 8)),
    "DenseNetBackbone": (
        {"stackwise_num_repeats": [1, 1], "growth_rate": 8},
        (8, 8, 44),  # 64 of the stem and 8, of which half; and again 8.
    ),
    "EfficientNetBackbone": (
        {
            "stackwise_width_coefficients": [1.0, 1.0, 1.0],
            "stackwise_depth_coefficients": [1.0, 1.0, 1.0],
            "stackwise_kernel_sizes": [3, 3, 3],
            "stackwise_num_repeats": [1, 1, 1],
            "stackwise_input_filters": [8, 8, 16],
            "stackwise_output_filters": [8, 16, 16],
            "stackwise_expansion_ratios": [1, 4, 4],
            "stackwise_squeeze_and_excite_ratios": [0, 0.25, 0.25],
            "stackwise_strides": [1, 2, 2],
            "stackwise_block_types": ["v1", "fused", "unfused"],
        },
        (8, 8, 1280),
    ),
    "HGNetV2Backbone": (
        {
            "depths": [1, 1],
            "embedding_size": 8,
            "hidden_sizes": [16, 32],
            "stem_channels": [3, 8, 8],
            "hidden_act": "relu",
            "use_learnable_affine_block": False,
            "stackwise_stage_filters": [
                (8, 8, 16, 1, 1, 3),
                (16, 8, 32, 1, 1, 3),
            ],
            "apply_downsample": [False, True],
            "use_lightweight_conv_block": [False, False],
        },
        (8, 8, 32),  # The last of three maps.
    ),
    "MiTBackbone": (
        {
            "layerwise_depths": [1, 1],
            "num_layers": 2,
            "layerwise_num_heads": [1, 2],
            "layerwise_sr_ratios": [2, 1],
            "max_drop_path_rate": 0.1,
            "layerwise_patch_sizes": [7, 3],
            "layerwise_strides": [4, 2],
            "hidden_dims": [8, 16],
        },
        (8, 8, 16),
    ),
    "MobileNetBackbone": (
        {
            "stackwise_expansion": [[16], [16]],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_filters": [[8], [16]],
            "stackwise_kernel_size": [[3], [5]],
            "stackwise_num_strides": [[2], [2]],
            "stackwise_se_ratio": [[None], [0.25]],
            "stackwise_activation": [["relu"], ["hard_swish"]],
            "stackwise_padding": [[1], [2]],
            "output_num_filters": 32,
            "depthwise_filters": 8,
            "depthwise_stride": 2,
            "depthwise_residual": False,
            "last_layer_filter": 32,
        },
        (4, 4, 32),
    ),
    "MobileNetV5Backbone": (
        {
            "stackwise_block_types": [["er"], ["uir"], ["mqa"]],
            "stackwise_num_blocks": [1, 1, 1],
            "stackwise_num_filters": [[8], [16], [16]],
            "stackwise_strides": [[2], [2], [1]],
            "stackwise_act_layers": [["relu"], ["relu"], ["relu"]],
            "stackwise_exp_ratios": [[4.0], [4.0], [0]],
            "stackwise_se_ratios": [[0.0], [0.0], [0.0]],
            "stackwise_dw_kernel_sizes": [[0], [5], [0]],
            "stackwise_dw_start_kernel_sizes": [[0], [0], [0]],
            "stackwise_dw_end_kernel_sizes": [[0], [0], [0]],
            "stackwise_exp_kernel_sizes": [[3], [0], [0]],
            "stackwise_pw_kernel_sizes": [[1], [0], [0]],
            "stackwise_num_heads": [[0], [0], [2]],
            "stackwise_key_dims": [[0], [0], [8]],
            "stackwise_value_dims": [[0], [0], [8]],
            "stackwise_kv_strides": [[0], [0], [1]],
            "stackwise_use_cpe": [[False], [False], [False]],
            "stem_size": 8,
            "use_msfa": False,
        },
        (8, 8, 16),
    ),
    "ResNetBackbone": (
        {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 8],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_strides": [1, 2],
            "block_type": "basic_block",
        },
        (8, 8, 8),
    ),
    "SwinTransformerBackbone": (
        {
            "patch_size": 4,
            "embed_dim": 8,
            "depths": (2, 1),
            "num_heads": (1, 2),
            "window_size": 4,
        },
        (8, 8, 16),
    ),
    "VGGBackbone": (
        {
            "stackwise_num_repeats": [1, 1, 1],
            "stackwise_num_filters": [8, 8, 16],
        },
        (8, 8, 16),
    ),
    "ViTBackbone": (
        {
            "patch_size": 16,
            "num_layers": 2,
            "hidden_dim": 8,
            "num_heads": 2,
            "mlp_dim": 16,
        },
        (4, 4, 8),
    ),
    "XceptionBackbone": (
        {
            "stackwise_conv_filters": [[8, 8], [16, 16], [16, 16]],
            "stackwise_pooling": [True, True, False],
        },
        (8, 8, 16),
    ),
}

# Encoders of keras_hub that come inside other backbones and have no preset.
ENCODERS = {
    "CLIPVisionEncoder": (TRANSFORMER, (4, 4, 8)),
    "MetaCLIP2VisionEncoder": (TRANSFORMER, (4, 4, 8)),
    "ViTDetBackbone": (
        {
            "patch_size": 16,
            "hidden_size": 8,
            "num_layers": 2,
            "intermediate_dim": 16,
            "num_heads": 2,
            "global_attention_layer_indices": [1],
            "num_output_channels": 8,
            "window_size": 2,
        },
        (4, 4, 8),
    ),
}

# What of keras_hub takes images, but is refused, and why.
REFUSED = {
    "pools its tokens into one vector": {"SigLIPVisionEncoder"},
    "is made around an encoder, which is taken": {
        "BASNetBackbone",
        "BLIP2Backbone",
        "CLIPBackbone",
        "DFineBackbone",
        "DeepLabV3Backbone",
        "DepthAnythingBackbone",
        "Gemma3Backbone",
        "Gemma4Backbone",
        "MetaCLIP2Backbone",
        "PARSeqBackbone",
        "Qwen3_5Backbone",
        "Qwen3_5MoeBackbone",
        "RetinaNetBackbone",
        "SAM3PromptableConceptBackbone",
        "SAMBackbone",
        "SegFormerBackbone",
        "SigLIPBackbone",
        "T5Gemma2Backbone",
    },
    "takes words, too": {"Gemma3nBackbone", "PaliGemmaBackbone"},
    "makes images": {"FluxBackbone", "StableDiffusion3Backbone"},
    "takes videos": {"VideoPrismBackbone"},
}

EFFICIENT = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [1, 1],
    "stackwise_input_filters": [32, 8],
    "stackwise_output_filters": [8, 16],
    "stackwise_expansion_ratios": [1, 2],
    "stackwise_strides": [1, 2],
}

# The same for the families of keras_cv.
CV = {
    "CSPDarkNetBackbone": (
        {"stackwise_channels": [8, 16], "stackwise_depth": [1, 1]},
        (8, 8, 16),
    ),
    "DenseNetBackbone": (
        {"stackwise_num_repeats": [1, 1], "growth_rate": 8},
        (8, 8, 44),
    ),
    "EfficientNetLiteBackbone": (EFFICIENT, (16, 16, 1280)),
    "EfficientNetV1Backbone": (
        {**EFFICIENT, "stackwise_squeeze_and_excite_ratios": [0.25, 0.25]},
        (16, 16, 1280),
    ),
    "EfficientNetV2Backbone": (
        {
            **EFFICIENT,
            "stackwise_squeeze_and_excite_ratios": [0, 0.25],
            "stackwise_conv_types": ["fused", "unfused"],
        },
        (16, 16, 1280),
    ),
    "MiTBackbone": (
        {"depths": [1, 1, 1, 1], "embedding_dims": [8, 8, 10, 16]},
        (2, 2, 16),
    ),
    "MobileNetV3Backbone": (
        {
            "stackwise_expansion": [1, 4],
            "stackwise_filters": [8, 16],
            "stackwise_kernel_size": [3, 5],
            "stackwise_stride": [2, 2],
            "stackwise_se_ratio": [0.25, None],
            "stackwise_activation": ["relu", "hard_swish"],
        },
        (8, 8, 96),
    ),
    "ResNetBackbone": (
        {
            "stackwise_filters": [64, 8],
            "stackwise_blocks": [1, 1],
            "stackwise_strides": [1, 2],
            "block_type": "basic_block",
        },
        (8, 8, 8),
    ),
    "ResNetV2Backbone": (
        {
            "stackwise_filters": [8, 8],
            "stackwise_blocks": [2, 2],
            "stackwise_strides": [1, 2],
        },
        (8, 8, 32),
    ),
    "VGG16Backbone": ({"include_top": False}, (2, 2, 512)),
    "ViTDetBackbone": (
        {
            "patch_size": 16,
            "embed_dim": 8,
            "depth": 2,
            "mlp_dim": 16,
            "num_heads": 2,
            "out_chans": 8,
            "window_size": 2,
            "global_attention_indices": [1],
        },
        (4, 4, 8),
    ),
    "YOLOV8Backbone": (
        {"stackwise_channels": [8, 16], "stackwise_depth": [1, 1]},
        (8, 8, 16),
    ),
}
CV_REFUSED = {
    "takes points in space": {"CenterPillarBackbone"},
    "takes videos": {"VideoSwinBackbone"},
}

# One of convolutions, one with tokens in front, one without, one of several
# maps: these are asked with every test, not by themselves.
USUAL = ("DeiTBackbone", "HGNetV2Backbone", "ResNetBackbone", "ViTDetBackbone")


def families_of(library):
    return [
        pytest.param(
            name, marks=[] if name in USUAL else pytest.mark.every_backbone
        )
        for name in library
    ]


# KerasHub calls the layers of a Swin with masks that they do not take, and one
# that an image does not fit warns before the error that is asked for.
swin = pytest.mark.filterwarnings(
    "ignore:Layer 'attn' .of type WindowAttention. was passed an input with",
    "ignore:Layer 'stage_1' looks like it has unbuilt state",
    "ignore:`build..` was called on layer 'stage_1'",
)
# Tokens that stand in front of those of the patches.
PREFIX = {
    "CLIPVisionEncoder": 1,
    "DINOV2Backbone": 5,
    "DINOV3Backbone": 5,
    "DeiTBackbone": 2,
    "MetaCLIP2VisionEncoder": 1,
    "SwinTransformerBackbone": 0,
    "ViTBackbone": 1,
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("There is no network here.")

    monkeypatch.setattr("kagglehub.model_download", fail)


def families(library):
    base = library.models.Backbone
    for name, thing in vars(library.models).items():
        if isinstance(thing, type) and issubclass(thing, base):
            yield name, thing


def hub_backbone(name, shape=SHAPE):
    options, _ = {**HUB, **ENCODERS}[name]
    family = getattr(keras_hub.models, name)
    arguments = inspect.signature(family).parameters
    shape_argument = (
        "image_shape" if "image_shape" in arguments else "input_shape"
    )
    return lively(family(**options, **{shape_argument: shape}))


def lively(backbone):
    """Gives every weight a value of its own, for some start as zeros."""
    rng = np.random.default_rng(1)
    for weight in backbone.trainable_weights:
        if "interpolated" in weight.path:
            continue  # DINOv2 does not always save what was assigned to it.
        weight.assign(weight + rng.uniform(-0.05, 0.05, weight.shape))
    return backbone


def save_hub(name, folder, **pixels):
    """Saves a backbone and a converter of the same family."""
    backbone = hub_backbone(name)
    family = name.replace("Backbone", "ImageConverter")
    converter = getattr(keras_hub.layers, family)(**pixels)
    backbone.save_to_preset(folder)
    converter.save_to_preset(folder)
    return backbone, converter


def random_images(rng, dtype="float32"):
    dark_and_bright = np.array([0, 128])[:, None, None, None]
    return (rng.integers(0, 128, (2, *SHAPE)) + dark_and_bright).astype(dtype)


def call(backbone, images):
    structure = keras.tree.map_structure(lambda _: images, backbone.input)
    return backbone(structure)


def check(model, images, expected, path):
    """The features are those expected, and they are the same when loaded."""
    features = model(images).numpy()
    assert np.abs(features[0] - features[1]).max() > 1e-4
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    model.save(path)
    loaded = keras.models.load_model(path, safe_mode=True)
    np.testing.assert_array_equal(loaded(images).numpy(), features)


def test_every_family_of_keras_hub_is_here():
    words = ("image", "vision", "input_shape", "backbone")
    takes_images = {
        name
        for name, family in families(keras_hub)
        for argument in inspect.signature(family).parameters
        if any(word in argument for word in words)
    }
    assert takes_images == {*HUB, *ENCODERS}.union(*REFUSED.values())


def test_every_family_of_keras_cv_is_here():
    with_aliases = dict(families(keras_cv))
    with_aliases.pop("Backbone")
    own = {
        name
        for name, family in with_aliases.items()
        if "__new__" not in vars(family)
    }
    assert own == {*CV}.union(*CV_REFUSED.values())


@pytest.mark.slow
@swin
@pytest.mark.parametrize("name", families_of(HUB))
def test_preset_of_keras_hub(name, rng, tmp_path):
    backbone, converter = save_hub(
        name,
        str(tmp_path),
        scale=[1 / 50, 1 / 60, 1 / 70],
        offset=[-2.0, -1.5, -1.0],
    )
    images = random_images(rng)
    expected = call(backbone, converter(images))
    if isinstance(expected, dict):
        expected = expected["stage2"]
    shape = HUB[name][1]
    expected = np.array(expected)
    if name in PREFIX:
        expected = expected[:, PREFIX[name] :].reshape(-1, *shape)
    model = build_hub(f"keras_hub/{tmp_path}", SHAPE, "preset")
    assert model.input_shape == (None, *SHAPE)
    assert model.output_shape == (None, *shape)
    check(model, images, expected, tmp_path / "model.keras")
    random = build_hub(f"keras_hub/{tmp_path}", SHAPE, None)
    assert random.output_shape == (None, *shape)
    assert np.abs(random(images).numpy() - expected).max() > 1e-3


@pytest.mark.parametrize("name", list(ENCODERS))
def test_encoder_of_keras_hub(name, rng):
    backbone = hub_backbone(name)
    image = keras.Input(SHAPE)
    model = keras.Model(image, image_features(backbone, image))
    images = random_images(rng) / 255
    expected = np.array(call(backbone, images))
    if name in PREFIX:
        expected = expected[:, PREFIX[name] :]
    expected = expected.reshape(-1, *ENCODERS[name][1])
    np.testing.assert_allclose(model(images), expected, atol=1e-5)


@pytest.mark.parametrize("name", families_of(CV))
def test_preset_of_keras_cv(name, rng, tmp_path):
    options, shape = CV[name]
    family = getattr(keras_cv.models, name)
    # As if made for pixels from 0 to 1.
    backbone = lively(
        family(**options, include_rescaling=False, input_shape=SHAPE)
    )
    save_cv(backbone, tmp_path)
    images = random_images(rng)
    expected = np.array(backbone(images * np.float32(1 / 255)))
    model = build_hub(f"keras_cv/{tmp_path}", SHAPE, "preset")
    assert model.output_shape == (None, *shape)
    check(model, images, expected, tmp_path / "model.keras")
    random = build_hub(f"keras_cv/{tmp_path}", SHAPE, None)
    assert random.output_shape == (None, *shape)
    assert np.abs(random(images).numpy() - expected).max() > 1e-3


def save_cv(backbone, folder):
    """Writes what `from_preset` reads; the library has no public writer."""
    backbone.save_weights(folder / "model.weights.h5")
    config = keras.saving.serialize_keras_object(backbone)
    config["weights"] = "model.weights.h5"
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize("layers", [18, 34, 50, 101, 152])
@pytest.mark.parametrize("version", ["", "_v2"])
def test_residual_networks_of_keras_cv_need_no_network(layers, version):
    name = f"resnet{layers}{version}"
    family = getattr(keras_cv.models, f"ResNet{version[1:].upper()}Backbone")
    model = build_hub(f"keras_cv/{name}", (None, None, 3), None)
    assert model.name == name
    assert model.count_params() == family.presets[name]["metadata"]["params"]
    assert type(model.layers[-1]) is family


@pytest.mark.slow
def test_pixels_of_keras_cv_are_those_of_images():
    model = build_hub("keras_cv/resnet18_v2", (32, 32, 3), None)
    (rescaling,) = (
        layer
        for layer in model.layers[-1].layers
        if isinstance(layer, keras.layers.Rescaling)
    )
    assert rescaling.scale == 1 / 255
    with_weights = build_hub("keras_cv/resnet50_v2_imagenet", SHAPE, None)
    assert with_weights.output_shape == (None, 2, 2, 2048)


def test_integers_and_floats_are_the_same_pixels(rng, tmp_path):
    save_hub("VGGBackbone", str(tmp_path), scale=1 / 255)
    model = build_hub(f"keras_hub/{tmp_path}", SHAPE, "preset")
    images = random_images(rng, "uint8")
    np.testing.assert_array_equal(
        model(images).numpy(), model(images.astype("float32")).numpy()
    )


def test_pixels_are_exact_under_mixed_precision(rng, tmp_path):
    save_hub("VGGBackbone", str(tmp_path), scale=1 / 255, offset=-0.5)
    keras.config.set_dtype_policy("mixed_float16")
    model = build_hub(f"keras_hub/{tmp_path}", SHAPE, "preset")
    images = random_images(rng)
    pixels = model.get_layer("preprocessing")(images).numpy()
    assert pixels.dtype == "float32"
    np.testing.assert_allclose(pixels, images / 255 - 0.5, atol=1e-6)
    assert model(images).dtype == "float16"


def test_converter_of_no_family_and_no_scale(rng, tmp_path):
    backbone = hub_backbone("EfficientNetBackbone")
    backbone.save_to_preset(str(tmp_path))
    keras_hub.layers.ImageConverter((9, 9)).save_to_preset(str(tmp_path))
    model = build_hub(f"keras_hub/{tmp_path}", SHAPE, "preset")
    images = random_images(rng)
    np.testing.assert_allclose(
        model(images).numpy(), backbone(images).numpy(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("MobileNetBackbone", marks=pytest.mark.every_backbone),
        "ViTBackbone",
    ],
)
def test_gray_image_is_as_one_of_three_equal_channels(name, rng, tmp_path):
    save_hub(
        name,
        str(tmp_path),
        scale=[1 / 50, 1 / 60, 1 / 70],
        offset=[-2.0, -1.5, -1.0],
    )
    shape = (*SHAPE[:2], 1)
    gray, color = (
        build_hub(f"keras_hub/{tmp_path}", shape, "preset")
        for shape in (shape, SHAPE)
    )
    assert gray.input_shape == (None, *shape)
    images = random_images(rng)[..., :1]
    expected = np.array(color(np.repeat(images, 3, axis=-1)))
    check(gray, images, expected, tmp_path / "model.keras")
    backbone = hub_backbone(name)
    calls = len(backbone._inbound_nodes)
    split = backbones.load(backbone, 3, shape)
    features = keras.Model(split.image, split.features)(images)
    assert features.shape[1:] == split.features.shape[1:]
    theirs = backbones.load(backbone, 3, SHAPE)
    theirs = keras.Model(theirs.image, theirs.features)
    np.testing.assert_allclose(
        features, theirs(np.repeat(images, 3, axis=-1)), atol=1e-5
    )
    assert len(backbone._inbound_nodes) == calls  # It was not called.


def test_folder_of_a_classifier(tmp_path):
    classifier = keras_hub.models.ResNetImageClassifier(
        backbone=hub_backbone("ResNetBackbone"),
        preprocessor=keras_hub.models.ResNetImageClassifierPreprocessor(
            keras_hub.layers.ResNetImageConverter(SHAPE[:2], scale=1 / 255)
        ),
        num_classes=3,
    )
    classifier.save_to_preset(str(tmp_path))
    model = build_hub(f"keras_hub/{tmp_path}", (96, 64, 3), "preset")
    assert model.output_shape == (None, 12, 8, 8)
    assert model.get_layer("preprocessing").scale == 1 / 255


@pytest.mark.slow
def test_open_size(tmp_path):
    save_hub("MobileNetBackbone", str(tmp_path), scale=1 / 255)
    opened = build_hub(f"keras_hub/{tmp_path}", (None, None, 3), "preset")
    closed = build_hub(f"keras_hub/{tmp_path}", (64, 32, 3), "preset")
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 32, 3))
    np.testing.assert_allclose(opened(images), closed(images), atol=1e-5)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5, 8])
def test_token_grid_is_row_by_row_after_the_prefix(prefix):
    # Images of 32x48 in patches of 16: two rows of three.
    tokens = np.concatenate([np.full(prefix, -1.0), [0, 1, 2, 10, 11, 12]])
    tokens = tokens.astype("float32")[None, :, None]
    symbol = keras.Input(tokens.shape[1:])
    model = keras.Model(symbol, feature_map(symbol, (32, 48, 3)))
    assert model.output_shape == (None, 2, 3, 1)
    np.testing.assert_array_equal(
        model(tokens)[0, ..., 0], [[0, 1, 2], [10, 11, 12]]
    )


@swin
@pytest.mark.parametrize("name", list(PREFIX))
def test_patch_of_the_image_moves_its_own_cell(name):
    backbone = hub_backbone(name)
    for weight in backbone.weights:
        if any(word in weight.path for word in ("attention", "attn", "mha")):
            weight.assign(np.zeros(weight.shape))  # No patch sees another.
    image = keras.Input(SHAPE)
    model = keras.Model(image, image_features(backbone, image))
    images = np.random.default_rng(0).uniform(size=(2, *SHAPE))
    images[1] = images[0]
    images[1, 16:32, 48:64] = 0
    before, after = model(images).numpy()
    moved = np.abs(after - before).max(-1) > 1e-4
    rows, columns = moved.shape
    expected = np.zeros((rows, columns), bool)
    expected[rows // 4 : rows // 2, 3 * columns // 4 :] = True
    np.testing.assert_array_equal(moved, expected)


def test_coarsest_of_a_pyramid():
    fine, coarse, middle = (keras.Input((side, side, 4)) for side in (16, 4, 8))
    pyramid = {"P3": fine, "P5": coarse, "P4": middle}
    assert feature_map(pyramid, SHAPE) is coarse
    assert feature_map([coarse], SHAPE) is coarse
    assert feature_map(fine, SHAPE) is fine


@pytest.mark.parametrize(
    ("shapes", "image_shape", "said"),
    [
        ([(8,)], SHAPE, r"of shape \(None, 8\)"),
        ([(2, 4, 4, 8)], SHAPE, r"of shape \(None, 2, 4, 4, 8\)"),
        ([(4, 4, 8), (4, 4, 8)], SHAPE, "a pyramid of them with one coarsest"),
        ([(4, 4, 8), (16, 8)], SHAPE, r"\(None, 16, 8\)"),
        ([(None, None, 8), (4, 4, 8)], SHAPE, r"\(None, None, None, 8\)"),
        ([(17, 8)], (None, None, 3), r"images of \(None, None, 3\)"),
        ([(None, 8)], SHAPE, r"of shape \(None, None, 8\)"),
        ([(30, 8)], SHAPE, r"30 tokens .* fit the grids \[\]"),
        # What DINOv3 says of images that are not square: 36 and not 24 patches.
        ([(41, 8)], (96, 64, 3), r"41 tokens .* fit the grids \[\]"),
        # Three by three after one, or two by two after six.
        ([(10, 8)], (48, 48, 3), r"grids \[\(3, 3\), \(2, 2\)\]"),
    ],
)
def test_what_is_no_feature_map(shapes, image_shape, said):
    outputs = [keras.Input(shape) for shape in shapes]
    with pytest.raises(ValueError, match=said) as caught:
        feature_map(outputs, image_shape)
    assert "To fix this: an input_shape with height" in str(caught.value)


def test_what_takes_more_than_images():
    video = keras.Input((2, *SHAPE))
    clip = keras.Model(video, keras.layers.Flatten()(video), name="clip")
    with pytest.raises(ValueError, match="'clip' must have one input, images"):
        image_features(clip, keras.Input(SHAPE))
    image, mask = keras.Input(SHAPE), keras.Input(SHAPE)
    pair = keras.Model([image, mask], keras.layers.Add()([image, mask]))
    with pytest.raises(ValueError, match="To fix this: the part of it"):
        image_features(pair, keras.Input(SHAPE))


def test_names():
    assert is_hub_name("keras_cv/resnet50_v2")
    assert is_hub_name("keras_hub/./folder")
    assert not is_hub_name("ResNet50")
    assert not is_hub_name("keras_hub")


@pytest.mark.parametrize(
    ("name", "weights", "allowed"),
    [
        ("keras_cv/resnet50_v2", "imagenet", r"\[None, 'preset'\]"),
        ("keras_hub/resnet_50_imagenet", "best", r"'preset', 'imagenet'\]"),
        ("keras_hub/resnet_50_imagenet", True, "Received: weights=True"),
    ],
)
def test_other_weights(name, weights, allowed):
    with pytest.raises(ValueError, match=allowed):
        build_hub(name, SHAPE, weights)


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        (
            "keras_hub/resnet_50_imagenet",
            None,
            "There is no network here. To fix this",
        ),
        ("keras_hub/resnet_50_imagenet", "imagenet", "; weights=None."),
        ("keras_hub/resnet50_imagenet", None, "are 'resnet_50_imagenet', "),
        (
            "keras_hub/qqqq",
            None,
            "To fix this: a preset of keras_hub by its name",
        ),
        (
            "keras_cv/resnet50_v2",
            "preset",
            "There is no network here. To fix this",
        ),
        ("keras_cv/mit_b0", None, "the path of a folder with all its files"),
        ("keras_cv/resnet_50_v2", None, "The nearest are 'resnet50_v2', "),
        ("keras_cv/ResNet50-V2", None, "The nearest are 'resnet50_v2', "),
        ("keras_cv/videoswin_tiny", None, "could not be built for"),
    ],
)
def test_presets_out_of_reach(name, weights, said):
    with pytest.raises(ValueError, match=said) as caught:
        build_hub(name, SHAPE, weights)
    assert caught.value.__cause__ is not None


@swin
@pytest.mark.parametrize(
    ("name", "shape", "weights", "said"),
    [
        ("ViTBackbone", (None, None, 3), None, "input_shape of closed and eq"),
        ("ViTBackbone", (60, 60, 3), None, "divisible by patch size"),
        ("ViTBackbone", (96, 96, 3), "preset", "shape of the target variable"),
        ("HGNetV2Backbone", (None, None, 3), None, "one coarsest"),
        # These give a model that fails at its first image.
        ("MiTBackbone", (48, 64, 3), None, "could not be built for input_sh"),
        pytest.param(
            "SwinTransformerBackbone",
            (16, 16, 3),
            None,
            "could not be built fo",
            marks=pytest.mark.every_backbone,
        ),
    ],
)
def test_images_of_other_shapes(name, shape, weights, said, tmp_path):
    save_hub(name, str(tmp_path), scale=1 / 255)
    with pytest.raises(ValueError, match=said):
        build_hub(f"keras_hub/{tmp_path}", shape, weights)


@pytest.mark.parametrize(
    "name",
    sorted(
        REFUSED["is made around an encoder, which is taken"]
        | REFUSED["takes words, too"]
    ),
)
def test_families_refused_before_anything_is_built(name):
    family = getattr(keras_hub.models, name)
    with pytest.raises(ValueError, match=f"a {name}, .* To fix this: "):
        _shape_argument(family, "some_preset")


def test_folder_without_converter(tmp_path):
    hub_backbone("VGGBackbone").save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match="`image_converter.json` doesn't exis"):
        build_hub(f"keras_hub/{tmp_path}", SHAPE, None)


def test_families_that_are_no_backbones_of_one_image(tmp_path):
    clip = keras_hub.models.CLIPBackbone(
        hub_backbone("CLIPVisionEncoder"),
        keras_hub.models.CLIPTextEncoder(10, 8, 8, 1, 2, 16),
        projection_dim=8,
    )
    clip.save_to_preset(str(tmp_path))
    keras_hub.layers.CLIPImageConverter().save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match=r"build\(backbone.vision_encoder\)"):
        build_hub(f"keras_hub/{tmp_path}", SHAPE, None)
    features = image_features(clip.vision_encoder, keras.Input(SHAPE))
    assert features.shape == (None, 4, 4, 8)


def test_library_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"pip install .keras-lficam\[hub\]"):
        build_hub("keras_hub/resnet_50_imagenet", SHAPE, None)


def test_names_of_imagenet_are_those_of_keras_hub():
    names = backbones.imagenet_class_names()
    theirs = [
        keras_hub.utils.imagenet_id_to_name(number).replace("_", " ")
        for number in range(1000)
    ]
    assert len(set(names)) == len(names) == 1000
    others = {
        number: name
        for number, name in enumerate(names)
        if name.replace("'", "") != theirs[number].replace("'", "")
    }
    assert others == {
        134: "crane (bird)",
        517: "crane (machine)",
        639: "maillot, tank suit",
    }
