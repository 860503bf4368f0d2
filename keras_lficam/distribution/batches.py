"""Shares out batches among replicas, in training and in evaluation."""

import math
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_lficam._checks import check_integer
from keras_lficam.distribution._checks import check_strategy


def distribute(
    strategy: tf.distribute.Strategy | None,
    batches: Callable[[int, int], tf.data.Dataset],
    batch_size: int,
) -> Any:
    """Shares out batches so that all replicas together have those of one.

    Args:
        strategy: The strategy; None on another backend than TensorFlow, where
            Keras shares out each batch itself.
        batches: Function of the number of a worker and of how many there are
            that makes the batches of its part, as `Source.stream` does with
            `shard`.
        batch_size: Size of the batches of all workers together.

    Returns:
        Data set for `model.fit`, which needs `steps_per_epoch` with it.

    Raises:
        ValueError: If the replicas do not divide the batch size.
        TypeError: If an argument is of the wrong type.

    Examples:
        data = keras_lficam.distribution.distribute(
            strategy,
            lambda worker, workers: source.stream(
                "train",
                image_size=(32, 32),
                batch_size=8,
                shard=(worker, workers),
            ),
            batch_size=8,
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(data, steps_per_epoch=10, shuffle=False)
    """
    if strategy is not None:
        check_strategy(strategy)
    if not callable(batches):
        raise TypeError(
            "Argument `batches` must be a function of the number of a worker "
            f"and of how many there are. Received: batches={batches!r:.80} of "
            f"type {type(batches).__name__}"
        )
    check_integer("batch_size", batch_size, least=1)
    replicas = (
        strategy.num_replicas_in_sync
        if strategy is not None
        else _devices(keras.distribution.distribution())
    )
    if batch_size % replicas:
        raise ValueError(
            "Argument `batch_size` is that of all replicas together and must "
            f"be a multiple of their number, {replicas}. Received: "
            f"batch_size={batch_size}. To fix this: "
            f"{replicas * max(1, round(batch_size / replicas))}."
        )
    if strategy is None or (
        strategy.cluster_resolver is None and replicas == 1
    ):
        return batches(0, 1)

    def worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        # Each replica of a worker takes the next element of what it gets.
        return batches(
            context.input_pipeline_id, context.num_input_pipelines
        ).rebatch(batch_size // replicas, drop_remainder=True)

    return strategy.distribute_datasets_from_function(worker)


def for_evaluation(
    strategy: tf.distribute.Strategy,
    dataset: tf.data.Dataset,
    count: int,
    batch_size: int,
) -> tf.data.Dataset:
    """Lets replicas share out the batches of an evaluation.

    TensorFlow would share out files where it finds files, which are not of one
    size. Of a last batch with fewer images than replicas some get none, which
    is fine but for convolutions on a CPU: those of oneDNN give an empty batch
    the shape of their input, and TensorFlow fails.

    Args:
        strategy: The strategy.
        dataset: Batches, the same on each worker.
        count: Images in all batches together.
        batch_size: Size of the batches.

    Returns:
        Data set for `model.evaluate`, `model.predict`, or the
        `validation_data` of `model.fit`.

    Raises:
        ValueError: If a CPU would get an empty batch while TensorFlow uses
            oneDNN, or a number is too low.
        TypeError: If an argument is of the wrong type.

    Examples:
        batches = keras_lficam.distribution.for_evaluation(
            strategy,
            source.batches("validation", image_size=(32, 32), batch_size=8),
            source.count("validation"),
            batch_size=8,
        )
    """
    check_strategy(strategy, "num_replicas_in_sync")
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            "Argument `dataset` must be a tf.data.Dataset of batches. "
            f"Received: an object of type {type(dataset).__name__}"
        )
    check_integer("count", count, least=0)
    check_integer("batch_size", batch_size, least=1)
    replicas = strategy.num_replicas_in_sync
    share = math.ceil(batch_size / replicas)
    last = count % batch_size or batch_size
    on_cpu = not tf.config.list_logical_devices("GPU")
    with_onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0"
    if on_cpu and with_onednn and last <= share * (replicas - 1):
        raise ValueError(
            f"{count} images in batches of {batch_size} leave a last batch of "
            f"{last}, of which one of the {replicas} replicas gets none, and "
            "on a CPU TensorFlow's oneDNN fails with an empty batch. To fix "
            "this: set the environment variable TF_ENABLE_ONEDNN_OPTS=0, or "
            "take another batch size."
        )
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options)


def evaluation_batch_size(batch_size: int, count: int) -> int:
    """Finds a batch size that devices of the JAX backend can evaluate with.

    Args:
        batch_size: The size asked for.
        count: Number of images.

    Returns:
        The same if `keras.distribution` has one device, or the devices divide
        all batches; else one more, so that each device computes them whole.

    Raises:
        ValueError: If a number is too low.
        TypeError: If a number is no integer.

    Examples:
        keras_lficam.distribution.evaluation_batch_size(32, count=100)
    """
    check_integer("batch_size", batch_size, least=1)
    check_integer("count", count, least=0)
    devices = _devices(keras.distribution.distribution())
    uneven = batch_size % devices == 0 and count % devices != 0
    return batch_size + 1 if uneven else batch_size


def _devices(distribution: Any) -> int:
    """Counts the devices that a batch is shared among under Keras's own."""
    if distribution is None:
        return 1
    return math.prod(distribution.device_mesh.shape)
