"""What do explainers mark where the model cannot see?

    python benchmarks/leak.py           # minutes for two models; leak.csv
    python benchmarks/leak.py CAM LIME  # a few explainers

Two ResNet-8, with LFI-CAM and with a plain head of pooling and a dense layer
(`architecture="cam"`), are trained by the recipe of the demo on those images of
the data set `digits_in_photos` whose digit ends left of column 40 of 64. Behind
the last convolution stands a `layers.SpatialMask` that keeps the left half of
the 8x8 cells. So pixels that only the right half looks at cannot change a
score. Which these are is measured: from the first column of pixels on, all that
can be replaced by noise without any logit of `CHANGED` test images changing in
a single bit.

The leak is the share of a map there, of the class that is predicted, on test
images with their digit anywhere. By default an explainer reads the masked
feature map. Those that take a layer also read the map in front of the mask, as
somebody would who does not know of it; with LFI-CAM some cannot, since the
image goes around that map.

Explainers are those of the package, as they are by default, and `explain`, the
signed evidence of `keras_lficam.explain`. Slower ones explain fewer images, the
first. The models stay in `runs/leak`; one that is there is not trained again.
"""

import argparse
import csv
import inspect
import itertools
import json
import pathlib

from measuring import MACHINE, machine, write

TABLE = pathlib.Path(__file__).with_suffix(".csv")
RUNS = pathlib.Path("runs/leak")
ARCHITECTURES = ["lfi_cam", "cam"]
READ = ["masked", "in front of the mask"]
EPOCHS = 5
# Columns of pixels in which the digits of training images lie.
IN_SIGHT = 40
SEED = 0
# The layer in front of the mask.
LAST = "stage3_block0_relu"
CELLS = 8
KEPT = 4
CHANGED = 200
# Images for each explainer, in the order in which they run.
IMAGES = {
    "AttentionMap": 200,
    "ClassEvidence": 200,
    "explain": 200,
    "CAM": 200,
    "GradCAM": 200,
    "GradCAMPlusPlus": 200,
    "XGradCAM": 200,
    "HiResCAM": 200,
    "LayerCAM": 200,
    "FinerCAM": 200,
    "RefineCAM": 200,
    "EigenCAM": 200,
    "AblationCAM": 200,
    "ReciproCAM": 200,
    "ScoreCAM": 40,
    "IntegratedGradients": 40,
    "SmoothGrad": 40,
    "Occlusion": 40,
    "RISE": 4,
    "LIME": 8,
}
COLUMNS = [
    "architecture",
    "explainer",
    "map",
    "accuracy_in_sight",
    "images",
    "leak",
    "largest_leak",
    "unseen_share",
    *MACHINE,
]


def blind(architecture):
    """An untrained model that does not see the right half of its map."""
    import keras
    import numpy as np

    import keras_lficam
    from keras_lficam.backbones import cifar

    seeing = cifar.resnet(8, stem_stride=2)(input_shape=(64, 64, 3))
    features = seeing.get_layer(LAST).output
    kept = np.tile(np.arange(CELLS) < KEPT, (CELLS, 1))
    masked = keras_lficam.layers.SpatialMask(kept, name="blind")(features)
    backbone = keras.Model(seeing.input, masked, name="blind_resnet8")
    return keras_lficam.build(
        backbone, 10, input_shape=(64, 64, 3), architecture=architecture
    )


def in_sight():
    """Images whose digit lies where the models see it, as a source."""
    import numpy as np
    import tensorflow as tf

    from keras_lficam import data

    parts = {}
    source = data.source("digits_in_photos")
    for split in source.splits:
        kept = []
        for images, labels, masks in source.batches(
            split, batch_size=500, with_masks=True
        ).as_numpy_iterator():
            seen = ~masks[:, :, IN_SIGHT:].any(axis=(1, 2, 3))
            kept.append((images[seen], labels[seen]))
        arrays = tuple(map(np.concatenate, zip(*kept, strict=True)))
        parts[split] = tf.data.Dataset.from_tensor_slices(arrays).batch(500)
    return data.from_datasets(
        parts["train"],
        parts["validation"],
        test=parts["test"],
        class_names=source.class_names,
    )


