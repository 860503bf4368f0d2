import keras
import numpy as np
import pytest
import scipy.stats

import keras_lficam
from keras_lficam import metrics
from keras_lficam.backbones import cifar


def batch(*rows):
    """Makes `(1, H, W, 1)` of the rows of one image."""
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


@pytest.mark.parametrize(
    ("maps", "masks", "share"),
    [
        ([4, 1, 3, 2], [1, 1, 0, 0], 0.5),
        ([4, 1, 3, 2], [1, 0, 1, 0], 1),
        ([4, 1, 3, 2], [0, 1, 0, 1], 0),
        ([4, 1, 3, 2], [1, 1, 1, 1], 1),
        ([4, 1, 3, 2], [0, 0, 0, 0], 0),
        # Of two pixels one is 4; one of the three of 0, of which one is inside.
        ([4, 0, 0, 0], [1, 1, 0, 0], (1 + 1 / 3) / 2),
        ([4, 0, 0, 0], [0, 1, 1, 0], 2 / 3 / 2),
        ([5, 5, 5, 5], [1, 0, 0, 0], 0.25),
    ],
)
def test_relevance_rank_accuracy_by_hand(maps, masks, share):
    actual = metrics.relevance_rank_accuracy(batch(maps), batch(masks))
    np.testing.assert_allclose(actual, [share], rtol=1e-6)


@pytest.mark.parametrize(
    ("maps", "unseen", "share"),
    [
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.3),
        ([4, 3, 0, 0], [0, 0, 1, 1], 0),
        ([0, 0, 5, 0], [0, 0, 1, 1], 1),
        # Of a signed map what speaks against the class leaks, too.
        ([1, 0, -3, 0], [0, 0, 1, 1], 0.75),
        ([2, 2, 2, 2], [0, 0, 0, 1], 0.25),
        ([0, 0, 0, 0], [0, 0, 1, 1], 0),
        ([4, 3, 2, 1], [0, 0, 0, 0], 0),
        ([3e38, 3e38, 3e38, 3e38], [0, 0, 255, 255], 0.5),
    ],
)
def test_leak_by_hand(maps, unseen, share):
    actual = metrics.leak(batch(maps), batch(unseen))
    np.testing.assert_allclose(actual, [share], rtol=1e-6)
    assert not metrics.leak.higher_is_better


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


def test_box_masks_are_an_array_that_takes_a_list_of_images():
    masks = np.repeat(MAP, 3, axis=0) > 0
    boxes = metrics.box_masks(keras.ops.convert_to_tensor(masks))
    assert isinstance(boxes, np.ndarray)
    assert boxes.dtype == "float32"
    np.testing.assert_array_equal(boxes[[0, 2]], boxes[:2])


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="only TensorFlow has graphs",
)
def test_metrics_refuse_tensors_of_a_graph():
    import tensorflow as tf

    spec = tf.TensorSpec((1, 3, 4, 1), "float32")
    run = tf.function(metrics.pointing_game, input_signature=[spec, spec])
    with pytest.raises(TypeError, match="`maps` must be an array that holds"):
        run(MAP, MAP)
    with pytest.raises(TypeError, match="`maps`.*KerasTensor"):
        metrics.pointing_game(keras.Input((3, 4, 1)), MAP)


BOX = batch([0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0])


@pytest.mark.parametrize(
    ("maps", "threshold", "overlap"),
    [
        (BOX, 0.2, 1),
        # The box of 3x3 at 0.4 holds the object's 4 pixels, that of 2x1 at
        # 0.8 two of them.
        (batch([4, 4, 4, 0, 0], [0, 8, 4, 0, 0], [0, 10, 0, 0, 0]), 0.4, 4 / 9),
        (batch([4, 4, 4, 0, 0], [0, 8, 4, 0, 0], [0, 10, 0, 0, 0]), 0.8, 2 / 4),
        (batch([4, 4, 4, 0, 0], [0, 8, 4, 0, 0], [0, 10, 0, 0, 0]), 1, 1 / 4),
        # The same on another scale.
        (batch([1, 1, 1, -1, -1], [-1, 3, 1, -1, -1], [-1, 4, -1, -1, -1]),
         0.4, 4 / 9),
        # The largest region counts, not the brightest one: the first column.
        (batch([5, 0, 0, 0, 0], [5, 0, 9, 0, 0], [5, 0, 9, 0, 0]), 0.2, 0),
        # Corners touch: one region, whose box is that of the object.
        (batch([0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]), 0.2, 1),
        # Of two regions as large as each other the first counts.
        (batch([0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 1, 0, 0, 1]), 0.2, 2 / 4),
        (batch([0, 0, 0, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 0]), 0.2, 0),
        # Nothing bright, no box.
        (0 * BOX, 0.2, 0),
        (0 * BOX + 1, 0.2, 0),
    ],
)  # fmt: skip
def test_localization_iou_by_hand(maps, threshold, overlap):
    actual = metrics.localization_iou(maps, BOX, threshold=threshold)
    assert actual.dtype == "float32"
    np.testing.assert_allclose(actual, [overlap], rtol=1e-6)


