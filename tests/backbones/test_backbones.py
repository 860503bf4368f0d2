"""Every backbone is split at the right layer and prepares its own pixels."""

import functools
import itertools
from unittest import mock

import h5py
import keras
import numpy as np
import pytest
import small_classifiers
import tensorflow as tf
from applications import FAMILIES
from keras.src.applications import convnext, mobilenet_v3
from keras.src.legacy.saving import legacy_h5_format

import keras_lficam
from keras_lficam import backbones, surgery
from keras_lficam.backbones import cifar
from keras_lficam.classifier import Classifier, Evidence

# The true last feature map of images of 224x224, read off the summaries.
MAPS = {
    "ConvNeXtBase": (7, 7, 1024),
    "ConvNeXtLarge": (7, 7, 1536),
    "ConvNeXtSmall": (7, 7, 768),
    "ConvNeXtTiny": (7, 7, 768),
    "ConvNeXtXLarge": (7, 7, 2048),
    "DenseNet121": (7, 7, 1024),
    "DenseNet169": (7, 7, 1664),
    "DenseNet201": (7, 7, 1920),
    "EfficientNetB0": (7, 7, 1280),
    "EfficientNetB1": (7, 7, 1280),
    "EfficientNetB2": (7, 7, 1408),
    "EfficientNetB3": (7, 7, 1536),
    "EfficientNetB4": (7, 7, 1792),
    "EfficientNetB5": (7, 7, 2048),
    "EfficientNetB6": (7, 7, 2304),
    "EfficientNetB7": (7, 7, 2560),
    "EfficientNetV2B0": (7, 7, 1280),
    "EfficientNetV2B1": (7, 7, 1280),
    "EfficientNetV2B2": (7, 7, 1408),
    "EfficientNetV2B3": (7, 7, 1536),
    "EfficientNetV2L": (7, 7, 1280),
    "EfficientNetV2M": (7, 7, 1280),
    "EfficientNetV2S": (7, 7, 1280),
    "InceptionResNetV2": (5, 5, 1536),
    "InceptionV3": (5, 5, 2048),
    "MobileNet": (7, 7, 1024),
    "MobileNetV2": (7, 7, 1280),
    "MobileNetV3Large": (7, 7, 960),
    "MobileNetV3Small": (7, 7, 576),
    "NASNetLarge": (7, 7, 4032),
    "NASNetMobile": (7, 7, 1056),
    "ResNet101": (7, 7, 2048),
    "ResNet101V2": (7, 7, 2048),
    "ResNet152": (7, 7, 2048),
    "ResNet152V2": (7, 7, 2048),
    "ResNet50": (7, 7, 2048),
    "ResNet50V2": (7, 7, 2048),
    "VGG16": (7, 7, 512),
    "VGG19": (7, 7, 512),
    "Xception": (7, 7, 2048),
}

# Of FAMILIES those that are asked with every test; the others by themselves.
# The head of VGG16 flattens the map, InceptionV3 does not pad.
CUT = ("InceptionV3", "MobileNetV2", "MobileNetV3Small", "ResNet50V2", "VGG16")
LEARN = ("MobileNetV3Small",)


def families(usual):
    return [
        pytest.param(
            name, marks=[] if name in usual else pytest.mark.every_backbone
        )
        for name in FAMILIES
    ]


pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def built_once(monkeypatch):
    """Lets a function of Keras give again what it has once built.

    What `build` and `load` then make of it has the same layers.
    """

    def patch(name):
        function = function_of(name)
        built = {}

        @functools.wraps(function)
        def again(weights=None, input_tensor=None, **options):
            if weights is not None:
                return function(
                    weights=weights, input_tensor=input_tensor, **options
                )
            key = str(sorted(options.items()))
            if key not in built:
                built[key] = function(
                    weights=None, input_tensor=input_tensor, **options
                )
            return built[key]

        monkeypatch.setattr(keras.applications, name, again)

    return patch


def small_size(name):
    if name.startswith("Inception"):
        return 128
    return 96 if name == "Xception" else 64


