"""Runs the demo with several seeds; a row of CSV for each, as it is measured.

usage: python benchmarks/demo_seeds.py [--seeds 5]

Seeds that have a row already are left out, so an interrupted run resumes.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import tempfile

from measuring import machine_of_command

TABLE = pathlib.Path(__file__).with_suffix(".csv")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    done = set()
    if TABLE.exists():
        with TABLE.open() as file:
            done = {int(row["seed"]) for row in csv.DictReader(file)}
    for seed in sorted(set(range(seeds)) - done):
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "demo"
            words = ["demo", "--seed", str(seed), "--output", str(output)]
            subprocess.run(
                [sys.executable, "-m", "keras_lficam", *words], check=True
            )
            row = json.loads((output / "metrics.json").read_text())
        row |= machine_of_command()
        with TABLE.open("a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if not done:
                writer.writeheader()
            writer.writerow(row)
        done.add(seed)


if __name__ == "__main__":
    main()
