"""The method against an independent rewrite, on whatever backend is set."""

import functools

import keras
import numpy as np
import pytest
import reference
from gradients import differentiated
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from keras_lficam import layers

FORMS = ["bottleneck", "pooled", "pointwise", "released"]
RELU_AFTER = {
    ("bottleneck", None): {2},
    ("bottleneck", 1): {1, 2, 3},
    ("pooled", None): {1, 2},
    ("pointwise", None): {2, 4},
    ("pointwise", 3): {3},  # The last convolution alone is linear.
    ("released", None): {2, 4},
    ("released", 1): {1, 2, 3, 4},
}


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def inputs_of(rng, *, rows=5, columns=7, channels=16):
    images = rng.uniform(0, 255, (3, 23, 18, 3)).astype("float32")
    features = rng.normal(size=(3, rows, columns, channels)).astype("float32")
    return images, features


def randomized(network, rng):
    """Gives every weight a value that shows whether it is used."""
    for weight in network.weights:
        if "variance" in weight.path or "gamma" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif "kernel" in weight.path:
            fan_in = np.prod(weight.shape[:3])
            weight.assign(rng.normal(size=weight.shape) / np.sqrt(fan_in))
        else:
            weight.assign(rng.normal(size=weight.shape))
    return network


def steps_of(network):
    return [
        [
            numpy_of(weight).astype("float64")
            for weight in (
                convolution.kernel,
                normalization.gamma,
                normalization.beta,
                normalization.moving_mean,
                normalization.moving_variance,
            )
        ]
        for convolution, normalization in zip(
            network.convolutions, network.normalizations, strict=True
        )
    ]


