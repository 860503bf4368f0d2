import functools

import keras
import numpy as np
import pytest
import reference

import keras_lficam
from keras_lficam.backbones import cifar, resnets

pytestmark = pytest.mark.usefixtures("eagerly")


def once(function):
    """A function that gives again what this one has once built.

    What `build` then makes of it by other arguments has the same layers.
    """
    built = []

    @functools.wraps(function)
    def again(**options):
        if not built:
            built.append(function(**options))
        return built[0]

    return again


def small(**options):
    options = {"classes": 4, "input_shape": (32, 32, 3), **options}
    return keras_lficam.build(cifar.resnet(8), **options)


def random_images(rng, count=4, size=(32, 32)):
    return rng.uniform(0, 255, (count, *size, 3)).astype("float32")


@pytest.mark.usefixtures("shapes_alone")
def test_build_needs_no_argument():
    model = keras_lficam.build()
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)
    assert model.get_layer("attention_map").output.shape == (None, 7, 7, 1)
    # DenseNet121 as Keras counts it, and the bottleneck's share: 1x1 to 32,
    # 3x3, 1x1 to 1024, four numbers a filter.
    branch = 1024 * 32 + 9 * 32 * 32 + 32 * 1024 + 4 * (32 + 32 + 1024)
    assert model.count_params() == 8_062_504 + branch


def test_wiring_equals_the_equations(rng):
    model = small()
    for weight in model.get_layer("importance").trainable_weights:
        weight.assign(weight + rng.normal(size=weight.shape))
    images = random_images(rng)
    head = model.get_layer("head")
    before = model.get_layer("stage3_block0_relu").output
    features = np.asarray(keras.Model(model.input, before)(images))
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
    model.fit(random_images(rng), np.array([0, 1, 2, 3]), verbose=0)
    for weight, old in zip(network.trainable_weights, before, strict=True):
        assert not np.array_equal(weight.numpy(), old), weight.path


