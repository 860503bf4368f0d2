"""Gradients at the pixels: numbers by hand, a rewrite, another library."""

import functools

import explainer_contract
import keras
import numpy as np
import pytest
import reference
import small_classifiers
from explainer_contract import without_graphs

from keras_lficam.classifier import Classifier
from keras_lficam.explainers import IntegratedGradients, SmoothGrad

untraced = explainer_contract.untraced
first_compiled = explainer_contract.first_compiled

EVERY = [
    functools.partial(IntegratedGradients, steps=6),
    functools.partial(SmoothGrad, samples=6),
]
# Two by two pixels of three colors.
IMAGE = np.stack(
    [[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [0.0, 1.0]], [[0, 0], [8.0, 0]]],
    axis=-1,
)[np.newaxis]
# Class 0 is red minus green, class 1 is green alone, twice.
KERNEL = [[1, 0], [-1, 2], [0, 0]]


def network(policy=None, activation="softmax"):
    """Its gradients by the pixels differ from image to image."""
    rng = np.random.default_rng(1)
    layers = keras.layers
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(5, 3, padding="same", dtype=policy)(image)
    x = layers.LeakyReLU(negative_slope=0.5, dtype=policy)(x)
    x = layers.Flatten(dtype=policy)(x)
    x = layers.Dense(7, activation="relu", dtype=policy)(x)
    model = keras.Model(image, layers.Dense(3, activation, dtype=policy)(x))
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return model


def logits_and_gradients(model, images, classes):
    """The chain rule from the logits of `network` to its pixels, in NumPy."""
    kernel, bias, first, shift, second, last = (
        weight.astype("float64") for weight in model.get_weights()
    )
    x = reference.convolution(images, kernel) + bias
    features = np.where(x < 0, 0.5 * x, x)
    inner = features.reshape(len(images), -1) @ first + shift
    logits = np.maximum(inner, 0) @ second + last
    back = (second[:, classes].T * (inner > 0)) @ first.T
    back = back.reshape(x.shape) * np.where(x < 0, 0.5, 1)
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    gradients = reference.convolution(back, turned)
    return logits[np.arange(len(images)), classes], gradients


# Integrated gradients --------------------------------------------------------


@pytest.mark.usefixtures("untraced")
def test_integrated_gradients_of_a_linear_model_by_hand():
    model = small_classifiers.of_channels(KERNEL)
    explain = IntegratedGradients(model, steps=3)
    signed = explain.attributions(IMAGE, 0)
    assert signed.shape == (1, 2, 2, 3)
    assert signed.dtype == "float32"
    np.testing.assert_allclose(
        signed, IMAGE * np.array([1, -1, 0]) / 4, atol=1e-6
    )
    # Complete: the logit is 10/4 - 5/4, and 0 of a black image.
    assert signed.sum() == pytest.approx(5 / 4)
    # Red minus green is [[-3, 2], [3, 3]].
    expected = np.array([[0, 2 / 3], [1, 1]])
    np.testing.assert_allclose(
        explain(IMAGE, 0)[0, ..., 0], expected, atol=1e-6
    )
    # The logit of class 1, 10/4, is the highest.
    np.testing.assert_array_equal(explain(IMAGE), explain(IMAGE, 1))
    absolute = IntegratedGradients(model, steps=3, form="absolute")
    np.testing.assert_allclose(  # Red plus green.
        absolute(IMAGE, 0)[0, ..., 0], [[1, 2 / 5], [3 / 5, 1]], atol=1e-6
    )
    assert explain.passes == (4, 3)
    assert IntegratedGradients(model).passes == (51, 50)
    assert explain.class_specific


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    "baseline",
    [1, [1, 0, 5], np.arange(12).reshape(2, 2, 3)],
    ids=["number", "color", "image"],
)
def test_baseline(baseline):
    model = small_classifiers.of_channels(KERNEL)
    explain = IntegratedGradients(model, steps=2, baseline=baseline)
    signed = explain.attributions(IMAGE, 0)
    difference = IMAGE - np.asarray(baseline)
    expected = difference * np.array([1, -1, 0]) / 4
    np.testing.assert_allclose(signed, expected, atol=1e-6)
    # Nothing tells the baseline from itself.
    same = np.broadcast_to(np.asarray(baseline, "float32"), (1, 2, 2, 3))
    assert not explain(same, 0).any()


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, 4.0),  # At 2, where the gradient is 1.
        (4, 3.0),  # At 1/2, 3/2, 5/2 and 7/2, the first below 1.
        (5, 16 / 5),  # At 2/5, 6/5, ...
        (1000, 3.0),
    ],
)
def test_gradients_are_taken_at_the_midpoints(steps, expected):
    # The logit is ReLU(x - 1), and the image is 4.
    image = keras.Input((2, 2, 1))
    shifted = keras.layers.Conv2D(1, 1, activation="relu")
    x = keras.layers.GlobalAveragePooling2D()(shifted(image))
    dense = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(image, dense(x))
    shifted.set_weights([np.ones((1, 1, 1, 1)), -np.ones(1)])
    dense.set_weights([np.array([[1.0, 0.0]])])
    explain = IntegratedGradients(model, steps=steps, chunk_size=400)
    signed = explain.attributions(np.full((2, 2, 1), 4.0), 0)
    np.testing.assert_allclose(signed, expected / 4, rtol=1e-5)
    # Of a black image the logit is 0, so the truth is 3.
    error = explain.completeness_error(np.full((2, 2, 1), 4.0))
    np.testing.assert_allclose(error, [abs(expected - 3) / 3], atol=1e-5)
    # Class 1 has the logit 0 always, and nothing is attributed to it.
    assert explain.completeness_error(np.full((2, 2, 1), 4.0), 1) == [0]


