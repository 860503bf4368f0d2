"""Nothing of ours changes a model that is explained, not even for a moment."""

import json
import os
import random
import threading

import explainer_contract
import keras
import numpy as np
import pytest

import keras_lficam
from keras_lficam import explainers, metrics

# More of them find what happens rarely: ROUNDS=200.
ROUNDS = int(os.environ.get("ROUNDS", "3"))
THREADS = 8
# A new explainer compiles anew, so most rounds use one that threads share.
OWN_EVERY = 50
HAVE_OWN = (1, 2)

MAKERS = {
    "AttentionMap": explainers.AttentionMap,
    "EigenCAM": explainers.EigenCAM,
    "GradCAM": explainers.GradCAM,
    "GradCAMPlusPlus": explainers.GradCAMPlusPlus,
    "XGradCAM": explainers.XGradCAM,
    "HiResCAM": explainers.HiResCAM,
    "LayerCAM": explainers.LayerCAM,
    "FinerCAM": explainers.FinerCAM,
    "AblationCAM": explainers.AblationCAM,
    "ClassEvidence": explainers.ClassEvidence,
    "ReciproCAM": explainers.ReciproCAM,
    "explanation view": lambda model: evidence_of(model),
    "IntegratedGradients": lambda model: explainers.IntegratedGradients(
        model, steps=4
    ),
    "SmoothGrad": lambda model: explainers.SmoothGrad(model, samples=4),
    "Occlusion": lambda model: explainers.Occlusion(model, patch=4),
    "ScoreCAM": explainers.ScoreCAM,
    "ScoreCAM of logits": lambda model: explainers.ScoreCAM(
        model, form="increase"
    ),
    "RISE": lambda model: explainers.RISE(model, samples=4),
    "LIME": lambda model: explainers.LIME(
        model, samples=4, segments=quarters, seed=1
    ),
    "average drop": lambda model: drop_of(model),
}


def quarters(image):
    rows, columns = np.indices(image.shape[:2])
    return 2 * (rows * 2 // len(image)) + columns * 2 // image.shape[1]


def evidence_of(model):
    view = keras_lficam.explanation_view(model)
    return lambda images: view.predict(images)["class_evidence"]


def drop_of(model):
    maps = np.linspace(0, 1, 64, dtype="float32").reshape(1, 8, 8, 1)

    def drop(images):
        return metrics.average_drop(
            model, images, np.repeat(maps, len(images), axis=0)
        )

    return drop


def classifier():
    """With a nested part, two kinds of activation, and losses of its own."""
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    convolution = layers.Conv2D(
        4, 3, activation="relu", activity_regularizer="l2"
    )
    base = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.GaussianNoise(0.1), convolution]
    )
    x = layers.BatchNormalization()(base(image))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    whole = keras.Model(image, layers.Dense(3, "softmax")(x))
    return keras_lficam.attach(whole, value_range=(0, 1))


def state_of(model, images):
    """All of a model that an explanation could change."""
    every = list(model._flatten_layers())
    return {
        "config": json.dumps(model.get_config(), default=str),
        "weights": [w.tobytes() for w in model.get_weights()],
        "trainable": [layer.trainable for layer in every],
        "nodes": [
            (len(layer._inbound_nodes), len(layer._outbound_nodes))
            for layer in every
        ],
        "activations": [getattr(layer, "activation", None) for layer in every],
        "policies": [layer.dtype_policy.name for layer in every],
        "attributes": [sorted(vars(layer)) for layer in every],
        "answers": np.asarray(
            keras.ops.convert_to_numpy(model(images, training=False))
        ).tobytes(),
    }


untraced = explainer_contract.untraced


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """A model, its file, losses and state of before, and what explainers said.

    To compile all explainers takes longer than all that is asked of them.
    """
    keras.utils.set_random_seed(0)
    model = classifier()
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (2, 8, 8, 3)).astype("float32")
    file = tmp_path_factory.mktemp("explained") / "before.keras"
    model.save(file)
    before = state_of(model, images)
    losses = [len(model.losses)]
    shared = {name: make(model) for name, make in MAKERS.items()}
    expected = {name: call(images) for name, call in shared.items()}
    losses.append(len(model.losses))
    return model, images, file, losses, before, shared, expected


