"""Exported classifiers of digits, and the files that they are asked about."""

import base64
import functools
import io
import struct
import zlib

import keras
import numpy as np
import PIL.Image
import tensorflow as tf

import keras_lficam
from keras_lficam import explainers
from keras_lficam.data import digits_in_photos
from keras_lficam.serving import _signatures

SIDE = 64


NAMES = ["zero", "one", "two", "drei", "vier", "fünf", "six", "7", "8", "9"]


def lively(model, value_range=(0, 255)):
    """Gives a model statistics and weights by which images differ."""
    low, high = value_range
    pixels = low + digits(32) / np.float32(255) * (high - low)
    size = [side or SIDE // 2 for side in model.input_shape[1:3]]
    normalizations = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in normalizations:
        layer.momentum = 0.0
    model(pixels[:, : size[0], : size[1]], training=True)
    for layer in normalizations:
        layer.momentum = 0.99
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dense) and layer.activation:
            kernel, bias = layer.get_weights()
            # What all channels have in common cancels out.
            layer.set_weights([6 * (kernel - kernel.mean(0)), bias])
    return model


def residual_backbone(side=SIDE):
    """A small net with what ResNets have; a graph costs time by its length."""
    layers = keras.layers
    image = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 255)(image)
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, 2, "same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    y = layers.Add()([x, layers.BatchNormalization()(y)])
    return keras.Model(image, layers.ReLU()(y))


def digits_model(seed=0):
    keras.utils.set_random_seed(seed)
    shape = (SIDE, SIDE, 3)
    return lively(
        keras_lficam.build(residual_backbone(), 10, input_shape=shape)
    )


def digits(number):
    composed = [digits_in_photos.compose("test", n) for n in range(number)]
    return np.stack([example["image"] for example in composed])


def photo(width=120, height=90, left=100):
    """A piece of a photo that is no square."""
    box = (left, 60, left + width, 60 + height)
    return digits_in_photos.photos()[0].crop(box)


def shrunk(pixels, size=(SIDE, SIDE)):
    """Resizes float pixels by Pillow, which always smooths."""
    bands = [
        PIL.Image.fromarray(band).resize(
            size[::-1], PIL.Image.Resampling.BILINEAR
        )
        for band in np.moveaxis(np.asarray(pixels, "float32"), -1, 0)
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def file_of(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def with_signatures(monkeypatch, *names):
    """Lets exports have these signatures alone; to trace all takes a while."""
    declared = _signatures.Served.declared
    monkeypatch.setattr(
        _signatures.Served,
        "declared",
        lambda served: {name: declared(served)[name] for name in names},
    )


# The same graphs need to be read only once.
load = functools.cache(tf.saved_model.load)


def bomb(kind):
    """An image whose header claims to be of 60000 times 60000 pixels."""
    content = bytearray(file_of(photo(), kind))
    if kind == "PNG":
        content[16:24] = struct.pack(">II", 60000, 60000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    else:
        place = content.index(b"\xff\xc0")
        content[place + 5 : place + 9] = struct.pack(">HH", 60000, 60000)
    return bytes(content)


def half(kind):
    content = file_of(photo(), kind)
    return content[: len(content) // 2]


def bit_of_dust():
    content = bytearray(file_of(photo()))
    content[-40] ^= 255
    return bytes(content)


def declared(pixels=(6000, 4000)):
    """The first 1.4 kB of a JPEG whose header declares 24 megapixels."""
    content = bytearray(file_of(photo(), "JPEG"))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", *pixels)
    return bytes(content[:1400])


def of_many_chunks():
    """A PNG of 20,000 empty chunks before its pixels."""
    content = file_of(photo())
    chunk = bytes(4) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))
    return content[:33] + 20_000 * chunk + content[33:]


def of_many_scans():
    """A JPEG through whose pixels a decoder would go 101 times."""
    content = file_of(photo(), "JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    end = content.rindex(b"\xff\xd9")
    return content[:end] + 101 * content[start:end] + content[end:]


KIND = "the file is neither a JPEG nor a PNG image"


TIFF = (
    "the file is a TIFF, which is not decoded here; save it as PNG, of 8 or 16 "
    "bits"
)


BROKEN = "the {} image is damaged or cut off"


LARGE = "the image has more than 60,000,000 pixels"


DAMAGED = {
    "half_jpeg": (half("JPEG"), BROKEN.format("JPEG")),
    "half_png": (half("PNG"), BROKEN.format("PNG")),
    "start_of_jpeg": (b"\xff\xd8\xff", BROKEN.format("JPEG")),
    # To walk through it to its end would take half a minute.
    "padding": (b"\xff\xd8" + bytes([255]) * 10**6, BROKEN.format("JPEG")),
    "start_of_png": (b"\x89PNG\r\n\x1a\n", BROKEN.format("PNG")),
    "dust_in_png": (bit_of_dust(), BROKEN.format("PNG")),
    "base64_of_half": (base64.b64encode(half("PNG")), BROKEN.format("PNG")),
    "odd_base64": (b"/9j/abcde", BROKEN.format("JPEG")),
    "text": (b"This is not an image.", KIND),
    "gif": (file_of(photo(), "GIF"), KIND),
    "webp": (file_of(photo(), "WEBP"), KIND),
    "bmp": (file_of(photo(), "BMP"), KIND),
    "tiff": (file_of(photo(), "TIFF"), TIFF),
    "base64_of_tiff": (base64.b64encode(file_of(photo(), "TIFF")), TIFF),
    "zeros": (bytes(1000), KIND),
    "empty": (b"", "the file is empty"),
    "header_of_24_megapixels": (declared(), BROKEN.format("JPEG")),
    "segments": (b"\xff\xd8" + b"\xff\xe0\0\2" * 10**5, BROKEN.format("JPEG")),
    "exifs": (
        b"\xff\xd8" + b"\xff\xe1\0\x08Exif\0\0" * 10**4,
        BROKEN.format("JPEG"),
    ),
    "chunks": (of_many_chunks(), BROKEN.format("PNG")),
    "scans": (of_many_scans(), "the image has more than 100 scans"),
    "png_bomb": (bomb("PNG"), LARGE),
    "jpeg_bomb": (bomb("JPEG"), LARGE),
}


def answers_of(model, pixels):
    """Predictions and maps of a model that Keras has."""
    shown = keras_lficam.attention_view(model)(pixels, training=False)
    maps = explainers.AttentionMap(model)(pixels)
    return np.asarray(shown["predictions"]), maps
