"""The data set `digits_in_photos`: where in the photo is the digit?

A handwritten digit lies somewhere in a crop of a photo, beside strokes and
patches that are no digit. The label says which digit, the mask says which
pixels, so that a heat map can be scored without any download: both sources
ship inside scikit-learn and scikit-image. Importing this module registers
the data set with TensorFlow Datasets.

Every image depends on `(seed, split, index)` alone, not on the order or the
number of processes in which images are made.
"""

from keras_lficam.data.digits_in_photos.builder import (
    NUM_EXAMPLES,
    DigitsInPhotos,
)
from keras_lficam.data.digits_in_photos.drawing import (
    PHOTOS,
    SEED,
    SHARES,
    compose,
    digit_ids,
    photo_parts,
    photos,
)

__all__ = [
    "NUM_EXAMPLES",
    "PHOTOS",
    "SEED",
    "SHARES",
    "DigitsInPhotos",
    "compose",
    "digit_ids",
    "photo_parts",
    "photos",
]
