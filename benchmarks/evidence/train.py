"""Trains what the protocol names; a row of trainings.csv for each.

    python benchmarks/evidence/train.py                   # all: many hours
    python benchmarks/evidence/train.py --study accuracy  # one study

Two trainings run beside each other, each on one core. What has a row is left
out, and a training that was stopped goes on from its last checkpoint, so the
command can be stopped and given again. Models are not committed: the scripts
that need one train it again where it is missing, and its row is replaced, for
another machine rounds otherwise.
"""

import concurrent.futures
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import time

import networks
import protocol

COLUMNS = [
    "backbone",
    "contender",
    "classes",
    "setting",
    "seed",
    "accuracy",
    "pointing_game",
    "energy_in_box",
    "mean_box_area",
    "test_pictures",
    "best_epoch",
    "epochs",
    "parameters",
    "seconds",
    "keras",
    "tensorflow",
    "numpy",
]
ONE_CORE = dict.fromkeys(
    ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"
)


def train(study, training):
    """Trains a classifier, tests it and keeps what it drew.

    Its folder gets `model.keras`, and `maps.npz` with the maps of the test
    pictures at the size of the feature map.
    """
    import numpy as np

    import keras_lficam

    networks.fuse_normalization()
    began = time.perf_counter()
    model = study.model(training)
    recipe = study.recipe(training)
    history = keras_lficam.fit(
        model,
        study.source(training),
        recipe,
        folder=study.folder(training),
        resume=True,
        seed=training.seed,
        heat_maps_every=0,
        verbose=2,
    )
    row = training.columns | tested(study, training, model)
    several = isinstance(model.output, dict)
    accuracies = history.history[
        "val_predictions_accuracy" if several else "val_accuracy"
    ]
    row |= {
        "best_epoch": int(np.argmax(accuracies)) + 1,
        "epochs": recipe.epochs,
        "parameters": model.count_params(),
        "seconds": round(time.perf_counter() - began, 1),
        **{
            name: importlib.metadata.version(name)
            for name in ("keras", "tensorflow", "numpy")
        },
    }
    (study.folder(training) / "row.json").write_text(json.dumps(row))


def tested(study, training, model):
    """Tests a model on the test pictures, and keeps its maps."""
    import numpy as np

    from keras_lficam import functional, metrics
    from keras_lficam.architectures import attention_view

    has_map = any(layer.name == "attention_map" for layer in model.layers)
    view = attention_view(model) if has_map else model
    correct, maps, boxes = [], [], []
    batches = study.batches(training, "test", with_masks=True)
    for images, labels, masks in batches.as_numpy_iterator():
        shown = view.predict_on_batch(images)
        scores = shown["predictions"] if has_map else shown
        correct.append(scores.argmax(-1) == labels)
        boxes.append(metrics.box_masks(masks))
        if has_map:
            maps.append(shown["attention_map"])
    correct, boxes = np.concatenate(correct), np.concatenate(boxes)
    row = {
        "accuracy": round(float(correct.mean()), 4),
        "mean_box_area": round(float(boxes.mean()), 4),
        "test_pictures": len(correct),
    }
    if has_map:
        maps = np.concatenate(maps)
        np.savez_compressed(study.folder(training) / "maps.npz", maps=maps)
        large = np.asarray(functional.resize(maps, boxes.shape[1:3]))
        for name, metric in (
            ("pointing_game", metrics.pointing_game),
            ("energy_in_box", metrics.energy_pointing_game),
        ):
            row[name] = round(float(np.mean(metric(large, boxes))), 4)
    return row


def run(study, training, table, lock):
    """Trains in a process of its own, on one core, and writes the row."""
    folder = study.folder(training)
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, __file__, "--protocol", str(study.path)]
    with (folder / "log.txt").open("w") as log:
        ended = subprocess.run(
            [*words, "--one", training.name],
            env={**os.environ, **ONE_CORE},
            stdout=log,
            stderr=log,
        )
    if ended.returncode:
        raise RuntimeError(f"{training.name} failed: see {folder / 'log.txt'}")
    row = json.loads((folder / "row.json").read_text())
    with lock:
        table.add(row)
    print(
        training.name,
        *(row.get(name, "") for name in ("accuracy", "pointing_game")),
        f"{row['seconds']} s",
        flush=True,
    )


def train_all(study, trainings, workers=2):
    """Trains side by side, each in a process of its own."""
    table = protocol.Table(study.tables / "trainings.csv", COLUMNS, keys=5)
    print(f"{len(trainings)} trainings to do", flush=True)
    if not trainings:
        return
    # Makes the data set where it is missing; two processes would both do it.
    study.batches(trainings[0], "train")
    lock = threading.Lock()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        results = [
            pool.submit(run, study, training, table, lock)
            for training in trainings
        ]
        for result in results:
            result.result()


def train_missing(study, trainings):
    """Trains those whose models are not on this machine."""
    train_all(study, [each for each in trainings if not study.is_trained(each)])


def main():
    parser = protocol.parser(__doc__)
    parser.add_argument("--study", help="one study of the protocol")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", help="name of a training, for this process")
    options = parser.parse_args()
    study = options.protocol
    if options.one:
        (training,) = (
            each for each in study.all_trainings() if each.name == options.one
        )
        train(study, training)
        return
    wanted = (
        study.trainings(options.study)
        if options.study
        else study.all_trainings()
    )
    table = protocol.Table(study.tables / "trainings.csv", COLUMNS, keys=5)
    done = table.rows()
    left = [each for each in wanted if table.key(each.columns) not in done]
    train_all(study, left, options.workers)


if __name__ == "__main__":
    main()
