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
        client: Client of the model. One of protocol V2 is asked for less where
            the model gives less, as one does that takes arrays alone.
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
    questions = _OF_V2 if client.protocol == "v2" else _OF_TF_SERVING
    if saved_model is not None:
        like = functools.partial(_like_saved, saved_model)
        questions = questions | {
            f"The answers are those of {saved_model}": like
        }
    for question, ask in questions.items():
        try:
            ask(client)
        except _NotTakenError:
            continue
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


class _NotTakenError(Exception):
    """What is checked is nothing that the model takes."""


def _expect(condition: object, fault: object) -> None:
    """Unlike `assert` it is there under `python -O`, too."""
    if not condition:
        raise _FaultError(fault)


def _served(client: Client) -> None:
    state = client.status()
    _expect(state == "AVAILABLE", f"its state is {state}")


def _images(client: Client) -> None:
    images = _float_images(client)
    answer = client.predict(
        {"images": np.concatenate([images, images[:, ::-1]])}
    )
    # A model alone has neither names nor errors.
    if client.protocol != "v2" or "error" in client.metadata().outputs:
        _expect(not any(answer["error"]), answer["error"])
        index = answer["probabilities"].argmax(axis=-1)
        _expect(
            np.array_equal(index, answer["class_index"]), "the class is another"
        )
    _expect(np.all(answer["probabilities"] >= 0), "a probability is negative")
    # Not every classifier has an attention map, nor every older artifact
    # evidence, but each has one of them.
    of_attention = {"attention_map", "attention_logits", "importance"}
    if "class_evidence" not in answer or of_attention & answer.keys():
        maps = answer["attention_map"]
        _expect(
            maps.shape == (2, *images.shape[1:3], 1),
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
    images = _image(client)[np.newaxis]
    _alike(_answers(client), client.predict({"images": images}, "uint8_images"))


def _one_by_one(client: Client) -> None:
    images = _float_images(client)
    several = np.concatenate([images, images[:, ::-1]])
    together = client.predict({"images": several})
    for index in range(2):
        alone = client.predict({"images": several[index : index + 1]})
        for name in ("probabilities", "attention_map", "class_evidence"):
            if name in alone:
                both = together[name][index : index + 1]
                _close({name: both}, alone, name)


def _class_alone(client: Client) -> None:
    _alike(_answers(client), _answers(client, "classify"))


def _png(client: Client) -> None:
    import PIL.Image

    _check_takes_files(client)
    answer = _of_files(client, [_encoded(client)])
    _expect(answer["error"][0] == b"", answer["error"][0].decode())
    _close(answer, _answers(client), "probabilities")
    overlay = PIL.Image.open(io.BytesIO(answer["overlay_bytes"][0]))
    height, width = _image(client).shape[:2]
    _expect(overlay.size == (width, height), f"the overlay is {overlay.size}")
    _expect(
        answer["top_classes"][0, 0] == answer["class_name"][0],
        "the first of the classes is not the answer",
    )


def _damaged(client: Client) -> None:
    _check_takes_files(client)
    good = _encoded(client)
    files = [good, good[: len(good) // 2], b"not an image", good]
    answer = _of_files(client, files)
    errors = answer["error"]
    _expect(errors[0] == errors[3] == b"", "a good image was not answered")
    _expect(errors[1], "an image that is cut off was answered")
    _expect(errors[2], "a file that is no image was answered")
    alone = _of_files(client, [good])
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
        # A server of V2 checks shapes itself, and has words of its own.
        named = "shape" if client.protocol == "v2" else "must have shape"
        _expect(named in str(error), f"it says: {error}")
    else:
        raise _FaultError("it was answered")
    _served(client)


def _like_saved(saved_model: pathlib.Path, client: Client) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(saved_model))
    images = tf.constant(_float_images(client))
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
    return client.predict({"images": _float_images(client)}, signature)


def _check_takes_files(client: Client) -> None:
    """One alone in a server of V2 takes arrays."""
    if (
        client.protocol == "v2"
        and "image_bytes" not in client.metadata().inputs
    ):
        raise _NotTakenError


def _of_files(client: Client, files: list[bytes]) -> Answers:
    inputs = {"image_bytes": files}
    if client.protocol == "v2":
        return client.predict(inputs)
    return client.predict(inputs, "encoded_images")


def _float_images(client: Client) -> np.ndarray:
    return _image(client)[np.newaxis].astype("float32")


def _image(client: Client) -> np.ndarray:
    """An image that needs no file, at the size that the model declares.

    In TF Serving it takes any, `(96, 96, 3)` here.
    """
    height, width, channels = _SIDE, _SIDE, 3
    if client.protocol == "v2":
        height, width, channels = client.metadata().inputs["images"].shape[-3:]
    rows, columns = np.mgrid[0:height, 0:width]
    rows, columns = rows * _SIDE // height, columns * _SIDE // width
    disk = (rows - 40) ** 2 + (columns - 60) ** 2 < 400
    bands = [rows * 2, columns * 2, 200 * disk]
    return np.stack(bands[:channels], axis=-1).astype("uint8")


def _encoded(client: Client) -> bytes:
    import PIL.Image

    pixels = _image(client)
    content = io.BytesIO()
    flat = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    PIL.Image.fromarray(flat).save(content, "PNG")
    return content.getvalue()


_OF_TF_SERVING: dict[str, Callable[[Client], None]] = {
    "The model is served": _served,
    "Images are answered with their class, and why": _images,
    "Images as uint8 are answered alike": _uint8,
    "The class alone is the same": _class_alone,
    "Encoded images are answered with an overlay": _png,
    "A damaged image is named and spoils no other": _damaged,
    "A wrong shape is refused": _wrong_shape,
}
_OF_V2: dict[str, Callable[[Client], None]] = {
    "The model is served": _served,
    "Images are answered with their class, and why": _images,
    "An image alone is answered as among others": _one_by_one,
    "Encoded images are answered with an overlay": _png,
    "A damaged image is named and spoils no other": _damaged,
    "A wrong shape is refused": _wrong_shape,
}
