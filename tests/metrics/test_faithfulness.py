import keras
import numpy as np
import pytest
from scipy import stats

import keras_lficam
from keras_lficam import metrics
from keras_lficam.backbones import cifar
from keras_lficam.classifier import CompiledFunction

EVERY = [
    metrics.average_drop,
    metrics.average_gain,
    metrics.increase_in_confidence,
    metrics.deletion_curve,
    metrics.deletion_auc,
    metrics.insertion_curve,
    metrics.insertion_auc,
    metrics.symmetric_relevance_gain,
]
# And what asks for logits.
ASKING = [
    *EVERY,
    metrics.infidelity,
    metrics.road,
    metrics.single_deletion,
]
SIZE = (6, 5)


def colors(size, pooling=keras.layers.GlobalAveragePooling2D):
    """A model whose answers are the mean, or the brightest, of each color."""
    return keras.Sequential([keras.Input((*size, 3)), pooling()])


def row(*values):
    """Makes `(1, 1, W, 1)` of the pixels of one row."""
    return np.array(values, "float32").reshape(1, 1, -1, 1)


def gray_row(*values):
    return np.repeat(row(*values), 3, axis=-1)


class Net:
    """A softmax of weighted pixels, in Keras and, a second time, in NumPy."""

    def __init__(self, rng, classes=4):
        self.kernel = rng.normal(0, 0.004, (6 * 5 * 3, classes))
        self.bias = rng.normal(0, 0.3, classes)

    def build(self, activation="softmax", **options):
        model = keras.Sequential(
            [
                keras.Input((*SIZE, 3)),
                keras.layers.Flatten(),
                keras.layers.Dense(
                    len(self.bias), activation=activation, **options
                ),
            ]
        )
        model.set_weights([self.kernel, self.bias])
        return model

    def __call__(self, images):
        flat = np.asarray(images, "float64").reshape(len(images), -1)
        grown = np.exp(flat @ self.kernel + self.bias)
        return grown / grown.sum(axis=1, keepdims=True)


@pytest.fixture
def rng():
    # With it some confidences rise and some drop.
    return np.random.default_rng(3)


@pytest.fixture
def net(rng):
    return Net(rng)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (5, *SIZE, 3), dtype="uint8")


@pytest.fixture
def maps(rng, images):
    maps = rng.uniform(0, 1, (len(images), *SIZE, 1)).astype("float32")
    maps[:, 4:] = 0  # As a ReLU leaves it.
    return maps


# Definitions written a second time, one image after another.


