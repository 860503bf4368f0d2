"""Reads image files of any kind into RGB pixels."""

import contextlib
import logging
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_lficam._checks import is_integer, path_of

if TYPE_CHECKING:
    import PIL.Image

_LOG = logging.getLogger("keras_lficam")
# Decoded, an image of so many takes half a gigabyte. Pillow warns of more.
MAX_PIXELS = 64_000_000
# Bits of the numbers in a file of 16 bits a channel, which may use fewer.
BITS = range(8, 17)
_RAW = (
    ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2",
)  # fmt: skip
# Formats that Pillow reads with a plug-in or not at all, by their endings.
FOREIGN = dict.fromkeys(_RAW, "a camera's raw format") | {
    ".avif": "AVIF",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".jxl": "JPEG XL",
    ".jxr": "JPEG XR",
    ".nii": "NIfTI",
    ".svg": "SVG",
}


class Read(NamedTuple):
    """What was read of a file.

    Attributes:
        pixels: `(H, W, 3)`, uint8.
        highest: The highest number of 16 bits, where the file does not say
            how many of them it uses; else None.
        pages: Pages of a TIFF, of which the first was read.
    """

    pixels: np.ndarray
    highest: int | None
    pages: int = 1


def read_image(
    path: str | os.PathLike[str], *, bits: int | None = None
) -> np.ndarray:
    """Reads an image file as RGB.

    The image is turned upright by its EXIF orientation. Gray, palette and CMYK
    images become RGB, transparency is laid on white, and of an animation the
    first frame is read, of a TIFF the first page, with a warning if there are
    more.

    Images of 16 bits a channel become 8 bits: `2 ** bits - 1` and all above
    it becomes 255. How many bits are used, the file may say by BitsPerSample
    or MaxSampleValue (TIFF), sBIT (PNG), its maximum (PGM) or its precision
    (JPEG 2000). Where it does not, it is the argument.

    Args:
        path: File in a format that Pillow reads: PNG, JPEG, WebP, TIFF, BMP,
            GIF and more, of 64 million pixels at most.
        bits: Bits that files of 16 bits use, 8 to 16, where they do not say
            it, as 12 of many X-rays; 16 by default.

    Returns:
        Array `(H, W, 3)`, uint8.

    Raises:
        ValueError: If the file is missing, empty, damaged, too large, no
            image, or holds numbers whose range is not known, or if `bits` is
            out of range.
        TypeError: If `path` is neither a string nor a path.

    Examples:
        keras_lficam.visualization.grid(images, maps).savefig("grid.png")
        pixels = read_image("grid.png")
    """
    check_bits(bits)
    path_of("path", path)
    pixels, highest, pages = read(path, bits)
    if pages > 1:
        _LOG.warning(
            "%s: the file has %d pages, of which the first is read",
            os.fspath(path),
            pages,
        )
    if highest is not None and bits is None and highest < 2**12:
        _LOG.warning(
            "%s: the file holds 16-bit numbers of %d at most, and is dark; "
            "give bits=%d to make that white",
            os.fspath(path),
            highest,
            bits_for(highest),
        )
    elif highest is not None and bits is not None and highest >= 2**bits:
        _LOG.warning(
            "%s: the file holds numbers of up to %d; all above %d, the most "
            "of %d bits, is white",
            os.fspath(path),
            highest,
            2**bits - 1,
            bits,
        )
    return pixels


def check_bits(bits: Any) -> None:
    """Refuses a number of bits that no file of 16 bits can use.

    Args:
        bits: The number, or None.

    Returns:
        Nothing.

    Raises:
        ValueError: If it is neither None nor an integer from 8 to 16.
    """
    if bits is not None and (not is_integer(bits) or bits not in BITS):
        raise ValueError(
            "Argument `bits` must be an integer from 8 to 16, the bits that "
            f"files of 16 bits use. Received: bits={bits!r}. To fix this: "
            "give None to take what the files say"
        )


def bits_for(highest: int) -> int:
    """Says how many bits numbers use.

    Args:
        highest: The highest number, 0 to 65535.

    Returns:
        The least of 8 to 16 that hold it.
    """
    return max(int(highest).bit_length(), BITS[0])