def test_integrated_gradients_agree_with_a_rewrite(rng):
    model = network()
    images = rng.normal(size=(4, 6, 6, 3)).astype("float32")
    classes = np.array([2, 0, 1, 2])
    color = np.array([0.5, -1.0, 0.2])
    total = np.zeros(images.shape)
    for number in range(1, 10):
        point = color + (number - 0.5) / 9 * (images - color)
        total += logits_and_gradients(model, point, classes)[1]
    expected = (images - color) * total / 9
    explain = IntegratedGradients(model, steps=9, baseline=color)
    actual = explain.attributions(images, classes)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    positive = np.maximum(expected.sum(axis=-1, keepdims=True), 0)
    positive /= positive.max(axis=(1, 2, 3), keepdims=True)
    actual = explain(images, classes)
    assert 0.05 < positive.mean() < 0.9
    np.testing.assert_allclose(actual, positive, atol=1e-4)
    explain = IntegratedGradients(
        model, steps=9, baseline=color, form="absolute"
    )
    absolute = np.abs(expected).sum(axis=-1, keepdims=True)
    absolute /= absolute.max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(explain(images, classes), absolute, atol=1e-4)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_attributions_sum_to_the_difference_of_the_logits(activation, rng):
    """Within 1 %, of a network that is not linear anywhere."""
    layers = keras.layers
    image = keras.Input((16, 12, 3))
    x = layers.Rescaling(1 / 255)(image)
    for stride in (1, 2):
        x = layers.Conv2D(8, 3, stride, activation="swish")(x)
        x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(3, activation)(x))
    for weight in model.trainable_weights:
        if weight.ndim > 1:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    images = rng.uniform(0, 255, (4, 16, 12, 3)).astype("float32")
    with_images, with_black = (
        keras.ops.convert_to_numpy(Classifier(model, None).logits(x))
        for x in (images, 0 * images)
    )
    difference = with_images - with_black
    explain = IntegratedGradients(model)
    for category in range(3):
        signed = explain.attributions(images, category)
        expected = difference[:, category]
        assert np.abs(expected).min() > 0.01
        np.testing.assert_allclose(
            signed.sum(axis=(1, 2, 3)), expected, rtol=0.01
        )


# SmoothGrad ------------------------------------------------------------------


