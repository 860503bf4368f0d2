"""A trained classifier is looked through as it is."""

import keras
import numpy as np
import pytest
from small_classifiers import of_channels

import keras_lficam
from keras_lficam import explainers, metrics
from keras_lficam.backbones import cifar
from keras_lficam.classifier import Classifier, training_activation

# Explainers are asked for their graphs in `test_explainers.py`.
pytestmark = pytest.mark.usefixtures("eagerly")


def trunk(name="trunk"):
    image = keras.Input((16, 16, 3), name=f"{name}_image")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv")(x)
    x = keras.layers.Conv2D(6, 3, activation="relu", name="last")(x)
    return keras.Model(image, x, name=name)


def dense(activation="softmax"):
    return keras.layers.Dense(3, activation=activation, name="scores")


def flat(activation="softmax"):
    base = trunk()
    x = keras.layers.GlobalAveragePooling2D()(base.output)
    return keras.Model(base.input, dense(activation)(x), name="flat")


def nested(activation="softmax"):
    image = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(trunk()(image))
    return keras.Model(image, dense(activation)(x), name="nested")


def whole_inside(activation="softmax"):
    image = keras.Input((16, 16, 3))
    x = keras.layers.RandomFlip()(image)
    return keras.Model(image, flat(activation)(x), name="whole_inside")


def sequential(activation="softmax"):
    head = keras.Sequential([keras.Input((6,)), dense(activation)])
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            trunk(),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dropout(0.5),
            head,
        ]
    )


def nested_twice(activation="softmax"):
    return keras.Sequential([keras.Input((16, 16, 3)), nested(activation)])


def convolutional(activation="softmax"):
    """Ends like MobileNet: what passes the scores on comes last."""
    base = trunk()
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(base.output)
    x = keras.layers.Conv2D(3, 1, activation=activation, name="scores")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Activation("linear", dtype="float32")(x)
    return keras.Model(base.input, x, name="convolutional")


def softmax_layer(activation="softmax"):
    base = flat("linear")
    last = keras.layers.Softmax() if activation == "softmax" else None
    x = last(base.output) if last else base.output
    return keras.Model(base.input, x, name="softmax_layer")


KINDS = [
    flat,
    nested,
    whole_inside,
    sequential,
    nested_twice,
    convolutional,
    softmax_layer,
]


def leaf(model, name):
    for layer in model.layers:
        if layer.name == name:
            return layer
        if hasattr(layer, "layers"):
            found = leaf(layer, name)
            if found is not None:
                return found
    return None


def random_images(rng):
    return rng.uniform(0, 255, (2, 16, 16, 3)).astype("float32")


