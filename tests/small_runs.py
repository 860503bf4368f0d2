"""Runs of `fit` of a small classifier on few small images."""

import keras
import tensorflow as tf
from small_classifiers import labeled_images, normalized_backbone

import keras_lficam
from keras_lficam import data

SHAPE = (16, 16, 3)


def batches(number, seed):
    return tf.data.Dataset.from_tensor_slices(
        labeled_images(number, seed)
    ).batch(5)


def three_classes(training=21):
    """A source of so many training images, and 13 for validation."""
    return data.from_datasets(
        batches(training, 0), batches(13, 1), class_names=["a", "b", "c"]
    )


def classifier(architecture="lfi_cam", **options):
    keras.utils.set_random_seed(7)
    return keras_lficam.build(
        normalized_backbone(),
        3,
        input_shape=SHAPE,
        architecture=architecture,
        **options,
    )


def fit(folder, source, recipe, model, **options):
    options = {"heat_maps_every": 0, "verbose": 0, "seed": 3} | options
    return keras_lficam.fit(model, source, recipe, folder=folder, **options)