@pytest.mark.usefixtures("untraced")
def test_smooth_grad_of_a_linear_model_by_hand():
    model = small_classifiers.of_channels(KERNEL)
    explain = SmoothGrad(model, samples=5)
    np.testing.assert_allclose(
        explain.attributions(IMAGE, 0),
        np.broadcast_to(np.array([1, -1, 0]) / 4, IMAGE.shape),
        atol=1e-6,
    )
    # Its gradient is the same everywhere.
    np.testing.assert_allclose(explain(IMAGE, 0), 1, atol=1e-6)
    assert explain.passes == (6, 5)
    assert SmoothGrad(model).passes == (51, 50)
    # The signed ones of red and green cancel, and rounding is no evidence.
    signed = SmoothGrad(model, samples=5, form="signed")
    assert not signed(IMAGE, 0).any()
    np.testing.assert_allclose(signed(IMAGE, 1), 1, atol=1e-6)


def of_squares():
    """The logit of class c is the mean square of color c."""
    image = keras.Input((2, 2, 3))
    x = keras.layers.Multiply()([image, image])
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(image, dense(keras.layers.GlobalAveragePooling2D()(x)))
    dense.set_weights([np.eye(3)])
    return model


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("chunk_size", [1, 4, 7, 100])
def test_noise_is_gaussian_and_not_clipped(chunk_size):
    """The mean gradient is half of the image and of the mean noise."""
    explain = SmoothGrad(
        of_squares(), samples=10, seed=3, noise=0.5, chunk_size=chunk_size
    )
    noise = np.random.default_rng(3).standard_normal(
        (10, 2, 2, 3), dtype="float32"
    )
    images = np.concatenate([IMAGE, 2 * IMAGE])
    for image, span in zip(images, (8, 16), strict=True):
        means = image + 0.5 * span * noise.mean(axis=0)
        assert means.min() < 0  # What clipping would forbid.
        for category in range(3):
            expected = np.zeros((2, 2, 3))
            expected[..., category] = means[..., category] / 2
            actual = explain.attributions(image, category)[0]
            np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert noise.std() == pytest.approx(1, abs=0.1)


@pytest.mark.usefixtures("untraced")
def test_smooth_grad_without_noise_is_the_gradient(rng):
    model = network()
    images = rng.normal(size=(2, 6, 6, 3)).astype("float32")
    _, expected = logits_and_gradients(model, images, np.array([1, 2]))
    explain = SmoothGrad(model, noise=0, samples=1)
    actual = explain.attributions(images, [1, 2])
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    # An image of one color has no range, and no noise.
    gray = np.full((1, 6, 6, 3), 0.3)
    np.testing.assert_allclose(
        SmoothGrad(model, samples=3).attributions(gray, 1),
        explain.attributions(gray, 1),
        atol=1e-6,
    )


def test_smooth_grad_agrees_with_a_rewrite(rng):
    model = network()
    images = rng.normal(size=(4, 6, 6, 3)).astype("float32")
    classes = np.array([2, 0, 1, 2])
    explain = SmoothGrad(model, samples=8, seed=5, noise=0.2, chunk_size=3)
    draws = np.random.default_rng(5).standard_normal(
        (8, 6, 6, 3), dtype="float32"
    )
    spans = images.max(axis=(1, 2, 3)) - images.min(axis=(1, 2, 3))
    deviations = 0.2 * spans[:, None, None, None]
    expected = np.mean(
        [
            logits_and_gradients(model, images + deviations * draw, classes)[1]
            for draw in draws
        ],
        axis=0,
    )
    actual = explain.attributions(images, classes)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    maps = np.abs(expected).sum(axis=-1, keepdims=True)
    maps /= maps.max(axis=(1, 2, 3), keepdims=True)
    assert 0.05 < maps.mean() < 0.9
    np.testing.assert_allclose(explain(images, classes), maps, atol=1e-4)


@pytest.mark.usefixtures("untraced")
def test_only_the_seed_is_random(rng):
    model = network()
    images = rng.normal(size=(2, 6, 6, 3)).astype("float32")
    before = np.random.get_state()[1].tolist()
    maps = SmoothGrad(model, samples=4, seed=3)(images)
    assert np.random.get_state()[1].tolist() == before
    keras.utils.set_random_seed(7)
    again = SmoothGrad(model, samples=4, seed=3)(images)
    np.testing.assert_array_equal(again, maps)
    other = SmoothGrad(model, samples=4, seed=4)(images)
    assert np.abs(other - maps).max() > 1e-2


