"""How good a classifier is, as tables and words on the terminal."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from keras_lficam._names import printable

if TYPE_CHECKING:
    from rich.table import Table

_METRICS = {
    "accuracy": "accuracy",
    "exact_match": "all labels right",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "expected_calibration_error": "calibration error",
    "log_loss": "log loss",
}
_OF_CLASSES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "average_precision": "avg. precision",
}
# Classes that are shown, those that are found worst.
_SHOWN = 20
# Figures that are no shares of something.
_PLAIN = {"log_loss"}


def shown(found: Mapping[str, Mapping[str, Any]]) -> Iterator[object]:
    """Gives what is to be printed of the metrics of some splits.

    Args:
        found: What `Classification.to_dict` gives, by the name of the split.
            Of the last one the classes are shown.

    Yields:
        Tables and lines.
    """
    yield _overall(found)
    (*_, (split, last)) = found.items()
    yield ""
    yield sentence(last, split)
    yield ""
    yield _of_classes(last)
    if len(last["classes"]) > _SHOWN:
        yield (
            f"These are the {_SHOWN} of {len(last['classes'])} classes with "
            "the lowest F1; metrics.json has all."
        )


def sentence(found: Mapping[str, Any], split: str) -> str:
    """Says what the accuracy is worth beside the most frequent class."""
    from keras_lficam.metrics.classification import verdict

    value = found["accuracy"]["value"]
    majority = found["majority_accuracy"]
    if found["multi_label"]:
        always = f"the most frequent answer of each label gives {majority:.1%}"
    else:
        always = (
            "always answering the most frequent class, "
            f"{_short(found['majority_class'])}, gives {majority:.1%}"
        )
    means = {
        "above": f"The accuracy of {value:.1%} is above that of the majority "
        f"class: {always}.",
        "unclear": f"The accuracy of {value:.1%} is not clearly above that of "
        f"the majority class: {always}, which lies in the interval.",
        "not above": f"THE ACCURACY OF {value:.1%} IS NOT ABOVE THAT OF THE "
        f"MAJORITY CLASS: {always}. Look at the balanced accuracy; "
        "--class-weight balanced, if it was not on, or more epochs may help.",
    }
    return f"On the {split} images: {means[verdict(found)]}"


def _overall(found: Mapping[str, Mapping[str, Any]]) -> "Table":
    from rich.table import Table

    level = next(iter(found.values()))["bootstrap"]["confidence"]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    table.add_column(f"with {level:.0%} intervals")
    for split, values in found.items():
        table.add_column(
            f"{split} ({values['images']:,})", justify="right", no_wrap=True
        )
    columns = list(found.values())
    for name, label in _METRICS.items():
        if name in columns[0]:
            figures = [_figure(name, values[name]) for values in columns]
            table.add_row(label, *figures)
        if name == "accuracy":
            majority = [f"{x['majority_accuracy']:.1%}" for x in columns]
            table.add_row("  of the majority class", *majority)
    return table


def _of_classes(found: Mapping[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    table.add_column("class", overflow="ellipsis", no_wrap=True, max_width=24)
    for label in ("images", *_OF_CLASSES.values()):
        table.add_column(label, justify="right")
    classes = found["classes"]
    if len(classes) > _SHOWN:
        ranked = sorted(
            (one for one in classes if one["support"]),
            key=lambda one: one["f1"]["value"],
        )
        classes = ranked[:_SHOWN]
    for one in classes:
        figures = [_share(one[name]["value"]) for name in _OF_CLASSES]
        table.add_row(printable(one["name"]), str(one["support"]), *figures)
    return table


def _figure(name: str, estimate: Mapping[str, Any]) -> str:
    value, interval = estimate["value"], estimate["interval"]
    if value is None:
        return "-"
    form = "{:.3f}" if name in _PLAIN else "{:.1%}"
    text = form.format(value)
    if interval is None:
        return text
    low, high = (form.format(bound) for bound in interval)
    return f"{text} ({low.rstrip('%')} to {high})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 40 else f"{name[:39]}\N{HORIZONTAL ELLIPSIS}"
