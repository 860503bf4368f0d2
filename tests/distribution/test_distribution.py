"""Training on several devices and machines equals that on one."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import socket
import textwrap
import time

import distributed_worker
import keras
import numpy as np
import processes
import pytest
import tensorflow as tf

from keras_lficam import distribution
from keras_lficam.distribution import _cluster, strategies

CLUSTER = {"worker": ["one:1", "two:2"]}


# A model without a method `build` has no layers before its first batch.
subclassed = pytest.mark.filterwarnings(
    "ignore:`build..` was called on layer 'subclassed"
)


@pytest.fixture(scope="module")
def one_process():
    return distributed_worker.run(tf.distribute.get_strategy())


def assert_equal(found, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    workers = processes.start_workers(
        lambda index: [
            distributed_worker.__file__,
            "multi_worker:unrepaired",
            folder / f"{index}.npz",
        ]
    )
    for worker in workers:
        processes.finish(worker)
    return [dict(np.load(folder / f"{index}.npz")) for index in range(2)]


@subclassed
@pytest.mark.end_to_end
def test_two_workers_compute_what_one_does(one_process, two_workers):
    guided = distributed_worker.train_guided(tf.distribute.get_strategy())
    for found in two_workers:
        assert found["replicas"] == 2
        assert_equal(found, one_process)
        assert_equal(found, guided)
    assert [bool(found["chief"]) for found in two_workers] == [True, False]


@pytest.mark.end_to_end
def test_workers_that_differ_are_refused_before_the_first_step(two_workers):
    for number, found in enumerate(two_workers):
        assert str(found["differs"]).startswith(
            "The workers differ in seed: replicas [1] from replica 0. This "
            f"one has {number}."
        )


@pytest.mark.end_to_end
def test_keras_still_needs_the_repair(two_workers):
    # When this fails, Keras has been mended: MultiWorkerMirroredStrategy of
    # this package can become that of TensorFlow.
    for found in two_workers:
        assert "PerReplica" in str(found["said"])


@subclassed
@pytest.mark.end_to_end
def test_two_devices_compute_what_one_does(tmp_path, one_process):
    program = processes.start(
        [distributed_worker.__file__, "mirrored", tmp_path / "found.npz"]
    )
    processes.finish(program)
    found = dict(np.load(tmp_path / "found.npz"))
    assert found["replicas"] == 2
    assert_equal(found, one_process)
    one = distributed_worker.train_in_stages(tf.distribute.get_strategy())
    assert_equal(found, one)
    one = distributed_worker.train_guided(tf.distribute.get_strategy())
    assert_equal(found, one)


@pytest.mark.across_backends
def test_two_devices_of_jax_compute_what_one_does(tmp_path):
    program = """
        import sys
        import keras
        import numpy as np
        import distributed_worker as worker
        from small_classifiers import labeled_images
        from keras_lficam import data, distribution, fit, Recipe
        import tensorflow as tf

        if sys.argv[1] == "2":
            everything = distribution.DataParallel()
            assert list(everything.device_mesh.shape) == [2]
            keras.distribution.set_distribution(everything)
        keras.utils.set_random_seed(5)
        model = worker.lfi_cam()
        parts = [
            tf.data.Dataset.from_tensor_slices(labeled_images(count, 0))
            for count in (32, 13)
        ]
        source = data.from_datasets(
            *[part.batch(4) for part in parts], class_names=["a", "b", "c"]
        )
        # Adam would make steps of the rounding errors that are the gradient of
        # a bias before batch normalization.
        recipe = Recipe(
            epochs=2, batch_size=8, optimizer="sgd", learning_rate=0.05
        )
        history = fit(
            model, source, recipe, folder=sys.argv[2], heat_maps_every=0,
            verbose=0,
        ).history
        np.savez(
            sys.argv[2] + "/found.npz", *model.get_weights(),
            **{name: values for name, values in history.items()}
        )
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    programs = [
        processes.start(
            [tmp_path / "program.py", devices, tmp_path / devices],
            KERAS_BACKEND="jax",
            PYTHONPATH=processes.modules_of(__file__),
            XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} "
            f"--xla_force_host_platform_device_count={devices}",
        )
        for devices in ("1", "2")
    ]
    for started in programs:
        processes.finish(started)
    one, two = (
        dict(np.load(tmp_path / devices / "found.npz")) for devices in "12"
    )
    assert len(one) > 10
    assert_equal(two, one)