def global_state():
    return {
        "policy": keras.config.dtype_policy().name,
        "floatx": keras.config.floatx(),
        "environment": dict(os.environ),
        "numpy": str(np.random.get_state()),
        "python": random.getstate(),
    }


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="others compile all or none"
)
def test_what_is_compiled_is_what_is_computed(explained):
    model, images, *_, expected = explained
    with explainer_contract.without_graphs():
        for name, make in MAKERS.items():
            np.testing.assert_allclose(
                make(model)(images), expected[name], atol=1e-4, err_msg=name
            )


@pytest.mark.slow
def test_threads_change_neither_the_model_nor_its_answers(explained):
    model, images, _, _, before, shared, expected = explained
    around = global_state()
    scores = keras.ops.convert_to_numpy(model(images, training=False))
    wrong = []

    def explain(number):
        names = list(MAKERS)
        for index in range(ROUNDS):
            name = names[(number + index) % len(names)]
            own = number in HAVE_OWN and index % OWN_EVERY == 0
            try:
                call = MAKERS[name](model) if own else shared[name]
                if not np.array_equal(call(images), expected[name]):
                    wrong.append(f"{name} differs")
                given = keras.ops.convert_to_numpy(
                    model(images, training=False)
                )
                if not np.array_equal(given, scores):
                    wrong.append(f"the model differs beside {name}")
            except Exception as error:
                wrong.append(f"{name}: {error!r}")

    threads = [
        threading.Thread(target=explain, args=(number,))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    after = state_of(model, images)
    assert not [key for key in before if after[key] != before[key]]
    assert global_state() == around


@pytest.mark.usefixtures("untraced")
def test_no_attribute_of_a_layer_is_set_while_it_is_explained(rng):
    """What is set for a moment is what another thread may see."""
    watched, seen = [], []

    class Watched(keras.layers.Dense):
        def __setattr__(self, name, value):
            same = getattr(self, name, None) is value  # Keras sets `built`.
            if self in watched and name[0] != "_" and not same:
                seen.append((name, value))
            super().__setattr__(name, value)

    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    scores = Watched(3, "softmax")
    x = scores(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, x)
    images = rng.uniform(0, 1, (1, 8, 8, 3)).astype("float32")
    watched.append(scores)
    for name, make in MAKERS.items():
        if name != "AttentionMap":
            make(model)(images)
    assert not seen


def test_file_is_the_same_after_explanations(tmp_path, explained):
    model, images, before, losses, *_ = explained
    assert losses[0]
    assert losses[1] == losses[0]
    keras_lficam.attention_view(model).predict(images, verbose=0)
    model.save(tmp_path / "after.keras")
    first, second = (
        keras.models.load_model(path)
        for path in (before, tmp_path / "after.keras")
    )
    assert first.get_config() == second.get_config()
    assert first.layers[-1].activation is keras.activations.softmax
    for one, other in zip(
        first.get_weights(), second.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_layer_without_its_activation_learns_on(rng):
    """What stands for the last layer has its weights, not copies."""
    model = classifier()
    images = rng.uniform(0, 1, (2, 8, 8, 3)).astype("float32")
    explain = explainers.ScoreCAM(model, form="increase")
    first = explain(images, 1)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dense):
            layer.set_weights([-w for w in layer.get_weights()])
    assert np.abs(explain(images, 1) - first).max() > 1e-3


def test_explanations_of_many_models_are_forgotten(rng):
    """What is compiled for a model ends with the model."""
    import gc
    import weakref

    images = rng.uniform(0, 1, (1, 8, 8, 3)).astype("float32")
    model = classifier()
    drop_of(model)(images)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
