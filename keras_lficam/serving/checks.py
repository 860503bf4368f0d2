"""Asks of a live server what an exported model promises."""

import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_lficam.serving.client import Client, ServerError

_CLOSE = 1e-4
_SIDE = 96


def check(
    client: Client, saved_model: pathlib.Path | None = None
) -> Iterator[tuple[str, str]]:
    """Checks a server's answers, one after another.

    Args:
        client: Client of the model.
        saved_model: Folder of the version that is served, to compare with.

    Returns:
        Iterator over what is checked, and what is wrong; empty if nothing is.

    Examples:
        for question, fault in check(Client("http://localhost:8501", "digits")):
            print(question, fault or "yes")
    """
    picture = _picture()
    images = picture[np.newaxis].astype("float32")
    questions: list[tuple[str, Callable[[], Any]]] = [
        ("The model is served", lambda: _served(client)),
        ("Images are answered with class and map", lambda: _images(client)),
        (
            "Images as uint8 are answered alike",
            lambda: _alike(
                client.predict({"images": images}),
                client.predict({"images": picture[np.newaxis]}, "uint8_images"),
            ),
        ),
        (
            "The class alone is the same",
            lambda: _alike(
                client.predict({"images": images}),
                client.predict({"images": images}, "classify"),
            ),
        ),
        ("Encoded pictures are answered with an overlay", lambda: _png(client)),
        (
            "A damaged picture is named and spoils no other",
            lambda: _damaged(client),
        ),
        ("A wrong shape is refused", lambda: _wrong_shape(client)),
    ]
    if saved_model is not None:
        questions.append(
            (
                f"The answers are those of {saved_model}",
                lambda: _local(client, saved_model),
            )
        )
    for question, ask in questions:
        try:
            ask()
        except KeyError as error:
            yield question, f"the answer has no {error}"
        except (AssertionError, ServerError) as error:
            yield question, str(error) or "no"
        # Of answers of other shapes or types, and of what is no picture.
        except (IndexError, OSError, TypeError, ValueError) as error:
            yield question, f"the answer is of another kind: {error}"
        else:
            yield question, ""


def _served(client):
    state = client.status()
    assert state == "AVAILABLE", f"its state is {state}"


def _images(client):
    images = np.stack([_picture(), _picture()[::-1]]).astype("float32")
    answer = client.predict({"images": images})
    assert not any(answer["error"]), answer["error"]
    total = answer["probabilities"].sum(axis=-1)
    assert np.all(answer["probabilities"] >= 0), "a probability is negative"
    index = answer["probabilities"].argmax(axis=-1)
    assert np.array_equal(index, answer["class_index"]), "the class is another"
    maps = answer["attention_map"]
    assert maps.shape == (2, _SIDE, _SIDE, 1), (
        f"the map's shape is {maps.shape}"
    )
    assert maps.min() >= 0, "a map is negative"
    assert maps.max() <= 1 + _CLOSE, "a map is above 1"
    assert total.shape == (2,), "a row of probabilities is missing"


def _png(client):
    import PIL.Image

    content = _encoded()
    answer = client.predict({"image_bytes": [content]}, "encoded_images")
    assert answer["error"][0] == b"", answer["error"][0].decode()
    images = _picture()[np.newaxis].astype("float32")
    _close(answer, client.predict({"images": images}), "probabilities")
    overlay = PIL.Image.open(io.BytesIO(answer["overlay_bytes"][0]))
    assert overlay.size == (_SIDE, _SIDE), f"the overlay is {overlay.size}"
    assert answer["top_classes"][0, 0] == answer["class_name"][0]


def _damaged(client):
    good = _encoded()
    files = [good, good[: len(good) // 2], b"no picture", good]
    answer = client.predict({"image_bytes": files}, "encoded_images")
    errors = answer["error"]
    assert errors[0] == errors[3] == b"", "a good picture was not answered"
    assert errors[1], "a picture that is cut off was answered"
    assert errors[2], "a file that is no picture was answered"
    alone = client.predict({"image_bytes": [good]}, "encoded_images")
    for place in (0, 3):
        difference = np.abs(
            answer["probabilities"][place] - alone["probabilities"][0]
        ).max()
        assert difference < _CLOSE, "a good picture got another answer"
    assert np.array_equal(answer["class_index"][1:3], [-1, -1])


def _wrong_shape(client):
    said = ""
    try:
        client.predict({"images": np.zeros((1, 8, 8, 1), "float32")})
    except ServerError as error:
        said = str(error)
    assert said, "it was answered"
    assert "must have shape" in said, f"it says: {said}"


def _local(client, saved_model):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(saved_model))
    images = _picture()[np.newaxis].astype("float32")
    here = loaded.signatures["serving_default"](images=tf.constant(images))
    there = client.predict({"images": images})
    for name in ("probabilities", "attention_map"):
        _close({name: np.asarray(here[name])}, there, name)


def _alike(first, second):
    for name in first.keys() & second.keys() - {"error", "class_name"}:
        _close(first, second, name)
    assert first["class_name"][0] == second["class_name"][0]


def _close(first, second, name):
    difference = np.abs(first[name] - second[name]).max()
    assert difference < _CLOSE, f"{name} differs by {difference:.1e}"


def _picture():
    """A picture that needs no file, `(96, 96, 3)`."""
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE]
    disk = (rows - 40) ** 2 + (columns - 60) ** 2 < 400
    channels = [rows * 2, columns * 2, 200 * disk]
    return np.stack(channels, axis=-1).astype("uint8")


def _encoded():
    import PIL.Image

    content = io.BytesIO()
    PIL.Image.fromarray(_picture()).save(content, "PNG")
    return content.getvalue()
