"""What each form of the importance network adds; a row of cost.csv for each.

    python benchmarks/evidence/cost.py                    # nothing else running
    python benchmarks/evidence/cost.py --backbones ResNet50 --rounds 5

A net with LFI-CAM and the plain backbone predict the same batch in turn; the
ratio is the median of the ratios of the rounds. Memory is the peak of a process
that predicts, over its size before the model was built.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import protocol

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))

from measuring import in_turn  # noqa: E402

BACKBONES = [
    "DenseNet121",
    "ResNet50",
    "MobileNetV2",
    "EfficientNetB0",
    "ConvNeXtTiny",
]
FORMS = ["pooled", "bottleneck", "pointwise", "released"]
COLUMNS = [
    "backbone",
    "form",
    "parameters_plain",
    "parameters",
    "seconds_plain",
    "seconds",
    "ratio",
    "ratio_lower_quartile",
    "ratio_upper_quartile",
    "rounds",
    "peak_megabytes_plain",
    "peak_megabytes",
    "batch_size",
    "image_size",
    "cores",
    "keras",
    "tensorflow",
]
BATCH, SIZE = 8, 224


def net(backbone, form):
    """The net with a form, or the plain one, and a function of it."""
    import keras
    import tensorflow as tf

    import keras_lficam

    keras.utils.set_random_seed(0)
    words = (
        {"architecture": "plain"}
        if form == "plain"
        else {"importance_network": form}
    )
    model = keras_lficam.build(backbone, input_shape=(SIZE, SIZE, 3), **words)
    return model, tf.function(lambda images: model(images))


def pictures():
    import numpy as np
    import tensorflow as tf

    values = np.random.default_rng(0).uniform(0, 255, (BATCH, SIZE, SIZE, 3))
    return tf.constant(values, "float32")


def measured(backbone, form, rounds, seconds):
    import keras
    import tensorflow as tf

    images = pictures()
    plain, predict_plain = net(backbone, "plain")
    ours, predict = net(backbone, form)
    times = in_turn(
        lambda: predict(images).numpy(),
        lambda: predict_plain(images).numpy(),
        rounds,
        seconds,
    )
    return {
        "backbone": backbone,
        "form": form,
        "parameters_plain": plain.count_params(),
        "parameters": ours.count_params(),
        "seconds_plain": times["seconds_other"],
        **{name: times[name] for name in COLUMNS[5:10]},
        "peak_megabytes_plain": peak_of(backbone, "plain"),
        "peak_megabytes": peak_of(backbone, form),
        "batch_size": BATCH,
        "image_size": SIZE,
        "cores": os.cpu_count(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }


def peak_of(backbone, form):
    """Peak of a process of its own, in megabytes."""
    words = [sys.executable, __file__, "--peak", backbone, form]
    answer = subprocess.run(words, check=True, capture_output=True, text=True)
    return round(float(answer.stdout.split()[-1]))


def print_peak(backbone, form):
    import resource

    import psutil

    import keras_lficam  # noqa: F401

    images = pictures()
    before = psutil.Process().memory_info().rss
    _, predict = net(backbone, form)
    for _ in range(3):
        predict(images).numpy()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print((peak - before) / 1e6)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--forms", nargs="+", default=FORMS)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument("--one", nargs=2)
    parser.add_argument("--peak", nargs=2)
    options = parser.parse_args()
    if options.peak:
        print_peak(*options.peak)
        return
    if options.one:
        found = measured(*options.one, options.rounds, options.seconds)
        print(json.dumps(found))
        return
    table = protocol.Table(HERE / "cost.csv", COLUMNS, keys=2)
    for backbone in options.backbones:
        for form in options.forms:
            words = [sys.executable, __file__, "--one", backbone, form]
            words += ["--rounds", str(options.rounds)]
            words += ["--seconds", str(options.seconds)]
            said = subprocess.run(
                words, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            row = json.loads(said.splitlines()[-1])
            table.add(row)
            print(*row.values(), sep=", ", flush=True)


if __name__ == "__main__":
    main()
