"""Explainers by gradients: numbers by hand, a rewrite, other libraries."""

import contextlib

import explainer_contract
import keras
import numpy as np
import pytest
import reference
import small_classifiers
from explainer_contract import without_graphs

import keras_lficam
from keras_lficam.classifier import Classifier
from keras_lficam.explainers import (
    CAM,
    AblationCAM,
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    GradientExplainer,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
)

untraced = explainer_contract.untraced
first_compiled = explainer_contract.first_compiled
hidden = small_classifiers.hidden

EVERY = [GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM, FinerCAM]
# Two by two pixels of three colors, each a channel of the feature map.
IMAGE = np.stack(
    [[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [0.0, 1.0]], [[0, 0], [8.0, 0]]],
    axis=-1,
)[np.newaxis]


@pytest.mark.usefixtures("untraced")
def test_grad_cam_by_hand():
    # Class 0: gradients (1, -1, 0) / 4, so the sum is red minus green,
    # [[-3, 2], [3, 3]]; class 1: green alone, twice.
    model = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    explainer = GradCAM(model)
    first = explainer(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(first, [[0, 2 / 3], [1, 1]], atol=1e-6)
    second = explainer(IMAGE, 1)[0, ..., 0]
    np.testing.assert_allclose(second, [[1, 0], [0, 0.25]], atol=1e-6)
    # The logit of class 0 is 10/4 - 5/4, that of class 1 is 10/4.
    np.testing.assert_array_equal(explainer(IMAGE)[0, ..., 0], second)
    assert explainer.passes == (1, 1)


@pytest.mark.usefixtures("untraced")
def test_grad_cam_plus_plus_by_hand():
    # Slopes (2, -1/4, 1/4); the sums of the channels are 10, 5 and 8. So
    # w = 4 * 2 / (2 + 10 * 2) = 4/11, 0 for green, 4 / 4 / (2 + 8/4) = 1/4,
    # and eleven times the sum is [[4, 8], [34, 16]].
    model = small_classifiers.of_channels([[8, 0], [-1, 0], [1, 0]])
    actual = GradCAMPlusPlus(model)(IMAGE, 0)[0, ..., 0]
    expected = [[0, 4 / 30], [1, 12 / 30]]
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def flattened():
    """A classifier that has a weight for every element of its map.

    Those of class 0 are the gradients: for each pixel, those of the colors.
    """
    of_class = [[2, -1, 5], [1, 3, 7], [1, 2, 0.5], [-1, 3, 0]]
    kernel = np.zeros((12, 2))
    kernel[:, 0] = np.ravel(of_class)
    return small_classifiers.of_channels(kernel, pooled=False)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # 2 - 4 = -2 and -4 + 3 = -1 become zero; 2, and 3 + 4 = 7.
        (HiResCAM, [[0, 2 / 7], [1, 0]]),
        # Without what is negative it is 2, 2, 7 and 3.
        (LayerCAM, [[0, 0], [1, 1 / 5]]),
        # The means are 6/8, 14/8 and 25/8, so eight times the sum is 62, 12,
        # 18 + 200 = 218 and 24 + 14 = 38.
        (GradCAM, [[50 / 206, 0], [1, 26 / 206]]),
        # Red has 2 + 2 + 3 - 4 = 3 of 10, green -4 + 3 = -1 of 5, and blue
        # 4 of 8, so ten times the sum is 3 red - 2 green + 5 blue, which is
        # -5, 6, 49 and 10.
        (XGradCAM, [[0, 6 / 49], [1, 10 / 49]]),
    ],
)
def test_weights_of_elements_by_hand(make, expected):
    explainer = make(flattened())
    actual = explainer(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert explainer.passes == (1, 1)
    assert explainer.class_specific


@pytest.mark.usefixtures("untraced")
def test_hires_cam_is_cam_behind_global_average_pooling(rng):
    # Of positive features and weights, so that a ReLU changes nothing.
    images = rng.uniform(1, 2, (3, 2, 2, 3)).astype("float32")
    model = small_classifiers.of_channels([[1, 2], [2, 1], [3, 5]])
    expected = CAM(model)(images, [0, 1, 1])
    for make in (HiResCAM, GradCAM, XGradCAM):
        maps = make(model)(images, [0, 1, 1])
        np.testing.assert_allclose(maps, expected, atol=1e-5)
    # Of any sign it is that of the weighted sum with a ReLU.
    kernel = [[1, 0], [-1, 2], [0, 0]]
    model = small_classifiers.of_channels(kernel)
    first = HiResCAM(model)(IMAGE, 0)
    np.testing.assert_allclose(
        first[0, ..., 0], [[0, 2 / 3], [1, 1]], atol=1e-6
    )
    np.testing.assert_allclose(first, GradCAM(model)(IMAGE, 0), atol=1e-6)
    # LayerCAM leaves out green, which speaks against the class.
    layer_cam = LayerCAM(model)(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(layer_cam, [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)


# The logits are 10/4 of red, 5/4 of green, 8/4 of blue, 23/4 of all.
OF_COLORS = [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]]


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("category", "options", "expected"),
    [
        # Nearest to red is blue, then green: red - 0.3 blue - 0.3 green is
        # [[-0.2, 2], [0.6, 3.7]].
        (0, {"num_references": 2}, [[0, 20 / 37], [6 / 37, 1]]),
        # With all three it is 0.8 red - 0.4 green - 0.4 blue, which is
        # [[-0.8, 1.6], [-0.8, 2.8]].
        (0, {}, [[0, 4 / 7], [0, 1]]),
        (0, {"num_references": 100}, [[0, 4 / 7], [0, 1]]),
        # Red less half of blue is [[1, 2], [-1, 4]].
        (0, {"num_references": 1, "gamma": 0.5}, [[1 / 4, 1 / 2], [0, 1]]),
        # Nearest to blue is red, above it: 8 - 1.8 alone is positive.
        (2, {"num_references": 1}, [[0, 0], [1, 0]]),
        # Nothing is taken off.
        (0, {"gamma": 0}, [[0, 1 / 3], [2 / 3, 1]]),
    ],
)
def test_finer_cam_by_hand(category, options, expected):
    model = small_classifiers.of_channels(OF_COLORS)
    explainer = FinerCAM(model, **options)
    actual = explainer(IMAGE, category)[0, ..., 0]
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert explainer.passes == (1, 1)
    assert explainer.class_specific


@pytest.mark.usefixtures("untraced")
def test_of_classes_as_near_finer_cam_takes_off_the_first():
    # All three logits are 10/4. Red less 1.2 green is [[-3.8, 2], [3, 2.8]],
    # twice green less 0.6 red is [[7.4, -1.2], [-1.8, -0.4]].
    model = small_classifiers.of_channels([[1, 0, 0], [0, 2, 0], [0, 0, 1.25]])
    explainer = FinerCAM(model, num_references=1)
    first = explainer(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(first, [[0, 2 / 3], [1, 2.8 / 3]], atol=1e-6)
    second = explainer(IMAGE, 1)[0, ..., 0]
    np.testing.assert_allclose(second, [[1, 0], [0, 0]], atol=1e-6)


@pytest.mark.usefixtures("untraced")
def test_finer_cam_of_few_classes():
    # One sigmoid knows "no", whose logit is the negated one.
    one = small_classifiers.of_channels([[1], [-1], [0]], activation="sigmoid")
    for category in (0, 1):
        np.testing.assert_allclose(
            FinerCAM(one)(IMAGE, category),
            GradCAM(one)(IMAGE, category),
            atol=1e-6,
        )
    alone = small_classifiers.of_channels([[1], [-1], [0]])
    np.testing.assert_allclose(
        FinerCAM(alone)(IMAGE), GradCAM(alone)(IMAGE), atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -0.1}, "`gamma` must be a number of at least 0"),
        ({"gamma": "0.6"}, "`gamma`"),
        ({"num_references": 0}, "`num_references`"),
        ({"num_references": 1.5}, "`num_references`"),
    ],
)
def test_finer_cam_checks_its_numbers(options, message):
    model = small_classifiers.of_channels(OF_COLORS)
    with pytest.raises((TypeError, ValueError), match=message):
        FinerCAM(model, **options)


