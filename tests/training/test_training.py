"""Runs of `fit`: what they compute, write, and how they go on."""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import textwrap

import keras
import numpy as np
import PIL.Image
import processes
import pytest
import tensorflow as tf
from interruptions import Kill, Killed
from logs import rows
from sklearn.utils.class_weight import compute_class_weight
from small_classifiers import labeled_images, normalized_backbone

import keras_lficam
from keras_lficam import data, training
from keras_lficam.data.sources.files import FilesSource
from keras_lficam.data.targets import with_targets
from keras_lficam.metrics.classification import measure
from keras_lficam.training import Recipe, _state as state, running
from keras_lficam.training._averages import BatchStatistics
from keras_lficam.training._weights import class_weights

# Of 41 images in batches of 8; epochs of 6 steps do not end with a pass.
NUMBER, BATCH, STEPS = 41, 8, 6
# Epochs of two steps, where their number is nothing to the test.
HALF = 21
RECIPE = Recipe(
    epochs=3,
    batch_size=BATCH,
    learning_rate=0.01,
    weight_decay=0.01,
    warmup_epochs=1,
    label_smoothing=0.1,
    ema_epochs=0.5,
    augmentation=("pad_crop", "flip"),
)
NAMES = ["stripes", "dots", "plain"]


def batches(number, seed):
    return tf.data.Dataset.from_tensor_slices(
        labeled_images(number, seed)
    ).batch(5)


@pytest.fixture(scope="module")
def source():
    return data.from_datasets(
        batches(NUMBER, 0),
        batches(13, 1),
        test=batches(11, 2),
        class_names=NAMES,
    )


def classifier(**options):
    keras.utils.set_random_seed(7)
    # How a run goes on is the same with every architecture.
    options = {"architecture": "plain", "dropout": 0.2} | options
    return keras_lficam.build(
        normalized_backbone(), 3, input_shape=(16, 16, 3), **options
    )


def weights(model):
    return [np.array(value) for value in model.get_weights()]


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def run(folder, source, recipe=RECIPE, *, model=None, **options):
    model = model or classifier()
    options = {"heat_maps_every": 0, "verbose": 0, "seed": 3} | options
    history = keras_lficam.fit(model, source, recipe, folder=folder, **options)
    return model, history


# ----------------------------------------------------------- what is computed


