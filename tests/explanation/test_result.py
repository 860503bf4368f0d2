"""Arrays, rows and figure of an explanation, against their parts."""

import keras
import numpy as np
import pandas
import pytest
from small_classifiers import backbone

import keras_lficam


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


def test_plot_goes_on_below_where_it_is_to_be_narrow(attended, images):
    explanation = keras_lficam.explain(attended, images[:2], top=3)
    wide, narrow = explanation.plot(), explanation.plot(wrap=3)
    titles = [axis.get_title() for axis in narrow.axes[:12]]
    # Five panels of an image in two lines of three, the last of them empty.
    positions = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [titles[n] for n in positions] == [
        axis.get_title() for axis in wide.axes[:10]
    ]
    assert (titles[5], titles[11]) == ("", "")
    assert [len(narrow.axes), len(wide.axes)] == [12 + 2, 10 + 2]
    assert narrow.get_figwidth() < 0.7 * wide.get_figwidth()
    widest = explanation.plot(wrap=7)
    assert widest.get_figwidth() == wide.get_figwidth()
    with pytest.raises(
        ValueError, match="`wrap` must be an integer of at least 1"
    ):
        explanation.plot(wrap=0)


def test_to_frame_has_the_rows(attended, images):
    explanation = keras_lficam.explain(attended, images, top=2)
    frame = explanation.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == explanation.rows()
