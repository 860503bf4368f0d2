"""Measures what 8 bits cost an EfficientNet-Lite with weights from ImageNet.

    python benchmarks/efficientnet_lite.py                      # all three
    python benchmarks/efficientnet_lite.py EfficientNetLite0    # some minutes

Exports the plain classifier as LiteRT in 32, 16 and 8 bits, and compares the
answers with those of Keras on 60 crops of scikit-image's cat, coffee and
rocket: the largest difference of a probability, how often the likeliest class
is the same, and Spearman's rank correlation of its class evidence, also where
the likeliest class is another. 8 bits are calibrated with 60 crops of other
photos: scikit-image's astronaut, scikit-learn's china and flower. A crop is a
random square of half to all of the shorter side.
"""

import argparse
import csv
import pathlib
import tempfile

from measuring import MACHINE, machine, write

HERE = pathlib.Path(__file__).parent
TABLE = HERE / "efficientnet_lite.csv"
COLUMNS = [
    "backbone",
    "format",
    "megabytes",
    "probability",
    "same_class",
    "rank_correlation",
    "images",
    "tensorflow",
    *MACHINE,
]
NAMES = ("EfficientNetLite0", "EfficientNetLite1", "EfficientNetLite2")
SIDES = dict(zip(NAMES, (224, 240, 260), strict=True))
FORMATS = ("litert", "litert_float16", "litert_int8")
EACH = 20


def crops(photos, side, seed):
    """Random squares of photos, resized, `(N, side, side, 3)`."""
    import numpy as np
    import PIL.Image

    rng = np.random.default_rng(seed)
    found = []
    for photo in photos:
        height, width = photo.shape[:2]
        for _ in range(EACH):
            length = int(rng.uniform(0.5, 1) * min(height, width))
            top = rng.integers(height - length + 1)
            left = rng.integers(width - length + 1)
            square = photo[top : top + length, left : left + length]
            image = PIL.Image.fromarray(square).resize(
                (side, side), PIL.Image.Resampling.BILINEAR
            )
            found.append(np.asarray(image, "float32"))
    return np.stack(found)


def answers(path, images):
    """What a LiteRT model gives for images, one at a time."""
    import numpy as np
    import tensorflow as tf

    run = tf.lite.Interpreter(str(path)).get_signature_runner()
    parts = [run(images=image[None]) for image in images]
    return {
        key: np.concatenate([part[key] for part in parts]) for key in parts[0]
    }


def measure(name):
    import numpy as np
    import skimage.data
    import sklearn.datasets
    import tensorflow as tf

    import keras_lficam
    from keras_lficam import metrics, serving

    side = SIDES[name]
    known = ("cat", "coffee", "rocket")
    photos = [getattr(skimage.data, photo)() for photo in known]
    others = [
        skimage.data.astronaut(),
        *sklearn.datasets.load_sample_images().images,
    ]
    images = crops(photos, side, 0)
    model = keras_lficam.build(
        name,
        1000,
        input_shape=(side, side, 3),
        weights="imagenet",
        architecture="plain",
    )
    expected = keras_lficam.explain(model, images, top=1)
    probabilities = expected.probabilities
    likeliest = expected.top_classes[:, 0]
    places = np.arange(len(images))
    with tempfile.TemporaryDirectory() as home:
        folder = serving.export(
            model,
            pathlib.Path(home) / name,
            formats=FORMATS,
            top=None,
            calibration=crops(others, side, 1),
        )
        for kind in FORMATS:
            path = folder / f"model{kind.removeprefix('litert')}.tflite"
            found = answers(path, images)
            drawn = found["class_evidence"][places, ..., likeliest]
            same = found["probabilities"].argmax(-1) == likeliest
            correlation = metrics.rank_correlation(
                drawn[..., None], expected.coarse_evidence
            )
            difference = found["probabilities"] - probabilities
            yield {
                "backbone": name,
                "format": kind,
                "megabytes": f"{path.stat().st_size / 1e6:.2f}",
                "probability": f"{np.abs(difference).max():.1e}",
                "same_class": f"{same.mean():.3f}",
                "rank_correlation": f"{np.mean(correlation):.4f}",
                "images": len(images),
                "tensorflow": tf.__version__,
                **machine(),
            }


def read():
    if not TABLE.exists():
        return []
    with TABLE.open() as file:
        return list(csv.DictReader(file))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=NAMES)
    for name in parser.parse_args().names:
        rows = [row for row in read() if row["backbone"] != name]
        for row in measure(name):
            rows.append(row)
            print(*row.values(), sep=", ", flush=True)
        rows.sort(
            key=lambda row: (row["backbone"], FORMATS.index(row["format"]))
        )
        write(TABLE, COLUMNS, rows)


if __name__ == "__main__":
    main()
