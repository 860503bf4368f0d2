"""Measures explainers against other libraries and against the least it takes.

    pip install -r benchmarks/requirements.txt     # see there
    python benchmarks/explainers.py                # writes explainers.csv
    python benchmarks/explainers.py score_cam_wide # a few cases

A case is a model, images and a task; its contenders do the same task in turn,
round after round, in one process. A ratio is the median over the rounds of
ours over theirs, so that a busy second falls on both. Peak memory is taken
from a process of its own for each contender: how much the largest resident
size exceeds the one right before the first call.

The lower bound is what the method cannot do without: as many plain forward
passes of the bare model, in batches of the same size, of images that are there
already; for Grad-CAM one `tf.function` written by hand with one forward and one
backward pass.
"""

import argparse
import csv
import functools
import json
import pathlib
import statistics
import subprocess
import sys
import time

from measuring import MACHINE, machine, write

HERE = pathlib.Path(__file__).parent
TABLE = HERE / "explainers.csv"
CHUNK = 32
RISE_MASKS = 1000


def wide_model():
    """As cheap a model as may be with a last map of 7x7x2048."""
    import keras

    image = keras.Input((224, 224, 3))
    x = keras.layers.AveragePooling2D(32)(image)
    x = keras.layers.Conv2D(2048, 1, activation="relu", name="features")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(10, "softmax")(x))


def application(name, size):
    import keras

    function = getattr(keras.applications, name)
    return function(weights=None, input_shape=(size, size, 3), classes=10)


