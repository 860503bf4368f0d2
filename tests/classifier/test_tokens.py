"""The tokens of a transformer are found, with their grid, and are a map."""

import keras
import numpy as np
import pytest
import small_transformers
from keras import ops

import keras_lficam
from keras_lficam.classifier import Classifier, Evidence

pytestmark = pytest.mark.usefixtures("eagerly")

GRIDS = [(8, 8), (14, 14), (6, 10)]


def array(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("prefix", [1, 2, 5])
@pytest.mark.parametrize("hides_grid", [False, True])
def test_tokens_in_front_of_the_last_attention_are_found(
    grid, prefix, hides_grid
):
    model = small_transformers.planted(grid, prefix, hides_grid=hides_grid)
    split = Classifier(model).split()
    assert split.tokens.grid == grid
    assert split.tokens.prefix == prefix
    assert split.shape == (*grid, 4)
    assert split.linear is None
    # Of two blocks, each with two normalizations, that of the last attention.
    norms = [x.name for x in model.layers if "normalization" in x.name]
    assert split.layer == norms[2]


@pytest.mark.parametrize("kind", ["patches", "mean", "operation", "flat"])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("hides_grid", [False, True])
def test_what_a_mean_takes_is_the_map(kind, prefix, hides_grid):
    model = small_transformers.planted(
        (6, 10), prefix, kind, hides_grid=hides_grid
    )
    split = Classifier(model).split()
    assert split.tokens.grid == (6, 10)
    sliced = kind == "patches" and prefix > 0
    assert split.tokens.prefix == (0 if sliced else prefix)
    images = small_transformers.images_with_red((6, 10), [(1, 2), (5, 9)])
    inner = keras.Model(model.input, model.layers[-1].input)
    features = split.features(images)
    tokens = array(features).reshape(2, -1, 4)[:, split.tokens.prefix :]
    np.testing.assert_array_equal(
        array(split.map_of(features)), tokens.reshape(2, 6, 10, 4)
    )
    if kind in ("mean", "operation"):
        np.testing.assert_allclose(
            array(ops.mean(features, axis=1)), array(inner(images)), rtol=1e-5
        )


@pytest.mark.parametrize("kind", ["token", "patches", "mean", "flat"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_split_gives_what_the_model_gives(kind, prefix, rng):
    model = small_transformers.planted((4, 6), prefix, kind)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    images = rng.uniform(0, 255, (3, 16, 24, 3)).astype("float32")
    before = [array(w) for w in model.weights]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    split = Classifier(model).split()
    features = split.features(images)
    scores = array(split.scores(features))
    np.testing.assert_allclose(scores, array(model(images)), atol=1e-6)
    logits = split.logits(features)
    np.testing.assert_allclose(array(ops.softmax(logits)), scores, atol=1e-6)
    # With its own map in the place of it nothing changes, nor in copies.
    maps = ops.repeat(split.map_of(features), 2, axis=0)
    again = array(split.logits(split.with_map(features, maps, 2)))
    np.testing.assert_allclose(again[::2], array(logits), atol=1e-6)
    np.testing.assert_array_equal(again[::2], again[1::2])
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, array(weight))


@pytest.mark.parametrize("kind", ["patches", "mean", "operation", "flat"])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_mean_and_bias_and_prefix_are_the_logit(kind, prefix, rng):
    model = small_transformers.planted((4, 6), prefix, kind)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    images = rng.uniform(0, 255, (3, 16, 24, 3)).astype("float32")
    evidence = Evidence(Classifier(model))
    features = evidence.split.features(images)
    logits = array(evidence.split.logits(features))
    assert evidence.exact
    maps = array(evidence(features, None))
    found = maps.mean(axis=(1, 2), dtype="float64") + evidence.bias
    assert evidence.counts_prefix == (prefix > 0 and kind != "patches")
    if evidence.counts_prefix:
        found += array(evidence.of_prefix(features, None))
    np.testing.assert_allclose(found, logits, atol=1e-5 * abs(logits).max())
    classes = ops.convert_to_tensor(np.array([[1, 0, 1]] * 3, "int32"))
    np.testing.assert_allclose(
        array(evidence(features, classes)), maps[..., [1, 0, 1]], rtol=1e-4
    )


def test_evidence_of_an_average_with_a_class_token_by_hand():
    # Two by two patches of one pixel, and a token (3, 0, 0) in front.
    layers = keras.layers
    image = keras.Input((2, 2, 3))
    x = layers.Reshape((4, 3))(layers.Identity()(image))
    prefix = small_transformers.PrefixTokens(1)
    x = layers.GlobalAveragePooling1D()(prefix(x))
    dense = layers.Dense(2, "softmax")
    model = keras.Model(image, dense(x))
    prefix.tokens.assign([[[3, 0, 0]]])
    dense.kernel.assign([[5, 0], [0, 10], [0, 0]])
    dense.bias.assign([1, 2])
    colors = np.array([[[1, 0, 0], [2, 0, 0]], [[0, 3, 0], [0, 0, 4]]])
    shown = keras_lficam.explanation_view(model, top=None).predict(colors)
    # Five tokens are averaged, of which four are places: 4/5 of each.
    np.testing.assert_allclose(
        shown["class_evidence"][0, ..., 0], [[4, 8], [0, 0]]
    )
    np.testing.assert_allclose(
        shown["class_evidence"][0, ..., 1], [[0, 0], [24, 0]]
    )
    np.testing.assert_allclose(shown["prefix_logits"], [[3, 0]])
    np.testing.assert_allclose(shown["logits"], [[3 + 3 + 1, 6 + 0 + 2]])
    (row, _) = keras_lficam.explain(model, colors, [0, 1]).rows()
    assert row["prefix"] == 3
    parts = [row[name] for name in ("inside", "outside", "bias", "prefix")]
    assert sum(parts) == pytest.approx(row["logit"])


def test_recipro_cam_of_a_class_token_keeps_the_other_tokens(rng):
    """Each patch alone, by a second computation of the last block."""
    model = small_transformers.planted((2, 3), 2)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    images = rng.uniform(0, 255, (2, 8, 12, 3)).astype("float32")
    evidence = Evidence(Classifier(model))
    features = evidence.split.features(images)
    classes = ops.convert_to_tensor(np.array([[1]] * 2, "int32"))
    found = array(evidence.of_single_locations(features, classes))
    layers = model.layers
    kinds = [type(layer).__name__ for layer in layers]
    last = [i for i, kind in enumerate(kinds) if kind == "MultiHeadAttention"]
    stream = keras.Model(model.input, layers[last[-1] - 2].output)(images)
    norm, attention, _, norm_2, dense, dense_2, scale, _, final = layers[
        last[-1] - 1 :
    ][:9]
    normalized = array(norm(stream))
    for patch in range(6):
        alone = np.zeros_like(normalized)
        alone[:, :2] = normalized[:, :2]
        alone[:, 2 + patch] = normalized[:, 2 + patch]
        x = stream + attention(alone, alone)
        x = x + scale(dense_2(dense(norm_2(x))))
        logits = array(final(x))[:, 0] @ array(layers[-1].kernel)
        np.testing.assert_allclose(
            found[:, patch // 3, patch % 3, 0],
            logits[:, 1] + array(layers[-1].bias)[1],
            atol=1e-5,
        )


def test_layer_and_grid_can_be_told():
    model = small_transformers.planted((6, 10), 1)
    names = [x.name for x in model.layers if x.name.startswith("add")]
    split = Classifier(model).split(names[1])
    assert split.layer == names[1]
    assert split.tokens.grid == (6, 10)
    told = Classifier(model).split(grid=(10, 6))
    assert told.tokens.grid == (10, 6)
    with pytest.raises(ValueError, match=r"`grid`.*\(7, 9\).*leave it out"):
        Classifier(model).split(grid=(7, 9))
    for wrong in (60, (6,), (6, 1), (6.0, 10.0)):
        with pytest.raises(ValueError, match="pair of integers"):
            Classifier(model).split(grid=wrong)


def test_where_two_grids_fit_it_is_asked():
    # Nine tokens of an image of 12x12: 3x3, or 2x2 and five in front.
    image = keras.Input((12, 12, 3))
    x = keras.layers.Reshape((9, 48))(keras.layers.Flatten()(image))
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(image, keras.layers.Dense(2, "softmax")(x))
    named = model.layers[2].name
    with pytest.raises(ValueError, match=r"\(3, 3\).*To fix this: grid="):
        Classifier(model).split(named)
    assert Classifier(model).split(named, grid=(3, 3)).tokens.prefix == 0
    assert Classifier(model).split(named, grid=(2, 2)).tokens.prefix == 5


def halves_of(model, *, ends_with_softmax=False):
    """The two halves of a model at its last tokens, written by hand."""
    adds = [x for x in model.layers if x.name.startswith("add")]
    dense = model.layers[-1]
    trunk = keras.Model(model.input, adds[-1].output)

    def head(tokens):
        pooled = ops.mean(tokens, axis=1)
        logits = ops.matmul(pooled, dense.kernel) + dense.bias
        return ops.softmax(logits) if ends_with_softmax else logits

    return trunk, head


def test_halves_can_be_given():
    model = small_transformers.planted((6, 10), 2, "mean")
    images = small_transformers.images_with_red((6, 10), [(1, 2), (5, 9)])
    given = halves_of(model)
    split = Classifier(model).split(halves=given)
    assert split.tokens.grid == (6, 10)
    assert split.tokens.prefix == 2
    np.testing.assert_allclose(
        array(split.scores(split.features(images))),
        array(model(images)),
        atol=1e-6,
    )
    expected = keras_lficam.explainers.GradCAM(model)(images, 0)
    found = keras_lficam.explainers.GradCAM(model, split=given)(images, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    maps = keras_lficam.explain(model, images, [0], split=given)
    assert not maps.exact
    assert maps.coarse_evidence.shape == (2, 6, 10, 1)


def test_halves_that_are_none_are_refused():
    model = small_transformers.planted((6, 10), 2, "mean")
    classifier = Classifier(model)
    trunk, head = halves_of(model)
    with pytest.raises(TypeError, match=r"split=\(trunk, head\)"):
        classifier.split(halves=trunk)
    with pytest.raises(ValueError, match="must not be given together"):
        classifier.split("add", halves=(trunk, head))
    with pytest.raises(ValueError, match="in front of the activation"):
        classifier.split(halves=halves_of(model, ends_with_softmax=True))
    with pytest.raises(ValueError, match="gives shape"):
        classifier.split(halves=(lambda x: ops.mean(x, axis=(1, 2)), head))
    with pytest.raises(ValueError, match=r"62 tokens.*6, 10.*would fit"):
        classifier.split(halves=(trunk, head), grid=(9, 9))


def test_weights_of_zero_do_not_hide_an_attention():
    # As at the beginning of a training that starts with idle blocks.
    model = small_transformers.planted((4, 6), 1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.MultiHeadAttention):
            layer.output_dense.kernel.assign(
                np.zeros(layer.output_dense.kernel.shape)
            )
    norms = [x.name for x in model.layers if "normalization" in x.name]
    assert Classifier(model).split().layer == norms[2]


def off_a_grid():
    image = keras.Input((12, 12, 3))
    x = keras.layers.Reshape((48, 9), name="tokens")(image)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, keras.layers.Dense(2, "softmax")(x))


def test_what_tokens_lack_is_said():
    with pytest.raises(ValueError, match=r"tokens of \['tokens'\].*split=\("):
        Classifier(off_a_grid()).split()


def test_attach_says_that_it_takes_no_tokens():
    model = small_transformers.planted((4, 6), 1)
    with pytest.raises(ValueError, match="`attach` take no tokens"):
        keras_lficam.attach(model)


class ClassTokens(keras.layers.Layer):
    """Gives a token of the class for each image."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, tokens):
        shape = (ops.shape(tokens)[0], 1, tokens.shape[-1])
        return ops.broadcast_to(self.token, shape)


def patches(image):
    x = small_transformers.patches_of_colors()(image)
    return keras.layers.Reshape((24, 4), name="tokens")(x)


def class_attention(image):
    """As of CaiT: in the last two blocks the class token alone is written."""
    layers = keras.layers
    tokens = layers.Identity(name="map")(
        small_transformers.block(patches(image))
    )
    written = ClassTokens()(tokens)
    for _ in range(2):
        x = layers.Concatenate(axis=1)([written, tokens])
        x = layers.LayerNormalization()(x)
        x = layers.MultiHeadAttention(1, 4)(x[:, :1], x)
        written = layers.Add()([written, x])
    return layers.Flatten()(layers.LayerNormalization()(written))


def attention_pooling(image):
    """As of SigLIP: a learned query attends to all patches."""
    layers = keras.layers
    x = small_transformers.block(patches(image))
    tokens = layers.LayerNormalization(name="map")(x)
    query = ClassTokens()(tokens)
    return layers.Flatten()(layers.MultiHeadAttention(1, 4)(query, tokens))


def mixer(image):
    """As of MLP-Mixer: a dense layer mixes the tokens of each channel."""
    layers = keras.layers
    x = layers.Permute((2, 1))(layers.LayerNormalization()(patches(image)))
    x = layers.Permute((2, 1))(layers.Dense(24, "gelu")(x))
    x = layers.LayerNormalization(name="map")(x)
    return layers.GlobalAveragePooling1D()(x)


def maximum(image):
    x = keras.layers.Identity(name="map")(patches(image))
    return keras.layers.GlobalMaxPooling1D()(x)


@pytest.mark.parametrize(
    "make", [class_attention, attention_pooling, mixer, maximum]
)
def test_tokens_of_other_architectures(make, rng):
    image = keras.Input((16, 24, 3))
    dense = keras.layers.Dense(3, "softmax")
    model = keras.Model(image, dense(make(image)))
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.5, weight.shape))
    split = Classifier(model).split()
    assert split.layer == "map"
    assert split.tokens.grid == (4, 6)
    assert split.tokens.prefix == 0
    assert (split.linear is not None) == (make is mixer)
    images = rng.uniform(0, 1, (2, 16, 24, 3)).astype("float32")
    features = split.features(images)
    scores = array(split.scores(features))
    np.testing.assert_allclose(scores, array(model(images)), atol=1e-6)
    emptied = array(split.scores(0 * features))
    assert np.abs(scores - emptied).max() > 1e-3


def test_slice_by_a_lambda_is_seen():
    model = small_transformers.planted((4, 6), 1, "mean")
    tokens = model.layers[-2].input
    x = keras.layers.Lambda(lambda x: x[:, 0], output_shape=(4,))(tokens)
    sliced = keras.Model(model.input, keras.layers.Dense(2, "softmax")(x))
    norms = [x.name for x in model.layers if "normalization" in x.name]
    assert Classifier(sliced).split().layer == norms[2]
