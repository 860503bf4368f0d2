"""The report of runs of all kinds, written, parsed and compared."""

import json
import types

import numpy as np
import PIL.Image
import pytest
from report_runs import (
    EVIL,
    Page,
    classifier,
    images_of,
    source_of,
    write_run,
)

import keras_lficam
from keras_lficam import cli, data, reporting
from keras_lficam.classifier import Classifier
from keras_lficam.reporting import running
from keras_lficam.reporting._reading import Images

# A model explains a handful of images: to trace it takes longer.
pytestmark = pytest.mark.usefixtures("eagerly")
NAMES = ["cat", EVIL, "x" * 200]
LABELS = {
    "train": [0, 1, 2, 0, 1, 2, 0, 0],
    "validation": [0, 1, 2, 0],
    "test": [0, 1, 2, 0, 1],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run with LFI-CAM, and its page."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    source = source_of(LABELS, NAMES)
    metrics = write_run(folder, source, classifier())
    path = reporting.report(folder, data=source)
    assert path == folder / "report.html"
    return folder, metrics, path.read_text(encoding="utf-8")


def check(text):
    """What holds for each page."""
    page = Page(text)
    assert not page.faults
    assert text.startswith("<!DOCTYPE html>")
    assert not page.all("script")
    assert not page.all("link")
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href"):
                assert value.startswith(("data:image/", "#")), value
    assert "url(" not in text
    assert "@import" not in text
    (root,) = page.all("html")
    assert root["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert all(drawn["aria-label"] for drawn in page.all("svg"))
    levels = [int(t[1]) for t, _ in page.elements if t in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    names = [x["id"] for _, x in page.elements if "id" in x]
    assert len(names) == len(set(names))
    for _, attributes in page.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in names
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in names
    return page


def test_the_page_is_sound_and_names_are_escaped(written):
    _, _, text = written
    page = check(text)
    assert "<script" not in text
    assert EVIL in page.text
    assert "&lt;script&gt;" in text
    assert len(text) < 5_000_000
    for heading in ("Findings", "Metrics", "Calibration", "Images"):
        assert heading in page.text


def test_its_numbers_are_those_of_the_metrics(written):
    _, metrics, text = written
    page = Page(text)
    cells = {
        x["data-metric"]: x["data-value"]
        for x in page.all("td")
        if "data-metric" in x
    }
    for split in ("validation", "test"):
        found = metrics[split]
        assert (
            float(cells[f"{split}.majority_accuracy"])
            == (found["majority_accuracy"])
        )
        for name in keras_lficam.metrics.classification.SCORES:
            assert float(cells[f"{split}.{name}"]) == found[name]["value"]
            if name != "log_loss" and found[name]["interval"]:
                low, high = found[name]["interval"]
                shown = f"{found[name]['value']:.1%} {100 * low:.1f} to "
                assert f"{shown}{high:.1%}" in page.text
    assert len(cells) == 16
    for row in metrics["test"]["confusion"]:
        for count in row:
            assert f">{count}</td>" in text


@pytest.mark.slow
def test_it_shows_attention_evidence_and_contrast(written):
    folder, _, text = written
    page = Page(text)
    alts = [image["alt"] for image in page.all("img")]
    for words in ("Image ", "Attention map ", "Evidence for ", "Contrast in "):
        assert any(alt.startswith(words) for alt in alts), words
    assert "the bias of the class are its logit" in page.text
    # It is written again over itself, and elsewhere never over another.
    source = source_of(LABELS, NAMES)
    reporting.report(folder, data=source, images=0)
    fewer = Page((folder / "report.html").read_text())
    assert len(fewer.all("img")) < len(page.all("img"))
    other = folder / "other.html"
    other.write_text("mine")
    with pytest.raises(ValueError, match="`output` must be a new file"):
        reporting.report(folder, data=source, output=other)
    assert other.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "has_attention"),
    [
        ({"architecture": "abn"}, True),
        ({"architecture": "plain"}, False),
        ({"classifier_activation": "sigmoid"}, True),
        ({"classifier_activation": None}, True),
    ],
    ids=["abn", "plain", "sigmoid", "logits"],
)
def test_other_models(options, has_attention, tmp_path):
    source = source_of(
        {k: v for k, v in LABELS.items() if k != "test"}, ["a", "b", "c"]
    )
    write_run(tmp_path / "run", source, classifier(**options), measured=False)
    page = check(reporting.report(tmp_path / "run", data=source).read_text())
    alts = [image["alt"] for image in page.all("img")]
    kinds = [
        sum(alt.startswith(words) for alt in alts)
        for words in ("Image ", "Attention map ", "Evidence ", "Contrast ")
    ]
    number = kinds[0]
    assert number > 0
    assert kinds == [number, number * has_attention, number, number]
    assert "4 validation images" in page.text


@pytest.mark.slow
def test_one_channel_and_two_classes(tmp_path):
    labels = {"train": [0, 1] * 3, "validation": [0, 1, 1], "test": [1, 1]}
    source = source_of(labels, ["fine", "broken"])
    folder = tmp_path / "run"
    metrics = write_run(folder, source, classifier(2, channels=1), channels=1)
    # Those of the test images it measures itself.
    left = {k: value for k, value in metrics.items() if k != "test"}
    (folder / "metrics.json").write_text(json.dumps(left))
    page = check(reporting.report(folder, data=source).read_text())
    cells = {
        x["data-metric"]: x["data-value"]
        for x in page.all("td")
        if "data-metric" in x
    }
    for name in ("accuracy", "balanced_accuracy", "log_loss"):
        expected = metrics["test"][name]["value"]
        assert float(cells[f"test.{name}"]) == pytest.approx(expected, rel=1e-6)
    assert "1 class without test images" in page.text
    assert "fine: the numbers on the test images say nothing" in page.text


@pytest.mark.slow
def test_several_labels(tmp_path):
    labels = {
        "train": [[1, 0], [0, 1], [1, 1], [0, 0]],
        "validation": [[1, 0], [0, 1]],
        "test": [[1, 1], [0, 0], [1, 0]],
    }
    source = source_of(labels, ["a", "b"])
    assert source.multi_label
    model = classifier(2, classifier_activation="sigmoid")
    weights = [[1, 2], [1, 3.14159]]
    write_run(tmp_path / "run", source, model, class_weights=weights)
    page = check(reporting.report(tmp_path / "run", data=source).read_text())
    assert "Class weights (label absent / present) 1 / 2, 1 / 3.14" in page.text
    assert "All labels right" in page.text
    assert "False alarms" in page.text
    assert not any(x["alt"].startswith("Contrast") for x in page.all("img"))


@pytest.mark.end_to_end
def test_a_thousand_classes_have_no_matrix_and_few_rows(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"name {k}" for k in range(1000)]
    labels = {
        "train": np.arange(1000),
        "validation": rng.integers(1000, size=40),
        "test": rng.integers(1000, size=60),
    }
    source = source_of(labels, names)
    write_run(tmp_path / "run", source, classifier(1000))
    path = reporting.report(tmp_path / "run", data=source)
    page = check(path.read_text())
    assert "Most confused pairs" in page.text
    assert not [x for x in page.all("table") if x.get("class") == "matrix"]
    assert "Of 1000 classes these are the 50 with the lowest F1" in page.text
    assert path.stat().st_size < 5_000_000


def test_images_in_two_splits_are_found(tmp_path):
    source = source_of(LABELS, ["a", "b", "c"])
    images = Images(source, Classifier(classifier()), (16, 12), "stretch")
    alone = images.twins()
    assert (alone.across, alone.within, alone.contradicting) == ([], 0, 0)
    assert alone.compared == 17

    class Repeated(Images):
        """Its test images 1 and 3 are training image 2."""

        def batches(self, split, *, with_masks=False):
            first = next(iter(super().batches("train")))
            for pixels, labels in super().batches(split):
                pixels = pixels.copy()
                if split == "test":
                    pixels[[1, 3]] = first[0][2]
                yield pixels, labels

    found = Repeated(
        source, Classifier(classifier()), (16, 12), "stretch"
    ).twins()
    assert found.across == [
        ["train image 2 (train)", "test image 1 (test)"],
    ]
    assert found.within == 1
    assert found.contradicting == 1  # Of classes 2, 1 and 0.


def test_a_model_that_diverged_is_reported(tmp_path):
    model = classifier()
    model.set_weights(
        [np.full_like(value, np.nan) for value in model.get_weights()]
    )
    source = source_of(LABELS, ["a", "b", "c"])
    write_run(tmp_path / "run", source, model, measured=False)
    page = check(reporting.report(tmp_path / "run", data=source).read_text())
    assert "no probabilities that could be measured" in page.text
    assert not page.all("img")


def test_what_is_no_run_is_refused(written, tmp_path):
    folder, _, _ = written
    source = source_of(LABELS, NAMES)
    with pytest.raises(ValueError, match="`run` must be the folder of a run"):
        reporting.report(tmp_path, data=source)
    (tmp_path / "run.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="the run has not ended"):
        reporting.report(tmp_path, data=source)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="the file is damaged"):
        reporting.report(tmp_path, data=source)
    with pytest.raises(ValueError, match="with its 3 classes"):
        reporting.report(folder, data=source_of(LABELS, ["a", "b", "c"]))
    with pytest.raises(ValueError, match="`split` must be one of"):
        reporting.report(folder, data=source, split="exam")
    with pytest.raises(ValueError, match="`images` must be"):
        reporting.report(folder, data=source, images=-1)
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        reporting.report(folder, data=source, model="model")
    with pytest.raises(ValueError, match="`data` must be the data of the run"):
        reporting.report(folder, data=tmp_path / "nothing")


@pytest.fixture(scope="module")
def csv_file(tmp_path_factory):
    """A CSV file of images; the first for the test repeats one to train."""
    folder = tmp_path_factory.mktemp("data") / "test_tube"
    (folder / "made").mkdir(parents=True)
    labels = [0, 1, 0, 1, 0, 1, 0, 1, 0]
    images = images_of(labels, 3)
    images[7] = images[1]
    splits = 5 * ["train"] + 2 * ["validation"] + 2 * ["test"]
    lines = ["image,label,split"]
    for number, image in enumerate(images):
        PIL.Image.fromarray(image).save(folder / f"made/{number}.png")
        name = "ab"[labels[number]]
        lines.append(f"made/{number}.png,{name},{splits[number]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def test_images_of_a_csv_file_are_named_from_its_folder(csv_file):
    source = data.source(csv_file)
    images = Images(source, Classifier(classifier(2)), (16, 12), "stretch")
    assert images.names("test") == ["made/7.png", "made/8.png"]
    assert images.twins().across == [
        ["made/1.png (train)", "made/7.png (test)"]
    ]


def test_the_command_reports_with_the_data_that_it_is_given(
    csv_file, tmp_path, monkeypatch, capsys
):
    source = data.source(csv_file)
    folder = tmp_path / "run"
    about = {"name": "moved", "class_names": ["a", "b"], "bits": 12}
    write_run(folder, source, classifier(2), data=about)
    given = {}

    def source_named(name, **options):
        given.update(options, name=name)
        return data.source(name, **options)

    monkeypatch.setattr(running, "source_named", source_named)
    words = ["report", str(folder), "--data", str(csv_file)]
    words += ["--data-dir", str(tmp_path), "--images", "1"]
    words += ["--output", str(tmp_path / "page.html")]
    assert cli.main(words) == 0
    assert given == {
        "name": str(csv_file),
        "data_dir": str(tmp_path),
        "bits": 12,
        "masks": None,
    }
    assert f"Written: {tmp_path / 'page.html'}, " in capsys.readouterr().out
    page = check((tmp_path / "page.html").read_text())
    assert "made/1.png (train) = made/7.png (test)" in page.text
    assert str(csv_file.parent / "made") not in page.text


@pytest.mark.slow
def test_each_split_is_decoded_as_often_as_it_must_be(tmp_path, monkeypatch):
    source = source_of(LABELS, ["a", "b", "c"])
    write_run(tmp_path / "run", source, classifier())
    seen = []
    batches = Images.batches

    def counted(self, split, **options):
        seen.append(split)
        return batches(self, split, **options)

    monkeypatch.setattr(Images, "batches", counted)
    reporting.report(tmp_path / "run", data=source)
    # For predictions, maps and the gallery; and all to compare them.
    assert seen == ["test", "test", "test", "train", "validation", "test"]


def test_maps_are_compared_with_the_masks_that_there_are():
    masks = np.zeros((3, 2, 2, 1))
    masks[0, 0] = 1  # The upper half.
    masks[1] = np.nan  # There is none.
    masks[2, 0, 0] = 1
    evidence = np.array(
        [
            [[3.0, 0.0], [1.0, -9.0]],  # 3 of 4 for the class in the mask.
            [[1.0, 1.0], [1.0, 1.0]],
            [[1.0, 1.0], [0.0, 0.0]],  # 1 of 2.
        ]
    )[..., None]
    attention = np.ones((3, 2, 2, 1))
    attention[2] = 0  # Of no energy.
    explained = types.SimpleNamespace(
        class_evidence=evidence, attention_map=attention
    )
    first, second = running._of_masks(explained, masks)
    # (3 / 4 + 1 / 2) / 2, and the masks (1 / 2 + 1 / 4) / 2.
    assert first.title == "The evidence is mostly inside the object"
    assert first.text == (
        "In the mean 62% of the evidence lies inside the masks, which cover "
        "38% of the image (2 images with masks)."
    )
    # (1 / 2 + 0) / 2; half of them is not most.
    assert second.text.startswith("In the mean 25% of the attention lies ")
    assert not list(running._of_masks(explained, np.zeros((3, 2, 2, 1))))
