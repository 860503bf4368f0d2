"""Recipes of training, and the optimizers that follow them."""

import dataclasses
import inspect
import json

import keras
import numpy as np
import pytest

from keras_lficam.training import RECIPES, Recipe, SGDWithL2, recipe
from keras_lficam.training.optimizers import make_optimizer


@pytest.mark.parametrize(
    ("data", "backbone", "side", "expected"),
    [
        ("cifar10", "ResNet110", 32, (128, 1e-4, ("pad_crop", "flip"))),
        ("cifar10", "resnet110_lfi_cam", 32, (128, 1e-4, ("pad_crop", "flip"))),
        ("cifar100", "DenseNet100", 32, (128, 5e-4, ("pad_crop", "flip"))),
        (
            "stl10",
            "ResNet18",
            224,
            (256, 1e-4, ("random_resized_crop", "flip")),
        ),
        (
            "imagenet2012",
            "ResNet50",
            224,
            (256, 1e-4, ("random_resized_crop", "flip")),
        ),
        ("digits_in_photos", "ResNet8", 64, (128, 5e-4, ("pad_crop",))),
    ],
)
def test_the_paper_recipes_are_those_of_the_release(
    data, backbone, side, expected
):
    found = recipe(
        "paper", data=data, backbone=backbone, image_size=(side, side)
    )
    assert (
        found.batch_size,
        found.weight_decay,
        found.augmentation,
    ) == expected
    assert (found.epochs, found.optimizer, found.learning_rate) == (
        300,
        "sgd",
        0.1,
    )
    assert (found.schedule, found.decay_at) == ("steps", (0.5, 0.75))
    assert (found.label_smoothing, found.ema_epochs, found.patience) == (
        0,
        0,
        None,
    )
    assert found.resizing == ("center_crop" if side == 224 else "stretch")


def rates(chosen, steps):
    """The learning rate of every step."""
    optimizer = make_optimizer(chosen, steps)
    variable = keras.Variable(np.zeros(1))
    optimizer.build([variable])
    found = []
    for _ in range(chosen.epochs * steps):
        found.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
        optimizer.apply([np.zeros(1)], [variable])
    return np.array(found)


def test_steps_divide_the_learning_rate_by_ten():
    found = rates(
        Recipe(
            epochs=8,
            optimizer="sgd",
            learning_rate=0.1,
            schedule="steps",
            decay_at=(0.5, 0.75),
        ),
        steps=3,
    )
    # Epochs 0 to 3, 4 and 5, 6 and 7.
    np.testing.assert_allclose(
        found, [0.1] * 12 + [0.01] * 6 + [0.001] * 6, rtol=1e-6
    )


def test_cosine_rises_in_the_warm_up_and_falls_to_zero():
    found = rates(Recipe(epochs=5, learning_rate=0.4, warmup_epochs=1), steps=4)
    rising = 0.4 * np.arange(4) / 4
    falling = 0.4 * (1 + np.cos(np.pi * np.arange(16) / 16)) / 2
    np.testing.assert_allclose(
        found, np.concatenate([rising, falling]), rtol=1e-5, atol=1e-8
    )


def test_the_l2_penalty_is_that_of_published_recipes():
    """v = m v + g + l2 w; w = w - lr v."""
    optimizer = SGDWithL2(0.1, l2=0.5, momentum=0.9)
    variable = keras.Variable(np.array([2.0, -4.0], "float32"))
    weight, velocity = np.array([2.0, -4.0]), np.zeros(2)
    for gradient in ([1.0, 0.0], [0.0, 0.0], [-3.0, 2.0]):
        optimizer.apply([np.array(gradient, "float32")], [variable])
        velocity = 0.9 * velocity + np.array(gradient) + 0.5 * weight
        weight = weight - 0.1 * velocity
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(variable), weight, rtol=1e-5
        )


def test_an_optimizer_survives_its_config():
    first = make_optimizer(
        Recipe(optimizer="sgd", weight_decay=0.05, ema_epochs=2), 5
    )
    config = json.loads(json.dumps(keras.optimizers.serialize(first)))
    second = keras.optimizers.deserialize(config)
    assert isinstance(second, SGDWithL2)
    assert second.l2 == 0.05
    assert second.momentum == 0.9
    assert second.ema_momentum == pytest.approx(1 - 1 / 10)


