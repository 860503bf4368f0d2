"""Decodes images inside a graph, where a damaged one spoils no other."""

import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import tensorflow as tf

from keras_lficam.data._images import to_gray
from keras_lficam.serving import Limits, _image_headers
from keras_lficam.serving._image_headers import (
    BARE,
    BYTES_OF_A_PNG_BYTE,
    FRAMES,
    HEADER_BYTES,
    JPEG,
    OVERLAY_SIDE,
    PIXELS_OF_A_JPEG_BYTE,
    PNG,
    START_OF_SCAN,
    TIFF,
)

# Pixels that are scaled and laid on white at once.
_PIXELS_AT_ONCE = 2**20
_ORIENTATION = 0x0112


class DecodedImages(NamedTuple):
    """A batch of images that came as bytes.

    Args:
        images: `(B, height, width, channels)`, float32 in 0 to 255; 0 where an
            image could not be read.
        canvases: `(B,)`, each image in gray at the size of its overlay,
            `(h, w, 1)` uint8 as `tf.io.serialize_tensor` gives it.
        errors: `(B,)`, why an image could not be read; empty where it was.
    """

    images: tf.Tensor
    canvases: tf.Tensor
    errors: tf.Tensor


def decoded(
    encoded: tf.Tensor,
    image_size: tuple[int, int],
    limits: Limits,
    channels: int = 3,
    bits: int | None = None,
) -> DecodedImages:
    """Decodes, turns upright and resizes JPEG and PNG images.

    What an image costs is known from its header, and limited, before it is
    decoded. One is decoded after the other, so memory does not depend on how
    many there are.

    Args:
        encoded: `(B,)` strings, the files' bytes or their URL-safe base64.
        image_size: `(height, width)` of the images.
        limits: What is refused without being decoded.
        channels: 3 for RGB, 1 for gray.
        bits: Bits that images of 16 bits use where they do not say it, as
            for `keras_lficam.data.read_image`.

    Returns:
        The images.
    """
    # A third more where they are base64, and line breaks.
    too_long = _length(encoded) > 3 * limits.file_bytes // 2
    encoded = tf.map_fn(_without_base64, tf.where(too_long, "", encoded))
    too_long |= _length(encoded) > limits.file_bytes
    encoded = tf.where(too_long, "", encoded)
    headers = tf.map_fn(
        functools.partial(_header, segments=limits.segments),
        encoded,
        fn_output_signature=tf.TensorSpec([9], tf.int64),
    )
    kinds, heights, widths, orientations, alphas, scans, most, deep, used = (
        tf.unstack(headers, axis=1)
    )
    pixels = heights * widths
    broken = tf.gather(
        ["", *map(_image_headers.broken, ("JPEG", "PNG"))], kinds
    )
    errors = tf.fill(tf.shape(encoded), "")
    for condition, words in [
        (too_long, _image_headers.too_many_bytes(limits)),
        (_length(encoded) == 0, _image_headers.EMPTY),
        (_begins_with(encoded, TIFF), _image_headers.IS_TIFF),
        (kinds == 0, _image_headers.OTHER_KIND),
        (pixels > limits.pixels, _image_headers.too_many_pixels(limits)),
        (scans > limits.scans, _image_headers.too_many_scans(limits)),
        ((pixels == 0) | (pixels > most), broken),
    ]:
        errors = tf.where((errors == "") & condition, words, errors)
    all_pixels = tf.cumsum(tf.where(errors == "", pixels, 0))
    errors = tf.where(
        (errors == "") & (all_pixels > limits.batch_pixels),
        _image_headers.too_many_together(limits),
        errors,
    )
    number = tf.shape(encoded, out_type=tf.int64)[0]

    def read(
        index: tf.Tensor, file: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        size = tf.stack([heights[index], widths[index]])
        decoded_image = tf.cond(
            deep[index] > 0,
            lambda: _decode_deep(file, alphas[index], used[index], bits or 16),
            lambda: _decode(file, kinds[index], size, alphas[index]),
        )
        upright = _upright(decoded_image, orientations[index])
        image = tf.image.resize(upright, image_size, "bilinear", antialias=True)
        if channels == 1:
            image = to_gray(image)
        return index, image, tf.io.serialize_tensor(_canvas(upright))

    # The errors of decoding cannot be caught in a graph, but a data set can
    # leave out elements that raise them. The first is a guard: there is always
    # an element.
    shape = (*image_size, channels)
    guard = tf.data.Dataset.from_tensors(
        (tf.constant(-1, tf.int64), tf.zeros(shape), "")
    )
    good = (
        tf.data.Dataset.from_tensor_slices((tf.range(number), encoded, errors))
        .filter(lambda index, file, error: error == "")
        .map(lambda index, file, error: read(index, file))
        .ignore_errors()
    )
    indices, images, canvases = (
        guard.concatenate(good).batch(number + 1).get_single_element()
    )
    rows = indices[1:, None]
    images = tf.scatter_nd(rows, images[1:], tf.stack([number, *shape]))
    canvases = tf.tensor_scatter_nd_update(
        tf.fill([number], ""), rows, canvases[1:]
    )
    damaged = (errors == "") & (canvases == "")
    errors = tf.where(damaged, broken, errors)
    return DecodedImages(
        tf.ensure_shape(images, (None, *shape)), canvases, errors
    )


def _begins_with(files: tf.Tensor, starts: Collection[bytes]) -> tf.Tensor:
    heads = tf.strings.substr(files, 0, 4)
    return tf.reduce_any(heads[:, None] == [[*starts]], axis=-1)


def _length(files: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(files), tf.int64)


def overlays(
    canvases: tf.Tensor, maps: tf.Tensor, colors: tf.Tensor, opacity: float
) -> tf.Tensor:
    """Lays heat maps over their images, as `visualization.overlay` does.

    Args:
        canvases: As in `DecodedImages`.
        maps: Heat maps `(B, h, w, 1)` in [0, 1].
        colors: Color map `(256, 3)` in 0 to 255.
        opacity: How much of an image is covered where its map is 1.

    Returns:
        `(B,)` PNG files; empty where there is no canvas.
    """

    def draw(element: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        canvas, heat = element
        return tf.cond(
            canvas == "",
            lambda: "",
            lambda: _draw(canvas, heat, colors, opacity),
        )

    return tf.map_fn(
        draw, (canvases, maps), fn_output_signature=tf.TensorSpec([], tf.string)
    )


def evidence_overlays(
    canvases: tf.Tensor, evidence: tf.Tensor, colors: tf.Tensor, opacity: float
) -> tf.Tensor:
    """Lays signed evidence over images, as `visualization.signed_overlay`.

    The classes of an image are on one scale: its largest magnitude.

    Args:
        canvases: As in `DecodedImages`.
        evidence: Signed maps `(B, h, w, n)`.
        colors: Diverging color map `(256, 3)` in 0 to 255.
        opacity: How much of an image is covered by the strongest evidence.

    Returns:
        `(B, n)` PNG files; empty where there is no canvas.
    """
    largest = tf.reduce_max(tf.abs(evidence), axis=(1, 2, 3), keepdims=True)
    relative = tf.math.divide_no_nan(evidence, largest)
    relative = tf.transpose(relative, [0, 3, 1, 2])[..., None]

    def draw(element: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        canvas, maps = element
        return tf.map_fn(
            lambda signed: tf.cond(
                canvas == "",
                lambda: "",
                lambda: _draw_signed(canvas, signed, colors, opacity),
            ),
            maps,
            fn_output_signature=tf.TensorSpec([], tf.string),
        )

    return tf.map_fn(
        draw,
        (canvases, relative),
        fn_output_signature=tf.TensorSpec([None], tf.string),
    )


def _draw_signed(
    canvas: tf.Tensor, signed: tf.Tensor, colors: tf.Tensor, opacity: float
) -> tf.Tensor:
    gray = tf.cast(tf.io.parse_tensor(canvas, tf.uint8), tf.float32)
    signed = tf.image.resize(signed, tf.shape(gray)[:2], "bilinear")
    signed = tf.clip_by_value(signed, -1.0, 1.0)
    levels = tf.cast((signed[..., 0] + 1) / 2 * 256, tf.int32)
    cover = opacity * tf.abs(signed) ** 0.75
    color = tf.gather(colors, tf.minimum(levels, 255))
    blended = gray * (1 - cover) + color * cover
    return tf.io.encode_png(tf.cast(tf.round(blended), tf.uint8))


def _draw(
    canvas: tf.Tensor, heat: tf.Tensor, colors: tf.Tensor, opacity: float
) -> tf.Tensor:
    gray = tf.cast(tf.io.parse_tensor(canvas, tf.uint8), tf.float32)
    heat = tf.image.resize(heat, tf.shape(gray)[:2], "bilinear")
    heat = tf.clip_by_value(heat, 0.0, 1.0)
    levels = tf.minimum(tf.cast(heat[..., 0] * 256, tf.int32), 255)
    cover = opacity * tf.sqrt(heat)
    blended = gray * (1 - cover) + tf.gather(colors, levels) * cover
    return tf.io.encode_png(tf.cast(tf.round(blended), tf.uint8))


def _canvas(image: tf.Tensor) -> tf.Tensor:
    sides = tf.cast(tf.shape(image)[:2], tf.float64)
    one = tf.ones([], tf.float64)
    scale = tf.minimum(one, OVERLAY_SIDE / tf.reduce_max(sides))
    size = tf.cast(tf.maximum(tf.round(sides * scale), 1), tf.int32)
    smaller = tf.image.resize(image, size, "bilinear", antialias=True)
    gray = tf.reduce_mean(smaller, axis=-1, keepdims=True)
    return tf.cast(tf.round(gray), tf.uint8)


def _without_base64(file: tf.Tensor) -> tf.Tensor:
    """Decodes what is base64 of a JPEG or a PNG, URL-safe or not."""
    is_text = tf.strings.regex_full_match(
        file, r"(?s)([/_]9j[/_]|iVBORw0KGgo)[-A-Za-z0-9+/_\s]*=*\s*"
    )
    text = tf.where(is_text, file, "")
    text = tf.strings.regex_replace(text, r"[\s=]", "")
    text = tf.strings.regex_replace(text, r"\+", "-")
    text = tf.strings.regex_replace(text, "/", "_")
    # One letter too many is none of base64; then the image is cut off.
    length = tf.strings.length(text)
    text = tf.strings.substr(
        text, 0, length - tf.cast(length % 4 == 1, tf.int32)
    )
    return tf.where(is_text, tf.io.decode_base64(text), file)


def _decode(
    file: tf.Tensor, kind: tf.Tensor, size: tf.Tensor, alpha: tf.Tensor
) -> tf.Tensor:
    """Gives `(H, W, 3)`, uint8, of the size that was read from the header."""

    def jpeg() -> tf.Tensor:
        # A decoder may find another header than `_jpeg_header` does.
        found = tf.cast(tf.io.extract_jpeg_shape(file), tf.int64)[:2]
        same = tf.debugging.Assert(tf.reduce_all(found == size), [found])
        with tf.control_dependencies([same]):
            # As exactly as Pillow does.
            return tf.io.decode_jpeg(
                file, channels=3, dct_method="INTEGER_ACCURATE"
            )

    branches = [
        jpeg,
        lambda: tf.io.decode_png(file, channels=3),
        lambda: _on_white(tf.io.decode_png(file, channels=4)),
    ]
    image = tf.switch_case(tf.cast(kind - 1 + alpha, tf.int32), branches)
    return tf.ensure_shape(image, (None, None, 3))


def _decode_deep(
    file: tf.Tensor, alpha: tf.Tensor, used: tf.Tensor, bits: int
) -> tf.Tensor:
    """Brings a PNG of 16 bits a channel to 8, as `read_image` does.

    Args:
        file: Its bytes.
        alpha: Whether it is transparent.
        used: Bits that it says it uses, by its chunk sBIT; 0 if nothing.
        bits: Bits that it uses where it says nothing.

    Returns:
        `(H, W, 3)`, uint8.
    """

    def scaled(channels: int) -> tf.Tensor:
        image = tf.io.decode_png(file, channels=channels, dtype=tf.uint16)
        return _on_white(image, _white(image, used, bits))

    image = tf.cond(alpha > 0, lambda: scaled(4), lambda: scaled(3))
    return tf.ensure_shape(image, (None, None, 3))


def _white(image: tf.Tensor, used: tf.Tensor, bits: int) -> tf.Tensor:
    """Says which number of an image of 16 bits is white.

    Those that say they use fewer bits fill all 16 by the standard, and their
    lowest repeat the highest; or they hold the numbers as they were measured.
    """
    mask = tf.cast(2 ** (16 - used) - 1, tf.uint16)

    def look(start: tf.Tensor, step: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        rows = image[start : start + step]
        below = tf.reduce_any(tf.bitwise.bitwise_and(rows, mask) > 0)
        highest = tf.cast(tf.reduce_max(rows), tf.int64)
        return tf.maximum(found, tf.stack([highest, tf.cast(below, tf.int64)]))

    def declared() -> tf.Tensor:
        highest, below = tf.unstack(
            _by_rows(image, look, tf.zeros([2], tf.int64))
        )
        measured = (highest < 2**used) & (below > 0)
        return tf.where(measured, 2 ** tf.maximum(used, 8) - 1, 2**16 - 1)

    says = (used > 0) & (used < 16)
    else_white = tf.constant(2**bits - 1, tf.int64)
    return tf.cond(says, declared, lambda: else_white)


def _by_rows(
    image: tf.Tensor,
    function: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
    start: tf.Tensor,
) -> tf.Tensor:
    """Folds a function over the rows of an image, some rows at a time."""
    height, width = tf.unstack(tf.shape(image)[:2])
    step = tf.maximum(_PIXELS_AT_ONCE // width, 1)
    return tf.while_loop(
        lambda row, value: row < height,
        lambda row, value: (row + step, function(row, step, value)),
        (0, start),
    )[1]


def _on_white(image: tf.Tensor, white: tf.Tensor | int = 255) -> tf.Tensor:
    """Scales an image to 8 bits, and lays its transparency on white."""

    def lay(
        start: tf.Tensor, step: tf.Tensor, parts: tf.TensorArray
    ) -> tf.TensorArray:
        rows = image[start : start + step]
        color = tf.cast(rows[..., :3], tf.float32)
        if image.dtype == tf.uint16:
            top = tf.cast(white, tf.float32)
            color = tf.minimum(color, top) * (255 / top)
        if image.shape[-1] == 4:
            opaque = tf.cast(rows[..., 3:], tf.float32) / image.dtype.max
            color = color * opaque + 255 * (1 - opaque)
        color = tf.cast(tf.round(color), tf.uint8)
        return parts.write(start // step, color)

    parts = tf.TensorArray(
        tf.uint8,
        0,
        dynamic_size=True,
        infer_shape=False,
        element_shape=(None, None, 3),
    )
    return _by_rows(image, lay, parts).concat()


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image as its EXIF orientation, 1 to 8, asks."""

    def turned(transposed: bool, axes: list[int]) -> tf.Tensor:
        changed = tf.transpose(image, (1, 0, 2)) if transposed else image
        return tf.reverse(changed, axes) if axes else changed

    turns = [
        functools.partial(turned, transposed, axes)
        for transposed in (False, True)
        for axes in ([], [1], [0, 1], [0])
    ]
    return tf.switch_case(tf.cast(orientation - 1, tf.int32), turns)


def _header(file: tf.Tensor, segments: int) -> tf.Tensor:
    """Reads what is to be known of a file before it is decoded.

    Its kind (0 none, 1 JPEG, 2 PNG), height, width, orientation, whether it
    is transparent, its scans, the most pixels that its bytes can hold, whether
    it has 16 bits a channel, and how many of them it says that it uses.
    """
    is_jpeg = tf.strings.substr(file, 0, len(JPEG)) == JPEG
    is_png = tf.strings.substr(file, 0, len(PNG)) == PNG
    data = tf.io.decode_raw(file, tf.uint8)
    nothing = tf.constant([0, 0, 0, 1, 0, 0, 0, 0, 0], tf.int64)
    # Their loops become those of the graph.
    return tf.case(
        [
            (is_jpeg, lambda: tf.function(_jpeg_header)(data, segments)),
            (is_png, lambda: tf.function(_png_header)(data, segments)),
        ],
        default=lambda: nothing,
    )


def _number(
    data: tf.Tensor,
    offset: tf.Tensor | int,
    length: int,
    little_endian: tf.Tensor | bool = False,
) -> tf.Tensor:
    """Reads unsigned numbers at offsets; what lies behind the end is 0."""
    offset = tf.convert_to_tensor(offset, tf.int64)
    offsets = offset[..., None] + tf.range(length, dtype=tf.int64)
    inside = (offsets >= 0) & (offsets < tf.size(data, tf.int64))
    digits = tf.gather(data, tf.where(inside, offsets, 0))
    digits = tf.where(inside, tf.cast(digits, tf.int64), 0)
    powers = 256 ** tf.range(length - 1, -1, -1, dtype=tf.int64)
    powers = tf.where(little_endian, tf.reverse(powers, [0]), powers)
    return tf.reduce_sum(digits * powers, axis=-1)


def _side(number: tf.Tensor) -> tf.Tensor:
    """Bounds a side, so that a product of two does not overflow."""
    return tf.minimum(number, 2**31 - 1)


def _png_header(data: tf.Tensor, segments: int) -> tf.Tensor:
    width, height = _side(_number(data, 16, 4)), _side(_number(data, 20, 4))
    depth, color = _number(data, 24, 1), _number(data, 25, 1)
    pixels, transparency, significant = (
        tf.constant(int.from_bytes(name, "big"), tf.int64)
        for name in (b"IDAT", b"tRNS", b"sBIT")
    )
    size = tf.size(data, tf.int64)
    offset, steps = tf.constant(8, tf.int64), 0
    name = used = tf.constant(0, tf.int64)
    while offset + 8 <= size and steps < segments:
        name = _number(data, offset + 4, 4)
        if (name == pixels) | (name == transparency):
            break
        length = _number(data, offset, 4)
        if (name == significant) & (used == 0):
            numbers = offset + 8 + tf.range(tf.minimum(length, 4))
            used = tf.reduce_max(
                tf.concat([[used], _number(data, numbers, 1)], 0)
            )
        offset += 12 + length
        steps += 1
    has_alpha = (color == 4) | (color == 6) | (name == transparency)
    samples = tf.gather([1, 1, 3, 1, 2, 1, 4], tf.minimum(color, 6))
    bits = tf.maximum(depth * tf.cast(samples, tf.int64), 1)
    # Behind too many chunks it is not known whether it is transparent.
    known = (name == pixels) | (name == transparency)
    most = tf.where(known, 8 * BYTES_OF_A_PNG_BYTE * size // bits, 0)
    alpha = tf.cast(has_alpha, tf.int64)
    deep = tf.cast(depth == 16, tf.int64)
    return tf.stack([2, height, width, 1, alpha, 1, most, deep, used])


def _jpeg_header(data: tf.Tensor, segments: int) -> tf.Tensor:
    """Walks through the segments of a JPEG up to that of its frame."""
    all_markers = _markers(data)
    scans = tf.reduce_sum(
        tf.cast(all_markers & (data[1:] == START_OF_SCAN), tf.int64)
    )
    # All that may be the start of a segment: what is in between, padding or
    # stray bytes, decoders pass over.
    starts = tf.where(all_markers[:HEADER_BYTES])[:, 0]
    kinds = tf.cast(tf.gather(data, starts + 1), tf.int32)
    is_frame = _is_one_of(kinds, FRAMES)
    lengths = _number(data, starts + 2, 2)
    lengths = tf.where(_is_one_of(kinds, BARE), tf.zeros_like(starts), lengths)
    follower = tf.searchsorted(starts, starts + 2 + lengths)
    count = tf.size(starts)
    index, steps, exif = 0, 0, -1  # The first is the start of the image.
    while index < count and steps < segments:
        if is_frame[index] or kinds[index] == START_OF_SCAN:
            break
        if exif < 0 and kinds[index] == 0xE1:
            head = _number(data, starts[index] + 4, 6)
            if head == int.from_bytes(b"Exif\0\0", "big"):
                exif = index
        index = follower[index]
        steps += 1
    height = width = tf.constant(0, tf.int64)
    orientation = tf.constant(1, tf.int64)
    if index < count and is_frame[index]:
        height = _number(data, starts[index] + 5, 2)
        width = _number(data, starts[index] + 7, 2)
    if exif >= 0:
        found = _exif_orientation(data, starts[exif] + 10)
        orientation = tf.where(found > 0, found, orientation)
    most = PIXELS_OF_A_JPEG_BYTE * tf.size(data, tf.int64)
    return tf.stack([1, height, width, orientation, 0, scans, most, 0, 0])


def _markers(data: tf.Tensor) -> tf.Tensor:
    """Finds the bytes of a JPEG that begin a segment."""
    second = data[1:]
    return (data[:-1] == 0xFF) & (second != 0) & (second != 0xFF)


def _is_one_of(values: tf.Tensor, numbers: Collection[int]) -> tf.Tensor:
    return tf.gather([n in numbers for n in range(256)], values)


def _exif_orientation(data: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Finds the orientation in EXIF data; 0 if there is none."""
    little = _number(data, start, 2) == int.from_bytes(b"II", "big")
    directory = start + _number(data, start + 4, 4, little)
    count = tf.minimum(_number(data, directory, 2, little), 100)
    entries = directory + 2 + 12 * tf.range(count)
    is_it = _number(data, entries, 2, little) == _ORIENTATION
    values = tf.where(is_it, _number(data, entries + 8, 2, little), 0)
    found = tf.reduce_max(tf.concat([values, [0]], 0))
    return tf.where(found <= 8, found, 0)
