"""Which explainer finds the image of the class that it is asked about?

    python benchmarks/demo_seeds.py        # the models, a quarter of an hour
    python benchmarks/grid_pointing.py     # another; grid_pointing.csv
    python benchmarks/grid_pointing.py CAM # a few explainers

The grid pointing game (GridPG): mosaics of 2x2 test images of the data set
`digits_in_photos`, of four classes, each of which the model recognizes with a
probability of at least 0.9. One of the four classes is explained; the score is
the share of the map's heat in its cell, by chance 0.25. Beside it, on the
first of the same mosaics, the rank correlation of `single_deletion`.

Of `demo` each seed is a model of its own, which the demo trained with it, and
mosaics of its own; `shipped` is one model, and a seed only chooses mosaics. A
mosaic has 128x128 pixels; a model, which takes 64x64, is rebuilt for that size
with the same weights. Slower explainers explain fewer mosaics, the first of
each seed. All this was decided before a score of the models of
the demo was seen. The explainers are those of the package, as they are by
default, and `explain`, the signed evidence of `keras_lficam.explain`; of a
signed map the heat is what is positive.
"""

import argparse
import csv
import itertools
import pathlib

import demo_seeds
from measuring import MACHINE, machine, write

TABLE = pathlib.Path(__file__).with_suffix(".csv")
SEEDS = range(5)
NUM_IMAGES = 2000
LEAST_PROBABILITY = 0.9
# Mosaics of a seed for each explainer, in the order in which they run.
MOSAICS = {
    "AttentionMap": 120,
    "EigenCAM": 120,
    "ClassEvidence": 120,
    "explain": 120,
    "CAM": 120,
    "GradCAM": 120,
    "GradCAMPlusPlus": 120,
    "XGradCAM": 120,
    "HiResCAM": 120,
    "LayerCAM": 120,
    "FinerCAM": 120,
    "RefineCAM": 120,
    "AblationCAM": 120,
    "ReciproCAM": 120,
    "IntegratedGradients": 24,
    "SmoothGrad": 24,
    "Occlusion": 24,
    "ScoreCAM": 24,
    "RISE": 2,
    "LIME": 4,
}
DELETED = 24
# The stride of the map of 64x64 pixels: 8x8 cells, and 16x16.
STRIDES = {"demo": None, "shipped": 4}
COLUMNS = [
    "model",
    "explainer",
    "seed",
    "mosaics",
    "grid_pointing",
    "mosaics_deleted",
    "single_deletion",
    "forward_passes",
    "backward_passes",
    *MACHINE,
]


def explainer_of(name, model):
    """Function of images and classes, and its forward and backward passes."""
    import keras_lficam

    if name == "explain":

        def signed(images, classes):
            found = keras_lficam.explain(model, images, classes[:, None])
            return found.class_evidence

        return signed, (1, 0)
    explain = getattr(keras_lficam.explainers, name)(model)
    return explain, explain.passes


def models_of(name, seed):
    """A model, and one for images of twice the size with the same weights.

    The larger one is built as by the demo, or by `saved_models/train.py`; no
    weight depends on the size.
    """
    import keras

    import keras_lficam
    from keras_lficam.backbones import cifar

    shipped = keras_lficam.pretrained.digits_in_photos
    path = shipped() if name == "shipped" else demo_seeds.model_of(seed)
    model = keras.models.load_model(path, compile=False)
    _, height, width, channels = model.input_shape
    larger = keras_lficam.build(
        cifar.resnet(8, stem_stride=2),
        model.output_shape[-1],
        input_shape=(2 * height, 2 * width, channels),
        output_stride=STRIDES[name],
    )
    larger.set_weights(model.get_weights())
    return model, larger


