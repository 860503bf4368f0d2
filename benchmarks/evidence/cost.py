"""What each form of the importance network adds; a row of cost.csv for each.

    python benchmarks/evidence/cost.py                    # nothing else running
    python benchmarks/evidence/cost.py --backbones ResNet50 --rounds 5
    KERAS_BACKEND=jax python benchmarks/evidence/cost.py --repeats 20   # a GPU

A model with LFI-CAM and the plain backbone predict the same batch in turn; the
ratio is the median of the ratios of the rounds. Memory is the peak of a process
that predicts, over its size before the model was built; with JAX it is what the
compiler says: weights, input, output and what is between.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

import protocol

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent))

from measuring import MACHINE, in_turn  # noqa: E402

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
    "device",
    "batch_size",
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
    "image_size",
    "cores",
    "keras",
    "backend",
    *MACHINE,
]
BATCH, SIZE = 8, 224


def built(backbone, form):
    """The model with a form of LFI-CAM, or the plain one."""
    import keras

    import keras_lficam

    keras.utils.set_random_seed(0)
    words = (
        {"architecture": "plain"}
        if form == "plain"
        else {"importance_network": form}
    )
    return keras_lficam.build(backbone, input_shape=(SIZE, SIZE, 3), **words)


def predictor(model, images, repeats):
    """A call that predicts so many times, and its peak in megabytes or None."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        state = [
            [variable.value for variable in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
            )
        ]

        def compute(state, images):
            return model.stateless_call(*state, images)[0]

        compiled = jax.jit(compute).lower(state, images).compile()
        sizes = compiled.memory_analysis()
        peak = (
            sizes.argument_size_in_bytes
            + sizes.output_size_in_bytes
            + sizes.temp_size_in_bytes
        )

        def predict():
            for _ in range(repeats):
                outputs = compiled(state, images)
            jax.block_until_ready(outputs)

        return predict, round(peak / 1e6)

    import tensorflow as tf

    function = tf.function(lambda images: model(images))

    def predict():
        for _ in range(repeats):
            function(images).numpy()

    return predict, None


def random_images():
    import keras
    import numpy as np

    shape = (BATCH, SIZE, SIZE, 3)
    values = np.random.default_rng(0).uniform(0, 255, shape)
    return keras.ops.convert_to_tensor(values, "float32")


def measured(backbone, form, options):
    images = random_images()
    plain, ours = built(backbone, "plain"), built(backbone, form)
    predict_plain, peak_plain = predictor(plain, images, options.repeats)
    predict, peak = predictor(ours, images, options.repeats)
    times = in_turn(predict, predict_plain, options.rounds, options.seconds)
    seconds, seconds_plain = (
        f"{float(times[name]) / options.repeats:.5f}"
        for name in ("seconds", "seconds_other")
    )
    if peak is None:
        peak_plain, peak = (peak_of(backbone, each) for each in ("plain", form))
    return {
        "backbone": backbone,
        "form": form,
        "batch_size": BATCH,
        "parameters_plain": plain.count_params(),
        "parameters": ours.count_params(),
        "seconds_plain": seconds_plain,
        "seconds": seconds,
        **{name: times[name] for name in COLUMNS[8:12]},
        "peak_megabytes_plain": peak_plain,
        "peak_megabytes": peak,
        "image_size": SIZE,
        "cores": os.cpu_count(),
        **{
            name: value
            for name, value in protocol.versions().items()
            if name in COLUMNS
        },
    }


def peak_of(backbone, form):
    """Peak of a process of its own, in megabytes."""
    words = [sys.executable, __file__, "--peak", backbone, form]
    answer = subprocess.run(words, check=True, capture_output=True, text=True)
    return round(float(answer.stdout.split()[-1]))


def print_peak(backbone, form):
    import keras_lficam  # noqa: F401

    images = random_images()
    before = _memory("VmRSS")
    predict, _ = predictor(built(backbone, form), images, 3)
    predict()
    print(_memory("VmHWM") - before)


def _memory(name):
    """Of this process, in megabytes; Linux alone tells.

    `resource.getrusage` has a peak too, which begins with that of the process
    that started this one.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--forms", nargs="+", default=FORMS)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument(
        "--repeats", type=int, default=1, help="calls that are timed at once"
    )
    parser.add_argument("--one", nargs=2)
    parser.add_argument("--peak", nargs=2)
    options = parser.parse_args()
    if options.peak:
        print_peak(*options.peak)
        return
    if options.one:
        found = measured(*options.one, options)
        print(json.dumps(found))
        return
    table = protocol.Table(HERE / "cost.csv", COLUMNS, keys=3)
    for backbone in options.backbones:
        for form in options.forms:
            words = [sys.executable, __file__, "--one", backbone, form]
            words += ["--rounds", str(options.rounds)]
            words += ["--seconds", str(options.seconds)]
            words += ["--repeats", str(options.repeats)]
            said = subprocess.run(
                words, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            row = json.loads(said.splitlines()[-1])
            table.add(row)
            print(*row.values(), sep=", ", flush=True)


if __name__ == "__main__":
    main()
