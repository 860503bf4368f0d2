"""Renders docs/images/why.png: evidence of four digits in one image.

    python benchmarks/why.py

The image is a mosaic of the first test images of four classes that the shipped
model is sure of. The model learned from images of one digit each; it is rebuilt
for images of any size, with its weights.
"""

import pathlib

import keras
import numpy as np

import keras_lficam
from keras_lficam import data, pretrained
from keras_lficam.backbones import cifar

FIGURE = pathlib.Path(__file__).parents[1] / "docs/images/why.png"
CLASSES = [3, 7, 0, 5]


def main():
    shipped = keras.models.load_model(pretrained.digits_in_photos())
    model = keras_lficam.build(
        cifar.resnet(8, stem_stride=2),
        10,
        input_shape=(None, None, 3),
        output_stride=4,
    )
    model.set_weights(shipped.get_weights())
    first = {}
    for images, labels in data.load(
        "digits_in_photos", "test", image_size=(64, 64), batch_size=64
    ):
        chances = keras.ops.convert_to_numpy(shipped(images))
        for image, label, chance in zip(images, labels, chances, strict=True):
            if chance[int(label)] > 0.99:
                first.setdefault(int(label), np.asarray(image))
        if first.keys() >= {*CLASSES}:
            break
    cells = [first[label] for label in CLASSES]
    rows = [np.concatenate(cells[:2], 1), np.concatenate(cells[2:], 1)]
    mosaic = np.concatenate(rows).astype("float32")[np.newaxis]
    explanation = keras_lficam.explain(model, mosaic, CLASSES)
    figure = explanation.plot(wrap=3)
    figure.savefig(FIGURE, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
