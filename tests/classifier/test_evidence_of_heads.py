"""Class evidence of any head: numbers by hand, and what is exact."""

import keras
import numpy as np
import pytest
import small_classifiers

from keras_lficam.classifier import Classifier, Evidence, _evidence as module

# Two by two pixels of three colors, each a channel of the feature map.
IMAGE = np.stack(
    [[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [0.0, 1.0]], [[0, 0], [8.0, 0]]],
    axis=-1,
)[np.newaxis].astype("float32")


def evidence_of(model, images, classes=None):
    evidence = Evidence(Classifier(model))
    features = evidence.split.features(images)
    if classes is not None:
        classes = keras.ops.convert_to_tensor(np.asarray(classes, "int32"))
    maps = keras.ops.convert_to_numpy(evidence(features, classes))
    logits = keras.ops.convert_to_numpy(evidence.split.logits(features))
    return evidence, maps, logits


def test_evidence_behind_a_pooling_by_hand():
    model = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    evidence, maps, logits = evidence_of(model, IMAGE)
    # Class 0 is red minus green, class 1 green twice.
    np.testing.assert_allclose(maps[0, ..., 0], [[-3, 2], [3, 3]])
    np.testing.assert_allclose(maps[0, ..., 1], [[8, 0], [0, 2]])
    np.testing.assert_allclose(logits, [[5 / 4, 10 / 4]])
    np.testing.assert_allclose(evidence.bias, [0, 0])
    assert evidence.exact
    _, asked, _ = evidence_of(model, IMAGE, [[1, 1, 0]])
    np.testing.assert_allclose(asked, maps[..., [1, 1, 0]])


@pytest.mark.parametrize("at_once", [2**21, 13, 1])
def test_evidence_behind_a_flattening_by_hand(at_once, monkeypatch):
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", at_once)
    weights = [[2, -1, 5], [1, 3, 7], [1, 2, 0.5], [-1, 3, 0]]
    kernel = np.zeros((12, 2))
    kernel[:, 0] = np.ravel(weights)
    model = small_classifiers.of_channels(kernel, pooled=False)
    evidence, maps, logits = evidence_of(model, IMAGE)
    # Of each pixel the scalar product of its colors and its own weights.
    np.testing.assert_allclose(maps[0, ..., 0], [[-2, 2], [7, -1]])
    np.testing.assert_allclose(maps[0, ..., 1], [[0, 0], [0, 0]])
    np.testing.assert_allclose(logits, [[6, 0]])
    assert not evidence.exact
    assert evidence.bias is None


def test_evidence_is_of_the_logit_above_an_empty_map():
    image = keras.Input((2, 2, 3))
    x = keras.layers.GlobalMaxPooling2D()(keras.layers.Identity()(image))
    dense = keras.layers.Dense(2, "softmax")
    model = keras.Model(image, dense(x))
    dense.kernel.assign([[1, 0], [-1, 2], [0, 1]])
    dense.bias.assign([5, 7])
    _, maps, logits = evidence_of(model, IMAGE)
    # Zeros are the largest beside what is alone: the pixels as they are,
    # and the biases are those of an empty map.
    np.testing.assert_allclose(maps[0, ..., 0], [[-3, 2], [3, 3]])
    np.testing.assert_allclose(maps[0, ..., 1], [[8, 0], [8, 2]])
    np.testing.assert_allclose(logits, [[5 + 4 - 4, 7 + 2 * 4 + 8]])


def pooled(*behind, activation="softmax", score=3, **options):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(5, 3, strides=3, activation="relu"),
            layers.GlobalAveragePooling2D(**options),
            *behind,
            layers.Dense(score, activation),
        ]
    )


