"""Renders the page from what was gathered."""

import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from keras_lficam._names import printable
from keras_lficam.reporting import _charts

_TEMPLATE = pathlib.Path(__file__).with_name("page.html.jinja")
# Classes with a line of their own, and those of a confusion matrix.
_ROWS, _MATRIX = 50, 20
_EN_DASH = "\N{EN DASH}"
# In which order findings stand.
_LEVELS = ("problem", "warning", "good", "note")
_METRICS = (
    ("accuracy", "Accuracy", "share of correct predictions"),
    ("exact_match", "All labels right", "share of images"),
    ("balanced_accuracy", "Balanced accuracy", "mean recall of the classes"),
    ("macro_f1", "Macro F1", "mean F1 of the classes"),
    ("roc_auc", "ROC AUC", "each class against the rest, mean; chance 50%"),
    (
        "average_precision",
        "Average precision",
        "each class against the rest, mean",
    ),
    (
        "expected_calibration_error",
        "Calibration error",
        "gap of confidence and accuracy, 15 bins; lower is better",
    ),
    ("log_loss", "Log loss", "in nats; lower is better"),
)
_OF_CLASSES = (
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("f1", "F1"),
    ("roc_auc", "ROC AUC"),
    ("average_precision", "Average precision"),
)
_GROUPS = {
    "errors": (
        "Confident errors",
        "Wrong predictions, those of the highest probability first.",
        "No image was predicted wrong.",
    ),
    "doubtful": (
        "Doubtful images",
        "The two most probable classes are nearly as probable.",
        "None.",
    ),
    "typical": (
        "Typical images",
        "Right predictions of the highest probability in each class.",
        "No image was predicted right.",
    ),
}


def rendered(context: Mapping[str, Any]) -> str:
    """Renders the page.

    Args:
        context: What `running` gathers.

    Returns:
        HTML.
    """
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "printable": printable,
        "share": _share,
        "number": _number,
        "bounds": _bounds,
        "figure": _figure,
    }
    text = _TEMPLATE.read_text(encoding="utf-8")
    return environment.from_string(text).render(
        **context,
        **_derived(context),
        charts=_charts,
        overall=_METRICS,
        of_classes=_OF_CLASSES,
        groups=_GROUPS,
    )


def _derived(context: Mapping[str, Any]) -> dict[str, Any]:
    run, metrics = context["run"], context["metrics"]
    shown = metrics.get(context["split"])
    classes = _classes(context, shown)
    findings = sorted(
        context["findings"], key=lambda finding: _LEVELS.index(finding.level)
    )
    return {
        "findings_in_order": findings,
        "shown": shown,
        "rows": classes[:_ROWS],
        "hidden": len(classes) - len(classes[:_ROWS]),
        "most": {k: max([1, *n]) for k, n in context["counts"].items()},
        "totals": {k: sum(v) for k, v in context["counts"].items()},
        "matrix": _matrix(shown),
        "curves": _curves(run),
        "bins": _charts.reliability(shown["calibration"]) if shown else [],
        "settings": _settings(run),
        "command": _command(run),
    }


def _classes(
    context: Mapping[str, Any], shown: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """A row for each class; where there are many the worst come first."""
    rows = []
    for k, name in enumerate(context["names"]):
        rows.append(
            {
                "name": name,
                "counts": {s: n[k] for s, n in context["counts"].items()},
                "values": shown["classes"][k] if shown else None,
            }
        )
    if len(rows) > _ROWS and shown:
        # A class without images has no F1, and comes last.
        rows.sort(
            key=lambda row: (
                not row["values"]["support"],
                row["values"]["f1"]["value"] or 0.0,
            )
        )
    return rows


def _matrix(shown: Mapping[str, Any] | None) -> list[list[dict[str, Any]]]:
    """Cells of the confusion matrix; none if it would not be readable."""
    if not shown or shown["multi_label"] or not shown["confusion"]:
        return []
    if len(shown["confusion"]) > _MATRIX:
        return []
    return [
        [
            {
                "count": count,
                "share": round(count / max(sum(row), 1), 3),
                "diagonal": i == j,
            }
            for j, count in enumerate(row)
        ]
        for i, row in enumerate(shown["confusion"])
    ]


def _curves(run: Any) -> list[tuple[str, Any]]:
    """Charts of accuracy and loss over the epochs."""
    curves = run.curves
    prefix = "predictions_" if "predictions_accuracy" in curves else ""
    best = run.metrics.get("best_epoch")
    charts = []
    for title, name in (("Accuracy", f"{prefix}accuracy"), ("Loss", "loss")):
        series = {
            label: curves[column]
            for label, column in (
                ("training", name),
                ("validation", f"val_{name}"),
            )
            if column in curves
        }
        chart = _charts.learning_curves(series, best) if series else None
        if chart is not None:
            charts.append((title, chart))
    return charts


def _settings(run: Any) -> list[tuple[str, str]]:
    about = run.about
    rows = [
        ("Data", str(about["data"]["name"])),
        ("Image size", " x ".join(map(str, about["image_size"]))),
        ("Parameters", f"{about['parameters']:,}"),
        ("Seed", str(about["seed"])),
        ("Steps per epoch", str(about["steps_per_epoch"])),
    ]
    options = {k: v for k, v in run.options.items() if k != "data"}
    rows += [(_words(name), _shown(value)) for name, value in options.items()]
    rows += [
        (f"Recipe: {_words(name).lower()}", _shown(value))
        for name, value in about["recipe"].items()
    ]
    if about.get("class_weights"):
        rows.append(_weights(about["class_weights"][:20]))
    rows += [
        (f"Version of {name}", str(value))
        for name, value in about.get("versions", {}).items()
    ]
    return [(name, printable(value)) for name, value in rows]


def _weights(weights: Sequence[Any]) -> tuple[str, str]:
    """Weights of classes; of labels those of their absence and presence."""
    if not isinstance(weights[0], Sequence):
        return "Class weights", ", ".join(f"{w:.3g}" for w in weights)
    pairs = [f"{absent:.3g} / {present:.3g}" for absent, present in weights]
    return "Class weights (label absent / present)", ", ".join(pairs)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _command(run: Any) -> str | None:
    """The command that does the run again, if it was one."""
    if not run.options:
        return None
    words = ["keras-lficam", "train"]
    for name, value in run.options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif isinstance(value, (list, tuple)):
            words += [option, *map(str, value)]
        elif value is not None and value is not False:
            words += [option, str(value)]
    return printable(shlex.join([*words, "--output", "runs/again"]))


def _share(value: float | None) -> str:
    return _EN_DASH if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return _EN_DASH if value is None else f"{value:,}"


def _figure(estimate: Mapping[str, Any], name: str) -> str:
    value = estimate["value"]
    return _EN_DASH if value is None else _form(name).format(value)


def _bounds(estimate: Mapping[str, Any], name: str) -> str:
    """The interval of a value in words; empty if there is none."""
    if estimate["interval"] is None:
        return ""
    low, high = (_form(name).format(bound) for bound in estimate["interval"])
    return f"{low.rstrip('%')} to {high}"


def _form(name: str) -> str:
    return "{:.3f}" if name == "log_loss" else "{:.1%}"
