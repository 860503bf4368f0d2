"""`keras-lficam train`, as a user runs it: killed, resumed, on two workers."""

import json
import os
import pathlib
import signal
import tempfile
import time

import keras
import numpy as np
import PIL.Image
import processes
import pytest
from logs import rows

from keras_lficam import cli, data, training
from keras_lficam.metrics.classification import measure
from keras_lficam.training import _state as state

OPTIONS = [
    *("--backbone", "ResNet8", "--recipe", "paper", "--batch-size", "16"),
    *("--learning-rate", "0.01", "--seed", "3", "--image-size", "16", "16"),
]


def save(path, kind, rng):
    pixels = rng.integers(0, 90, (32, 32, 3))
    pixels[8 * kind : 8 * kind + 8] += 150
    PIL.Image.fromarray(pixels.astype("uint8")).save(path)


def make_folder(folder, number, kinds=4):
    rng = np.random.default_rng(0)
    for index in range(number):
        kind = index % kinds
        place = folder / f"class_{kind}"
        place.mkdir(parents=True, exist_ok=True)
        save(place / f"{index:03d}.png", kind, rng)
    return folder


DAMAGED = {
    "class_1/empty.jpg": b"",
    "class_1/text.jpg": b"this is not an image",
    "class_2/zeros.png": bytes(1000),
    "class_3/header.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
}


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """A folder of 195 images, and of five files that are damaged."""
    folder = make_folder(tmp_path_factory.mktemp("data") / "images", 195)
    good = (folder / "class_0" / "000.png").read_bytes()
    truncated = {"class_0/truncated.png": good[: len(good) // 2]}
    for name, content in (DAMAGED | truncated).items():
        (folder / name).write_bytes(content)
    return folder


def train(*words):
    return cli.main(["train", *map(str, words)])


def start(*words, **more):
    return processes.start(
        ["-m", "keras_lficam_command", "train", *words], **more
    )


def start_workers(*words, **more):
    arguments = ["-m", "keras_lficam_command", "train", *words]
    arguments += ["--strategy", "multi_worker"]
    return processes.start_workers(lambda index: arguments, **more)


def weights(folder):
    """What the last step left: weights, momentum and all else.

    `model.keras` has those of the best epoch, which may be before a kill.
    """
    last = state.load(folder / "checkpoint.npz")
    assert last.finished
    return last.values


def wait_for_step(folder, step, program):
    """Waits until a checkpoint of that step or a later one is there."""
    began = time.monotonic()
    while time.monotonic() - began < 120:
        if (folder / "checkpoint.npz").exists():
            found = state.load(folder / "checkpoint.npz")
            if found.step >= step:
                return found.step
        assert program.poll() is None, program.communicate()[0]
        time.sleep(0.02)
    raise AssertionError("It saved no checkpoint.")


# ------------------------------------------------- two workers, kill, resume

UNDRAWN = ["--heat-maps-every", "0"]
# It learns its images; a flip leaves their stripes where they are.
LEARNING = [*OPTIONS, *UNDRAWN, "--batch-size", "8", "--augmentation", "flip"]
LEARNING += ["--epochs", "6", "--checkpoint-every", "4"]
SHARED = [*OPTIONS, "--epochs", "3", "--checkpoint-every", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_folder):
    """A run that nobody disturbs, in one process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    program = start("--data", data_folder, "--output", folder, *LEARNING)
    said = processes.finish(program)
    return folder, said


@pytest.mark.end_to_end
def test_a_run_that_is_killed_goes_on_as_if_it_was_not(
    tmp_path, data_folder, whole
):
    expected, _ = whole
    folder = tmp_path / "run"
    program = start("--data", data_folder, "--output", folder, *LEARNING)
    # In the second epoch of 20 steps.
    assert wait_for_step(folder, 24, program) < 100
    program.send_signal(signal.SIGKILL)
    processes.finish(program, expected=-signal.SIGKILL)
    # No option is needed but the folder.
    processes.finish(start("--output", folder, "--resume"))
    for one, other in zip(weights(folder), weights(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("log.csv", "metrics.json"):
        assert (folder / name).read_text() == (expected / name).read_text()
    assert not list(folder.glob(".*"))


@pytest.fixture(scope="module")
def in_float64(tmp_path_factory):
    """Environment of programs that compute in float64.

    In float32 replicas sum in another order, and within ten steps a net of 20
    layers makes 1e-2 of that in its weights, with or without LFI-CAM. What
    replicas compute is seen in float64, where it makes 1e-15 of it.
    """
    home = tmp_path_factory.mktemp("keras_home")
    (home / "keras.json").write_text(json.dumps({"floatx": "float64"}))
    return {"KERAS_HOME": str(home)}


@pytest.fixture(scope="module")
def synchronized(tmp_path_factory, data_folder):
    """The same in this process, with what makes replicas equal to it."""
    folder = tmp_path_factory.mktemp("synchronized") / "run"
    words = ["--data", data_folder, "--output", folder, *SHARED, *UNDRAWN]
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        assert train(*words, "--synchronize-batch-norm") == 0
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    return folder


@pytest.mark.end_to_end
def test_two_workers_of_which_one_dies_train_what_one_process_does(
    tmp_path, data_folder, synchronized, in_float64
):
    folder = tmp_path / "run"
    words = ["--data", data_folder, "--output", folder, *SHARED]
    words += ["--synchronize-batch-norm", "--resume"]
    words += ["--heat-maps-every", "2"]
    workers = start_workers(*words, **in_float64)
    wait_for_step(folder, 8, workers[0])
    # The chief, which writes the checkpoints.
    workers[0].send_signal(signal.SIGKILL)
    processes.finish(workers[0], expected=-signal.SIGKILL)
    said = processes.finish(workers[1], expected=75, timeout=100)
    assert "another worker was lost" in said.splitlines()[-1]
    chief, other = start_workers(*words, **in_float64)
    said, silent = processes.finish(chief), processes.finish(other)
    assert "Best of 3 epochs" in said
    assert "Best of" not in silent
    for one, other in zip(weights(folder), weights(synchronized), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    for row, other in zip(rows(folder), rows(synchronized), strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-5)
    found, expected = (
        json.loads((run / "metrics.json").read_text())
        for run in (folder, synchronized)
    )
    # Of each metric, too.
    for split in ("validation", "test"):
        one, other = found.pop(split), expected.pop(split)
        for name in ("accuracy", "roc_auc", "log_loss"):
            value = other[name]["value"]
            assert one[name]["value"] == pytest.approx(value, rel=1e-5)
    assert found.pop("monitor") == expected.pop("monitor") == "accuracy"
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(list((folder / "heat_maps").iterdir())) == 3  # 1, 2, 3.


# -------------------------------------------------------- a folder with faults


@pytest.mark.end_to_end
def test_damaged_images_are_named_and_the_others_trained(
    tmp_path, data_folder, whole, capfd
):
    folder, said = whole
    assert "5 of 200 images cannot be read and are left out" in said
    listed = (folder / "damaged.txt").read_text()
    for name in [*DAMAGED, "class_0/truncated.png"]:
        assert said.count(str(data_folder / name)) == 1
        assert str(data_folder / name) in listed
    assert listed.count("\n") == 5
    assert "left out: 5, named in" in said
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test_accuracy"] > 0.8
    found = metrics["test"]
    assert found["images"] == 19
    assert found["accuracy"]["value"] == pytest.approx(
        metrics["test_accuracy"], abs=1e-6
    )
    low, high = found["accuracy"]["interval"]
    assert f"({100 * low:.1f} to {high:.1%})" in said
    assert f"gives {found['majority_accuracy']:.1%}" in " ".join(said.split())
    about = json.loads((folder / "run.json").read_text())
    assert sum(about["data"]["images"].values()) == 195
    # What it says next works.
    image = data_folder / "class_2" / "002.png"
    words = [folder / "model.keras", image, "--output", tmp_path / "out"]
    assert cli.main(["explain", *map(str, words)]) == 0
    assert "class_2" in capfd.readouterr().out
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [
        f"{image.stem}_evidence.png",
        f"{image.stem}_overlay.png",
    ]


# ------------------------------------------------------------ what is refused


def refused(capsys, *words, code=2):
    """Runs the command; returns its one line of error."""
    try:
        found = train(*words)
    except SystemExit as exit:
        found = exit.code
    said = capsys.readouterr()
    assert found == code, said
    (line,) = said.err.strip().splitlines()[-1:]
    assert "Traceback" not in said.err
    return line


@pytest.mark.slow
def test_wrong_runs_are_refused_in_one_line(tmp_path, data_folder, capsys):
    one_class = make_folder(tmp_path / "one", 6, kinds=1)
    empty_class = make_folder(tmp_path / "empty", 40)
    (empty_class / "class_9").mkdir()
    other = make_folder(tmp_path / "other" / "train", 40).parent
    make_folder(other / "validation", 40, kinds=3)
    (other / "validation" / "class_7").mkdir()
    save(other / "validation" / "class_7" / "1.png", 1, np.random.default_rng())
    output = tmp_path / "run"
    for words, message in [
        (["--data", tmp_path / "none"], "none"),
        (["--data", one_class], "class"),
        (["--data", empty_class], "class_9"),
        (["--data", other], "class_7"),
        (["--data", data_folder, "--backbone", "ResNet9000"], "ResNet9000"),
        (["--data", data_folder, "--image-size", "4", "4"], "4"),
        (["--data", data_folder, "--augmentation", "swirl"], "swirl"),
        (["--data", data_folder, "--weights", tmp_path / "no.h5"], "no.h5"),
        (["--data", data_folder, "--strategy", "multi_worker"], "TF_CONFIG"),
        (["--data", data_folder, "--batch-size", "0"], "--batch-size"),
        ([], "--data"),
    ]:
        line = refused(
            capsys, "--backbone", "ResNet20", "--output", output, *words
        )
        assert message in line, line
        assert not (output / "run.json").exists()


@pytest.mark.slow
def test_data_that_is_not_there_is_refused_before_tensorflow_starts(tmp_path):
    code = (
        "import sys, keras_lficam_command\n"
        "code = keras_lficam_command.main(sys.argv[1:])\n"
        "print(code, 'tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    words = ["train", "--output", tmp_path / "run", *OPTIONS, "--data"]
    for name, hint in [("./nofolder", ""), ("cifar11", "cifar10, cifar100")]:
        said = processes.finish(processes.start(["-c", code, *words, name]))
        assert f"--data {name}: there is no such folder" in said
        assert hint in said
        assert said.endswith("2 False False\n")
        assert not (tmp_path / "run").exists()
    (tmp_path / "data").mkdir()
    words += [tmp_path / "data", "--masks", "./no.json"]
    said = processes.finish(processes.start(["-c", code, *words]))
    assert "--masks ./no.json: there is no such file or folder" in said
    assert said.endswith("2 False False\n")


@pytest.mark.slow
def test_boxes_of_some_images_guide_a_run(tmp_path, data_folder, capsys):
    """A third of the images has a box; the report finds them again."""
    files = sorted(data_folder.glob("class_*/[0-9]*.png"))
    names = [str(path.relative_to(data_folder)) for path in files]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": name} for i, name in enumerate(names)
                ],
                "annotations": [
                    {"image_id": i, "bbox": [0, 0, 32, 16]}
                    for i in range(0, len(names), 3)
                ],
            }
        )
    )
    output = tmp_path / "run"
    words = ["--data", data_folder, "--masks", boxes, *OPTIONS, *UNDRAWN]
    words += ["--epochs", "1", "--guidance", "0.5", "--guided", "evidence"]
    assert train(*words, "--guidance-share", "0.5", "--output", output) == 0
    said = capsys.readouterr().out
    about = json.loads((output / "run.json").read_text())
    recipe = about["recipe"]
    assert (recipe["guidance"], recipe["guided"]) == (0.5, "evidence")
    assert about["data"]["masks"] == str(boxes)
    source = data.source(data_folder, masks=boxes)
    masked = source.count_masks("train", 0.5)
    assert 0 < masked < source.count("train") / 5
    assert f"; with a mask for guidance: {masked}" in said
    assert rows(output)[0]["guidance_loss"] > 0
    assert (output / "report.html").stat().st_size > 10_000
    # The same run goes on with its masks, as the options are kept.
    assert train("--output", output, "--resume") == 0
    model = keras.models.load_model(output / "model.keras")
    assert len(model.outputs) == 1


def test_stopping_says_what_was_written(tmp_path, monkeypatch, capsys):
    def stop(options, folder, resume):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.train, "_run", stop)
    folder = tmp_path / "run"
    words = ["--output", folder, "--data", "cifar10", *OPTIONS, "--resume"]
    assert train(*words) == 130
    assert "no model was written" in capsys.readouterr().err
    options = {"data": "cifar10", "backbone": "ResNet8"}
    (folder / "options.json").write_text(json.dumps(options))
    assert train("--output", folder, "--resume") == 130
    said = capsys.readouterr().err
    assert "holds the run up to its last checkpoint" in said
    assert said.endswith(f"  keras-lficam train --output {folder} --resume\n")


@pytest.mark.parametrize(
    ("largest", "words", "expected"),
    [
        (3, (), None),
        (5, (), "balanced"),
        (5, ("--recipe", "paper"), None),
        (5, ("--class-weight", "none"), None),
        (3, ("--class-weight", "balanced"), "balanced"),
    ],
)
def test_unequal_classes_are_weighed(
    tmp_path, monkeypatch, largest, words, expected
):
    """Three training images of a class, and as many or five of another."""
    for split, name, count in [
        ("train", "few", 3),
        ("train", "many", largest),
        ("validation", "few", 1),
        ("validation", "many", 1),
    ]:
        place = tmp_path / "data" / split / name
        place.mkdir(parents=True)
        for number in range(count):
            pixels = np.full((20, 20, 3), 9 * number, "uint8")
            keras.utils.save_img(place / f"{number}.png", pixels)
    given = []

    def fit(model, source, recipe, **options):
        given.append(recipe.class_weight)
        raise OSError("enough")

    monkeypatch.setattr("keras_lficam.training.fit", fit)
    folders = ["--data", tmp_path / "data", "--output", tmp_path / "run"]
    recipe = [] if "--recipe" in words else ["--recipe", "modern"]
    assert train(*folders, "--backbone", "ResNet8", *recipe, *words) == 2
    assert given == [expected]


def test_the_command_says_how_it_trains():
    said = cli.train._about_recipe(
        {"weights": "imagenet"}, training.recipe("fine_tune")
    )
    assert said == (
        "Recipe fine_tune, taken with --weights: up to 16 epochs, 3 with a "
        "frozen trunk, then all layers; batch normalization of the trunk as "
        "in inference"
    )
    modern = training.recipe("modern")
    assert cli.train._about_recipe({}, modern) == "Recipe modern: 100 epochs"
    weighed = training.recipe("modern", class_counts=[300, 100])
    assert cli.train._about_recipe({}, weighed) == (
        "Recipe modern: 100 epochs; classes are weighted in the loss "
        "(--class-weight none turns that off)"
    )


def test_the_command_knows_what_epochs_can_be_compared_by():
    assert cli.train._MONITORS == training.recipes.MONITORS


def ended(monkeypatch, **more):
    """Training writes its metrics, and no report can be written."""

    def fit(*arguments, folder, **options):
        metrics = {"epochs": 3, "best_epoch": 2, "validation_accuracy": 0.25}
        text = json.dumps(metrics | {"monitor": "macro_f1"} | more)
        (folder / "metrics.json").write_text(text)

    def report(*arguments, **options):
        raise RuntimeError("no page today")

    monkeypatch.setattr("keras_lficam.training.fit", fit)
    monkeypatch.setattr("keras_lficam.reporting.report", report)


def test_a_run_is_complete_without_its_report(
    tmp_path, data_folder, monkeypatch, capsys
):
    ended(monkeypatch, test_accuracy=0.5, validation=None, test=None)
    folder = tmp_path / "run"
    assert train("--data", data_folder, "--output", folder, *OPTIONS) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        "keras-lficam train: the report was not written (no page today). The "
        f"run is complete; to try again: keras-lficam report {folder}"
    )
    assert (
        "Best of 3 epochs by macro f1: 2\n\n"
        "accuracy on the validation images: 25.0%\n"
        "accuracy on the test images: 50.0%\n"
    ) in said.out
    assert f"Written to {folder}:\n\n  model.keras " in said.out


def test_the_accuracy_is_printed_once(
    tmp_path, data_folder, monkeypatch, capsys
):
    found = measure([0, 0, 0, 1], np.eye(2)[[0, 0, 1, 1]]).to_dict()
    ended(monkeypatch, validation=found)
    words = ["--data", data_folder, "--output", tmp_path / "run", *OPTIONS]
    assert train(*words, "--report", "off") == 0
    said = capsys.readouterr()
    assert "no page today" not in said.err
    assert "accuracy on" not in said.out
    assert "On the validation images: " in said.out
    (row,) = [x for x in said.out.splitlines() if x.startswith("accuracy ")]
    assert row.split()[1] == "75.0%"


def test_damaged_options_are_named(tmp_path, capsys):
    (tmp_path / "options.json").write_text('{"data": ')
    line = refused(capsys, "--output", tmp_path, "--resume")
    assert f"{tmp_path}/options.json: the file is damaged" in line


@pytest.fixture
def nobody():
    """For as long as it lasts this process may not write what root may."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_refused(capsys, nobody):
    # Not in `tmp_path`, which its owner alone may enter.
    folder = pathlib.Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    line = refused(capsys, "--data", "/", "--output", folder, *OPTIONS)
    assert f"{folder}: the folder cannot be written (Permission denied)" in line
    folder.rmdir()


def test_an_output_that_cannot_be_a_folder_is_refused(
    tmp_path, data_folder, capsys
):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "run"
    line = refused(capsys, "--data", data_folder, "--output", output, *OPTIONS)
    assert str(tmp_path / "file") in line


@pytest.mark.end_to_end
def test_a_run_is_never_written_over(whole, data_folder, capsys):
    folder, _ = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    line = refused(capsys, "--data", data_folder, "--output", folder, *OPTIONS)
    assert "--resume" in line
    line = refused(capsys, "--output", folder, "--resume", "--seed", "4")
    assert "--seed 3, not 4" in line
    assert before == {
        path: path.stat().st_mtime_ns for path in folder.rglob("*")
    }


@pytest.mark.end_to_end
def test_the_words_of_a_run_are_few_and_useful(whole):
    folder, said = whole
    lines = said.splitlines()
    assert lines[0].startswith("Reading ")
    assert (
        "Training resnet8_lfi_cam, 80,244 parameters, on 4 classes; "
        "images: 156 for train, 20 for validation, 19 for test"
    ) in lines
    assert f"keras-lficam explain {folder}/model.keras" in said
    for noise in ("I0000", "W0000", "UserWarning", "WARNING", "DEBUG"):
        assert noise not in said
