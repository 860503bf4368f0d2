"""The command, run as a person runs it."""

import contextlib
import csv
import functools
import inspect
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import types
import zipfile

import h5py
import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from image_files import damaged
from small_classifiers import backbone

import keras_lficam
from keras_lficam import cli, comparison, data, explainers, metrics
from keras_lficam.cli import (
    _measuring,
    _models,
    _output,
    _words,
    explain as explain_command,
)
from keras_lficam.data import digits_in_photos
from keras_lficam.explanation import ExplanationView


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a demo on few images, and where these are."""
    folder = tmp_path_factory.mktemp("demo")
    small = {"train": 128, "validation": 20, "test": 60}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_in_photos.builder, "NUM_EXAMPLES", small)
        read_from(folder, patch)
        run = folder / "runs" / "demo"
        words = ["demo", "--output", str(run), "--epochs", "2"]
        assert cli.main(words) == 0
    return run, folder


def small_model(*shape, classes=3, **options):
    """A model of LFI-CAM, whose answers differ from image to image."""
    model = keras_lficam.build(
        backbone(shape), classes, input_shape=shape, **options
    )
    dense = model.get_layer("head").get_layer("classifier")
    kernel, bias = dense.get_weights()
    dense.set_weights([30 * kernel, bias])
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    small_model(32, 32, 3).save(path)
    return path


@pytest.fixture
def model_file(tmp_path, saved):
    (tmp_path / "model").mkdir()
    return pathlib.Path(shutil.copy(saved, tmp_path / "model"))


@pytest.fixture
def image_file(tmp_path, rng):
    pixels = rng.integers(0, 256, (40, 80, 3), dtype="uint8")
    PIL.Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


COMPARE = ["compare", "m.keras", "--data", "d", "--output", "o"]


def explain(*words):
    return cli.main(["explain", *map(str, words)])


def answers(capsys):
    """The lines of the images, without those of their classes."""
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if re.search(r"%\), .*_overlay.png$", line)]


def written_to(folder):
    return sorted(path.name for path in folder.iterdir())


def gray_image(path, shade=90):
    path.parent.mkdir(exist_ok=True)
    PIL.Image.new("RGB", (20, 20), (shade,) * 3).save(path)
    return path


@pytest.mark.end_to_end
def test_demo_leaves_what_it_says(demo):
    run, _ = demo
    assert sorted(path.name for path in run.iterdir()) == [
        "gallery.png",
        "images",
        "labels.txt",
        "metrics.json",
        "model.keras",
        "training",
    ]
    assert not [p for p in run.parent.iterdir() if p != run]
    assert (run / "labels.txt").read_text().split() == list("0123456789")
    assert len((run / "training/log.csv").read_text().splitlines()) == 3
    with PIL.Image.open(run / "gallery.png") as gallery:
        assert gallery.width > 900


@pytest.mark.end_to_end
def test_metrics_of_the_demo_equal_a_slow_count(demo):
    run, folder = demo
    model = keras.models.load_model(run / "model.keras")
    batches = data.load(
        "digits_in_photos", "test", data_dir=folder, with_masks=True
    )
    right, hits, energies, areas = [], [], [], []
    for images, labels, masks in batches.as_numpy_iterator():
        guesses = np.argmax(model(images, training=False), axis=-1)
        maps = keras_lficam.explainers.AttentionMap(model)(images)
        right.extend(guesses == labels)
        for heat, mask in zip(maps[..., 0], masks[..., 0], strict=True):
            rows, columns = np.nonzero(mask)
            box = np.zeros((64, 64))
            box[
                rows.min() : rows.max() + 1, columns.min() : columns.max() + 1
            ] = 1
            tops = heat == heat.max()
            hits.append(box[tops].mean())
            energies.append((heat * box).sum() / max(heat.sum(), 1e-30))
            areas.append(box.mean())
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_images"] == len(right) == 60
    assert metrics["accuracy"] == pytest.approx(np.mean(right), abs=1e-4)
    assert metrics["pointing_game"] == pytest.approx(np.mean(hits), abs=1e-4)
    assert metrics["energy_in_box"] == pytest.approx(
        np.mean(energies), abs=1e-3
    )
    assert metrics["mean_box_area"] == pytest.approx(np.mean(areas), abs=1e-4)
    assert metrics["train_seconds"] > 0


@pytest.mark.end_to_end
def test_demo_never_overwrites(demo, capsys):
    run, _ = demo
    before = (run / "model.keras").read_bytes()
    assert cli.main(["demo", "--output", str(run)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (run / "model.keras").read_bytes() == before


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert said == f"keras-lficam {keras_lficam.__version__}\n"


def test_demo_that_is_stopped_leaves_nothing(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_models, "source", stop)
    assert cli.main(["demo", "--output", str(tmp_path / "runs" / "a")]) == 130
    assert not list((tmp_path / "runs").iterdir())
    expected = f"Stopped; nothing was written to {tmp_path / 'runs' / 'a'}."
    assert expected in capsys.readouterr().err


def test_explain_that_is_stopped_says_what_it_has_written(
    model_file, tmp_path, monkeypatch, capsys
):
    explained = explain_command._explain_image

    def stop_at_b(task, path, targets):
        if path.stem == "b":
            raise KeyboardInterrupt
        return explained(task, path, targets)

    monkeypatch.setattr(explain_command, "_explain_image", stop_at_b)
    paths = [gray_image(tmp_path / f"{name}.png") for name in "abc"]
    out = tmp_path / "out"
    assert explain(model_file, *paths, "--output", out) == 130
    assert written_to(out) == ["a_evidence.png", "a_overlay.png"]
    assert capsys.readouterr().err.endswith(
        f"Stopped; 1 of 3 images were explained, their files are in {out}.\n"
    )


def test_warnings_of_tensorflow_datasets_about_itself_are_not_shown(caplog):
    _models.start_keras()
    log = logging.getLogger("absl")
    log.warning("`FeatureConnector.dtype` is deprecated. Please change it.")
    log.warning("Something else is deprecated.")
    assert [record.getMessage() for record in caplog.records] == [
        "Something else is deprecated."
    ]


@pytest.mark.end_to_end
def test_explain_classifies_and_draws(demo, tmp_path, capsys):
    run, _ = demo
    images = sorted((run / "images").iterdir())[:3]
    assert explain(run / "model.keras", *images, "--output", tmp_path) == 0
    model = keras.models.load_model(run / "model.keras")
    for path, line in zip(images, answers(capsys), strict=True):
        pixels = np.asarray(PIL.Image.open(path))[np.newaxis]
        scores = np.asarray(model(pixels, training=False))[0]
        expected = f"{scores.argmax()} ({100 * scores.max():.0f} %)"
        overlay = tmp_path / f"{path.stem}_overlay.png"
        assert line == f"{path}: {expected}, {overlay}"
        with PIL.Image.open(overlay) as drawn:
            assert drawn.size == (512, 512)


@pytest.mark.slow
def test_names_of_the_classes_are_read_beside_the_model(
    model_file, image_file, tmp_path, capsys
):
    labels = model_file.with_name("labels.txt")
    explain(model_file, image_file, "--output", tmp_path / "numbers")
    model, hint, *_, line = (
        capsys.readouterr().out.partition(" %), ")[0].splitlines()
    )
    assert model == f"Model: {model_file}, of 3 classes: 0, 1, 2"
    assert hint == f"For names instead of numbers: {labels}, one a line"
    assert line.split(": ")[1][:2] in ("0 ", "1 ", "2 ")
    labels.write_text("ant\nbee\ncow\n")
    explain(model_file, image_file, "--output", tmp_path / "out")
    said = capsys.readouterr().out
    assert said.startswith(
        f"Model: {model_file}, of 3 classes: ant, bee, cow\nevidence inside"
    )
    assert re.search(f"{image_file}: (ant|bee|cow) ", said)
    labels.write_bytes(b"ant\nb\xff\ncow\n")
    assert explain(model_file, image_file, "--output", tmp_path / "more") == 2
    assert "labels.txt: the file is no UTF-8 text" in capsys.readouterr().err
    labels.write_text("ant\n")
    assert explain(model_file, image_file, "--output", tmp_path / "more") == 2
    assert "each of the model's 3 classes" in capsys.readouterr().err


def test_bad_images_are_named_and_the_others_done(
    model_file, image_file, tmp_path, capsys
):
    bad = tmp_path / "bad"
    bad.mkdir()
    damaged(bad, np.zeros((20, 30, 3), "uint8"))
    names = ["truncated.jpg", "empty.png", "text.png", "missing.png"]
    images = [bad / names[0], image_file, *(bad / name for name in names[1:])]
    assert explain(model_file, *images, "--output", tmp_path / "out") == 1
    shown = capsys.readouterr()
    errors = shown.err.splitlines()
    for name, line in zip(names, errors, strict=False):
        assert line.startswith(f"{bad / name}: ")
    assert errors[-1] == "4 of 5 images not explained"
    assert shown.out.count("%), ") == shown.out.count(f"\n{image_file}: ") == 1
    # One image needs no contact sheet.
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == [
        "photo_evidence.png",
        "photo_overlay.png",
    ]


def test_overlay_has_the_shape_of_the_image_and_is_never_overwritten(
    model_file, image_file, tmp_path, capsys
):
    out = tmp_path / "out"
    assert explain(model_file, image_file, "--output", out) == 0
    with PIL.Image.open(out / "photo_overlay.png") as drawn:
        assert drawn.size == (512, 256)
    before = (out / "photo_overlay.png").read_bytes()
    assert explain(model_file, image_file, "--output", out) == 1
    assert "exists. To fix this: give another folder" in capsys.readouterr().err
    assert (out / "photo_overlay.png").read_bytes() == before


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["cat/1.png", "cat/2.png"], ["1", "2"]),
        (["cat/1.png", "dog/1.png"], ["cat/1", "dog/1"]),
        (["a/1.png", "a/b/1.png", "a/b/2.png"], ["1", "b/1", "b/2"]),
        (["a/1.png", "a/1.jpg", "a/2.jpg"], ["1.png", "1.jpg", "2"]),
        # The first two would be equal, and one of them equals the third.
        (["1.png", "1.jpg", "1.jpg.png"], ["1.png", "1.jpg", "1.jpg.png"]),
        (["A.png", "a.jpg"], ["A.png", "a.jpg"]),
        (["1", "1.png"], ["1", "1.png"]),
    ],
)
def test_no_two_overlays_have_one_name(paths, expected):
    names = _output.overlay_names(list(map(pathlib.Path, paths)))
    assert list(map(str, names)) == paths
    assert [str(name) for name in names.values()] == [
        f"{name}_overlay.png" for name in expected
    ]


@pytest.mark.slow
def test_images_of_equal_names_are_all_explained(model_file, tmp_path, capsys):
    names = ["cat/1.png", "dog/1.png", "dog/1.jpg"]
    paths = [
        gray_image(tmp_path / name, shade)
        for name, shade in zip(names, (0, 120, 240), strict=True)
    ]
    twice = tmp_path / "cat" / ".." / "cat" / "1.png"
    out = tmp_path / "out"
    assert explain(model_file, *paths, twice, "--output", out) == 0
    overlays = ["cat/1_overlay.png"]
    overlays += ["dog/1.png_overlay.png", "dog/1.jpg_overlay.png"]
    for line, overlay in zip(answers(capsys), overlays, strict=True):
        assert line.endswith(f", {out / overlay}")
    found = [path for path in out.rglob("*_*.png") if path.is_file()]
    evidence = [name.replace("_overlay", "_evidence") for name in overlays]
    assert {str(path.relative_to(out)) for path in found} == {
        *overlays,
        *evidence,
        "contact_sheet.png",
    }
    assert len({path.read_bytes() for path in found}) == 7


KILLED = """
import os, pathlib, signal, sys
import PIL.Image
from keras_lficam import cli