class ConstantCAM(GradientExplainer):
    """Weighs the channels by 1, 2 and 0, whatever the gradients."""

    @staticmethod
    def weights(features, gradients):
        return keras.ops.ones_like(gradients) * np.array([1.0, 2.0, 0.0])


@pytest.mark.usefixtures("untraced")
def test_explainer_of_ones_own_is_one_function():
    # Red and twice green is 9, 2, 3 and 6.
    actual = ConstantCAM(flattened())(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, [[1, 0], [1 / 7, 4 / 7]], atol=1e-6)
    with pytest.raises(TypeError, match="abstract"):
        GradientExplainer(flattened())


@pytest.mark.usefixtures("untraced")
def test_zero_denominators_become_one():
    # Red sums to 10 and has the gradient -1/5: 2 g^2 + 10 g^3 is 0. It counts
    # for nothing, as its gradient is negative; blue, 8 with 1/4, alone counts.
    model = small_classifiers.of_channels([[-0.8, 0], [0, 0], [1, 0]])
    actual = GradCAMPlusPlus(model)(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0, 0], [1, 0]], atol=1e-6)
    # Where red sums to -8 its gradient of 1/4 makes it 0, too, and alpha g^2.
    image = IMAGE.copy()
    image[0, ..., 0] = [[-4, -4], [1, -1]]
    model = small_classifiers.of_channels([[1, 0], [0, 0], [0, 0]])
    actual = GradCAMPlusPlus(model)(image, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0, 0], [1, 0]], atol=1e-6)


