"""`keras-lficam train`: trains a classifier on a data set or a folder."""

import argparse
import contextlib
import json
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from keras_lficam._files import atomic_write
from keras_lficam._names import nearest
from keras_lficam.cli import _classification, _models, _output, _words
from keras_lficam.cli._words import add_bits_option, number, whole_number
from keras_lficam.distribution import _cluster

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from keras_lficam.data import Source
    from keras_lficam.training import Recipe

_Options = dict[str, Any]

# Exit code that asks a scheduler to start the command again, as sysexits.h.
_TRY_AGAIN = 75
_OPTIONS = "options.json"
# What may change when a run is resumed: it changes no number.
_FREE = {
    "strategy",
    "wait",
    "checkpoint_every",
    "heat_maps_every",
    "data_dir",
    "report",
}
# What may be another on each of the workers that train together.
_OWN = {"strategy", "wait", "data_dir", "report"}
_DEFAULTS = {
    "architecture": "lfi_cam",
    "importance_network": "bottleneck",
    "strategy": "auto",
    "wait": 600.0,
    "synchronize_batch_norm": False,
    "steps_per_execution": 1,
    "seed": 0,
    "checkpoint_every": 500,
    "heat_maps_every": 5,
    "report": "on",
}
# Options that change a recipe, by the names of its fields.
_RECIPE = (
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "label_smoothing",
    "ema_epochs",
    "augmentation",
    "monitor",
    "patience",
    "class_weight",
    "guidance",
    "guided",
    "guidance_loss",
    "guidance_share",
    "consistency",
)
# Those of recipes; the command knows them before Keras starts.
_MONITORS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "average_precision",
    "loss",
)


