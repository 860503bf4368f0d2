"""The client and the checks, asked of a server over sockets."""

import base64
import functools
import itertools
import json
import re
import time
import types

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from processes import free_ports
from served import (
    DAMAGED,
    NAMES,
    answers_of,
    digits,
    digits_model,
    file_of,
    load,
)

import keras_lficam
from keras_lficam import cli
from keras_lficam.serving import checks, client as client_module
from keras_lficam.serving.client import Client, ServerError
from keras_lficam.serving.stand_in import serving


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


# ------------------------------------------------------- expected answers


@pytest.mark.slow
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
        ({"image_bytes": np.array(files, object)}, "encoded_images"),
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


def test_damaged_images_are_named_over_the_wire(connect):
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
    answer = client._rest("POST", f"{client._path()}/versions/1:predict", body)[
        "predictions"
    ]
    np.testing.assert_allclose(
        [row["probabilities"] for row in answer],
        expected[0][:3],
        rtol=0,
        atol=1e-4,
    )
    body["instances"] = [{"images": image.tolist()} for image in images]
    path = f"{client._path()}:predict"
    assert client._rest("POST", path, body)["predictions"] == answer


@pytest.mark.slow
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
    ((question, fault),) = checks.check(client)
    assert question == "The model is served"
    assert "no server could be reached" in fault


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


@pytest.mark.slow
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
        "Encoded images are answered with an overlay",
        "A damaged image is named and spoils no other",
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


# -------------------------------------------------------------- odd answers


def body(content, status="200 OK", length=None, kind="application/json"):
    """An HTTP answer as bytes."""
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
    size = len(content) if length is None else length
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + content


def outputs(**changed):
    """A right answer to an image, with some outputs changed or left out."""
    png = base64.b64encode(file_of(PIL.Image.new("RGB", (4, 4)))).decode()
    right = {
        "error": [""],
        "class_name": ["cat"],
        "class_index": [1],
        "probabilities": [[0.25, 0.75]],
        "overlay_bytes": [{"b64": png}],
    } | changed
    return body(
        {"outputs": {k: v for k, v in right.items() if v is not Ellipsis}}
    )


def encoded(content):
    return [{"b64": base64.b64encode(content).decode()}]


def dripping(head, piece):
    """Sends a byte at a time, each before a socket's time is over."""

    def pieces():
        yield head
        for _ in range(100):
            time.sleep(0.05)
            yield piece

    return pieces


