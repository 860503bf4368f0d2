import keras
import numpy as np
import pytest
import reference

import keras_lficam
from keras_lficam.backbones import cifar


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
    # DenseNet121 as Keras counts it, and the bottleneck's share: 1x1 to 64,
    # 3x3, 1x1 to 1024, four numbers a filter.
    branch = 1024 * 64 + 9 * 64 * 64 + 64 * 1024 + 4 * (64 + 64 + 1024)
    assert model.count_params() == 8_062_504 + branch


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
        ({"backbone": keras.Sequential()}, ValueError, "keras.Input first"),
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
        ({"dropout": 1}, ValueError, "less than 1.*dropout=1"),
        ({"dropout": "half"}, ValueError, "rate.*dropout='half'"),
        ({"classes": []}, TypeError, "or their names"),
        ({"classes": ["cat", "cat"]}, ValueError, "every class once"),
        ({"classes": [0, 1]}, TypeError, r"names.*\[0, 1\]"),
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


def test_view_of_a_plain_model_is_refused():
    with pytest.raises(ValueError, match=r"'attention_map'.*build has"):
        keras_lficam.attention_view(small(architecture="plain"))


def test_preprocessing_of_no_family_is_refused():
    from keras_lficam.backbones._applications import Preprocessing

    with pytest.raises(ValueError, match="`family`.*'densenet'.*'desnet'"):
        Preprocessing("desnet")
