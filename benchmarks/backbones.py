"""Measures what LFI-CAM adds to every backbone: weights, and time to predict.

    python benchmarks/backbones.py                  # all, about half an hour
    python benchmarks/backbones.py ResNet50 VGG16   # some

Both models predict the same batch in turn, and the ratio is the median of the
ratios of the rounds, so that a busy minute falls on both. There are at least
three rounds, and no more after `--seconds`. A row is written to backbones.csv
as soon as it is measured; rows of other names are kept.
"""

import argparse
import csv
import gc
import os
import pathlib

from measuring import MACHINE, in_turn, machine, write

HERE = pathlib.Path(__file__).parent
TABLE = HERE / "backbones.csv"
COLUMNS = [
    "backbone",
    "image_size",
    "parameters_plain",
    "parameters_lfi_cam",
    "rows",
    "columns",
    "channels",
    "exact",
    "seconds_plain",
    "ratio",
    "ratio_lower_quartile",
    "ratio_upper_quartile",
    "rounds",
    "batch_size",
    "cores",
    "keras",
    "tensorflow",
    *MACHINE,
]


def measure(name, batch_size, most_rounds, most_seconds):
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_lficam
    from keras_lficam import backbones

    size = 32 if name in backbones.cifar.FAMILY else 224
    shape = (size, size, 3)
    models = {
        architecture: keras_lficam.build(
            name, input_shape=shape, architecture=architecture
        )
        for architecture in ("plain", "lfi_cam")
    }
    predict = {
        key: tf.function(lambda images, model=model: model(images))
        for key, model in models.items()
    }
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (batch_size, *shape)), "float32")
    times = in_turn(
        lambda ours=predict["lfi_cam"]: ours(images).numpy(),
        lambda plain=predict["plain"]: plain(images).numpy(),
        most_rounds,
        most_seconds,
    )
    _, rows, columns, channels = (
        models["lfi_cam"].get_layer("importance").input[1].shape
    )
    row = {
        "backbone": name,
        "image_size": size,
        "parameters_plain": models["plain"].count_params(),
        "parameters_lfi_cam": models["lfi_cam"].count_params(),
        "rows": rows,
        "columns": columns,
        "channels": channels,
        "exact": keras_lficam.explanation_view(models["lfi_cam"]).exact,
        "seconds_plain": times["seconds_other"],
        "ratio": times["ratio"],
        "ratio_lower_quartile": times["ratio_lower_quartile"],
        "ratio_upper_quartile": times["ratio_upper_quartile"],
        "rounds": times["rounds"],
        "batch_size": batch_size,
        "cores": os.cpu_count(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        **machine(),
    }
    del models, predict
    keras.backend.clear_session()
    gc.collect()
    return row


def read():
    if not TABLE.exists():
        return {}
    with TABLE.open() as file:
        return {row["backbone"]: row for row in csv.DictReader(file)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    rows = read()
    from keras_lficam import backbones

    for name in options.names or backbones.names():
        rows[name] = measure(
            name, options.batch_size, options.rounds, options.seconds
        )
        write(TABLE, COLUMNS, (rows[name] for name in sorted(rows)))
        print(*rows[name].values(), sep=", ", flush=True)


if __name__ == "__main__":
    main()