def save(image, path):
    pathlib.Path(path).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

PIL.Image.Image.save = save
cli.main(sys.argv[1:])
"""


@pytest.mark.end_to_end
def test_explain_that_was_killed_is_run_again(model_file, image_file, tmp_path):
    out = tmp_path / "out"
    words = ["explain", model_file, image_file, "--output", out]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)])
    assert done.returncode == -signal.SIGKILL
    assert not (out / "photo_overlay.png").exists()
    assert explain(*words[1:]) == 0
    assert written_to(out) == ["photo_evidence.png", "photo_overlay.png"]
    with PIL.Image.open(out / "photo_overlay.png") as drawn:
        drawn.load()


@pytest.mark.parametrize("command", ["explain", "compare", "demo", "export"])
@pytest.mark.parametrize(
    "folder", ["/proc/x", "/proc/x/y", "x" * 300, "/dev/null/x"]
)
def test_folder_that_cannot_be_made_is_refused_in_a_line(
    folder, command, model_file, image_file, capsys
):
    words = {
        "explain": ["explain", model_file, image_file],
        "compare": ["compare", model_file, *ON_DIGITS],
        "demo": ["demo"],
        "export": ["export", model_file],
    }[command]
    assert cli.main([*map(str, words), "--output", folder]) == 2
    error = capsys.readouterr().err
    start = f"keras-lficam {command}: {folder}"
    assert error.startswith((start, start.rpartition("/")[0]))
    assert "Errno" not in error
    assert error.count("\n") == 1


def test_path_that_is_too_long_is_refused_in_a_line(
    model_file, image_file, tmp_path, capsys
):
    long = tmp_path / ("x" * 300 + ".keras")
    assert explain(long, image_file, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert (
        error == f"keras-lficam explain: {long}: there is no such model file\n"
    )
    # The name of the image is short enough, and that of its overlay is not.
    name = gray_image(tmp_path / ("y" * 250 + ".png"))
    assert explain(model_file, name, "--output", tmp_path / "out") == 1
    overlay = tmp_path / "out" / ("y" * 250 + "_overlay.png")
    error = capsys.readouterr().err.splitlines()[0]
    assert error == f"{overlay}: file name too long"
    assert not (tmp_path / "out").exists()


MY_LAYERS = """
import keras

