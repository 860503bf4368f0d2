"""What `explain` refuses."""

import pytest

import keras_lficam


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"top": 0}, ValueError, "`top` must be .* at least 1"),
        ({"top": True}, TypeError, "`top` must be"),
        ({"classes": [4]}, ValueError, "between 0 and 3"),
        ({"classes": [0.5]}, TypeError, "must hold integers"),
        ({"classes": []}, (TypeError, ValueError), "`classes` must"),
        ({"classes": [[0], [1]]}, ValueError, "row of them for each"),
        ({"classes": ["cat"]}, ValueError, "that the model knows"),
        ({"class_names": ["a"]}, ValueError, "4 names"),
        ({"layer": "none"}, ValueError, "`layer` must be the name"),
        ({"batch_size": 0}, ValueError, "`batch_size`"),
    ],
)
def test_wrong_arguments_are_refused(attended, images, arguments, error, words):
    with pytest.raises(error, match=words):
        keras_lficam.explain(attended, images, **arguments)
