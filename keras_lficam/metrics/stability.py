"""Do two models show the same? Metrics of two maps of one image."""

import numpy as np

from keras_lficam.functional import Tensor
from keras_lficam.metrics import _checks
from keras_lficam.metrics._direction import higher_is_better


@higher_is_better
def map_iou(
    maps: Tensor, other_maps: Tensor, *, threshold: float = 100 / 255
) -> np.ndarray:
    """Measures how far the bright regions of two maps overlap.

    The regions are the pixels that reach `threshold` after each map has been
    min-max normalized. It is the ordinary intersection over union: pixels
    that are bright in both maps, divided by pixels that are bright in either.
    The stability of a method is its mean over images and over pairs of models.

    Args:
        maps: Heat maps `(B, H, W, 1)` of one model.
        other_maps: Heat maps `(B, H, W, 1)` of another for the same images.
        threshold: Share of the span of a map that its bright region reaches,
            in (0, 1].

    Returns:
        Array `(B,)`, float32, in [0, 1]; 1 where the regions are the same.
        Higher is better. A constant map has no bright region: with it the
        value is 0, even if both are constant, so that maps that show nothing
        do not pass for stable ones.

    Raises:
        TypeError: If the maps hold no real numbers.
        ValueError: If the shapes differ, or are not `(B, H, W, 1)`, or a
            value is not finite, or `threshold` not in its range.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937, whose threshold is
        the default. Their release takes the mean over the rows of pixels and
        counts a row without bright pixels as 1, which gives two disjoint
        boxes a high value; here they have 0.

    Examples:
        >>> maps = np.array([[0.0, 1.0, 1.0, 0.0]]).reshape(1, 1, 4, 1)
        >>> other_maps = np.array([[0.0, 0.0, 1.0, 1.0]]).reshape(1, 1, 4, 1)
        >>> map_iou(maps, other_maps)
        # [0.33333333]
    """
    _checks.check_thresholds("threshold", [threshold])
    pair = _checks.map_arrays(maps, other_maps, other_name="other_maps")
    one, other = (
        _checks.min_max_normalized(each) >= threshold for each in pair
    )
    shared = (one & other).sum(axis=(1, 2, 3))
    either = (one | other).sum(axis=(1, 2, 3))
    ious: np.ndarray = shared / np.maximum(either, 1)
    return ious.astype("float32")
