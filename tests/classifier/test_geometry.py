"""Where the cells of a map lie in the image, by images with one spot."""

import keras
import numpy as np
import pytest
from applications import FAMILIES

import keras_lficam
from keras_lficam import functional
from keras_lficam.classifier import Classifier
from keras_lficam.explainers import (
    CAM,
    AblationCAM,
    AttentionMap,
    ClassEvidence,
    EigenCAM,
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    IntegratedGradients,
    LayerCAM,
    ReciproCAM,
    RefineCAM,
    ScoreCAM,
    XGradCAM,
)

pytestmark = pytest.mark.usefixtures("eagerly")

layers = keras.layers
MARGINS = ((24, 8), (4, 28))  # Of an image before it is cropped.


def looking_straight(model, rng):
    """Gives each convolution the middle of its kernel alone, and positive.

    What a cell of the map sees of the image is then small, and lies where the
    paddings and strides of Keras itself lead.
    """
    for weight in model.weights:
        shape = weight.shape
        if len(shape) != 4 or not weight.path.endswith("kernel"):
            continue
        kernel = np.zeros(shape, "float32")
        middle = tuple(
            slice((size - 1) // 2, size // 2 + 1) for size in shape[:2]
        )
        taps = kernel[middle].shape
        inputs = 1 if "depthwise" in weight.path else taps[2]
        kernel[middle] = rng.uniform(0.5, 1.5, taps) / (
            taps[0] * taps[1] * inputs
        )
        weight.assign(kernel)
    for layer in model.layers:
        # It would make all that is not black equally bright.
        if isinstance(layer, layers.LayerNormalization):
            layer.epsilon = 1e6
            layer.gamma.assign(1e3 * np.ones(layer.gamma.shape))


def background(model):
    """The color of images that the first convolution sees as zero."""
    first = next(
        layer
        for layer in model.layers
        if isinstance(layer, (layers.Conv2D, layers.ZeroPadding2D))
    )
    prepared = keras.Model(model.inputs[0], first.input)
    side = model.inputs[0].shape[1]
    colors = np.concatenate([np.zeros((1, 3)), np.eye(3)])
    images = np.broadcast_to(colors[:, None, None], (4, side, side, 3))
    zero, *units = keras.ops.convert_to_numpy(
        prepared(images.astype("float32"))
    )[:, side // 2, side // 2]
    return -np.linalg.solve(np.stack(units - zero, axis=1), zero)


def spots(places, shape, width, color):
    """Images of a color, each with a bright spot at its place."""
    axes = [np.arange(length) for length in shape]
    rows, columns = (
        np.exp(-(((axis - places[:, n : n + 1]) / width) ** 2) / 2)
        for n, axis in enumerate(axes)
    )
    bright = rows[:, :, None, None] * columns[:, None, :, None]
    return (color + 100 * bright).astype("float32")


def centers_of_mass(maps):
    """Row and column `(B, 2)` of the center of mass of each map."""
    maps = np.asarray(keras.ops.convert_to_numpy(maps), "float64")[..., 0]
    total = maps.sum(axis=(1, 2))
    rows = (maps.sum(axis=2) * np.arange(maps.shape[1])).sum(axis=1)
    columns = (maps.sum(axis=1) * np.arange(maps.shape[2])).sum(axis=1)
    return np.stack([rows, columns], axis=1) / total[:, None]


def features_of(split, images):
    parts = [
        split.features(images[n : n + 5]) for n in range(0, len(images), 5)
    ]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def errors_of(model, margins, cell, color, rng):
    """How far from 25 spots their maps lie `(25, 2)`, in cells.

    The spots are around the middle of what margins leave of the image.
    """
    shape = model.inputs[0].shape[1:3]
    middle = [
        before + (length - before - after) / 2
        for (before, after), length in zip(margins, shape, strict=True)
    ]
    places = middle + rng.uniform(-cell / 2, cell / 2, (25, 2))
    images = spots(places, shape, 0.6 * cell, color)
    empty = np.broadcast_to(color, (1, *shape, 3)).astype("float32")
    split = Classifier(model).split()
    difference = features_of(split, images) - features_of(split, empty)
    energy = np.square(difference.astype("float64"))
    energy = energy.sum(axis=-1, keepdims=True)
    # Of each spot by itself, as features react to some colors and not others.
    energy /= energy.max(axis=(1, 2, 3), keepdims=True)
    energy = energy.astype("float32")
    # Gates and normalizations may react a little everywhere.
    energy[energy < 1e-3] = 0
    maps = split.geometry.upsample(energy, shape)
    return (centers_of_mass(maps) - places) / cell


def check_spots(name, side, cell, rng, **options):
    """Asks a backbone for spots, with and without a crop in front of it."""
    inner = keras_lficam.build(
        name, 3, input_shape=(side, side, 3), architecture="plain", **options
    )
    looking_straight(inner, rng)
    color = background(inner)
    (top, bottom), (left, right) = MARGINS
    image = keras.Input((top + side + bottom, left + side + right, 3))
    cropped = keras.Model(image, inner(layers.Cropping2D(MARGINS)(image)))
    for model, margins in [(inner, ((0, 0), (0, 0))), (cropped, MARGINS)]:
        errors = errors_of(model, margins, cell, color, rng)
        assert np.abs(errors).max() < 0.5, name
        # An even grid would be half a cell beside the spots on average.
        assert np.abs(errors.mean(axis=0)).max() < BIAS.get(name, 0.2), name


# One of each family and kind, as siblings have more of the same layers. Each of
# them is built, and its map looked at, where backbones and families are tested.
BACKBONES = {
    **dict.fromkeys(FAMILIES, (160, 32)),
    "ResNet18": (160, 32),
    "ResNeXt50_32x4d": (160, 32),
    "SEResNet50": (160, 32),
    "EfficientNetLite0": (160, 32),
    "ResNet20": (64, 4),
    "ResNet110Bottleneck": (64, 4),
    "SEResNet20": (64, 4),
    "WideResNet28_10": (64, 4),
    "ResNeXt29_8x64d": (64, 4),
    "DenseNet100_12": (64, 4),
    # Their average poolings see much of a smaller image.
    "InceptionResNetV2": (320, 32),
    "InceptionV3": (320, 32),
}
# It adds branches that look half a cell and more beside each other, of which
# these weights favor one.
BIAS = {"NASNetMobile": 0.3}
USUAL = ("DenseNet121", "MobileNetV2", "ResNet18", "ResNet20")
# They take as long as the others together; other backends are asked no more.
LARGE = ("DenseNet121", "ResNet18")
on_tensorflow_with_all = (
    [pytest.mark.every_backbone]
    if keras.backend.backend() == "tensorflow"
    else []
)


def usual(*names):
    return [
        pytest.param(
            *case, marks=on_tensorflow_with_all if case[0] in LARGE else []
        )
        for case in names
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", usual(*((name,) for name in USUAL)))
def test_spots_are_found_where_they_are(name, rng):
    check_spots(name, *BACKBONES[name], rng)


@pytest.mark.every_backbone
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - set(USUAL)))
def test_spots_are_found_in_every_family(name, rng):
    check_spots(name, *BACKBONES[name], rng)
    keras.backend.clear_session()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stride"), usual(("ResNet20", 2), ("ResNet18", 8))
)
def test_spots_are_found_with_fewer_strides(name, stride, rng):
    side = 32 if name == "ResNet20" else 64
    check_spots(name, side, stride, rng, output_stride=stride)


