"""Renders docs/images/gallery.jpg and hero.jpg: explanations of photos.

    python benchmarks/gallery.py

The photos are scikit-image's, the model is EfficientNet-Lite0 with weights
from ImageNet. Each photo is resized to 224x224 for the model, and the maps of
7x7 are upsampled to the photo. The model has no LFI-CAM branch, which would
have to be trained: so there is no attention map.
"""

import pathlib

import matplotlib.figure
import numpy as np
import PIL.Image
import skimage.data

import keras_lficam
from keras_lficam import backbones, explainers, functional, visualization

FOLDER = pathlib.Path(__file__).parents[1] / "docs/images"
PHOTOS = ("cat", "coffee", "rocket", "astronaut")
HERO = ("cat", "rocket")
SIDE = 224


def panels(model, name):
    """Yields titles and images of a row."""
    photo = getattr(skimage.data, name)()
    small = PIL.Image.fromarray(photo).resize(
        (SIDE, SIDE), PIL.Image.Resampling.BILINEAR
    )
    images = np.asarray(small, "float32")[np.newaxis]
    photos = photo[np.newaxis]
    explanation = keras_lficam.explain(
        model, images, top=2, class_names=backbones.imagenet_class_names()
    ).over(photos)
    yield "photo", photo
    evidence = explanation.class_evidence
    limit = float(np.abs(evidence).max())
    names = []
    for place, row in enumerate(explanation.rows()):
        names.append(row["class"])
        yield (
            f"for “{row['class']}” ({100 * row['probability']:.0f} %)",
            visualization.signed_overlay(
                photos, evidence[..., place : place + 1], limit=limit
            )[0],
        )
    yield (
        f"“{names[0]}” rather than “{names[1]}”",
        visualization.signed_overlay(photos, explanation.contrast(*names))[0],
    )
    first = int(explanation.top_classes[0, 0])
    heat = explainers.GradCAM(model)(images, first)
    heat = functional.resize(heat, photo.shape[:2])
    yield (
        f"Grad-CAM of “{names[0]}”",
        visualization.overlay(photos, np.asarray(heat).clip(0, 1))[0],
    )


def render(model, names, path):
    rows = [list(panels(model, name)) for name in names]
    heights = [row[0][1].shape[0] / row[0][1].shape[1] for row in rows]
    width, titles = 2.6, 0.25
    figure = matplotlib.figure.Figure(
        (5 * width, sum(width * height + titles for height in heights)),
        layout="constrained",
    )
    axes = figure.subplots(len(rows), 5, height_ratios=heights, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, (title, image) in zip(line, row, strict=True):
            axis.imshow(image)
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    figure.savefig(
        path,
        dpi=110,
        bbox_inches="tight",
        pad_inches=0.05,
        pil_kwargs={"quality": 88},
    )
    print(path, [title for row in rows for title, _ in row])


def main():
    model = keras_lficam.build(
        "EfficientNetLite0",
        1000,
        input_shape=(SIDE, SIDE, 3),
        weights="imagenet",
        architecture="plain",
    )
    render(model, PHOTOS, FOLDER / "gallery.jpg")
    render(model, HERO, FOLDER / "hero.jpg")


if __name__ == "__main__":
    main()