def smooth_images(rng, size, count=2):
    """Smooth images, for noise looks the same everywhere."""
    coarse = rng.uniform(0, 255, (count, 3, 3, 3)).astype("float32")
    smooth = keras.ops.image.resize(coarse, (size, size))
    return keras.ops.convert_to_numpy(smooth)


def function_of(name):
    return getattr(keras.applications, name)


def prepare(name, images):
    family = function_of(name).__module__.rpartition(".")[2]
    module = getattr(keras.applications, family)
    return module.preprocess_input(keras.ops.convert_to_tensor(images))


def assert_alike(actual, expected):
    """Equal to 1e-5, and not the same for every image."""
    expected = np.asarray(expected)
    scale = np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale
    atol = 1e-5 * max(1, scale)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def forget(model):
    """Lets the next pass in training set batch normalization by itself."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0


def settle(model, images):
    """Sets batch normalization as training would; the image then matters."""
    forget(model)
    model(images, training=True)


def test_the_table_has_every_name_of_keras():
    own = {
        **cifar.FAMILY,
        **backbones.resnets.FAMILY,
        **backbones.efficientnet_lite.FAMILY,
    }
    assert set(backbones.names()) - set(own) == set(MAPS)
    assert len(MAPS) == 40
    modules, families = (
        {function_of(name).__module__.rpartition(".")[2] for name in names}
        for names in (MAPS, FAMILIES)
    )
    assert modules - families == {"vgg19"}  # Of the family of VGG16.


def check_map(name):
    split = backbones.load(name, 2, (224, 224, 3))
    assert split.features.shape == (None, *MAPS[name])
    assert split.head.output_shape == (None, 2)


def check_moved(moved):
    """Of the weights, by their paths, those that must move have moved."""
    own = [path for path in moved if path.startswith("importance/")]
    assert len(own) == 9
    assert all(moved[path] for path in own)
    trunk = [path for path in moved if path not in own]
    # Stochastic depth leaves a block out, and ConvNeXt scales its blocks by
    # a millionth, so that some of the gradients round to nothing.
    assert moved[trunk[0]]
    assert sum(moved[path] for path in trunk) > 0.75 * len(trunk)


def check_shown(name, shown):
    channels = MAPS[name][-1]
    assert shown["importance"].shape == (2, channels)
    np.testing.assert_allclose(
        np.sum(shown["importance"], axis=-1), 1, atol=1e-5
    )
    drawn = np.asarray(shown["attention_map"])
    assert drawn.shape[0] == 2
    assert min(drawn.shape[1:3]) >= 2
    assert drawn.min() >= 0
    brightest = drawn.max(axis=(1, 2, 3))
    # Features that can be negative, of a net that has learned nothing, may
    # have no positive sum in the four cells of the map.
    if name.startswith("ConvNeXt"):
        brightest = brightest[brightest > 0]
    assert brightest.size
    np.testing.assert_allclose(brightest, 1, atol=1e-5)


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize("name", families(CUT))
def test_family_is_cut_and_a_stride_of_16_doubles_the_map(name, built_once):
    built_once(name)
    check_map(name)
    if name != "VGG16":  # Its head flattens the map.
        fine = backbones.load(name, 2, (224, 224, 3), output_stride=16)
        # The Inceptions do not pad.
        size = 12 if name.startswith("Inception") else 14
        assert fine.features.shape == (None, size, size, MAPS[name][-1])


@pytest.mark.slow
@pytest.mark.usefixtures("grouped_gradients")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(
            pytest.param(
                name,
                small_size(name),
                marks=[] if name in LEARN else pytest.mark.every_backbone,
            )
            for name in FAMILIES
        ),
        # An odd size, too, for Keras pads it in another way.
        ("MobileNetV2", 75),
    ],
)
def test_family_learns_equals_keras_draws_and_is_saved_bit_by_bit(
    name, size, rng, tmp_path, built_once
):
    images = smooth_images(rng, size)
    function = function_of(name)
    built_once(name)
    options = {"classes": 3, "input_shape": (size, size, 3)}
    model = keras_lficam.build(name, **options)
    options["classifier_activation"] = None
    plain = keras_lficam.build(name, architecture="plain", **options)
    theirs = function(weights=None, **options)
    # It learns.
    forget(model)
    before = [weight.numpy() for weight in model.trainable_weights]
    # Its steps are of a millionth whatever the gradients, which in the deepest
    # of these random nets are so large that other steps overflow; and it has
    # no variables that would have to be saved.
    model.compile(
        keras.optimizers.SGD(1e6, clipvalue=1e-12),
        "sparse_categorical_crossentropy",
        run_eagerly=True,
    )
    model.train_on_batch(images, np.array([0, 1]))
    check_moved(
        {
            weight.path: not np.array_equal(weight.numpy(), old)
            for weight, old in zip(model.trainable_weights, before, strict=True)
        }
    )
    # Its backbone equals Keras's own on its own preprocessing.
    theirs.set_weights(plain.get_weights())
    assert_alike(plain(images), theirs(prepare(name, images)))
    # It draws.
    shown = keras_lficam.attention_view(model)(images)
    check_shown(name, shown)
    # And its file has it all.
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    again = keras_lficam.attention_view(loaded)(images)
    for key, value in shown.items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(again[key], value)
    check_evidence(name, loaded, rng)


# Their heads are not linear in the average of the map.
NOT_EXACT = ("ConvNeXt", "MobileNetV3", "VGG")


def check_evidence(name, model, rng):
    """The mean of the evidence and the bias are the logit, where it is."""
    evidence = Evidence(Classifier(model))
    assert evidence.exact != name.startswith(NOT_EXACT)
    if not evidence.exact:
        return
    _, features = model.get_layer("importance").input
    # Of images the features of untrained models can be all but zero.
    features = rng.normal(0, 1, (2, *features.shape[1:])).astype("float32")
    maps = keras.ops.convert_to_numpy(evidence(features, None))
    logits = keras.ops.convert_to_numpy(evidence.split.logits(features))
    found = maps.mean(axis=(1, 2), dtype="float64") + evidence.bias
    error = np.abs(found - logits).max()
    assert error <= 1e-5 * np.abs(logits).max()


@pytest.fixture
def cleared():
    """The largest of the networks leave no room for others."""
    yield
    keras.backend.clear_session()


# Of their families the smallest and the largest are asked: these have fewer of
# the same layers, or narrower ones.
BETWEEN = {
    *("ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "DenseNet169"),
    *(f"EfficientNetB{n}" for n in range(1, 7)),
    *("EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2M"),
    *("ResNet101", "ResNet101V2"),
}
SIBLINGS = [
    pytest.param(
        name,
        marks=pytest.mark.every_sibling
        if name in BETWEEN
        else pytest.mark.every_backbone,
    )
    for name in sorted(set(MAPS) - set(FAMILIES))
]


@pytest.mark.usefixtures("cleared", "grouped_gradients")
@pytest.mark.parametrize("name", SIBLINGS)
def test_every_backbone_has_slopes_draws_and_is_cut(name, rng):
    """One pass, forth and back, where its family takes a step and is saved."""
    # With seed 0 the maps of some ConvNeXt have one cell that is not zero. It
    # is 1, whatever the importance, which then has no slope.
    keras.utils.set_random_seed(1)
    size = small_size(name)
    model = keras_lficam.build(name, 3, input_shape=(size, size, 3))
    view = keras_lficam.attention_view(model)
    with tf.GradientTape() as tape:
        shown = view(smooth_images(rng, size), training=True)
        loss = keras.losses.sparse_categorical_crossentropy(
            np.array([0, 1]), shown["predictions"]
        )
    slopes = tape.gradient(loss, model.trainable_weights)
    check_moved(
        {
            weight.path: slope is not None and np.any(slope)
            for weight, slope in zip(
                model.trainable_weights, slopes, strict=True
            )
        }
    )
    check_shown(name, shown)
    # As large as the map of 224x224, in proportion.
    rows, columns, channels = MAPS[name]
    _, features = model.get_layer("importance").input
    expected = (rows * size // 224, columns * size // 224, channels)
    assert features.shape == (None, *expected)
    check_evidence(name, model, rng)


# -- Weights


def write_as_keras_does(model, path):
    """Writes the format of the files that keras.applications downloads."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """Gives `keras.applications` a file instead of a download."""
    path = tmp_path / "downloaded.h5"
    asked = []

    def get_file(fname, origin, **options):
        asked.append(origin)
        return str(path)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    return path, asked


def check_imagenet(name, downloads, images, **options):
    """Builds with weights from ImageNet, and gives the donor of the weights."""
    path, asked = downloads
    # EfficientNet has one layer more where its weights are ImageNet's.
    with mock.patch.object(keras.Model, "load_weights"):
        theirs = function_of(name)(
            weights="imagenet", classifier_activation=None
        )
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.Normalization):
            mean, variance, count = layer.get_weights()
            layer.set_weights([mean + 0.4, variance + 0.1, count])
            layer.finalize_state()
    settle(theirs, prepare(name, images))
    write_as_keras_does(theirs, path)
    # With LFI-CAM, whose head is that of the plain network.
    ours = keras_lficam.build(
        name, weights="imagenet", classifier_activation=None, **options
    )
    assert len(asked) == 2
    assert asked[0] == asked[1]
    image, features = ours.get_layer("importance").input
    head = ours.get_layer("head")
    answers = theirs(prepare(name, images))
    assert_alike(keras.Model(image, head(features))(images), answers)
    given = theirs.layers[-1].get_weights()
    for weight, other in zip(head.get_weights(), given, strict=True):
        np.testing.assert_array_equal(weight, other)
    return theirs


@pytest.mark.every_backbone
def test_weights_from_imagenet_and_an_open_size(rng, downloads):
    """The size keeps the weights of the normalization."""
    images, opened = smooth_images(rng, 224), (None, None, 3)
    check_imagenet("EfficientNetB0", downloads, images, input_shape=opened)


@pytest.mark.slow
def test_weights_from_imagenet_and_other_classes_and_sizes(rng, downloads):
    donor = check_imagenet("MobileNetV2", downloads, smooth_images(rng, 224))
    model = keras_lficam.build(
        "MobileNetV2", 7, input_shape=(75, 64, 3), weights="imagenet"
    )
    images = smooth_images(rng, 75)[:, :, :64]
    trunk = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(75, 64, 3)
    )
    trunk.set_weights(donor.get_weights()[:-2])
    ours = keras.Model(model.input, model.get_layer("out_relu").output)
    assert_alike(ours(images), trunk(prepare("MobileNetV2", images)))
    kernel, bias = model.get_layer("head").get_weights()
    assert kernel.shape == (1280, 7)
    assert kernel.std() > 0
    assert not bias.any()


@pytest.mark.every_backbone
def test_weights_from_imagenet_and_maps_of_14x14(downloads):
    path, _ = downloads
    donor = keras.applications.ResNet50(weights=None)
    for weight in donor.weights:
        weight.assign(weight + 0.1)  # Zeros and ones are no others' weights.
    write_as_keras_does(donor, path)
    model = keras_lficam.build("ResNet50", weights="imagenet", output_stride=16)
    image, features = model.get_layer("importance").input
    assert features.shape == (None, 14, 14, 2048)
    for layer in donor.layers:
        if layer.weights:
            name = layer.name if layer.name != "predictions" else "head"
            copy = model.get_layer(name).get_weights()
            for weight, other in zip(copy, layer.get_weights(), strict=True):
                np.testing.assert_array_equal(weight, other)


@pytest.mark.usefixtures("shapes_alone")
def test_a_download_that_fails_names_the_way_out(monkeypatch):
    def get_file(*arguments, **options):
        raise Exception("URL fetch failure on https://example: None -- [Errno]")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    with pytest.raises(ValueError, match="could not be downloaded.*its path"):
        keras_lficam.build("VGG16", weights="imagenet")


# Of MobileNetV3 what has no blocks, for it has one layer of its head before
# the classes; and one that has, without its head, one normalization more than
# its trunk.
SMALL = functools.partial(
    mobilenet_v3.MobileNetV3, lambda x, *options: x, 16, minimalistic=True
)
NORMALIZED = functools.partial(
    convnext.ConvNeXt, depths=[1, 1, 1, 1], projection_dims=[8, 16, 24, 32]
)


@pytest.mark.parametrize(
    ("backbone", "name", "options"),
    [
        (SMALL, "new.weights.h5", {"classes": 3}),
        (SMALL, "old.h5", {"classes": 3}),
        (SMALL, "new.weights.h5", {"classes": 1000}),
        (SMALL, "old.h5", {"classes": 1000}),
        (SMALL, "new.weights.h5", {"include_top": False}),
        (SMALL, "old.h5", {"include_top": False}),
        (NORMALIZED, "old.h5", {"include_top": False}),
    ],
)
def test_weights_of_a_file_are_loaded(backbone, name, options, tmp_path, rng):
    """With the head, with one of 1000 classes, or without."""
    donor = backbone(weights=None, input_shape=(64, 64, 3), **options)
    for weight in donor.weights:
        weight.assign(rng.normal(size=weight.shape))
    path = tmp_path / name
    if name.endswith(".weights.h5"):
        donor.save_weights(path)
    else:
        write_as_keras_does(donor, path)
    model = keras_lficam.build(
        backbone,
        3,
        input_shape=(64, 64, 3),
        weights=path,
        architecture="plain",
    )
    kept = model.get_weights()[:-2]
    given = donor.get_weights()
    if options == {"classes": 3}:
        np.testing.assert_array_equal(
            model.get_weights()[-2].squeeze(), given[-2].squeeze()
        )
    same = [
        weight
        for weight, other in zip(kept, given, strict=False)
        if np.array_equal(weight, other)
    ]
    missing = 2 if options == {"include_top": False} else 0
    assert len(same) >= len(kept) - missing


def test_weights_of_another_backbone_are_refused(tmp_path):
    path = tmp_path / "other.weights.h5"
    cifar.resnet(8)(classes=3).save_weights(path)
    with pytest.raises(ValueError, match="with its head for 3 or 1000.*other"):
        keras_lficam.build(SMALL, 3, weights=path)


# -- Strides


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_alone")
def test_output_stride_of_16_in_a_family_of_ours():
    split = backbones.load(
        "ResNeXt50_32x4d", 2, (224, 224, 3), output_stride=16
    )
    assert split.features.shape == (None, 14, 14, 2048)


@pytest.mark.usefixtures("shapes_alone")
def test_output_stride_of_8_in_resnet50():
    model = keras_lficam.build("ResNet50", output_stride=8)
    assert model.get_layer("attention_map").output.shape == (None, 28, 28, 1)
    assert model.get_layer("conv4_block1_1_conv").strides == (1, 1)
    assert model.get_layer("conv3_block1_1_conv").strides == (2, 2)


@pytest.mark.every_backbone
def test_stride_becomes_one_and_nothing_else_changes(rng, built_once):
    """The last stage at stride 1, wired by hand with the same weights."""
    built_once("ResNet50")
    closed = backbones.load("ResNet50", 2, (64, 64, 3))
    fine = backbones.load("ResNet50", 2, (64, 64, 3), output_stride=16)
    trunk = keras.Model(closed.image, closed.features)
    other = keras.Model(fine.image, fine.features)
    settle(trunk, smooth_images(rng, 64))
    other.set_weights(trunk.get_weights())

    def convolve(x, name, padding="VALID"):
        layer = trunk.get_layer(f"{name}_conv")
        x = tf.nn.conv2d(x, layer.kernel, 1, padding) + layer.bias
        return trunk.get_layer(f"{name}_bn")(x)

    images = smooth_images(rng, 64)
    x = keras.Model(closed.image, trunk.get_layer("conv4_block6_out").output)(
        images
    )
    for block in (1, 2, 3):
        name = f"conv5_block{block}"
        shortcut = convolve(x, f"{name}_0") if block == 1 else x
        y = keras.ops.relu(convolve(x, f"{name}_1"))
        y = keras.ops.relu(convolve(y, f"{name}_2", "SAME"))
        x = keras.ops.relu(convolve(y, f"{name}_3") + shortcut)
    actual = np.asarray(other(images))
    assert actual.shape == (2, 4, 4, 2048)
    np.testing.assert_allclose(actual, x, rtol=1e-4, atol=1e-4)


def test_padding_that_suited_the_stride_goes(rng):
    """Of a kernel of 5 and paddings of (1, 2), as EfficientNet has them."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.ZeroPadding2D(((1, 2), (1, 2)))(image)
    x = keras.layers.Conv2D(4, 5, strides=2, name="strided")(x)
    y = keras.layers.Cropping2D(((1, 0), (1, 0)))(image)
    y = keras.layers.AveragePooling2D(1, strides=2)(y)
    y = keras.layers.Conv2D(4, 1, name="shortcut")(y)
    x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(2)(x))
    split = surgery.split_copy(model, output_stride=1)
    images = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    kernel, bias = model.get_layer("strided").get_weights()
    expected = np.zeros((2, 8, 8, 4))
    for row in range(8):
        for column in range(8):
            seen = padded[:, row : row + 5, column : column + 5]
            expected[:, row, column] = np.einsum("bijc,ijcd->bd", seen, kernel)
    kernel, other = model.get_layer("shortcut").get_weights()
    expected += bias + other + images @ kernel[0, 0]
    actual = keras.Model(split.image, split.features)(images)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 3}, r"\[1, 2, 4\].*output_stride=3"),
        ({"output_stride": 8}, r"\[1, 2, 4\].*output_stride=8"),
        ({"output_stride": 0}, "at least 1.*output_stride=0"),
        ({"output_stride": 2.0}, "integer.*output_stride=2.0"),
        ({"output_stride": True}, "integer.*output_stride=True"),
    ],
)
def test_impossible_output_stride_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        keras_lficam.build(
            cifar.resnet(8), 3, input_shape=(32, 32, 3), **options
        )


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize(
    "options", [{"output_stride": 16}, {"input_shape": (None, None, 3)}]
)
def test_head_that_flattens_takes_one_size_only(options):
    with pytest.raises(ValueError, match="'flatten' flattens.*height and"):
        keras_lficam.build("VGG16", 3, **options)


