"""Calls the public functions with one odd argument after another.

    python tests/odd_inputs.py --tries 3000 --seed 0

Each try takes a function whose call is right and makes one argument wrong. The
call must end in a ValueError or TypeError (or what the function documents)
that is raised in keras_lficam and names the argument, and leave no file.
Anything else is a finding: an exception from the depths, a message that does
not name the argument, an answer, or a file.
"""

import argparse
import collections
import contextlib
import functools
import io
import os
import pathlib
import re
import tempfile
import traceback
import warnings

import keras
import numpy as np
import scipy.sparse
import small_classifiers
import small_onnx

import keras_lficam
from keras_lficam import (
    evaluation,
    explainers,
    functional,
    metrics,
    surgery,
    visualization as show,
)
from keras_lficam.backbones import cifar

PACKAGE = pathlib.Path(keras_lficam.__file__).parent
SIZE = (16, 12)

# What is no array, whatever the argument.
NO_ARRAYS = {
    "None": lambda _: None,
    "text": lambda _: "text",
    "bytes": lambda _: b"bytes",
    "dictionary": lambda x: {"x": x},
    "set": lambda _: {1, 2},
    "object": lambda _: object(),
    "function": lambda _: print,
    "ragged list": lambda _: [[1.0], [2.0, 3.0]],
    "list with None": lambda _: [None, 1.0],
    "array of objects": lambda x: np.asarray(x).astype(object),
    "array of text": lambda x: np.asarray(x).astype(str),
    "complex array": lambda x: np.asarray(x) + 1j,
    "dates": lambda x: np.zeros(np.shape(x), "M8[s]"),
    "records": lambda x: np.zeros(np.shape(x), [("a", "f4"), ("b", "f4")]),
    "sparse matrix": lambda _: scipy.sparse.eye(4),
    "masked array": lambda x: np.ma.masked_array(x, mask=True),
    "symbolic tensor": lambda x: keras.KerasTensor(np.shape(x)),
    "generator": lambda x: (one for one in x),
}
SHAPES = {
    "number": lambda _: 1.0,
    "empty list": lambda _: [],
    "row": lambda x: np.ravel(x),
    "axis more": lambda x: np.asarray(x)[None],
    "empty batch": lambda x: np.asarray(x)[:0],
    "no rows": lambda x: np.asarray(x)[:, :0],
    "channels doubled": lambda x: np.repeat(x, 2, axis=-1),
    "axes turned": lambda x: np.swapaxes(x, 1, -1),
}
VALUES = {
    "NaN": lambda x: _with(x, np.nan),
    "infinity": lambda x: _with(x, -np.inf),
    "beyond float32": lambda x: _with(x, 1e39),
}
NO_NUMBERS = {
    key: NO_ARRAYS[key]
    for key in ("text", "bytes", "dictionary", "set", "object", "function")
} | {
    "list": lambda x: [x],
    "complex": lambda _: 1j,
    "array": lambda x: np.full(3, x),
    "NaN": lambda _: float("nan"),
    "infinity": lambda _: float("inf"),
    "less": lambda _: -3,
    "much less": lambda _: -(10**30),
}
NONE = {"None": lambda _: None}
BEYOND = {"beyond float64": lambda _: 10**400}
NO_TEXT = {
    "number": lambda _: 3,
    "list": lambda _: [1, 2],
    "dictionary": lambda _: {},
    "object": lambda _: object(),
    "bytes": lambda _: b"bytes",
    "array": lambda _: np.zeros(3),
}
NO_PAIRS = {
    "number": lambda _: 3,
    "text": lambda _: "ab",
    "one": lambda _: (1,),
    "three": lambda _: (1, 2, 3, 4),
    "words": lambda _: ("a", "b"),
    "NaN": lambda x: (float("nan"), *x[1:]),
    "infinity": lambda x: (*x[:-1], float("inf")),
    "empty": lambda _: (),
    "dictionary": lambda _: {},
    "None inside": lambda x: (*x[:-1], "x"),
}


def _in_context(change, context):
    return {"row": change(context["row"])}


