"""Decodes pictures inside a graph, where a damaged one spoils no other."""

from typing import NamedTuple

import tensorflow as tf

# A server must not run out of memory because a header claims a huge picture.
MAX_PIXELS = 100_000_000
# Nor may it search for the header of a picture for seconds.
_MAX_STEPS = 10_000
# The longer side of an overlay, at most.
OVERLAY_SIDE = 1024
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# Markers of frames, which hold the size of a JPEG. C4, C8 and CC are others.
_FRAMES = [*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC)]
_FRAMES += range(0xCD, 0xD0)
_ORIENTATION = 0x0112


class Pictures(NamedTuple):
    """A batch of pictures that came as bytes.

    Args:
        images: `(B, height, width, 3)`, float32 in 0 to 255; 0 where a picture
            could not be read.
        canvases: `(B,)`, each picture in gray at the size of its overlay,
            `(h, w, 1)` uint8 as `tf.io.serialize_tensor` gives it.
        errors: `(B,)`, why a picture could not be read; empty where it was.
    """

    images: tf.Tensor
    canvases: tf.Tensor
    errors: tf.Tensor


def decoded(encoded: tf.Tensor, image_size: tuple[int, int]) -> Pictures:
    """Decodes, turns upright and resizes JPEG and PNG pictures.

    Args:
        encoded: `(B,)` strings, the files' bytes or their URL-safe base64.
        image_size: `(height, width)` of the images.

    Returns:
        The pictures.
    """
    encoded = tf.map_fn(_without_base64, encoded)
    headers = tf.map_fn(
        _header, encoded, fn_output_signature=tf.TensorSpec([5], tf.int64)
    )
    kinds, heights, widths, orientations, steps = tf.unstack(headers, axis=1)
    names = tf.gather(["", "JPEG", "PNG"], kinds)
    broken = tf.strings.join(["the ", names, " picture is damaged or cut off"])
    errors = tf.where(
        kinds == 0,
        tf.where(
            tf.strings.length(encoded) == 0,
            "the file is empty",
            "the file is neither a JPEG nor a PNG picture",
        ),
        tf.where(
            heights * widths > MAX_PIXELS,
            f"the picture has more than {MAX_PIXELS:,} pixels",
            tf.where(heights * widths == 0, broken, ""),
        ),
    )
    number = tf.shape(encoded, out_type=tf.int64)[0]

    def read(index, file):
        picture = _decode(file, kinds[index], steps[index])
        picture = _upright(picture, orientations[index])
        image = tf.image.resize(picture, image_size, "bilinear", antialias=True)
        return index, image, tf.io.serialize_tensor(_canvas(picture))

    # The errors of decoding cannot be caught in a graph, but a data set can
    # leave out elements that raise them. The first is a guard: there is always
    # an element.
    guard = tf.data.Dataset.from_tensors(
        (tf.constant(-1, tf.int64), tf.zeros([*image_size, 3]), "")
    )
    good = (
        tf.data.Dataset.from_tensor_slices((tf.range(number), encoded, errors))
        .filter(lambda index, file, error: error == "")
        .map(lambda index, file, error: read(index, file), tf.data.AUTOTUNE)
        .ignore_errors()
    )
    indices, images, canvases = (
        guard.concatenate(good).batch(number + 1).get_single_element()
    )
    places = indices[1:, None]
    images = tf.scatter_nd(
        places,
        images[1:],
        tf.stack([number, *image_size, 3]),
    )
    canvases = tf.tensor_scatter_nd_update(
        tf.fill([number], ""), places, canvases[1:]
    )
    damaged = (errors == "") & (canvases == "")
    errors = tf.where(damaged, broken, errors)
    return Pictures(
        tf.ensure_shape(images, (None, *image_size, 3)), canvases, errors
    )


