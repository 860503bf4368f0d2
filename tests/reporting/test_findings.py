"""What the report finds by itself: maps, splits, accuracy."""

import numpy as np
import pytest

from keras_lficam.metrics.classification import measure
from keras_lficam.reporting import _findings
from keras_lficam.reporting._findings import Twins


def titles(findings):
    return [finding.title for finding in findings]


def blob(row, column, size=8):
    places = np.arange(size)
    one = np.exp(-((places[:, None] - row) ** 2) / 2)
    return one * np.exp(-((places[None] - column) ** 2) / 2)


def test_shares_of_the_border_by_hand():
    maps = np.zeros((4, 5, 5))
    maps[0] = 1.0  # Even: chance, which is 16 of 25 cells.
    maps[1, 2, 2] = 3.0  # All inside.
    maps[2, 0] = 2.0  # All on the border.
    # Map 3 shows nothing.
    found = _findings.border_shares(maps)
    np.testing.assert_allclose(found, [0, -16 / 9, 1, 0], atol=1e-12)
    # What speaks against a class does not count.
    signed = maps[2:3] - 5 * (np.arange(25).reshape(5, 5) == 12)
    np.testing.assert_allclose(_findings.border_shares(signed), [1])
    # Of 4 x 4 cells most are border.
    assert _findings.border_shares(maps[:, :4, :4]).tolist() == [0] * 4


def test_filled_shares_by_hand():
    maps = np.array([[[1, 1], [1, 1]], [[2, 0], [0, 0]], [[1, -1], [0, 0]]])
    found = _findings.filled_shares(maps)
    np.testing.assert_allclose(found, [1, 1 / 4, 2 / 4])
    assert _findings.filled_shares(np.zeros((1, 3, 3))).tolist() == [1]


def test_likeness_by_hand():
    one, other = np.array([[1.0, -1.0]]), np.array([[-1.0, 1.0]])
    maps = np.stack([one, one, other])
    # The others of map 0 are one and its opposite, which leave nothing.
    np.testing.assert_allclose(_findings.likeness(maps), [0, 0, -1])
    np.testing.assert_allclose(
        _findings.likeness(maps, np.array([0, 0, 1])), [1, 1, 0]
    )


def test_good_maps_are_not_warned_of():
    rng = np.random.default_rng(0)
    maps = np.stack([blob(*rng.uniform(2, 5, 2)) for _ in range(50)])
    assert not titles(_findings.of_maps("maps", maps))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda rng: np.ones((8, 8)), "100% of the maps are flat"),
        (
            lambda rng: blob(0, rng.uniform(0, 7)) ** 4,
            "100% of the maps lie on the border",
        ),
        (
            lambda rng: blob(3, 4) + 0.01 * rng.uniform(size=(8, 8)),
            "100% of the maps are the same map",
        ),
    ],
)
def test_suspicious_maps_are_named(make, words):
    rng = np.random.default_rng(1)
    maps = np.stack([make(rng) for _ in range(20)])
    assert words in titles(_findings.of_maps("maps", maps))


def test_maps_of_a_class_may_be_alike():
    maps = np.stack([blob(2, 2), blob(5, 5)] * 10)
    classes = np.array([0, 1] * 10)
    assert not titles(_findings.of_maps("maps", maps))
    found = titles(_findings.of_maps("maps", maps, classes))
    assert found == ["100% of the maps are the same map"]


def test_no_map_is_no_finding():
    assert not titles(_findings.of_maps("maps", np.zeros((0, 8, 8))))
    assert not titles(_findings.of_maps("maps", np.ones((5, 1, 1))))


def test_evidence_outside_of_the_object():
    area = np.full(4, 0.1)
    good = _findings.of_objects("evidence", np.full(4, 0.8), area)
    bad = _findings.of_objects("evidence", np.array([0.1, 0.2, 0.3, 1]), area)
    assert good.level == "good"
    assert bad.level == "warning"
    assert "40% of the evidence lies inside the masks" in bad.text
    assert "cover 10% of the image" in bad.text