KINDS = {
    "images": NO_ARRAYS | SHAPES | VALUES,
    "maps": NO_ARRAYS | SHAPES | VALUES,
    # In a graph nobody can look at the values.
    "tensor": {
        key: NO_ARRAYS[key]
        for key in NO_ARRAYS
        if key not in ("symbolic tensor", "complex array")
    },
    "classes": {
        key: NO_ARRAYS[key]
        for key in NO_ARRAYS
        if key not in ("None", "symbolic tensor")
    }
    | {
        "too high": lambda _: 4,
        "negative": lambda _: [0, -1],
        "huge": lambda _: 10**30,
        "float": lambda _: 1.0,
        "Boolean": lambda _: True,
        "too many": lambda _: [0, 1, 2],
        "one-hot": lambda _: np.eye(2, 4),
        "NaN": lambda _: float("nan"),
    },
    "count": NO_NUMBERS
    | NONE
    | {"zero": lambda _: 0, "float": lambda _: 2.0, "Boolean": lambda _: True},
    "seed": NO_NUMBERS | NONE | {"float": lambda _: 0.5},
    "span": {key: NO_NUMBERS[key] for key in NO_NUMBERS if key != "function"}
    | BEYOND,
    "share": NO_NUMBERS | NONE | BEYOND | {"more": lambda _: 1.5},
    "text": NO_TEXT | NONE,
    "verbosity": NO_TEXT | NONE | {"text": lambda _: "loud"},
    "word": NO_TEXT | {"unknown": lambda _: "nothing", "no": lambda _: ""},
    "model": NO_TEXT
    | NONE
    | {
        "text": lambda _: "model.keras",
        "class": lambda _: keras.Model,
        "layer": lambda _: keras.layers.Dense(3),
        "unbuilt": lambda _: keras.Sequential([keras.layers.Dense(3)]),
    },
    "function": NO_TEXT | {"text": lambda _: "text"},
    "side": {
        key: (NO_NUMBERS | NO_PAIRS)[key]
        for key in NO_NUMBERS | NO_PAIRS
        if key not in ("number", "array")
    }
    | {"zero": lambda _: 0, "too large": lambda _: 17, "half": lambda _: 1.5},
    "pixels": NO_ARRAYS
    | VALUES
    | {
        "five channels": lambda _: np.zeros(5),
        "another size": lambda _: np.zeros((4, 4, 3)),
    },
    "range": NO_PAIRS
    | {"reversed": lambda x: x[::-1], "equal": lambda _: (1, 1)},
    "size": NO_PAIRS | {"zero": lambda _: (0, 8), "less": lambda _: (-1, 8)},
    "shape": NO_PAIRS
    | NONE
    | {"zero": lambda _: (0, 8, 3), "float": lambda _: (16.0, 12.0, 3.0)},
    "shares": {
        key: NO_PAIRS[key]
        for key in NO_PAIRS
        if key not in ("one", "three", "NaN")
    }
    | {"more": lambda _: [0.5, 1.5], "zero": lambda _: [0.0, 0.5]},
    "names": {
        "number": lambda _: 3,
        "text": lambda _: "text",
        "numbers": lambda _: [1, 2, 3, 4],
        "too few": lambda x: x[:1],
        "None inside": lambda x: [*x[:-1], None],
    },
    "flag": NO_TEXT
    | {
        "text": lambda _: "yes",
        "no text": lambda _: "",
        "one": lambda _: 1,
        "array of one": lambda _: np.array(True),
    },
    "bits": {key: NO_NUMBERS[key] for key in NO_NUMBERS}
    | {
        "too few": lambda _: 7,
        "too many": lambda _: 17,
        "float": lambda _: 12.0,
        "Boolean": lambda _: True,
        "zero": lambda _: 0,
    },
    "activation": NO_TEXT
    | {
        "no": lambda _: "",
        "another": lambda _: "relu",
        "function": lambda _: keras.activations.softmax,
        "Boolean": lambda _: True,
    },
    "context": NO_TEXT
    | NONE
    | {
        "text": lambda _: "text",
        "pairs": lambda x: list(x.items()),
        "another name": lambda x: {"another": x["row"]},
        "one more": lambda x: x | {"another": x["row"]},
        "number as a name": lambda x: x | {0: x["row"]},
    }
    | {
        f"{key} in it": functools.partial(_in_context, change)
        for key, change in (NO_ARRAYS | SHAPES | VALUES).items()
        # A row for all images, and one axis that is turned on itself.
        if key not in ("row", "axes turned")
    },
    "class weights": {
        key: NO_TEXT[key] for key in NO_TEXT if key != "dictionary"
    }
    | {
        "text": lambda _: "heavy",
        "no": lambda _: "",
        "pairs": lambda _: [(0, 1.0)],
        "another class": lambda _: {4: 1.0},
        "class before": lambda _: {-1: 1.0},
        "another name": lambda _: {"cat": 1.0},
        "Boolean as a class": lambda _: {True: 2.0},
        "float as a class": lambda _: {0.0: 2.0},
        "None as a class": lambda _: {None: 2.0},
        "one class twice": lambda _: {0: 2.0, "a": 3.0},
        "negative": lambda _: {0: -1.0},
        "NaN": lambda _: {0: float("nan")},
        "infinity": lambda _: {0: float("inf")},
        "beyond float32": lambda _: {0: 1e39},
        "beyond float64": lambda _: {0: 10**400},
        "text as a weight": lambda _: {0: "1"},
        "None as a weight": lambda _: {0: None},
        "Boolean as a weight": lambda _: {0: True},
        "array as a weight": lambda _: {0: np.ones(2)},
        "none left": lambda _: dict.fromkeys(range(4), 0),
    },
    # Which classes there are, it does not know yet.
    "class weights of a recipe": {
        key: NO_TEXT[key] for key in NO_TEXT if key != "dictionary"
    }
    | {"text": lambda _: "heavy", "no": lambda _: ""},
    "callbacks": NO_TEXT
    | NONE
    | {
        "text": lambda _: "text",
        "one": lambda _: keras.callbacks.History(),
        "class": lambda _: [keras.callbacks.History],
        "function": lambda _: [print],
        "None inside": lambda _: [None],
        "set": lambda _: {1},
    },
    "trained model": {
        "two inputs": lambda _: _two_inputs(),
        "two channels": lambda _: keras.Sequential(
            [
                keras.Input((*SIZE, 2)),
                keras.layers.Flatten(),
                keras.layers.Dense(4, "softmax"),
            ]
        ),
        "rows": lambda _: keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(4, "softmax")]
        ),
        "two outputs": lambda x: keras.Model(x.input, [x.output] * 2),
        "subclass": lambda _: type("Own", (keras.Model,), {})(),
    },
    "mapping": NO_TEXT | NONE | {"text": lambda _: "text"},
    "path": NO_TEXT
    | NONE
    | {
        "null character": lambda _: "a\0b",
        "no": lambda _: "",
        "path of bytes": lambda _: next(os.scandir(os.fsencode(os.getcwd()))),
    },
}
KINDS["one or more"] = NO_NUMBERS | {
    "None": lambda _: None,
    "zero": lambda _: 0,
    "float": lambda _: 2.0,
    "Boolean": lambda _: True,
    "beyond 32 bits": lambda _: 2**31,
    "beyond float64": lambda _: 10**400,
}
KINDS["count or all"] = {
    key: KINDS["count"][key] for key in KINDS["count"] if key != "None"
}
# A list of any length is one of classes for all images.
KINDS["classes of all"] = {
    key: KINDS["classes"][key]
    for key in KINDS["classes"]
    if key not in ("too many", "one-hot")
}
KINDS["seconds"] = NO_NUMBERS | NONE | BEYOND | {"Boolean": lambda _: True}
KINDS["timeout"] = KINDS["seconds"] | {"zero": lambda _: 0}
KINDS["url"] = KINDS["text"] | {
    "no": lambda _: "",
    "no host": lambda _: "http://",
    "no kind": lambda _: "localhost:8501",
    "file": lambda _: "file:///etc/hostname",
    "port that is no number": lambda _: "http://localhost:x",
    "port beyond": lambda _: "grpc://localhost:99999",
    "half an address": lambda _: "http://[::1",
}
KINDS["served name"] = KINDS["text"] | {"no": lambda _: ""}
KINDS["file content"] = {
    key: NO_TEXT[key] for key in NO_TEXT if key != "bytes"
} | {"text": lambda _: "image.png", "path": lambda _: pathlib.Path("a.png")}
KINDS["inputs"] = {
    key: NO_TEXT[key] for key in NO_TEXT if key != "dictionary"
} | {
    "None": lambda _: None,
    "none": lambda _: {},
    "number as a name": lambda x: {0: x["images"]},
    **{
        f"{key} in it": lambda x, change=change: {"images": change(x["images"])}
        for key, change in NO_ARRAYS.items()
    },
}
KINDS["told"] = NO_TEXT | {
    "text": lambda _: "text",
    "object in it": lambda _: {"a": object()},
    "array in it": lambda _: {"a": np.zeros(3)},
    "bytes in it": lambda _: {"a": b"bytes"},
    "number as a name": lambda _: {0: 1},
    "in itself": lambda _: _in_itself(),
}
del KINDS["told"]["dictionary"]
KINDS["exception"] = NO_TEXT | NONE | {"class": lambda _: ValueError}
KINDS["trained model"] = KINDS["model"] | KINDS["trained model"]
KINDS["more data"] = {
    key: KINDS["path"][key] for key in KINDS["path"] if key != "None"
}
KINDS["trained data"] = KINDS["path"] | {
    "unknown": lambda _: "nothing",
    "arrays": lambda _: (np.zeros((2, *SIZE, 3)), [0, 1]),
    "array of images": lambda _: np.zeros((2, *SIZE, 3)),
    "data set": lambda _: _batches(np.zeros((2, *SIZE, 3))),
}