def test_the_true_box_is_around_all_of_the_mask():
    masks = batch([0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1])
    maps = batch([0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0])
    for scale in (1, 255):
        actual = metrics.localization_iou(maps, scale * masks)
        np.testing.assert_allclose(actual, [4 / 8])
    np.testing.assert_array_equal(metrics.localization_iou(maps, 0 * masks), 0)
    # An object without a box has none, also where the map has none.
    actual = metrics.localization_iou(0 * maps, 0 * masks)
    np.testing.assert_array_equal(actual, [0])


def test_boxes_apart_in_rows_and_columns_do_not_overlap():
    maps, masks = np.zeros((2, 1, 5, 5, 1))
    maps[0, 0, 0] = masks[0, 4, 4] = 1
    np.testing.assert_array_equal(metrics.localization_iou(maps, masks), [0])


def test_box_accuracy_by_hand():
    # Boxes of 1x4, 1x2, 1x1 pixels against one of 1x2: IoU 0.5, 1 and 0.5.
    maps = batch([0.2, 1.0, 0.6, 0.2, 0.0])
    masks = batch([0, 1, 1, 0, 0])
    steps = [0.1, 0.5, 0.9]
    for iou, right in [
        (0.5, [1, 1, 1]),
        (0.51, [0, 1, 0]),
        (1, [0, 1, 0]),
    ]:
        actual = metrics.box_accuracy(maps, masks, thresholds=steps, iou=iou)
        np.testing.assert_array_equal(actual, [right])
    # By default 0.01 to 1.00: the box is right from 0.21 to 0.60.
    actual = metrics.box_accuracy(maps, masks, iou=0.6)
    assert actual.shape == (1, 100)
    np.testing.assert_array_equal(np.flatnonzero(actual[0]), np.arange(20, 60))


def test_max_box_accuracy_takes_one_threshold_for_all_images():
    # Each image has a threshold that is right, no threshold is right for all.
    answers = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 0]])
    actual = metrics.max_box_accuracy(answers)
    np.testing.assert_array_equal(actual, [0, 1, 1, 0])
    assert actual.dtype == "float32"
    # Of equal ones the first.
    actual = metrics.max_box_accuracy(np.eye(3))
    np.testing.assert_array_equal(actual, [1, 0, 0])
    for wrong in (np.ones(3), np.ones((0, 3)), np.ones((3, 0))):
        with pytest.raises(ValueError, match=r"\(images, thresholds\)"):
            metrics.max_box_accuracy(wrong)
    with pytest.raises(ValueError, match="finite"):
        metrics.max_box_accuracy(np.full((2, 2), np.nan))


@pytest.mark.parametrize(
    ("maps", "others", "overlap"),
    [
        (batch([0, 1, 1, 0]), batch([0, 1, 1, 0]), 1),
        (batch([0, 1, 1, 0]), batch([0, 0, 1, 1]), 1 / 3),
        (batch([0, 1, 1, 0]), batch([0, 5, 2, 1]), 2 / 2),
        (batch([0, 1, 1, 0]), batch([0, 5, 1, 1]), 1 / 2),
        (batch([1, 0], [0, 0]), batch([1, 1], [1, 0]), 1 / 3),
        (batch([0, 1]), batch([3, 3]), 0),
        (batch([1, 1]), batch([3, 3]), 0),
        (batch([0, 0]), batch([0, 0]), 0),
    ],
)
def test_map_iou_by_hand(maps, others, overlap):
    for pair in ((maps, others), (others, maps)):
        actual = metrics.map_iou(*pair)
        assert actual.dtype == "float32"
        np.testing.assert_allclose(actual, [overlap], rtol=1e-6)


def test_map_iou_at_other_thresholds():
    maps, others = batch([0, 2, 6, 10]), batch([0, 6, 10, 2])
    for threshold, overlap in [(0.1, 1), (0.4, 1 / 3), (0.6, 1 / 3), (1, 0)]:
        actual = metrics.map_iou(maps, others, threshold=threshold)
        np.testing.assert_allclose(actual, [overlap], rtol=1e-6)