@pytest.mark.usefixtures("untraced")
def test_channel_that_sums_to_zero_has_no_weight_in_xgrad_cam():
    # Red cancels, but for rounding in a thousand such pixels; its weight were
    # (2 * 3 + 1 * 2 - 4 - 1 * -1) / 0. Green has -1 of 5, blue 4 of 8, so
    # ten times the sum is -8, 0, 40 and -2.
    image = IMAGE.copy()
    image[0, ..., 0] = [[3, 2], [-4, -1]]
    actual = XGradCAM(flattened())(image, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0, 0], [1, 0]], atol=1e-6)
    rounded = image.copy()
    rounded[0, 0, 0, 0] += 5e-6
    np.testing.assert_allclose(
        XGradCAM(flattened())(rounded, 0)[0, ..., 0], actual, atol=1e-6
    )
    # Of an empty channel it is 0 / 0.
    image[..., 0] = 0
    np.testing.assert_array_equal(
        XGradCAM(flattened())(image, 0)[0, ..., 0], actual
    )
    assert not XGradCAM(flattened())(0 * image, 0).any()


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("make", EVERY)
def test_missing_relu(make):
    # Nothing speaks for the class: zero, and not the stretched negative.
    model = small_classifiers.of_channels([[-1, 0], [-1, 0], [-1, 0]])
    assert not make(model)(IMAGE, 0).any()


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradients_of_the_probability_although_the_logit_was_asked_for(
    activation,
):
    kernel = [[1, 0], [-1, 2], [0, 0]]
    with_logits = small_classifiers.of_channels(kernel, activation=None)
    expected = GradCAM(with_logits)(IMAGE, 0)
    model = small_classifiers.of_channels(kernel, activation=activation)
    np.testing.assert_array_equal(GradCAM(model)(IMAGE, 0), expected)
    # Of the softmax it were red - 3 green, [[-11, 2], [3, 1]].
    np.testing.assert_allclose(expected[0, 1, :, 0], [1, 1], atol=1e-6)
    # A probability that is 1 has no gradient at all.
    sure = small_classifiers.of_channels(
        1e3 * np.array(kernel), activation=activation
    )
    np.testing.assert_allclose(GradCAM(sure)(IMAGE, 0), expected, atol=1e-6)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e4])
@pytest.mark.parametrize("make", EVERY)
def test_size_of_the_logits_does_not_matter(make, scale):
    # exp(10000) would overflow, gradients of 1e-20 squared would vanish.
    kernel = np.array([[8, 0], [-1, 0], [1, 0]])
    maps = make(small_classifiers.of_channels(scale * kernel))(IMAGE, 0)
    gradients = scale * kernel[:, 0] / 4
    weights = gradients
    if make in (GradCAMPlusPlus, LayerCAM):
        weights = np.maximum(gradients, 0)
    if make is GradCAMPlusPlus:
        weights = weights / (2 + np.array([10, 5, 8]) * gradients)
    expected = reference.activation_map(IMAGE, weights[np.newaxis])
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def gradients_and_features(model, images, classes):
    """Differentiates `hidden` by the chain rule, in float64 NumPy."""
    kernel, bias, first, shift, second, last = (
        weight.astype("float64") for weight in model.get_weights()
    )
    x = reference.convolution(images, kernel) + bias
    features = np.where(x < 0, 0.5 * x, x)
    inner = features.reshape(len(images), -1) @ first + shift
    scores = np.maximum(inner, 0) @ second + last
    gradients = (second[:, classes].T * (inner > 0)) @ first.T
    chosen = scores[np.arange(len(images)), classes]
    return gradients.reshape(features.shape), features, chosen


