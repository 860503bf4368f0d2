"""RefineCAM: numbers by hand, a rewrite, empty layers, default layers."""

import explainer_contract
import keras
import numpy as np
import pytest
import reference
import small_classifiers

import keras_lficam
from keras_lficam.classifier import Classifier
from keras_lficam.explainers import LayerCAM, RefineCAM

untraced = explainer_contract.untraced
layers = keras.layers


def pooled(kernel, *, factor=1.0):
    """Its maps are the colors of four by four pixels, and their averages."""
    image = keras.Input((4, 4, 3))
    colors = layers.Conv2D(3, 1, use_bias=False, name="colors")
    x = layers.AveragePooling2D(2, name="averages")(colors(image))
    x = layers.Rescaling(factor, name="turned")(x)
    dense = layers.Dense(len(kernel[0]), "softmax", use_bias=False)
    model = keras.Model(image, dense(layers.GlobalAveragePooling2D()(x)))
    colors.set_weights([np.eye(3, dtype="float32").reshape(1, 1, 3, 3)])
    dense.set_weights([np.asarray(kernel, "float32")])
    return model


def red(*pixels):
    image = np.zeros((1, 4, 4, 3), "float32")
    for row, column, value in pixels:
        image[0, row, column, 0] = value
    return image


@pytest.mark.usefixtures("untraced")
def test_refine_cam_by_hand():
    # Of class 0 the fine map is red over 4, that of the averages, 1, 1/2, 0
    # and 0 once normalized. In the corners nothing is interpolated; in between
    # the second pixel has 3/4 of the first average and 1/4 of the next.
    model = pooled([[1, 0], [0, 1], [0, 0]])
    image = red((0, 0, 4), (0, 1, 0.8), (0, 3, 2.4))
    explainer = RefineCAM(model, layers=["colors", "averages"])
    # The averages are 1.2, 0.6, 0 and 0.
    expected = np.zeros((4, 4))
    expected[0] = [1, 0.2 * (0.75 + 0.25 / 2), 0, 0.6 / 2]
    actual = explainer(image, 0)[0, ..., 0]
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    # In any order, and by default.
    for other in (
        RefineCAM(model, layers=("averages", "colors")),
        RefineCAM(model),
    ):
        np.testing.assert_allclose(
            other(image, 0)[0, ..., 0], expected, atol=1e-6
        )
    # The product is normalized once more: no pixel is brightest in both maps.
    image = red((0, 0, 4), (0, 3, 3), (1, 3, 3))
    fine = image[0, ..., 0] / 4
    coarse = reference.bilinear(np.array([[4 / 6, 1], [0, 0]]), 4, 4)
    product = fine * coarse
    np.testing.assert_allclose(
        explainer(image, 0)[0, ..., 0], product / product.max(), atol=1e-6
    )
    assert product.max() == 0.75
    assert explainer.passes == (3, 2)
    assert explainer.class_specific


@pytest.mark.usefixtures("untraced")
def test_an_empty_layer_empties_the_product():
    # Red is negative in the last map, and its gradient is as well: its early
    # map is red, and its last one is nowhere positive.
    model = pooled([[-1, 0], [0, 1], [0, 0]], factor=-1.0)
    image = red((0, 0, 4), (0, 3, 2))
    early = LayerCAM(model, layer="colors")(image, 0)
    np.testing.assert_allclose(early[0, ..., 0], image[0, ..., 0] / 4)
    assert not LayerCAM(model, layer="turned")(image, 0).any()
    assert not RefineCAM(model, layers=["colors", "turned"])(image, 0).any()
    assert not RefineCAM(model)(image, 0).any()
    # So do two layers that share no place.
    apart = pooled([[1, 0], [0, 1], [0, 0]])
    assert not RefineCAM(apart)(0 * image, 0).any()


def test_agrees_with_a_rewrite(rng):
    model = small_classifiers.hidden()
    names = [layer.name for layer in model.layers][1:3]
    assert names[1] == "features"
    images = rng.normal(size=(4, 6, 6, 3)).astype("float32")
    classes = np.array([2, 0, 1, 2])
    kernel, bias, first, shift, second, last = (
        weight.astype("float64") for weight in model.get_weights()
    )
    before = reference.convolution(images, kernel) + bias
    features = np.where(before < 0, 0.5 * before, before)
    inner = features.reshape(4, -1) @ first + shift
    gradients = (second[:, classes].T * (inner > 0)) @ first.T
    gradients = gradients.reshape(features.shape)
    expected = np.ones((4, 6, 6, 1))
    for seen, slopes in [
        (features, gradients),
        (before, gradients * np.where(before < 0, 0.5, 1)),
    ]:
        weights = np.maximum(slopes, 0)
        expected *= reference.activation_map(seen, weights)
    expected = reference.stretch(expected)
    assert 0.05 < expected.mean() < 0.9
    actual = RefineCAM(model, layers=names)(images, classes)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.usefixtures("untraced")
