import keras
import numpy as np
import pytest
import reference
from explainer_contract import check_explainer

import keras_lficam
from keras_lficam.backbones import cifar
from keras_lficam.explainers import AttentionMap


@pytest.fixture
def model():
    return keras_lficam.build(cifar.resnet(8), 5, input_shape=(32, 24, 3))


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (4, 32, 24, 3), dtype="uint8")


def test_attention_map_keeps_the_contract(model, images, tmp_path):
    check_explainer(AttentionMap, model, images, tmp_path)


def test_attention_map_is_the_models_own_at_image_size(model, images):
    coarse = keras_lficam.attention_view(model).predict(images, verbose=0)
    actual = AttentionMap(model)(images)
    for index, attention_map in enumerate(coarse["attention_map"]):
        expected = reference.bilinear(attention_map[..., 0], 32, 24)
        np.testing.assert_allclose(actual[index, ..., 0], expected, atol=1e-5)


def test_uint8_and_float_images_have_the_same_map(model, images):
    explainer = AttentionMap(model)
    np.testing.assert_array_equal(
        explainer(images), explainer(images.astype("float64"))
    )


def test_model_without_a_map_is_refused():
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="layer 'attention_map'.*build"):
        AttentionMap(plain)
