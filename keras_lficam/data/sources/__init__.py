"""Where images with labels come from; one family with one base, `Source`.

`tfds` reads data sets of TensorFlow Datasets, `folder` folders of images, and
`tf_data` data sets that are objects already. `loading` finds one by its name.
"""

from keras_lficam.data.sources.base import Damaged, Source

__all__ = ["Damaged", "Source"]
