"""Builds `digits_in_photos` for TensorFlow Datasets, which registers it."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from keras_lficam.data.digits_in_photos._shapes import SIZE
from keras_lficam.data.digits_in_photos.drawing import compose

NUM_EXAMPLES = {"train": 20_000, "validation": 1_000, "test": 2_000}

_DESCRIPTION = """
Photos of 64 x 64 pixels in which a handwritten digit was drawn, with the mask
of its strokes and their box. Beside the digit lie marks that are none: lines,
arcs, crosses, blobs, pieces of other photos. Digits and photos are those that
ship with scikit-learn and scikit-image; no digit and no pixel of a photo is
in two splits.
"""

_CITATION = """
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}
@article{pedregosa2011scikit,
  author = {Pedregosa, F. and others},
  title = {Scikit-learn: Machine Learning in {P}ython},
  journal = {Journal of Machine Learning Research},
  volume = {12},
  pages = {2825--2830},
  year = {2011}
}
@article{vanderwalt2014scikit,
  author = {van der Walt, S. and others},
  title = {scikit-image: image processing in {P}ython},
  journal = {PeerJ},
  volume = {2},
  pages = {e453},
  year = {2014}
}
"""


class DigitsInPhotos(tfds.core.GeneratorBasedBuilder):
    """Builder of `digits_in_photos`; `tfds.load` finds it by that name.

    Examples:
        DigitsInPhotos(data_dir="data").info.splits
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=features.FeaturesDict(
                {
                    "image": features.Image(
                        shape=(SIZE, SIZE, 3), encoding_format="png"
                    ),
                    "label": features.ClassLabel(names=list("0123456789")),
                    "mask": features.Image(
                        shape=(SIZE, SIZE, 1), encoding_format="png"
                    ),
                    "bbox": features.BBoxFeature(),
                }
            ),
            supervised_keys=("image", "label"),
            citation=_CITATION,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # there is nothing to download
        return {split: self._generate_examples(split) for split in NUM_EXAMPLES}

    def _generate_examples(
        self, split: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for index in range(NUM_EXAMPLES[split]):
            example = compose(split, index)
            top, left, bottom, right = (edge / SIZE for edge in example["box"])
            yield (
                f"{index:05d}",
                {
                    "image": example["image"],
                    "label": example["label"],
                    "mask": example["mask"],
                    "bbox": tfds.features.BBox(top, left, bottom, right),
                },
            )
