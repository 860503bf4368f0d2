"""`keras-lficam demo`: trains a small classifier and tests its heat maps."""

import argparse
import contextlib
import json
import pathlib
import sys
import time

from keras_lficam import _labels
from keras_lficam.cli import _models, _output
from keras_lficam.cli._words import whole_number

_EPOCHS = 5
_BATCH = 64
_TEST_BATCH = 200


def add(commands: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    demo = commands.add_parser(
        "demo",
        help="train a small classifier and see its heat maps",
        description="Trains an LFI-CAM classifier on handwritten digits in "
        "photographs, minutes on two CPU cores, and measures how well its "
        "heat maps find the digits.",
    )
    demo.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/demo"),
        metavar="FOLDER",
        help="new folder for the model, the metrics and the pictures "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--epochs",
        type=whole_number(1, 10_000),
        default=_EPOCHS,
        help="passes over the training pictures (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=0,
        help="seed of weights and order (default: %(default)s)",
    )
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    with _output.new_folder(arguments.output) as partial:
        print("1/4  Starting TensorFlow", flush=True)
        _models.start_keras()
        import keras

        keras.utils.set_random_seed(arguments.seed)
        names, training, validation, test = _demo_data(arguments.seed)
        model = _demo_model()
        print(
            f"3/4  Training ResNet-8 with LFI-CAM, {model.count_params():,} "
            f"parameters, epochs: {arguments.epochs}",
            flush=True,
        )
        start = time.perf_counter()
        _train(model, training, validation, arguments.epochs, partial)
        seconds = time.perf_counter() - start
        print("4/4  Testing the heat maps", flush=True)
        answers = answers_of(model, test)
        metrics = metrics_of(answers)
        metrics |= {
            "train_seconds": round(seconds, 1),
            "epochs": arguments.epochs,
            "seed": arguments.seed,
            "parameters": model.count_params(),
            "test_pictures": len(answers["labels"]),
        }
        model.save(partial / "model.keras")
        _labels.write(partial / "labels.txt", names)
        (partial / "metrics.json").write_text(json.dumps(metrics, indent=2))
        _write_pictures(answers, names, partial)
    _print_summary(metrics, arguments.output)
    return 0


def _demo_data(seed):
    """Returns class names and training, validation and test batches."""
    import tensorflow_datasets

    from keras_lficam import data

    name = "digits_in_photos"
    print(
        f"2/4  Reading {name} (the first time it is made, in a minute)",
        flush=True,
    )
    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()
    # The bars of TFDS go to the error stream; its words are not for here.
    with contextlib.redirect_stdout(None):
        training = data.load(
            name, "train", batch_size=_BATCH, shuffle=True, seed=seed
        )
    validation = data.load(name, "validation", batch_size=_TEST_BATCH)
    test = data.load(name, "test", batch_size=_TEST_BATCH, with_masks=True)
    return data.class_names(name), training, validation, test


def _demo_model():
    import keras_lficam
    from keras_lficam.backbones import cifar

    # The stride of the stem leaves an 8x8 map of a 64x64 picture.
    backbone = cifar.resnet(8, stem_stride=2)
    return keras_lficam.build(backbone, 10, input_shape=(64, 64, 3))