class Double(keras.layers.Layer):
    def call(self, x):
        return 2 * x

@keras.saving.register_keras_serializable("mine")
def triple(x):
    return 3 * x
"""


@pytest.fixture
def with_own_layers(tmp_path):
    """A model with a layer and a function that Keras does not know."""
    (tmp_path / "my_own_layers.py").write_text(MY_LAYERS)
    found = {}
    exec(compile(MY_LAYERS, "layers", "exec"), found)
    layers = keras.layers
    own = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 3, strides=4, activation=found["triple"]),
            found["Double"](),
        ]
    )
    model = keras_lficam.build(own, 3, input_shape=(32, 32, 3))
    model.save(tmp_path / "own.keras")
    model.save(tmp_path / "own.h5")
    # As in a process in which nothing has registered it.
    keras.saving.get_custom_objects().pop("mine>triple")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_layers_of_the_user_are_imported(
    ending, with_own_layers, image_file, monkeypatch, capsys
):
    folder = with_own_layers
    words = [folder / f"own.{ending}", image_file, "--output", folder / "out"]
    assert explain(*words) == 2
    error = capsys.readouterr().err
    assert re.search("'(Double|mine>triple|triple)' that Keras does", error)
    assert "--import my_layers.py" in error
    assert error.count("\n") == 1
    monkeypatch.chdir(folder)
    assert explain(*words, "--import", folder / "my_own_layers.py") == 0
    shutil.rmtree(folder / "out")
    before = list(sys.path)
    assert explain(*words, "--import", "my_own_layers") == 0
    assert sys.path == before
    del sys.modules["my_own_layers"]


def test_import_that_fails_is_refused_in_a_line(
    model_file, image_file, tmp_path, capsys
):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    for name, reason in [
        ("no_such_module", "ModuleNotFoundError: No module named"),
        (str(tmp_path / "none.py"), "FileNotFoundError"),
        (str(tmp_path / "bad.py"), "ZeroDivisionError: division by zero"),
    ]:
        words = [model_file, image_file, "--output", tmp_path / "out"]
        assert explain(*words, "--import", name) == 2
        error = capsys.readouterr().err
        assert f"--import {name}: it cannot be imported ({reason}" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_file_of_keras_2_is_named_as_such(ending, image_file, tmp_path, capsys):
    path = tmp_path / f"old.{ending}"
    layer = {"class_name": "Functional", "module": "tf_keras.src.engine"}
    config = {**layer, "config": {"name": "model", "layers": []}}
    if ending == "h5":
        with h5py.File(path, "w") as file:
            file.attrs["keras_version"] = "2.15.0"
            file.attrs["model_config"] = json.dumps(
                {"class_name": "Elsewhere", "config": {}}
            )
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("metadata.json", '{"keras_version": "2.15.0"}')
            archive.writestr("model.weights.h5", b"")
    assert explain(path, image_file, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"{path}: the file is of Keras 2.15.0, which is Keras 2" in error
    assert "--import" not in error
    assert error.count("\n") == 1


def test_full_disk_leaves_no_half_overlay(
    model_file, image_file, tmp_path, monkeypatch, capsys
):
    def fill_up(_, path):
        path.write_bytes(b"half an image")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PIL.Image.Image, "save", fill_up)
    out = tmp_path / "out"
    assert explain(model_file, image_file, "--output", out) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not out.exists()


def test_open_size_model_explains_an_image_as_it_is(
    image_file, tmp_path, capsys
):
    model = small_model(None, None, 3)
    model.save(tmp_path / "open.keras")
    out = tmp_path / "out"
    assert explain(tmp_path / "open.keras", image_file, "--output", out) == 0
    pixels = np.asarray(PIL.Image.open(image_file))[np.newaxis]
    best = np.max(model(pixels, training=False))
    assert f"({100 * best:.0f} %)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_become_probabilities_as_the_user_says(
    activation, image_file, tmp_path, capsys
):
    model = small_model(40, 80, 3, classifier_activation=None)
    model.save(tmp_path / "logits.keras")
    words = [
        tmp_path / "logits.keras",
        image_file,
        "--output",
        tmp_path / "out",
    ]
    assert explain(*words) == 2
    error = capsys.readouterr().err
    assert "this model gives logits. To fix this: say" in error
    assert "--activation softmax if one class is right" in error
    assert explain(*words, "--activation", activation) == 0
    pixels = np.asarray(PIL.Image.open(image_file))[np.newaxis]
    logits = np.asarray(model(pixels, training=False))[0].astype("float64")
    best = {
        "softmax": np.exp(logits).max() / np.exp(logits).sum(),
        "sigmoid": 1 / (1 + np.exp(-logits.max())),
    }[activation]
    assert f"({100 * best:.0f} %)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["sigmoid", None])
@pytest.mark.parametrize("bias", [-3.0, 2.0])
def test_one_score_names_two_classes(ends, bias, image_file, tmp_path, capsys):
    model = small_model(32, 32, 3, classes=1, classifier_activation=ends)
    dense = model.get_layer("head").get_layer("classifier")
    kernel, _ = dense.get_weights()
    dense.set_weights([0 * kernel, np.array([bias])])
    model.save(tmp_path / "one.keras")
    words = [tmp_path / "one.keras", image_file, "--output", tmp_path / "out"]
    if ends is None:
        assert explain(*words) == 2
        assert "--activation sigmoid if this is the logit of the second" in (
            capsys.readouterr().err
        )
        words += ["--activation", "sigmoid"]
    # sigmoid(-3) = 0.047, sigmoid(2) = 0.881
    index, percent = (0, 95) if bias < 0 else (1, 88)
    assert explain(*words) == 0
    assert f": {index} ({percent} %), " in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert explain(*words) == 0
    name = ["cat", "dog"][index]
    assert f": {name} ({percent} %), " in capsys.readouterr().out


def test_output_that_is_no_folder_is_refused(
    model_file, image_file, tmp_path, capsys
):
    assert explain(model_file, image_file, "--output", image_file) == 2
    assert "give another one with --output" in capsys.readouterr().err
    assert cli.main(["demo", "--output", str(image_file / "demo")]) == 2
    assert "give another one with --output" in capsys.readouterr().err


def test_large_image_is_reduced_for_a_model_of_open_size(tmp_path, monkeypatch):
    model = small_model(None, None, 3)
    model.save(tmp_path / "open.keras")
    seen = []
    predict = ExplanationView.predict

    def seeing(view, images, *arguments, **options):
        seen.append(images.shape)
        return predict(view, images, *arguments, **options)

    monkeypatch.setattr(ExplanationView, "predict", seeing)
    PIL.Image.new("RGB", (3000, 300)).save(tmp_path / "wide.png")
    out = tmp_path / "out"
    words = [tmp_path / "open.keras", tmp_path / "wide.png"]
    assert explain(*words, "--output", out) == 0
    assert seen == [(1, 102, 1024, 3)]
    with PIL.Image.open(out / "wide_overlay.png") as drawn:
        assert drawn.size == (512, 51)


def test_wrong_model_is_refused_in_one_line(
    model_file, image_file, tmp_path, capsys
):
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    plain.save(tmp_path / "plain.keras")
    good = model_file.read_bytes()
    middle = len(good) // 2
    flipped = bytes([good[middle] ^ 255])
    for name, content in {
        "text": b"no model",
        "empty": b"",
        "truncated": good[:middle],
        "flipped": good[:middle] + flipped + good[middle + 1 :],
    }.items():
        (tmp_path / f"{name}.keras").write_bytes(content)
    (tmp_path / "text.h5").write_text("no model")
    for name, reason in [
        ("missing.keras", "there is no such model file"),
        ("text.keras", "the file is empty or damaged"),
        ("empty.keras", "the file is empty or damaged"),
        ("truncated.keras", "the file is empty or damaged"),
        ("flipped.keras", "this is no model that Keras can load"),
        ("text.h5", "this is no model that Keras can load"),
        ("plain.keras", "this model gives scores"),
    ]:
        words = [tmp_path / name, image_file, "--output", tmp_path / "out"]
        assert explain(*words) == 2
        error = capsys.readouterr().err
        assert f"{tmp_path / name}: {reason}" in error
        assert error.count("\n") == 1


# compare and evaluate ------------------------------------------------------


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory):
    """A model that takes the images of the demo."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("of_digits") / "model.keras"
    small_model(64, 64, 3, classes=10).save(path)
    return path