def layers_that_are_linear():
    layers = keras.layers
    body = [keras.Input((12, 12, 3)), layers.Conv2D(5, 3, strides=3)]
    yield "pooling", pooled()
    yield "dropout", pooled(layers.Dropout(0.5), layers.Identity())
    yield "kept axes", pooled(layers.Flatten(), keepdims=True)
    yield "several labels", pooled(activation="sigmoid")
    yield "one sigmoid", pooled(activation="sigmoid", score=1)
    yield (
        "no bias, softmax of its own",
        keras.Sequential(
            [
                *body,
                layers.AveragePooling2D(4),
                layers.Flatten(),
                layers.Dense(3, use_bias=False),
                layers.Softmax(),
            ]
        ),
    )
    yield (
        "convolution",
        keras.Sequential(
            [
                *body,
                layers.GlobalAveragePooling2D(keepdims=True),
                layers.Dropout(0.5),
                layers.Conv2D(3, 1),
                layers.Reshape((3,)),
                layers.Activation("softmax"),
            ]
        ),
    )
    image = keras.Input((12, 12, 3))
    x = keras.ops.mean(body[1](image), axis=(1, 2))
    yield "function", keras.Model(image, layers.Dense(3, "softmax")(x))


@pytest.mark.parametrize(
    "model", [pytest.param(m, id=name) for name, m in layers_that_are_linear()]
)
def test_mean_and_bias_are_the_logit(model, rng):
    for layer in model.layers:
        if getattr(layer, "use_bias", False):
            layer.bias.assign(rng.normal(size=layer.bias.shape))
    images = rng.uniform(0, 1, (4, 12, 12, 3)).astype("float32")
    evidence, maps, logits = evidence_of(model, images)
    assert evidence.exact
    found = maps.mean(axis=(1, 2), dtype="float64") + evidence.bias
    np.testing.assert_allclose(found, logits, atol=1e-5 * abs(logits).max())
    # The logits are those that the model's own scores come from.
    scores = keras.ops.convert_to_numpy(model(images))
    classifier = Classifier(model)
    probabilities = keras.ops.convert_to_numpy(
        classifier.probabilities_of(logits)
    )
    np.testing.assert_allclose(
        probabilities[:, -scores.shape[1] :], scores, atol=1e-6
    )


class Doubled(keras.layers.Dense):
    """Gives twice of what its weights say."""

    def call(self, x):
        return 2 * super().call(x)


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(lambda: [keras.layers.ReLU()], id="relu"),
        pytest.param(lambda: [keras.layers.Dense(4, "relu")], id="two dense"),
        pytest.param(
            lambda: [keras.layers.LayerNormalization()], id="normalization"
        ),
        pytest.param(lambda: [keras.layers.Rescaling(2.0)], id="scaled"),
        pytest.param(lambda: [Doubled(3), keras.layers.Softmax()], id="own"),
    ],
)
def test_other_heads_are_not_called_exact(behind, rng):
    layers = behind()
    model = pooled(*layers)
    if isinstance(layers[-1], keras.layers.Softmax):
        model = keras.Sequential([*model.layers[:2], *layers])
        model(np.zeros((1, 12, 12, 3)))
    images = rng.uniform(0, 1, (4, 12, 12, 3)).astype("float32")
    evidence, maps, logits = evidence_of(model, images)
    assert not evidence.exact
    # Each location alone, by the model itself.
    features = keras.ops.convert_to_numpy(evidence.split.features(images))
    nothing = keras.ops.convert_to_numpy(
        evidence.split.logits(np.zeros_like(features[:1]))
    )
    for row, column in ((0, 0), (2, 3)):
        alone = np.zeros_like(features)
        alone[:, row, column] = features[:, row, column]
        expected = keras.ops.convert_to_numpy(evidence.split.logits(alone))
        np.testing.assert_allclose(
            maps[:, row, column], expected - nothing, atol=1e-5
        )
    assert logits.shape == (4, 3)


def test_of_one_score_no_is_the_negated_yes(rng):
    images = rng.uniform(0, 1, (2, 12, 12, 3)).astype("float32")
    model = pooled(activation="sigmoid", score=1)
    _, maps, logits = evidence_of(model, images)
    np.testing.assert_array_equal(maps[..., 0], -maps[..., 1])
    np.testing.assert_array_equal(logits[:, 0], -logits[:, 1])