def _in_itself():
    told = {}
    told["a"] = told
    return told


def _with(values, number):
    changed = np.array(values, "float64")
    changed.flat[0] = number
    return changed


def _two_inputs():
    image = keras.Input((*SIZE, 3), name="image")
    row = keras.Input((3,), name="row")
    x = keras.layers.Conv2D(4, 3, 4, "same", activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Concatenate()([x, row])
    return keras.Model([image, row], keras.layers.Dense(4, "softmax")(x))


def targets(folder):
    """Names the functions: each a call, and its arguments with their kinds.

    Args:
        folder: Folder that may be written to.
    """
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, *SIZE, 3)).astype("float32")
    maps = rng.uniform(0, 1, (2, *SIZE, 1)).astype("float32")
    features = rng.normal(size=(2, 4, 3, 6)).astype("float32")
    trunk = small_classifiers.backbone((*SIZE, 3))
    head = small_classifiers.head()
    model = keras.Sequential([keras.Input((*SIZE, 3)), trunk, *head])
    ours = keras_lficam.build(trunk, 4, input_shape=(*SIZE, 3))
    names = ["a", "b", "c", "d"]
    titles = ["a", "b"]
    found = {}

    def add(name, call, /, **arguments):
        found[name] = call, arguments

    ranged = {"value_range": ((0, 255), "range")}
    add(
        "min_max",
        functional.min_max,
        x=(features, "tensor"),
        smallest_span=(1e-9, "span"),
    )
    add("gray", functional.gray, images=(images, "tensor"), **ranged)
    add(
        "resize",
        functional.resize,
        images=(images, "tensor"),
        size=((4, 3), "size"),
    )
    for call in (
        functional.importance_masks,
        functional.pooled_importance_masks,
    ):
        add(
            call.__name__,
            call,
            images=(images, "tensor"),
            features=(features, "tensor"),
            **ranged,
        )
    add(
        "class_activation_map",
        functional.class_activation_map,
        features=(features, "tensor"),
        importance=(np.ones((2, 6)), "tensor"),
    )
    add(
        "class_evidence",
        functional.class_evidence,
        features=(features, "tensor"),
        kernel=(np.ones((6, 4)), "tensor"),
    )
    add(
        "explanation_view",
        keras_lficam.explanation_view,
        model=(model, "model"),
        top=(2, "count or all"),
        activation=(None, "activation"),
        layer=("features", "word"),
    )
    add(
        "explain",
        keras_lficam.explain,
        model=(model, "model"),
        images=(images, "images"),
        classes=([0, 3], "classes of all"),
        top=(2, "count or all"),
        activation=(None, "activation"),
        class_names=(names, "names"),
        layer=("features", "word"),
        batch_size=(2, "count"),
    )
    for kind in (
        explainers.AttentionMap,
        explainers.ClassEvidence,
        explainers.ReciproCAM,
        explainers.EigenCAM,
        explainers.CAM,
        explainers.GradCAM,
        explainers.GradCAMPlusPlus,
        explainers.XGradCAM,
        explainers.HiResCAM,
        explainers.LayerCAM,
        explainers.FinerCAM,
        explainers.RefineCAM,
        explainers.AblationCAM,
        explainers.IntegratedGradients,
        explainers.SmoothGrad,
        explainers.Occlusion,
        explainers.ScoreCAM,
        explainers.RISE,
        explainers.LIME,
    ):
        few = {"samples": (4, "count"), "seed": (0, "seed")}
        options = {"chunk_size": (2, "count")}
        if kind in (explainers.SmoothGrad, explainers.RISE, explainers.LIME):
            options |= few
        if kind is explainers.RISE:
            options |= {"cells": (3, "count"), "keep": (0.5, "share")}
        if kind is explainers.LIME:
            options["segments"] = lambda _: np.arange(192).reshape(SIZE), None
        else:
            options["chunk_size"] = 2, "count"
        if kind is explainers.FinerCAM:
            options |= {"gamma": (0.6, "span"), "num_references": (2, "count")}
        if kind is explainers.ScoreCAM:
            options["form"] = "increase", "word"
        if kind in (explainers.IntegratedGradients, explainers.SmoothGrad):
            options["form"] = "absolute", "word"
        if kind is explainers.IntegratedGradients:
            options |= {
                "steps": (4, "count"),
                "baseline": ([0, 0, 0], "pixels"),
            }
        if kind is explainers.SmoothGrad:
            options["noise"] = 0.1, "span"
        if kind is explainers.Occlusion:
            options |= {
                "patch": ((4, 4), "side"),
                "stride": ((4, 4), "side"),
                "fill": ([0, 0, 0], "pixels"),
            }
        if kind is not explainers.AttentionMap:
            options["model"] = model, "model"
        else:
            options["model"] = ours, "model"
        if kind in (
            explainers.GradCAM,
            explainers.ClassEvidence,
            explainers.ReciproCAM,
            explainers.GradCAMPlusPlus,
            explainers.XGradCAM,
            explainers.HiResCAM,
            explainers.LayerCAM,
            explainers.FinerCAM,
            explainers.EigenCAM,
            explainers.AblationCAM,
            explainers.ScoreCAM,
        ):
            options["layer"] = "features", "word"
        add(kind.__name__, kind, **options)
        plain = {key: value for key, (value, _) in options.items()}
        plain.pop("layer", None)
        add(
            f"{kind.__name__}()",
            kind(**plain),
            images=(images, "images"),
            classes=([0, 3], "classes"),
        )
    two = _two_inputs()
    context = {"row": np.ones((2, 3), "float32")}
    held = {
        "images": (images, "images"),
        "classes": ([0, 3], "classes"),
        "context": (context, "context"),
    }
    pixels = np.arange(192).reshape(SIZE)
    for kind, options in (
        (explainers.GradCAM, {}),
        (explainers.ScoreCAM, {}),
        (explainers.IntegratedGradients, {"steps": 4}),
        (explainers.Occlusion, {}),
        (explainers.RISE, {"samples": 4}),
        (explainers.LIME, {"samples": 4, "segments": lambda _: pixels}),
    ):
        add(f"{kind.__name__}(context)", kind(two, **options), **held)
    found["LIME"][1]["segments"] = found["LIME"][1]["segments"][0], "function"
    asked = {
        "model": (model, "model"),
        "images": (images, "images"),
        "maps": (maps, "maps"),
        "classes": ([0, 3], "classes"),
        "chunk_size": (2, "count"),
        "activation": (None, "activation"),
    }
    held["maps"] = maps, "maps"
    add(
        "average_drop(context)",
        functools.partial(metrics.average_drop, two),
        **held,
    )
    add(
        "deletion_auc(context)",
        functools.partial(metrics.deletion_auc, two, steps=2),
        **held,
    )
    add(
        "probabilities",
        keras_lficam.architectures.probabilities,
        model=(model, "model"),
        predictions=(np.full((2, 4), 0.25, "float32"), "tensor"),
        activation=(None, "activation"),
    )
    for call in (
        metrics.average_drop,
        metrics.average_gain,
        metrics.increase_in_confidence,
    ):
        add(call.__name__, call, **asked)
    for call in (
        metrics.deletion_auc,
        metrics.deletion_curve,
        metrics.insertion_auc,
        metrics.insertion_curve,
        metrics.symmetric_relevance_gain,
    ):
        add(call.__name__, call, **asked, steps=(2, "count"))
    add(
        "single_deletion",
        metrics.single_deletion,
        **asked,
        cells=(2, "count"),
    )
    seed = {"seed": (0, "seed")}
    draws = {"draws": (2, "count"), **seed}
    add("infidelity", metrics.infidelity, **asked, **draws)
    add(
        "road",
        metrics.road,
        **asked,
        **seed,
        shares=([0.2, 0.6], "shares"),
        noise=(0.01, "share"),
    )
    explain = {"explain": (explainers.GradCAM(model), "function")}
    add("adcc", metrics.adcc, **asked, **explain)
    add(
        "max_sensitivity",
        metrics.max_sensitivity,
        images=(images, "images"),
        maps=(maps, "maps"),
        **explain,
        **draws,
        radius=(0.02, "share"),
    )
    add("sparseness", metrics.sparseness, maps=(maps, "maps"))
    add("complexity", metrics.complexity, maps=(maps, "maps"))
    masks = maps > 0.5
    pair = {"maps": (maps, "maps"), "masks": (masks, "maps")}
    add("pointing_game", metrics.pointing_game, **pair)
    add("energy_pointing_game", metrics.energy_pointing_game, **pair)
    add("relevance_rank_accuracy", metrics.relevance_rank_accuracy, **pair)
    add("leak", metrics.leak, **pair)
    threshold = {"threshold": (0.5, "share")}
    add("localization_iou", metrics.localization_iou, **pair, **threshold)
    add(
        "box_accuracy",
        metrics.box_accuracy,
        **pair,
        thresholds=([0.5, 0.7], "shares"),
        iou=(0.5, "share"),
    )
    add("box_masks", metrics.box_masks, masks=(masks, "maps"))
    add(
        "max_box_accuracy",
        metrics.max_box_accuracy,
        accuracies=(np.eye(3), "maps"),
    )
    pair = {"maps": (maps, "maps"), "other_maps": (maps, "maps")}
    add("map_iou", metrics.map_iou, **pair, **threshold)
    add("rank_correlation", metrics.rank_correlation, **pair)
    add(
        "randomized",
        metrics.randomized,
        model=(model, "model"),
        seed=(0, "seed"),
    )
    functions = {"gray": lambda images, classes: images[..., :1]}
    brightness = {"brightness": lambda maps: maps.mean(axis=(1, 2, 3))}
    add(
        "evaluate",
        evaluation.evaluate,
        explainers=(functions, "mapping"),
        metrics=(brightness, "mapping"),
        data=([(images, [0, 1])], "function"),
        classes=("label", "word"),
    )
    add(
        "MapQuality",
        evaluation.MapQuality,
        explainer=(explainers.AttentionMap, "function"),
        metrics=(brightness, "mapping"),
        data=([(images, [0, 1])], "function"),
        classes=("label", "word"),
    )
    add(
        "signed_overlay",
        show.signed_overlay,
        images=(images, "images"),
        evidence=(maps - 0.5, "maps"),
        limit=(2.0, "span"),
        opacity=(0.5, "share"),
    )
    drawn = {"images": (images, "images"), "maps": (maps, "maps")}
    options = {"colormap": ("viridis", "word")}
    add("overlay", show.overlay, **drawn, opacity=(0.5, "share"), **options)
    options |= {"titles": (titles, "names"), "masks": (masks, "maps")}
    add("grid", show.grid, **drawn, columns=(1, "count"), **options)
    add(
        "comparison_grid",
        show.comparison_grid,
        images=(images, "images"),
        maps=({"gray": maps}, "mapping"),
        **options,
    )
    add(
        "prediction_titles",
        show.prediction_titles,
        predictions=(np.full((2, 4), 0.25), "maps"),
        names=(names, "names"),
        labels=([0, 1], "classes"),
    )
    network = {
        "reduction": (2, "count"),
        "relu_every": (2, "count"),
        **ranged,
    }
    # A number of layers between two ReLUs belongs to one form.
    network.pop("relu_every")
    add(
        "FeatureImportanceNetwork",
        keras_lficam.FeatureImportanceNetwork,
        form=("bottleneck", "word"),
        **network,
    )
    add("ImportanceMask", keras_lficam.layers.ImportanceMask, **ranged)
    add(
        "build",
        keras_lficam.build,
        backbone=(trunk, "word"),
        classes=(4, "count"),
        input_shape=((*SIZE, 3), "shape"),
        architecture=("lfi_cam", "word"),
        importance_network=("bottleneck", "word"),
        dropout=(0.5, "share"),
        classifier_activation=("softmax", "word"),
        output_stride=(None, "count"),
    )
    add(
        "attach",
        keras_lficam.attach,
        model=(model, "model"),
        architecture=("lfi_cam", "word"),
        layer=("features", "word"),
        importance_network=("bottleneck", "word"),
        **ranged,
    )
    add("attention_view", keras_lficam.attention_view, model=(ours, "model"))
    add("surgery.split_copy", surgery.split_copy, model=(trunk, "model"))
    add(
        "resnet",
        cifar.resnet,
        depth=(8, "count"),
        block=("basic", "word"),
        stem_stride=(1, "count"),
    )
    image_folder = _deep_images(folder / "images")
    add(
        "data.source",
        keras_lficam.data.source,
        name=("digits_in_photos", "path"),
        data_dir=(None, "more data"),
    )
    add(
        "data.source(folder)",
        keras_lficam.data.source,
        name=(image_folder, "path"),
        bits=(12, "bits"),
    )
    add(
        "read_image",
        keras_lficam.data.read_image,
        path=(image_folder / "train/a/0.png", "path"),
        bits=(12, "bits"),
    )
    batched = {
        "split": ("train", "word"),
        "image_size": ((8, 8), "size"),
        "batch_size": (2, "count"),
        "seed": (0, "seed"),
    }
    loaded = batched | {
        "resizing": ("stretch", "word"),
        "shuffle": (False, "flag"),
        "with_masks": (False, "flag"),
        "cache": (False, "flag"),
    }
    add(
        "data.load",
        keras_lficam.data.load,
        name=(image_folder, "path"),
        **loaded,
    )
    data = _source(images)
    add("Source.batches", data.batches, **loaded)
    add(
        "Source.stream",
        data.stream,
        **batched,
        augmentation=(["flip"], "names"),
        first_step=(0, "count"),
        shard=((0, 1), "shape"),
    )
    add("Source.count", data.count, split=("train", "word"))
    add("class_counts", data.class_counts, split=("train", "word"))
    add(
        "data.sample",
        keras_lficam.data.sample,
        source=(data, "model"),
        split=("train", "word"),
        count=(1, "count"),
        seed=(0, "seed"),
    )
    several = keras_lficam.data.from_datasets(
        _batches(images, np.eye(2, 4)),
        _batches(images, np.eye(2, 4)),
        class_names=names,
    )
    add(
        "data.sample(several labels)",
        keras_lficam.data.sample,
        source=(several, "model"),
        split=("train", "word"),
        count=(1, "count"),
        seed=(0, "seed"),
    )
    add(
        "from_datasets(several labels)",
        keras_lficam.data.from_datasets,
        training=(_batches(images, np.eye(2, 4)), "model"),
        validation=(_batches(images, np.eye(2, 4)), "model"),
        class_names=(names, "names"),
    )
    add(
        "from_datasets",
        keras_lficam.data.from_datasets,
        training=(_batches(images), "model"),
        validation=(_batches(images), "model"),
        test=(_batches(images), "function"),
        class_names=(names, "names"),
    )
    add(
        "recipe",
        keras_lficam.training.recipe,
        name=("modern", "word"),
        data=("cifar10", "text"),
        backbone=("ResNet20", "text"),
        image_size=((8, 8), "size"),
        images=(8, "count"),
    )
    add(
        "Recipe",
        keras_lficam.Recipe,
        epochs=(1, "count"),
        batch_size=(2, "count"),
        learning_rate=(0.1, "share"),
        optimizer=("adamw", "word"),
        weight_decay=(0.1, "share"),
        schedule=("cosine", "word"),
        decay_at=([0.5, 0.7], "shares"),
        warmup_epochs=(0.5, "share"),
        label_smoothing=(0.5, "share"),
        ema_epochs=(0.5, "share"),
        recompute_statistics=(False, "flag"),
        augmentation=(["flip"], "names"),
        resizing=("stretch", "word"),
        patience=(1, "count"),
        monitor=("accuracy", "word"),
        frozen_share=(0.5, "share"),
        layer_decay=(0.5, "share"),
        freeze_batch_norm=(False, "flag"),
        class_weight=({0: 2.0}, "class weights of a recipe"),
    )
    add(
        "SGDWithL2",
        keras_lficam.training.SGDWithL2,
        l2=(0.5, "share"),
        momentum=(0.5, "share"),
    )
    add(
        "HeatMaps",
        keras_lficam.training.HeatMaps,
        explainer=(explainers.AttentionMap, "function"),
        images=(images, "images"),
        labels=([0, 1], "classes"),
        class_names=(names, "names"),
        every=(1, "count"),
        folder=(folder / "maps", "path"),
        log_dir=(None, "more data"),
        draw=(True, "flag"),
        activation=(None, "activation"),
    )
    add(
        "fit",
        keras_lficam.fit,
        model=(ours, "trained model"),
        data=(data, "trained data"),
        recipe=(keras_lficam.Recipe(epochs=1, batch_size=2), "word"),
        folder=(folder / "run", "path"),
        checkpoint_every=(1, "count"),
        heat_maps_every=(1, "seed"),
        steps_per_execution=(1, "count"),
        seed=(0, "seed"),
        resume=(False, "flag"),
        jit_compile=(False, "activation"),
        class_weight=({0: 2.0}, "class weights"),
        callbacks=([], "callbacks"),
        verbose=(0, "verbosity"),
    )
    add(
        "export",
        keras_lficam.export,
        model=(ours, "model"),
        path=(folder / "exported", "path"),
        class_names=(names, "names"),
        formats=(["saved_model"], "names"),
        top=(2, "count"),
        version=(1, "count"),
        image_size=(SIZE, "size"),
        limits=(keras_lficam.serving.Limits(), "mapping"),
        activation=(None, "activation"),
        bits=(12, "bits"),
        **ranged,
    )
    add(
        "export(int8)",
        functools.partial(
            keras_lficam.export, ours, folder / "int8", formats=["litert_int8"]
        ),
        calibration=(images, "images"),
    )
    _add_serving(add, images, folder)
    _add_distribution(add, images)
    return found


