import base64
import io
import types

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


def test_gray_images_are_shown_as_those_of_three_equal_channels(images, maps):
    gray = images[..., :1]
    color = np.repeat(gray, 3, axis=-1)
    overlays = visualization.overlay(gray, maps)
    assert overlays.shape == color.shape
    np.testing.assert_array_equal(overlays, visualization.overlay(color, maps))
    # Matplotlib would paint a single channel in colors of its own.
    figure = visualization.grid(gray, maps)
    shown = figure.subfigs[1].axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, color[1])
    figure = visualization.comparison_grid(gray[0], {"one": maps[0]})
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, color[0])


def test_overlay_of_a_batch_is_that_of_each(images, maps):
    together = visualization.overlay(images, maps)
    for index in range(len(images)):
        alone = visualization.overlay(images[index], maps[index])
        np.testing.assert_array_equal(together[index], alone)


def test_defect_uint8_of_the_map_wraps_to_black():
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
    # The second as an explainer gives it for a single image.
    for heat in (maps[0], maps[:1]):
        figure = visualization.grid(images[0], heat)
        drawn = [axis.images[0].get_array() for axis in figure.subfigs[0].axes]
        np.testing.assert_array_equal(drawn[0], images[0])
        np.testing.assert_array_equal(
            drawn[2], visualization.overlay(images[0], maps[0])
        )
    with pytest.raises(ValueError, match="or both lack the batch"):
        visualization.grid(images[0], maps[:2])


def test_pixels_that_were_divided_by_255_are_warned_of(images, maps):
    with pytest.warns(UserWarning, match="from 0 to 255.*To fix this: 255"):
        visualization.grid(images / 255, maps)


def test_titles_word_class_probability_and_truth():
    predictions = [[0.1, 0.9], [0.61, 0.39]]
    actual = visualization.prediction_titles(
        predictions, ["cat", "dog"], [1, 1]
    )
    assert actual == ["dog (90 %)", "cat (61 %), label: dog"]
    assert visualization.prediction_titles(predictions)[0] == "1 (90 %)"


def test_titles_of_several_labels_name_those_above_a_half():
    predictions = [[0.9, 0.61, 0.1], [0.2, 0.3, 0.4], [0.1, 0.2, 0.9]]
    labels = [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    names = ["cat", "dog", "emu"]
    actual = visualization.prediction_titles(predictions, names, labels)
    assert actual == [
        "cat (90 %), dog (61 %)",
        "none",
        "emu (90 %), labels: cat, emu",
    ]
    with pytest.raises(ValueError, match="0 or 1 for each class of each"):
        visualization.prediction_titles(predictions, names, np.eye(3) * 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 16, 24, 4))}, r"16, 24, 4.*maps\.shape"),
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


def test_comparison_grid_is_image_by_explainer(images, maps):
    both = {"one": maps, "two": 1 - maps}
    figure = visualization.comparison_grid(
        images, both, titles=["a", "b, label: c", "d"]
    )
    axes = np.reshape(figure.axes, (3, 3))
    assert [axis.get_title() for axis in axes[0]] == ["image", "one", "two"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == [
        "a",
        "b\nlabel: c",
        "d",
    ]
    for row in range(3):
        shown = [axis.images[0].get_array() for axis in axes[row]]
        np.testing.assert_array_equal(shown[0], images[row])
        for column, values in enumerate(both.values(), 1):
            expected = visualization.overlay(images[row], values[row])
            np.testing.assert_array_equal(shown[column], expected)
    assert drawn(figure).std() > 10


def test_comparison_grid_outlines_masks_on_every_image(images, maps):
    masks = np.zeros_like(maps)
    masks[:, 2:8, 3:9] = 1
    figure = visualization.comparison_grid(images, {"one": maps}, masks=masks)
    for axis in figure.axes:
        (outline,) = axis.collections
        edge = outline.get_paths()[0].vertices
        # Half way between the pixels off and on the object.
        np.testing.assert_allclose(edge.min(axis=0), [2.5, 1.5])
        np.testing.assert_allclose(edge.max(axis=0), [8.5, 7.5])


def test_comparison_grid_takes_a_single_image(images, maps):
    figure = visualization.comparison_grid(images[0], {"one": maps[0]})
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, images[0])


@pytest.fixture
def crowd(rng):
    """Seven explainers, most of them nearly at one place."""
    names = ["AttentionMap", "CAM", "GradCAM", "GradCAMPlusPlus", "ScoreCAM"]
    seconds = dict(zip(names, [1, 1.05, 1.1, 1.15, 60], strict=True))
    seconds |= {"RISE": 900, "LIME": 1000}
    levels = [0.7, 0.7, 0.71, 0.69, 0.7, 0.7, 0.71]
    means = dict(zip(seconds, levels, strict=True))
    points = {name: (m, m - 0.05, m + 0.05) for name, m in means.items()}
    return seconds, points


def test_quality_against_time_shows_every_point_and_interval(crowd):
    seconds, points = crowd
    figure = visualization.quality_against_time(
        seconds,
        {"a": points, "b": points, "c": {"RISE": points["RISE"]}},
        better={"a": "higher", "b": "lower"},
        columns=2,
    )
    first, second, third, empty = figure.axes
    assert not empty.axison
    assert first.get_xscale() == "log"
    assert not first.yaxis_inverted()
    assert second.yaxis_inverted()
    assert first.get_ylabel() == "higher is better"
    assert [axis.get_title("left") for axis in (first, third)] == ["a", "c"]
    lines = [line.get_xydata() for line in first.lines]
    for name, bar, dot in zip(points, lines[::2], lines[1::2], strict=True):
        mean, low, high = points[name]
        np.testing.assert_array_equal(dot, [[seconds[name], mean]])
        np.testing.assert_array_equal(bar[:, 1], [low, high])
    assert names_in(figure) == list(points)


