"""Ablation-CAM: numbers by hand, a rewrite, chunks, memory."""

import pathlib
import subprocess
import sys

import explainer_contract
import keras
import numpy as np
import pytest
import reference
import small_classifiers

from keras_lficam.explainers import CAM, AblationCAM

untraced = explainer_contract.untraced

ROOT = pathlib.Path(__file__).parents[2]
# Red sums to 10, green to 5, blue to 8.
IMAGE = np.stack(
    [[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [0.0, 1.0]], [[0, 0], [8.0, 0]]],
    axis=-1,
)[np.newaxis]


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_ablation_cam_by_hand(activation):
    # Of class 0 the logit 5/4 loses 10/4 without red and -5/4 without green:
    # 2 red - green is [[-2, 4], [6, 7]]. Of class 1 green is all there is.
    model = small_classifiers.of_channels(
        [[1, 0], [-1, 2], [0, 0]], activation=activation
    )
    explainer = AblationCAM(model)
    first = explainer(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(first, [[0, 4 / 7], [6 / 7, 1]], atol=1e-6)
    second = explainer(IMAGE, 1)[0, ..., 0]
    np.testing.assert_allclose(second, [[1, 0], [0, 0.25]], atol=1e-6)
    np.testing.assert_array_equal(explainer(IMAGE)[0, ..., 0], second)
    assert explainer.passes == (4, 0)
    assert explainer.class_specific


@pytest.mark.usefixtures("untraced")
def test_negative_logit_does_not_turn_the_map_around():
    # The logit is (10 - 20 - 8) / 4: red speaks for the class, as 10/4, green
    # against it, as -20/4, and blue as -8/4. So it is 5 red - 10 green - 4
    # blue, [[-35, 10], [-17, 10]]. Divided by the logit it were the opposite,
    # which is largest at the first pixel.
    model = small_classifiers.of_channels([[1, 0], [-4, 0], [-1, 0]])
    actual = AblationCAM(model)(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0, 1], [0, 1]], atol=1e-6)
    # Nor is a logit of zero divided by: red is worth 10/4, green as much less.
    model = small_classifiers.of_channels([[1, 0], [-2, 0], [0, 0]])
    actual = AblationCAM(model)(IMAGE, 0)[0, ..., 0]
    # Red - green is [[-3, 2], [3, 3]].
    np.testing.assert_allclose(actual, [[0, 2 / 3], [1, 1]], atol=1e-6)


@pytest.mark.usefixtures("untraced")
def test_what_no_channel_speaks_for_is_zero():
    model = small_classifiers.of_channels([[-1, 0], [-1, 0], [-1, 0]])
    assert not AblationCAM(model)(IMAGE, 0).any()
    assert not AblationCAM(model)(IMAGE, 1).any()
    assert not AblationCAM(model)(0 * IMAGE, 0).any()


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("scale", [1e-20, 1e4])
def test_size_of_the_logits_does_not_matter(scale):
    kernel = np.array([[1, 0], [-1, 2], [0, 0]])
    expected = AblationCAM(small_classifiers.of_channels(kernel))(IMAGE, 0)
    scaled = small_classifiers.of_channels(scale * kernel)
    actual = AblationCAM(scaled)(IMAGE, 0)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def weights_of(model, features, classes):
    """Leaves out the channels of `hidden` one by one, in float64 NumPy."""
    _, _, first, shift, second, last = (
        weight.astype("float64") for weight in model.get_weights()
    )

    def logit(every, category):
        inner = np.maximum(every.reshape(-1) @ first + shift, 0)
        return inner @ second[:, category] + last[category]

    weights = np.zeros((len(features), features.shape[-1]))
    logits = np.zeros(len(features))
    for image, category in enumerate(classes):
        logits[image] = logit(features[image], category)
        for channel in range(features.shape[-1]):
            left = features[image].copy()
            left[..., channel] = 0
            weights[image, channel] = logits[image] - logit(left, category)
    return weights, logits


def features_of(model, images):
    trunk = keras.Model(model.input, model.get_layer("features").output)
    return trunk.predict_on_batch(images).astype("float64")


def test_agrees_with_a_rewrite_whatever_the_chunk(rng):
    model = small_classifiers.hidden(channels=7)
    images = rng.normal(size=(4, 6, 6, 3)).astype("float32")
    classes = np.array([2, 0, 1, 2])
    features = features_of(model, images)
    weights, logits = weights_of(model, features, classes)
    assert logits.min() < 0 < logits.max()
    expected = reference.activation_map(features, weights)
    assert 0.1 < expected.mean() < 0.9
    for chunk_size in (32, 1, 3, 7):
        explainer = AblationCAM(model, chunk_size=chunk_size)
        actual = explainer(images, classes)
        np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert explainer.passes == (8, 0)


