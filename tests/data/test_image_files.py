"""Files as people have them: every mode, turned, damaged."""

import logging
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest
import tifffile
from image_files import damaged

from keras_lficam.data import image_files
from keras_lficam.data.image_files import read_image


@pytest.fixture
def pixels():
    rows, columns = np.mgrid[:20, :30]
    stack = [8 * columns, 12 * rows, 255 - 8 * columns]
    return np.stack(stack, axis=-1).astype("uint8")


def test_rgb_is_read_as_it_is(pixels, tmp_path):
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (3, lambda p: p[::-1, ::-1]),
        (6, lambda p: np.rot90(p, -1)),
        (8, lambda p: np.rot90(p)),
        (2, lambda p: p[:, ::-1]),
    ],
)
def test_exif_orientation_is_undone(orientation, upright, pixels, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    actual = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(actual, upright(pixels))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_becomes_rgb(mode, pixels, tmp_path):
    gray = PIL.Image.fromarray(pixels[..., 0]).convert(mode)
    gray.save(tmp_path / "a.png")
    expected = np.repeat(np.asarray(gray.convert("L"))[..., None], 3, axis=-1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_transparency_is_laid_on_white(tmp_path):
    colors = np.array(
        [[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], "uint8"
    )
    PIL.Image.fromarray(colors).save(tmp_path / "a.png")
    # 51/255 of black over white is 204.
    expected = [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_transparent_palette_is_laid_on_white(tmp_path):
    image = PIL.Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=0)
    expected = [[[255, 255, 255], [200, 10, 10]]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    image = PIL.Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=100)
    actual = read_image(tmp_path / "a.jpg").astype(int)
    assert np.abs(actual - [200, 40, 90]).max() <= 3


def test_16_bit_gray_is_scaled(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], "uint16")
    PIL.Image.fromarray(values).save(tmp_path / "a.png")
    actual = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(actual[0, :, 1], [0, 1, 128, 255])


def write_png16(path, values, bits=None, clear=()):
    """Writes 16-bit color by hand, for Pillow writes no such file."""

    def chunk(name, data):
        checked = name + data
        return (
            struct.pack(">I", len(data))
            + checked
            + struct.pack(">I", zlib.crc32(checked))
        )

    rows, columns, channels = np.shape(values)
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", columns, rows, 16, color, 0, 0, 0)
    lines = [b"\0" + row.tobytes() for row in np.asarray(values, ">u2")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"sBIT", bytes([bits] * channels)) if bits else b"")
        + (chunk(b"tRNS", np.array(clear, ">u2").tobytes()) if clear else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(lines)))
        + chunk(b"IEND", b"")
    )


def test_16_bit_rgb_is_scaled(tmp_path):
    values = [[[65535, 0, 32896], [257, 65535, 0]]]
    write_png16(tmp_path / "a.png", values)
    actual = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(actual, [[[255, 0, 128], [1, 255, 0]]])


# Of 12 bits: 4095 is white, and 273 of 16.06 a level is 17.
TWELVE = [[0, 273, 2048, 4095]]
GRAYS = [0, 17, 128, 255]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_12_of_16_bits_fill_the_grays(kind, channels, tmp_path, caplog):
    path = tmp_path / f"a.{kind}"
    values = np.repeat(np.array(TWELVE, "uint16")[..., None], channels, -1)
    if kind == "png":
        write_png16(path, values)
    else:
        tifffile.imwrite(path, values.squeeze() if channels == 1 else values)
    actual = read_image(path, bits=12).reshape(4, 3)
    np.testing.assert_array_equal(actual.T, 3 * [GRAYS])
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "keras_lficam"):
        assert read_image(path).max() == 16
        assert read_image(path, bits=11).ravel().tolist()[-6:] == 6 * [255]
    first, second = (record.getMessage() for record in caplog.records)
    assert first.endswith(
        "4095 at most, and is dark; give bits=12 to make that white"
    )
    assert "up to 4095; all above 2047, the most of 11 bits" in second