# Layers, one by one ---------------------------------------------------------


def influences(model, axis, cell):
    """How much a cell of the map changes with each row, or column."""
    length = model.input_shape[1 + axis]
    images = np.full((length + 1, *model.input_shape[1:]), 1.0, "float32")
    for index in range(length):
        np.moveaxis(images[index], axis, 0)[index] += 1
    *seen, empty = keras.ops.convert_to_numpy(model(images, training=False))
    return (np.array(seen) - empty)[:, *cell].sum(axis=-1)


def check_layers(make, shape=(24, 20)):
    """Compares what cells react to with where they are said to lie.

    The cells are in the middle of the map, where no padding is in sight.
    """
    image = keras.Input((*shape, 2))
    model = keras.Model(image, make(image))
    for weight in model.weights:
        if "kernel" in weight.path:
            weight.assign(np.ones(weight.shape, "float32"))
    empty = np.zeros((1, *shape, 2), "float32")
    map_shape = model(empty, training=False).shape
    pooled = layers.GlobalAveragePooling2D()(model.output)
    classifier = keras.Model(image, layers.Dense(2)(pooled))
    geometry = Classifier(classifier).split().geometry
    placements = geometry.placements(shape, map_shape)
    for axis, placement in enumerate(placements):
        for step in (0, 1):
            cell = [map_shape[1] // 2, map_shape[2] // 2]
            cell[axis] += step
            seen = influences(model, axis, cell)
            center = (seen * np.arange(len(seen))).sum() / seen.sum()
            expected = placement.center + placement.stride * cell[axis]
            assert center == pytest.approx(expected, abs=0.01), (axis, step)
    return placements


def with_branches(x):
    shifted = layers.ZeroPadding2D(((2, 0), (2, 0)))(x)
    shifted = layers.Conv2D(2, 3, 2)(shifted)
    return layers.Add()([layers.Conv2D(2, 3, 2, "same")(x), shifted])


def nested(x):
    inner = keras.Input((None, None, 2))
    y = layers.MaxPooling2D(3, 2)(layers.Cropping2D(1)(inner))
    inner = keras.Model(inner, y)
    return inner(layers.Conv2D(2, 2)(x))


def sequential(x):
    row = [layers.ZeroPadding2D((2, 1)), layers.DepthwiseConv2D(3, 2)]
    return keras.Sequential([*row, layers.ReLU()])(x)


def focus(x):
    x = x[:, :24, :20]
    return keras.ops.concatenate(
        [x[:, ::2, ::2], x[:, 1::2, ::2], x[..., ::2, 1::2, :]], axis=-1
    )


LAYERS = {
    "same": layers.Conv2D(2, 3, 2, "same"),
    "same of even size": layers.Conv2D(2, 4, 1, "same"),
    "same, kernel below stride": layers.Conv2D(2, 1, 2, "same"),
    "valid": layers.Conv2D(2, (5, 2), (3, 2)),
    "dilated": layers.Conv2D(2, 3, dilation_rate=(2, 3), padding="same"),
    "separable": layers.SeparableConv2D(2, 3, 2, "same"),
    "spectral": layers.SpectralNormalization(layers.Conv2D(2, 3, 2)),
    "pooling": layers.AveragePooling2D(3, 2, "same"),
    "transposed": layers.Conv2DTranspose(2, 4, 2, "same"),
    "transposed, valid": layers.Conv2DTranspose(2, 4, 2),
    "cropping": layers.Cropping2D(((1, 4), (5, 0))),
    "padding": layers.ZeroPadding2D(((1, 4), (5, 0))),
    "upsampling": layers.UpSampling2D((3, 1), interpolation="bilinear"),
    "resizing": layers.Resizing(12, 40),
    "resizing, cropped": layers.Resizing(12, 12, crop_to_aspect_ratio=True),
    "resizing, padded": layers.Resizing(12, 12, pad_to_aspect_ratio=True),
    "center": layers.CenterCrop(9, 12),
    "center of a small image": layers.CenterCrop(30, 15),
    "random crop": layers.RandomCrop(6, 6),
    "pipeline": layers.Pipeline(
        [layers.RandomFlip(), layers.CenterCrop(12, 9), layers.Rescaling(2.0)]
    ),
    "branches": with_branches,
    "nested": nested,
    "sequential": sequential,
    "slices": focus,
    "slice from the end": lambda x: x[:, 3:-5, -12:],
    "flip": lambda x: keras.ops.flip(x[:, 3:], axis=1),
    "pad": lambda x: keras.ops.pad(x, ((0, 0), (3, 1), (0, 2), (0, 0))),
    "pad_images": lambda x: keras.ops.image.pad_images(
        x, 3, None, None, 2, 30, 30
    ),
    "crop_images": lambda x: keras.ops.image.crop_images(
        x, None, 4, 3, None, 15, 12
    ),
    "resize": lambda x: keras.ops.image.resize(x, (12, 30)),
    "max_pool": lambda x: keras.ops.max_pool(x, 3, 2, "same"),
    "conv": lambda x: keras.ops.conv(
        x, np.ones((3, 3, 2, 2), "float32"), 2, "same"
    ),
}


@pytest.mark.parametrize("shape", [(24, 20), (25, 21)])
@pytest.mark.parametrize("name", list(LAYERS))
def test_cells_lie_at_the_centers_of_what_they_see(name, shape):
    if "transposed" in name:
        # Neighbors look at different numbers of cells, two by two.
        make = LAYERS[name]
        check_layers(lambda x: layers.AveragePooling2D(2, 1)(make(x)), shape)
    else:
        check_layers(LAYERS[name], shape)


def test_what_keeps_places_is_passed_over():
    def block(x):
        y = layers.BatchNormalization()(layers.Conv2D(2, 3, padding="same")(x))
        gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
        gate = keras.ops.sigmoid(layers.Conv2D(2, 1)(gate))
        y = layers.Multiply()([y, gate])
        # The mean of the image, beside the map, as in an ASPP.
        mean = layers.UpSampling2D((12, 10))(gate)
        y = layers.Conv2D(2, 3, 2, "same")(keras.ops.relu(x + y * 2.0))
        return layers.Concatenate()([y, mean])

    rows, columns = check_layers(block)
    assert rows == (24, 1, 2, -0.5, 23.5)
    assert columns == (20, 1, 2, -0.5, 19.5)


def classifier_of(image, x):
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(2, "softmax")(x))