def add(commands: "_words.Commands") -> None:
    """Adds the command to the parser."""
    train = commands.add_parser(
        "train",
        help="train a classifier that shows what it looks at",
        usage="keras-lficam train --data NAME|FOLDER|FILE --backbone NAME "
        "--output FOLDER\n       [options]\n"
        "       keras-lficam train --output FOLDER --resume",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains a classifier on a data set of TensorFlow Datasets, "
        "a folder of images\nor a CSV file, and draws heat maps of "
        "validation images on the way. The\nvalidation part chooses the "
        "best epoch; the test part is looked at once, at the\nend.",
        epilog="""\
A folder of images has a folder for each class, with or without train,
validation and test above them:

  my/folder/cat/1.jpg            my/folder/train/cat/1.jpg
  my/folder/dog/2.png            my/folder/validation/dog/2.png

A CSV file begins with image,label and may have the columns split and mask, too.
Paths begin at its folder. With a | between labels each image can have several
or none, and the model answers yes or no for each class:

  image,label
  1.jpg,cat|dog

With --guidance the attention map is taught to lie on the objects, by masks or
boxes of some images: the column mask, a folder masks beside the classes, as
masks/cat/1.png, or what --masks names.

Examples:

  keras-lficam train --data my/folder --backbone EfficientNetB0 \\
      --weights imagenet --output runs/mine
  keras-lficam train --data labels.csv --backbone ResNet18 --output runs/list
  keras-lficam train --data cifar10 --backbone ResNet110 --recipe paper \\
      --output runs/cifar10
  keras-lficam train --output runs/cifar10 --resume
  keras-lficam train --data my/folder --backbone EfficientNetB0 \\
      --weights imagenet --guidance 1 --masks boxes.json --output runs/guided

What is in the output: report.html, a page about the run; model.keras, the best
model, and labels.txt; log.csv, a line for each epoch; metrics.json, accuracy
and the like with intervals, confusions and values of each class; heat_maps/;
tensorboard/; options.json and run.json, what is needed to do it again;
damaged.txt, images that could not be read; checkpoint.npz, from which
--resume starts.""",
    )
    _add_what(train.add_argument_group("what is trained"))
    _add_how(train.add_argument_group("how", "(default: the recipe's)"))
    _add_where(train.add_argument_group("on what"))
    _add_output(train.add_argument_group("what is written"))
    train.set_defaults(run=run)


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        metavar="NAME|FOLDER|FILE",
        help="name of a data set of TensorFlow Datasets, digits_in_photos, "
        "elpv, a folder of images, or a CSV file that lists some",
    )
    add_bits_option(group, "those of the highest number in the folder")
    _words.add_masks_option(group)
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help="such as EfficientNetB0 or ResNet20; "
        "keras_lficam.backbones.names() lists all",
    )
    group.add_argument(
        "--weights",
        metavar="imagenet|FILE",
        help="weights that the backbone begins with (default: random)",
    )
    group.add_argument(
        "--architecture",
        choices=["lfi_cam", "abn", "cam", "plain"],
        metavar="KIND",
        help="lfi_cam, abn (attention branch network), cam (a head for class "
        "activation maps) or plain (default: lfi_cam)",
    )
    group.add_argument(
        "--importance-network",
        choices=["bottleneck", "pooled", "pointwise", "released"],
        metavar="FORM",
        help="form of LFI-CAM's importance network: %(choices)s (default: "
        "bottleneck)",
    )
    group.add_argument(
        "--image-size",
        type=whole_number(1, 100_000),
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size that images get (default: that of the data set if it has "
        "one, else 224 224)",
    )
    group.add_argument(
        "--channels",
        type=int,
        choices=[1, 3],
        help="3 for a model of RGB images, gray ones as well; 1 for one of "
        "gray images, to which colors are brought (default: 3)",
    )
    group.add_argument(
        "--output-stride",
        type=whole_number(1, 1024),
        metavar="PIXELS",
        help="pixels to a row of the heat map, such as 16 for 14x14 maps of "
        "224x224 (default: the backbone's)",
    )


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recipe",
        choices=["paper", "modern", "fine_tune"],
        metavar="NAME",
        help="paper (what the authors of LFI-CAM released, 300 epochs), "
        "modern (AdamW, cosine, EMA of the weights) or fine_tune (pretrained "
        "weights: first the head alone, then all layers) (default: fine_tune "
        "with --weights, else modern)",
    )
    group.add_argument(
        "--epochs",
        type=whole_number(1, 1_000_000),
        metavar="N",
        help="passes over the training images",
    )
    group.add_argument(
        "--batch-size",
        type=whole_number(1, 10_000_000),
        metavar="N",
        help="images in a step, of all replicas together",
    )
    group.add_argument(
        "--learning-rate",
        type=number(0, 1000, above=True),
        metavar="RATE",
        help="highest, of the whole step, however many replicas share it",
    )
    group.add_argument(
        "--weight-decay",
        type=number(0, 1000),
        metavar="X",
        help="L2 penalty in the gradient with the recipe paper, decoupled "
        "with the others",
    )
    group.add_argument(
        "--label-smoothing",
        type=number(0, 0.99),
        metavar="X",
        help="share of the label that goes to all classes",
    )
    group.add_argument(
        "--ema-epochs",
        type=number(0, 1_000_000),
        metavar="X",
        help="epochs that the EMA of the weights spans; 0 for none",
    )
    group.add_argument(
        "--augmentation",
        nargs="*",
        metavar="NAME",
        help="none or several of pad_crop, random_resized_crop, flip, "
        "flip_vertical, rand_augment, mix_up, cut_mix",
    )
    group.add_argument(
        "--patience",
        type=whole_number(0, 1_000_000),
        metavar="N",
        help="epochs without a better --monitor after which training stops; 0 "
        "to go on to the end",
    )
    group.add_argument(
        "--monitor",
        choices=_MONITORS,
        metavar="METRIC",
        help="what of the validation images chooses the epoch that is kept, "
        "and stops training: %(choices)s",
    )
    group.add_argument(
        "--class-weight",
        choices=["balanced", "none"],
        help="weigh the training loss of an image by how rare its class is "
        "(default: balanced in modern and fine_tune where the largest class "
        "has 1.5 to 20 times the images of the smallest)",
    )
    group.add_argument(
        "--guidance",
        type=number(0, 1_000_000),
        metavar="WEIGHT",
        help="weight of the loss that teaches a map to lie on the masks of "
        "the training images that have one; 0 for none",
    )
    group.add_argument(
        "--guided",
        choices=["attention", "evidence"],
        help="what --guidance teaches, the attention map or the class evidence "
        "(default: attention)",
    )
    group.add_argument(
        "--guidance-loss",
        choices=["energy", "mask", "outside"],
        metavar="LOSS",
        help="energy (the share of the map outside the mask), mask (the map "
        "fills the mask) or outside (what lies outside, squared) (default: "
        "energy)",
    )
    group.add_argument(
        "--guidance-share",
        type=number(0, 1, above=True),
        metavar="X",
        help="share of the masks that are used, chosen by --seed (default: 1)",
    )
    group.add_argument(
        "--consistency",
        type=number(0, 1_000_000),
        metavar="WEIGHT",
        help="weight of the loss by which the attention map of a shifted or "
        "mirrored image is the shifted or mirrored map; each image goes "
        "through the model a second time (default: 0)",
    )
    group.add_argument(
        "--seed",
        type=whole_number(0, 2**31 - 1),
        metavar="N",
        help="of weights, order and augmentation (default: 0)",
    )


