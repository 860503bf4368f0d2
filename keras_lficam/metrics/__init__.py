"""Metrics of heat maps: one value per image, the caller averages."""

from keras_lficam.metrics.localization import (
    box_masks,
    energy_pointing_game,
    pointing_game,
)

__all__ = ["box_masks", "energy_pointing_game", "pointing_game"]