def _add_serving(add, images, folder):
    """Adds what refuses before a server is asked; nobody listens there."""
    from keras_lficam.serving import checks, client

    most = vars(keras_lficam.serving.Limits())
    add(
        "Limits",
        keras_lficam.serving.Limits,
        **dict.fromkeys(sorted(most), (9, "one or more")),
    )
    add(
        "write_repository",
        keras_lficam.serving.write_repository,
        folder=(small_onnx.write(folder / "small" / "1"), "path"),
        path=(folder / "repository", "path"),
        backend=("python", "word"),
    )
    add("printable", client.printable, text=("cat", "text"))
    for kind in ("http", "grpc"):
        asked = client.Client(f"{kind}://127.0.0.1:1", "digits", timeout=1)
        add(
            f"Client({kind})",
            client.Client,
            url=(f"{kind}://127.0.0.1:1", "url"),
            model=("digits", "served name"),
            timeout=(1.0, "timeout"),
            protocol=("tf_serving", "word"),
            max_bytes=(9, "one or more"),
        )
        add(
            f"Client.predict({kind})",
            asked.predict,
            inputs=({"images": images}, "inputs"),
            signature=("classify", "text"),
        )
        add(
            f"Client.image({kind})",
            asked.image,
            content=(b"image", "file content"),
        )
    add(
        "serving.checks.check",
        checks.check,
        client=(asked, "model"),
        saved_model=(None, "more data"),
    )


