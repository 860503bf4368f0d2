"""Guidance: losses, targets, and runs that teach a map where to lie."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from interruptions import Kill, Killed
from logs import rows
from small_classifiers import labeled_images
from small_runs import classifier, fit

import keras_lficam
from keras_lficam import data
from keras_lficam.data.targets import map_targets
from keras_lficam.functional import Placement
from keras_lficam.training import Guidance, GuidanceLoss, Recipe
from keras_lficam.training.guidance import cell_windows

NAN = np.nan
BATCH, STEPS = 8, 3


def masked(number, seed):
    """Images, labels and masks; every third image has none."""
    images, labels = labeled_images(number, seed)
    masks = np.zeros((number, 16, 16, 1), "float32")
    for i, mask in enumerate(masks):
        mask[i % 5 : i % 5 + 7, 4:11] = 1
    masks[2::3] = NAN
    return images, labels, masks


def batches(number, seed):
    return tf.data.Dataset.from_tensor_slices(masked(number, seed)).batch(5)


@pytest.fixture(scope="module")
def source():
    return data.from_datasets(
        batches(21, 0),
        batches(13, 1),
        test=batches(10, 2),
        class_names=["a", "b", "c"],
    )


GUIDED = Recipe(
    epochs=2,
    batch_size=BATCH,
    learning_rate=0.01,
    ema_epochs=0.5,
    augmentation=("flip",),
    guidance=0.5,
)


# ------------------------------------------------------------------ the losses


def as_maps(*rows):
    """Maps `(B, 1, n, 1)` of lists of numbers."""
    return np.array(rows, "float32")[:, None, :, None]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # 3 of 4 inside; nothing; half of an 8 counts; a negative is none.
        ("energy", [0.25, 1.0, 0.5, 0.0]),
        # |1 - 1| and |1/3 - 0|; |0 - 1| and |0 - 0|; |1 - 1/2| twice;
        # |1 - 1| and |0 - 0|.
        ("mask", [1 / 6, 1 / 2, 1 / 2, 0.0]),
        # 1^2 and nothing; nothing; 4^2 twice; nothing.
        ("outside", [1 / 2, 0.0, 16.0, 0.0]),
    ],
)
def test_losses_by_hand(form, expected):
    maps = as_maps([3, 1], [0, 0], [8, 8], [5, -7])
    masks = as_maps([1, 0], [1, 0], [0.5, 0.5], [1, 0])
    loss = GuidanceLoss(form, reduction=None)
    np.testing.assert_allclose(loss(masks, maps), expected, atol=1e-6)
    mean = GuidanceLoss(form)
    assert float(mean(masks, maps)) == pytest.approx(np.mean(expected))
    # Two of them know no unit.
    unit = 1e6 if form == "outside" else 1
    found = loss(masks, 1e3 * maps)
    np.testing.assert_allclose(found, unit * np.array(expected), atol=1e-6)


def test_a_map_without_a_mask_has_no_loss():
    """Of two maps of an image the loss is that of the one with a mask."""
    maps = np.concatenate([as_maps([3, 1], [3, 1])] * 2, axis=-1)
    one = np.concatenate([as_maps([1, 0]), as_maps([NAN, NAN])], axis=-1)
    none = np.full_like(one, NAN)
    loss = GuidanceLoss(reduction=None)
    found = loss(np.concatenate([one, none]), maps)
    np.testing.assert_allclose(found, [0.25, 0.0], atol=1e-6)


@pytest.mark.parametrize("form", ["energy", "mask", "outside"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients_of_empty_maps_and_masks_are_finite(form, dtype):
    maps = tf.constant(as_maps([0, 0], [0, 0], [2, 1], [2, 1]), dtype)
    masks = as_maps([1, 0], [0, 0], [0, 0], [NAN, NAN])
    with tf.GradientTape() as tape:
        tape.watch(maps)
        losses = GuidanceLoss(form, reduction=None)(masks, maps)
    gradient = tape.gradient(losses, maps).numpy()
    assert np.isfinite(losses).all()
    assert np.isfinite(gradient).all()
    assert not gradient[[0, 1, 3]].any()


def test_gradient_of_the_energy_by_hand():
    """d(1 - a/(a+b))/da = -b/(a+b)^2, d/db = a/(a+b)^2."""
    maps = tf.constant(as_maps([3, 1]))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        loss = GuidanceLoss()(as_maps([1, 0]), maps)
    gradient = tape.gradient(loss, maps).numpy().ravel()
    np.testing.assert_allclose(gradient, [-1 / 16, 3 / 16], rtol=1e-5)


def test_a_loss_is_made_again_from_its_configuration():
    loss = GuidanceLoss("outside", name="own")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert (again.form, again.name) == ("outside", "own")
    with pytest.raises(ValueError, match="Argument `form` must be one of"):
        GuidanceLoss("sharp")


# ----------------------------------------------------------------- the targets


@pytest.mark.parametrize(
    ("count", "placement", "expected"),
    [
        ((2), (4, 0.5, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]),
        # Five pixels by two cells: the middle one is shared.
        (
            2,
            (5, 0.75, 2.5),
            [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]],
        ),
        # Cells that begin a pixel later, as without padding.
        (2, (5, 1.5, 2), [[0, 0.5, 0.5, 0, 0], [0, 0, 0, 0.5, 0.5]]),
        # Half of the first cell lies outside.
        (2, (3, -0.5, 2), [[1, 0, 0], [0, 0.5, 0.5]]),
        # Mirrored.
        (2, (4, 2.5, -2), [[0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]]),
        (2, (2, -3.5, 2), [[0, 0], [0, 0]]),
    ],
)
def test_windows_of_cells_by_hand(count, placement, expected):
    length, center, stride = placement
    place = Placement(length, center, stride, -0.5, length - 0.5)
    np.testing.assert_allclose(cell_windows(count, place), expected, atol=1e-12)


# Of the map of `normalized_backbone`, whose cells have their centers on the
# pixels 3, 7, 11 and 15; those at their ends are shared by two.
WINDOWS = np.zeros((4, 16))
for cell, center in enumerate((3, 7, 11, 15)):
    for step, weight in zip(range(-2, 3), (0.5, 1, 1, 1, 0.5), strict=True):
        if center + step < 16:
            WINDOWS[cell, center + step] = weight
WINDOWS /= WINDOWS.sum(1, keepdims=True)


def test_targets_are_the_share_of_each_cell_that_is_object():
    guidance = Guidance(classifier(), form="mask")
    masks = np.zeros((2, 16, 16, 1), "float32")
    masks[0, 1:5, 1:9] = 1
    masks[0, 5:7, 5:9] = 1
    masks[1] = NAN
    found = guidance.targets(masks).numpy()
    assert found.shape == (2, 4, 4, 1)
    expected = np.zeros((4, 4))
    # The first box: 3.5 of 4 rows by all columns, and by 3.5 of 4. The second:
    # half a row and 1.5 rows, by half a column and 3.5.
    expected[0, 0] = 3.5 / 4 + 0.5 / 4 * 0.5 / 4
    expected[0, 1] = 3.5 / 4 * 3.5 / 4 + 0.5 / 4 * 3.5 / 4
    expected[1, 0] = 1.5 / 4 * 0.5 / 4
    expected[1, 1] = 1.5 / 4 * 3.5 / 4
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-6)
    by_windows = WINDOWS @ masks[0, ..., 0] @ WINDOWS.T
    np.testing.assert_allclose(by_windows, expected, atol=1e-6)
    assert np.isnan(found[1]).all()
    # For the other losses a quarter of a cell is enough.
    for form in ("energy", "outside"):
        inside = Guidance(classifier(), form=form).targets(masks[:1])
        quarters = np.minimum(4 * expected, 1)
        np.testing.assert_allclose(inside[0, ..., 0], quarters, atol=1e-6)
    assert quarters[:2, :2].tolist() == [[1, 1], [0.1875, 1]]
    empty = guidance.targets(None, np.zeros(3, "int64")).numpy()
    assert empty.shape == (3, 4, 4, 1)
    assert np.isnan(empty).all()


@pytest.mark.parametrize(
    ("labels", "own"),
    [([2, 0], [[2], [0]]), ([[1.0, 0, 1], [0, 0, 0]], [[0, 2], []])],
)
def test_evidence_has_the_mask_for_the_classes_of_an_image(labels, own):
    guidance = Guidance(classifier("plain"), "evidence")
    masks = np.ones((2, 16, 16, 1), "float32")
    found = guidance.targets(masks, np.array(labels)).numpy()
    assert found.shape == (2, 4, 4, 3)
    for one, classes in zip(found, own, strict=True):
        others = [c for c in range(3) if c not in classes]
        np.testing.assert_allclose(one[..., classes], 1, atol=1e-6)
        assert np.isnan(one[..., others]).all()


# ------------------------------------------------------------------- the model


@pytest.mark.parametrize("architecture", ["lfi_cam", "abn", "cam", "plain"])
@pytest.mark.parametrize("guided", ["attention", "evidence"])
def test_the_guided_output_is_the_map_that_is_explained(architecture, guided):
    model = classifier(architecture)
    if guided == "attention" and architecture in ("cam", "plain"):
        with pytest.raises(ValueError, match="must have an attention map"):
            Guidance(model, guided)
        return
    paths = [weight.path for weight in model.weights]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    guidance = Guidance(model, guided)
    images = labeled_images(4, 0)[0].astype("float32")
    found = guidance.model(images)
    output = model(images)
    if not isinstance(output, dict):
        output = {"predictions": output}
    assert found.keys() == {*output, "guidance"}
    for name, values in output.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)
    if guided == "attention":
        expected = keras_lficam.attention_view(model)(images)["attention_map"]
    else:
        view = keras_lficam.explanation_view(model, top=None)
        evidence = view.predict(images)["class_evidence"]
        expected = evidence - evidence.mean(-1, keepdims=True)
    np.testing.assert_allclose(found["guidance"], expected, atol=1e-5)
    # The same weights, and the model knows nothing of it.
    assert {*map(id, guidance.model.weights)} == {*map(id, model.weights)}
    assert [weight.path for weight in model.weights] == paths
    if guided == "attention":
        assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


def test_of_one_score_the_mask_is_that_of_yes():
    masks = np.ones((2, 8, 8, 1))
    windows = [np.full((1, 8), 1 / 8)] * 2
    found = map_targets(masks, np.array([0, 1]), windows, classes=1)
    np.testing.assert_array_equal(np.ravel(found), [NAN, 1])


def test_evidence_of_classes_that_do_not_exclude_each_other_is_as_it_is():
    model = classifier("plain", classifier_activation="sigmoid")
    images = labeled_images(4, 0)[0].astype("float32")
    view = keras_lficam.explanation_view(model, top=None)
    np.testing.assert_allclose(
        Guidance(model, "evidence").model(images)["guidance"],
        view.predict(images)["class_evidence"],
        atol=1e-5,
    )


def test_evidence_of_a_scaled_head_has_its_sign():
    """A head whose scores are negated: what was for a class is against it."""
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    features = layers.Conv2D(4, 3, name="features")(image)
    scores = layers.Dense(3)(layers.GlobalAveragePooling2D()(features))
    negated = layers.Activation("softmax")(layers.Rescaling(-2.0)(scores))
    model = keras.Model(image, negated)
    images = labeled_images(4, 0)[0].astype("float32")
    view = keras_lficam.explanation_view(model, top=None)
    evidence = view.predict(images)["class_evidence"]
    np.testing.assert_allclose(
        Guidance(model, "evidence").model(images)["guidance"],
        evidence - evidence.mean(-1, keepdims=True),
        rtol=1e-4,
        atol=1e-3,
    )


def test_models_that_cannot_be_guided_are_refused():
    layers = keras.layers
    flattened = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(4, 3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    with pytest.raises(ValueError, match="'sequential.*', whose head is"):
        Guidance(flattened, "evidence")
    image = keras.Input((16, 16, 3))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    nested = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.Model(image, features)]
    )
    nested.add(layers.Dense(3))
    with pytest.raises(ValueError, match="lies inside a nested model"):
        Guidance(nested, "evidence")
    any_size = keras_lficam.build("ResNet8", 3, input_shape=(None, None, 3))
    with pytest.raises(ValueError, match="must take images of one size"):
        Guidance(any_size)
    with pytest.raises(ValueError, match="`guided` must be one of"):
        Guidance(flattened, "both")


# --------------------------------------------------------------------- the run


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("guided", ["attention", "evidence"])
def test_a_guided_run_is_the_steps_by_hand(tmp_path, source, guided):
    """Of 21 images 14 have a mask: the loss of each counts 21/14 times."""
    recipe = Recipe(
        epochs=1,
        batch_size=BATCH,
        optimizer="sgd",
        learning_rate=0.05,
        schedule="constant",
        guidance=0.8,
        guided=guided,
    )
    model, by_hand = classifier(), classifier()
    history = fit(tmp_path / "run", source, recipe, model)
    assert source.count_masks("train") == 14
    guidance = Guidance(by_hand, guided)
    stream = source.stream(
        "train",
        image_size=(16, 16),
        batch_size=BATCH,
        seed=3,
        with_masks=True,
    )
    variables = by_hand.trainable_variables
    velocity = [np.zeros(v.shape) for v in variables]
    seen = []
    for images, labels, masks in stream.take(STEPS):
        small = np.einsum("iy,byxc,jx->bijc", WINDOWS, masks, WINDOWS)
        small = np.minimum(4 * small, 1).astype("float32")
        with tf.GradientTape() as tape:
            outputs = guidance.model(images, training=True)
            picked = tf.gather(outputs["predictions"], labels, batch_dims=1)
            maps = outputs["guidance"]
            if guided == "evidence":
                maps = tf.gather(maps, labels, axis=-1, batch_dims=1)
                maps = tf.nn.relu(maps)[..., None]
            known = ~np.isnan(small).any(axis=(1, 2, 3))
            inside = tf.math.divide_no_nan(
                tf.reduce_sum(maps * np.nan_to_num(small), axis=(1, 2, 3)),
                tf.reduce_sum(maps, axis=(1, 2, 3)),
            )
            of_map = tf.reduce_mean(tf.where(known, 1 - inside, 0.0) * 21 / 14)
            loss = -tf.reduce_mean(tf.math.log(picked)) + 0.8 * of_map
        seen.append(float(of_map))
        for number, gradient in enumerate(tape.gradient(loss, variables)):
            velocity[number] = 0.9 * velocity[number] - 0.05 * gradient
            variables[number].assign(variables[number] + velocity[number])
    for one, other in zip(model.weights, by_hand.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    logs = history.history
    assert logs["guidance_loss"][0] == pytest.approx(np.mean(seen), rel=1e-4)
    # In validation 9 of 13 have a mask, and the loss is their mean.
    held = source.batches("validation", batch_size=13, with_masks=True)
    ((images, labels, masks),) = held.as_numpy_iterator()
    outputs = guidance.model(images)
    losses = GuidanceLoss(reduction=None)(
        guidance.targets(masks, labels), outputs["guidance"]
    )
    known = ~np.isnan(masks).any(axis=(1, 2, 3))
    assert known.sum() == 9
    expected = np.asarray(losses)[known].mean()
    assert logs["val_guidance_loss"][0] == pytest.approx(expected, rel=1e-3)


def energy(model, source):
    """Mean share of the attention map in the masks of all training images."""
    stream = source.batches("train", with_masks=True, batch_size=21)
    ((images, _, masks),) = stream.as_numpy_iterator()
    known = ~np.isnan(masks).any(axis=(1, 2, 3))
    guidance = Guidance(model)
    losses = GuidanceLoss(reduction=None)(
        guidance.targets(masks), guidance.model(images)["guidance"]
    )
    return 1 - float(np.mean(np.asarray(losses)[known]))


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("architecture", ["lfi_cam", "abn"])
@pytest.mark.parametrize("loss", ["energy", "mask", "outside"])
def test_a_map_learns_where_to_lie(tmp_path, source, architecture, loss):
    found = {}
    for weight in (0.0, 20.0):
        model = classifier(architecture)
        recipe = dataclasses.replace(
            GUIDED,
            epochs=5,
            ema_epochs=0,
            augmentation=(),
            guidance=weight,
            guidance_loss=loss,
            monitor="loss",
        )
        fit(tmp_path / str(weight), source, recipe, model)
        found[weight] = energy(model, source)
    assert found[20.0] > found[0.0] + 0.02, found


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("architecture", "guided", "policy"),
    [
        ("lfi_cam", "attention", "mixed_float16"),
        ("abn", "evidence", "mixed_bfloat16"),
        ("plain", "evidence", "float32"),
    ],
)
def test_what_is_saved_is_the_ordinary_model(
    tmp_path, source, architecture, guided, policy
):
    keras.config.set_dtype_policy(policy)
    model = classifier(architecture)
    recipe = dataclasses.replace(
        GUIDED, guided=guided, frozen_share=0.5, monitor="macro_f1", patience=5
    )
    checkpoint = tmp_path / "own.keras"
    quality = [keras.callbacks.ModelCheckpoint(checkpoint)]
    if architecture != "plain":
        images, labels, masks = masked(6, 4)
        quality.append(
            keras_lficam.evaluation.MapQuality(
                keras_lficam.explainers.AttentionMap,
                {"energy": keras_lficam.metrics.energy_pointing_game},
                [(images, labels, np.nan_to_num(masks))],
            )
        )
    history = fit(
        tmp_path / "run",
        source,
        recipe,
        model,
        heat_maps_every=1,
        callbacks=quality,
    )
    assert np.isfinite(history.history["loss"]).all()
    # Callbacks of the caller see the classifier.
    own = keras.models.load_model(checkpoint)
    assert [*own.output_names] == [*model.output_names]
    saved = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert [*saved.output_names] == [*model.output_names]
    images = labeled_images(4, 5)[0].astype("float32")
    one, other = (m.predict(images, verbose=0) for m in (saved, model))
    for name in one if isinstance(one, dict) else [None]:
        pair = (one, other) if name is None else (one[name], other[name])
        np.testing.assert_array_equal(*pair)
    # The caller's model is compiled, as after any run.
    images, labels = labeled_images(4, 5)
    if len(model.outputs) > 1:
        labels = dict.fromkeys(model.output, labels)
    tested = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert "guidance_loss" not in tested
    assert np.isfinite(tested["loss"])


@pytest.mark.usefixtures("eagerly")
def test_a_callback_stops_a_guided_run(tmp_path, source):
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(
            stop.model, "stop_training", True
        )
    )
    model = classifier()
    recipe = dataclasses.replace(GUIDED, epochs=3, ema_epochs=0)
    history = fit(tmp_path / "run", source, recipe, model, callbacks=[stop])
    assert stop.model is model
    assert history.epoch == [0]


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_guided_run_resumes_bit_by_bit(tmp_path, source):
    recipe = dataclasses.replace(GUIDED, epochs=3, frozen_share=0.4)
    whole = classifier()
    history = fit(tmp_path / "whole", source, recipe, whole)
    options = {"checkpoint_every": 2, "resume": True}
    for kill in ({"step": 2}, {"step": 5}, {"begin": 2}):
        with pytest.raises(Killed):
            fit(
                tmp_path / "run",
                source,
                recipe,
                classifier(),
                callbacks=[Kill(**kill)],
                **options,
            )
    model = classifier()
    resumed = fit(tmp_path / "run", source, recipe, model, **options)
    for one, other in zip(model.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert resumed.history == history.history
    again = classifier()
    fit(tmp_path / "run", source, recipe, again, resume=True)
    for one, other in zip(again.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(rows(tmp_path / "run")) == 3


def test_data_without_masks_is_refused(tmp_path, source):
    plain = data.from_datasets(
        *[
            tf.data.Dataset.from_tensor_slices(labeled_images(n, n)).batch(4)
            for n in (9, 6)
        ],
        class_names=["a", "b", "c"],
    )
    with pytest.raises(ValueError, match="guidance=0 for data without masks"):
        fit(tmp_path / "run", plain, GUIDED, classifier())
    images, labels, masks = masked(9, 0)
    none = tf.data.Dataset.from_tensor_slices(
        (images, labels, np.full_like(masks, NAN))
    ).batch(4)
    with pytest.raises(ValueError, match="no image to train with has a mask"):
        fit(
            tmp_path / "run",
            data.from_datasets(none, none, class_names=["a", "b", "c"]),
            GUIDED,
            classifier(),
        )
    assert not (tmp_path / "run").exists()


def test_masks_that_are_none_are_refused():
    images, labels, masks = masked(9, 0)
    for wrong in (masks * 255, masks * 0.5):
        several = tf.data.Dataset.from_tensor_slices(
            (images, labels, wrong)
        ).batch(4)
        source = data.from_datasets(
            several, several, class_names=["a", "b", "c"]
        )
        with pytest.raises(ValueError, match="Masks of argument `train` must"):
            source.count("train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": -1}, "`guidance` must be at least 0"),
        ({"guided": "map"}, "`guided` must be one of"),
        ({"guidance_loss": "l2"}, "`guidance_loss` must be one of"),
        ({"guidance_share": 0}, "`guidance_share` must be greater than 0"),
        ({"guidance_share": 1.5}, "`guidance_share` must be at most 1"),
        ({"augmentation": ("mix_up",)}, "that mixes images"),
        ({"consistency": -1}, "`consistency` must be at least 0"),
    ],
)
def test_recipes_that_cannot_guide_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GUIDED, **changes)