def _add_where(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--strategy",
        choices=["auto", "mirrored", "multi_worker"],
        metavar="NAME",
        help="mirrored: all devices of this machine; multi_worker: the "
        "machines of TF_CONFIG or Slurm; auto: what is there (default)",
    )
    group.add_argument(
        "--wait",
        type=number(0, 1_000_000, above=True),
        metavar="SECONDS",
        help="time after which a worker gives up waiting for the others "
        "(default: 600)",
    )
    group.add_argument(
        "--synchronize-batch-norm",
        action="store_true",
        default=None,
        help="batch normalization over the images of all replicas",
    )
    group.add_argument(
        "--mixed-precision",
        choices=["float16", "bfloat16"],
        help="compute in 16 bits, keep weights in 32 (default: 32 bits)",
    )
    group.add_argument(
        "--jit-compile",
        choices=["on", "off"],
        help="compile with XLA (default: where Keras thinks that it pays)",
    )
    group.add_argument(
        "--steps-per-execution",
        type=whole_number(1, 100_000),
        metavar="N",
        help="steps of one execution of the compiled function (default: 1)",
    )
    group.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="where TensorFlow Datasets keeps its data",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output",
        type=pathlib.Path,
        required=True,
        metavar="FOLDER",
        help="folder of the run",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the folder from its last saved step, with "
        "the options that it was started with; begin it if there is none",
    )
    group.add_argument(
        "--checkpoint-every",
        type=whole_number(1, 1_000_000_000),
        metavar="STEPS",
        help="steps between two checkpoints within an epoch (default: 500)",
    )
    group.add_argument(
        "--heat-maps-every",
        type=whole_number(0, 1_000_000),
        metavar="EPOCHS",
        help="epochs between two drawings of heat maps; 0 for none "
        "(default: 5)",
    )
    group.add_argument(
        "--report",
        choices=["on", "off"],
        help="write report.html at the end, a page about the run (default: on)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    options = _options(arguments)
    _check_data(options["data"])
    _words.check_masks(options.get("masks"))
    if options["strategy"] != "mirrored" and "TF_CONFIG" in os.environ:
        _cluster.read(os.environ["TF_CONFIG"])
    _check_folder(arguments.output, arguments.resume)
    try:
        return _run(options, arguments.output, arguments.resume)
    except KeyboardInterrupt:
        print(_stopped(arguments.output), file=sys.stderr)
        return 130


def _run(options: _Options, folder: pathlib.Path, resume: bool) -> int:
    if options["strategy"] != "auto" or "TF_CONFIG" in os.environ:
        # Replicas on CPUs can get empty batches, with which oneDNN fails.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    _models.start_keras()
    from keras_lficam import distribution

    try:
        return _train(options, folder, resume)
    except Exception as error:
        if not distribution.is_lost_peer(error):
            raise
        print(
            "keras-lficam train: another worker was lost. Start all workers "
            "again with the same command and --resume; nothing but the steps "
            "since the last checkpoint is done again.",
            file=sys.stderr,
        )
        return _TRY_AGAIN


def _stopped(folder: pathlib.Path) -> str:
    if (folder / _OPTIONS).is_file():
        return (
            f"\nStopped; {folder} holds the run up to its last checkpoint. Go "
            f"on with:\n\n  keras-lficam train --output {folder} --resume"
        )
    return "\nStopped before the first step; no model was written."


def _check_data(name: str) -> None:
    """Refuses data that is not there, before TensorFlow starts."""
    path = pathlib.Path(name)
    if path.is_dir() or (path.suffix.lower() == ".csv" and path.is_file()):
        return
    import tensorflow_datasets as tfds

    known = [*tfds.list_builders(with_community_datasets=False)]
    # Ours, which TensorFlow must register.
    known += ["digits_in_photos", "elpv"]
    builder = name.split("/")[0]
    # TFDS has names such as "imagenette/160px" and "huggingface:a/b".
    if builder.split(":")[0] in known or ":" in builder:
        return
    near = nearest(name, known)
    hint = f"; the nearest names: {', '.join(near)}" if near else ""
    raise ValueError(
        f"--data {name}: there is no such folder or CSV file, and TensorFlow "
        f"Datasets knows no data set of this name{hint}"
    )


def _options(arguments: argparse.Namespace) -> _Options:
    """Gathers the options of the run, also those that it was started with."""
    given = {
        name: value
        for name, value in vars(arguments).items()
        if value is not None
        and name not in {"command", "run", "words", "output", "resume"}
    }
    path = arguments.output / _OPTIONS
    if arguments.resume and path.is_file():
        started = _read_options(path)
        for name in given.keys() - _FREE:
            if given[name] != started.get(name, _DEFAULTS.get(name)):
                option = "--" + name.replace("_", "-")
                before = started.get(name, _DEFAULTS.get(name))
                raise ValueError(
                    f"{arguments.output}: this run was started "
                    f"{'without' if before is None else 'with'} {option}"
                    f"{'' if before is None else f' {before}'}, not "
                    f"{given[name]}. To fix this: leave the option out, or "
                    "give another folder with --output"
                )
        given = started | given
    for name in ("data", "backbone"):
        if name not in given:
            raise ValueError(
                f"--{name} is missing. To fix this: give it, or --resume and "
                "the --output in which a run was started"
            )
    return _DEFAULTS | given


def _read_options(path: pathlib.Path) -> _Options:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise ValueError(
            f"{path}: the file is damaged. To fix this: remove it, and give "
            "--resume with the options that the run was started with"
        )
    return read


def _check_folder(folder: pathlib.Path, resume: bool) -> None:
    """Refuses a folder with another run, or that cannot be written."""
    if not resume and folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"{folder} is not empty. To fix this: give another folder with "
            "--output, or go on with the run in it with --resume"
        )
    _output.make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder}: the folder cannot be written ({error.strerror}). To "
            "fix this: give another one with --output"
        ) from None