def test_predicted_class_is_that_of_the_model(rng):
    model = pooled(rng.normal(size=(3, 4)))
    images = rng.normal(size=(8, 4, 4, 3)).astype("float32")
    classes = model.predict_on_batch(images).argmax(axis=-1)
    assert len(set(classes)) > 1
    explainer = RefineCAM(model)
    np.testing.assert_array_equal(explainer(images), explainer(images, classes))


# Before the last stride: not a padding in between, nor a branch.
@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("ResNet20", "stage2_block2_relu"),
        ("MobileNet", "conv_pw_11_relu"),
        ("MobileNetV2", "block_13_expand_relu"),
        ("VGG16", "block5_conv3"),
    ],
)
def test_default_is_the_last_finer_map(name, layer):
    side = 32 if name == "ResNet20" else 128
    model = keras_lficam.build(
        name, 4, input_shape=(side, side, 3), architecture="plain"
    )
    assert Classifier(model).finer_layer() == layer
    assert RefineCAM(model).passes == (3, 2)


@pytest.mark.usefixtures("shapes_alone")
def test_default_layers_of_lfi_cam_are_those_of_its_backbone():
    model = keras_lficam.build("ResNet20", 4, input_shape=(32, 32, 3))
    assert Classifier(model).finer_layer() == "stage2_block2_relu"
    assert RefineCAM(model).passes == (3, 2)
    nested = keras.Sequential([keras.Input((32, 32, 3)), model])
    assert Classifier(nested).finer_layer() == "stage2_block2_relu"


@pytest.mark.usefixtures("shapes_alone")
def test_layers_inside_a_bottleneck_are_no_default():
    """A shortcut goes around them, which looks at the image, too."""
    plain, attended = (
        Classifier(
            keras_lficam.build(
                "ResNeXt29_8x64d",
                4,
                input_shape=(32, 32, 3),
                architecture=architecture,
            )
        ).finer_layer()
        for architecture in ("plain", "lfi_cam")
    )
    assert plain == attended


@pytest.mark.usefixtures("untraced")
def test_other_inputs_are_held(rng):
    image, row = keras.Input((4, 4, 3)), keras.Input((3,), name="row")
    inner = pooled([[1, 0], [0, 1], [2, 0]])
    averages = keras.Model(inner.input, inner.get_layer("turned").output)
    x = layers.GlobalAveragePooling2D()(averages(image)) * row
    model = keras.Model([image, row], inner.layers[-1](x))
    images = rng.uniform(size=(2, 4, 4, 3)).astype("float32")
    rows = np.array([[1, 0, 0], [0, 0, 1]], "float32")
    maps = RefineCAM(model)(images, 0, context={"row": rows})
    # The row leaves one color: red of the first, blue of the second image.
    for index, kernel in enumerate(([[1, 0], [0, 0]], [[0, 0], [1, 0]])):
        alone = pooled([*kernel[:1], [0, 0], *kernel[1:]])
        np.testing.assert_allclose(
            maps[index], RefineCAM(alone)(images[index], 0)[0], atol=1e-5
        )


@pytest.mark.usefixtures("untraced")
def test_of_images_of_any_size_a_finer_map_is_found(rng):
    trunk = small_classifiers.backbone((None, None, 3))
    model = keras.Sequential([trunk, *small_classifiers.head()])
    assert Classifier(model).finer_layer() == trunk.layers[1].name
    images = rng.uniform(0, 255, (2, 16, 12, 3))
    fixed = keras.Sequential(
        [small_classifiers.backbone(), *small_classifiers.head()]
    )
    fixed.set_weights(model.get_weights())
    np.testing.assert_allclose(
        RefineCAM(model)(images, 1), RefineCAM(fixed)(images, 1), atol=1e-5
    )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("colors", TypeError, "`layers` must be a list.*'colors'"),
        (["colors", None], TypeError, "`layers` must be a list"),
        (["colors"], ValueError, "at least two.*LayerCAM"),
        (["colors", "colors"], ValueError, "each once"),
        ([], ValueError, "at least two"),
        (["colors", "nothing"], ValueError, "`layer`.*'nothing'"),
    ],
)
def test_layers_are_checked(given, error, message):
    with pytest.raises(error, match=message):
        RefineCAM(pooled([[1, 0], [0, 1], [0, 0]]), layers=given)


def test_model_without_a_finer_map_is_refused():
    flat = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    with pytest.raises(ValueError, match="finer.*layers="):
        RefineCAM(flat)