@pytest.mark.slow
def test_fit_is_model_fit_with_the_recipe(tmp_path, source):
    """The same steps by hand: stream, loss, L2 in the gradient, momentum."""
    recipe = Recipe(
        epochs=2,
        batch_size=BATCH,
        optimizer="sgd",
        learning_rate=0.05,
        weight_decay=0.01,
        schedule="constant",
    )
    model = classifier(architecture="lfi_cam")
    run(tmp_path / "run", source, recipe, model=model)
    by_hand = classifier(architecture="lfi_cam")
    stream = source.stream(
        "train", image_size=(16, 16), batch_size=BATCH, seed=3
    )
    velocity = [np.zeros(v.shape) for v in by_hand.trainable_variables]
    best = None
    for step, (images, labels) in enumerate(stream.take(2 * STEPS)):
        with tf.GradientTape() as tape:
            chances = by_hand(images, training=True)
            picked = tf.gather(chances, labels, batch_dims=1)
            loss = -tf.reduce_mean(tf.math.log(picked))
        gradients = tape.gradient(loss, by_hand.trainable_variables)
        for number, variable in enumerate(by_hand.trainable_variables):
            penalized = gradients[number] + 0.01 * variable
            velocity[number] = 0.9 * velocity[number] + penalized
            variable.assign(variable - 0.05 * velocity[number])
        if (step + 1) % STEPS == 0:
            images, labels = labeled_images(13, 1)
            chances = by_hand(images, training=False).numpy()
            right = (chances.argmax(-1) == labels).mean()
            value = -np.log(chances[np.arange(13), labels]).mean()
            score = (right, -value)
            logged = rows(tmp_path / "run")[step // STEPS]
            assert logged["val_accuracy"] == pytest.approx(right)
            assert logged["val_loss"] == pytest.approx(value, rel=1e-4)
            if best is None or score > best[0]:
                best = score, weights(by_hand)
    for one, other in zip(weights(model), best[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_best_epoch_is_kept_and_the_test_images_never_choose(
    tmp_path, source, whole_run
):
    folder, expected, history = whole_run
    logged = rows(folder)
    scores = [(row["val_accuracy"], -row["val_loss"]) for row in logged]
    best = scores.index(max(scores))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["best_epoch"] == best + 1
    assert metrics["validation_loss"] == pytest.approx(-scores[best][1])
    assert history.history["val_loss"] == pytest.approx(
        [row["val_loss"] for row in logged]
    )
    model = keras.models.load_model(folder / "model.keras")
    assert_equal(weights(model), expected)
    assert getattr(model, "optimizer", None) is None
    images, labels = labeled_images(11, 2)
    chances = np.array(model(images, training=False))
    tested = (chances.argmax(-1) == labels).mean()
    assert metrics["test_accuracy"] == pytest.approx(tested)
    images, labels = labeled_images(13, 1)
    chances = np.array(model(images, training=False))
    right = (chances.argmax(-1) == labels).mean()
    assert metrics["validation_accuracy"] == pytest.approx(right)
    # What stands beside it is measured with the same weights.
    seed = json.loads((folder / "run.json").read_text())["seed"]
    found = measure(labels, chances, NAMES, seed=seed).to_dict()
    for name in ("accuracy", "macro_f1", "log_loss"):
        assert metrics["validation"][name] == {
            "value": pytest.approx(found[name]["value"], abs=1e-5),
            "interval": pytest.approx(found[name]["interval"], abs=1e-5),
        }
    assert metrics["validation"]["confusion"] == found["confusion"]
    assert metrics["test"]["accuracy"]["value"] == pytest.approx(tested)
    # Another test set changes nothing but its own numbers.
    other = data.from_datasets(
        batches(NUMBER, 0),
        batches(13, 1),
        test=batches(9, 5),
        class_names=NAMES,
    )
    again, _ = run(tmp_path / "other", other)
    assert_equal(weights(again), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_follows_the_activation(
    tmp_path, source, activation, smoothing
):
    recipe = dataclasses.replace(
        RECIPE,
        epochs=1,
        batch_size=HALF,
        augmentation=(),
        ema_epochs=0,
        label_smoothing=smoothing,
    )
    model = classifier(classifier_activation=activation)
    run(tmp_path / "run", source, recipe, model=model)
    images, labels = labeled_images(13, 1)
    scores = np.array(model(images, training=False), "float64")
    one_hot = np.eye(3)[labels]
    if activation is None:
        chances = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        target = one_hot * (1 - smoothing) + smoothing / 3
        loss = -(target * np.log(chances)).sum(-1).mean()
    else:
        target = one_hot * (1 - smoothing) + smoothing / 2
        loss = -(
            target * np.log(scores) + (1 - target) * np.log(1 - scores)
        ).mean()
    (row,) = rows(tmp_path / "run")
    assert row["val_loss"] == pytest.approx(loss, rel=1e-3)
    assert row["val_accuracy"] == pytest.approx(
        (scores.argmax(-1) == labels).mean()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_both_outputs_of_an_attention_branch_network_learn(tmp_path, source):
    recipe = dataclasses.replace(RECIPE, epochs=2, batch_size=HALF)
    model = classifier(architecture="abn", dropout=None)
    before = weights(model)
    run(tmp_path / "run", source, recipe, model=model)
    for row in rows(tmp_path / "run"):
        total = (
            row["val_predictions_loss"] + row["val_attention_predictions_loss"]
        )
        assert row["val_loss"] == pytest.approx(total, rel=1e-5)
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(before, weights(model), strict=True)
    ]
    assert all(changed)


# ------------------------------------------ weights, and several labels


def weighted(number, seed, labels=None):
    images, single = labeled_images(number, seed)
    weights = np.random.default_rng(seed).uniform(0, 3, number)
    labels = single if labels is None else labels
    return tf.data.Dataset.from_tensor_slices(
        (images, labels, weights.astype("float32"))
    ).batch(5)


STILL = Recipe(epochs=1, batch_size=HALF, learning_rate=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "architecture",
    ["plain", pytest.param("abn", marks=pytest.mark.end_to_end)],
)
@pytest.mark.parametrize(
    ("class_weight", "of_classes", "of_images", "smoothing"),
    [
        ({0: 2.0, "plain": 0.5}, [2, 1, 0.5], False, 0.0),
        ("balanced", [41 / 42, 41 / 42, 41 / 39], True, 0.3),
        (None, [1, 1, 1], True, 0.0),
    ],
)
def test_the_loss_is_weighted(
    tmp_path, source, architecture, class_weight, of_classes, of_images,
    smoothing,
):  # fmt: skip
    if of_images:
        source = data.from_datasets(
            weighted(NUMBER, 0), weighted(13, 1), class_names=NAMES
        )
    options = {"architecture": architecture, "dropout": None}
    model, by_hand = classifier(**options), classifier(**options)
    recipe = dataclasses.replace(STILL, label_smoothing=smoothing)
    run(
        tmp_path / "run", source, recipe, model=model, class_weight=class_weight
    )
    (row,) = rows(tmp_path / "run")

    def losses(images, labels, weights, **training):
        found = by_hand(images, **training)
        found = list(found.values()) if architecture == "abn" else [found]
        target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
        each = [-(target * np.log(np.array(p))).sum(-1) for p in found]
        return (weights * np.array(each)).sum(0)

    stream = source.stream(
        "train", image_size=(16, 16), batch_size=HALF, seed=3
    )
    total = []
    for images, labels, *weights in stream.take(2).as_numpy_iterator():
        weight = np.array(of_classes)[labels]
        if of_images:
            weight = weight * weights[0]
        total.append(losses(images, labels, weight, training=True).mean())
    assert row["loss"] == pytest.approx(np.mean(total), rel=1e-4)
    images, labels = labeled_images(13, 1)
    weight = np.ones(13)
    if of_images:  # Those of classes are for training alone.
        weight = np.random.default_rng(1).uniform(0, 3, 13)
    by_hand.set_weights(model.get_weights())
    expected = losses(images, labels, weight, training=False).mean()
    assert row["val_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "augmentation",
    [
        pytest.param(("flip",), marks=pytest.mark.end_to_end),
        ("mix_up", "cut_mix"),
    ],
)
def test_images_with_several_labels(tmp_path, augmentation):
    rng = np.random.default_rng(4)
    labels, held_out = rng.integers(0, 2, (41, 3)), rng.integers(0, 2, (13, 3))
    training = tf.data.Dataset.from_tensor_slices(
        (labeled_images(41, 0)[0], labels)
    )
    several = data.from_datasets(
        training.batch(5), weighted(13, 1, held_out), class_names=NAMES
    )
    assert several.multi_label
    assert several.class_counts("train").tolist() == labels.sum(0).tolist()
    model = classifier(
        architecture="lfi_cam", classifier_activation="sigmoid", dropout=None
    )
    recipe = dataclasses.replace(
        RECIPE, epochs=1, batch_size=HALF, augmentation=augmentation
    )
    run(tmp_path / "run", several, recipe, model=model, heat_maps_every=1)
    (row,) = rows(tmp_path / "run")
    found = np.array(model(labeled_images(13, 1)[0], training=False), "float64")
    weight = np.random.default_rng(1).uniform(0, 3, 13)
    target = held_out * 0.9 + 0.05
    each = -(target * np.log(found) + (1 - target) * np.log(1 - found))
    expected = (weight * each.mean(-1)).mean()
    assert row["val_loss"] == pytest.approx(expected, rel=1e-4)
    right = (found > 0.5) == held_out
    assert row["val_accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("class_weight", "error", "message"),
    [
        ("heavy", ValueError, "must be 'balanced', or a dict.*'heavy'"),
        ([1, 2, 3], TypeError, "must be 'balanced', or a dictionary"),
        ({3: 1.0}, ValueError, "numbers from 0 to 2. Received: 3"),
        ({"cat": 1.0}, ValueError, "names .*'stripes'.* Received: 'cat'"),
        ({True: 1.0}, ValueError, "Received: True"),
        ({0: -1.0}, ValueError, "at least 0. Received: -1.0 for 0"),
        ({0: float("nan")}, ValueError, "Received: nan for 0"),
        ({0: "1"}, ValueError, "Received: '1' for 0"),
        ({0: 0, 1: 0, 2: 0}, ValueError, "leave a weight above 0"),
    ],
)
def test_wrong_class_weights_are_refused(source, class_weight, error, message):
    with pytest.raises(error, match=message):
        class_weights(class_weight, source)


def of_labels(labels):
    """Training images with these labels."""
    count = len(labels)
    return data.from_datasets(
        weighted(count, 0, np.array(labels)),
        weighted(count, 1, np.array(labels)),
        class_names=NAMES,
    )


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    balanced = class_weights("balanced", of_labels(labels))
    assert balanced == pytest.approx([8 / 15, 8 / 6, 8 / 3])
    np.testing.assert_allclose(
        balanced,
        compute_class_weight("balanced", classes=np.arange(3), y=labels),
    )
    several = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    pairs = class_weights("balanced", of_labels(several))
    np.testing.assert_allclose(
        pairs,
        [
            compute_class_weight("balanced", classes=np.arange(2), y=label)
            for label in several.T
        ],
    )
    assert pairs[1] == [5 / 8, 5 / 2]
    given = class_weights({"dots": 3.0}, of_labels(several))
    assert given == [[1, 1], [1, 3], [1, 1]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2, 2], "has no training images.* for 'dots'. To fix this"),
        ([[1, 0, 0], [0, 1, 0]], "no training images.* for 'plain'"),
        ([[1, 1, 0], [0, 1, 1]], "has all training images.* for 'dots'"),
    ],
)
def test_a_class_without_images_cannot_be_balanced(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        class_weights("balanced", of_labels(labels))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 1, 1, 2, 2, 2, 2], "balanced"),
        ([0, 0, 0, 1, 1, 2, 2], None),
        ([0, 0, 1, 1, 1, 1], None),
        (np.eye(3, dtype="int64")[[0, 1, 2, 2, 2, 2]], None),
    ],
)
def test_a_recipe_by_name_weighs_unequal_classes(tmp_path, labels, expected):
    """2 and 1.5 times as many; an empty class; several labels."""
    several = np.ndim(labels) == 2
    model = classifier(
        classifier_activation="sigmoid" if several else "softmax"
    )
    plan = running._plan(
        model, of_labels(labels), "modern", tmp_path, seed=0,
        steps_per_execution=1,
    )  # fmt: skip
    assert plan.recipe.class_weight == expected