def _train(model, training, validation, epochs, partial):
    import keras
    import tensorflow as tf

    augment = keras.Sequential(
        [
            keras.layers.RandomTranslation(0.1, 0.1),
            keras.layers.RandomBrightness(0.15),
            keras.layers.RandomContrast(0.2),
        ]
    )
    # One call after another, so that a seed gives the same pictures again.
    augmented = training.map(
        lambda images, labels: (
            augment(tf.cast(images, "float32"), training=True),
            labels,
        )
    ).prefetch(tf.data.AUTOTUNE)
    steps = epochs * training.cardinality().numpy()
    warmup = min(200, steps // 4)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-4, steps - warmup, warmup_target=0.1, warmup_steps=warmup
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    # Without its momenta the step would be traced twice.
    model.optimizer.build(model.trainable_variables)
    model.fit(
        augmented,
        epochs=epochs,
        validation_data=validation,
        shuffle=False,  # The data set shuffles itself.
        callbacks=[keras.callbacks.CSVLogger(partial / "training.csv")],
        verbose=1 if sys.stdout.isatty() else 2,
    )


def answers_of(model, test):
    """Collects what a model says to a test set, and what is true.

    Args:
        model: Model that has an `attention_view`.
        test: Batches of images, labels and masks.

    Returns:
        Dictionary of arrays: images, labels, boxes, predictions and maps.
    """
    import numpy as np

    from keras_lficam import metrics
    from keras_lficam.architectures import attention_view, upsampler

    view = attention_view(model)
    upsample = upsampler(view)
    parts = {
        "images": [],
        "labels": [],
        "boxes": [],
        "predictions": [],
        "maps": [],
    }
    for images, labels, masks in _output.progress(test, "batch"):
        shown = view.predict_on_batch(images)
        parts["images"].append(images)
        parts["labels"].append(labels)
        parts["boxes"].append(metrics.box_masks(masks))
        parts["predictions"].append(shown["predictions"])
        parts["maps"].append(
            upsample(shown["attention_map"], images.shape[1:3])
        )
    return {name: np.concatenate(values) for name, values in parts.items()}


def metrics_of(answers):
    """Says how good the answers are.

    Args:
        answers: As `answers_of` gives them.

    Returns:
        Means over the pictures, rounded to four places.
    """
    from keras_lficam import metrics

    maps, boxes = answers["maps"], answers["boxes"]
    correct = answers["predictions"].argmax(-1) == answers["labels"]
    hits = metrics.pointing_game(maps, boxes)
    energy = metrics.energy_pointing_game(maps, boxes)
    return {
        "accuracy": round(float(correct.mean()), 4),
        "pointing_game": round(float(_numpy(hits).mean()), 4),
        "energy_in_box": round(float(_numpy(energy).mean()), 4),
        "mean_box_area": round(float(boxes.mean()), 4),
    }


def _write_pictures(answers, names, partial):
    """Writes the gallery, and some test pictures to try `explain` on."""
    import numpy as np
    import PIL.Image

    from keras_lficam import visualization

    labels, images = answers["labels"], answers["images"]
    correct = answers["predictions"].argmax(-1) == labels
    # One right answer a class, then wrong ones: the first of each kind.
    right = [np.flatnonzero(correct & (labels == k))[:1] for k in range(10)]
    chosen = np.concatenate([*right, np.flatnonzero(~correct)[:4]])
    titles = visualization.prediction_titles(
        answers["predictions"][chosen], names, labels[chosen]
    )
    visualization.grid(
        images[chosen],
        answers["maps"][chosen],
        titles=titles,
        masks=answers["boxes"][chosen],
    ).savefig(partial / "gallery.png", dpi=120)
    (partial / "pictures").mkdir()
    for index in chosen:
        name = f"{names[labels[index]]}_{index:04d}.png"
        PIL.Image.fromarray(images[index]).save(partial / "pictures" / name)


def _print_summary(metrics, folder):
    count = metrics["test_pictures"]
    ratio = metrics["energy_in_box"] / metrics["mean_box_area"]
    print(
        f"""
On {count:,} test pictures with digits that training never saw:

  right answers                                {metrics["accuracy"]:7.1%}
  brightest point inside the digit's box       {metrics["pointing_game"]:7.1%}
  heat inside the box                          {metrics["energy_in_box"]:7.1%}
    {ratio:.1f} times the share of the picture that the box covers

Trained in {metrics["train_seconds"]:.0f} s. Written to {folder}:

  gallery.png    pictures, heat maps and true boxes: look at it first
  model.keras    the model, for keras.models.load_model
  metrics.json   the numbers above
  pictures/      some test pictures

Next, see how it explains a picture, one of these or your own:

  keras-lficam explain {folder}/model.keras {folder}/pictures/*.png \\
      --output {folder}/explained"""
    )


def _numpy(tensor):
    import keras

    return keras.ops.convert_to_numpy(tensor)