def overlays(
    canvases: tf.Tensor, maps: tf.Tensor, colors: tf.Tensor, opacity: float
) -> tf.Tensor:
    """Lays heat maps over their pictures, as `visualization.overlay` does.

    Args:
        canvases: As in `Pictures`.
        maps: Heat maps `(B, h, w, 1)` in [0, 1].
        colors: Color map `(256, 3)` in 0 to 255.
        opacity: How much of a picture is covered where its map is 1.

    Returns:
        `(B,)` PNG files; empty where there is no canvas.
    """

    def draw(element):
        canvas, heat = element
        return tf.cond(
            canvas == "",
            lambda: "",
            lambda: _draw(canvas, heat, colors, opacity),
        )

    return tf.map_fn(
        draw, (canvases, maps), fn_output_signature=tf.TensorSpec([], tf.string)
    )


def _draw(canvas, heat, colors, opacity):
    gray = tf.cast(tf.io.parse_tensor(canvas, tf.uint8), tf.float32)
    heat = tf.image.resize(heat, tf.shape(gray)[:2], "bilinear")
    heat = tf.clip_by_value(heat, 0.0, 1.0)
    levels = tf.minimum(tf.cast(heat[..., 0] * 256, tf.int32), 255)
    cover = opacity * tf.sqrt(heat)
    blended = gray * (1 - cover) + tf.gather(colors, levels) * cover
    return tf.io.encode_png(tf.cast(tf.round(blended), tf.uint8))


def _canvas(picture):
    sides = tf.cast(tf.shape(picture)[:2], tf.float64)
    one = tf.ones([], tf.float64)
    scale = tf.minimum(one, OVERLAY_SIDE / tf.reduce_max(sides))
    size = tf.cast(tf.maximum(tf.round(sides * scale), 1), tf.int32)
    smaller = tf.image.resize(picture, size, "bilinear", antialias=True)
    gray = tf.reduce_mean(smaller, axis=-1, keepdims=True)
    return tf.cast(tf.round(gray), tf.uint8)


def _without_base64(file):
    """Decodes what is base64 of a JPEG or a PNG, URL-safe or not."""
    is_text = tf.strings.regex_full_match(
        file, r"(?s)([/_]9j[/_]|iVBORw0KGgo)[-A-Za-z0-9+/_\s]*=*\s*"
    )
    text = tf.where(is_text, file, "")
    text = tf.strings.regex_replace(text, r"[\s=]", "")
    text = tf.strings.regex_replace(text, r"\+", "-")
    text = tf.strings.regex_replace(text, "/", "_")
    # One letter too many is none of base64; then the picture is cut off.
    length = tf.strings.length(text)
    text = tf.strings.substr(
        text, 0, length - tf.cast(length % 4 == 1, tf.int32)
    )
    return tf.where(is_text, tf.io.decode_base64(text), file)


def _decode(file, kind, step):
    """Gives `(H, W, 3)`, float32 in 0 to 255."""

    def jpeg():
        # As exactly as Pillow does.
        picture = tf.io.decode_jpeg(
            file, channels=3, dct_method="INTEGER_ACCURATE"
        )
        return tf.cast(picture, tf.float32)

    def png():
        picture = tf.cast(tf.io.decode_png(file, channels=4), tf.float32)
        opaque = picture[..., 3:] * tf.cast(step, tf.float32) / 255
        # Transparency is laid on white.
        return picture[..., :3] * opaque + 255 * (1 - opaque)

    return tf.ensure_shape(tf.cond(kind == 1, jpeg, png), (None, None, 3))


def _upright(picture, orientation):
    """Turns a picture as its EXIF orientation, 1 to 8, asks."""

    def turned(transposed, *axes):
        def turn():
            changed = (
                tf.transpose(picture, (1, 0, 2)) if transposed else picture
            )
            return tf.reverse(changed, axes) if axes else changed

        return turn

    turns = [
        turned(False),
        turned(False, 1),
        turned(False, 0, 1),
        turned(False, 0),
        turned(True),
        turned(True, 1),
        turned(True, 0, 1),
        turned(True, 0),
    ]
    return tf.switch_case(tf.cast(orientation - 1, tf.int32), turns)


