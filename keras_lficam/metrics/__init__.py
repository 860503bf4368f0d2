"""Metrics of heat maps: one value per image, the caller averages.

Localization asks a mask of the object, faithfulness the model, stability the
map of another model, and sanity that of a model that has learned nothing.
Beside them `classification` measures the classifier itself, with one value
per data set.
"""

from keras_lficam.metrics import classification
from keras_lficam.metrics.faithfulness import (
    average_drop,
    deletion_auc,
    deletion_curve,
    increase_in_confidence,
    insertion_auc,
    insertion_curve,
    single_deletion,
    symmetric_relevance_gain,
)
from keras_lficam.metrics.localization import (
    box_accuracy,
    box_masks,
    energy_pointing_game,
    localization_iou,
    max_box_accuracy,
    pointing_game,
)
from keras_lficam.metrics.sanity import randomized, rank_correlation
from keras_lficam.metrics.stability import map_iou

__all__ = [
    "average_drop",
    "box_accuracy",
    "box_masks",
    "classification",
    "deletion_auc",
    "deletion_curve",
    "energy_pointing_game",
    "increase_in_confidence",
    "insertion_auc",
    "insertion_curve",
    "localization_iou",
    "map_iou",
    "max_box_accuracy",
    "pointing_game",
    "randomized",
    "rank_correlation",
    "single_deletion",
    "symmetric_relevance_gain",
]