def blurred(image):
    """Gaussian of 5 pixels, 11 taps, beyond the edges the mirrored image."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 5**2))
    taps /= taps.sum()
    out = image.astype("float64")
    for axis in (0, 1):
        out = np.moveaxis(out, axis, 0)
        padded = np.pad(out, [(5, 5), (0, 0), (0, 0)], mode="symmetric")
        out = sum(
            tap * padded[shift : shift + len(out)]
            for shift, tap in enumerate(taps)
        )
        out = np.moveaxis(out, 0, axis)
    return out


def curve(net, image, saliency, number, before, after, steps):
    pixels = sorted(
        np.ndindex(saliency.shape[:2]), key=lambda place: -saliency[place][0]
    )
    changed = before.astype("float64").copy()
    values = [net(changed[None])[0, number]]
    done = 0
    for step in range(1, steps + 1):
        until = round(step * len(pixels) / steps)
        for place in pixels[done:until]:
            changed[place] = after[place]
        done = until
        values.append(net(changed[None])[0, number])
    return np.array(values)


def expected(metric, net, images, maps, numbers, steps):
    values = []
    for image, saliency, number in zip(images, maps, numbers, strict=True):
        spread = (saliency - saliency.min()) / np.ptp(saliency)
        whole, shown = net([image, image * spread])[:, number]
        mean = np.broadcast_to(image.mean(axis=(0, 1)), image.shape)
        kind, _, what = metric.__name__.partition("_")
        if metric is metrics.average_drop:
            values.append(max(0, whole - shown) / whole)
        elif metric is metrics.average_gain:
            values.append(max(0, shown - whole) / (1 - whole))
        elif kind == "increase":
            values.append(whole < shown)
        else:
            ends = (image, mean)
            if kind == "insertion":
                ends = (blurred(image), image)
            points = curve(net, image, saliency, number, *ends, steps)
            if kind == "symmetric":
                points = (
                    curve(net, image, -saliency, number, *ends, steps) - points
                )
            area = sum(
                (a + b) / 2
                for a, b in zip(points[:-1], points[1:], strict=True)
            )
            values.append(points if what == "curve" else area / steps)
    return np.array(values)


@pytest.mark.parametrize("metric", EVERY)
@pytest.mark.parametrize("steps", [5, 10])
def test_metrics_equal_their_rewrite(metric, steps, net, images, maps):
    options = {}
    if metric.__name__.startswith(("deletion", "insertion", "symmetric")):
        options["steps"] = steps
    seen = set()
    for classes in (None, 0, [3, 0, 1, 1, 2]):
        numbers = net(images).argmax(axis=1) if classes is None else classes
        numbers = np.broadcast_to(numbers, len(images))
        actual = metric(net.build(), images, maps, classes, **options)
        right = expected(metric, net, images, maps, numbers, steps)
        assert actual.dtype == "float32"
        np.testing.assert_allclose(actual, right, rtol=1e-5, atol=1e-7)
        seen |= set(np.ravel(right))
    assert len(seen) > 1


def test_defect_average_drop_not_divided_by_the_confidence():
    # The model answers 0.8 to the image and 0.2 to a quarter of it.
    actual = metrics.average_drop(
        colors((1, 4)),
        gray_row(0.8, 0.8, 0.8, 0.8),
        row(1, 0, 0, 0),
        activation="linear",
    )
    np.testing.assert_allclose(actual, [0.75], rtol=1e-6)  # Not 0.6.


def test_confidence_that_rises_is_no_drop_but_an_increase():
    images = np.concatenate([gray_row(-0.2, 0.6), gray_row(0.2, 0.6)])
    maps = np.concatenate([row(0, 1), row(0, 1)])
    given = (colors((1, 2)), images, maps, 0)
    actual = metrics.average_drop(*given, activation="linear")
    np.testing.assert_allclose(actual, [0, 0.25], rtol=1e-6)
    actual = metrics.increase_in_confidence(*given, activation="linear")
    np.testing.assert_array_equal(actual, [1, 0])
    # From 0.2 to 0.3, of the 0.8 that were left.
    actual = metrics.average_gain(*given, activation="linear")
    np.testing.assert_allclose(actual, [0.125, 0], rtol=1e-6)


def test_nothing_is_gained_by_a_model_that_is_sure():
    given = colors((1, 2)), gray_row(1, 1), row(0, 1)
    actual = metrics.average_gain(*given, activation="linear")
    np.testing.assert_array_equal(actual, [0])


def test_nothing_drops_from_a_confidence_of_zero():
    given = colors((1, 2)), gray_row(0, 0), row(0, 1)
    actual = metrics.average_drop(*given, activation="linear")
    np.testing.assert_array_equal(actual, [0])
    actual = metrics.increase_in_confidence(*given, activation="linear")
    np.testing.assert_array_equal(actual, [0])


def test_maps_are_stretched_and_constant_ones_show_nothing():
    image = gray_row(0.1, 0.2, 0.3)
    for maps, shown in [
        (row(0, 0.5, 1), 0.4),  # 0.2 * 0.5 + 0.3 * 1
        (row(3, 4, 5), 0.4),
        (row(-1, 0, 1), 0.4),
        (row(1, 1, 1), 0),
    ]:
        actual = metrics.average_drop(
            colors((1, 3)), image, maps, activation="linear"
        )
        np.testing.assert_allclose(actual, [1 - shown / 0.6], rtol=1e-5)


def test_pixels_go_in_order_of_falling_saliency():
    # The mean of the row is 0.5, the order 0.9, 0.1, 0.8, 0.2.
    image, maps = gray_row(0.9, 0.8, 0.1, 0.2), row(4, 2, 3, 1)
    brightest = colors((1, 4), keras.layers.GlobalMaxPooling2D)
    options = {"activation": "linear", "steps": 4}
    curve = metrics.deletion_curve(brightest, image, maps, **options)
    np.testing.assert_allclose(curve, [[0.9, 0.8, 0.8, 0.5, 0.5]], rtol=1e-6)
    area = metrics.deletion_auc(brightest, image, maps, **options)
    np.testing.assert_allclose(area, [(0.45 + 0.8 + 0.8 + 0.5 + 0.25) / 4])
    # A better map drops sooner.
    better = metrics.deletion_auc(brightest, image, image[..., :1], **options)
    np.testing.assert_allclose(better, [(0.45 + 0.8 + 0.5 + 0.5 + 0.25) / 4])


def test_equal_pixels_go_in_the_order_of_reading():
    place = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    place.set_weights([np.array([[0.1], [0.2], [0.3], [0.4]])])
    image = np.array([1, 0, 0, 1], "float32").reshape(1, 2, 2, 1)
    maps = np.array([5, 7, 5, 5], "float32").reshape(1, 2, 2, 1)
    curve = metrics.deletion_curve(
        place, image, maps, 1, activation="linear", steps=4
    )
    # The second becomes 0.5, then the first, the third and the fourth.
    np.testing.assert_allclose(curve, [[0.5, 0.6, 0.55, 0.7, 0.5]], rtol=1e-6)


def test_default_steps_are_1792_pixels_at_224():
    image = np.zeros((1, 224, 224, 1), "float32")
    image[:, :8] = 1  # 1792 pixels.
    model = keras.Sequential(
        [keras.Input((224, 224, 1)), keras.layers.GlobalMaxPooling2D()]
    )
    for maps, before in [(image, 1), (1 - image, 28)]:
        curve = metrics.deletion_curve(model, image, maps, activation="linear")
        assert curve.shape == (1, 29)
        right = np.where(np.arange(29) < before, 1, 1 / 28)
        np.testing.assert_allclose(curve[0], right, rtol=1e-5)


def test_steps_that_do_not_divide_the_pixels_are_weighed_by_their_size():
    # Steps of 3 / 2 pixels: two pixels go at once (1.5 is rounded to even),
    # then one.
    image = gray_row(0.9, 0.6, 0)
    brightest = colors((1, 3), keras.layers.GlobalMaxPooling2D)
    options = {"activation": "linear", "steps": 2}
    maps = image[..., :1]
    curve = metrics.deletion_curve(brightest, image, maps, **options)
    np.testing.assert_allclose(curve, [[0.9, 0.5, 0.5]], rtol=1e-6)
    area = metrics.deletion_auc(brightest, image, maps, **options)
    np.testing.assert_allclose(area, [0.7 * 2 / 3 + 0.5 / 3], rtol=1e-6)
    # More steps than pixels are as good as one for each.
    fine = {"activation": "linear", "steps": 300}
    one = {"activation": "linear", "steps": 3}
    np.testing.assert_allclose(
        metrics.deletion_auc(brightest, image, maps, **one),
        [(0.45 + 0.6 + 0.5 + 0.25) / 3],
        rtol=1e-6,
    )
    curve = metrics.deletion_curve(brightest, image, maps, **fine)
    np.testing.assert_allclose(
        curve[0, [0, 100, 200, 300]], [0.9, 0.6, 0.5, 0.5]
    )


def test_insertion_begins_blurred_and_ends_at_the_image(net, images, maps):
    curve = metrics.insertion_curve(net.build(), images, maps, 1)
    start = net([blurred(image) for image in images])[:, 1]
    np.testing.assert_allclose(curve[:, 0], start, rtol=1e-5)
    np.testing.assert_allclose(curve[:, -1], net(images)[:, 1], rtol=1e-5)
    # An even image stays as it is, up to the edges.
    even = np.full((1, *SIZE, 3), 200, "uint8")
    curve = metrics.insertion_curve(net.build(), even, maps[:1], 1)
    np.testing.assert_allclose(curve, net(even)[0, 1], rtol=1e-5)


def test_relevance_gain_by_hand_and_of_the_map_turned_around():
    # The mean of the row is 0.5. Brightest first: 0.9, 0.8, 0.5, 0.5, 0.5;
    # darkest first (0.1, 0.2, 0.8): 0.9, 0.9, 0.9, 0.9, 0.5.
    image = gray_row(0.9, 0.8, 0.1, 0.2)
    brightest = colors((1, 4), keras.layers.GlobalMaxPooling2D)
    options = {"activation": "linear", "steps": 4}
    by_hand = (0.9 + 0.9 + 0.9 - 0.8 - 0.5 - 0.5) / 4  # The ends cancel.
    for sign in (1, -1):
        actual = metrics.symmetric_relevance_gain(
            brightest, image, sign * image[..., :1], **options
        )
        np.testing.assert_allclose(actual, [sign * by_hand], rtol=1e-6)


def test_relevance_gain_of_a_map_of_one_value_is_zero(net, images):
    maps = np.full((len(images), *SIZE, 1), 0.3)
    actual = metrics.symmetric_relevance_gain(net.build(), images, maps)
    np.testing.assert_array_equal(actual, np.zeros(len(images)))


def watched_sizes(monkeypatch):
    """Lists how many images the models are given at a time."""
    run, sizes = CompiledFunction.run, []

    def watched(self, images):
        sizes.append(len(images))
        return run(self, images)

    monkeypatch.setattr(CompiledFunction, "run", watched)
    return sizes


@pytest.mark.parametrize("metric", ASKING)
def test_chunks_bound_the_batch_and_change_nothing(
    metric, net, images, maps, monkeypatch
):
    model = net.build()
    right = metric(model, images, maps)
    sizes = watched_sizes(monkeypatch)
    for chunk_size in (1, 3, 1000):
        sizes.clear()
        actual = metric(model, images, maps, chunk_size=chunk_size)
        np.testing.assert_allclose(actual, right, rtol=1e-5)
        assert max(sizes) <= chunk_size
    alone = [
        metric(model, images[i : i + 1], maps[i : i + 1]) for i in range(5)
    ]
    np.testing.assert_allclose(np.concatenate(alone), right, rtol=1e-5)


def test_no_more_passes_than_the_definition_takes(
    net, images, maps, monkeypatch
):
    model = net.build()
    sizes = watched_sizes(monkeypatch)
    for metric, passes in [
        (metrics.average_drop, 2),
        (metrics.increase_in_confidence, 2),
        (metrics.deletion_curve, 29),
        (metrics.insertion_auc, 29),
        (metrics.symmetric_relevance_gain, 58),
        (metrics.average_gain, 2),
        (metrics.road, 8),
        (metrics.infidelity, 65),
        (metrics.single_deletion, 17),
    ]:
        # To find the class, where the whole image is not asked otherwise.
        for classes, more in [(0, 0), (None, passes in (8, 29, 58))]:
            sizes.clear()
            metric(model, images, maps, classes)
            assert sum(sizes) == len(images) * (passes + more)


def test_a_model_is_compiled_once(images, maps):
    calls = []

    class Watched(keras.layers.Layer):
        def call(self, x):
            calls.append(1)
            return x

    x = inputs = keras.Input((*SIZE, 3))
    for layer in (Watched(), keras.layers.Flatten()):
        x = layer(x)
    outputs = keras.layers.Dense(3, activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    for metric in ASKING:
        metric(model, images, maps, chunk_size=5)
    calls.clear()
    for metric in ASKING:
        metric(model, images, maps, chunk_size=5)
    compiled = keras.backend.backend() != "torch"
    assert bool(calls) != compiled


def nested(net):
    """The net in a model, in a Sequential model, in a model."""
    inner = net.build()
    middle = keras.Sequential([keras.Input((*SIZE, 3)), inner])
    inputs = keras.Input((*SIZE, 3))
    return keras.Model(inputs, middle(keras.layers.Identity()(inputs)))


def with_more_outputs(net):
    flat = net.build()
    other = keras.layers.GlobalAveragePooling2D()(flat.inputs[0])
    return keras.Model(
        flat.inputs[0], {"another": other, "predictions": flat.outputs[0]}
    )


def in_a_dict(net):
    flat = net.build()
    return keras.Model(flat.inputs[0], {"scores": flat.outputs[0]})


def any_size(net):
    flat = net.build()
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, flat(keras.layers.Reshape((*SIZE, 3))(inputs)))


@pytest.mark.parametrize("metric", ASKING)
def test_nested_models_answer_as_flat_ones(metric, net, images, maps):
    right = metric(net.build(), images, maps)
    for make in (nested, with_more_outputs, in_a_dict, any_size):
        actual = metric(make(net), images, maps)
        np.testing.assert_allclose(actual, right, rtol=1e-5)


@pytest.mark.parametrize("metric", EVERY)
def test_softmax_is_applied_once(metric, net, images, maps):
    numbers = net(images).argmax(axis=1)
    right = expected(metric, net, images, maps, numbers, 10)
    options = {}
    if metric.__name__.startswith(("deletion", "insertion", "symmetric")):
        options["steps"] = 10
    for activation, told in [("softmax", None), ("linear", "softmax")]:
        actual = metric(
            net.build(activation), images, maps, activation=told, **options
        )
        np.testing.assert_allclose(actual, right, rtol=1e-5)
    with pytest.raises(ValueError, match="another activation would distort"):
        metric(net.build(), images, maps, activation="softmax")
    with pytest.raises(ValueError, match="To fix this: activation='softmax'"):
        metric(net.build("linear"), images, maps)


def test_sigmoid_of_several_right_classes(net, images, maps):
    actual = metrics.deletion_curve(
        net.build("linear"), images, maps, 2, activation="sigmoid", steps=1
    )
    flat = images.reshape(len(images), -1).astype("float64")
    logits = (flat @ net.kernel + net.bias)[:, 2]
    np.testing.assert_allclose(actual[:, 0], 1 / (1 + np.exp(-logits)), 1e-5)
    inside = metrics.deletion_curve(
        net.build("sigmoid"), images, maps, 2, steps=1
    )
    np.testing.assert_allclose(inside, actual, rtol=1e-5)


@pytest.mark.parametrize("metric", EVERY)
@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [
        ("mixed_float16", 0.005),
        ("float16", 0.005),
        ("mixed_bfloat16", 0.05),
        ("bfloat16", 0.05),
    ],
)
def test_mixed_precision_answers_nearly_as_float32(
    metric, policy, tolerance, net, images, maps
):
    right = metric(net.build(), images, maps, 0)
    keras.config.set_dtype_policy(policy)
    model = net.build()
    assert keras.backend.standardize_dtype(model.outputs[0].dtype) in policy
    actual = metric(model, images, maps, 0)
    assert actual.dtype == "float32"
    np.testing.assert_allclose(actual, right, atol=tolerance)


def test_confidence_that_float16_rounds_to_zero_gives_no_nan():
    # A softmax of 0 and -30 is 1 and 1e-13, below float16.
    model = keras.Sequential(
        [
            keras.Input((1, 2, 3)),
            keras.layers.GlobalAveragePooling2D(dtype="float16"),
            keras.layers.Dense(2, activation="softmax", dtype="float16"),
        ]
    )
    model.set_weights([np.zeros((3, 2)), np.array([0.0, -30.0])])
    given = model, gray_row(1, 2), row(0, 1), 1
    np.testing.assert_array_equal(metrics.average_drop(*given), [0])
    np.testing.assert_array_equal(metrics.deletion_auc(*given), [0])


def test_overflow_is_an_error_not_a_number():
    model = keras.Sequential(
        [
            keras.Input((1, 2, 3)),
            keras.layers.GlobalMaxPooling2D(dtype="float16"),
            keras.layers.Rescaling(1000.0, dtype="float16"),
        ]
    )
    given = model, gray_row(1, 200), row(0, 1)
    with pytest.raises(ValueError, match="finite numbers.*mixed_bfloat16"):
        metrics.increase_in_confidence(*given, activation="linear")


@pytest.mark.slow
def test_models_of_ours_and_their_own_maps():
    model = keras_lficam.build(
        cifar.resnet(8), 3, input_shape=(16, 16, 3), architecture="abn"
    )
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3))
    maps = keras_lficam.explainers.AttentionMap(model)(images)
    weights = model.get_weights()
    drop = metrics.average_drop(model, images, maps, 1)
    spread = (maps - maps.min((1, 2, 3), keepdims=True)) / np.ptp(
        maps, (1, 2, 3), keepdims=True
    )
    whole, shown = (
        model.predict(each, verbose=0)["predictions"][:, 1]
        for each in (images.astype("float32"), images * spread)
    )
    right = np.maximum(0, whole - shown) / whole
    np.testing.assert_allclose(drop, right, atol=1e-5)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("metric", ASKING)
def test_wrong_arguments_are_refused(metric, net, images, maps):
    model = net.build()
    for wrong in (maps[..., 0], maps[:2], maps[:, :3], np.repeat(maps, 3, -1)):
        with pytest.raises(ValueError, match=r"`maps`.*\(5, 6, 5, 1\)"):
            metric(model, images, wrong)
    with pytest.raises(ValueError, match=r"`maps`.*\(1, 6, 5, 1\)"):
        metric(model, images[0], maps)  # One image is a batch of one.
    for wrong in (images[:, :3], images[..., :1], images[:0]):
        with pytest.raises(ValueError, match=r"`images`.*\(batch, 6, 5, 3\)"):
            metric(model, wrong, maps)
    broken = maps.copy()
    broken[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"`maps`.*NaN.*\[3\].*To fix this"):
        metric(model, images, broken)
    dark = images.astype("float32")
    dark[1, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"`images`.*NaN.*\[1\].*To fix this"):
        metric(model, dark, maps)
    for wrong in (maps + 1j, maps.astype(str)):
        with pytest.raises(TypeError, match="`maps` must hold real numbers"):
            metric(model, images, wrong)
    for wrong in (None, "a", [[1], [2, 3]], np.ma.masked_greater(maps, 0.5)):
        with pytest.raises(TypeError, match="`maps` must be.*To fix this"):
            metric(model, images, wrong)
        with pytest.raises(TypeError, match="`images` must be.*To fix this"):
            metric(model, wrong, maps)
    for wrong in (4, -1, [0, 1, 2, 3, 4]):
        with pytest.raises(ValueError, match="between 0 and 3"):
            metric(model, images, maps, wrong)
    with pytest.raises(ValueError, match="one for each of the 5 images"):
        metric(model, images, maps, [0, 1])
    with pytest.raises(TypeError, match="`classes` must hold integers"):
        metric(model, images, maps, 0.5)
    for wrong, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="`chunk_size`"):
            metric(model, images, maps, chunk_size=wrong)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        metric("model.keras", images, maps)


@pytest.mark.parametrize("metric", ASKING)
def test_classes_of_any_integer_type(metric, net, images, maps):
    model = net.build()
    classes = [0, 2, 1, 3, 0]
    expected = metric(model, images, maps, classes)
    for dtype in ("int8", "uint64"):
        actual = metric(model, images, maps, np.array(classes, dtype))
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("metric", EVERY[3:])
def test_wrong_steps_are_refused(metric, net, images, maps):
    for wrong, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="`steps` must be an integer"):
            metric(net.build(), images, maps, steps=wrong)


def square(*values):
    """Makes `(1, 2, 2, 1)` of pixels in the order of reading."""
    return np.array(values, "float32").reshape(1, 2, 2, 1)


# Without a pixel the mean of a color drops by a quarter of what the pixel is
# above it, so that the drops have the order 4, 3, 2, 1.
FALLING = np.repeat(square(0.9, 0.5, 0.3, 0.1), 3, axis=-1)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        (square(4, 3, 2, 1), 1),
        (square(3, 4, 2, 1), 0.8),  # 1 - 6 (1 + 1) / (4 (16 - 1))
        (square(1, 2, 3, 4), -1),
        (square(0.1, -1, -2, -30), 1),  # Signed, and the ranks alone count.
        (square(1, 1, 0, 0), 4 / 20**0.5),  # Ranks 3.5, 3.5, 1.5, 1.5.
        (square(0.1, 0.1, 0.1, 0.1), 0),
    ],
)
def test_single_deletion_by_hand(maps, expected):
    actual = metrics.single_deletion(
        colors((2, 2)), FALLING, maps, activation="softmax", cells=2
    )
    assert actual.dtype == "float32"
    np.testing.assert_allclose(actual, [expected], rtol=1e-6)


def test_single_deletion_adds_up_the_map_in_a_cell():
    """Cells of two columns: 2 + 2 is more than 3 + 0, which has the peak."""
    actual = metrics.single_deletion(
        colors((2, 4)),
        np.repeat(FALLING, 2, axis=2),
        np.array([[2, 2, 3, 0], [1, 1, 0, 0]]).reshape(1, 2, 4, 1),
        activation="softmax",
        cells=2,
    )
    np.testing.assert_allclose(actual, [1], rtol=1e-6)


def test_single_deletion_asks_for_logits_not_for_probabilities():
    """What is red is ten times as green, so that green gains more by it."""
    images = FALLING * np.array([1, 10, 0], "float32")
    model = keras.Sequential(
        [
            keras.Input((2, 2, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Softmax(),
        ]
    )
    maps = square(4, 3, 2, 1)
    without = np.repeat(images, 4, axis=0).reshape(4, 4, 3)
    for pixel in range(4):
        without[pixel, pixel] = images.mean(axis=(1, 2))
    red = model.predict(without.reshape(4, 2, 2, 3), verbose=0)[:, 0]
    assert list(np.argsort(red)) == [3, 2, 1, 0]  # Surer without the first.
    actual = metrics.single_deletion(model, images, maps, 0, cells=2)
    np.testing.assert_allclose(actual, [1], rtol=1e-6)


@pytest.mark.parametrize("classes", [None, 0, [3, 0, 1, 1, 2]])
def test_single_deletion_equals_its_rewrite(classes, net, images, maps):
    # Of 6 rows and 5 columns no four parts are equal: 1.5 and 4.5 are rounded
    # to even.
    rows, columns = [0, 2, 3, 4, 6], [0, 1, 2, 4, 5]
    maps = maps - 0.5

    def logits(image):
        return image.astype("float64").ravel() @ net.kernel + net.bias

    right = []
    for number, (image, one) in enumerate(zip(images, maps, strict=True)):
        whole = logits(image)
        asked = whole.argmax() if classes is None else classes
        asked = np.broadcast_to(asked, len(images))[number]
        drops, sums = [], []
        for top, bottom in zip(rows[:-1], rows[1:], strict=True):
            for left, end in zip(columns[:-1], columns[1:], strict=True):
                cell = slice(top, bottom), slice(left, end)
                changed = image.astype("float64")
                changed[cell] = image.mean(axis=(0, 1))
                drops.append(whole[asked] - logits(changed)[asked])
                sums.append(one[cell].sum())
        right.append(stats.spearmanr(drops, sums).statistic)
    for activation in ("softmax", "sigmoid", "linear"):
        actual = metrics.single_deletion(
            net.build(activation), images, maps, classes
        )
        np.testing.assert_allclose(actual, right, rtol=1e-5)
    # A constant map has no order, though its cells have several sizes.
    actual = metrics.single_deletion(net.build(), images, 0 * maps + 0.1)
    np.testing.assert_array_equal(actual, np.zeros(5))


def test_single_deletion_of_an_image_without_contrast_is_zero():
    brightest = colors((2, 2), keras.layers.GlobalMaxPooling2D)
    actual = metrics.single_deletion(
        brightest,
        np.full((1, 2, 2, 3), 0.5),
        square(4, 3, 2, 1),
        activation="softmax",
        cells=2,
    )
    np.testing.assert_array_equal(actual, [0])


def test_single_deletion_of_no_is_that_of_yes_turned_around(images, maps, rng):
    model = Net(rng, classes=1).build("sigmoid")
    yes, no = (metrics.single_deletion(model, images, maps, c) for c in (1, 0))
    assert np.abs(yes).min() > 0.01
    np.testing.assert_allclose(no, -yes, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_single_deletion_in_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    actual = metrics.single_deletion(
        colors((2, 2)),
        FALLING,
        square(3, 4, 2, 1),
        activation="softmax",
        cells=2,
    )
    np.testing.assert_allclose(actual, [0.8], rtol=1e-6)


def test_single_deletion_refuses_wrong_cells(net, images, maps):
    for wrong, error in ((1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="`cells` must be an integer"):
            metrics.single_deletion(net.build(), images, maps, cells=wrong)
    with pytest.raises(ValueError, match=r"`cells` .* side, 5\. .*To fix"):
        metrics.single_deletion(net.build(), images, maps, cells=6)


def test_single_deletion_refuses_a_model_without_logits(net, images, maps):
    with pytest.raises(ValueError, match="does not show the logits"):
        metrics.single_deletion(
            net.build("linear"), images, maps, activation="linear"
        )
