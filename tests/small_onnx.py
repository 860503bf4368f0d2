"""Versions with an ONNX model whose answers can be worked out by hand.

An image `(2, 2, 3)` of 0 to 255 has the mean of each channel, over 255, as the
probabilities of three classes, itself over 255 as their evidence, and the mean
of its channels, over 255, as its map. Evidence is of all classes, in order.
"""

import json
import pathlib

import onnx
from onnx import TensorProto, helper

from keras_lficam.serving import Limits

NAMES = ["red", "green", "blue"]


def write(folder, *, attention=True, limits=None):
    """Writes a version; gives its folder."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    onnx.save(_model(attention), folder / "model.onnx")
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    about = {
        "image_size": [2, 2],
        "channels": 3,
        "top": 2,
        "value_range": [0.0, 255.0],
        "limits": vars(limits or Limits(images=4)),
    }
    (folder / "export.json").write_text(json.dumps(about))
    return folder


def _model(attention):
    def value(name, kind, *sides):
        return helper.make_tensor_value_info(name, kind, ["batch", *sides])

    number, whole = TensorProto.FLOAT, TensorProto.INT32
    constants = [
        helper.make_tensor("white", number, [1], [255.0]),
        helper.make_tensor("sides", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("channels", TensorProto.INT64, [1], [3]),
        helper.make_tensor("none", number, [1], [0.0]),
        helper.make_tensor("numbers", number, [3], [0.0, 1.0, 2.0]),
    ]
    node = helper.make_node
    nodes = [
        node("Div", ["images", "white"], ["class_evidence"]),
        node(
            "ReduceMean",
            ["class_evidence", "sides"],
            ["probabilities"],
            keepdims=0,
        ),
        node("Mul", ["probabilities", "none"], ["zeros"]),
        node("Add", ["zeros", "numbers"], ["order"]),
        node("Cast", ["order"], ["evidence_classes"], to=whole),
    ]
    outputs = [
        value("probabilities", number, 3),
        value("class_evidence", number, 2, 2, 3),
        value("evidence_classes", whole, 3),
    ]
    if attention:
        nodes.append(
            node(
                "ReduceMean",
                ["class_evidence", "channels"],
                ["attention_map"],
                keepdims=1,
            )
        )
        outputs.append(value("attention_map", number, 2, 2, 1))
    graph = helper.make_graph(
        nodes, "small", [value("images", number, 2, 2, 3)], outputs, constants
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model)
    return model