def _train(options: _Options, folder: pathlib.Path, resume: bool) -> int:
    import keras

    from keras_lficam import data, training

    strategy, chief = _strategy(options, resume)

    def say(text: str) -> None:
        if chief:
            print(text, flush=True)

    if not chief:
        logging.getLogger("keras_lficam").setLevel("ERROR")
    say(f"Reading {options['data']}")
    source = data.source(
        options["data"],
        data_dir=options.get("data_dir"),
        bits=options.get("bits"),
        masks=options.get("masks"),
    )
    if "mixed_precision" in options:
        keras.config.set_dtype_policy(f"mixed_{options['mixed_precision']}")
    keras.utils.set_random_seed(options["seed"])
    with strategy.scope() if strategy else contextlib.nullcontext():
        model, size = _model(options, source)
    recipe = _recipe(options, source, size)
    counts = ", ".join(
        f"{source.count(split):,} for {split}" for split in source.splits
    )
    if recipe.guidance and source.has_masks:
        masks = source.count_masks("train", recipe.guidance_share)
        counts += f"; with a mask for guidance: {masks:,}"
    say(
        f"Training {model.name}, {model.count_params():,} parameters, on "
        f"{len(source.class_names)} classes; images: {counts}"
    )

    say(_about_recipe(options, recipe))

    def keep_options(logs: Mapping[str, float] | None = None) -> None:
        if chief and not (folder / _OPTIONS).exists():
            text = json.dumps(options, indent=2)
            with atomic_write(folder / _OPTIONS) as partial:
                partial.write_text(text, encoding="utf-8")

    verbose = (1 if sys.stdout.isatty() else 2) if chief else 0
    training.fit(
        model,
        source,
        recipe,
        folder=folder,
        resume=resume,
        seed=options["seed"],
        checkpoint_every=options["checkpoint_every"],
        heat_maps_every=options["heat_maps_every"],
        jit_compile={"on": True, "off": False}.get(
            options.get("jit_compile", ""), "auto"
        ),
        steps_per_execution=options["steps_per_execution"],
        # By then nothing of the run has been refused.
        callbacks=[keras.callbacks.LambdaCallback(on_train_begin=keep_options)],
        verbose=verbose,
    )
    if chief:
        is_reported = options["report"] == "on" and _reported(folder, source)
        _print_summary(folder, source, is_reported)
    return 0


