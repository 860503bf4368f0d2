"""Asks a server for class and heat map, by REST or gRPC.

TF Serving has two interfaces; others speak the Open Inference Protocol, V2.
"""

import base64
import contextlib
import http.client
import io
import json
import math
import numbers
import queue
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_lficam import _names
from keras_lficam.serving import _open_inference

if TYPE_CHECKING:
    from tensorflow.core.framework.tensor_pb2 import TensorProto

# Numbers, or the bytes of files.
_Input = np.ndarray | Sequence[bytes]
# Of TF Serving, and the Open Inference Protocol of Triton, KServe and others.
PROTOCOLS = ("tf_serving", "v2")
# Seconds, a day, beyond which threads cannot wait.
_LONGEST_TIMEOUT = 86_400
# Letters of what a server said that an error repeats.
_MOST_WORDS = 300


def printable(text: str) -> str:
    """Escapes what would move, color or break the line where it is printed.

    Args:
        text: Text from a server or a file.

    Returns:
        The text; control characters, line breaks and marks of direction as
        Python writes them, such as `\\x1b`.

    Raises:
        TypeError: If it is no string.

    Examples:
        printable("\\x1b[2Jcat")
    """
    _check_text("text", text)
    return _names.printable(text)


class ServerError(Exception):
    """A server that could not be reached, or did not answer as it should.

    Examples:
        try:
            Client("http://localhost:8501", "digits").status()
        except ServerError as error:
            print(error)
    """


class UnreachableError(ServerError):
    """A server that could not be reached, which is not called again.

    Examples:
        try:
            Client("http://localhost:8501", "digits").status()
        except UnreachableError as error:
            print(error)
    """


class Answer(NamedTuple):
    """What a server says to an encoded image.

    Attributes:
        error: Why it was not answered; empty if it was.
        class_name: Name of the class.
        probability: Its probability, in [0, 1].
        overlay: PNG file.

    Examples:
        Answer(error="", class_name="cat", probability=0.75).class_name
    """

    error: str
    class_name: str = ""
    probability: float = 0.0
    overlay: bytes = b""


class Metadata(NamedTuple):
    """What a model in a server of protocol V2 takes and gives.

    Attributes:
        inputs: Type and shape of each input by its name.
        outputs: Those of each output.

    Examples:
        metadata = Metadata({}, {})
        "image_bytes" in metadata.inputs
    """

    inputs: Mapping[str, _open_inference.Tensor]
    outputs: Mapping[str, _open_inference.Tensor]


