"""How alike maps of models trained otherwise are: stability.csv, a pair a row.

    python benchmarks/evidence/stability.py                    # all studies
    python benchmarks/evidence/stability.py --study stability  # one of them

Of every contender the models of a study are compared in pairs, on all test
images; those whose models are not here are trained first. What is compared is
IoU of the regions above a threshold, at the size of the image, and rank
correlation. The plain model is explained by Grad-CAM and Score-CAM, which are
asked for the class that is true. What chance gives stands beside it: the maps
of one model against those of the other for other images.
"""

import itertools

import keras
import numpy as np
import protocol
import train
from measuring import MACHINE, machine

import keras_lficam
from keras_lficam import functional, metrics

KEYS = ["study", "backbone", "contender", "explainer", "one", "other"]
COLUMNS = [
    *KEYS,
    "pictures",
    "iou",
    "iou_by_chance",
    "iou_at_half",
    "iou_by_pixel_row",
    "rank_correlation",
    "rank_correlation_by_chance",
    *MACHINE,
]
# That of the authors' release, and a higher one.
THRESHOLDS = {"iou": 100 / 255, "iou_at_half": 0.5}


def maps_of(study, training, explainer):
    """Maps of the test images `(N, H, W, 1)`, made once and then kept."""
    folder = study.folder(training)
    size = (study.words["data"]["image_size"],) * 2
    if explainer == "AttentionMap":
        maps = np.load(folder / "maps.npz")["maps"].astype("float32")
        return np.asarray(functional.resize(maps, size))
    kept = folder / f"{explainer}.npz"
    if not kept.exists():
        model = keras.models.load_model(folder / "model.keras", compile=False)
        explain = getattr(keras_lficam.explainers, explainer)(model)
        images, labels = study.images(training, "test")
        maps = [
            explain(
                images[first : first + 100].astype("float32"),
                labels[first : first + 100].astype("int32"),
            )
            for first in range(0, len(labels), 100)
        ]
        np.savez_compressed(kept, maps=np.concatenate(maps).astype("float16"))
    return np.load(kept)["maps"].astype("float32")


def iou_by_pixel_row(one, other):
    """The mean of the authors' script: over rows of pixels, 1 if empty."""
    one, other = (
        functional.min_max(maps) >= THRESHOLDS["iou"] for maps in (one, other)
    )
    one, other = np.asarray(one), np.asarray(other)
    shared = (one & other).sum(axis=(2, 3))
    either = (one | other).sum(axis=(2, 3))
    rows = np.where(either == 0, 1.0, shared / np.maximum(either, 1))
    return rows.mean(axis=1)


def compared(one, other):
    """What is written of two models' maps."""
    turned = np.roll(other, 1, axis=0)
    values = {
        name: metrics.map_iou(one, other, threshold=threshold)
        for name, threshold in THRESHOLDS.items()
    }
    values |= {
        "iou_by_chance": metrics.map_iou(one, turned),
        "iou_by_pixel_row": iou_by_pixel_row(one, other),
        "rank_correlation": metrics.rank_correlation(one, other),
        "rank_correlation_by_chance": metrics.rank_correlation(one, turned),
    }
    means = {name: f"{value.mean():.4f}" for name, value in values.items()}
    return {"pictures": len(one)} | means


def main():
    parser = protocol.parser(__doc__)
    parser.add_argument("--study", help="one study of the protocol")
    options = parser.parse_args()
    study = options.protocol
    names = study.words["stability"]["studies"]
    table = protocol.Table(study.tables / "stability.csv", COLUMNS, len(KEYS))
    done = table.rows()
    left = [
        (row, explainer, one, other)
        for name in ([options.study] if options.study else names)
        for row, explainer, one, other in _pairs(study, name)
        if table.key(row) not in done
    ]
    models = [model for _, _, *pair in left for model in pair]
    train.train_missing(study, list(dict.fromkeys(models)))
    for row, explainer, one, other in left:
        row |= compared(
            maps_of(study, one, explainer), maps_of(study, other, explainer)
        )
        row |= machine(keras.backend.backend())
        table.add(row)
        print(*row.values(), sep=", ", flush=True)


def _pairs(study, name):
    """What is compared in a study: keys of a row, explainer and both models."""

    def which(training):
        return training.backbone, training.contender

    trainings = sorted(study.trainings(name), key=which)
    for (backbone, contender), group in itertools.groupby(trainings, which):
        architecture = study.words["contender"][contender]["architecture"]
        explainers = (
            ["GradCAM", "ScoreCAM"]
            if architecture == "plain"
            else ["AttentionMap"]
        )
        pairs = itertools.combinations(group, 2)
        for (one, other), explainer in itertools.product(pairs, explainers):
            row = {
                "study": name,
                "backbone": backbone,
                "contender": contender,
                "explainer": explainer,
                "one": f"{one.setting}-{one.seed}",
                "other": f"{other.setting}-{other.seed}",
            }
            yield row, explainer, one, other


if __name__ == "__main__":
    main()
