"""Trains classifiers: recipes, runs that can be resumed, maps on the way.

Examples:

    model = keras_lficam.build("ResNet110", 10, input_shape=(32, 32, 3))
    keras_lficam.fit(model, "cifar10", "paper", folder="runs/cifar10")
"""

from keras_lficam.training.callbacks import HeatMaps
from keras_lficam.training.guidance import Guidance, GuidanceLoss
from keras_lficam.training.optimizers import SGDWithL2
from keras_lficam.training.recipes import RECIPES, Recipe, recipe
from keras_lficam.training.running import fit

__all__ = [
    "RECIPES",
    "Guidance",
    "GuidanceLoss",
    "HeatMaps",
    "Recipe",
    "SGDWithL2",
    "fit",
    "recipe",
]
