"""A classifier that somebody trained becomes one that shows its map."""

import keras
import numpy as np
import pytest

import keras_lficam
from keras_lficam.backbones import cifar


def pictures(rng, shape=(32, 32, 3), count=4):
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
    images = pictures(rng)
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
    images = pictures(rng)
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
    images = pictures(rng)
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
    images = pictures(rng)
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
    predicted = answers(attached, pictures(rng))
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
    images = pictures(rng)
    np.testing.assert_allclose(
        answers(plain, images),
        answers(model, images),
        atol=1e-6,
    )


def test_mean_over_space_needs_the_name_of_its_map():
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="last")(image)
    x = keras.ops.mean(x, axis=(1, 2))
    model = keras.Model(image, keras.layers.Dense(4)(x))
    with pytest.raises(ValueError, match="no feature map.*"):
        keras_lficam.attach(model)
    attached = keras_lficam.attach(model, layer="last")
    assert attached.get_layer("attention_map").output.shape == (None, 30, 30, 1)


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
        (flat, {"layer": "stage2_block0_1_relu"}, ValueError, "goes around"),
        (flat, {"value_range": (1, 0)}, ValueError, "`value_range`.*rises"),
        (flat, {"architecture": "lime"}, ValueError, "'abn', 'cam'.*'lime'"),
        (lambda: keras_lficam.attach(flat()), {}, ValueError, "already"),
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
}


@pytest.mark.parametrize("kind", list(ENDS))
def test_predictions_stay_whatever_the_head_ends_with(kind, rng):
    model = ENDS[kind]()
    attached = keras_lficam.attach(model, architecture="plain")
    images = pictures(rng)
    expected = answers(model, images)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(answers(attached, images), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["idle", "softmax layer"])
@pytest.mark.parametrize("architecture", ["abn", "cam"])
def test_another_head_has_the_activation_of_the_first(kind, architecture, rng):
    attached = keras_lficam.attach(ENDS[kind](), architecture=architecture)
    each = keras.tree.flatten(answers(attached, pictures(rng)))
    assert len(each) == (2 if architecture == "abn" else 1)
    for answer in each:
        np.testing.assert_allclose(answer.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("architecture", ["abn", "cam"])
def test_another_head_needs_to_know_the_activation(architecture):
    with pytest.raises(ValueError, match="does not show the activation.*Ways"):
        keras_lficam.attach(ENDS["percent"](), architecture=architecture)


@pytest.mark.parametrize("mover", ["flip", "crop"])
def test_gray_image_is_moved_with_the_features(mover, rng):
    layer = {
        "flip": keras.layers.RandomFlip("horizontal", seed=1),
        "crop": keras.layers.CenterCrop(16, 16),
    }[mover]
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layer,
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(6, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    attached = keras_lficam.attach(model)
    scaled = next(
        la for la in attached.layers if isinstance(la, keras.layers.Rescaling)
    )
    seen = keras.Model(
        attached.input,
        [attached.get_layer("importance").input[0], scaled.output],
    )
    images = rng.uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    gray_of, features_of = seen(images, training=True)
    gray_of = keras.ops.convert_to_numpy(gray_of)
    np.testing.assert_allclose(
        gray_of / 255, keras.ops.convert_to_numpy(features_of), atol=1e-5
    )
    if mover == "flip":
        assert np.abs(gray_of - images).max() > 10
    else:
        assert gray_of.shape == (8, 16, 16, 3)


def test_names_of_ones_own_layers_do_not_clash(rng):
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, name="image")(image)
    x = keras.layers.Conv2D(8, 3, strides=2, name="attention_map")(x)
    x = keras.layers.GlobalAveragePooling2D(name="head")(x)
    x = keras.layers.Dense(3, activation="softmax", name="predictions")(x)
    model = keras.Model(image, x, name="mine")
    images = pictures(rng)
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
    with pytest.raises(ValueError, match="attention map already"):
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
        images = pictures(rng)
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
    shown = answers(keras_lficam.attention_view(model), pictures(rng))
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
