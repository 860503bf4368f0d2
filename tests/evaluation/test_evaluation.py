"""Explainers times metrics, with explainers and metrics made by hand."""

import csv
import dataclasses
import functools
import textwrap
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lficam
from keras_lficam import metrics
from keras_lficam.backbones import cifar
from keras_lficam.evaluation import MapQuality, Metric, evaluate
from keras_lficam.explainers import AttentionMap


def gray(images, classes=None):
    """Explains an image by its own brightness."""
    del classes
    return np.asarray(images, "float32").mean(axis=-1, keepdims=True)


def dark(images, classes=None):
    return 1 - gray(images, classes)


def level(maps):
    return maps.mean(axis=(1, 2, 3))


def level_against_label(maps, classes):
    return np.abs(level(maps) - classes)


def gap(maps, other_maps):
    return level(maps) - level(other_maps)


def images_of(levels):
    """Images `(B, 2, 2, 3)` of one brightness each."""
    return np.ones((1, 2, 2, 3)) * np.reshape(levels, (-1, 1, 1, 1))


DATA = [
    (images_of([0.0, 1.0]), np.array([0, 1])),
    (images_of([3.0, 4.0]), np.array([3, 4])),
    (images_of([7.0]), np.array([7])),
]


def test_mean_and_interval_by_hand():
    found = evaluate({"gray": gray}, {"level": level}, DATA)
    (row,) = found.rows
    # Of 0, 1, 3, 4, 7: mean 3, variance (9 + 4 + 0 + 1 + 16) / 4 = 7.5, and
    # 2.7764 is the quantile of Student's t with 4 degrees of freedom.
    half = 2.7764451052 * (7.5 / 5) ** 0.5
    assert (row.explainer, row.metric, row.better) == ("gray", "level", "")
    assert row.mean == pytest.approx(3)
    assert row.low == pytest.approx(3 - half)
    assert row.high == pytest.approx(3 + half)
    assert (row.images, row.missing) == (5, 0)
    np.testing.assert_array_equal(
        found.values["gray"]["level"], [0, 1, 3, 4, 7]
    )
    np.testing.assert_array_equal(found.labels, [0, 1, 3, 4, 7])


def test_interval_holds_the_mean_of_all_in_95_of_100(rng):
    held = 0
    for _ in range(400):
        sample = [(images_of(rng.normal(5, 2, 10)), np.zeros(10, int))]
        (row,) = evaluate({"gray": gray}, {"level": level}, sample).rows
        held += row.low <= 5 <= row.high
    assert 0.92 < held / 400 < 0.98


def test_defect_shuffled_set_pairs_images_with_other_labels():
    """Other libraries go through it twice, each time in another order."""
    levels = np.arange(200)
    shuffled = (
        tf.data.Dataset.from_tensor_slices((images_of(levels), levels))
        .shuffle(200, seed=0)
        .batch(16)
    )
    orders = [np.concatenate([y for _, y in shuffled]) for _ in range(2)]
    assert (orders[0] != orders[1]).any()  # It is shuffled anew.
    found = evaluate(
        {"gray": gray, "dark": dark},
        {
            "against_label": level_against_label,
            "level": level,
            "gap": Metric(gap, others={"gray": gray, "dark": gray}),
        },
        shuffled,
        classes="label",
    )
    assert found.values["gray"]["against_label"].max() == 0
    assert np.abs(found.values["gray"]["gap"]).max() == 0
    np.testing.assert_array_equal(found.values["gray"]["level"], found.labels)
    # The same image for every explainer, too.
    np.testing.assert_array_equal(
        found.values["dark"]["level"], 1 - found.labels
    )
    assert sorted(found.labels) == list(range(200))


def test_data_is_gone_through_once():
    passes = []

    class Once:
        def __iter__(self):
            passes.append(1)
            return iter(DATA)

    evaluate({"gray": gray, "dark": dark}, {"level": level}, Once())
    assert len(passes) == 1


