"""Images with labels: TensorFlow Datasets (TFDS), folders, data sets of yours.

`digits_in_photos` is ours and needs no download; it is registered when
something is loaded.

Examples:

    from keras_lficam import data

    train = data.load("cifar10", "train", batch_size=128, shuffle=True)
    test = data.load("digits_in_photos", "test", with_masks=True)
    mine = data.source("my/folder").stream(
        "train", image_size=(224, 224), batch_size=32, augmentation=["flip"]
    )
"""

from keras_lficam.data.image_files import read_image
from keras_lficam.data.loading import load, source
from keras_lficam.data.sampling import sample
from keras_lficam.data.sources.base import Damaged, Source
from keras_lficam.data.sources.files import changed_file
from keras_lficam.data.sources.tf_data import from_datasets

__all__ = [
    "Damaged",
    "Source",
    "changed_file",
    "from_datasets",
    "load",
    "read_image",
    "sample",
    "source",
]
