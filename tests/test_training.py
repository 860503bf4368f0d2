"""Runs of `fit`: what they compute, write, and how they go on."""

import csv
import dataclasses
import json
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_classifiers import normalized_backbone, pictures

import keras_lficam
from keras_lficam import data, training
from keras_lficam.training import Recipe
from keras_lficam.training import _state as state

# Of 41 images in batches of 8; epochs of 6 steps do not end with a pass.
NUMBER, BATCH, STEPS = 41, 8, 6
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
    return tf.data.Dataset.from_tensor_slices(pictures(number, seed)).batch(5)


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


class Killed(BaseException):
    """Not an Exception: nothing in between may catch it."""


class Kill(keras.callbacks.Callback):
    """At the end of a step, of all from 1, or after the validation."""

    def __init__(self, *, step=None, epoch=None):
        super().__init__()
        self.step, self.epoch, self.seen = step, epoch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.seen = epoch * self.params["steps"]

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.step:
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Killed


def run(folder, source, recipe=RECIPE, *, model=None, **options):
    model = model or classifier()
    options = {"heat_maps_every": 0, "verbose": 0, "seed": 3} | options
    history = keras_lficam.fit(model, source, recipe, folder=folder, **options)
    return model, history


def rows(folder):
    with open(folder / "log.csv", newline="") as file:
        return [
            {name: float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


# ----------------------------------------------------------- what is computed


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
            images, labels = pictures(13, 1)
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
    images, labels = pictures(11, 2)
    chances = np.array(model(images, training=False))
    tested = (chances.argmax(-1) == labels).mean()
    assert metrics["test_accuracy"] == pytest.approx(tested)
    images, labels = pictures(13, 1)
    chances = np.array(model(images, training=False))
    right = (chances.argmax(-1) == labels).mean()
    assert metrics["validation_accuracy"] == pytest.approx(right)
    # Another test set changes nothing but its own numbers.
    other = data.from_datasets(
        batches(NUMBER, 0),
        batches(13, 1),
        test=batches(9, 5),
        class_names=NAMES,
    )
    again, _ = run(tmp_path / "other", other)
    assert_equal(weights(again), expected)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_follows_the_activation(
    tmp_path, source, activation, smoothing
):
    recipe = dataclasses.replace(
        RECIPE,
        epochs=1,
        augmentation=(),
        ema_epochs=0,
        label_smoothing=smoothing,
    )
    model = classifier(classifier_activation=activation)
    run(tmp_path / "run", source, recipe, model=model)
    images, labels = pictures(13, 1)
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


def test_both_outputs_of_an_attention_branch_network_learn(tmp_path, source):
    recipe = dataclasses.replace(RECIPE, epochs=2)
    model = classifier(architecture="abn", dropout=None)
    before = weights(model)
    run(tmp_path / "run", source, recipe, model=model)
    for row in rows(tmp_path / "run"):
        total = (
            row["val_predictions_loss"] + row["val_attention_predictions_loss"]
        )
        # Keras means the single losses over batches, here of 8 and of 5.
        assert row["val_loss"] == pytest.approx(total, rel=1e-2)
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(before, weights(model), strict=True)
    ]
    assert all(changed)


@pytest.mark.parametrize("mixing", ["mix_up", "cut_mix"])
def test_mixed_labels_train_and_whole_labels_validate(tmp_path, source, mixing):
    recipe = dataclasses.replace(
        RECIPE,
        epochs=1,
        label_smoothing=0,
        ema_epochs=0,
        augmentation=(mixing,),
    )
    model = classifier(dropout=None)
    run(tmp_path / "run", source, recipe, model=model)
    (row,) = rows(tmp_path / "run")
    images, labels = pictures(13, 1)
    chances = np.array(model(images, training=False), "float64")
    loss = -np.log(chances[np.arange(13), labels]).mean()
    assert row["val_loss"] == pytest.approx(loss, rel=1e-3)


# ------------------------------------------------------------- going on again


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp("whole") / "run"
    model, history = run(folder, source)
    return folder, weights(model), history


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
        ({"epoch": 1}, 9),  # After validation, before its end was saved.
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
    for name, values in history.history.items():
        assert resumed.history[name] == pytest.approx(values, rel=1e-5)
    assert [list(row) for row in rows(tmp_path / "run")] == [
        list(row) for row in rows(folder)
    ]
    for row, other in zip(rows(tmp_path / "run"), rows(folder), strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    assert json.loads(
        (tmp_path / "run" / "metrics.json").read_text()
    ) == pytest.approx(json.loads((folder / "metrics.json").read_text()))


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


def test_early_stopping_remembers_the_epochs_before(tmp_path, source):
    recipe = dataclasses.replace(
        RECIPE, epochs=12, learning_rate=1e-9, warmup_epochs=0, patience=3
    )
    _, history = run(tmp_path / "first", source, recipe)
    ends = len(history.epoch)
    assert ends == 4  # The first is the best, then three that are no better.
    with pytest.raises(Killed):
        run(tmp_path / "run", source, recipe, callbacks=[Kill(step=15)])
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


@pytest.mark.parametrize(
    ("every", "step", "message"),
    [
        (2, 2, "checkpoint.npz: the file could not be written .*is whole"),
        (3, 3, "model.keras: the file could not be written .*is whole"),
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
        accuracy="val_accuracy",
        rows=[],
        write=True,
    )
    best.set_model(classifier())
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


def test_heat_maps_of_the_same_images_are_drawn(tmp_path, source):
    from PIL import Image

    recipe = dataclasses.replace(RECIPE, epochs=5)
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


def test_heat_maps_in_a_fit_of_ones_own(tmp_path):
    images, labels = pictures(6, 0)
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


def test_titles_of_heat_maps_ask_what_logits_are(tmp_path):
    images, _ = pictures(2, 0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(3, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )

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
    titles = begun(activation="sigmoid")._titles(np.array([[-3.0], [2.0]]))
    assert titles == ["no (95 %)", "yes (88 %)"]


# --------------------------------------------------------------- what is wrong


def test_a_folder_with_a_run_is_left_alone(whole_run, source):
    folder, _, _ = whole_run
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(ValueError, match="a run in this folder.*by resume"):
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
        state.State(1, False, {}, state.current(small)), tmp_path / "s.npz"
    )
    large = classifier(architecture="lfi_cam")
    large.compile("adam", "mse")
    large.optimizer.build(large.trainable_variables)
    with pytest.raises(ValueError, match="of another model or optimizer"):
        state.restore(large, state.load(tmp_path / "s.npz"), tmp_path / "s.npz")


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "s.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match="s.npz: this is no checkpoint"):
        state.load(tmp_path / "s.npz")


def test_sixteen_bit_weights_are_saved_exactly(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    model = classifier(architecture="lfi_cam")
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    before = [np.array(value, "float32") for value in weights(model)]
    path = tmp_path / "s.npz"
    state.save(state.State(1, False, {}, state.current(model)), path)
    model.set_weights([0 * value for value in model.get_weights()])
    state.restore(model, state.load(path), path)
    assert_equal([np.array(v, "float32") for v in weights(model)], before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recipe": 3}, TypeError, "`recipe` must be a Recipe or the name"),
        ({"recipe": "papers"}, ValueError, "'paper', 'modern'"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every=0"),
        ({"heat_maps_every": -1}, ValueError, "heat_maps_every=-1"),
        ({"steps_per_execution": 1.5}, ValueError, "steps_per_execution=1.5"),
        ({"data": "no_such_set"}, ValueError, "no_such_set"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path, source, options, error, message
):
    arguments = {"data": source, "recipe": RECIPE} | options
    with pytest.raises(error, match=message):
        keras_lficam.fit(classifier(), folder=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_classes_that_do_not_match_are_refused(tmp_path, source):
    model = keras_lficam.build(
        normalized_backbone(), 4, input_shape=(16, 16, 3)
    )
    with pytest.raises(ValueError, match="each of the 3 classes.*with 4"):
        run(tmp_path / "run", source, model=model)
    assert not (tmp_path / "run").exists()