def test_metric_gets_what_its_parameters_are_named_after():
    seen = {}
    images, labels = DATA[0]
    masks = np.ones((2, 2, 2, 1))

    def all_of_it(model, images, maps, classes, *, masks, other_maps, steps=3):
        seen.update(locals())
        return level(maps)

    def none_of_it(maps, *, masks=None, other_maps="none", classes=None):
        assert masks is not None
        assert other_maps == "none"
        return level(maps)

    evaluate(
        {"gray": gray},
        {
            "all_of_it": Metric(
                functools.partial(all_of_it, "the model"),
                others={"gray": dark},
            ),
            "none_of_it": none_of_it,
        },
        [(images, labels, masks)],
        classes="label",
    )
    assert seen["model"] == "the model"
    assert seen["steps"] == 3
    np.testing.assert_array_equal(seen["images"], images)
    np.testing.assert_array_equal(seen["maps"], gray(images))
    np.testing.assert_array_equal(seen["other_maps"], dark(images))
    np.testing.assert_array_equal(seen["classes"], labels)
    np.testing.assert_array_equal(seen["masks"], masks)


def test_what_a_partial_has_fixed_stays():
    def of_class(maps, classes):
        return level(maps) + 10 * np.asarray(classes)

    found = evaluate(
        {"gray": gray},
        {"fixed": functools.partial(of_class, classes=1), "free": of_class},
        DATA[:1],
        classes="label",
    )
    np.testing.assert_array_equal(found.values["gray"]["fixed"], [10, 11])
    np.testing.assert_array_equal(found.values["gray"]["free"], [0, 11])


def test_optional_masks_may_lack():
    def without(maps, masks=None):
        assert masks is None
        return level(maps)

    (row,) = evaluate({"gray": gray}, {"without": without}, DATA).rows
    assert row.mean == 3


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("predicted", [None, None]),
        ("label", [[0, 1], [3, 4]]),
        (lambda images: images[:, 0, 0, 0].astype(int) + 1, [[1, 2], [4, 5]]),
    ],
)
def test_class_that_is_explained(classes, expected):
    explained, measured = [], []

    def explainer(images, classes):
        explained.append(classes)
        return gray(images)

    def metric(maps, classes):
        measured.append(classes)
        return level(maps)

    found = evaluate(
        {"explainer": explainer}, {"metric": metric}, DATA[:2], classes=classes
    )
    for seen in (explained, measured):
        for actual, wanted in zip(seen, expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)
    if classes == "predicted":
        assert found.classes is None
    else:
        np.testing.assert_array_equal(found.classes, np.concatenate(expected))


