"""KServe's server and the real tritonserver, with models of ours.

`make servers` installs each in an environment of its own.
"""

import base64
import concurrent.futures
import json
import subprocess
import urllib.error
import urllib.request

import numpy as np
import PIL.Image
import psutil
import pytest
import servers
import yaml
from served import (
    DAMAGED,
    NAMES,
    digits,
    digits_model,
    file_of,
    with_signatures,
)

import keras_lficam
from keras_lficam import cli
from keras_lficam.serving import Limits
from keras_lficam.serving.client import Client, ServerError

pytestmark = pytest.mark.servers

IMAGES = 20
LIMITS = Limits(images=64, pixels=1_000_000)


@pytest.fixture(scope="module")
def model():
    return digits_model()


@pytest.fixture(scope="module")
def images():
    return digits(IMAGES)


@pytest.fixture(scope="module")
def files(images):
    return [file_of(PIL.Image.fromarray(image)) for image in images]


@pytest.fixture(scope="module")
def expected(model, images):
    """What Keras computes."""
    view = keras_lficam.explanation_view(model, top=None)
    shown = {k: np.asarray(v) for k, v in view(images).items()}
    size = images.shape[1:3]
    maps = keras_lficam.explainers.AttentionMap(model)(images)
    assert maps.shape == (IMAGES, *size, 1)
    return shown | {"attention_map": maps}


@pytest.fixture(scope="module")
def version(tmp_path_factory, model):
    with pytest.MonkeyPatch.context() as patch:
        with_signatures(patch, "classify")
        return keras_lficam.export(
            model,
            tmp_path_factory.mktemp("models") / "digits",
            class_names=NAMES,
            formats=["onnx"],
            top=None,
            limits=LIMITS,
        )