def grad_cam(gradients, features, scores):
    del scores
    return gradients.mean(axis=(1, 2))


def grad_cam_plus_plus(
    gradients, features, scores, *, gather=np.sum, normalized=False
):
    """Weighs as Chattopadhay et al. do it, with the derivatives of exp(y)."""
    weights = np.zeros((len(features), features.shape[-1]))
    for image, channel in np.ndindex(weights.shape):
        gradient = gradients[image, ..., channel]
        growth = np.exp(scores[image])
        one, two, three = (growth * gradient**power for power in (1, 2, 3))
        below = 2 * two + gather(features[image, ..., channel]) * three
        alpha = two / np.where(below == 0, 1, below)
        if normalized:
            alpha = alpha / alpha.sum()
        weights[image, channel] = (alpha * np.maximum(one, 0)).sum()
    return weights


def xgrad_cam(gradients, features, scores):
    del scores
    weights = np.zeros((len(features), features.shape[-1]))
    for image, channel in np.ndindex(weights.shape):
        seen = features[image, ..., channel]
        shares = seen / seen.sum()
        weights[image, channel] = (
            shares * gradients[image, ..., channel]
        ).sum()
    return weights


def hires_cam(gradients, features, scores):
    del features, scores
    return gradients


def layer_cam(gradients, features, scores):
    del features, scores
    return np.maximum(gradients, 0)


REWRITES = [
    (GradCAM, grad_cam),
    (GradCAMPlusPlus, grad_cam_plus_plus),
    (XGradCAM, xgrad_cam),
    (HiResCAM, hires_cam),
    (LayerCAM, layer_cam),
]


@pytest.mark.parametrize(("make", "weigh"), REWRITES)
def test_agrees_with_a_rewrite(make, weigh, rng):
    model = hidden()
    images = rng.normal(size=(4, 6, 6, 3)).astype("float32")
    classes = np.array([2, 0, 1, 2])
    gradients, features, scores = gradients_and_features(model, images, classes)
    weights = weigh(gradients, features, scores)
    expected = reference.activation_map(features, weights)
    assert 0.1 < expected.mean() < 0.9
    actual = make(model)(images, classes)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("gamma", "number"), [(0.6, 3), (1, 1), (0.25, 4), (2, 9)]
)
def test_finer_cam_agrees_with_a_rewrite(gamma, number, rng):
    model = hidden(classes=6)
    images = rng.normal(size=(4, 6, 6, 3)).astype("float32")
    classes = [2, 0, 5, 2]
    every = [
        gradients_and_features(model, images, np.full(4, category))
        for category in range(6)
    ]
    weights = []
    for index, category in enumerate(classes):
        scores = [found[2][index] for found in every]
        others = [other for other in range(6) if other != category]
        others.sort(key=lambda other: abs(scores[other] - scores[category]))
        gradients = every[category][0][index] - gamma * np.mean(
            [every[other][0][index] for other in others[:number]], axis=0
        )
        weights.append(gradients.mean(axis=(0, 1)))
    expected = reference.activation_map(every[0][1], np.array(weights))
    assert 0.1 < expected.mean() < 0.9
    explainer = FinerCAM(model, gamma=gamma, num_references=number)
    actual = explainer(images, classes)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("make", EVERY)
