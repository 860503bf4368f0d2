"""A classifier that somebody trained becomes one that shows its map."""

import functools
import importlib
import importlib.util
import re

import keras
import numpy as np
import pytest
import small_classifiers
import tensorflow as tf

import keras_lficam
from keras_lficam import explainers
from keras_lficam.backbones import cifar
from keras_lficam.classifier import Classifier
from keras_lficam.surgery import (
    activation_of,
    last_activation,
    split_classifier,
)


def random_images(rng, shape=(32, 32, 3), count=4):
    return rng.uniform(0, 255, (count, *shape)).astype("float32")


def answers(model, images):
    """Predicts once, for which a graph of TensorFlow is not worth while."""
    model.run_eagerly = keras.backend.backend() == "tensorflow"
    return model.predict_on_batch(images)


def stem():
    return [
        keras.layers.Rescaling(1 / 255, name="scale"),
        keras.layers.Conv2D(8, 3, strides=2, padding="same", name="first"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.ReLU(name="attention"),  # A name that is taken.
    ]


def flat():
    return cifar.resnet(8)(classes=4)


def sequential():
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            *stem(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )


def backbone():
    base = keras.Sequential([keras.Input((32, 32, 3)), *stem()], name="base")
    return keras.Model(base.inputs[0], base.outputs[0], name="base")


def nested():
    image = keras.Input((32, 32, 3))
    x = backbone()(image, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(image, keras.layers.Dense(4, activation="sigmoid")(x))


def pooled_inside():
    image = keras.Input((32, 32, 3))
    base = backbone()
    pooled = keras.layers.GlobalMaxPooling2D()(base.outputs[0])
    base = keras.Model(base.inputs, pooled, name="pooled")
    x = base(keras.layers.RandomFlip()(image))
    return keras.Model(image, keras.layers.Dense(4)(x))


def nested_twice():
    inner = keras.Sequential([keras.Input((32, 32, 3)), *stem()])
    outer = keras.Sequential(
        [inner, keras.layers.Conv2D(6, 3, name="first", activation="relu")]
    )
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            outer,
            keras.layers.AveragePooling2D(14),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
            keras.layers.Softmax(),
        ]
    )


def with_functions():
    image = keras.Input((32, 32, 3))
    x = keras.layers.Lambda(lambda pixels: pixels / 127.5 - 1)(image)
    shared = keras.layers.Conv2D(3, 3, padding="same", activation="relu")
    x = shared(shared(x)) + x
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(4)(x))


def normalized():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(1).uniform(0, 255, (8, 32, 32, 3)))
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2)(layer(image))
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(4, activation="softmax")(x))


CLASSIFIERS = {
    function.__name__: function
    for function in [
        flat,
        sequential,
        nested,
        pooled_inside,
        nested_twice,
        with_functions,
        normalized,
    ]
}
MAPS = {
    "flat": (8, 8, 64),
    "sequential": (16, 16, 8),
    "nested": (16, 16, 8),
    "pooled_inside": (16, 16, 8),
    "nested_twice": (14, 14, 6),
    "with_functions": (15, 15, 8),
    "normalized": (15, 15, 8),
}
# JAX takes seconds to compile the training of each.
TRAINED = (
    {"sequential"} if keras.backend.backend() == "jax" else set(CLASSIFIERS)
)


def trained(kind, rng):
    """A classifier whose weights are not those of its initializers."""
    model = CLASSIFIERS[kind]()
    for weight in model.weights:
        if "variance" not in weight.path and "count" not in weight.path:
            weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    if kind == "normalized":
        model.layers[1].finalize_state()
    return model


@pytest.mark.parametrize("kind", list(CLASSIFIERS))
def test_weights_of_trunk_and_head_are_kept(kind, rng):
    model = trained(kind, rng)
    before = model.get_weights()
    images = random_images(rng)
    expected = answers(model, images)
    plain = keras_lficam.attach(model, architecture="plain")
    np.testing.assert_allclose(
        answers(plain, images), expected, rtol=1e-5, atol=1e-6
    )
    shown = keras_lficam.attach(model)
    importance, features = shown.get_layer("importance").input
    assert features.shape == (None, *MAPS[kind])
    # Without the attention, (1 + A) F = F, the prediction is the old one.
    bare = keras.Model(shown.input, shown.get_layer("head")(features))
    activation = shown.get_layer("predictions").activation
    np.testing.assert_allclose(
        activation(keras.ops.convert_to_tensor(answers(bare, images))),
        expected,
        rtol=1e-5,
        atol=1e-6,
    )
    if kind in TRAINED:
        shown.compile(keras.optimizers.SGD(0.1), "mse")
        shown.train_on_batch(images, np.eye(4))
        for weight, old in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, old)  # Not trained with it.