def _reported(folder: pathlib.Path, source: "Source") -> bool:
    """Writes the page about the run; the run is whole without it, too."""
    from keras_lficam import reporting

    print(f"Writing {folder / 'report.html'}", flush=True)
    try:
        reporting.report(folder, data=source)
    except Exception as error:  # The run is complete, whatever it was.
        print(
            f"keras-lficam train: the report was not written ({error}). The "
            "run is complete; to try again: keras-lficam report "
            f"{folder}",
            file=sys.stderr,
        )
        return False
    return True


def _strategy(
    options: _Options, resume: bool
) -> "tuple[tf.distribute.Strategy | None, bool]":
    """Returns the strategy, None on JAX, and whether this process writes."""
    import keras

    import keras_lficam
    from keras_lficam import distribution

    name = options["strategy"]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        agree_on = {
            f"--{key.replace('_', '-')}": value
            for key, value in sorted(options.items())
            if key not in _OWN
        }
        agree_on |= {
            "--resume": resume,
            "the version of keras_lficam": keras_lficam.__version__,
            "the version of keras": keras.__version__,
            "the version of tensorflow": version("tensorflow"),
        }
        strategy = distribution.strategy(
            name, agree_on=agree_on, wait=options["wait"]
        )
        return strategy, distribution.is_chief(strategy)
    if name == "multi_worker" or (backend != "jax" and name == "mirrored"):
        raise ValueError(
            f"--strategy {name} needs Keras on TensorFlow; KERAS_BACKEND is "
            f"{backend}"
        )
    if backend == "jax" and len(keras.distribution.list_devices()) > 1:
        keras.distribution.set_distribution(distribution.DataParallel())
    return None, True