@pytest.mark.slow
def test_weights_of_a_recipe_are_those_of_fit(tmp_path, source):
    recipe = dataclasses.replace(
        STILL, class_weight={"dots": np.float32(2.0), 0: 0.5}
    )
    assert recipe.class_weight == (("dots", 2.0), (0, 0.5))
    hash(recipe)
    again = Recipe(**json.loads(json.dumps(dataclasses.asdict(STILL))))
    assert again == STILL
    run(tmp_path / "run", source, recipe)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["class_weights"] == [0.5, 2.0, 1.0]
    # An argument of `fit` counts before the recipe's.
    run(tmp_path / "other", source, recipe, class_weight={0: 3.0})
    about = json.loads((tmp_path / "other" / "run.json").read_text())
    assert about["class_weights"] == [3.0, 1.0, 1.0]


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("of_images", [False, True])
def test_the_loss_of_several_labels_is_weighted(tmp_path, of_images):
    rng = np.random.default_rng(4)
    labels, held_out = rng.integers(0, 2, (41, 3)), rng.integers(0, 2, (13, 3))
    training = weighted(NUMBER, 0, labels)
    if not of_images:
        training = training.map(lambda images, labels, _: (images, labels))
    several = data.from_datasets(
        training, weighted(13, 1, held_out), class_names=NAMES
    )
    options = {
        "architecture": "abn",
        "classifier_activation": "sigmoid",
        "dropout": None,
    }
    model, by_hand = classifier(**options), classifier(**options)
    recipe = dataclasses.replace(
        STILL, label_smoothing=0.2, class_weight="balanced"
    )
    run(tmp_path / "run", several, recipe, model=model)
    (row,) = rows(tmp_path / "run")

    def losses(images, labels, **training):
        """Binary cross-entropy of each label of both outputs, `(B, K)`."""
        target = labels * 0.8 + 0.1
        found = [
            np.array(value, "float64")
            for value in by_hand(images, **training).values()
        ]
        return -sum(
            target * np.log(p) + (1 - target) * np.log(1 - p) for p in found
        )

    present = labels.sum(0)
    total = []
    stream = several.stream(
        "train", image_size=(16, 16), batch_size=HALF, seed=3
    )
    for images, some, *weight in stream.take(2).as_numpy_iterator():
        weights = np.where(some == 1, 41 / 2 / present, 41 / 2 / (41 - present))
        if of_images:
            weights = weights * weight[0][:, np.newaxis]
        total.append((weights * losses(images, some, training=True)).mean())
    assert row["loss"] == pytest.approx(np.mean(total), rel=1e-4)
    # In validation there are the weights of images alone.
    by_hand.set_weights(model.get_weights())
    each = losses(labeled_images(13, 1)[0], held_out, training=False).mean(-1)
    weight = np.random.default_rng(1).uniform(0, 3, 13)
    assert row["val_loss"] == pytest.approx((weight * each).mean(), rel=1e-4)