@pytest.mark.parametrize("kind", sorted(set(CLASSIFIERS) - {"with_functions"}))
def test_what_is_attached_is_saved_bit_by_bit(kind, rng, tmp_path):
    model = trained(kind, rng)
    model.save(tmp_path / "theirs.keras")
    reloaded = keras.models.load_model(tmp_path / "theirs.keras")
    attached = keras_lficam.attach(reloaded)
    attached.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    images = random_images(rng)
    first, second = (
        answers(keras_lficam.attention_view(each), images)
        for each in (attached, again)
    )
    for key, value in first.items():
        np.testing.assert_array_equal(second[key], value)
    assert not any(isinstance(la, keras.Sequential) for la in attached.layers)


def test_layers_are_reached_by_name(rng):
    model = keras_lficam.attach(trained("nested_twice", rng))
    names = [layer.name for layer in model.layers]
    assert {"scale", "norm", "importance", "attention_map", "head"} < set(names)
    # Two layers were called "first", and one "attention".
    assert sum(name.endswith("first") for name in names) == 2
    assert isinstance(
        model.get_layer("attention"), keras_lficam.AttentionMechanism
    )
    for layer in model.layers:
        if layer.name != "head":  # Of this graph, not of another.
            keras.Model(model.input, layer.output)


def test_pixels_stay_in_the_range_of_the_model(rng):
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(4)(x))
    attached = keras_lficam.attach(model, value_range=(-1, 1))
    assert attached.get_layer("importance").value_range == [-1, 1]
    images = rng.uniform(-1, 1, (2, 32, 32, 3)).astype("float32")
    image, _ = attached.get_layer("importance").input
    seen = answers(keras.Model(attached.input, image), images)
    np.testing.assert_array_equal(seen, images)


def test_frozen_trunk_stays_frozen(rng):
    model = trained("nested", rng)
    model.get_layer("base").trainable = False
    attached = keras_lficam.attach(model)
    images = random_images(rng)
    moving = {weight.path for weight in attached.trainable_weights}
    assert len(moving) == 9 + 2
    frozen = attached.get_layer("first").get_weights()[0]
    averages = attached.get_layer("norm").get_weights()
    attached.compile(keras.optimizers.SGD(0.1), "mse")
    attached.train_on_batch(images, np.eye(4))
    np.testing.assert_array_equal(
        attached.get_layer("first").get_weights()[0], frozen
    )
    for now, old in zip(
        attached.get_layer("norm").get_weights(), averages, strict=True
    ):
        np.testing.assert_array_equal(now, old)


def test_normalization_moves_as_it_did(rng):
    """Also where the backbone is called with `training=False`."""
    model = trained("nested", rng)
    attached = keras_lficam.attach(model, architecture="plain")
    images = random_images(rng)
    theirs = model.get_layer("base").get_layer("norm")
    ours = attached.get_layer("norm")
    for training in (None, True):
        for net in (model, attached):
            net(images, training=training)
        for weight, other in zip(ours.weights, theirs.weights, strict=True):
            np.testing.assert_array_equal(weight.numpy(), other.numpy())


@pytest.mark.parametrize("architecture", ["abn", "cam"])
def test_other_architectures_attach(architecture, rng):
    model = trained("flat", rng)
    attached = keras_lficam.attach(model, architecture=architecture)
    predicted = answers(attached, random_images(rng))
    if architecture == "abn":
        assert set(predicted) == {"predictions", "attention_predictions"}
        predicted = predicted["predictions"]
    assert predicted.shape == (4, 4)
    np.testing.assert_allclose(predicted.sum(axis=-1), 1, atol=1e-5)
    kernel = model.get_layer("stage1_block0_1_convolution").get_weights()[0]
    np.testing.assert_array_equal(
        attached.get_layer("stage1_block0_1_convolution").get_weights()[0],
        kernel,
    )


def test_branch_of_a_stage_that_does_not_pad_is_a_bottleneck_block(rng):
    model = CLASSIFIERS["nested_twice"]()
    attached = keras_lficam.attach(model, architecture="abn")
    assert attached.get_layer("attention_map").output.shape == (None, 14, 14, 1)
    plain = keras_lficam.attach(model, architecture="plain")
    scores = attached.get_layer("head")(
        attached.get_layer("attention").input[0]
    )
    bare = keras.Model(attached.input, keras.layers.Softmax()(scores))
    images = random_images(rng)
    np.testing.assert_allclose(
        answers(bare, images), answers(plain, images), atol=1e-6
    )


def test_branch_of_a_frozen_trunk_can_be_trained(rng):
    model = flat()
    model.trainable = False
    attached = keras_lficam.attach(model, architecture="abn")
    paths = {weight.path for weight in attached.trainable_weights}
    assert "attention_stage3_block0_1_convolution/kernel" in paths
    assert "stage3_block0_1_convolution/kernel" not in paths


def test_output_stride_of_an_attached_model(rng):
    model = trained("flat", rng)
    attached = keras_lficam.attach(model, output_stride=2)
    assert attached.get_layer("attention_map").output.shape == (None, 16, 16, 1)