class Client:
    """Talks to a model in TF Serving, or in a server of protocol V2.

    Args:
        url: `http://HOST:8501` or `https://...` for REST, `grpc://HOST:8500`
            or, with encryption, `grpcs://...` for gRPC of TF Serving. By V2
            REST alone, such as `http://HOST:8000` of Triton.
        model: Name of the model.
        timeout: Seconds after which an answer is given up, from the first
            try to connect to its last byte; a day at most.
        protocol: `"tf_serving"`, or `"v2"` for the Open Inference Protocol of
            Triton, KServe and OpenVINO Model Server.
        max_bytes: Bytes of an answer, after which it is given up.

    Raises:
        ValueError: If the address is none of these, or another argument is
            out of range.
        TypeError: If an argument is of the wrong type.

    Examples:
        client = Client("http://localhost:8501", "digits", timeout=10)
        triton = Client("http://localhost:8000", "digits", protocol="v2")

    Reference:
        https://www.tensorflow.org/tfx/serving/api_rest
        https://github.com/kserve/open-inference-protocol
    """

    def __init__(
        self,
        url: str,
        model: str,
        timeout: float = 30.0,
        *,
        protocol: str = "tf_serving",
        max_bytes: int = 250_000_000,
    ) -> None:
        _check_text("url", url)
        _check_text("model", model)
        if not model:
            raise ValueError(
                "Argument `model` must be the name that the model is served "
                "by, that of its folder. Received: model=''"
            )
        _check_timeout(timeout)
        _check_protocol(protocol)
        _check_max_bytes(max_bytes)
        kinds = ("http", "https", "grpc", "grpcs")
        try:
            parts = urllib.parse.urlsplit(url)
            known = parts.scheme in kinds and parts.hostname and parts.port != 0
        except ValueError:  # A port that is no number, half of an IPv6 address.
            known = False
        if not known:
            raise ValueError(
                "Argument `url` must be like http://localhost:8501 or "
                f"grpc://localhost:8500. Received: url={url!r}"
            )
        if protocol == "v2" and parts.scheme.startswith("grpc"):
            raise ValueError(
                "Argument `url` must be one of REST for protocol='v2'. "
                f"Received: url={url!r}. To fix this: http://HOST:PORT."
            )
        self.url = url.rstrip("/")
        self.model = model
        self.timeout = timeout
        self.protocol = protocol
        self.max_bytes = max_bytes
        self._declared: Metadata | None = None
        self._by_grpc = parts.scheme.startswith("grpc")
        self._parts = parts
        self._channel: Any = None

    def status(self) -> str:
        """Asks whether the model is served.

        Returns:
            State of its newest version, `"AVAILABLE"` if it is.

        Raises:
            ServerError: If the server does not answer, or not have it.
        """
        if self.protocol == "v2":
            # Its body is empty, or anything.
            self._request("GET", f"{self._v2_path()}/ready")
            return "AVAILABLE"
        if not self._by_grpc:
            answer = self._rest("GET", self._path())
            with self._understanding():
                state = answer["model_version_status"][0]["state"]
                if not isinstance(state, str):
                    raise TypeError(f"its state is {state!r}")
                return printable(state[:_MOST_WORDS])
        from tensorflow_serving.apis import (
            get_model_status_pb2 as status,
            model_service_pb2_grpc,
        )

        request = status.GetModelStatusRequest()
        request.model_spec.name = self.model
        stub = model_service_pb2_grpc.ModelServiceStub(self._grpc_channel())
        answer = self._grpc(stub.GetModelStatus, request)
        with self._understanding():
            newest = answer.model_version_status[0]
            return str(status.ModelVersionStatus.State.Name(newest.state))

    def metadata(self) -> Metadata:
        """Asks which inputs the model takes, and what it gives, by V2.

        Returns:
            Types and shapes. They are asked for once.

        Raises:
            ServerError: If the server does not answer, or refuses.
            ValueError: If the client speaks the protocol of TF Serving.
        """
        if self.protocol != "v2":
            raise ValueError(
                "Method `metadata` needs a client of protocol 'v2'. Received: "
                f"protocol={self.protocol!r}"
            )
        if self._declared is None:
            answer = self._rest("GET", self._v2_path())
            with self._understanding():
                self._declared = Metadata(
                    inputs=_open_inference.declared(answer["inputs"]),
                    outputs=_open_inference.declared(answer["outputs"]),
                )
        return self._declared

    def predict(
        self, inputs: Mapping[str, Any], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Asks for the outputs of a signature.

        Args:
            inputs: Array, or list of bytes, for each input by its name. By V2
                numbers are sent in the type that the model declares.
            signature: Name of the signature. V2 has none, and takes the
                default alone.

        Returns:
            Array for each output; strings are bytes, of dtype object.

        Raises:
            ServerError: If the server does not answer, or refuses.
            TypeError: If an argument is of the wrong type.
            ValueError: If there are no inputs, numbers do not fit the type
                that is declared, or there is a signature by V2.
        """
        _check_text("signature", signature)
        checked = _checked_inputs(inputs)
        if self.protocol == "v2":
            if signature != "serving_default":
                raise ValueError(
                    "Argument `signature` must be left out by protocol V2, "
                    "where the names of the inputs say what is asked. "
                    f"Received: signature={signature!r}"
                )
            return self._predict_by_v2(checked)
        if self._by_grpc:
            return self._predict_by_grpc(checked, signature)
        body = {
            "signature_name": signature,
            "inputs": {
                name: _to_json(value) for name, value in checked.items()
            },
        }
        answer = self._rest("POST", f"{self._path()}:predict", body)
        with self._understanding():
            return {
                name: _from_json(value, is_bytes=name.endswith("_bytes"))
                for name, value in answer["outputs"].items()
            }

    def image(self, content: bytes) -> Answer:
        """Asks for class and overlay of an image.

        Args:
            content: JPEG or PNG file.

        Returns:
            The answer, of which every part is what it should be.

        Raises:
            ServerError: If the server does not answer, or not as an exported
                model does.
            TypeError: If the image is no `bytes`.
        """
        if not isinstance(content, bytes):
            raise TypeError(
                "Argument `content` must be the bytes of a JPEG or PNG file. "
                f"Received: an object of type {type(content).__name__}. To "
                "fix this: pathlib.Path('image.jpg').read_bytes()"
            )
        inputs = {"image_bytes": [content]}
        if self.protocol == "v2":
            self._check_takes_files()
            answer = self.predict(inputs)
        else:
            answer = self.predict(inputs, "encoded_images")
        with self._understanding():
            error = _text(answer["error"])
            if error:
                return Answer(error)
            chances = answer["probabilities"]
            if chances.shape[:1] != (1,) or not _are_chances(chances):
                raise ValueError("probabilities are no numbers from 0 to 1")
            overlay = _one(answer["overlay_bytes"])
            _check_png(overlay)
            name = _text(answer["class_name"])
            return Answer("", name, float(chances.max()), overlay)

    def close(self) -> None:
        """Closes the connection."""
        if self._channel is not None:
            self._channel.close()

    def _path(self) -> str:
        return f"/v1/models/{urllib.parse.quote(self.model, safe='')}"

    def _v2_path(self) -> str:
        return f"/v2/models/{urllib.parse.quote(self.model, safe='')}"

    def _predict_by_v2(
        self, inputs: Mapping[str, _Input]
    ) -> dict[str, np.ndarray]:
        types = self.metadata().inputs
        body = {"inputs": _open_inference.to_tensors(inputs, types)}
        answer = self._rest("POST", f"{self._v2_path()}/infer", body)
        with self._understanding():
            return _open_inference.to_arrays(answer["outputs"])

    def _check_takes_files(self) -> None:
        """Refuses to send a file where an array is taken alone."""
        inputs = self.metadata().inputs
        if "image_bytes" not in inputs:
            taken = ", ".join(
                f"{name} {tensor.datatype} {[*tensor.shape]}"
                for name, tensor in inputs.items()
            )
            raise self._refused(
                f"the model takes no image files, but {taken}. To fix this: "
                "serve it by backend 'python' of write_repository, or by "
                "keras_lficam.serving.transformer"
            )

    def _predict_by_grpc(
        self, inputs: Mapping[str, _Input], signature: str
    ) -> dict[str, np.ndarray]:
        import tensorflow as tf
        from tensorflow_serving.apis import (
            predict_pb2,
            prediction_service_pb2_grpc,
        )

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.model
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        stub = prediction_service_pb2_grpc.PredictionServiceStub(
            self._grpc_channel()
        )
        answer = self._grpc(stub.Predict, request)
        with self._understanding():
            return {
                name: self._array_of(value)
                for name, value in answer.outputs.items()
            }

    def _array_of(self, value: "TensorProto") -> np.ndarray:
        """Makes an array of a tensor; one number can stand for all of it."""
        import tensorflow as tf

        sides = [dim.size for dim in value.tensor_shape.dim]
        if min(sides, default=0) < 0 or math.prod(sides) > self.max_bytes:
            raise ValueError(f"a tensor of shape {sides}")
        array: np.ndarray = tf.make_ndarray(value)
        return array

    def _grpc_channel(self) -> Any:
        import grpc

        if self._channel is None:
            # A batch of images is larger than the 4 MB that are usual.
            options = [
                ("grpc.max_receive_message_length", self.max_bytes),
                ("grpc.max_send_message_length", -1),
            ]
            target = self._parts.netloc
            if self._parts.scheme == "grpcs":
                self._channel = grpc.secure_channel(
                    target, grpc.ssl_channel_credentials(), options
                )
            else:
                self._channel = grpc.insecure_channel(target, options)
        return self._channel

    def _grpc(self, call: Callable[..., Any], request: Any) -> Any:
        import grpc

        try:
            return call(request, timeout=self.timeout)
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.UNAVAILABLE:
                raise self._not_reached(error.details()) from None
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._too_late() from None
            raise self._refused(error.details()) from None

    def _rest(self, method: str, path: str, body: object = None) -> Any:
        text = self._request(method, path, body)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise self._strange(f"{text[:100]!r}") from None

    def _request(self, method: str, path: str, body: object = None) -> bytes:
        """Gives the body of an answer; raises what the server refuses with."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, content, method=method
        )
        request.add_header("Content-Type", "application/json")
        code, text = self._in_time(request)
        if code == 200:
            return text
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            words = text[:_MOST_WORDS].decode("utf-8", "replace")
            raise self._refused(f"HTTP {code} {words}") from None
        said = answer.get("error") if isinstance(answer, dict) else answer
        words = said if isinstance(said, str) else f"HTTP {code} {said!r}"
        raise self._refused(words)

    def _in_time(self, request: urllib.request.Request) -> tuple[int, bytes]:
        """Sends a request; gives the status and the body of the answer.

        The time-out of a socket restarts with each byte, and looking up a name
        has none. So another thread requests, and is left alone when the time is
        over.
        """
        connections: list[http.client.HTTPConnection] = []
        answers: queue.SimpleQueue[tuple[int, bytes] | Exception] = (
            queue.SimpleQueue()
        )
        deadline = time.monotonic() + self.timeout

        def request_answer() -> None:
            try:
                answers.put(self._requested(request, connections, deadline))
            except Exception as error:
                answers.put(error)

        threading.Thread(target=request_answer, daemon=True).start()
        try:
            answer: object = answers.get(timeout=self.timeout)
        except queue.Empty:
            answer = TimeoutError()
        finally:
            for connection in connections:
                _hang_up(connection)
        if isinstance(answer, urllib.error.URLError):
            answer = answer.reason
        if isinstance(answer, TimeoutError):
            raise self._too_late()
        if isinstance(answer, ServerError):
            raise answer
        if isinstance(answer, http.client.IncompleteRead):
            raise self._strange("it is cut off")
        if isinstance(answer, http.client.HTTPException):
            # As gRPC answers to HTTP/1.
            raise self._not_reached(
                f"it does not speak HTTP: {type(answer).__name__}"
            )
        if not isinstance(answer, tuple):
            raise self._not_reached(answer)
        return answer

    def _requested(
        self,
        request: urllib.request.Request,
        connections: list[http.client.HTTPConnection],
        deadline: float,
    ) -> tuple[int, bytes]:
        opener = urllib.request.build_opener(_NoRedirect, _Watched(connections))
        try:
            response = opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            response = error
        parts, size = [], 0
        with response:
            while part := response.read1(2**16):
                parts.append(part)
                size += len(part)
                if size > self.max_bytes:
                    raise ServerError(
                        f"{self.url}: the answer has more than "
                        f"{self.max_bytes:,} bytes. To fix this: send fewer "
                        "images."
                    )
                if time.monotonic() > deadline:
                    raise TimeoutError
            announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and size < int(announced):
            raise self._strange(f"it is cut off after {size} bytes")
        return response.status, b"".join(parts)

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        """Names an answer that lacks what that of a server has."""
        try:
            yield
        except ServerError:
            raise
        # An answer can be anything, and so can what it raises.
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            raise self._strange(words) from None

    def _strange(self, words: str) -> ServerError:
        server = "a V2 server" if self.protocol == "v2" else "TF Serving"
        return ServerError(
            f"{self.url}: the answer is not that of {server}: "
            f"{_one_line(words)}"
        )

    def _not_reached(self, reason: object) -> UnreachableError:
        ports = (
            "Triton is usually at 8000, KServe at 8080"
            if self.protocol == "v2"
            else "REST is usually at 8501, gRPC at 8500"
        )
        return UnreachableError(
            f"{self.url}: no server could be reached ({_one_line(reason)}). "
            f"To fix this: start it, and check host and port; {ports}."
        )

    def _too_late(self) -> ServerError:
        return ServerError(
            f"{self.url}: no answer within {self.timeout:g} seconds. To "
            "fix this: give it more time, or fewer or smaller images."
        )

    def _refused(self, words: object) -> ServerError:
        # TensorFlow says on further lines where in a graph it failed.
        words = _one_line(str(words).split("[[{{")[0])
        return ServerError(f"{self.url}, model {self.model!r}: {words}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves an answer that sends elsewhere as it is.

    TF Serving gives none, and an image goes nowhere else.
    """

    def redirect_request(self, *arguments: object) -> None:
        return None


class _Watched(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Keeps connections, so that another thread can end them."""

    def __init__(self, connections: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self.connections = connections

    def do_open(
        self,
        http_class: Callable[..., http.client.HTTPConnection],
        req: urllib.request.Request,
        **http_conn_args: Any,
    ) -> http.client.HTTPResponse:
        def kept(*arguments: Any, **options: Any) -> http.client.HTTPConnection:
            connection = http_class(*arguments, **options)
            self.connections.append(connection)
            return connection

        return super().do_open(kept, req, **http_conn_args)


def _hang_up(connection: http.client.HTTPConnection) -> None:
    """Wakes what waits for a connection, in whatever state it is."""
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


# Not those of `keras_lficam._checks`, which import Keras: a client needs none.
def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(
            f"Argument `{name}` must be a string. Received: "
            f"{name}={value!r:.80} of type {type(value).__name__}"
        )


def _check_timeout(seconds: object) -> None:
    if (
        not isinstance(seconds, numbers.Real)
        or isinstance(seconds, bool)
        or not 0 < seconds <= _LONGEST_TIMEOUT  # type: ignore[operator]
    ):
        raise ValueError(
            "Argument `timeout` must be a number of seconds above 0, "
            f"{_LONGEST_TIMEOUT:,} at most. Received: timeout={seconds!r:.80}"
        )


def _check_protocol(protocol: object) -> None:
    _check_text("protocol", protocol)
    if protocol not in PROTOCOLS:
        raise ValueError(
            "Argument `protocol` must be one of "
            f"{', '.join(map(repr, PROTOCOLS))}. Received: "
            f"protocol={protocol!r}"
        )


def _check_max_bytes(number: object) -> None:
    if (
        not isinstance(number, numbers.Integral)
        or isinstance(number, bool)
        or not 1 <= int(number) < 2**31
    ):
        raise ValueError(
            "Argument `max_bytes` must be an integer from 1 to "
            f"{2**31 - 1:,}. Received: max_bytes={number!r:.80}"
        )


def _checked_inputs(inputs: Any) -> dict[str, _Input]:
    """Takes inputs as arrays of numbers, or lists of bytes."""
    if (
        not isinstance(inputs, Mapping)
        or not inputs
        or not all(isinstance(name, str) for name in inputs)
    ):
        kind = TypeError if not isinstance(inputs, Mapping) else ValueError
        raise kind(
            "Argument `inputs` must be a dictionary that holds an array, or a "
            "list of bytes, for each input by its name. Received: "
            f"inputs={inputs!r:.80} of type {type(inputs).__name__}"
        )
    return {name: _checked_input(name, inputs[name]) for name in inputs}


def _checked_input(name: str, value: Any) -> _Input:
    if isinstance(value, (list, tuple)) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "OS"
    ):
        items = [*np.ravel(value)] if isinstance(value, np.ndarray) else value
        if items and all(isinstance(item, bytes) for item in items):
            return value
    try:
        array = np.asarray(value)
    except Exception:  # Each container has its own.
        array = np.array(None)
    if array.dtype.kind not in "biuf" or np.ma.is_masked(value):
        raise TypeError(
            f"Argument `inputs` must hold an array of numbers, or a list of "
            f"bytes, as {name!r}. Received: an object of type "
            f"{type(value).__name__}"
        )
    return array


def _one_line(said: object) -> str:
    words = " ".join(str(said)[: 10 * _MOST_WORDS].split())
    if len(words) > _MOST_WORDS:
        words = f"{words[:_MOST_WORDS]}..."
    return printable(words)


def _one(array: np.ndarray) -> bytes:
    """Takes the one string of an array as bytes."""
    if array.shape != (1,) or not isinstance(array[0], bytes):
        raise TypeError("it holds no text for the image")
    return bytes(array[0])


def _text(array: np.ndarray) -> str:
    return printable(_one(array).decode())


def _are_chances(values: np.ndarray) -> bool:
    numbers = values.dtype.kind in "fiu" and values.size
    return bool(numbers) and bool(((values >= 0) & (values <= 1.0001)).all())


def _check_png(content: bytes) -> None:
    """Raises an error, of any kind, unless it is an image to be written."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.verify()


def _to_json(value: _Input | bytes) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OS":
        return value.tolist()
    return [_to_json(item) for item in value]


def _bytes_from_json(value: Any) -> np.ndarray:
    array = np.array(value, object)  # Dictionaries are no axis of it.
    files = [
        base64.b64decode(item["b64"], validate=True) for item in array.ravel()
    ]
    array[...] = np.reshape(np.array([*files, None], object)[:-1], array.shape)
    return array


def _from_json(value: Any, is_bytes: bool) -> np.ndarray:
    """Makes an array of nested lists of one kind of value."""
    if is_bytes:
        return _bytes_from_json(value)
    # Not `np.array(value)`: strings would all be as long as the longest.
    array = np.array(value, object)
    kinds = {type(item) for item in array.ravel()}
    if kinds <= {str}:
        array[...] = np.reshape(
            np.array([text.encode() for text in array.ravel()], object),
            array.shape,
        )
        return array
    if kinds <= {int}:
        return array.astype("int64")
    if kinds <= {int, float}:
        with np.errstate(over="ignore"):
            return array.astype("float32")
    names = sorted(kind.__name__ for kind in kinds)
    raise TypeError(f"it holds values of the kinds {', '.join(names)}")