def test_disjoint_boxes_do_not_overlap_row_by_row():
    # Of 15 rows four have a bright pixel in a map. The mean over the rows,
    # with 1 for those that have none, would be 11 / 15 = 0.73.
    maps, others = np.zeros((2, 1, 15, 15, 1), "float32")
    maps[0, 2:4, 3:8] = 1
    others[0, 9:11, 3:8] = 1
    np.testing.assert_array_equal(metrics.map_iou(maps, others), [0])
    # In the same rows, beside each other, too.
    others = np.roll(maps, 6, axis=2)
    np.testing.assert_array_equal(metrics.map_iou(maps, others), [0])
    # A third of a box, not the mean of its rows: 5 / (10 + 10 - 5).
    others = np.roll(maps, 1, axis=1)
    np.testing.assert_allclose(metrics.map_iou(maps, others), [1 / 3])


@pytest.mark.parametrize(
    ("maps", "others", "correlation"),
    [
        (batch([1, 2, 3]), batch([10, 20, 1000]), 1),
        (batch([1, 2, 3]), batch([3, 2, 1]), -1),
        # 1 - 6 (0 + 0 + 1 + 1) / (4 (16 - 1))
        (batch([1, 2, 3, 4]), batch([1, 2, 4, 3]), 0.8),
        # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, variances 1.5, 2.
        (batch([0, 0, 9]), batch([1, 2, 3]), 1.5 / np.sqrt(1.5 * 2)),
        (batch([0, 0, 0]), batch([1, 2, 3]), 0),
        (batch([5, 5, 5]), batch([5, 5, 5]), 0),
    ],
)
def test_rank_correlation_by_hand(maps, others, correlation):
    for pair in ((maps, others), (others, maps)):
        actual = metrics.rank_correlation(*pair)
        assert actual.dtype == "float32"
        np.testing.assert_allclose(actual, [correlation], rtol=1e-6)


def test_rank_correlation_is_spearmans(rng):
    maps, others = rng.integers(0, 9, (2, 6, 7, 5, 1)).astype("float32")
    others = np.maximum(others - 4, 0)  # Many equal ones.
    maps[4] = others[4]
    maps[5] = rng.uniform(0, 1, maps[5].shape)
    right = [
        scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic
        for one, other in zip(maps, others, strict=True)
    ]
    actual = metrics.rank_correlation(maps, others)
    np.testing.assert_allclose(actual, right, rtol=1e-5)
    assert actual[4] == 1


def test_energy_of_maps_whose_sum_is_no_float32():
    huge = 1e38 * (MAP > 0)  # 4e38 in all, of which 2e38 in the mask.
    masks = batch([0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0])
    energy = metrics.energy_pointing_game(huge, masks)
    np.testing.assert_allclose(energy, [0.5], rtol=1e-6)
    # As bright regions they are those of ones.
    for low, high in ((0, 1e38), (-3e38, 3e38)):
        spread = np.where(MAP > 0, high, low)
        np.testing.assert_array_equal(
            metrics.localization_iou(spread, masks),
            metrics.localization_iou(MAP > 0, masks),
        )
        np.testing.assert_array_equal(metrics.map_iou(spread, MAP > 0), [1])


def test_energy_is_not_negative():
    with pytest.raises(ValueError, match=r"`maps`.*non-neg.*\[0\].*maximum"):
        metrics.energy_pointing_game(MAP - 1, MAP)


def test_metrics_give_arrays():
    tensor = keras.ops.convert_to_tensor(MAP)
    for metric in PAIRS:
        values = metric(tensor, tensor)
        assert isinstance(values, np.ndarray)
        assert values.dtype == "float32"


PAIRS = [
    metrics.pointing_game,
    metrics.energy_pointing_game,
    metrics.relevance_rank_accuracy,
    metrics.leak,
    metrics.localization_iou,
    metrics.box_accuracy,
    metrics.map_iou,
    metrics.rank_correlation,
]


@pytest.mark.parametrize("metric", PAIRS)
def test_every_image_has_its_own_value(metric, rng):
    maps = rng.uniform(0, 1, (5, 6, 7, 1)).astype("float32")
    others = rng.uniform(0, 1, (5, 6, 7, 1)) > 0.8
    others[0] |= maps[0] == maps[0].max()
    every = metric(maps, others)
    assert np.ptp(every) > 0
    for index in range(5):
        one = metric(maps[index : index + 1], others[index : index + 1])
        np.testing.assert_array_equal(one[0], every[index])
    tensors = (keras.ops.convert_to_tensor(each) for each in (maps, others))
    np.testing.assert_array_equal(metric(*tensors), every)


