"""`report`: from the folder of a run to its page."""

import datetime
import itertools
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

import keras_lficam
from keras_lficam._checks import (
    check_choice,
    check_integer,
    check_text,
    path_of,
)
from keras_lficam._files import atomic_write
from keras_lficam._names import printable
from keras_lficam.classifier import (
    Classifier,
    predictions_of,
    training_activation,
)
from keras_lficam.data import Source, source as source_named
from keras_lficam.explanation import ExplanationView
from keras_lficam.metrics import energy_pointing_game
from keras_lficam.metrics.classification import measure
from keras_lficam.reporting import _findings, _gallery, _page
from keras_lficam.reporting._folder import (
    MODEL,
    REPORT,
    RunFolder,
    read_folder,
)
from keras_lficam.reporting._reading import Images

_LOG = logging.getLogger("keras_lficam")
# Images whose maps are looked at for warnings.
_MAPS = 200


def report(
    run: str | os.PathLike[str],
    *,
    data: Any = None,
    model: keras.Model | None = None,
    output: str | os.PathLike[str] | None = None,
    split: str | None = None,
    images: int = 8,
    data_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Writes all that there is to say of a run as one HTML page.

    The page holds the data and its splits, the learning curves, the metrics of
    `metrics.json` with their intervals, confusions and calibration; images
    with their attention maps, signed class evidence and contrasts: errors of
    high confidence, doubtful and typical images; what the program found, such
    as images that are in two splits or maps that lie on the border; and
    settings and versions to repeat the run. It has no script and asks no
    server for anything, and prints well.

    Any classifier that `fit` trains can be reported, also without LFI-CAM.

    Args:
        run: Folder of a run of `fit` or of the command `train` that has ended.
        data: Data that it was trained on, as for `fit`; by default what the
            run says that it was. It must be given where the run got a source
            without a name that `data.source` knows.
        model: Its model; by default that of the run's `model.keras`.
        output: The file; by default `report.html` in the folder, which is
            replaced. Another file must not exist.
        split: Split that is shown, by default `"test"`, or `"validation"`
            where there are no test images.
        images: Errors, and doubtful images, that are shown at most, from 0.
        data_dir: Where TensorFlow Datasets keeps its data.

    Returns:
        Path of the page.

    Raises:
        ValueError: If the folder holds no run that has ended, the data is not
            that of the run, or an argument is out of range.
        TypeError: If an argument is of the wrong type.
        OSError: If the file cannot be written.

    Examples:
        recipe = keras_lficam.Recipe(epochs=1, batch_size=8)
        keras_lficam.fit(model, source, recipe, folder="runs/digits")
        keras_lficam.reporting.report("runs/digits", data=source)
    """
    folder = read_folder(path_of("run", run))
    check_integer("images", images, least=0)
    if model is not None and not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a keras.Model. Received: "
            f"model={model!r:.80} of type {type(model).__name__}. To fix "
            "this: keras.models.load_model(path)"
        )
    path = folder.path / REPORT if output is None else path_of("output", output)
    if output is not None and path.exists():
        raise ValueError(
            f"Argument `output` must be a new file. Received: {path}, which "
            "exists and is left as it is. To fix this: give another name."
        )
    source = _source(folder, data, data_dir)
    if split is None:
        split = "test" if "test" in source.splits else "validation"
    else:
        check_text("split", split)
        check_choice("split", split, [*source.splits])
    if model is None:
        model = _model(folder)
    page = _page.rendered(_context(folder, source, model, split, images))
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _source(folder: RunFolder, data: Any, data_dir: Any) -> Source:
    about = folder.about["data"]
    if data is None:
        data = folder.options.get("data", about["name"])
    if isinstance(data, Source):
        source = data
    else:
        if data_dir is None:
            data_dir = folder.options.get("data_dir")
        try:
            source = source_named(
                data,
                data_dir=data_dir,
                bits=about.get("bits"),
                masks=about.get("masks"),
            )
        except ValueError as error:
            raise ValueError(
                f"Argument `data` must be the data of the run in {folder.path}"
                f". Received: data={data!r:.200}. {error} To fix this: give "
                "the folder, or what data.from_datasets gave, as data="
            ) from None
    if list(source.class_names) != about["class_names"]:
        raise ValueError(
            f"Argument `data` must be the data of the run in {folder.path}, "
            f"with its {len(about['class_names'])} classes. Received: "
            f"{source.name} with {len(source.class_names)} others. To fix "
            "this: give the data that it was trained on."
        )
    return source


def _model(folder: RunFolder) -> keras.Model:
    path = folder.path / MODEL
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such model. To fix this: give the model, as "
            "model=keras.models.load_model(path)"
        )
    return keras.models.load_model(path, compile=False)


def _context(
    folder: RunFolder,
    source: Source,
    model: keras.Model,
    split: str,
    count: int,
) -> dict[str, Any]:
    """Gathers what the page shows."""
    classifier = Classifier(model, training_activation(model))
    height, width = folder.about["image_size"]
    resizing = folder.about["recipe"].get("resizing", "stretch")
    images = Images(source, classifier, (height, width), resizing)
    names = [printable(name) for name in source.class_names]
    labels, chances = predictions_of(classifier, images.batches(split))
    metrics = _metrics(folder, source, split, labels, chances)
    counts = {one: source.class_counts(one) for one in source.splits}
    findings = [*_findings.of_data(names, counts, len(source.damaged))]
    if metrics.get(split) is None:
        findings.append(
            _findings.Finding(
                "problem",
                "The model has no probabilities that could be measured",
                "They are not finite: its training diverged. A lower learning "
                "rate may help.",
            )
        )
        gallery: dict[str, list[_gallery.Item]] = {}
        maps: dict[str, Any] = {"note": ""}
    else:
        findings = [
            *_findings.of_accuracy(metrics[split], split),
            *_findings.of_rare_classes(
                metrics[split],
                counts["train"],
                weighted=bool(folder.about.get("class_weights")),
            ),
            *findings,
        ]
        maps = _maps(model, images, split, folder, chances)
        findings += maps["findings"]
        choices = _gallery.chosen(labels, chances, count)
        # All at once: to find them each time means to decode the split.
        every = [choice for group in choices.values() for choice in group]
        items = iter(
            _items(every, maps["view"], images, split, labels, chances)
        )
        gallery = {
            name: list(itertools.islice(items, len(group)))
            for name, group in choices.items()
        }
    findings += _findings.of_twins(images.twins())
    return {
        "title": printable(folder.path.resolve().name),
        "run": folder,
        "version": keras_lficam.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": model,
        "source": source,
        "license": source.license,
        "names": names,
        "split": split,
        "metrics": {k: v for k, v in metrics.items() if v is not None},
        "counts": {k: v.tolist() for k, v in counts.items()},
        "findings": findings,
        "gallery": gallery,
        "maps_note": maps["note"],
    }


def _metrics(
    folder: RunFolder,
    source: Source,
    split: str,
    labels: np.ndarray,
    chances: np.ndarray,
) -> dict[str, Any]:
    """Takes the metrics of the run; those of older runs are measured."""
    found = {
        one: folder.metrics[one]
        for one in source.splits
        if isinstance(folder.metrics.get(one), dict)
    }
    if split not in found:
        try:
            measured = measure(
                labels, chances, source.class_names, seed=folder.about["seed"]
            )
            found[split] = measured.to_dict()
        except ValueError as error:
            _LOG.warning("No metrics of the classification: %s", error)
            found[split] = None
    return found


def _maps(
    model: keras.Model,
    images: Images,
    split: str,
    folder: RunFolder,
    chances: np.ndarray,
) -> dict[str, Any]:
    """Looks at the maps of a sample of the images for what is suspicious."""
    try:
        view = ExplanationView(
            model, top=1, activation=training_activation(model)
        )
    except ValueError as error:
        return {"view": None, "findings": [], "note": str(error)}
    rng = np.random.default_rng(folder.about["seed"])
    number = min(_MAPS, len(chances))
    drawn = sorted(rng.choice(len(chances), number, replace=False).tolist())
    masks = None
    if images.source.has_masks:
        shown, masks = images.with_masks(split, drawn)
    else:
        shown = images.of(split, drawn)
    predicted = chances[drawn].argmax(1)
    explained = view.explain(shown, predicted[:, None])
    findings = [
        *_of_explanation(explained, predicted),
        *([] if masks is None else _of_masks(explained, masks)),
    ]
    beside = ""
    if view.counts_prefix:
        beside = " together with what the tokens in front of the patches add"
    note = (
        "The mean of the evidence over the map and the bias of the class are "
        f"its logit{beside}."
        if view.exact
        else "The head is not linear in the map: the evidence is how far the "
        "logit changes if only one location is kept (Recipro-CAM)."
    )
    return {"view": view, "findings": findings, "note": note}


def _of_explanation(
    explained: Any, predicted: np.ndarray
) -> Iterator[_findings.Finding]:
    if explained.coarse_attention is not None:
        yield from _findings.of_maps(
            "attention maps", explained.coarse_attention[..., 0]
        )
    yield from _findings.of_maps(
        "evidence maps", explained.coarse_evidence[..., 0], predicted
    )


def _of_masks(explained: Any, masks: np.ndarray) -> Iterator[_findings.Finding]:
    known = ~np.isnan(masks).any((1, 2, 3)) & (masks > 0).any((1, 2, 3))
    if not known.any():
        return
    masks = masks[known]
    area = masks.mean((1, 2, 3))
    maps = {"evidence": np.maximum(explained.class_evidence, 0)}
    if explained.attention_map is not None:
        maps["attention"] = explained.attention_map
    for kind, values in maps.items():
        inside = energy_pointing_game(values[known], masks)
        yield _findings.of_objects(kind, inside, area)


def _items(
    choices: Sequence[_gallery.Choice],
    view: ExplanationView | None,
    images: Images,
    split: str,
    labels: np.ndarray,
    chances: np.ndarray,
) -> list[_gallery.Item]:
    if not choices:
        return []
    shown = images.of(split, [choice.index for choice in choices])
    explained = None
    if view is not None:
        classes = [
            [choice.shown]
            if choice.other is None
            else [choice.shown, choice.other]
            for choice in choices
        ]
        explained = view.explain(shown, np.array(classes))
    files = images.names(split)
    return _gallery.items(
        choices,
        shown,
        explained,
        labels=labels,
        chances=chances,
        names=[printable(name) for name in images.source.class_names],
        files=[files[choice.index] for choice in choices],
    )