# -- Names and other arguments


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize(
    "name", ["DenseNet121", "EfficientNetB0", "MobileNetV2", "ResNet50"]
)
def test_image_too_small_for_a_map_is_refused(name):
    with pytest.raises(ValueError, match=r"at least 2x2.*32, 32.*larger"):
        keras_lficam.build(name, 3, input_shape=(32, 32, 3))


def test_names_are_those_of_keras_and_ours():
    names = backbones.names()
    assert names == sorted(names)
    assert set(MAPS) < set(names)
    assert {"ResNet18", "SEResNet50", "ResNet110", "WideResNet28_10"} < set(
        names
    )


def test_a_model_is_a_backbone_with_a_new_head(rng):
    trunk = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(6, 3, strides=4, activation="relu"),
        ],
        name="mine",
    )
    model = keras_lficam.build(trunk, 5, input_shape=(48, 40, 3), dropout=0.3)
    assert model.name == "mine_lfi_cam"
    assert model.output_shape == (None, 5)
    assert model.get_layer("attention_map").output.shape == (None, 12, 10, 1)
    assert model.get_layer("head").get_layer("dropout").rate == 0.3
    images = smooth_images(rng, 32)
    features = model.get_layer("importance").input[1]
    ours = keras.Model(model.input, features)(
        np.pad(images, ((0, 0), (0, 16), (0, 8), (0, 0)))
    )
    np.testing.assert_allclose(ours[:, :7, :7], trunk(images)[:, :7, :7])