def trained(architecture):
    """The trained model, and its accuracy on the test images in its sight.

    Both come from the folder of the run, if it was trained before.
    """
    import keras

    from keras_lficam import training
    from keras_lficam.cli import demo

    folder = RUNS / architecture
    path = folder / "model.keras"
    if not path.exists():
        keras.utils.set_random_seed(SEED)
        model = blind(architecture)
        training.fit(
            model,
            in_sight(),
            demo._recipe(EPOCHS),
            folder=folder,
            seed=SEED,
            heat_maps_every=0,
            verbose=2,
        )
    metrics = json.loads((folder / "metrics.json").read_text())
    model = keras.models.load_model(path, compile=False)
    return model, metrics["test"]["accuracy"]["value"]


def first_unseen_column(model, images):
    """The first column of pixels from which on none changes a logit.

    Args:
        model: Classifier that shows its logits.
        images: Array `(B, H, W, C)`, 0 to 255.

    Returns:
        Its number, the width where every column changes something. From there
        on the pixels were replaced by noise, and all logits were the same in
        every bit.
    """
    import numpy as np

    from keras_lficam.classifier import Classifier

    classifier = Classifier(model)
    images = classifier.checked_images(images)
    noise = np.random.default_rng(SEED).uniform(0, 255, images.shape)
    logits = classifier.predicted_logits(images)
    for column in reversed(range(images.shape[2])):
        changed = images.copy()
        changed[:, :, column:] = noise[:, :, column:]
        if (classifier.predicted_logits(changed) != logits).any():
            return column + 1
    return 0


def makers(names):
    """Yields name, which map is read, and what makes the explainer."""
    import keras_lficam

    for name in names:
        if name == "explain":
            yield name, READ[0], _signed
            continue
        kind = getattr(keras_lficam.explainers, name)
        yield name, READ[0], kind
        if "layer" in inspect.signature(kind).parameters:
            yield (
                name,
                READ[1],
                lambda model, kind=kind: kind(model, layer=LAST),
            )


def _signed(model):
    import keras_lficam

    return lambda images: (
        keras_lficam.explain(model, images, top=1).class_evidence
    )


def measured(architecture, names, images):
    """Yields a row for each explainer of a model, and each map it can read."""
    import numpy as np

    from keras_lficam import metrics

    model, accuracy = trained(architecture)
    column = first_unseen_column(model, images[:CHANGED])
    width = images.shape[2]
    for name, read, make in makers(names):
        try:
            explain = make(model)
        except ValueError as error:
            print(f"{architecture}, {name}, {read}: {error}", flush=True)
            continue
        maps = explain(images[: IMAGES[name]])
        unseen = np.zeros_like(maps)
        unseen[:, :, column:] = 1
        values = metrics.leak(maps, unseen)
        yield {
            "architecture": architecture,
            "explainer": name,
            "map": read,
            "accuracy_in_sight": f"{accuracy:.4f}",
            "images": len(values),
            # A zero is one, however many digits are asked for.
            "leak": f"{values.mean(dtype='float64'):.3g}",
            "largest_leak": f"{values.max():.3g}",
            "unseen_share": f"{1 - column / width:.4f}",
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("explainers", nargs="*")
    names = parser.parse_args().explainers or list(IMAGES)
    from keras_lficam.cli._models import start_keras

    start_keras()  # It asks for oneDNN, as the command does.
    import keras
    import numpy as np

    from keras_lficam.data import digits_in_photos

    images = np.stack(
        [
            digits_in_photos.compose("test", number)["image"]
            for number in range(max(IMAGES.values()))
        ]
    ).astype("float32")
    columns = machine(keras.backend.backend())
    keys = list(itertools.product(ARCHITECTURES, IMAGES, READ))
    rows = {}
    if TABLE.exists():
        with TABLE.open() as file:
            for row in csv.DictReader(file):
                rows[row["architecture"], row["explainer"], row["map"]] = row
    for architecture in ARCHITECTURES:
        for row in measured(architecture, names, images):
            key = architecture, row["explainer"], row["map"]
            rows[key] = row | columns
            print(*row.values(), flush=True)
            write(TABLE, COLUMNS, (rows[key] for key in keys if key in rows))


if __name__ == "__main__":
    main()