def test_layer_of_the_map_can_be_named(rng):
    model = trained("flat", rng)
    attached = keras_lficam.attach(model, layer="stage2_block0_relu")
    image, features = attached.get_layer("importance").input
    assert features.shape == (None, 16, 16, 32)
    plain = keras_lficam.attach(
        model, layer="stage2_block0_relu", architecture="plain"
    )
    images = random_images(rng)
    np.testing.assert_allclose(
        answers(plain, images),
        answers(model, images),
        atol=1e-6,
    )


def flattened(x):
    return keras.layers.Flatten()(x)


def mean(x, axes=(1, 2), **options):
    return keras.ops.mean(x, axis=axes, **options)


# Of a map of 4x3 with 6 channels: what a head begins with, and other forms
# of the same.
LAYERS = keras.layers
POOLINGS = {
    "average": LAYERS.GlobalAveragePooling2D(),
    "maximum": LAYERS.GlobalMaxPooling2D(),
    "flattening": LAYERS.Flatten(),
}
OTHER_FORMS = {
    "mean": ("average", mean),
    "mean from the end": ("average", lambda x: mean(x, (-2, -3))),
    "mean kept": ("average", lambda x: flattened(mean(x, keepdims=True))),
    "pooling kept": (
        "average",
        lambda x: LAYERS.Reshape((6,))(
            LAYERS.GlobalAveragePooling2D(keepdims=True)(x)
        ),
    ),
    "window": (
        "average",
        lambda x: keras.ops.squeeze(LAYERS.AveragePooling2D((4, 3))(x), (1, 2)),
    ),
    "max": ("maximum", lambda x: keras.ops.max(x, axis=[1, 2])),
    "max window": (
        "maximum",
        lambda x: flattened(LAYERS.MaxPooling2D((4, 3))(x)),
    ),
    "reshape": ("flattening", LAYERS.Reshape((-1,))),
    "reshape function": (
        "flattening",
        lambda x: keras.ops.reshape(x, (-1, 72)),
    ),
}


@pytest.mark.parametrize("form", list(OTHER_FORMS))
def test_pooling_of_another_form_takes_the_map(form, rng):
    kind, pooling = OTHER_FORMS[form]
    base = small_classifiers.backbone()
    dense = keras.layers.Dense(4, kernel_initializer="random_normal")
    theirs, mine = (
        keras.Model(
            base.inputs[0],
            keras.layers.Softmax()(dense(pool(base.outputs[0]))),
        )
        for pool in (POOLINGS[kind], pooling)
    )
    images = random_images(rng, (16, 12, 3))
    first, second = (keras_lficam.attach(model) for model in (theirs, mine))
    second.set_weights(first.get_weights())
    shown, other = (
        answers(keras_lficam.attention_view(model), images)
        for model in (first, second)
    )
    assert shown["attention_map"].shape == (4, 4, 3, 1)
    for key, value in shown.items():
        np.testing.assert_allclose(other[key], value, rtol=1e-5, atol=1e-7)
    kinds = [explainers.GradCAM, explainers.CAM][: 1 + (kind == "average")]
    for explainer in kinds:
        expected = explainer(theirs)(images, 1)
        assert expected.max() > 0.5
        np.testing.assert_allclose(
            explainer(mine)(images, 1), expected, atol=1e-5
        )


def test_pooling_of_a_corner_is_not_the_mean_of_the_map():
    image = keras.Input((16, 12, 3))
    x = keras.layers.Conv2D(6, 4, strides=4, name="last")(image)
    x = keras.layers.AveragePooling2D(2, strides=4)(x)
    assert x.shape[1:3] == (1, 1)
    model = keras.Model(image, keras.layers.Dense(4)(flattened(x)))
    with pytest.raises(ValueError, match="larger images"):
        keras_lficam.attach(model)


def shared_pooling():
    """A layer that pools in a block and, called again, in the head."""
    image = keras.Input((16, 16, 3))
    pooling = keras.layers.GlobalAveragePooling2D()
    x = keras.layers.Conv2D(6, 3, strides=2, name="early")(image)
    x = x * keras.layers.Dense(6, "sigmoid")(pooling(x))[:, None, None]
    x = keras.layers.Conv2D(6, 3, name="late")(x)
    return keras.Model(image, keras.layers.Dense(4)(pooling(x)))