def convolved(x, layer):
    """Convolves without padding, from the definition."""
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in layer.weights)
    stride = layer.strides[0]
    size = (x.shape[1] - 3) // stride + 1
    y = np.zeros((len(x), size, size, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            window = x[
                :, i * stride : i * stride + 3, j * stride : j * stride + 3
            ]
            y[:, i, j] = np.einsum("bhwc,hwck->bk", window, kernel)
    return np.maximum(0, y + bias)


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_features_logits_and_probabilities(kind, loaded, rng, tmp_path):
    model = kind()
    images = random_images(rng)
    given = model.predict(images, verbose=0)
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    classifier = Classifier(model)
    assert classifier.gives == "probabilities"
    assert classifier.num_classes == 3
    assert classifier.image_shape == (16, 16, 3)
    split = classifier.split()
    assert split.shape == (5, 5, 6)
    features = convolved(images / 255, leaf(model, "conv"))
    features = convolved(features, leaf(model, "last"))
    np.testing.assert_allclose(
        array(split.features(images)), features, atol=1e-5
    )
    pool = np.max if kind is sequential else np.mean
    kernel, bias = (array(w) for w in leaf(model, "scores").weights)
    expected = pool(features, (1, 2)) @ kernel.reshape(6, 3) + bias
    np.testing.assert_allclose(
        array(split.logits(split.features(images))), expected, atol=1e-5
    )
    np.testing.assert_allclose(
        array(classifier.probabilities(images)), given, atol=1e-6
    )
    np.testing.assert_allclose(given.sum(-1), 1, atol=1e-5)
    assert [type(operation).__name__ for operation in split.operations][0] == (
        "GlobalMaxPooling2D" if kind is sequential else "GlobalAveragePooling2D"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_told_from_probabilities(kind, rng):
    model = kind("linear")
    images = random_images(rng)
    classifier = Classifier(model)
    assert classifier.gives == "logits"
    split = classifier.split()
    scores = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        array(split.logits(split.features(images))), scores, atol=1e-5
    )
    with pytest.raises(ValueError, match=r"gives logits.*activation='softmax'"):
        classifier.probabilities(images)
    exponents = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(
        array(Classifier(model, "softmax").probabilities(images)),
        exponents / exponents.sum(-1, keepdims=True),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        array(Classifier(model, "sigmoid").probabilities(images)),
        1 / (1 + np.exp(-scores)),
        atol=1e-6,
    )


def test_sigmoid_gives_probabilities(rng):
    model = nested("sigmoid")
    classifier = Classifier(model)
    images = random_images(rng)
    split = classifier.split()
    logits = array(split.logits(split.features(images)))
    probabilities = array(classifier.probabilities(images))
    np.testing.assert_allclose(
        probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6
    )
    np.testing.assert_allclose(
        probabilities, model.predict(images, verbose=0), atol=1e-6
    )


def test_softmax_is_never_applied_to_what_is_already_softmax():
    for kind in KINDS:
        for activation in ("softmax", "sigmoid"):
            with pytest.raises(ValueError, match="would distort.*leave it out"):
                Classifier(kind(), activation)


def test_unknown_scores_are_asked_for(rng):
    model = flat("tanh")
    images = random_images(rng)
    classifier = Classifier(model)
    assert classifier.gives is None
    with pytest.raises(
        ValueError, match="scores of an unknown kind.*To fix this"
    ):
        classifier.probabilities(images)
    with pytest.raises(ValueError, match="'scores'.*does not show the logits"):
        classifier.check_logits()
    told = Classifier(model, "linear")
    np.testing.assert_allclose(
        array(told.probabilities(images)),
        model.predict(images, verbose=0),
        atol=1e-6,
    )
    split = told.split()
    features = split.features(images)
    np.testing.assert_allclose(
        array(split.scores(features)),
        model.predict(images, verbose=0),
        atol=1e-6,
    )
    with pytest.raises(ValueError, match="does not show the logits"):
        split.logits(features)
    split = Classifier(model, "softmax").split()
    np.testing.assert_allclose(
        array(split.logits(split.features(images))),
        model.predict(images, verbose=0),
        atol=1e-6,
    )


def test_it_follows_the_model_as_it_learns(rng):
    model = nested_twice()
    classifier = Classifier(model)
    split = classifier.split()
    images = random_images(rng)
    before = array(classifier.probabilities(images))
    for weight in model.weights:
        weight.assign(weight + 0.3)
    after = array(classifier.probabilities(images))
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(
        after, model.predict(images, verbose=0), atol=1e-6
    )
    logits = split.logits(split.features(images))
    np.testing.assert_allclose(array(keras.ops.softmax(logits)), after, 1e-5)


def test_the_model_is_left_as_it_was(rng, tmp_path):
    model = nested_twice()
    config = keras.saving.serialize_keras_object(model)
    images = random_images(rng)
    given = model.predict(images, verbose=0)
    split = Classifier(model).split()
    split.logits(split.features(images))
    assert keras.saving.serialize_keras_object(model) == config
    assert leaf(model, "scores").activation is keras.activations.softmax
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), given)


def test_layers_of_two_models_belong_to_the_model_at_hand(rng):
    """`layer.output` is the tensor of the first model it was called in."""
    first = flat()
    image = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(0.5)(image)
    for layer in first.layers[1:]:
        x = layer(x)
    second = keras.Model(image, x)
    images = random_images(rng)
    split = Classifier(second).split()
    expected = Classifier(first).split().features(images / 2)
    np.testing.assert_allclose(
        array(split.features(images)), array(expected), atol=1e-5
    )