def endless():
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    yield from itertools.repeat(bytes(2**20), 100)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DEEP = 100_000 * b"["
# What a server sends, and what is said of it.
ODD = {
    # HTTP
    "nothing": (b"", "could be reached"),
    "no_http": (b"220 mail ESMTP\r\n", "could be reached"),
    "zeros": (bytes(100), "could be reached"),
    "cut_head": (b"HTTP/1.1 200 OK\r\nContent-Le", "not that of TF Serving"),
    "long_head": (b"HTTP/1.1 200 OK\r\nX: " + 70_000 * b"a", "reached"),
    "many_heads": (
        b"HTTP/1.1 200 OK\r\n" + 200 * b"X: a\r\n" + b"\r\n",
        "reached",
    ),
    "odd_status": (b"HTTP/1.1 abc OK\r\n\r\n", "could be reached"),
    "cut_body": (body(b"{}", length=100), "cut off after 2 bytes"),
    "cut_error": (body(b"{}", "500 Oh", length=100), "cut off after 2 bytes"),
    "cut_chunk": (CHUNKED + b"64\r\n{}", "cut off"),
    "odd_chunk": (CHUNKED + b"zz\r\n{}", "cut off"),
    "odd_length": (body(b"[1", length="abc"), "not that of TF Serving"),
    "dripping_head": (dripping(b"HTTP/1.1 200 OK\r\nX: ", b"a"), "no answer"),
    "dripping_body": (dripping(b"HTTP/1.1 200 OK\r\n\r\n{", b" "), "no answer"),
    "dripping_error": (
        dripping(b"HTTP/1.1 500 Oh\r\n\r\n{", b" "),
        "no answer",
    ),
    "endless": (endless, "more than 1,000,000 bytes"),
    "elsewhere": (
        b"HTTP/1.1 302 Found\r\nLocation: http://localhost:1/\r\n\r\n",
        "302",
    ),
    "error": (body({"error": "oh"}, "500 Oh"), "oh"),
    "error_of_null": (body({"error": None}, "500 Oh"), "HTTP 500 None"),
    "error_of_a_number": (body({"error": 5}, "500 Oh"), "HTTP 500 5"),
    "error_of_a_list": (body([1], "500 Oh"), r"HTTP 500 \[1\]"),
    "error_of_escapes": (
        body({"error": "\x1b[2J\r\nno"}, "400 Oh"),
        r"\\x1b\[2J no",
    ),
    "long_error": (body({"error": 10**5 * "a"}, "400 Oh"), r"aaa\.\.\."),
    "error_of_html": (body(b"<h1>\x1b</h1>", "502 Oh"), r"502 <h1>\\x1b"),
    # JSON
    "empty": (body(b""), "not that of TF Serving"),
    "no_json": (body(b"{'a': 1}"), "not that of TF Serving"),
    "no_text": (body(b"\xff\xfe\x00"), "not that of TF Serving"),
    "deep": (body(DEEP), "not that of TF Serving"),
    "deep_and_closed": (body(DEEP + 100_000 * b"]"), "not that of TF"),
    "deep_error": (body(DEEP, "500 Oh"), "HTTP 500"),
    "long_number": (body(10_000 * b"1"), "not that of TF Serving"),
    "null": (body(None), "not that of TF Serving"),
    "list": (body([]), "not that of TF Serving"),
    "text": (body("ok"), "not that of TF Serving"),
    "object": (body({}), "not that of TF Serving"),
}
ODD_OUTPUTS = {
    "null": (body({"outputs": None}), "not that of TF"),
    "list": (body({"outputs": [1]}), "not that of TF"),
    "none": (body({"outputs": {}}), "KeyError"),
    **{
        f"{name}_{kind}": (outputs(**{name: value}), "not that of TF")
        for name in ("error", "class_name", "overlay_bytes", "probabilities")
        for kind, value in {
            "missing": ...,
            "null": None,
            "of_null": [None],
            "of_lists": [[["a"]]],
            "empty": [],
            "object": {"a": 1},
            "true": True,
            "deep": functools.reduce(lambda x, _: [x], range(200), 1.0),
        }.items()
    },
    "error_number": (outputs(error=[0]), "no text"),
    "name_number": (outputs(class_name=[7]), "no text"),
    "two_names": (outputs(class_name=["a", "b"]), "no text"),
    "ragged": (outputs(probabilities=[[0.1], [0.2, 0.3]]), "not that of"),
    "mixed": (outputs(probabilities=[[0.1, "a"]]), "kinds float, str"),
    "text_chances": (outputs(probabilities=[["a"]]), "no numbers from 0"),
    "nan": (outputs(probabilities=[[float("nan")]]), "no numbers from 0"),
    "infinite": (outputs(probabilities=[[1e999]]), "no numbers from 0"),
    "above_one": (outputs(probabilities=[[7, 8]]), "no numbers from 0"),
    "negative": (outputs(probabilities=[[-0.5, 1.0]]), "no numbers from 0"),
    "huge": (outputs(class_index=[10**400]), "not that of TF"),
    "surrogate": (outputs(class_name=["\ud800"]), "not that of TF"),
    "no_base64": (outputs(overlay_bytes=[{"b64": "<!>"}]), "not that of TF"),
    "base64_of_null": (outputs(overlay_bytes=[{"b64": None}]), "not that of"),
    "text_overlay": (outputs(overlay_bytes=["abc"]), "not that of TF"),
    "html_overlay": (
        outputs(overlay_bytes=encoded(b"<html>")), "cannot identify"
    ),
    "no_overlay": (outputs(overlay_bytes=encoded(b"")), "cannot identify"),
    "gif_overlay": (
        outputs(overlay_bytes=encoded(DAMAGED["gif"][0])),
        "cannot identify",
    ),
    "damaged_overlay": (
        outputs(overlay_bytes=encoded(DAMAGED["dust_in_png"][0])), "not that"
    ),
    "cut_overlay": (
        outputs(overlay_bytes=encoded(DAMAGED["start_of_png"][0])),
        "not that of TF",
    ),
    "bomb_overlay": (
        outputs(overlay_bytes=encoded(DAMAGED["png_bomb"][0])), "not that of TF"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def odd_server():
    with serving() as server:
        yield server


@pytest.fixture
def photo_file(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(file_of(PIL.Image.new("RGB", (4, 4))))
    return path


@pytest.fixture
def impatient(monkeypatch):
    """The commands' clients take a megabyte."""
    monkeypatch.setattr(
        client_module,
        "Client",
        functools.partial(Client, max_bytes=1_000_000),
    )


def said_in_time(capsys, words, code):
    """Runs a command, which ends in time; gives its words."""
    begin = time.monotonic()
    assert cli.main(words) == code
    assert time.monotonic() - begin < 3
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "\x1b" not in said.out + said.err
    return said


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("odd", "words"),
    [*ODD.values(), *ODD_OUTPUTS.values()],
    ids=[*ODD, *(f"outputs_{name}" for name in ODD_OUTPUTS)],
)
def test_an_odd_answer_is_one_clear_error(
    odd_server, photo_file, tmp_path, capsys, monkeypatch, odd, words
):
    monkeypatch.setattr(odd_server, "odd", odd)
    options = ["--model", "digits", "--timeout", "0.5"]
    output = tmp_path / "served"
    predict = ["predict", str(photo_file), "--url", odd_server.rest]
    said = said_in_time(
        capsys, [*predict, *options, "--output", str(output)], 2
    )
    assert said.out == ""
    assert re.search(words, said.err), said.err
    assert said.err.count("\n") == 1
    assert len(said.err) < 600
    assert not list(output.iterdir())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", [*ODD, *(f"outputs_{n}" for n in ODD_OUTPUTS)])
def test_an_odd_answer_fails_the_check(odd_server, capsys, monkeypatch, name):
    odd, _ = (ODD | {f"outputs_{n}": o for n, o in ODD_OUTPUTS.items()})[name]
    monkeypatch.setattr(odd_server, "odd", odd)
    words = ["serve-check", odd_server.rest, "--model", "digits"]
    begin = time.monotonic()
    assert cli.main([*words, "--timeout", "0.3"]) == 1
    assert time.monotonic() - begin < 5
    said = capsys.readouterr()
    assert "NO   " in said.out
    assert all(len(line) < 600 for line in said.out.splitlines())
    assert said.out.replace("\n", "").isprintable()


def test_names_are_escaped_where_they_are_printed(
    odd_server, photo_file, capsys, monkeypatch
):
    name = "c\x1b[2Jat\n\u2028\u202e\x9b dög"
    monkeypatch.setattr(odd_server, "odd", outputs(class_name=[name]))
    words = ["predict", str(photo_file), "--url", odd_server.rest]
    said = said_in_time(capsys, [*words, "--model", "digits"], 0)
    shown = r"c\x1b[2Jat\n\u2028\u202e\x9b dög (75 %)"
    assert said.out == f"{photo_file}: {shown}\n"
    strange = photo_file.rename(photo_file.with_name("a\x1b[31m\nb.png"))
    words[1] = str(strange)
    said = said_in_time(capsys, [*words, "--model", "digits"], 0)
    assert r"a\x1b[31m\nb.png: " in said.out
    monkeypatch.setattr(odd_server, "odd", outputs(error=["\x1bno"]))
    said = said_in_time(capsys, [*words, "--model", "digits"], 1)
    assert r"\x1bno" in said.err


def test_a_tensor_larger_than_its_bytes_is_refused():
    """One number can stand for all of a tensor, which would be 4 TB."""
    client = Client("grpc://localhost:1", "digits", max_bytes=1000)
    for sides in ([10**6, 10**6], [-1], [1001]):
        proto = tf.make_tensor_proto(1.0)
        for side in sides:
            proto.tensor_shape.dim.add(size=side)
        with pytest.raises(ValueError, match="a tensor of shape"):
            client._array_of(proto)