def _add_distribution(add, images):
    import tensorflow as tf

    from keras_lficam import distribution

    alone = tf.distribute.get_strategy()
    normalized = small_classifiers.normalized_backbone()
    batches = _batches(images)
    add(
        "distribution.strategy",
        distribution.strategy,
        name=("auto", "word"),
        agree_on=({"seed": 0}, "told"),
        wait=(1.0, "seconds"),
    )
    add(
        "evaluation_batch_size",
        distribution.evaluation_batch_size,
        batch_size=(2, "count"),
        count=(2, "seed"),
    )
    add(
        "synchronize_batch_normalization",
        distribution.synchronize_batch_normalization,
        model=(normalized, "model"),
        synchronized=(True, "flag"),
    )
    add("is_chief", distribution.is_chief, strategy=(alone, "model"))
    add(
        "check_agreement",
        distribution.check_agreement,
        strategy=(alone, "word"),
        about=({"seed": 0}, "told"),
    )
    add(
        "distribute",
        distribution.distribute,
        strategy=(alone, "word"),
        batches=(lambda *_: batches, "function"),
        batch_size=(2, "count"),
    )
    add(
        "for_evaluation",
        distribution.for_evaluation,
        strategy=(alone, "model"),
        dataset=(batches, "model"),
        count=(2, "seed"),
        batch_size=(2, "count"),
    )
    add(
        "is_lost_peer",
        distribution.is_lost_peer,
        error=(ValueError("else"), "exception"),
    )


