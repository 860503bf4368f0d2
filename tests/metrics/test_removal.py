import warnings

import keras
import numpy as np
import pytest
from scipy import sparse, stats
from scipy.sparse import linalg

from keras_lficam import metrics
from keras_lficam.metrics import _imputation, removal
from keras_lficam.metrics._masked import MaskedPredictor

SIZE = (12, 10)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (3, *SIZE, 3)).astype("float32")


def linear(weights):
    """Two logits: the weighted sum of all pixels and channels, and zero."""
    model = keras.Sequential(
        [
            keras.Input((*weights.shape[:2], 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(2, use_bias=False),
        ]
    )
    kernel = np.zeros((weights.size, 2), "float32")
    kernel[:, 0] = weights.ravel()
    model.set_weights([kernel])
    return model


# ----------------------------------------------------------------- infidelity


def test_what_a_linear_model_loses_is_told_without_error(images, rng):
    """Of channels that are alike, a pixel adds its weight times its value."""
    weights = np.repeat(rng.normal(0, 0.01, (*SIZE, 1)), 3, axis=-1)
    gray = np.repeat(images[..., :1], 3, axis=-1)
    mean = gray.mean(axis=(1, 2), keepdims=True)
    maps = ((gray - mean) * weights).sum(axis=-1, keepdims=True)
    model = linear(weights.astype("float32"))
    options = {"classes": 0, "activation": "softmax"}
    for factor, expected in ((1, 0), (250, 0), (-1, 1), (0, 1)):
        actual = metrics.infidelity(model, gray, factor * maps, **options)
        np.testing.assert_allclose(actual, np.full(3, expected), atol=1e-4)
    # The drop of the other logit is always zero.
    options["classes"] = 1
    actual = metrics.infidelity(model, gray, maps, **options)
    np.testing.assert_array_equal(actual, np.zeros(3))


def test_infidelity_equals_its_rewrite(images, rng):
    weights = rng.normal(0, 0.01, (*SIZE, 3)).astype("float32")
    maps = rng.normal(0, 1, (3, *SIZE, 1)).astype("float32")
    actual = metrics.infidelity(
        linear(weights), images, maps, 0, activation="softmax", draws=9, seed=4
    )
    squares = removal._squares(SIZE, 9, 4)
    for image, one, found in zip(images, maps, actual, strict=True):
        lost, heat = [], []
        for square in squares:
            hidden = image.copy()
            hidden[square] = image.mean(axis=(0, 1))
            lost.append(((image - hidden) * weights).sum())
            heat.append(one[square].sum())
        lost, heat = np.array(lost), np.array(heat)
        # Least squares through the origin, the slope not negative.
        slope = max(0, lost @ heat / (heat @ heat))
        left = ((slope * heat - lost) ** 2).sum() / (lost**2).sum()
        assert found == pytest.approx(left, abs=1e-4)
    assert actual.min() > 0
    assert actual.max() < 1.0001


def test_squares_are_inside_and_of_the_sizes_that_are_said():
    squares = removal._squares((64, 40), 400, 0)
    sides = []
    for square in squares:
        rows, columns = (np.flatnonzero(square.any(axis)) for axis in (1, 0))
        assert len(rows) == len(columns) == np.sqrt(square.sum())
        assert rows[-1] - rows[0] + 1 == len(rows)
        sides.append(len(rows))
    # An eighth to a half of 40 pixels, each as often: 16 sizes of 25.
    assert (min(sides), max(sides)) == (5, 20)
    assert stats.chisquare(np.bincount(sides)[5:]).pvalue > 1e-4
    # The same seed, the same squares; one pixel has room for one.
    np.testing.assert_array_equal(squares, removal._squares((64, 40), 400, 0))
    assert removal._squares((1, 3), 5, 0).sum() == 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"draws": 1}, "`draws` must be an integer of at least 2"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
    ],
)
def test_infidelity_refuses_wrong_options(images, options, match):
    model = linear(np.ones((*SIZE, 3), "float32"))
    given = model, images, images[..., :1]
    with pytest.raises(ValueError, match=match):
        metrics.infidelity(*given, activation="softmax", **options)


# ------------------------------------------------------------------------ ROAD


def test_one_removed_pixel_is_the_mean_of_its_neighbors():
    image = np.arange(9.0).reshape(3, 3, 1) ** 2
    removed = np.zeros((3, 3), bool)
    removed[1, 1] = True
    direct = (1 + 9 + 25 + 49) / 6
    diagonal = (0 + 4 + 36 + 64) / 12
    actual = _imputation.filled(image, removed)
    assert actual[1, 1, 0] == pytest.approx(direct + diagonal)
    assert (actual == image)[~removed].all()
    # In a corner there are three, whose weights 1/6, 1/6, 1/12 become 1.
    removed = np.zeros((3, 3), bool)
    removed[0, 0] = True
    actual = _imputation.filled(image, removed)
    expected = (1 / 6 * 1 + 1 / 6 * 9 + 1 / 12 * 16) / (5 / 12)
    assert actual[0, 0, 0] == pytest.approx(expected)


