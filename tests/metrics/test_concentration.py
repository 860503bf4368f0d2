import numpy as np
import pytest

from keras_lficam import metrics

BOTH = [metrics.sparseness, metrics.complexity]


def row(*values):
    return np.array(values, "float32").reshape(1, 1, -1, 1)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        (row(1, 1, 1, 1), 0),
        (row(0, 0, 5, 0), 1 - 1 / 4),
        (row(3, 0, 1, 0), 1 - 2 / 4 * (1 * 1.5 + 3 * 0.5) / 4),
        (row(-3, 0, 1, 0), 0.625),
        (row(0, 0, 0, 0), 0),
        (row(7), 0),
    ],
)
def test_sparseness_by_hand(maps, expected):
    assert metrics.sparseness(maps)[0] == pytest.approx(expected)


def test_sparseness_is_the_mean_difference_of_pairs():
    """Gini's own definition: the mean of |a - b| over twice the mean."""
    rng = np.random.default_rng(0)
    maps = rng.normal(0, 1, (4, 5, 6, 1)).astype("float32")
    actual = metrics.sparseness(maps)
    for one, found in zip(np.abs(maps).reshape(4, -1), actual, strict=True):
        pairs = np.abs(one[:, None] - one[None]).mean()
        assert found == pytest.approx(pairs / (2 * one.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        (row(1, 1, 1, 1), np.log(4)),
        (row(0, 0, 5, 0), 0),
        (row(2, 0, -2, 0), np.log(2)),
        (row(3, 1), -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))),
        (row(0, 0, 0, 0), 0),
    ],
)
def test_complexity_by_hand(maps, expected):
    assert metrics.complexity(maps)[0] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("metric", BOTH)
def test_values_are_per_image_and_do_not_depend_on_the_scale(metric):
    rng = np.random.default_rng(1)
    maps = rng.uniform(0, 1, (3, 4, 4, 1)).astype("float32")
    actual = metric(maps)
    assert (actual.dtype, actual.shape) == ("float32", (3,))
    np.testing.assert_allclose(metric(1e30 * maps), actual, rtol=1e-5)
    np.testing.assert_allclose(metric(maps[1:2])[0], actual[1], rtol=1e-6)


@pytest.mark.parametrize("metric", BOTH)
def test_what_is_no_map_is_refused(metric):
    for wrong in (np.zeros((2, 3, 3)), np.zeros((0, 3, 3, 1))):
        with pytest.raises(ValueError, match="`maps` must have shape"):
            metric(wrong)
    with pytest.raises(ValueError, match="NaN"):
        metric(row(np.nan, 1))
    with pytest.raises(TypeError, match="`maps`"):
        metric("maps")


def test_which_is_better():
    assert metrics.sparseness.higher_is_better
    assert not metrics.complexity.higher_is_better