def test_coarse_map_is_interpolated_to_the_size_of_the_image(make, rng):
    inner = small_classifiers.of_channels(
        [[1, 0], [2, 1], [0, 1]], size=4, activation=None
    )
    image = keras.Input((8, 12, 3))
    pooled = keras.layers.AveragePooling2D((2, 3))(image)
    model = keras.Model(image, inner(pooled))
    pixels = rng.normal(size=(1, 4, 4, 3)).astype("float32")
    coarse = make(inner)(pixels, 0)[0, ..., 0]
    large = np.repeat(np.repeat(pixels, 2, axis=1), 3, axis=2)
    expected = reference.bilinear(coarse, 8, 12)
    actual = make(model)(large, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("make", EVERY)
def test_named_layer(make, rng):
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
    late = make(model, layer="late")(images, 0)
    np.testing.assert_array_equal(late, make(model)(images, 0))
    early = make(model, layer="early")(images, 0)
    assert np.abs(early - late).max() > 0.1
    with pytest.raises(ValueError, match="layer='dense'"):
        make(model, layer="dense")


class Cooled(keras.layers.Layer):
    """Ends a classifier so that nobody can tell what it gives."""

    def call(self, inputs):
        return inputs / 2


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("make", EVERY)
def test_model_that_does_not_show_its_logits(make):
    plain = small_classifiers.of_channels(
        [[1, 0], [-1, 2], [0, 0]], activation=None
    )
    cooled = keras.Model(plain.input, Cooled()(plain.output))
    with pytest.raises(ValueError, match="activation='softmax'"):
        make(cooled)
    told = make(cooled, activation="softmax")(IMAGE, 0)
    # Its gradients are half of those of the other, the rest is the same.
    assert np.abs(told - make(plain)(IMAGE, 0)).max() < 0.05


@pytest.mark.usefixtures("first_compiled")
@pytest.mark.parametrize("make", EVERY)
def test_model_trained_further_is_explained_as_it_then_is(make):
    model = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    explainer = make(model)
    before = explainer(IMAGE, 0)
    weights = [[-1.0, 0.0], [1.0, 2.0], [0.5, 0.0]]
    model.layers[-1].set_weights([np.array(weights)])
    after = explainer(IMAGE, 0)
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_array_equal(after, make(model)(IMAGE, 0))
    model.compile(
        keras.optimizers.SGD(5.0),
        "sparse_categorical_crossentropy",
        run_eagerly=True,  # One step.
    )
    model.fit(IMAGE, np.array([1]), verbose=0)
    np.testing.assert_array_equal(explainer(IMAGE, 0), make(model)(IMAGE, 0))
    assert np.abs(explainer(IMAGE, 0) - after).max() > 1e-3


@pytest.mark.usefixtures("first_compiled")
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("make", [*EVERY, ScoreCAM])
def test_mixed_precision(make, policy, rng):
    images = rng.normal(size=(3, 6, 6, 3)).astype("float32")
    exact, rounded = hidden(), hidden(policy=policy)
    rounded.set_weights(exact.get_weights())
    with without_graphs():
        expected = make(exact)(images, 1)
    explainer = make(rounded)
    actual = explainer(images, 1)
    tolerance = 0.02 if policy == "mixed_float16" else 0.1
    np.testing.assert_allclose(actual, expected, atol=tolerance)
    assert explainer(images).max() == 1


# Each of 32x32 cells has a gradient of 2e-8 to 6e-8, which float16 has not; and
# a thousand times the gradient 150 of a flattened map is more than it has.
@pytest.mark.usefixtures("first_compiled")
@pytest.mark.parametrize(("pooled", "size"), [(True, 32), (False, 8)])
@pytest.mark.parametrize("make", EVERY)
def test_gradients_of_float16_neither_vanish_nor_overflow(
    make, pooled, size, rng
):
    kernel = np.array([[3.0, 0], [-1, 1], [2, 0]])
    kernel = 2e-5 * kernel if pooled else np.tile(50 * kernel, (64, 1))
    images = rng.uniform(0, 1, (2, size, size, 3)).astype("float32")
    options = {"pooled": pooled, "size": size, "activation": None}
    exact = small_classifiers.of_channels(kernel, **options)
    with without_graphs():
        expected = make(exact)(images, 0)
    keras.config.set_dtype_policy("mixed_float16")
    model = small_classifiers.of_channels(kernel, **options)
    actual = make(model)(images, 0)
    np.testing.assert_allclose(actual, expected, atol=0.02)


@pytest.mark.slow
def test_grad_cam_that_differs_between_a_model_and_its_own_reload(
    tmp_path, rng
):
    trained = keras.Sequential(
        [small_classifiers.backbone(), *small_classifiers.head()]
    )
    model = keras_lficam.attach(trained)
    model.save(tmp_path / "spliced.keras")
    loaded = keras.models.load_model(tmp_path / "spliced.keras")
    images = rng.uniform(0, 255, (3, 16, 12, 3))
    for number, make in enumerate(EVERY):
        with without_graphs() if number else contextlib.nullcontext():
            one, other = (make(each)(images) for each in (model, loaded))
        np.testing.assert_array_equal(one, other)
    # What is explained is what the head sees: the attended features.
    features = keras.Model(model.input, model.get_layer("attention").output)
    head = model.get_layer("head")
    kernel = head.layers[-1].get_weights()[0]
    expected = reference.activation_map(
        features.predict_on_batch(images), np.tile(kernel[:, 2], (3, 1))
    )
    actual = GradCAM(model)(images, 2)
    for index in range(3):
        fine = reference.bilinear(expected[index, ..., 0], 16, 12, 3, 4)
        np.testing.assert_allclose(actual[index, ..., 0], fine, atol=1e-4)


# The choice of the layer is made in the graph, which no backend changes, and
# two small nets show that.
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="takes long to compile"
)