@pytest.mark.parametrize("metric", PAIRS)
def test_half_precision_maps_are_taken(metric, rng):
    maps = rng.integers(0, 5, (2, 6, 7, 1)) / 4
    others = rng.uniform(0, 1, (2, 6, 7, 1)) > 0.8
    right = metric(maps, others)
    for dtype in ("float16", "bfloat16"):
        tensor = keras.ops.convert_to_tensor(maps, dtype)
        np.testing.assert_array_equal(metric(tensor, others), right)


@pytest.mark.parametrize("metric", PAIRS)
def test_wrong_maps_are_refused(metric):
    for wrong in (
        np.ones((1, 3, 5, 1)),
        np.ones((3, 4)),
        np.ones((1, 3, 4, 3)),
    ):
        with pytest.raises(ValueError, match=r"same shape.*\(1, 3, 4, 1\)"):
            metric(MAP, wrong)
    with pytest.raises(ValueError, match="same shape"):
        metric(MAP[0], MAP[0])
    for pair in ((MAP / np.nan, MAP), (MAP, MAP / np.nan)):
        with pytest.raises(ValueError, match=r"NaN.*\[0\].*To fix this"):
            metric(*pair)
    for infinite in (np.where(MAP > 0, np.inf, 0), -np.inf * (MAP + 1)):
        for pair in ((infinite, MAP), (MAP, infinite)):
            with pytest.raises(ValueError, match="must be finite"):
                metric(*pair)
    for wrong in (MAP + 1j, MAP.astype(str), MAP.astype("M8[s]")):
        with pytest.raises(TypeError, match="`maps` must hold real numbers"):
            metric(wrong, MAP)
        with pytest.raises(TypeError, match="` must hold real numbers"):
            metric(MAP, wrong)
    masked = np.ma.masked_greater(MAP, 1)
    for wrong in (None, "map", {}, [[1], [2, 3]], MAP.astype(object), masked):
        with pytest.raises(TypeError, match="`maps` must be a.*To fix this"):
            metric(wrong, MAP)
    for empty in (MAP[:0], MAP[:, :0], MAP[:, :, :0]):
        with pytest.raises(ValueError, match="`maps`.*at least one.*fix this"):
            metric(empty, empty)


@pytest.mark.parametrize("metric", [*PAIRS, metrics.box_masks])
def test_sparse_maps_are_refused(metric):
    import scipy.sparse

    flat = scipy.sparse.coo_array(MAP[0, ..., 0])
    with pytest.raises(TypeError, match="` must be a dense.*sparse.*To fix"):
        metric(*[flat] * (1 if metric is metrics.box_masks else 2))


def test_box_masks_refuse_what_is_no_mask():
    for wrong in (MAP[0], MAP[:0], np.ones((1, 3, 4, 3))):
        with pytest.raises(ValueError, match="`masks` must have shape"):
            metrics.box_masks(wrong)
    with pytest.raises(ValueError, match="`masks` must be finite"):
        metrics.box_masks(MAP / np.nan)


def test_wrong_thresholds_are_refused():
    with pytest.raises(ValueError, match="`thresholds` must hold at least"):
        metrics.box_accuracy(MAP, MAP, thresholds=[])
    for wrong in (0, -0.1, 1.1, np.nan, "half", None, True, 1j):
        with pytest.raises(ValueError, match="`threshold` must be greater"):
            metrics.localization_iou(MAP, MAP, threshold=wrong)
        with pytest.raises(ValueError, match="`threshold` must be greater"):
            metrics.map_iou(MAP, MAP, threshold=wrong)
        with pytest.raises(ValueError, match="`thresholds` must be greater"):
            metrics.box_accuracy(MAP, MAP, thresholds=[0.5, wrong])
        with pytest.raises(ValueError, match="`iou` must be greater"):
            metrics.box_accuracy(MAP, MAP, iou=wrong)


def flat():
    return keras_lficam.build(cifar.resnet(8), 3, input_shape=(16, 16, 3))


def nested():
    inputs = keras.Input((16, 16, 3))
    inner = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3), *head()]
    )
    return keras.Model(inputs, inner(keras.layers.Rescaling(1 / 255)(inputs)))


def sequential():
    # A seed in the layer is no seed of the copy, and one number is a kernel.
    seeded = keras.initializers.HeNormal(seed=3)
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(1, 3, kernel_initializer=seeded),
            keras.layers.Conv2D(1, 1),
            *head(),
        ]
    )


def head():
    return [
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    ]


