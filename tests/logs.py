"""What a run of training has logged."""

import csv


def rows(folder):
    with open(folder / "log.csv", newline="") as file:
        return [
            {name: float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
