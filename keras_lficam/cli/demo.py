"""`keras-lficam demo`: trains a small classifier and tests its heat maps."""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_lficam.cli import _models, _output, _words
from keras_lficam.cli._words import whole_number

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_lficam.training import Recipe

_EPOCHS = 5


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    demo = commands.add_parser(
        "demo",
        help="train a small classifier and see its heat maps",
        description="Trains an LFI-CAM classifier on handwritten digits in "
        "photos, minutes on two CPU cores, and measures how well its "
        "heat maps find the digits.",
    )
    demo.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/demo"),
        metavar="FOLDER",
        help="new folder for the model, the metrics and the images "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--epochs",
        type=whole_number(1, 10_000),
        default=_EPOCHS,
        help="passes over the training images (default: %(default)s)",
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

        from keras_lficam import training

        keras.utils.set_random_seed(arguments.seed)
        print(
            "2/4  Reading digits_in_photos (the first time it is made, in a "
            "minute)",
            flush=True,
        )
        source = _models.source("digits_in_photos")
        model = _demo_model()
        print(
            f"3/4  Training ResNet-8 with LFI-CAM, {model.count_params():,} "
            f"parameters, epochs: {arguments.epochs}",
            flush=True,
        )
        start = time.perf_counter()
        training.fit(
            model,
            source,
            _recipe(arguments.epochs),
            folder=partial / "training",
            seed=arguments.seed,
            heat_maps_every=0,
            verbose=1 if sys.stdout.isatty() else 2,
        )
        seconds = time.perf_counter() - start
        print("4/4  Testing the heat maps", flush=True)
        test = source.batches("test", batch_size=200, with_masks=True)
        answers = answers_of(model, test.as_numpy_iterator())
        metrics = metrics_of(answers)
        metrics |= {
            "train_seconds": round(seconds, 1),
            "epochs": arguments.epochs,
            "seed": arguments.seed,
            "parameters": model.count_params(),
            "test_images": len(answers["labels"]),
        }
        for name in ("model.keras", "labels.txt"):
            (partial / "training" / name).rename(partial / name)
        (partial / "metrics.json").write_text(json.dumps(metrics, indent=2))
        _write_images(answers, source.class_names, partial)
    _print_summary(metrics, arguments.output)
    return 0


def _demo_model() -> "keras.Model":
    import keras_lficam
    from keras_lficam.backbones import cifar

    # The stride of the stem leaves an 8x8 map of a 64x64 image.
    backbone = cifar.resnet(8, stem_stride=2)
    return keras_lficam.build(backbone, 10, input_shape=(64, 64, 3))


def _recipe(epochs: int) -> "Recipe":
    from keras_lficam.training import Recipe

    return Recipe(
        epochs=epochs,
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=5e-4,
        warmup_epochs=min(0.6, epochs / 4),
        augmentation=("pad_crop",),
    )


def answers_of(
    model: "keras.Model", test: "Iterable[Sequence[np.ndarray]]"
) -> "dict[str, np.ndarray]":
    """Collects what a model says to images, labels and masks in batches."""
    import numpy as np

    from keras_lficam import metrics
    from keras_lficam.explanation import ExplanationView

    view = ExplanationView(model, top=1)
    parts = []
    for images, labels, masks in _output.progress(test, "batch"):
        shown = view.predict(images)
        maps = view.upsample_attention(
            shown["attention_map"], images.shape[1:3]
        )
        parts.append(
            {
                "images": images,
                "labels": labels,
                "boxes": metrics.box_masks(masks),
                "probabilities": shown["probabilities"],
                "maps": np.asarray(maps),
            }
        )
    return {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }


def metrics_of(answers: "Mapping[str, np.ndarray]") -> dict[str, float]:
    """Averages metrics over what `answers_of` gives, to four decimals."""
    from keras_lficam import metrics

    maps, boxes = answers["maps"], answers["boxes"]
    correct = answers["probabilities"].argmax(-1) == answers["labels"]
    hits = metrics.pointing_game(maps, boxes)
    energy = metrics.energy_pointing_game(maps, boxes)
    return {
        "accuracy": round(float(correct.mean()), 4),
        "pointing_game": round(float(hits.mean()), 4),
        "energy_in_box": round(float(energy.mean()), 4),
        "mean_box_area": round(float(boxes.mean()), 4),
    }


def _write_images(
    answers: "Mapping[str, np.ndarray]",
    names: Sequence[str],
    partial: pathlib.Path,
) -> None:
    """Writes the gallery, and some test images to try `explain` on."""
    import numpy as np
    import PIL.Image

    from keras_lficam import visualization

    labels, images = answers["labels"], answers["images"]
    correct = answers["probabilities"].argmax(-1) == labels
    # One correct prediction a class, then wrong ones: the first of each kind.
    right = [np.flatnonzero(correct & (labels == k))[:1] for k in range(10)]
    chosen = np.concatenate([*right, np.flatnonzero(~correct)[:4]])
    titles = visualization.prediction_titles(
        answers["probabilities"][chosen], names, labels[chosen]
    )
    visualization.grid(
        images[chosen],
        answers["maps"][chosen],
        titles=titles,
        masks=answers["boxes"][chosen],
    ).savefig(partial / "gallery.png", dpi=120)
    (partial / "images").mkdir()
    for index in chosen:
        name = f"{names[labels[index]]}_{index:04d}.png"
        PIL.Image.fromarray(images[index]).save(partial / "images" / name)


def _print_summary(metrics: Mapping[str, Any], folder: pathlib.Path) -> None:
    count = metrics["test_images"]
    print(f"\nOn {count:,} test images with digits that training never saw:\n")
    pointing, energy = metrics["pointing_game"], metrics["energy_in_box"]
    ratio = energy / metrics["mean_box_area"]
    more = f"{ratio:.1f} times the share of the box"
    rows = [
        ("accuracy", metrics["accuracy"], ""),
        ("brightest point inside the digit's box", pointing, ""),
        ("heat inside the box", energy, more),
    ]
    _output.show(_output.figures(rows))
    print(
        f"""
Trained in {metrics["train_seconds"]:.0f} s. Written to {folder}:

  gallery.png    images, heat maps and true boxes: look at it first
  model.keras    the model, for keras.models.load_model
  metrics.json   the numbers above
  training/      log and recipe of the training
  images/        some test images

Next, see how it explains an image, one of these or your own:

  keras-lficam explain {folder}/model.keras {folder}/images/*.png \\
      --output {folder}/explained"""
    )
