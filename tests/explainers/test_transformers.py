"""A patch decides, and every method that makes a map names it."""

import functools

import explainer_contract
import numpy as np
import pytest
import small_transformers

from keras_lficam import explainers

untraced = explainer_contract.untraced
pytestmark = pytest.mark.usefixtures("untraced")

CELLS = {
    (8, 8): [(2, 5), (7, 0)],
    (14, 14): [(0, 13)],
    (6, 10): [(5, 9), (1, 2)],
}
OF_ANY_HEAD = [
    explainers.EigenCAM,
    explainers.GradCAM,
    explainers.GradCAMPlusPlus,
    explainers.XGradCAM,
    explainers.HiResCAM,
    explainers.LayerCAM,
    explainers.FinerCAM,
    explainers.AblationCAM,
    explainers.ReciproCAM,
    explainers.ClassEvidence,
    explainers.ScoreCAM,
]


@functools.cache
def planted(grid, prefix, kind):
    return small_transformers.planted(grid, prefix, kind)


@pytest.mark.parametrize("grid", list(CELLS))
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("make", OF_ANY_HEAD, ids=lambda make: make.__name__)
def test_the_patch_that_decides_is_named(make, grid, prefix):
    # Without a token in front there is none that could be read.
    kind = "token" if prefix else "mean"
    model = planted(grid, prefix, kind)
    cells = CELLS[grid]
    images = small_transformers.images_with_red(grid, cells)
    maps = make(model)(images, 0)
    assert maps.shape == (*images.shape[:3], 1)
    assert small_transformers.brightest_cells(maps, grid) == cells
    # And not a little: a method that is right by chance shows no contrast.
    darkest = np.median(maps, axis=(1, 2, 3))
    assert np.all(maps.max(axis=(1, 2, 3)) > darkest + 0.5)


@pytest.mark.parametrize("kind", ["patches", "mean", "operation", "flat"])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(
    "make",
    [explainers.CAM, explainers.ClassEvidence, explainers.GradCAM],
    ids=lambda make: make.__name__,
)
def test_the_patch_is_named_behind_every_pooling(make, kind, prefix):
    model = planted((6, 10), prefix, kind)
    cells = CELLS[6, 10]
    images = small_transformers.images_with_red((6, 10), cells)
    maps = make(model)(images, 0)
    assert small_transformers.brightest_cells(maps, (6, 10)) == cells


def test_cam_of_a_class_token_is_refused():
    with pytest.raises(ValueError, match="GradCAM, which takes any head"):
        explainers.CAM(planted((6, 10), 1, "token"))


def test_refine_cam_multiplies_the_maps_of_two_streams():
    model = planted((6, 10), 2, "token")
    names = [x.name for x in model.layers if x.name.startswith("add")]
    images = small_transformers.images_with_red((6, 10), CELLS[6, 10])
    explainer = explainers.RefineCAM(model, layers=names[:2])
    maps = explainer(images, 0)
    assert maps.shape == (2, 24, 40, 1)
    with pytest.raises(ValueError, match="layers="):
        explainers.RefineCAM(model)


def test_map_lies_where_the_patch_is():
    """The cell of the patch is centered on it, as behind a convolution."""
    model = planted((8, 8), 1, "token")
    images = small_transformers.images_with_red((8, 8), [(2, 5)])
    maps = explainers.ClassEvidence(model)(images, 0)[0, ..., 0]
    rows, columns = np.nonzero(maps > 0.9 * maps.max())
    assert rows.mean() == pytest.approx(4 * 2 + 1.5)
    assert columns.mean() == pytest.approx(4 * 5 + 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["token", "mean"])
@pytest.mark.parametrize(
    "make",
    [explainers.ReciproCAM, explainers.HiResCAM, explainers.EigenCAM],
    ids=lambda make: make.__name__,
)
def test_contract(make, kind, tmp_path, rng):
    model = small_transformers.planted((4, 3), 2, kind)
    for weight in model.weights:
        weight.assign_add(rng.normal(0, 0.1, weight.shape))
    images = rng.uniform(0, 255, (3, 16, 12, 3)).astype("float32")
    explainer_contract.check_explainer(make, model, images, tmp_path)
