"""Trains any Keras model on several devices and machines by `model.fit`.

    strategy = keras_lficam.distribution.strategy("auto")
    with strategy.scope():
        model = ...
    model.compile(...)
    model.fit(...)

The names are imported when they are used: the command reads TF_CONFIG before
TensorFlow starts.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from keras_lficam.distribution.batches import (
        distribute,
        evaluation_batch_size,
        for_evaluation,
    )
    from keras_lficam.distribution.peers import check_agreement, is_lost_peer
    from keras_lficam.distribution.strategies import (
        DataParallel,
        MultiWorkerMirroredStrategy,
        is_chief,
        strategy,
        synchronize_batch_normalization,
    )

__all__ = [
    "DataParallel",
    "MultiWorkerMirroredStrategy",
    "check_agreement",
    "distribute",
    "evaluation_batch_size",
    "for_evaluation",
    "is_chief",
    "is_lost_peer",
    "strategy",
    "synchronize_batch_normalization",
]

# A type checker must not take unknown names for anything.
if not TYPE_CHECKING:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "batches": [
                "distribute",
                "evaluation_batch_size",
                "for_evaluation",
            ],
            "peers": ["check_agreement", "is_lost_peer"],
            "strategies": [
                "DataParallel",
                "MultiWorkerMirroredStrategy",
                "is_chief",
                "strategy",
                "synchronize_batch_normalization",
            ],
        },
    )