def test_declared_bits_go_before_those_that_are_given(tmp_path):
    write_png16(tmp_path / "a.png", np.array(TWELVE)[..., None], bits=12)
    # As the standard has it: the 12 bits fill 16.
    full = (np.array(TWELVE) << 4) + (np.array(TWELVE) >> 8)
    write_png16(tmp_path / "full.png", full[..., None], bits=12)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.array(TWELVE, "uint16"),
        extratags=[(281, "H", 1, 3900, True)],  # MaxSampleValue
    )
    packed = bytes.fromhex("000111800fff")  # BitsPerSample
    tags = [
        (256, 4, 4), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1),
        (273, 4, 122), (277, 3, 1), (278, 4, 1), (279, 4, 6),
    ]  # fmt: skip
    (tmp_path / "packed.tif").write_bytes(
        struct.pack("<2sHIH", b"II", 42, 8, len(tags))
        + b"".join(struct.pack("<HHII", a, b, 1, c) for a, b, c in tags)
        + bytes(4)  # There is no other directory.
        + packed
    )
    big = np.array(TWELVE, ">u2").tobytes()
    (tmp_path / "a.pgm").write_bytes(b"P5 4 1 4095\n" + big)
    for path in sorted(tmp_path.iterdir()):
        for bits in (None, 9, 16):
            actual = read_image(path, bits=bits)
            assert actual[0, :, 0].tolist() == GRAYS, (path, bits)


def test_a_declaration_that_is_wrong_is_none(tmp_path):
    write_png16(tmp_path / "a.png", [[[0], [65535]]], bits=12)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.array([[0, 65535]], "uint16"),
        extratags=[(281, "H", 1, 4095, True)],
    )
    for name in ("a.png", "a.tif"):
        assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 255]


def test_16_bits_with_opacity_and_with_white_as_zero(tmp_path):
    write_png16(tmp_path / "a.png", [[[4095, 65535], [4095, 0], [0, 65535]]])
    actual = read_image(tmp_path / "a.png", bits=12)
    assert actual[0, :, 1].tolist() == [255, 255, 0]
    values = np.array([[0, 65535]], "uint16")
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [255, 0]


def test_a_color_that_stands_for_nothing_is_white_also_of_16_bits(tmp_path):
    """Gray 258 and the color (1, 2, 3) are transparent by a chunk tRNS."""
    gray = [[[258], [257], [65535]]]
    write_png16(tmp_path / "gray.png", gray, clear=(258,))
    color = [[[1, 2, 3], [1, 2, 4]]]
    write_png16(tmp_path / "color.png", color, clear=(1, 2, 3))
    found = read_image(tmp_path / "gray.png")
    assert found[0].tolist() == [[255] * 3, [1] * 3, [255] * 3]
    found = read_image(tmp_path / "color.png")
    assert found[0].tolist() == [[255] * 3, [0] * 3]


def test_16_bit_color_is_turned_upright(tmp_path):
    values = np.arange(18, dtype="uint16").reshape(2, 3, 3) * 257
    upright = {
        2: values[:, ::-1],
        3: np.rot90(values, 2),
        4: values[::-1],
        5: values.swapaxes(0, 1),
        6: np.rot90(values, -1),
        7: np.rot90(values, 2).swapaxes(0, 1),
        8: np.rot90(values),
    }
    for orientation, expected in upright.items():
        path = tmp_path / f"{orientation}.tif"
        tifffile.imwrite(
            path,
            values,
            photometric="rgb",
            extratags=[(274, "H", 1, orientation, True)],
        )
        np.testing.assert_array_equal(read_image(path), expected // 257)


@pytest.mark.parametrize("bits", [7, 17, 12.5, "12", True])
def test_bits_that_cannot_be(bits):
    with pytest.raises(ValueError, match="`bits` must be an integer from 8"):
        read_image("a.png", bits=bits)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(20), "HEIF"),
        ("phone.jpg", b"\0\0\0\x18ftypmif1" + bytes(20), "HEIF"),
        ("a.jxl", b"\xff\x0a" + bytes(20), "JPEG XL"),
        ("scan", bytes(128) + b"DICM" + bytes(20), "DICOM"),
        ("a.nef", b"II*\0" + bytes(20), "a camera's raw format"),
    ],
)
def test_formats_that_pillow_lacks_are_named(name, content, kind, tmp_path):
    (tmp_path / name).write_bytes(content)
    message = f"{name}: the file is {kind}, which .* convert it to PNG or JPEG"
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / name)