def names_in(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def style_of(line):
    return line.get_color(), line.get_marker()


def test_legend_names_each_point_by_its_color_and_marker():
    names = [f"explainer {number}" for number in range(20)]
    points = dict.fromkeys(names, (0.5, 0.1, 1))
    seconds = {name: number + 1 for number, name in enumerate(names)}
    figure = visualization.quality_against_time(
        seconds, {"one": points, "two": dict([*points.items()][5:9])}
    )
    assert names_in(figure) == names
    (legend,) = figure.legends
    styles = [style_of(line) for line in legend.get_lines()]
    assert len(set(styles)) == 20
    first, second = figure.axes
    assert [style_of(line) for line in first.lines[1::2]] == styles
    assert [style_of(line) for line in second.lines[1::2]] == styles[5:9]


def test_legend_covers_no_panel_and_lies_in_the_figure(crowd):
    seconds, points = crowd
    figure = visualization.quality_against_time(seconds, {"a": points})
    figure.draw_without_rendering()
    (legend,), (axis,) = figure.legends, figure.axes
    box = legend.get_window_extent()
    assert box.y1 <= axis.get_tightbbox().y0
    assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0


def test_explainer_without_a_value_is_not_plotted(crowd):
    seconds, points = crowd
    points["RISE"] = (float("nan"),) * 3
    points["LIME"] = (0.7, float("nan"), float("nan"))
    figure = visualization.quality_against_time(seconds, {"a": points})
    assert names_in(figure) == [*seconds][:5] + ["LIME"]
    assert len(figure.axes[0].lines) == 2 * 6
    assert drawn(figure).std() > 10


@pytest.fixture
def of_each_kind(images, maps, crowd):
    return {
        "grid": lambda: visualization.grid(images[:1], maps[:1]),
        "comparison_grid": lambda: visualization.comparison_grid(
            images[:1], {"one": maps[:1]}
        ),
        "quality_against_time": lambda: visualization.quality_against_time(
            crowd[0], {"a": crowd[1]}
        ),
    }


KINDS = ["grid", "comparison_grid", "quality_against_time"]


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_pyplot_stay_as_they_are(kind, of_each_kind, monkeypatch):
    from matplotlib import pyplot

    theirs = [pyplot.figure(), pyplot.figure()]
    axes = theirs[0].subplots()
    pyplot.figure(theirs[0].number)
    before = pyplot.get_fignums()

    def asked(*_, **__):
        raise AssertionError("pyplot makes a figure, and a window for it")

    with monkeypatch.context() as patch:
        for name in ("figure", "subplots", "close", "switch_backend"):
            patch.setattr(pyplot, name, asked)
        ours = of_each_kind[kind]()
        ours.savefig(io.BytesIO())
        assert pyplot.gcf() is theirs[0]
        assert pyplot.gca() is axes
        assert pyplot.get_fignums() == before
    assert ours not in theirs
    for figure in theirs:
        pyplot.close(figure)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        # pyplot was not imported, or its inline backend shows figures.
        (None, "image/png"),
        ("png", "image/png"),
        ("jpeg", "image/jpeg"),
        ("svg", "image/svg+xml"),
    ],
)
def test_a_notebook_shows_a_figure_once(
    kind, asked, shown, of_each_kind, monkeypatch
):
    ipython = pytest.importorskip("IPython")
    from IPython.core import formatters, pylabtools

    shell = types.SimpleNamespace(
        display_formatter=formatters.DisplayFormatter()
    )
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell)
    if asked is not None:
        pylabtools.select_figure_formats(shell, {asked})
    found, _ = shell.display_formatter.format(of_each_kind[kind]())
    assert found.keys() == {"text/plain", shown}
    assert found["text/plain"].startswith("<Figure size ")
    if shown == "image/png":
        content = found[shown]
        if isinstance(content, str):
            content = base64.b64decode(content)
        pixels = PIL.Image.open(io.BytesIO(content)).convert("L")
        assert np.asarray(pixels).std() > 5


def test_wrong_comparison_is_refused(images, maps):
    with pytest.raises(ValueError, match="`maps`.*at least"):
        visualization.comparison_grid(images, {})
    with pytest.raises(ValueError, match=r"maps\.shape=\(2, 16, 24, 1\)"):
        visualization.comparison_grid(images, {"one": maps, "two": maps[:2]})
    with pytest.raises(ValueError, match="`titles`.*3 images.*1 titles"):
        visualization.comparison_grid(images, {"one": maps}, titles=["one"])
    with pytest.raises(ValueError, match="`images`.*an image at least"):
        visualization.comparison_grid(images[:0], {"one": maps[:0]})
    with pytest.raises(ValueError, match=r"`masks`.*\(2, 16, 24, 1\)"):
        visualization.comparison_grid(images, {"one": maps}, masks=maps[:2])


@pytest.mark.parametrize(
    ("seconds", "quality", "columns", "message"),
    [
        ({"a": 1}, {}, 3, "`quality`.*at least"),
        ({"a": 1}, {"m": {}}, 3, "`quality`.*at least"),
        ({"a": 0}, {"m": {"a": (1, 1, 1)}}, 3, "`seconds`.*0 for 'a'"),
        ({}, {"m": {"a": (1, 1, 1)}}, 3, "`seconds`.*None for 'a'"),
        ({"a": 1}, {"m": {"a": (1, 1, 1)}}, 0, "`columns`.*at least 1"),
    ],
)
def test_wrong_plot_is_refused(seconds, quality, columns, message):
    with pytest.raises(ValueError, match=message):
        visualization.quality_against_time(seconds, quality, columns=columns)
