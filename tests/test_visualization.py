import io

import numpy as np
import PIL.Image
import pytest

from keras_lficam import visualization


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (3, 16, 24, 3), dtype="uint8")


@pytest.fixture
def maps(rng):
    return rng.uniform(size=(3, 16, 24, 1)).astype("float32")


def test_overlay_by_hand():
    image = np.full((1, 3, 3), [30, 60, 90], "uint8")
    attention = np.array([0, 0.25, 1]).reshape(1, 3, 1)
    actual = visualization.overlay(
        image, attention, opacity=0.5, colormap="gray"
    )
    # Gray 60; covered by 0, 1/4 and 1/2 of map colors 0, 64 and 255.
    np.testing.assert_array_equal(actual[0, :, 0], [60, 61, 158])
    assert actual.dtype == "uint8"
    assert (actual == actual[..., :1]).all()


def test_overlay_of_a_batch_is_that_of_each(images, maps):
    together = visualization.overlay(images, maps)
    for index in range(len(images)):
        alone = visualization.overlay(images[index], maps[index])
        np.testing.assert_array_equal(together[index], alone)


def test_brightest_map_never_wraps_to_black():
    white = np.full((1, 1, 3), 255, "uint8")
    actual = visualization.overlay(white, np.ones((1, 1, 1)), colormap="gray")
    np.testing.assert_array_equal(actual, white)


def test_default_color_map_is_perceptually_uniform():
    assert visualization.COLORMAP in {"inferno", "magma", "plasma", "viridis"}


def drawn(figure):
    file = io.BytesIO()
    figure.savefig(file, dpi=100)
    return np.asarray(PIL.Image.open(file).convert("RGB")).astype(int)


def test_grid_shows_image_map_and_overlay_of_each(images, maps):
    figure = visualization.grid(images, maps, titles=["a", "b", "c"])
    blocks = figure.subfigs
    assert [block.get_suptitle() for block in blocks[:3]] == ["a", "b", "c"]
    overlays = visualization.overlay(images, maps)
    for index, block in enumerate(blocks[:3]):
        first, second, third = [a.images[0].get_array() for a in block.axes]
        np.testing.assert_array_equal(first, images[index])
        np.testing.assert_allclose(second, maps[index, ..., 0], atol=1e-6)
        np.testing.assert_array_equal(third, overlays[index])
        assert block.axes[1].images[0].get_clim() == (0, 1)
    assert drawn(figure).std() > 10


def test_grid_outlines_masks(images, maps):
    images = 0 * images
    masks = np.zeros_like(maps)
    masks[:, :8, :8] = 1  # In the corner, where the edge must close too.
    without = drawn(visualization.grid(images, 0 * maps))
    outlined = drawn(visualization.grid(images, 0 * maps, masks=masks))
    cyan = np.abs(outlined - [0x35, 0xE0, 0xFF]).sum(axis=-1) < 60
    assert cyan.sum() > 50
    assert (np.abs(without - [0x35, 0xE0, 0xFF]).sum(axis=-1) >= 60).all()


def test_grid_takes_a_single_image(images, maps):
    figure = visualization.grid(images[0], maps[0])
    shown = figure.subfigs[0].axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, images[0])


def test_pixels_that_were_divided_by_255_are_warned_of(images, maps):
    with pytest.warns(UserWarning, match="from 0 to 255.*Way out: 255"):
        visualization.grid(images / 255, maps)


def test_grid_leaves_no_figure_open(images, maps):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    visualization.grid(images[:1], maps[:1])
    assert pyplot.get_fignums() == before


def test_titles_word_class_probability_and_truth():
    predictions = [[0.1, 0.9], [0.61, 0.39]]
    actual = visualization.prediction_titles(
        predictions, ["cat", "dog"], [1, 1]
    )
    assert actual == ["dog (90 %)", "cat (61 %), truly dog"]
    assert visualization.prediction_titles(predictions)[0] == "1 (90 %)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 16, 24, 1))}, r"16, 24, 1.*maps\.shape"),
        ({"maps": np.zeros((3, 8, 8, 1))}, r"maps\.shape=\(3, 8, 8, 1\)"),
        ({"maps": np.full((3, 16, 24, 1), 2)}, "`maps`.*between 0 and 1"),
        ({"maps": np.full((3, 16, 24, 1), np.nan)}, "`maps`.*nan"),
        ({"images": np.full((3, 16, 24, 3), -1)}, "`images`.*0 and 255"),
        ({"titles": ["one"]}, "`titles`.*3 images.*1 titles"),
        ({"masks": np.zeros((3, 8, 8, 1))}, r"`masks`.*\(3, 8, 8, 1\)"),
        ({"columns": 0}, "`columns`.*at least 1"),
        ({"colormap": "rainbows"}, "`colormap`.*'rainbows'"),
        (
            {"images": np.zeros((0, 8, 8, 3)), "maps": np.zeros((0, 8, 8, 1))},
            "`images`.*an image at least",
        ),
    ],
)
def test_wrong_argument_of_grid_is_refused(change, message, images, maps):
    with pytest.raises(ValueError, match=message):
        visualization.grid(**{"images": images, "maps": maps, **change})


def test_wrong_opacity_and_names_are_refused(images, maps):
    with pytest.raises(ValueError, match=r"`opacity`.*opacity=1\.5"):
        visualization.overlay(images, maps, opacity=1.5)
    with pytest.raises(ValueError, match=r"`predictions`.*\(2,\)"):
        visualization.prediction_titles([0.5, 0.5])
    with pytest.raises(ValueError, match="`predictions`.*between 0 and 1"):
        visualization.prediction_titles([[4.3, -1]])
    with pytest.raises(ValueError, match="`names`.*2 names.*1 names"):
        visualization.prediction_titles([[0.5, 0.5]], ["one"])
