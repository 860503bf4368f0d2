"""All explainers and all metrics on nets of a study; rows of quality.csv.

    python benchmarks/evidence/train.py --study accuracy
    python benchmarks/evidence/quality.py

Each net is given to `keras-lficam compare`, which explains the class that the
net predicts of the first test pictures and measures faithfulness, localization
and the sanity check. Nets that have rows are left out.
"""

import csv
import subprocess
import sys
import tempfile

import protocol

COLUMNS = [
    "backbone",
    "contender",
    "seed",
    "explainer",
    "metric",
    "better",
    "mean",
    "low",
    "high",
    "images",
    "missing",
    "seconds_per_image",
    "forward_passes",
    "backward_passes",
]


def measured(study, training, explainers):
    """What the command finds of a net, as rows."""
    quality = study.words["quality"]
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "keras_lficam", "compare"]
        words += [str(study.folder(training) / "model.keras")]
        words += ["--data", study.words["data"]["name"]]
        words += ["--count", str(quality["pictures"]), "--batch-size", "16"]
        words += ["--output", f"{folder}/compared"]
        if "samples" in quality:
            words += ["--samples", str(quality["samples"])]
        if explainers != "all":
            words += ["--explainers", *explainers]
        subprocess.run([sys.executable, *words], check=True)
        with open(f"{folder}/compared/comparison.csv") as file:
            found = list(csv.DictReader(file))
    which = {
        name: value
        for name, value in training.columns.items()
        if name in COLUMNS
    }
    return [which | row for row in found]


def main():
    study = protocol.parser(__doc__).parse_args().protocol
    quality = study.words["quality"]
    table = protocol.Table(study.tables / "quality.csv", COLUMNS, keys=5)
    done = {key[:3] for key in table.rows()}
    for training in study.trainings("accuracy"):
        which = (training.backbone, training.contender, str(training.seed))
        explainers = quality["explainers"].get(training.contender)
        if (
            explainers is None
            or training.seed not in quality["seeds"]
            or which in done
            or not study.is_trained(training)
        ):
            continue
        for row in measured(study, training, explainers):
            table.add(row)


if __name__ == "__main__":
    main()