def read(path: str | os.PathLike[str], bits: int | None) -> Read:
    """Reads an image file as `read_image` does, without a word.

    Args:
        path: The file.
        bits: As for `read_image`.

    Returns:
        A `Read`.

    Raises:
        ValueError: As for `read_image`.
    """
    import PIL.Image
    import PIL.ImageOps

    path = os.fspath(path)
    with _opened(path) as opened:
        pages = _pages(opened)
        deep = _deep_color(path, opened)
        if deep is None:
            PIL.ImageOps.exif_transpose(opened, in_place=True)
            if opened.mode.startswith("I"):
                deep = _deep_gray(opened)
        else:
            deep = _upright(deep, opened.getexif().get(0x0112, 1))
        if deep is not None:
            declared = _declared(path, opened, deep)
            found = _from_16_bits(deep, declared, bits)._replace(pages=pages)
            # Which Pillow does for 8 bits, and not for 16.
            if opened.format == "TIFF" and opened.tag_v2.get(262) == 0:
                found = found._replace(pixels=255 - found.pixels)
            return found
        if opened.mode == "F":
            raise _RefusedError(
                "the image holds floating point numbers, whose range is not "
                "known; save it with 8 or 16 bits"
            )
        image: PIL.Image.Image = opened
        if image.has_transparency_data:
            white = PIL.Image.new("RGBA", image.size, "white")
            white.alpha_composite(image.convert("RGBA"))
            image = white
        if image.mode != "RGB":
            image = image.convert("RGB")
        return Read(np.asarray(image), None, pages)


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file as the mask of an object.

    The object is where any channel is not 0, whatever its number; of a
    palette the numbers count, not their colors. Opacity is not looked at.

    Args:
        path: File in a format that Pillow reads.

    Returns:
        Array `(H, W, 1)`, bool.

    Raises:
        ValueError: If the file is missing, damaged, too large or no image.
        TypeError: If `path` is neither a string nor a path.
    """
    import PIL.ImageOps

    with _opened(os.fspath(path_of("path", path))) as opened:
        PIL.ImageOps.exif_transpose(opened, in_place=True)
        colors = [band for band in opened.getbands() if band not in "Aa"]
        values = np.asarray(opened)
        if values.ndim == 2:
            values = values[..., None]
        mask: np.ndarray = np.any(
            values[..., : len(colors)] != 0, axis=-1, keepdims=True
        )
        return mask


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Opens an image file; what goes wrong inside is said of the file."""
    import PIL.Image

    _check_file(path)
    try:
        with PIL.Image.open(path) as opened:
            _check_pixels(opened)
            yield opened
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}") from None
    except PIL.UnidentifiedImageError:
        raise ValueError(f"{path}: {_unknown(path)}") from None
    except PIL.Image.DecompressionBombError:
        raise ValueError(f"{path}: the image is too large") from None
    except Exception as error:  # Decoders of damaged files raise anything.
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: the file is damaged ({reason})") from None


def _pages(opened: Any) -> int:
    """Counts the pages of a TIFF."""
    if opened.format != "TIFF":
        return 1
    try:
        pages: int = opened.n_frames
    except Exception:  # Behind a page that can be read.
        return 1
    return pages


class _RefusedError(Exception):
    """A reason why a file that is not damaged is not read."""


def _check_file(path: str) -> None:
    if os.path.isdir(path):
        raise ValueError(f"{path}: this is a folder; give its images")
    if not os.path.isfile(path):
        raise ValueError(f"{path}: there is no such file")
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if size == 0:
        raise ValueError(f"{path}: the file is empty")
    # As TIFF, for which Pillow takes many of them, they are a small preview.
    if _ending(path) in _RAW:
        raise ValueError(f"{path}: {_unknown(path)}")


def _check_pixels(opened: "PIL.Image.Image") -> None:
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise _RefusedError(
            f"the image has {width * height:,} pixels, {width} x {height}, "
            f"and at most {MAX_PIXELS:,} are read. To fix this: make it "
            "smaller, or cut it up"
        )


def _ending(path: str) -> str:
    return pathlib.Path(path).suffix.lower()


def _unknown(path: str) -> str:
    """Says what a file is that Pillow does not know."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    kind = FOREIGN.get(_ending(path))
    if head[4:8] == b"ftyp":  # Often under the name of a JPEG.
        kind = "AVIF" if head[8:12] in (b"avif", b"avis") else "HEIF"
    if head[128:] == b"DICM":
        kind = "DICOM"
    if kind is None:
        return "the file is not an image"
    return (
        f"the file is {kind}, which Pillow does not read here; convert it to "
        "PNG or JPEG"
    )


# ---------------------------------------------------------- 16 bits a channel


def _deep_gray(image: "PIL.Image.Image") -> np.ndarray:
    """Gives 16-bit gray as `(H, W, 1)`."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise _RefusedError(
            "the image holds 32-bit numbers, whose range is not known; "
            "save it with 8 or 16 bits"
        )
    return values.astype("uint16")[..., None]


