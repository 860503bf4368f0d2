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
import importlib.util
import sys

import lazy_loader

__version__ = "0.1.0"

# What is public stands in `__init__.pyi`, and is imported when it is used.
__getattr__, __dir__, _public = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_public]

# Keras can load a saved model only if its layers are registered, and that is
# done by importing them. The command does it after it checked its arguments. A
# server of exported models has no Keras.
if "keras_lficam_command" not in sys.modules and importlib.util.find_spec(
    "keras"
):
    importlib.import_module("keras_lficam.architectures")
