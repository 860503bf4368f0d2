"""Exports the shipped model and writes its card: see README.md.

    python saved_models/train.py runs/shipped
    python saved_models/export.py runs/shipped

With --check it measures the model that is there again, and compares hash and
test accuracy with the manifest. With --browser it writes only what the page
"Try it" of the documentation runs, from the model that is there.
"""

import argparse
import csv
import hashlib
import json
import pathlib
import re
import shutil
import sys
import tempfile
import tomllib

import keras
import matplotlib
import numpy as np
import PIL.Image

import keras_lficam
from keras_lficam import _labels, classifier, data, metrics, visualization
from keras_lficam.cli import demo
from keras_lficam.data import digits_in_photos

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "digits_in_photos"
MANIFEST = FOLDER / "manifest.toml"
# What the page "Try it" runs: the evidence of all classes, as ONNX.
BROWSER = FOLDER / "browser"
BROWSER_FILES = ("browser/about.json", "browser/model.onnx")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measured(model):
    """Tests the model on the 2,000 test images, which it never saw."""
    batches = data.load(
        "digits_in_photos", "test", batch_size=200, with_masks=True
    )
    answers = demo.answers_of(model, batches.as_numpy_iterator())
    return {"test_images": len(answers["labels"]), **demo.metrics_of(answers)}


def manifest(run, folder, numbers):
    """Words what is to be known of the model, as TOML."""
    about = json.loads((run / "run.json").read_text())
    with (run / "log.csv").open() as file:
        epochs = len(list(csv.DictReader(file)))
    lines = ['command = "python saved_models/train.py FOLDER"', ""]
    lines += ["[sha256]"]
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(FOLDER)
            lines.append(f'"{name}" = "{sha256(path)}"')
    for name in ("model.keras", *BROWSER_FILES):
        lines.append(f'"{name}" = "{sha256(FOLDER / name)}"')
    lines += ["", "[metrics]"]
    lines += [f"{name} = {value}" for name, value in numbers.items()]
    lines += ["", "[recipe]", f"seed = {about['seed']}"]
    lines.append(f"trained_epochs = {epochs}")
    for name, value in about["recipe"].items():
        if value is not None:
            lines.append(f"{name} = {json.dumps(value)}")
    lines += ["", "[versions]"]
    lines += [
        f'{name} = "{value}"' for name, value in about["versions"].items()
    ]
    return "\n".join(lines) + "\n"


CARD = """\
# digits_in_photos

A classifier of a handwritten digit that lies somewhere in a photograph, with
LFI-CAM: it shows where it saw the digit.

![Test images, their heat maps and overlays](gallery.png)

```bash
keras-lficam explain saved_models/digits_in_photos/examples/*.png \\
    --output explained
```

| | |
|---|---|
| input | RGB images of any size, which become 64x64; 0 to 255 |
| output | probabilities of the digits 0 to 9, a heat map, importance |
| model | ResNet-8 for small images, stem of stride 2, LFI-CAM, {parameters:,} parameters; map 16x16 (`output_stride=4`) |
| data | `digits_in_photos` of this package, 20,000 training images; digits of scikit-learn, photographs of scikit-image and scikit-learn |
| recipe | {epochs} epochs of SGD with momentum, cosine, averaged weights, random shifts: `python saved_models/train.py FOLDER`, seed {seed} |
| files | `1/`, the SavedModel for TF Serving; `model.keras` and `labels.txt`; `browser/`, the ONNX of the page "Try it"; `manifest.toml` with hashes, versions and the whole recipe |

On the {test_images:,} test images, with digits of writers and parts of
photographs that training never saw:

| measured | |
|---|---|
| accuracy | {accuracy:.1%} |
| brightest point of the map inside the digit's box | {pointing_game:.1%} |
| share of the heat inside the box | {energy_in_box:.1%} |
| share of the image that the box covers | {mean_box_area:.1%} |

## Limits

It knows digits of 8x8 pixels, enlarged, in {photographs} photographs; it is
there to show heat maps, not to read digits in the world. An image without a
digit gets an answer, too. The map belongs to the answer and is as coarse as
16x16 cells; it says where the answer came from, not why.

Of four recipes, with more epochs, more weight decay and finer maps, this is the
first whose model was right often enough and pointed often enough at the digits
of the test images. So its numbers may be a little better than those of new
images.
"""  # noqa: E501


def card(run, model, numbers):
    """Words the model card."""
    about = json.loads((run / "run.json").read_text())
    return CARD.format(
        **numbers,
        parameters=model.count_params(),
        epochs=about["recipe"]["epochs"],
        seed=about["seed"],
        photographs=len(digits_in_photos.PHOTOS),
    )


