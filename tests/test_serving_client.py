"""The client and the checks, asked of a server over sockets."""

import functools
import json
import re
import time
import types

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from processes import free_ports
from serving_server import serving
from test_serving import (
    DAMAGED,
    NAMES,
    answers_of,
    digits,
    digits_model,
    file_of,
    load,
)

import keras_lficam
from keras_lficam.serving import checks
from keras_lficam.serving import client as client_module
from keras_lficam.serving.client import Client, ServerError


@pytest.fixture(scope="module")
def model():
    return digits_model()


@pytest.fixture(scope="module")
def images():
    return digits(6)


@pytest.fixture(scope="module")
def expected(model, images):
    """Probabilities, maps and importance of Keras."""
    view = keras_lficam.attention_view(model)
    shown = view(images, training=False)
    return *answers_of(model, images), np.asarray(shown["importance"])


@pytest.fixture
def loading_once(monkeypatch):
    """Spares checks, for each of which a SavedModel is loaded, seconds."""
    monkeypatch.setattr(tf.saved_model, "load", load)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model):
    """Two models of the same classes."""
    root = tmp_path_factory.mktemp("models")
    options = {"class_names": NAMES}
    keras_lficam.export(model, root / "digits", **options)
    keras_lficam.export(digits_model(1), root / "other", **options)
    return root


@pytest.fixture(scope="module")
def running(folders):
    with serving(digits=folders / "digits", other=folders / "other") as server:
        yield server


