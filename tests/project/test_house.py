"""What holds for the project as a whole."""

import ast
import csv
import doctest
import functools
import graphlib
import importlib
import inspect
import json
import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import served
import tensorflow as tf
from small_classifiers import backbone

import keras_lficam

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "keras_lficam"

# Who may import whom; what is not named imports nothing of ours.
ARROWS = {
    "__init__": {"architectures", "layers", "*"},
    "__main__": {"cli"},
    "architectures": {
        "_checks",
        "backbones",
        "classifier",
        "layers",
        "surgery",
    },
    "backbones": {"_checks", "_names", "surgery"},
    "classifier": {"_checks", "functional", "surgery"},
    "cli": {"*"},
    "data": {"_checks", "_labels", "_names"},
    "comparison": {
        "_checks",
        "classifier",
        "data",
        "evaluation",
        "explainers",
        "metrics",
    },
    "distribution": {"_checks"},
    "evaluation": {"_checks", "_files"},
    "explainers": {"_checks", "classifier", "functional"},
    "explanation": {
        "_checks",
        "_names",
        "classifier",
        "visualization",
    },
    "functional": {"_checks"},
    "layers": {"_checks", "functional"},
    "metrics": {"_checks", "classifier", "functional"},
    "reporting": {
        "_checks",
        "_files",
        "_names",
        "classifier",
        "data",
        "explanation",
        "metrics",
        "visualization",
    },
    "serving": {
        "_checks",
        "_files",
        "_labels",
        "_names",
        "architectures",
        "classifier",
        "data",
        "explainers",
        "explanation",
        "functional",
        "visualization",
    },
    "surgery": {"_checks"},
    "visualization": {"_checks", "_figures"},
    "training": {
        "_checks",
        "_files",
        "_labels",
        "classifier",
        "data",
        "distribution",
        "explainers",
        "functional",
        "metrics",
        "surgery",
        "visualization",
    },
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Yields the modules that a file imports, each by its full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_arrows_point_down():
    rooms = {room for _, room in modules()}
    for path, room in modules():
        allowed = ARROWS.get(room, set())
        if "*" in allowed:
            continue
        used = {
            name.split(".")[1]
            for name in imports(path)
            if name.startswith("keras_lficam.")
        }
        wrong = (used & rooms) - allowed - {room}
        assert not wrong, f"{path} imports {wrong}"


def test_no_module_imports_itself_by_way_of_others():
    """Within a room, too; imports for type checkers alone do not count."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path, _ in modules()
    }
    graph = {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(
                node.test
            ):
                node.body = []
        used = {
            f"{node.module}.{alias.name}"
            if f"{node.module}.{alias.name}" in paths
            else node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        graph[name] = (used & set(paths)) - {name}
    assert sum(map(len, graph.values())) > 200
    # Raises a CycleError that names the circle.
    graphlib.TopologicalSorter(graph).prepare()


def test_page_on_architecture_shows_the_arrows():
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.split("| room | may import |\n|---|---|\n")[1].split("\n\n")[0]
    shown = {}
    for line in table.split("\n"):
        room, allowed = line.strip("| ").split(" | ")
        names = set(re.findall("`(.*?)`", allowed))
        shown[room.strip("`")] = names or {"*"}
        assert names or allowed == "every room"
    expected = {
        room: {"*"} if "*" in allowed else allowed
        for room, allowed in ARROWS.items()
        if not room.startswith("_")
    }
    assert shown == expected


def test_page_on_architecture_shows_the_tree():
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = page.split("```text\nkeras_lficam/\n")[1].split("```")[0]
    shown = set(re.findall(r"(?:^| ) (\w+)(?:/|\.py)(?=\s)", tree, re.M))
    rooms = {room for _, room in modules()}
    assert shown | {"__init__", "__main__"} == rooms


def test_tensorflow_is_imported_only_where_it_is_the_point():
    for path, room in modules():
        roots = {name.split(".")[0] for name in imports(path)}
        # One branch of three, and the writer of TensorBoard's logs.
        excepted = path.match("explainers/gradient.py") or path.match(
            "training/callbacks.py"
        )
        if (
            room not in {"cli", "data", "distribution", "serving"}
            and not excepted
        ):
            assert "tensorflow" not in roots, path
            assert "tensorflow_datasets" not in roots, path


def test_public_surface():
    assert sorted(keras_lficam.__all__) == [
        "AttentionMechanism",
        "Explanation",
        "FeatureImportanceNetwork",
        "Recipe",
        "__version__",
        "architectures",
        "attach",
        "attention_view",
        "backbones",
        "build",
        "comparison",
        "data",
        "distribution",
        "evaluation",
        "explain",
        "explainers",
        "explanation",
        "explanation_view",
        "export",
        "fit",
        "functional",
        "layers",
        "metrics",
        "pretrained",
        "reporting",
        "serving",
        "training",
        "visualization",
    ]
    for name in keras_lficam.__all__:
        assert getattr(keras_lficam, name) is not None
    with pytest.raises(AttributeError, match="keras_lficam attribute nothing"):
        keras_lficam.nothing  # noqa: B018


def run(code, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    ).stdout


@pytest.mark.end_to_end
def test_import_is_light_and_registers_the_layers():
    # Of the processor, as other programs run beside it.
    seconds, *added = run(
        "import keras, sys, time; before = set(sys.modules)\n"
        "start = time.process_time()\n"
        "import keras_lficam\n"
        "print(time.process_time() - start)\n"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})\n"
        "assert keras.saving.get_registered_object("
        "'keras_lficam>FeatureImportanceNetwork')"
    ).split()
    heavy = {"matplotlib", "tensorflow_datasets", "sklearn", "skimage", "PIL"}
    assert not heavy & set(added)
    assert float(seconds) < 0.3


@pytest.mark.end_to_end
def test_a_program_of_ones_own_run_as_a_module_registers_the_layers(tmp_path):
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__init__.py").write_text("import keras_lficam\n")
    (tmp_path / "program" / "run.py").write_text(
        "import keras\n"
        "print(keras.saving.get_registered_object("
        "'keras_lficam>AttentionMechanism'))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    shown = subprocess.run(
        [sys.executable, "-m", "program.run"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    ).stdout
    assert "AttentionMechanism" in shown


def test_the_command_helps_without_starting_tensorflow():
    loaded = run(
        "import sys\n"
        "from keras_lficam_command import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    assert "demo" in loaded
    assert loaded.endswith("False False\n")


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("keras_lficam", marks=pytest.mark.end_to_end),
        "keras_lficam_command",
    ],
)
def test_the_command_runs_as_a_module(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == f"keras-lficam {keras_lficam.__version__}\n"
    # The one that starts no TensorFlow has nothing of it to say.
    assert module == "keras_lficam" or not done.stderr


def test_lazy_names_of_serving_are_those_of_the_type_checkers():
    """`lazy_loader.attach` hides names, the block TYPE_CHECKING shows them.

    Where a whole room is lazy its stub is read by both.
    """
    module = keras_lficam.serving
    shown = {
        alias.name
        for node in ast.parse(pathlib.Path(module.__file__).read_text()).body
        if isinstance(node, ast.If)
        for each in node.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    assert (
        shown
        == set(module.__dir__())
        == {
            "ExportError",
            "export",
            "write_repository",
        }
    )
    assert shown <= set(module.__all__)


def test_no_lambda_layer_and_no_pickle():
    for path, _ in modules():
        text = path.read_text()
        assert "Lambda(" not in text, path
        # One reads PyTorch's files, and knows the four names in them.
        if not path.match("backbones/_torch_files.py"):
            assert "pickle" not in text, path
        assert "safe_mode=False" not in text, path


def public_modules():
    for info in pkgutil.walk_packages([str(PACKAGE)], "keras_lficam."):
        # A command is called by its name in a terminal, not from Python.
        if info.name.startswith("keras_lficam.cli"):
            continue
        # They run in the Python of KServe and of Triton, see `make servers`.
        if info.name in (
            "keras_lficam.serving.transformer",
            "keras_lficam.serving.triton_model",
        ):
            continue
        if "._" not in info.name and not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def documented():
    """Yields every public function and class with the name it goes by."""
    for module in [keras_lficam, *public_modules()]:
        for name, thing in vars(module).items():
            ours = getattr(thing, "__module__", None) == module.__name__
            if ours and not name.startswith("_") and callable(thing):
                yield f"{module.__name__}.{name}", thing


def test_public_things_have_docstrings_with_their_sections():
    seen = 0
    for name, thing in documented():
        document = thing.__doc__ or ""
        assert document, name
        seen += 1
        if isinstance(thing, type):
            continue
        if inspect.signature(thing).parameters:
            assert "Args:" in document, name
        assert "Returns:" in document, name
    assert seen > 25


@pytest.fixture(autouse=True)
def _eagerly(request):
    """Traces no step: an example takes one. An export is a trace."""
    if "_run" in request.node.name and "serving" not in request.node.name:
        tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("name", sorted(dict(documented())))
def test_docstring_example_runs(name, monkeypatch, tmp_path):
    """Runs the section Examples, with the names that examples may use."""
    thing = dict(documented())[name]
    text = (thing.__doc__ or "").partition("Examples:\n")[2]
    if not text.strip() or "KERAS_BACKEND=jax" in text:
        return
    if "export(" in text:
        served.with_signatures(monkeypatch, "uint8_images")
    monkeypatch.chdir(tmp_path)
    images, maps, predictions = seen_images()
    home = vars(importlib.import_module(thing.__module__))
    names = {
        "source": source_of(images),
        **home,
        "np": np,
        "keras": keras,
        "keras_lficam": keras_lficam,
        "strategy": tf.distribute.get_strategy(),
        "tf": tf,
        "images": images,
        "image": images[0],
        "labels": np.arange(4),
        "maps": maps,
        "predictions": predictions,
        "features": np.ones((4, 8, 8, 16), "float32"),
        "attention_map": np.ones((4, 8, 8, 1), "float32"),
    }
    if "model" in text:  # Some train it, so it is not shared.
        names["model"] = small_model()
    if "importance" in text and "[image," in text:
        names["image"] = images
    if 'load("cifar10"' in text:
        tfds = pytest.importorskip("tensorflow_datasets")
        with tfds.testing.mock_data(num_examples=8):
            _run_example(text, names)
    else:
        _run_example(text, names)


def small_model(classes=10):
    shape = (32, 32, 3)
    return keras_lficam.build(backbone(shape), classes, input_shape=shape)


@functools.cache
def seen_images():
    """Images, their maps and what a model predicts of them."""
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    shown = keras_lficam.attention_view(small_model()).predict_on_batch(images)
    maps = keras_lficam.functional.resize(shown["attention_map"], (32, 32))
    return images, np.asarray(maps), shown["predictions"]


def in_the_reference():
    """Finds all that the page of reference shows."""
    page = (ROOT / "docs" / "reference.md").read_text()
    for path in re.findall(r"^::: (\S+)", page, re.M):
        home, _, name = path.rpartition(".")
        try:
            thing = importlib.import_module(path)
        except ImportError:
            yield getattr(importlib.import_module(home), name)
            continue
        yield from (
            value
            for key, value in vars(thing).items()
            if getattr(value, "__module__", None) == path and key[0] != "_"
        )


def test_every_public_name_is_in_the_reference_with_an_example():
    shown = list(in_the_reference())
    seen = 0
    for module in [keras_lficam, *public_modules()]:
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            home = getattr(thing, "__module__", "")
            ours = callable(thing) and home.startswith("keras_lficam")
            # What the rooms of the package share is not public.
            shared = module is keras_lficam.backbones and name == "load"
            shared |= module.__name__.rpartition(".")[2] in (
                "classifier",
                "surgery",
            )
            if not ours or shared:
                continue
            seen += 1
            assert any(thing is each for each in shown), f"{module}: {name}"
    assert seen > 45
    for thing in shown:
        assert "Examples:" in thing.__doc__, thing


def source_of(images):
    """Few images of ten classes, as a source of data."""
    batches = tf.data.Dataset.from_tensor_slices(
        (images.astype("uint8"), np.arange(len(images)))
    ).batch(4)
    return keras_lficam.data.from_datasets(
        batches, batches, class_names=[f"class {n}" for n in range(10)]
    )


def _run_example(text, names):
    lines = [line[4:] for line in text.split("\n")]
    if not any(">>>" in line for line in lines):
        end = next(
            (
                index
                for index, line in enumerate(lines)
                if line and not line.startswith("    ")
            ),
            len(lines),
        )
        code = "\n".join(line[4:] for line in lines[:end])
        exec(compile(code, "example", "exec"), names)
        return
    statements = doctest.DocTestParser().get_examples(text)
    for statement in statements[:-1]:
        exec(statement.source, names)
    value = eval(statements[-1].source, names)
    shown = re.findall(r"# (\[.*\])", text)[-1]
    expected = np.array(ast.literal_eval(shown))
    actual = keras.ops.convert_to_numpy(value)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def readme():
    return (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_readme_is_short_and_its_python_runs(monkeypatch, tmp_path):
    text = readme()
    assert len(text.split("\n")) <= 150
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks
    rng = np.random.default_rng(0)
    names = {
        "images": rng.uniform(0, 255, (4, 64, 64, 3)),
        "labels": np.arange(4),
    }
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_page_on_results_shows_the_runs_of_the_demo():
    page = (ROOT / "docs" / "results.md").read_text()
    with (ROOT / "benchmarks" / "demo_seeds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == list("01234")
    for name in ("accuracy", "pointing_game", "energy_in_box"):
        percent = [100 * float(row[name]) for row in rows]
        mean = sum(percent) / len(percent)
        assert (
            f"| {mean:.1f} % ({min(percent):.1f} % to {max(percent):.1f} %) |"
        ) in page
    ratios = [
        float(row["energy_in_box"]) / float(row["mean_box_area"])
        for row in rows
    ]
    mean = sum(ratios) / len(ratios)
    shown = f"| {mean:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    assert shown in page


def test_start_page_shows_the_python_of_the_readme():
    page = (ROOT / "docs" / "index.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        assert block in readme()


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "name",
    [
        "backbones",
        "debug",
        "distribute",
        "explainers",
        "serving",
        "training",
        "transformers",
        "why",
    ],
)
def test_python_of_a_page_runs(name, rng, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / f"{name}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert blocks
    small = ("debug", "distribute", "serving", "training")
    side = 32 if name in small else 64
    images = rng.uniform(0, 255, (4, side, side, 3))
    names = {
        "images": images,
        "labels": np.arange(4),
        "source": source_of(images),
        "classes": 10,
        "model": small_model(classes=3),
    }
    for block in blocks:
        exec(compile(block, f"{name}.md", "exec"), names)


def table_of(page, name):
    """Lines of the table that follows a mark in a page."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    lines = text.split(f"<!-- table: {name} -->\n\n")[1].split("\n\n")[0]
    return lines.split("\n")[2:]


def rows_of(name):
    with (ROOT / "benchmarks" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_page_on_benchmarks_shows_the_costs_of_explainers():
    rows, lines = rows_of("explainers"), table_of("benchmarks", "explainers")
    for row, line in zip(rows, lines, strict=True):
        case, task, contender, seconds, ratio, memory = line.strip("| ").split(
            " | "
        )
        assert case == f"`{row['case']}`"
        assert row["model"] in task
        assert contender == row["contender"]
        assert seconds == f"{float(row['seconds_per_image']):.3g} s"
        assert ratio == f"{float(row['ours_over_it']):.3g}"
        assert memory == f"{float(row['peak_memory_gb']):.2f} GB"


def test_page_on_results_shows_the_comparison():
    rows = rows_of("comparison")
    explainers = list(dict.fromkeys(row["explainer"] for row in rows))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    assert explainers == [*keras_lficam.comparison.STANDARD_EXPLAINERS]
    of = {(row["metric"], row["explainer"]): row for row in rows}
    expected = [
        [f"{float(of[metric, name]['mean']):.3f}" for name in explainers]
        for metric in metrics
    ]
    costs = [of[metrics[0], name] for name in explainers]
    expected += [
        [f"{float(row['seconds_per_image']):.2g}" for row in costs],
        [row["forward_passes"] for row in costs],
        [row["backward_passes"] for row in costs],
    ]
    shown = [
        line.strip("| ").split(" | ")[1:]
        for line in table_of("results", "comparison")
    ]
    assert shown == expected


def test_page_on_benchmarks_shows_the_costs_of_training():
    rows = {
        question: [
            row for row in rows_of("training") if row["question"] == question
        ]
        for question in ("step", "pipeline", "replicas")
    }
    lines = table_of("benchmarks", "step")
    for row, line in zip(rows["step"], lines, strict=True):
        ratio = float(row["ratio"])
        assert line.strip("| ").split(" | ") == [
            f"`{row['case']}`",
            f"{float(row['seconds_other']):.2f} s",
            f"{ratio:.2f}",
        ]
        assert (row["image_size"], row["batch_size"]) == ("224", "8")
        assert ratio <= 1.08
    lines = table_of("benchmarks", "pipeline")
    for row, line in zip(rows["pipeline"], lines, strict=True):
        images = 10 * int(row["batch_size"]) / float(row["seconds"])
        ratio = float(row["ratio"])
        assert line.strip("| ").split(" | ") == [
            row["case"],
            f"{images:,.0f}",
            f"{ratio:.3f}",
        ]
        assert ratio < 1
    (row,) = rows["replicas"]
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert f"weights of one up to {row['difference']} after eight" in page
    assert float(row["difference"]) < 1e-12


def test_page_on_serving_shows_the_costs_of_the_table():
    rows, lines = rows_of("serving"), table_of("serving", "serving")
    for row, line in zip(rows, lines, strict=True):
        assert line.strip("| ").split(" | ") == [
            row["runtime"],
            row["batch_size"],
            f"{float(row['milliseconds_class']):.1f}",
            f"{float(row['milliseconds_map']):.1f}",
            f"{float(row['map_over_class']):.2f}",
        ]
        if row["runtime"] == "SavedModel":
            assert float(row["map_over_class"]) <= 1.05


FLOAT32 = ("saved_model", "onnx", "openvino, float32", "litert")


def test_page_on_serving_shows_how_formats_agree():
    rows = rows_of("serving_agreement")
    lines = table_of("serving", "agreement")
    for row, line in zip(rows, lines, strict=True):
        assert line.strip("| ").split(" | ") == [
            row["format"],
            row["probabilities"],
            row["map"],
            f"{float(row['same_class']):.1%}",
            row["rank_correlation"],
            row["evidence"],
            row["evidence_rank_correlation"],
            row["exactness"],
        ]
        assert row["images"] == "200"
        ranks = float(row["evidence_rank_correlation"])
        assert ranks > (0.8 if row["format"] == "litert_int8" else 0.999)
        if row["format"] in FLOAT32:
            for name in ("probabilities", "map", "evidence", "exactness"):
                assert float(row[name]) <= 1e-4


def test_page_on_backbones_shows_the_figures_of_the_table():
    page = (ROOT / "docs" / "backbones.md").read_text()
    with (ROOT / "benchmarks" / "backbones.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["backbone"] for row in rows] == keras_lficam.backbones.names()
    shown = page[page.index("## Parameters and time") :].split("\n")
    shown = [line for line in shown if line.startswith("| `")]
    assert len(shown) == len(rows)
    for row, line in zip(rows, shown, strict=True):
        name, size, plain, ours, shape, kind, ratio = line.strip("| ").split(
            " | "
        )
        assert name == f"`{row['backbone']}`"
        assert size == row["image_size"]
        for text, column in [(plain, "plain"), (ours, "lfi_cam")]:
            millions = int(row[f"parameters_{column}"]) / 1e6
            assert text == f"{millions:.2f} M"
        assert shape == f"{row['rows']}x{row['columns']}x{row['channels']}"
        assert kind == {"True": "exact", "False": "Recipro-CAM"}[row["exact"]]
        assert ratio == f"{float(row['ratio']):.2f}"
        if row["image_size"] == "224":
            assert float(ratio) <= 1.10, name
    worst = max(
        float(row["ratio"])
        for row in rows
        if row["backbone"]
        in {
            "DenseNet121",
            "ResNet50",
            "MobileNetV2",
            "EfficientNetB0",
            "ConvNeXtTiny",
        }
    )
    assert worst <= 1.05


@pytest.mark.slow
def test_pages_are_written_from_the_tables():
    done = subprocess.run(
        [sys.executable, "benchmarks/pages.py", "--check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def blocks_of(path):
    """Paragraphs, tables and images of a page or of a notebook's text."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join(
            "".join(cell["source"])
            for cell in cells
            if cell["cell_type"] == "markdown"
        )
    blocks = re.split(r"\n\s*\n", text)
    return [block for block in blocks if not block.startswith("<!--")]


# How long one thing takes beside another: in words; as 1.03, which no share or
# accuracy is; or as a column of a table.
IN_WORDS = re.compile(
    r"\btimes\s+(?:as\s+(?:fast|long|slow)|faster|slower|longer|the\s+plain)"
    r"|\bup\s+to\s+\S+\s+times\b"
    r"|\b(?:twice|half)\s+(?:as\s+(?:fast|long|slow)|the\s+time)\b"
    r"|\b0\.\d+\s+of\s+(?:\S+\s+){0,3}time\b"
)
AS_NUMBER = re.compile(r"(?<![\d.±+-])1\.\d\d+(?!\.?\d)")
AS_COLUMN = re.compile(r"\bratio\b|/ (?:plain|step)\b|\bover it\b|time over")
PROCESSOR = re.compile(r"\b(?:processors?|EPYC|Xeon|Ryzen|AVX\S*|H200|A100)\b")


def ratios_without_a_processor(blocks):
    """Blocks of a page that state a ratio of times and no processor.

    A table or an image may be named by the block before or behind it.
    """
    for number, block in enumerate(blocks):
        is_table = block.startswith("|")
        if is_table:
            found = AS_COLUMN.search(block.split("\n")[0])
        else:
            found = AS_NUMBER.search(block)
        if not (found or IN_WORDS.search(block)):
            continue
        near = [block]
        if is_table or block.startswith("!["):
            near = blocks[max(0, number - 1) : number + 2]
        if not any(map(PROCESSOR.search, near)):
            yield block


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("The default takes 1.03 times as long.", True),
        ("The default takes 1.03 times as long on an AMD EPYC.", False),
        ("At 1.028 it is near.", True),
        ("The maps agree, 0.97, and 1.3 points are gained.", False),
        ("Score-CAM is up to five\ntimes slower.", True),
        ("It needs half the time.", True),
        ("It takes 0.80 of xplique's time.", True),
        ("Images of 20 epochs, two at a time.", False),
        ("| a | ratio |\n| --- | --- |\n| b | 1.02 |", True),
        ("| a |\n| --- |\n| 60 times as fast |", True),
        ("| a | ratio |\n\nMeasured on: processor unknown.", False),
        ("An AMD EPYC.\n\nElsewhere 1.03.", True),
    ],
)
def test_a_ratio_without_a_processor_is_seen(text, wrong):
    found = list(ratios_without_a_processor(text.split("\n\n")))
    assert bool(found) == wrong


def test_no_page_states_a_ratio_without_its_processor():
    pages = [
        ROOT / "README.md",
        ROOT / "benchmarks" / "evidence" / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("saved_models/*/README.md"),
        *ROOT.glob("tutorials/*.ipynb"),
    ]
    assert len(pages) > 20
    for page in pages:
        assert not list(ratios_without_a_processor(blocks_of(page))), page


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", readme()):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_contributing_and_decisions_are_short():
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(contributing.rstrip("\n").split("\n")) <= 40
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(path.read_text().rstrip("\n").split("\n")) <= 60, path


def test_version_is_the_same_everywhere():
    version = keras_lficam.__version__
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