def write_images(model):
    """Writes test images to explain, and how they are explained."""
    (FOLDER / "examples").mkdir(exist_ok=True)
    samples = [digits_in_photos.compose("test", number) for number in range(6)]
    images, labels, masks = (
        np.stack([sample[name] for sample in samples])
        for name in ("image", "label", "mask")
    )
    for number, image in enumerate(images):
        path = FOLDER / "examples" / f"{number + 1}.png"
        PIL.Image.fromarray(image).save(path)
    maps = keras_lficam.explainers.AttentionMap(model)(images)
    titles = keras_lficam.visualization.prediction_titles(
        model.predict(images, verbose=0), list("0123456789"), labels
    )
    figure = keras_lficam.visualization.grid(
        images, maps, titles=titles, masks=metrics.box_masks(masks)
    )
    figure.savefig(FOLDER / "gallery.png", dpi=80)


def write_browser(model, names):
    """Writes the model as ONNX, and what a page needs to show its maps."""
    BROWSER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        exported = keras_lficam.export(
            model,
            pathlib.Path(folder) / FOLDER.name,
            class_names=names,
            formats=["onnx"],
            top=None,
        )
        shutil.copy(exported / "model.onnx", BROWSER / "model.onnx")
        about = json.loads((exported / "export.json").read_text())
    about = {
        "image_size": about["image_size"],
        "class_names": list(names),
        "bias": about["evidence"]["bias"],
        "locations": locations(model),
        "attention": {
            "colors": colors(visualization.COLORMAP),
            "opacity": visualization.OPACITY,
        },
        "evidence": {
            "colors": colors(visualization.SIGNED_COLORMAP),
            "opacity": visualization.SIGNED_OPACITY,
        },
    }
    text = json.dumps(about, indent=2) + "\n"
    (BROWSER / "about.json").write_text(text, encoding="utf-8")


def locations(model):
    """Center of the first cell and stride, in pixels, of rows and columns."""
    size = model.input_shape[1:3]
    output = classifier.Classifier(model).output_of("attention_map")
    placements = output.geometry.placements(size, output.shape)
    for placement in placements:  # The page leaves out nothing of an image.
        assert placement.low <= -0.5
        assert placement.high >= placement.length - 0.5
    return [
        {"center": float(placement.center), "stride": float(placement.stride)}
        for placement in placements
    ]


def colors(name):
    """256 colors of a color map, `rrggbb` each, in one string."""
    levels = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return levels.tobytes().hex()


def renew_browser():
    """Writes what the page runs, and its hashes in the manifest."""
    model = keras.models.load_model(FOLDER / "model.keras", compile=False)
    write_browser(model, _labels.read(FOLDER / "labels.txt"))
    text = MANIFEST.read_text(encoding="utf-8")
    for name in BROWSER_FILES:
        line = f'"{name}" = "{sha256(FOLDER / name)}"'
        text = re.sub(rf'"{re.escape(name)}" = ".*"', line, text)
        assert line in text
    MANIFEST.write_text(text, encoding="utf-8")


def export(run):
    """Writes all that is shipped, beside what is there already."""
    model = keras.models.load_model(run / "model.keras", compile=False)
    names = _labels.read(run / "labels.txt")
    FOLDER.mkdir(exist_ok=True)
    for name in ("model.keras", "labels.txt"):
        shutil.copy(run / name, FOLDER / name)
    folder = keras_lficam.export(model, FOLDER, class_names=names, version=1)
    write_browser(model, names)
    numbers = measured(model)
    write_images(model)
    (FOLDER / "README.md").write_text(card(run, model, numbers))
    MANIFEST.write_text(manifest(run, folder, numbers), encoding="utf-8")
    print(MANIFEST.read_text())


def check():
    """Fails if the files or their accuracy are not those of the manifest."""
    about = tomllib.loads(MANIFEST.read_text())
    for name, expected in about["sha256"].items():
        if sha256(FOLDER / name) != expected:
            sys.exit(f"{name}: its hash is not that of the manifest")
    model = keras.models.load_model(FOLDER / "model.keras", compile=False)
    numbers = measured(model)
    for name, expected in about["metrics"].items():
        # Another processor rounds otherwise: one image in 2,000 may differ.
        if abs(numbers[name] - expected) > 0.001:
            sys.exit(f"{name} is {numbers[name]}, not {expected}")
    text = (FOLDER / "README.md").read_text()
    for name in ("accuracy", "pointing_game", "energy_in_box"):
        if f"| {about['metrics'][name]:.1%} |" not in text:
            sys.exit(f"README.md: {name} is not that of the manifest")
    print("Hashes and metrics are those of the manifest:", numbers)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--browser", action="store_true")
    options = parser.parse_args()
    if options.check:
        check()
    elif options.browser:
        renew_browser()
    elif options.run:
        export(options.run)
    else:
        parser.error("give the folder of the run, --check or --browser")


if __name__ == "__main__":
    main()
