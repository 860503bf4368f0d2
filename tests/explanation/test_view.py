"""What a model says in one pass, against its parts."""

import keras
import numpy as np
import pytest
from small_classifiers import backbone

import keras_lficam


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def dense_of(model):
    every = model._flatten_layers()
    (dense,) = (x for x in every if isinstance(x, keras.layers.Dense))
    return dense


def parts_of(model, images):
    """Features, attention, kernel and bias, by the layers' own outputs."""
    inside = keras.Model(
        model.input,
        [
            model.get_layer(name).output
            for name in ("attention", "attention_map", "importance")
        ],
    )
    attended, heat, importance = inside.predict_on_batch(images)
    return attended, heat, importance, *dense_of(model).get_weights()


def test_view_against_the_equations(attended, images):
    features, heat, importance, kernel, bias = parts_of(attended, images)
    view = keras_lficam.explanation_view(attended, top=3)
    shown = view.predict(images, batch_size=2)
    assert view.exact
    np.testing.assert_array_equal(view.bias, bias)
    every = np.einsum("bhwc,ck->bhwk", features, kernel, dtype="float64")
    logits = every.mean(axis=(1, 2)) + bias
    order = np.argsort(-logits, axis=-1)[:, :3]
    np.testing.assert_array_equal(shown["top_classes"], order)
    np.testing.assert_allclose(shown["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(
        shown["probabilities"], softmax(logits), atol=1e-6
    )
    np.testing.assert_allclose(
        shown["class_evidence"],
        np.take_along_axis(every, order[:, None, None], axis=-1),
        atol=1e-5,
    )
    np.testing.assert_allclose(shown["attention_map"], heat, atol=1e-6)
    np.testing.assert_allclose(shown["importance"], importance, atol=1e-6)
    tensors = view(keras.ops.convert_to_tensor(images))
    assert tensors.keys() == shown.keys()
    for name, value in tensors.items():
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(value), shown[name], atol=1e-5
        )
    # What the features would say, had the attention added nothing to them.
    plain = (features / (1 + heat)).mean(axis=(1, 2)) @ kernel + bias
    added = np.take_along_axis(logits - plain, order, axis=-1)
    np.testing.assert_allclose(shown["attention_logits"], added, atol=1e-5)
    assert np.abs(added).max() > 1e-3


def test_classes_are_asked_for(attended, images):
    every = keras_lficam.explanation_view(attended, top=None).predict(images)
    np.testing.assert_array_equal(every["top_classes"], [[0, 1, 2, 3]] * 5)
    view = keras_lficam.explanation_view(attended)
    assert view.top == 4
    for asked in ([2, 0], [[2, 0], [1, 1], [3, 2], [0, 1], [2, 3]]):
        shown = view.predict(images, asked)
        index = np.broadcast_to(asked, (5, 2))
        np.testing.assert_array_equal(shown["top_classes"], index)
        np.testing.assert_allclose(
            shown["class_evidence"],
            np.take_along_axis(
                every["class_evidence"], index[:, None, None], axis=-1
            ),
            atol=1e-6,
        )


def test_attention_in_front_of_more_layers(images):
    # The attention is not applied to the map that is pooled, but earlier.
    layers = keras.layers
    trained = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            *backbone((32, 32, 3)).layers,
            layers.Conv2D(5, 3, activation="relu", name="behind"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, "softmax"),
        ]
    )
    model = keras_lficam.attach(trained, layer="features")
    view = keras_lficam.explanation_view(model, top=None)
    shown = view.predict(images)
    assert view.exact
    assert shown["class_evidence"].shape == (5, 6, 6, 3)
    assert shown["attention_map"].shape == (5, 8, 8, 1)
    # The trained model is the same without attention.
    logits = np.log(trained.predict_on_batch(images))
    found = shown["logits"] - shown["attention_logits"]
    np.testing.assert_allclose(softmax(found), softmax(logits), atol=1e-5)