@pytest.mark.parametrize("architecture", ["lfi_cam", "abn", "cam", "plain"])
def test_models_of_ours_are_cut_behind_the_attention(architecture, rng):
    model = keras_lficam.build(
        cifar.resnet(8),
        5,
        input_shape=(32, 32, 3),
        architecture=architecture,
    )
    images = rng.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    split = Classifier(model).split()
    features = split.features(images)
    given = model.predict(images, verbose=0)
    if architecture == "abn":
        given = given["predictions"]
    np.testing.assert_allclose(
        array(keras.ops.softmax(split.logits(features))), given, atol=1e-4
    )
    if architecture == "lfi_cam":
        attended = keras.Model(
            model.input, model.get_layer("attention").output
        ).predict(images, verbose=0)
        assert np.abs(attended).max() > 10  # Compiled, the last digit differs.
        np.testing.assert_allclose(array(features), attended, atol=1e-4)


@pytest.mark.parametrize("kind", [flat, nested, nested_twice, sequential])
def test_layer_can_be_named_inside_a_nested_model(kind, rng):
    model = kind()
    images = random_images(rng)
    split = Classifier(model).split("conv")
    assert split.shape == (7, 7, 4)
    np.testing.assert_allclose(
        array(split.features(images)),
        convolved(images / 255, leaf(model, "conv")),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        array(keras.ops.softmax(split.logits(split.features(images)))),
        model.predict(images, verbose=0),
        atol=1e-5,
    )


def test_nested_model_can_be_named():
    assert Classifier(nested()).split("trunk").shape == (5, 5, 6)


def around():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", name="inside")(image)
    x = keras.layers.Add()([x, image])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(2, "softmax")(x))


def pixels():
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(2, "softmax")]
    )


def segmentation():
    return keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(2, 1)])


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "layer", "error", "said"),
    [
        (around, "inside", ValueError, "'inside', around which another path"),
        (around, "dense", ValueError, "`layer` must be the name"),
        (flat, "nothing", ValueError, r"last of them are \[.*'last'\]"),
        (pixels, None, ValueError, "classifier of images.*rows of a table"),
        (segmentation, None, ValueError, r"scores \(batch, classes\)"),
        (Subclassed, None, ValueError, "To fix this: build it as a functional"),
        (lambda: "model.keras", None, TypeError, r"keras\.Model"),
    ],
)
def test_what_cannot_be_looked_through_is_refused(model, layer, error, said):
    with pytest.raises(error, match=said):
        Classifier(model()).split(layer)


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="'softmax', 'sigmoid', 'linear'"):
        Classifier(flat("linear"), "relu")


def test_one_of_several_outputs_is_called_predictions(rng):
    base = flat()
    other = keras.layers.Dense(7)(base.layers[-2].output)
    model = keras.Model(
        base.input, {"another": other, "predictions": base.output}
    )
    assert Classifier(model).num_classes == 3
    unnamed = keras.Model(base.input, [other, base.output])
    with pytest.raises(ValueError, match="one called 'predictions'"):
        Classifier(unnamed)


@pytest.mark.parametrize("kind", ["sum", "division"])
def test_logits_that_end_with_an_operation_of_several_tensors(kind, rng):
    base = flat()
    pooled = base.layers[-2].output
    scores = {
        "sum": lambda: keras.layers.Add()(
            [keras.layers.Dense(3)(pooled), keras.layers.Dense(3)(pooled)]
        ),
        "division": lambda: keras.layers.Dense(3)(pooled) / 2.0,
    }[kind]()
    model = keras.Model(base.input, scores)
    split = Classifier(model, "softmax").split()
    images = random_images(rng)
    np.testing.assert_allclose(
        array(split.logits(split.features(images))),
        model.predict(images, verbose=0),
        atol=1e-5,
    )


def test_output_of_a_layer_is_found_in_nested_models(rng):
    model = nested_twice()
    images = random_images(rng)
    found = Classifier(model).output_of("conv")
    assert found.shape == (None, 7, 7, 4)
    np.testing.assert_allclose(
        array(found.function(images)),
        convolved(images / 255, leaf(model, "conv")),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="must have a layer 'nothing'"):
        Classifier(model).output_of("nothing")


