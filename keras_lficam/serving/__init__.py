"""Serves classifiers that show what they looked at.

Examples:

    keras_lficam.export(model, "saved_models/digits", formats=["saved_model"])
"""

from typing import Any

__all__ = ["FORMATS", "export"]

FORMATS = (
    "saved_model",
    "onnx",
    "openvino",
    "litert",
    "litert_float16",
    "litert_int8",
)


def __getattr__(name: str) -> Any:
    """Imports what writes models, and TensorFlow with it, when it is used.

    A client needs neither.
    """
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_lficam.serving.exporting import export

    return export