def test_batch_normalization_is_synchronized_wherever_it_is():
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization()]
    )
    outer = keras.Sequential(
        [keras.Input((4,)), inner, keras.layers.BatchNormalization()]
    )
    assert distribution.synchronize_batch_normalization(outer) == 2
    assert inner.layers[-1].synchronized
    copy = keras.Sequential.from_config(outer.get_config())
    assert copy.layers[-1].synchronized
    distribution.synchronize_batch_normalization(outer, False)
    assert not inner.layers[-1].synchronized
    subclassed = distributed_worker.Subclassed()
    assert distribution.synchronize_batch_normalization(subclassed) == 1


def configure(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("no json", "must have JSON"),
        ([], '"cluster" with a "worker"'),
        ({"cluster": {"worker": []}}, '"cluster" with a "worker"'),
        (
            {"cluster": CLUSTER | {"ps": ["a:1"]}},
            r"no jobs but worker and chief: \['ps'\]",
        ),
        ({"cluster": {"worker": ["one"]}}, "addresses with ports"),
        ({"cluster": {"worker": "one:1"}}, "addresses with ports"),
        ({"cluster": CLUSTER}, '"task" with "type" and "index"'),
        (
            {"cluster": CLUSTER, "task": {"type": "worker", "index": 2}},
            "a task that is in its cluster, not worker 2",
        ),
        (
            {"cluster": CLUSTER, "task": {"type": "chief", "index": 0}},
            "a task that is in its cluster, not chief 0",
        ),
        ({"cluster": {"worker": ["a:0", "b:2"]}}, "from 1 to 65535, not a:0"),
        ({"cluster": {"worker": ["a:1", "b:65536"]}}, "not b:65536"),
        ({"cluster": {"worker": ["a:1", "b:port"]}}, "not b:port"),
        ({"cluster": {"worker": ["a:1", "a:1"]}}, "not twice a:1"),
        ({"cluster": CLUSTER | {"chief": ["two:2"]}}, "not twice two:2"),
        ({"cluster": CLUSTER | {"chief": ["c:1", "d:1"]}}, "one chief at most"),
        (
            {"cluster": CLUSTER, "task": {"type": 3, "index": 0}},
            "a task type that is a string, not 3",
        ),
        (
            {"cluster": CLUSTER, "task": {"type": ["worker"], "index": 0}},
            r"a string, not \['worker'\]",
        ),
        (
            {"cluster": CLUSTER, "task": {"type": "worker", "index": True}},
            "not worker True",
        ),
        (
            {
                "cluster": CLUSTER | {"evaluator": ["e:1"]},
                "task": {"type": "evaluator", "index": 0},
            },
            "not an evaluator: workers validate themselves",
        ),
    ],
)
def test_a_wrong_cluster_is_refused(monkeypatch, config, message):
    text = config if isinstance(config, str) else json.dumps(config)
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message) as caught:
        distribution.strategy("multi_worker")
    assert text in str(caught.value)


def meeting(abouts, indices=None, wait=20.0, ports=None):
    """What each worker says and ends with, who meet in threads."""
    ports = ports or processes.free_ports(len(abouts))
    names = [f"worker {number}" for number in range(len(ports))]
    addresses = [f"localhost:{port}" for port in ports]
    said = [[] for _ in abouts]

    def meet(number):
        index = number if indices is None else indices[number]
        cluster = _cluster.Cluster(names, addresses, index)
        try:
            _cluster.meet(
                cluster, abouts[number], wait=wait, say=said[number].append
            )
        except ValueError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(meet, range(len(abouts)))), said, ports


def test_workers_of_one_mind_meet_and_leave_their_ports_free():
    about = {"--batch-size": 8, "--image-size": (16, 16)}
    ends, _, ports = meeting(3 * [about])
    assert ends == ["", "", ""]
    for port in ports:
        socket.create_server(("", port)).close()