def _header(file):
    """Reads what is to be known of a file before it is decoded.

    Its kind (0 none, 1 JPEG, 2 PNG), height, width, orientation, and what
    its opacity is to be multiplied by.
    """
    data = tf.cast(tf.io.decode_raw(file, tf.uint8), tf.int64)
    is_jpeg = tf.strings.substr(file, 0, len(_JPEG)) == _JPEG
    is_png = tf.strings.substr(file, 0, len(_PNG)) == _PNG
    nothing = tf.constant([0, 0, 0, 1, 1], tf.int64)
    return tf.case(
        [
            (is_jpeg, lambda: _jpeg_header(data)),
            (is_png, lambda: _png_header(data)),
        ],
        default=lambda: nothing,
    )


def _number(data, place, length, little_endian=False):
    """Reads an unsigned number; what lies behind the end is 0."""
    places = place + tf.range(length, dtype=tf.int64)
    inside = (places >= 0) & (places < tf.size(data, tf.int64))
    digits = tf.gather(data, tf.where(inside, places, 0))
    digits = tf.where(inside, digits, 0)
    powers = 256 ** tf.range(length - 1, -1, -1, dtype=tf.int64)
    powers = tf.where(little_endian, tf.reverse(powers, [0]), powers)
    return tf.reduce_sum(digits * powers)


@tf.function
def _png_header(data):
    width, height = _number(data, 16, 4), _number(data, 20, 4)
    depth, color = _number(data, 24, 1), _number(data, 25, 1)
    pixels, transparency = (
        tf.constant(int.from_bytes(name, "big"), tf.int64)
        for name in (b"IDAT", b"tRNS")
    )
    size = tf.size(data, tf.int64)
    place, steps = tf.constant(8, tf.int64), 0
    name = tf.constant(0, tf.int64)
    while place + 8 <= size and steps < _MAX_STEPS:
        name = _number(data, place + 4, 4)
        if (name == pixels) | (name == transparency):
            break
        place += 12 + _number(data, place, 4)
        steps += 1
    # To gray and palettes of 1, 2 and 4 bits that have no opacity TensorFlow
    # adds one of as many bits.
    levels = tf.gather([1, 255, 85, 1, 17], tf.minimum(depth, 4))
    added = ((color == 0) | (color == 3)) & (name != transparency)
    step = tf.where(added & (depth <= 4), levels, 1)
    return tf.stack([2, height, width, 1, tf.cast(step, tf.int64)])


@tf.function
def _jpeg_header(data):
    """Walks through the segments of a JPEG up to that of its frame."""
    size = tf.size(data, tf.int64)
    place = tf.constant(2, tf.int64)
    height = width = tf.constant(0, tf.int64)
    orientation = tf.constant(1, tf.int64)
    searching, steps = True, 0
    while searching and place + 4 <= size and steps < _MAX_STEPS:
        steps += 1
        marker = _number(data, place + 1, 1)
        length = _number(data, place + 2, 2)
        if data[place] != 0xFF:  # Stray bytes, which decoders pass over, too.
            place += 1
        elif marker == 0xDA:
            searching = False
        elif tf.reduce_any(marker == tf.constant(_FRAMES, tf.int64)):
            height = _number(data, place + 5, 2)
            width = _number(data, place + 7, 2)
            searching = False
        elif marker == 0xFF:  # Padding.
            place += 1
        elif marker == 0xE1:
            found = _exif_orientation(data, place + 4)
            orientation = tf.where(found > 0, found, orientation)
            place += 2 + length
        else:
            place += 2 + length
    return tf.stack([1, height, width, orientation, 1])


def _exif_orientation(data, place):
    """Finds the orientation in a segment; 0 if there is none."""
    is_exif = _number(data, place, 6) == int.from_bytes(b"Exif\0\0", "big")
    start = place + 6
    little = _number(data, start, 2) == int.from_bytes(b"II", "big")
    directory = start + _number(data, start + 4, 4, little)
    count = tf.minimum(_number(data, directory, 2, little), 100)
    entries = directory + 2 + 12 * tf.range(count)

    def value_of(entry):
        is_it = _number(data, entry, 2, little) == _ORIENTATION
        return tf.where(is_it, _number(data, entry + 8, 2, little), 0)

    values = tf.map_fn(value_of, entries)
    found = tf.reduce_max(tf.concat([values, [0]], 0))
    return tf.where(is_exif & (found <= 8), found, 0)