def test_first_page_of_a_tiff_with_a_warning(tmp_path, caplog):
    pages = np.stack([np.full((4, 4), level, "uint8") for level in (9, 200)])
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", pages[0])
    assert (read_image(tmp_path / "b.tif") == 9).all()
    assert not caplog.text
    assert (read_image(tmp_path / "a.tif") == 9).all()
    assert "a.tif: the file has 2 pages, of which the first" in caplog.text


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        ([[0, 1, 255]], "L", [0, 1, 1]),
        ([[0, 1, 65535]], "I;16", [0, 1, 1]),
        ([[[0, 0, 0], [0, 0, 3]]], "RGB", [0, 1]),
        ([[[0, 255], [7, 0]]], "LA", [0, 1]),
        ([[False, True]], "1", [0, 1]),
    ],
)
def test_a_mask_is_where_anything_is(values, mode, expected, tmp_path):
    kind = {"I;16": "uint16", "1": bool}.get(mode, "uint8")
    PIL.Image.fromarray(np.array(values, kind)).save(tmp_path / "a.png")
    found = image_files.read_mask(tmp_path / "a.png")
    assert found.dtype == bool
    assert found[0, :, 0].tolist() == expected


def test_a_mask_of_a_palette_is_its_numbers(tmp_path):
    """The color of number 0 is white here, that of 1 is black."""
    mask = PIL.Image.new("P", (2, 1))
    mask.putpalette([255] * 3 + [0] * 3)
    mask.putpixel((1, 0), 1)
    mask.save(tmp_path / "a.png")
    found = image_files.read_mask(tmp_path / "a.png")
    assert found[0, :, 0].tolist() == [False, True]


def test_first_frame_of_an_animation(tmp_path):
    frames = [PIL.Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    actual = read_image(tmp_path / "a.gif")
    np.testing.assert_array_equal(actual[0, 0], [255, 0, 0])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated.jpg", "damaged"),
        ("truncated.png", "damaged"),
        ("empty.png", "empty"),
        ("text.png", "not an image"),
        ("float.tif", "floating point"),
        ("i.tif", "32-bit"),
        ("folder.png", "is a folder"),
        ("missing.png", "no such file"),
    ],
)
def test_unreadable_file_is_one_clear_line(name, reason, pixels, tmp_path):
    damaged(tmp_path, pixels)
    with pytest.raises(ValueError, match=f"{name}: .*{reason}") as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_decoder_that_raises_anything_is_one_clear_line(
    pixels, tmp_path, monkeypatch
):
    def fail(*_):
        raise RuntimeError("decoder lost its way")

    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image.Image, "load", fail)
    with pytest.raises(ValueError, match=r"a\.png: .*damaged .*lost its way"):
        read_image(tmp_path / "a.png")


def test_filters_of_warnings_stay_as_they_are(pixels, tmp_path, recwarn):
    """Pillow warns of images beyond our own limit alone."""
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    before = list(warnings.filters)
    read_image(tmp_path / "a.png")
    assert warnings.filters == before
    assert image_files.MAX_PIXELS <= PIL.Image.MAX_IMAGE_PIXELS
    assert not recwarn


def test_pixels_are_bounded_before_they_are_decoded(tmp_path, monkeypatch):
    # Of one bit each, so a small file.
    PIL.Image.new("1", (8000, 8001)).save(tmp_path / "a.png")
    monkeypatch.setattr(
        PIL.Image.Image, "load", lambda *_: pytest.fail("it was decoded")
    )
    message = r"a\.png: .* has 64,008,000 pixels, 8000 x 8001, .* To fix this"
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "a.png")


def test_bomb_is_refused(tmp_path, monkeypatch, pixels):
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="too large"):
        read_image(tmp_path / "a.png")