def _batches(images, labels=(0, 1)):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(
        (images.astype("uint8"), np.asarray(labels))
    ).batch(2)


def _source(images):
    batches = _batches(images)
    return keras_lficam.data.from_datasets(
        batches, batches, class_names=["a", "b", "c", "d"]
    )


def _deep_images(folder):
    """Writes images of 16 bits in folders of splits and classes."""
    from PIL import Image

    for number, part in enumerate(
        ("train/a", "train/b", "validation/a", "validation/b")
    ):
        (folder / part).mkdir(parents=True)
        pixels = np.full((8, 8), 1000 + number, "uint16")
        Image.fromarray(pixels).save(folder / part / "0.png")
    return folder


def attempt(call, arguments, argument, change):
    """Calls with one argument changed.

    Returns:
        `"refused"`, or `"from the depths"`, `"unnamed"` or `"accepted"`, and
        what was seen.
    """
    given = {key: value for key, (value, _) in arguments.items()}
    given[argument] = change(given[argument])
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            answer = call(**given)
    except Exception as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        shown = f"{type(error).__name__}: {str(error).strip()[:160]!r}"
        ours = PACKAGE in pathlib.Path(last.filename).parents
        if not ours or not isinstance(error, (TypeError, ValueError, OSError)):
            return "from the depths", f"{shown} in {last.filename}"
        # As code, for in a sentence a word as "data" says nothing.
        named = rf"`{argument}\b|\b{argument}[=\[.:]|^{argument}\b"
        if not re.search(named, str(error), re.IGNORECASE):
            return "unnamed", shown
        return "refused", shown
    return "accepted", f"{type(answer).__name__}"