def test_several_labels_need_a_sigmoid(tmp_path):
    with pytest.raises(ValueError, match="sigmoid.*To fix this"):
        run(tmp_path / "run", of_labels(np.eye(3)[np.arange(9) % 3]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        ([[0, 2, 0]], [1.0], "0 or 1 for each class.*label 2"),
        ([1], [-1.0], "at least 0. Received: from -1.0"),
        ([1], [np.inf], "must be finite"),
    ],
)
def test_impossible_labels_and_weights_are_refused(labels, weights, message):
    images = np.full((1, 16, 16, 3), 200, "uint8")
    batches = tf.data.Dataset.from_tensor_slices((images, labels, weights))
    wrong = data.from_datasets(
        batches.batch(1), batches.batch(1), class_names=NAMES
    )
    with pytest.raises(ValueError, match=message):
        wrong.count("train")


def test_images_with_weights_are_not_mixed(tmp_path):
    source = data.from_datasets(
        weighted(9, 0), weighted(9, 1), class_names=NAMES
    )
    recipe = dataclasses.replace(RECIPE, augmentation=("mix_up",))
    with pytest.raises(ValueError, match="must not mix images"):
        run(tmp_path / "run", source, recipe)


def test_the_weight_of_a_mixed_image_is_the_mean_of_its_classes():
    shares = np.array([[0.25, 0.75, 0], [0, 0, 1]], "float32")
    batches = tf.data.Dataset.from_tensors((np.zeros((2, 1)), shares))
    ((_, labels, weights),) = with_targets(
        batches, outputs=["one", "two"], class_weights=[2.0, 4.0, 5.0]
    ).as_numpy_iterator()
    assert labels.keys() == weights.keys() == {"one", "two"}
    assert weights["two"].tolist() == [3.5, 5.0]
    ((_, _, weights),) = with_targets(
        batches, class_weights=[[1.0, 2.0], [1.0, 4.0], [2.0, 5.0]]
    ).as_numpy_iterator()
    assert weights.tolist() == [[1.25, 3.25, 2.0], [1.0, 1.0, 5.0]]


class Recorded(keras.callbacks.Callback):
    """The weights of every step, and what the epochs end with."""

    def on_train_begin(self, logs=None):
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append([np.array(v) for v in self.model.trainable_variables])

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(weights(self.model))


def statistics_by_hand(trained, images):
    """Mean and variance in front of both normalizations, batch by batch."""
    found = [[], []]
    for batch in images:
        x = np.asarray(batch, "float64") / 255
        for number in range(2):
            kernel, bias, gamma, beta = trained[4 * number : 4 * number + 4]
            x = tf.nn.conv2d(x, kernel.astype("float64"), 2, "SAME") + bias
            mean, variance = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
            found[number].append((mean, np.mean(np.square(x), (0, 1, 2))))
            x = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
            x = np.maximum(x, 0)
    for number in range(2):
        mean, square = np.mean(found[number], 0)
        yield mean, square - mean**2


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("policy", "averaged"),
    [
        ("float32", True),
        pytest.param("mixed_float16", True, marks=pytest.mark.end_to_end),
        pytest.param("float32", False, marks=pytest.mark.end_to_end),
    ],
)
def test_weights_are_shown_with_the_batch_statistics_that_belong_to_them(
    tmp_path, source, policy, averaged
):
    keras.config.set_dtype_policy(policy)
    recipe = dataclasses.replace(
        RECIPE,
        epochs=2,
        batch_size=HALF,
        ema_epochs=int(averaged),
        recompute_statistics=True,
    )
    steps = 2  # Of an epoch.
    model, recorded = classifier(dropout=None), Recorded()
    run(tmp_path / "run", source, recipe, model=model, callbacks=[recorded])
    stream = source.stream(
        "train",
        image_size=(16, 16),
        batch_size=HALF,
        seed=3,
        augmentation=RECIPE.augmentation,
    )
    images = [batch for batch, _ in stream.take(steps)]
    close = {"rtol": 1e-3, "atol": 1e-5} if policy == "float32" else {}
    close = close or {"rtol": 0.02, "atol": 2e-3}
    average = recorded.steps[0]
    for step, trained in enumerate(recorded.steps):
        momentum = averaged * min(1 - 1 / steps, step / (9 + step))
        average = [
            momentum * old + (1 - momentum) * new
            for old, new in zip(average, trained, strict=True)
        ]
        if (step + 1) % steps:
            continue
        (first, second) = statistics_by_hand(average, images)
        expected = [*average[:4], *first, *average[4:8], *second]
        found = recorded.epochs[step // steps]
        for one, other in zip(found, expected + average[8:], strict=True):
            np.testing.assert_allclose(one, other, **close)


def test_batch_statistics_of_shared_and_frozen_layers(rng):
    layers = keras.layers
    image = keras.Input((4, 4, 3))
    twice, frozen = layers.BatchNormalization(), layers.BatchNormalization()
    frozen.trainable = False
    x = layers.Dropout(0.5)(twice(layers.Rescaling(2.0)(twice(image))))
    x = layers.BatchNormalization(momentum=0.0)(frozen(x))
    model = keras.Model(image, x)
    before = [np.array(variable) for variable in model.variables]
    images = [rng.normal(3, 2, (5, 4, 4, 3)) for _ in range(3)]
    statistics = BatchStatistics(model)
    values = statistics.of(images)
    assert_equal([np.array(variable) for variable in model.variables], before)
    first = []
    for batch in images:
        mean, variance = batch.mean((0, 1, 2)), batch.var((0, 1, 2))
        # Of the second call zero, and four times what the first one left.
        second = 4 * variance / (variance + 1e-3)
        share = 0.99 / 1.99
        first.append((share * mean, share * variance + (1 - share) * second))
    means, variances = np.array(first).swapaxes(0, 1)
    np.testing.assert_allclose(values[0], means.mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        values[1], (variances + (means - means.mean(0)) ** 2).mean(0), rtol=1e-4
    )
    assert statistics.layers == [twice, model.layers[-1]]
    assert values[3].min() > 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "mixing",
    ["mix_up", pytest.param("cut_mix", marks=pytest.mark.end_to_end)],
)
def test_mixed_labels_train_and_whole_labels_validate(tmp_path, source, mixing):
    recipe = dataclasses.replace(
        RECIPE,
        epochs=1,
        batch_size=HALF,
        label_smoothing=0,
        ema_epochs=0,
        augmentation=(mixing,),
    )
    model = classifier(dropout=None)
    run(tmp_path / "run", source, recipe, model=model)
    (row,) = rows(tmp_path / "run")
    images, labels = labeled_images(13, 1)
    chances = np.array(model(images, training=False), "float64")
    loss = -np.log(chances[np.arange(13), labels]).mean()
    assert row["val_loss"] == pytest.approx(loss, rel=1e-3)


