"""Score-CAM: numbers by hand, a rewrite, memory, another library."""

import pathlib
import subprocess
import sys

import explainer_contract
import keras
import numpy as np
import pytest
import reference
import small_classifiers

from keras_lficam.explainers import ScoreCAM

untraced = explainer_contract.untraced

ROOT = pathlib.Path(__file__).parents[2]
# Red stretched is [[0, 1/2], [1, 1/2]], green [[0, 1], [0, 0]], blue constant.
IMAGE = np.stack(
    [[[0, 3.0], [6, 3]], [[0, 4.0], [0, 0]], [[-10.0, -10], [-10, -10]]],
    axis=-1,
)[np.newaxis]
# Masked by red, red has the mean 9/4; masked by green, 3/4.
KERNEL = [[np.log(27) * 4 / 9, 0], [0, 0], [0, 0]]


@pytest.mark.usefixtures("untraced")
def test_probability_by_hand():
    # The odds of class 0 are 27 and 3, so 27/28 red + 3/4 green is
    # [[0, 165], [162, 81]] / 28. The constant channel, of which half would
    # come off, has the weight 0.
    model = small_classifiers.of_channels(KERNEL)
    actual = ScoreCAM(model)(IMAGE, 0)[0, ..., 0]
    expected = [[0, 1], [162 / 165, 81 / 165]]
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    # Class 1: 1/28 and 1/4, so red + 7 green, [[0, 31], [6, 3]].
    actual = ScoreCAM(model)(IMAGE, 1)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0, 1], [6 / 31, 3 / 31]], atol=1e-6)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("activation", ["softmax", None])
def test_increase_by_hand(activation):
    # The softmax over the channels of log 27 and log 3, whatever the black
    # image has: 9 red + green, [[0, 31], [54, 27]].
    model = small_classifiers.of_channels(KERNEL, activation=activation)
    actual = ScoreCAM(model, form="increase")(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0, 31 / 54], [1, 0.5]], atol=1e-6)


@pytest.mark.usefixtures("untraced")
def test_softmax_applied_to_outputs_that_are_already_softmax():
    # Of the probabilities 27/28 and 3/4 once more it were 0.72 and 0.62.
    expected = ScoreCAM(small_classifiers.of_channels(KERNEL))(IMAGE, 0)
    np.testing.assert_allclose(expected[0, 1, 0], 162 / 165, atol=1e-6)
    logits = small_classifiers.of_channels(KERNEL, activation=None)
    told = ScoreCAM(logits, activation="softmax")(IMAGE, 0)
    np.testing.assert_allclose(told, expected, atol=1e-6)
    with pytest.raises(ValueError, match="gives logits.*To fix this"):
        ScoreCAM(logits)
    with pytest.raises(ValueError, match="leave it out"):
        ScoreCAM(small_classifiers.of_channels(KERNEL), activation="softmax")


@pytest.mark.usefixtures("untraced")
def test_probabilities_that_are_told_need_no_logits():
    logits = small_classifiers.of_channels(KERNEL, activation=None)
    # Its last layer does not show what it does.
    end = keras.layers.Activation(lambda scores: keras.ops.softmax(scores))
    model = keras.Model(logits.input, end(logits.output))
    shown = ScoreCAM(model, activation="linear")(IMAGE, 0)
    expected = ScoreCAM(logits, activation="softmax")(IMAGE, 0)
    np.testing.assert_array_equal(shown, expected)
    with pytest.raises(ValueError, match="does not show the logits"):
        ScoreCAM(model, activation="linear", form="increase")


@pytest.mark.usefixtures("untraced")
def test_what_is_constant_or_hopeless_gives_zero():
    model = small_classifiers.of_channels(KERNEL)
    constant = np.full((1, 2, 2, 3), 7.0)
    assert not ScoreCAM(model)(constant, 0).any()
    sure = small_classifiers.of_channels(1e4 * np.array(KERNEL))
    assert not ScoreCAM(sure)(IMAGE, 1).any()
    # As a share of the channels the least logit counts, too.
    assert ScoreCAM(sure, form="increase")(IMAGE, 1).max() == 1


@pytest.mark.usefixtures("untraced")
def test_named_layer():
    image = keras.Input((2, 2, 3))
    base = small_classifiers.of_channels(KERNEL)
    # Half as bright, and the map of its own layer as before.
    x = keras.layers.Rescaling(0.5, name="half")(image)
    x = base.get_layer("colors")(x)
    x = keras.layers.Rescaling(-2.0, name="turned")(x)
    x = keras.layers.Rescaling(-1.0)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, base.layers[-1](x))
    expected = ScoreCAM(base)(IMAGE, 0)
    for layer in (None, "half", "colors"):
        actual = ScoreCAM(model, layer=layer)(IMAGE, 0)
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    # Turned, other places are masked, and no place speaks for the class.
    turned = ScoreCAM(model, layer="turned")(IMAGE, 0)
    assert np.abs(turned - expected).max() > 0.5
    with pytest.raises(ValueError, match="`layer`.*'nothing'"):
        ScoreCAM(model, layer="nothing")


def test_form_is_one_of_two():
    model = small_classifiers.of_channels(KERNEL)
    with pytest.raises(ValueError, match="`form`.*'logit'"):
        ScoreCAM(model, form="logit")


