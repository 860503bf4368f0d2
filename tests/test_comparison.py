"""The standard comparison, in Python, against what its parts say."""

import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf
from small_classifiers import backbone

import keras_lficam
from keras_lficam import comparison, data, explainers, metrics
from keras_lficam.evaluation import Metric


@pytest.fixture(scope="module")
def model():
    return keras_lficam.build(backbone((32, 32, 3)), 3, input_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (6, 32, 32, 3)).astype("float32")
    masks = np.zeros((6, 32, 32, 1), "float32")
    masks[:, 4:20, 4:20] = 1
    return images, np.arange(6) % 3, masks


STANDARD = [
    "average_drop",
    "increase_in_confidence",
    "deletion_auc",
    "insertion_auc",
    "pointing_game",
    "energy_pointing_game",
    "localization_iou",
    "max_box_accuracy",
    "sanity",
]


@pytest.mark.slow
def test_values_are_those_of_explainers_and_metrics(model, batch):
    found = comparison.compare(
        model, [batch], explainers=["AttentionMap", "GradCAM"]
    )
    images, labels, masks = batch
    classes = model.predict_on_batch(images).argmax(axis=-1)
    np.testing.assert_array_equal(found.classes, classes)
    np.testing.assert_array_equal(found.labels, labels)
    assert [row.metric for row in found.rows] == 2 * STANDARD
    assert [row.better for row in found.rows[:9]] == [
        "lower",
        "higher",
        "lower",
        "higher",
        "higher",
        "higher",
        "higher",
        "higher",
        "lower",
    ]
    random = metrics.randomized(model, seed=0)
    for name in ("AttentionMap", "GradCAM"):
        kind = getattr(explainers, name)
        maps = kind(model)(images, classes)
        expected = {
            "average_drop": metrics.average_drop(model, images, maps),
            "energy_pointing_game": metrics.energy_pointing_game(maps, masks),
            "max_box_accuracy": metrics.max_box_accuracy(
                metrics.box_accuracy(maps, masks)
            ),
            "sanity": metrics.rank_correlation(
                maps, kind(random)(images, classes)
            ),
        }
        for metric, values in expected.items():
            actual = found.values[name][metric]
            np.testing.assert_allclose(actual, values, atol=2e-3)


@pytest.mark.slow
def test_metrics_that_are_named_are_those_of_the_package(model, batch):
    images, labels, masks = batch
    names = comparison.MORE_METRICS
    found = comparison.compare(
        model, [batch], explainers=["GradCAM"], metrics=[*names], seed=3
    )
    explain = explainers.GradCAM(model)
    classes = model.predict_on_batch(images).argmax(axis=-1)
    maps = explain(images, classes)
    seeded = {"infidelity", "road", "max_sensitivity"}
    for name in names:
        function = getattr(metrics, name)
        taken = inspect.signature(function).parameters
        offered = {
            "model": model,
            "images": images,
            "maps": maps,
            "classes": classes,
            "masks": masks,
            "explain": explain,
        }
        given = {key: offered[key] for key in taken if key in offered}
        if name in seeded:
            given["seed"] = 3
        actual = found.values["GradCAM"][name]
        np.testing.assert_allclose(actual, function(**given), atol=1e-5)
    assert [row.metric for row in found.rows] == [*names]
    directions = {row.metric: row.better for row in found.rows}
    assert directions["road"] == "higher"
    assert directions["infidelity"] == "lower"
    # Without masks one of them has nothing to compare with.
    for name, what in [
        ("relevance_rank_accuracy", "without masks.*data with masks"),
        ("pointing_game", "without masks"),
        ("stability", "without another model.*--other"),
    ]:
        with pytest.raises(ValueError, match=f"'{name}' {what}"):
            comparison.compare(model, [batch[:2]], metrics=[name])


def test_a_source_is_sampled_with_its_classes_in_proportion(model):
    labels = np.repeat([0, 1, 2], [8, 8, 4])
    images = np.ones((20, 32, 32, 3)) * labels.reshape(-1, 1, 1, 1)
    pairs = tf.data.Dataset.from_tensor_slices((images.astype("uint8"), labels))
    source = data.from_datasets(
        pairs.batch(5), pairs.batch(5), class_names=["ant", "bee", "cow"]
    )
    planned = comparison.plan(
        model,
        source,
        split="validation",
        count=5,
        batch_size=2,
        explainers=["AttentionMap"],
        metrics=["average_drop"],
    )
    assert planned.source.counts == {"ant": 2, "bee": 2, "cow": 1}
    found = planned.run()
    assert sorted(found.labels.tolist()) == [0, 0, 1, 1, 2]
    (row,) = found.rows
    assert (row.metric, row.images) == ("average_drop", 5)


