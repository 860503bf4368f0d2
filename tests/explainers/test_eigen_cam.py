"""Eigen-CAM: numbers by hand, a rewrite by SVD, which side is shown."""

import explainer_contract
import keras
import numpy as np
import pytest
import reference
import small_classifiers

from keras_lficam.explainers import EigenCAM

untraced = explainer_contract.untraced

KERNEL = [[1, 0], [-1, 2], [0, 0]]


def of_pixels(*pixels):
    """An image of two by two pixels."""
    return np.array(pixels, "float32").reshape(1, 2, 2, 3)


@pytest.mark.usefixtures("untraced")
def test_eigen_cam_by_hand():
    # Red and green of the pixels are (1, 1), (2, 2), (1, -1) and (0, 0), so
    # their Gram matrix is [[6, 4], [4, 6]], with 10 in the direction (1, 1)
    # and 2 in (1, -1). Blue has 0.25 in a direction of its own.
    image = of_pixels([1, 1, 0], [2, 2, 0], [1, -1, 0], [0, 0, 0.5])
    explainer = EigenCAM(small_classifiers.of_channels(KERNEL))
    actual = explainer(image)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0.5, 1], [0, 0]], atol=1e-6)
    assert explainer.passes == (1, 0)
    assert not explainer.class_specific
    # Of a negated map the same is shown, since a sign is arbitrary.
    np.testing.assert_allclose(explainer(-image)[0, ..., 0], actual, atol=1e-6)
    # The side of the largest magnitude is: with (-1, -1) in the third pixel
    # it is still the second, with (-3, -3) the third alone.
    image[0, 1, 0] = -1, -1, 0
    actual = explainer(image)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0.5, 1], [0, 0]], atol=1e-6)
    image[0, 1, 0] = -3, -3, 0
    actual = explainer(image)[0, ..., 0]
    np.testing.assert_allclose(actual, [[0, 0], [1, 0]], atol=1e-6)


@pytest.mark.usefixtures("untraced")
def test_eigen_cam_of_nothing_is_zero():
    explainer = EigenCAM(small_classifiers.of_channels(KERNEL))
    for pixel in ([0, 0, 0], [1, 2, 3]):
        assert not explainer(of_pixels(*[pixel] * 4)).any()


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("scale", [1e-12, 1e15])
def test_size_of_the_activations_does_not_matter(scale):
    # Their squares would leave float32.
    image = of_pixels([1, 1, 0], [2, 2, 0], [1, -1, 0], [0, 0, 0.5])
    explainer = EigenCAM(small_classifiers.of_channels(KERNEL))
    np.testing.assert_allclose(
        explainer(scale * image), explainer(image), atol=1e-5
    )


def rewrite(features, *, centered=False):
    """Projects `(B, h, w, C)` by the whole SVD, one side made positive."""
    maps = np.zeros((*features.shape[:3], 1))
    for image, every in enumerate(features.astype("float64")):
        seen = every.reshape(-1, every.shape[-1])
        if centered:
            seen = seen - seen.mean(axis=0)
        _, _, directions = np.linalg.svd(seen)
        projected = seen @ directions[0]
        strongest = projected[np.abs(projected).argmax()]
        maps[image, ..., 0].flat = np.sign(strongest) * projected
    return reference.stretch(np.maximum(maps, 0))


# More channels than locations, and fewer.
@pytest.mark.parametrize(("size", "channels"), [(6, 5), (3, 20)])
def test_agrees_with_a_rewrite(size, channels, rng):
    model = small_classifiers.hidden(size, channels=channels)
    trunk = keras.Model(model.input, model.get_layer("features").output)
    images = rng.normal(size=(4, size, size, 3)).astype("float32")
    expected = rewrite(trunk.predict_on_batch(images))
    assert 0.1 < expected.mean() < 0.9
    explainer = EigenCAM(model)
    actual = explainer(images)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    by_name = EigenCAM(model, layer="features")(images)
    np.testing.assert_array_equal(by_name, actual)
    early = EigenCAM(model, layer=model.layers[1].name)(images)
    assert np.abs(early - actual).max() > 0.01
    with pytest.raises(ValueError, match="`layer`.*'nothing'"):
        EigenCAM(model, layer="nothing")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, rng):
    images = rng.normal(size=(3, 6, 6, 3)).astype("float32")
    exact = small_classifiers.hidden()
    rounded = small_classifiers.hidden(policy=policy)
    rounded.set_weights(exact.get_weights())
    with explainer_contract.without_graphs():
        expected = EigenCAM(exact)(images)
    actual = EigenCAM(rounded)(images)
    tolerance = 0.02 if policy == "mixed_float16" else 0.1
    np.testing.assert_allclose(actual, expected, atol=tolerance)