def chosen(probabilities, labels, count, seed):
    """Chooses the images of mosaics, and the cell that is asked about.

    Args:
        probabilities: What the model gives for all images, `(N, K)`.
        labels: Their classes `(N,)`.
        count: Number of mosaics.
        seed: Integer.

    Returns:
        Numbers of images `(count, 4)`, in the order of reading, and of cells
        `(count,)`, 0 to 3.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    sure = probabilities.max(axis=1) >= LEAST_PROBABILITY
    sure &= probabilities.argmax(axis=1) == labels
    numbers = [
        [
            rng.choice(np.flatnonzero(sure & (labels == label)))
            for label in rng.choice(np.unique(labels[sure]), 4, replace=False)
        ]
        for _ in range(count)
    ]
    return np.array(numbers), rng.integers(4, size=count)


def mosaics_of(images, numbers):
    """Joins four images `(h, w, C)` to each mosaic `(2h, 2w, C)`."""
    import numpy as np

    count, (height, width, channels) = len(numbers), images.shape[1:]
    parts = images[numbers].reshape(count, 2, 2, height, width, channels)
    parts = np.moveaxis(parts, 2, 3)  # (B, 2, h, 2, w, C)
    return parts.reshape(count, 2 * height, 2 * width, channels)


def masks_of(cells, size):
    """Masks `(B, 2h, 2w, 1)` of cells 0 to 3, of size `(h, w)`."""
    import numpy as np

    each = np.eye(4, dtype="float32").reshape(4, 2, 2)
    return np.kron(each, np.ones(size, "float32"))[cells][..., None]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("explainers", nargs="*")
    parser.add_argument("--models", nargs="+", default=list(STRIDES))
    options = parser.parse_args()
    from keras_lficam.cli._models import start_keras

    start_keras()  # It asks for oneDNN, as the command does.
    import keras
    import numpy as np

    from keras_lficam.data import digits_in_photos

    examples = [
        digits_in_photos.compose("test", number) for number in range(NUM_IMAGES)
    ]
    images = np.stack([each["image"] for each in examples]).astype("float32")
    labels = np.array([each["label"] for each in examples])
    columns = machine(keras.backend.backend())
    rows = {}
    if TABLE.exists():
        with TABLE.open() as file:
            for row in csv.DictReader(file):
                rows[row["model"], row["explainer"], int(row["seed"])] = row
    for name in options.models:
        for seed in SEEDS:
            for row in measured(
                name, seed, options.explainers or MOSAICS, images, labels
            ):
                rows[name, row["explainer"], seed] = row | columns
                print(*row.values(), flush=True)
            keys = itertools.product(STRIDES, MOSAICS, SEEDS)
            write(TABLE, COLUMNS, (rows[key] for key in keys if key in rows))


def measured(name, seed, explainers, images, labels):
    """Yields a row for each explainer of a model."""
    import numpy as np

    from keras_lficam import metrics

    small, model = models_of(name, seed)
    probabilities = small.predict(images, verbose=0)
    every_number, every_cell = chosen(
        probabilities, labels, max(MOSAICS.values()), seed
    )
    for explainer in explainers:
        explain, (forward, backward) = explainer_of(explainer, model)
        count = MOSAICS[explainer]
        # Of fewer mosaics the first are the same.
        numbers, cells = every_number[:count], every_cell[:count]
        mosaics = mosaics_of(images, numbers)
        asked = labels[numbers[np.arange(count), cells]]
        maps = explain(mosaics, asked)
        found = metrics.energy_pointing_game(
            np.maximum(maps, 0), masks_of(cells, images.shape[1:3])
        )
        deleted = metrics.single_deletion(
            model, mosaics[:DELETED], maps[:DELETED], asked[:DELETED]
        )
        yield {
            "model": name,
            "explainer": explainer,
            "seed": seed,
            "mosaics": count,
            "grid_pointing": f"{found.mean():.4f}",
            "mosaics_deleted": len(deleted),
            "single_deletion": f"{deleted.mean():.4f}",
            "forward_passes": forward,
            "backward_passes": backward,
        }


if __name__ == "__main__":
    main()
