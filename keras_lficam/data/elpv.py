"""The data set `elpv`: solar cells with and without defects.

Electroluminescence images of 2,624 solar cells, gray, 300x300, from the package
`elpv-dataset`, which is installed by `pip install "keras-lficam[elpv]"`. Its
license, CC BY-NC-SA 4.0, forbids commercial use; no image is part of this
package.

Of each cell it is known how probable a defect is, 0, 1/3, 2/3 or 1, and whether
it is mono- or polycrystalline. The probability is two answers of an expert in
one: functional or defective, and whether that is sure. `elpv` has two classes,
defective from 2/3 on; `elpv/four` one for each probability.

The parts are fixed: of each probability and type a quarter is for the test, a
tenth for validation, the rest for training. A hash of the file's name chooses.
Which of the 44 modules a cell was cut out of is not in the package, so parts
may share modules.

Examples:

    from keras_lficam import data

    train = data.load("elpv", "train", image_size=(224, 224), shuffle=True)
"""

import csv
import hashlib
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

__all__ = ["Elpv"]

# Shares of each probability and type; the rest is for training.
_SHARES = {"test": 0.25, "validation": 0.1}

_PROBABILITIES = ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0")
_TYPES = ("mono", "poly")
# The class of each probability, by the name of the configuration.
_CLASSES = {
    "two": ("functional", "functional", "defective", "defective"),
    "four": (
        "functional",
        "functional, unsure",
        "defective, unsure",
        "defective",
    ),
}

_DESCRIPTION = """
Electroluminescence images of 2,624 solar cells of 44 modules, 300 x 300 pixels,
gray, free of distortion by lens and perspective, with the probability of a
defect that lowers the power (0, 1/3, 2/3 or 1, from what an expert said) and
the type of the cell, mono- or polycrystalline.
"""

_CITATION = """
@article{deitsch2019automatic,
  author = {Deitsch, S. and Christlein, V. and Berger, S. and
    Buerhop-Lutz, C. and Maier, A. and Gallwitz, F. and Riess, C.},
  title = {Automatic classification of defective photovoltaic module cells in
    electroluminescence images},
  journal = {Solar Energy},
  volume = {185},
  pages = {455--468},
  year = {2019},
  doi = {10.1016/j.solener.2019.02.067}
}
@inproceedings{buerhop2018benchmark,
  author = {Buerhop-Lutz, C. and Deitsch, S. and Maier, A. and Gallwitz, F. and
    Berger, S. and Doll, B. and Hauch, J. and Camus, C. and Brabec, C. J.},
  title = {A Benchmark for Visual Identification of Defective Solar Cells in
    Electroluminescence Imagery},
  booktitle = {European PV Solar Energy Conference and Exhibition},
  year = {2018},
  doi = {10.4229/35thEUPVSEC20182018-5CV.3.15}
}
@article{deitsch2021segmentation,
  author = {Deitsch, S. and Buerhop-Lutz, C. and Sovetkin, E. and Steland, A.
    and Maier, A. and Gallwitz, F. and Riess, C.},
  title = {Segmentation of photovoltaic module cells in uncalibrated
    electroluminescence images},
  journal = {Machine Vision and Applications},
  volume = {32},
  number = {4},
  year = {2021},
  doi = {10.1007/s00138-021-01191-9}
}
"""

_LICENSE = (
    "CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/), "
    "not for commercial use"
)


class Elpv(tfds.core.GeneratorBasedBuilder):
    """Builder of `elpv`; `tfds.load` finds it by that name.

    Examples:
        Elpv(data_dir="data").info.redistribution_info.license
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name="two", description="Defective from a probability of 2/3 on."
        ),
        tfds.core.BuilderConfig(
            name="four", description="A class for each probability."
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        classes = _CLASSES[self.builder_config.name]
        features = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=features.FeaturesDict(
                {
                    "image": features.Image(
                        shape=(300, 300, 1), encoding_format="png"
                    ),
                    "label": features.ClassLabel(
                        names=list(dict.fromkeys(classes))
                    ),
                    "defect_probability": features.Scalar(np.float32),
                    "cell_type": features.ClassLabel(names=list(_TYPES)),
                    "file": features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/zae-bayern/elpv-dataset",
            license=_LICENSE,
            citation=_CITATION,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # The package has it all.
        folder = _installed()
        parts = _split(_cells(folder))
        return {
            part: self._generate_examples(folder, cells)
            for part, cells in parts.items()
        }

    def _generate_examples(
        self, folder: pathlib.Path, cells: "list[_Cell]"
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        classes = _CLASSES[self.builder_config.name]
        for cell in cells:
            number = _PROBABILITIES.index(cell.probability)
            yield (
                cell.file,
                {
                    "image": folder / cell.file,
                    "label": classes[number],
                    "defect_probability": float(cell.probability),
                    "cell_type": cell.type,
                    "file": cell.file,
                },
            )


class _Cell(NamedTuple):
    """A line of the package's table; the file lies below its folder."""

    file: str
    probability: str
    type: str


def _split(cells: list[_Cell]) -> dict[str, list[_Cell]]:
    """Divides cells into parts with as much of each probability and type."""
    strata: dict[tuple[str, str], list[_Cell]] = {}
    for cell in sorted(cells, key=_hash):
        strata.setdefault((cell.probability, cell.type), []).append(cell)
    parts: dict[str, list[_Cell]] = {"train": [], "validation": [], "test": []}
    for members in strata.values():
        begin = 0
        for part, share in _SHARES.items():
            end = begin + round(share * len(members))
            parts[part] += members[begin:end]
            begin = end
        parts["train"] += members[begin:]
    return {
        part: sorted(members, key=lambda cell: cell.file)
        for part, members in parts.items()
    }


def _hash(cell: _Cell) -> str:
    return hashlib.sha256(cell.file.encode()).hexdigest()


def _installed() -> pathlib.Path:
    """Finds the data of the package; nothing of it is run."""
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise ImportError(
            "The data set elpv is a package that is not installed. To fix "
            'this: pip install "keras-lficam[elpv]", or pip install '
            "elpv-dataset. Its license is CC BY-NC-SA 4.0: not for commercial "
            "use."
        )
    return pathlib.Path(found.origin).parent / "data"


def _cells(folder: pathlib.Path) -> list[_Cell]:
    with (folder / "labels.csv").open(newline="") as file:
        rows = csv.reader(file, delimiter=" ", skipinitialspace=True)
        return [_Cell(*row) for row in rows]