@pytest.mark.parametrize(
    ("right", "level", "title"),
    [
        (60, "problem", "Accuracy 60.0% is not above the majority class"),
        (73, "warning", "Accuracy 73.0%, not clearly above the majority class"),
        (98, "good", "Accuracy 98.0%, above the majority class"),
    ],
)
def test_the_accuracy_beside_the_majority(right, level, title):
    labels = np.array([0] * 70 + [1] * 30)
    said = np.where(np.arange(100) < right, labels, 1 - labels)
    found = measure(labels, said.astype(float)).to_dict()
    first = next(_findings.of_accuracy(found, "test"))
    assert (first.level, first.title) == (level, title)
    assert "most frequent class gives 70.0%" in first.text


def test_probabilities_that_do_not_mean_what_they_say():
    labels = np.array([0, 1] * 20)
    found = measure(labels, np.where(labels == 1, 0.6, 0.4)).to_dict()
    _, second = _findings.of_accuracy(found, "test")
    assert second.title == "Calibration error 40.0%"


def test_a_rare_class_that_is_missed_is_named():
    # Of 40 rare images 24 are found, of 100 others 98: recalls of 0.6 and
    # 0.98, whose mean is 0.79; Wilson's interval of 24 of 40 ends at 0.737.
    labels = np.array([0] * 40 + [1] * 100)
    said = np.where(
        np.isin(np.arange(140), [*range(24, 42)]), 1 - labels, labels
    )
    found = measure(
        labels, said.astype(float), class_names=["defective", "functional"]
    ).to_dict()
    counts = np.array([400, 1000])
    for weighted, way_out in ((False, "--class-weight"), (True, "had weights")):
        (one,) = _findings.of_rare_classes(found, counts, weighted)
        assert one.level == "warning"
        assert one.title == "1 rare class is missed more often than others"
        assert one.text.startswith(
            "Recall of defective (60.0%, interval 44.6% to 73.7%; training "
            "images: 400), where the mean of the classes is 79.0%. "
        )
        assert way_out in one.text
    # The class that is missed is not the rare one, or not rare.
    for others in (counts[::-1], np.array([999, 1000])):
        assert not [*_findings.of_rare_classes(found, others, False)]
    # With a class that has no images there is no balance.
    three = found | {"classes": [*found["classes"], found["classes"][1]]}
    (one,) = _findings.of_rare_classes(three, np.array([400, 1000, 0]), False)
    assert "fit(class_weight={...})" in one.text
    nothing = {"recall": {"value": None, "interval": None}, "name": "a"}
    empty = {"classes": [nothing, nothing]}
    assert not [*_findings.of_rare_classes(empty, counts, False)]
    # Of 40 images 32 found may be as good as 0.89 of all: by chance.
    said = np.where(
        np.isin(np.arange(140), [*range(32, 42)]), 1 - labels, labels
    )
    found = measure(labels, said.astype(float)).to_dict()
    assert not [*_findings.of_rare_classes(found, counts, False)]


def test_classes_without_images_and_with_few():
    counts = {
        "train": np.array([30, 5, 12]),
        "validation": np.array([1, 1, 0]),
        "test": np.array([0, 0, 4]),
    }
    found = list(_findings.of_data(["a", "b", "<c>"], counts, 1))
    assert titles(found) == [
        "1 class without validation images",
        "2 classes without test images",
        "1 class with fewer than 10 training images",
        "1 image file left out",
    ]
    assert found[0].text.startswith("<c>: ")  # The page escapes it.
    many = {"train": np.zeros(1000, int)}
    (one,) = _findings.of_data([str(k) for k in range(1000)], many, 0)
    assert "0, 1, 2, 3, 4 and 995 more" in one.text


def test_twins_are_named():
    groups = [[f"a/{n}.png (train)", f"b/{n}.png (test)"] for n in range(7)]
    found = list(_findings.of_twins(Twins(groups, 2, 1, 90)))
    assert [one.level for one in found] == ["problem", "note", "warning"]
    assert found[0].title == "7 images are in more than one split"
    assert "a/0.png (train) = b/0.png (test)" in found[0].text
    assert "and 2 more" in found[0].text
    (good,) = _findings.of_twins(Twins([], 0, 0, 90))
    assert good.level == "good"
    (none,) = _findings.of_twins(Twins([], 0, 0, 0))
    assert none.level == "note"
