"""What the evidence rests on: machines, intervals, importance networks."""

import csv
import dataclasses
import importlib
import itertools
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "evidence")]

import grid_pointing  # noqa: E402
import leak  # noqa: E402
import measuring  # noqa: E402
import networks  # noqa: E402
import pages  # noqa: E402
import protocol  # noqa: E402
import results  # noqa: E402
import stability  # noqa: E402
import tables  # noqa: E402
import train  # noqa: E402

import keras_lficam  # noqa: E402
from keras_lficam import Recipe, layers, metrics  # noqa: E402
from keras_lficam.backbones import cifar  # noqa: E402
from keras_lficam.data import digits_in_photos  # noqa: E402

TABLES = sorted(BENCHMARKS.rglob("*.csv"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_table_names_its_machines(path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert row["processor"]
        assert row["onednn"] in {"on", "off", "unknown", "not TensorFlow"}


@pytest.mark.parametrize(
    ("script", "table"),
    [
        ("backbones", "backbones"),
        ("cost", "evidence/cost"),
        ("exactness", "exactness"),
        ("explainers", "explainers"),
        ("grid_pointing", "grid_pointing"),
        ("leak", "leak"),
        ("hub_classifiers", "hub_classifiers"),
        ("quality", "evidence/quality"),
        ("serving", "serving"),
        ("stability", "evidence/stability"),
        ("train", "evidence/trainings"),
        ("training", "training"),
    ],
)
def test_a_table_has_the_columns_of_its_script(script, table):
    with (BENCHMARKS / f"{table}.csv").open() as file:
        columns = next(csv.reader(file))
    assert columns == importlib.import_module(script).COLUMNS
    assert columns[-2:] == measuring.MACHINE


def test_a_row_without_its_machine_is_not_written(tmp_path):
    columns = ["seconds", *measuring.MACHINE]
    row = {"seconds": 1, "processor": "AMD EPYC, AVX2", "onednn": "off"}
    measuring.write(tmp_path / "rows.csv", columns, [row])
    written = (tmp_path / "rows.csv").read_text()
    assert written.endswith('\n1,"AMD EPYC, AVX2",off\n')
    for name in measuring.MACHINE:
        with pytest.raises(ValueError, match="must name its machine"):
            measuring.write(tmp_path / "rows.csv", columns, [row | {name: ""}])
    assert (tmp_path / "rows.csv").read_text() == written


def test_machines_are_counted():
    one = {"processor": "AMD EPYC, AVX2", "onednn": "off"}
    other = {"processor": "unknown", "onednn": "not TensorFlow"}
    assert tables.machines([one, one]) == "AMD EPYC, AVX2, oneDNN off"
    assert tables.machines([other, one, one]) == (
        "AMD EPYC, AVX2, oneDNN off (2 rows); "
        "processor unknown, not TensorFlow (1 rows)"
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("sse2", "AMD EPYC"),
        ("avx avx2 fma", "AMD EPYC, AVX2"),
        ("avx avx2 avx512f", "AMD EPYC, AVX-512"),
        ("avx2 avx512f avx512_vnni", "AMD EPYC, AVX-512 VNNI"),
        ("avx2 avx512f avx512_vnni amx_tile", "AMD EPYC, AMX"),
    ],
)
def test_a_processor_is_named_with_its_widest_instructions(
    flags, expected, monkeypatch, tmp_path
):
    text = f"model name\t: AMD EPYC\nflags\t\t: fpu {flags}\n\n"
    second = "model name\t: another\nflags\t\t: avx512_vnni\n\n"
    (tmp_path / "cpuinfo").write_text(text + second)
    monkeypatch.setattr(measuring, "CPUINFO", tmp_path / "cpuinfo")
    assert measuring.processor() == expected


def test_onednn_is_on_where_only_it_has_a_gradient():
    """TensorFlow's own kernels have none for convolutions in groups."""
    kernel = tf.Variable(tf.ones((3, 3, 2, 4)))
    with tf.device("CPU"), tf.GradientTape() as tape:
        total = tf.nn.conv2d(tf.ones((1, 4, 4, 4)), kernel, 1, "SAME")
    try:
        tape.gradient(total, kernel)
        expected = "on"
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        expected = "off"
    assert measuring.machine()["onednn"] == expected
    assert measuring.machine("jax")["onednn"] == "not TensorFlow"


@pytest.mark.parametrize(
    ("setting", "flags", "expected"),
    [
        (None, "avx avx2", "off"),
        (None, "avx2 avx512f", "off"),
        (None, "avx2 avx512f avx512_vnni", "on"),
        (None, "avx2 avx_vnni", "on"),
        ("0", "avx512_vnni", "off"),
        ("False", "avx512_vnni", "off"),
        ("1", "avx2", "on"),
        ("TRUE", "avx2", "on"),
        ("maybe", "avx512_vnni", "on"),  # TensorFlow warns.
        ("maybe", "avx2", "off"),
    ],
)
def test_onednn_before_tensorflow_is_installed(setting, flags, expected):
    assert measuring.onednn_by_rule(setting, flags.split()) == expected


def test_machine_is_printed_without_any_package(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    said = subprocess.run(
        [sys.executable, "-I", "-S", BENCHMARKS / "measuring.py"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert said == (
        f"processor: {measuring.processor()}, {os.cpu_count()} cores\n"
        "TensorFlow's oneDNN: off (TF_ENABLE_ONEDNN_OPTS: 0)\n"
    )


@pytest.mark.end_to_end
def test_machine_of_the_command_is_another_process(monkeypatch):
    """Here TensorFlow has decided already; there the variable counts."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    expected = "on"  # The command asks for it.
    if measuring.onednn() == "on":
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
        expected = "off"
    assert measuring.onednn() != expected
    assert measuring.machine_of_command() == {
        "processor": measuring.processor(),
        "onednn": expected,
    }


@pytest.mark.slow
def test_what_is_compared_gets_its_machine(monkeypatch, tmp_path):
    model = keras_lficam.build(cifar.resnet(8), 3, input_shape=(16, 16, 3))
    model.save(tmp_path / "model.keras")
    images, labels = np.ones((2, 16, 16, 3), "float32"), np.arange(2)
    rows = measuring.compared(
        tmp_path / "model.keras",
        [(images, labels)],
        explainers=["AttentionMap"],
        metrics=["average_drop"],
    )
    (row,) = rows
    assert (row["explainer"], row["metric"]) == ("AttentionMap", "average_drop")
    assert (row["images"], row["forward_passes"]) == (2, 1)
    where = measuring.machine()
    assert {name: row[name] for name in measuring.MACHINE} == where


def test_an_interval_of_five_is_that_of_student():
    """t with 4 degrees of freedom is 2.776; deviation sqrt(2.5)."""
    mean, half = tables.interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert half == pytest.approx(2.7764 * 2.5**0.5 / 5**0.5, rel=1e-4)


def test_an_interval_of_pairs_counts_members():
    """Of sums of members the jackknife finds what the members themselves say.

    The mean of all pairs of a + b is twice the mean of the members, and so is
    its interval.
    """
    members = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0}
    pairs = {
        (one, other): members[one] + members[other]
        for one, other in itertools.combinations(members, 2)
    }
    mean, half = tables.interval_of_pairs(pairs)
    expected_mean, expected_half = tables.interval(list(members.values()))
    assert mean == pytest.approx(2 * expected_mean)
    assert half == pytest.approx(2 * expected_half)


def test_a_difference_is_that_of_the_same_seed(monkeypatch):
    """Of two: t with one degree of freedom is 12.71, times half of the span."""
    found = {
        ("plain", "0"): (0.90, ""),
        ("plain", "1"): (0.92, ""),
        ("abn", "0"): (0.95, 0.98),
        ("abn", "1"): (0.96, 0.96),
        ("abn", "2"): (0.50, 0.97),  # The others have no third seed.
        ("released", "0"): (0.93, 0.9),
        ("released", "1"): (0.97, 0.9),
        ("plain", "10"): (0.10, ""),  # Of the study of stability.
        ("abn", "10"): (0.99, 0.1),
        ("released", "10"): (0.10, 0.1),
    }
    rows = [
        {
            "backbone": "residual",
            "contender": contender,
            "setting": "base",
            "seed": seed,
            "accuracy": accuracy,
            "pointing_game": pointing_game,
        }
        for (contender, seed), (accuracy, pointing_game) in found.items()
    ]
    monkeypatch.setattr(
        tables,
        "rows_of",
        lambda name, **chosen: [
            row for row in rows if chosen.items() <= row.items()
        ],
    )
    names = {name: name for name in ("plain", "abn", "released")}
    monkeypatch.setattr(results, "NAMES", names)
    table = results.accuracy(setting="base").replace("\u00a0", " ")
    plain, abn, released = table.splitlines()[2:]
    assert plain == "| plain | 91.0 ± 12.7 |  | -4.5 ± 6.4 | -4.0 ± 12.7 |  |"
    assert "| +4.5 ± 6.4 |  | +0.5 ± 19.1 | 0.97 ± 0.02 |" in abn
    assert "| +4.0 ± 12.7 | -0.5 ± 19.1 |  | 0.90 ± 0.00 |" in released


@pytest.mark.parametrize(
    ("mean", "half", "verdict"),
    [
        (1.2, 0.8, "confirmed"),
        (-1.2, 0.8, "reversed"),
        (0.7, 0.8, "not confirmed"),
        (-0.7, 0.8, "not confirmed"),
    ],
)
def test_a_verdict_is_that_of_the_interval(mean, half, verdict):
    assert results._verdict(mean, half) == verdict


@pytest.fixture
def inputs(rng):
    image = rng.uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    return [image, rng.normal(size=(2, 4, 4, 64)).astype("float32")]


def test_what_is_changed_in_nothing_is_the_bottleneck(inputs):
    """So an ablation is other in one thing only."""
    ours, same = layers.FeatureImportanceNetwork(), networks.Changed()
    ours(inputs), same(inputs)
    for layer, other in zip(
        (ours.convolutions, ours.normalizations),
        (keras.layers.Conv2D, keras.layers.BatchNormalization),
        strict=True,
    ):
        others = [
            one for one in same.convolutions.layers if isinstance(one, other)
        ]
        for one, same_one in zip(layer, others, strict=True):
            same_one.set_weights(one.get_weights())
    for training in False, True:
        np.testing.assert_allclose(
            same(inputs, training=training),
            ours(inputs, training=training),
            rtol=1e-5,
        )


@pytest.mark.parametrize(
    "changed",
    [
        {"gray": False},
        {"stretched": False},
        {"activation": "sigmoid"},
        {"activation": "uniform"},
    ],
)
def test_what_is_changed_makes_a_difference(changed, inputs):
    same, other = networks.Changed(), networks.Changed(**changed)
    same(inputs), other(inputs)
    other.set_weights(same.get_weights())
    differences = np.abs(np.asarray(other(inputs)) - np.asarray(same(inputs)))
    assert differences.max() > 1e-4


def test_a_shared_network_does_not_know_which_channel_it_sees(inputs, rng):
    image, features = inputs
    order = rng.permutation(64)
    moved = [image, features[..., order]]
    for words, equal in (({"shared": True}, True), ({}, False)):
        weigh = networks.Changed(**words)
        assert np.std(weigh(inputs)) > 1e-4
        np.testing.assert_equal(
            np.allclose(
                np.asarray(weigh(inputs))[:, order], weigh(moved), rtol=1e-4
            ),
            equal,
        )


def test_a_group_of_channels_does_not_see_the_others(inputs):
    """Softmax divides all by one sum, so ratios in the group tell."""
    image, features = inputs
    changed = features.copy()
    changed[..., 8:] *= features[..., :1]
    for groups, equal in ((8, True), (1, False)):
        weigh = networks.Changed(width=64, groups=groups)
        ratios = [
            np.asarray(weigh([image, of]))[:, 1:8]
            / np.asarray(weigh([image, of]))[:, :1]
            for of in (features, changed)
        ]
        np.testing.assert_equal(np.allclose(*ratios, rtol=1e-4), equal)


def test_batches_hold_every_image_of_a_pass_once(rng):
    images = rng.integers(0, 256, (7, 8, 8, 3)).astype("uint8")
    recipe = Recipe(epochs=1, batch_size=5, augmentation=())
    batches = train.endless(images, np.arange(7, dtype="uint8"), recipe, 3)
    shown, labels = zip(*itertools.islice(batches, 7), strict=True)
    assert {len(batch) for batch in labels} == {5}
    labels = np.concatenate(labels).reshape(5, 7)  # A pass a row.
    for one in labels:
        assert sorted(one) == list(range(7))
    assert len({tuple(one) for one in labels}) > 1
    np.testing.assert_array_equal(
        np.concatenate(shown), images[labels.reshape(-1)]
    )


def test_images_are_shifted_and_what_is_beside_them_is_black():
    """A white image shows by its black rows and columns how it moved."""
    white = np.full((200, 16, 16, 3), 255, "uint8")
    recipe = Recipe(epochs=1, batch_size=200, augmentation=("pad_crop",))
    shown, _ = next(train.endless(white, np.zeros(200, "uint8"), recipe, 0))
    black = (shown == 0).all(-1)
    moves = set()
    for one in black:
        rows, columns = one.all(1), one.all(0)
        np.testing.assert_array_equal(one, rows[:, None] | columns)
        moves.add((rows.sum() * (1 if rows[0] else -1), columns.sum()))
    assert {abs(rows) for rows, _ in moves} == {0, 1, 2}
    assert {rows for rows, _ in moves} == {-2, -1, 0, 1, 2}
    assert {columns for _, columns in moves} == {0, 1, 2}


@pytest.mark.slow
def test_images_are_those_of_the_data_set(tmp_path):
    study = protocol.Protocol(protocol.HERE / "quick.toml")
    study.runs = tmp_path
    study.words["data"] = {
        "pair": [3, 8],
        "pictures": {"test": 20},
    }
    training = study.all_trainings()[0]
    images, labels, masks = study.images(training, "test", with_masks=True)
    expected = digits_in_photos.compose("test", 13)
    np.testing.assert_array_equal(images[13], expected["image"])
    np.testing.assert_array_equal(masks[13], expected["mask"])
    assert list(labels) == [*range(10), *range(10)]
    pair = dataclasses.replace(training, pair=True)
    images, labels = study.images(pair, "test")
    assert list(labels) == [0, 1, 0, 1]
    np.testing.assert_array_equal(images[2], expected["image"])


def test_a_mosaic_has_four_classes_that_the_model_is_sure_of():
    """Of images of one value each, which is their number."""
    labels = np.arange(40) % 5
    probabilities = 0.9 * np.eye(5)[labels] + 0.02
    probabilities[:10] = 0.7 * np.eye(5)[labels[:10]] + 0.06  # Not sure.
    probabilities[10:15] = np.eye(5)[(labels[10:15] + 1) % 5]  # Wrong.
    numbers, cells = grid_pointing.chosen(probabilities, labels, 50, seed=0)
    assert numbers.min() >= 15
    assert all(len(set(labels[one])) == 4 for one in numbers)
    assert set(cells) == {0, 1, 2, 3}
    images = np.broadcast_to(
        np.arange(40.0)[:, None, None, None], (40, 2, 3, 1)
    )
    mosaics = grid_pointing.mosaics_of(images, numbers)
    assert mosaics.shape == (50, 4, 6, 1)
    for number, corner in enumerate([(0, 0), (0, 5), (3, 0), (3, 5)]):
        np.testing.assert_array_equal(
            mosaics[:, *corner, 0], numbers[:, number]
        )
    masks = grid_pointing.masks_of(cells, (2, 3))
    np.testing.assert_array_equal(masks.sum((1, 2, 3)), np.full(50, 6))
    asked = numbers[np.arange(50), cells]
    np.testing.assert_array_equal(
        metrics.energy_pointing_game(
            (mosaics == asked[:, None, None, None]).astype("float32"), masks
        ),
        np.ones(50),
    )


def test_a_blind_model_does_not_see_what_its_mask_hides():
    """Of the right half of the cells, what no cell of the left one sees.

    By hand: the strides are 2, 2 and 2, and seven convolutions of 3 pixels see
    3, 7, 11, 15, 23, 31 and 47. The last cell that is kept, of 8 pixels from
    column 24 on, so sees no more than half of 47 to the right of its middle.
    """
    images = np.stack(
        [digits_in_photos.compose("test", n)["image"] for n in range(4)]
    )
    assert images.shape[2] == 64
    for architecture in leak.ARCHITECTURES:
        keras.utils.set_random_seed(0)
        model = leak.blind(architecture)
        column = leak.first_unseen_column(model, images)
        assert 28 + 47 // 2 - 1 <= column <= 28 + 47 // 2 + 1


def test_only_what_looks_elsewhere_leaks():
    """The attention map and the evidence of a class do not."""
    rows = tables.rows_of("leak", map="masked")
    assert {row["explainer"] for row in rows} == leak.IMAGES.keys()
    for row in rows:
        if row["explainer"] in ("AttentionMap", "ClassEvidence", "explain"):
            assert row["largest_leak"] == "0", row
    before = tables.rows_of(
        "leak", explainer="GradCAM", map="in front of the mask"
    )
    assert [row["architecture"] for row in before] == leak.ARCHITECTURES
    assert min(float(row["leak"]) for row in before) > 0.01


def test_class_evidence_finds_the_cell_of_its_class():
    """What was asked: at least 0.75 in one pass, and not below Grad-CAM.

    Of the shipped model; the page says that those of the demo do not reach it.
    """
    for model in ("demo", "shipped"):
        scores = {
            name: [float(row["grid_pointing"]) for row in rows]
            for name, rows in pages._by_explainer(model).items()
        }
        # One map, of which one needs a gradient.
        assert scores["ClassEvidence"] == scores["GradCAM"]
        mean, _ = tables.interval(scores["ClassEvidence"])
        assert (mean >= 0.75) == (model == "shipped")
    (passes,) = {
        (row["forward_passes"], row["backward_passes"])
        for row in tables.rows_of("grid_pointing", explainer="ClassEvidence")
    }
    assert passes == ("1", "0")


def test_evidence_adds_up_to_the_logit_on_every_exact_backbone():
    """What was asked: 1e-5 of the logits, 1e-4 in what is exported."""
    rows = tables.rows_of("exactness")
    exact = {
        row["backbone"] for row in tables.rows_of("backbones", exact="True")
    }
    assert {row["backbone"] for row in rows} == exact
    for row in rows:
        assert max(float(row["view"]), float(row["loaded"])) <= 1e-5
    for column in ("saved_model", "onnx", "openvino", "litert"):
        found = [float(row[column]) for row in rows if row[column]]
        assert len(found) >= 15
        assert max(found) <= 1e-4


def test_nets_that_are_compared_were_trained_on_one_kind_of_machine():
    rows = tables.rows_of("evidence/trainings")
    study = protocol.Protocol(protocol.HERE / "protocol.toml")
    expected = [training.columns for training in study.all_trainings()]
    names = expected[0].keys()
    found = [tuple(row[name] for name in names) for row in rows]
    assert sorted(found) == sorted(tuple(each.values()) for each in expected)
    for column in protocol.VERSIONS:
        assert len({row[column] for row in rows}) == 1


def test_every_pair_of_every_study_is_compared():
    study = protocol.Protocol(protocol.HERE / "protocol.toml")
    expected = [
        tuple(row.values())
        for name in study.words["stability"]["studies"]
        for row, *_ in stability._pairs(study, name)
    ]
    rows = tables.rows_of("evidence/stability")
    found = [tuple(row[name] for name in stability.KEYS) for row in rows]
    assert sorted(found) == sorted(expected)


def test_pages_know_the_seeds_of_the_protocol():
    study = protocol.Protocol(protocol.HERE / "protocol.toml")
    again = study.study(results.TWICE[1])
    assert again["seeds_after"] == results.SEEDS_AFTER
    assert {each.seed for each in study.trainings(again["name"])} == {
        each.seed + results.SEEDS_AFTER
        for each in study.trainings(results.TWICE[0])
    }
    for name in "accuracy", "accuracy_squeeze", "ablation":
        assert tuple(map(str, study.study(name)["seeds"])) == results.SEEDS


def test_pairs_of_two_studies_are_averaged_by_their_setting(monkeypatch):
    rows = [
        {"study": study, "one": one, "other": other, "iou": value}
        for study, one, other, value in (
            ("stability", "base-0", "slow-1", "0.4"),
            ("stability", "base-0", "fast-4", "0.5"),
            ("stability_again", "base-10", "slow-11", "0.8"),
            ("stability_again", "base-10", "fast-14", "0.6"),
        )
    ]

    def rows_of(name, study):
        return [row for row in rows if row["study"] == study]

    monkeypatch.setattr(tables, "rows_of", rows_of)
    assert results._of_pairs("iou", results.TWICE) == pytest.approx(
        {("base-0", "slow-1"): 0.6, ("base-0", "fast-4"): 0.55}
    )
    rows.pop()
    with pytest.raises(ValueError, match="other pairs"):
        results._of_pairs("iou", results.TWICE)


def test_the_protocol_names_contenders_and_settings_that_there_are():
    study = protocol.Protocol(protocol.HERE / "protocol.toml")
    trainings = study.all_trainings()
    assert len({training.name for training in trainings}) == len(trainings)
    for training in trainings:
        assert training.contender in study.words["contender"]
        assert study.recipe(training).epochs >= 6
    names = {words["name"] for words in study.words["study"]}
    assert names >= set(study.words["stability"]["studies"])


def test_a_row_takes_the_place_of_the_older_one(tmp_path):
    table = protocol.Table(tmp_path / "rows.csv", ["a", "b", "c"], keys=2)
    for row in (
        {"a": 1, "b": 2, "c": 3},
        {"a": 1, "b": 1, "c": 4},
        {"a": 1, "b": 2, "c": 5},
    ):
        table.add(row)
    assert table.path.read_text() == "a,b,c\n1,1,4\n1,2,5\n"


FUSED_AGAINST_KERAS = """
import sys

import keras
import numpy as np
import tensorflow as tf

sys.path.append(sys.argv[1])
import networks


def trained():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((6, 5, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(momentum=0.7),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    draw = np.random.default_rng(0).normal
    for _ in range(3):
        model.train_on_batch(3 + draw(size=(7, 6, 5, 3)), draw(size=(7, 2)))
    return model.get_weights()


kernel, asked = tf.compat.v1.nn.fused_batch_norm, []


def counted(*arguments, **options):
    asked.append(options)
    return kernel(*arguments, **options)


tf.compat.v1.nn.fused_batch_norm = counted
plain = trained()
assert not asked
networks.fuse_normalization()
for one, other in zip(plain, trained(), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
assert asked
"""


@pytest.mark.end_to_end
def test_fused_normalization_trains_as_keras_does():
    """In a process of its own, for it cannot be undone."""
    subprocess.run(
        [
            sys.executable,
            "-c",
            FUSED_AGAINST_KERAS,
            str(BENCHMARKS / "evidence"),
        ],
        check=True,
    )
