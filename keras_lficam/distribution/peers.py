"""Workers that are gone, or about to do different things."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lficam.distribution._checks import check_strategy, check_told

_LOST_PEER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.DeadlineExceededError,
)
# What TensorFlow's collectives and their coordination service say of a peer.
_LOST_PEER_WORDS = (
    "collective ops is aborted",
    "heartbeat",
    "connection reset by peer",
    "failed to connect to",
    "coordination service",
)


def check_agreement(
    strategy: tf.distribute.Strategy | None, about: Mapping[str, Any]
) -> None:
    """Refuses to train where the workers are about to do different things.

    Args:
        strategy: The strategy; all its workers call this together.
        about: What must be equal on each, by its name; anything that JSON
            holds. The names are the same everywhere.

    Returns:
        Nothing.

    Raises:
        ValueError: If a worker differs, on every one of them.
        TypeError: If an argument is of the wrong type.

    Examples:
        strategy = tf.distribute.get_strategy()
        keras_lficam.distribution.check_agreement(strategy, {"seed": 0})
    """
    if strategy is not None:
        check_strategy(strategy)
    check_told("about", about)
    if strategy is None or strategy.cluster_resolver is None:
        return
    digests = [
        hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:4]
        for value in about.values()
    ]
    mine = np.frombuffer(b"".join(digests), "int32")[np.newaxis]

    def gathered() -> Any:
        context = tf.distribute.get_replica_context()
        return context.all_gather(tf.constant(mine), axis=0)

    every = strategy.experimental_local_results(
        strategy.run(tf.function(gathered))
    )[0]
    for name, values in zip(about, every.numpy().T, strict=True):
        if len(set(values.tolist())) > 1:
            others = [n for n, v in enumerate(values) if v != values[0]]
            raise ValueError(
                f"The workers differ in {name}: replicas {others} from replica "
                f"0. This one has {about[name]!r}. To fix this: start all with "
                "the same options, data, folder and versions."
            )


def first_value(strategy: tf.distribute.Strategy | None, value: float) -> float:
    """Gives all workers the number of the first.

    Args:
        strategy: The strategy; all its workers call this together.
        value: The number, which may differ by what processors round.

    Returns:
        That of the first worker; of one worker its own.

    Examples:
        keras_lficam.distribution.peers.first_value(None, 0.5)
    """
    if strategy is None or strategy.cluster_resolver is None:
        return value

    def gathered() -> Any:
        context = tf.distribute.get_replica_context()
        own = tf.constant([value], "float64")
        return context.all_gather(own, axis=0)

    every = strategy.experimental_local_results(
        strategy.run(tf.function(gathered))
    )[0]
    return float(every.numpy()[0])


def is_lost_peer(error: BaseException) -> bool:
    """Tells whether an error means that another worker is gone.

    Args:
        error: What came out of `fit`.

    Returns:
        Whether it does. All workers must be started again then.

    Raises:
        TypeError: If it is no exception.

    Examples:
        keras_lficam.distribution.is_lost_peer(ValueError("something else"))
    """
    if not isinstance(error, BaseException):
        raise TypeError(
            "Argument `error` must be an exception. Received: "
            f"error={error!r:.80} of type {type(error).__name__}"
        )
    words = str(error).lower()
    return isinstance(error, _LOST_PEER) and any(
        word in words for word in _LOST_PEER_WORDS
    )
