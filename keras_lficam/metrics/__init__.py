"""Metrics of heat maps: one value per image, the caller averages.

Localization asks a mask of the object; faithfulness and removal the model;
sensitivity the explainer, of changed images; stability the map of another
model, and sanity that of a model that has learned nothing; concentration the
map alone. Beside them `classification` measures the classifier itself, with
one value per data set.
"""

from keras_lficam.metrics import classification
from keras_lficam.metrics.concentration import complexity, sparseness
from keras_lficam.metrics.faithfulness import (
    average_drop,
    average_gain,
    deletion_auc,
    deletion_curve,
    increase_in_confidence,
    insertion_auc,
    insertion_curve,
    symmetric_relevance_gain,
)
from keras_lficam.metrics.localization import (
    box_accuracy,
    box_masks,
    energy_pointing_game,
    leak,
    localization_iou,
    max_box_accuracy,
    pointing_game,
    relevance_rank_accuracy,
)
from keras_lficam.metrics.removal import infidelity, road, single_deletion
from keras_lficam.metrics.sanity import (
    randomized,
    randomized_from_top,
    rank_correlation,
)
from keras_lficam.metrics.sensitivity import adcc, max_sensitivity
from keras_lficam.metrics.stability import map_iou

__all__ = [
    "adcc",
    "average_drop",
    "average_gain",
    "box_accuracy",
    "box_masks",
    "classification",
    "complexity",
    "deletion_auc",
    "deletion_curve",
    "energy_pointing_game",
    "increase_in_confidence",
    "infidelity",
    "insertion_auc",
    "insertion_curve",
    "leak",
    "localization_iou",
    "map_iou",
    "max_box_accuracy",
    "max_sensitivity",
    "pointing_game",
    "randomized",
    "randomized_from_top",
    "rank_correlation",
    "relevance_rank_accuracy",
    "road",
    "single_deletion",
    "sparseness",
    "symmetric_relevance_gain",
]
