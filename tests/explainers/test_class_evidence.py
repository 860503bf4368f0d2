"""Explainers of class evidence: numbers by hand, and other explainers."""

import explainer_contract
import numpy as np
import pytest
import small_classifiers

from keras_lficam.explainers import ClassEvidence, GradCAM, ReciproCAM

untraced = explainer_contract.untraced

# Two by two pixels of three colors, each a channel of the feature map.
IMAGE = np.stack(
    [[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [0.0, 1.0]], [[0, 0], [8.0, 0]]],
    axis=-1,
)[np.newaxis]


@pytest.mark.usefixtures("untraced")
def test_maps_behind_a_pooling_by_hand():
    # Class 0 is red minus green, [[-3, 2], [3, 3]]; class 1 green, twice.
    model = small_classifiers.of_channels([[1, 0], [-1, 2], [0, 0]])
    evidence, recipro = ClassEvidence(model), ReciproCAM(model)
    assert evidence.exact
    assert evidence.class_specific
    assert recipro.class_specific
    # Every use of the head counts: four locations, beside the image.
    assert evidence.passes == (1, 0)
    assert recipro.passes == (5, 0)
    found = evidence(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(found, [[0, 2 / 3], [1, 1]], atol=1e-6)
    # Without a ReLU the lowest logit, not zero, is what is black.
    found = recipro(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(found, [[0, 5 / 6], [1, 1]], atol=1e-6)
    # The logits are 5/4 and 10/4.
    for explainer in (evidence, recipro):
        found = explainer(IMAGE)[0, ..., 0]
        np.testing.assert_allclose(found, [[1, 0], [0, 0.25]], atol=1e-6)


@pytest.mark.usefixtures("untraced")
def test_maps_behind_a_flattening_by_hand():
    weights = [[2, -1, 5], [1, 3, 7], [1, 2, 0.5], [-1, 3, 0]]
    kernel = np.zeros((12, 2))
    kernel[:, 0] = np.ravel(weights)
    model = small_classifiers.of_channels(kernel, pooled=False)
    # Each pixel alone gives [[-2, 2], [7, -1]].
    evidence = ClassEvidence(model)
    assert evidence.exact
    assert evidence.passes == (1, 0)
    found = evidence(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(found, [[0, 2 / 7], [1, 0]], atol=1e-6)
    found = ReciproCAM(model)(IMAGE, 0)[0, ..., 0]
    np.testing.assert_allclose(found, [[0, 4 / 9], [1, 1 / 9]], atol=1e-6)


def test_passes_of_a_head_that_is_not_linear():
    evidence = ClassEvidence(small_classifiers.hidden(size=2))
    assert not evidence.exact
    # Of the image, of an empty map, and of each of four locations.
    assert evidence.passes == (6, 0)


@pytest.mark.usefixtures("untraced")
def test_evidence_behind_a_pooling_is_grad_cam(rng):
    images = rng.normal(0, 1, (4, 2, 2, 3)).astype("float32")
    model = small_classifiers.of_channels(rng.normal(0, 1, (3, 5)))
    for classes in (None, [4, 0, 2, 2]):
        np.testing.assert_allclose(
            ClassEvidence(model)(images, classes),
            GradCAM(model)(images, classes),
            atol=1e-5,
        )