# Both ------------------------------------------------------------------------


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logit_is_explained_not_the_probability(make, activation):
    expected = make(small_classifiers.of_channels(KERNEL, activation=None))
    expected = expected.attributions(IMAGE, 0)
    # Probabilities of 1 have no gradient at all.
    for scale in (1, 1e3):
        model = small_classifiers.of_channels(
            scale * np.array(KERNEL), activation=activation
        )
        np.testing.assert_allclose(
            make(model).attributions(IMAGE, 0), scale * expected, rtol=1e-5
        )


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e4])
def test_size_of_the_logits_does_not_matter(make, scale, rng):
    images = rng.normal(size=(2, 2, 2, 3)).astype("float32")
    kernel = np.array(KERNEL)
    expected = make(small_classifiers.of_channels(kernel))(images, 0)
    maps = make(small_classifiers.of_channels(scale * kernel))(images, 0)
    assert expected.max() == 1
    np.testing.assert_allclose(maps, expected, atol=1e-5)


@pytest.mark.usefixtures("untraced")
def test_nothing_speaks_for_the_class():
    model = small_classifiers.of_channels([[-1, 0], [-1, 0], [-1, 0]])
    for category in (0, 1):
        assert not IntegratedGradients(model)(IMAGE, category).any()
        assert not SmoothGrad(model, form="signed")(IMAGE, category).any()
    assert not SmoothGrad(model)(IMAGE, 1).any()


@pytest.mark.usefixtures("first_compiled")
@pytest.mark.parametrize("make", EVERY)
def test_model_trained_further_is_explained_as_it_then_is(make):
    model = small_classifiers.of_channels(KERNEL)
    explain = make(model)
    before = explain.attributions(IMAGE, 0)
    model.layers[-1].set_weights([2 * np.array(KERNEL)])
    np.testing.assert_allclose(
        explain.attributions(IMAGE, 0), 2 * before, rtol=1e-5
    )


@pytest.mark.usefixtures("first_compiled")
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("make", EVERY)
def test_mixed_precision(make, policy, rng):
    images = rng.normal(size=(3, 6, 6, 3)).astype("float32")
    exact, rounded = network(), network(policy)
    rounded.set_weights(exact.get_weights())
    with without_graphs():
        expected = make(exact)(images, 1)
    explain = make(rounded)
    actual = explain(images, 1)
    tolerance = 0.02 if policy == "mixed_float16" else 0.1
    np.testing.assert_allclose(actual, expected, atol=tolerance)
    assert explain(images).max() == 1


# Each of 32x32 places has a gradient of 2e-8 to 6e-8, which float16 has not;
# and a thousand times the gradient 150 of a flattened image is more than it
# has.
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


@pytest.mark.parametrize("make", EVERY)
def test_gradients_go_through_grouped_convolutions(make, rng):
    """Compiled, on every backend, with oneDNN and without."""
    layers = keras.layers
    image = keras.Input((2, 2, 4))
    pairs = layers.Conv2D(4, 1, groups=2, use_bias=False)
    dense = layers.Dense(2, "softmax", use_bias=False)
    x = layers.GlobalAveragePooling2D()(pairs(image))
    model = keras.Model(image, dense(x))
    eye = np.tile(np.eye(2, dtype="float32"), 2).reshape(1, 1, 2, 4)
    pairs.set_weights([3 * eye])
    dense.set_weights([np.array([[1, 0], [-1, 2], [0, 0], [0, 0]])])
    images = rng.uniform(size=(2, 2, 2, 4)).astype("float32")
    expected = np.broadcast_to([3 / 4, -3 / 4, 0, 0], images.shape)
    if isinstance(make(model), IntegratedGradients):
        expected = images * expected
    actual = make(model).attributions(images, 0)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


class Cooled(keras.layers.Layer):
    """Ends a classifier so that nobody can tell what it gives."""

    def call(self, inputs):
        return inputs / 2


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("make", EVERY)
def test_models_that_cannot_be_differentiated_are_refused(make):
    plain = small_classifiers.of_channels(KERNEL, activation=None)
    cooled = keras.Model(plain.input, Cooled()(plain.output))
    with pytest.raises(ValueError, match="activation='softmax'"):
        make(cooled)
    told = make(cooled, activation="softmax").attributions(IMAGE, 0)
    np.testing.assert_allclose(
        2 * told, make(plain).attributions(IMAGE, 0), atol=1e-6
    )
    image = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    whole = keras.Model(image, keras.layers.Dense(2, "softmax")(x))
    with pytest.raises(ValueError, match=r"floating-point.*uint8.*To fix this"):
        make(whole)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8", None])
