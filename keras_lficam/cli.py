"""The command `keras-lficam`.

TensorFlow takes seconds to start, so arguments are checked before it is
imported, and each command imports what it needs.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
import zipfile

_EPOCHS = 8
_BATCH = 64
_TEST_BATCH = 200
_OVERLAY_SIDE = 512
# Longest side that a model which takes pictures of any size is given.
_OPEN_SIDE = 1024


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: List of words; those of the process by default.

    Returns:
        Exit code: 0 if all went well, 1 if some pictures could not be
        explained, 2 if the command was refused.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"keras-lficam {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; nothing was written.", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-lficam",
        description="Classifiers that show what they looked at.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
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
        type=_whole_number(1, 10_000),
        default=_EPOCHS,
        help="passes over the training pictures (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=_whole_number(0, 2**32 - 1),
        default=0,
        help="seed of weights and order (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)
    explain = commands.add_parser(
        "explain",
        help="classify pictures and lay their heat maps over them",
        description="Prints class and probability of each picture and writes "
        "the picture with its heat map over it, as NAME_overlay.png. A "
        "picture is stretched to the size that the model takes, and its map "
        "back to the picture.",
    )
    explain.add_argument(
        "model",
        type=pathlib.Path,
        metavar="MODEL",
        help=".keras file of a model made by keras_lficam.build; names of "
        "the classes are read from labels.txt beside it, one a line",
    )
    explain.add_argument(
        "images", type=pathlib.Path, metavar="IMAGE", nargs="+"
    )
    explain.add_argument(
        "--output",
        type=pathlib.Path,
        required=True,
        metavar="FOLDER",
        help="folder for the overlays; files in it are never overwritten",
    )
    explain.set_defaults(run=_explain)
    return parser


def _whole_number(lowest, highest):
    def parse(text):
        number = int(text) if text.lstrip("-").isdecimal() else None
        if number is None or not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {lowest} to {highest}, "
                f"is {text!r}"
            )
        return number

    return parse


# demo ----------------------------------------------------------------------


def _demo(arguments):
    with _new_folder(arguments.output) as folder:
        print("1/4  Starting TensorFlow", flush=True)
        _start_keras()
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
        _train(model, training, validation, arguments.epochs, folder)
        seconds = time.perf_counter() - start
        print("4/4  Testing the heat maps", flush=True)
        answers = _answers(model, test)
        metrics = _demo_metrics(answers)
        metrics |= {
            "train_seconds": round(seconds, 1),
            "epochs": arguments.epochs,
            "seed": arguments.seed,
            "parameters": model.count_params(),
            "test_pictures": len(answers["labels"]),
        }
        model.save(folder / "model.keras")
        labels = "\n".join(names) + "\n"
        (folder / "labels.txt").write_text(labels, encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
        _write_pictures(answers, names, folder)
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


def _train(model, training, validation, epochs, folder):
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
    model.fit(
        augmented,
        epochs=epochs,
        validation_data=validation,
        shuffle=False,  # The data set shuffles itself.
        callbacks=[keras.callbacks.CSVLogger(folder / "training.csv")],
        verbose=1 if sys.stdout.isatty() else 2,
    )


def _answers(model, test):
    """Collects images, labels, boxes, predictions and maps of a test set."""
    import numpy as np

    from keras_lficam import functional, metrics
    from keras_lficam.architectures import attention_view

    view = attention_view(model)
    parts = {
        "images": [],
        "labels": [],
        "boxes": [],
        "predictions": [],
        "maps": [],
    }
    for images, labels, masks in _progress(test, "batch"):
        shown = view.predict_on_batch(images)
        parts["images"].append(images)
        parts["labels"].append(labels)
        parts["boxes"].append(metrics.box_masks(masks))
        parts["predictions"].append(shown["predictions"])
        parts["maps"].append(
            functional.resize(shown["attention_map"], images.shape[1:3])
        )
    return {name: np.concatenate(values) for name, values in parts.items()}


def _demo_metrics(answers):
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


def _write_pictures(answers, names, folder):
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
    ).savefig(folder / "gallery.png", dpi=120)
    (folder / "pictures").mkdir()
    for index in chosen:
        name = f"{names[labels[index]]}_{index:04d}.png"
        PIL.Image.fromarray(images[index]).save(folder / "pictures" / name)


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


# explain -------------------------------------------------------------------


def _explain(arguments):
    if not arguments.model.is_file():
        raise ValueError(f"{arguments.model}: there is no such model file")
    _make_folder(arguments.output)
    _start_keras()
    import tqdm

    view = _load_view(arguments.model)
    names = _class_names(arguments.model, view)
    failed = 0
    for path in _progress(arguments.images, "picture"):
        try:
            line = _explain_picture(view, names, path, arguments.output)
            tqdm.tqdm.write(line, file=sys.stdout)
        except (ValueError, OSError) as error:
            failed += 1
            tqdm.tqdm.write(str(error), file=sys.stderr)
    if failed:
        print(
            f"{failed} of {len(arguments.images)} pictures not explained",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _explain_picture(view, names, path, folder):
    """Writes the overlay of one picture; returns its line of the report."""
    import PIL.Image

    from keras_lficam import functional, visualization
    from keras_lficam.data.pictures import read_picture

    picture = PIL.Image.fromarray(read_picture(path))
    target = folder / f"{path.stem}_overlay.png"
    if target.exists():
        raise ValueError(f"{path}: {target} exists; give another folder")
    height, width = view.inputs[0].shape[1:3]
    if None in (height, width):
        open_width, open_height = _fitted(picture.size, _OPEN_SIDE)
        height, width = height or open_height, width or open_width
    bilinear = PIL.Image.Resampling.BILINEAR
    shown = view.predict_on_batch(
        _pixels(picture.resize((width, height), bilinear))
    )
    size = _fitted(picture.size, _OVERLAY_SIDE, enlarge=True)
    enlarged = _pixels(picture.resize(size, PIL.Image.Resampling.LANCZOS))
    maps = functional.resize(shown["attention_map"], enlarged.shape[1:3])
    overlays = visualization.overlay(enlarged, _numpy(maps))
    try:
        PIL.Image.fromarray(overlays[0]).save(target)
    except OSError:  # A full disk leaves half a picture.
        target.unlink(missing_ok=True)
        raise
    predictions = _probabilities(view, shown["predictions"])
    title = visualization.prediction_titles(predictions, names)[0]
    return f"{path}: {title}, {target}"


def _probabilities(view, predictions):
    """Turns the scores of a model that gives logits into probabilities."""
    import keras

    activation = view.get_layer("predictions").activation
    if activation is keras.activations.linear:
        predictions = keras.ops.softmax(predictions)
    return _numpy(predictions)


def _fitted(size, side, *, enlarge=False):
    """Scales width and height so that the longer of them is `side`."""
    scale = side / max(size)
    if scale > 1 and not enlarge:
        return size
    return [max(1, round(length * scale)) for length in size]


def _pixels(picture):
    """Returns a picture as a batch of one, `(1, H, W, 3)`."""
    import numpy as np

    return np.asarray(picture)[np.newaxis]


def _load_view(path):
    """Loads a model for its map, or says in one line why that cannot be."""
    import keras

    from keras_lficam.architectures import attention_view

    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: the file is empty or damaged")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # A damaged file raises anything.
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path}: this is no model that Keras can load. {reason}"
        ) from None
    try:
        view = attention_view(model)
    except ValueError:
        raise ValueError(
            f"{path}: this model has no heat map of its own; one made by "
            "keras_lficam.build has"
        ) from None
    if len(view.inputs) != 1:
        raise ValueError(f"{path}: this model takes more than one picture")
    return view


def _class_names(path, view):
    """Reads the names of the classes beside the model; numbers if none."""
    count = view.output["predictions"].shape[-1]
    labels = path.with_name("labels.txt")
    if not labels.is_file():
        return [str(number) for number in range(count)]
    try:
        names = labels.read_text(encoding="utf-8").rstrip().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{labels}: the file is no UTF-8 text") from None
    if len(names) != count:
        raise ValueError(
            f"{labels}: a line for each of the model's {count} classes is "
            f"needed, and {len(names)} were found"
        )
    return names


def _numpy(tensor):
    import keras

    return keras.ops.convert_to_numpy(tensor)


# both ----------------------------------------------------------------------


@contextlib.contextmanager
def _new_folder(path):
    """Gives a folder to write to that becomes `path` when all went well."""
    if path.exists():
        raise ValueError(
            f"{path} exists already and is left as it is; give another "
            "folder with --output"
        )
    _make_folder(path.parent)
    partial = pathlib.Path(
        tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    )
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp keeps others out.
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_folder(path):
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path}: the folder cannot be made ({error.strerror}); give "
            "another one with --output"
        ) from None


def _progress(items, unit):
    """Shows a bar of progress on a screen, and nothing in a log."""
    import tqdm

    return tqdm.tqdm(
        items, unit=unit, leave=False, disable=not sys.stderr.isatty()
    )


def _start_keras():
    """Imports Keras without the lines that TensorFlow logs at its start."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    screen = os.dup(2)
    try:
        with tempfile.TemporaryFile() as log:
            os.dup2(log.fileno(), 2)
            try:
                import keras_lficam.architectures  # noqa: F401
            finally:
                os.dup2(screen, 2)
    finally:
        os.close(screen)