def test_the_trunk_of_a_classifier_gets_a_new_head():
    trained = cifar.resnet(8)(classes=9, input_shape=(32, 32, 3))
    model = keras_lficam.build(trained, 4, input_shape=(32, 32, 3))
    assert model.output_shape == (None, 4)
    last = "stage3_block0_2_convolution"
    np.testing.assert_array_equal(
        model.get_layer(last).get_weights()[0],
        trained.get_layer(last).get_weights()[0],
    )


# -- Gray images


def on_gray(tensor, images):
    """The function of a model of one channel, from images of that."""
    return np.asarray(keras.Model(tensor[0], tensor[1])(images))


def test_gray_image_is_prepared_as_three_equal_channels(monkeypatch, rng):
    """In every application, whose means may be another for every color."""
    gray = rng.uniform(0, 255, (2, 8, 8, 1)).astype("float32")
    shapes = []

    def identity(input_tensor, input_shape, classes, **options):
        shapes.append((input_tensor.shape[1:], input_shape))
        x = keras.layers.Identity(name="pixels")(input_tensor)
        x = keras.layers.GlobalAveragePooling2D()(x)
        (image,) = keras.utils.get_source_inputs(input_tensor)
        return keras.Model(image, keras.layers.Dense(classes)(x))

    for name in MAPS:
        function = function_of(name)
        monkeypatch.setattr(
            keras.applications, name, functools.wraps(function)(identity)
        )
        split = backbones.load(name, 2, (8, 8, 1))
        assert split.image.shape == (None, 8, 8, 1)
        np.testing.assert_array_equal(
            on_gray((split.image, split.features), gray),
            prepare(name, np.repeat(gray, 3, axis=-1)),
        )
    assert shapes == [((8, 8, 3), (8, 8, 3))] * 40


