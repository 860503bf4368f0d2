import keras
import numpy as np
import pytest

from keras_lficam import metrics


def batch(*rows):
    """Makes `(1, H, W, 1)` of the rows of one picture."""
    return np.array(rows, "float32")[np.newaxis, ..., np.newaxis]


MAP = batch([0, 1, 0, 0], [0, 2, 6, 0], [0, 0, 1, 0])


@pytest.mark.parametrize(
    ("maps", "masks", "hit"),
    [
        (MAP, batch([0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]), 1),
        (MAP, batch([1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]), 0),
        # Two brightest points, one of them on the object.
        (batch([1, 0, 1]), batch([1, 0, 0]), 0.5),
        # A constant map is a guess: the object covers a third.
        (batch([0, 0, 0]), batch([0, 1, 0]), 1 / 3),
    ],
)
def test_pointing_game_by_hand(maps, masks, hit):
    actual = np.asarray(metrics.pointing_game(maps, masks))
    np.testing.assert_allclose(actual, [hit], rtol=1e-6)


@pytest.mark.parametrize(
    ("masks", "share"),
    [
        (batch([0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]), 0.8),
        (batch([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]), 0.3),
        (batch([0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]), 0),
    ],
)
def test_energy_pointing_game_by_hand(masks, share):
    actual = np.asarray(metrics.energy_pointing_game(MAP, masks))
    np.testing.assert_allclose(actual, [share], rtol=1e-6)


def test_masks_of_0_and_255_are_those_of_0_and_1():
    masks = batch([0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0])
    for metric in (metrics.pointing_game, metrics.energy_pointing_game):
        expected = np.asarray(metric(MAP, masks))
        for other in (255 * masks, masks.astype("uint8"), masks > 0):
            np.testing.assert_array_equal(metric(MAP, other), expected)
        assert expected <= 1


def test_energy_of_a_map_of_zeros_is_zero():
    nothing = np.zeros_like(MAP)
    assert metrics.energy_pointing_game(nothing, nothing + 1) == 0


def test_values_are_per_image():
    maps = np.concatenate([MAP, MAP[:, ::-1], 0 * MAP + 1])
    masks = np.zeros_like(maps)
    masks[:, 1, 2] = 1
    masks[1] = 0
    np.testing.assert_allclose(
        metrics.pointing_game(maps, masks), [1, 0, 1 / 12]
    )
    np.testing.assert_allclose(
        metrics.energy_pointing_game(maps, masks), [0.6, 0, 1 / 12], rtol=1e-6
    )


def test_box_masks_fill_the_tight_box():
    masks = batch(
        [0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]
    )
    expected = batch(
        [0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]
    )
    np.testing.assert_array_equal(metrics.box_masks(masks), expected)
    np.testing.assert_array_equal(metrics.box_masks(0 * masks), 0 * masks)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="only TensorFlow has graphs with unknown sizes",
)
def test_metrics_take_batches_of_unknown_size_in_a_graph():
    import tensorflow as tf

    anything = tf.TensorSpec((None, 3, 4, 1), "float32")
    known = tf.TensorSpec((2, 3, 4, 1), "float32")
    run = tf.function(metrics.pointing_game, input_signature=[anything, known])
    np.testing.assert_allclose(
        run(np.repeat(MAP, 2, 0), np.ones((2, 3, 4, 1))), 1
    )


@pytest.mark.parametrize(
    "metric", [metrics.pointing_game, metrics.energy_pointing_game]
)
@pytest.mark.parametrize(
    "masks", [np.ones((1, 3, 5, 1)), np.ones((3, 4)), np.ones((1, 3, 4, 3))]
)
def test_unequal_shapes_are_refused(metric, masks):
    with pytest.raises(ValueError, match=r"same shape.*\(1, 3, 4, 1\)"):
        metric(MAP, masks)