# One score ------------------------------------------------------------------


def one_score(activation, kernel=((1.0,), (-2.0,), (0.5,))):
    return of_channels(kernel, activation=activation)


def logit_by_hand(images):
    means = images.astype("float64").mean(axis=(1, 2))
    return means @ [1.0, -2.0, 0.5]


@pytest.mark.parametrize(
    ("ends", "told"),
    [("sigmoid", None), (None, "sigmoid")],
)
def test_one_score_is_two_classes(ends, told, rng):
    classifier = Classifier(one_score(ends), told)
    images = rng.normal(size=(4, 2, 2, 3)).astype("float32")
    logit = logit_by_hand(images)
    yes = 1 / (1 + np.exp(-logit))
    assert classifier.num_classes == 2
    assert classifier.activation == "sigmoid"
    np.testing.assert_allclose(
        array(classifier.probabilities(images)),
        np.stack([1 - yes, yes], axis=-1),
        atol=1e-6,
    )
    split = classifier.split()
    np.testing.assert_allclose(
        array(split.logits(split.features(images))),
        np.stack([-logit, logit], axis=-1),
        atol=1e-5,
    )
    predicted = classifier.predicted_scores(images).argmax(axis=-1)
    np.testing.assert_array_equal(predicted, logit > 0)


def test_a_sure_no_is_the_first_class():
    """At a logit of -37 the probability of yes is 8.5e-17."""
    images = np.zeros((1, 2, 2, 3), "float32")
    images[..., 1] = 18.5
    for ends, told in [("sigmoid", None), (None, "sigmoid")]:
        classifier = Classifier(one_score(ends), told)
        (found,) = array(classifier.probabilities(images))
        np.testing.assert_allclose(found, [1, np.exp(-37)], rtol=1e-4)
        assert classifier.predicted_scores(images).argmax() == 0


def test_one_logit_is_not_taken_for_certain(rng):
    classifier = Classifier(one_score(None))
    images = rng.normal(size=(2, 2, 2, 3)).astype("float32")
    with pytest.raises(ValueError, match="activation='sigmoid' if it has two"):
        classifier.probabilities(images)
    with pytest.raises(ValueError, match="softmax of one number is 1"):
        Classifier(one_score(None), "softmax")


@pytest.mark.slow
def test_map_of_no_is_that_of_the_negated_logit(rng):
    """Of one sigmoid every explainer knows both classes."""
    images = rng.uniform(size=(3, 2, 2, 3)).astype("float32")
    one = one_score("sigmoid")
    two = of_channels(
        [[-1.0, 1.0], [2.0, -2.0], [-0.5, 0.5]], activation="sigmoid"
    )
    for make in (
        explainers.EigenCAM,
        explainers.CAM,
        explainers.GradCAM,
        explainers.GradCAMPlusPlus,
        explainers.XGradCAM,
        explainers.HiResCAM,
        explainers.LayerCAM,
        explainers.FinerCAM,
        explainers.AblationCAM,
        lambda model: explainers.IntegratedGradients(model, steps=2),
        lambda model: explainers.SmoothGrad(model, samples=2),
        lambda model: explainers.Occlusion(model, patch=1),
        explainers.ScoreCAM,
        lambda model: explainers.RISE(model, samples=8, cells=2),
    ):
        of_one, of_two = make(one), make(two)
        for category in (0, 1, None):
            np.testing.assert_allclose(
                of_one(images, category), of_two(images, category), atol=1e-5
            )
    maps = rng.uniform(size=(3, 2, 2, 1))
    for category in (0, 1, None):
        np.testing.assert_allclose(
            metrics.average_drop(one, images, maps, category),
            metrics.average_drop(two, images, maps, category),
            atol=1e-6,
        )
    with pytest.raises(ValueError, match="between 0 and 1"):
        explainers.GradCAM(one)(images, 2)


# Several inputs -------------------------------------------------------------


