"""Importance networks that are other in one thing, for the ablations."""

import keras
from keras import ops

from keras_lficam import functional, layers


def network(form, **changed):
    """The importance network of a contender.

    Args:
        form: Form of the library.
        **changed: What is other, as for `Changed`; nothing gives the layer of
            the library itself.

    Returns:
        The layer.
    """
    if changed:
        return Changed(form, **changed)
    return layers.FeatureImportanceNetwork(form)


@keras.saving.register_keras_serializable(package="keras_lficam_evidence")
class Changed(layers.FeatureImportanceNetwork):
    """An importance network with something left out or put in.

    Args:
        form: Form that it is otherwise.
        gray: Whether the features mask the gray image, or stand alone.
        stretched: Whether they are stretched to [0, 1] before.
        activation: `"softmax"`; `"sigmoid"`; or `"uniform"`, where every
            channel has the same importance and nothing is learned.
        kernels: Sizes of the kernels, one for each convolution.
        divisors: Channels of the features over filters of each convolution.
    """

    def __init__(
        self,
        form,
        *,
        gray=True,
        stretched=True,
        activation="softmax",
        kernels=None,
        divisors=None,
        **kwargs,
    ):
        super().__init__(form, **kwargs)
        self.gray = gray
        self.stretched = stretched
        self.activation = activation
        self.kernels = kernels
        self.divisors = divisors

    def build(self, input_shape):
        channels = input_shape[1][-1]
        kernels = self.kernels or [1, 3, 1]
        divisors = self.divisors or [8, 8, 1]
        self.convolutions = []
        self.normalizations = []
        shape = tuple(input_shape[1])
        for kernel, divisor in zip(kernels, divisors, strict=True):
            convolution = keras.layers.Conv2D(
                max(1, channels // divisor),
                kernel,
                padding="same",
                use_bias=False,
                kernel_initializer="he_normal",
            )
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
            normalization = keras.layers.BatchNormalization()
            normalization.build(shape)
            self.convolutions.append(convolution)
            self.normalizations.append(normalization)
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
        steps = zip(self.convolutions, self.normalizations, strict=True)
        for convolution, normalization in steps:
            x = ops.relu(normalization(convolution(x), training=training))
        pooled = ops.mean(x, axis=(1, 2))  # (B, C)
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
            "divisors": self.divisors,
        }
