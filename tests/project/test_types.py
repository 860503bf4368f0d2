"""A user's script is checked against the annotations of the package."""

import json
import os
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
    other = attach(keras.applications.MobileNetV2())
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


def found_by_mypy(path):
    """Checks a script; returns line and code of each error."""
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


def found_by_pyright(path):
    """Does the same, from a folder without the settings of this project."""
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "pyright", "--outputjson"),
            *("--pythonpath", sys.executable, path),
        ],
        cwd=path.parent,
        # The Node of its package, whatever else is installed.
        env={**os.environ, "PYRIGHT_PYTHON_GLOBAL_NODE": "0"},
        capture_output=True,
        text=True,
    )
    found = json.loads(answer.stdout)["generalDiagnostics"]
    assert answer.returncode == bool(found), answer.stderr
    return [
        (each["range"]["start"]["line"] + 1, each["rule"]) for each in found
    ]


@pytest.mark.parametrize("found_by", [found_by_mypy, found_by_pyright])
def test_accepts_a_correct_script(tmp_path, found_by):
    path = tmp_path / "script.py"
    path.write_text(CORRECT)
    assert found_by(path) == []


@pytest.mark.parametrize(
    ("found_by", "attribute", "argument", "call"),
    [
        (found_by_mypy, "attr-defined", "arg-type", "call-arg"),
        (
            found_by_pyright,
            "reportAttributeAccessIssue",
            "reportArgumentType",
            "reportCallIssue",
        ),
    ],
)
def test_finds_the_faults_of_a_wrong_script(
    tmp_path, found_by, attribute, argument, call
):
    path = tmp_path / "script.py"
    path.write_text(WRONG)
    assert found_by(path) == [
        (3, attribute),
        (5, argument),
        (6, call),
        (7, attribute),
        (8, argument),
    ]
