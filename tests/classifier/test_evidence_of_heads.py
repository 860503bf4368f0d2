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


WEIGHTS = [[2, -1, 5], [1, 3, 7], [1, 2, 0.5], [-1, 3, 0]]


def test_evidence_behind_a_flattening_by_hand():
    kernel = np.zeros((12, 2))
    kernel[:, 0] = np.ravel(WEIGHTS)
    model = small_classifiers.of_channels(kernel, pooled=False)
    evidence, maps, logits = evidence_of(model, IMAGE)
    # Of each pixel the scalar product of its colors and its own weights,
    # [[-2, 2], [7, -1]], times four: the mean of these is the logit.
    np.testing.assert_allclose(maps[0, ..., 0], [[-8, 8], [28, -4]])
    np.testing.assert_allclose(maps[0, ..., 1], [[0, 0], [0, 0]])
    np.testing.assert_allclose(logits, [[6, 0]])
    np.testing.assert_allclose(evidence.bias, [0, 0])
    assert evidence.exact
    _, asked, _ = evidence_of(model, IMAGE, [[1, 0, 0]])
    np.testing.assert_allclose(asked, maps[..., [1, 0, 0]])


@pytest.mark.parametrize("at_once", [2**21, 13, 1])
def test_evidence_behind_two_dense_layers_by_hand(at_once, monkeypatch):
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", at_once)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((2, 2, 3)),
            layers.Identity(),
            layers.Flatten(),
            layers.Dense(1, "relu"),
            layers.Dense(2, "softmax"),
        ]
    )
    model.layers[2].kernel.assign(np.reshape(WEIGHTS, (12, 1)))
    model.layers[3].kernel.assign([[1, -3]])
    evidence, maps, logits = evidence_of(model, IMAGE)
    # Alone the pixels give [[-2, 2], [7, -1]], of which the ReLU leaves
    # [[0, 2], [7, 0]]; together they give 6.
    np.testing.assert_allclose(maps[0, ..., 0], [[0, 2], [7, 0]])
    np.testing.assert_allclose(maps[0, ..., 1], [[0, -6], [-21, 0]])
    np.testing.assert_allclose(logits, [[6, -18]])
    assert not evidence.exact
    assert evidence.bias is None


@pytest.mark.parametrize("pooling", ["layer", "operation", "window"])
def test_evidence_of_a_map_that_is_the_classes_by_hand(pooling):
    layers = keras.layers
    image = keras.Input((2, 2, 3))
    x = layers.Identity()(image)
    if pooling == "layer":
        x = layers.GlobalAveragePooling2D()(x)
    elif pooling == "operation":
        x = keras.ops.mean(x, axis=(1, 2))
    else:
        x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    model = keras.Model(image, layers.Softmax()(x))
    evidence, maps, logits = evidence_of(model, IMAGE)
    assert evidence.exact
    np.testing.assert_array_equal(maps, IMAGE)
    np.testing.assert_allclose(logits, [[10 / 4, 5 / 4, 8 / 4]])
    np.testing.assert_array_equal(evidence.bias, [0, 0, 0])
    _, asked, _ = evidence_of(model, IMAGE, [[2, 0]])
    np.testing.assert_array_equal(asked, IMAGE[..., [2, 0]])


def test_evidence_of_a_map_of_one_score_by_hand():
    image = keras.Input((2, 2, 3))
    x = keras.layers.Conv2D(1, 1, use_bias=False)(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Activation("sigmoid")(x))
    model.layers[1].kernel.assign(np.reshape([1, -1, 0.5], (1, 1, 3, 1)))
    evidence, maps, logits = evidence_of(model, IMAGE)
    yes = np.array([[1 - 4, 2], [3 + 4, 4 - 1]])
    assert evidence.exact
    np.testing.assert_allclose(maps[0, ..., 1], yes)
    np.testing.assert_allclose(maps[0, ..., 0], -yes)
    np.testing.assert_allclose(logits, [[-9 / 4, 9 / 4]])


@pytest.mark.parametrize("form", ["layer", "arithmetic", "difference"])
def test_evidence_of_several_heads_by_hand(form):
    layers = keras.layers
    image = keras.Input((2, 2, 3))
    x = layers.GlobalAveragePooling2D()(layers.Identity()(image))
    one, other = layers.Dense(2, name="one"), layers.Dense(2, name="other")
    pair = one(x), other(x)
    combined = {
        "layer": lambda: layers.Average()(pair),
        "arithmetic": lambda: (pair[0] + pair[1]) / 2 + 1,
        "difference": lambda: 0.5 * (pair[0] - pair[1]),
    }[form]()
    model = keras.Model(image, layers.Softmax()(combined))
    one.kernel.assign([[2, 0], [0, 2], [0, 0]])
    other.kernel.assign([[0, 0], [0, 0], [4, 2]])
    one.bias.assign([2, 0])
    other.bias.assign([0, 6])
    evidence, maps, logits = evidence_of(model, IMAGE)
    red, green, blue = np.moveaxis(IMAGE[0], -1, 0)
    sign = -1 if form == "difference" else 1
    more = 1 if form == "arithmetic" else 0
    assert evidence.exact
    np.testing.assert_allclose(maps[0, ..., 0], red + sign * 2 * blue)
    np.testing.assert_allclose(maps[0, ..., 1], green + sign * blue)
    np.testing.assert_allclose(evidence.bias, [1 + more, 3 * sign + more])
    found = maps.mean(axis=(1, 2)) + evidence.bias
    np.testing.assert_allclose(found, logits)


