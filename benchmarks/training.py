"""Measures training: LFI-CAM against the plain model, and what feeds them.

    python benchmarks/training.py                 # all, about half an hour
    python benchmarks/training.py step ResNet50   # one question, some cases

step       seconds of a training step with LFI-CAM, against the plain backbone
pipeline   seconds in which the input pipeline alone makes a batch, against the
           training step that takes it: below 1 the pipeline is no bottleneck
replicas   two replicas on logical CPU devices against one, for what they
           compute, not for their speed: `difference` is the largest one of a
           weight after eight steps in float64

What is compared runs in turn, and the ratio is the median of the ratios of the
rounds, so that a busy minute falls on both. A row is written to training.csv
as soon as it is measured; other rows are kept. KERAS_BACKEND chooses the
backend; replicas are TensorFlow's.
"""

import argparse
import csv
import os
import pathlib
import tempfile
import time

from measuring import MACHINE, in_turn, machine, write

HERE = pathlib.Path(__file__).parent
TABLE = HERE / "training.csv"
COLUMNS = [
    "question",
    "case",
    "backend",
    "device",
    "image_size",
    "batch_size",
    "seconds",
    "seconds_other",
    "ratio",
    "ratio_lower_quartile",
    "ratio_upper_quartile",
    "rounds",
    "difference",
    "keras",
    "tensorflow",
    *MACHINE,
]
STEP = ["DenseNet121", "ResNet50", "MobileNetV2", "EfficientNetB0"]
# Side and file type of the images, backbone, augmentation, and whether the
# decoded images are kept in memory, as `Source.stream` does where they fit.
CROP = ("random_resized_crop", "flip")
PIPELINES = {
    "32 px, PNG, pad_crop flip, ResNet20": (
        32,
        "png",
        "ResNet20",
        ("pad_crop", "flip"),
        True,
    ),
    "224 px, JPEG of 500x375, pad_crop flip, MobileNetV2": (
        224,
        "jpg",
        "MobileNetV2",
        ("pad_crop", "flip"),
        True,
    ),
    "the same, too many to be kept in memory": (
        224,
        "jpg",
        "MobileNetV2",
        ("pad_crop", "flip"),
        False,
    ),
    "224 px, JPEG of 500x375, random_resized_crop flip, MobileNetV2": (
        224,
        "jpg",
        "MobileNetV2",
        CROP,
        True,
    ),
    "the same with rand_augment cut_mix": (
        224,
        "jpg",
        "MobileNetV2",
        (*CROP, "rand_augment", "cut_mix"),
        True,
    ),
}


def model_of(name, size, classes, **options):
    import keras

    import keras_lficam

    keras.utils.set_random_seed(0)
    model = keras_lficam.build(
        name, classes, input_shape=(size, size, 3), **options
    )
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        "sparse_categorical_crossentropy",
    )
    return model


def measure_step(name, options):
    import numpy as np

    size = 224
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (options.batch_size, size, size, 3))
    images = images.astype("float32")
    labels = rng.integers(0, 1000, options.batch_size)
    ours = model_of(name, size, 1000)
    plain = model_of(name, size, 1000, architecture="plain")
    return {"image_size": size, "batch_size": options.batch_size} | in_turn(
        lambda: ours.train_on_batch(images, labels),
        lambda: plain.train_on_batch(images, labels),
        options.rounds,
        options.seconds,
    )


def make_folder(root, suffix):
    """Writes 4 classes of 60 images cropped from photos."""
    import numpy as np
    import PIL.Image
    import skimage.data

    photo = PIL.Image.fromarray(skimage.data.astronaut()).resize((1024, 1024))
    rng = np.random.default_rng(0)
    width, height = (32, 32) if suffix == "png" else (500, 375)
    for number in range(240):
        left = int(rng.integers(0, 1024 - width))
        top = int(rng.integers(0, 1024 - height))
        folder = root / f"class_{number % 4}"
        folder.mkdir(exist_ok=True)
        photo.crop((left, top, left + width, top + height)).save(
            folder / f"{number:03d}.{suffix}"
        )


def measure_pipeline(case, options):
    from keras_lficam import data
    from keras_lficam.data import _memory

    size, suffix, name, augmentation, kept = PIPELINES[case]
    batch_size = 128 if size == 32 else 32
    if not kept:
        _memory.fits = lambda num_bytes: False
    with tempfile.TemporaryDirectory() as folder:
        make_folder(pathlib.Path(folder), suffix)
        stream = data.source(folder).stream(
            "train",
            image_size=(size, size),
            batch_size=batch_size,
            augmentation=augmentation,
        )
        model = model_of(name, size, 4)
        images, labels = next(iter(stream))
        images = images.numpy()
        labels = labels if labels.shape.rank == 1 else labels.numpy().argmax(-1)
        # Each round restarts, for a pipeline works ahead while nobody takes
        # from it; its start counts.
        return {"image_size": size, "batch_size": batch_size} | in_turn(
            lambda: list(stream.take(10)),
            lambda: [model.train_on_batch(images, labels) for _ in range(10)],
            options.rounds,
            options.seconds,
        )


def measure_replicas(case, options):
    del options
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_lficam import distribution

    # In float32 the two sum in another order, and a model makes much of that.
    keras.config.set_floatx("float64")
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, 2 * [tf.config.LogicalDeviceConfiguration()]
    )
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (64, 32, 32, 3))
    labels = rng.integers(0, 10, 64)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    found, seconds = [], []
    strategies = [None, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])]
    for strategy in strategies:
        scope = (strategy or tf.distribute.get_strategy()).scope()
        with scope:
            model = model_of(case, 32, 10)
            distribution.synchronize_batch_normalization(model)
            start = time.perf_counter()
            model.fit(batches, epochs=2, verbose=0)
            seconds.append(time.perf_counter() - start)
        found.append(model.get_weights())
        keras.backend.clear_session()
    differences = [
        np.abs(a - b).max() for a, b in zip(*found, strict=True) if a.size
    ]
    return {
        "image_size": 32,
        "batch_size": 16,
        "seconds": f"{seconds[1]:.2f}",
        "seconds_other": f"{seconds[0]:.2f}",
        "difference": f"{max(differences):.1e}",
    }


def read():
    if not TABLE.exists():
        return {}
    with TABLE.open() as file:
        return {
            (row["question"], row["case"], row["backend"], row["device"]): row
            for row in csv.DictReader(file)
        }


QUESTIONS = {
    "step": (measure_step, STEP),
    "pipeline": (measure_pipeline, list(PIPELINES)),
    "replicas": (measure_replicas, ["ResNet20"]),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="?", choices=QUESTIONS)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=120)
    options = parser.parse_args()
    rows = read()
    import keras
    import tensorflow as tf

    backend = keras.backend.backend()
    device = f"CPU, {os.cpu_count()} cores"
    if backend == "jax":
        import jax

        device = jax.devices()[0].device_kind.replace("cpu", device)
    # Logical devices are made before any other use of TensorFlow.
    for question in ("replicas", "step", "pipeline"):
        measure, cases = QUESTIONS[question]
        if options.question not in (None, question):
            continue
        if question == "replicas" and backend != "tensorflow":
            continue
        for case in options.cases or cases:
            row = {
                "question": question,
                "case": case,
                "backend": backend,
                "device": device,
                **measure(case, options),
                "keras": keras.__version__,
                "tensorflow": tf.__version__,
                **machine(backend),
            }
            rows[question, case, backend, device] = row
            write(TABLE, COLUMNS, rows.values())
            print(*row.values(), sep=", ", flush=True)
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
