import contextlib
import functools

import explainer_contract
import keras
import numpy as np
import pytest
import reference
import small_classifiers
from explainer_contract import check_explainer, without_graphs

import keras_lficam
from keras_lficam.explainers import (
    CAM,
    LIME,
    RISE,
    AblationCAM,
    AttentionMap,
    ClassEvidence,
    EigenCAM,
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    IntegratedGradients,
    LayerCAM,
    Occlusion,
    ReciproCAM,
    RefineCAM,
    ScoreCAM,
    SmoothGrad,
    XGradCAM,
)

# Those that explain any classifier that ends with a pooling and dense layer.
READERS = {
    "eigen_cam": EigenCAM,
    "cam": CAM,
    "grad_cam": GradCAM,
    "grad_cam_plus_plus": GradCAMPlusPlus,
    "xgrad_cam": XGradCAM,
    "hires_cam": HiResCAM,
    "layer_cam": LayerCAM,
    "finer_cam": FinerCAM,
    "refine_cam": RefineCAM,
    "ablation_cam": AblationCAM,
    "class_evidence": ClassEvidence,
    "recipro_cam": ReciproCAM,
    "integrated_gradients": functools.partial(IntegratedGradients, steps=6),
    "smooth_grad": functools.partial(SmoothGrad, samples=6),
    "occlusion": functools.partial(Occlusion, patch=4, fill="mean"),
    "score_cam": ScoreCAM,
    "score_cam_increase": functools.partial(ScoreCAM, form="increase"),
}


untraced = explainer_contract.untraced


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return built("lfi_cam")


def coarse_images(rng):
    coarse = rng.uniform(0, 255, (4, 4, 3, 3))
    return np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2).astype("uint8")


@pytest.fixture
def images(rng):
    """Different images, of the size of the small classifiers."""
    return coarse_images(rng)


@pytest.mark.slow
def test_attention_map_keeps_the_contract(model, images, tmp_path):
    check_explainer(AttentionMap, model, images, tmp_path)


def nested():
    image = keras.Input((16, 12, 3))
    x = small_classifiers.backbone()(image)
    for layer in small_classifiers.head():
        x = layer(x)
    return keras.Model(image, x)


def flat():
    base = small_classifiers.backbone()
    x = base.outputs[0]
    for layer in small_classifiers.head():
        x = layer(x)
    return keras.Model(base.inputs[0], x)


def sequential():
    return keras.Sequential(
        [small_classifiers.backbone(), *small_classifiers.head()]
    )


def layers_in_a_row():
    layers = small_classifiers.backbone().layers
    return keras.Sequential(
        [keras.Input((16, 12, 3)), *layers, *small_classifiers.head()]
    )


def of_any_size():
    trunk = small_classifiers.backbone((None, None, 3))
    return keras.Sequential([trunk, *small_classifiers.head()])


def softmax_behind():
    head = small_classifiers.head(None)
    return keras.Sequential(
        [small_classifiers.backbone(), *head, keras.layers.Softmax()]
    )


def logits():
    head = small_classifiers.head(None)
    return keras.Sequential([small_classifiers.backbone(), *head])


def built(architecture):
    return keras_lficam.build(
        small_classifiers.backbone(),
        4,
        input_shape=(16, 12, 3),
        architecture=architecture,
    )


def sharpened(model):
    """Makes small random weights tell the classes further apart."""
    for weight in model.weights:
        if weight.path.endswith("kernel") and weight.ndim == 2:
            weight.assign(30 * weight)
    return model


# How a model is split is made out in its graph, which no backend changes, and
# the nested one shows that on each.
on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="takes long to compile"
)


