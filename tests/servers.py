"""Starts real servers, each in an environment of its own, on 127.0.0.1.

`make servers` makes the environments; each server is a child of the test, and
is ended by its own process id.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sysconfig
import time

from processes import free_ports

from keras_lficam.serving.client import Client, ServerError

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENTS = pathlib.Path(os.environ.get("SERVERS", ROOT / ".cache/servers"))
_SECONDS = 60


@contextlib.contextmanager
def kserve(version, name, folder, predictor=None):
    """Serves an exported version by KServe, or puts it before a predictor."""
    (port,) = free_ports(1)
    words = [
        ENVIRONMENTS / "kserve/bin/python",
        ROOT / "tests/kserve_on_loopback.py",
        *("--model_name", name, "--model_dir", version),
        *("--http_port", port, "--enable_grpc", "false"),
    ]
    if predictor:
        words += ["--predictor_host", predictor.removeprefix("http://")]
        words += ["--predictor_protocol", "v2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with _started(words, environment, port, folder / "kserve.log") as url:
        yield url


@contextlib.contextmanager
def triton(repository, folder, *options):
    """Serves a model repository by tritonserver of the wheel of pytriton."""
    ports = free_ports(3)
    root = ENVIRONMENTS / "triton"
    (site,) = root.glob("lib/python*/site-packages")
    files = site / "pytriton/tritonserver"
    # Its Python backend starts the stub beside it, that of this Python.
    backends = folder / "backends"
    shutil.copytree(files / "backends", backends, dirs_exist_ok=True)
    version = sysconfig.get_python_version()
    stub = f"python_backend_stubs/{version}/triton_python_backend_stub"
    shutil.copy(files / stub, backends / "python")
    words = [
        files / "bin/tritonserver",
        *("--model-repository", repository, "--backend-directory", backends),
        "--exit-on-error=false",
        "--disable-auto-complete-config",
        *options,
    ]
    for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        words += [f"--{kind}-address=127.0.0.1", f"--{kind}-port={port}"]
    libraries = [
        site / "nvidia_pytriton.libs",
        sysconfig.get_config_var("LIBDIR"),
    ]
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PATH": os.pathsep.join([str(root / "bin"), os.environ["PATH"]]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    with _started(words, environment, ports[0], folder / "triton.log") as url:
        yield url


@contextlib.contextmanager
def _started(words, environment, port, log):
    with log.open("w") as file:
        program = subprocess.Popen(
            [*map(str, words)], env=environment, stdout=file, stderr=file
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(program, url, log)
        yield url
    finally:
        program.terminate()
        try:
            program.wait(20)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()


def _wait(program, url, log):
    """Until it is ready; what it said is the reason if it never is."""
    client = Client(url, "any", 5, protocol="v2")
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and program.poll() is None:
        with contextlib.suppress(ServerError):
            client._request("GET", "/v2/health/live")
            return
        time.sleep(0.2)
    raise AssertionError(f"{program.args[0]}:\n{log.read_text()[-3000:]}")
