"""Consistency: the map of a moved image against the moved map."""

import dataclasses

import keras
import numpy as np
import pytest
from interruptions import Kill, Killed
from small_classifiers import labeled_images
from small_runs import classifier, fit, three_classes

import keras_lficam
from keras_lficam.training import Recipe
from keras_lficam.training.consistency import MapConsistency, with_consistency


def moved(x, move, stride):
    layer = MapConsistency(pooling(), axes=(1, 2)[: len(move[1])])
    return keras.ops.convert_to_numpy(layer.moved(x, move, stride))


def pooling(size=6):
    """A model whose map is the mean of 2x2 pixels: it moves as the image."""
    image = keras.Input((size, size, 1))
    return keras.Model(image, keras.layers.AveragePooling2D(2)(image))


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ((1, 1), [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        ((0, 1), [[0, 0, 0], [1, 2, 3], [4, 5, 6]]),
        ((2, 1), [[4, 5, 6], [7, 8, 9], [0, 0, 0]]),
        ((1, 0), [[0, 1, 2], [0, 4, 5], [0, 7, 8]]),
        ((2, 2), [[5, 6, 0], [8, 9, 0], [0, 0, 0]]),
    ],
)
def test_maps_are_shifted_by_cells(shift, expected):
    maps = np.arange(1.0, 10).reshape(1, 3, 3, 1).astype("float32")
    found = moved(maps, (np.array(shift), []), (1, 1))
    np.testing.assert_array_equal(found[0, ..., 0], expected)
    # An image of two pixels a cell moves as far.
    image = maps.repeat(2, 1).repeat(2, 2)
    found = moved(image, (np.array(shift), []), (2, 2))
    np.testing.assert_array_equal(
        found[0, ..., 0], np.array(expected).repeat(2, 0).repeat(2, 1)
    )


def test_each_image_is_mirrored_or_not():
    maps = np.arange(1.0, 5).reshape(1, 2, 2, 1).repeat(4, 0)
    rows = np.array([0, 1, 0, 1]).reshape(4, 1, 1, 1)
    columns = np.array([0, 0, 1, 1]).reshape(4, 1, 1, 1)
    found = moved(maps, (np.array([1, 1]), [rows, columns]), (1, 1))
    expected = [
        [[1, 2], [3, 4]],
        [[3, 4], [1, 2]],
        [[2, 1], [4, 3]],
        [[4, 3], [2, 1]],
    ]
    np.testing.assert_array_equal(found[..., 0], expected)


def test_a_map_that_moves_with_its_image_is_consistent():
    """And one that always is bright at the same place is not."""
    images = np.random.default_rng(0).uniform(size=(4, 6, 6, 1))
    images = images.astype("float32")
    maps = pooling()
    layer = MapConsistency(maps, axes=(1, 2), seed=3)
    for _ in range(8):
        found = layer([images, maps(images)], training=True)
        np.testing.assert_allclose(found, np.zeros((4, 1)), atol=1e-6)
    assert not np.any(layer([images, maps(images)], training=False))


def test_what_stays_where_it_is_is_inconsistent_by_hand():
    """The map is bright in its upper row, whatever the image is."""
    image = keras.Input((4, 4, 1))
    row = np.array([[[[1.0], [1.0]], [[0.0], [0.0]]]], "float32")
    still = keras.layers.AveragePooling2D(2)(image) * 0 + row
    layer = MapConsistency(keras.Model(image, still), seed=1)
    seen = set()
    for _ in range(40):
        found = layer([np.ones((1, 4, 4, 1), "float32"), row], training=True)
        seen.add(round(float(found[0, 0]), 4))
    # Not shifted up or down: the same. Up: of the two cells that are seen the
    # map should be dark and is bright. Down: should be bright, and is dark.
    assert seen == {0.0, 1.0}


@pytest.fixture(scope="module")
def source():
    return three_classes()


RECIPE = Recipe(
    epochs=2,
    batch_size=8,
    learning_rate=0.01,
    ema_epochs=0.5,
    augmentation=("flip",),
    consistency=1.0,
)


def test_the_model_is_left_as_it_was():
    model = classifier()
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    more = with_consistency(model, model, axes=(2,))
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    images = labeled_images(4, 0)[0].astype("float32")
    np.testing.assert_array_equal(more(images)["predictions"], model(images))
    plain = classifier("plain")
    with pytest.raises(ValueError, match="must have an attention map"):
        with_consistency(plain, plain)
    uneven = keras_lficam.build("ResNet8", 3, input_shape=(30, 30, 3))
    with pytest.raises(ValueError, match="divides its images into cells"):
        with_consistency(uneven, uneven)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("architecture", ["lfi_cam", "abn"])
def test_a_run_learns_to_be_consistent(tmp_path, source, architecture):
    found = {}
    for weight in (1e-9, 10.0):
        recipe = dataclasses.replace(RECIPE, epochs=8, consistency=weight)
        history = fit(
            tmp_path / str(weight), source, recipe, classifier(architecture)
        ).history
        found[weight] = history["consistency_loss"][-1]
        assert history["val_consistency_loss"] == [0.0] * 8
    assert found[10.0] < 0.8 * found[1e-9], found
    saved = keras.models.load_model(tmp_path / "10.0" / "model.keras")
    assert "consistency" not in saved.output_names


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
def test_a_consistent_run_resumes_bit_by_bit(tmp_path, source):
    """The moves are drawn by a generator whose state is saved."""
    whole = classifier()
    history = fit(tmp_path / "whole", source, RECIPE, whole)
    options = {"checkpoint_every": 2, "resume": True}
    for kill in ({"step": 2}, {"step": 5}):
        with pytest.raises(Killed):
            fit(
                tmp_path / "run",
                source,
                RECIPE,
                classifier(),
                callbacks=[Kill(**kill)],
                **options,
            )
    model = classifier()
    resumed = fit(tmp_path / "run", source, RECIPE, model, **options)
    for one, other in zip(model.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert resumed.history == history.history