@pytest.mark.parametrize("make", [flat, nested, sequential])
def test_randomized_model_shares_nothing_and_follows_its_seed(make, rng):
    images = rng.uniform(0, 1, (2, 16, 16, 3))
    model = make()
    for variable in model.weights:  # As after training.
        variable.assign(keras.ops.add(variable, 0.125))
    before = model.get_weights()
    copy = metrics.randomized(model, seed=1)
    same = metrics.randomized(model, seed=1)
    other = metrics.randomized(model, seed=2)
    for variable, kept in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable, kept)
    kernels = 0
    for old, *new in zip(
        model.weights, copy.weights, same.weights, other.weights, strict=True
    ):
        assert len({id(old), *map(id, new)}) == 4
        assert len({(each.name, each.shape) for each in (old, *new)}) == 1
        is_kernel = old.name == "kernel"
        old, one, again, another = map(keras.ops.convert_to_numpy, (old, *new))
        np.testing.assert_array_equal(one, again)
        if is_kernel:
            kernels += 1
            assert (one != old).all()
            assert (one != another).all()
        else:  # Biases and statistics: as they were before they learned.
            np.testing.assert_allclose(one, old - 0.125, atol=1e-6)
    assert kernels > 1
    answers, learned = (
        each.predict(images, verbose=0) for each in (copy, model)
    )
    assert np.abs(answers - learned).max() > 1e-4


def test_randomized_kernels_are_glorots():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(64, 3)]
    )
    kernel, bias = metrics.randomized(model, seed=0).get_weights()
    limit = np.sqrt(6 / (3 * 3 * 3 + 3 * 3 * 64))
    assert 0.95 * limit < kernel.max() <= limit
    assert -limit <= kernel.min() < -0.95 * limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.05)
    np.testing.assert_array_equal(bias, np.zeros(64))


@pytest.mark.parametrize("make", [flat, nested, sequential])
def test_layers_are_randomized_from_the_top(make):
    model = make()
    # As after training: nothing is as it began.
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(variable + 0.5)
    before = model.get_weights()
    target = metrics.randomized(model, seed=4)
    ends = [np.asarray(weight) for weight in target.weights]
    left, copies, names = None, set(), []
    for name, copy in metrics.randomized_from_top(model, seed=4):
        found = copy.get_weights()
        as_new = [
            np.array_equal(one, end)
            for one, end in zip(found, ends, strict=True)
        ]
        as_before = [
            np.array_equal(one, old)
            for one, old in zip(found, before, strict=True)
        ]
        assert all(
            new or old for new, old in zip(as_new, as_before, strict=True)
        )
        still = sum(not new for new in as_new)
        assert left is None or still < left
        left = still
        copies.add(id(copy))
        names.append(name)
    assert left == 0
    assert len(copies) == 1
    assert len(names) == len(set(names)) > 2
    for one, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, old)


def test_the_last_layer_is_randomized_first():
    """Also where layers lie within another, in the middle of a model."""
    inputs = keras.Input((8, 8, 3))
    inner = keras.Sequential(
        [
            keras.layers.Conv2D(4, 1, name="second"),
            keras.layers.Conv2D(4, 1, name="third"),
        ]
    )
    x = keras.layers.Conv2D(4, 1, name="first")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(inner(x))
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(x))
    names = [name for name, _ in metrics.randomized_from_top(model, seed=0)]
    assert names == ["last", "third", "second", "first"]
    ours = [name for name, _ in metrics.randomized_from_top(flat(), seed=0)]
    assert ours[0] == "classifier"
    with pytest.raises(TypeError, match=r"keras\.Model"):
        next(metrics.randomized_from_top("model", seed=0))


def test_map_that_ignores_the_weights_fails_the_sanity_check(rng):
    model = flat()
    images = rng.uniform(0, 255, (3, 16, 16, 3))
    random = metrics.randomized(model, seed=0)
    explain = keras_lficam.explainers.AttentionMap
    values = metrics.rank_correlation(
        explain(model)(images), explain(random)(images)
    )
    assert np.abs(values).max() < 0.999
    edges = images.mean(axis=-1, keepdims=True)  # Whatever the model.
    np.testing.assert_array_equal(metrics.rank_correlation(edges, edges), 1)


def test_randomized_refuses_what_is_no_model():
    with pytest.raises(TypeError, match=r"keras\.Model.*'model\.keras'"):
        metrics.randomized("model.keras", seed=0)
    for wrong in (-1, 0.5, None, True):
        error = ValueError if wrong == -1 else TypeError
        with pytest.raises(error, match="`seed` must be an integer"):
            metrics.randomized(sequential(), seed=wrong)