@pytest.fixture(scope="module")
def kserve(version, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kserve")
    with servers.kserve(version, "digits", folder) as url:
        yield url


@pytest.fixture(scope="module")
def triton(version, tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton")
    root = folder / "repository"
    keras_lficam.serving.write_repository(version, root, backend="python")
    with servers.triton(root, folder) as url:
        yield url


@pytest.fixture(params=["kserve", "triton"])
def url(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(url):
    return Client(url, "digits", protocol="v2")


def close(found, value):
    scale = max(1.0, float(np.abs(value).max()))
    np.testing.assert_allclose(found / scale, value / scale, rtol=0, atol=1e-4)


def is_expected(answer, expected, rows=slice(None)):
    best = expected["probabilities"][rows].argmax(-1)
    np.testing.assert_array_equal(answer["class_index"], best)
    named = [NAMES[index].encode() for index in best]
    assert answer["class_name"].tolist() == named
    for name in ("probabilities", "logits", "attention_map", "class_evidence"):
        close(answer[name], expected[name][rows])


def test_the_images_differ(expected):
    assert len({*expected["probabilities"].argmax(-1)}) >= 3


def test_images_and_files_are_answered_as_by_keras(
    client, images, files, expected
):
    assert client.status() == "AVAILABLE"
    inputs = client.metadata().inputs
    assert inputs["images"] == ("FP32", (-1, 64, 64, 3))
    assert inputs["image_bytes"] == ("BYTES", (-1,))
    for given in ({"images": images}, {"image_bytes": files}):
        answer = client.predict(given)
        assert answer["error"].tolist() == [b""] * IMAGES
        is_expected(answer, expected)
    order = np.argsort(-expected["probabilities"], axis=-1)
    assert answer["top_classes"][:, 0].tolist() == [
        NAMES[index].encode() for index in order[:, 0]
    ]


def test_serve_check_and_predict_say_yes(url, files, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(files[0])
    options = ["--model", "digits", "--protocol", "v2"]
    assert cli.main(["serve-check", url, *options]) == 0
    assert capsys.readouterr().out.count("yes  ") == 6
    words = ["predict", str(tmp_path / "a.png"), "--url", url, *options]
    assert cli.main([*words, "--output", str(tmp_path / "out")]) == 0
    overlay = PIL.Image.open(tmp_path / "out/a_overlay.png")
    assert overlay.size == (64, 64)


def test_damaged_files_spoil_no_other(client, files, expected):
    # The client itself sends base64, and 24 megapixels are too many here.
    damaged = [
        DAMAGED[name]
        for name in DAMAGED
        if "base64" not in name and "megapixels" not in name
    ]
    contents, words = zip(*damaged, strict=True)
    answer = client.predict({"image_bytes": [*contents, *files]})
    for found, said in zip(answer["error"], words, strict=False):
        # The limit of pixels is another here.
        assert found.decode() == said.replace("60,000,000", "1,000,000")
    good = {k: v[len(contents) :] for k, v in answer.items()}
    is_expected(good, expected)


def test_what_is_too_large_or_wrong_is_refused_and_the_server_lives(
    client, images, files, expected
):
    wrong = [
        {"images": np.zeros((65, 64, 64, 3), "uint8")},
        {"image_bytes": [b""] * 65},
        {"images": np.zeros((1, 32, 64, 3), "float32")},
        {"images": images[:1], "image_bytes": files[:1]},
        {"pixels": images[:1]},
    ]
    for inputs in wrong:
        with pytest.raises(ServerError, match="digits") as error:
            client.predict(inputs)
        assert "\n" not in str(error.value)
    large = file_of(PIL.Image.new("L", (1001, 1000)))
    assert client.image(large).error == (
        "the image has more than 1,000,000 pixels"
    )
    is_expected(client.predict({"images": images}), expected)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"inputs": []}',
        b'{"inputs": [{"name": "images"}]}',
        b'{"inputs": [{"name": "images", "datatype": "FP32", "shape": [1], '
        b'"data": ["a"]}]}',
        b'{"inputs": [{"name": "images", "datatype": "FP32", '
        b'"shape": [1, 64, 64, 3], "data": [1]}]}',
        100_000 * b"[",
    ],
    ids=[
        "empty", "cut off", "list", "null", "none", "bare", "text", "short",
        "deep",
    ],
)  # fmt: skip
def test_an_odd_body_is_refused_and_the_server_lives(url, body):
    path = "/v2/models/digits/infer"
    assert post(url + path, body) >= 400
    assert Client(url, "digits", protocol="v2").status() == "AVAILABLE"


def post(url, body):
    request = urllib.request.Request(url, body)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_eight_threads_get_their_own_answers(client, files, expected):
    """One request in ten holds a damaged file."""
    damaged = [content for content, _ in DAMAGED.values()]
    client.metadata()

    def ask(number):
        row = number % IMAGES
        bad = number % 10 == 9
        content = damaged[number % len(damaged)] if bad else files[row]
        return row, bad, client.predict({"image_bytes": [content]})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = [*pool.map(ask, range(160))]
    assert sum(bad for _, bad, _ in found) == 16
    for row, bad, answer in found:
        if bad:
            assert answer["error"][0]
            assert answer["class_index"].tolist() == [-1]
        else:
            is_expected(answer, expected, slice(row, row + 1))


def test_servers_listen_on_loopback_alone(url):
    port = int(url.rpartition(":")[2])
    mine = psutil.Process().children(recursive=True)
    ports = [
        connection.laddr
        for program in mine
        for connection in program.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert port in {address.port for address in ports}
    assert {address.ip.removeprefix("::ffff:") for address in ports} == {
        "127.0.0.1"
    }


# ----------------------------------------------------------------- KServe


def asked_by_v1(url, verb, instances):
    request = urllib.request.Request(
        f"{url}/v1/models/digits:{verb}",
        json.dumps({"instances": instances}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def test_kserve_predicts_and_explains_by_v1(kserve, images, files, expected):
    of_files = [
        {"image_bytes": {"b64": base64.b64encode(file).decode()}}
        for file in files
    ]
    of_pixels = [{"images": image.tolist()} for image in images]
    best = [NAMES[i] for i in expected["probabilities"].argmax(-1)]
    for instances in (of_files, of_pixels, images.tolist()):
        rows = asked_by_v1(kserve, "predict", instances)["predictions"]
        assert [row["class_name"] for row in rows] == best
        assert "class_evidence" not in rows[0]
        rows = asked_by_v1(kserve, "explain", instances)["explanations"]
        assert [row["class_name"] for row in rows] == best
        for name in ("probabilities", "attention_map", "class_evidence"):
            close(np.array([row[name] for row in rows]), expected[name])
    rows = asked_by_v1(kserve, "explain", of_files[:1])["explanations"]
    overlay = base64.b64decode(rows[0]["overlay_bytes"]["b64"])
    assert overlay.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "instances",
    [
        [],
        "text",
        [{}],
        [{"pixels": [1]}],
        [{"image_bytes": {"b64": "<>"}}],
        [{"image_bytes": 5}],
        [{"images": [[["a"]]]}],
        [{"images": [[1, 2], [3]]}],
        [{"images": [[1]]}, {"image_bytes": "a"}],
    ],
)
def test_kserve_refuses_what_holds_no_images(kserve, instances):
    for verb in ("predict", "explain"):
        code, words = asked_by_v1(kserve, verb, instances)
        assert code == 400
        starts = ("A request must", "Each of the", "Input `image", "Expected")
        assert words.startswith(starts)


def test_a_transformer_before_triton_answers_alike(
    version, triton, images, expected, tmp_path
):
    """As in the InferenceService: the model is computed elsewhere."""
    folder = tmp_path / "digits" / "1"
    folder.mkdir(parents=True)
    for name in ("labels.txt", "export.json"):
        (folder / name).write_bytes((version / name).read_bytes())
    with servers.kserve(folder, "digits", tmp_path, triton) as url:
        answer = Client(url, "digits", protocol="v2").predict(
            {"images": images}
        )
    is_expected(answer, expected)


# ----------------------------------------------------------------- Triton


def test_triton_takes_the_configuration_for_onnxruntime(version, tmp_path):
    """All but the backend, which the wheel does not have."""
    root = tmp_path / "repository"
    keras_lficam.serving.write_repository(version, root)
    with servers.triton(root, tmp_path) as url:
        client = Client(url, "digits", protocol="v2")
        with pytest.raises(ServerError, match="not ready|no available|unknown"):
            client.status()
    said = (tmp_path / "triton.log").read_text()
    reasons = [line for line in said.splitlines() if "failed to load" in line]
    assert "onnxruntime" in reasons[0]
    assert "unable to find backend library" in reasons[0].lower()


def test_the_resource_has_fields_that_kserve_knows(version, tmp_path):
    keras_lficam.serving.write_repository(version, tmp_path / "repository")
    path = tmp_path / "repository/digits.inference-service.yaml"
    program = """if True:
        import json, sys, kserve
        seen = []
        def look(kind, value):
            known = getattr(kserve, kind, None)
            if known is None:  # Of Kubernetes.
                return
            names = {key: name for name, key in known.attribute_map.items()}
            for key, item in value.items():
                seen.append(key)
                look(known.openapi_types[names[key]], item)
        look("V1beta1InferenceService", json.load(sys.stdin))
        print(*seen)
    """
    said = subprocess.run(
        [servers.ENVIRONMENTS / "kserve/bin/python", "-c", program],
        input=json.dumps(yaml.safe_load(path.read_text())),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == [
        *("apiVersion", "kind", "metadata", "spec", "predictor", "model"),
        *("modelFormat", "name", "version", "protocolVersion", "runtime"),
        *("storageUri", "transformer", "containers"),
    ]