OF_GRAY = {
    "application": functools.partial(keras.applications.MobileNetV2, alpha=0.1),
    "own": cifar.resnet(8),
    "own of large images": backbones.resnets.resnet(18),
}


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("application", 64),
        pytest.param("application", None, marks=pytest.mark.every_backbone),
        *itertools.product(["own", "model", "model of any size"], [64, None]),
        *(
            pytest.param(
                "own of large images", size, marks=pytest.mark.every_backbone
            )
            for size in (64, None)
        ),
    ],
)
def test_backbone_of_gray_images_is_that_of_equal_channels(kind, size, rng):
    backbone = OF_GRAY.get(kind)
    if backbone is None:
        side = 64 if kind == "model" else None
        backbone = small_classifiers.backbone((side, side, 3))
    gray = smooth_images(rng, 64)[..., :1]
    color = np.repeat(gray, 3, axis=-1)
    models = [
        keras_lficam.build(backbone, 3, input_shape=(size, size, channels))
        for channels in (1, 3)
    ]
    assert models[0].input_shape == (None, size, size, 1)
    settle(models[0], gray)
    models[1].set_weights(models[0].get_weights())
    mine, theirs = (
        keras_lficam.attention_view(model)(images)
        for model, images in zip(models, (gray, color), strict=True)
    )
    assert np.ptp(mine["attention_map"]) == 1
    for key, value in theirs.items():
        np.testing.assert_allclose(mine[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_weights_of_color_images_are_those_of_gray_ones(tmp_path, rng):
    options = {"classes": 3, "classifier_activation": None}
    backbone = OF_GRAY["application"]
    donor = backbone(weights=None, input_shape=(64, 64, 3), **options)
    gray = smooth_images(rng, 64)[..., :1]
    prepared = prepare("MobileNetV2", np.repeat(gray, 3, axis=-1))
    settle(donor, prepared)
    donor.save_weights(tmp_path / "color.weights.h5")
    model = keras_lficam.build(
        backbone,
        3,
        input_shape=(64, 64, 1),
        weights=tmp_path / "color.weights.h5",
        architecture="plain",
        classifier_activation=None,
    )
    assert_alike(model(gray), donor(prepared))


def test_model_and_function_of_one_channel_are_backbones(rng):
    trunk = small_classifiers.backbone((32, 32, 1))
    model = keras_lficam.build(trunk, 3, input_shape=(64, 48, 1))
    assert not any(layer.name == "gray_to_rgb" for layer in model.layers)
    assert model.get_layer("attention_map").output.shape == (None, 16, 12, 1)

    def function(input_tensor, input_shape, classes, **options):
        assert input_shape == input_tensor.shape[1:] == (32, 32, 1)
        x = keras.layers.Conv2D(4, 3)(input_tensor)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(input_tensor, keras.layers.Dense(classes)(x))

    split = backbones.load(function, 3, (32, 32, 1))
    assert split.features.shape == (None, 30, 30, 4)
    with pytest.raises(ValueError, match=r"takes, 1\. Received.*32, 32, 1\)"):
        keras_lficam.build(trunk, 3, input_shape=(32, 32, 3))
