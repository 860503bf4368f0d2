"""Trains any Keras model on several devices and machines by `model.fit`.

    strategy = keras_lficam.distribution.strategy("auto")
    with strategy.scope():
        model = ...
    model.compile(...)
    model.fit(...)

The engines are TensorFlow's `tf.distribute` and, on the JAX backend, Keras's
`DataParallel`. What is here chooses one and mends what Keras gets wrong.
"""

import hashlib
import json
import math
import numbers
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lficam import _cluster
from keras_lficam._checks import check_boolean, check_mapping

_LONGEST_WAIT = 10**8  # Seconds, three years.
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


class _Reductions:
    """Answers what Keras 3 asks of a strategy and TensorFlow's cannot."""

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

    def _own(self, value):
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
        _check_told("agree_on", agree_on)
    _check_wait(wait)
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "`strategy` needs Keras on TensorFlow. Received: Keras on "
            f"{keras.backend.backend()}. On jax, `DataParallel` takes all "
            "devices."
        )
    workers = _workers()
    if name == "multi_worker" and workers == 0:
        raise ValueError(
            "Argument `name='multi_worker'` needs the environment variable "
            "TF_CONFIG with all workers, or to be started by Slurm's srun. "
            "Received: neither. For the GPUs of one machine use 'mirrored'."
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
        if data_shape[0] % _devices(self):
            axes = [None] * len(data_shape)
            return keras.distribution.TensorLayout(axes, self.device_mesh)
        return layout


def evaluation_batch_size(batch_size: int, count: int) -> int:
    """Finds a batch size that devices of the JAX backend can evaluate with.

    Args:
        batch_size: The size asked for.
        count: Number of images.

    Returns:
        The same if `keras.distribution` has one device, or the devices divide
        all batches; else one more, so that each device computes them whole.

    Raises:
        ValueError: If a number is none, or too low.

    Examples:
        keras_lficam.distribution.evaluation_batch_size(32, count=100)
    """
    _check_integer("batch_size", batch_size, 1)
    _check_integer("count", count, 0)
    devices = _devices(keras.distribution.distribution())
    uneven = batch_size % devices == 0 and count % devices != 0
    return batch_size + 1 if uneven else batch_size


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
    _check_strategy(strategy)
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type in (None, "", "chief"):
        return True
    jobs = resolver.cluster_spec().as_dict()
    return "chief" not in jobs and resolver.task_id == 0


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
        _check_strategy(strategy)
    _check_told("about", about)
    if strategy is None or strategy.cluster_resolver is None:
        return
    digests = [
        hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:4]
        for value in about.values()
    ]
    mine = np.frombuffer(b"".join(digests), "int32")[np.newaxis]

    @tf.function
    def gathered():
        context = tf.distribute.get_replica_context()
        return context.all_gather(tf.constant(mine), axis=0)

    every = strategy.experimental_local_results(strategy.run(gathered))[0]
    for name, values in zip(about, every.numpy().T, strict=True):
        if len(set(values.tolist())) > 1:
            others = [n for n, v in enumerate(values) if v != values[0]]
            raise ValueError(
                f"The workers differ in {name}: replicas {others} from replica "
                f"0. This one has {about[name]!r}. To fix this: start all with "
                "the same options, data, folder and versions."
            )


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
        model.fit(data, steps_per_epoch=10)
    """
    if strategy is not None:
        _check_strategy(strategy)
    if not callable(batches):
        raise TypeError(
            "Argument `batches` must be a function of the number of a worker "
            f"and of how many there are. Received: batches={batches!r:.80} of "
            f"type {type(batches).__name__}"
        )
    _check_integer("batch_size", batch_size, 1)
    replicas = (
        strategy.num_replicas_in_sync
        if strategy is not None
        else _devices(keras.distribution.distribution())
    )
    if batch_size % replicas:
        raise ValueError(
            "Argument `batch_size` is that of all replicas together and must "
            f"be a multiple of their number, {replicas}. Received: "
            f"batch_size={batch_size}. Way out: "
            f"{replicas * max(1, round(batch_size / replicas))}."
        )
    if strategy is None or (
        strategy.cluster_resolver is None and replicas == 1
    ):
        return batches(0, 1)

    def worker(context):
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
            oneDNN, or a number is none, or too low.
        TypeError: If an argument is of the wrong type.

    Examples:
        batches = keras_lficam.distribution.for_evaluation(
            strategy,
            source.batches("validation", image_size=(32, 32), batch_size=8),
            source.count("validation"),
            batch_size=8,
        )
    """
    _check_strategy(strategy, "num_replicas_in_sync")
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            "Argument `dataset` must be a tf.data.Dataset of batches. "
            f"Received: an object of type {type(dataset).__name__}"
        )
    _check_integer("count", count, 0)
    _check_integer("batch_size", batch_size, 1)
    replicas = strategy.num_replicas_in_sync
    share = math.ceil(batch_size / replicas)
    last = count % batch_size or batch_size
    on_cpu = not tf.config.list_logical_devices("GPU")
    with_onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0"
    if on_cpu and with_onednn and last <= share * (replicas - 1):
        raise ValueError(
            f"{count} images in batches of {batch_size} leave a last batch of "
            f"{last}, of which one of the {replicas} replicas gets none, and "
            "on a CPU TensorFlow's oneDNN fails with an empty batch. Way out: "
            "set the environment variable TF_ENABLE_ONEDNN_OPTS=0, or take "
            "another batch size."
        )
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options)


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


