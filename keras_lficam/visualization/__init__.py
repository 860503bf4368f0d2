"""Shows heat maps: overlays as pixels, grids and plots as figures."""

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
    "comparison_grid",
    "grid",
    "overlay",
    "prediction_titles",
    "quality_against_time",
]