class Halved(keras.layers.Layer):
    """A layer of somebody's own, which no rule is about."""

    def call(self, x):
        return x[:, ::2, ::2]


def test_tokens_and_unknown_layers_divide_what_they_are_given(rng):
    image = keras.Input((26, 20, 3))
    x = layers.Cropping2D(((2, 0), (0, 4)))(image)
    x = Halved()(layers.Conv2D(4, 4, 4)(x))
    x = layers.Reshape((6, 4))(x)
    x = layers.Dense(4)(layers.LayerNormalization()(x))
    x = layers.Reshape((3, 2, 4))(x)
    geometry = Classifier(classifier_of(image, x)).split().geometry
    rows, columns = geometry.placements((26, 20), (1, 3, 2, 4))
    assert rows == (26, 2 + 3.5, 8, 1.5, 25.5)
    assert columns == (20, 3.5, 8, -0.5, 15.5)


def test_even_maps_are_resized_as_before(rng):
    image = keras.Input((24, 36, 3))
    x = layers.Conv2D(4, 3, padding="same")(layers.Rescaling(1.0)(image))
    x = layers.AveragePooling2D((2, 3))(x)
    upsample = Classifier(classifier_of(image, x)).split().geometry.upsample
    maps = rng.uniform(size=(2, 12, 12, 3)).astype("float32")
    for size in [(24, 36), (50, 17)]:
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(upsample(maps, size, (24, 36))),
            keras.ops.convert_to_numpy(functional.resize(maps, size)),
        )


