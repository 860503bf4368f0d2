"""Asks of a live server what an exported model promises."""

import functools
import io
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from keras_lficam._checks import path_of
from keras_lficam.serving.client import (
    Client,
    ServerError,
    UnreachableError,
    printable,
)

# What a signature answers, by the names of its outputs.
Answers = dict[str, np.ndarray]

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
        It ends where the server cannot be reached.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the folder has no name.

    Examples:
        for question, fault in check(Client("http://localhost:8501", "digits")):
            print(question, fault or "yes")
    """
    if not isinstance(client, Client):
        raise TypeError(
            "Argument `client` must be a keras_lficam.serving.client.Client. "
            f"Received: client={client!r:.80} of type {type(client).__name__}"
        )
    if saved_model is not None:
        saved_model = path_of("saved_model", saved_model)
    # What is checked here is known before the first answer is asked for.
    return _checked(client, saved_model)


def _checked(
    client: Client, saved_model: pathlib.Path | None
) -> Iterator[tuple[str, str]]:
    questions: dict[str, Callable[[Client], None]] = {
        "The model is served": _served,
        "Images are answered with their class, and why": _images,
        "Images as uint8 are answered alike": _uint8,
        "The class alone is the same": _class_alone,
        "Encoded images are answered with an overlay": _png,
        "A damaged image is named and spoils no other": _damaged,
        "A wrong shape is refused": _wrong_shape,
    }
    if saved_model is not None:
        like = functools.partial(_like_saved, saved_model)
        questions[f"The answers are those of {saved_model}"] = like
    for question, ask in questions.items():
        try:
            ask(client)
        except UnreachableError as error:
            yield question, str(error)
            return  # It would say so to every question.
        except KeyError as error:
            yield question, printable(f"the answer has no {error}")
        except (_FaultError, ServerError) as error:
            yield question, printable(str(error))
        # An answer can be anything, and so can what it raises.
        except Exception as error:
            words = printable(" ".join(str(error)[:300].split()))
            yield question, f"the answer is of another kind: {words}"
        else:
            yield question, ""


class _FaultError(Exception):
    """What is wrong with an answer."""


def _expect(condition: object, fault: object) -> None:
    """Unlike `assert` it is there under `python -O`, too."""
    if not condition:
        raise _FaultError(fault)


def _served(client: Client) -> None:
    state = client.status()
    _expect(state == "AVAILABLE", f"its state is {state}")


def _images(client: Client) -> None:
    images = np.stack([_image(), _image()[::-1]])
    answer = client.predict({"images": images.astype("float32")})
    _expect(not any(answer["error"]), answer["error"])
    _expect(np.all(answer["probabilities"] >= 0), "a probability is negative")
    index = answer["probabilities"].argmax(axis=-1)
    _expect(
        np.array_equal(index, answer["class_index"]), "the class is another"
    )
    # Not every classifier has an attention map, nor every older artifact
    # evidence, but each has one of them.
    of_attention = {"attention_map", "attention_logits", "importance"}
    if "class_evidence" not in answer or of_attention & answer.keys():
        maps = answer["attention_map"]
        _expect(
            maps.shape == (2, _SIDE, _SIDE, 1),
            f"the map's shape is {maps.shape}",
        )
        _expect(maps.min() >= 0, "a map is negative")
        _expect(maps.max() <= 1 + _CLOSE, "a map is above 1")
    if "class_evidence" in answer:
        shapes = (
            answer["class_evidence"].shape,
            answer["evidence_classes"].shape,
        )
        _expect(
            shapes[0][::3] == shapes[1],
            f"the shapes of evidence and its classes are {shapes}",
        )


def _uint8(client: Client) -> None:
    images = _image()[np.newaxis]
    _alike(_answers(client), client.predict({"images": images}, "uint8_images"))


def _class_alone(client: Client) -> None:
    _alike(_answers(client), _answers(client, "classify"))


def _png(client: Client) -> None:
    import PIL.Image

    content = _encoded()
    answer = client.predict({"image_bytes": [content]}, "encoded_images")
    _expect(answer["error"][0] == b"", answer["error"][0].decode())
    _close(answer, _answers(client), "probabilities")
    overlay = PIL.Image.open(io.BytesIO(answer["overlay_bytes"][0]))
    _expect(overlay.size == (_SIDE, _SIDE), f"the overlay is {overlay.size}")
    _expect(
        answer["top_classes"][0, 0] == answer["class_name"][0],
        "the first of the classes is not the answer",
    )


def _damaged(client: Client) -> None:
    good = _encoded()
    files = [good, good[: len(good) // 2], b"not an image", good]
    answer = client.predict({"image_bytes": files}, "encoded_images")
    errors = answer["error"]
    _expect(errors[0] == errors[3] == b"", "a good image was not answered")
    _expect(errors[1], "an image that is cut off was answered")
    _expect(errors[2], "a file that is no image was answered")
    alone = client.predict({"image_bytes": [good]}, "encoded_images")
    for index in (0, 3):
        difference = np.abs(
            answer["probabilities"][index] - alone["probabilities"][0]
        ).max()
        _expect(difference < _CLOSE, "a good image got another answer")
    _expect(
        np.array_equal(answer["class_index"][1:3], [-1, -1]),
        "an image without an answer got a class",
    )


def _wrong_shape(client: Client) -> None:
    try:
        client.predict({"images": np.zeros((1, 8, 8, 1), "float32")})
    except ServerError as error:
        _expect("must have shape" in str(error), f"it says: {error}")
    else:
        raise _FaultError("it was answered")


def _like_saved(saved_model: pathlib.Path, client: Client) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(saved_model))
    images = tf.constant(_float_images())
    here = loaded.signatures["serving_default"](images=images)
    there = _answers(client)
    for name in ("probabilities", "attention_map", "class_evidence"):
        if name not in here:
            continue
        _close({name: np.asarray(here[name])}, there, name)


def _alike(first: Answers, second: Answers) -> None:
    for name in first.keys() & second.keys() - {"error", "class_name"}:
        _close(first, second, name)
    _expect(
        first["class_name"][0] == second["class_name"][0],
        "the name of the class differs",
    )


def _close(first: Answers, second: Answers, name: str) -> None:
    # Evidence and logits have no bound, probabilities and maps that of 1.
    scale = max(1.0, float(np.abs(first[name]).max()))
    with np.errstate(invalid="ignore"):  # Of infinite answers it is NaN.
        difference = np.abs(first[name] - second[name]).max() / scale
    _expect(difference < _CLOSE, f"{name} differs by {difference:.1e}")


def _answers(client: Client, signature: str = "serving_default") -> Answers:
    return client.predict({"images": _float_images()}, signature)


def _float_images() -> np.ndarray:
    return _image()[np.newaxis].astype("float32")


def _image() -> np.ndarray:
    """An image that needs no file, `(96, 96, 3)`."""
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE]
    disk = (rows - 40) ** 2 + (columns - 60) ** 2 < 400
    channels = [rows * 2, columns * 2, 200 * disk]
    return np.stack(channels, axis=-1).astype("uint8")


def _encoded() -> bytes:
    import PIL.Image

    content = io.BytesIO()
    PIL.Image.fromarray(_image()).save(content, "PNG")
    return content.getvalue()
