"""A user's script is checked against the annotations of the package."""

import pathlib
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.types

ROOT = pathlib.Path(__file__).parents[2]

CORRECT = """
import keras
import numpy as np

import keras_lficam
from keras_lficam import attach, build, data, export, fit
from keras_lficam import explainers, metrics


def main() -> None:
    model: keras.Model = build("ResNet50", classes=10, output_stride=16)
    other = attach(keras.applications.MobileNetV2(weights=None))
    images = data.load("cifar10", "test", image_size=(224, 224))
    fit(model, "cifar10", "modern", folder="runs/first", seed=1)
    photos = np.zeros((2, 224, 224, 3), "float32")
    kinds = [explainers.AttentionMap(model), explainers.GradCAM(other)]
    for explainer in kinds:
        maps = explainer(photos)
        drops = metrics.average_drop(model, photos, maps)
        print(drops.mean(), len(images))
    view = keras_lficam.attention_view(model)
    path = export(model, "exported", formats=["saved_model"], top=3)
    print(view.name, path.name)


main()
"""

WRONG = """
import keras_lficam
from keras_lficam import build, export, nowhere

model = build(input_shape="224")
build("ResNet50", class_count=10)
keras_lficam.nothing
export(model, 5)
"""


def errors_of(script, folder):
    """Checks a script; returns line and code of each error."""
    path = folder / "script.py"
    path.write_text(script)
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary"),
            *("--ignore-missing-imports", "--follow-imports=silent"),
            *("--config-file=", f"--cache-dir={ROOT / '.mypy_cache/user'}"),
            path,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.stderr == ""
    found = re.findall(
        r"script\.py:(\d+): error: .*\[([\w-]+)\]$", answer.stdout, re.M
    )
    assert answer.returncode == bool(found), answer.stdout
    return [(int(line), code) for line, code in found]


def test_accepts_a_correct_script(tmp_path):
    assert errors_of(CORRECT, tmp_path) == []


def test_finds_the_faults_of_a_wrong_script(tmp_path):
    assert errors_of(WRONG, tmp_path) == [
        (3, "attr-defined"),
        (5, "arg-type"),
        (6, "call-arg"),
        (7, "attr-defined"),
        (8, "arg-type"),
    ]