# What the last convolution has, beside what the pooling takes: 32, 192, 176,
# 1000 in a map of 1x1, 1024 in a map of 1x1.
@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        pytest.param("DenseNet121", 64, 1024, marks=on_tensorflow),
        pytest.param("InceptionV3", 128, 2048, marks=on_tensorflow),
        ("MobileNet", 64, 1024),
        ("MobileNetV3Small", 64, 576),
        pytest.param(
            "NASNetMobile", 64, 1056, marks=pytest.mark.every_backbone
        ),
    ],
)
@pytest.mark.usefixtures("shapes_alone")
def test_last_convolution_as_default_layer_is_silently_wrong(
    name, size, channels
):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3)
    )
    # The explainers that take a map by default take the same.
    assert ScoreCAM(model).passes == (1 + channels, 0)
    GradCAM(model)


def in_the_form_of_theirs(library, model, images, classes):
    """Grad-CAM, Grad-CAM++ and LayerCAM of another, not interpolated."""
    if library == "tf-keras-vis":
        from tf_keras_vis.gradcam import Gradcam
        from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
        from tf_keras_vis.layercam import Layercam
        from tf_keras_vis.utils.scores import CategoricalScore

        options = {
            "penultimate_layer": "features",
            "seek_penultimate_conv_layer": False,
            "expand_cam": False,
            "normalize_cam": False,
        }
        score = CategoricalScore(classes.tolist())
        return [
            np.asarray(kind(model)(score, images, **options))[..., None]
            for kind in (Gradcam, GradcamPlusPlus, Layercam)
        ]
    from xplique.attributions import GradCAM as TheirGradCAM, GradCAMPP

    targets = np.eye(model.output_shape[-1], dtype="float32")[classes]
    return [
        np.asarray(kind(model, conv_layer="features")(images, targets))
        for kind in (TheirGradCAM, GradCAMPP)
    ]


@pytest.mark.oracles
@pytest.mark.parametrize("library", ["tf-keras-vis", "xplique"])
def test_agrees_with_another_library_where_that_follows_the_paper(library, rng):
    model = hidden(activation=None)  # They explain what the model gives.
    images = rng.normal(size=(4, 6, 6, 3)).astype("float32")
    classes = np.array([2, 0, 1, 2])
    plain, plus_plus, *layered = in_the_form_of_theirs(
        library, model, images, classes
    )
    ours = GradCAM(model)(images, classes)
    np.testing.assert_allclose(ours, reference.stretch(plain), atol=1e-3)
    assert len(layered) == (library == "tf-keras-vis")
    for theirs in layered:
        ours = LayerCAM(model)(images, classes)
        np.testing.assert_allclose(ours, reference.stretch(theirs), atol=1e-3)
    # tf-keras-vis divides each channel's alpha by their sum, which is in the
    # authors' release and not in their paper; xplique takes the mean of the
    # channel for its sum. With that the rewrite is theirs, without it ours.
    difference = (
        {"normalized": True}
        if library == "tf-keras-vis"
        else {"gather": np.mean}
    )
    seen = gradients_and_features(model, images, classes)
    for theirs, options in [(True, difference), (False, {})]:
        weights = grad_cam_plus_plus(*seen, **options)
        expected = reference.activation_map(seen[1], weights)
        actual = (
            reference.stretch(plus_plus)
            if theirs
            else GradCAMPlusPlus(model)(images, classes)
        )
        np.testing.assert_allclose(actual, expected, atol=1e-3)


# Grouped convolutions --------------------------------------------------------


