"""Writes the tables and figures of the documentation from the CSV files here.

    python benchmarks/pages.py           # after a benchmark has run
    python benchmarks/pages.py --check   # fails where a page differs

A table stands in a page behind its mark, `<!-- table: NAME -->`, and the line
that names its machines behind `<!-- machines: NAME -->`. A figure holds the
hashes of the CSV files it was drawn from, by which it is seen to be old.
"""

import argparse
import hashlib
import pathlib
import re
import statistics
import sys

from tables import interval, machines, rows_of, table

HERE = pathlib.Path(__file__).parent
# The evidence has a folder, whose scripts find what is beside this file.
sys.path.append(str(HERE / "evidence"))

import results  # noqa: E402

DOCS = HERE.parent / "docs"
PAGES = [HERE.parent / "README.md", *sorted(DOCS.glob("*.md"))]
BLUE, ORANGE, GRAY = "#4c72b0", "#dd8452", "#9a9a9a"


def demo():
    rows = rows_of("demo_seeds")
    percent = {
        "accuracy": "accuracy",
        "brightest point of the map inside the digit's box": "pointing_game",
        "share of the heat inside the box": "energy_in_box",
    }
    lines = []
    for words, column in percent.items():
        values = [100 * float(row[column]) for row in rows]
        lines.append([words, _spread(values, ".1f", " %")])
    lift = [
        float(row["energy_in_box"]) / float(row["mean_box_area"])
        for row in rows
    ]
    words = "the same, over the share of the image that the box covers"
    lines.append([words, _spread(lift, ".2f")])
    return table(["measured", "five seeds, mean (lowest to highest)"], lines)


