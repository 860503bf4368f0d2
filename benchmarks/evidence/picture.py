"""Draws what five nets of a kind look at: docs/images/evidence_maps.jpg.

    python benchmarks/evidence/picture.py

The nets are those of the study of stability, trained in five ways; those whose
models are not here are trained first. The pictures are the first test pictures,
whatever the nets make of them.
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
    "plain net, Grad-CAM": ("plain", "GradCAM"),
}
PICTURES = 2


def main():
    study = protocol.parser(__doc__).parse_args().protocol
    explainers = dict(KINDS.values())
    nets = [
        net
        for net in study.trainings("stability")
        if net.contender in explainers
    ]
    train.train_missing(study, nets)
    images = study.pictures(nets[0], "test")[0][:PICTURES]
    columns = {}
    for setting in dict.fromkeys(net.setting for net in nets):
        of = {net.contender: net for net in nets if net.setting == setting}
        maps = [
            stability.maps_of(study, of[contender], explainer)[:PICTURES]
            for contender, explainer in KINDS.values()
        ]
        # The kinds of a picture are below each other.
        columns[setting.replace("_", " ")] = np.concatenate(
            np.stack(maps, axis=1)
        )
    figure = visualization.comparison_grid(
        np.repeat(images, len(KINDS), axis=0),
        columns,
        titles=list(KINDS) * PICTURES,
    )
    figure.savefig(OUTPUT, dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
