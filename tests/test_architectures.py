import keras
import numpy as np
import pytest
import reference

import keras_lficam
from keras_lficam import backbones
from keras_lficam.backbones import cifar

# Channels of the last feature map, and its size for images of 64x64.
NAMES = {
    "DenseNet121": (1024, 2),
    "EfficientNetB0": (1280, 2),
    "MobileNetV2": (1280, 2),
    "ResNet50": (2048, 2),
    "ResNet20": (64, 16),
}


def small(**options):
    options = {"classes": 4, "input_shape": (32, 32, 3), **options}
    return keras_lficam.build(cifar.resnet(8), **options)


def pictures(rng, count=4, size=(32, 32)):
    return rng.uniform(0, 255, (count, *size, 3)).astype("float32")


def test_build_needs_no_argument():
    model = keras_lficam.build()
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    assert model.get_layer("attention_map").output.shape == (None, 7, 7, 1)
    # DenseNet121 as Keras counts it, and the bottleneck's share: 1x1 to 128,
    # 3x3, 1x1 to 1024, four numbers a filter.
    branch = 1024 * 128 + 9 * 128 * 128 + 128 * 1024 + 4 * (128 + 128 + 1024)
    assert model.count_params() == 8_062_504 + branch


@pytest.mark.parametrize("name", list(NAMES))
def test_backbone_builds_fits_saves_loads_and_draws(name, rng, tmp_path):
    channels, side = NAMES[name]
    model = keras_lficam.build(name, 3, input_shape=(64, 64, 3))
    images, labels = pictures(rng, size=(64, 64)), np.array([0, 1, 2, 0])
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels, verbose=0)
    still = [
        weight.path
        for weight, old in zip(model.trainable_weights, before, strict=True)
        if np.array_equal(weight.numpy(), old)
    ]
    assert not still
    view = keras_lficam.attention_view(model)
    shown = view.predict(images, verbose=0)
    assert shown["attention_map"].shape == (4, side, side, 1)
    assert shown["importance"].shape == (4, channels)
    np.testing.assert_allclose(
        shown["predictions"], model.predict(images, verbose=0), atol=1e-6
    )
    assert shown["attention_map"].min() >= 0
    assert shown["attention_map"].max() == pytest.approx(1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    again = keras_lficam.attention_view(loaded).predict(images, verbose=0)
    for key, value in shown.items():
        np.testing.assert_array_equal(again[key], value)


def test_wiring_equals_the_equations(rng):
    model = small()
    for weight in model.get_layer("importance").trainable_weights:
        weight.assign(weight + rng.normal(size=weight.shape))
    images = pictures(rng)
    head = model.get_layer("head")
    before = model.get_layer("stage3_block0_relu").output
    features = keras.Model(model.input, before).predict(images, verbose=0)
    shown = keras_lficam.attention_view(model).predict(images, verbose=0)
    drawn = reference.activation_map(features, shown["importance"])
    np.testing.assert_allclose(shown["attention_map"], drawn, atol=1e-5)
    attended = reference.attend(features, drawn)
    logits = head.predict(attended, verbose=0)
    expected = reference.softmax(logits.astype("float64"))
    np.testing.assert_allclose(shown["predictions"], expected, atol=1e-5)


def test_loss_of_the_class_alone_trains_the_importance_network(rng):
    model = small()
    model.compile("sgd", "sparse_categorical_crossentropy")
    network = model.get_layer("importance")
    before = [weight.numpy().copy() for weight in network.trainable_weights]
    model.fit(pictures(rng), np.array([0, 1, 2, 3]), verbose=0)
    for weight, old in zip(network.trainable_weights, before, strict=True):
        assert not np.array_equal(weight.numpy(), old), weight.path


@pytest.mark.parametrize(
    "name", ["DenseNet121", "EfficientNetB0", "MobileNetV2", "ResNet50"]
)
def test_plain_equals_keras_on_its_own_preprocessing(name, rng):
    # Smooth pictures, for noise looks the same everywhere.
    images = np.stack(
        [
            keras.ops.image.resize(picture, (64, 64))
            for picture in pictures(rng, size=(3, 3))
        ]
    )
    function = getattr(keras.applications, name)
    theirs = function(weights=None, classes=5, input_shape=(64, 64, 3))
    ours = keras_lficam.build(
        name, 5, input_shape=(64, 64, 3), architecture="plain"
    )
    family = function.__module__.rpartition(".")[2]
    prepare = getattr(keras.applications, family).preprocess_input
    prepared = prepare(keras.ops.convert_to_tensor(images))
    _settle(theirs, prepared)
    ours.set_weights(theirs.get_weights())
    expected = theirs(prepared).numpy()
    actual = ours(images).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 1e-4
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def _settle(model, images):
    """Sets batch normalization as training would; the image then matters."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


def test_open_size_draws_maps_of_any_size_with_equal_weights(rng):
    closed = small(input_shape=(48, 32, 3))
    opened = small(input_shape=(None, None, 3))
    opened.set_weights(closed.get_weights())
    images = pictures(rng, size=(48, 32))
    np.testing.assert_allclose(
        opened.predict(images, verbose=0),
        closed.predict(images, verbose=0),
        atol=1e-6,
    )
    view = keras_lficam.attention_view(opened)
    for size in [(48, 32), (32, 40), (64, 24)]:
        drawn = view.predict(pictures(rng, size=size), verbose=0)
        shape = (4, size[0] // 4, size[1] // 4, 1)
        assert drawn["attention_map"].shape == shape


def test_open_size_model_trains_on_batches_of_different_sizes(rng):
    model = small(input_shape=(None, None, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    for size in [(32, 32), (48, 40), (64, 24)]:
        loss = model.train_on_batch(
            pictures(rng, size=size), np.array([0, 1, 2, 3])
        )
        assert np.isfinite(loss)


def test_open_size_model_saves_and_loads(rng, tmp_path):
    model = keras_lficam.build("MobileNetV2", 3, input_shape=(None, None, 3))
    model.save(tmp_path / "open.keras")
    loaded = keras.models.load_model(tmp_path / "open.keras")
    images = pictures(rng, 2, size=(96, 70))
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), loaded.predict(images, verbose=0)
    )


@pytest.mark.parametrize("form", ["bottleneck", "pointwise", "released"])
def test_one_word_chooses_the_network(form):
    network = small(importance_network=form).get_layer("importance")
    assert network.form == form


def test_a_network_of_ones_own_can_be_given():
    network = keras_lficam.FeatureImportanceNetwork("released", relu_every=1)
    for _ in range(2):  # Each model has a copy of its own.
        model = small(importance_network=network)
        own = model.get_layer("importance")
        assert (own.form, own.relu_every) == ("released", 1)
        assert not network.built
        keras_lficam.attention_view(model)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_classifier_activation(activation, rng):
    model = small(classifier_activation=activation)
    logits = keras.Model(model.input, model.get_layer("predictions").input)
    images = pictures(rng)
    raw = logits.predict(images, verbose=0)
    expected = {
        "softmax": reference.softmax,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        None: lambda x: x,
    }[activation](raw)
    actual = model.predict(images, verbose=0)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


# The last feature map of one backbone of every family, for 224x224 images.
FAMILIES = {
    "ConvNeXtTiny": (7, 7, 768),
    "DenseNet169": (7, 7, 1664),
    "EfficientNetB3": (7, 7, 1536),
    "EfficientNetV2S": (7, 7, 1280),
    "InceptionResNetV2": (5, 5, 1536),
    "InceptionV3": (5, 5, 2048),
    "MobileNet": (7, 7, 1024),
    "MobileNetV2": (7, 7, 1280),
    "MobileNetV3Small": (7, 7, 576),
    "NASNetMobile": (7, 7, 1056),
    "ResNet101": (7, 7, 2048),
    "ResNet50V2": (7, 7, 2048),
    "VGG16": (7, 7, 512),
    "Xception": (7, 7, 2048),
}


@pytest.mark.parametrize(("name", "shape"), list(FAMILIES.items()))
def test_every_family_is_cut_at_its_last_feature_map(name, shape):
    split = backbones.load(name, 2, (224, 224, 3))
    assert split.features.shape == (None, *shape)
    assert split.head.output_shape == (None, 2)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_predicts_in_float32(policy, rng):
    keras.config.set_dtype_policy(policy)
    model = small()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(pictures(rng), np.array([0, 1, 2, 3]), verbose=0)
    shown = keras_lficam.attention_view(model)(pictures(rng))
    for key, value in shown.items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32", key
        assert np.isfinite(value.numpy()).all()
    np.testing.assert_allclose(
        shown["predictions"].numpy().sum(axis=-1), 1, atol=1e-5
    )


def test_weights_of_a_file_are_loaded(tmp_path, rng):
    donor = keras.applications.MobileNetV2(weights=None, classes=3)
    path = tmp_path / "donor.weights.h5"
    donor.save_weights(path)
    model = keras_lficam.build("MobileNetV2", 3, weights=path)
    for weight in donor.weights:
        match = [w for w in model.weights if w.path == weight.path]
        match += [w for w in model.weights if w.path == f"head/{weight.path}"]
        np.testing.assert_array_equal(match[0].numpy(), weight.numpy())


def test_sequence_of_bgr_or_other_pixels_is_never_seen_by_the_gray(rng):
    # ResNet50 turns RGB into BGR without the mean: its gray must not.
    model = keras_lficam.build("ResNet50", 2, input_shape=(64, 64, 3))
    image, features = model.get_layer("importance").input
    assert image is model.input
    assert features.shape == (None, 2, 2, 2048)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"backbone": "resnet-50"},
            ValueError,
            "nearest names are 'ResNet50'",
        ),
        ({"backbone": "xyzzy"}, ValueError, r"backbones\.names\(\)"),
        ({"backbone": 50}, TypeError, "name such as.*50 of type int"),
        ({"backbone": keras.Sequential()}, TypeError, "of type Sequential"),
        ({"classes": 0}, ValueError, "`classes`.*at least 1.*classes=0"),
        ({"classes": 2.0}, TypeError, "`classes`.*integer.*float"),
        ({"classes": True}, TypeError, "`classes`.*integer.*bool"),
        ({"input_shape": (64, 64, 1)}, ValueError, "RGB.*64, 64, 1"),
        ({"input_shape": (64, 64)}, ValueError, r"\(height, width, 3\)"),
        ({"input_shape": (1, 64, 64, 3)}, ValueError, "without the batch"),
        ({"input_shape": (0, 64, 3)}, ValueError, "at least 1"),
        ({"input_shape": 64}, ValueError, "input_shape=64"),
        ({"architecture": "cam++"}, ValueError, "'lfi_cam', 'plain'.*cam"),
        ({"importance_network": "big"}, ValueError, "'bottleneck'.*big"),
        ({"classifier_activation": "soft"}, ValueError, "soft"),
        ({"importance_network": None}, TypeError, "NoneType"),
        (
            {"importance_network": keras.layers.Dense(3)},
            TypeError,
            "FeatureImportanceNetwork.*of type Dense",
        ),
        ({"architecture": ["plain"]}, ValueError, r"\['plain'\]"),
        ({"weights": "nowhere.h5"}, ValueError, "weights.*nowhere"),
        ({"weights": [1]}, ValueError, r"weights.*\[1\]"),
        (
            {"weights": "imagenet", "classes": 1000},
            ValueError,
            "no weights from ImageNet",
        ),
        ({"weights": "imagenet"}, ValueError, "only where.*1000.*classes=3"),
    ],
)
def test_wrong_argument_is_refused(arguments, error, message):
    options = {
        "backbone": "ResNet20",
        "classes": 3,
        "input_shape": (32, 32, 3),
        **arguments,
    }
    with pytest.raises(error, match=message):
        keras_lficam.build(**options)


def test_numpy_integers_are_integers():
    labels = np.array([0, 2, 3])
    model = small(
        classes=labels.max() + 1,
        input_shape=[np.int64(32), np.int64(32), np.int64(3)],
    )
    assert model.output_shape == (None, 4)


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="set_image_data_format"):
            small()
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    "name",
    ["DenseNet121", "EfficientNetB0", "MobileNetV2", "ResNet50"],
)
def test_image_too_small_for_a_map_is_refused(name):
    with pytest.raises(ValueError, match=r"at least 2x2.*32, 32.*larger"):
        keras_lficam.build(name, 3, input_shape=(32, 32, 3))


def test_head_that_flattens_refuses_an_open_size():
    with pytest.raises(ValueError, match="flattens.*give height and width"):
        keras_lficam.build("VGG16", 3, input_shape=(None, None, 3))


def test_view_of_a_plain_model_is_refused():
    with pytest.raises(ValueError, match=r"'importance'.*build has"):
        keras_lficam.attention_view(small(architecture="plain"))


def test_names_are_those_of_keras_and_ours():
    names = backbones.names()
    assert {"DenseNet121", "VGG16", "NASNetLarge", "ResNet20"} < set(names)
    assert names == sorted(names)
    # 40 of keras.applications.
    assert len(names) == 41


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # He et al., 2016, table 6, whose shortcuts have no weights.
    [(20, 0.27e6), (32, 0.46e6), (44, 0.66e6), (56, 0.85e6)],
)
def test_residual_network_has_its_published_size(depth, parameters):
    model = cifar.resnet(depth)()
    trainable = sum(np.prod(w.shape) for w in model.trainable_weights)
    assert trainable == pytest.approx(parameters, abs=0.01e6)


def test_shortcuts_are_convolutions_as_in_the_releases():
    model = cifar.resnet(20)(classes=10)
    trainable = sum(np.prod(w.shape) for w in model.trainable_weights)
    # The reference gives 0.272 M; the paper's shortcuts without weights
    # would leave 0.270 M.
    assert trainable == 272_474


@pytest.mark.parametrize(("stem_stride", "side"), [(1, 32), (2, 64)])
def test_cell_of_the_map_stands_for_its_own_place(stem_stride, side):
    """The image's influence on a cell is centered on the cell."""
    import tensorflow as tf

    model = cifar.resnet(8, stem_stride=stem_stride)(
        input_shape=(side, side, 3)
    )
    for weight in model.weights:
        if "kernel" in weight.path:
            weight.assign(np.full(weight.shape, 0.01))
    features = keras.Model(model.input, model.layers[-3].output)
    image = tf.Variable(np.full((1, side, side, 3), 255.0, "float32"))
    with tf.GradientTape() as tape:
        cell = tf.reduce_sum(features(image)[0, 4, 3])
    influence = tape.gradient(cell, image).numpy()[0].sum(axis=-1)
    assert features.output.shape[1:3] == (8, 8)
    size = side / 8
    for axis, index in ((0, 4), (1, 3)):
        along = influence.sum(axis=1 - axis)
        center = (along * np.arange(side)).sum() / along.sum()
        own = index * size + (size - 1) / 2
        assert center - own == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 21}, r"6 n \+ 2.*depth=21"),
        ({"depth": 2}, r"6 n \+ 2.*depth=2"),
        ({"depth": "8"}, r"6 n \+ 2.*depth='8'"),
        ({"depth": 8, "stem_stride": 0}, "`stem_stride`.*at least 1"),
    ],
)
def test_impossible_residual_network_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cifar.resnet(**arguments)


def test_preprocessing_of_no_family_is_refused():
    from keras_lficam.backbones._applications import Preprocessing

    with pytest.raises(ValueError, match="`family`.*'densenet'.*'desnet'"):
        Preprocessing("desnet")