def test_upsampled_by_hand():
    # Cells at 1, 3 and 5 of an image of which 0 to 6 are seen.
    rows = functional.Placement(8, 1, 2, -0.5, 6.5)
    itself = functional.Placement(1, 0, 1, -0.5, 0.5)
    maps = np.array([4.0, 8.0, 2.0]).reshape(1, 3, 1, 1)
    actual = functional.upsample(maps, (8, 1), (rows, itself))
    expected = [4, 4, 6, 8, 5, 2, 2, 0]
    np.testing.assert_allclose(np.ravel(actual), expected, atol=1e-6)
    # On twice as many pixels, which lie at -0.25, 0.25, 0.75...
    actual = np.ravel(functional.upsample(maps, (16, 1), (rows, itself)))
    np.testing.assert_allclose(actual[3:6], [4.5, 5.5, 6.5], atol=1e-6)
    np.testing.assert_array_equal(actual[14:], 0)


@pytest.mark.parametrize(
    "move",
    [
        layers.Permute((2, 1, 3)),
        lambda x: keras.ops.transpose(x, (0, 2, 1, 3)),
        lambda x: keras.ops.image.affine_transform(
            x, np.eye(3, dtype="float32").ravel()[:8]
        ),
    ],
)
def test_maps_that_cannot_be_brought_back_are_refused(move):
    image = keras.Input((8, 8, 3))
    model = classifier_of(image, layers.Conv2D(4, 3)(move(image)))
    with pytest.raises(ValueError, match="cannot be brought back.*RISE"):
        GradCAM(model)