def with_table(*, activation="softmax"):
    """An image and a row of a table; the row scales two of the channels."""
    image = keras.Input((4, 4, 3), name="image")
    row = keras.Input((2,), name="row")
    features = keras.layers.Conv2D(
        2, 1, use_bias=False, activation="relu", name="features"
    )(image)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    joined = keras.layers.Concatenate()([pooled, row])
    scaled = keras.layers.Dense(3, activation, name="scores")(joined)
    return keras.Model([image, row], scaled)


def held(model, row):
    """The same classifier of the image alone, with the row in its bias."""
    image = keras.Input((4, 4, 3))
    features = keras.layers.Conv2D(2, 1, use_bias=False, activation="relu")
    pooled = keras.layers.GlobalAveragePooling2D()(features(image))
    scores = keras.layers.Dense(3, "softmax")
    alone = keras.Model(image, scores(pooled))
    features.set_weights(model.get_layer("features").get_weights())
    kernel, bias = model.get_layer("scores").get_weights()
    scores.set_weights([kernel[:2], bias + row @ kernel[2:]])
    return alone


MAKERS = {
    "EigenCAM": explainers.EigenCAM,
    "GradCAM": explainers.GradCAM,
    "GradCAMPlusPlus": explainers.GradCAMPlusPlus,
    "XGradCAM": explainers.XGradCAM,
    "HiResCAM": explainers.HiResCAM,
    "LayerCAM": explainers.LayerCAM,
    "FinerCAM": explainers.FinerCAM,
    "AblationCAM": explainers.AblationCAM,
    "IntegratedGradients": lambda model: explainers.IntegratedGradients(
        model, steps=3
    ),
    "SmoothGrad": lambda model: explainers.SmoothGrad(model, samples=3),
    "Occlusion": lambda model: explainers.Occlusion(model, patch=2),
    "ScoreCAM": explainers.ScoreCAM,
    "RISE": lambda model: explainers.RISE(model, samples=6, cells=2),
    "LIME": lambda model: explainers.LIME(
        model,
        samples=8,
        segments=lambda image: np.indices(image.shape[:2])[0] // 2,
    ),
}


@pytest.mark.parametrize("name", list(MAKERS))
def test_other_inputs_are_held(name, rng):
    model = with_table()
    images = rng.uniform(size=(3, 4, 4, 3)).astype("float32")
    rows = rng.normal(size=(3, 2)).astype("float32")
    maps = MAKERS[name](model)(images, context={"row": rows})
    alone = [
        MAKERS[name](held(model, row))(image)[0]
        for image, row in zip(images, rows, strict=True)
    ]
    np.testing.assert_allclose(maps, alone, atol=1e-5)
    # One row for all.
    np.testing.assert_allclose(
        MAKERS[name](model)(images, 1, context={"row": rows[0]}),
        MAKERS[name](held(model, rows[0]))(images, 1),
        atol=1e-5,
    )


def test_metrics_hold_other_inputs(rng):
    model = with_table()
    images = rng.uniform(size=(3, 4, 4, 3)).astype("float32")
    rows = rng.normal(size=(3, 2)).astype("float32")
    maps = rng.uniform(size=(3, 4, 4, 1))
    for metric in (metrics.average_drop, metrics.deletion_auc):
        values = metric(
            model, images, maps, chunk_size=2, context={"row": rows}
        )
        for index, row in enumerate(rows):
            one = slice(index, index + 1)
            np.testing.assert_allclose(
                values[one],
                metric(held(model, row), images[one], maps[one]),
                atol=1e-6,
            )


@pytest.mark.parametrize(
    ("context", "error", "message"),
    [
        (None, ValueError, r"\['row'\] in model"),
        ({"table": [0, 0]}, ValueError, r"Received: \['table'\]"),
        ({"row": np.zeros((2, 2))}, ValueError, r"shape \(3, 2\) for 'row'"),
        ({"row": [np.nan, 0]}, ValueError, "finite numbers for 'row'"),
        ({"row": ["a", "b"]}, TypeError, "'row'\\].* must hold real numbers"),
        ([0, 0], TypeError, "must be a dictionary"),
    ],
)
def test_context_is_checked(context, error, message):
    images = np.zeros((3, 4, 4, 3), "float32")
    with pytest.raises(error, match=message):
        explainers.GradCAM(with_table())(images, context=context)


