"""Measures what evidence of the top classes adds to a prediction.

    python benchmarks/view.py                  # five models, about ten minutes

`explanation_view(model, top=5)` and the model itself compute the same batch in
turn, both compiled by `tf.function`, and the ratio is the median of the ratios
of the rounds. The models are those of `keras.applications`, with random
weights and their own heads of 1000 classes.
"""

import argparse
import os
import pathlib

from measuring import MACHINE, in_turn, machine, write

TABLE = pathlib.Path(__file__).parent / "view.csv"
NAMES = [
    "DenseNet121",
    "ResNet50",
    "MobileNetV2",
    "EfficientNetB0",
    "ConvNeXtTiny",
]
COLUMNS = [
    "backbone",
    "exact",
    "seconds_predict",
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


def measure(name, most_rounds, most_seconds):
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_lficam

    model = getattr(keras.applications, name)(weights=None)
    view = keras_lficam.explanation_view(model, top=5)
    explain = tf.function(lambda images: view(images))
    predict = tf.function(lambda images: model(images, training=False))
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (8, 224, 224, 3)), "float32")
    times = in_turn(
        lambda: explain(images)["class_evidence"].numpy(),
        lambda: predict(images).numpy(),
        most_rounds,
        most_seconds,
    )
    return {
        "backbone": name,
        "exact": view.exact,
        "seconds_predict": times["seconds_other"],
        **{key: times[key] for key in times if key.startswith("ratio")},
        "rounds": times["rounds"],
        "batch_size": 8,
        "cores": os.cpu_count(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        **machine(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=int, default=90)
    options = parser.parse_args()
    rows = []
    for name in NAMES:
        rows.append(measure(name, options.rounds, options.seconds))
        write(TABLE, COLUMNS, rows)
        print(*rows[-1].values(), sep=", ", flush=True)


if __name__ == "__main__":
    main()
