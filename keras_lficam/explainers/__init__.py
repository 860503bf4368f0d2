"""Explainers: each is called on images and gives a heat map for each."""

from keras_lficam.explainers.activation import CAM, AttentionMap, ScoreCAM
from keras_lficam.explainers.base import Explainer
from keras_lficam.explainers.gradient import (
    GradCAM,
    GradCAMPlusPlus,
    GradientExplainer,
    HiResCAM,
    LayerCAM,
)
from keras_lficam.explainers.perturbation import LIME, RISE

__all__ = [
    "CAM",
    "LIME",
    "RISE",
    "AttentionMap",
    "Explainer",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientExplainer",
    "HiResCAM",
    "LayerCAM",
    "ScoreCAM",
]
