"""Importance networks that are other in one thing, and a faster training."""

import keras
from keras import ops

from keras_lficam import functional, layers


def network(form="bottleneck", relu_every=None, **changed):
    """The importance network of a contender.

    Args:
        form: Form of the library.
        relu_every: A ReLU follows every such convolution; None is the form's
            own.
        **changed: What is other than in `"bottleneck"`, as for `Changed`;
            nothing gives the layer of the library itself.

    Returns:
        The layer.
    """
    if not changed:
        return layers.FeatureImportanceNetwork(form, relu_every=relu_every)
    if (form, relu_every) != ("bottleneck", None):
        raise ValueError(f"Only the bottleneck is changed, not {form!r}")
    return Changed(**changed)


@keras.saving.register_keras_serializable(package="keras_lficam_evidence")
class Changed(layers.FeatureImportanceNetwork):
    """The bottleneck with something left out or put in.

    As in the bottleneck a ReLU follows every second convolution.

    Args:
        gray: Whether the features mask the gray image, or stand alone.
        stretched: Whether they are stretched to [0, 1] before.
        activation: `"softmax"`; `"sigmoid"`; or `"uniform"`, where every
            channel has the same importance and nothing is learned.
        kernels: Sizes of the kernels, one for each convolution.
        width: Filters of all convolutions but the last.
        groups: Groups of channels that every convolution keeps apart.
        shared: Whether every channel alone goes through the same network.
    """

    def __init__(
        self,
        *,
        gray=True,
        stretched=True,
        activation="softmax",
        kernels=(1, 3, 1),
        width=8,
        groups=1,
        shared=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.gray = gray
        self.stretched = stretched
        self.activation = activation
        self.kernels = kernels
        self.width = width
        self.groups = groups
        self.shared = shared

    def build(self, input_shape):
        *_, channels = shape = input_shape[1]
        if self.shared:
            *_, channels = shape = (*shape[:-1], 1)
        widths = [self.width] * (len(self.kernels) - 1) + [channels]
        self.convolutions = keras.Sequential()
        for number, (width, kernel) in enumerate(
            zip(widths, self.kernels, strict=True), start=1
        ):
            self.convolutions.add(
                keras.layers.Conv2D(
                    width,
                    kernel,
                    padding="same",
                    groups=self.groups,
                    use_bias=False,
                    kernel_initializer="he_normal",
                )
            )
            self.convolutions.add(keras.layers.BatchNormalization())
            if number % 2 == 0:
                self.convolutions.add(keras.layers.ReLU())
        self.convolutions.build(shape)
        self.built = True

    def call(self, inputs, training=None):
        image, features = inputs
        if self.activation == "uniform":
            return ops.full_like(features[:, 0, 0], 1 / features.shape[-1])
        x = functional.min_max(features) if self.stretched else features
        if self.gray:
            size = ops.shape(features)[1:3]
            x = x * functional.gray(
                functional.resize(image, size), self.value_range
            )
        if self.shared:
            *space, channels = features.shape[1:]
            x = ops.transpose(x, (0, 3, 1, 2))
            x = ops.reshape(x, (-1, *space, 1))  # (B C, h, w, 1)
        x = self.convolutions(x, training=training)
        pooled = ops.mean(x, axis=(1, 2))  # (B, C)
        if self.shared:
            pooled = ops.reshape(pooled, (-1, channels))
        if self.activation == "sigmoid":
            return ops.sigmoid(pooled)
        return ops.softmax(pooled)

    def get_config(self):
        return {
            **super().get_config(),
            "gray": self.gray,
            "stretched": self.stretched,
            "activation": self.activation,
            "kernels": self.kernels,
            "width": self.width,
            "groups": self.groups,
            "shared": self.shared,
        }


def fuse_normalization():
    """Trains every BatchNormalization by one kernel of TensorFlow.

    Keras, which has no option for it, computes moments, scale and their
    gradients in a dozen operations, each of which reads all the features. The
    numbers are the same but for rounding. It is for this process and cannot be
    undone.
    """
    import tensorflow as tf

    plain = keras.layers.BatchNormalization.call
    if plain.__module__ == __name__:
        return  # It was done before.

    def call(self, inputs, training=None, mask=None):
        fits = len(inputs.shape) == 4 and self.axis in (-1, 3)
        if not (training and self.trainable and fits):
            return plain(self, inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
            epsilon=self.epsilon,
        )
        # The kernel tells the variance of the population, Keras keeps that of
        # the batch.
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
        variance *= (count - 1) / count
        for average, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            value = tf.stop_gradient(value)
            average.assign(
                average * self.momentum + value * (1 - self.momentum)
            )
        return outputs

    keras.layers.BatchNormalization.call = call