def run(tries, seed, only=None):
    """Makes the tries, each with another function, argument or oddity.

    Returns:
        The number of tries of each outcome, `"written"` among them where
        files were left by a call that was refused, and the findings.
    """
    rng = np.random.default_rng(seed)
    # What is written to a path that is none of ours is then seen, too.
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = pathlib.Path(name)
        found = targets(folder)
        kept = {*folder.rglob("*")}
        cases = [
            (name, argument, oddity)
            for name, (_, arguments) in found.items()
            for argument, (_, kind) in arguments.items()
            for oddity in KINDS[kind]
            if (only is None or only(name))
            and (name, argument, oddity) not in ALLOWED
        ]
        order = rng.permutation(len(cases))
        # Beyond the last case they come once more, with others before them.
        order = np.resize(order, tries if tries else len(cases))
        counts, findings = collections.Counter(), {}
        for index in order:
            name, argument, oddity = cases[index]
            call, arguments = found[name]
            change = KINDS[arguments[argument][1]][oddity]
            try:
                outcome, shown = attempt(call, arguments, argument, change)
            except Exception as error:  # The oddity itself cannot be made.
                outcome, shown = "impossible", repr(error)[:160]
            left = {*folder.rglob("*")} - kept
            kept |= left
            if outcome == "refused" and left:
                outcome, shown = "written", f"{shown} and {sorted(left)}"
            counts[outcome] += 1
            if outcome not in ("refused", "impossible"):
                findings[name, argument, oddity] = outcome, shown
    return counts, findings


