"""A read-only view of anybody's classifier: features, scores, locations."""

from keras_lficam.classifier._compiled import (
    CompiledFunction,
    grouped_gradients_explained,
    holding,
)
from keras_lficam.classifier._evidence import Evidence
from keras_lficam.classifier._exact import ExactEvidence
from keras_lficam.classifier._geometry import Geometry
from keras_lficam.classifier._predictions import predictions_of
from keras_lficam.classifier._split import Halves, SplitFunctions
from keras_lficam.classifier._view import (
    Classifier,
    Output,
    training_activation,
)

__all__ = [
    "Classifier",
    "CompiledFunction",
    "SplitFunctions",
    "Evidence",
    "ExactEvidence",
    "Geometry",
    "Halves",
    "Output",
    "grouped_gradients_explained",
    "holding",
    "predictions_of",
    "training_activation",
]