class Branch(keras.layers.Layer):
    """The whole branch, as `build` wires it."""

    def __init__(self, form="bottleneck", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.importance = layers.FeatureImportanceNetwork(form)
        self.map = layers.ClassActivationMap()
        self.attention = layers.AttentionMechanism()

    def build(self, input_shape):
        _, features = input_shape
        self.importance.build(input_shape)
        self.map.build([features, (None, features[-1])])
        self.attention.build([features, (*features[:-1], 1)])
        self.built = True

    def call(self, inputs, training=None):
        image, features = inputs
        weights = self.importance([image, features], training=training)
        attention_map = self.map([features, weights])
        return (
            weights,
            attention_map,
            self.attention([features, attention_map]),
        )


def test_masks_equal_the_rewrite(rng):
    images, features = inputs_of(rng)
    features[0, ..., 3] = 7.0  # A constant channel,
    features[1, ..., 4] = 0.0  # and a dead one.
    actual = numpy_of(layers.ImportanceMask()([images, features]))
    np.testing.assert_allclose(
        actual, reference.masks(images, features), atol=1e-5
    )
    assert not actual[0, ..., 3].any()


def test_gray_is_mean_of_channels_sampled_at_cell_centers():
    image = np.zeros((1, 4, 4, 3), "float32")
    image[0, :2, :2] = [255, 0, 0]
    image[0, 2:, 2:] = [255, 255, 255]
    features = np.array([[0.0, 1.0], [2.0, 4.0]], "float32")
    actual = numpy_of(
        layers.ImportanceMask()([image, features.reshape(1, 2, 2, 1)])
    )
    # s(F) = 0, 1/4, 1/2, 1 and the gray cells are 1/3, 0, 0, 1.
    np.testing.assert_allclose(actual.ravel(), [0, 0, 0, 1], atol=1e-6)
    features = features[::-1, ::-1].reshape(1, 2, 2, 1)
    actual = numpy_of(layers.ImportanceMask()([image, features]))
    np.testing.assert_allclose(actual.ravel(), [1 / 3, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("form", [*layers._FORMS, None])
def test_gray_image_is_as_one_of_three_equal_channels(form, rng):
    images, features = inputs_of(rng)
    images = images[..., :1]
    layer = layers.ImportanceMask((0, 300))
    if form:
        network = layers.FeatureImportanceNetwork(form, value_range=(0, 300))
        network.build([images.shape, features.shape])
        layer = randomized(network, rng)
    np.testing.assert_allclose(
        numpy_of(layer([images, features])),
        numpy_of(layer([np.repeat(images, 3, axis=-1), features])),
        atol=1e-6,
    )


def test_value_range_scales_the_gray_image(rng):
    images, features = inputs_of(rng)
    expected = layers.ImportanceMask()([images, features])
    scaled = layers.ImportanceMask(value_range=(-1, 1))(
        [images / 127.5 - 1, features]
    )
    np.testing.assert_allclose(numpy_of(scaled), numpy_of(expected), atol=1e-5)


def test_network_hands_its_value_range_to_the_masks(rng):
    images, features = inputs_of(rng)
    network = layers.FeatureImportanceNetwork(value_range=(-1, 1))
    network.build([images.shape, features.shape])
    steps = steps_of(randomized(network, rng))
    expected = reference.importance(
        images, features, steps, RELU_AFTER["bottleneck", None]
    )
    actual = numpy_of(network([images / 127.5 - 1, features]))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("form", "relu_every"), RELU_AFTER)
def test_importance_equals_the_rewrite(form, relu_every, training, rng):
    images, features = inputs_of(rng)
    network = layers.FeatureImportanceNetwork(form, relu_every=relu_every)
    network.build([images.shape, features.shape])
    steps = steps_of(randomized(network, rng))
    actual = numpy_of(network([images, features], training=training))
    expected = reference.importance(
        images,
        features,
        steps,
        RELU_AFTER[form, relu_every],
        training,
        pooled=form == "pooled",
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert expected.max() > 2 * expected.min()  # Not the uniform start.


@pytest.mark.parametrize(
    ("relu_every", "training", "rows"),
    [(None, False, 1), (None, True, 5), (1, False, 5), (3, False, 5)],
)
def test_what_is_linear_at_the_end_is_done_to_the_mean(
    relu_every, training, rows, rng, monkeypatch
):
    network = layers.FeatureImportanceNetwork(relu_every=relu_every)
    inputs = inputs_of(rng)
    network(inputs)
    seen = []
    convolve = keras.layers.Conv2D.call

    def watched(self, x):
        seen.append(x.shape[1])
        return convolve(self, x)

    monkeypatch.setattr(keras.layers.Conv2D, "call", watched)
    network(inputs, training=training)
    assert seen == [5, 5, rows]


@pytest.mark.parametrize(
    ("form", "filters", "parameters"),
    [
        # Kernels, and gamma, beta, mean and variance of each filter.
        ("bottleneck", [8, 8, 16], 16 * 8 + 9 * 8 * 8 + 8 * 16 + 4 * 32),
        ("pooled", [8, 16], 16 * 8 + 8 * 16 + 4 * 24),
        ("pointwise", [16, 16, 8, 16], 2 * 256 + 2 * 128 + 4 * 56),
        ("released", [16, 16, 16, 16], 36 * 256 + 4 * 64),
    ],
)
def test_form_has_the_filters_it_promises(form, filters, parameters, rng):
    network = layers.FeatureImportanceNetwork(form)
    network(inputs_of(rng))
    assert [c.filters for c in network.convolutions] == filters
    assert network.count_params() == parameters


@pytest.mark.parametrize(
    ("options", "filters"),
    [({}, [10, 10, 320]), ({"reduction": 4}, [80, 80, 320])],
)
@pytest.mark.usefixtures("shapes_alone")
def test_bottleneck_is_as_narrow_as_asked(options, filters):
    network = layers.FeatureImportanceNetwork(**options)
    network.build([(None, 64, 64, 3), (None, 2, 2, 320)])
    assert [c.filters for c in network.convolutions] == filters


@pytest.mark.usefixtures("shapes_alone")
def test_released_form_has_the_151_million_parameters_of_resnet50():
    network = layers.FeatureImportanceNetwork("released")
    network.build([(None, 224, 224, 3), (None, 14, 14, 2048)])
    trainable = sum(np.prod(w.shape) for w in network.trainable_weights)
    # 176.57 M with LFI-CAM less 25.56 M without, in reference figures.
    assert trainable == pytest.approx(151.01e6, abs=0.005e6)


def test_activation_map_equals_the_rewrite(rng):
    _, features = inputs_of(rng)
    weights = reference.softmax(rng.normal(size=(3, 16))).astype("float32")
    actual = numpy_of(layers.ClassActivationMap()([features, weights]))
    expected = reference.activation_map(features, weights)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert actual.max() == 1


def test_activation_map_by_hand():
    features = np.zeros((1, 2, 2, 2), "float32")
    features[0, ..., 0] = [[4.0, 0.0], [-8.0, 2.0]]
    features[0, ..., 1] = [[0.0, 4.0], [0.0, -2.0]]
    weights = np.array([[0.25, 0.75]], "float32")
    # Weighted sums 1, 3, -2, -1; the ReLU leaves 1, 3, 0, 0; over 3.
    actual = numpy_of(layers.ClassActivationMap()([features, weights]))
    np.testing.assert_allclose(actual.ravel(), [1 / 3, 1, 0, 0], rtol=1e-6)


def test_attention_by_hand():
    features = np.array([[[[2.0, -3.0]]]], "float32")
    attention_map = np.array([[[[0.5]]]], "float32")
    actual = layers.AttentionMechanism()([features, attention_map])
    np.testing.assert_allclose(numpy_of(actual).ravel(), [3.0, -4.5])


def test_whole_branch_equals_the_rewrite(rng):
    images, features = inputs_of(rng)
    branch = Branch()
    branch([images, features])
    steps = steps_of(randomized(branch.importance, rng))
    weights, attention_map, attended = branch([images, features])
    relu_after = RELU_AFTER["bottleneck", None]
    expected = reference.importance(images, features, steps, relu_after)
    drawn = reference.activation_map(features, expected)
    np.testing.assert_allclose(numpy_of(weights), expected, atol=1e-5)
    np.testing.assert_allclose(numpy_of(attention_map), drawn, atol=1e-5)
    np.testing.assert_allclose(
        numpy_of(attended), reference.attend(features, drawn), atol=1e-5
    )


HARD_FEATURES = {
    "constant": lambda rng, shape: np.full(shape, 3.7),
    "zero": lambda rng, shape: np.zeros(shape),
    "negative": lambda rng, shape: -1 - rng.uniform(0, 1, shape),
    "dead channels": lambda rng, shape: (
        rng.uniform(0, 1, shape) * (np.arange(shape[-1]) % 2)
    ),
    "huge": lambda rng, shape: 1e4 * rng.normal(size=shape).clip(-3, 3),
    "tiny": lambda rng, shape: 1e-7 * rng.normal(size=shape),
}


# Keras compiles on JAX and does not on PyTorch, unless told.
WAYS = {"tensorflow": [False, True], "jax": [True], "torch": [False]}


def branch_under(policy):
    """Makes the branch under a policy, which is then as it was."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    branch = Branch()
    keras.config.set_dtype_policy(before)
    return branch


@pytest.fixture(scope="module", params=WAYS[keras.backend.backend()])
def compiled(request):
    return request.param


@pytest.fixture(
    scope="module", params=["float32", "mixed_float16", "mixed_bfloat16"]
)
def policy(request):
    return request.param


@pytest.fixture(scope="module")
def gradients(policy, compiled):
    """Compiled once, as that takes a hundred times as long as to run it."""
    keras.utils.set_random_seed(0)
    shapes = [(2, 16, 16, 3), (2, 4, 4, 16)]
    return differentiated(branch_under(policy), shapes, compiled=compiled)


@pytest.mark.parametrize("kind", list(HARD_FEATURES))
def test_hard_features_leave_all_finite(kind, policy, gradients, rng):
    images = rng.uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    features = HARD_FEATURES[kind](rng, (2, 4, 4, 16))
    outputs, slopes = gradients(images, features)
    for array in [*outputs, *slopes]:
        assert np.isfinite(array).all()
    weights, attention_map, _ = outputs
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert 0 <= attention_map.min() <= attention_map.max() <= 1
    too_small = kind == "tiny" and policy == "mixed_float16"
    if too_small or kind in ("constant", "zero", "negative"):
        assert not attention_map.any()
    else:
        assert attention_map.max() > 0
    if kind in ("constant", "zero"):
        # Nothing to stretch: the features matter as features alone.
        ramp = np.linspace(-1, 1, 16) + 0.1
        expected = np.broadcast_to(ramp / features.size, features.shape)
        np.testing.assert_allclose(slopes[0], expected, rtol=0.02, atol=1e-6)


# Few shapes, for the compilers' sake, of which there are more on JAX.
SHAPES = [(1, 2, 2, 2), (2, 2, 3, 8), (2, 4, 4, 3)]
if keras.backend.backend() == "jax":
    SHAPES = SHAPES[:2]


@functools.cache
def gradients_of(policy, shape):
    compiled = keras.backend.backend() == "jax"
    shapes = [(*shape[:1], 6, 6, 3), shape]
    return differentiated(branch_under(policy), shapes, compiled=compiled)


@pytest.mark.slow
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    features=hnp.arrays(
        "float32",
        st.sampled_from(SHAPES),
        elements=st.one_of(
            st.sampled_from([0.0, 1.0, -1.0, 1e4, -1e4, 1e-7, 1e-30]),
            st.floats(-(2.0**13), 2.0**13, width=32),
        ),
    ),
    policy=st.sampled_from(["float32", "mixed_float16", "mixed_bfloat16"]),
    brightness=st.sampled_from([0, 1, 255]),
)
def test_no_features_lead_out_of_the_finite(features, policy, brightness):
    images = np.full((len(features), 6, 6, 3), brightness, "float32")
    outputs, slopes = gradients_of(policy, features.shape)(images, features)
    for array in [*outputs, *slopes]:
        assert np.isfinite(array).all()
    weights, attention_map, _ = outputs
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert 0 <= attention_map.min() <= attention_map.max() <= 1


def model_of(form, image_shape, features_shape):
    inputs = [keras.Input(image_shape), keras.Input(features_shape)]
    weights, attention_map, attended = Branch(form)(inputs)
    assert attention_map.shape[-1] == 1
    return keras.Model(inputs, [weights, attention_map, attended])


# The first two differ in both lengths: of a model of any size, one graph of
# TensorFlow serves all that follow. JAX compiles each size for itself.
SIZES = [(2, 9), (7, 7), (2, 2), (14, 14)]
if keras.backend.backend() == "jax":
    SIZES = [(2, 9), (7, 7)]


@pytest.mark.parametrize("open_size", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_any_feature_size(form, open_size, rng):
    model = model_of(form, (None, None, 3), (None, None, 16))
    for size in SIZES:
        images, features = inputs_of(rng, rows=size[0], columns=size[1])
        if not open_size:
            model = model_of(form, images.shape[1:], features.shape[1:])
        drawn = model.predict_on_batch([images, features])
        shapes = [(3, 16), (3, *size, 1), (3, *size, 16)]
        assert [d.shape for d in drawn] == shapes
        expected = reference.activation_map(features, drawn[0])
        np.testing.assert_allclose(drawn[1], expected, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_importance_and_map_are_float32_under_any_policy(policy, rng):
    keras.config.set_dtype_policy(policy)
    half = policy.removeprefix("mixed_")
    image = keras.Input((23, 18, 3))
    features = keras.Input((5, 7, 16), dtype=half)
    weights, attention_map, attended = Branch()([image, features])
    model = keras.Model([image, features], [weights, attention_map, attended])
    actual = model(list(inputs_of(rng)))
    types = [keras.backend.standardize_dtype(a.dtype) for a in actual]
    assert types == ["float32", "float32", half]
    assert [weights.dtype, attention_map.dtype] == ["float32", "float32"]


CONFIGURED = [
    layers.ImportanceMask(value_range=(-1, 1), name="masks"),
    layers.FeatureImportanceNetwork(
        "released", reduction=4, relu_every=1, value_range=(0, 1), name="fin"
    ),
    layers.ClassActivationMap(name="map", dtype="mixed_bfloat16"),
    layers.AttentionMechanism(name="attention"),
    layers.SpatialMask([[1, 0], [0, 1]], name="seen"),
]


@pytest.mark.parametrize("layer", CONFIGURED, ids=lambda layer: layer.name)
def test_config_round_trip(layer):
    config = layer.get_config()
    again = type(layer).from_config(config)
    assert again.get_config() == config
    name = f"keras_lficam>{type(layer).__name__}"
    assert keras.saving.get_registered_object(name) is type(layer)


@pytest.mark.parametrize("form", FORMS)
def test_saved_and_loaded_is_bit_identical(form, rng, tmp_path):
    image, features = keras.Input((23, 18, 3)), keras.Input((5, 7, 16))
    weights = layers.FeatureImportanceNetwork(form)([image, features])
    attention_map = layers.ClassActivationMap()([features, weights])
    attended = layers.AttentionMechanism()([features, attention_map])
    model = keras.Model([image, features], [weights, attention_map, attended])
    for layer in model.layers:
        if isinstance(layer, layers.FeatureImportanceNetwork):
            randomized(layer, rng)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    batch = inputs_of(rng)
    for before, after in zip(model(batch), loaded(batch), strict=True):
        np.testing.assert_array_equal(numpy_of(before), numpy_of(after))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "Released"}, r"`form`.*'bottleneck', 'pointwise'.*Released"),
        ({"reduction": 0}, r"`reduction`.*at least 1.*reduction=0"),
        ({"relu_every": -1}, r"`relu_every`.*at least 1.*relu_every=-1"),
        ({"value_range": (1, 0)}, r"`value_range`.*rises.*\(1, 0\)"),
        ({"value_range": 255}, r"`value_range`.*pair.*255"),
        ({"value_range": ("a", "b")}, r"`value_range`.*pair.*'a', 'b'"),
        ({"value_range": (0, np.inf)}, r"`value_range`.*rises.*inf"),
        ({"form": ["released"]}, r"`form`.*\['released'\]"),
        ({"reduction": True}, r"`reduction`.*integer.*True"),
    ],
)
def test_wrong_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.FeatureImportanceNetwork(**arguments)


IMAGE, FEATURES = (2, 8, 8, 3), (2, 4, 4, 6)


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (layers.ImportanceMask, [(2, 8, 8, 4), FEATURES], "gray.*8, 8, 4"),
        (layers.ImportanceMask, [(8, 8, 3), FEATURES], "RGB.*8, 8, 3"),
        (
            layers.ImportanceMask,
            [IMAGE, (2, 1, 1, 6)],
            "2x2.*1, 1, 6.*To fix this",
        ),
        (layers.ImportanceMask, [IMAGE, (2, 4, 6)], "columns.*2, 4, 6"),
        (layers.ImportanceMask, [IMAGE, FEATURES, FEATURES], "pair"),
        (layers.FeatureImportanceNetwork, [IMAGE, (2, 1, 4, 6)], "2x2"),
        (layers.ClassActivationMap, [FEATURES, (2, 5)], r"\(batch, 6\).*2, 5"),
        (layers.ClassActivationMap, [FEATURES, FEATURES], "importance"),
        (layers.ClassActivationMap, [(2, 1, 1, 6), (2, 6)], "2x2"),
        (layers.AttentionMechanism, [FEATURES, (2, 2, 4, 1)], "same"),
        (layers.AttentionMechanism, [FEATURES, (2, 4, 4, 6)], "same"),
    ],
)
def test_wrong_inputs_are_refused(layer, shapes, message):
    with pytest.raises(ValueError, match=message):
        layer()([np.ones(shape, "float32") for shape in shapes])


def test_a_spatial_mask_keeps_some_cells_and_hides_what_is_in_others():
    features = np.arange(1.0, 9.0, dtype="float32").reshape(1, 2, 2, 2)
    features[0, 0, 1] = np.nan
    features[0, 1, 0] = np.inf
    kept = layers.SpatialMask([[True, False], [False, True]])(features)
    expected = [[[[1, 2], [0, 0]], [[0, 0], [7, 8]]]]
    np.testing.assert_array_equal(numpy_of(kept), expected)
    assert kept.dtype == layers.SpatialMask([[1]])(kept[:, :1, :1]).dtype


def test_a_spatial_mask_is_saved(tmp_path):
    inputs = keras.Input((2, 2, 3))
    mask = np.array([[1, 0], [0, 1]])
    model = keras.Model(inputs, layers.SpatialMask(mask)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    features = np.arange(1.0, 13.0, dtype="float32").reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(
        numpy_of(loaded(features)), features * mask[None, :, :, None]
    )


@pytest.mark.parametrize(
    "mask", [[[0, 0], [0, 0]], [[0.5, 1]], [1, 0], [[[1]]], [[2, 1]]]
)
def test_a_mask_that_is_none_is_refused(mask):
    with pytest.raises(ValueError, match="`mask`.*rows, columns.*To fix this"):
        layers.SpatialMask(mask)


@pytest.mark.parametrize("shape", [(2, 4, 4, 6), (2, 3, 6), (2, 2, 3, 6)])
def test_a_spatial_mask_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match="size of its mask.*Received"):
        layers.SpatialMask(np.eye(2))(np.ones(shape, "float32"))


def test_single_tensor_instead_of_pair_is_refused():
    with pytest.raises(ValueError, match="pair"):
        layers.FeatureImportanceNetwork()(np.ones(FEATURES, "float32"))