@pytest.mark.slow
def test_16_bits_are_read_as_in_training(model_file, rng, tmp_path):
    gray = rng.integers(0, 256, (20, 30), dtype="uint8")
    PIL.Image.fromarray(gray).save(tmp_path / "plain.png")
    deep = np.rint(gray / 255 * 4095).astype("uint16")
    PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
    images = [tmp_path / "plain.png", tmp_path / "deep.png"]
    run = model_file.with_name("run.json")
    for number, (text, words, same) in enumerate(
        [
            ("{}", [], False),
            ('{"data": {"bits": 12}}', [], True),
            ('{"data": {"bits": 12}}', ["--bits", "16"], False),
            ('{"data": {"bits": 16}}', ["--bits", "12"], True),
        ]
    ):
        run.write_text(text)
        folder = tmp_path / str(number)
        explain(model_file, *images, "--output", folder, *words)
        plain, darker = (
            np.asarray(PIL.Image.open(folder / f"{name}_overlay.png"))
            for name in ("plain", "deep")
        )
        assert np.array_equal(plain, darker) == same


def test_classes_of_a_sample_are_said_and_those_absent_warned_of(capsys):
    chosen = types.SimpleNamespace(
        counts={"ant": 3, "bee": 0, "cow": 1},
        absent=["bee"],
        count=lambda split: 4,
    )
    _measuring._say_classes(chosen, "test")
    shown = capsys.readouterr()
    assert shown.out == "     Images: 4 (ant: 3, bee: 0, cow: 1)\n"
    assert "1 of 3 classes have no image among them: bee;" in shown.err


