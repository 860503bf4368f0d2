"""Builds `digits_in_photos` for TensorFlow Datasets, which registers it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from keras_lficam.data.digits_in_photos import variants
from keras_lficam.data.digits_in_photos._shapes import LARGE, SMALL, Box
from keras_lficam.data.digits_in_photos.drawing import compose

NUM_EXAMPLES = {"train": 20_000, "validation": 1_000, "test": 2_000}
# Those of the configurations; of a pair there are two.
NUM_EXAMPLES_OF = {
    "pairs": {"train": 10_000, "validation": 1_000, "test": 2_000},
    "shortcut": {**NUM_EXAMPLES, "test_shifted": 2_000},
    "absent": {"test": 2_000},
    "large": {"train": 4_000, "validation": 500, "test": 1_000},
}

_DESCRIPTION = """
Photos of 64 x 64 pixels in which a handwritten digit was drawn, with the mask
of its strokes and their box. Beside the digit lie marks that are none: lines,
arcs, crosses, blobs, pieces of other photos. Digits and photos are those that
ship with scikit-learn and scikit-image; no digit and no pixel of a photo is
in two splits.
"""

_DESCRIPTIONS = {
    "pairs": "Two digits of different classes. Each image is there twice: "
    "once with the label, mask and box of the one, once with those of the "
    "other; `other_label`, `other_mask` and `other_bbox` are those of the "
    "digit beside it, `image_number` tells which two belong together.",
    "shortcut": "The same images with a square of one color in a corner, "
    "which goes with the class in 95 % of each part, but for `test_shifted`: "
    "the images of `test` with every color as often in every class. `tag` is "
    "the class that the color says, `tag_mask` and `tag_bbox` its place.",
    "absent": "The test images before their digit is drawn: no digit, an "
    "empty mask. The label is that of the digit that was left out.",
    "large": "The same of 224 x 224 pixels, with more of each photo and "
    "digits that cover less of the image.",
}

# Each is one object, by which TFDS knows it again.
_CONFIGS = {
    name: tfds.core.BuilderConfig(name=name, description=description)
    for name, description in _DESCRIPTIONS.items()
}

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

    Without a configuration it is the plain set. Those with known answers are
    `digits_in_photos/pairs`, `/shortcut`, `/absent` and `/large`.

    Examples:
        DigitsInPhotos(data_dir="data").info.splits
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    # By name alone: the first of `BUILDER_CONFIGS` would be the default, and
    # have another folder than the plain set has.
    builder_configs = _CONFIGS

    def _info(self) -> tfds.core.DatasetInfo:
        name = self.builder_config_name
        features = tfds.features
        of_set: dict[str, Any] = {
            "image": _image(name, 3),
            "label": features.ClassLabel(names=_NAMES),
            "mask": _image(name, 1),
        }
        if name != "absent":  # An empty mask has no box.
            of_set["bbox"] = features.BBoxFeature()
        if name == "pairs":
            of_set |= {
                "other_label": features.ClassLabel(names=_NAMES),
                "other_mask": _image(name, 1),
                "other_bbox": features.BBoxFeature(),
                "image_number": features.Scalar(np.int64),
            }
        if name == "shortcut":
            of_set |= {
                "tag": features.ClassLabel(names=_NAMES),
                "tag_mask": _image(name, 1),
                "tag_bbox": features.BBoxFeature(),
            }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=features.FeaturesDict(of_set),
            supervised_keys=("image", "label"),
            citation=_CITATION,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # there is nothing to download
        name = self.builder_config_name
        numbers = NUM_EXAMPLES if name is None else NUM_EXAMPLES_OF[name]
        return {
            split: self._generate_examples(split, number)
            for split, number in numbers.items()
        }

    def _generate_examples(
        self, split: str, number: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        example_of = _EXAMPLES[self.builder_config_name]
        for index in range(number):
            yield f"{index:05d}", example_of(split, index)


_NAMES = list("0123456789")


def _image(name: str | None, channels: int) -> tfds.features.Image:
    size = LARGE.size if name == "large" else SMALL.size
    return tfds.features.Image(
        shape=(size, size, channels), encoding_format="png"
    )


def _bbox(box: Box, size: int = SMALL.size) -> tfds.features.BBox:
    top, left, bottom, right = (edge / size for edge in box)
    return tfds.features.BBox(top, left, bottom, right)


def _plain(split: str, index: int) -> dict[str, Any]:
    return _with_box(compose(split, index), SMALL.size)


def _large(split: str, index: int) -> dict[str, Any]:
    return _with_box(variants.compose_large(split, index), LARGE.size)


def _with_box(example: dict[str, Any], size: int) -> dict[str, Any]:
    return {
        "image": example["image"],
        "label": example["label"],
        "mask": example["mask"],
        "bbox": _bbox(example["box"], size),
    }


def _pairs(split: str, index: int) -> dict[str, Any]:
    number, this = divmod(index, 2)
    pair = variants.compose_pair(split, number)
    other = 1 - this
    return {
        "image": pair["image"],
        "label": pair["labels"][this],
        "mask": pair["masks"][this],
        "bbox": _bbox(pair["boxes"][this]),
        "other_label": pair["labels"][other],
        "other_mask": pair["masks"][other],
        "other_bbox": _bbox(pair["boxes"][other]),
        "image_number": number,
    }


def _shortcut(split: str, index: int) -> dict[str, Any]:
    example = variants.compose_shortcut(split, index)
    return _with_box(example, SMALL.size) | {
        "tag": example["tag"],
        "tag_mask": variants.tag_mask(example["tag_box"]),
        "tag_bbox": _bbox(example["tag_box"]),
    }


def _absent(split: str, index: int) -> dict[str, Any]:
    example = variants.compose_absent(split, index)
    return {key: example[key] for key in ("image", "label", "mask")}


_EXAMPLES: dict[str | None, Callable[[str, int], dict[str, Any]]] = {
    None: _plain,
    "pairs": _pairs,
    "shortcut": _shortcut,
    "absent": _absent,
    "large": _large,
}
