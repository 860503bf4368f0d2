"""Trains what the protocol names; a row of trainings.csv for each.

    python benchmarks/evidence/train.py                   # all: many hours
    python benchmarks/evidence/train.py --study accuracy  # one study

Two trainings run beside each other, each on one core. What has a row is left
out, so the command can be stopped and given again. Models are not committed:
the scripts that need one train it again where it is missing, and its row is
replaced, for another machine rounds otherwise. With KERAS_BACKEND=jax a GPU
trains, if JAX sees one; `--workers 12` are then not too many.
"""

import concurrent.futures
import json
import math
import multiprocessing
import os
import time

import networks
import numpy as np
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
    "test_images",
    "best_epoch",
    "epochs",
    "parameters",
    "seconds",
    *protocol.VERSIONS,
]
ONE_CORE = dict.fromkeys(
    ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"
)
# TensorFlow leaves them off on some processors, where its own are slower.
FAST_CONVOLUTIONS = {"TF_ENABLE_ONEDNN_OPTS": "1"}


def train(study, training):
    """Trains a classifier, tests it and keeps what it drew.

    Its folder gets `model.keras`, and `maps.npz` with the maps of the test
    images at the size of the feature map.

    Returns:
        Its row of the table.
    """
    import keras

    from keras_lficam.training.optimizers import make_optimizer

    began = time.perf_counter()
    keras.backend.clear_session()
    if keras.backend.backend() == "tensorflow":
        networks.fuse_normalization()
    recipe, folder = study.recipe(training), study.folder(training)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = study.images(training, "train")
    model = study.model(training)
    outputs = tuple(model.output) if isinstance(model.output, dict) else None
    steps = math.ceil(len(labels) / recipe.batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy()
    model.compile(
        make_optimizer(recipe, steps),
        loss=dict.fromkeys(outputs, loss) if outputs else loss,
        metrics={"predictions": ["accuracy"]} if outputs else ["accuracy"],
    )
    accuracy = "val_predictions_accuracy" if outputs else "val_accuracy"
    batches = (
        (shifted.astype("float32"), targets(of_them, outputs))
        for shifted, of_them in endless(images, labels, recipe, training.seed)
    )
    images, labels = study.images(training, "validation")
    best = folder / "model.keras"
    history = model.fit(
        batches,
        validation_data=(images.astype("float32"), targets(labels, outputs)),
        validation_batch_size=100,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        shuffle=False,  # The generator does.
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                best, accuracy, mode="max", save_best_only=True
            ),
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ],
        verbose=0,
    )
    model = keras.models.load_model(best, compile=False)
    row = training.columns | tested(study, training, model)
    row |= {
        "best_epoch": int(np.argmax(history.history[accuracy])) + 1,
        "epochs": recipe.epochs,
        "parameters": model.count_params(),
        "seconds": round(time.perf_counter() - began, 1),
        **protocol.versions(),
    }
    (folder / "row.json").write_text(json.dumps(row))
    return row


def targets(labels, outputs):
    """The labels, of each output where there are several."""
    labels = labels.astype("int32")
    return dict.fromkeys(outputs, labels) if outputs else labels


def endless(images, labels, recipe, seed):
    """Batches of pass after pass, each in an order of its own and with no gap.

    If the recipe asks for `"pad_crop"`, every image is shifted by whole
    pixels, up to an eighth of its side, and filled with black.
    """
    batch_size = recipe.batch_size
    rng = np.random.default_rng(seed)
    side = images.shape[1]
    border = side // 8 if "pad_crop" in recipe.augmentation else 0
    around = (0, 0), (border, border), (border, border), (0, 0)
    order = np.empty(0, int)
    while True:
        while len(order) < batch_size:
            order = np.append(order, rng.permutation(len(labels)))
        chosen, order = order[:batch_size], order[batch_size:]
        corners = rng.integers(2 * border + 1, size=(batch_size, 2))
        shifted = [
            image[top : top + side, left : left + side]
            for image, (top, left) in zip(
                np.pad(images[chosen], around), corners, strict=True
            )
        ]
        yield np.stack(shifted), labels[chosen]


def tested(study, training, model):
    """Tests a model on the test images, and keeps its maps."""
    from keras_lficam import functional, metrics
    from keras_lficam.architectures import attention_view

    has_map = any(layer.name == "attention_map" for layer in model.layers)
    images, labels, masks = study.images(training, "test", with_masks=True)
    view = attention_view(model) if has_map else model
    shown = view.predict(images.astype("float32"), batch_size=100, verbose=0)
    scores = shown["predictions"] if has_map else shown
    boxes = metrics.box_masks((masks / 255).astype("float32"))
    row = {
        "accuracy": round(float((scores.argmax(-1) == labels).mean()), 4),
        "mean_box_area": round(float(boxes.mean()), 4),
        "test_images": len(labels),
    }
    if has_map:
        maps = shown["attention_map"]
        np.savez_compressed(
            study.folder(training) / "maps.npz", maps=maps.astype("float16")
        )
        large = np.asarray(functional.resize(maps, boxes.shape[1:3]))
        for name, metric in (
            ("pointing_game", metrics.pointing_game),
            ("energy_in_box", metrics.energy_pointing_game),
        ):
            row[name] = round(float(np.mean(metric(large, boxes))), 4)
    return row


def train_all(study, trainings, workers=2):
    """Trains side by side, in processes that each take the next training."""
    table = protocol.Table(study.tables / "trainings.csv", COLUMNS, keys=5)
    print(f"{len(trainings)} trainings to do", flush=True)
    if not trainings:
        return
    # Makes the images where they are missing; all processes would.
    for split in ("train", "validation", "test"):
        study.images(trainings[0], split)
    os.environ.update(ONE_CORE | FAST_CONVOLUTIONS)
    with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn")
    ) as pool:
        rows = [pool.submit(train, study, training) for training in trainings]
        for ended in concurrent.futures.as_completed(rows):
            row = ended.result()
            table.add(row)
            print(*row.values(), sep=", ", flush=True)


def train_missing(study, trainings):
    """Trains those whose models are not on this machine."""
    train_all(study, [each for each in trainings if not study.is_trained(each)])


def main():
    parser = protocol.parser(__doc__)
    parser.add_argument("--study", help="one study of the protocol")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    study = options.protocol
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