def _model(
    options: _Options, source: "Source"
) -> "tuple[keras.Model, tuple[int, int]]":
    """Builds the model; returns it and the size of its images."""
    import keras_lficam
    from keras_lficam import distribution

    height, width, _ = source.image_shape
    asked = options.get("image_size")
    size = tuple(asked) if asked else (height or 224, width or 224)
    model = keras_lficam.build(
        options["backbone"],
        source.class_names,
        input_shape=(*size, options.get("channels", 3)),
        weights=options.get("weights"),
        architecture=options["architecture"],
        output_stride=options.get("output_stride"),
        importance_network=options["importance_network"],
        classifier_activation="sigmoid" if source.multi_label else "softmax",
    )
    if options["synchronize_batch_norm"]:
        distribution.synchronize_batch_normalization(model)
    return model, size


def _recipe(
    options: _Options, source: "Source", size: tuple[int, int]
) -> "Recipe":
    import dataclasses

    from keras_lficam import training

    name = _name_of_recipe(options)
    recipe = training.recipe(
        name,
        data=source.name,
        backbone=options["backbone"],
        image_size=size,
        # A number of epochs that is asked for is taken as it is.
        images=None if "epochs" in options else source.count("train"),
        class_counts=None
        if source.multi_label or "class_weight" in options or name == "paper"
        else source.class_counts("train"),
    )
    changes = {key: options[key] for key in _RECIPE if key in options}
    for key, none in (("patience", 0), ("class_weight", "none")):
        if changes.get(key) == none:
            changes[key] = None
    return dataclasses.replace(recipe, **changes)


def _name_of_recipe(options: _Options) -> str:
    default = "fine_tune" if options.get("weights") else "modern"
    return str(options.get("recipe") or default)


def _about_recipe(options: _Options, recipe: "Recipe") -> str:
    """Says how it is trained, and why so where that was not asked for."""
    from keras_lficam.training import _stages

    said = f"Recipe {_name_of_recipe(options)}"
    if "recipe" not in options and options.get("weights"):
        said += ", taken with --weights"
    said += f": {'up to ' if recipe.patience else ''}{recipe.epochs} epochs"
    frozen = _stages.frozen_epochs(recipe)
    if frozen:
        said += f", {frozen} with a frozen trunk, then all layers"
    if recipe.freeze_batch_norm:
        said += "; batch normalization of the trunk as in inference"
    if recipe.class_weight == "balanced":
        said += (
            "; classes are weighted in the loss (--class-weight none turns "
            "that off)"
        )
    return said


def _print_summary(
    folder: pathlib.Path, source: "Source", is_reported: bool
) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    monitor = metrics["monitor"].replace("_", " ")
    by = "" if monitor == "accuracy" else f" by {monitor}"
    print(
        f"\nBest of {metrics['epochs']} epochs{by}: {metrics['best_epoch']}\n"
    )
    splits = [s for s in ("validation", "test") if f"{s}_accuracy" in metrics]
    measured = {s: metrics[s] for s in splits if metrics.get(s)}
    if measured:
        _output.show(*_classification.shown(measured))
    else:  # It has no probabilities, as one whose training diverged.
        for split in splits:
            share = metrics[f"{split}_accuracy"]
            print(f"accuracy on the {split} images: {share:.1%}")
    if source.damaged:
        print(
            f"Damaged images that were left out: {len(source.damaged)}, "
            f"named in {folder}/damaged.txt"
        )
    page = "  report.html   all of this as a page: open it first\n"
    print(
        "\n"
        f"Written to {folder}:\n\n"
        f"{page if is_reported else ''}"
        "  model.keras   the best model, with labels.txt\n"
        "  metrics.json  these numbers, and the confusion matrix\n"
        "  heat_maps/    validation images and their heat maps\n"
        "  log.csv       a line for each epoch\n"
        "  tensorboard/  the same for `tensorboard --logdir`\n\n"
        "Next, see how it explains an image:\n\n"
        f"  keras-lficam explain {folder}/model.keras IMAGE... \\\n"
        f"      --output {folder}/explained"
    )
