"""Explainers times metrics over a data set, in one pass.

Nothing here knows an explainer, a metric or a data set: all three are given,
as functions and as batches.
"""

from keras_lficam.evaluation.callbacks import MapQuality
from keras_lficam.evaluation.metric import Metric
from keras_lficam.evaluation.results import Evaluation, Row
from keras_lficam.evaluation.running import evaluate

__all__ = ["Evaluation", "MapQuality", "Metric", "Row", "evaluate"]