def test_one_input_alone_is_the_image():
    images = [keras.Input((4, 4, 3)), keras.Input((4, 4, 3))]
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()(images))
    model = keras.Model(images, keras.layers.Dense(2, "softmax")(x))
    with pytest.raises(ValueError, match="2 of them"):
        Classifier(model)
    with pytest.raises(ValueError, match=r"which are \[\]"):
        explainers.GradCAM(flat())(
            np.zeros((1, 16, 16, 3)), context={"row": [1.0]}
        )


def test_ways_out_of_two_inputs_are_said(tmp_path):
    model = with_table()
    with pytest.raises(ValueError, match="one input.*To fix this.*`context`"):
        keras_lficam.attach(model)
    layers = keras.layers
    features = model.get_layer("features").output
    drawn = layers.Conv2D(1, 1, activation="sigmoid", name="attention_map")
    pooled = layers.GlobalAveragePooling2D()(features * drawn(features))
    joined = layers.Concatenate()([pooled, model.inputs[1]])
    scores = layers.Dense(2, "softmax", name="predictions")(joined)
    shown = keras.Model(model.inputs, scores)
    maps = explainers.AttentionMap(shown)(
        np.ones((1, 4, 4, 3)), context={"row": [0, 1]}
    )
    assert maps.shape == (1, 4, 4, 1)
    if keras.backend.backend() == "tensorflow":
        with pytest.raises(ValueError, match="2 inputs. To fix this: .*view"):
            keras_lficam.export(shown, tmp_path / "model")
        assert not list(tmp_path.iterdir())


class Coordinates:
    """Looks like a sparse array of JAX."""

    shape = (1, 8, 8, 3)

    def __array__(self, dtype=None, copy=None):
        return np.zeros(self.shape)


Coordinates.__module__ = "jax.experimental.sparse.bcoo"


class Layout(Coordinates):
    """Looks like a sparse tensor of PyTorch."""

    layout = "torch.sparse_coo"


Layout.__module__ = "torch"


@pytest.mark.parametrize("make", [Coordinates, Layout])
def test_sparse_tensors_are_no_images(make):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    with pytest.raises(TypeError, match="`images`.*sparse.*To fix this"):
        Classifier(model).checked_images(make())


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tensors of TensorFlow"
)
def test_tensors_of_tensorflow_that_are_no_images():
    import tensorflow as tf

    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    images = tf.zeros((1, 8, 8, 3))
    for wrong in (
        tf.sparse.from_dense(images),
        tf.RaggedTensor.from_tensor(images),
        tf.IndexedSlices(images, tf.constant([0])),
    ):
        with pytest.raises(TypeError, match="`images`.*a (spa|rag).*To fix"):
            Classifier(model).checked_images(wrong)


def test_model_of_keras_2_is_named_as_such():
    kind = type("Functional", (), {"__module__": "tf_keras.src.engine.x"})
    model = type("Model", (kind,), {})()  # As a class of the user's.
    functions = {
        "model": [
            keras_lficam.attach,
            keras_lficam.attention_view,
            keras_lficam.explainers.GradCAM,
            lambda model: keras_lficam.metrics.randomized(model, seed=0),
            lambda model: keras_lficam.fit(model, "none", folder="none"),
        ],
        "backbone": [lambda model: keras_lficam.build(model, 3)],
    }
    if keras.backend.backend() == "tensorflow":  # Which export needs.
        functions["model"].append(lambda m: keras_lficam.export(m, "none"))
    for name, takers in functions.items():
        for take in takers:
            with pytest.raises(TypeError) as raised:
                take(model)
            assert str(raised.value).startswith(
                f"Argument `{name}` must be a model of Keras 3. Received: a "
                "Model of Keras 2 (tf_keras). To fix this: "
            )


@pytest.mark.parametrize("make", [flat, nested, whole_inside, sequential])
@pytest.mark.parametrize(
    ("activation", "added"),
    [("softmax", None), ("sigmoid", None), (None, "softmax")],
)
def test_training_adds_a_softmax_to_logits(make, activation, added):
    assert training_activation(make(activation)) == added