@pytest.mark.parametrize("architecture", ["abn", "cam", "plain"])
def test_other_architectures(architecture, images):
    model = keras_lficam.build(
        backbone((32, 32, 3)),
        3,
        input_shape=(32, 32, 3),
        architecture=architecture,
    )
    shown = keras_lficam.explanation_view(model, top=1).predict(images)
    has_attention = architecture == "abn"
    assert ("attention_map" in shown) == has_attention
    assert ("attention_logits" in shown) == has_attention
    assert "importance" not in shown
    predicted = model.predict_on_batch(images)
    if has_attention:
        predicted = predicted["predictions"]
    np.testing.assert_allclose(shown["probabilities"], predicted, atol=1e-6)


def test_scores_are_told_not_guessed(images):
    model = keras_lficam.build(
        backbone((32, 32, 3)),
        3,
        input_shape=(32, 32, 3),
        classifier_activation=None,
    )
    with pytest.raises(ValueError, match="activation='sigmoid' if several"):
        keras_lficam.explanation_view(model)
    shown = keras_lficam.explanation_view(model, activation="sigmoid").predict(
        images
    )
    logits = model.predict_on_batch(images)
    np.testing.assert_allclose(
        shown["probabilities"], 1 / (1 + np.exp(-logits)), atol=1e-6
    )


def test_layers_of_others_may_have_our_names(images):
    layers = keras.layers
    base = backbone((32, 32, 3))
    features = base.outputs[0]
    heat = layers.Conv2D(1, 1, activation="sigmoid", name="attention_map")
    pooled = layers.GlobalAveragePooling2D()(features * heat(features))
    gate = layers.Dense(6, activation="sigmoid", name="attention")(pooled)
    model = keras.Model(base.inputs[0], layers.Dense(3, "softmax")(gate))
    shown = keras_lficam.explanation_view(model, top=2).predict(images)
    assert shown["attention_map"].shape == (5, 8, 8, 1)
    # A gate of pooled features is no attention of a map.
    assert "attention_logits" not in shown
    np.testing.assert_allclose(
        shown["probabilities"], model.predict_on_batch(images), atol=1e-6
    )


@pytest.mark.slow
def test_probabilities_are_explained_where_logits_are_hidden(images):
    """A hard sigmoid of `x` is `(x + 3) / 6`, clipped to [0, 1]."""
    scores = keras_lficam.build(
        backbone((32, 32, 3)),
        3,
        input_shape=(32, 32, 3),
        classifier_activation=None,
    )
    odd = keras.layers.Activation("hard_sigmoid")
    model = keras.Model(scores.input, odd(scores.output))
    # On every backend some scores are clipped, the largest, and others not.
    pooled = parts_of(model, images)[0].mean(axis=(1, 2))
    kernel = np.random.default_rng(0).normal(size=(pooled.shape[-1], 3))
    dense = dense_of(model)
    dense.kernel.assign(4 / np.abs(pooled @ kernel).max() * kernel)
    with pytest.raises(ValueError, match="activation='linear' if its scores"):
        keras_lficam.explanation_view(model)
    view = keras_lficam.explanation_view(model, top=None, activation="linear")
    assert not view.in_logits
    assert not view.exact
    assert view.bias is None
    shown = view.predict(images)
    features, heat, _, kernel, bias = parts_of(model, images)

    def head(pooled):
        return np.clip((pooled @ kernel + bias + 3) / 6, 0, 1)

    probabilities = head(features.mean(axis=(1, 2)))
    for name in ("probabilities", "logits"):
        np.testing.assert_allclose(shown[name], probabilities, atol=1e-5)
    alone = head(features / features[0, ..., 0].size) - head(
        np.zeros(len(kernel))
    )
    np.testing.assert_allclose(shown["class_evidence"], alone, atol=1e-5)
    without = head((features / (1 + heat)).mean(axis=(1, 2)))
    np.testing.assert_allclose(
        shown["attention_logits"], probabilities - without, atol=1e-5
    )
    assert np.abs(shown["attention_logits"]).max() > 1e-3
    assert np.abs(alone).max() > 1e-3
    np.testing.assert_array_equal(
        keras_lficam.explain(model, images, activation="linear").logits,
        shown["logits"],
    )
    # Gradients are those of logits.
    with pytest.raises(ValueError, match="does not show the logits"):
        keras_lficam.explainers.GradCAM(model, activation="linear")
    maps = keras_lficam.explainers.ReciproCAM(model, activation="linear")
    assert maps(images).max() == 1
