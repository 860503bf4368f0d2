"""Transformers of KerasHub, whose blocks lie inside one layer, are opened."""

import keras
import lazy_loader
import numpy as np
import pytest
from keras import ops

import keras_lficam
from keras_lficam import explainers
from keras_lficam.classifier import Classifier

# It takes seconds, in each process that reads this file to test others.
keras_hub = lazy_loader.load("keras_hub")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("eagerly")]

SMALL = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8}


def vit(pooling):
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 48, 3), patch_size=8, mlp_dim=16, **SMALL
    )
    return keras_hub.models.ViTImageClassifier(
        backbone=backbone, num_classes=3, pooling=pooling, activation="softmax"
    )


def deit(pooling):
    backbone = keras_hub.models.DeiTBackbone(
        image_shape=(32, 48, 3), patch_size=8, intermediate_dim=16, **SMALL
    )
    return keras_hub.models.DeiTImageClassifier(
        backbone=backbone, num_classes=3, pooling=pooling, activation="softmax"
    )


def swin(pooling):
    del pooling
    backbone = keras_hub.models.SwinTransformerBackbone(
        image_shape=(64, 64, 3),
        patch_size=4,
        embed_dim=8,
        depths=(1, 1),
        num_heads=(2, 2),
        window_size=4,
    )
    return keras_hub.models.SwinTransformerImageClassifier(
        backbone=backbone, num_classes=3, activation="softmax"
    )


def dinov2(pooling):
    backbone = keras_hub.models.DINOV2Backbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        intermediate_dim=16,
        num_register_tokens=4,
        position_embedding_shape=(32, 32, 3),
        **SMALL,
    )
    image = keras.Input((32, 32, 3))
    x = backbone({"images": image})
    x = x[:, 0] if pooling == "token" else ops.mean(x, axis=1)
    return keras.Model(image, keras.layers.Dense(3, "softmax")(x))


# Each with its pooling, its grid, and its tokens in front of the patches.
KINDS = [
    (vit, "token", (4, 6), 1),
    (vit, "gap", (4, 6), 1),
    (deit, "token", (4, 6), 2),
    (deit, "gap", (4, 6), 2),
    (dinov2, "token", (4, 4), 5),
    (dinov2, "gap", (4, 4), 5),
    (swin, "gap", (8, 8), 0),
]


@pytest.mark.parametrize(("make", "pooling", "grid", "prefix"), KINDS)
def test_transformers_of_keras_hub(make, pooling, grid, prefix, rng):
    model = make(pooling)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    before = [ops.convert_to_numpy(weight) for weight in model.weights]
    split = Classifier(model).split()
    assert (split.tokens.grid, split.tokens.prefix) == (grid, prefix)
    images = rng.uniform(0, 1, (2, *model.inputs[0].shape[1:]))
    images = images.astype("float32")
    features = split.features(images)
    expected = ops.convert_to_numpy(model(images))
    found = ops.convert_to_numpy(split.scores(features))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # The patches matter where the classifier is split.
    other = split.with_map(features, 0 * split.map_of(features))
    changed = ops.convert_to_numpy(split.scores(other))
    assert np.abs(changed - expected).min() > 1e-5
    assert explainers.ReciproCAM(model)(images).max(axis=(1, 2, 3)).min() > 0.5
    if pooling == "token":  # Blank behind the last block, as is known.
        maps = [explainers.LayerCAM(model)(images, kind) for kind in range(3)]
        assert np.max(maps) > 0.5
    shown = keras_lficam.explanation_view(model, top=None).predict(images)
    view = keras_lficam.explanation_view(model)
    assert view.exact == (pooling == "gap")
    if view.exact:
        total = shown["class_evidence"].mean(axis=(1, 2)) + view.bias
        total += shown.get("prefix_logits", 0)
        np.testing.assert_allclose(total, shown["logits"], atol=1e-5)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(weight))
