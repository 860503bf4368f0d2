"""The classifier families, against papers and a second rewrite."""

import inspect

import keras
import numpy as np
import pytest
import reference

from keras_lficam.backbones import cifar, resnets

# Trainable weights as published, for 1000 classes at 224 and 10 at 32, and
# the channels at the end of each stage.
# - ResNet, ResNeXt: `num_params` in the documentation of torchvision.
# - SE-ResNet, SE-ResNeXt and all of CIFAR but ResNeXt-29: the tables of
#   pytorchcv, https://github.com/osmr/pytorchcv, in which ResNet110Bottleneck
#   is the ResNet-164(BN) that it is.
# - ResNeXt-29 8x64d: 34.43 M in the table of
#   https://github.com/bearpaw/pytorch-classification and 34.4 M in the paper
#   (table 7); pytorchcv has 68,155,210 for 16x64d, see below.
# - ResNet-32 and -44: 0.46 M and 0.66 M in He et al. (table 6), whose
#   shortcuts have no weights; ours have 2,752.
PHOTOGRAPHS = {
    "ResNet18": (11_689_512, (64, 128, 256, 512)),
    "ResNet34": (21_797_672, (64, 128, 256, 512)),
    "ResNeXt50_32x4d": (25_028_904, (256, 512, 1024, 2048)),
    "ResNeXt101_32x8d": (88_791_336, (256, 512, 1024, 2048)),
    "SEResNet50": (28_088_024, (256, 512, 1024, 2048)),
    "SEResNeXt50_32x4d": (27_559_896, (256, 512, 1024, 2048)),
}
SMALL_IMAGES = {
    "ResNet8": (78_042, (16, 32, 64)),
    "ResNet20": (272_474, (16, 32, 64)),
    "ResNet32": (466_906, (16, 32, 64)),
    "ResNet44": (661_338, (16, 32, 64)),
    "ResNet56": (855_770, (16, 32, 64)),
    "ResNet110": (1_730_714, (16, 32, 64)),
    "ResNet110Bottleneck": (1_704_154, (64, 128, 256)),
    "SEResNet20": (274_847, (16, 32, 64)),
    "SEResNet56": (862_889, (16, 32, 64)),
    "SEResNet110": (1_744_952, (16, 32, 64)),
    "WideResNet28_10": (36_479_194, (160, 320, 640)),
    "ResNeXt29_8x64d": (34_426_698, (256, 512, 1024)),
    "DenseNet100_12": (769_162, (216, 300, 342)),
}

# One small network of every kind, and its arguments.
KINDS = {
    "basic": (cifar.resnet(8), 32),
    "basic with squeeze": (cifar.resnet(8, squeeze=2), 32),
    "bottleneck": (
        cifar.resnet(11, block="bottleneck", stem_stride=2, squeeze=4),
        32,
    ),
    "preactivation": (cifar.wide_resnet(10, 2), 16),
    "groups": (cifar.resnext(11, groups=4, group_width=2), 16),
    "dense": (cifar.densenet(16, growth=4), 16),
    "photographs": (resnets.resnet(18), 48),
    "photographs in groups": (
        resnets.resnet(50, groups=4, group_width=2, squeeze=16),
        48,
    ),
}


pytestmark = pytest.mark.usefixtures("eagerly")


def kinds(*names):
    return pytest.mark.parametrize("kind", names or list(KINDS))


def small(kind, **options):
    function, side = KINDS[kind]
    return function(**{"input_shape": (side, side, 3), "classes": 4, **options})


def random_images(rng, side, count=4):
    return rng.uniform(0, 255, (count, side, side, 3)).astype("float32")


def shake(model, rng):
    """Gives every weight a value that an untrained one does not have."""
    for weight in model.weights:
        variable = weight.path.rpartition("/")[2]
        shape = weight.shape
        if variable == "gamma":
            weight.assign(rng.uniform(0.2, 0.8, shape))
        elif variable == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, shape))
        elif variable != "kernel":
            weight.assign(rng.normal(0, 0.2, shape))


def called(model, images):
    return keras.ops.convert_to_numpy(model(images))


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


