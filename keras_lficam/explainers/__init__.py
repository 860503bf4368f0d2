"""Explainers: each is called on images and gives a heat map for each."""

from keras_lficam.explainers.activation import AttentionMap
from keras_lficam.explainers.base import Explainer

__all__ = ["AttentionMap", "Explainer"]
