"""What epochs are compared by: the metric, the best epoch, when it stops."""

import json
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from logs import rows
from sklearn import metrics as scores
from small_classifiers import labeled_images, normalized_backbone

import keras_lficam
from keras_lficam import data
from keras_lficam.training import Recipe
from keras_lficam.training.callbacks import BestModel

NAMES = ["a", "b", "c"]


def source_of(labels=None):
    """With these validation labels of 13 images."""
    training = tf.data.Dataset.from_tensor_slices(labeled_images(9, 0)).batch(5)
    images, usual = labeled_images(13, 1)
    labels = usual if labels is None else np.array(labels)
    if labels.ndim == 2:
        several = np.eye(3)[labeled_images(9, 0)[1]]
        training = tf.data.Dataset.from_tensor_slices(
            (labeled_images(9, 0)[0], several)
        ).batch(5)
    validation = tf.data.Dataset.from_tensor_slices((images, labels)).batch(5)
    return data.from_datasets(training, validation, class_names=NAMES)


def classifier(**options):
    keras.utils.set_random_seed(7)
    return keras_lficam.build(
        normalized_backbone(), 3, input_shape=(16, 16, 3), **options
    )


def fit(folder, source, model, **recipe):
    recipe = Recipe(batch_size=9, learning_rate=0.02, **recipe)
    return keras_lficam.fit(
        model, source, recipe, folder=folder, heat_maps_every=0, verbose=0
    )


def of_each(score, labels, chances):
    """The mean over the classes, each against the rest."""
    return np.mean(
        [score(labels == k, chances[:, k]) for k in np.unique(labels)]
    )


BY_SKLEARN = {
    "balanced_accuracy": lambda labels, chances: scores.balanced_accuracy_score(
        labels, chances.argmax(1)
    ),
    "macro_f1": lambda labels, chances: scores.f1_score(
        labels, chances.argmax(1), average="macro", labels=np.unique(labels)
    ),
    "roc_auc": lambda labels, chances: of_each(
        scores.roc_auc_score, labels, chances
    ),
    "average_precision": lambda labels, chances: of_each(
        scores.average_precision_score, labels, chances
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("monitor", "options", "averaged"),
    [
        ("balanced_accuracy", {"architecture": "abn"}, 1),
        ("macro_f1", {"classifier_activation": None}, 0),
        ("roc_auc", {}, 1),
        ("average_precision", {}, 0),
    ],
)
def test_it_is_the_metric_of_all_predictions_together(
    tmp_path, monitor, options, averaged
):
    """Of unequal classes, in batches, with the weights that are saved."""
    labels = np.array([0, 0, 0, 1, 0, 1, 0, 2, 0, 0, 1, 0, 0])
    seen = []

    def remember(epoch, logs):
        found = model(labeled_images(13, 1)[0], training=False)
        found = found["predictions"] if isinstance(found, dict) else found
        chances = np.array(found, "float64")
        if options.get("classifier_activation", "") is None:
            chances = np.exp(chances) / np.exp(chances).sum(-1, keepdims=True)
        seen.append((chances, model.get_weights()))

    model = classifier(**options)
    keras_lficam.fit(
        model,
        source_of(labels),
        Recipe(
            epochs=3,
            batch_size=5,
            learning_rate=0.02,
            monitor=monitor,
            ema_epochs=averaged,
        ),
        folder=tmp_path / "run",
        heat_maps_every=0,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=remember)],
    )
    logged = [row[f"val_{monitor}"] for row in rows(tmp_path / "run")]
    expected = [BY_SKLEARN[monitor](labels, chances) for chances, _ in seen]
    assert logged == pytest.approx(expected, abs=1e-6)
    losses = [row["val_loss"] for row in rows(tmp_path / "run")]
    best = max(range(3), key=lambda epoch: (logged[epoch], -losses[epoch]))
    for one, other in zip(model.get_weights(), seen[best][1], strict=True):
        np.testing.assert_array_equal(one, other)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["best_epoch"] == best + 1
    assert metrics["monitor"] == monitor


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_several_labels_are_monitored(tmp_path):
    labels = np.random.default_rng(3).integers(0, 2, (13, 3))
    model = classifier(classifier_activation="sigmoid")
    fit(
        tmp_path / "run",
        source_of(labels),
        model,
        epochs=1,
        monitor="average_precision",
    )
    chances = np.array(model(labeled_images(13, 1)[0], training=False))
    (row,) = rows(tmp_path / "run")
    assert row["val_average_precision"] == pytest.approx(
        scores.average_precision_score(labels, chances, average="macro")
    )


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("monitor", "rate", "epochs"),
    # The loss falls as long as it learns; what does not learn has no gain.
    [("loss", 1e-3, 6), ("loss", 1e-12, 3), ("roc_auc", 1e-12, 3)],
)
def test_training_stops_by_what_is_monitored(tmp_path, monitor, rate, epochs):
    recipe = Recipe(
        epochs=6,
        batch_size=9,
        learning_rate=rate,
        monitor=monitor,
        patience=2,
        recompute_statistics=True,
    )
    # On the images that it learns.
    images, labels = labeled_images(9, 0)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(9)
    history = keras_lficam.fit(
        classifier(architecture="plain"),
        data.from_datasets(batches, batches, class_names=NAMES),
        recipe,
        folder=tmp_path / "run",
        heat_maps_every=0,
        verbose=0,
    )
    assert len(history.epoch) == epochs


@pytest.mark.parametrize(
    ("monitor", "values", "losses", "best"),
    [
        ("val_roc_auc", [0.5, 0.9, 0.7], [1, 2, 0.5], 1),
        # Of equal ones the lowest loss, of those the first.
        ("val_roc_auc", [0.9, 0.9, 0.9], [3, 2, 2], 1),
        ("val_roc_auc", [float("nan"), 0.1, 0.1], [1, 2, float("nan")], 1),
        ("val_loss", [3, 1, 2], [3, 1, 2], 1),
        ("val_loss", [float("nan"), 1, 2], [float("nan"), 1, 2], 1),
    ],
)
def test_the_best_epoch(tmp_path, monitor, values, losses, best):
    logged = [
        {"val_loss": loss} | {monitor: value}
        for value, loss in zip(values, losses, strict=True)
    ]
    kept = BestModel(
        tmp_path / "model.keras",
        monitor=monitor,
        rows=logged,
        write=False,
        saved=keras.Model(),
    )
    assert kept.epoch == best


@pytest.mark.usefixtures("eagerly")
def test_classes_that_validation_lacks_are_named(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "keras_lficam")
    labels = [0, 1] * 6 + [0]
    recipe = {"epochs": 1, "monitor": "roc_auc"}
    model = classifier()
    fit(tmp_path / "run", source_of(labels), model, **recipe)
    assert (
        "Validation images of 'c', or of other classes, are missing: roc_auc "
        "leaves it out"
    ) in caplog.text
    (row,) = rows(tmp_path / "run")
    chances = np.array(model(labeled_images(13, 1)[0], training=False))
    assert row["val_roc_auc"] == pytest.approx(
        of_each(scores.roc_auc_score, np.array(labels), chances)
    )
    with pytest.raises(ValueError, match="`monitor` must be .*'a'.* To fix"):
        fit(tmp_path / "other", source_of([0] * 13), classifier(), **recipe)
    assert not (tmp_path / "other").exists()