def test_sgd_with_l2_takes_and_saves_what_sgd_takes():
    """With a gradient of 3 clipped to 1, then 0.5 * 2 of the penalty."""
    given = {
        "learning_rate": 0.5,
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0.25,
        "clipvalue": 1.0,
        "use_ema": True,
        "ema_momentum": 0.75,
        "ema_overwrite_frequency": 7,
        "loss_scale_factor": 2.0,
        "gradient_accumulation_steps": 2,
        "name": "mine",
    }
    accepted = inspect.signature(keras.optimizers.SGD.__init__).parameters
    ours = inspect.signature(SGDWithL2.__init__).parameters
    assert set(accepted) - {"kwargs"} == set(ours) - {"l2"}
    first = SGDWithL2(l2=0.5, **given)
    config = json.loads(json.dumps(keras.optimizers.serialize(first)))
    second = keras.optimizers.deserialize(config)
    assert second.get_config() == first.get_config()
    assert given.items() <= second.get_config().items()

    # v = 0.5 v - 0.5 (1 + 1) = -1; Nesterov's step is 0.5 v - 0.5 (1 + 1).
    plain = SGDWithL2(0.5, 0.5, 0.5, nesterov=True, clipvalue=1.0)
    variable = keras.Variable(np.array([2.0], "float32"))
    plain.apply([np.array([3.0], "float32")], [variable])
    assert keras.ops.convert_to_numpy(variable) == [2.0 - 1.5]


def test_training_goes_on_bit_for_bit_after_a_save(tmp_path, rng):
    x, y = rng.normal(size=(16, 3)), rng.normal(size=(16, 1))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(SGDWithL2(0.1, 0.01, 0.9, nesterov=True, clipnorm=1.0), "mse")
    model.fit(x, y, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x, y, shuffle=False, verbose=0)
    for one, other in zip(
        model.get_weights(), loaded.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_adamw_leaves_biases_and_normalization_alone():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2),
            keras.layers.BatchNormalization(),
        ]
    )
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer = make_optimizer(
        Recipe(learning_rate=0.1, weight_decay=0.5, schedule="constant"), 1
    )
    optimizer.apply(
        [np.zeros(v.shape, "float32") for v in model.trainable_variables],
        model.trainable_variables,
    )
    found = {
        v.path.split("/")[-1]: float(np.mean(keras.ops.convert_to_numpy(v)))
        for v in model.trainable_variables
    }
    expected = {"kernel": 0.95, "bias": 1.0, "gamma": 1.0, "beta": 1.0}
    assert found == pytest.approx(expected)


def test_averages_reach_back_the_epochs_asked_for():
    optimizer = make_optimizer(Recipe(ema_epochs=2), 50)
    assert optimizer.use_ema
    # After two epochs, 100 steps, a weight counts 1/e of what it did.
    assert optimizer.ema_momentum**100 == pytest.approx(np.exp(-1), rel=0.01)
    assert not make_optimizer(Recipe(), 50).use_ema


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_average_follows_its_first_weights_quickly(name):
    """In step t the old average counts min(0.9, t / (9 + t))."""
    optimizer = make_optimizer(Recipe(optimizer=name, ema_epochs=1), 10)
    variable = keras.Variable(np.array([3.0], "float32"))
    average = None
    for step in range(120):
        optimizer.apply([np.ones(1, "float32")], [variable])
        weight = float(keras.ops.convert_to_numpy(variable)[0])
        momentum = min(0.9, step / (9 + step))
        average = weight if step == 0 else average
        average = momentum * average + (1 - momentum) * weight
        (found,) = optimizer._model_variables_moving_average
        found = float(keras.ops.convert_to_numpy(found)[0])
        assert found == pytest.approx(average, rel=1e-4, abs=1e-5)