def two_poolings():
    """Each with a flattening, and the last of them called last."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(6, 4, strides=4, name="late")(image)
    pooled = [
        keras.layers.AveragePooling2D(4)(x),
        keras.layers.MaxPooling2D(4)(x),
    ]
    x = keras.layers.Concatenate()([flattened(one) for one in pooled])
    return keras.Model(image, keras.layers.Dense(4)(x))


@pytest.mark.parametrize("make", [shared_pooling, two_poolings])
def test_map_is_found_in_the_order_of_the_calls(make, rng):
    """By what attaches and by what explains, which look for the same map."""
    model = make()
    late = model.get_layer("late").output
    assert split_classifier(model).features is late
    images = random_images(rng, (16, 16, 3))
    expected = answers(keras.Model(model.inputs[0], late), images)
    attached = keras_lficam.attach(model)
    features = keras.Model(
        attached.input, attached.get_layer("importance").input[1]
    )
    explained = Classifier(model).split().features(images)
    for one in (answers(features, images), explained):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(one), expected, rtol=1e-5, atol=1e-4
        )


def headed(head, shape=(32, 32, 3)):
    image = keras.Input(shape)
    x = keras.layers.Conv2D(8, 3, strides=2, name="last")(image)
    return keras.Model(image, keras.layers.Dense(4)(head(x)), name="mine")


HEADS = {
    "lstm": lambda x: keras.layers.LSTM(3)(keras.layers.Reshape((-1, 8))(x)),
    "tokens": lambda x: keras.layers.GlobalAveragePooling1D()(
        keras.layers.Reshape((-1, 8))(x)
    ),
    "two means": lambda x: keras.ops.mean(keras.ops.mean(x, axis=1), axis=1),
    "function": keras.layers.Lambda(lambda x: keras.ops.mean(x, (1, 2))),
    "function kept": lambda x: flattened(
        keras.layers.Lambda(lambda x: keras.ops.mean(x, (1, 2), keepdims=True))(
            x
        )
    ),
}


@pytest.mark.parametrize("kind", list(HEADS))
def test_head_of_another_kind_is_told_to_name_the_layer(kind):
    model = headed(HEADS[kind])
    refusing = [keras_lficam.attach, explainers.GradCAM]
    if kind in ("lstm", "tokens"):  # Explained, for the tokens are the map.
        assert Classifier(model).split().tokens.grid == (15, 15)
        refusing = [keras_lficam.attach]
    for explained in refusing:
        with pytest.raises(ValueError, match="layer='last'") as caught:
            explained(model)
        assert "larger images" not in str(caught.value)
    attached = keras_lficam.attach(model, layer="last")
    assert attached.get_layer("attention_map").output.shape == (None, 15, 15, 1)
    assert explainers.GradCAM(model, layer="last") is not None


@pytest.mark.slow
def test_function_whose_output_is_the_map_can_be_named(rng):
    model = headed(lambda x: HEADS["lstm"](keras.ops.relu(x) + 1.0))
    name = model.operations[3].name
    images = random_images(rng)
    with pytest.raises(ValueError, match=f"layer='{name}'"):
        keras_lficam.attach(model)
    plain = keras_lficam.attach(model, layer=name, architecture="plain")
    np.testing.assert_allclose(
        answers(plain, images), answers(model, images), atol=1e-6
    )
    attached = keras_lficam.attach(model, layer=name)
    features = keras.Model(
        attached.input, attached.get_layer("importance").input[1]
    )
    explained = Classifier(model).split(name).features(images)
    found = keras.ops.convert_to_numpy(explained)
    assert found.min() == 1  # Behind the ReLU and the sum.
    np.testing.assert_allclose(answers(features, images), found, rtol=1e-5)


def test_two_poolings_of_one_map_are_no_hindrance():
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2)(image)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Concatenate()(
        [keras.layers.GlobalMaxPooling2D()(x), mean(x)]
    )
    model = keras.Model(image, keras.layers.Dense(4)(x))
    attached = keras_lficam.attach(model)
    assert attached.get_layer("attention_map").output.shape == (None, 15, 15, 1)


def of_rank(shape):
    layer = getattr(keras.layers, f"Conv{len(shape) - 1}D")
    image = keras.Input(shape)
    x = keras.layers.Flatten()(layer(4, 2, name="last")(image))
    return keras.Model(image, keras.layers.Dense(3)(x), name="mine")


def of_table():
    row = keras.Input((7,))
    return keras.Model(row, keras.layers.Dense(3)(row), name="mine")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (lambda: of_rank((8, 8, 8, 1)), "videos or volumes"),
        (lambda: of_rank((28, 28)), "sequences, or images without an axis"),
        (of_table, "rows of a table"),
    ],
)
@pytest.mark.parametrize(
    "explained",
    [
        keras_lficam.attach,
        explainers.GradCAM,
        lambda model: keras_lficam.build(model, 3),
    ],
)
def test_model_of_no_images_is_told_what_it_should_take(model, kind, explained):
    with pytest.raises(
        ValueError, match=r"'mine' must be a classifier of im"
    ) as e:
        explained(model())
    assert kind in str(e.value)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, images):
        return self.dense(keras.ops.mean(images, axis=(1, 2)))


class Peculiar(keras.layers.Layer):
    def __init__(self, needed, **options):
        super().__init__(**options)

    def call(self, images):
        return images

    def get_config(self):
        return {"name": self.name}


def of_two(inputs=1, outputs=1):
    images = [keras.Input((8, 8, 3)) for _ in range(inputs)]
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.add(2 * images))
    return keras.Model(
        images, [keras.layers.Dense(2)(x) for _ in range(outputs)]
    )


def peculiar():
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(Peculiar(3)(image))
    return keras.Model(image, keras.layers.Dense(2)(x))


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("DenseNet121", {}, TypeError, "keras.Model.*of type str"),
        (Subclassed, {}, ValueError, "functional model.*keras_lficam.layers"),
        (keras.Sequential, {}, ValueError, "keras.Input first"),
        (lambda: of_two(inputs=2), {}, ValueError, "one input.*2 of them"),
        (lambda: of_two(outputs=2), {}, ValueError, "one output.*2 of them"),
        (peculiar, {}, ValueError, "type Peculiar.*get_config"),
        (flat, {"layer": "nothing"}, ValueError, "last of them are.*nothing"),
        (flat, {"layer": "pooling"}, ValueError, "`layer`.*'pooling'"),
        (flat, {"layer": "stage2_block0_1_relu"}, ValueError, "another path"),
        (flat, {"value_range": (1, 0)}, ValueError, "`value_range`.*rises"),
        (flat, {"architecture": "lime"}, ValueError, "'abn', 'cam'.*'lime'"),
        (
            lambda: keras_lficam.attach(flat()),
            {},
            ValueError,
            "no attention map yet",
        ),
    ],
)
def test_what_cannot_be_attached_is_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        keras_lficam.attach(model() if callable(model) else model, **options)


def with_end(end, activation="softmax"):
    """A small classifier whose scores go through something more."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(4, activation=activation)(x)
    return keras.Model(image, end(x))