def test_rows_and_columns_exchanged_twice_are_in_order():
    check_layers(
        lambda x: layers.Permute((2, 1, 3))(
            layers.Conv2D(2, (3, 1), (2, 1))(layers.Permute((2, 1, 3))(x))
        )
    )


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="knows all sizes"
)
@pytest.mark.usefixtures("traced")
def test_sizes_known_only_when_a_graph_runs(rng):
    import tensorflow as tf

    image = keras.Input((None, None, 3))
    x = layers.Cropping2D(((3, 0), (0, 2)))(image)
    x = layers.Resizing(16, 20, pad_to_aspect_ratio=True)(x[:, 1:])
    x = layers.MaxPooling2D(3, 2, "same")(layers.Conv2D(4, 3, 2, "same")(x))
    upsample = Classifier(classifier_of(image, x)).split().geometry.upsample

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 1]),
            tf.TensorSpec([2], "int32"),
        ]
    )
    def run(maps, size):
        return upsample(maps, tuple(tf.unstack(size)))

    maps = rng.uniform(size=(2, 4, 5, 1)).astype("float32")
    for size in [(24, 36), (41, 30)]:
        np.testing.assert_allclose(
            run(maps, size), upsample(maps, size), atol=1e-5
        )


# Everything that shows a map ------------------------------------------------


def looking(side, margins):
    """A classifier of one class behind a crop: bright is what it looks for."""
    image = keras.Input((*side, 3))
    x = layers.Cropping2D(margins)(image)
    for number in range(2):
        x = layers.Conv2D(
            1, 3, 2, "same", kernel_initializer="ones", name=f"strided{number}"
        )(x)
    x = layers.GlobalAveragePooling2D()(x)
    dense = layers.Dense(2, "softmax")
    model = keras.Model(image, dense(x))
    dense.set_weights([np.array([[1.0, -1.0]]), np.zeros(2)])
    return model


@pytest.mark.parametrize(
    "make",
    [
        EigenCAM,
        CAM,
        GradCAM,
        GradCAMPlusPlus,
        XGradCAM,
        HiResCAM,
        LayerCAM,
        FinerCAM,
        RefineCAM,
        AblationCAM,
        ClassEvidence,
        ReciproCAM,
        IntegratedGradients,
        ScoreCAM,
    ],
)
def test_explainers_find_25_spots_behind_a_crop(make, rng):
    margins = ((10, 2), (4, 16))
    model = looking((60, 60), margins)
    places = rng.uniform((24, 18), (46, 32), (25, 2))
    images = spots(places, (60, 60), 2, np.zeros(3))
    options = {"form": "increase"} if make is ScoreCAM else {}
    maps = make(model, **options)(images, 0)
    errors = np.linalg.norm(centers_of_mass(maps) - places, axis=1)
    assert errors.max() < 4 / 2
    assert (maps[:, :10] == 0).all()
    assert (maps[:, :, 44:] == 0).all()
    assert maps[:, 10:58, 4:44].max(axis=(1, 2, 3)).min() > 0.9


