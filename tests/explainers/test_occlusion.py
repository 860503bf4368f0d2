"""Occlusion: numbers by hand, a rewrite, another library."""

import itertools

import explainer_contract
import keras
import numpy as np
import pytest
import small_classifiers
from explainer_contract import without_graphs

from keras_lficam.explainers import Occlusion

untraced = explainer_contract.untraced


def linear(shape, weights=None, bias=0.0):
    """The logit of class 0 is a weighted sum of all values, that of 1 is 0."""
    image = keras.Input(shape)
    dense = keras.layers.Dense(2)
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    weights = np.ones(shape) if weights is None else weights
    kernel = np.stack([np.ravel(weights), np.zeros(np.size(weights))], axis=-1)
    dense.set_weights([kernel, np.array([bias, 0.0])])
    return model


def network(size=(12, 9)):
    rng = np.random.default_rng(1)
    layers = keras.layers
    image = keras.Input((*size, 3))
    x = layers.Conv2D(5, 3, strides=2, activation="relu")(image)
    x = layers.Flatten()(x)
    model = keras.Model(image, layers.Dense(3)(x))
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    return model


@pytest.mark.usefixtures("untraced")
def test_drop_is_shared_by_all_patches_that_cover_a_pixel():
    image = np.arange(1.0, 10).reshape(1, 3, 3, 1)
    explain = Occlusion(linear((3, 3, 1)), patch=2, stride=1)
    # The patches hide 1 + 2 + 4 + 5, 16, 24 and 28; a pixel at the border is
    # covered by one of them or two, that in the middle by all.
    expected = [[12, 14, 16], [18, 20, 22], [24, 26, 28]]
    found = explain.attributions(image, 0)
    assert found.shape == (1, 3, 3, 1)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        explain(image, 0)[0, ..., 0], np.array(expected) / 28, rtol=1e-5
    )
    # That of class 1 never changes, and is the lower one.
    assert not explain(image, 1).any()
    np.testing.assert_array_equal(explain(image), explain(image, 0))
    assert explain.passes == (5, 0)


@pytest.mark.usefixtures("untraced")
def test_last_patch_ends_at_the_border():
    image = np.array([1.0, 2, 4, 8, 16]).reshape(1, 1, 5, 1)
    explain = Occlusion(linear((1, 5, 1)), patch=(1, 2), stride=(1, 2))
    # 1 + 2, 4 + 8 and 8 + 16.
    assert explain.passes == (4, 0)
    np.testing.assert_allclose(
        explain.attributions(image, 0).ravel(), [3, 3, 12, 18, 24], rtol=1e-5
    )


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("fill", "shown"),
    [
        (0, [0, 0, 0]),
        (2, [2, 2, 2]),
        ([1, 0, 2], [1, 0, 2]),
        ("mean", [10 / 4, 5 / 4, 2]),
        (np.arange(12).reshape(2, 2, 3), np.arange(12).reshape(2, 2, 3)),
    ],
    ids=["black", "number", "color", "mean", "image"],
)
def test_fill(fill, shown):
    image = np.stack(
        [[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [0.0, 1.0]], [[0, 0], [8, 0]]],
        axis=-1,
    )[np.newaxis]
    model = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    explain = Occlusion(model, patch=1, stride=1, fill=fill)
    # Class 0 is the mean of red minus green.
    hidden = (image - shown) @ [1, -1, 0] / 4
    found = explain.attributions(image, 0)[..., 0]
    np.testing.assert_allclose(found, hidden, atol=1e-6)
    positive = np.maximum(hidden, 0)
    np.testing.assert_allclose(
        explain(image, 0)[..., 0], positive / positive.max(), atol=1e-6
    )


def rewritten(model, image, category, patch, stride, fill):
    """Hides one patch after another, with loops and `predict`."""
    (height, width), (down, across) = patch, stride
    rows = [*range(0, image.shape[0] - height, down), image.shape[0] - height]
    columns = [*range(0, image.shape[1] - width, across)]
    columns.append(image.shape[1] - width)
    whole = model.predict_on_batch(image[np.newaxis])[0, category]
    total, count = np.zeros(image.shape[:2]), np.zeros(image.shape[:2])
    for top, left in itertools.product(rows, columns):
        inside = slice(top, top + height), slice(left, left + width)
        changed = image.copy()
        changed[inside] = fill
        score = model.predict_on_batch(changed[np.newaxis])[0, category]
        total[inside] += whole - score
        count[inside] += 1
    assert count.min() > 0
    return total / count


@pytest.mark.parametrize(
    ("options", "patch", "stride"),
    [
        ({}, (2, 2), (1, 1)),
        ({"patch": 5}, (5, 5), (3, 3)),
        ({"patch": (3, 4), "stride": (2, 3)}, (3, 4), (2, 3)),
        ({"patch": (12, 2), "stride": 2}, (12, 2), (2, 2)),
    ],
)
def test_agrees_with_a_rewrite(options, patch, stride, rng):
    model = network()
    images = rng.normal(size=(2, 12, 9, 3)).astype("float32")
    explain = Occlusion(model, fill="mean", **options)
    found = explain.attributions(images, [2, 0])[..., 0]
    for index, category in enumerate((2, 0)):
        color = images[index].mean(axis=(0, 1))
        expected = rewritten(
            model, images[index], category, patch, stride, color
        )
        np.testing.assert_allclose(found[index], expected, atol=1e-4)
        assert np.ptp(expected) > 1


