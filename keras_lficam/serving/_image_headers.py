"""What is known of encoded images before they are decoded, and its words.

Without TensorFlow: a server of another runtime refuses what the graph of a
SavedModel does.
"""

import re
from typing import NamedTuple

from keras_lficam.serving import Limits

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
# Of both orders of bytes, BigTIFF as well, and their base64.
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"SUkq", b"TU0A", b"SUkr")
# Markers of frames, which hold the size of a JPEG. C4, C8 and CC are others.
FRAMES = (
    *range(0xC0, 0xC4),
    *range(0xC5, 0xC8),
    *range(0xC9, 0xCC),
    *range(0xCD, 0xD0),
)
# Markers that no length follows.
BARE = (0x01, *range(0xD0, 0xDA))
START_OF_SCAN = 0xDA
# Bytes at the start of a JPEG in which its frame is searched.
HEADER_BYTES = 4_000_000
# Pixels that a byte can stand for at most: each 8x8 block of a JPEG takes a
# bit, and deflate, by which a PNG is packed, makes 1032 bytes of one.
PIXELS_OF_A_JPEG_BYTE = 8 * 64
BYTES_OF_A_PNG_BYTE = 1032
# The longer side of an overlay, at most.
OVERLAY_SIDE = 1024

EMPTY = "the file is empty"
IS_TIFF = (
    "the file is a TIFF, which is not decoded here; save it as PNG, of 8 or 16 "
    "bits"
)
OTHER_KIND = "the file is neither a JPEG nor a PNG image"
# Of the length, the name and the checksum of a chunk of a PNG.
_CHUNK_BYTES = 12
# Samples of a pixel by the kind of color of a PNG.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def too_many_bytes(limits: Limits) -> str:
    """What is said of a file of too many bytes."""
    return f"the file has more than {limits.file_bytes:,} bytes"


def too_many_pixels(limits: Limits) -> str:
    """What is said of an image of too many pixels."""
    return f"the image has more than {limits.pixels:,} pixels"


def too_many_scans(limits: Limits) -> str:
    """What is said of a JPEG of too many scans."""
    return f"the image has more than {limits.scans:,} scans"


def too_many_together(limits: Limits) -> str:
    """What is said of an image that others have used up the request of."""
    return (
        "the images of this request have more than "
        f"{limits.batch_pixels:,} pixels together"
    )


def broken(kind: str) -> str:
    """What is said of a file that cannot be decoded."""
    return f"the {kind} image is damaged or cut off"


class Header(NamedTuple):
    """What an image declares of itself.

    Args:
        kind: `"JPEG"` or `"PNG"`.
        height: Rows; 0 where the file declares none that can be found.
        width: Columns.
        bits: Bits of a sample, 8 for each JPEG.
        scans: Passes through the pixels of a JPEG.
        most: Pixels that the bytes of the file can stand for, at most.
    """

    kind: str
    height: int
    width: int
    bits: int
    scans: int
    most: int


def fault_of(content: bytes, limits: Limits) -> str:
    """Says why a file is refused without being decoded; empty if it is not.

    Args:
        content: Its bytes.
        limits: What is refused.

    Returns:
        The words that the graph of a SavedModel has for it.
    """
    if len(content) > limits.file_bytes:
        return too_many_bytes(limits)
    if not content:
        return EMPTY
    if content.startswith(TIFF):
        return IS_TIFF
    header = read(content, limits.segments)
    if header is None:
        return OTHER_KIND
    pixels = header.height * header.width
    if pixels > limits.pixels:
        return too_many_pixels(limits)
    if header.scans > limits.scans:
        return too_many_scans(limits)
    if pixels == 0 or pixels > header.most:
        return broken(header.kind)
    return ""


def read(content: bytes, segments: int) -> Header | None:
    """Reads the header of a file.

    Args:
        content: Its bytes.
        segments: Segments of a JPEG, or chunks of a PNG, that are looked at.

    Returns:
        What it declares; None if it is neither a JPEG nor a PNG.
    """
    if content.startswith(JPEG):
        return _jpeg(content, segments)
    if content.startswith(PNG):
        return _png(content, segments)
    return None


def _jpeg(content: bytes, segments: int) -> Header:
    scans = content.count(b"\xff\xda")
    most = PIXELS_OF_A_JPEG_BYTE * len(content)
    height = width = offset = 0
    # A decoder passes over padding and stray bytes between the segments.
    marker = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
    for _ in range(segments + 1):  # The frame itself comes behind them.
        found = marker.search(content, offset, HEADER_BYTES)
        if not found or content[found.end() - 1] == START_OF_SCAN:
            break
        kind, start = content[found.end() - 1], found.end()
        if kind in FRAMES:
            height = _number(content, start + 3, 2)
            width = _number(content, start + 5, 2)
            break
        offset = start
        if kind not in BARE:
            offset += _number(content, start, 2)
    return Header("JPEG", height, width, 8, scans, most)


def _png(content: bytes, segments: int) -> Header:
    width, height = _number(content, 16, 4), _number(content, 20, 4)
    bits, color = _number(content, 24, 1), _number(content, 25, 1)
    most, offset = 0, len(PNG)
    for _ in range(segments):
        if offset + 8 > len(content):
            break
        if content[offset + 4 : offset + 8] in (b"IDAT", b"tRNS"):
            size = max(bits * _SAMPLES.get(color, 1), 1)
            most = 8 * BYTES_OF_A_PNG_BYTE * len(content) // size
            break
        offset += _CHUNK_BYTES + _number(content, offset, 4)
    return Header("PNG", height, width, bits, 1, most)


def _number(content: bytes, offset: int, length: int) -> int:
    """Reads a number; what lies behind the end is 0."""
    return int.from_bytes(
        content[offset : offset + length].ljust(length, b"\0"), "big"
    )