@pytest.fixture(params=["rest", "grpc"])
def connect(request, running):
    """Makes clients of the server by either interface."""
    clients = []

    def make(name="digits", **options):
        client = Client(getattr(running, request.param), name, **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def one_line(error):
    words = str(error.value)
    assert "\n" not in words
    assert "\t" not in words
    assert len(words) < 400
    return words


# --------------------------------------------------------------- right answers


def test_the_answers_are_those_of_keras(connect, images, expected):
    names = ("probabilities", "attention_map", "importance")
    chances = expected[0]
    client = connect()
    assert client.status() == "AVAILABLE"
    files = [file_of(PIL.Image.fromarray(image)) for image in images]
    for inputs, signature in [
        ({"images": images.astype("float32")}, "serving_default"),
        ({"images": images}, "uint8_images"),
        ({"image_bytes": files}, "encoded_images"),
    ]:
        answer = client.predict(inputs, signature)
        for name, value in zip(names, expected, strict=True):
            np.testing.assert_allclose(answer[name], value, rtol=0, atol=1e-4)
            assert answer[name].dtype == "float32"
        best = chances.argmax(-1)
        np.testing.assert_array_equal(answer["class_index"], best)
        assert answer["class_index"].dtype == "int64"
        best = [NAMES[index].encode() for index in best]
        assert answer["class_name"].tolist() == best
        assert answer["error"].tolist() == [b""] * 6
    order = np.argsort(-chances, axis=-1)[:, :5]
    assert answer["top_classes"].tolist() == [
        [NAMES[index].encode() for index in row] for row in order
    ]
    for content in answer["overlay_bytes"]:
        assert content.startswith(b"\x89PNG")


def test_damaged_pictures_are_named_over_the_wire(connect):
    files = [content for content, _ in DAMAGED.values()]
    answer = connect().predict({"image_bytes": files}, "encoded_images")
    words = [words.encode() for _, words in DAMAGED.values()]
    assert answer["error"].tolist() == words
    assert answer["overlay_bytes"].tolist() == [b""] * len(files)


def test_rows_are_answered_as_columns(running, images, expected):
    """As people ask by curl; `Client` asks by columns."""
    images = images[:3]
    client = Client(running.rest, "digits")
    body = {"instances": images.tolist()}
    answer = client._rest("POST", "/versions/1:predict", body)["predictions"]
    np.testing.assert_allclose(
        [row["probabilities"] for row in answer],
        expected[0][:3],
        rtol=0,
        atol=1e-4,
    )
    body["instances"] = [{"images": image.tolist()} for image in images]
    assert client._rest("POST", ":predict", body)["predictions"] == answer


@pytest.mark.usefixtures("loading_once")
def test_all_checks_pass_on_a_right_server(connect, folders):
    found = list(checks.check(connect(), folders / "digits" / "1"))
    assert len(found) == 8
    assert [fault for _, fault in found] == [""] * 8
    assert len({question for question, _ in found}) == 8


# --------------------------------------------------------------- no answer


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_an_unreachable_server_is_one_clear_line(scheme):
    (port,) = free_ports(1)
    client = Client(f"{scheme}://127.0.0.1:{port}", "digits", timeout=5)
    for ask in (
        client.status,
        lambda: client.predict({"images": np.zeros((1, 8, 8, 3), "float32")}),
    ):
        with pytest.raises(ServerError, match=f"{port}: no server could") as e:
            ask()
        assert "host and port" in one_line(e)
    found = dict(checks.check(client))
    assert len(found) == 7
    assert all("no server could be reached" in f for f in found.values())


@pytest.mark.parametrize(
    ("scheme", "port_of"), [("http", "grpc"), ("grpc", "rest")]
)
def test_the_port_of_the_other_interface_is_one_clear_line(
    running, scheme, port_of
):
    port = getattr(running, port_of).rpartition(":")[2]
    client = Client(f"{scheme}://127.0.0.1:{port}", "digits", timeout=5)
    with pytest.raises(ServerError, match="REST is usually at 8501") as error:
        client.status()
    one_line(error)


def test_a_late_answer_is_given_up(connect, running, monkeypatch):
    monkeypatch.setattr(running, "delay", 1.5)
    client = connect(timeout=0.3)
    for ask in (
        client.status,
        lambda: client.predict({"images": np.zeros((1, 8, 8, 3), "float32")}),
    ):
        begin = time.monotonic()
        with pytest.raises(ServerError, match=r"within 0\.3 seconds") as error:
            ask()
        assert time.monotonic() - begin < 1.4
        one_line(error)


def test_a_model_that_is_not_there_is_named(connect):
    client = connect("nobody")
    with pytest.raises(ServerError, match="any versions of model nobody") as e:
        client.status()
    one_line(e)
    images = np.zeros((1, 8, 8, 3), "float32")
    with pytest.raises(ServerError, match=r"Latest\(nobody\)") as error:
        client.predict({"images": images})
    one_line(error)


def test_a_refused_shape_is_one_clear_line(connect):
    client = connect()
    for shape in ((1, 8, 8, 1), (8, 8, 3), (0, 8, 8, 3)):
        with pytest.raises(ServerError, match="must have shape") as error:
            client.predict({"images": np.zeros(shape, "float32")})
        assert one_line(error).endswith("]")


def test_a_signature_that_is_not_there_is_named(connect):
    with pytest.raises(ServerError, match='"gradients" not found') as error:
        connect().predict({"images": np.zeros((1, 8, 8, 3))}, "gradients")
    one_line(error)


def test_what_is_no_tf_serving_is_one_clear_line(running, monkeypatch):
    monkeypatch.setattr(running, "html", True)
    client = Client(running.rest, "digits")
    with pytest.raises(ServerError, match="not that of TF Serving") as error:
        client.status()
    one_line(error)
    with pytest.raises(ServerError, match="HTTP 404.*It works!") as error:
        client.predict({"images": np.zeros((1, 8, 8, 3))})
    one_line(error)


@pytest.mark.parametrize("said", [{}, [], {"outputs": 3}, "ok", None])
def test_other_json_is_one_clear_line(running, monkeypatch, said):
    other = types.SimpleNamespace(dumps=json.dumps, loads=lambda text: said)
    monkeypatch.setattr(client_module, "json", other)
    client = Client(running.rest, "digits")
    for ask in (
        client.status,
        lambda: client.predict({"images": np.zeros((1, 8, 8, 3))}, "classify"),
    ):
        with pytest.raises(ServerError, match="not that of TF Serving") as e:
            ask()
        one_line(e)


@pytest.mark.parametrize(
    "url", ["localhost:8501", "ftp://localhost:8501", "http://", ""]
)
def test_an_address_of_another_kind_is_refused(url):
    with pytest.raises(ValueError, match="must be like http://localhost:8501"):
        Client(url, "digits")


# ------------------------------------------------------------ wrong answers


def faults(connect, *arguments):
    found = checks.check(connect(), *arguments)
    return {question: fault for question, fault in found if fault}


@pytest.mark.usefixtures("loading_once")
def test_another_model_is_found(running, folders):
    client = Client(running.grpc, "other")
    found = {q: f for q, f in checks.check(client, folders / "digits/1") if f}
    (fault,) = found.values()
    assert fault.startswith("probabilities differs by ")


def test_a_model_without_the_encoded_signature_is_found(
    connect, running, monkeypatch
):
    loaded = running.version("digits")
    monkeypatch.delitem(loaded.signatures, "encoded_images")
    found = faults(connect)
    assert list(found) == [
        "Encoded pictures are answered with an overlay",
        "A damaged picture is named and spoils no other",
    ]
    for fault in found.values():
        assert '"encoded_images" not found' in fault


def changed(name, change):
    """Lets a server answer another value of an output."""

    def wrong(run, signature, inputs):
        answer = run(signature, inputs)
        if name in answer:
            answer[name] = change(answer[name])
        return answer

    return wrong


def without(name):
    def wrong(run, signature, inputs):
        answer = run(signature, inputs)
        answer.pop(name, None)
        return answer

    return wrong


def answering_everything(run, signature, inputs):
    if "images" in inputs and inputs["images"].shape[-1] == 1:
        inputs = {"images": np.repeat(inputs["images"], 3, axis=-1)}
    return run(signature, inputs)


def strings(value):
    return lambda old: np.full(old.shape, value, object)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (changed("attention_map", lambda m: m * 2), "a map is above 1"),
        (changed("attention_map", lambda m: m - 1), "a map is negative"),
        (changed("attention_map", lambda m: m[:, ::2]), "the map's shape is"),
        (changed("probabilities", lambda p: p - 1), "probability is negative"),
        (changed("class_index", lambda i: (i + 1) % 10), "class is another"),
        (changed("error", strings(b"")), "cut off was answered"),
        (changed("error", strings(b"bad")), "bad"),
        (changed("overlay_bytes", strings(b"no")), "kind: cannot identify"),
        (changed("overlay_bytes", strings(file_of(PIL.Image.new("L", (9, 9))))),
         r"the overlay is \(9, 9\)"),
        (changed("probabilities", lambda p: p[:1, :5]), "of another kind: "),
        (without("attention_map"), "the answer has no 'attention_map'"),
        (without("overlay_bytes"), "the answer has no 'overlay_bytes'"),
        (without("error"), "the answer has no 'error'"),
        (answering_everything, "it was answered"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_found(connect, running, monkeypatch, wrong, words):
    loaded = running.version("digits")
    monkeypatch.setattr(loaded, "run", functools.partial(wrong, loaded.run))
    found = " / ".join(faults(connect).values())
    assert re.search(words, found), found


def test_a_server_that_is_too_slow_is_found(connect, running, monkeypatch):
    monkeypatch.setattr(running, "delay", 0.5)
    found = dict(checks.check(connect(timeout=0.1)))
    assert all("within 0.1 seconds" in fault for fault in found.values())
