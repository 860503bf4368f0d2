"""Tables of the page of results, from the CSV files beside this file.

A difference is that of models with the same seed, setting and backbone, and
each mean has the 95 % interval of other models: Student's t over trainings, or
over those left out in turn where pairs of models are compared.
"""

import functools
import statistics

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
# What the bottleneck was when the first models were trained.
EVERY_RELU = {"every_relu": "`bottleneck`, `relu_every=1`"}
# What is compared with the released form.
FORMS = {
    "pointwise": "`pointwise`",
    "bottleneck": "`bottleneck`",
    **EVERY_RELU,
    "pooled": "`pooled`",
}
# Of the studies of accuracy, and of that of few classes.
BASE = {"classes": "10", "setting": "base"}
PAIR = {"backbone": "residual", "classes": "2"}
SEEDS = ("0", "1", "2", "3", "4")
# All settings were trained twice, the second time with seeds that are greater.
# Tables of accuracy leave these models out.
TWICE = ("stability", "stability_again")
SEEDS_AFTER = 10
# What is other in an ablation, by the names of protocol.toml.
CHANGES = {
    "bottleneck": "nothing: `bottleneck`",
    "every_relu": "a ReLU behind all convolutions",
    "uniform": "importance 1 / `C`, nothing learned",
    "no_gray": "no gray image",
    "sigmoid": "sigmoid, not softmax",
    "no_min_max": "no min-max before",
    "kernel_1": "kernels 1, 1, 1, not 1, 3, 1",
    "depth_2": "two convolutions 1x1, a ReLU at the end",
    "depth_5": "five convolutions",
    "wide": "64 filters inside, not 8",
    "narrow": "2 filters inside",
    "grouped": "64 filters in 8 groups of channels",
    "shared": "each channel alone, all by one network",
    "map_16x16": "`output_stride=4`, a map of 16x16, not 8x8",
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


def _gained_finely(mean, half):
    return _with_half(mean, half, "+.3f")


def _trainings(column, **chosen):
    """Values of a column of trainings.csv by backbone, setting and seed."""
    return {
        (row["backbone"], row["setting"], row["seed"]): float(row[column])
        for row in tables.rows_of("evidence/trainings", **chosen)
        if row[column] and row["seed"] in SEEDS
    }


def _difference(ones, others):
    """Of values by backbone, setting and seed, those of both."""
    shared = sorted(ones.keys() & others.keys())
    return tables.interval([ones[way] - others[way] for way in shared])


def accuracy(**chosen):
    """Accuracy of the architectures, and where their maps point.

    Args:
        **chosen: Values of columns of trainings.csv.
    """

    def values(contender, column):
        return _trainings(column, contender=contender, **chosen)

    lines = []
    for contender, name in NAMES.items():
        found = values(contender, "accuracy")
        line = [name, _percent(*tables.interval(list(found.values())))]
        for other in ("plain", "abn", "released"):
            against = values(other, "accuracy")
            line += [
                ""
                if other == contender
                else _points(*_difference(found, against))
            ]
        shown = list(values(contender, "pointing_game").values())
        lines.append([*line, _share(*tables.interval(shown)) if shown else ""])
    header = ["", "right, %", "minus plain", "minus ABN", "minus `released`"]
    return tables.table([*header, "pointing game"], lines, align="lrrrrr")


def _of_pairs(column, studies, **chosen):
    """Values of a column of stability.csv by the two models.

    Of several studies it is their mean, for models that differ by the greater
    seeds alone.
    """
    found = [
        {
            (_first_of(row["one"]), _first_of(row["other"])): float(row[column])
            for row in tables.rows_of(
                "evidence/stability", study=study, **chosen
            )
        }
        for study in studies
    ]
    pairs = found[0].keys()
    if any(values.keys() != pairs for values in found):
        raise ValueError(f"The studies {studies} have other pairs: {chosen}")
    return {
        pair: statistics.mean(values[pair] for values in found)
        for pair in pairs
    }


def _first_of(model):
    """The model of the first training in this setting."""
    setting, _, seed = model.rpartition("-")
    return f"{setting}-{int(seed) % SEEDS_AFTER}"


def _difference_of_pairs(ones, others):
    """Of values by two models, those of both."""
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


def stability():
    """How alike the maps of models are that were trained otherwise."""
    of_abn = _of_pairs("iou", TWICE, contender="abn")
    lines = []
    for name, which in _drawn():
        values = functools.partial(_of_pairs, studies=TWICE, **which)
        iou = values("iou")
        line = [name, _share(*tables.interval_of_pairs(iou))]
        if which["contender"] == "abn":
            line += [""]
        else:
            line += [_gained(*_difference_of_pairs(iou, of_abn))]
        without = {
            pair: value
            for pair, value in iou.items()
            if not any(model.startswith("adamw") for model in pair)
        }
        line += [
            _share(*tables.interval_of_pairs(found))
            for found in (without, values("rank_correlation"))
        ]
        lines.append([*line, f"{_mean(values('iou_by_chance')):.2f}"])
    header = ["maps of", "IoU", "minus ABN", "IoU without AdamW"]
    header += ["rank correlation", "IoU by chance"]
    return tables.table(header, lines, align="lrrrrr")


def forms():
    """Each form of the importance network against the released one."""
    lines = []
    for form, name in FORMS.items():
        line = [name]
        for column, written in (
            ("accuracy", _points),
            ("pointing_game", _gained_finely),
            ("energy_in_box", _gained_finely),
        ):
            ours, released = (
                _trainings(column, contender=contender, **BASE)
                for contender in (form, "released")
            )
            line += [written(*_difference(ours, released))]
        models = [
            _of_pairs("iou", TWICE, contender=contender)
            for contender in (form, "released")
        ]
        lines.append([*line, _gained_finely(*_difference_of_pairs(*models))])
    header = ["minus `released`", "right, points", "pointing game"]
    header += ["energy in box", "IoU of pairs"]
    return tables.table(header, lines, align="lrrrr")


def few_classes():
    """All architectures where there are two classes."""

    def of_pairs(contender, column="iou"):
        return _of_pairs(column, ["few_classes"], contender=contender)

    lines = []
    for contender, name in (NAMES | EVERY_RELU).items():
        found = _trainings("accuracy", contender=contender, **PAIR)
        line = [name, _percent(*tables.interval(list(found.values())))]
        if contender == "plain":
            lines.append([*line, *[""] * 5])
            continue
        shown = _trainings("pointing_game", contender=contender, **PAIR)
        line += [_share(*tables.interval(list(shown.values())))]
        iou = of_pairs(contender)
        line += [_share(*tables.interval_of_pairs(iou))]
        line += [
            ""
            if contender == other
            else _gained(*_difference_of_pairs(iou, of_pairs(other)))
            for other in ("abn", "released")
        ]
        chance = _mean(of_pairs(contender, "iou_by_chance"))
        lines.append([*line, f"{chance:.2f}"])
    header = ["", "right, %", "pointing game", "IoU of pairs", "minus ABN"]
    header += ["minus `released`", "by chance"]
    return tables.table(header, lines, align="lrrrrrr")


def ablation():
    """What each part of the importance network is good for."""

    def values(contender, column):
        return _trainings(
            column, contender=contender, backbone="residual", **BASE
        )

    def iou(contender):
        return _of_pairs("iou", ["ablation"], contender=contender)

    lines = []
    for contender, name in CHANGES.items():
        line = [name]
        for column, mean_form, written in (
            ("accuracy", ".1f", _points),
            ("pointing_game", ".3f", _gained_finely),
            ("energy_in_box", ".3f", _gained_finely),
        ):
            found = values(contender, column)
            factor = 100 if column == "accuracy" else 1
            line += [f"{factor * _mean(found):{mean_form}}"]
            if contender != "bottleneck":
                gained = _difference(found, values("bottleneck", column))
                line[-1] += f" ({written(*gained)})"
        line += [f"{_mean(iou(contender)):.3f}"]
        if contender != "bottleneck":
            gained = _difference_of_pairs(iou(contender), iou("bottleneck"))
            line[-1] += f" ({_gained_finely(*gained)})"
        lines.append(line)
    header = ["what is other", "right, %", "pointing game", "energy in box"]
    return tables.table([*header, "IoU"], lines, align="lrrrr")


def cost(device):
    """Time of a form over that of the plain model, and weights added."""
    rows = tables.rows_of("evidence/cost", device=device)
    by = {(row["backbone"], row["form"]): row for row in rows}
    forms = list(dict.fromkeys(form for _, form in by))
    lines = []
    for backbone in dict.fromkeys(backbone for backbone, _ in by):
        line = [f"`{backbone}`"]
        for form in forms:
            row = by[backbone, form]
            added = int(row["parameters"]) - int(row["parameters_plain"])
            words = f"{added / 1e6:.2f}\u00a0M"
            if device != "CPU":  # There it differs from run to run.
                plain = int(row["peak_megabytes_plain"])
                words += f", {int(row['peak_megabytes']) - plain}\u00a0MB"
            line += [f"{float(row['ratio']):.2f} ({words})"]
        lines.append(line)
    header = ["time / plain (added)", *(f"`{form}`" for form in forms)]
    return tables.table(header, lines, align="l" + "r" * len(forms))


def quality(contender):
    """All explainers of an architecture by all metrics."""
    rows = tables.rows_of("evidence/quality", contender=contender)
    return _by_metric(rows, "explainer", lambda name: f"`{name}`")


def quality_of_attention():
    """The attention map of each architecture by all metrics."""
    rows = tables.rows_of("evidence/quality", explainer="AttentionMap")
    order = list(NAMES)
    rows.sort(key=lambda row: order.index(row["contender"]))
    return _by_metric(rows, "contender", NAMES.__getitem__)


def _by_metric(rows, column, named):
    """Means over models: a metric a row, a column for each of a column's."""
    arrow = {"lower": "↓", "higher": "↑"}
    columns = list(dict.fromkeys(row[column] for row in rows))
    lines = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        of = [row for row in rows if row["metric"] == metric]
        line = [f"`{metric}` {arrow[of[0]['better']]}"]
        for name in columns:
            values = [float(row["mean"]) for row in of if row[column] == name]
            line += [_share(*tables.interval(values))]
        lines.append(line)
    header = ["", *map(named, columns)]
    return tables.table(header, lines, align="l" + "r" * len(columns))


def claims():
    """What the paper says of LFI-CAM, and what the default form does here."""
    ours = "bottleneck"

    def values(contender, column="accuracy", **chosen):
        return _trainings(column, contender=contender, **BASE, **chosen)

    def weights(contender):
        (found,) = set(
            values(contender, "parameters", backbone="residual").values()
        )
        return found / 1000

    def iou(contender, studies):
        return _of_pairs("iou", studies, contender=contender)

    lines = []
    for claim, other in (
        ("is more accurate than the plain model", "plain"),
        ("is more accurate than ABN", "abn"),
    ):
        gained = _difference(values(ours), values(other))
        verdict = _verdict(*gained)
        reversed_for = [
            name
            for form, name in NAMES.items()
            if form not in ("plain", "abn")
            and _verdict(*_difference(values(form), values(other)))
            == "reversed"
        ]
        if reversed_for:
            verdict += f"; reversed for {' and '.join(reversed_for)}"
        lines.append([claim, "yes", f"{_points(*gained)} points", verdict])
    for claim, studies, paper in (
        (
            "computes stabler maps than ABN",
            TWICE,
            "IoU 0.60 and 0.64; ABN 0.29 and 0.32",
        ),
        ("... and with two classes", ["few_classes"], "IoU 0.73; ABN 0.30"),
    ):
        found, of_abn = iou(ours, studies), iou("abn", studies)
        gained = _difference_of_pairs(found, of_abn)
        here = (
            f"IoU {_mean(found):.2f}; ABN {_mean(of_abn):.2f}; "
            f"difference {_gained(*gained)}"
        )
        lines.append([claim, paper, here, _verdict(*gained)])
    seconds, passes = (
        {
            row["explainer"]: float(row[column])
            for row in tables.rows_of("comparison", metric="pointing_game")
        }
        for column in ("seconds_per_image", "forward_passes")
    )
    times = seconds["ScoreCAM"] / seconds["AttentionMap"]
    machine = tables.machines(tables.rows_of("comparison"))
    lines.append(
        [
            "computes a map faster than Score-CAM",
            "one pass",
            f"{times:.0f} times as fast ({machine}), "
            f"1 pass for {passes['ScoreCAM']:.0f}",
            _verdict(times - 1, 0),
        ]
    )
    numbers = [weights(name) for name in (ours, "abn", "released")]
    lines.append(
        [
            "has fewer weights than ABN",
            "yes",
            "{:.0f}\u00a0k; ABN {:.0f}\u00a0k; `released` {:.0f}\u00a0k".format(
                *numbers
            ),
            f"{_verdict(numbers[1] - numbers[0], 0)}; "
            f"{_verdict(numbers[1] - numbers[2], 0)} for `released`",
        ]
    )
    header = ["LFI-CAM ...", "in the paper", "here", ""]
    return tables.table(header, lines)


def _verdict(mean, half):
    """What an interval says of a difference that is claimed to be positive."""
    if mean - half > 0:
        return "confirmed"
    return "reversed" if mean + half < 0 else "not confirmed"


def _mean(values):
    return sum(values.values()) / len(values)


def draw(figure):
    """Every model's accuracy, and every pair's likeness."""
    left, right = figure.subplots(1, 2)
    found = {
        name: _trainings(
            "accuracy", contender=contender, backbone="residual", **BASE
        ).values()
        for contender, name in NAMES.items()
    }
    _dots(left, found)
    left.set_xlabel("accuracy, models of five seeds")
    pairs = {
        name: _of_pairs("iou", TWICE, **which).values()
        for name, which in _drawn()
    }
    _dots(right, pairs)
    right.set_xlabel("IoU of the maps of two settings")


def _dots(axes, groups):
    """A line of dots for each group, with its mean; LFI-CAM is blue."""
    for place, (name, values) in enumerate(groups.items()):
        color = "#4c72b0" if name.startswith("`") else "#777777"
        axes.scatter(
            values, [place] * len(values), s=14, color=color, alpha=0.5
        )
        mean = sum(values) / len(values)
        axes.plot([mean, mean], [place - 0.3, place + 0.3], color=color)
    names = [name.strip("`") for name in groups]
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


# By the names in the marks of pages.
TABLES = {
    "accuracy": functools.partial(accuracy, backbone="residual", **BASE),
    "accuracy_squeeze": functools.partial(accuracy, backbone="squeeze", **BASE),
    "stability": stability,
    "few_classes": few_classes,
    "forms": forms,
    "claims": claims,
    "ablation": ablation,
    "cost": functools.partial(cost, "CPU"),
    "cost_gpu": functools.partial(cost, "NVIDIA H200"),
    "quality": functools.partial(quality, "bottleneck"),
    "quality_of_attention": quality_of_attention,
    "quality_plain": functools.partial(quality, "plain"),
}