def test_removed_pixels_are_the_mean_of_each_other(rng):
    """Each equation by itself, of what was solved together."""
    image = rng.uniform(0, 255, (*SIZE, 3))
    removed = rng.uniform(size=SIZE) < 0.8
    actual = _imputation.filled(image, removed)
    np.testing.assert_array_equal(actual[~removed], image[~removed])
    for row, column in np.argwhere(removed):
        total, mean = 0, 0
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                place = row + down, column + right
                there = 0 <= place[0] < SIZE[0] and 0 <= place[1] < SIZE[1]
                if there and (down or right):
                    weight = 1 / 12 if down and right else 1 / 6
                    total += weight
                    mean = mean + weight * actual[place]
        np.testing.assert_allclose(actual[row, column], mean / total)
    # All that is known is one pixel: so is then all.
    removed[:], removed[3, 4] = True, False
    np.testing.assert_allclose(
        _imputation.filled(image, removed),
        np.broadcast_to(image[3, 4], image.shape),
    )
    kept = _imputation.filled(image, np.zeros(SIZE, bool))
    np.testing.assert_array_equal(kept, image)


def imputed(image, removed):
    """The same by another system: all pixels unknown, those known as rows."""
    count = image.shape[0] * image.shape[1]
    matrix = sparse.lil_array((count, count))
    for number, (row, column) in enumerate(np.ndindex(image.shape[:2])):
        matrix[number, number] = 1
        if not removed[row, column]:
            continue
        near = {
            (row + down, column + right): 1 + (not down or not right)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if (down or right)
            and 0 <= row + down < image.shape[0]
            and 0 <= column + right < image.shape[1]
        }
        for place, weight in near.items():
            other = np.ravel_multi_index(place, image.shape[:2])
            matrix[number, other] = -weight / sum(near.values())
    known = np.where(removed[..., None], 0, image).reshape(count, -1)
    return linalg.spsolve(matrix.tocsc(), known).reshape(image.shape)


def test_road_equals_its_rewrite(images, rng):
    weights = rng.normal(0, 0.01, (*SIZE, 3)).astype("float32")
    # No two pixels of a map are equal.
    maps = rng.permuted(np.arange(3 * 120.0).reshape(3, 120), axis=-1).reshape(
        3, *SIZE, 1
    )
    actual = metrics.road(
        linear(weights),
        images,
        maps,
        0,
        activation="softmax",
        shares=(0.25, 0.6),
        noise=0,
    )
    for image, one, found in zip(images, maps, actual, strict=True):
        values = {}
        for sign in (-1, 1):
            order = np.argsort(sign * one.ravel())
            for count in (30, 72):
                removed = np.isin(np.arange(120), order[:count]).reshape(SIZE)
                logit = (imputed(image, removed) * weights).sum()
                values[sign, count] = 1 / (1 + np.exp(-logit))
        gains = [values[1, count] - values[-1, count] for count in (30, 72)]
        assert found == pytest.approx(np.mean(gains) / 2, abs=1e-5)
    assert np.ptp(actual) > 0.001


def test_a_map_turned_around_has_the_negative_value(images, rng):
    model = linear(rng.normal(0, 0.01, (*SIZE, 3)).astype("float32"))
    maps = rng.uniform(-1, 1, (3, *SIZE, 1))
    options = {"activation": "softmax", "noise": 0.1}
    one, other = (
        metrics.road(model, images, sign * maps, 0, **options)
        for sign in (1, -1)
    )
    np.testing.assert_array_equal(one, -other)
    # A constant map has one order in both, and so exactly 0.
    constant = metrics.road(model, images, 0 * maps, 0, **options)
    np.testing.assert_array_equal(constant, np.zeros(3))


def changed(image, maps, shares, noise):
    """What the model is shown: without the highest, without the lowest."""
    model = linear(np.ones((*SIZE, 3), "float32") / 255)
    predictor = MaskedPredictor(model, image, maps, 0, "softmax", 8, None)
    seen = []

    def scores(images, numbers):
        seen.append(images[0])
        return np.zeros((len(images), 2), "float32")

    predictor._scores = scores
    predictor.imputed(shares, noise, 0)
    return seen