@pytest.mark.usefixtures("untraced")
def test_rounding_of_the_logit_is_no_evidence(rng):
    # Beside a logit of a million what each pixel adds is rounding.
    model = linear((8, 8, 1), 1e-3 * np.ones(64), bias=1e6)
    images = rng.uniform(size=(1, 8, 8, 1))
    assert not Occlusion(model)(images, 0).any()
    # And the softmax of a sure model has no drop, but its logit has.
    sure = small_classifiers.of_channels(
        np.array([[1e4, 0], [0, 0], [0, 0]]), activation="softmax"
    )
    maps = Occlusion(sure, patch=1)(np.ones((1, 2, 2, 3)), 0)
    np.testing.assert_allclose(maps, 1, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "expected"), [((224, 224), 225), ((96, 160), 225), ((9, 8), 64)]
)
def test_passes_are_bounded_whatever_the_size(size, expected):
    assert Occlusion(linear((*size, 1))).passes == (1 + expected, 0)


@pytest.mark.usefixtures("untraced")
def test_passes_of_a_model_of_any_size(rng):
    image = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    free = keras.Model(image, keras.layers.Dense(2)(pooled))
    assert Occlusion(free).passes == (226, 0)
    for side in range(1, 100):
        starts, length = Occlusion(free)._starts(0, side)
        assert len(starts) <= 15
        assert starts[-1] + length == side
    explain = Occlusion(free, patch=4)
    assert explain.passes == (None, 0)
    images = rng.uniform(size=(2, 6, 8, 3)).astype("float32")
    fixed = keras.Sequential([keras.Input((6, 8, 3)), free])
    with without_graphs():
        expected = Occlusion(fixed, patch=4)
    np.testing.assert_allclose(explain(images), expected(images), atol=1e-5)
    with pytest.raises(ValueError, match="`patch` must fit.*3 pixels.*To fix"):
        explain(images[:, :3])
    explain = Occlusion(free, stride=2)
    explain(images[:, :, :, :].repeat(2, axis=1).repeat(2, axis=2))
    with pytest.raises(ValueError, match="`stride`.*1 pixels along axis 0"):
        explain(images)
    explain = Occlusion(free, fill=np.zeros((6, 8, 3)))
    np.testing.assert_allclose(
        explain(images), Occlusion(free)(images), atol=1e-6
    )
    with pytest.raises(ValueError, match="`fill`.*To fix this"):
        explain(images[:, :5])


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8", (1, 2, 3), (0, 2)])
@pytest.mark.parametrize("name", ["patch", "stride"])
def test_sizes_that_are_none_are_refused(name, value):
    error = TypeError if value in (2.0, "8") or value is True else ValueError
    with pytest.raises(error, match=f"`{name}` must.*Received"):
        Occlusion(linear((16, 16, 1)), **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 17}, "`patch` must fit.*16 pixels along axis 0"),
        ({"patch": (16, 17)}, "`patch` must fit.*along axis 1.*To fix this"),
        ({"patch": 3, "stride": 4}, "`stride` must be no more.*To fix this"),
        ({"stride": (2, 3)}, "`stride`.*patch of 2 pixels along axis 1"),
        ({"fill": "median"}, "`fill` must be one of 'mean'"),
        ({"fill": [0, 0, 0]}, r"`fill`.*\(16, 16, 1\).*shape \(3,\)"),
        ({"fill": float("nan")}, "`fill` must be finite"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Occlusion(linear((16, 16, 1)), **options)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, rng):
    images = rng.normal(size=(2, 12, 9, 3)).astype("float32")
    exact = network()
    with without_graphs():
        expected = Occlusion(exact)(images, 1)
    keras.config.set_dtype_policy(policy)
    rounded = network()
    rounded.set_weights(exact.get_weights())
    actual = Occlusion(rounded)(images, 1)
    tolerance = 0.02 if policy == "mixed_float16" else 0.15
    np.testing.assert_allclose(actual, expected, atol=tolerance)
    assert np.abs(actual - expected).max() > 0  # Else nothing was mixed.


@pytest.mark.oracles
def test_agrees_with_captum(rng):
    """Where the patches end at the border by themselves."""
    import captum.attr
    import torch

    model = network()
    kernel, bias, dense, shift = map(torch.tensor, model.get_weights())

    def scores(images):
        x = images.permute(0, 3, 1, 2)
        x = torch.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride=2)
        x = torch.relu(x).permute(0, 2, 3, 1).flatten(1)
        return x @ dense + shift

    images = rng.normal(size=(3, 12, 9, 3)).astype("float32")
    theirs = captum.attr.Occlusion(scores).attribute(
        torch.tensor(images),
        sliding_window_shapes=(4, 3, 3),
        strides=(2, 3, 3),
        baselines=0.5,
        target=torch.tensor([2, 0, 1]),
    )
    explain = Occlusion(model, patch=(4, 3), stride=(2, 3), fill=0.5)
    ours = explain.attributions(images, [2, 0, 1])
    np.testing.assert_allclose(ours, theirs.numpy()[..., :1], atol=1e-4)