def test_the_first_difference_of_workers_is_told_to_all():
    ends, _, _ = meeting([{"seed": 1}, {"seed": 1}, {"seed": 2}])
    expected = "differ in seed: worker 0 has 1, worker 2 has 2. To fix this"
    assert all(expected in end for end in ends)
    ends, _, _ = meeting([{"seed": 1}, {"seed": 1, "version": "3"}])
    assert all("in version: worker 0 has None" in end for end in ends)


@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_is_alone_says_so_and_gives_up(monkeypatch, index):
    monkeypatch.setattr(_cluster, "_PATIENCE", 0.1)
    ports = processes.free_ports(2)
    (end,), (said,), _ = meeting([{}], [index], wait=1.0, ports=ports)
    other = 1 - index
    assert f"Waited 1 s for worker {other} (localhost:{ports[other]})" in end
    (line,) = said
    assert line.startswith(
        f"worker {index} waits for worker {other} (localhost:{ports[other]}), "
    )


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as taken:
        ports = [*processes.free_ports(1), taken.getsockname()[1]]
        (end,), _, _ = meeting([{}], [1], ports=ports)
    assert f"The port of worker 1, localhost:{ports[1]}, cannot be used" in end


def connection_to(port):
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("localhost", port), timeout=10)
        time.sleep(0.05)
    raise AssertionError("Nobody listens.")


def test_a_worker_that_comes_twice_is_refused(monkeypatch):
    """From two machines, where no port is in the way."""
    monkeypatch.setattr(_cluster, "_PATIENCE", 0.3)
    port, other = processes.free_ports(2)
    names = ["worker 0", "worker 1", "worker 2"]
    cluster = _cluster.Cluster(names, [f"localhost:{port}", "a:1", "b:1"], 0)
    line = json.dumps(["keras_lficam worker", "worker 1", {}]).encode() + b"\n"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ended = pool.submit(_cluster.meet, cluster, {}, wait=20.0)
        twins = [connection_to(port), connection_to(port)]
        for twin in twins:
            twin.sendall(line)
        answers = [twin.makefile().readline() for twin in twins]
        for twin in twins:
            twin.close()
        with pytest.raises(ValueError, match="worker 1 came twice, from"):
            ended.result()
    assert all("worker 1 came twice" in answer for answer in answers)


def test_strangers_at_the_port_are_not_heard():
    port, own = processes.free_ports(2)
    addresses = [f"localhost:{port}", f"localhost:{own}"]
    cluster = _cluster.Cluster(["worker 0", "worker 1"], addresses, 0)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ended = pool.submit(_cluster.meet, cluster, {}, wait=20.0)
        strange = [b"GET / HTTP/1.1\n", b"[" * 9000 + b"\n", b"3\n", b"\xff\n"]
        strange.append(b'["keras_lficam worker", "worker 7", {}]\n')
        strange.append(b'["keras_lficam worker", {}, {}]\n')
        for words in strange:
            with connection_to(port) as stranger:
                stranger.sendall(words)
                with contextlib.suppress(ConnectionError):
                    assert stranger.recv(1) == b""
        _cluster.meet(dataclasses.replace(cluster, index=1), {}, wait=20.0)
        assert ended.result() is None


def test_workers_that_nobody_named_are_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(ValueError, match="TF_CONFIG.*srun.*'mirrored'"):
        distribution.strategy("multi_worker")
    with pytest.raises(ValueError, match="name='many'"):
        distribution.strategy("many")