def _spread(values, form, unit=""):
    mean, low, high = (
        f"{value:{form}}{unit}"
        for value in (statistics.mean(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"


def backbones():
    return table(
        [
            "backbone",
            "image",
            "weights, plain",
            "with LFI-CAM",
            "feature map",
            "class evidence",
            "time, LFI-CAM / plain",
        ],
        (
            [
                f"`{row['backbone']}`",
                row["image_size"],
                f"{int(row['parameters_plain']) / 1e6:.2f} M",
                f"{int(row['parameters_lfi_cam']) / 1e6:.2f} M",
                f"{row['rows']}x{row['columns']}x{row['channels']}",
                "exact" if row["exact"] == "True" else "Recipro-CAM",
                f"{float(row['ratio']):.2f}",
            ]
            for row in rows_of("backbones")
        ),
    )


def explainers():
    return table(
        [
            "case",
            "model and images",
            "contender",
            "for an image",
            "ours over it",
            "peak memory",
        ],
        (
            [
                f"`{row['case']}`",
                f"{row['model']}, {row['images']} of "
                f"{row['image_size']}x{row['image_size']}",
                row["contender"],
                f"{float(row['seconds_per_image']):.3g} s",
                f"{float(row['ours_over_it']):.3g}",
                f"{float(row['peak_memory_gb']):.2f} GB",
            ]
            for row in rows_of("explainers")
        ),
        align="lllrrr",
    )


def comparison():
    rows = rows_of("comparison")
    explainers = list(dict.fromkeys(row["explainer"] for row in rows))
    arrow = {"lower": "↓", "higher": "↑"}
    lines = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        of = [row for row in rows if row["metric"] == metric]
        lines.append(
            [
                f"`{metric}` {arrow[of[0]['better']]}",
                *(f"{float(row['mean']):.3f}" for row in of),
            ]
        )
    lines += [
        [
            "seconds for an image",
            *(f"{float(row['seconds_per_image']):.2g}" for row in of),
        ],
        ["forward passes", *(row["forward_passes"] for row in of)],
        ["backward passes", *(row["backward_passes"] for row in of)],
    ]
    header = ["", *(f"`{name}`" for name in explainers)]
    return table(header, lines, align="l" + "r" * len(explainers))


def choice():
    """What LFI-CAM's map, the class evidence and Grad-CAM need and show."""
    names = ("AttentionMap", "ClassEvidence", "GradCAM")

    def of(metric, form=".2f"):
        return [
            f"{float(row['mean']):{form}}"
            for name in names
            for row in rows_of("comparison", explainer=name, metric=metric)
        ]

    pointing = [
        " and ".join(
            f"{interval([float(r['grid_pointing']) for r in rows])[0]:.2f}"
            for rows in (
                _by_explainer(model)[name] for model in ("demo", "shipped")
            )
        )
        for name in names
    ]
    passes = [
        f"{row['forward_passes']} + {row['backward_passes']}"
        for name in names
        for row in rows_of("comparison", explainer=name, metric="sanity")
    ]
    lines = [
        [
            "needs",
            "a model trained with the branch",
            "any classifier; exact behind average pooling and one dense layer",
            "any classifier with a feature map",
        ],
        [
            "shows",
            "where features are amplified, for no class",
            "what speaks for and against each class, in logits",
            "what speaks for one class",
        ],
        ["passes, forward + backward", *passes],
        [
            "in ONNX, OpenVINO, LiteRT",
            "yes",
            "yes",
            "no; in a SavedModel yes",
        ],
        ["heat in the cell of the asked class of four (chance 0.25) ↑"]
        + pointing,
        ["heat inside the box of the object ↑", *of("energy_pointing_game")],
        [
            "share of the probability lost when the map masks the image ↓",
            *of("average_drop"),
        ],
        ["same map from random weights (rank correlation) ↓", *of("sanity")],
    ]
    header = ["", "LFI-CAM's attention map", "class evidence", "Grad-CAM"]
    return table(header, lines)


def grid_pointing():
    """Means over the seeds, with 95 % intervals: five models, and one."""
    models = {model: _by_explainer(model) for model in ("demo", "shipped")}
    metrics = {
        "grid_pointing": "GridPG ↑",
        "single_deletion": "`single_deletion` ↑",
    }
    lines = []
    for name, of in models["demo"].items():
        mosaics = [of[0][key] for key in ("mosaics", "mosaics_deleted")]
        values = [
            _with_interval(rows[name], column)
            for column in metrics
            for rows in models.values()
        ]
        passes = [
            " or ".join(
                dict.fromkeys(rows[name][0][key] for rows in models.values())
            )
            for key in ("forward_passes", "backward_passes")
        ]
        lines.append([f"`{name}`", *values, ", ".join(dict.fromkeys(mosaics))])
        lines[-1].append(" + ".join(passes))
    header = [
        f"{words}, {model}"
        for words in metrics.values()
        for model in ("five trained", "shipped")
    ]
    header = ["", *header, "mosaics of a seed", "passes, forward + backward"]
    return table(header, lines, align="lrrrrrr")


def leak():
    """Means over the images, of both models and both maps that are read."""
    rows = {
        (row["explainer"], row["architecture"], row["map"]): row
        for row in rows_of("leak")
    }
    columns = {
        ("lfi_cam", "masked"): "LFI-CAM",
        ("cam", "masked"): "plain head",
        ("lfi_cam", "in front of the mask"): "LFI-CAM, before the mask",
        ("cam", "in front of the mask"): "plain head, before the mask",
    }
    lines = []
    for name in dict.fromkeys(name for name, *_ in rows):
        of = [rows.get((name, *column)) for column in columns]
        images = dict.fromkeys(row["images"] for row in of if row)
        lines.append([f"`{name}`", *map(_leak, of), ", ".join(images)])
    header = ["leak ↓", *columns.values(), "images"]
    return table(header, lines, align="lrrrrr")


def _leak(row):
    if row is None:
        return ""
    return "0" if row["largest_leak"] == "0" else f"{float(row['leak']):.3f}"


def _with_interval(rows, column):
    mean, half = interval([float(row[column]) for row in rows])
    return f"{mean:.3f} ± {half:.3f}"


def _by_explainer(model):
    """Rows of each explainer of grid_pointing.csv, in the order of the file."""
    rows = rows_of("grid_pointing", model=model)
    names = dict.fromkeys(row["explainer"] for row in rows)
    return {
        name: [row for row in rows if row["explainer"] == name]
        for name in names
    }


def step():
    return table(
        ["backbone", "plain", "LFI-CAM / plain"],
        (
            [
                f"`{row['case']}`",
                f"{float(row['seconds_other']):.2f} s",
                f"{float(row['ratio']):.2f}",
            ]
            for row in rows_of("training", question="step")
        ),
    )


def pipeline():
    return table(
        ["images, augmentation, model", "images a second", "pipeline / step"],
        (
            [
                row["case"],
                # Its seconds are those of ten batches.
                f"{10 * int(row['batch_size']) / float(row['seconds']):,.0f}",
                f"{float(row['ratio']):.3f}",
            ]
            for row in rows_of("training", question="pipeline")
        ),
    )


def serving():
    return table(
        ["runtime", "batch", "class, ms", "class and map, ms", "ratio"],
        (
            [
                row["runtime"],
                row["batch_size"],
                f"{float(row['milliseconds_class']):.1f}",
                f"{float(row['milliseconds_map']):.1f}",
                f"{float(row['map_over_class']):.2f}",
            ]
            for row in rows_of("serving")
        ),
    )


def agreement():
    return table(
        [
            "format",
            "probability",
            "map",
            "same class",
            "rank correlation",
            "evidence",
            "its rank correlation",
            "mean and bias off the logit",
        ],
        (
            [
                row["format"],
                row["probabilities"],
                row["map"],
                f"{float(row['same_class']):.1%}",
                row["rank_correlation"],
                row["evidence"],
                row["evidence_rank_correlation"],
                row["exactness"],
            ]
            for row in rows_of("serving_agreement")
        ),
    )


def efficientnet_lite():
    return table(
        [
            "backbone",
            "format",
            "file",
            "probability",
            "same class",
            "rank correlation",
        ],
        (
            [
                f"`{row['backbone']}`",
                row["format"],
                f"{float(row['megabytes']):.1f} MB",
                row["probability"],
                f"{float(row['same_class']):.1%}",
                row["rank_correlation"],
            ]
            for row in rows_of("efficientnet_lite")
        ),
        align="llrrrr",
    )


# Runs on solar cells.
CELLS = {
    "command": "the command, a plain folder",
    "lfi_cam": "LFI-CAM, fine-tuned",
    "abn": "ABN, fine-tuned",
    "plain": "plain, fine-tuned",
    "lfi_cam_frozen": "LFI-CAM, frozen trunk",
    "uniform_frozen": "LFI-CAM with importance 1/C, frozen trunk",
    "plain_frozen": "plain, frozen trunk",
}


def solar_cells():
    """Test metrics of each kind of run.

    Of several seeds the mean and its interval, of one run the interval over
    images.
    """
    columns = {
        "accuracy": "test_accuracy",
        "balanced accuracy": "test_balanced_accuracy",
        "ROC AUC": "test_roc_auc",
        "average precision": "test_average_precision",
    }
    every = rows_of("solar_cells")
    lines = []
    for run in dict.fromkeys(row["run"] for row in every):
        of = [row for row in every if row["run"] == run]
        images = sorted({int(row["test_images"]) for row in of})
        majority = statistics.mean(float(row["test_majority"]) for row in of)
        lines.append(
            [
                CELLS[run],
                str(len(of)),
                ", ".join(map(str, images)),
                f"{majority:.3f}",
                *(
                    _with_interval(of, column)
                    if len(of) > 1
                    else "{:.3f} ({:.3f} to {:.3f})".format(
                        *(
                            float(of[0][f"{column}{end}"])
                            for end in ("", "_low", "_high")
                        )
                    )
                    for column in columns.values()
                ),
            ]
        )
    header = ["", "runs", "test images", "majority class", *columns]
    return table(header, lines, align="lrrrrrrr")


def solar_cells_maps():
    """Faithfulness of the maps, means over the seeds with intervals."""
    rows = rows_of("solar_cells_maps")
    lines = []
    for key in dict.fromkeys((row["run"], row["explainer"]) for row in rows):
        of = [row for row in rows if (row["run"], row["explainer"]) == key]
        lines.append(
            [
                CELLS[key[0]],
                f"`{key[1]}`",
                str(len(of)),
                of[0]["images"],
                *(
                    _with_interval(of, column)
                    for column in (
                        "symmetric_relevance_gain",
                        "single_deletion",
                    )
                ),
            ]
        )
    header = [
        "",
        "map",
        "runs",
        "images of a run",
        "SRG ↑",
        "`single_deletion` ↑",
    ]
    return table(header, lines, align="llrrrr")


def solar_cells_stability():
    """Rank correlation of the maps of two seeds, and of different images."""
    return table(
        ["", "map", "of the same image", "of different images"],
        (
            [
                CELLS[row["run"]],
                f"`{row['explainer']}`",
                f"{float(row['rank_correlation']):.2f}",
                f"{float(row['rank_correlation_by_chance']):.2f}",
            ]
            for row in rows_of("solar_cells_stability")
        ),
        align="llrr",
    )


def hub_classifiers():
    return table(
        [
            "`...ImageClassifier`",
            "found, of 64x64 pixels",
            "Grad-CAM",
            "class evidence",
            "Recipro-CAM",
            "SavedModel",
        ],
        (
            [
                f"`{family}`" + (f", {more}" if more else ""),
                row["map"],
                row["grad_cam"],
                row["evidence"],
                row["recipro_cam"],
                row["saved_model"],
            ]
            for row in rows_of("hub_classifiers")
            for family, _, more in [row["classifier"].partition(", ")]
        ),
    )


def exactness():
    """The largest of all backbones, of each way to ask for the evidence."""
    words = {
        "view": "`explanation_view(model)`",
        "loaded": "the same, of the saved and loaded model",
        "saved_model": "SavedModel",
        "onnx": "ONNX",
        "openvino": "OpenVINO",
        "litert": "LiteRT",
    }
    lines = []
    for column, said in words.items():
        of = [row for row in rows_of("exactness") if row[column]]
        worst = max(of, key=lambda row: float(row[column]))
        lines.append(
            [said, str(len(of)), worst[column], f"`{worst['backbone']}`"]
        )
    header = ["asked", "backbones", "largest difference", "of"]
    return table(header, lines, align="lrrl")


def view():
    return table(
        [
            "model, 224x224, batch 8",
            "evidence",
            "prediction",
            "time ratio, evidence of 5 classes",
            "quartiles of the rounds",
        ],
        (
            [
                f"`{row['backbone']}`",
                "exact" if row["exact"] == "True" else "Recipro-CAM",
                f"{float(row['seconds_predict']):.3g} s",
                f"{float(row['ratio']):.3f}",
                f"{float(row['ratio_lower_quartile']):.3f} to "
                f"{float(row['ratio_upper_quartile']):.3f}",
            ]
            for row in rows_of("view")
        ),
        align="llrrr",
    )


def second_processor():
    """Ratios that were measured twice, with those of the tables."""
    lines = []
    for row in rows_of("second_processor"):
        if row["script"] == "explainers.py":
            name = f"`{row['case']}`"
            form = ".3g"
            others = [
                float(other["ours_over_it"])
                for other in rows_of("explainers", contender=row["contender"])
                if other["case"].startswith(row["case"])
            ]
        else:
            name = f"`{row['case']}`, `{row['form']}`"
            form = ".3f"
            others = [
                float(other["ratio"])
                for other in rows_of(
                    "evidence/cost",
                    backbone=row["case"],
                    form=row["form"],
                    device="CPU",
                )
            ]
        span = dict.fromkeys(f"{end(others):{form}}" for end in (min, max))
        lines.append([name, row["contender"], row["ratio"], " to ".join(span)])
    header = ["measured", "time over that of", "there", "in the tables"]
    return table(header, lines, align="llrr")


OURS = (
    demo,
    backbones,
    explainers,
    comparison,
    choice,
    grid_pointing,
    leak,
    step,
    pipeline,
    serving,
    agreement,
    efficientnet_lite,
    solar_cells,
    solar_cells_maps,
    solar_cells_stability,
    exactness,
    hub_classifiers,
    view,
    second_processor,
)
# By the names in the marks.
TABLES = {make.__name__: make for make in OURS} | results.TABLES
# Rows of the tables that have a time, or depend on the processor otherwise.
MEASURED = {
    "backbones": ("backbones", {}),
    "explainers": ("explainers", {}),
    "comparison": ("comparison", {}),
    "grid_pointing": ("grid_pointing", {}),
    "leak": ("leak", {}),
    "exactness": ("exactness", {}),
    "hub_classifiers": ("hub_classifiers", {}),
    "view": ("view", {}),
    "step": ("training", {"question": "step"}),
    "pipeline": ("training", {"question": "pipeline"}),
    "serving": ("serving", {}),
    "agreement": ("serving_agreement", {}),
    "efficientnet_lite": ("efficientnet_lite", {}),
    "solar_cells": ("solar_cells", {}),
    "solar_cells_maps": ("solar_cells_maps", {}),
    "cost": ("evidence/cost", {"device": "CPU"}),
    "second_processor": ("second_processor", {}),
}


def measured_on(name):
    """Names the machines of the rows of a table."""
    file, chosen = MEASURED[name]
    return f"Measured on: {machines(rows_of(file, **chosen))}."


def _in_one(drawing):
    """Draws in the only axes of a figure."""

    def draw(figure):
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        drawing(axes)

    return draw


def draw_backbones(axes):
    """What LFI-CAM adds to the time of every backbone."""
    rows = sorted(
        rows_of("backbones", image_size="224"),
        key=lambda row: float(row["ratio"]),
    )
    for place, row in enumerate(rows):
        axes.plot(
            [
                float(row["ratio_lower_quartile"]),
                float(row["ratio_upper_quartile"]),
            ],
            [place, place],
            color=GRAY,
            linewidth=1.5,
            zorder=1,
        )
    axes.scatter(
        [float(row["ratio"]) for row in rows],
        range(len(rows)),
        color=BLUE,
        s=22,
        zorder=2,
    )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(
        range(len(rows)), [row["backbone"] for row in rows], fontsize=8
    )
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlim(left=0.85)
    axes.set_xlabel(
        "time with LFI-CAM / plain, median and quartiles\n"
        + machines(rows).replace("; ", "\n")
    )


def draw_explainers(axes):
    """How much faster other libraries' explainers are, or slower."""
    rows = [
        row
        for row in rows_of("explainers")
        if row["contender"] in ("tf-keras-vis", "xplique", "lower bound")
    ]
    colors = {"tf-keras-vis": BLUE, "xplique": ORANGE, "lower bound": GRAY}
    rows.reverse()
    axes.barh(
        range(len(rows)),
        [1 / float(row["ours_over_it"]) - 1 for row in rows],
        left=1,
        color=[colors[row["contender"]] for row in rows],
    )
    axes.set_yticks(
        range(len(rows)),
        [f"{row['case']}, {row['contender']}" for row in rows],
        fontsize=8,
    )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(
        [0.5, 1, 2, 5, 10, 20, 50, 100],
        ["0.5", "1", "2", "5", "10", "20", "50", "100"],
    )
    axes.minorticks_off()
    axes.set_xlabel(
        "time of the other / time of keras_lficam\n" + machines(rows)
    )


def draw_comparison(figure):
    """Quality of each explainer with the interval of its mean."""
    rows = rows_of("comparison")
    explainers = list(dict.fromkeys(row["explainer"] for row in rows))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    grid = figure.subplots(3, 3, sharey=True)
    for axes, metric in zip(grid.flat, metrics, strict=True):
        of = [row for row in rows if row["metric"] == metric]
        mean = [float(row["mean"]) for row in of]
        ends = [
            [float(row["mean"]) - float(row["low"]) for row in of],
            [float(row["high"]) - float(row["mean"]) for row in of],
        ]
        colors = [ORANGE] + [BLUE] * (len(of) - 1)
        axes.barh(range(len(of)), mean, xerr=ends, color=colors, ecolor="black")
        axes.set_title(f"{metric}\n{of[0]['better']} is better", fontsize=9)
        axes.set_yticks(range(len(of)), explainers, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_xlim(0, 1.05)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].invert_yaxis()


def draw_grid_pointing(figure):
    """Both scores of each explainer with the intervals of their means."""
    models = {"five trained": "demo", "shipped": "shipped"}
    of_models = {words: _by_explainer(of) for words, of in models.items()}
    explainers = of_models["shipped"]
    pair = figure.subplots(1, 2, sharey=True)
    for axes, column, words in zip(
        pair,
        ("grid_pointing", "single_deletion"),
        (
            "grid pointing game\nhigher is better",
            "single deletion\nhigher is better",
        ),
        strict=True,
    ):
        for number, (which, of_model) in enumerate(of_models.items()):
            of = [
                interval([float(row[column]) for row in of_model[name]])
                for name in explainers
            ]
            mean, half = zip(*of, strict=True)
            axes.barh(
                [place + 0.4 * number - 0.2 for place in range(len(of))],
                mean,
                height=0.4,
                xerr=half,
                color=(ORANGE, BLUE)[number],
                ecolor="black",
                error_kw={"linewidth": 0.8},
                label=which,
            )
        axes.set_title(words, fontsize=9)
        axes.set_yticks(range(len(explainers)), explainers, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    chance, none = 0.25, 0
    pair[0].axvline(chance, color="black", linewidth=0.8, linestyle="--")
    pair[0].set_xlim(0, 1)
    pair[1].axvline(none, color="black", linewidth=0.8)
    pair[1].legend(title="models", fontsize=8, title_fontsize=8)
    pair[0].invert_yaxis()


# Name of a figure: size in inches, how to draw, and from which CSV files.
FIGURES = {
    "backbones": ((7, 7.5), _in_one(draw_backbones), ["backbones"]),
    "explainers": ((7, 5), _in_one(draw_explainers), ["explainers"]),
    "comparison": ((8, 6.5), draw_comparison, ["comparison"]),
    "grid_pointing": ((8, 7), draw_grid_pointing, ["grid_pointing"]),
    "evidence": (
        (8, 3.4),
        results.draw,
        ["evidence/trainings", "evidence/stability"],
    ),
}


def drawn_from(name):
    """The words in a figure that say from what it was drawn."""
    *_, files = FIGURES[name]
    return "; ".join(
        f"benchmarks/{file}.csv, sha256 "
        + hashlib.sha256((HERE / f"{file}.csv").read_bytes()).hexdigest()
        for file in files
    )


def draw(name):
    from matplotlib import pyplot as plt

    size, drawing, _ = FIGURES[name]
    figure = plt.figure(figsize=size, layout="constrained")
    drawing(figure)
    path = DOCS / "images" / f"benchmark_{name}.png"
    figure.savefig(path, dpi=110, metadata={"Description": drawn_from(name)})
    plt.close(figure)


def is_old(name):
    from PIL import Image

    path = DOCS / "images" / f"benchmark_{name}.png"
    if not path.exists():
        return True
    with Image.open(path) as image:
        return image.text.get("Description") != drawn_from(name)


def written(text):
    """A page with tables and machines as the CSV files have them."""
    for name, make in TABLES.items():
        mark = f"<!-- table: {name} -->"
        text = re.sub(
            rf"{mark}\n+(\|.*\n)*\n*",
            lambda match, mark=mark, make=make: f"{mark}\n\n{make()}\n\n",
            text,
        )
    for name in MEASURED:
        mark = f"<!-- machines: {name} -->"
        text = re.sub(
            rf"{mark}\n+(Measured on: .*\n)?\n*",
            lambda match, mark=mark, name=name: (
                f"{mark}\n\n{measured_on(name)}\n\n"
            ),
            text,
        )
    return text.rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    old = [name for name in FIGURES if is_old(name)]
    pages = {
        page: text
        for page in PAGES
        if (text := written(page.read_text())) != page.read_text()
    }
    if check:
        wrong = [*old, *(page.name for page in pages)]
        sys.exit(f"not as the CSV files say: {wrong}" if wrong else 0)
    for page, text in pages.items():
        page.write_text(text)
        print(page)
    for name in old:
        draw(name)
        print(name)


if __name__ == "__main__":
    main()
