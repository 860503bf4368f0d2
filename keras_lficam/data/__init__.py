"""Data sets by their TensorFlow Datasets name, as batches ready for Keras.

`digits_in_photos` is ours and needs no download; it is registered when
something is loaded.

Examples:

    from keras_lficam import data

    train = data.load("cifar10", "train", batch_size=128, shuffle=True)
    test = data.load("digits_in_photos", "test", with_masks=True)
"""

from keras_lficam.data.loading import class_names, load
from keras_lficam.data.pictures import read_picture

__all__ = ["class_names", "load", "read_picture"]
