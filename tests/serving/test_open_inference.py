"""The Open Inference Protocol: the client, its checks and the commands."""

import base64
import io
import json
import re
import time

import numpy as np
import PIL.Image
import pytest
import small_onnx
import v2_server
from processes import free_ports

from keras_lficam import cli
from keras_lficam.serving import _open_inference, checks, stand_in
from keras_lficam.serving.client import Client, ServerError
from keras_lficam.serving.onnx_model import OnnxModel

IMAGES = {"images": ("FP32", [-1, 2, 2, 3])}
FILES = IMAGES | {"image_bytes": ("BYTES", [-1])}
ERROR = {"error": ("BYTES", [-1])}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return OnnxModel(small_onnx.write(tmp_path_factory.mktemp("m") / "rgb/1"))


@pytest.fixture
def server(model):
    """One that takes arrays and files, as our transformer does."""

    def answer(inputs):
        if "images" in inputs:
            return model.explain(inputs["images"])
        return model.explain_files([*inputs["image_bytes"]])

    with v2_server.serving(FILES, answer, ERROR) as running:
        yield running


@pytest.fixture
def bare(model):
    """One that takes arrays alone, as Triton does with the ONNX file."""

    def answer(inputs):
        if inputs["images"].shape[1:] != (2, 2, 3):
            raise ValueError("unexpected shape for input 'images'")
        return model._run(inputs["images"])

    with v2_server.serving(IMAGES, answer) as running:
        yield running