def test_every_recipe_has_a_small_and_a_large_form():
    for forms in RECIPES.values():
        assert list(forms) == ["small", "large"]
    assert recipe("modern", image_size=(64, 64)) == RECIPES["modern"]["small"]
    assert recipe("modern", image_size=(64, 65)) == RECIPES["modern"]["large"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"epochs": 0},
            ValueError,
            "`epochs` must be an integer of at least 1.*=0",
        ),
        ({"batch_size": 2.0}, TypeError, "`batch_size` must be an integer"),
        ({"optimizer": "adam"}, ValueError, "'sgd', 'adamw'.*'adam'"),
        ({"schedule": "linear"}, ValueError, "'steps', 'cosine', 'constant'"),
        ({"learning_rate": 0}, ValueError, "greater than 0.*learning_rate=0"),
        ({"weight_decay": -1}, ValueError, "at least 0.*weight_decay=-1"),
        ({"label_smoothing": 1}, ValueError, "less than 1.*smoothing=1"),
        (
            {"patience": 0},
            ValueError,
            "`patience` must be an integer of at least 1",
        ),
        ({"class_weight": "heavy"}, ValueError, "'balanced', or a .*'heavy'"),
        ({"class_weight": 2.0}, TypeError, "'balanced', or a dict.*=2.0"),
        ({"class_weight": (0, 1.0)}, TypeError, "'balanced', or a dict"),
        ({"monitor": "auc"}, ValueError, "'roc_auc', .*'loss'.*'auc'"),
        ({"frozen_share": 1}, ValueError, "less than 1.*frozen_share=1"),
        ({"layer_decay": 0}, ValueError, "greater than 0.*layer_decay=0"),
        ({"layer_decay": 2}, ValueError, "at most 1.*layer_decay=2"),
        ({"freeze_batch_norm": 1}, TypeError, "must be True or False.*=1"),
        ({"recompute_statistics": 1}, TypeError, "must be True or False.*=1"),
        ({"optimizer": np.zeros(3)}, TypeError, "`optimizer` must be a string"),
        ({"decay_at": None}, TypeError, "`decay_at` must be a tuple"),
        ({"decay_at": ("a",)}, TypeError, "`decay_at` must hold numbers.*'a'"),
        ({"decay_at": (float("nan"),)}, ValueError, "rising.*nan"),
        ({"augmentation": "flip"}, TypeError, "`augmentation` must be a tuple"),
        ({"augmentation": ("turn",)}, ValueError, "`augmentation`.*'turn'"),
        ({"learning_rate": 10**400}, ValueError, "`learning_rate`.*finite"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate=nan"),
        ({"decay_at": (0.7, 0.5)}, ValueError, r"rising.*\(0.7, 0.5\)"),
        ({"decay_at": (1.0,)}, ValueError, "between 0 and 1"),
        (
            {"schedule": "constant", "warmup_epochs": 1},
            ValueError,
            "unless schedule='cosine'",
        ),
    ],
)
def test_a_recipe_of_wrong_values_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        Recipe(**changes)


@pytest.mark.parametrize(
    ("name", "counts", "expected"),
    [
        ("fine_tune", [300, 200], None),
        ("fine_tune", [301, 200], "balanced"),
        ("modern", np.array([10, 30, 20]), "balanced"),
        ("paper", [300, 100], None),
        ("modern", [200, 10, 50], "balanced"),
        ("modern", [201, 10, 50], None),
        ("fine_tune", [300, 0], None),
        ("fine_tune", None, None),
    ],
)
def test_unequal_classes_have_weights(name, counts, expected, caplog):
    caplog.set_level("INFO", "keras_lficam")
    found = recipe(name, class_counts=counts)
    assert found.class_weight == expected
    assert dataclasses.replace(found, class_weight=None) == recipe(name)
    # What is too unequal is told, not done in silence.
    too_unequal = counts is not None and max(counts) > 20 * min(counts)
    assert ("too unequal" in caplog.text) == too_unequal


@pytest.mark.parametrize("counts", [[[3, 1]], [], [-1, 2], 3])
def test_what_counts_no_classes_is_refused(counts):
    with pytest.raises(ValueError, match="`class_counts` must hold a number"):
        recipe("modern", class_counts=counts)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": np.zeros(3)}, TypeError, "`name` must be a string"),
        ({"data": ["cifar10"]}, TypeError, "`data` must be a string"),
        ({"backbone": None}, TypeError, "`backbone` must be a string"),
        ({"image_size": 32}, ValueError, "`image_size` must be a pair.*=32"),
    ],
)
def test_a_recipe_is_asked_for_by_words(options, error, message):
    with pytest.raises(error, match=message):
        recipe(**({"name": "paper"} | options))


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="'paper', 'modern', 'fine_tune'"):
        recipe("papers")


def test_a_recipe_is_data():
    first = recipe("modern")
    again = Recipe(**json.loads(json.dumps(dataclasses.asdict(first))))
    assert again == first
