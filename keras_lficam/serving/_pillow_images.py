"""Decodes images by Pillow, as the graph of a SavedModel does."""

import base64
import binascii
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_lficam.serving import Limits, _image_headers

if TYPE_CHECKING:
    import PIL.Image

# Gray as Pillow makes it of colors, by ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114], "float32")
# The repetitions give nothing back: a request must not cost the square of its
# length.
_BASE64 = re.compile(rb"(?:[/_]9j[/_]|iVBORw0KGgo)[-A-Za-z0-9+/_\s]*+=*+\s*+")
# Pixels that transparency is laid on white for at once, as in the graph.
_PIXELS_AT_ONCE = 2**20
_DEEP = (
    "the PNG image has 16 bits a channel, which are not decoded here; save it "
    "with 8 bits"
)


class DecodedImages(NamedTuple):
    """A batch of images that came as bytes.

    Args:
        images: `(B, height, width, channels)`, float32 in 0 to 255; 0 where an
            image could not be read.
        canvases: Each image in gray at the size of its overlay, `(h, w, 1)`
            uint8; None where it could not be read.
        errors: Why an image could not be read; empty where it was.
    """

    images: np.ndarray
    canvases: list[np.ndarray | None]
    errors: list[str]


def decoded(
    files: Sequence[bytes],
    image_size: tuple[int, int],
    limits: Limits,
    channels: int,
) -> DecodedImages:
    """Decodes, turns upright and resizes JPEG and PNG images, one by one.

    Args:
        files: Their bytes, or base64 of them.
        image_size: `(height, width)` of the images.
        limits: What is refused without being decoded.
        channels: 3 for RGB, 1 for gray.

    Returns:
        The images.
    """
    images = np.zeros((len(files), *image_size, channels), "float32")
    canvases: list[np.ndarray | None] = [None] * len(files)
    errors, pixels = [], 0
    for index, file in enumerate(files):
        content = _without_base64(file, limits)
        error = _image_headers.fault_of(content, limits)
        header = _image_headers.read(content, limits.segments)
        if header and not error:
            pixels += header.height * header.width
            if pixels > limits.batch_pixels:
                error = _image_headers.too_many_together(limits)
            elif header.bits == 16:
                error = _DEEP
        if header and not error:
            try:
                upright = _upright(content, header)
            except Exception:  # A file can be anything, and so what it raises.
                error = _image_headers.broken(header.kind)
            else:
                images[index] = _of_channels(
                    resized(upright, image_size), channels
                )
                canvases[index] = _canvas(upright)
        errors.append(error)
    return DecodedImages(images, canvases, errors)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes pixels or maps; like TensorFlow, smooths what gets smaller.

    Args:
        pixels: `(height, width, channels)`.
        size: Height and width.

    Returns:
        `(*size, channels)`, float32.
    """
    import PIL.Image

    bands = [
        PIL.Image.fromarray(band).resize(
            size[::-1], PIL.Image.Resampling.BILINEAR
        )
        for band in np.moveaxis(pixels.astype("float32"), -1, 0)
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def overlay(
    canvas: np.ndarray,
    heat: np.ndarray,
    colors: np.ndarray,
    cover: np.ndarray,
) -> bytes:
    """Lays a map over its image.

    Args:
        canvas: The image in gray, `(h, w, 1)`.
        heat: Which color each place gets, `(h, w)` in [0, 1].
        colors: Color map `(256, 3)` in 0 to 255.
        cover: How much of the image is covered, `(h, w)` in [0, 1].

    Returns:
        PNG file.
    """
    import PIL.Image

    levels = np.minimum((heat * 256).astype("int32"), 255)
    mixed = canvas * (1 - cover[..., None]) + colors[levels] * cover[..., None]
    content = io.BytesIO()
    PIL.Image.fromarray(np.rint(mixed).astype("uint8")).save(content, "PNG")
    return content.getvalue()


def _without_base64(file: bytes, limits: Limits) -> bytes:
    """Decodes what is base64 of a JPEG or a PNG, URL-safe or not."""
    # A third more where they are base64, and line breaks.
    if len(file) > 3 * limits.file_bytes // 2 or not _BASE64.fullmatch(file):
        return file
    text = re.sub(rb"[\s=]", b"", file).translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:  # One letter too many: the image is cut off.
        return base64.b64decode(text[: len(text) // 4 * 4])


def _upright(content: bytes, header: _image_headers.Header) -> np.ndarray:
    """Gives `(height, width, 3)`, uint8, turned as EXIF asks."""
    import PIL.Image
    import PIL.ImageOps

    with PIL.Image.open(io.BytesIO(content), formats=[header.kind]) as image:
        # A decoder may find another header than ours.
        if image.size != (header.width, header.height):
            raise ValueError(f"its size is {image.size}")
        image.load()
        if header.kind == "JPEG":
            return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
        return _on_white(image)


def _on_white(image: "PIL.Image.Image") -> np.ndarray:
    if "A" not in image.mode and "transparency" not in image.info:
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image.convert("RGBA"))
    height, width = pixels.shape[:2]
    laid = np.empty((height, width, 3), "uint8")
    rows = max(_PIXELS_AT_ONCE // width, 1)
    for top in range(0, height, rows):
        part = pixels[top : top + rows].astype("float32")
        opaque = part[..., 3:] / np.float32(255)
        on_white = part[..., :3] * opaque + 255 * (1 - opaque)
        laid[top : top + rows] = np.rint(on_white)
    return laid


def _of_channels(image: np.ndarray, channels: int) -> np.ndarray:
    return image if channels == 3 else (image @ _LUMA)[..., None]


def _canvas(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = min(1.0, _image_headers.OVERLAY_SIDE / max(height, width))
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    gray = resized(image, size).mean(axis=-1, keepdims=True)
    rounded: np.ndarray = np.rint(gray).astype("uint8")
    return rounded