def _deep_color(path: str, opened: Any) -> np.ndarray | None:
    """Gives 16-bit color, of which Pillow keeps 8 bits; else None.

    `(H, W, C)`, with C of 2 (gray) or 3, and opacity behind them.
    """
    if opened.format == "PNG":
        with open(path, "rb") as file:
            depth, color = file.read(26)[24:26]
        see_through = depth == 16 and _chunk(path, b"tRNS") is not None
        if depth == 16 and (color != 0 or see_through):
            import tensorflow as tf

            content = tf.io.read_file(path)
            # One color that stands for nothing becomes opacity of 0.
            channels = 4 if see_through else 0
            decoded = tf.io.decode_png(content, channels, tf.uint16)
            return np.asarray(decoded)
    if opened.format == "TIFF" and opened.mode in ("RGB", "RGBA"):
        sizes = opened.tag_v2.get(258, ())
        if len(sizes) >= 3 and set(sizes) == {16}:
            return _deep_tiff(path, opened)
    return None


def _deep_tiff(path: str, opened: "PIL.Image.Image") -> np.ndarray | None:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            values = file.pages[0].asarray()
            if file.pages[0].axes == "SYX":
                values = np.moveaxis(values, 0, -1)
    except Exception as error:  # Codecs of tifffile may be missing.
        # Of those that use all their bits the upper eight are enough.
        if np.asarray(opened.convert("RGB")).max() >= 128:
            return None
        raise _RefusedError(
            "the TIFF of 16-bit colors uses few of its bits, and its "
            f"compression cannot be read whole here ({error}); save it "
            "without compression"
        ) from None
    return values[..., : 4 if opened.mode == "RGBA" else 3]


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array as its EXIF orientation asks."""
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _declared(path: str, opened: Any, values: np.ndarray) -> int | None:
    """Says how many of 16 bits a file says that it uses; None if nothing."""
    if opened.format in ("PPM", "JPEG2000"):
        return 16  # Pillow has brought them there.
    if opened.format == "PNG":
        return _declared_by_png(path, values)
    if opened.format != "TIFF":
        return None
    bits = min(opened.tag_v2.get(258, (16,)))
    highest = opened.tag_v2.get(281)
    if isinstance(highest, tuple):
        highest = max(highest)
    if highest:
        # Some write the highest number of the one image, so whole bits.
        bits = min(bits, bits_for(highest))
    return bits if bits < 16 and values.max() < 2**bits else None


def _declared_by_png(path: str, values: np.ndarray) -> int | None:
    """Reads the chunk sBIT.

    As the standard has it the numbers fill 16 bits, and their lowest repeat
    the highest. Many programs leave them as they were measured.
    """
    bits = _significant_bits(path)
    if bits is None or bits >= 16:
        return None
    below = values & (2 ** (16 - bits) - 1)
    if values.max() < 2**bits and below.any():
        return max(bits, BITS[0])
    return 16


def _significant_bits(path: str) -> int | None:
    significant = _chunk(path, b"sBIT")
    return None if significant is None else max(significant, default=None)


def _chunk(path: str, wanted: bytes) -> bytes | None:
    """Reads a chunk of a PNG that stands in front of its pixels."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == wanted:
                return file.read(length)
            if name == b"IDAT":
                return None
            file.seek(length + 4, os.SEEK_CUR)
    return None


def _from_16_bits(
    values: np.ndarray, declared: int | None, bits: int | None
) -> Read:
    """Brings `(H, W, C)` to 8 bits a channel, and lays it on white."""
    has_opacity = values.shape[-1] in (2, 4)
    colors = values[..., :-1] if has_opacity else values
    white = 2 ** (declared or bits or 16) - 1
    pixels = np.minimum(colors, white).astype("float32") * (255 / white)
    if has_opacity:
        opacity = values[..., -1:].astype("float32") / 65535
        pixels = pixels * opacity + 255 * (1 - opacity)
    pixels = np.rint(pixels).astype("uint8")
    highest = None if declared else int(colors.max())
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    return Read(pixels, highest)