def grouped():
    """Two grouped convolutions: channels are scaled by twos, then by threes."""
    layers = keras.layers
    image = keras.Input((2, 2, 4))
    first = layers.Conv2D(4, 1, groups=2, use_bias=False, name="first")
    second = layers.Conv2D(4, 1, groups=2, use_bias=False)
    dense = layers.Dense(2, "softmax", use_bias=False)
    x = layers.GlobalAveragePooling2D()(second(first(image)))
    model = keras.Model(image, dense(x))
    eye = np.tile(np.eye(2, dtype="float32"), 2).reshape(1, 1, 2, 4)
    first.set_weights([2 * eye])
    second.set_weights([3 * eye])
    dense.set_weights([np.array([[1, 0], [-1, 2], [0, 0], [0, 0]])])
    return model


def of_first(images):
    # Slopes (1, -1, 0, 0) * 3 / 4, so it is red minus green.
    difference = np.maximum(images[..., :1] - images[..., 1:2], 0)
    return difference / difference.max(axis=(1, 2), keepdims=True)


def test_gradients_go_through_grouped_convolutions(rng):
    """Compiled, on every backend, with oneDNN and without."""
    images = rng.uniform(size=(2, 2, 2, 4)).astype("float32")
    lowest = of_first(images).min(axis=(1, 2))
    assert (lowest == 0).all()  # So that min-max leaves it as it is.
    maps = GradCAM(grouped(), layer="first")(images, 0)
    np.testing.assert_allclose(maps, of_first(images), atol=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="of TensorFlow's kernels"
)
def test_grouped_convolution_run_eagerly_says_what_is_set(rng):
    import tensorflow as tf
    from tensorflow.python.util import _pywrap_util_port

    images = rng.uniform(size=(2, 2, 2, 4)).astype("float32")
    explainer = GradCAM(grouped(), layer="first")
    tf.config.run_functions_eagerly(True)
    try:
        if _pywrap_util_port.IsMklEnabled():
            maps = explainer(images, 0)
            np.testing.assert_allclose(maps, of_first(images), atol=1e-5)
        else:
            with pytest.raises(RuntimeError, match="TF_ENABLE_ONEDNN_OPTS=1"):
                explainer(images, 0)
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("layer", ["stage2_block0_1_relu", "attention_map"])
def test_layers_that_a_path_of_lfi_cam_goes_around_are_refused(layer):
    """The image is held for the importance network, not for a shortcut."""
    model = keras_lficam.build("ResNet8", 4, input_shape=(16, 16, 3))
    assert model.get_layer(layer)
    with pytest.raises(ValueError, match="around which another path"):
        GradCAM(model, layer=layer)


@pytest.mark.slow
def test_of_an_earlier_layer_what_lfi_cam_sees_of_the_image_is_held(rng):
    """Against differences of the logit, along a step of each channel."""
    backbone = small_classifiers.backbone()
    model = keras_lficam.build(backbone, 4, input_shape=(16, 12, 3))
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    images = rng.uniform(0, 255, (2, 16, 12, 3)).astype("float32")
    by_name = {layer.name: layer for layer in model.layers}
    early = next(
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.filters == 8
    )
    kernel, bias = (
        keras.ops.convert_to_numpy(weight).astype("float64")
        for weight in by_name["head"].weights
    )
    seen, features = map(
        keras.ops.convert_to_numpy,
        keras.Model(
            model.input, [by_name["importance"].input[0], early.output]
        )(images),
    )

    def logits(features):
        x = by_name["features"](by_name["last_convolution"](features))
        heat = by_name["attention_map"]([x, by_name["importance"]([seen, x])])
        x = keras.ops.convert_to_numpy(by_name["attention"]([x, heat]))
        return x.astype("float64").mean(axis=(1, 2)) @ kernel + bias

    step = 0.004 * np.eye(8, dtype="float32")[:, None, None, None]
    weights = np.stack(
        [logits(features + one) - logits(features - one) for one in step]
    )
    summed = np.einsum("bhwc,cbk->bhwk", features, weights)
    split = Classifier(model).split(early.name, hold_image=True)
    found = []
    for category in range(4):
        coarse = reference.stretch(np.maximum(summed[..., [category]], 0))
        expected = split.geometry.upsample(coarse.astype("float32"), (16, 12))
        found.append(GradCAM(model, layer=early.name)(images, category))
        np.testing.assert_allclose(found[-1], expected, atol=5e-3)
    assert 0.05 < np.mean(found) < 0.9
    with pytest.raises(ValueError, match="around which another path"):
        AblationCAM(model, layer=early.name)