# What Grad-CAM is as it is compiled, its siblings are as the same code computes
# them; `test_threads.py` compares what all of them compile with that.
SIBLINGS = (
    "finer_cam",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "xgrad_cam",
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "nested") for name in READERS],
        pytest.param("cam", "lfi_cam", marks=on_tensorflow),
        pytest.param("grad_cam_plus_plus", "lfi_cam", marks=on_tensorflow),
        pytest.param("grad_cam", "abn", marks=on_tensorflow),
        pytest.param("score_cam", "abn", marks=on_tensorflow),
    ],
)
def test_explainer_keeps_the_contract(name, kind, images, tmp_path):
    model = sharpened(nested() if kind == "nested" else built(kind))
    computed = name in SIBLINGS
    with without_graphs() if computed else contextlib.nullcontext():
        check_explainer(READERS[name], model, images, tmp_path)


@pytest.fixture(scope="module")
def of_the_flat_one():
    """Weights of a flat model, and what each explainer makes of images."""
    keras.utils.set_random_seed(0)
    model = sharpened(flat())
    images = coarse_images(np.random.default_rng(0))
    with without_graphs():
        maps = {name: make(model)(images) for name, make in READERS.items()}
    return model.get_weights(), maps


# Their graphs are searched by the code that searches those of the others.
other_ends = [on_tensorflow, pytest.mark.every_backbone]


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    "kind",
    [
        nested,
        pytest.param(sequential, marks=other_ends),
        pytest.param(layers_in_a_row, marks=other_ends),
        of_any_size,
        pytest.param(softmax_behind, marks=other_ends),
        logits,
    ],
)
def test_nested_models_and_all_others_are_explained_as_the_flat_one(
    kind, images, tmp_path, of_the_flat_one
):
    weights, maps_of = of_the_flat_one
    other = kind()
    other.set_weights(weights)
    other.save(tmp_path / "other.keras")
    loaded = keras.models.load_model(tmp_path / "other.keras")
    for name, make in READERS.items():
        expected = maps_of[name]
        assert expected.max() > 0.9
        options = {}
        if kind is logits and name == "score_cam":
            options["activation"] = "softmax"
        explainer = make(other, **options)
        maps = explainer(images)
        np.testing.assert_allclose(maps, expected, atol=1e-5, err_msg=name)
        # A batch of one, whatever else there was.
        np.testing.assert_allclose(
            explainer(images[2:3]), expected[2:3], atol=1e-5
        )
        again = make(loaded, **options)(images)
        np.testing.assert_array_equal(again, maps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "cam",
        "grad_cam_plus_plus",
        pytest.param("score_cam", marks=on_tensorflow),
    ],
)
def test_images_of_any_size(name, images):
    model = sharpened(of_any_size())
    explainer = READERS[name](model)
    large = np.concatenate([images, images[:, ::-1]], axis=1)
    for some in (images, large, large[:2, :20], images[:3]):
        maps = explainer(some)
        assert maps.shape == (*some.shape[:3], 1)
        fixed = sharpened(
            keras.Sequential(
                [
                    small_classifiers.backbone(some.shape[1:]),
                    *small_classifiers.head(),
                ]
            )
        )
        fixed.set_weights(model.get_weights())
        with without_graphs():
            expected = READERS[name](fixed)(some)
        np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_attention_map_is_the_models_own_at_image_size(model, images):
    coarse = keras_lficam.attention_view(model).predict(images, verbose=0)
    actual = AttentionMap(model)(images)
    for index, attention_map in enumerate(coarse["attention_map"]):
        expected = reference.bilinear(attention_map[..., 0], 16, 12, 3, 4)
        np.testing.assert_allclose(actual[index, ..., 0], expected, atol=1e-5)


def test_uint8_and_float_images_have_the_same_map(model, images):
    explainer = AttentionMap(model)
    np.testing.assert_array_equal(
        explainer(images), explainer(images.astype("float64"))
    )


def test_model_without_a_map_is_refused():
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="layer 'attention_map'.*build"):
        AttentionMap(plain)


