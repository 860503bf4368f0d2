"""Serves classifiers that show what they looked at.

Examples:

    keras_lficam.export(model, "saved_models/digits", formats=["saved_model"])
"""

import dataclasses
from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from keras_lficam.serving.exporting import ExportError, export
    from keras_lficam.serving.repository import write_repository

__all__ = ["FORMATS", "ExportError", "Limits", "export", "write_repository"]

FORMATS = (
    "saved_model",
    "onnx",
    "openvino",
    "litert",
    "litert_float16",
    "litert_int8",
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a served model refuses, before it costs memory or time.

    A header of a few bytes can declare an image of gigabytes, and a small
    request can hold many images. An image beyond a limit gets a text in
    `error` and spoils no other; a request of too many images is refused.

    Args:
        file_bytes: Bytes of an encoded image.
        pixels: Pixels, height times width, of an encoded image.
        batch_pixels: Pixels of all the images of a request. Those that come
            first are answered.
        images: Images of a request. They are held in memory at once at the
            size of the model.
        scans: Scans of a progressive JPEG: a decoder goes through all pixels
            in each.
        segments: Segments of a JPEG, or chunks of a PNG, in front of the
            pixels: how deep into a file its size is searched.

    Raises:
        ValueError: If one is no integer of at least 1.

    Examples:
        limits = keras_lficam.serving.Limits(pixels=25_000_000)
        keras_lficam.export(model, "saved_models/digits", limits=limits)
    """

    file_bytes: int = 30_000_000
    pixels: int = 60_000_000
    batch_pixels: int = 240_000_000
    images: int = 256
    scans: int = 100
    segments: int = 1000

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if (
                not isinstance(value, int)
                or isinstance(value, bool)
                or not 1 <= value < 2**31
            ):
                raise ValueError(
                    f"Argument `{name}` must be an integer from 1 to "
                    f"{2**31 - 1:,}. Received: {name}={value!r}"
                )


# A client needs neither what writes models nor TensorFlow.
# A type checker must not take unknown names for anything.
if not TYPE_CHECKING:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "exporting": ["ExportError", "export"],
            "repository": ["write_repository"],
        },
    )
