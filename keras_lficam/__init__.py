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
import sys
from typing import TYPE_CHECKING

import lazy_loader

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

# A type checker must not take unknown names for anything.
if not TYPE_CHECKING:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submodules=[
            "architectures",
            "backbones",
            "comparison",
            "data",
            "distribution",
            "evaluation",
            "explainers",
            "explanation",
            "functional",
            "layers",
            "metrics",
            "pretrained",
            "serving",
            "training",
            "visualization",
        ],
        submod_attrs={
            "architectures": ["attach", "attention_view", "build"],
            "layers": ["AttentionMechanism", "FeatureImportanceNetwork"],
            "serving.exporting": ["export"],
            "training": ["Recipe", "fit"],
        },
    )

# Keras can load a saved model only if its layers are registered, and that is
# done by importing them. The command does it after it checked its arguments.
if "keras_lficam_command" not in sys.modules:
    importlib.import_module("keras_lficam.architectures")