def file_of(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def odd_server():
    """What is sent as any answer, byte by byte, is its `odd`."""
    with stand_in.serving() as running:
        yield running


def connect(running, **options):
    return Client(running.url, "digits", protocol="v2", **options)


# ---------------------------------------------------------------- tensors


def test_tensors_are_written_as_the_protocol_says():
    values = {
        "images": np.array([[1, 2], [3, 4]], "uint8"),
        "names": np.array([b"a", "\u00fc".encode()], object),
        "image_bytes": [b"\x00\xff\x00"],
    }
    types = {"images": _open_inference.Tensor("FP32", (-1, 2))}
    assert _open_inference.to_tensors(values, types) == [
        {
            "name": "images",
            "datatype": "FP32",
            "shape": [2, 2],
            "data": [1.0, 2.0, 3.0, 4.0],
        },
        {
            "name": "names",
            "datatype": "BYTES",
            "shape": [2],
            "data": ["a", "\u00fc"],
        },
        {
            "name": "image_bytes",
            "datatype": "BYTES",
            "shape": [1],
            "data": ["AP8A"],
        },
    ]


def test_floats_are_not_sent_as_integers():
    types = {"classes": _open_inference.Tensor("INT32", (-1,))}
    with pytest.raises(ValueError, match=r"'classes' must be of type int32"):
        _open_inference.to_tensors({"classes": np.array([0.5])}, types)


def test_tensors_are_read_flat_or_nested():
    arrays = _open_inference.to_arrays(
        [
            {
                "name": "a",
                "datatype": "INT64",
                "shape": [2, 1],
                "data": [[1], [2]],
            },
            {
                "name": "overlay_bytes",
                "datatype": "BYTES",
                "shape": [1],
                "data": ["AP8A"],
            },
        ]
    )
    assert arrays["a"].dtype == "int64"
    assert arrays["a"].tolist() == [[1], [2]]
    assert arrays["overlay_bytes"].tolist() == [b"\x00\xff\x00"]


# ----------------------------------------------------------------- client


def test_the_request_is_that_of_the_protocol(server):
    images = np.full((1, 2, 2, 3), 51, "uint8")
    answer = connect(server).predict({"images": images})
    ((path, body),) = server.requests
    assert path == "/v2/models/digits/infer"
    assert body == {
        "inputs": [
            {
                "name": "images",
                "datatype": "FP32",
                "shape": [1, 2, 2, 3],
                "data": [51.0] * 12,
            }
        ]
    }
    np.testing.assert_allclose(answer["probabilities"], [[0.2] * 3], atol=1e-6)
    assert answer["class_index"].dtype == "int64"
    assert answer["class_name"].tolist() == [b"red"]


def test_status_and_metadata(server):
    client = connect(server)
    assert client.status() == "AVAILABLE"
    inputs, outputs = client.metadata()
    assert inputs == {
        "images": ("FP32", (-1, 2, 2, 3)),
        "image_bytes": ("BYTES", (-1,)),
    }
    assert outputs == {"error": ("BYTES", (-1,))}


def test_an_image_is_answered(server):
    content = file_of(PIL.Image.new("RGB", (5, 4), (0, 0, 255)))
    answer = connect(server).image(content)
    assert answer[:3] == ("", "blue", 1.0)
    assert answer.overlay.startswith(b"\x89PNG")
    ((_, body),) = server.requests
    (tensor,) = body["inputs"]
    assert tensor["data"] == [base64.b64encode(content).decode()]
    damaged = connect(server).image(content[:30])
    assert damaged == ("the PNG image is damaged or cut off", "", 0.0, b"")


def test_a_model_of_arrays_alone_takes_no_files(bare):
    client = connect(bare)
    words = r"takes no image files, but images FP32 \[-1, 2, 2, 3\]"
    with pytest.raises(ServerError, match=words):
        client.image(b"file")
    assert not bare.requests


def test_a_refusal_is_one_clear_line(server):
    client = connect(server)
    with pytest.raises(ServerError, match=r"must have shape.*\(1, 3, 3, 3\)"):
        client.predict({"images": np.zeros((1, 3, 3, 3))})
    nobody = Client(server.url, "nobody", protocol="v2")
    for ask in (nobody.status, nobody.metadata):
        with pytest.raises(ServerError, match="'nobody': unknown model"):
            ask()


def test_wrong_arguments_are_refused(server):
    with pytest.raises(ValueError, match=r"`protocol` must be one of 'tf_"):
        Client(server.url, "digits", protocol="v3")
    with pytest.raises(ValueError, match="`url` must be one of REST"):
        Client("grpc://127.0.0.1:1", "digits", protocol="v2")
    with pytest.raises(ValueError, match="`signature` must be left out"):
        connect(server).predict({"images": [[1]]}, "classify")
    with pytest.raises(ValueError, match="needs a client of protocol 'v2'"):
        Client(server.url, "digits").metadata()


def http_body(said):
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def metadata(**changed):
    right = {"name": "images", "datatype": "FP32", "shape": [-1, 2, 2, 3]}
    return {"inputs": [right | changed], "outputs": []}


ODD = {
    "empty": b"",
    "no json": b"{'a'}",
    "null": None,
    "list": [],
    "object": {},
    "deep": 100_000 * b"[",
    "no type": metadata(datatype=None),
    "other type": metadata(datatype="BF16"),
    "no shape": metadata(shape=None),
    "a name of numbers": metadata(name=7),
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_metadata_is_one_clear_line(odd_server, name):
    odd_server.odd = http_body(ODD[name])
    client = Client(odd_server.rest, "digits", 5, protocol="v2")
    with pytest.raises(ServerError, match="not that of a V2 server") as e:
        client.predict({"images": np.zeros((1, 2, 2, 3))})
    assert "\n" not in str(e.value)


def tensor(**changed):
    right = {"name": "a", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    return {"outputs": [right | changed]}


ODD_OUTPUTS = {
    "none": {"outputs": None},
    "no outputs": {},
    "too few": tensor(data=[1]),
    "too many": tensor(shape=[1]),
    "negative": tensor(shape=[-2]),
    "huge": tensor(shape=[10**6, 10**6]),
    "text": tensor(data=["a", "b"]),
    "null": tensor(data=[None, None]),
    "numbers for text": tensor(datatype="BYTES"),
    "no base64": tensor(
        name="overlay_bytes", datatype="BYTES", data=["<", ">"]
    ),
    "other type": tensor(datatype="BF16"),
}


@pytest.mark.parametrize("name", sorted(ODD_OUTPUTS))
def test_odd_outputs_are_one_clear_line(odd_server, name):
    client = Client(odd_server.rest, "digits", 5, protocol="v2")
    odd_server.odd = http_body(metadata())
    client.metadata()
    odd_server.odd = http_body(ODD_OUTPUTS[name])
    with pytest.raises(ServerError, match="not that of a V2 server") as e:
        client.predict({"images": np.zeros((1, 2, 2, 3))})
    assert "\n" not in str(e.value)


def test_an_unreachable_server_names_the_usual_ports():
    (port,) = free_ports(1)
    client = Client(f"http://127.0.0.1:{port}", "digits", 5, protocol="v2")
    with pytest.raises(ServerError, match="Triton is usually at 8000"):
        client.status()


def test_a_late_answer_is_given_up(server, monkeypatch):
    client = connect(server, timeout=0.3)
    client.metadata()
    monkeypatch.setattr(server, "answer", lambda inputs: time.sleep(1.5) or {})
    with pytest.raises(ServerError, match=r"within 0\.3 seconds"):
        client.predict({"images": np.zeros((1, 2, 2, 3))})


# ----------------------------------------------------------------- checks


def faults(running):
    return dict(checks.check(connect(running)))


def test_all_checks_pass_on_a_right_server(server):
    found = faults(server)
    assert len(found) == 6
    assert set(found.values()) == {""}


def test_a_model_of_arrays_alone_is_asked_for_less(bare):
    found = faults(bare)
    assert list(found) == [
        "The model is served",
        "Images are answered with their class, and why",
        "An image alone is answered as among others",
        "A wrong shape is refused",
    ]
    assert set(found.values()) == {""}


def changed(name, change):
    def wrong(answer, inputs):
        found = answer(inputs)
        if name in found:
            found[name] = change(found[name])
        return found

    return wrong


def answering_everything(answer, inputs):
    if "images" in inputs:
        inputs = {"images": np.resize(inputs["images"], (2, 2, 2, 3))}
    return answer(inputs)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (changed("attention_map", lambda m: m * 9), "a map is above 1"),
        (changed("attention_map", lambda m: m[:, ::2]), "the map's shape is"),
        (changed("class_index", lambda i: (i + 1) % 3), "class is another"),
        (changed("probabilities", lambda p: p / len(p)), "differs by"),
        (changed("error", lambda e: np.full(e.shape, b"", object)), "cut off"),
        (answering_everything, "it was answered"),
    ],
)
def test_a_wrong_answer_is_found(server, monkeypatch, wrong, words):
    answer = server.answer
    monkeypatch.setattr(server, "answer", lambda inputs: wrong(answer, inputs))
    found = " / ".join(faults(server).values())
    assert re.search(words, found), found


# --------------------------------------------------------------- commands


def test_commands_take_the_protocol(server, tmp_path, capsys):
    image = tmp_path / "blue.png"
    PIL.Image.new("RGB", (5, 4), (0, 0, 255)).save(image)
    options = ["--model", "digits", "--protocol", "v2"]
    words = ["predict", str(image), "--url", server.url, *options]
    assert cli.main([*words, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{image}: blue (100 %), ")
    overlay = PIL.Image.open(tmp_path / "out" / "blue_overlay.png")
    assert overlay.size == (5, 4)
    assert cli.main(["serve-check", server.url, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("yes  ") for line in lines)


def test_predict_names_a_model_of_arrays_alone(bare, tmp_path, capsys):
    image = tmp_path / "blue.png"
    PIL.Image.new("RGB", (5, 4)).save(image)
    words = ["predict", str(image), "--url", bare.url, "--model", "digits"]
    assert cli.main([*words, "--protocol", "v2"]) == 2
    assert "the model takes no image files" in capsys.readouterr().err
