"""Renders what five models of each architecture look at.

Writes docs/images/evidence_maps.jpg.

    python benchmarks/evidence/picture.py

The models are those of the study of stability, trained in five ways; those
whose models are not here are trained first. The images are the first test
images, whatever the models make of them.
"""

import pathlib

import numpy as np
import protocol
import stability
import train

from keras_lficam import visualization

OUTPUT = pathlib.Path(__file__).parents[2] / "docs/images/evidence_maps.jpg"
# Contender and explainer of each.
KINDS = {
    "LFI-CAM": ("bottleneck", "AttentionMap"),
    "ABN": ("abn", "AttentionMap"),
    "plain model, Grad-CAM": ("plain", "GradCAM"),
}
NUM_IMAGES = 2


def main():
    study = protocol.parser(__doc__).parse_args().protocol
    explainers = dict(KINDS.values())
    models = [
        model
        for model in study.trainings("stability")
        if model.contender in explainers
    ]
    train.train_missing(study, models)
    images = study.images(models[0], "test")[0][:NUM_IMAGES]
    columns = {}
    for setting in dict.fromkeys(model.setting for model in models):
        of = {
            model.contender: model
            for model in models
            if model.setting == setting
        }
        maps = [
            stability.maps_of(study, of[contender], explainer)[:NUM_IMAGES]
            for contender, explainer in KINDS.values()
        ]
        # The kinds of an image are below each other.
        columns[setting.replace("_", " ")] = np.concatenate(
            np.stack(maps, axis=1)
        )
    figure = visualization.comparison_grid(
        np.repeat(images, len(KINDS), axis=0),
        columns,
        titles=list(KINDS) * NUM_IMAGES,
    )
    figure.savefig(OUTPUT, dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
