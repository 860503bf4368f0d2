"""Explainers: each is called on images and gives a heat map for each."""

from keras_lficam.explainers.activation import (
    CAM,
    AblationCAM,
    AttentionMap,
    EigenCAM,
    ScoreCAM,
)
from keras_lficam.explainers.attribution import (
    IntegratedGradients,
    SmoothGrad,
)
from keras_lficam.explainers.base import Explainer
from keras_lficam.explainers.combined import RefineCAM
from keras_lficam.explainers.evidence import ClassEvidence, ReciproCAM
from keras_lficam.explainers.gradient import (
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    GradientExplainer,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from keras_lficam.explainers.lime import LIME
from keras_lficam.explainers.occlusion import Occlusion
from keras_lficam.explainers.rise import RISE

# From the one that is part of the model to those that ask it most often; so
# are the columns of tables.
__all__ = [
    "Explainer",
    "GradientExplainer",
    "AttentionMap",
    "EigenCAM",
    "ClassEvidence",
    "CAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "XGradCAM",
    "HiResCAM",
    "LayerCAM",
    "FinerCAM",
    "RefineCAM",
    "AblationCAM",
    "ReciproCAM",
    "IntegratedGradients",
    "SmoothGrad",
    "Occlusion",
    "ScoreCAM",
    "RISE",
    "LIME",
]
