"""Serves classifiers that show what they looked at.

Examples:

    keras_lficam.export(model, "saved_models/digits", formats=["saved_model"])
"""

from typing import Any

__all__ = ["FORMATS", "export"]


def __getattr__(name: str) -> Any:
    """Imports what writes models, and TensorFlow with it, when it is used.

    A client needs neither.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_lficam.serving import exporting

    return getattr(exporting, name)