ENDS = {
    "softmax of a relu": lambda: with_end(keras.ops.softmax, "relu"),
    "percent": lambda: with_end(lambda x: 100.0 * x, "sigmoid"),
    "logarithm": lambda: with_end(keras.ops.log),
    "slice": lambda: with_end(lambda x: x[:, :3]),
    "idle": lambda: with_end(
        keras.layers.Activation("linear", dtype="float32")
    ),
    "softmax layer": lambda: with_end(keras.layers.Softmax(axis=1), None),
    **{
        name: functools.partial(with_end, end, activation)
        for name, end, activation in [
            ("softmax function", keras.ops.softmax, None),
            ("softmax of activations", keras.activations.softmax, None),
            (
                "softmax as Activation",
                keras.layers.Activation(keras.ops.softmax),
                None,
            ),
            ("softmax as Lambda", keras.layers.Lambda(keras.ops.softmax), None),
            (
                "softmax cast",
                lambda x: keras.ops.cast(keras.ops.softmax(x), "float32"),
                None,
            ),
        ]
    },
}
if keras.backend.backend() == "tensorflow":
    # Whose functions Keras does not find by their names.
    ENDS |= {
        "softmax of TensorFlow": lambda: with_end(
            keras.layers.Identity(), tf.nn.softmax
        ),
        "relu of TensorFlow": lambda: with_end(keras.ops.softmax, tf.nn.relu),
    }
SOFTMAXES = [
    name for name in ENDS if name.startswith("softmax ") and "relu" not in name
]


