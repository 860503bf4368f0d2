"""Strategies for several devices and machines.

The engines are TensorFlow's `tf.distribute` and, on the JAX backend, Keras's
`DataParallel`. What is here chooses one and mends what Keras gets wrong.
"""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_lficam._checks import check_boolean
from keras_lficam.distribution import _cluster
from keras_lficam.distribution._checks import (
    check_strategy,
    check_told,
    check_wait,
)


class _Reductions:
    """Answers what Keras 3 asks of a strategy and TensorFlow's cannot."""

    experimental_local_results: Callable[[Any], Any]  # Of the strategy.

    def reduce(
        self, reduce_op: Any, value: Any, axis: int | None = None
    ) -> Any:
        """Reduces a value over all replicas.

        Args:
            reduce_op: `"SUM"` or `"MEAN"`, or a `tf.distribute.ReduceOp`.
            value: Value of each replica, or a structure of such values.
            axis: Axis that is reduced as well, which a scalar does not have.

        Returns:
            The reduced value; of a structure this worker's own.
        """
        if tf.nest.is_nested(value):
            return tf.nest.map_structure(self._own, value)
        if axis is not None and self._own(value).shape.rank == 0:
            axis = None
        return super().reduce(reduce_op, value, axis)  # type: ignore[misc]

    def _own(self, value: Any) -> Any:
        return self.experimental_local_results(value)[0]


class MultiWorkerMirroredStrategy(
    _Reductions, tf.distribute.MultiWorkerMirroredStrategy
):
    """TensorFlow's `MultiWorkerMirroredStrategy`, under which Keras 3 trains.

    With that of TensorFlow, `fit` ends in `Attempt to convert a value
    (PerReplica...) to a Tensor`. Keras asks it for two means that no
    collective can compute:

    - of a batch, which is a structure and may hold anything, before the first
      step. Keras needs but the shapes in it, so that of this worker will do;
    - of a loss or metric over axis 0, after each step. These are scalars,
      which have none, so their mean is taken as they are.

    All other reductions are TensorFlow's.

    Examples:
        strategy = keras_lficam.distribution.MultiWorkerMirroredStrategy()

    Reference:
        https://github.com/keras-team/keras/issues/20585
    """


class _MirroredStrategy(_Reductions, tf.distribute.MirroredStrategy):
    """TensorFlow's, with batches that replicas cannot share evenly.

    Keras asks for the mean of the first batch here, too, and an odd one has
    none: of 5 images one replica gets 3 and the other 2.
    """


def strategy(
    name: str = "auto",
    *,
    agree_on: Mapping[str, Any] | None = None,
    wait: float = 600.0,
) -> tf.distribute.Strategy:
    """Finds the strategy for the devices and machines that there are.

    Models are made in its scope. Several workers each run the same program,
    and all of them must come: until then this waits.

    Args:
        name: `"mirrored"` for all GPUs of this machine, or, where there is
            none, its logical CPU devices; `"multi_worker"` for the machines
            that the environment variable `TF_CONFIG`, or Slurm, names;
            `"auto"` for several machines if several are named, else for all
            GPUs if there are several, else for the one device.
        agree_on: What several workers must have in common, by its name:
            anything that JSON holds, such as the options of the program. They
            meet before TensorFlow connects them, say for whom they wait, and
            compare it. None leaves the waiting to TensorFlow, which waits
            without a word and without an end.
        wait: Seconds after which a worker that met not all others gives up.

    Returns:
        The strategy.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range, `TF_CONFIG` is not as
            TensorFlow wants it, or, with `agree_on`, the port of this worker
            is taken, a worker does not come, one comes twice, or they differ.
        RuntimeError: If Keras runs on another backend than TensorFlow.

    Examples:
        with keras_lficam.distribution.strategy().scope():
            model = keras_lficam.build("ResNet20", 10, input_shape=(32, 32, 3))

    Reference:
        https://www.tensorflow.org/guide/distributed_training, TF_CONFIG.
    """
    if not isinstance(name, str) or name not in (
        "auto",
        "mirrored",
        "multi_worker",
    ):
        raise ValueError(
            "Argument `name` must be 'auto', 'mirrored' or 'multi_worker'. "
            f"Received: name={name!r:.80}"
        )
    if agree_on is not None:
        check_told("agree_on", agree_on)
    check_wait(wait)
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "`strategy` needs Keras on TensorFlow. Received: Keras on "
            f"{keras.backend.backend()}. To fix this: on JAX `DataParallel`, "
            "which takes all devices."
        )
    workers = _workers()
    if name == "multi_worker" and workers == 0:
        raise ValueError(
            "Argument `name` must not be 'multi_worker' without the "
            "environment variable TF_CONFIG, which names all workers, or "
            "Slurm's srun. Received: neither. To fix this: set it; or "
            "'mirrored' for the GPUs of one machine."
        )
    if name == "multi_worker" or (name == "auto" and workers > 1):
        resolver = None if "TF_CONFIG" in os.environ else _slurm()
        if agree_on is not None:
            _cluster.meet(_cluster_of(resolver), agree_on, wait=wait)
        return MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto" and len(gpus) < 2:
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    return _MirroredStrategy([device.name for device in devices])


