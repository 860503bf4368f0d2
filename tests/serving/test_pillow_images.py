"""What files of a request cost where Pillow decodes them."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from keras_lficam.serving import (
    Limits,
    _image_headers,
    _pillow_images,
)

LIMITS = Limits()


def error_of(file):
    return _pillow_images.decoded([file], (4, 4), LIMITS, 3).errors[0]


@pytest.mark.parametrize("middle", [b" ", b"A ", b"= "])
def test_what_is_nearly_base64_costs_its_length(middle):
    """By a pattern that goes back it would be hours, which nobody waits."""
    file = b"/9j/" + middle * 1_000_000 + b"!"
    assert error_of(file) == _image_headers.OTHER_KIND


def test_scans_are_counted_without_a_copy_of_each():
    file = b"\xff\xd8" + b"\xff\xda" * 1_000_000
    assert _image_headers.read(file, 10).scans == 1_000_000
    assert error_of(file) == _image_headers.too_many_scans(LIMITS)


@pytest.mark.parametrize("at_once", [1, 5, 2**20])
def test_transparency_is_laid_on_white_by_rows(monkeypatch, at_once):
    monkeypatch.setattr(_pillow_images, "_PIXELS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 3, 4)).astype("uint8")
    written = io.BytesIO()
    PIL.Image.fromarray(pixels).save(written, "PNG")
    for file in (written.getvalue(), base64.b64encode(written.getvalue())):
        shown = _pillow_images.decoded([file], (7, 3), LIMITS, 3)
        assert shown.errors == [""]
        opaque = pixels[..., 3:] / 255.0
        expected = np.rint(pixels[..., :3] * opaque + 255 * (1 - opaque))
        np.testing.assert_array_equal(shown.images[0], expected)
