"""Two stages of a run: what is frozen, how fast the rest learns."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from interruptions import Kill, Killed
from logs import rows
from small_classifiers import normalized_backbone
from small_runs import classifier, fit, three_classes

import keras_lficam
from keras_lficam.training import Recipe, _state as state
from keras_lficam.training._stages import frozen_epochs, of_stage, trunk_of
from keras_lficam.training.optimizers import make_optimizer
from keras_lficam.training.recipes import recipe as recipe_named

NUMBER, BATCH, STEPS = 21, 8, 3
TWO = Recipe(
    epochs=4,
    batch_size=BATCH,
    learning_rate=0.01,
    weight_decay=0.01,
    warmup_epochs=1,
    label_smoothing=0.1,
    ema_epochs=0.5,
    augmentation=("flip",),
    frozen_share=0.5,
    layer_decay=0.5,
    freeze_batch_norm=True,
    class_weight="balanced",
    monitor="macro_f1",
)


@pytest.fixture(scope="module")
def source():
    return three_classes(NUMBER)


def values(variables):
    return [np.array(variable) for variable in variables]


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


class Seen(keras.callbacks.Callback):
    """What the epochs end with."""

    def on_train_begin(self, logs=None):
        self.weights, self.learning, self.iterations = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(values(self.model.weights))
        self.learning.append([v.path for v in self.model.trainable_variables])
        self.iterations.append(int(self.model.optimizer.iterations))


# ----------------------------------------------------------------- the trunk


def kinds(model):
    return [(type(part.layer).__name__, part.depth) for part in trunk_of(model)]


# Each convolution halves the map, so the first one gives a stage of its own.
HALVES = [
    *(("Conv2D", 2), ("BatchNormalization", 2)),
    *(("Conv2D", 1), ("BatchNormalization", 1)),
]


@pytest.mark.parametrize("architecture", ["lfi_cam", "abn", "cam", "plain"])
def test_the_trunk_is_what_makes_the_features(architecture):
    model = classifier(architecture)
    assert kinds(model) == HALVES
    # Of the attention branch network the stage behind the attention, too, and
    # never the branch.
    names = {part.layer.name for part in trunk_of(model)}
    assert not any("attention" in name for name in names)
    features = {layer.name for layer in model.layers if "conv" in layer.name}
    assert names & features


def test_the_trunk_of_a_nested_classifier():
    backbone = normalized_backbone()
    nested = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            backbone,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    assert kinds(nested) == HALVES
    assert trunk_of(nested)[0].layer is backbone.layers[2]


def test_without_a_feature_map_all_but_the_last_layer_are_the_trunk():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Conv2D(5, 4),
            layers.Reshape((5,)),
            layers.Dense(4, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    assert kinds(model) == [("Conv2D", 1), ("Dense", 1)]


def test_stages_of_a_residual_network_are_its_map_sizes():
    """ResNet-8 for 32x32: three stages of 32, 16 and 8 rows."""
    model = keras_lficam.build("ResNet8", 4, input_shape=(32, 32, 3))
    rows_of = {3: 32, 2: 16, 1: 8}
    parts = trunk_of(model)
    for part in parts:
        assert part.layer.output.shape[1] == rows_of[part.depth], part
    learn = sum(int(np.prod(v.shape)) for p in parts for v in p.layer.variables)
    branch = {"importance", "head"}
    rest = sum(model.get_layer(name).count_params() for name in branch)
    assert learn + rest == model.count_params()


# ------------------------------------------------------------ learning rates


def test_adamw_learns_and_decays_each_variable_by_its_own_rate():
    recipe = Recipe(learning_rate=0.1, weight_decay=0.5, schedule="constant")
    optimizer = make_optimizer(recipe, 1, [1.0, 0.25, 0.25])
    kernels = [keras.Variable([2.0, -4.0], name="kernel") for _ in range(2)]
    bias = keras.Variable([3.0], name="bias")
    variables = [*kernels, bias]
    optimizer.build(variables)
    gradients = [[1.0, 0.0], [1.0, 0.0], [-2.0]]
    optimizer.apply([np.array(g, "float32") for g in gradients], variables)
    # Its first step is the sign of the gradient; of biases there is no decay.
    for variable, expected in zip(
        variables,
        [
            [2 - 0.1 - 0.1 * 0.5 * 2, -4 + 0.1 * 0.5 * 4],
            [2 - 0.025 - 0.025 * 0.5 * 2, -4 + 0.025 * 0.5 * 4],
            [3 + 0.025],
        ],
        strict=True,
    ):
        np.testing.assert_allclose(np.array(variable), expected, rtol=1e-5)
    again = keras.optimizers.deserialize(
        json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    )
    assert again.get_config() == optimizer.get_config()
    assert list(again.factors) == [1.0, 0.25, 0.25]


def test_sgd_learns_each_variable_by_its_own_rate():
    recipe = Recipe(
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=0.5,
        schedule="constant",
    )
    optimizer = make_optimizer(recipe, 1, [1.0, 0.25])
    variables = [keras.Variable([2.0]) for _ in range(2)]
    optimizer.build(variables)
    optimizer.apply([np.array([3.0], "float32")] * 2, variables)
    found = [float(np.array(variable)[0]) for variable in variables]
    assert found == pytest.approx([2 - 0.1 * 4, 2 - 0.025 * 4])


def test_stages_share_the_epochs():
    recipe = dataclasses.replace(TWO, epochs=10, frozen_share=0.34)
    assert frozen_epochs(recipe) == 3
    first, then = (of_stage(recipe, frozen=frozen) for frozen in (True, False))
    assert (first.epochs, first.schedule, first.warmup_epochs) == (
        3,
        "constant",
        0,
    )
    assert then == dataclasses.replace(recipe, epochs=7)
    # The second stage has an epoch at least.
    one = dataclasses.replace(TWO, epochs=1, frozen_share=0.9)
    assert frozen_epochs(one) == 0


def test_few_images_get_as_many_steps():
    """With 6 steps an epoch 16 epochs make 96 of 800: 8.33 times."""
    chosen = recipe_named("fine_tune", images=161)
    usual = recipe_named("fine_tune")
    assert chosen.warmup_epochs == pytest.approx(800 / 96)
    assert chosen == dataclasses.replace(
        usual, epochs=134, patience=67, warmup_epochs=chosen.warmup_epochs
    )
    assert recipe_named("fine_tune", images=1600) == usual
    assert recipe_named("paper", images=8) == recipe_named("paper")
    modern = recipe_named("modern", images=200)
    assert (modern.epochs, modern.warmup_epochs, modern.ema_epochs) == (
        400,
        20,
        4,
    )
    assert modern.patience is None
    with pytest.raises(ValueError, match="`images` must be .* at least 1"):
        recipe_named("modern", images=0)


# -------------------------------------------------------------------- the run


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_two_stages_are_the_steps_by_hand(tmp_path, source):
    recipe = Recipe(
        epochs=2,
        batch_size=BATCH,
        optimizer="sgd",
        learning_rate=0.05,
        weight_decay=0.01,
        schedule="constant",
        frozen_share=0.5,
        layer_decay=0.5,
        freeze_batch_norm=True,
    )
    model, seen = classifier(), Seen()
    fit(tmp_path / "run", source, recipe, model, callbacks=[seen])
    by_hand = classifier()
    trunk = trunk_of(by_hand)
    for part in trunk:
        if isinstance(part.layer, keras.layers.BatchNormalization):
            part.layer.trainable = False
    rate = {
        id(v): 0.05 * 0.5**part.depth
        for part in trunk
        for v in part.layer.trainable_variables
    }
    stream = source.stream(
        "train", image_size=(16, 16), batch_size=BATCH, seed=3
    )
    for step, (images, labels) in enumerate(stream.take(2 * STEPS)):
        if step in (0, STEPS):
            learning = [
                v
                for v in by_hand.trainable_variables
                if step or id(v) not in rate
            ]
            velocity = [np.zeros(v.shape) for v in learning]
        with tf.GradientTape() as tape:
            picked = tf.gather(
                by_hand(images, training=True), labels, batch_dims=1
            )
            loss = -tf.reduce_mean(tf.math.log(picked))
        gradients = tape.gradient(loss, learning)
        for number, variable in enumerate(learning):
            penalized = gradients[number] + 0.01 * variable
            own = rate.get(id(variable), 0.05)
            velocity[number] = 0.9 * velocity[number] - own * penalized
            variable.assign(variable + velocity[number])
        if (step + 1) % STEPS == 0:
            found = seen.weights[step // STEPS]
            for one, other in zip(found, values(by_hand.weights), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    # Each stage begins with an optimizer of its own.
    assert seen.iterations == [STEPS, STEPS]
    # Of the trunk the two kernels and biases of convolutions come to learn.
    assert len(seen.learning[1]) == len(seen.learning[0]) + 4


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("architecture", "policy"),
    [("lfi_cam", "mixed_float16"), ("abn", "float32"), ("plain", "float32")],
)
def test_nothing_of_the_freezing_is_left(
    tmp_path, source, architecture, policy
):
    keras.config.set_dtype_policy(policy)
    model, seen = classifier(architecture), Seen()
    last = trunk_of(model)[-2].layer  # A convolution that its owner froze.
    last.trainable = False
    flags = [layer.trainable for layer in model._flatten_layers()]
    of_variables = [variable.trainable for variable in model.variables]
    before = {
        part.layer.name: values(part.layer.weights) for part in trunk_of(model)
    }
    recipe = dataclasses.replace(TWO, epochs=2, batch_size=11, warmup_epochs=0)
    fit(tmp_path / "run", source, recipe, model, callbacks=[seen])
    assert [layer.trainable for layer in model._flatten_layers()] == flags
    found = [variable.trainable for variable in model.variables]
    assert found == of_variables
    saved = keras.models.load_model(tmp_path / "run" / "model.keras")
    for layer in saved._flatten_layers():
        assert layer.trainable == (layer.name != last.name)
    paths = [variable.path for variable in model.weights]
    for part in trunk_of(model):
        is_kept = (
            isinstance(part.layer, keras.layers.BatchNormalization)
            or part.layer is last
        )
        for number, variable in enumerate(part.layer.weights):
            first = before[part.layer.name][number]
            index = paths.index(variable.path)
            # In the first stage nothing of the trunk learns.
            assert_equal([first], [seen.weights[0][index]])
            same = np.array_equal(first, seen.weights[1][index])
            assert same == is_kept, variable.path


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_early_stopping_waits_for_the_second_stage(tmp_path, source):
    recipe = dataclasses.replace(
        TWO,
        epochs=12,
        frozen_share=0.5,
        ema_epochs=0,
        learning_rate=1e-9,
        warmup_epochs=0,
        patience=2,
    )
    history = fit(tmp_path / "run", source, recipe, classifier("plain"))
    # Six frozen epochs, the first of the second stage, two that are no better.
    assert len(history.epoch) == 9


@pytest.mark.end_to_end
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("architecture", ["plain", "abn"])
def test_a_run_goes_on_in_each_stage(tmp_path, source, architecture):
    whole = classifier(architecture)
    history = fit(tmp_path / "whole", source, TWO, whole)
    checkpoint = tmp_path / "run" / "checkpoint.npz"
    options = {"checkpoint_every": 2, "resume": True}
    for kill, saved in [
        ({"step": 2}, 2),  # In the first stage.
        ({"step": 5}, 5),
        ({"begin": 2}, 6),  # When the second has just begun.
        ({"step": 8}, 8),  # In the second.
    ]:
        with pytest.raises(Killed):
            fit(
                tmp_path / "run",
                source,
                TWO,
                classifier(architecture),
                callbacks=[Kill(**kill)],
                **options,
            )
        assert state.load(checkpoint).step == saved
    model = classifier(architecture)
    resumed = fit(tmp_path / "run", source, TWO, model, **options)
    assert_equal(values(model.weights), values(whole.weights))
    assert resumed.history == history.history
    for name in ("log.csv", "metrics.json"):
        found = (tmp_path / "run" / name).read_text()
        assert found == (tmp_path / "whole" / name).read_text()
    # And a run that has ended is read, not trained.
    again = classifier(architecture)
    fit(tmp_path / "run", source, TWO, again, resume=True)
    assert_equal(values(again.weights), values(whole.weights))
    assert len(rows(tmp_path / "run")) == 4
