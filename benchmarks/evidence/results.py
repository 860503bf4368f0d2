"""Tables of the page of results, from the CSV files beside this file.

A difference is that of nets with the same seed, setting and backbone, and each
mean has the 95 % interval of other nets: Student's t over trainings, or over
those left out in turn where pairs of nets are compared.
"""

import functools

import tables

NAMES = {
    "plain": "plain",
    "abn": "ABN",
    # Forms of LFI-CAM.
    "released": "`released`",
    "pointwise": "`pointwise`",
    "bottleneck": "`bottleneck`",
    "pooled": "`pooled`",
}


def _with_half(mean, half, form):
    """A mean and half of its interval, which no line's end divides."""
    return f"{mean:{form}}\u00a0±\u00a0{half:{form.removeprefix('+')}}"


def _percent(mean, half):
    return _with_half(100 * mean, 100 * half, ".1f")


def _points(mean, half):
    return _with_half(100 * mean, 100 * half, "+.1f")


def _share(mean, half):
    return _with_half(mean, half, ".2f")


def _gained(mean, half):
    return _with_half(mean, half, "+.2f")


def _trainings(column, **chosen):
    """Values of a column of trainings.csv by setting and seed."""
    return {
        (row["setting"], row["seed"]): float(row[column])
        for row in tables.rows_of("evidence/trainings", **chosen)
        if row[column]
    }


def _difference(ones, others):
    """Of values by setting and seed, those of both."""
    shared = sorted(ones.keys() & others.keys())
    return tables.interval([ones[way] - others[way] for way in shared])


def accuracy(ways, **chosen):
    """How often the kinds of nets are right, and where their maps point.

    Args:
        ways: Setting and seed of the nets that are looked at.
        **chosen: Values of columns of trainings.csv.
    """

    def values(contender, column):
        found = _trainings(column, contender=contender, **chosen)
        return {way: value for way, value in found.items() if way in ways}

    lines = []
    for contender, name in NAMES.items():
        found = values(contender, "accuracy")
        line = [name, _percent(*tables.interval(list(found.values())))]
        for other in ("plain", "abn"):
            against = values(other, "accuracy")
            line += [
                ""
                if other == contender
                else _points(*_difference(found, against))
            ]
        shown = list(values(contender, "pointing_game").values())
        line += [_share(*tables.interval(shown)) if shown else ""]
        (weights,) = set(values(contender, "parameters").values())
        lines.append([*line, f"{weights / 1000:.0f}\u00a0k"])
    header = ["", "right, %", "minus plain", "minus ABN"]
    header += ["pointing game", "weights"]
    return tables.table(header, lines, align="lrrrrr")


def _of_pairs(column, **chosen):
    """Values of a column of stability.csv by the two nets."""
    return {
        (row["one"], row["other"]): float(row[column])
        for row in tables.rows_of("evidence/stability", **chosen)
    }


def _difference_of_pairs(ones, others):
    """Of values by two nets, those of both."""
    shared = ones.keys() & others.keys()
    return tables.interval_of_pairs(
        {pair: ones[pair] - others[pair] for pair in shared}
    )


def _drawn():
    """Names of what draws maps, with contender and explainer."""
    for contender, name in NAMES.items():
        if contender != "plain":
            yield name, {"contender": contender, "explainer": "AttentionMap"}
    for explainer, name in {
        "GradCAM": "Grad-CAM",
        "ScoreCAM": "Score-CAM",
    }.items():
        yield (
            f"plain, {name}",
            {"contender": "plain", "explainer": explainer},
        )


def stability(study):
    """How alike the maps of nets are that were trained otherwise."""
    of_abn = _of_pairs(
        "iou", study=study, contender="abn", explainer="AttentionMap"
    )
    lines = []
    for name, which in _drawn():
        values = functools.partial(_of_pairs, study=study, **which)
        iou = values("iou")
        if not iou:  # Not compared yet.
            continue
        line = [name, _share(*tables.interval_of_pairs(iou))]
        if which["contender"] == "abn":
            line += [""]
        else:
            line += [_gained(*_difference_of_pairs(iou, of_abn))]
        line += [
            _share(*tables.interval_of_pairs(values(column)))
            for column in ("iou_at_half", "rank_correlation")
        ]
        chance = values("iou_by_chance").values()
        lines.append([*line, f"{sum(chance) / len(chance):.2f}"])
    header = ["maps of", "IoU", "minus ABN", "IoU at half", "rank correlation"]
    return tables.table([*header, "IoU by chance"], lines, align="lrrrrr")


RESIDUAL = {"backbone": "residual", "classes": "10"}
NAMES_OF_SETTINGS = ["base", "slow", "large_batch", "adamw", "fast"]
SETTINGS = [(name, str(seed)) for seed, name in enumerate(NAMES_OF_SETTINGS)]
# By the names in the marks of pages.
TABLES = {
    "accuracy_of_settings": functools.partial(accuracy, SETTINGS, **RESIDUAL),
    "stability": functools.partial(stability, "stability"),
}
