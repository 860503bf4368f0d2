"""Model surgery: graphs are copied, split and changed; models stay."""

from keras_lficam.surgery._cloning import (
    PUBLIC_NAMES,
    as_rgb,
    check_graph,
    check_images,
    check_one,
    clone,
    copied,
    copy_weights,
    is_graph,
    is_plain,
)
from keras_lficam.surgery._reading import (
    activation_of,
    has_space,
    last_activation,
)
from keras_lficam.surgery._splitting import (
    Split,
    cut,
    dropout_of,
    flat,
    new_head,
    rebuilt,
    seen_image,
    split_classifier,
    with_dropout,
    without_activation,
)
from keras_lficam.surgery._strides import at_stride_one, last_stage

__all__ = [
    "PUBLIC_NAMES",
    "Split",
    "activation_of",
    "as_rgb",
    "at_stride_one",
    "check_graph",
    "check_images",
    "check_one",
    "clone",
    "copied",
    "copy_weights",
    "cut",
    "dropout_of",
    "flat",
    "has_space",
    "is_graph",
    "is_plain",
    "last_activation",
    "last_stage",
    "new_head",
    "rebuilt",
    "seen_image",
    "split_classifier",
    "with_dropout",
    "without_activation",
]
