"""The data set `digits_in_photos`: where in the photo is the digit?

A handwritten digit lies somewhere in a crop of a photo, beside strokes and
patches that are no digit. The label says which digit, the mask says which
pixels, so that a heat map can be scored without any download: both sources
ship inside scikit-learn and scikit-image. Importing this module registers
the data set with TensorFlow Datasets.

Configurations have an answer that is known beforehand: `pairs`, two digits in
an image; `shortcut`, a tag whose color goes with the class; `absent`, no
digit; `large`, images of 224x224 pixels.

Every image depends on `(seed, split, index)` alone, not on the order or the
number of processes in which images are made.
"""

from keras_lficam.data.digits_in_photos._scenes import SEED, SHARES
from keras_lficam.data.digits_in_photos.builder import (
    NUM_EXAMPLES,
    NUM_EXAMPLES_OF,
    DigitsInPhotos,
)
from keras_lficam.data.digits_in_photos.drawing import (
    PHOTOS,
    compose,
    digit_ids,
    photo_parts,
    photos,
)
from keras_lficam.data.digits_in_photos.variants import (
    TAG_COLORS,
    TAG_SIDE,
    compose_absent,
    compose_large,
    compose_pair,
    compose_shortcut,
    tag_mask,
)

__all__ = [
    "NUM_EXAMPLES",
    "NUM_EXAMPLES_OF",
    "PHOTOS",
    "SEED",
    "SHARES",
    "TAG_COLORS",
    "TAG_SIDE",
    "DigitsInPhotos",
    "compose",
    "compose_absent",
    "compose_large",
    "compose_pair",
    "compose_shortcut",
    "digit_ids",
    "photo_parts",
    "photos",
    "tag_mask",
]
