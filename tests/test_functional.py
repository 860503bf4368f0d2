import keras
import numpy as np
import pytest
import reference

from keras_lficam import functional


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def test_min_max_by_hand():
    x = np.array([[1.0, 2.0, 5.0], [-3.0, 0.0, 3.0]], "float32")
    expected = [[0, 0.25, 1], [0, 0.5, 1]]
    actual = numpy_of(functional.min_max(x, axis=1))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_min_max_of_rounding_noise_is_no_contrast():
    x = np.full((1, 3, 3, 1), 1000.0, "float32")
    x[0, 1, 1, 0] = np.nextafter(np.float32(1000), np.float32(2000))
    assert not numpy_of(functional.min_max(x)).any()
    x[0, 1, 1, 0] = 1001  # A thousandth is contrast.
    assert numpy_of(functional.min_max(x)).max() == 1


def test_min_max_sees_features_as_small_as_untrained_mobilenet_has():
    x = 1e-13 * np.arange(4, dtype="float32").reshape(1, 2, 2, 1)
    actual = numpy_of(functional.min_max(x)).ravel()
    np.testing.assert_allclose(actual, [0, 1 / 3, 2 / 3, 1], rtol=1e-5)


@pytest.mark.parametrize(("span", "highest"), [(2.0**-12, 0), (2.0**-9, 1)])
def test_min_max_of_float16_needs_a_span_whose_gradient_it_can_hold(
    span, highest
):
    x = np.array([0, span], "float16").reshape(1, 1, 2, 1)
    actual = numpy_of(functional.min_max(x))
    assert actual.dtype == "float32"
    assert actual.max() == highest


def test_wide_features_are_masked(rng):
    features = rng.normal(size=(1, 4, 4, 2))
    actual = numpy_of(
        functional.importance_masks(np.ones((1, 8, 8, 3)), features)
    )
    # Keras narrows float64 with JAX and PyTorch.
    on_tensorflow = keras.backend.backend() == "tensorflow"
    assert actual.dtype == ("float64" if on_tensorflow else "float32")
    np.testing.assert_allclose(
        actual,
        reference.masks(np.ones((1, 8, 8, 3)), features),
        rtol=1e-5,
    )


@pytest.mark.parametrize("size", [(2, 2), (5, 7), (9, 8), (20, 31)])
def test_resize_equals_the_rewrite(size, rng):
    image = rng.uniform(size=(1, 9, 8, 1)).astype("float32")
    actual = numpy_of(functional.resize(image, size))
    expected = reference.bilinear(image[0, ..., 0], *size)
    np.testing.assert_allclose(actual[0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [(3, 5), (16, 16)])
def test_resize_equals_keras_where_keras_can(size, rng):
    images = rng.uniform(size=(2, 7, 6, 3)).astype("float32")
    expected = keras.ops.image.resize(
        images, size, interpolation="bilinear", data_format="channels_last"
    )
    np.testing.assert_allclose(
        numpy_of(functional.resize(images, size)),
        numpy_of(expected),
        atol=1e-5,
    )


@pytest.mark.parametrize("offset", [0.0, 3.0, -50.0])
def test_pooled_masks_are_the_mean_of_the_masks(offset, rng):
    images = rng.uniform(0, 255, (3, 23, 18, 3)).astype("float32")
    features = (offset + rng.normal(size=(3, 5, 7, 6))).astype("float32")
    features[1, ..., 2] = 4.5  # Constant: the masks are 0.
    masks = reference.masks(images, features)
    assert masks.mean() > 0.1
    actual = numpy_of(functional.pooled_importance_masks(images, features))
    np.testing.assert_allclose(actual, masks.mean(axis=(1, 2)), atol=1e-5)
    assert actual[1, 2] == 0


def test_class_activation_map_weighs_channels_or_elements():
    features = np.array([[[[1.0, 4.0], [2.0, 0.0]], [[3.0, 0.0], [4.0, 1.0]]]])
    # Twice the first channel less the second: -2, 4, 6 and 7.
    of_channels = functional.class_activation_map(features, [[2.0, -1.0]])
    expected = np.reshape([0, 4 / 7, 6 / 7, 1], (1, 2, 2, 1))
    np.testing.assert_allclose(numpy_of(of_channels), expected, atol=1e-6)
    # 1 - 4 = -3, 2, 3 + 0 = 3 and 0 * 4 + 1 = 1.
    elements = [[[[1.0, -1.0], [1.0, 9.0]], [[1.0, 9.0], [0.0, 1.0]]]]
    of_elements = functional.class_activation_map(features, elements)
    expected = np.reshape([0, 2 / 3, 1, 1 / 3], (1, 2, 2, 1))
    np.testing.assert_allclose(numpy_of(of_elements), expected, atol=1e-6)
    with pytest.raises(ValueError, match="`importance` must have 2 or 4 axes"):
        functional.class_activation_map(features, np.ones((1, 2, 2)))