@pytest.mark.slow
def test_of_several_labels_the_likeliest_is_explained(batch):
    model = keras_lficam.build(
        backbone((32, 32, 3)),
        3,
        input_shape=(32, 32, 3),
        classifier_activation="sigmoid",
    )
    images, _, masks = batch
    scores = model.predict_on_batch(images)
    best, middle, worst = np.argsort(-scores, axis=-1).T
    labels = np.zeros((6, 3), "float32")
    rows = np.arange(6)
    labels[rows, worst] = 1
    labels[rows[:4], middle[:4]] = 1
    labels[0] = 0  # An image of no class.
    found = comparison.compare(
        model,
        [(images, labels, masks)],
        explainers=["GradCAM"],
        metrics=["average_drop"],
    )
    expected = [best[0], *middle[1:4], *worst[4:]]
    np.testing.assert_array_equal(found.classes, expected)
    maps = explainers.GradCAM(model)(images, found.classes)
    np.testing.assert_allclose(
        found.values["GradCAM"]["average_drop"],
        metrics.average_drop(model, images, maps, found.classes),
        atol=2e-3,
    )


def test_explainers_that_cannot_are_left_out_unless_named(model, batch):
    plain = keras_lficam.build(
        backbone((32, 32, 3)),
        3,
        input_shape=(32, 32, 3),
        architecture="plain",
    )
    planned = comparison.plan(plain, [batch[:2]], samples=3)
    assert tuple(planned.explainers) == comparison.STANDARD_EXPLAINERS[1:]
    (reason,) = planned.left_out.values()
    assert "'attention_map'" in reason
    assert "To fix this" not in reason
    assert planned.explainers["RISE"].passes == (4, 0)
    with pytest.raises(ValueError, match="'attention_map'"):
        comparison.plan(plain, [batch], explainers=["AttentionMap"])
    with pytest.raises(ValueError, match="`explainers` must hold one that"):
        comparison.plan(plain, [batch], explainers={})


def test_explainers_and_metrics_of_ones_own(model, batch):
    def middle(model):
        del model
        return lambda images, classes: np.ones_like(images[..., :1])

    makers = {"mine": middle, "ours": explainers.AttentionMap}
    asked = comparison.standard_metrics(model, makers)
    assert list(asked) == [*STANDARD[:4], "sanity"]
    asked = {"sanity": asked["sanity"]} | {
        "level": lambda maps: maps.mean(axis=(1, 2, 3)),
        "stable": Metric(
            metrics.map_iou, others={"ours": makers["ours"](model)}
        ),
    }
    found = comparison.compare(
        model, [batch[:2]], explainers=makers, metrics=asked
    )
    np.testing.assert_array_equal(found.values["mine"]["level"], np.ones(6))
    # A constant map has no order.
    np.testing.assert_array_equal(found.values["mine"]["sanity"], np.zeros(6))
    np.testing.assert_array_equal(found.values["ours"]["stable"], np.ones(6))
    assert "stable" not in found.values["mine"]


def test_stability_is_the_overlap_with_another_training(model, batch):
    found = comparison.compare(
        model,
        [batch[:2]],
        explainers=["AttentionMap"],
        metrics=["stability"],
        other=model,
    )
    np.testing.assert_array_equal(
        found.values["AttentionMap"]["stability"], np.ones(6)
    )
    assert found.rows[0].better == "higher"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"explainers": "CAM"}, TypeError, "`explainers` must be a list"),
        ({"explainers": ["SCAM"]}, ValueError, "`explainers`.*'SCAM'"),
        ({"metrics": "sanity"}, TypeError, "`metrics` must be a list"),
        ({"metrics": ["stability"]}, ValueError, "`metrics`.*'stability'"),
        ({"count": 0}, ValueError, "`count`"),
        ({"split": "exam"}, ValueError, "`split`"),
        ({"image_size": (8, 8)}, ValueError, r"`image_size`.*\(32, 32\)"),
    ],
)
def test_wrong_request_is_refused(change, error, message, model, batch):
    images, labels, _ = batch
    pairs = tf.data.Dataset.from_tensor_slices((images.astype("uint8"), labels))
    source = data.from_datasets(
        pairs.batch(3), pairs.batch(3), class_names=["ant", "bee", "cow"]
    )
    options = {"split": "validation", "explainers": ["AttentionMap"], **change}
    with pytest.raises(error, match=message):
        comparison.compare(model, source, **options)


def test_models_that_do_not_fit_are_refused(model, batch):
    build = functools.partial(keras_lficam.build, input_shape=(32, 32, 3))
    four = build(backbone((32, 32, 3)), 4)
    with pytest.raises(ValueError, match="`other`.*knows 4 classes"):
        comparison.plan(model, [batch], other=four)
    images, labels, _ = batch
    pairs = tf.data.Dataset.from_tensor_slices((images, labels)).batch(3)
    source = data.from_datasets(pairs, pairs, class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="knows 4 classes, and .* has 3"):
        comparison.plan(four, source, split="validation")
