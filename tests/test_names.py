"""Names, as they are printed and as they were meant."""

import pytest

from keras_lficam._names import nearest, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two words, dög", "two words, dög"),
        ("\x1b[2Jcat\r\n", r"\x1b[2Jcat\r\n"),
        ("a\u202eb\u2028", r"a\u202eb\u2028"),
        ("\udcff.png", r"\udcff.png"),  # A file name that is no UTF-8.
    ],
)
def test_what_moves_the_line_is_escaped(text, shown):
    assert printable(text) == shown


def test_the_nearest_names():
    known = ["ResNet50", "ResNet18", "VGG16"]
    assert nearest("resnet_50", known)[0] == "ResNet50"
    assert nearest("zebra", known) == []
