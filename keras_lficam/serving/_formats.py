"""Writes a classifier with a heat map for runtimes without TensorFlow."""

import contextlib
import importlib.util
import io
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from keras_lficam.explanation import ExplanationView
from keras_lficam.serving._signatures import served_answers

if TYPE_CHECKING:
    import onnx

# Writes a numeric model to a folder; calibrates it with images.
Writer = Callable[[keras.Model, pathlib.Path, np.ndarray | None], None]

# Package that writes a format, where Keras and TensorFlow do not alone.
_NEEDS = {"onnx": "tf2onnx", "openvino": "openvino"}
_FLOATS = (
    "float16",
    "bfloat16",
    "float64",
    "mixed_float16",
    "mixed_bfloat16",
)
# Of these the map is made. In 8 bits a small span becomes 0, by which LiteRT
# refuses to divide.
_MAP_OPERATIONS = (
    "ABS",
    "BATCH_MATMUL",
    "DIV",
    "GATHER",
    "LESS_EQUAL",
    "MAXIMUM",
    "MINIMUM",
    "MUL",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "SELECT",
    "SELECT_V2",
    "SUB",
    "SUM",
)


def numeric_model(
    model: keras.Model,
    image_size: tuple[int, int],
    top: int | None,
    activation: str | None = None,
) -> keras.Model:
    """Makes the part of a classifier that every runtime can compute.

    Whatever dtype policies the model has, this computes in float32: few
    runtimes read half precision, and none computes bfloat16 as TensorFlow
    does.

    Args:
        model: Model that has an `explanation_view`.
        image_size: `(height, width)` of its images.
        top: Number of classes that evidence is given of.
        activation: What makes probabilities of its scores, as for
            `classifier.Classifier`.

    Returns:
        Model from `images (B, height, width, channels)` to a dictionary as
        of `served_answers`, maps of attention at the size of the images.
    """
    images = keras.Input(
        (*image_size, model.inputs[0].shape[-1]), name="images", dtype="float32"
    )
    view = ExplanationView(_in_float32(model), top=top, activation=activation)
    answer = _Answer(view, name="answer", dtype="float32")
    return keras.Model(images, answer(images), name=f"{model.name}_served")


class _Answer(keras.layers.Layer):
    """A classifier as a layer; in a graph of layers constants become inputs.

    The classifier's own layers are none of its: a layer that is called forgets
    the losses of those that it holds.
    """

    def __init__(self, view: ExplanationView, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.view = view
        self.built = True

    def call(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        size = images.shape[1], images.shape[2]
        answers = served_answers(self.view, images, size)
        _let_inline(tf.compat.v1.get_default_graph())
        return answers


def _let_inline(graph: tf.Graph) -> None:
    """Lets converters see into functions that are marked for XLA.

    Keras compiles every convolution in groups by XLA, which TensorFlow's own
    kernel for the CPU needs, and tf2onnx takes such a call for an operation.
    """
    unmarked = tf.compat.v1.AttrValue(b=False)
    for operation in graph.get_operations():
        if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
            operation._set_attr("_XlaMustCompile", unmarked)


def _in_float32(model: keras.Model) -> keras.Model:
    """Copies a model for float32, unless it is of float32 already."""
    dtypes = {
        dtype
        for layer in model._flatten_layers()
        for dtype in (layer.compute_dtype, layer.variable_dtype)
    }
    if dtypes <= {"float32"}:
        return model
    copy = type(model).from_config(_with_float32(model.get_config()))
    copy.set_weights(model.get_weights())
    return copy


def _with_float32(config: Any) -> Any:
    """Copies a configuration; what is of another float becomes float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return config | {"config": {"name": "float32"}}
        return {
            key: "float32"
            if key == "dtype" and value in _FLOATS
            else _with_float32(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_with_float32(value) for value in config)
    return config


def check(name: str) -> None:
    """Refuses a format whose writer is not installed.

    Args:
        name: A key of `WRITERS`.

    Raises:
        ImportError: If it is not.
    """
    package = _NEEDS.get(name)
    if package and importlib.util.find_spec(package) is None:
        raise ImportError(
            f"The format {name!r} needs the package {package}. To fix this: "
            'pip install "keras-lficam[serving]"'
        )


def _onnx(model: keras.Model, folder: pathlib.Path, images: object) -> None:
    import onnx

    path = folder / "model.onnx"
    spec = keras.InputSpec(dtype="float32", shape=model.input_shape)
    model.export(
        str(path), format="onnx", input_signature=[spec], verbose=False
    )
    graph = onnx.load(str(path))
    _name_onnx_input(graph.graph)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


def _name_onnx_input(graph: "onnx.GraphProto") -> None:
    """Leaves one input, named as the model's.

    tf2onnx names it after the argument of a function, and lists constants that
    it has folded as inputs, too.
    """
    used = {name for node in graph.node for name in node.input}
    used -= {constant.name for constant in graph.initializer}
    (image,) = (value for value in graph.input if value.name in used)
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == image.name:
                node.input[index] = "images"
    image.name = "images"
    del graph.input[:]
    graph.input.append(image)


def _openvino(model: keras.Model, folder: pathlib.Path, images: object) -> None:
    import openvino

    with _saved(model) as saved:
        converted = openvino.convert_model(str(saved))
        _name_openvino(converted, sorted(model.output))
        openvino.save_model(
            converted, str(folder / "model.xml"), compress_to_fp16=False
        )


def _name_openvino(converted: Any, names: list[str]) -> None:
    converted.inputs[0].set_names({"images"})
    found = {
        name: output
        for name in names
        for output in converted.outputs
        if name in output.names
    }
    if len(found) != len(names):  # They come in the order of the names.
        found = dict(zip(names, converted.outputs, strict=True))
    for name, output in found.items():
        output.set_names({name})


def _litert(suffix: str) -> Writer:
    def write(
        model: keras.Model, folder: pathlib.Path, images: np.ndarray | None
    ) -> None:
        with _saved(model) as saved:
            converter = tf.lite.TFLiteConverter.from_saved_model(str(saved))
            if suffix:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if suffix == "_float16":
                converter.target_spec.supported_types = [tf.float16]
            with contextlib.redirect_stderr(io.StringIO()):
                if suffix == "_int8":
                    assert images is not None  # `export` asks for them.
                    content = _quantized(converter, images)
                else:
                    content = converter.convert()
        (folder / f"model{suffix}.tflite").write_bytes(content)

    return write


def _quantized(converter: Any, images: np.ndarray) -> bytes:
    """Quantises a model to 8 bits, and leaves the maths of the map as it is."""

    def samples() -> Iterable[list[np.ndarray]]:
        return ([image[np.newaxis]] for image in images)

    converter.representative_dataset = samples
    options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_ops=list(_MAP_OPERATIONS)
    )
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=samples, debug_options=options
    )
    content: bytes = debugger.get_nondebug_quantized_model()
    return content


@contextlib.contextmanager
def _saved(model: keras.Model) -> Iterator[pathlib.Path]:
    """Saves a numeric model for a converter that reads SavedModels."""
    import tempfile

    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, "images")
    module = tf.Module()
    variables = model.get_layer("answer").view.model.variables
    module.weights = [variable.value for variable in variables]
    function = tf.function(
        lambda images: model(images, training=False),
        input_signature=[spec],
        autograph=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(
            module, folder, signatures=function.get_concrete_function()
        )
        yield pathlib.Path(folder)


WRITERS: dict[str, Writer] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "litert": _litert(""),
    "litert_float16": _litert("_float16"),
    "litert_int8": _litert("_int8"),
}
