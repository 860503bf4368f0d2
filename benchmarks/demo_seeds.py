"""Runs the demo with several seeds; a row of CSV for each, as it is measured.

usage: python benchmarks/demo_seeds.py [--seeds 5]

Its models stay in `runs/demo_seeds`. Seeds that have a row and a model already
are left out, so an interrupted run resumes.
"""

import argparse
import csv
import json
import pathlib
import shutil
import subprocess
import sys

from measuring import machine_of_command, write

TABLE = pathlib.Path(__file__).with_suffix(".csv")
RUNS = pathlib.Path("runs/demo_seeds")


def model_of(seed):
    """The file of the model that the demo trained with a seed."""
    return RUNS / str(seed) / "model.keras"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    rows = {}
    if TABLE.exists():
        with TABLE.open() as file:
            rows = {int(row["seed"]): row for row in csv.DictReader(file)}
    for seed in range(seeds):
        output = model_of(seed).parent
        if seed in rows and model_of(seed).exists():
            continue
        shutil.rmtree(output, ignore_errors=True)
        words = ["demo", "--seed", str(seed), "--output", str(output)]
        subprocess.run(
            [sys.executable, "-m", "keras_lficam", *words], check=True
        )
        row = json.loads((output / "metrics.json").read_text())
        rows[seed] = row | machine_of_command()
        write(TABLE, list(rows[seed]), [rows[one] for one in sorted(rows)])


if __name__ == "__main__":
    main()
