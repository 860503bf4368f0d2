"""All explainers and all metrics on models of a study; rows of quality.csv.

    python benchmarks/evidence/quality.py

Each model is given to `comparison.compare`, which explains the class that the
model predicts of a sample of the test images and measures faithfulness,
localization and the sanity check. Models that have rows are left out, and those
that are not here are trained first.
"""

import protocol
import train
from measuring import MACHINE, compared

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
    *MACHINE,
]


def measured(study, training, explainers):
    """What the comparison finds of a model, as rows."""
    quality = study.words["quality"]
    found = compared(
        study.folder(training) / "model.keras",
        study.words["data"]["name"],
        count=quality["pictures"],
        batch_size=16,
        samples=quality.get("samples"),
        explainers=None if explainers == "all" else explainers,
    )
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
    left = [
        training
        for training in study.trainings("accuracy")
        if training.contender in quality["explainers"]
        and training.seed in quality["seeds"]
        and (training.backbone, training.contender, str(training.seed))
        not in done
    ]
    train.train_missing(study, left)
    for training in left:
        explainers = quality["explainers"][training.contender]
        for row in measured(study, training, explainers):
            table.add(row)


if __name__ == "__main__":
    main()
