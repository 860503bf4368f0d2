"""CAM: numbers by hand, and which heads it can be read off."""

import keras
import numpy as np
import pytest
import small_classifiers

import keras_lficam
from keras_lficam.explainers import CAM, GradCAM

IMAGE = np.stack(
    [[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [0.0, 1.0]], [[0, 0], [8.0, 0]]],
    axis=-1,
)[np.newaxis]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_cam_by_hand(activation):
    # Red minus green is [[-3, 2], [3, 3]], and stays so: there is no ReLU.
    model = small_classifiers.of_channels(
        [[1, 0], [-1, 2], [0, 0]], activation=activation
    )
    explainer = CAM(model)
    first = explainer(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(first, [[0, 5 / 6], [1, 1]], atol=1e-6)
    second = explainer(IMAGE, 1)[0, ..., 0]
    np.testing.assert_allclose(second, [[1, 0], [0, 0.25]], atol=1e-6)
    np.testing.assert_array_equal(explainer(IMAGE)[0, ..., 0], second)
    assert explainer.passes == (1, 0)


def test_cam_behind_a_flattening_by_hand():
    kernel = np.zeros((12, 2))
    kernel[:, 0] = [2, -1, 5, 1, 3, 7, 1, 2, 0.5, -1, 3, 0]
    model = small_classifiers.of_channels(kernel, pooled=False)
    # By their own weights the pixels give [[-2, 2], [7, -1]].
    found = CAM(model)(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(found, [[0, 4 / 9], [1, 1 / 9]], atol=1e-6)


def test_cam_of_a_map_that_is_the_classes_by_hand():
    image = keras.Input((2, 2, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Identity()(image))
    model = keras.Model(image, keras.layers.Softmax()(x))
    found = CAM(model)(IMAGE, 1)[0, ..., 0]
    np.testing.assert_allclose(found, [[1, 0], [0, 0.25]], atol=1e-6)
    # The logits are 10/4, 5/4 and 8/4.
    found = CAM(model)(IMAGE)[0, ..., 0]
    np.testing.assert_allclose(found, [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)


def test_each_image_has_its_own_class():
    model = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    pair = np.concatenate([IMAGE, IMAGE])
    explainer = CAM(model)
    both = explainer(pair, [1, 0])
    np.testing.assert_array_equal(both[:1], explainer(IMAGE, 1))
    np.testing.assert_array_equal(both[1:], explainer(IMAGE, 0))


def test_model_trained_further_is_explained_as_it_then_is():
    model = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    explainer = CAM(model)
    explainer(IMAGE, 0)
    model.layers[-1].set_weights([np.array([[0.0, 0], [0, 0], [3, 0]])])
    after = explainer(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(after, [[0, 0], [1, 0]], atol=1e-6)


def test_equals_grad_cam_where_nothing_speaks_against_the_class(rng):
    model = small_classifiers.of_channels([[1, 0], [2, 1], [3, 0]], size=4)
    images = rng.uniform(size=(2, 4, 4, 3))
    images[:, 0, 0] = 0  # The ReLU keeps what the stretching begins with.
    np.testing.assert_allclose(
        CAM(model)(images, 0), GradCAM(model)(images, 0), atol=1e-6
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    kernel = 1e-4 * np.array([[1, 0], [-1, 2], [0, 0]])
    keras.config.set_dtype_policy(policy)
    model = small_classifiers.of_channels(kernel)
    actual = CAM(model)(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0, 5 / 6], [1, 1]], atol=1e-4)


def test_head_of_several_layers_that_change_nothing_of_it():
    trunk = small_classifiers.backbone()
    layers = keras.layers
    head = keras.Sequential([layers.Dense(4), layers.Softmax()])
    model = keras.Sequential(
        [
            trunk,
            layers.GlobalAveragePooling2D(),
            layers.Activation("relu"),
            layers.Dropout(0.2),
            head,
        ]
    )
    kernel = head.layers[0].get_weights()[0]
    images = np.random.default_rng(0).uniform(0, 255, (1, 16, 12, 3))
    features = trunk.predict(images, verbose=0)[0]
    coarse = features @ kernel[:, 1]
    coarse = (coarse - coarse.min()) / (coarse.max() - coarse.min())
    fine = CAM(model)(images, 1)[0, ..., 0]
    # At the corners interpolation has nothing to mix.
    np.testing.assert_allclose(fine[0, 0], coarse[0, 0], atol=1e-4)
    np.testing.assert_allclose(fine[-1, -1], coarse[-1, -1], atol=1e-4)


def another_head(kind):
    layers = keras.layers
    return {
        "flattened": [layers.Flatten(), layers.Dense(8), layers.Dense(4)],
        "maximal": [layers.GlobalMaxPooling2D(), layers.Dense(4)],
        "deep": [
            layers.GlobalAveragePooling2D(),
            layers.Dense(8, "relu"),
            layers.Dense(4),
        ],
        "normalized": [
            layers.GlobalAveragePooling2D(),
            layers.BatchNormalization(),
            layers.Dense(4),
        ],
    }[kind]


@pytest.mark.parametrize("kind", ["flattened", "maximal", "deep", "normalized"])
def test_another_head_is_refused_and_the_ways_out_work(kind, rng):
    model = keras.Sequential(
        [small_classifiers.backbone(), *another_head(kind)]
    )
    with pytest.raises(ValueError, match=r"GradCAM.*architecture='cam'"):
        CAM(model)
    images = rng.uniform(0, 255, (1, 16, 12, 3))
    assert GradCAM(model)(images).shape == (1, 16, 12, 1)
    built = keras_lficam.build(
        small_classifiers.backbone(),
        4,
        input_shape=(16, 12, 3),
        architecture="cam",
    )
    assert CAM(built)(images).max() > 0.5