# ------------------------------------------------------------- going on again


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp("whole") / "run"
    model, history = run(folder, source)
    return folder, weights(model), history


@pytest.mark.end_to_end
def test_a_run_that_was_killed_ends_as_if_it_was_not(
    tmp_path, source, whole_run
):
    folder, expected, history = whole_run
    options = {"checkpoint_every": 3, "resume": True}
    checkpoint = tmp_path / "run" / "checkpoint.npz"
    for kill, saved in [
        ({"step": 1}, None),  # Before anything was saved.
        ({"step": 4}, 3),  # In the first epoch, after a checkpoint.
        ({"step": 10}, 9),  # In the second epoch.
        ({"end": 1}, 9),  # After validation, before its end was saved.
        ({"step": 18}, 15),  # At the last step.
    ]:
        keras.utils.set_random_seed(99)  # Nothing hangs on it.
        model = classifier()
        if checkpoint.exists():
            model.set_weights([0 * value for value in model.get_weights()])
        callbacks = [Kill(**kill)]
        with pytest.raises(Killed):
            run(
                tmp_path / "run",
                source,
                model=model,
                callbacks=callbacks,
                **options,
            )
        assert checkpoint.exists() == bool(saved)
        if saved:
            assert state.load(checkpoint).step == saved
    model, resumed = run(tmp_path / "run", source, **options)
    assert_equal(weights(model), expected)
    assert_equal(
        state.load(checkpoint).values,
        state.load(folder / "checkpoint.npz").values,
    )
    assert resumed.history == history.history
    for name in ("log.csv", "metrics.json"):
        found = (tmp_path / "run" / name).read_text()
        assert found == (folder / name).read_text()