def test_classes_that_are_chosen_among_several_labels(tmp_path):
    labels = np.array([[0, 1, 1], [0, 0, 0]])
    asked = []

    def last(images, labels):
        asked.append(len(images))
        return np.where(labels, [0, 1, 2], 0).max(axis=-1)

    found = evaluate(
        {"gray": gray},
        {"distance": level_against_label},
        [(images_of([0.0, 1.0]), labels)],
        classes=last,
    )
    assert asked == [2]
    np.testing.assert_array_equal(found.classes, [2, 0])
    np.testing.assert_array_equal(found.values["gray"]["distance"], [2, 1])
    found.values_to_csv(tmp_path / "images.csv")
    with (tmp_path / "images.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["1|2", ""]


def test_images_without_a_mask_have_no_value():
    """The reduction, too, sees only those that have one."""
    masks = np.ones((5, 2, 2, 1))
    masks[[0, 2, 3]] = np.nan
    asked = []

    def size(maps, masks):
        asked.append(maps[:, 0, 0, 0].tolist())
        return level(maps) + masks.sum(axis=(1, 2, 3))

    def both(maps, masks):
        return np.stack([level(maps), level(masks)], axis=-1)

    images = images_of([0.0, 1.0, 3.0, 4.0, 7.0])
    batches = [
        (images[part], np.zeros(len(masks[part]), int), masks[part])
        for part in (slice(2), slice(2, 4), slice(4, 5))
    ]
    found = evaluate(
        {"gray": gray},
        {
            "size": size,
            "rank": Metric(both, reduction=lambda x: x[:, 0] - x[:, 0].min()),
        },
        batches,
    )
    nan = np.nan
    values = found.values["gray"]
    np.testing.assert_array_equal(values["size"], [nan, 5, nan, nan, 11])
    np.testing.assert_array_equal(values["rank"], [nan, 0, nan, nan, 6])
    assert asked == [[1], [7]]
    assert [(row.images, row.missing) for row in found.rows] == [(2, 3)] * 2


def test_values_that_are_missing_are_counted_and_left_out():
    def brittle(maps):
        values = level(maps)
        return np.where(values > 3, np.nan, values)

    found = evaluate({"gray": gray}, {"brittle": brittle}, DATA)
    (row,) = found.rows
    assert (row.images, row.missing) == (3, 2)
    assert row.mean == pytest.approx(4 / 3)  # Of 0, 1 and 3.
    assert "Images without a value: 2 of gray for brittle." in str(found)
    (row,) = evaluate(
        {"gray": gray}, {"none": lambda maps: np.nan * level(maps)}, DATA
    ).rows
    assert np.isnan([row.mean, row.low, row.high]).all()
    assert (row.images, row.missing) == (0, 5)


def test_a_single_image_has_no_interval():
    (row,) = evaluate({"gray": gray}, {"level": level}, DATA[2:]).rows
    assert row.mean == 7
    assert np.isnan([row.low, row.high]).all()


def test_explainer_without_a_counterpart_has_no_such_value():
    found = evaluate(
        {"gray": gray, "dark": dark},
        {"level": level, "gap": Metric(gap, others={"dark": gray})},
        DATA,
    )
    pairs = [(row.explainer, row.metric) for row in found.rows]
    assert pairs == [("gray", "level"), ("dark", "level"), ("dark", "gap")]
    assert found.rows[-1].mean == pytest.approx(1 - 2 * 3)
    gray_line = found.table().split("\n")[1].split()
    assert gray_line[:5] == ["gray", "3.000", "±", "3.400", "-"]


def test_counterpart_explains_the_same_images_and_classes():
    seen = []

    def counterpart(images, classes):
        seen.append((images, classes))
        return gray(images)

    evaluate(
        {"gray": gray},
        {"gap": Metric(gap, others={"gray": counterpart})},
        DATA,
        classes="label",
    )
    for (images, classes), (expected, labels) in zip(seen, DATA, strict=True):
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(classes, labels)


def test_max_box_accuracy_takes_one_threshold_for_all_images(rng):
    images = rng.uniform(size=(6, 8, 8, 3))
    masks = np.zeros((6, 8, 8, 1))
    masks[:, 2:6, 2:6] = 1
    blurred = images + 2 * masks
    labels = np.zeros(6, int)
    data = [
        (blurred[:4], labels[:4], masks[:4]),
        (blurred[4:], labels[4:], masks[4:]),
    ]
    found = evaluate(
        {"gray": gray},
        {
            "max_box_accuracy": Metric(
                metrics.box_accuracy, reduction=metrics.max_box_accuracy
            )
        },
        data,
    )
    answers = metrics.box_accuracy(gray(blurred), masks)
    assert 0 < answers.mean() < 1
    assert found.rows[0].mean == answers.mean(axis=0).max()
    assert found.values["gray"]["max_box_accuracy"].shape == (6,)


class Slow:
    """Takes its time: much for images of a shape that it has not seen."""

    passes = (3, 1)

    def __init__(self):
        self.shapes = []

    def __call__(self, images, classes):
        new = images.shape not in self.shapes
        self.shapes.append(images.shape)
        time.sleep(0.2 if new else 0.01 * len(images))
        return gray(images)


@pytest.mark.parametrize("sizes", [[4, 4, 4], [4, 3], [4], [4, 4, 3]])
def test_seconds_are_without_the_first_call(sizes):
    data = [(images_of(np.ones(size)), np.ones(size, int)) for size in sizes]
    slow = Slow()
    (row,) = evaluate({"slow": slow}, {"level": level}, data).rows
    assert 0.01 <= row.seconds_per_image < 0.04
    assert (row.forward_passes, row.backward_passes) == (3, 1)
    assert row.images == sum(sizes)
    # Once more only where no call counts.
    assert len(slow.shapes) == len(sizes) + (sizes in ([4, 3], [4]))


def test_passes_that_are_not_told_are_none():
    (row,) = evaluate({"gray": gray}, {"level": level}, DATA).rows
    assert (row.forward_passes, row.backward_passes) == (None, None)


def steady(found, seconds=0.00123):
    """The same with a time that does not depend on the machine."""
    rows = [
        dataclasses.replace(row, seconds_per_image=seconds)
        for row in found.rows
    ]
    return dataclasses.replace(found, rows=tuple(rows))


@pytest.fixture
def found():
    class Counted:
        passes = (101, 0)

        def __call__(self, images, classes):
            return gray(images)

    return steady(
        evaluate(
            {"gray": gray, "counted": Counted()},
            {
                "level": Metric(level, higher_is_better=True),
                "a_metric_with_a_name": Metric(
                    lambda maps: -level(maps) / 100, higher_is_better=False
                ),
            },
            DATA,
        )
    )


def test_table_reads_as_written_here(found):
    expected = """
                               a metric with
    explainer        level ↑        a name ↓  seconds  forward  backward
    gray       3.000 ± 3.400  -0.030 ± 0.034  0.00123        -         -
    counted    3.000 ± 3.400  -0.030 ± 0.034  0.00123      101         0

    Mean over 5 images ± half of its 95 % interval (Student's t); seconds,
    forward and backward passes for an image.
    """
    assert found.table(76) == textwrap.dedent(expected)[1:-1]
    assert str(found) == found.table(80)


def test_table_is_no_wider_than_it_may_be(found):
    for width in (80, 60, 40):
        text = found.table(width)
        assert max(map(len, text.split("\n"))) <= width
        assert text.count("3.000 ± 3.400") == 2
        assert text.count("101") == 1
    assert found.table(40).count("counted") > 1


def test_markdown_is_a_table(found):
    header, rule, *lines = found.markdown().split("\n")[:4]
    assert header == (
        "| explainer | level ↑ | a_metric_with_a_name ↓ | seconds | forward "
        "| backward |"
    )
    assert rule == "|---|---:|---:|---:|---:|---:|"
    assert lines[1] == (
        "| counted | 3.000 ± 3.400 | -0.030 ± 0.034 | 0.00123 | 101 | 0 |"
    )


def test_csv_holds_the_rows(found, tmp_path):
    found.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert rows[0]["explainer"] == "gray"
    assert rows[0]["better"] == "higher"
    assert float(rows[0]["mean"]) == 3
    assert float(rows[0]["high"]) == found.rows[0].high
    assert rows[0]["forward_passes"] == ""
    assert rows[3]["forward_passes"] == "101"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_csv_of_the_images_holds_every_value(tmp_path):
    found = evaluate(
        {"gray": gray, "dark": dark},
        {"level": level, "gap": Metric(gap, others={"dark": gray})},
        DATA,
        classes="label",
    )
    found.values_to_csv(tmp_path / "values.csv")
    lines = (tmp_path / "values.csv").read_text().splitlines()
    assert lines[0] == "explainer,image,label,class,level,gap"
    assert lines[3] == "gray,2,3,3,3.0,"
    assert lines[-1] == "dark,4,7,7,-6.0,-13.0"
    assert len(lines) == 1 + 2 * 5


def test_csv_is_never_overwritten_nor_left_half(found, tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("mine")
    for write in (found.to_csv, found.values_to_csv):
        with pytest.raises(ValueError, match="not there yet.*left as it is"):
            write(path)
    assert path.read_text() == "mine"
    path.unlink()

    class Full:
        def writerow(self, row):
            pass

        def writerows(self, rows):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "writer", lambda file: Full())
    with pytest.raises(OSError, match="No space left"):
        found.to_csv(path)
    assert not list(tmp_path.iterdir())


def test_progress_is_shown_if_asked(capsys):
    evaluate({"gray": gray}, {"level": level}, DATA)
    assert capsys.readouterr() == ("", "")
    evaluate({"gray": gray}, {"level": level}, DATA, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "/3" in err
    assert "gray" in err


def needs_masks(maps, masks):
    return level(maps)


def asks(**change):
    arguments = {
        "explainers": {"gray": gray},
        "metrics": {"level": level},
        "data": DATA,
        **change,
    }
    return evaluate(
        arguments.pop("explainers"),
        arguments.pop("metrics"),
        arguments.pop("data"),
        **arguments,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {}}, "`metrics`.*at least"),
        ({"explainers": {}}, "`explainers`.*at least"),
        ({"data": []}, "`data`.*a batch at least"),
        (
            {"metrics": {"m": needs_masks}},
            r"\['m'\] need masks.*with_masks=True",
        ),
        (
            {"metrics": {"m": metrics.average_drop}},
            r"'m'.*needs \['model'\].*functools\.partial",
        ),
        ({"metrics": {"m": gap}}, "'m' compares maps.*`others`"),
        ({"metrics": {"m": lambda images: 0}}, "'m'.*a parameter `maps`"),
        ({"metrics": {"m": lambda **given: 0}}, "'m'.*a parameter `maps`"),
        ({"metrics": {"m": lambda maps: maps}}, "'m'.*a value for each of"),
        ({"metrics": {"m": lambda maps: 0.5}}, r"'m'.*shape \(\)"),
        (
            {"metrics": {"m": lambda maps: maps[..., 0, 0]}},
            r"shape \(2, 2\).*Metric\(function, reduction=",
        ),
        (
            {"metrics": {"m": Metric(level, reduction=np.mean)}},
            r"'m'.*each of the 5.*shape \(\)",
        ),
        (
            {"metrics": {"m": Metric(level, others={"gray": dark})}},
            "'m'.*`other_maps`.*`others`",
        ),
        (
            {"metrics": {"m": Metric(gap, others={"grey": dark})}},
            r"'m'.*\['gray'\].*'grey', which is not an explainer",
        ),
        ({"classes": "best"}, "`classes`.*'best'"),
        (
            {"classes": lambda images: np.ones((len(images), 3))},
            r"`classes`.*\(2, 3\).*argmax",
        ),
        (
            {"data": [(np.zeros((2, 2, 2, 3)), [0])]},
            r"`data`.*label.*for each image.*\(2, 2, 2, 3\).*\(1,\)",
        ),
        ({"data": [(np.zeros((0, 2, 2, 3)), [])]}, "`data`.*at least one im"),
        (
            {"explainers": {"one": lambda images, classes: gray(images)[:1]}},
            r"'one'.*each of the 2 images.*\(1, 2, 2, 1\)",
        ),
    ],
)
def test_wrong_request_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        asks(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"m": "accuracy"}}, "'m' must be a function"),
        ({"explainers": {"e": "CAM"}}, "'e' must be a function"),
        (
            {"metrics": {"m": Metric(gap, others={"gray": None})}},
            "'gray for m' must be a function",
        ),
        ({"data": [{"image": 1}]}, "`data`.*type dict"),
        ({"data": [(1,)]}, "`data`.*one of 1 parts"),
        ({"data": [3]}, "`data`.*type int"),
        ({"data": [(None, [0])]}, "`images` must be a dense.*None"),
    ],
)
def test_wrong_type_is_refused(change, message):
    with pytest.raises(TypeError, match=message):
        asks(**change)