def rewrite(model, feature_model, image, category, form):
    """Explains one image with loops, in float64 NumPy."""
    height, width = image.shape[:2]
    features = feature_model.predict_on_batch(image[np.newaxis])[0]
    fine, masked = [], []
    for channel in np.moveaxis(features.astype("float64"), -1, 0):
        fine.append(reference.bilinear(channel, height, width, 3, 4))
        mask = reference.stretch(fine[-1][np.newaxis, ..., np.newaxis])[0]
        masked.append(image * mask)
    scores = model.predict_on_batch(np.array(masked))[:, category]
    if form == "increase":
        black = model.predict_on_batch(np.zeros((1, *image.shape)))
        scores = reference.softmax(scores - black[0, category])
    alive = [channel.max() > channel.min() for channel in fine]
    total = sum(
        score * channel
        for score, channel, counts in zip(scores, fine, alive, strict=True)
        if counts
    )
    return reference.stretch(np.maximum(total, 0)[np.newaxis, ..., np.newaxis])


@pytest.mark.parametrize("form", ["probability", "increase"])
def test_agrees_with_a_rewrite(form, rng):
    trunk = small_classifiers.backbone(channels=10)
    logits = keras.Sequential([trunk, *small_classifiers.head(None)])
    logits.layers[-1].set_weights([rng.normal(size=(10, 4)), np.zeros(4)])
    last = trunk.get_layer("last_convolution")
    kernel, bias = last.get_weights()
    kernel[..., 3], bias[3] = 0, -2  # A constant channel that would count.
    last.set_weights([kernel, bias])
    model = keras.Sequential([logits, keras.layers.Softmax()])
    images = rng.uniform(0, 255, (3, 16, 12, 3)).astype("float32")
    classes = [1, 3, 0]
    expected = np.concatenate(
        [
            rewrite(
                model if form == "probability" else logits,
                trunk,
                image,
                category,
                form,
            )
            for image, category in zip(images, classes, strict=True)
        ]
    )
    assert (expected == 0).mean() > 0.01  # The ReLU and its place matter.
    explainer = ScoreCAM(model, form=form)
    for chunk_size in (32, 1, 3, 4):
        explainer.chunk_size = chunk_size  # Nothing is compiled again.
        actual = explainer(images, classes)
        np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert explainer.passes == (11, 0)


def test_no_pass_is_spent_on_dead_channels_and_none_compiles_anew(rng):
    seen = []

    class Counter(keras.layers.Layer):
        def call(self, inputs):
            seen.append(inputs.shape[0])
            return inputs

    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(20, 1, activation="relu")(Counter()(image))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(2, "softmax")(x))
    explainer = ScoreCAM(model, chunk_size=8)
    scores = explainer._scores.predict_on_batch
    calls = []
    explainer._scores.predict_on_batch = lambda arguments: (
        calls.append(arguments[1]) or scores(arguments)
    )
    images = rng.normal(size=(4, 8, 8, 3))
    kernel = model.layers[2].get_weights()[0]
    kernel[..., 5:] = 0
    model.layers[2].set_weights([kernel, np.zeros(20)])
    explainer(images[:2])
    # Three chunks of 20 channels make 7, of which one holds the living.
    assert [maps.shape[0] for maps in calls] == [7, 7]
    traces = len(seen)
    explainer(images)
    assert len(calls) == 2 + 4
    if keras.backend.backend() != "torch":
        # Compiled anew for as many images, but not for what they show.
        assert len(seen) <= traces + 1


def test_model_trained_further_is_explained_as_it_then_is():
    model = small_classifiers.of_channels(KERNEL)
    explainer = ScoreCAM(model)
    before = explainer(IMAGE, 0)
    model.layers[-1].set_weights([-np.array(KERNEL, "float32")])
    after = explainer(IMAGE, 0)
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_array_equal(after, ScoreCAM(model)(IMAGE, 0))


MEMORY = """
import resource
import keras, numpy as np
from keras_lficam.explainers import ScoreCAM
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    keras.Input((160, 160, 3)),
    layers.Conv2D(4, 8, 8, activation="relu"),
    layers.Conv2D(2048, 4, 4, activation="relu"),
    layers.GlobalAveragePooling2D(),
    layers.Dense(3, "softmax"),
])
images = np.random.default_rng(0).uniform(size=(2, 160, 160, 3))
model.predict(images, verbose=0)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
maps = ScoreCAM(model)(images)
assert 0 < maps.mean() < 1
print((peak() - before) / 1e6)
"""


@pytest.mark.end_to_end
def test_score_cam_that_materialises_all_masks():
    # The masks of one image alone are 0.2 GB, the masked images 0.6 GB.
    shown = subprocess.run(
        [sys.executable, "-c", MEMORY],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    assert float(shown.split()[-1]) < 0.15


@pytest.mark.oracles
def test_agrees_with_tf_keras_vis_on_logits(rng):
    from tf_keras_vis.scorecam import Scorecam
    from tf_keras_vis.utils.scores import CategoricalScore

    # It applies a softmax of its own, which is right for logits only. With
    # the map as large as the image its interpolation, which aligns corners
    # while ours aligns edges, has nothing to do.
    image = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(5, 3, padding="same", name="features")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3)(x))
    images = rng.normal(size=(3, 6, 6, 3)).astype("float32")
    classes = [2, 0, 1]
    theirs = Scorecam(model)(
        CategoricalScore(classes),
        images,
        penultimate_layer="features",
        seek_penultimate_conv_layer=False,
    )
    ours = ScoreCAM(model, activation="softmax")(images, classes)
    np.testing.assert_allclose(ours[..., 0], theirs, atol=1e-4)