def test_mean_of_probabilities_is_not_called_exact():
    layers = keras.layers
    image = keras.Input((2, 2, 3))
    x = layers.GlobalAveragePooling2D()(layers.Identity()(image))
    pair = [layers.Dense(2, "softmax")(x) for _ in range(2)]
    model = keras.Model(image, layers.Average()(pair))
    assert not Evidence(Classifier(model, "linear")).exact


def test_unusual_activation_at_the_end_is_part_of_the_logits():
    # It was taken for the logits, of which it is told to make a softmax.
    layers = keras.layers
    image = keras.Input((2, 2, 3))
    x = layers.GlobalAveragePooling2D()(layers.Identity()(image))
    model = keras.Model(image, layers.Dense(2, "relu")(x))
    evidence = Evidence(Classifier(model, "softmax"))
    assert not evidence.exact


def test_convolution_of_the_size_of_the_map_by_hand():
    layers = keras.layers
    image = keras.Input((2, 2, 3))
    x = layers.Identity(name="features")(image)
    convolution = layers.Conv2D(2, 2, name="whole")
    x = layers.Flatten()(convolution(x))
    model = keras.Model(image, layers.Softmax()(x))
    kernel = np.zeros((2, 2, 3, 2))
    kernel[..., 0] = np.reshape(WEIGHTS, (2, 2, 3))
    convolution.kernel.assign(kernel)
    convolution.bias.assign([1, 2])
    evidence, maps, logits = evidence_of(model, IMAGE)
    assert evidence.split.layer == "features"
    assert evidence.exact
    np.testing.assert_allclose(maps[0, ..., 0], [[-8, 8], [28, -4]])
    np.testing.assert_allclose(logits, [[6 + 1, 2]])
    np.testing.assert_allclose(evidence.bias, [1, 2])


def test_map_in_front_of_a_fully_convolutional_head_is_found(rng):
    """As that of timm's VGG, whose first dense layer is a convolution."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 3)),
            layers.Conv2D(6, 4, strides=4, activation="relu", name="last"),
            layers.Conv2D(5, 7, activation="relu", name="whole"),
            layers.Dropout(0.5),
            layers.Conv2D(5, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, "softmax"),
        ]
    )
    images = rng.uniform(0, 1, (2, 28, 28, 3)).astype("float32")
    evidence, maps, logits = evidence_of(model, images)
    assert evidence.split.layer == "last"
    assert evidence.split.shape == (7, 7, 6)
    assert not evidence.exact
    features = keras.ops.convert_to_numpy(evidence.split.features(images))
    alone = np.zeros_like(features)
    alone[:, 2, 5] = features[:, 2, 5]
    head = keras.Sequential([keras.Input((7, 7, 6)), *model.layers[1:]])
    scores = [
        np.log(keras.ops.convert_to_numpy(head(x)))
        for x in (alone, 0 * alone, features)
    ]
    # Logits are known but for a number that the classes share.
    shared = np.ptp(maps[:, 2, 5] - (scores[0] - scores[1]), axis=-1)
    np.testing.assert_allclose(shared, 0, atol=1e-5)
    shared = np.ptp(logits - scores[2], axis=-1)
    np.testing.assert_allclose(shared, 0, atol=1e-5)


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
    yield (
        "flattening",
        keras.Sequential(
            [*body, layers.Flatten(), layers.Dropout(0.5), layers.Dense(3)]
            + [layers.Softmax()]
        ),
    )
    yield (
        "classes",
        keras.Sequential(
            [*body, layers.GlobalAveragePooling2D(), layers.Softmax()]
        ),
    )
    image = keras.Input((12, 12, 3))
    x = keras.ops.mean(body[1](image), axis=(1, 2))
    yield "function", keras.Model(image, layers.Dense(3, "softmax")(x))
    inside = keras.Input((4, 4, 5))
    x = keras.ops.mean(inside, axis=[1, 2], keepdims=True)
    x = layers.Reshape((5,))(x)
    head = keras.Model(inside, layers.Dense(3, "softmax")(x))
    yield "nested head", keras.Model(image, head(body[1](image)))
    x = layers.GlobalAveragePooling2D()(body[1](image))
    heads = [layers.Dense(3)(x), layers.Dense(3, use_bias=False)(x)]
    x = layers.Average()([*heads, layers.Dense(3)(layers.Dropout(0.5)(x))])
    yield "three heads", keras.Model(image, layers.Softmax()(x))
    tokens = layers.Reshape((16, 5))(body[1](image))
    x = layers.LayerNormalization()(tokens)
    for name, pooling in {
        "tokens": layers.GlobalAveragePooling1D(),
        "mean of tokens": lambda x: keras.ops.mean(x, axis=1),
        "flat tokens": layers.Flatten(),
    }.items():
        dense = layers.Dense(3, "softmax")
        yield name, keras.Model(image, dense(pooling(x)))


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