@pytest.mark.slow
def test_open_size_draws_maps_of_any_size_with_equal_weights(rng):
    closed = small(input_shape=(48, 32, 3))
    opened = small(input_shape=(None, None, 3))
    opened.set_weights(closed.get_weights())
    images = random_images(rng, size=(48, 32))
    np.testing.assert_allclose(
        opened.predict(images, verbose=0),
        closed.predict(images, verbose=0),
        atol=1e-6,
    )
    view = keras_lficam.attention_view(opened)
    for size in [(48, 32), (32, 40), (64, 24)]:
        drawn = view.predict(random_images(rng, size=size), verbose=0)
        shape = (4, size[0] // 4, size[1] // 4, 1)
        assert drawn["attention_map"].shape == shape


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_open_size_model_trains_on_batches_of_different_sizes(rng):
    model = small(input_shape=(None, None, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    for size in [(32, 32), (48, 40), (64, 24)]:
        loss = model.train_on_batch(
            random_images(rng, size=size), np.array([0, 1, 2, 3])
        )
        assert np.isfinite(loss)


@pytest.mark.slow
def test_open_size_model_saves_and_loads(rng, tmp_path):
    model = small(input_shape=(None, None, 3))
    model.save(tmp_path / "open.keras")
    loaded = keras.models.load_model(tmp_path / "open.keras")
    images = random_images(rng, 2, size=(96, 70))
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
    images = random_images(rng)
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
    model.fit(random_images(rng), np.array([0, 1, 2, 3]), verbose=0)
    shown = keras_lficam.attention_view(model)(random_images(rng))
    for key, value in shown.items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32", key
        assert np.isfinite(value.numpy()).all()
    np.testing.assert_allclose(
        shown["predictions"].numpy().sum(axis=-1), 1, atol=1e-5
    )


@pytest.mark.usefixtures("shapes_alone")
def test_sequence_of_bgr_or_other_pixels_is_never_seen_by_the_gray():
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
            "nearest names, 'ResNet50'",
        ),
        (
            {"backbone": "ResNext50"},
            ValueError,
            "nearest names, 'ResNeXt50_32x4d'",
        ),
        ({"backbone": "xyzzy"}, ValueError, r"backbones\.names\(\)"),
        ({"backbone": 50}, TypeError, "name such as.*50 of type int"),
        ({"backbone": keras.Sequential()}, ValueError, "keras.Input first"),
        ({"classes": 0}, ValueError, "`classes`.*at least 1.*classes=0"),
        ({"classes": 2.0}, TypeError, "`classes`.*integer.*float"),
        ({"classes": True}, TypeError, "`classes`.*integer.*bool"),
        ({"input_shape": (64, 64, 2)}, ValueError, "gray.*64, 64, 2"),
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
        ({"dropout": "half"}, TypeError, "rate.*dropout='half'"),
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


# Millions of trainable parameters in reference/lfi-cam.md, computed there from
# the definitions of the authors' releases: plain, ABN, LFI-CAM with the
# released and with the pointwise network. "ResNet-110" has 164 layers there.
RELEASES = {
    ("ResNet20", 10): (0.272, 0.479, 0.420, None),
    ("ResNet110Bottleneck", 10): (1.704, 3.000, 4.065, 1.903),
    ("ResNet110Bottleneck", 100): (1.727, 3.057, 4.089, 1.926),
    # Our attention branch copies the stage's last normalization, too: 684.
    ("DenseNet100_12", 10): (0.769, 1.050 + 0.0007, 4.983, 1.122),
    ("ResNeXt29_8x64d", 10): (34.43, 60.69, 72.18, 37.58),
    ("ResNet18", 10): (11.18, 19.58, 20.62, 11.97),
    # Keras's own has biases in its convolutions, and 0.03 M weights more.
    (resnets.resnet(50), 1000): (25.56, 43.58, 176.57, 38.15),
}
# The others have more layers of the same kinds.
USUAL = ("ResNet20", "ResNet18")
WIRINGS = [
    ("plain", "released"),
    ("abn", "released"),
    ("lfi_cam", "released"),
    ("lfi_cam", "pointwise"),
]


def trainable(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize(
    ("name", "classes"),
    [
        pytest.param(
            *case,
            marks=[] if case[0] in USUAL else pytest.mark.every_backbone,
        )
        for case in RELEASES
    ],
)
def test_parameters_are_those_of_the_releases(name, classes):
    families = {**resnets.FAMILY, **cifar.FAMILY}
    backbone = once(families.get(name, name))
    for (architecture, form), millions in zip(
        WIRINGS, RELEASES[name, classes], strict=True
    ):
        if millions is not None:
            model = keras_lficam.build(
                backbone,
                classes,
                input_shape=(64, 64, 3),
                architecture=architecture,
                importance_network=form,
            )
            # Half of the last digit that the table gives.
            digits = 3 if millions < 10 else 2
            count = trainable(model) / 1e6
            assert count == pytest.approx(millions, abs=0.51 * 10**-digits)


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("DenseNet121", marks=pytest.mark.every_backbone),
        pytest.param("ResNet50", marks=pytest.mark.every_backbone),
        "MobileNetV2",
        pytest.param("EfficientNetB0", marks=pytest.mark.every_backbone),
        pytest.param("ConvNeXtTiny", marks=pytest.mark.every_backbone),
    ],
)
def test_lfi_cam_is_smaller_than_the_attention_branch_network(
    name, monkeypatch
):
    function = getattr(keras.applications, name)
    monkeypatch.setattr(keras.applications, name, once(function))
    plain, ours, branch = (
        keras_lficam.build(name, architecture=architecture)
        for architecture in ("plain", "lfi_cam", "abn")
    )
    assert plain.count_params() < ours.count_params() < branch.count_params()
    assert ours.count_params() < 1.1 * plain.count_params()
    shown = keras_lficam.attention_view(branch).output
    assert shown["attention_map"].shape == (None, 14, 14, 1)


@pytest.mark.parametrize("stride", [None, 2])
@pytest.mark.parametrize("architecture", ["lfi_cam", "abn", "cam", "plain"])
def test_gray_images_are_as_those_of_equal_channels(
    architecture, stride, rng, tmp_path
):
    keras.config.set_dtype_policy("float32" if stride else "mixed_bfloat16")
    options = {"architecture": architecture, "output_stride": stride}
    color, gray = (
        small(input_shape=(32, 32, channels), **options) for channels in (3, 1)
    )
    gray.set_weights(color.get_weights())
    images = random_images(rng)[..., :1]
    expected = keras.tree.flatten(color(np.repeat(images, 3, axis=-1)))
    gray.save(tmp_path / "gray.keras")
    loaded = keras.models.load_model(tmp_path / "gray.keras")
    for model in (gray, loaded):
        answers = keras.tree.flatten(model(images))
        for one, other in zip(answers, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def both(labels):
    return {"predictions": labels, "attention_predictions": labels}


def test_attention_branch_equals_the_equations(rng):
    plain = small(architecture="plain")
    model = small(architecture="abn")
    for weight in model.weights:
        if "variance" not in weight.path:
            weight.assign(weight + 0.2 * rng.normal(size=weight.shape))
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    images = random_images(rng)
    extracted = keras.Model(
        plain.input, plain.get_layer("stage2_block0_relu").output
    ).predict(images, verbose=0)
    shown = keras_lficam.attention_view(model).predict(images, verbose=0)
    assert set(shown) == {"predictions", "attention_map"}
    branch = keras.Model(
        model.input, model.get_layer("attention_stage3_block0_relu").output
    ).predict(images, verbose=0)

    def weights(name):
        return model.get_layer(name).get_weights()

    def normalized(x, name):
        gamma, beta, mean, variance = weights(f"{name}_normalization")
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    x = normalized(branch, "attention_branch")
    (kernel,) = weights("attention_classes_convolution")
    x = np.maximum(0, normalized(x @ kernel[0, 0], "attention_classes"))
    (kernel,) = weights("attention_drawn_convolution")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    drawn = sum(
        padded[:, i : i + 16, j : j + 16] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    with np.errstate(over="ignore"):  # One over infinity is the 0 it should be.
        drawn = 1 / (1 + np.exp(-normalized(drawn, "attention_drawn")))
    np.testing.assert_allclose(shown["attention_map"], drawn, atol=1e-5)
    (kernel,) = weights("attention_scores_convolution")
    scores = (x @ kernel[0, 0]).mean(axis=(1, 2))
    predicted = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        predicted["attention_predictions"],
        reference.softmax(scores),
        atol=1e-5,
    )
    rest = keras.Model(
        plain.get_layer("stage2_block0_relu").output, plain.output
    )
    np.testing.assert_allclose(
        predicted["predictions"],
        rest.predict((1 + drawn) * extracted, verbose=0),
        atol=1e-5,
    )


@pytest.mark.slow
def test_attention_branch_learns_from_both_labels(rng, tmp_path):
    model = small(architecture="abn")
    model.compile("sgd", "sparse_categorical_crossentropy")
    images, labels = random_images(rng), np.array([0, 1, 2, 3])
    before = [weight.numpy() for weight in model.trainable_weights]
    history = model.fit(images, both(labels), verbose=0).history
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert not np.array_equal(weight.numpy(), old), weight.path
    parts = [name for name in history if name.endswith("predictions_loss")]
    assert len(parts) == 2
    assert history["loss"][0] == pytest.approx(
        sum(history[name][0] for name in parts), rel=1e-5
    )
    model.save(tmp_path / "abn.keras")
    loaded = keras.models.load_model(tmp_path / "abn.keras")
    again = loaded.predict(images, verbose=0)
    for key, value in model.predict(images, verbose=0).items():
        np.testing.assert_array_equal(again[key], value)
    maps = keras_lficam.explainers.AttentionMap(model)(images)
    assert maps.shape == (4, 32, 32, 1)


@pytest.mark.usefixtures("shapes_alone")
def test_attention_branch_without_a_last_stage_is_a_bottleneck_block():
    # Every cell of NASNet looks at the two before it: nothing is last.
    model = keras_lficam.build(
        "NASNetMobile", 3, input_shape=(64, 64, 3), architecture="abn"
    )
    drawn = keras_lficam.attention_view(model).output["attention_map"]
    assert drawn.shape == (None, 2, 2, 1)
    kernels = [
        model.get_layer(f"attention_stage_{number}_convolution").kernel.shape
        for number in (1, 2, 3)
    ]
    assert kernels == [(1, 1, 1056, 264), (3, 3, 264, 264), (1, 1, 264, 1056)]


@pytest.mark.slow
def test_cam_has_a_head_of_pooling_and_dense(rng):
    model = keras_lficam.build(
        "MobileNetV3Small", 4, input_shape=(64, 64, 3), architecture="cam"
    )
    head = model.get_layer("head")
    kinds = [type(layer).__name__ for layer in head.layers]
    # MobileNetV3's own head has two more layers; its dropout is kept.
    assert kinds == ["InputLayer", "GlobalAveragePooling2D", "Dropout", "Dense"]
    assert head.get_layer("dropout").rate == 0.2
    images = random_images(rng, size=(64, 64))
    features = keras.Model(model.input, model.layers[-3].output)
    pooled = features.predict(images, verbose=0).mean(axis=(1, 2))
    kernel, bias = head.get_layer("classifier").get_weights()
    np.testing.assert_allclose(
        model.predict(images, verbose=0),
        reference.softmax(pooled @ kernel + bias),
        atol=1e-5,
    )


class Named:
    class_names = ["cat", "dog", "hare"]


@pytest.mark.parametrize(
    "classes", [3, ["cat", "dog", "hare"], ("cat", "dog", "hare"), Named()]
)
def test_classes_are_counted(classes):
    assert small(classes=classes).output_shape == (None, 3)


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize(
    "function",
    [
        keras.applications.EfficientNetB0,
        keras.applications.MobileNetV3Small,
        cifar.resnet(8),
    ],
)
def test_dropout_before_the_classifying_layer(function):
    backbone = once(function)
    for rate in (0.0, 0.4):
        head = keras_lficam.build(
            backbone, 3, input_shape=(64, 64, 3), dropout=rate
        ).get_layer("head")
        rates = [
            layer.rate
            for layer in head.layers
            if isinstance(layer, keras.layers.Dropout)
        ]
        assert rates == [rate]  # Also where the backbone had one of its own.
        names = [layer.name for layer in head.layers]
        place = next(i for i, name in enumerate(names) if "dropout" in name)
        assert head.layers[place + 1].weights


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("shape", [(32, 32, 3), (48, 40, 3), (None, None, 3)])
@pytest.mark.parametrize("architecture", ["lfi_cam", "abn", "cam"])
def test_compiled_by_xla_the_answers_are_the_same(architecture, shape, rng):
    model = small(architecture=architecture, input_shape=shape)
    images = random_images(
        rng, 1, size=(48, 40) if shape[0] == 48 else (32, 32)
    )
    eager = model(images)
    model.compile(jit_compile=True)
    compiled = model.predict(images, verbose=0)
    for one, other in zip(
        keras.tree.flatten(eager), keras.tree.flatten(compiled), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def pooled_only(
    weights=None,
    input_tensor=None,
    input_shape=None,
    classes=3,
    classifier_activation=None,
):
    """A head without weights, as SqueezeNet has, and a taken name."""
    x = keras.layers.Conv2D(classes, 3, strides=4, name="attention")(
        input_tensor
    )
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(input_tensor, x, name="squeeze")


def test_function_with_a_head_without_weights_and_a_name_that_is_taken(rng):
    model = keras_lficam.build(
        pooled_only, 3, input_shape=(32, 32, 3), dropout=0.3
    )
    assert model.predict(random_images(rng), verbose=0).shape == (4, 3)
    head = model.get_layer("head")
    assert head.layers[1].rate == 0.3
    assert model.get_layer("squeeze_attention").kernel.shape == (3, 3, 3, 3)


def test_partial_of_an_application_prepares_its_pixels(rng):
    function = keras.applications.MobileNetV2
    small_one = functools.partial(function, alpha=0.35)
    model = keras_lficam.build(
        small_one, 3, input_shape=(64, 64, 3), architecture="plain"
    )
    images = random_images(rng, size=(64, 64))
    first = keras.Model(model.input, model.get_layer("Conv1").output)
    (kernel,) = model.get_layer("Conv1").get_weights()
    expected = keras.ops.conv(
        images / 127.5 - 1, kernel, strides=2, padding="same"
    )
    np.testing.assert_allclose(first(images), expected, atol=1e-4)


def test_function_of_ones_own_takes_its_images_as_they_are(rng):
    def mine(**options):
        return pooled_only(**options)

    mine.__module__ = "project.resnet"  # As that of a family of Keras.
    model = keras_lficam.build(
        mine, 3, input_shape=(32, 32, 3), architecture="plain"
    )
    kinds = [type(layer).__name__ for layer in model.layers]
    assert "Preprocessing" not in kinds


# A small one of every family of ours.
@pytest.mark.parametrize(
    ("function", "size"),
    [
        (cifar.resnet(8), 32),
        (cifar.resnet(8, squeeze=2), 32),
        (cifar.densenet(10, growth=4), 32),
        (cifar.resnext(11, groups=4, group_width=2), 32),
        (cifar.wide_resnet(10, 2), 32),
        (resnets.resnet(18), 64),
        pytest.param(
            resnets.resnet(50, groups=4, group_width=2, squeeze=16),
            64,
            marks=pytest.mark.every_backbone,
        ),
    ],
)
def test_own_family_draws_the_same_map_after_a_reload(
    function, size, rng, tmp_path
):
    model = keras_lficam.build(function, 3, input_shape=(size, size, 3))
    images = random_images(rng, size=(size, size))
    shown = keras_lficam.attention_view(model)(images)
    assert np.max(shown["attention_map"]) == 1
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    again = keras_lficam.attention_view(loaded)(images)
    for key, value in shown.items():
        np.testing.assert_array_equal(again[key], value)
