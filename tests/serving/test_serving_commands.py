"""`export`, `predict` and `serve-check`, as a user runs them."""

import contextlib
import io
import json
import pathlib
import shutil
import tomllib

import keras
import numpy as np
import PIL.Image
import pytest
import small_onnx
import tensorflow as tf
from served import load
from small_classifiers import backbone

import keras_lficam
from keras_lficam import cli
from keras_lficam.data import digits_in_photos
from keras_lficam.serving import exporting as exporting_module, stand_in

NAMES = ["cat", "dog", "bird"]
ROOT = pathlib.Path(__file__).parents[2]
SHIPPED = ROOT / "saved_models" / "digits_in_photos"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(4)
    shape = (32, 32, 3)
    model = keras_lficam.build(backbone(shape), 3, input_shape=shape)
    model.save(folder / "model.keras")
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    return folder / "model.keras"


@pytest.fixture(scope="module")
def exporting(model_file, tmp_path_factory):
    """The folder of a version, and what was said when it was written."""
    # Has to be made.
    output = tmp_path_factory.mktemp("root") / "saved_models" / "animals"
    words = ["export", str(model_file), "--output", str(output)]
    words += ["--formats", "saved_model", "litert"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert cli.main(words) == 0
    return output / "1", said.getvalue()


@pytest.fixture(scope="module")
def exported(exporting):
    return exporting[0]


@pytest.fixture(scope="module")
def server(exported):
    with stand_in.serving(animals=exported.parent) as running:
        yield running


@pytest.fixture
def image_file(tmp_path, rng):
    pixels = rng.integers(0, 256, (40, 80, 3), dtype="uint8")
    PIL.Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def urls(server):
    return [server.rest, server.grpc]


def test_export_says_what_comes_next(exporting):
    folder, said = exporting
    assert f"Written to {folder}" in said
    assert "model.tflite" in said
    assert (folder / "model.tflite").is_file()
    assert "docker compose up" in said
    assert "--model animals" in said
    assert (folder.parents[1] / "compose.yaml").is_file()
    classify = load(str(folder)).signatures["classify"]
    answer = classify(images=tf.zeros((2, 32, 32, 3)))
    assert set(answer["class_name"].numpy()) <= {n.encode() for n in NAMES}


@pytest.mark.usefixtures("one_signature")
def test_logits_need_an_activation(tmp_path, capsys):
    shape = (32, 32, 3)
    model = keras_lficam.build(
        backbone(shape), 3, input_shape=shape, classifier_activation=None
    )
    model.save(tmp_path / "model.keras")
    words = ["export", str(tmp_path / "model.keras")]
    words += ["--output", str(tmp_path / "out" / "animals")]
    assert cli.main(words) == 2
    assert "gives logits" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([*words, "--activation", "sigmoid"]) == 0
    folder = tmp_path / "out" / "animals" / "1"
    text = (folder / "export.json").read_text()
    assert json.loads(text)["activation"] == "sigmoid"
    classify = tf.saved_model.load(str(folder)).signatures["classify"]
    pixels = np.full((1, 32, 32, 3), 90, "float32")
    scores = np.asarray(model(pixels), "float64")
    np.testing.assert_allclose(
        classify(images=tf.constant(pixels))["probabilities"],
        1 / (1 + np.exp(-scores)),
        rtol=1e-4,
    )


@pytest.mark.usefixtures("one_signature")
def test_the_next_version_is_exported(exported, model_file, tmp_path, capsys):
    # A copy, as the others are served.
    output = shutil.copytree(exported.parent, tmp_path / "animals")
    words = ["export", str(model_file), "--output", str(output)]
    assert cli.main(words) == 0
    assert (output / "2" / "saved_model.pb").is_file()
    words += ["--version", "2"]
    assert cli.main(words) == 2
    assert "this version is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "top"), [([], 3), (["--top", "2"], 2), (["--top", "all"], None)]
)
def test_evidence_of_so_many_classes_is_exported(
    words, top, model_file, tmp_path, monkeypatch
):
    given = {}

    def export(model, path, **options):
        given.update(options)
        raise ImportError("nothing is written here")

    monkeypatch.setattr(keras_lficam.serving, "export", export)
    output = ["--output", str(tmp_path / "animals")]
    assert cli.main(["export", str(model_file), *output, *words]) == 2
    assert given["top"] == top


