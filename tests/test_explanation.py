"""What a model says in one pass, against its parts."""

import keras
import numpy as np
import pytest
from small_classifiers import backbone

import keras_lficam
from keras_lficam.explanation import AttentionOutputs


@pytest.mark.parametrize("ends", ["softmax", None])
def test_probabilities_map_and_importance(ends, rng):
    model = keras_lficam.build(
        backbone((32, 32, 3)),
        3,
        input_shape=(32, 32, 3),
        classifier_activation=ends,
    )
    images = rng.uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    scores = model.predict_on_batch(images).astype("float64")
    if ends is None:
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
    outputs = AttentionOutputs(model, None if ends else "softmax")
    shown = outputs.predict(images)
    assert list(shown) == ["probabilities", "attention_map", "importance"]
    np.testing.assert_allclose(shown["probabilities"], scores, atol=1e-5)
    np.testing.assert_allclose(
        shown["attention_map"],
        keras_lficam.explainers.AttentionMap(model)(images),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        shown["importance"],
        keras_lficam.attention_view(model).predict_on_batch(images)[
            "importance"
        ],
        atol=1e-5,
    )
    tensors = outputs(keras.ops.convert_to_tensor(images))
    for name, value in tensors.items():
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(value), shown[name], atol=1e-5
        )
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(outputs.probabilities(images)),
        shown["probabilities"],
        atol=1e-5,
    )
    large = outputs.predict(images, (64, 48))
    assert large["attention_map"].shape == (4, 64, 48, 1)


def test_a_model_without_a_map_or_probabilities_is_refused():
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="'attention_map'"):
        AttentionOutputs(plain)
    logits = keras_lficam.build(
        backbone((32, 32, 3)),
        3,
        input_shape=(32, 32, 3),
        classifier_activation=None,
    )
    with pytest.raises(ValueError, match="activation"):
        AttentionOutputs(logits)