# Sizes ----------------------------------------------------------------------


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize("name", [*PHOTOGRAPHS, *SMALL_IMAGES])
def test_family_has_its_published_size_and_stages(name):
    photographs = name in PHOTOGRAPHS
    home, table = (
        (resnets, PHOTOGRAPHS) if photographs else (cifar, SMALL_IMAGES)
    )
    model = home.FAMILY[name]()
    weights, channels = table[name]
    assert trainable(model) == weights
    first = 56 if photographs else 32
    ends = {
        layer.name.partition("_")[0]: layer.output.shape[1:]
        for layer in model.layers
        if layer.name.startswith("stage")
    }
    assert list(ends.values()) == [
        (first >> stage, first >> stage, filters)
        for stage, filters in enumerate(channels)
    ]
    assert model.get_layer("pooling").input.shape[1:] == ends.popitem()[1]
    assert model.output_shape == (None, 1000 if photographs else 10)
    for layer in model.layers:
        assert type(layer).__module__.startswith("keras."), layer.name
        assert not isinstance(layer, (keras.Model, keras.layers.Lambda))


def test_families_hold_what_is_listed_here():
    assert list(resnets.FAMILY) == list(PHOTOGRAPHS)
    assert list(cifar.FAMILY) == list(SMALL_IMAGES)