def test_one_device_is_left_as_it_is(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert distribution.strategy() is tf.distribute.get_strategy()
    # A cluster of one, as notebooks of some clouds are started with.
    alone = {
        "cluster": {"worker": ["one:1"]},
        "task": {"type": "worker", "index": 0},
    }
    configure(monkeypatch, alone)
    assert distribution.strategy() is tf.distribute.get_strategy()


R_AND_N = ["r1n3", "r1n4", "r2n3", "r2n4"]


def set_slurm(monkeypatch, **changes):
    """Sets what Slurm sets for the last of four tasks on two nodes."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_GPUS_PER_TASK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(strategies.shutil, "which", lambda name: None)
    for name, value in (
        {
            "PROCID": "3",
            "STEP_NUM_TASKS": "4",
            "STEP_NODELIST": "node[7-8]",
            "STEP_TASKS_PER_NODE": "2(x2)",
        }
        | changes
    ).items():
        if value is None:
            monkeypatch.delenv(f"SLURM_{name}", raising=False)
        else:
            monkeypatch.setenv(f"SLURM_{name}", value)


def test_slurm_names_the_workers(monkeypatch):
    set_slurm(monkeypatch)
    assert strategies._workers() == 4
    resolver = strategies._slurm()
    assert resolver.cluster_spec().as_dict() == {
        "worker": ["node7:8888", "node7:8889", "node8:8888", "node8:8889"]
    }
    assert (resolver.task_type, resolver.task_id) == ("worker", 3)
    assert not resolver.num_accelerators().get("GPU")
    # With GPUs that each task sees alone.
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "2")
    resolver = strategies._slurm()
    resolver.cluster_spec()
    assert resolver.num_accelerators() == {"GPU": 2}
    assert resolver.task_id == 3


@pytest.mark.parametrize(
    ("nodes", "tasks", "expected"),
    [
        ("one", "1", ["one:8888"]),
        # In the order of Slurm, not of their letters.
        ("n[9-10]", "1(x2)", ["n9:8888", "n10:8888"]),
        ("b,a", "2,1", ["b:8888", "b:8889", "a:8888"]),
        (
            "n[08-10,12],m5",
            "1(x5)",
            ["n08:8888", "n09:8888", "n10:8888", "n12:8888", "m5:8888"],
        ),
        ("r[1-2]n[3-4]", "1(x4)", [f"{n}:8888" for n in R_AND_N]),
    ],
)
def test_slurm_numbers_nodes_in_its_order(monkeypatch, nodes, tasks, expected):
    set_slurm(
        monkeypatch,
        PROCID="0",
        STEP_NUM_TASKS=str(len(expected)),
        STEP_NODELIST=nodes,
        STEP_TASKS_PER_NODE=tasks,
    )
    assert strategies._slurm().cluster_spec().as_dict() == {"worker": expected}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PROCID": "4"}, "SLURM_PROCID must hold an integer from 0 to 3"),
        ({"PROCID": "-1"}, "SLURM_PROCID must .*Received: '-1'.*srun"),
        ({"PROCID": ""}, "SLURM_PROCID must .*Received: ''"),
        ({"STEP_NUM_TASKS": "four"}, "SLURM_STEP_NUM_TASKS must .*'four'"),
        ({"STEP_NUM_TASKS": "0"}, "STEP_NUM_TASKS must hold .* from 1 to"),
        ({"STEP_NUM_TASKS": "4" * 4000}, "SLURM_STEP_NUM_TASKS must hold"),
        ({"STEP_NUM_TASKS": "5"}, "2 nodes, 4 tasks on 2 nodes, and 5 tasks"),
        ({"STEP_NODELIST": None}, "SLURM_STEP_NODELIST must .*: none.*srun"),
        ({"STEP_NODELIST": ""}, "SLURM_STEP_NODELIST must .*Received: ''"),
        ({"STEP_NODELIST": "node[7-"}, "SLURM_STEP_NODELIST must"),
        ({"STEP_NODELIST": "node7]"}, "SLURM_STEP_NODELIST must"),
        ({"STEP_NODELIST": "node[8-7]"}, "SLURM_STEP_NODELIST must"),
        ({"STEP_NODELIST": "node[-]"}, "SLURM_STEP_NODELIST must"),
        ({"STEP_NODELIST": "node[1-2-3]"}, "SLURM_STEP_NODELIST must"),
        ({"STEP_NODELIST": "node7,,node8"}, "SLURM_STEP_NODELIST must"),
        ({"STEP_NODELIST": "node7,node7"}, "NODELIST must .*each once"),
        ({"STEP_NODELIST": "n[0-999999999]"}, "SLURM_STEP_NODELIST must"),
        ({"STEP_NODELIST": "n[0-9999]n[0-9999]"}, "SLURM_STEP_NODELIST must"),
        ({"STEP_NODELIST": "node 7\nnode8"}, "SLURM_STEP_NODELIST must"),
        ({"STEP_NODELIST": "node[7-9]"}, "3 nodes, 4 tasks on 2 nodes"),
        ({"STEP_TASKS_PER_NODE": None}, "SLURM_STEP_TASKS_PER_NODE must"),
        ({"STEP_TASKS_PER_NODE": "2(x"}, "TASKS_PER_NODE must .*'2\\(x'"),
        ({"STEP_TASKS_PER_NODE": "2,0,2"}, "SLURM_STEP_TASKS_PER_NODE must"),
        ({"STEP_TASKS_PER_NODE": "2(x1)"}, "2 nodes, 2 tasks on 1 nodes"),
        ({"GPUS_PER_TASK": "gpu:2"}, "SLURM_GPUS_PER_TASK must .*'gpu:2'"),
    ],
)
def test_broken_variables_of_slurm_are_named(monkeypatch, changes, message):
    set_slurm(monkeypatch, **changes)
    with pytest.raises(ValueError, match=message):
        distribution.strategy("multi_worker")


def test_gpus_of_nodes_in_another_order_need_a_number(monkeypatch):
    set_slurm(monkeypatch, STEP_NODELIST="node[9-10]")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match="SLURM_GPUS_PER_TASK.*Received: none"):
        distribution.strategy("multi_worker")
    set_slurm(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert strategies._slurm().cluster_spec().num_tasks("worker") == 4
    # The second task of its node.
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_batch_script_of_slurm_is_one_process(monkeypatch):
    set_slurm(
        monkeypatch,
        PROCID="0",
        STEP_NUM_TASKS=None,
        STEP_NODELIST=None,
        STEP_TASKS_PER_NODE=None,
    )
    assert distribution.strategy() is tf.distribute.get_strategy()


class Resolver:
    def __init__(self, kind, number, jobs):
        self.task_type, self.task_id, self.jobs = kind, number, jobs

    def cluster_spec(self):
        return tf.train.ClusterSpec(self.jobs)


@pytest.mark.parametrize(
    ("kind", "number", "jobs", "expected"),
    [
        ("worker", 0, CLUSTER, True),
        ("worker", 1, CLUSTER, False),
        ("worker", 0, CLUSTER | {"chief": ["c:1"]}, False),
        ("chief", 0, CLUSTER | {"chief": ["c:1"]}, True),
    ],
)
def test_one_worker_is_the_chief(kind, number, jobs, expected):
    class Strategy:
        cluster_resolver = Resolver(kind, number, jobs)

    assert distribution.is_chief(Strategy()) is expected


def test_a_batch_that_replicas_cannot_share_is_refused():
    class Strategy:
        num_replicas_in_sync = 3
        cluster_resolver = None

    with pytest.raises(ValueError, match="multiple of their number, 3.*9"):
        distribution.distribute(Strategy(), lambda *_: None, 8)


@pytest.mark.parametrize(
    ("count", "batch_size", "fails"),
    [
        (16, 8, False),
        (13, 8, False),  # Of 5 one replica gets 4, the other 1.
        (12, 8, True),
        (9, 8, True),
        (3, 8, True),
    ],
)
def test_an_empty_batch_on_a_cpu_is_foreseen(
    monkeypatch, count, batch_size, fails
):
    class Strategy:
        num_replicas_in_sync = 2

    batches = tf.data.Dataset.range(count).batch(batch_size)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    distribution.for_evaluation(Strategy(), batches, count, batch_size)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    arguments = Strategy(), batches, count, batch_size
    if not fails:
        shared = distribution.for_evaluation(*arguments)
        assert np.concatenate(list(shared)).tolist() == list(range(count))
        return
    with pytest.raises(ValueError, match="one of the 2 replicas gets none"):
        distribution.for_evaluation(*arguments)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (tf.errors.UnavailableError(None, None, "Connection reset by peer"), 1),
        (tf.errors.AbortedError(None, None, "Collective ops is aborted"), 1),
        (tf.errors.InternalError(None, None, "Out of shared memory"), 0),
        (tf.errors.InvalidArgumentError(None, None, "heartbeat"), 0),
        (ValueError("heartbeat"), 0),
    ],
)
def test_a_lost_peer_is_told_from_other_errors(error, expected):
    assert distribution.is_lost_peer(error) == bool(expected)
