"""Shows heat maps: overlays as pixels, grids and plots as figures."""

from keras_lficam.visualization.evidence import (
    SIGNED_COLORMAP,
    SIGNED_OPACITY,
    evidence_grid,
    signed_overlay,
)
from keras_lficam.visualization.grids import (
    comparison_grid,
    grid,
    prediction_titles,
)
from keras_lficam.visualization.overlays import COLORMAP, OPACITY, overlay
from keras_lficam.visualization.plots import quality_against_time

__all__ = [
    "COLORMAP",
    "OPACITY",
    "SIGNED_COLORMAP",
    "SIGNED_OPACITY",
    "comparison_grid",
    "evidence_grid",
    "grid",
    "overlay",
    "prediction_titles",
    "quality_against_time",
    "signed_overlay",
]
