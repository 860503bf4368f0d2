"""Reads a protocol: what is trained, how it is called, and where it is kept."""

import argparse
import concurrent.futures
import csv
import dataclasses
import functools
import importlib.metadata
import itertools
import multiprocessing
import pathlib
import sys
import tomllib

import networks
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import measuring  # noqa: E402

RUNS = HERE.parent.parent / "runs"
# Of an image of the data set, each a file.
PARTS = ("image", "label", "mask")
VERSIONS = ("keras", "backend", "device", "numpy", *measuring.MACHINE)


@dataclasses.dataclass(frozen=True)
class Training:
    """One classifier: which, of how many classes, and how it is trained."""

    backbone: str
    contender: str
    setting: str
    seed: int
    pair: bool

    @property
    def name(self):
        classes = "pair" if self.pair else "digits"
        return (
            f"{self.backbone}-{self.contender}-{classes}-{self.setting}"
            f"-{self.seed}"
        )

    @property
    def columns(self):
        """What says in a table which training it is."""
        return {
            "backbone": self.backbone,
            "contender": self.contender,
            "classes": str(2 if self.pair else 10),
            "setting": self.setting,
            "seed": str(self.seed),
        }


class Protocol:
    """A file of TOML, and the places that go with it.

    The tables of protocol.toml are beside it, to be committed, and its models,
    which are large and can be made again, in runs/evidence. All of another
    protocol is in runs/NAME.

    Args:
        path: The file.
    """

    def __init__(self, path):
        self.path = path
        self.words = tomllib.loads(path.read_text())
        ours = path == HERE / "protocol.toml"
        self.runs = RUNS / ("evidence" if ours else path.stem)
        self.tables = HERE if ours else self.runs

    def folder(self, training):
        return self.runs / training.name

    def is_trained(self, training):
        return (self.folder(training) / "row.json").exists()

    def study(self, name):
        """The words of a study, by its name."""
        (found,) = (
            each for each in self.words["study"] if each["name"] == name
        )
        return found

    def trainings(self, name):
        """What a study trains; what is compared comes one after another."""
        study = self.study(name)
        seed_of = {
            each["name"]: each["seed"] + study.get("seeds_after", 0)
            for each in self.words["setting"]
        }
        ways = [
            (setting, seed)
            for setting in study["settings"]
            for seed in study.get("seeds", [seed_of[setting]])
        ]
        return [
            Training(backbone, contender, *way, study.get("pair", False))
            for backbone, way, contender in itertools.product(
                study["backbones"], ways, study["contenders"]
            )
        ]

    def all_trainings(self):
        """What all studies train, each once."""
        names = [study["name"] for study in self.words["study"]]
        each = itertools.chain.from_iterable(map(self.trainings, names))
        return list(dict.fromkeys(each))

    def recipe(self, training):
        import keras_lficam

        words = dict(self.words["recipe"])
        if training.pair:
            words |= self.words["recipe_of_pair"]
        (setting,) = (
            each
            for each in self.words["setting"]
            if each["name"] == training.setting
        )
        words |= {
            key: value
            for key, value in setting.items()
            if key not in ("name", "seed")
        }
        return keras_lficam.Recipe(**words)

    def model(self, training):
        """The classifier, before it is trained."""
        import keras

        import keras_lficam
        from keras_lficam.backbones import cifar

        keras.utils.set_random_seed(training.seed)
        backbone = self.words["backbone"][training.backbone]
        contender = self.words["contender"][training.contender]
        size = self.words["data"]["image_size"]
        words = contender.get("importance_network", {"form": "bottleneck"})
        return keras_lficam.build(
            getattr(cifar, backbone["function"])(**backbone["arguments"]),
            2 if training.pair else 10,
            input_shape=(size, size, 3),
            architecture=contender["architecture"],
            output_stride=contender.get("output_stride"),
            importance_network=networks.network(**words),
        )

    def images(self, training, split, *, with_masks=False):
        """Images that a training sees, all or those of two digits.

        Returns:
            Images `(N, 64, 64, 3)` and labels `(N,)`, uint8, and if asked for
            masks `(N, 64, 64, 1)` of 0 and 255.
        """
        words = self.words["data"]
        count = words.get("pictures", {}).get(split)
        folder = self.runs / "pictures" / split
        if not folder.exists():
            _make_images(folder, split, count)
        arrays = [
            np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in (PARTS if with_masks else PARTS[:2])
        ]
        if training.pair:
            first, second = words["pair"]
            labels = arrays[1]
            chosen = np.isin(labels, (first, second))
            arrays = [array[chosen] for array in arrays]
            # Not in place: the file is open for reading.
            arrays[1] = (arrays[1] == second).astype(labels.dtype)
        return arrays


def _make_images(folder, split, count):
    """Makes the images of a split by all processors, a file for each part."""
    from keras_lficam.data import digits_in_photos

    numbers = range(count or digits_in_photos.NUM_EXAMPLES[split])
    # Processes that are forked would share the threads of TensorFlow.
    with concurrent.futures.ProcessPoolExecutor(
        mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        made = pool.map(
            functools.partial(_image, split), numbers, chunksize=100
        )
        columns = list(zip(*made, strict=True))
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for name, column in zip(PARTS, columns, strict=True):
        np.save(partial / f"{name}.npy", np.array(column, "uint8"))
    partial.rename(folder)


def _image(split, number):
    from keras_lficam.data import digits_in_photos

    made = digits_in_photos.compose(split, number)
    return tuple(made[name] for name in PARTS)


class Table:
    """A table that is whole after each row.

    Args:
        path: The CSV file.
        columns: Names of its columns.
        keys: How many of them, from the first, say which row it is.
    """

    def __init__(self, path, columns, keys):
        self.path, self.columns, self.keys = path, columns, keys

    def rows(self):
        """The rows that are there, by their keys."""
        if not self.path.exists():
            return {}
        with self.path.open() as file:
            return {self.key(row): row for row in csv.DictReader(file)}

    def key(self, row):
        return tuple(str(row[name]) for name in self.columns[: self.keys])

    def add(self, row):
        """Adds a row, in the place of an older one."""
        rows = self.rows() | {self.key(row): row}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        ordered = [rows[key] for key in sorted(rows)]
        measuring.write(self.path, self.columns, ordered)


def versions():
    """What computes here, as columns of a table."""
    import keras

    backend = keras.backend.backend()
    device = "CPU"
    if backend == "jax":
        import jax

        device = jax.devices()[0].device_kind.upper()
    return {
        "keras": keras.__version__,
        "backend": f"{backend} {importlib.metadata.version(backend)}",
        "device": device,
        "numpy": np.__version__,
        **measuring.machine(backend),
    }


def parser(document):
    """A parser that has the option --protocol."""
    made = argparse.ArgumentParser(
        description=document,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--protocol",
        type=lambda text: Protocol(pathlib.Path(text).resolve()),
        default=Protocol(HERE / "protocol.toml"),
        help="file of TOML (default: protocol.toml beside this script)",
    )
    return made
