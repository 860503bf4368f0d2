"""What `keras-lficam explain` says and draws, against `Explanation`."""

import json
import logging
import pathlib
import re
import shutil

import keras
import numpy as np
import PIL.Image
import pytest
import skimage.data
from rich.table import Table
from small_classifiers import backbone

import keras_lficam
from keras_lficam import cli, data, pretrained, visualization
from keras_lficam.cli import _contact_sheet, _output

NAMES = ["ant", "bee", "cow", "dog"]


def explain(*words):
    return cli.main(["explain", *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models with and without attention, and images of another shape."""
    keras.utils.set_random_seed(5)
    folder = tmp_path_factory.mktemp("explained")
    layers = keras.layers
    attended = keras_lficam.build(
        backbone((32, 32, 3)), 4, input_shape=(32, 32, 3)
    )
    dense = attended.get_layer("head").get_layer("classifier")
    dense.kernel.assign(20 * dense.kernel)
    dense.bias.assign([0.3, -0.2, 0.1, 0.2])
    attended.save(folder / "attended.keras")
    pooled = [
        keras.Input((32, 32, 3)),
        *backbone((32, 32, 3)).layers,
        layers.GlobalMaxPooling2D(),
    ]
    for name, activation in (("plain", "softmax"), ("logits", None)):
        plain = keras.Sequential([*pooled, layers.Dense(4, activation)])
        plain.save(folder / f"{name}.keras")
    (folder / "labels.txt").write_text("\n".join(NAMES))
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (24, 48, 3), dtype="uint8")
        PIL.Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def explanation_of(folder, model, image, classes=None, top=3):
    """The same by the function of the package, at the size of the overlay."""
    import tensorflow as tf

    pixels = data.read_image(folder / image)
    resized = tf.image.resize(pixels[None], (32, 32), antialias=True)
    large = PIL.Image.fromarray(pixels).resize(
        (512, 256), PIL.Image.Resampling.LANCZOS
    )
    return keras_lficam.explanation_view(
        keras.models.load_model(folder / model), top=top
    ).explain(resized.numpy(), classes, class_names=NAMES), np.asarray(large)[
        None
    ]


def without_nan(rows):
    return [
        {
            name: None if value != value else value
            for name, value in row.items()
            if name != "image"
        }
        for row in rows
    ]


def check_rows(rows, expected):
    assert len(rows) == len(expected)
    for row, other in zip(rows, without_nan(expected), strict=True):
        assert row == pytest.approx(other, abs=1e-5)


def pixels_of(path):
    return np.asarray(PIL.Image.open(path))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["attended", "plain"])
def test_lines_of_json_hold_the_rows(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    images = [folder / "a.png", folder / "b.png"]
    words = [folder / f"{model}.keras", *images, "--output", out, "--json"]
    assert explain(*words, "--top", "2") == 0
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in shown.out.splitlines()]
    for line, path in zip(lines, images, strict=True):
        explanation, _ = explanation_of(
            folder, f"{model}.keras", path.name, top=2
        )
        check_rows(line.pop("rows"), explanation.rows())
        assert line == {
            "file": str(path),
            "overlay": str(out / f"{path.stem}_overlay.png"),
            "evidence": str(out / f"{path.stem}_evidence.png"),
        }
    assert f"Model: {folder / model}.keras, of 4 classes: ant, " in shown.err


@pytest.mark.slow
def test_classes_and_contrast_by_name_or_number(folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = [folder / "attended.keras", folder / "a.png", "--output", out]
    words += ["--classes", "dog", "1", "3", "--contrast", "cow", "0", "--json"]
    assert explain(*words) == 0
    line = json.loads(capsys.readouterr().out)
    found, large = explanation_of(folder, "attended.keras", "a.png", [3, 1])
    check_rows(line["rows"], found.rows())
    assert [row["class"] for row in line["rows"]] == ["dog", "bee"]
    assert line["contrast"] == str(out / "a_contrast.png")
    # Why a cow and not an ant, at the size of the overlay.
    pair = found.view.predict(found.images, [2, 0])["class_evidence"]
    maps = found.view.upsample(
        pair[..., :1] - pair[..., 1:], (256, 512), (32, 32)
    )
    expected = visualization.signed_overlay(large, maps)[0].astype(int)
    drawn = pixels_of(out / "a_contrast.png").astype(int)
    assert np.abs(drawn - expected).max() <= 1


@pytest.mark.slow
def test_overlay_is_attention_or_else_evidence(folder, tmp_path):
    for model in ("attended", "plain"):
        out = tmp_path / model
        words = [folder / f"{model}.keras", folder / "a.png", "--output", out]
        assert explain(*words) == 0
        found, large = explanation_of(folder, f"{model}.keras", "a.png")
        if model == "attended":
            maps = found.view.upsample_attention(
                found.coarse_attention, (256, 512), (32, 32)
            )
            expected = visualization.overlay(large, np.clip(maps, 0, 1))
        else:
            maps = found.view.upsample(
                found.coarse_evidence[..., :1], (256, 512), (32, 32)
            )
            expected = visualization.signed_overlay(large, maps)
        drawn = pixels_of(out / "a_overlay.png").astype(int)
        assert np.abs(drawn - expected[0].astype(int)).max() <= 1
        # Image, attention map and three classes, each twice as wide as high.
        height, width = pixels_of(out / "a_evidence.png").shape[:2]
        panels = 5 if model == "attended" else 4
        assert width == round(150 * (1.9 * panels + 0.9))
        assert height == round(150 * (1.9 / 2 + 0.4))


@pytest.mark.slow
def test_of_several_labels_all_likely_ones_are_named(folder, tmp_path, capsys):
    import tensorflow as tf

    words = [folder / "logits.keras", "--activation", "sigmoid"]
    images = [folder / "a.png", folder / "b.png"]
    assert explain(words[0], *images, *words[1:], "--output", tmp_path) == 0
    told = capsys.readouterr().out
    model = keras.models.load_model(words[0])
    for image in images:
        pixels = data.read_image(image)[np.newaxis]
        pixels = tf.image.resize(pixels, (32, 32), "bilinear", antialias=True)
        chances = 1 / (1 + np.exp(-model(pixels).numpy()[0]))
        named = [NAMES[c] for c in np.argsort(-chances) if chances[c] >= 0.5]
        (line,) = (x for x in told.splitlines() if x.startswith(str(image)))
        title = line.removeprefix(f"{image}: ")
        title = title.removesuffix(f", {tmp_path / image.stem}_overlay.png")
        found = [word.split(" (")[0] for word in title.split(", ")]
        assert found == (named or ["no class"])


@pytest.mark.parametrize("model", ["attended", "plain"])
def test_table_is_readable_in_80_columns(
    model, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    words = [folder / f"{model}.keras", folder / "a.png"]
    assert explain(*words, "--output", tmp_path / "out") == 0
    said = capsys.readouterr().out
    found, _ = explanation_of(folder, f"{model}.keras", "a.png")
    rows = found.rows()
    best = rows[0]
    title = f"{best['class']} ({100 * best['probability']:.0f} %)"
    assert f"{folder / 'a.png'}: {title}, {tmp_path}" in said
    table = said.split("_overlay.png\n")[1].split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    header = ["class", "probability", "logit", "evidence inside"]
    header += ["attention added"] * (model == "attended")
    assert re.split(r"\s{2,}", table[0].strip()) == header
    for line, row in zip(table[1:], rows, strict=True):
        cells = [
            row["class"],
            f"{100 * row['probability']:.1f} %",
            f"{row['logit']:.2f}",
            f"{100 * row['evidence_inside']:.0f} %",
            f"{row['attention']:+.2f}",
        ]
        assert re.split(r"\s{2,}", line.strip()) == cells[: len(header)]


def test_long_names_of_classes_are_folded(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    model = tmp_path / "attended.keras"
    model.write_bytes((folder / "attended.keras").read_bytes())
    names = [f"{name}[/] $x^{{$ " + "long " * 12 for name in NAMES]
    (tmp_path / "labels.txt").write_text("\n".join(names))
    out = tmp_path / "out"
    assert explain(model, folder / "a.png", "--output", out) == 0
    table = capsys.readouterr().out.split("_overlay.png\n")[1]
    table = table.split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert table.count("[/] $x^{$ long") == 3
    assert (out / "a_evidence.png").exists()


@pytest.mark.slow
def test_shipped_model_is_named_with_its_limits(tmp_path, capsys):
    example = pretrained.digits_in_photos().with_name("examples") / "4.png"
    if not example.exists():  # In an installed package.
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")
        example = tmp_path / "4.png"
        PIL.Image.fromarray(pixels).save(example)
    assert explain(example, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith(
        "No model is named, so the shipped one is used. It knows the "
        "handwritten digits 0 to 9 and nothing else, and calls every image "
        "one of them.\n"
    )


@pytest.fixture
def photos(folder, tmp_path):
    """A folder with images, a folder in it, and files that are no images."""
    content = (folder / "a.png").read_bytes()
    for name in ("2.png", "1.PNG", "in/3.png", ".hidden.png", "odd[1].png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "photos" / "notes.txt").write_text("none")
    (tmp_path / "photos" / "in" / "table.csv").write_text("1,2")
    return tmp_path / "photos"


def files_of(capsys, photos):
    lines = capsys.readouterr().out.splitlines()
    paths = [pathlib.Path(json.loads(line)["file"]) for line in lines]
    return [str(path.relative_to(photos)) for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ([""], ["1.PNG", "2.png", "in/3.png", "odd[1].png"]),
        (["*"], ["1.PNG", "2.png", "in/3.png", "odd[1].png"]),
        (["*.png"], ["2.png", "odd[1].png"]),
        (["**/*.png"], ["2.png", "in/3.png", "odd[1].png"]),
        # A file of this name comes before the pattern.
        (["odd[1].png"], ["odd[1].png"]),
        (["2.png", "", "*"], ["2.png", "1.PNG", "in/3.png", "odd[1].png"]),
    ],
)
def test_folders_and_patterns_are_searched(
    named, expected, photos, folder, tmp_path, capsys
):
    words = [folder / "attended.keras", *(photos / name for name in named)]
    assert explain(*words, "--output", tmp_path / "out", "--json") == 0
    assert files_of(capsys, photos) == expected


@pytest.mark.slow
def test_what_was_written_before_is_not_explained(
    photos, folder, tmp_path, capsys, caplog
):
    words = [folder / "attended.keras", photos, "--json", "--output"]
    assert explain(*words, photos / "explained") == 0
    assert len(files_of(capsys, photos)) == 4
    with caplog.at_level(logging.WARNING):
        assert explain(*words, photos / "again") == 0
    # The first output folder is one like any other now.
    assert len(files_of(capsys, photos)) == 4 + 9
    shutil.rmtree(photos / "again")
    assert explain(*words, photos / "explained") == 1
    shown = capsys.readouterr()
    assert shown.err.count("exists. To fix this: give another folder") == 4
    assert "2 files are no images and are left out" in caplog.text


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("empty", "there is no image file in this folder"),
        ("*.jpg", "no image file matches this pattern"),
        ("*.txt", "no image file matches this pattern"),
    ],
)
def test_nothing_found_is_refused(
    named, message, photos, folder, tmp_path, capsys
):
    (photos / "empty").mkdir()
    out = tmp_path / "out"
    words = [folder / "attended.keras", photos / "2.png", photos / named]
    assert explain(*words, "--output", out) == 2
    assert capsys.readouterr().err == (
        f"keras-lficam explain: {photos / named}: {message}. To fix this: name "
        "image files, such as PNG or JPEG, or a folder that holds some\n"
    )
    assert not out.exists()


@pytest.mark.slow
def test_contact_sheet_shows_the_first_and_is_kept(
    photos, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(_contact_sheet, "MOST", 3)
    out = tmp_path / "out"
    words = [folder / "attended.keras", "--output", out]
    words[1:1] = [photos, folder / "b.png"]
    assert explain(*words) == 0
    said = capsys.readouterr().out
    assert said.endswith(
        f"Written to {out}:\n"
        "  NAME_overlay.png   the attention map over the image\n"
        "  NAME_evidence.png  red speaks for a class, blue against it\n"
        "  contact_sheet.png  the first 3 of 5 images\n"
    )
    sheet = out / "contact_sheet.png"
    # Three cells in a row, of 2.7 x 1.75 inches.
    assert pixels_of(sheet).shape == (259, 1134, 3)
    before = sheet.read_bytes()
    names = ("c.png", "d.png")
    for name in names:
        (tmp_path / name).write_bytes((folder / "b.png").read_bytes())
    words[1:3] = [tmp_path / name for name in names]
    assert explain(*words) == 1
    shown = capsys.readouterr()
    assert shown.err == (
        f"{sheet} exists and is left as it is. To fix this: give another "
        "folder\n"
    )
    assert "contact_sheet.png" not in shown.out
    assert sheet.read_bytes() == before
    assert (out / "d_evidence.png").exists()


def test_images_are_kept_small_for_the_sheet():
    sheet = _contact_sheet.ContactSheet()
    pixels = np.full((30, 60, 3), 7, "uint8")
    for number in range(60):
        overlay = PIL.Image.fromarray(pixels + 1)
        sheet.add(pixels, overlay, f"{number}" + 60 * "x", "title")
    assert sheet.described() == "the first 48 of 60 images"
    assert len(sheet._cells) == 48
    cell, lines = sheet._cells[0]
    assert lines == "..." + 31 * "x" + "\ntitle"
    # Twice as wide as high, so half of the square is white.
    assert cell.shape == (192, 384, 3)
    assert (cell[48:144, :192] == 7).all()
    assert (cell[48:144, 192:] == 8).all()
    assert (cell[:48] == 255).all()


def test_a_file_that_cannot_be_written_takes_the_others_back(
    folder, tmp_path, monkeypatch, capsys
):
    save = PIL.Image.Image.save

    def fill_up(image, path):
        if "_evidence" in path.name:
            raise OSError(28, "No space left on device")
        save(image, path)

    monkeypatch.setattr(PIL.Image.Image, "save", fill_up)
    out = tmp_path / "out"
    words = [folder / "attended.keras", folder / "a.png", "--output", out]
    assert explain(*words) == 1
    assert "a_evidence.png: the file could not be" in capsys.readouterr().err
    assert not out.exists()


def odd_model(kind):
    layers = keras.layers
    convolution = layers.Conv2D(4, 3, strides=4, activation="relu")
    rest = [layers.GlobalAveragePooling2D(), layers.Dense(4, "softmax")]
    if kind == "two inputs":
        image, age = keras.Input((32, 32, 3)), keras.Input((1,))
        pooled = rest[0](convolution(image))
        joined = layers.Concatenate()([pooled, age])
        return keras.Model([image, age], rest[1](joined))
    if kind == "no map":
        rest = [layers.Dense(4, "softmax")]
        convolution = layers.Flatten()
    if kind == "unknown scores":
        rest[1] = layers.Dense(4, keras.activations.relu)
    channels = 5 if kind == "channels" else 3
    size = 1 if kind == "no map" else 32
    return keras.Sequential(
        [keras.Input((size, size, channels)), convolution, *rest]
    )


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("logits", [], "this model gives logits.*--activation softmax if"),
        ("unknown scores", [], "gives scores.*--activation linear if they"),
        ("no map", [], "no feature map of at least 2x2.*larger images"),
        ("attended", ["--layer", "x"], "--layer must be the name of a layer"),
        ("attended", ["--layer", "x"], "Received: --layer 'x'$"),
        ("two inputs", [], r"2 inputs.*keras_lficam.explain\(model, images, c"),
        ("channels", [], "images of 5 channels, and image files have 3"),
        ("attended", ["--classes", "be"], "--classes: 'be'.*such as bee, or"),
        ("attended", ["--classes", "4"], "'4' is no.*number from 0 to 3;"),
        (
            "attended",
            ["--contrast", "1", "bee"],
            "both are class 'bee'.*differ",
        ),
        ("attended", ["--contrast", "1", "x"], "--contrast: 'x' is no class"),
    ],
)
def test_odd_models_and_words_are_told_the_way_out(
    kind, words, message, folder, tmp_path, capsys
):
    path = folder / f"{kind}.keras"
    if not path.exists():
        odd_model(kind).save(path)
    words = [path, folder / "a.png", "--output", tmp_path / "out", *words]
    assert explain(*words) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.startswith("keras-lficam explain: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_probabilities_take_the_place_of_hidden_logits(
    folder, tmp_path, capsys
):
    path = folder / "unknown scores.keras"
    odd_model("unknown scores").save(path)
    words = [path, folder / "a.png", "--activation", "linear"]
    assert explain(*words, "--output", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "logit" not in said
    assert re.search(r"class +probability +evidence inside", said)


@pytest.mark.parametrize("size", [(600, 1), (1, 600)])
def test_narrow_images_are_drawn(size, folder, tmp_path, capsys):
    PIL.Image.new("RGB", size, "red").save(tmp_path / "narrow.png")
    out = tmp_path / "out"
    words = [folder / "attended.keras", tmp_path / "narrow.png"]
    assert explain(*words, "--output", out) == 0
    assert capsys.readouterr().err == ""
    assert max(pixels_of(out / "narrow_evidence.png").shape) <= 8000


def test_gray_model_of_any_size_and_a_layer_by_name(folder, tmp_path, capsys):
    model = keras_lficam.build(
        backbone((None, None, 1)),
        4,
        input_shape=(None, None, 1),
        architecture="cam",
    )
    model.save(tmp_path / "gray.keras")
    words = [tmp_path / "gray.keras", folder / "a.png", "--json"]
    words += ["--layer", "features", "--output", tmp_path / "out"]
    assert explain(*words) == 0
    (line,) = capsys.readouterr().out.splitlines()
    red, green, blue = np.moveaxis(pixels_of(folder / "a.png"), -1, 0)
    gray = 0.299 * red + 0.587 * green + 0.114 * blue
    found = keras_lficam.explain(model, gray[None, ..., None], top=3)
    check_rows(json.loads(line)["rows"], found.rows())


def test_colors_that_a_notebook_asks_for_stay_out_of_files(monkeypatch, capsys):
    # As ipykernel sets it for the programs that a cell starts.
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = Table("class", "probability")  # Whose header is bold.
    _output.show(table)
    assert "\x1b" not in capsys.readouterr().out + _output.rendered(table)


@pytest.mark.slow
def test_name_of_a_backbone_is_that_with_weights_of_imagenet(tmp_path, capsys):
    PIL.Image.fromarray(skimage.data.cat()).save(tmp_path / "cat.png")
    images = [tmp_path / "cat.png", "--output", tmp_path / "out"]
    assert explain("EfficientNetLite0", *images, "--top", 2) == 0
    shown = capsys.readouterr().out
    assert "Model: EfficientNetLite0, of 1000 classes: tench, gold" in shown
    assert re.search(r"cat\.png: Egyptian cat \(\d\d %\)", shown)
    assert "labels.txt" not in shown
    assert (tmp_path / "out" / "cat_evidence.png").is_file()


def test_name_of_no_backbone_is_refused(tmp_path, capsys):
    (tmp_path / "cat.png").touch()
    images = [tmp_path / "cat.png", "--output", tmp_path / "out"]
    assert explain("EfficientNetLite9", *images) == 2
    said = capsys.readouterr().err
    assert "EfficientNetLite9: there is no such file, and no backbone" in said
    assert "nearest names: EfficientNetLite" in said
