import keras
import numpy as np
import pytest

from keras_lficam import evaluation, explainers, metrics


def row(*values):
    return np.array(values, "float32").reshape(1, 1, -1, 1)


@pytest.fixture
def rng():
    return np.random.default_rng(2)


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (3, 4, 5, 3)).astype("float32")


# ------------------------------------------------------------ max-sensitivity


def test_sensitivity_of_what_repeats_the_image(images):
    """The map is the red of the image: the noise divided by the image."""

    def explain(batch, classes):
        return batch[..., :1]

    actual = metrics.max_sensitivity(
        images, images[..., :1], explain=explain, radius=0.1, draws=6, seed=5
    )
    rng = np.random.default_rng(5)
    span = np.array([np.ptp(image) for image in images])
    largest = np.zeros(3)
    for _ in range(6):
        noise = (
            rng.uniform(-1, 1, images.shape) * 0.1 * span[:, None, None, None]
        )
        for index in range(3):
            norm = np.linalg.norm(noise[index, ..., 0])
            largest[index] = max(largest[index], norm)
    norms = [np.linalg.norm(image[..., 0]) for image in images]
    np.testing.assert_allclose(actual, largest / norms, rtol=1e-4)
    # Noise of both signs: the mean of uniform squares is a third.
    expected = 0.1 * span[0] * np.sqrt(20 / 3) / norms[0]
    assert actual[0] == pytest.approx(expected, rel=0.5)


def test_a_map_that_never_changes_is_not_sensitive(images):
    maps = np.ones((3, 4, 5, 1), "float32")
    actual = metrics.max_sensitivity(
        images, maps, explain=lambda batch, classes: maps
    )
    np.testing.assert_array_equal(actual, np.zeros(3))


def test_the_change_of_an_empty_map_is_taken_as_it_is(images):
    actual = metrics.max_sensitivity(
        images,
        np.zeros((3, 4, 5, 1)),
        explain=lambda batch, classes: np.full((3, 4, 5, 1), 0.5),
    )
    np.testing.assert_allclose(actual, np.full(3, 0.5 * np.sqrt(20)), rtol=1e-6)


def test_noise_is_not_clipped_and_the_images_stay(images):
    seen, before = [], images.copy()

    def explain(batch, classes):
        seen.append(batch)
        assert classes == 2
        return batch[..., :1]

    images[0, 0, 0] = 255
    images[0, 0, 1] = 0
    metrics.max_sensitivity(images, images[..., :1], 2, explain=explain)
    assert len(seen) == 10
    assert max(batch.max() for batch in seen) > 255
    assert min(batch.min() for batch in seen) < 0
    np.testing.assert_array_equal(images[1:], before[1:])


# ----------------------------------------------------------------------- ADCC


def colors(size):
    return keras.Sequential(
        [keras.Input((*size, 3)), keras.layers.GlobalAveragePooling2D()]
    )


def test_adcc_by_hand():
    # 0.5 for the image, and (0.8 * 1 + 0.4 * 0.5) / 4 = 0.25 of what is shown:
    # the drop is 0.5. The mean of the map is 1.5 / 4. Of the masked image,
    # 0.8, 0.2, 0, 0, the map is the same divided by 0.8.
    image = np.repeat(row(0.8, 0.4, 0.4, 0.4), 3, axis=-1)
    maps = row(1, 0.5, 0, 0)

    def explain(batch, classes):
        return batch[..., :1] / batch[..., :1].max()

    r = np.corrcoef([1, 0.5, 0, 0], [1, 0.25, 0, 0])[0, 1]
    parts = [0.5, (1 + r) / 2, 1 - 1.5 / 4]
    actual = metrics.adcc(
        colors((1, 4)), image, maps, explain=explain, activation="linear"
    )
    expected = 3 / sum(1 / part for part in parts)
    assert actual[0] == pytest.approx(expected, rel=1e-5)


