"""What the benchmarks share: the machine, times of two calls, and tables.

    python benchmarks/measuring.py      # prints the machine; needs no package

Ratios depend on the processor and on whether TensorFlow computes by oneDNN, so
every table has a column for each, `MACHINE`. `onednn` is `on` or `off`,
`not TensorFlow` where something else computes, and `unknown` in rows that were
measured before it was written down.
"""

import csv
import dataclasses
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
MACHINE = ["processor", "onednn"]
CPUINFO = pathlib.Path("/proc/cpuinfo")
# Flags of Linux for the widest instructions, which say more of the speed than
# a name such as "AMD EPYC".
INSTRUCTIONS = {
    "amx_tile": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
}
# With one of them TensorFlow turns oneDNN on by itself: see
# `DefaultOneDnnPolicy` in its tensorflow/core/util/port.cc.
NEURAL = {
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
}


def machine(backend="tensorflow"):
    """What computes here: the columns `MACHINE` of a row.

    Args:
        backend: What is measured; anything but `"tensorflow"`, a backend of
            Keras or not, has no switch of TensorFlow's.
    """
    used = onednn() if backend == "tensorflow" else "not TensorFlow"
    return {"processor": processor(), "onednn": used}


def processor():
    """The processor's name and its widest vector instructions."""
    words = _cpu()
    name = words.get("model name") or platform.processor() or "unknown"
    flags = words.get("flags", "").split()
    widest = [name for flag, name in INSTRUCTIONS.items() if flag in flags]
    return ", ".join([name, *widest[:1]])


def onednn():
    """`on` or `off`: what TensorFlow says, or will say where it is missing.

    TensorFlow decides once, when it is imported. So its own answer holds even
    if the environment variable was changed since.
    """
    try:
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:
        setting = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
        return onednn_by_rule(setting, _cpu().get("flags", "").split())
    return "on" if _pywrap_util_port.IsMklEnabled() else "off"


def onednn_by_rule(setting, flags):
    """TensorFlow's rule on Linux and x86-64.

    Args:
        setting: Value of `TF_ENABLE_ONEDNN_OPTS`, None if it is not set.
        flags: The processor's flags in /proc/cpuinfo.
    """
    said = {"0": "off", "false": "off", "1": "on", "true": "on"}
    by_itself = "on" if NEURAL & set(flags) else "off"
    return said.get((setting or "").lower(), by_itself)


def _cpu():
    """What Linux says of the first processor; elsewhere nothing."""
    if not CPUINFO.exists():
        return {}
    first = CPUINFO.read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.split("\n"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def machine_of_command():
    """The machine as `keras-lficam` sees it, which asks for oneDNN."""
    code = (
        "from keras_lficam.cli._models import start_keras; start_keras()\n"
        "import json, keras, measuring\n"
        "backend = keras.backend.backend()\n"
        "print(json.dumps(measuring.machine(backend)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HERE,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compared(model, data, **options):
    """Rows of what `comparison.compare` finds, with the machine.

    Args:
        model: File of a classifier.
        data: Name of a data set.
        **options: More of its arguments.
    """
    from keras_lficam.cli._models import start_keras

    start_keras()  # It asks for oneDNN, as the command does.
    import keras

    from keras_lficam import comparison

    loaded = keras.models.load_model(model, compile=False)
    found = comparison.compare(loaded, data, **options)
    columns = machine(keras.backend.backend())
    return [dataclasses.asdict(row) | columns for row in found.rows]


def in_turn(first, second, most_rounds, most_seconds):
    """Times two calls in turn, so that a busy minute falls on both.

    Args:
        first: The call that is measured.
        second: The call that it is measured against.
        most_rounds: Rounds at most.
        most_seconds: Seconds after which it stops, with three rounds at least.

    Returns:
        Dictionary of `seconds` and `seconds_other`, medians; the median and
        the quartiles of the ratios of the rounds, and `rounds`.
    """
    first(), second()  # Compile.
    seconds = [], []
    began = time.perf_counter()
    for number in itertools.count():
        enough = time.perf_counter() - began > most_seconds
        if number == most_rounds or (number >= 3 and enough):
            break
        for call, times in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    pairs = zip(*seconds, strict=True)
    lower, middle, upper = statistics.quantiles(a / b for a, b in pairs)
    return {
        "seconds": f"{statistics.median(seconds[0]):.4f}",
        "seconds_other": f"{statistics.median(seconds[1]):.4f}",
        "ratio": f"{middle:.3f}",
        "ratio_lower_quartile": f"{lower:.3f}",
        "ratio_upper_quartile": f"{upper:.3f}",
        "rounds": len(seconds[0]),
    }


def write(table, columns, rows):
    """Writes a table; the one before is whole until it is done.

    Raises:
        ValueError: If a row does not say on which machine it was measured.
    """
    rows = list(rows)
    for row in rows:
        if not all(row.get(name) for name in MACHINE if name in columns):
            raise ValueError(f"A row must name its machine. Received: {row}")
    partial = table.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(table)


def main():
    setting = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "not set")
    columns = machine()
    print(f"processor: {columns['processor']}, {os.cpu_count()} cores")
    print(
        f"TensorFlow's oneDNN: {columns['onednn']} "
        f"(TF_ENABLE_ONEDNN_OPTS: {setting})"
    )


if __name__ == "__main__":
    main()