def settled(model, size):
    """Gives batch normalization the moments of the images."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(random_images(8, size), training=True)
    return model


def random_images(count, size):
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (count, size, size, 3)).astype("float32")


# Contenders: functions of a model and images, that give a function to time.


def ours(name, *, xla=False, policy=None, **options):
    def prepare(model, images):
        import keras
        import numpy as np

        from keras_lficam import explainers

        if policy is not None:
            model = in_policy(model, policy)
        explainer = getattr(explainers, name)(model, **options)
        if xla:
            for step in vars(explainer).values():
                if isinstance(step, keras.Model) and step is not model:
                    step.compile(jit_compile=True)
        return lambda: explainer(images, np.zeros(len(images), int))

    return prepare


def in_policy(model, policy):
    """Copies a model for another dtype policy."""
    import keras

    def copy(layer):
        config = {**layer.get_config(), "dtype": policy}
        return type(layer).from_config(config)

    copied = keras.models.clone_model(model, clone_function=copy)
    copied.set_weights(model.get_weights())
    return copied


def tf_keras_vis(module, name, *, without_softmax, **options):
    def prepare(model, images):
        import importlib

        from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
        from tf_keras_vis.utils.scores import CategoricalScore

        method = getattr(importlib.import_module(module), name)(
            model, ReplaceToLinear() if without_softmax else None, clone=True
        )
        score = CategoricalScore([0] * len(images))
        return lambda: method(score, images, **options)

    return prepare


def xplique(name, **options):
    def prepare(model, images):
        import keras
        import numpy as np
        import xplique.attributions

        targets = keras.utils.to_categorical([0] * len(images), 10)
        method = getattr(xplique.attributions, name)(model, **options)
        return lambda: np.asarray(method(images, targets))

    return prepare


def forward_passes(passes):
    """As many plain forward passes an image as `passes(model)` says."""

    def prepare(model, images):
        import numpy as np

        count = passes(model) * len(images)
        size = images.shape[1]
        batch = np.repeat(random_images(1, size), CHUNK, axis=0)
        sizes = [CHUNK] * (count // CHUNK) + [count % CHUNK] * (
            count % CHUNK > 0
        )

        def run():
            for size in sizes:
                model.predict_on_batch(batch[:size])

        return run

    return prepare


def forward_and_backward(model, images):
    import keras
    import tensorflow as tf

    pooling = next(
        layer
        for layer in reversed(model.layers)
        if isinstance(layer, keras.layers.GlobalAveragePooling2D)
    )
    trunk = keras.Model(model.input, pooling.input)
    last = model.layers[-1]

    @tf.function
    def run(images):
        features = trunk(images)
        with tf.GradientTape() as tape:
            tape.watch(features)
            pooled = tf.reduce_mean(features, (1, 2))
            logits = pooled @ last.kernel + last.bias
            score = tf.reduce_sum(logits[:, 0])
        return features, tape.gradient(score, features)

    return lambda: [part.numpy() for part in run(images)]


def channels(model):
    from keras_lficam.classifier import Classifier

    return Classifier(model).split().shape[-1]


XLA = "keras_lficam, XLA"
BFLOAT16 = "keras_lficam, mixed_bfloat16"
SCORE_CAM = {
    "keras_lficam": ours("ScoreCAM"),
    "tf-keras-vis": tf_keras_vis(
        "tf_keras_vis.scorecam", "Scorecam", without_softmax=False
    ),
    "lower bound": forward_passes(channels),
}
SCORE_CAM_VARIANTS = {
    "keras_lficam": ours("ScoreCAM"),
    XLA: ours("ScoreCAM", xla=True),
    BFLOAT16: ours("ScoreCAM", policy="mixed_bfloat16"),
}
RISE = {
    "keras_lficam": ours("RISE", samples=RISE_MASKS),
    "xplique": xplique("Rise", nb_samples=RISE_MASKS, batch_size=CHUNK),
    "lower bound": forward_passes(lambda model: RISE_MASKS),
}
GRAD_CAM = {
    "keras_lficam": ours("GradCAM"),
    "tf-keras-vis": tf_keras_vis(
        "tf_keras_vis.gradcam", "Gradcam", without_softmax=True
    ),
    "xplique": xplique("GradCAM"),
    "lower bound": forward_and_backward,
}
GRAD_CAM_VARIANTS = {
    "keras_lficam": ours("GradCAM"),
    XLA: ours("GradCAM", xla=True),
    BFLOAT16: ours("GradCAM", policy="mixed_bfloat16"),
}
WIDE = wide_model
MOBILE = functools.partial(application, "MobileNetV2", 96)
RESIDUAL = functools.partial(application, "ResNet50", 224)
# Model, its name, number and size of images, contenders, rounds.
CASES = {
    "score_cam_wide_1": (WIDE, "7x7x2048", 1, 224, SCORE_CAM, 3),
    "score_cam_wide_4": (WIDE, "7x7x2048", 4, 224, SCORE_CAM, 1),
    "score_cam_mobile": (MOBILE, "MobileNetV2", 8, 96, SCORE_CAM, 2),
    "rise_wide": (WIDE, "7x7x2048", 1, 224, RISE, 7),
    "rise_mobile": (MOBILE, "MobileNetV2", 1, 96, RISE, 7),
    "grad_cam_mobile": (MOBILE, "MobileNetV2", 8, 96, GRAD_CAM, 31),
    "grad_cam_residual": (RESIDUAL, "ResNet50", 1, 224, GRAD_CAM, 31),
    "score_cam_variants": (WIDE, "7x7x2048", 1, 224, SCORE_CAM_VARIANTS, 5),
    "grad_cam_variants": (
        MOBILE,
        "MobileNetV2",
        8,
        96,
        GRAD_CAM_VARIANTS,
        15,
    ),
}
COLUMNS = [
    "case",
    "model",
    "images",
    "image_size",
    "contender",
    "seconds_per_image",
    "ours_over_it",
    "ours_over_it_lowest",
    "ours_over_it_highest",
    "rounds",
    "peak_memory_gb",
    "cores",
    "keras",
    "tensorflow",
    *MACHINE,
]


def made(case):
    make, _, count, size, contenders, rounds = CASES[case]
    return settled(make(), size), random_images(count, size), contenders, rounds


def measure_seconds(case):
    """Times the contenders in turn; a list of rounds for each."""
    model, images, contenders, rounds = made(case)
    prepared = {
        name: prepare(model, images) for name, prepare in contenders.items()
    }
    seconds = {name: [] for name in prepared}
    for number in range(rounds + 1):  # The first warms up.
        for name, run in prepared.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_memory(case, contender):
    """Peak resident size of this process over that before the call, GB."""
    model, images, contenders, _ = made(case)
    model.predict_on_batch(images)
    run = contenders[contender](model, images)
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
    before = _kilobytes(status, "VmRSS")
    run()
    status = pathlib.Path("/proc/self/status").read_text()
    return (_kilobytes(status, "VmHWM") - before) / 2**20


def _kilobytes(status, key):
    line = next(row for row in status.split("\n") if row.startswith(key))
    return int(line.split()[1])


def in_a_process(*words):
    """Runs this file once more and returns what it prints last."""
    done = subprocess.run(
        [sys.executable, __file__, *words],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return json.loads(done.stdout.strip().split("\n")[-1])


def rows_of(case):
    import os
    from importlib.metadata import version

    _, name, count, size, contenders, rounds = CASES[case]
    seconds = in_a_process("--seconds-of", case)
    where = machine()
    for contender in contenders:
        pairs = zip(seconds["keras_lficam"], seconds[contender], strict=True)
        ratios = [one / other for one, other in pairs]
        yield {
            "case": case,
            "model": name,
            "images": count,
            "image_size": size,
            "contender": contender,
            "seconds_per_image": (
                f"{statistics.median(seconds[contender]) / count:.4g}"
            ),
            "ours_over_it": f"{statistics.median(ratios):.4g}",
            "ours_over_it_lowest": f"{min(ratios):.4g}",
            "ours_over_it_highest": f"{max(ratios):.4g}",
            "rounds": rounds,
            "peak_memory_gb": (
                f"{in_a_process('--memory-of', case, contender):.3f}"
            ),
            "cores": os.cpu_count(),
            "keras": version("keras"),
            "tensorflow": version("tensorflow"),
            **where,
        }


def read():
    if not TABLE.exists():
        return []
    with TABLE.open() as file:
        return list(csv.DictReader(file))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--seconds-of", help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seconds_of:
        print(json.dumps(measure_seconds(options.seconds_of)))
        return
    if options.memory_of:
        print(json.dumps(measure_memory(*options.memory_of)))
        return
    rows = read()
    for case in options.cases or CASES:
        new = list(rows_of(case))
        rows = [row for row in rows if row["case"] != case] + new
        rows.sort(key=lambda row: list(CASES).index(row["case"]))
        write(TABLE, COLUMNS, rows)
        for row in new:
            print(*row.values(), sep=", ", flush=True)


if __name__ == "__main__":
    main()
