"""Starts programs that train together on this machine."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent


def environment(**more):
    """Leaves GPUs, which programs would not share, out of it.

    On the CPU TensorFlow's oneDNN fails with an empty batch; see
    `distribution.for_evaluation`.
    """
    hidden = (
        {"CUDA_VISIBLE_DEVICES": "-1"} if shutil.which("nvidia-smi") else {}
    )
    return os.environ | hidden | {"TF_ENABLE_ONEDNN_OPTS": "0"} | more


def modules_of(file):
    """PYTHONPATH of programs that import the test module `file`."""
    folders = [pathlib.Path(file).parent, TESTS, os.environ.get("PYTHONPATH")]
    return os.pathsep.join(str(folder) for folder in folders if folder)


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for opened in sockets:
        opened.bind(("localhost", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def start(arguments, **more):
    """Starts Python; `finish` waits for it."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_workers(arguments_of, number=2, **more):
    """Starts workers that know of each other by TF_CONFIG."""
    addresses = [f"localhost:{port}" for port in free_ports(number)]
    return [
        start(
            arguments_of(index),
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": index},
                }
            ),
            **more,
        )
        for index in range(number)
    ]


def finish(program, expected=0, timeout=300):
    """Waits for a program; returns what it said."""
    try:
        said, _ = program.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        program.kill()
        said, _ = program.communicate()
        raise AssertionError(f"It did not end:\n{said}") from None
    assert program.returncode == expected, said
    return said