@pytest.mark.across_backends
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_run_that_was_killed_goes_on_on_other_backends(tmp_path, backend):
    program = """
        import pathlib, sys
        import numpy as np
        import test_training as t

        source = t.data.from_datasets(
            t.batches(41, 0), t.batches(13, 1), class_names=t.NAMES
        )
        one, other = (pathlib.Path(sys.argv[1]) / name for name in "ab")
        # Killed in the second of two stages.
        recipe = t.dataclasses.replace(
            t.RECIPE,
            epochs=2,
            class_weight="balanced",
            frozen_share=0.5,
            layer_decay=0.5,
            freeze_batch_norm=True,
        )

        def run(folder, **options):
            # On PyTorch dropout draws from a generator outside of the model.
            made = t.classifier(dropout=None)
            return t.run(folder, source, recipe, model=made, **options)

        model, _ = run(one)
        options = {"checkpoint_every": 3, "resume": True}
        try:
            run(other, callbacks=[t.Kill(step=10)], **options)
        except t.Killed:
            pass
        resumed, _ = run(other, **options)
        t.assert_equal(t.weights(resumed), t.weights(model))
        for name in ("log.csv", "metrics.json"):
            assert (one / name).read_text() == (other / name).read_text()
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    started = processes.start(
        [tmp_path / "program.py", tmp_path],
        KERAS_BACKEND=backend,
        PYTHONPATH=processes.modules_of(__file__),
    )
    processes.finish(started)


@pytest.mark.end_to_end
@pytest.mark.usefixtures("eagerly")
def test_steps_before_the_kill_are_not_done_again(tmp_path, source):
    with pytest.raises(Killed):
        run(
            tmp_path / "run",
            source,
            callbacks=[Kill(step=10)],
            checkpoint_every=3,
        )
    assert state.load(tmp_path / "run" / "checkpoint.npz").step == 9
    seen = []
    model = classifier()
    real = model.train_step
    model.train_step = lambda batch: real(batch)
    counter = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(bool(logs))
    )
    run(
        tmp_path / "run",
        source,
        model=model,
        resume=True,
        checkpoint_every=3,
        callbacks=[counter],
    )
    # Of the second epoch three steps are passed over, nine are left in all.
    assert seen == [False] * 3 + [True] * 9
    assert int(model.optimizer.iterations) == 3 * STEPS


@pytest.mark.end_to_end
def test_a_run_goes_on_with_several_steps_an_execution(tmp_path, source):
    options = {"steps_per_execution": 2, "checkpoint_every": 2}
    first, _ = run(tmp_path / "first", source, **options)
    # The second call of the second epoch, a call being two steps.
    kill = Kill(step=STEPS + 2)
    with pytest.raises(Killed):
        run(tmp_path / "run", source, callbacks=[kill], **options)
    assert state.load(tmp_path / "run" / "checkpoint.npz").step == 10
    model, _ = run(tmp_path / "run", source, resume=True, **options)
    assert_equal(weights(model), weights(first))


@pytest.mark.end_to_end
@pytest.mark.usefixtures("eagerly")
def test_early_stopping_remembers_the_epochs_before(tmp_path, source):
    recipe = dataclasses.replace(
        RECIPE,
        epochs=12,
        batch_size=HALF,
        learning_rate=1e-9,
        warmup_epochs=0,
        patience=3,
    )
    _, history = run(tmp_path / "first", source, recipe)
    ends = len(history.epoch)
    assert ends == 4  # The first is the best, then three that are no better.
    with pytest.raises(Killed):
        run(tmp_path / "run", source, recipe, callbacks=[Kill(step=5)])
    _, history = run(tmp_path / "run", source, recipe, resume=True)
    assert len(history.epoch) == ends
    # It has ended, so there is nothing left to do.
    _, history = run(tmp_path / "run", source, recipe, resume=True)
    assert len(history.epoch) == ends


def test_a_finished_run_is_not_trained_again(tmp_path, source, whole_run):
    folder, expected, history = whole_run
    model, again = run(folder, source, resume=True)
    assert_equal(weights(model), expected)
    assert again.history.keys() == history.history.keys()
    assert again.epoch == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("every", "step", "message"),
    [
        pytest.param(
            2,
            2,
            "checkpoint.npz: the file could not be written .*is unchanged",
            marks=pytest.mark.end_to_end,
        ),
        (3, 3, "model.keras: the file could not be written .*is unchanged"),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path, source, every, step, message
):
    class Full(keras.callbacks.Callback):
        """After three steps no file can be larger than 2 kB."""

        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = classifier()
    try:
        with pytest.raises(OSError, match=message):
            run(
                tmp_path / "run",
                source,
                model=model,
                checkpoint_every=every,
                callbacks=[Full()],
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert state.load(tmp_path / "run" / "checkpoint.npz").step == step
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_images_to_validate_and_test_are_decoded_once(tmp_path, monkeypatch):
    pixels, _ = labeled_images(9, 0)
    for number, image in enumerate(pixels):
        split = ("train", "validation", "test")[number // 3]
        path = tmp_path / "data" / split / NAMES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(path)
    decoded = []
    read = FilesSource._read

    def counted(self, path):
        decoded.append(pathlib.Path(os.fsdecode(path)).parts[-3])
        return read(self, path)

    monkeypatch.setattr(FilesSource, "_read", counted)
    recipe = Recipe(epochs=2, batch_size=2)
    run(tmp_path / "run", data.source(tmp_path / "data"), recipe)
    assert decoded.count("validation") == decoded.count("test") == 3


def test_an_interrupted_save_of_the_model_leaves_the_one_before(
    tmp_path, whole_run, monkeypatch
):
    path = tmp_path / "model.keras"
    shutil.copy(whole_run[0] / "model.keras", path)
    before = path.read_bytes()

    def interrupted(self, path, *arguments, **options):
        path.write_bytes(b"half a mod")
        raise Killed

    monkeypatch.setattr(keras.Model, "save", interrupted)
    best = training.callbacks.BestModel(
        path,
        monitor="val_accuracy",
        rows=[],
        write=True,
        saved=classifier(),
    )
    with pytest.raises(Killed):
        best.on_epoch_end(0, {"val_accuracy": 1.0, "val_loss": 0.0})
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


# ------------------------------------------------------------ what is written


def test_the_folder_holds_what_is_needed_to_do_it_again(whole_run):
    folder, _, _ = whole_run
    about = json.loads((folder / "run.json").read_text())
    assert Recipe(**about["recipe"]) == RECIPE
    assert about["seed"] == 3
    assert about["steps_per_epoch"] == STEPS
    assert about["data"]["images"] == {
        "train": NUMBER,
        "validation": 13,
        "test": 11,
    }
    assert about["versions"]["keras"] == keras.__version__
    assert (folder / "labels.txt").read_text().split() == NAMES


@pytest.mark.end_to_end
@pytest.mark.usefixtures("eagerly")
def test_heat_maps_of_the_same_images_are_drawn(tmp_path, source):
    from PIL import Image

    recipe = dataclasses.replace(RECIPE, epochs=5, batch_size=NUMBER)
    model = classifier(architecture="lfi_cam")
    run(tmp_path / "run", source, recipe, model=model, heat_maps_every=2)
    drawn = sorted((tmp_path / "run" / "heat_maps").iterdir())
    assert [path.name for path in drawn] == [
        f"epoch_000{epoch}.png" for epoch in (1, 2, 4, 5)
    ]
    first, *_, last = (np.asarray(Image.open(path)) for path in drawn)
    assert first.std() > 20
    assert first.shape == last.shape
    assert not np.array_equal(first, last)
    (log,) = (tmp_path / "run" / "tensorboard").glob("events*")
    shown = [
        (event.step, value.tag)
        for event in map(
            tf.compat.v1.Event.FromString,
            (record.numpy() for record in tf.data.TFRecordDataset([str(log)])),
        )
        for value in event.summary.value
    ]
    assert shown == [(step, "heat_maps") for step in (0, 1, 3, 4)]


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_heat_maps_in_a_fit_of_ones_own(tmp_path):
    images, labels = labeled_images(6, 0)
    model = classifier(architecture="lfi_cam")
    model.compile("adam", "sparse_categorical_crossentropy")
    maps = training.HeatMaps(
        keras_lficam.explainers.AttentionMap,
        images,
        labels,
        class_names=NAMES,
        every=3,
        folder=tmp_path,
    )
    model.fit(images, labels, epochs=4, callbacks=[maps], verbose=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch_0001.png",
        "epoch_0003.png",
        "epoch_0004.png",
    ]


def test_titles_of_heat_maps_ask_what_logits_are(tmp_path, monkeypatch):
    images = np.ones((2, 16, 16, 3)) * np.reshape([0, 1], (2, 1, 1, 1))
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(3, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )
    # The logit is five times the shade, less three: -3 and 2.
    kernels = np.full((3, 3, 3, 3), 1 / 27), np.zeros(3)
    model.set_weights([*kernels, np.array([[5], [0], [0]]), np.array([-3])])
    seen = []
    grid = keras_lficam.visualization.grid

    def watched(*arguments, titles):
        seen.extend(titles)
        return grid(*arguments, titles=titles)

    monkeypatch.setattr(keras_lficam.visualization, "grid", watched)

    def begun(**options):
        maps = training.HeatMaps(
            keras_lficam.explainers.GradCAM,
            images,
            class_names=["no", "yes"],
            folder=tmp_path,
            **options,
        )
        maps.set_model(model)
        maps.on_train_begin()
        return maps

    with pytest.raises(ValueError, match="activation='sigmoid'"):
        begun()
    # sigmoid(-3) = 0.047, sigmoid(2) = 0.881
    with pytest.warns(UserWarning, match="and these are black"):
        begun(activation="sigmoid").on_epoch_end(0)
    assert seen == ["no (95 %)", "yes (88 %)"]


# --------------------------------------------------------------- what is wrong


def test_a_folder_with_a_run_is_left_alone(whole_run, source):
    folder, _, _ = whole_run
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(ValueError, match="a run in this folder.*resume it"):
        run(folder, source)
    assert before == {
        path: path.stat().st_mtime_ns for path in folder.iterdir()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "differs in seed. It was 3, and is now 4"),
        (
            {"recipe": dataclasses.replace(RECIPE, epochs=9)},
            "differs in recipe. It was {'epochs': 3}, and is now",
        ),
        ({"steps_per_execution": 4}, "steps_per_epoch. It was 6, and is now 8"),
    ],
)
def test_another_run_is_not_resumed(whole_run, source, changes, message):
    folder, _, _ = whole_run
    with pytest.raises(ValueError, match=message):
        run(folder, source, resume=True, **changes)


def test_a_checkpoint_of_another_model_is_refused(tmp_path, source):
    small = classifier()
    small.compile("adam", "mse")
    small.optimizer.build(small.trainable_variables)
    state.save(
        state.State(1, False, [], state.read(state.variables(small)), []),
        tmp_path / "s.npz",
    )
    large = classifier(architecture="lfi_cam")
    large.compile("adam", "mse")
    large.optimizer.build(large.trainable_variables)
    with pytest.raises(ValueError, match="of another model or optimizer"):
        state.restore(large, state.load(tmp_path / "s.npz"), tmp_path / "s.npz")


@pytest.mark.slow
def test_the_log_is_written_again_from_the_checkpoint(
    tmp_path, source, whole_run
):
    folder = tmp_path / "run"
    shutil.copytree(whole_run[0], folder)
    expected = (folder / "log.csv").read_bytes()
    for content in (b"", b"epoch,accuracy\r\n0,0.", None):
        (folder / "log.csv").unlink()
        if content is not None:
            (folder / "log.csv").write_bytes(content)
        run(folder, source, resume=True)
        assert (folder / "log.csv").read_bytes() == expected


@pytest.mark.parametrize("name", ["checkpoint.npz", "model.keras", "run.json"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_a_damaged_file_of_a_run_is_named_with_the_way_out(
    tmp_path, source, whole_run, name, kept
):
    folder = tmp_path / "run"
    shutil.copytree(whole_run[0], folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(kept * len(content))])
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    with pytest.raises(ValueError, match=f"{name}: .*To fix this: put a copy"):
        run(folder, source, resume=True)
    assert before == {path: path.read_bytes() for path in folder.glob("*.*")}


@pytest.mark.end_to_end
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_image_that_vanishes_is_named_and_the_run_goes_on(tmp_path, split):
    for part, seed in [("train", 0), ("validation", 1)]:
        for index, (image, label) in enumerate(
            zip(*labeled_images(12, seed), strict=True)
        ):
            path = tmp_path / "data" / part / NAMES[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            keras.utils.save_img(path, image, scale=False)
    images = data.source(tmp_path / "data")
    lost = tmp_path / "data" / split / "dots" / "7.png"
    content = lost.read_bytes()
    model = classifier()
    with pytest.raises(ValueError, match=f"{lost}.*To fix this.*resume"):
        run(
            tmp_path / "run",
            images,
            dataclasses.replace(RECIPE, epochs=1),
            model=model,
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_train_begin=lambda logs: lost.unlink()
                )
            ],
        )
    lost.write_bytes(content)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    model, _ = run(tmp_path / "run", images, recipe, resume=True)
    expected, _ = run(tmp_path / "other", images, recipe)
    assert_equal(weights(model), weights(expected))


@pytest.mark.end_to_end
def test_without_its_checkpoint_a_run_begins_at_its_first_step(
    tmp_path, source, whole_run
):
    folder = tmp_path / "run"
    shutil.copytree(whole_run[0], folder)
    (folder / "checkpoint.npz").unlink()
    model, _ = run(folder, source, resume=True)
    assert_equal(weights(model), whole_run[1])
    expected = (whole_run[0] / "log.csv").read_text()
    assert (folder / "log.csv").read_text() == expected


def test_sixteen_bit_weights_are_saved_exactly(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    model = classifier(architecture="lfi_cam")
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    before = [np.array(value, "float32") for value in weights(model)]
    path = tmp_path / "s.npz"
    values = state.read(state.variables(model))
    state.save(state.State(1, False, [], values, []), path)
    model.set_weights([0 * value for value in model.get_weights()])
    state.restore(model, state.load(path), path)
    assert_equal([np.array(v, "float32") for v in weights(model)], before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"data": (np.zeros((2, 16, 16, 3)), [0, 1])},
            TypeError,
            "`data` must.*of type tuple.*from_datasets.*model.fit",
        ),
        ({"recipe": 3}, TypeError, "`recipe` must be a Recipe or the name"),
        ({"recipe": "papers"}, ValueError, "'paper', 'modern'"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every=0"),
        ({"heat_maps_every": -1}, ValueError, "heat_maps_every=-1"),
        ({"steps_per_execution": 1.5}, TypeError, "steps_per_execution=1.5"),
        ({"data": "no_such_set"}, ValueError, "`data` must.*='no_such_set'"),
        ({"data": np.zeros(3)}, TypeError, "`data` must.*ndarray"),
        ({"recipe": "papers"}, ValueError, "`recipe` must be one of 'paper'"),
        ({"resume": "yes"}, TypeError, "`resume` must be True or.*'yes'"),
        ({"jit_compile": "always"}, TypeError, "jit_compile='always'"),
        ({"verbose": 3}, ValueError, "`verbose` must be 'auto'.*verbose=3"),
        (
            {"callbacks": keras.callbacks.History()},
            TypeError,
            r"`callbacks` must be a list.*callbacks=\[callback\]",
        ),
        ({"callbacks": [print]}, TypeError, "`callbacks` must be a list"),
        ({"class_weight": {0: 1, "stripes": 2}}, ValueError, "two for"),
        ({"class_weight": {0: 10**400}}, ValueError, "finite in float32"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path, source, options, error, message
):
    arguments = {"data": source, "recipe": RECIPE} | options
    with pytest.raises(error, match=message):
        keras_lficam.fit(classifier(), folder=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("folder", "error", "message"),
    [
        (None, TypeError, "`folder` must be a path.*folder=None"),
        (3, TypeError, "`folder` must be a path.*of type int"),
        (b"run", TypeError, "`folder` must be a path.*of type bytes"),
        ("", ValueError, "`folder` must.*folder=''.*To fix this: give '.'"),
        ("a\0b", ValueError, "`folder` must be a path that a file can have"),
    ],
)
def test_a_folder_that_is_no_path_is_refused(source, folder, error, message):
    with pytest.raises(error, match=message):
        keras_lficam.fit(classifier(), source, RECIPE, folder=folder)


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3)])


def of_inputs(*shapes, outputs=1):
    inputs = [keras.Input(shape) for shape in shapes]
    flat = [keras.layers.Flatten()(each) for each in inputs]
    x = keras.layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
    scores = [keras.layers.Dense(3, "softmax")(x) for _ in range(outputs)]
    return keras.Model(inputs, scores if outputs > 1 else scores[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unbuilt, "does not show how its layers.*keras.Input first"),
        (lambda: of_inputs((16, 16, 3), (2,)), "must have one input"),
        (lambda: of_inputs((16,)), "rows of a table"),
        (lambda: of_inputs((16, 16, 2)), "images of 3 channels.*To fix this"),
        (lambda: of_inputs((16, 16, 3), outputs=2), "the outputs 2.*To fix"),
    ],
)
def test_a_model_that_is_none_of_images_is_refused(
    tmp_path, source, make, message
):
    with pytest.raises(ValueError, match=message):
        keras_lficam.fit(make(), source, RECIPE, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_numbers_of_numpy_in_a_recipe_are_written(tmp_path, source):
    # NumPy's scalars are none of JSON's.
    recipe = dataclasses.replace(
        RECIPE,
        epochs=np.int64(1),
        learning_rate=np.float32(0.5),
        augmentation=(),
    )
    run(tmp_path / "run", source, recipe=recipe, seed=np.int64(3))
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["recipe"]["epochs"] == 1
    assert about["recipe"]["learning_rate"] == 0.5
    assert about["seed"] == 3


def test_classes_that_do_not_match_are_refused(tmp_path, source):
    model = keras_lficam.build(
        normalized_backbone(), 4, input_shape=(16, 16, 3)
    )
    with pytest.raises(ValueError, match="each of the 3 classes.*with 4"):
        run(tmp_path / "run", source, model=model)
    assert not (tmp_path / "run").exists()
