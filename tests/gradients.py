"""Outputs and gradients of a layer, on whatever backend is set."""

import keras
import numpy as np


def differentiated(layer, shapes, *, compiled=False):
    """Makes a function that differentiates a layer in training.

    Args:
        layer: Layer that is called on a pair of images and features.
        shapes: Shapes of the two.
        compiled: Whether it is compiled, once for all that it is given.

    Returns:
        Function of images and features, which are given to the layer in its
        compute type, as a backbone would give them. It returns the outputs,
        and the gradients of their sum by the features and by every trainable
        weight, as lists of NumPy arrays.
    """
    layer.build(shapes)
    ways = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
    run = ways[keras.backend.backend()](layer, compiled)

    def gradients(images, features):
        features = keras.ops.cast(features, layer.compute_dtype)
        outputs, slopes = run(keras.ops.convert_to_tensor(images), features)
        return _arrays(outputs), _arrays(slopes)

    return gradients


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


def _tensorflow(layer, compiled):
    import tensorflow as tf

    def run(images, features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            outputs = layer([images, features], training=True)
            total = _total(outputs)
        variables = [w.value for w in layer.trainable_weights]
        return outputs, tape.gradient(total, [features, *variables])

    return tf.function(run, jit_compile=True) if compiled else run


def _jax(layer, compiled):
    import jax

    fixed = [w.value for w in layer.non_trainable_variables]
    weights = [w.value for w in layer.trainable_variables]

    def loss(features, weights, images):
        outputs, _ = layer.stateless_call(
            weights, fixed, [images, features], training=True
        )
        return _total(outputs), outputs

    differentiate = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    if compiled:
        differentiate = jax.jit(differentiate)

    def run(images, features):
        (_, outputs), slopes = differentiate(features, weights, images)
        return outputs, [slopes[0], *slopes[1]]

    return run


def _torch(layer, compiled):
    import torch

    assert not compiled

    def run(images, features):
        features = features.detach().requires_grad_(True)
        outputs = layer([images, features], training=True)
        weights = [w.value for w in layer.trainable_weights]
        slopes = torch.autograd.grad(_total(outputs), [features, *weights])
        return outputs, slopes

    return run
