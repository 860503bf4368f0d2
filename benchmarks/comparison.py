"""All explainers and metrics on a demo's model; writes comparison.csv.

keras-lficam demo --epochs 8
python benchmarks/comparison.py     # some minutes
"""

import pathlib

from measuring import compared, write

HERE = pathlib.Path(__file__).parent
MODEL = HERE.parent / "runs" / "demo" / "model.keras"


def main():
    rows = compared(MODEL, "digits_in_photos", count=48, batch_size=16)
    write(HERE / "comparison.csv", list(rows[0]), rows)


if __name__ == "__main__":
    main()
