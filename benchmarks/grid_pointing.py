"""Which explainer finds the image of the class that it is asked about?

    python benchmarks/grid_pointing.py     # some minutes; grid_pointing.csv
    python benchmarks/grid_pointing.py CAM # a few explainers

The grid pointing game (GridPG): mosaics of 2x2 test images of the data set
`digits_in_photos`, of four classes, each of which the shipped model recognizes
with a probability of at least 0.9. One of the four classes is explained; the
score is the share of the map's heat in its cell, by chance 0.25. Beside it, on
the first of the same mosaics, the rank correlation of `single_deletion`.

A mosaic has 128x128 pixels. The model, which takes 64x64, is rebuilt for that
size with the same weights. Its seeds are those by which mosaics are chosen;
the model is one. What takes thousands of passes explains fewer mosaics, the
first of each seed. All this was decided before any score was seen, but for the
row `explain`: the signed evidence of `keras_lficam.explain` came later, when
`CAM`, which keeps the signs, had been seen to rank cells best. Of a signed map
the heat is what is positive.
"""

import csv
import pathlib
import sys

from measuring import MACHINE, machine, write

TABLE = pathlib.Path(__file__).with_suffix(".csv")
SEEDS = range(5)
NUM_IMAGES = 2000
LEAST_PROBABILITY = 0.9
# Mosaics of a seed for each explainer, in the order in which they run.
MOSAICS = {
    "AttentionMap": 120,
    "CAM": 120,
    "ClassEvidence": 120,
    "explain": 120,
    "GradCAM": 120,
    "GradCAMPlusPlus": 120,
    "HiResCAM": 120,
    "LayerCAM": 120,
    "ReciproCAM": 120,
    "ScoreCAM": 24,
    "LIME": 4,
    "RISE": 2,
}
DELETED = 24
COLUMNS = [
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


def model_of_mosaics(model):
    """The shipped model with the same weights, for images of twice the size.

    It is built as by `saved_models/train.py`; no weight depends on the size.
    """
    import keras_lficam
    from keras_lficam.backbones import cifar

    _, height, width, channels = model.input_shape
    larger = keras_lficam.build(
        cifar.resnet(8, stem_stride=2),
        model.output_shape[-1],
        input_shape=(2 * height, 2 * width, channels),
        output_stride=4,
    )
    larger.set_weights(model.get_weights())
    return larger


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
    from keras_lficam.cli._models import start_keras

    start_keras()  # It asks for oneDNN, as the command does.
    import keras
    import numpy as np

    from keras_lficam import metrics, pretrained
    from keras_lficam.data import digits_in_photos

    examples = [
        digits_in_photos.compose("test", number) for number in range(NUM_IMAGES)
    ]
    images = np.stack([each["image"] for each in examples]).astype("float32")
    labels = np.array([each["label"] for each in examples])
    path = pretrained.digits_in_photos()
    small = keras.models.load_model(path, compile=False)
    model = model_of_mosaics(small)
    probabilities = small.predict(images, verbose=0)
    columns = machine(keras.backend.backend())
    names = sys.argv[1:] or list(MOSAICS)
    rows = []
    if TABLE.exists():
        with TABLE.open() as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if row["explainer"] not in names
            ]
    for name in names:
        count = MOSAICS[name]
        explain, (forward, backward) = explainer_of(name, model)
        for seed in SEEDS:
            # Of fewer mosaics the first are the same.
            numbers, cells = chosen(probabilities, labels, 120, seed)
            numbers, cells = numbers[:count], cells[:count]
            mosaics = mosaics_of(images, numbers)
            asked = labels[numbers[np.arange(count), cells]]
            maps = explain(mosaics, asked)
            found = metrics.energy_pointing_game(
                np.maximum(maps, 0), masks_of(cells, images.shape[1:3])
            )
            deleted = metrics.single_deletion(
                model, mosaics[:DELETED], maps[:DELETED], asked[:DELETED]
            )
            rows.append(
                {
                    "explainer": name,
                    "seed": seed,
                    "mosaics": count,
                    "grid_pointing": f"{found.mean():.4f}",
                    "mosaics_deleted": len(deleted),
                    "single_deletion": f"{deleted.mean():.4f}",
                    "forward_passes": forward,
                    "backward_passes": backward,
                }
                | columns
            )
            rows.sort(key=lambda row: list(MOSAICS).index(row["explainer"]))
            write(TABLE, COLUMNS, rows)
            print(name, seed, f"{found.mean():.4f}", flush=True)


if __name__ == "__main__":
    main()
