"""What users have, from `train` to the answer of a server without Keras."""

import json

import numpy as np
import PIL.Image
import processes
import pytest
import tifffile

from keras_lficam import cli

pytestmark = pytest.mark.end_to_end

TRAIN = [
    *("--backbone", "ResNet8", "--recipe", "modern", "--epochs", "4"),
    *("--batch-size", "16", "--learning-rate", "0.01", "--augmentation"),
    *("--heat-maps-every", "4"),
]
# TensorFlow imports Keras where it is installed: so here it is not.
ASK = """
import sys
sys.modules.update({"keras": None, "keras_lficam": None})
import numpy as np
import tensorflow as tf
folder, image_file, answers = sys.argv[1:]
loaded = tf.saved_model.load(folder)
ask = loaded.signatures["encoded_images"]
answer = ask(image_bytes=tf.constant([open(image_file, "rb").read()]))
np.savez(answers, **{name: value.numpy() for name, value in answer.items()})
"""


def run(*words):
    assert cli.main([*map(str, words)]) == 0


def served(folder, image_file, tmp_path):
    target = tmp_path / f"{image_file.stem}.npz"
    arguments = ["-c", ASK, folder, image_file, target]
    processes.finish(processes.start(arguments))
    with np.load(target, allow_pickle=True) as answer:
        return {name: answer[name][0] for name in answer}


def striped(kinds, rng, highest=255):
    """An image of 32 pixels with a bright band for each of its kinds."""
    pixels = rng.uniform(0, 0.4, (32, 32))
    for kind in kinds:
        pixels[10 * kind : 10 * kind + 10] += 0.6
    return np.rint(pixels * highest)


def explained(model, image_files, tmp_path, capsys):
    """What `explain` says of the likeliest classes of each image."""
    output = tmp_path / "explained"
    capsys.readouterr()
    run("explain", model, *image_files, "--output", output, "--json")
    lines = capsys.readouterr().out.splitlines()
    assert len([*output.glob("*_evidence.png")]) == len(image_files)
    return [
        {row["class"]: row["probability"] for row in json.loads(line)["rows"]}
        for line in lines
    ]


def assert_same(answer, chances):
    """A served answer has the probabilities that the command explained."""
    assert answer["error"] == b""
    top = [name.decode() for name in answer["top_classes"]]
    assert top[: len(chances)] == [*chances]
    np.testing.assert_allclose(
        answer["top_probabilities"][: len(chances)],
        [*chances.values()],
        atol=2e-3,
    )


def test_a_csv_file_of_several_labels(tmp_path, capsys):
    """Bands at the top, in the middle, at the bottom; some have none."""
    rng = np.random.default_rng(0)
    names = ["top", "middle", "bottom"]
    lines = ["image,label,mask"]
    for index in range(160):
        kinds = np.flatnonzero(rng.integers(0, 2, 3))
        pixels = striped(kinds, rng).astype("uint8")
        PIL.Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        mask = ""
        if index % 2 and len(kinds):
            mask = f"{index}_mask.png"
            PIL.Image.fromarray(pixels > 128).save(tmp_path / mask)
        labels = "|".join(names[kind] for kind in kinds)
        lines.append(f"{index}.png,{labels},{mask}")
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    folder = tmp_path / "run"
    run("train", "--data", file, "--output", folder, *TRAIN)
    about = json.loads((folder / "run.json").read_text())
    assert about["activation"] == "sigmoid"
    assert about["data"]["class_names"] == ["bottom", "middle", "top"]

    run("export", folder / "model.keras", "--output", tmp_path / "served/bands")
    export = json.loads((tmp_path / "served/bands/1/export.json").read_text())
    assert export["activation"] == "sigmoid"

    image_files = [tmp_path / "3.png", tmp_path / "8.png"]
    said = explained(folder / "model.keras", image_files, tmp_path, capsys)
    for image_file, chances in zip(image_files, said, strict=True):
        answer = served(tmp_path / "served/bands/1", image_file, tmp_path)
        assert_same(answer, chances)
        # Each class is a yes or no of its own.
        logits = answer["logits"]
        np.testing.assert_allclose(
            answer["probabilities"], 1 / (1 + np.exp(-logits)), atol=1e-5
        )

    capsys.readouterr()
    run(
        *("compare", folder / "model.keras", "--data", file, "--count", "8"),
        *("--explainers", "AttentionMap", "GradCAM"),
        *("--output", tmp_path / "compared"),
    )
    told = capsys.readouterr().out
    assert "images can have several labels. Of each the likeliest" in told
    rows = (tmp_path / "compared/comparison.csv").read_text().splitlines()
    pointing = [row.split(",") for row in rows if ",pointing_game," in row]
    assert len(pointing) == 2
    # Images with a mask have a value, the others none.
    assert all(int(row[6]) > 0 and int(row[7]) > 0 for row in pointing)


@pytest.mark.parametrize("channels", [3, 1])
def test_a_folder_of_16_bit_tiff(tmp_path, capsys, channels):
    """Of 12 bits, gray; the model takes RGB, or one channel."""
    rng = np.random.default_rng(1)
    for index in range(60):
        kind = index % 3
        pixels = striped([kind], rng, 4095).astype("uint16")
        place = tmp_path / "cells" / f"class_{kind}"
        place.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(place / f"{index}.tif", pixels)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    folder = tmp_path / "run"
    run(
        *("train", "--data", tmp_path / "cells", "--output", folder, *TRAIN),
        *("--channels", channels),
    )
    about = json.loads((folder / "run.json").read_text())
    assert about["data"]["bits"] == 12
    assert (about["channels"], about["activation"]) == (channels, "softmax")

    export = tmp_path / "served" / "cells"
    run(
        *("export", folder / "model.keras", "--output", export),
        *("--formats", "saved_model", "litert_int8"),
        *("--calibration", tmp_path / "cells"),
    )
    tiff = tmp_path / "cells" / "class_1" / "1.tif"
    (chances,) = explained(folder / "model.keras", [tiff], tmp_path, capsys)
    assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
    # A server decodes no TIFF; the same numbers as PNG it does.
    refused = served(export / "1", tiff, tmp_path)
    assert b"save it as PNG" in refused["error"]
    answer = served(export / "1", tmp_path / "1.png", tmp_path)
    assert_same(answer, chances)

    run(
        *("evaluate", folder / "model.keras", "--data", tmp_path / "cells"),
        *("--explainer", "AttentionMap", "--count", "6"),
        *("--output", tmp_path / "evaluated"),
    )