def test_a_repository_is_written_if_it_is_wanted(
    model_file, tmp_path, monkeypatch, capsys
):
    limits = []

    def export(model, path, **options):
        limits.append(options["limits"])
        return small_onnx.write(path / "3")

    monkeypatch.setattr(keras_lficam.serving, "export", export)
    output = tmp_path / "animals"
    words = ["export", str(model_file), "--output", str(output)]
    words += ["--repository", str(tmp_path / "repository")]
    assert cli.main(words) == 2
    assert "--formats saved_model onnx" in capsys.readouterr().err
    assert not output.exists()
    words += ["--formats", "onnx", "--backend", "python"]
    words += ["--limits", "pixels=9000", "scans=7"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert f"tritonserver --model-repository {tmp_path / 'repository'}" in said
    assert (tmp_path / "repository/animals/3/model.py").is_file()
    assert limits == [keras_lficam.serving.Limits(pixels=9000, scans=7)]


@pytest.mark.parametrize("limit", ["depth=3", "pixels", "pixels=0", "scans=a"])
def test_a_limit_that_is_none_is_refused(limit, model_file, tmp_path, capsys):
    words = ["export", str(model_file), "--output", str(tmp_path / "a")]
    with pytest.raises(SystemExit):
        cli.main([*words, "--limits", limit])
    assert "--limits: must be" in capsys.readouterr().err


@pytest.mark.slow
def test_int8_is_calibrated_with_a_folder_of_images(
    model_file, tmp_path, rng, capsys
):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (20 + number, 30, 3), dtype="uint8")
        PIL.Image.fromarray(pixels).save(images / f"{number}.png")
    (images / "notes.txt").write_text("not an image")
    words = ["export", str(model_file), "--output", str(tmp_path / "animals")]
    words += ["--formats", "litert_int8"]
    assert cli.main(words) == 2
    assert "give --calibration" in capsys.readouterr().err
    assert cli.main([*words, "--calibration", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert cli.main([*words, "--calibration", str(images)]) == 0
    whole = tmp_path / "animals" / "1" / "model_int8.tflite"
    interpreter = tf.lite.Interpreter(str(whole))
    interpreter.allocate_tensors()
    kinds = {d["dtype"] for d in interpreter.get_tensor_details()}
    assert np.int8 in kinds


def explained_in(said, image_file):
    """The class of an image in what `explain` says: `FILE: CLASS (N %)`."""
    (line,) = (
        line for line in said.splitlines() if line.startswith(f"{image_file}: ")
    )
    return line.split(", ")[0]


@pytest.mark.slow
def test_a_server_reads_16_bits_as_training_and_explain_did(
    model_file, tmp_path, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(model_file.parent, folder)
    (folder / "run.json").write_text('{"data": {"bits": 12}}')
    model = folder / "model.keras"
    rows = np.arange(32 * 40, dtype="uint16").reshape(32, 40) * 3  # To 3837.
    x_ray = tmp_path / "x_ray.png"
    PIL.Image.fromarray(rows).save(x_ray)
    words = ["explain", str(model), str(x_ray)]
    assert cli.main([*words, "--output", str(tmp_path / "here")]) == 0
    explained = explained_in(capsys.readouterr().out, x_ray)
    answers = {}
    for name, more in {"run": [], "asked": ["--bits", "16"]}.items():
        target = tmp_path / "saved_models" / name
        words = ["export", str(model), "--output", str(target), *more]
        assert cli.main(words) == 0
        about = json.loads((target / "1" / "export.json").read_text())
        assert about["bits"] == (16 if more else 12)
        loaded = load(str(target / "1")).signatures["encoded_images"]
        answers[name] = {
            key: value.numpy()[0]
            for key, value in loaded(
                image_bytes=tf.constant([x_ray.read_bytes()])
            ).items()
        }
    pixels = np.rint(rows * np.float32(255 / 4095))[None, ..., None]
    images = tf.image.resize(np.repeat(pixels, 3, -1), (32, 32), antialias=True)
    expected = keras.models.load_model(model)(images).numpy()[0]
    served = answers["run"]["probabilities"]
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)
    assert np.abs(answers["asked"]["probabilities"] - served).max() > 1e-3
    best = answers["run"]["class_name"].decode()
    assert explained == f"{x_ray}: {best} ({100 * served.max():.0f} %)"


@pytest.mark.slow
def test_predict_answers_as_explain_does(
    server, model_file, image_file, tmp_path, capsys
):
    words = ["explain", str(model_file), str(image_file)]
    assert cli.main([*words, "--output", str(tmp_path / "here")]) == 0
    here = capsys.readouterr().out
    for kind, url in enumerate(urls(server)):
        output = tmp_path / f"served_{kind}"
        words = ["predict", str(image_file), "--url", url]
        words += ["--model", "animals", "--output", str(output)]
        assert cli.main(words) == 0
        served = capsys.readouterr().out
        assert served.split(", ")[0] == explained_in(here, image_file)
        overlay = PIL.Image.open(output / "photo_overlay.png")
        assert overlay.size == (80, 40)


def test_predict_names_what_is_not_answered(
    server, image_file, tmp_path, capsys
):
    content = io.BytesIO()
    PIL.Image.open(image_file).save(content, "JPEG")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(content.getvalue()[:400])
    words = ["predict", str(cut), str(tmp_path / "none.png"), str(image_file)]
    words += ["--url", server.rest, "--model", "animals"]
    words += ["--output", str(tmp_path / "served")]
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert f"{cut}: the JPEG image is damaged or cut off" in said.err
    assert "none.png: there is no such file" in said.err
    assert "2 of 3 images not answered" in said.err
    assert said.out.startswith(f"{image_file}: ")
    assert cli.main(words) == 1  # Nothing is written over.
    assert "photo_overlay.png exists" in capsys.readouterr().err


@pytest.mark.slow
def test_serve_check_says_yes_to_a_right_server(
    server, exported, capsys, monkeypatch
):
    # What is compared with is loaded once.
    monkeypatch.setattr(tf.saved_model, "load", load)
    for url in urls(server):
        words = ["serve-check", url, "--model", "animals"]
        assert cli.main([*words, "--saved-model", str(exported)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 8
        assert all(line.startswith("yes  ") for line in lines)


def test_serve_check_says_no(server, capsys):
    assert cli.main(["serve-check", server.rest, "--model", "plants"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("NO   The model is served\n")
    assert "plants" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url", "ftp://here"], "must be like http://localhost:8501"),
        (["--url", "http://localhost:9"], "no server could be reached"),
        (["--url", "grpc://localhost:9"], "no server could be reached"),
    ],
)
def test_a_server_that_is_not_there_is_named(
    image_file, capsys, words, message
):
    assert cli.main(["predict", str(image_file), "--model", "m", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_what_has_no_feature_map_is_refused(tmp_path, capsys):
    model = keras.Sequential(
        [
            keras.Input((1, 1, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    model.save(tmp_path / "plain.keras")
    words = ["export", str(tmp_path / "plain.keras")]
    assert cli.main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "has no feature map of at least 2x2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", [".", "../here", "other/../../here"])
def test_relative_output_names_the_folder_that_it_is(
    output, model_file, tmp_path, monkeypatch, capsys
):
    seen = []

    def write(formats, write_one, partial):
        seen.append(partial.parent)
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting_module, "_write_each", write)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert cli.main(["export", str(model_file), "--output", output]) == 130
    assert seen == [here]
    shown = "." if output == "." else here
    said = f"Stopped; complete versions in {shown}: none.\n"
    assert capsys.readouterr().err.endswith(said)
    assert list(tmp_path.iterdir()) == [here]


def test_model_without_a_name_is_not_exported(model_file, capsys):
    assert cli.main(["export", str(model_file), "--output", "/"]) == 2
    assert "a folder that has a name" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_model_explains_when_none_is_named(tmp_path, capsys):
    images = sorted((SHIPPED / "examples").glob("*.png"))
    assert len(images) == 6
    words = ["explain", *map(str, images), "--output", str(tmp_path / "out")]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "knows the handwritten digits 0 to 9 and nothing else" in said
    lines = [explained_in(said, image) for image in images]
    found = [line.split(": ")[1].split()[0] for line in lines]
    # The first six test images; the label follows from the number.
    expected = [
        str(digits_in_photos.compose("test", number)["label"])
        for number in range(6)
    ]
    assert found == expected
    # An overlay and the evidence of each, and a sheet of all.
    assert len(list((tmp_path / "out").iterdir())) == 13
    loaded = tf.saved_model.load(str(SHIPPED / "1"))
    content = [image.read_bytes() for image in images]
    answer = loaded.signatures["encoded_images"](
        image_bytes=tf.constant(content)
    )
    assert [name.decode() for name in answer["class_name"].numpy()] == expected


def test_the_shipped_model_is_small_and_good():
    size = sum(
        path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()
    )
    assert size <= 5_000_000
    numbers = tomllib.loads((SHIPPED / "manifest.toml").read_text())["metrics"]
    assert numbers["accuracy"] >= 0.97
    assert numbers["pointing_game"] >= 0.95
