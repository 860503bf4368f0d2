"""The notebooks as they are committed, and what nbval says of a change."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "tutorials"
RULES = FOLDER / "sanitize.cfg"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text(lines):
    return "".join(lines)


def outputs(notebook):
    return [output for cell in code(notebook) for output in cell["outputs"]]


def test_notebook_begins_with_its_title(notebook):
    first = notebook["cells"][0]
    assert first["cell_type"] == "markdown"
    assert re.match(r"# \w", text(first["source"]))


def test_notebook_was_run_from_top_to_bottom_without_an_error(notebook):
    counts = [cell["execution_count"] for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output["output_type"] for output in outputs(notebook)}
    assert kinds
    assert "error" not in kinds


def test_notebook_names_no_place_of_the_machine_that_ran_it(notebook):
    shown = [text(cell["source"]) for cell in notebook["cells"]]
    for one in outputs(notebook):
        shown += [text(one.get("text", "")), text(one.get("traceback", ""))]
        shown += [
            text(value)
            for kind, value in one.get("data", {}).items()
            if not kind.startswith("image/")
        ]
    places = (
        r"(?<![\w.:/])/(home|root|tmp|work|usr|opt|Users|private)/|[A-Z]:\\"
    )
    for part in shown:
        assert not re.search(places, part), part
    for cell in notebook["cells"]:
        assert "execution" not in cell["metadata"]  # When each cell was run.


def test_notebook_is_small(notebook):
    assert len(json.dumps(notebook)) < 700_000


def test_every_rule_is_read_and_compiles():
    rules = RULES.read_text(encoding="utf-8")
    # As nbval reads them: a rule that it does not see would be no rule.
    pairs = re.findall(r"^regex: (.*)$\n^replace: (.*)$", rules, re.MULTILINE)
    assert len(pairs) == rules.count("regex:") == rules.count("replace:") > 0
    for regex, _ in pairs:
        re.compile(regex)


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("nbval", "ipykernel"))),
    reason='nbval is part of pip install "keras-lficam[tutorials]"',
)
def test_changed_number_fails_and_changed_time_passes(tmp_path):
    source = (
        'print("0.25 s, 12 ms an image, 80.5 images a second")\n'
        'print("accuracy: 46 of 48, AUC 0.94, map 8x8")'
    )
    printed = (
        "0.25 s, 12 ms an image, 80.5 images a second\n"
        "accuracy: 46 of 48, AUC 0.94, map 8x8\n"
    )
    changes = {
        "unchanged": printed,
        "time": printed.replace("0.25 s", "3 s").replace("12 ms", "9.1 ms"),
        "speed": printed.replace("80.5 images", "1,210 images"),
        "count": printed.replace("46 of", "45 of"),
        "score": printed.replace("0.94", "0.95"),
        "shape": printed.replace("8x8", "7x7"),
    }
    # A kernel for each notebook would take seconds, a cell for each does.
    cells = [
        _cell(number, source, changes[name])
        for number, name in enumerate(changes)
    ]
    # In a notebook tqdm looks for ipywidgets, and warns where there are none.
    cells.append(_cell(len(cells), "import tqdm.auto", ""))
    _write(tmp_path / "tiny.ipynb", cells)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--nbval", "tiny.ipynb"),
            *("--nbval-sanitize-with", str(RULES)),
            *("-rpf", "--color=no", "-p", "no:cacheprovider"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = r"^(PASSED|FAILED) .*::Cell (\d+)"
    verdicts = re.findall(said, done.stdout, re.MULTILINE)
    verdicts = {int(number): verdict for verdict, number in verdicts}
    passed = dict.fromkeys([0, 1, 2, 6], "PASSED")
    failed = dict.fromkeys([3, 4, 5], "FAILED")
    assert verdicts == passed | failed, done.stdout + done.stderr


def _cell(number, source, printed):
    output = {"output_type": "stream", "name": "stdout", "text": printed}
    return {
        "cell_type": "code",
        "id": f"cell-{number}",
        "execution_count": number + 1,
        "metadata": {},
        "source": source,
        "outputs": [output] if printed else [],
    }


def _write(path, cells):
    kernel = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook), encoding="utf-8")


def test_training_is_compared_after_equal_epochs():
    """Of two runs in one figure, the longer one would look better."""
    name = "02_train_on_your_own_pictures.ipynb"
    notebook = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    source = "\n".join(text(cell["source"]) for cell in code(notebook))
    given = re.findall(r"\bepochs=(\w+)", source)
    assert len(given) == 2  # Of `fit` and of the recipe.
    assert len(set(given)) == 1, given


def test_gradients_are_not_said_to_need_python():
    """A SavedModel serves them, see `test_serving`; two formats cannot."""
    pages = FOLDER.parent / "docs" / "serving.md", FOLDER / "05_serve_it.ipynb"
    for page in pages:
        words = page.read_text(encoding="utf-8")
        words = " ".join(re.sub(r'\\n",\s*"', " ", words).split())
        sentence = re.search(
            r"An explanation that needs gradients [^.:]*", words
        )
        assert "cannot be served" not in sentence.group(), page
        assert "by a SavedModel" in sentence.group(), page