@pytest.mark.parametrize(
    ("metric", "direction", "better"),
    [
        (metrics.average_drop, False, "lower"),
        (metrics.insertion_auc, True, "higher"),
        (functools.partial(metrics.deletion_auc, None), False, "lower"),
        (functools.partial(metrics.map_iou, threshold=1), True, "higher"),
        (metrics.rank_correlation, False, "lower"),
        (level, None, ""),
    ],
)
def test_direction_is_that_of_the_function(metric, direction, better):
    found = Metric(metric)
    assert (found.higher_is_better, found.better) == (direction, better)
    # Told, it is as told: two trainings' maps should stay alike.
    assert Metric(metric, higher_is_better=True).better == "higher"
    (row,) = evaluate({"gray": gray}, {"m": Metric(level)}, DATA).rows
    assert row.better == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"function": "accuracy"},
        {"higher_is_better": "yes"},
        {"higher_is_better": 1},
        {"others": [gray]},
        {"reduction": 3},
    ],
)
def test_wrong_part_of_a_metric_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(TypeError, match=f"`{name}`"):
        Metric(**{"function": level, **wrong})


def test_request_is_checked_before_anything_is_explained():
    def never(images, classes):
        raise AssertionError

    for metric in (needs_masks, gap, metrics.average_drop):
        with pytest.raises(ValueError, match="'m'"):
            asks(explainers={"never": never}, metrics={"m": metric})


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_with_a_model_and_the_metrics_of_the_package(rng):
    model = keras_lficam.build(cifar.resnet(8), 3, input_shape=(16, 16, 3))
    images = rng.uniform(0, 255, (5, 16, 16, 3)).astype("float32")
    masks = (rng.uniform(size=(5, 16, 16, 1)) > 0.5).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((images, np.arange(5), masks))
    explainer = AttentionMap(model)
    found = evaluate(
        {"AttentionMap": explainer},
        {
            "average_drop": functools.partial(metrics.average_drop, model),
            "pointing_game": metrics.pointing_game,
            "sanity": Metric(
                metrics.rank_correlation,
                others={
                    "AttentionMap": AttentionMap(
                        metrics.randomized(model, seed=1)
                    )
                },
            ),
        },
        data.batch(2),
        classes=lambda x: model.predict_on_batch(x).argmax(axis=-1),
    )
    maps = explainer(images)
    values = found.values["AttentionMap"]
    np.testing.assert_allclose(
        values["average_drop"],
        metrics.average_drop(model, images, maps),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        values["pointing_game"],
        keras.ops.convert_to_numpy(metrics.pointing_game(maps, masks)),
    )
    random = AttentionMap(metrics.randomized(model, seed=1))
    np.testing.assert_allclose(
        values["sanity"],
        metrics.rank_correlation(maps, random(images)),
        atol=1e-3,
    )
    assert found.rows[0].forward_passes == 1