def residual_size(counts, kernels, width, filters, stem, classes, **options):
    """Counts the weights of a residual network from its table of layers."""
    groups, squeeze = options.get("groups", 1), options.get("squeeze")
    stem_kernel, channels = stem
    total = 3 * stem_kernel**2 * channels + 2 * channels
    for stage, count in enumerate(counts):
        inside, end = width * 2**stage, filters * 2**stage
        for _ in range(count):
            path = [channels] + [inside] * (len(kernels) - 1) + [end]
            for kernel, before, after in zip(
                kernels, path[:-1], path[1:], strict=True
            ):
                in_group = before // (groups if kernel == 3 else 1)
                total += kernel**2 * in_group * after + 2 * after
            total += (channels != end) * (channels * end + 2 * end)
            if squeeze:
                middle = max(1, end // squeeze)
                total += 2 * end * middle + middle + end
            channels = end
    return total + (channels + 1) * classes


def wide_size(count, width, classes):
    total, channels = 27 * 16, 16
    for end in (16 * width, 32 * width, 64 * width):
        for _ in range(count):
            total += 2 * channels + 9 * channels * end
            total += 2 * end + 9 * end * end
            total += (channels != end) * channels * end
            channels = end
    return total + 2 * channels + (channels + 1) * classes


def dense_size(count, growth, classes):
    channels = 2 * growth
    total = 27 * channels
    for stage in range(3):
        if stage:
            total += 2 * channels + channels * (channels // 2)
            channels //= 2
        for _ in range(count):
            total += 2 * channels + channels * 4 * growth
            total += 2 * 4 * growth + 9 * 4 * growth * growth
            channels += growth
    return total + 2 * channels + (channels + 1) * classes


@pytest.mark.parametrize("classes", [10, 100])
def test_size_of_small_images_follows_from_the_layers(classes):
    def size(count, kernels, width, filters, first, **options):
        stem = (3, first)
        counts = [count] * 3
        return residual_size(
            counts, kernels, width, filters, stem, classes, **options
        )

    basic, bottleneck = (3, 3), (1, 3, 1)
    expected = {
        "ResNet8": size(1, basic, 16, 16, 16),
        "ResNet20": size(3, basic, 16, 16, 16),
        "ResNet32": size(5, basic, 16, 16, 16),
        "ResNet44": size(7, basic, 16, 16, 16),
        "ResNet56": size(9, basic, 16, 16, 16),
        "ResNet110": size(18, basic, 16, 16, 16),
        "ResNet110Bottleneck": size(18, bottleneck, 16, 64, 16),
        "SEResNet20": size(3, basic, 16, 16, 16, squeeze=16),
        "SEResNet56": size(9, basic, 16, 16, 16, squeeze=16),
        "SEResNet110": size(18, basic, 16, 16, 16, squeeze=16),
        "WideResNet28_10": wide_size(4, 10, classes),
        "ResNeXt29_8x64d": size(3, bottleneck, 512, 256, 64, groups=8),
        "DenseNet100_12": dense_size(16, 12, classes),
    }
    last = {name: row[1][-1] for name, row in SMALL_IMAGES.items()}
    for name, weights in expected.items():
        more = (classes - 10) * (last[name] + 1)
        assert weights == SMALL_IMAGES[name][0] + more, name
    if classes == 100:
        # In the releases of LFI-CAM and ABN: 1.727 M.
        assert expected["ResNet110Bottleneck"] == 1_727_284
    else:
        wider = size(3, bottleneck, 1024, 256, 64, groups=16)
        assert wider == 68_155_210  # ResNeXt-29 16x64d, pytorchcv.


@pytest.mark.usefixtures("shapes_alone")
def test_size_of_photographs_follows_from_the_layers():
    fifty, deep = (3, 4, 6, 3), (3, 4, 23, 3)

    def bottlenecks(counts, width=64, **options):
        stem = (7, 64)
        return residual_size(
            counts, (1, 3, 1), width, 256, stem, 1000, **options
        )

    def basic(counts):
        return residual_size(counts, (3, 3), 64, 64, (7, 64), 1000)

    assert {name: row[0] for name, row in PHOTOGRAPHS.items()} == {
        "ResNet18": basic((2, 2, 2, 2)),
        "ResNet34": basic((3, 4, 6, 3)),
        "ResNeXt50_32x4d": bottlenecks(fifty, 128, groups=32),
        "ResNeXt101_32x8d": bottlenecks(deep, 256, groups=32),
        "SEResNet50": bottlenecks(fifty, squeeze=16),
        "SEResNeXt50_32x4d": bottlenecks(fifty, 128, groups=32, squeeze=16),
    }
    # Torchvision, which FAMILY leaves to keras.applications.
    assert trainable(resnets.resnet(50)()) == bottlenecks(fifty) == 25_557_032
    assert bottlenecks(deep) == 44_549_160
    assert bottlenecks((3, 8, 36, 3)) == 60_192_808


@kinds("basic", "preactivation", "dense", "photographs")
def test_gray_image_is_as_one_of_three_equal_channels(kind, rng):
    side = KINDS[kind][1]
    color, gray = (
        small(kind, input_shape=(side, side, channels)) for channels in (3, 1)
    )
    shake(color, rng)
    gray.set_weights(color.get_weights())
    images = random_images(rng, side)[..., :1]
    expected = called(color, np.repeat(images, 3, axis=-1))
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(called(gray, images), expected, atol=1e-6)


# Numbers --------------------------------------------------------------------


CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Rewrite:
    """The networks once more in float64 NumPy, by the names of the layers.

    A strided convolution is one without whose places are picked: the first of
    every two, or the second where it looks ahead.
    """

    def __init__(self, model, pixels=CIFAR, epsilon=1e-3):
        self.model = model
        self.pixels = pixels
        self.epsilon = epsilon

    def weights(self, name):
        layer = self.model.get_layer(name)
        return [weight.numpy().astype("float64") for weight in layer.weights]

    def standardize(self, images):
        mean, deviation = self.pixels
        return (images.astype("float64") / 255 - mean) / deviation

    def convolve(self, x, name, stride=1, groups=1, first=0):
        (kernel,) = self.weights(f"{name}_convolution")
        parts = [
            reference.convolution(inputs, part)
            for inputs, part in zip(
                np.split(x, groups, axis=-1),
                np.split(kernel, groups, axis=-1),
                strict=True,
            )
        ]
        first = first if stride > 1 else 0
        return np.concatenate(parts, -1)[:, first::stride, first::stride]

    def normalize(self, x, name):
        scale, shift, mean, variance = self.weights(f"{name}_normalization")
        return scale * (x - mean) / np.sqrt(variance + self.epsilon) + shift

    def activate(self, x, name):
        return np.maximum(self.normalize(x, name), 0)

    def squeeze(self, x, name):
        down, down_bias = self.weights(f"{name}_reduction")
        up, up_bias = self.weights(f"{name}_excitation")
        means = x.mean(axis=(1, 2))
        middle = np.maximum(means @ down[0, 0] + down_bias, 0)
        scales = 1 / (1 + np.exp(-(middle @ up[0, 0] + up_bias)))
        return x * scales[:, np.newaxis, np.newaxis]

    def residual_block(self, x, name, strides, groups, first, squeezes):
        y = x
        for number, stride in enumerate(strides, start=1):
            y = np.maximum(y, 0)  # The input of a block is positive anyway.
            parts = groups if number == 2 else 1
            y = self.convolve(y, f"{name}_{number}", stride, parts, first)
            y = self.normalize(y, f"{name}_{number}")
        if squeezes:
            y = self.squeeze(y, name)
        if x.shape != y.shape:
            name = f"{name}_shortcut"
            x = self.convolve(x, name, max(strides), first=first)
            x = self.normalize(x, name)
        return np.maximum(x + y, 0)

    def residual(self, x, counts, **options):
        convolutions = options.get("convolutions", 2)
        x = self.convolve(x, "stem", options.get("stem_stride", 1))
        x = self.activate(x, "stem")
        if options.get("pools"):
            x = maximum(x)
        for stage, count in enumerate(counts, start=1):
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                x = self.residual_block(
                    x,
                    f"stage{stage}_block{index}",
                    (stride, 1) if convolutions == 2 else (1, stride, 1),
                    options.get("groups", 1),
                    int(stage == options.get("ahead", 3)),
                    options.get("squeezes", False),
                )
        return self.classify(x)

    def preactivation(self, x):
        x = self.convolve(x, "stem")
        for stage in (1, 2, 3):
            name, stride = f"stage{stage}_block0", min(stage, 2)
            first = int(stage == 3)
            active = self.activate(x, f"{name}_1")
            y = self.convolve(active, f"{name}_1", stride, first=first)
            y = self.activate(y, f"{name}_2")
            y = self.convolve(y, f"{name}_2")
            x = y + self.convolve(
                active, f"{name}_shortcut", stride, first=first
            )
        return self.classify(self.activate(x, "final"))

    def dense(self, x, count):
        x = self.convolve(x, "stem")
        for stage in (1, 2, 3):
            for index in range(count):
                y = x
                for number in (1, 2):
                    name = f"stage{stage}_block{index}_{number}"
                    y = self.convolve(self.activate(y, name), name)
                x = np.concatenate([x, y], axis=-1)
            if stage < 3:
                name = f"transition{stage}"
                x = self.convolve(self.activate(x, name), name)
                x = sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
        return self.classify(self.activate(x, "final"))

    def classify(self, x):
        kernel, bias = self.weights("classifier")
        return x.mean(axis=(1, 2)) @ kernel + bias


def maximum(x):
    """Largest of 3x3 around every second place."""
    rows, columns = x.shape[1:3]
    low = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = np.pad(x, low, constant_values=-np.inf)
    windows = [
        padded[:, i : i + rows : 2, j : j + columns : 2]
        for i in range(3)
        for j in range(3)
    ]
    return np.max(windows, axis=0)


def rewritten(kind, model, images):
    if kind.startswith("photographs"):
        net = Rewrite(model, IMAGENET, epsilon=1e-5)
        options = {"stem_stride": 2, "pools": True, "ahead": None}
    else:
        net, options = Rewrite(model), {}
    x = net.standardize(images)
    bottleneck = {"convolutions": 3}
    return {
        "basic": lambda: net.residual(x, [1] * 3),
        "basic with squeeze": lambda: net.residual(x, [1] * 3, squeezes=True),
        "bottleneck": lambda: net.residual(
            x, [1] * 3, stem_stride=2, squeezes=True, **bottleneck
        ),
        "preactivation": lambda: net.preactivation(x),
        "groups": lambda: net.residual(x, [1] * 3, groups=4, **bottleneck),
        "dense": lambda: net.dense(x, 2),
        "photographs": lambda: net.residual(x, [2] * 4, **options),
        "photographs in groups": lambda: net.residual(
            x, [3, 4, 6, 3], groups=4, squeezes=True, **bottleneck, **options
        ),
    }[kind]()


@pytest.fixture(
    scope="module",
    params=[
        # Fifty layers, each of which one of the others has.
        pytest.param(kind, marks=pytest.mark.every_backbone)
        if kind == "photographs in groups"
        else kind
        for kind in KINDS
    ],
)
def network(request):
    """Kind, its network with weights drawn anew, and images for it."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = small(request.param)
    shake(model, rng)
    return request.param, model, random_images(rng, KINDS[request.param][1])


def test_network_equals_its_rewrite(network):
    kind, model, images = network
    images = images[:2]
    expected = rewritten(kind, model, images)
    # The logits, for of large ones the probabilities would say little.
    pooled, predictions = keras.Model(
        model.input, [model.get_layer("pooling").output, model.output]
    )(images)
    kernel, bias = model.get_layer("classifier").get_weights()
    actual = np.asarray(pooled) @ kernel + bias
    # Images that do not matter would hide a wrong layer.
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-5)
    np.testing.assert_allclose(
        predictions, reference.softmax(actual), atol=1e-5
    )


def test_open_size_takes_every_size(network, rng):
    kind, closed, images = network
    images = images[:2]
    opened = small(kind, input_shape=(None, None, 3))
    opened.set_weights(closed.get_weights())
    np.testing.assert_allclose(
        called(opened, images), called(closed, images), atol=1e-5
    )
    odd = rng.uniform(0, 255, (2, 37, 50, 3)).astype("float32")
    np.testing.assert_allclose(called(opened, odd).sum(axis=-1), 1, atol=1e-5)


@pytest.mark.usefixtures("grouped_gradients")
def test_one_step_moves_every_weight_and_the_file_keeps_it(network, tmp_path):
    _, model, images = network
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(images, np.array([0, 1, 2, 3]))
    still = [
        weight.path
        for weight, old in zip(model.trainable_weights, before, strict=True)
        if np.array_equal(weight.numpy(), old)
    ]
    assert not still
    predictions = called(model, images)
    np.testing.assert_allclose(predictions.sum(axis=-1), 1, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(called(loaded, images), predictions)


# Places ---------------------------------------------------------------------


def places(features, axis, cell):
    """How much a cell of the map sees of each row, or column, of an image."""
    side = features.input_shape[1]
    images = np.full((side + 1, side, side, 3), 150.0, "float32")
    for index in range(side):
        np.moveaxis(images[index], axis, 0)[index] += 100
    seen = called(features, images).sum(axis=-1)
    return seen[:-1, cell[0], cell[1]] - seen[-1, cell[0], cell[1]]


def centers(function, side, cell, *, centers_only=False):
    """Row and column of the image that a cell of the map is centered on."""
    model = function(input_shape=(side, side, 3))
    features = keras.Model(model.input, model.get_layer("pooling").input)
    for weight in model.weights:
        if weight.path.endswith("kernel"):
            kernel = np.full(weight.shape, 1 / np.prod(weight.shape[:3]))
            if centers_only:
                half = weight.shape[0] // 2
                center = kernel[half, half].copy()
                kernel[:] = 0
                kernel[half, half] = center
            weight.assign(kernel)
    for axis in (0, 1):
        seen = places(features, axis, cell)
        assert seen.max() > 0
        yield (seen * np.arange(side)).sum() / seen.sum()


@pytest.mark.parametrize(
    ("function", "side", "offset"),
    [
        (cifar.resnet(8), 32, 0.5),
        (cifar.resnet(8, stem_stride=2), 64, 0.5),
        (cifar.resnet(11, block="bottleneck"), 32, 0.5),
        (cifar.resnet(11, block="bottleneck", stem_stride=2), 64, 0.5),
        (cifar.wide_resnet(10, 1), 32, 0.5),
        (cifar.resnext(11, groups=1, group_width=4), 32, 0.5),
        (cifar.densenet(10, growth=2), 32, 0.0),
    ],
)
def test_cell_of_the_map_stands_for_its_own_place(function, side, offset):
    cell, size = (4, 3), side / 8
    for index, center in zip(cell, centers(function, side, cell), strict=True):
        own = index * size + (size - 1) / 2
        assert center - own == pytest.approx(offset, abs=0.01)


@pytest.mark.slow
def test_photographs_are_seen_where_torchvision_sees_them():
    # Whole kernels would see more than the image: 435 pixels.
    function = resnets.resnet(18)
    for center in centers(function, 64, (1, 1), centers_only=True):
        assert center - (32 + 15.5) == pytest.approx(-15.5, abs=0.01)


# Use ------------------------------------------------------------------------


@kinds("basic", "photographs")
def test_weights_of_a_file_are_loaded(kind, tmp_path):
    donor = small(kind)
    path = tmp_path / "donor.weights.h5"
    donor.save_weights(path)
    model = small(kind, weights=path)
    for weight, other in zip(model.weights, donor.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


@pytest.mark.usefixtures("shapes_alone")
@kinds("dense", "photographs")
def test_function_has_the_arguments_of_keras_applications(kind):
    function, side = KINDS[kind]
    arguments = inspect.signature(function).parameters
    assert {
        "weights",
        "input_tensor",
        "input_shape",
        "classes",
        "classifier_activation",
    } == set(arguments)
    image = keras.Input((side, side, 3))
    model = function(input_tensor=keras.layers.Rescaling(1.0)(image), classes=3)
    assert model.output_shape == (None, 3)
    with pytest.raises(ValueError, match="no weights from ImageNet.*None"):
        function(weights="imagenet")


@pytest.mark.usefixtures("shapes_alone")
def test_numpy_integers_are_integers():
    model = cifar.resnet(np.int64(8), squeeze=np.int32(4))()
    assert model.name == "seresnet8"
    assert resnets.resnet(np.int64(18))().name == "resnet18"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ResNet20", "resnet20"),
        ("SEResNet56", "seresnet56"),
        ("ResNet110Bottleneck", "resnet164bottleneck"),
        ("WideResNet28_10", "wideresnet28_10"),
        ("ResNeXt29_8x64d", "resnext29_8x64d"),
        ("DenseNet100_12", "densenet100_12"),
        ("SEResNeXt50_32x4d", "seresnext50_32x4d"),
    ],
)
def test_model_is_named_after_its_arguments(name, shown):
    function = {**resnets.FAMILY, **cifar.FAMILY}[name]
    assert function.args[2] == shown


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        (cifar.resnet, {"depth": 21}, r"6 n \+ 2.*8 or 20.*depth=21"),
        (cifar.resnet, {"depth": 2}, r"6 n \+ 2.*depth=2"),
        (cifar.resnet, {"depth": "8"}, r"6 n \+ 2.*depth='8'"),
        (cifar.resnet, {"depth": 8.0}, r"6 n \+ 2.*depth=8\.0"),
        (
            cifar.resnet,
            {"depth": 8, "block": "bottleneck"},
            r"9 n \+ 2.*11 or 29.*depth=8",
        ),
        (
            cifar.resnet,
            {"depth": 8, "block": "wide"},
            "`block`.*'basic' or 'bottleneck'.*block='wide'",
        ),
        (
            cifar.resnet,
            {"depth": 8, "stem_stride": 0},
            "`stem_stride`.*at least 1.*stem_stride=0",
        ),
        (
            cifar.resnet,
            {"depth": 8, "squeeze": 0},
            "`squeeze`.*at least 1.*squeeze=0",
        ),
        (
            cifar.resnet,
            {"depth": 8, "squeeze": True},
            "`squeeze`.*integer.*squeeze=True",
        ),
        (cifar.wide_resnet, {"depth": 29}, r"6 n \+ 4.*10 or 22.*depth=29"),
        (cifar.wide_resnet, {"width": 0.5}, r"`width`.*width=0\.5"),
        (cifar.resnext, {"depth": 28}, r"9 n \+ 2.*depth=28"),
        (cifar.resnext, {"groups": 0}, "`groups`.*groups=0"),
        (cifar.resnext, {"group_width": -1}, "`group_width`.*=-1"),
        (cifar.densenet, {"depth": 99}, r"6 n \+ 4.*depth=99"),
        (cifar.densenet, {"growth": None}, "`growth`.*growth=None"),
        (resnets.resnet, {"depth": 20}, r"`depth`.*18, 34, 50.*depth=20"),
        (resnets.resnet, {"depth": [18]}, r"`depth`.*depth=\[18\]"),
        (
            resnets.resnet,
            {"depth": 34, "groups": 32},
            "bottlenecks.*depth=34, groups=32, group_width=64.*depth=50",
        ),
        (
            resnets.resnet,
            {"depth": 18, "group_width": 128},
            "bottlenecks.*group_width=128",
        ),
        (resnets.resnet, {"depth": 50, "groups": "32"}, "`groups`.*'32'"),
        (resnets.resnet, {"depth": 50, "squeeze": -16}, "`squeeze`.*-16"),
    ],
)
def test_impossible_network_is_refused(factory, arguments, message):
    asked = arguments.values()
    wrong_kind = any(
        value is True or value in (0.5, None, "32") for value in asked
    )
    with pytest.raises(TypeError if wrong_kind else ValueError, match=message):
        factory(**arguments)
