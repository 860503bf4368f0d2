"""Draws what five nets of a kind look at: docs/images/evidence_maps.jpg.

    python benchmarks/evidence/picture.py

The nets are those of the study of stability, trained in five ways; those whose
models are not here are trained first. The pictures are the first test pictures,
whatever the nets make of them.
"""

import pathlib

import protocol
import stability
import train
from matplotlib import pyplot as plt

from keras_lficam import visualization

OUTPUT = pathlib.Path(__file__).parents[2] / "docs/images/evidence_maps.jpg"
KINDS = {
    "LFI-CAM": ("bottleneck", "AttentionMap"),
    "ABN": ("abn", "AttentionMap"),
    "plain net,\nGrad-CAM": ("plain", "GradCAM"),
}
PICTURES = range(2)


def main():
    study = protocol.parser(__doc__).parse_args().protocol
    nets = {
        name: [
            net
            for net in study.trainings("stability")
            if net.contender == contender
        ]
        for name, (contender, _) in KINDS.items()
    }
    train.train_missing(
        study, [net for group in nets.values() for net in group]
    )
    (one, *_), *_ = nets.values()
    images, _ = next(iter(study.batches(one, "test").as_numpy_iterator()))
    images = images[PICTURES].astype("float32")
    columns = len(nets["ABN"]) + 1
    figure, grid = plt.subplots(
        len(images) * len(KINDS),
        columns,
        figsize=(columns * 1.15, len(images) * len(KINDS) * 1.15),
        layout="constrained",
    )
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    rows = iter(grid)
    for number, image in enumerate(images):
        for name, (_, explainer) in KINDS.items():
            first, *others = next(rows)
            first.set_ylabel(name, fontsize=8)
            first.imshow(image.astype("uint8"))
            for axes, net in zip(others, nets[name], strict=True):
                maps = stability.maps_of(study, net, explainer)[[number]]
                axes.imshow(visualization.overlay(image[None], maps)[0])
                if axes in grid[0]:
                    axes.set_title(net.setting.replace("_", " "), fontsize=8)
    figure.savefig(OUTPUT, dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