# MapQuality ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_fit_reports_the_quality_of_the_maps_as_they_are(rng, tmp_path):
    model = keras_lficam.build(cifar.resnet(8), 3, input_shape=(16, 16, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    images = rng.uniform(0, 255, (6, 16, 16, 3)).astype("float32")
    labels = np.arange(6) % 3
    masks = np.zeros((6, 16, 16, 1), "float32")
    masks[:, :9, :9] = 1
    seen = []

    def energy(maps, masks):
        values = metrics.energy_pointing_game(maps, masks)
        seen.append(values)
        return values

    log = tmp_path / "log.csv"
    quality = MapQuality(
        AttentionMap,
        {"energy": energy},
        [
            (images[:4], labels[:4], masks[:4]),
            (images[4:], labels[4:], masks[4:]),
        ],
    )
    history = model.fit(
        images,
        labels,
        epochs=3,
        verbose=0,
        callbacks=[quality, keras.callbacks.CSVLogger(log)],
    ).history
    expected = metrics.energy_pointing_game(AttentionMap(model)(images), masks)
    last = np.mean(keras.ops.convert_to_numpy(expected))
    assert history["val_energy"][-1] == pytest.approx(last, abs=1e-5)
    assert len(set(history["val_energy"])) == 3  # The model learns.
    with log.open() as file:
        logged = [float(row["val_energy"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(logged, history["val_energy"])
    assert len(seen) == 6


@pytest.mark.usefixtures("eagerly")
def test_quality_of_the_maps_of_gray_images(rng):
    """As that of three equal channels, which the network makes of them."""
    gray = rng.uniform(0, 255, (4, 16, 16, 1)).astype("float32")
    labels, masks = np.arange(4) % 3, np.zeros((4, 16, 16, 1))
    masks[:, :9, :9] = 1
    found, weights = {}, None
    for images in (gray, np.repeat(gray, 3, axis=-1)):
        model = keras_lficam.build(
            cifar.resnet(8), 3, input_shape=images.shape[1:]
        )
        weights = weights or model.get_weights()
        model.set_weights(weights)
        model.compile("sgd", "sparse_categorical_crossentropy")
        found[images.shape[-1]] = {}
        quality = MapQuality(
            AttentionMap,
            {
                "energy": metrics.energy_pointing_game,
                "deletion": functools.partial(
                    metrics.deletion_auc, model, steps=4
                ),
            },
            [(images, labels, masks)],
        )
        quality.set_model(model)
        quality.on_train_begin()
        quality.on_epoch_end(0, found[images.shape[-1]])
    assert found[1].keys() == {"val_energy", "val_deletion"}
    for name, value in found[3].items():
        assert found[1][name] == pytest.approx(value, abs=1e-5)


@pytest.mark.usefixtures("eagerly")
def test_no_epoch_explains_a_batch_twice(rng):
    model = keras_lficam.build(cifar.resnet(8), 3, input_shape=(16, 16, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    images = rng.uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    calls = []

    def make(model):
        explain = AttentionMap(model)
        return lambda *batch: calls.append(1) or explain(*batch)

    quality = MapQuality(
        make,
        {"brightness": lambda maps: maps.mean(axis=(1, 2, 3))},
        [(images, np.arange(3))],
    )
    model.fit(images, np.arange(3), epochs=2, verbose=0, callbacks=[quality])
    assert len(calls) == 2


def test_classes_that_are_an_array_are_refused(rng):
    batch = rng.uniform(0, 255, (2, 16, 16, 3)), np.arange(2)
    with pytest.raises(ValueError, match="`classes` must be 'predicted'"):
        evaluate(
            {"one": lambda images, classes: images[..., :1]},
            {"brightness": lambda maps: maps.mean(axis=(1, 2, 3))},
            [batch],
            classes=np.array([0, 1]),
        )


def fitted(order):
    """Trains for six epochs; the maps get worse from one to the next."""
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(8, activation="softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy")
    epochs = iter(range(9, 0, -1))

    def falling(maps):
        return np.full(len(maps), next(epochs), "float32")

    callbacks = {
        "quality": MapQuality(lambda _: gray, {"q": falling}, DATA[:1]),
        "stop": keras.callbacks.EarlyStopping("val_q", mode="max", patience=2),
    }
    return model.fit(
        *DATA[0],
        epochs=6,
        verbose=0,
        callbacks=[callbacks[name] for name in order],
    ).history["val_q"]


def test_training_stops_when_the_maps_get_worse():
    # Best at first, and twice no better.
    assert fitted(["quality", "stop"]) == [9, 8, 7]


def test_callback_that_comes_too_late_is_not_heard():
    """Why the docstring says that MapQuality stands first."""
    with pytest.warns(UserWarning, match="val_q"):
        assert fitted(["stop", "quality"]) == [9, 8, 7, 6, 5, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": iter(DATA)}, "`data`.*used up"),
        ({"metrics": {"m": needs_masks}}, r"\['m'\] need masks"),
        ({"metrics": {"m": gap}}, "'m' compares maps"),
        (
            {"metrics": {"m": Metric(gap, others={"model": gray})}},
            r"none that compares maps.*\['m'\]",
        ),
        ({"metrics": {}}, "`metrics`"),
        ({"classes": "best"}, "`classes`"),
    ],
)
def test_callback_refuses_before_training(change, message):
    request = {"metrics": {"level": level}, "data": DATA, **change}
    metric, data = request.pop("metrics"), request.pop("data")
    with pytest.raises(ValueError, match=message):
        MapQuality(AttentionMap, metric, data, **request)
