"""Files as people have them: every mode, turned, damaged."""

import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from keras_lficam.data.pictures import read_picture


@pytest.fixture
def pixels():
    rows, columns = np.mgrid[:20, :30]
    stack = [8 * columns, 12 * rows, 255 - 8 * columns]
    return np.stack(stack, axis=-1).astype("uint8")


def test_rgb_is_read_as_it_is(pixels, tmp_path):
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), pixels)


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
    actual = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(actual, upright(pixels))


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_becomes_rgb(mode, pixels, tmp_path):
    gray = PIL.Image.fromarray(pixels[..., 0]).convert(mode)
    gray.save(tmp_path / "a.png")
    expected = np.repeat(np.asarray(gray.convert("L"))[..., None], 3, axis=-1)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), expected)


def test_transparency_is_laid_on_white(tmp_path):
    colors = np.array(
        [[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], "uint8"
    )
    PIL.Image.fromarray(colors).save(tmp_path / "a.png")
    # 51/255 of black over white is 204.
    expected = [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), expected)


def test_transparent_palette_is_laid_on_white(tmp_path):
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 200, 10, 10])
    picture.putdata([0, 1])
    picture.save(tmp_path / "a.png", transparency=0)
    expected = [[[255, 255, 255], [200, 10, 10]]]
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), expected)


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    picture = PIL.Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    picture.save(tmp_path / "a.jpg", quality=100)
    actual = read_picture(tmp_path / "a.jpg").astype(int)
    assert np.abs(actual - [200, 40, 90]).max() <= 3


def test_16_bit_gray_is_scaled(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], "uint16")
    PIL.Image.fromarray(values).save(tmp_path / "a.png")
    actual = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(actual[0, :, 1], [0, 1, 128, 255])


def test_16_bit_rgb_is_scaled(tmp_path):
    # Written by hand, for Pillow writes no such file.
    def chunk(name, data):
        checked = name + data
        return (
            struct.pack(">I", len(data))
            + checked
            + struct.pack(">I", zlib.crc32(checked))
        )

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 65535, 0, 32896, 257, 65535, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    actual = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(actual, [[[255, 0, 128], [1, 255, 0]]])


def test_first_frame_of_an_animation(tmp_path):
    frames = [PIL.Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    actual = read_picture(tmp_path / "a.gif")
    np.testing.assert_array_equal(actual[0, 0], [255, 0, 0])


def damaged(folder, pixels):
    """Writes files that cannot be read; the reason by the name."""
    PIL.Image.fromarray(np.tile(pixels, (9, 9, 1))).save(folder / "good.jpg")
    jpeg = (folder / "good.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    PIL.Image.fromarray(pixels).save(folder / "good.png")
    png = (folder / "good.png").read_bytes()
    (folder / "truncated.png").write_bytes(png[: len(png) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("This is no picture.")
    PIL.Image.fromarray(np.eye(3, dtype="float32")).save(folder / "float.tif")
    PIL.Image.fromarray(np.full((2, 2), 70000, "int32")).save(folder / "i.tif")
    (folder / "folder.png").mkdir()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated.jpg", "damaged"),
        ("truncated.png", "damaged"),
        ("empty.png", "empty"),
        ("text.png", "no picture"),
        ("float.tif", "floating point"),
        ("i.tif", "32-bit"),
        ("folder.png", "is a folder"),
        ("missing.png", "no such file"),
    ],
)
def test_unreadable_file_is_one_clear_line(name, reason, pixels, tmp_path):
    damaged(tmp_path, pixels)
    with pytest.raises(ValueError, match=f"{name}: .*{reason}") as caught:
        read_picture(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_decoder_that_raises_anything_is_one_clear_line(
    pixels, tmp_path, monkeypatch
):
    def fail(*_):
        raise RuntimeError("decoder lost its way")

    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image.Image, "load", fail)
    with pytest.raises(ValueError, match=r"a\.png: .*damaged .*lost its way"):
        read_picture(tmp_path / "a.png")


def test_large_picture_is_read_without_a_warning(
    pixels, tmp_path, monkeypatch, recwarn
):
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 400)
    assert read_picture(tmp_path / "a.png").shape == (20, 30, 3)
    assert not recwarn


def test_bomb_is_refused(tmp_path, monkeypatch, pixels):
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="too large"):
        read_picture(tmp_path / "a.png")