@pytest.mark.parametrize("kind", list(ENDS))
def test_predictions_stay_whatever_the_head_ends_with(kind, rng):
    model = ENDS[kind]()
    attached = keras_lficam.attach(model, architecture="plain")
    images = random_images(rng)
    expected = answers(model, images)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(answers(attached, images), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", SOFTMAXES)
def test_softmax_is_recognized_whatever_its_form(kind, rng):
    model, images = ENDS[kind](), random_images(rng)
    assert last_activation(model) is keras.activations.softmax
    assert last_activation(keras.Sequential([model])) is (
        keras.activations.softmax
    )
    attached = keras_lficam.attach(model, architecture="plain")
    last = attached.get_layer("predictions")
    assert last.activation is keras.activations.softmax
    classifier = Classifier(model)
    assert classifier.gives == "probabilities"
    split = classifier.split()
    logits = keras.ops.convert_to_numpy(split.logits(split.features(images)))
    kernel, bias = model.get_weights()[-2:]
    features = keras.ops.convert_to_numpy(split.features(images))
    np.testing.assert_allclose(
        logits, features.mean(axis=(1, 2)) @ kernel + bias, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        answers(attached, images),
        keras.ops.convert_to_numpy(keras.ops.softmax(logits)),
        rtol=1e-5,
        atol=1e-6,
    )


def libraries():
    """TensorFlow, and JAX where the extra `backends` is installed."""
    found = importlib.util.find_spec("jax")
    return [tf, *([importlib.import_module("jax")] if found else [])]


@pytest.mark.parametrize("library", libraries())
def test_activations_of_other_libraries_are_those_of_keras(library):
    for name in ("sigmoid", "softmax"):
        layer = keras.layers.Dense(2, activation=getattr(library.nn, name))
        assert activation_of(layer) is getattr(keras.activations, name)
    assert activation_of(keras.layers.Dense(2, library.nn.relu)) is (
        library.nn.relu
    )
    several = keras.layers.Lambda(keras.ops.softmax, arguments={"axis": 0})
    assert activation_of(several) is None


def test_sigmoid_as_a_function_is_recognized():
    model = with_end(keras.ops.sigmoid, None)
    assert last_activation(model) is keras.activations.sigmoid
    attached = keras_lficam.attach(model, architecture="plain")
    last = attached.get_layer("predictions")
    assert last.activation is keras.activations.sigmoid


@pytest.mark.parametrize("kind", ["idle", *SOFTMAXES[:2]])
@pytest.mark.parametrize("architecture", ["abn", "cam"])
def test_another_head_has_the_activation_of_the_first(kind, architecture, rng):
    attached = keras_lficam.attach(ENDS[kind](), architecture=architecture)
    each = keras.tree.flatten(answers(attached, random_images(rng)))
    assert len(each) == (2 if architecture == "abn" else 1)
    for answer in each:
        np.testing.assert_allclose(answer.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("architecture", ["abn", "cam"])
def test_another_head_needs_to_know_the_activation(architecture):
    with pytest.raises(
        ValueError, match="does not show the activation.*To fix this"
    ):
        keras_lficam.attach(ENDS["percent"](), architecture=architecture)


def test_dropout_behind_the_softmax_passes_the_scores_on(rng):
    model, images = with_end(keras.layers.Dropout(0.5)), random_images(rng)
    assert last_activation(model) is keras.activations.softmax
    for architecture in ("plain", "cam", "abn"):
        attached = keras_lficam.attach(model, architecture=architecture)
        last = attached.get_layer("predictions")
        assert last.activation is keras.activations.softmax
    attached = keras_lficam.attach(model, architecture="plain")
    np.testing.assert_allclose(
        answers(attached, images), answers(model, images), rtol=1e-5
    )
    split = Classifier(model).split()
    kernel, bias = model.get_weights()[-2:]
    features = keras.ops.convert_to_numpy(split.features(images))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(split.logits(features)),
        features.mean(axis=(1, 2)) @ kernel + bias,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_softmax_at_each_of_several_places_is_none_of_the_classes(activation):
    """Four places of three numbers each: a row of scores sums to 4, not 1."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(3, 8, strides=8, activation=activation)(image)
    model = keras.Model(image, keras.layers.Flatten()(x))
    images = np.zeros((1, 16, 16, 3), "float32")
    expected = {"softmax": 4.0, "sigmoid": 6.0}[activation]
    assert answers(model, images).sum() == pytest.approx(expected)
    if activation == "softmax":
        assert last_activation(model) is keras.activations.linear
        assert Classifier(model).gives is None
    else:
        assert last_activation(model) is keras.activations.sigmoid
        assert Classifier(model).gives == "probabilities"


def test_end_in_a_nested_model_of_two_inputs_is_known():
    features = keras.Input((4, 4, 8))
    gate = keras.Input((8,))
    x = keras.layers.GlobalAveragePooling2D()(features)
    x = keras.layers.Dense(3, activation="softmax")(x * gate)
    head = keras.Model([features, gate], x)
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 4, strides=4)(image)
    gate = keras.layers.GlobalMaxPooling2D()(x)
    model = keras.Model(image, head([x, gate]))
    assert last_activation(model) is keras.activations.softmax
    classifier = Classifier(model)
    assert classifier.gives == "probabilities"
    images = np.zeros((1, 16, 16, 3), "float32")
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(classifier.probabilities(images)),
        np.full((1, 3), 1 / 3),
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match="does not show the logits"):
        classifier.check_logits()


def beginning(kind):
    """Layers that move pixels and layers that scale them, in both orders."""
    flip = keras.layers.RandomFlip("horizontal", seed=1)
    crop = keras.layers.CenterCrop(16, 16)
    scale = keras.layers.Rescaling(1 / 255)
    shift = keras.layers.Rescaling([2.0, 3.0, 4.0], [-1.0, -2.0, 0.5])
    normal = keras.layers.Normalization(mean=120.0, variance=60.0**2)
    noise = keras.layers.GaussianNoise(0.0)
    return {
        "flip": [flip, scale],
        "crop": [crop, scale],
        "scaled flip": [scale, flip],
        "scaled crop": [normal, noise, crop],
        "scaled twice": [scale, flip, shift, crop],
        "shifted": [scale, shift, flip, crop],
    }[kind]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "kind",
    ["flip", "crop", "scaled flip", "scaled crop", "scaled twice", "shifted"],
)
def test_gray_image_is_moved_with_the_features(kind, channels, rng):
    first = beginning(kind)
    image = x = keras.Input((32, 32, channels))
    if channels == 1 and "s" in kind:
        x = keras.layers.Concatenate()([x] * 3)
    for layer in first:
        x = layer(x)
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    attached = keras_lficam.attach(model)
    convolution = next(
        la for la in attached.layers if isinstance(la, keras.layers.Conv2D)
    )
    seen = keras.Model(
        attached.input,
        [attached.get_layer("importance").input[0], convolution.input],
    )
    images = rng.uniform(0, 255, (8, 32, 32, channels)).astype("float32")
    gray, scaled = map(keras.ops.convert_to_numpy, seen(images, training=True))
    # What moved with the features, and has the values of the images still.
    for layer in first:
        if isinstance(layer, keras.layers.Rescaling):
            gray = gray * layer.scale + layer.offset
        elif isinstance(layer, keras.layers.Normalization):
            gray = (gray - 120) / 60
    np.testing.assert_allclose(gray, scaled, rtol=1e-5, atol=1e-3)
    moved = keras.ops.convert_to_numpy(seen(images, training=True)[0])
    if "crop" in kind or kind in ("scaled twice", "shifted"):
        assert moved.shape[1:3] == (16, 16)
    else:
        assert np.abs(moved - images).max() > 10


def test_names_of_ones_own_layers_do_not_clash(rng):
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, name="image")(image)
    x = keras.layers.Conv2D(8, 3, strides=2, name="attention_map")(x)
    x = keras.layers.GlobalAveragePooling2D(name="head")(x)
    x = keras.layers.Dense(3, activation="softmax", name="predictions")(x)
    model = keras.Model(image, x, name="mine")
    images = random_images(rng)
    attached = keras_lficam.attach(model)
    view = keras_lficam.attention_view(attached)
    maps = answers(view, images)["attention_map"]
    assert maps.shape[1:] == (7, 7, 1)
    plain = keras_lficam.attach(model, architecture="plain")
    np.testing.assert_allclose(
        answers(plain, images),
        answers(model, images),
        atol=1e-6,
    )


def test_nested_model_of_ours_is_not_given_a_second_map():
    inner = keras_lficam.attach(flat())
    shape = inner.input_shape[1:]
    outer = keras.Sequential([keras.Input(shape), inner])
    with pytest.raises(ValueError, match="no attention map yet"):
        keras_lficam.attach(outer)


def test_layer_that_is_a_nested_model_or_called_twice_can_be_named(rng):
    relu = keras.layers.ReLU(name="twice")
    inner = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(6, 3, strides=2)],
        name="backbone",
    )
    image = keras.Input((32, 32, 3))
    x = relu(inner(image))
    x = relu(keras.layers.Conv2D(5, 3)(x))
    x = keras.layers.AveragePooling2D(2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, "softmax")(x))
    for layer, shape in [
        ("backbone", (None, 15, 15, 1)),
        ("twice", (None, 13, 13, 1)),
    ]:
        attached = keras_lficam.attach(model, layer=layer)
        drawn = attached.get_layer("attention_map").output
        assert drawn.shape == shape
        plain = keras_lficam.attach(model, layer=layer, architecture="plain")
        images = random_images(rng)
        np.testing.assert_allclose(
            answers(plain, images),
            answers(model, images),
            atol=1e-6,
        )
    # A pooling behind the map does not tie it to one size.
    fine = keras_lficam.attach(model, layer="backbone", output_stride=1)
    assert fine.get_layer("attention_map").output.shape[1:3] == (32, 32)


def test_names_of_the_last_stage_do_not_clash_with_those_of_the_branch(rng):
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, name="attention_conv")(image)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="map")(x)
    x = keras.layers.Conv2D(8, 3, padding="same", name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(3, activation="softmax")(x)
    trained = keras.Model(image, x, name="trained")
    model = keras_lficam.attach(trained, architecture="abn")
    shown = answers(keras_lficam.attention_view(model), random_images(rng))
    assert shown["attention_map"].shape[1:] == (15, 15, 1)
    # The stage and its copy both begin with the weights of the stage.
    for name in ("map", "conv"):
        kernel = trained.get_layer(name).get_weights()[0]
        same = [
            layer.name
            for layer in model.layers
            if any(np.array_equal(kernel, w) for w in layer.get_weights())
        ]
        assert len(same) == 2, same


def test_names_have_no_dot_which_pytorch_refuses():
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2)(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(4, activation="softmax", name="predictions")(x)
    # The name that Keras gives its MobileNetV2.
    trained = keras.Model(image, x, name="mobilenetv2_1.00_64")
    attached = keras_lficam.attach(trained, value_range=(-1, 1))
    names = [layer.name for layer in attached.get_layer("head").layers]
    assert names[-1] == "mobilenetv2_1_00_64_predictions"


@keras.saving.register_keras_serializable("tests")
class OfItsOwn(keras.Model):
    """A backbone with a configuration of its own, as those of KerasHub."""

    def __init__(self, filters=6, **options):
        image = keras.Input((32, 32, 3))
        x = keras.layers.Conv2D(filters, 3, strides=2)(image)
        super().__init__(image, keras.layers.ReLU()(x), **options)
        self.filters = filters

    def get_config(self):
        return {"filters": self.filters, "name": self.name}


def of_tokens():
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(6, 16, strides=16)(image)
    return keras.Model(image, keras.layers.Reshape((-1, 6))(x))


def state_of(model):
    """All that can be seen of a model, and of the layers and models in it."""
    layers = [model, *model._flatten_layers(include_self=False)]
    operations = {
        id(one): one for one in (*layers, *getattr(model, "operations", ()))
    }
    return {
        # How Python writes the code of a Lambda depends on who refers to it.
        "config": re.sub("'code': '[^']*'", "", repr(model.get_config())),
        "weights": [weight.numpy().tobytes() for weight in model.weights],
        "layers": [
            (
                one.name,
                len(one._inbound_nodes),
                len(one._outbound_nodes),
                getattr(one, "trainable", None),
                getattr(one, "built", None),
                str(getattr(one, "dtype_policy", None)),
                id(getattr(one, "activation", None)),
            )
            for one in operations.values()
        ],
        "global": (
            keras.config.floatx(),
            keras.config.dtype_policy().name,
            keras.config.image_data_format(),
        ),
    }


@pytest.mark.parametrize(
    "make",
    [*CLASSIFIERS.values(), OfItsOwn, of_tokens, with_end],
    ids=lambda make: make.__name__,
)
def test_model_that_is_given_stays_as_it_is(make, rng):
    model = make(lambda x: keras.ops.softmax(x)) if make is with_end else make()
    if make is nested:
        model.get_layer("base").trainable = False
    before = state_of(model)
    shape = model.input_shape[1:]
    split = keras_lficam.backbones.load(model, 3, shape)
    keras_lficam.build(model, 3, input_shape=shape, architecture="abn")
    keras_lficam.build(model, 3, input_shape=shape, dropout=0.5)
    if make not in (OfItsOwn, of_tokens):
        for architecture in ("lfi_cam", "abn", "cam", "plain"):
            attached = keras_lficam.attach(model, architecture=architecture)
        assert not set(map(id, attached.layers)) & set(map(id, model.layers))
    assert state_of(model) == before
    # Nor has a model of ours other nodes for its view.
    ours = keras_lficam.build(model, 3, input_shape=shape)
    before = state_of(ours)
    keras_lficam.attention_view(ours)(random_images(rng), training=False)
    assert state_of(ours) == before
    assert not set(map(id, split.trunk.layers)) & set(map(id, model.layers))


# -- Gray images


def of_gray(rng):
    """A trained model of one channel, as one of MNIST is."""
    image = keras.Input((16, 16, 1))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, "softmax")(x))
    for weight in model.weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape))
    return model


def test_model_of_gray_images_is_attached(rng):
    model, images = of_gray(rng), random_images(rng, (16, 16, 1))
    attached = keras_lficam.attach(model)
    # The same with three equal channels, of which a kernel sees the sum.
    color = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(color)
    first = keras.layers.Conv2D(6, 3, strides=2, activation="relu")
    x = keras.layers.GlobalAveragePooling2D()(first(x))
    last = keras.layers.Dense(3, "softmax")
    theirs = keras.Model(color, last(x))
    kernel, bias, *rest = model.get_weights()
    first.set_weights([np.repeat(kernel, 3, axis=2) / 3, bias])
    last.set_weights(rest)
    of_color = keras_lficam.attach(theirs)
    of_color.get_layer("importance").set_weights(
        attached.get_layer("importance").get_weights()
    )
    shown, expected = (
        answers(keras_lficam.attention_view(one), pixels)
        for one, pixels in (
            (attached, images),
            (of_color, np.repeat(images, 3, axis=-1)),
        )
    )
    assert np.ptp(shown["attention_map"]) == 1
    for key, value in expected.items():
        np.testing.assert_allclose(shown[key], value, atol=1e-5)
    maps = explainers.AttentionMap(attached)(images)
    assert maps.shape == (4, 16, 16, 1)


def test_range_of_gray_pixels_is_that_of_the_model(rng):
    model = of_gray(rng)
    attached = keras_lficam.attach(model, value_range=(0, 1))
    whole = keras_lficam.attach(model)
    whole.set_weights(attached.get_weights())
    images = random_images(rng, (16, 16, 1))
    features = rng.normal(size=(4, 7, 7, 6)).astype("float32")
    one, other = (
        keras.ops.convert_to_numpy(net.get_layer("importance")([x, features]))
        for net, x in ((attached, images / 255), (whole, images))
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_model_of_other_bands_is_refused():
    image = keras.Input((16, 16, 4))
    x = keras.layers.Conv2D(6, 3)(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3)(x))
    with pytest.raises(ValueError, match=r"RGB.*gray.*16, 16, 4"):
        keras_lficam.attach(model)