@pytest.mark.usefixtures("untraced")
def test_behind_a_pooling_and_a_dense_layer_it_is_weighed_by_the_sums(rng):
    # A channel's loss is its weight times its mean.
    images = rng.uniform(0, 1, (3, 2, 2, 3)).astype("float32")
    kernel = np.array([[1, 2], [2, -1], [-3, 5]])
    model = small_classifiers.of_channels(kernel)
    classes = np.array([0, 1, 1])
    weights = kernel.T[classes] * images.mean(axis=(1, 2))
    expected = reference.activation_map(images, weights)
    actual = AblationCAM(model)(images, classes)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    # So that it is no CAM, which has the weight alone.
    assert np.abs(actual - CAM(model)(images, classes)).max() > 0.05


@pytest.mark.usefixtures("untraced")
def test_head_alone_is_passed_again_in_chunks_of_one_size(rng):
    seen = []

    class Counter(keras.layers.Layer):
        def call(self, inputs):
            seen.append((self.name, tuple(inputs.shape)))
            return inputs

    image = keras.Input((8, 8, 3))
    x = Counter(name="trunk")(image)
    x = keras.layers.Conv2D(20, 1, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = Counter(name="head")(x)
    model = keras.Model(image, keras.layers.Dense(2, "softmax")(x))
    explainer = AblationCAM(model, chunk_size=8)
    ablated = explainer._ablated.run
    calls = []
    explainer._ablated.run = lambda features, kept, category: (
        calls.append(kept) or ablated(features, kept, category)
    )
    images = rng.normal(size=(2, 8, 8, 3))
    seen.clear()
    explainer(images)
    # Twenty channels in three chunks of seven, of an image at a time.
    assert [kept.shape for kept in calls] == 6 * [(7, 20)]
    left_out = [np.argwhere(kept == 0)[:, 1].tolist() for kept in calls]
    assert sum(left_out, []) == 2 * [*range(20)]
    if keras.backend.backend() != "jax":
        assert [name for name, _ in seen].count("trunk") == 1
    # Of the channels that are empty none is left out.
    kernel = model.layers[2].get_weights()[0]
    kernel[..., 5:] = 0
    model.layers[2].set_weights([kernel, np.zeros(20)])
    calls.clear()
    explainer(images)
    assert [kept.shape for kept in calls] == 2 * [(7, 20)]


@pytest.mark.usefixtures("untraced")
def test_named_layer(rng):
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(4, 3, 2, activation="relu", name="early"),
            keras.layers.Conv2D(5, 3, activation="relu", name="late"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    images = rng.normal(size=(2, 12, 12, 3))
    late = AblationCAM(model, layer="late")(images, 0)
    np.testing.assert_array_equal(late, AblationCAM(model)(images, 0))
    explainer = AblationCAM(model, layer="early")
    assert np.abs(explainer(images, 0) - late).max() > 0.1
    assert explainer.passes == (5, 0)
    with pytest.raises(ValueError, match="layer='dense'"):
        AblationCAM(model, layer="dense")


@pytest.mark.usefixtures("untraced")
def test_model_that_does_not_show_its_logits():
    plain = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    end = keras.layers.Rescaling(0.5)
    cooled = keras.Model(plain.input, end(plain.output))
    with pytest.raises(ValueError, match="activation='softmax'"):
        AblationCAM(cooled)
    assert AblationCAM(cooled, activation="softmax")(IMAGE, 0).max() == 1


def test_model_trained_further_is_explained_as_it_then_is():
    model = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    explainer = AblationCAM(model)
    before = explainer(IMAGE, 0)
    model.layers[-1].set_weights([np.array([[-1.0, 0], [1, 2], [0.5, 0]])])
    after = explainer(IMAGE, 0)
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_array_equal(after, AblationCAM(model)(IMAGE, 0))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, rng):
    images = rng.normal(size=(3, 6, 6, 3)).astype("float32")
    exact = small_classifiers.hidden()
    rounded = small_classifiers.hidden(policy=policy)
    rounded.set_weights(exact.get_weights())
    with explainer_contract.without_graphs():
        expected = AblationCAM(exact)(images, 1)
    explainer = AblationCAM(rounded)
    actual = explainer(images, 1)
    tolerance = 0.02 if policy == "mixed_float16" else 0.15
    np.testing.assert_allclose(actual, expected, atol=tolerance)
    assert explainer(images).max() == 1


MEMORY = """
import resource
import keras, numpy as np
from keras_lficam.explainers import AblationCAM
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    keras.Input((64, 64, 3)),
    layers.Conv2D(2048, 4, 4, activation="relu"),
    layers.GlobalAveragePooling2D(),
    layers.Dense(3, "softmax"),
])
images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3))
model.predict(images, verbose=0)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
maps = AblationCAM(model, chunk_size=16)(images)
assert 0 < maps.mean() < 1
print((peak() - before) / 1e6)
"""


@pytest.mark.end_to_end
def test_maps_without_each_channel_never_exist_together():
    # One feature map is 2 MB, 2048 of them 4 GB, and 16 are 34 MB.
    shown = subprocess.run(
        [sys.executable, "-c", MEMORY],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    assert float(shown.split()[-1]) < 0.3
