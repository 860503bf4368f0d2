"""What a model says in one pass, against its parts."""

import keras
import numpy as np
import pandas
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


@pytest.fixture(scope="module")
def attended():
    keras.utils.set_random_seed(3)
    model = keras_lficam.build(
        backbone((32, 32, 3)), 4, input_shape=(32, 32, 3)
    )
    dense_of(model).bias.assign([0.3, -0.2, 0.1, 0.7])
    return model


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (5, 32, 32, 3)).astype("float32")


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


def test_explanation_of_images(attended, images):
    names = ["cat", "dog", "owl", "fly"]
    explanation = keras_lficam.explain(
        attended, images, top=2, class_names=names
    )
    assert explanation.class_evidence.shape == (5, 32, 32, 2)
    assert explanation.attention_map.shape == (5, 32, 32, 1)
    np.testing.assert_allclose(
        explanation.attention_map,
        keras_lficam.explainers.AttentionMap(attended)(images),
        atol=1e-6,
    )
    by_name = keras_lficam.explain(
        attended, images, ["owl", 0], class_names=names
    )
    np.testing.assert_array_equal(by_name.top_classes, [[2, 0]] * 5)
    difference = (
        by_name.class_evidence[..., :1] - (by_name.class_evidence[..., 1:])
    )
    np.testing.assert_allclose(
        explanation.contrast("owl", "cat"), difference, atol=1e-4
    )


def test_explanation_over_the_originals(attended, images):
    view = keras_lficam.explanation_view(attended, top=2)
    assert view.has_attention
    found = view.explain(images, ["owl", 0], class_names=["a", "b", "owl", "d"])
    # Twice as high, three times as wide.
    originals = images.repeat(2, axis=1).repeat(3, axis=2)
    over = found.over(originals)
    np.testing.assert_array_equal(over.images, originals)
    assert over.rows() == found.rows()
    for one, other in (
        (over.class_evidence, view.upsample),
        (over.attention_map, view.upsample_attention),
    ):
        coarse = over.coarse_evidence
        if other == view.upsample_attention:
            coarse = over.coarse_attention
        expected = other(coarse, (64, 96), (32, 32))
        np.testing.assert_allclose(one, expected, atol=1e-5)
        assert np.ptp(one) > 0.1
    np.testing.assert_allclose(
        over.contrast("owl", "a"),
        over.class_evidence[..., :1] - over.class_evidence[..., 1:],
        atol=1e-4,
    )
    # Back over what the model saw.
    np.testing.assert_allclose(
        over.over(images).class_evidence, found.class_evidence, atol=1e-6
    )
    for wrong, words in (
        (originals[:2], r"must have shape \(5, height"),
        (originals[..., 0], r"must have shape \(5, height"),
        (originals * np.nan, "finite"),
    ):
        with pytest.raises(ValueError, match=words):
            found.over(wrong)


def test_rows_add_up_to_the_logit(attended, images):
    explanation = keras_lficam.explain(attended, images, top=2)
    rows = explanation.rows()
    assert [row["image"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for row in rows:
        assert row["class"] == str(row["class_index"])
        total = row["inside"] + row["outside"] + row["bias"]
        assert total == pytest.approx(row["logit"], abs=1e-5)
    # By hand for one image: cells whose attention is at least half of its
    # maximum.
    heat = explanation.coarse_attention[0, ..., 0]
    bright = heat >= heat.max() / 2
    evidence = explanation.coarse_evidence[0, ..., 0].astype("float64")
    assert rows[0]["inside"] == pytest.approx(
        (evidence * bright).sum() / evidence.size, abs=1e-5
    )
    positive = evidence.clip(0)
    assert rows[0]["evidence_inside"] == pytest.approx(
        positive[bright].sum() / positive.sum(), abs=1e-5
    )
    assert rows[0]["attention"] == pytest.approx(
        explanation.attention_logits[0, 0]
    )


def test_rows_of_a_head_that_is_not_exact(images):
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            *backbone((32, 32, 3)).layers,
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    explanation = keras_lficam.explain(model, images, top=1)
    assert not explanation.exact
    assert not explanation.view.has_attention
    assert explanation.attention_map is None
    for row in explanation.rows():
        assert np.isnan([row["inside"], row["bias"], row["attention"]]).all()
        assert 0 < row["evidence_inside"] <= 1


def test_plot_shows_each_class_on_one_scale(attended, images):
    explanation = keras_lficam.explain(attended, images[:2], top=3)
    figure = explanation.plot(columns=2)
    titles = [axis.get_title() for axis in figure.axes[:8]]
    first, second = explanation.rows()[0], explanation.rows()[1]
    assert titles[:4] == [
        "image",
        "attention map",
        f"{first['class']} ({100 * first['probability']:.0f} %)",
        f"{second['class']} ({100 * second['probability']:.0f} %)",
    ]
    limits = [axis.get_ylim() for axis in figure.axes[8:]]
    for (low, high), maps in zip(
        limits, explanation.class_evidence[..., :2], strict=True
    ):
        assert high == -low == pytest.approx(np.abs(maps).max())


def test_to_frame_has_the_rows(attended, images):
    explanation = keras_lficam.explain(attended, images, top=2)
    frame = explanation.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == explanation.rows()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"top": 0}, ValueError, "`top` must be .* at least 1"),
        ({"top": True}, TypeError, "`top` must be"),
        ({"classes": [4]}, ValueError, "between 0 and 3"),
        ({"classes": [0.5]}, TypeError, "must hold integers"),
        ({"classes": []}, (TypeError, ValueError), "`classes` must"),
        ({"classes": [[0], [1]]}, ValueError, "row of them for each"),
        ({"classes": ["cat"]}, ValueError, "that the model knows"),
        ({"class_names": ["a"]}, ValueError, "4 names"),
        ({"layer": "none"}, ValueError, "`layer` must be the name"),
        ({"batch_size": 0}, ValueError, "`batch_size`"),
    ],
)
def test_wrong_arguments_are_refused(attended, images, arguments, error, words):
    with pytest.raises(error, match=words):
        keras_lficam.explain(attended, images, **arguments)


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