def test_adcc_is_zero_where_a_part_is():
    image = np.repeat(row(0.8, 0.4, 0.4, 0.4), 3, axis=-1)
    given = colors((1, 4)), image
    options = {"activation": "linear"}
    for maps in (row(0, 0, 0, 0), row(3, 3, 3, 3)):  # Nothing is shown.
        actual = metrics.adcc(
            *given, maps, explain=lambda *_, m=maps: m, **options
        )
        np.testing.assert_array_equal(actual, [0])
    # The opposite map of what is shown: r = -1.
    maps = row(1, 0, 0, 1)
    actual = metrics.adcc(*given, maps, explain=lambda *_: 1 - maps, **options)
    np.testing.assert_array_equal(actual, [0])


def test_adcc_holds_the_class_that_was_predicted(images):
    seen = []

    def explain(batch, classes):
        seen.append(np.asarray(classes))
        return batch[..., :1]

    metrics.adcc(
        colors((4, 5)),
        images,
        images[..., :1],
        explain=explain,
        activation="softmax",
    )
    brightest = images.mean(axis=(1, 2)).argmax(axis=-1)
    np.testing.assert_array_equal(seen, [brightest])


# ----------------------------------------------------------- in an evaluation


def test_an_evaluation_gives_the_explainer(images):
    inputs = keras.Input((4, 5, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))
    explain = explainers.GradCAM(model)
    found = evaluation.evaluate(
        {"GradCAM": explain},
        {
            "sensitivity": metrics.max_sensitivity,
            "adcc": lambda images, maps, classes, explain: metrics.adcc(
                model, images, maps, classes, explain=explain
            ),
        },
        [(images, np.zeros(3, int))],
        classes="label",
    )
    maps = explain(images, 0)
    expected = {
        "sensitivity": metrics.max_sensitivity(
            images, maps, 0, explain=explain
        ),
        "adcc": metrics.adcc(model, images, maps, 0, explain=explain),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(
            found.values["GradCAM"][name], values, rtol=1e-4, atol=1e-6
        )


# -------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"explain": "GradCAM"}, TypeError, "`explain` must be an explainer"),
        ({"radius": -1}, ValueError, "`radius` must be a number"),
        ({"draws": 0}, ValueError, "`draws` must be an integer of at least 1"),
        ({"seed": -1}, ValueError, "`seed` must be an integer of at least 0"),
        (
            {"explain": lambda batch, classes: batch},
            ValueError,
            r"`explain` must give maps .*\(3, 4, 5, 1\). Received: .* 3\)",
        ),
    ],
)
def test_wrong_options_are_refused(images, options, error, match):
    given = {"explain": lambda batch, classes: batch[..., :1]} | options
    with pytest.raises(error, match=match):
        metrics.max_sensitivity(images, images[..., :1], **given)


def test_maps_that_are_not_finite_are_refused(images):
    def explain(batch, classes):
        maps = batch[..., :1].copy()
        maps[1, 0, 0] = np.nan
        return maps

    given = images, images[..., :1]
    with pytest.raises(ValueError, match=r"`explain` .* finite .* at \[1\]"):
        metrics.max_sensitivity(*given, explain=explain)
    with pytest.raises(ValueError, match=r"`explain` .* finite .* at \[1\]"):
        metrics.adcc(
            colors((4, 5)), *given, explain=explain, activation="softmax"
        )


def test_maps_of_other_images_are_refused(images):
    with pytest.raises(ValueError, match="of the same images"):
        metrics.max_sensitivity(
            images, images[:2, ..., :1], explain=lambda *_: None
        )


@pytest.mark.oracles
def test_sensitivity_agrees_with_captum(images):
    """With the same noise, which theirs is told as a number for all."""
    import captum.metrics
    import torch

    images[:, 0, 0], images[:, 0, 1] = 0, 255  # The same span.
    rng = np.random.default_rng(0)
    noise = [rng.uniform(-1, 1, images.shape) * 0.02 * 255 for _ in range(4)]
    rows = np.stack(noise, axis=1).reshape(-1, *images.shape[1:])

    theirs = captum.metrics.sensitivity_max(
        lambda inputs: ((inputs[0] ** 2).mean(dim=-1, keepdim=True),),
        torch.tensor(images),
        perturb_func=lambda inputs: (inputs + torch.tensor(rows).float(),),
        n_perturb_samples=4,
    )

    def explain(batch, classes):
        return (batch**2).mean(axis=-1, keepdims=True)

    ours = metrics.max_sensitivity(
        images, explain(images, None), explain=explain, draws=4
    )
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4)