def test_of_a_map_with_many_zeros_not_all_are_removed_at_once(images):
    """A twelfth of the pixels is marked; half of them is half of them."""
    maps = np.zeros((1, *SIZE, 1))
    maps[0, 0] = 1
    seen = changed(images[:1], maps, (0.5,), 0)
    differs = [(each != images[0]).any(axis=-1) for each in seen]
    assert [pixels.sum() for pixels in differs] == [60, 60]
    # The marked ones are the first to go, and the last.
    assert [pixels[0].sum() for pixels in differs] == [10, 0]
    # Nearly all are all but one, from which the others are filled in.
    _, dark = changed(images[:1], maps, (0.9999,), 0)
    np.testing.assert_allclose(
        dark, np.broadcast_to(dark[5, 5], dark.shape), 1e-4
    )
    assert dark.min() > 0


def test_the_noise_is_a_share_of_the_span():
    image = np.full((1, *SIZE, 3), 100, "float32")
    image[0, 0, 0], image[0, 0, 1] = 0, 200  # The span, at pixels that stay.
    maps = np.arange(120.0)[::-1].reshape(1, *SIZE, 1)
    _, lowest_removed = changed(image, maps, (0.5,), 0.05)
    noisy = lowest_removed.reshape(120, 3)[60:]
    # Of 180 values; they are filled in with 100, or a little off.
    assert noisy.std() == pytest.approx(0.05 * 200, rel=0.25)
    assert noisy.mean() == pytest.approx(100, abs=5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"shares": ()}, "`shares` must be a list of numbers"),
        ({"shares": (0.2, 1)}, r"both excluded. Received: shares=\(0.2, 1\)"),
        ({"shares": 0.5}, "`shares` must be a list"),
        ({"shares": [True]}, "`shares` must be a list"),
        ({"noise": -0.1}, "`noise` must be a number from 0 to 1"),
        ({"seed": 0.5}, "`seed` must be an integer"),
    ],
)
def test_road_refuses_wrong_options(images, options, match):
    model = linear(np.ones((*SIZE, 3), "float32"))
    given = model, images, images[..., :1]
    with pytest.raises((ValueError, TypeError), match=match):
        metrics.road(*given, activation="softmax", **options)


@pytest.mark.oracles
@pytest.mark.usefixtures("pytorch_grad_cam")
def test_filling_in_agrees_with_pytorch_grad_cam(rng):
    import torch
    from pytorch_grad_cam.metrics import road

    image = rng.uniform(0, 1, (*SIZE, 3)).astype("float32")
    removed = rng.uniform(size=SIZE) < 0.6
    with warnings.catch_warnings():  # It hands tensors to NumPy.
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = road.NoisyLinearImputer(noise=0)(
            torch.tensor(image.transpose(2, 0, 1)),
            torch.tensor(1.0 - removed, dtype=torch.float32),
        )
    ours = _imputation.filled(image, removed)
    np.testing.assert_allclose(
        ours, theirs.numpy().transpose(1, 2, 0), atol=1e-5
    )


@pytest.mark.oracles
def test_infidelity_agrees_with_captum(images, rng):
    """Theirs is not divided by what is lost, and scales by any factor."""
    import captum.metrics
    import torch

    weights = rng.normal(0, 0.01, (*SIZE, 3)).astype("float32")
    maps = rng.uniform(0, 1, (3, *SIZE, 1)).astype("float32")
    squares = removal._squares(SIZE, 20, 0)

    def scores(inputs):
        return (inputs * torch.tensor(weights)).sum(dim=(1, 2, 3))

    lost = np.zeros((3, 20))
    for number, square in enumerate(squares):
        means = images.mean(axis=(1, 2), keepdims=True)
        away = (images - means) * square[..., None]
        lost[:, number] = (away * weights).sum(axis=(1, 2, 3))

    def hide(inputs):
        inside = torch.tensor(np.tile(squares, (3, 1, 1)))[..., None]
        means = inputs.mean(dim=(1, 2), keepdim=True)
        shares = inside.float().expand(-1, -1, -1, 3) / 3
        return shares, torch.where(inside, means, inputs)

    theirs = captum.metrics.infidelity(
        scores,
        hide,
        torch.tensor(images),
        torch.tensor(np.repeat(maps, 3, axis=-1)),
        n_perturb_samples=20,
        normalize=True,
    )
    ours = metrics.infidelity(
        linear(weights), images, maps, 0, activation="softmax", draws=20
    )
    factors = lost @ squares.reshape(20, -1) @ maps.reshape(3, -1).T
    positive = np.diag(factors) > 0
    assert positive.any()
    np.testing.assert_allclose(
        (ours * (lost**2).mean(axis=-1))[positive],
        theirs.numpy()[positive],
        rtol=1e-3,
    )
