"""Reads a protocol: what is trained, how it is called, and where it is kept."""

import argparse
import csv
import dataclasses
import itertools
import pathlib
import sys
import tomllib

import networks

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import measuring  # noqa: E402

RUNS = HERE.parent.parent / "runs"


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
        seed_of = {each["name"]: each["seed"] for each in self.words["setting"]}
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

    def batches(self, training, split, *, with_masks=False):
        """Pictures that a training sees, all or those of two digits."""
        from keras_lficam import data

        words = self.words["data"]
        batches = data.load(
            words["name"], split, batch_size=100, with_masks=with_masks
        )
        if training.pair:
            batches = _of_pair(batches, *words["pair"])
        if "most_batches" in words:
            batches = batches.take(words["most_batches"])
        return batches

    def source(self, training):
        """The data set as it is trained on."""
        from keras_lficam import data

        words = self.words["data"]
        if not training.pair and "most_batches" not in words:
            return data.source(words["name"])
        parts = {
            split: self.batches(training, split)
            for split in ("train", "validation", "test")
        }
        digits = words["pair"] if training.pair else range(10)
        return data.from_datasets(
            parts["train"],
            parts["validation"],
            test=parts["test"],
            class_names=[str(digit) for digit in digits],
        )


def _of_pair(batches, first, second):
    """Batches of two digits, with 0 and 1 as their labels."""
    import tensorflow as tf

    def is_one(image, label, *mask):
        return (label == first) | (label == second)

    def renamed(image, label, *mask):
        return image, tf.cast(label == second, label.dtype), *mask

    return batches.unbatch().filter(is_one).map(renamed).batch(100)


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