@pytest.fixture(scope="module")
def compared(demo, of_digits):
    """The folder of a comparison, on the data of the demo."""
    _, folder = demo
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        read_from(folder, patch)
        words = ["compare", str(of_digits), *ON_DIGITS]
        words += ["--output", "compared", "--other", str(of_digits)]
        words += ["--explainers", "AttentionMap", "GradCAM"]
        assert cli.main(words) == 0
    return folder / "compared"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compare", "evaluate"])
def test_a_damaged_image_is_named_once(command, tmp_path, capsys, caplog):
    for name, level in (("ant", 60), ("bee", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.full((16, 16, 3), level + number, "uint8")
            path = tmp_path / "data" / name / f"{number}.png"
            PIL.Image.fromarray(pixels).save(path)
            if (name, number) == ("bee", 5):
                path.write_bytes(path.read_bytes()[:40])
    keras.utils.set_random_seed(0)
    model = keras_lficam.build(
        backbone((16, 16, 3)), 2, input_shape=(16, 16, 3)
    )
    model.save(tmp_path / "model.keras")
    words = [command, str(tmp_path / "model.keras"), "--split", "train"]
    words += ["--data", str(tmp_path / "data"), "--count", "4"]
    option = {"compare": "--explainers", "evaluate": "--explainer"}[command]
    words += [option, "AttentionMap"]
    words += ["--output", str(tmp_path / "output")]
    assert cli.main(words) == 0
    said = "".join(capsys.readouterr()) + caplog.text
    assert said.count("5.png") == 1
    assert "1 of 24 images cannot be read and are left out" in said
    assert said.count("left out") == 1


ON_DIGITS = ["--data", "digits_in_photos", "--count", "10"]
ON_DIGITS += ["--batch-size", "4"]


def read_from(folder, patch):
    source = functools.partial(data.source, data_dir=folder)
    patch.setattr(data, "source", source)


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_explainers_of_the_command_are_those_of_the_package():
    known = {
        name
        for name in explainers.__all__
        if not inspect.isabstract(getattr(explainers, name))
    }
    assert set(_measuring.EXPLAINERS) == known
    assert tuple(comparison._KINDS) == _measuring.EXPLAINERS
    assert _words.STANDARD_METRICS == comparison.STANDARD_METRICS
    assert _words.MORE_METRICS == comparison.MORE_METRICS
    standard = comparison.STANDARD_EXPLAINERS
    assert standard == _measuring.STANDARD_EXPLAINERS
    assert [name for name in comparison._KINDS if name in standard] == [
        *standard
    ]


@pytest.mark.end_to_end
def test_compare_leaves_what_it_says(compared):
    assert sorted(path.name for path in compared.iterdir()) == [
        "comparison.csv",
        "comparison.md",
        "grid.png",
        "images.csv",
        "quality_against_time.png",
    ]
    rows = rows_of(compared / "comparison.csv")
    assert [row["metric"] for row in rows] == 2 * [
        "average_drop",
        "increase_in_confidence",
        "deletion_auc",
        "insertion_auc",
        "pointing_game",
        "energy_pointing_game",
        "localization_iou",
        "max_box_accuracy",
        "sanity",
        "stability",
    ]
    better = [row["better"] == "higher" for row in rows[:10]]
    assert better == [0, 1, 0, 1, 1, 1, 1, 1, 0, 1]
    assert {row["images"] for row in rows} == {"10"}
    assert len(rows_of(compared / "images.csv")) == 20
    report = (compared / "comparison.md").read_text()
    assert "--count 10" in report.split("\n")[0]
    assert "of the 10 images" in report
    assert "| GradCAM |" in report
    for name in ("grid.png", "quality_against_time.png"):
        with PIL.Image.open(compared / name) as drawn:
            assert np.asarray(drawn.convert("L")).std() > 10


@pytest.mark.end_to_end
def test_numbers_of_compare_equal_a_slow_count(compared, demo, of_digits):
    _, folder = demo
    model = keras.models.load_model(of_digits)
    digits = data.source("digits_in_photos", data_dir=folder)
    batches = data.sample(digits, "test", 10, seed=0).batches(
        "test", with_masks=True
    )
    images, labels, masks = next(batches.as_numpy_iterator())
    assert sorted(labels.tolist()) == list(range(10))  # One of each.
    classes = np.argmax(model(images, training=False), axis=-1)
    boxes = metrics.box_masks(masks)
    random = metrics.randomized(model, seed=0)
    values = rows_of(compared / "images.csv")
    means = {
        (row["explainer"], row["metric"]): float(row["mean"])
        for row in rows_of(compared / "comparison.csv")
    }
    for number, name in enumerate(["AttentionMap", "GradCAM"]):
        kind = getattr(explainers, name)
        maps = kind(model)(images, classes)
        expected = {
            "average_drop": metrics.average_drop(model, images, maps),
            "insertion_auc": metrics.insertion_auc(model, images, maps),
            "pointing_game": metrics.pointing_game(maps, boxes),
            "max_box_accuracy": metrics.max_box_accuracy(
                metrics.box_accuracy(maps, masks)
            ),
            "sanity": metrics.rank_correlation(
                maps, kind(random)(images, classes)
            ),
            "stability": np.ones(10),  # The other model is the same.
        }
        lines = values[10 * number : 10 * (number + 1)]
        assert [int(line["label"]) for line in lines] == labels.tolist()
        assert [int(line["class"]) for line in lines] == classes.tolist()
        for metric, wanted in expected.items():
            actual = [float(line[metric]) for line in lines]
            wanted = keras.ops.convert_to_numpy(wanted)
            np.testing.assert_allclose(actual, wanted, atol=2e-3)
            assert means[name, metric] == pytest.approx(np.mean(actual))


@pytest.mark.end_to_end
def test_compare_never_overwrites(compared, of_digits, capsys):
    words = ["compare", str(of_digits), *ON_DIGITS]
    assert cli.main([*words, "--output", str(compared)]) == 2
    assert "exists already" in capsys.readouterr().err


def plain_model(classes=10, activation="softmax"):
    """A classifier that is not ours, without a map, its head no CAM's."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, strides=4, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation=activation),
        ]
    )


@pytest.fixture(scope="module")
def plain_models(tmp_path_factory):
    """A folder with one, one that gives logits, and one of five classes."""
    folder = tmp_path_factory.mktemp("plain")
    plain_model().save(folder / "plain.keras")
    plain_model(activation=None).save(folder / "logits.keras")
    plain_model(classes=5).save(folder / "five.keras")
    return folder


@pytest.mark.slow
def test_explainers_that_cannot_are_left_out_in_a_line(
    tmp_path, plain_models, monkeypatch, demo, capsys
):
    read_from(demo[1], monkeypatch)
    few = "AttentionMap", "GradCAM"
    monkeypatch.setattr(comparison, "STANDARD_EXPLAINERS", few)
    words = ["compare", plain_models / "plain.keras", *ON_DIGITS]
    words += ["--output", tmp_path / "out"]
    words += ["--metrics", "sparseness", "pointing_game"]
    assert cli.main(list(map(str, words))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("AttentionMap left out: " in line for line in lines) == 1
    assert "3/3  Explaining by GradCAM" in lines
    found = rows_of(tmp_path / "out/comparison.csv")
    assert [(row["explainer"], row["metric"]) for row in found] == [
        ("GradCAM", "sparseness"),
        ("GradCAM", "pointing_game"),
    ]


@pytest.mark.slow
def test_data_without_masks_is_evaluated_without_localization(
    tmp_path, plain_models, capsys
):
    words = ["evaluate", plain_models / "logits.keras", "--data", "cifar10"]
    words += ["--explainer", "GradCAM", "--count", "6"]
    words += ["--output", tmp_path / "out", "--activation", "softmax"]
    with tfds.testing.mock_data(num_examples=8):
        assert cli.main(list(map(str, words))) == 0
    rows = rows_of(tmp_path / "out" / "evaluation.csv")
    assert [row["metric"] for row in rows] == [
        "average_drop",
        "increase_in_confidence",
        "deletion_auc",
        "insertion_auc",
        "sanity",
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "evaluation.csv",
        "evaluation.md",
        "images.csv",
        "metrics.json",
    ]
    said = capsys.readouterr().out
    assert "of the 6 images" in said
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["test"]
    assert found["images"] == 6
    majority = f"{found['majority_accuracy']:.1%}"
    assert "of the majority class" in said
    assert majority in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--explainer": "AttentionMap"}, "must have a layer 'attention_map'"),
        ({"--data": "nothing"}, "TensorFlow Datasets knows"),
        ({"--split": "exam"}, "`split` must be one of"),
        ({"--data": "beans"}, "knows 10 classes, and beans has 3"),
        ({"model": "logits.keras"}, "gives logits.*--activation softmax"),
        ({"--activation": "sigmoid"}, "gives probabilities.*leave it out"),
        ({"--other": "five.keras"}, "`other` must.* knows 5 classes"),
        ({"--other": "missing.keras"}, "there is no such model file"),
        ({"model": "missing.keras"}, "there is no such model file"),
        ({"--image-size": "8 8"}, r"\(32, 32\) or None.*leave it out"),
    ],
)
def test_wrong_measurement_is_refused(
    change, message, tmp_path, plain_models, monkeypatch, capsys, demo
):
    monkeypatch.chdir(plain_models)
    read_from(demo[1], monkeypatch)
    options = {
        "--data": "digits_in_photos",
        "--explainer": "GradCAM",
        "--output": str(tmp_path / "out"),
        **change,
    }
    words = ["evaluate", options.pop("model", "plain.keras")]
    for name, value in options.items():
        words += [name, *value.split()]
    with contextlib.ExitStack() as stack:
        if options["--data"] == "beans":
            stack.enter_context(tfds.testing.mock_data(num_examples=8))
        assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.startswith("keras-lficam evaluate: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: command"),
        (
            ["demo", "--epochs", "0"],
            "--epochs: must be a whole number from 1 to 10000, is '0'",
        ),
        (["demo", "--epochs", "few"], "whole number from 1 to 10000, is 'few'"),
        (
            ["demo", "--seed", "-1"],
            "whole number from 0 to 4294967295, is '-1'",
        ),
        (["explain"], "required: IMAGE"),
        (["explain", "model.keras", "a.png"], "required: --output"),
        (["explode"], "invalid choice"),
        (["compare", "m.keras", "--output", "o"], "required: --data"),
        (["evaluate", "m.keras", "--data", "d"], "--output, --explainer"),
        (
            [*COMPARE, "--explainers", "CAM", "SCAM"],
            "--explainers: invalid choice: 'SCAM'",
        ),
        (
            [*COMPARE, "--count", "0"],
            "--count: must be a whole number from 1 to 10000000, is '0'",
        ),
        ([*COMPARE, "--activation", "tanh"], "invalid choice: 'tanh'"),
    ],
)
def test_wrong_words_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.end_to_end
def test_process_shows_its_own_lines_only(model_file, image_file, tmp_path):
    """Nothing of what TensorFlow logs at its start reaches the screen."""
    words = ["explain", model_file, image_file, "--output", tmp_path / "out"]
    finished = subprocess.run(
        [sys.executable, "-m", "keras_lficam_command", *map(str, words)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k[:3] != "TF_"},
    )
    assert finished.returncode == 0
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if ":" in line] == [
        "Model",
        "For names instead of numbers",
        "evidence inside",
        "region of the attention map; attention added",
        str(image_file),
        f"Written to {tmp_path / 'out'}",
    ]


def test_command_asks_for_onednn_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    _models.start_keras()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    _models.start_keras()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