def test_attention_map_of_several_channels_is_refused():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(7, 3, name="attention_map")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    named = keras.Model(image, keras.layers.Dense(2, "softmax")(x))
    with pytest.raises(ValueError, match="one map.*7 channels"):
        AttentionMap(named)


def test_nested_model_of_ours_shows_its_map(model, images):
    outer = keras.Sequential([keras.Input((16, 12, 3)), model])
    np.testing.assert_array_equal(
        AttentionMap(outer)(images), AttentionMap(model)(images)
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_draws_nearly_the_map_of_float32(policy, model, images):
    keras.config.set_dtype_policy(policy)
    mixed = built("lfi_cam")
    mixed.set_weights(model.get_weights())
    maps = AttentionMap(mixed)(images)
    assert maps.dtype == "float32"
    np.testing.assert_allclose(maps, AttentionMap(model)(images), atol=0.06)


ALL = {
    **READERS,
    "rise": functools.partial(RISE, samples=40, cells=3),
    "lime": functools.partial(
        LIME,
        samples=40,
        segments=lambda image: np.arange(16 * 12).reshape(16, 12) // 24,
    ),
}


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name", list(ALL))
def test_images_of_one_channel(name, images):
    """A gray image is as one of three equal colors."""
    make = ALL[name]
    if name == "smooth_grad":  # Its noise and magnitudes are of each channel.
        make = functools.partial(make, noise=0, form="signed")
    gray = keras.Input((16, 12, 1))
    color = keras.layers.Concatenate()([gray, gray, gray])
    of_colors = sharpened(flat())
    of_gray = keras.Model(gray, of_colors(color))
    images = images[..., :1]
    expected = make(of_colors)(np.repeat(images, 3, axis=-1))
    assert expected.max() > 0.9
    np.testing.assert_allclose(make(of_gray)(images), expected, atol=1e-5)


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("name", list(ALL))
def test_what_overflows_is_an_error_not_a_map(name, images):
    keras.config.set_dtype_policy("mixed_float16")
    model = flat()
    kernel = model.layers[2].kernel
    kernel.assign(1e6 * keras.ops.ones(kernel.shape))
    with pytest.raises(ValueError, match="finite numbers.*mixed_bfloat16"):
        ALL[name](model)(images, 0)


@pytest.fixture
def wide():
    """Keras computes in float64, as some scientists set it."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("untraced", "wide")
@pytest.mark.parametrize("name", list(ALL))
def test_float64_draws_the_map_of_float32(name, images):
    of_float64 = sharpened(flat())
    # Of the predicted class, for which each has something to show.
    actual = ALL[name](of_float64)(images)
    assert actual.dtype == "float32"
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    of_float32 = sharpened(flat())
    of_float32.set_weights(of_float64.get_weights())
    expected = ALL[name](of_float32)(images)
    assert expected.max() > 0.5
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.usefixtures("untraced", "wide")
def test_float64_shows_the_attention_of_float32(images):
    of_float64 = built("lfi_cam")
    actual = AttentionMap(of_float64)(images)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    of_float32 = built("lfi_cam")
    of_float32.set_weights(of_float64.get_weights())
    np.testing.assert_allclose(
        actual, AttentionMap(of_float32)(images), atol=1e-4
    )


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="only TensorFlow counts how often a function is traced",
)
def test_explainer_is_compiled_once_for_images_of_a_shape(model, images):
    explainer = AttentionMap(model)
    for _ in range(4):
        explainer(images)
        explainer(images[::-1])
    step = explainer._maps.predict_function
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports a SavedModel"
)
def test_defect_export_of_an_explainer_fails(model, images, tmp_path):
    """The map of LFI-CAM is a forward pass, so a SavedModel gives it."""
    import tensorflow as tf

    view = keras_lficam.attention_view(model)
    view.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    served = loaded.serve(images.astype("float32"))
    expected = view.predict(images, verbose=0)
    for name, value in expected.items():
        np.testing.assert_allclose(served[name], value, atol=1e-5)