def test_numbers_out_of_range_are_refused(value):
    model = small_classifiers.of_channels(KERNEL)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    error = ValueError if is_integer else TypeError
    with pytest.raises(error, match=r"`steps`.*at least 1.*Received"):
        IntegratedGradients(model, steps=value)
    with pytest.raises(error, match=r"`samples`.*at least 1.*Received"):
        SmoothGrad(model, samples=value)
    if value != 0:
        with pytest.raises(error, match=r"`seed`.*at least 0.*Received"):
            SmoothGrad(model, seed=value)
    if value not in (0, 2.0):
        with pytest.raises(ValueError, match=r"`noise`.*at least 0.*Received"):
            SmoothGrad(model, noise=value)


@pytest.mark.usefixtures("untraced")
def test_other_arguments_out_of_range_are_refused():
    model = small_classifiers.of_channels(KERNEL)
    for make in EVERY:
        with pytest.raises(ValueError, match=r"`form`.*'signed', 'absolute'"):
            make(model, form="squared")
    for wrong in ([0, 0], np.zeros((2, 2)), np.zeros((3, 2, 3)), np.nan):
        with pytest.raises(ValueError, match="`baseline`"):
            IntegratedGradients(model, baseline=wrong)
    with pytest.raises(TypeError, match="`baseline`"):
        IntegratedGradients(model, baseline="black")
    image = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    free = keras.Model(image, keras.layers.Dense(2)(x))
    explain = IntegratedGradients(free, baseline=np.zeros((2, 2, 3)), steps=1)
    assert explain(IMAGE, 0).shape == (1, 2, 2, 1)
    with pytest.raises(ValueError, match=r"`baseline`.*\(3, 2, 3\).*To fix"):
        explain(np.zeros((1, 3, 2, 3)))


def in_torch(model):
    """`network` with linear scores as a function of PyTorch."""
    import torch

    kernel, bias, first, shift, second, last = map(
        torch.tensor, model.get_weights()
    )

    def scores(images):
        x = images.permute(0, 3, 1, 2)
        x = torch.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1)
        x = torch.nn.functional.leaky_relu(x, 0.5)
        x = x.permute(0, 2, 3, 1).flatten(1)
        return torch.relu(x @ first + shift) @ second + last

    return scores


@pytest.mark.oracles
def test_agrees_with_captum(rng, monkeypatch):
    import captum.attr
    import torch

    model = network(activation=None)
    images = rng.normal(size=(3, 6, 6, 3)).astype("float32")
    classes = [2, 0, 1]
    scores, given = in_torch(model), torch.tensor(images, requires_grad=True)
    target = torch.tensor(classes)
    theirs = captum.attr.IntegratedGradients(scores).attribute(
        given,
        baselines=0.5,
        target=target,
        n_steps=20,
        method="riemann_middle",
    )
    explain = IntegratedGradients(model, steps=20, baseline=0.5)
    ours = explain.attributions(images, classes)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4)
    # It is given our noise, in the order in which it asks for it.
    noise = np.random.default_rng(0).standard_normal(
        (7, 6, 6, 3), dtype="float32"
    )
    spans = np.ptp(images, axis=(1, 2, 3))[:, None, None, None, None]
    of_images = (0.15 * spans * noise).reshape(-1, 6, 6, 3)

    def normal(mean, deviations):
        assert (deviations == 1).all()
        assert deviations.shape == of_images.shape
        return torch.tensor(of_images)

    monkeypatch.setattr(torch, "normal", normal)
    saliency = captum.attr.Saliency(scores)
    theirs = captum.attr.NoiseTunnel(saliency).attribute(
        given,
        nt_type="smoothgrad",
        nt_samples=7,
        stdevs=1.0,
        target=target,
        abs=False,
    )
    ours = SmoothGrad(model, samples=7).attributions(images, classes)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4)
