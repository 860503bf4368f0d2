"""LFI-CAM for Keras: a classifier that shows what it looked at.

A model made by `build` is an ordinary `keras.Model`. One forward pass gives
the class and the heat map that helped to decide it.

    model = keras_lficam.build("DenseNet121", classes=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, labels)
    maps = keras_lficam.explainers.AttentionMap(model)(images)

Reference:
    Lee et al., "LFI-CAM: Learning Feature Importance for Better Visual
    Explanation", ICCV 2021, https://arxiv.org/abs/2105.00937.
"""

import importlib
import pathlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_lficam import (
        architectures,
        backbones,
        comparison,
        data,
        distribution,
        evaluation,
        explainers,
        explanation,
        functional,
        layers,
        metrics,
        pretrained,
        serving,
        training,
        visualization,
    )
    from keras_lficam.architectures import attach, attention_view, build
    from keras_lficam.layers import (
        AttentionMechanism,
        FeatureImportanceNetwork,
    )
    from keras_lficam.serving.exporting import export
    from keras_lficam.training import Recipe, fit

__version__ = "0.1.0"

__all__ = [
    "AttentionMechanism",
    "FeatureImportanceNetwork",
    "Recipe",
    "__version__",
    "architectures",
    "attach",
    "attention_view",
    "backbones",
    "build",
    "comparison",
    "data",
    "distribution",
    "evaluation",
    "explainers",
    "explanation",
    "export",
    "fit",
    "functional",
    "layers",
    "metrics",
    "pretrained",
    "serving",
    "training",
    "visualization",
]

_HOMES = {
    "AttentionMechanism": "layers",
    "FeatureImportanceNetwork": "layers",
    "Recipe": "training",
    "attach": "architectures",
    "attention_view": "architectures",
    "build": "architectures",
    "export": "serving",
    "fit": "training",
}


def __getattr__(name):
    """Imports a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    return getattr(module, name) if name in _HOMES else module


def __dir__():
    return sorted(__all__)


def _is_the_command():
    """Whether this process is `keras-lficam` or `python -m keras_lficam`."""
    if sys.argv[0] == "-m":  # So it is while a package is being found.
        words = sys.orig_argv
        return words[words.index("-m") + 1 :][:1] == [__name__]
    return pathlib.Path(sys.argv[0]).name == "keras-lficam"


# Keras can load a saved model only if its layers are registered, and that is
# done by importing them. The command does it later: it checks its arguments
# first, without the seconds that TensorFlow takes to start.
if not _is_the_command():
    importlib.import_module(f"{__name__}.architectures")