class DataParallel(keras.distribution.DataParallel):
    """Keras's `DataParallel`, also for batches that devices cannot share.

    Keras fails with a batch whose size the devices do not divide. Here each
    device computes the whole of it, if the first batch is such a one.

    Examples:
        # KERAS_BACKEND=jax
        everything = keras_lficam.distribution.DataParallel()
        keras.distribution.set_distribution(everything)
    """

    def get_data_layout(self, data_shape: tuple[int, ...]) -> Any:
        """Says how a batch is laid out over the devices.

        Args:
            data_shape: Shape `(B, ...)` of the first batch.

        Returns:
            A `keras.distribution.TensorLayout`.
        """
        layout = super().get_data_layout(data_shape)
        if data_shape[0] % math.prod(self.device_mesh.shape):
            axes = [None] * len(data_shape)
            return keras.distribution.TensorLayout(axes, self.device_mesh)
        return layout


def synchronize_batch_normalization(
    model: keras.Model, synchronized: bool = True
) -> int:
    """Lets batch normalization see the batches of all replicas as one.

    Without it each replica normalizes by its own part of the batch, which is
    faster, and another computation than that of one device.

    Args:
        model: Model, in which models may be nested; it is changed.
        synchronized: False to undo it.

    Returns:
        Number of its `BatchNormalization` layers.

    Raises:
        TypeError: If an argument is of the wrong type.

    Examples:
        with strategy.scope():
            model = keras_lficam.build("ResNet20", 10, input_shape=(32, 32, 3))
            keras_lficam.distribution.synchronize_batch_normalization(model)
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a keras.Model. Received: "
            f"model={model!r:.80} of type {type(model).__name__}"
        )
    check_boolean("synchronized", synchronized)
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in layers:
        layer.synchronized = synchronized
    return len(layers)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether this process is the one of its workers that writes.

    Args:
        strategy: The strategy.

    Returns:
        True for the first worker, or the chief if there is one, and for a
        strategy of one process.

    Raises:
        TypeError: If it is no strategy.

    Examples:
        keras_lficam.distribution.is_chief(tf.distribute.get_strategy())
    """
    check_strategy(strategy)
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type in (None, "", "chief"):
        return True
    jobs = resolver.cluster_spec().as_dict()
    return "chief" not in jobs and resolver.task_id == 0


def _workers() -> int:
    """Counts the processes that are to train together; 0 if none are named."""
    if "TF_CONFIG" in os.environ:
        return len(_cluster.read(os.environ["TF_CONFIG"]).names)
    if "SLURM_PROCID" in os.environ:
        return _cluster.count_of_slurm(os.environ)
    return 0


def _cluster_of(resolver: Any) -> _cluster.Cluster:
    """Names the workers that meet."""
    if resolver is None:
        return _cluster.read(os.environ["TF_CONFIG"])
    addresses = resolver.cluster_spec().as_dict()["worker"]
    names = [f"worker {number}" for number in range(len(addresses))]
    return _cluster.Cluster(names, addresses, resolver.task_id)


def _slurm() -> Any:
    """Makes a resolver of what Slurm says, and gives each task its GPUs."""
    resolvers = tf.distribute.cluster_resolver
    cluster = _cluster.read_slurm(os.environ)
    gpus = 0
    if "SLURM_GPUS_PER_TASK" in os.environ:  # Each task sees its own alone.
        gpus = _cluster.slurm_number(os.environ, "SLURM_GPUS_PER_TASK", 0, 1000)
    elif os.environ.get("CUDA_VISIBLE_DEVICES", "-1") != "-1" or shutil.which(
        "nvidia-smi"
    ):
        # It shares out the GPUs of a node among the tasks there.
        shared = resolvers.SlurmClusterResolver()
        if shared.cluster_spec().as_dict()["worker"] == cluster.addresses:
            return shared
        raise ValueError(
            "The environment variable SLURM_GPUS_PER_TASK must say how many "
            "GPUs each task sees, as the names of the nodes are not in the "
            "order of their letters, by which TensorFlow shares GPUs out. "
            "Received: none. To fix this: srun --gpus-per-task."
        )
    return resolvers.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": cluster.addresses}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": gpus} if gpus else None,
        rpc_layer="grpc",
    )