# Its importance is 1.
of_one_channel = pytest.mark.filterwarnings("ignore:You are using a softmax")


@of_one_channel
def test_attention_map_and_upsampler_find_a_spot(rng):
    trained = looking((32, 32), ((8, 0), (0, 8)))
    model = keras_lficam.attach(trained)
    images = spots(np.array([[19.0, 12.0]]), (32, 32), 2, np.zeros(3))
    maps = AttentionMap(model)(images)
    np.testing.assert_allclose(centers_of_mass(maps), [[19, 12]], atol=2)
    assert (maps[:, :8] == 0).all()
    view = keras_lficam.attention_view(model)
    shown = view.predict(images, verbose=0)
    upsample = keras_lficam.architectures.upsampler(view)
    fine = upsample(shown["attention_map"], (32, 32))
    fine = keras.ops.convert_to_numpy(fine)
    np.testing.assert_allclose(fine, maps, atol=1e-6)
    # The gray image that masks the features is cropped as they are.
    assert model.get_layer("importance").input[0].shape == (None, 24, 24, 3)
    # Twice as large as what the model saw.
    large = upsample(shown["attention_map"], (64, 64), (32, 32))
    np.testing.assert_allclose(
        centers_of_mass(large), 2 * centers_of_mass(maps) + 0.5, atol=0.3
    )


@of_one_channel
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="served by TensorFlow"
)
def test_served_maps_lie_where_those_in_python_do(rng, tmp_path):
    from keras_lficam.serving._formats import numeric_model
    from keras_lficam.serving._signatures import Served

    model = keras_lficam.attach(looking((32, 32), ((8, 0), (0, 8))))
    images = spots(np.array([[19.0, 12.0]]), (32, 32), 2, np.zeros(3))
    maps = AttentionMap(model)(images)
    answer = numeric_model(model, (32, 32), 1)(images, training=False)
    np.testing.assert_allclose(answer["attention_map"], maps, atol=1e-5)
    limits = keras_lficam.serving.Limits()
    served = Served(model, ["a", "b"], (32, 32), 1, (0, 255), limits)
    answer = served.explain(images)
    np.testing.assert_allclose(answer["attention_map"], maps, atol=1e-5)
    large = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)
    answer = served.explain(large)["attention_map"].numpy()
    np.testing.assert_allclose(
        centers_of_mass(answer), 2 * centers_of_mass(maps) + 0.5, atol=0.3
    )
    assert (answer[:, :16] == 0).all()
    assert (answer[:, :, 48:] == 0).all()


@of_one_channel
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="reads files by TensorFlow"
)
def test_the_command_leaves_what_was_not_seen_gray(tmp_path, capsys):
    import PIL.Image

    from keras_lficam.cli import main

    model = keras_lficam.attach(looking((32, 32), ((8, 0), (0, 8))))
    model.save(tmp_path / "model.keras")
    image = spots(np.array([[19.0, 12.0]]), (32, 32), 2, np.zeros(3))[0]
    PIL.Image.fromarray(image.astype("uint8")).save(tmp_path / "spot.png")
    files = [str(tmp_path / name) for name in ("model.keras", "spot.png")]
    assert main(["explain", *files, "--output", str(tmp_path / "out")]) == 0
    overlay = np.asarray(PIL.Image.open(tmp_path / "out" / "spot_overlay.png"))
    colored = (overlay.max(axis=-1) != overlay.min(axis=-1)).astype(float)
    side = len(overlay) // 32
    assert colored[: 8 * side].max() == 0
    assert colored[:, 24 * side :].max() == 0
    assert colored[17 * side : 21 * side, 10 * side : 14 * side].min() == 1
