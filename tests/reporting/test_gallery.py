"""Which images the report shows."""

import base64
import io

import numpy as np
import PIL.Image

from keras_lficam.reporting import _charts, _gallery
from keras_lficam.reporting._gallery import Choice

LABELS = np.array([0, 0, 1, 1, 2])
CHANCES = np.array(
    [
        [0.9, 0.1, 0.0],  # Right.
        [0.3, 0.6, 0.1],  # Taken for 1.
        [0.45, 0.5, 0.05],  # Right and doubtful.
        [0.8, 0.2, 0.0],  # Taken for 0, more surely.
        [0.1, 0.2, 0.7],  # Right.
    ]
)


def test_errors_come_by_confidence_and_are_not_shown_twice():
    found = _gallery.chosen(LABELS, CHANCES, 2)
    assert found["errors"] == [Choice(3, 0, 1), Choice(1, 1, 0)]
    # Contrasted with the next probable class.
    assert found["doubtful"] == [Choice(2, 1, 0), Choice(4, 2, 1)]
    assert found["typical"] == [
        Choice(0, 0, 1),
        Choice(2, 1, 0),
        Choice(4, 2, 1),
    ]


def test_one_error_none_and_nothing_asked_for():
    assert _gallery.chosen(LABELS[:2], CHANCES[:2], 8)["errors"] == [
        Choice(1, 1, 0)
    ]
    right = np.array([0, 2])
    assert _gallery.chosen(right, CHANCES[[0, 4]], 8)["errors"] == []
    none = _gallery.chosen(LABELS, CHANCES, 0)
    assert none["errors"] == none["doubtful"] == []


def test_typical_images_of_the_largest_of_many_classes():
    labels = np.repeat(np.arange(100), 2)
    labels[:3] = 99
    found = _gallery.chosen(labels, np.eye(100)[labels], 8)["typical"]
    assert len(found) <= 24
    assert sum(choice.shown == 99 for choice in found) == 2


def test_several_labels():
    labels = np.array([[1, 0], [0, 1], [1, 1]])
    chances = np.array([[0.1, 0.2], [0.4, 0.9], [0.8, 0.45]])
    found = _gallery.chosen(labels, chances, 8)
    assert found["errors"] == [Choice(0, 0, None), Choice(2, 1, None)]
    assert found["doubtful"][0] == Choice(2, 1, None)
    assert [choice.index for choice in found["doubtful"]] == [2, 1, 0]
    assert found["typical"] == [Choice(2, 0, None), Choice(1, 1, None)]


def test_items_without_an_explanation_show_the_image():
    images = np.zeros((1, 4, 8, 1), "float32")
    images[0, :, 4:] = 255
    (item,) = _gallery.items(
        [Choice(3, 0, 1)],
        images,
        None,
        labels=LABELS,
        chances=CHANCES,
        names=["a", "b", "c"],
        files=["x.png"],
    )
    assert not item.right
    assert item.lines == ["true: b (20.0%)", "predicted: a (80.0%)"]
    (panel,) = item.panels
    head, _, text = panel.uri.partition(",")
    assert head == "data:image/jpeg;base64"
    with PIL.Image.open(io.BytesIO(base64.b64decode(text))) as shown:
        pixels = np.asarray(shown)
    assert pixels.shape == (96, 192, 3)  # Enlarged, its ratio kept.
    assert pixels[48, 20].max() < 20
    assert pixels[48, 170].min() > 235


def test_curves_are_laid_out_by_hand():
    chart = _charts.learning_curves({"training": [0.0, 1.0, 0.5]}, best=2)
    (line,) = chart.lines
    # From 0 to 1, and from epoch 1 at the left to 3 at the right.
    left, right, top, bottom = 46, 408, 12, 206
    assert line.parts == [
        f"{left}.0,{bottom}.0 {(left + right) / 2},{top}.0 "
        f"{right}.0,{(top + bottom) / 2}"
    ]
    assert chart.mark == (left + right) / 2
    assert [text for _, text in chart.x_ticks] == ["1", "2", "3"]


def test_a_curve_with_gaps_and_one_of_one_epoch():
    nan = float("nan")
    chart = _charts.learning_curves({"a": [1.0, nan, 2.0, 3.0]}, best=None)
    (line,) = chart.lines
    assert [part.count(",") for part in line.parts] == [1, 2]
    assert len(line.dots) == 1
    assert line.last == 3
    assert chart.mark is None
    single = _charts.learning_curves({"a": [0.7]}, best=1)
    assert len(single.lines[0].dots) == 1
    assert _charts.learning_curves({"a": [nan, float("inf")]}, None) is None


def test_the_reliability_diagram_by_hand():
    first, second = _charts.reliability(
        [(0.5, 0.25, 4), (1.0, 1.0, 16)], side=100
    )
    assert (first.x, first.y, first.ideal) == (50, 75, 50)
    assert (second.x, second.y, second.ideal) == (100, 0, 0)
    # A quarter of the images has half of the radius above the least.
    assert (first.radius, second.radius) == (3 + 5.5, 3 + 11)