# Odd, but right: what the function documents to take.
ALLOWED = {
    ("fit", "jit_compile", "Boolean"),
    ("Recipe", "augmentation", "too few"),
    ("Source.stream", "augmentation", "too few"),
    ("Source.stream", "first_step", "zero"),
    ("Recipe", "decay_at", "empty"),
    ("Recipe", "patience", "None"),
    ("recipe", "images", "None"),
    ("data.load", "image_size", "None"),
    # How many classes there are, it knows when training begins.
    ("HeatMaps", "class_names", "too few"),
    # A default that stands for a choice.
    ("FeatureImportanceNetwork", "reduction", "None"),
    ("build", "dropout", "None"),
    ("build", "output_stride", "None"),
    ("export", "version", "None"),
    ("grid", "masks", "None"),
    ("comparison_grid", "masks", "None"),
    # One format of one.
    ("export", "formats", "too few"),
    # Any images and thresholds.
    ("max_box_accuracy", "accuracies", "axes turned"),
    ("max_box_accuracy", "accuracies", "channels doubled"),
    ("prediction_titles", "predictions", "empty batch"),
    # Images can have several labels, a 0 or 1 for each class.
    ("prediction_titles", "labels", "one-hot"),
    ("HeatMaps", "labels", "one-hot"),
    # Then other arguments do not fit to it, and are named.
    ("prediction_titles", "predictions", "axes turned"),
    ("prediction_titles", "predictions", "channels doubled"),
    ("prediction_titles", "predictions", "no rows"),
    # The name of a form is that of the network's argument.
    ("build", "importance_network", "no"),
    ("build", "importance_network", "unknown"),
    ("attach", "importance_network", "no"),
    ("attach", "importance_network", "unknown"),
    # A rate above 1 is none of ours to refuse.
    ("Recipe", "learning_rate", "more"),
    ("Recipe", "weight_decay", "more"),
    ("Recipe", "warmup_epochs", "more"),
    ("Recipe", "ema_epochs", "more"),
    ("SGDWithL2", "l2", "more"),
    # Whatever is on the object is not 0, and NaN where nobody knows.
    ("grid", "masks", "NaN"),
    ("grid", "masks", "infinity"),
    ("grid", "masks", "beyond float32"),
    ("comparison_grid", "masks", "NaN"),
    ("comparison_grid", "masks", "infinity"),
    ("comparison_grid", "masks", "beyond float32"),
    # Evidence has no range.
    ("signed_overlay", "evidence", "beyond float32"),
    # None of its layers is changed.
    ("synchronize_batch_normalization", "model", "unbuilt"),
    # A model without weights is one, too.
    ("randomized", "model", "unbuilt"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tries", type=int, default=3000, help="0: each once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of functions' names")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    counts, findings = run(
        options.tries, options.seed, lambda name: options.only in name
    )
    for case, (outcome, shown) in sorted(findings.items()):
        print(f"{outcome}: {' / '.join(case)}: {shown}")
    print(dict(counts))
    raise SystemExit(bool(findings))


if __name__ == "__main__":
    main()