def _check_strategy(strategy, asked="cluster_resolver"):
    # By what is asked of it, as strategies of others are no subclasses.
    if not hasattr(strategy, asked):
        raise TypeError(
            "Argument `strategy` must be a tf.distribute.Strategy. Received: "
            f"strategy={strategy!r:.80} of type {type(strategy).__name__}. To "
            "fix this: keras_lficam.distribution.strategy()"
        )


def _check_integer(name, value, least):
    if (
        not isinstance(value, numbers.Integral)
        or isinstance(value, bool)
        or value < least
    ):
        raise ValueError(
            f"Argument `{name}` must be an integer of at least {least}. "
            f"Received: {name}={value!r:.80}"
        )


def _check_wait(seconds):
    if (
        not isinstance(seconds, numbers.Real)
        or isinstance(seconds, bool)
        or not 0 <= seconds <= _LONGEST_WAIT
    ):
        raise ValueError(
            "Argument `wait` must be a number of seconds from 0 to "
            f"{_LONGEST_WAIT:,}. Received: wait={seconds!r:.80}"
        )


def _check_told(name, about):
    """Refuses what workers cannot tell one another."""
    check_mapping(name, about)
    try:
        json.dumps([*about.items()], sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"Argument `{name}` must hold what JSON holds: text, numbers, "
            f"lists and dictionaries. Received: {error}. To fix this: give "
            "their `str` or a digest."
        ) from None
    if not all(isinstance(key, str) for key in about):
        raise TypeError(
            f"Argument `{name}` must have strings as its names. Received: "
            f"{[*about]!r:.80}"
        )


def _devices(distribution):
    """Counts the devices that a batch is shared among under Keras's own."""
    if distribution is None:
        return 1
    return math.prod(distribution.device_mesh.shape)


def _workers():
    """Counts the processes that are to train together; 0 if none are named."""
    if "TF_CONFIG" in os.environ:
        return len(_cluster.read(os.environ["TF_CONFIG"]).names)
    if "SLURM_PROCID" in os.environ:
        return _cluster.count_of_slurm(os.environ)
    return 0


def _cluster_of(resolver):
    """Names the workers that meet."""
    if resolver is None:
        return _cluster.read(os.environ["TF_CONFIG"])
    addresses = resolver.cluster_spec().as_dict()["worker"]
    names = [f"worker {number}" for number in range(len(addresses))]
    return _cluster.Cluster(names, addresses, resolver.task_id)


def _slurm():
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
