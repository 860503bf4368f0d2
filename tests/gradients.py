"""Outputs and gradients of a layer, on whatever backend is set."""

import keras
import numpy as np


def gradients(layer, images, features, *, jit_compile=False):
    """Runs a layer in training and differentiates the sum of its outputs.

    The features are given in the layer's compute type, as a backbone would
    give them.

    Returns:
        The outputs, and the gradients by the features and by every trainable
        weight, as lists of NumPy arrays.
    """
    backend = keras.backend.backend()
    features = keras.ops.cast(features, layer.compute_dtype)
    images = keras.ops.convert_to_tensor(images)
    layer([images, features])  # Builds the weights.
    run = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[backend]
    outputs, slopes = run(layer, images, features, jit_compile)
    return _arrays(outputs), _arrays(slopes)


def _arrays(tensors):
    return [
        np.asarray(
            keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
        )
        for tensor in tensors
    ]


def _total(outputs):
    """A loss that sees every output, with unequal weights."""
    total = 0.0
    for output in outputs:
        output = keras.ops.cast(output, "float32")
        ramp = keras.ops.linspace(-1.0, 1.0, output.shape[-1])
        total = total + keras.ops.mean(output * (ramp + 0.1))
    return total


def _tensorflow(layer, images, features, jit_compile):
    import tensorflow as tf

    def run(images, features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            outputs = layer([images, features], training=True)
            total = _total(outputs)
        variables = [w.value for w in layer.trainable_weights]
        return outputs, tape.gradient(total, [features, *variables])

    if jit_compile:  # One call alone is faster than to trace it.
        run = tf.function(run, jit_compile=True)
    return run(images, features)


def _jax(layer, images, features, jit_compile):
    import jax

    fixed = [w.value for w in layer.non_trainable_variables]

    def loss(features, weights):
        outputs, _ = layer.stateless_call(
            weights, fixed, [images, features], training=True
        )
        return _total(outputs), outputs

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    if jit_compile:
        run = jax.jit(run)
    weights = [w.value for w in layer.trainable_variables]
    (_, outputs), (by_features, by_weights) = run(features, weights)
    return outputs, [by_features, *by_weights]


def _torch(layer, images, features, jit_compile):
    import torch

    features = features.detach().requires_grad_(True)
    outputs = layer([images, features], training=True)
    weights = [w.value for w in layer.trainable_weights]
    slopes = torch.autograd.grad(_total(outputs), [features, *weights])
    return outputs, slopes
