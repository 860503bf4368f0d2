"""Reads picture files of any kind into RGB pixels."""

import os
import warnings

import numpy as np


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a picture file as RGB.

    The picture is turned upright by its EXIF orientation. Gray, palette, CMYK
    and 16-bit pictures become RGB of 8 bits, transparency is laid on white,
    and of an animation the first frame is read.

    Args:
        path: File in a format that Pillow reads: PNG, JPEG, WebP, TIFF, BMP,
            GIF and more.

    Returns:
        Array `(H, W, 3)`, uint8.

    Raises:
        ValueError: If the file is missing, empty, damaged, no picture, or
            holds numbers whose range is not known.

    Examples:
        keras_lficam.visualization.grid(images, maps).savefig("grid.png")
        pixels = read_picture("grid.png")
    """
    import PIL.Image
    import PIL.ImageOps

    path = os.fspath(path)
    if os.path.isdir(path):
        raise ValueError(f"{path}: this is a folder; give its pictures")
    if not os.path.isfile(path):
        raise ValueError(f"{path}: there is no such file")
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path}: the file is empty")
    # Pillow warns of pictures that are large, and still reads them. Filters of
    # a block would leak out of it where several threads read.
    warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
    try:
        with PIL.Image.open(path) as opened:
            picture = PIL.ImageOps.exif_transpose(opened)
            picture.load()
    except PIL.UnidentifiedImageError:
        raise ValueError(f"{path}: the file is no picture") from None
    except PIL.Image.DecompressionBombError:
        raise ValueError(f"{path}: the picture is too large") from None
    except Exception as error:  # Decoders of damaged files raise anything.
        raise ValueError(f"{path}: the file is damaged ({error})") from None
    if picture.mode.startswith("I"):
        picture = _from_16_bits(picture, path)
    if picture.mode == "F":
        raise ValueError(
            f"{path}: the picture holds floating point numbers, whose range "
            "is not known; save it with 8 or 16 bits"
        )
    if picture.has_transparency_data:
        white = PIL.Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white
    return np.asarray(picture.convert("RGB"))


def _from_16_bits(picture, path):
    """Brings 16-bit gray to 8 bits; 65535 becomes 255."""
    import PIL.Image

    pixels = np.asarray(picture)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(
            f"{path}: the picture holds 32-bit numbers, whose range is not "
            "known; save it with 8 or 16 bits"
        )
    return PIL.Image.fromarray(np.rint(pixels / 257).astype("uint8"))
