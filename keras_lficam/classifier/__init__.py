"""A read-only view of anybody's classifier: features, scores, locations."""

from keras_lficam.classifier._compiled import (
    CompiledFunction,
    grouped_gradients_explained,
    holding,
)
from keras_lficam.classifier._evidence import Evidence
from keras_lficam.classifier._geometry import Geometry
from keras_lficam.classifier._predictions import predictions_of
from keras_lficam.classifier._view import (
    Classifier,
    Output,
    SplitFunctions,
    training_activation,
)

__all__ = [
    "Classifier",
    "CompiledFunction",
    "SplitFunctions",
    "Evidence",
    "Geometry",
    "Output",
    "grouped_gradients_explained",
    "holding",
    "predictions_of",
    "training_activation",
]
