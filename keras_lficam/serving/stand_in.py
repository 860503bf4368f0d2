"""A stand-in for TF Serving, where its program is not installed.

It has the interfaces of TF Serving on 127.0.0.1, for tests and tutorials: it
loads a model by the loader that TF Serving uses, and feeds tensors by the names
in the signature, without any check of their shapes, as TF Serving does. It
neither batches nor watches folders, and is none to serve others by.
"""

import base64
import concurrent.futures
import contextlib
import functools
import http.server
import json
import os
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

_v1 = tf.compat.v1


class NotFoundError(Exception):
    """A model, version or signature that is not there."""


class Loaded:
    """A version of a model in a session.

    Args:
        folder: Folder of the version, which holds a SavedModel.

    Attributes:
        signatures: Each signature by its name.

    Examples:
        folder = keras_lficam.export(model, "saved_models/digits")
        answers = Loaded(folder).run(
            "uint8_images", {"images": images.astype("uint8")}
        )
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.session = _v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            meta = _v1.saved_model.loader.load(
                self.session, ["serve"], str(folder)
            )
        self.signatures = {
            name: signature
            for name, signature in meta.signature_def.items()
            if not name.startswith("__")
        }
        self._calls: dict[str, Callable[..., Any]] = {}

    def predict(
        self, request: predict_pb2.PredictRequest
    ) -> predict_pb2.PredictResponse:
        """Answers a request of gRPC.

        Args:
            request: With the arrays of a signature.

        Returns:
            The outputs.

        Raises:
            NotFoundError, ValueError: As `run`.
        """
        name = request.model_spec.signature_name or "serving_default"
        inputs = {
            name: tf.make_ndarray(proto)
            for name, proto in request.inputs.items()
        }
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        for key, value in self.run(name, inputs).items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response

    def run(
        self, name: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Computes the outputs of a signature.

        Args:
            name: Name of the signature.
            inputs: Array for each input by its name.

        Returns:
            Array for each output.

        Raises:
            NotFoundError: If there is no such signature.
            ValueError: If the inputs are others, or of another type.
        """
        if name not in self.signatures:
            raise NotFoundError(
                f'Serving signature name: "{name}" not found in signature def'
            )
        expected = self.signatures[name].inputs
        if set(inputs) != set(expected):
            raise ValueError(
                f"input size does not match signature: sent {set(inputs)}, "
                f"required {set(expected)}"
            )
        for key, value in inputs.items():
            dtype = tf.as_dtype(expected[key].dtype)
            if tf.as_dtype(value.dtype) != dtype:
                raise ValueError(f"Expects arg {key} to be {dtype.name}")
        outputs = self.signatures[name].outputs
        if name not in self._calls:
            # Unlike `run` of a session this checks no shapes.
            options = config_pb2.CallableOptions(
                feed=[expected[key].name for key in sorted(expected)],
                fetch=[output.name for output in outputs.values()],
            )
            make = self.session._make_callable_from_options
            self._calls[name] = make(options)
        answers = self._calls[name](*(inputs[key] for key in sorted(inputs)))
        return dict(zip(outputs, answers, strict=True))

    def dtype(self, name: str, key: str) -> tf.DType:
        """Type that an input of a signature has."""
        return tf.as_dtype(self.signatures[name].inputs[key].dtype)


class Server:
    """Serves models by REST and gRPC, at ports that are free.

    Args:
        models: Folder of each model, which holds its versions, by its name.

    Attributes:
        rest: Address of REST, `http://127.0.0.1:PORT`.
        grpc: Address of gRPC, `grpc://127.0.0.1:PORT`.
        delay: Seconds before each answer.
        html: Whether REST answers as a server does that is not TF Serving.
        odd: What REST sends instead of an answer, byte by byte: bytes, or an
            iterator over pieces.

    Examples:
        folder = keras_lficam.export(model, "saved_models/digits")
        server = Server({"digits": folder.parent})
        client = keras_lficam.serving.client.Client(server.rest, "digits")
        print(client.status())
        server.close()

    Reference:
        https://www.tensorflow.org/tfx/serving/api_rest
    """

    def __init__(self, models: Mapping[str, str | os.PathLike[str]]) -> None:
        self.delay, self.html = 0.0, False
        self.odd: bytes | Callable[[], Iterable[bytes]] | None = None
        self.models = {
            name: {
                int(version.name): Loaded(version)
                for version in pathlib.Path(folder).iterdir()
                if version.name.isdecimal()
            }
            for name, folder in models.items()
        }
        self._http = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(_Handler, self)
        )
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        unlimited = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        pool = concurrent.futures.ThreadPoolExecutor(4)
        self._grpc = grpc.server(pool, options=unlimited)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _Prediction(self), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _Models(self), self._grpc
        )
        port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        self.rest = f"http://127.0.0.1:{self._http.server_port}"
        self.grpc = f"grpc://127.0.0.1:{port}"

    def close(self) -> None:
        """Stops serving."""
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(0).wait()

    def versions(self, name: str) -> list[int]:
        """Numbers of a model's versions, the newest first."""
        if name not in self.models:
            raise NotFoundError(f"Could not find any versions of model {name}")
        return sorted(self.models[name], reverse=True)

    def version(self, name: str, number: int | None = None) -> Loaded:
        """A version of a model; the newest if no number is given."""
        versions = self.models.get(name, {})
        if number is None and versions:
            return versions[max(versions)]
        if number not in versions:
            wanted = (
                f"Latest({name})"
                if number is None
                else f"Specific({name}, {number})"
            )
            raise NotFoundError(f"Servable not found for request: {wanted}")
        return versions[number]


@contextlib.contextmanager
def serving(**models: str | os.PathLike[str]) -> Iterator[Server]:
    """Starts a server, and stops it at the end of a block.

    Args:
        models: Folder of each model by its name.

    Returns:
        Context manager of the server.

    Examples:
        folder = keras_lficam.export(model, "saved_models/digits")
        with serving(digits=folder.parent) as server:
            print(server.rest)
    """
    server = Server(models)
    try:
        yield server
    finally:
        server.close()


# -------------------------------------------------------------------- gRPC


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, server: Server) -> None:
        self.server = server

    def Predict(  # noqa: N802
        self, request: predict_pb2.PredictRequest, context: Any
    ) -> predict_pb2.PredictResponse:
        time.sleep(self.server.delay)
        spec = request.model_spec
        number = spec.version.value if spec.HasField("version") else None
        with _answered_by(context):
            return self.server.version(spec.name, number).predict(request)


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, server: Server) -> None:
        self.server = server

    def GetModelStatus(  # noqa: N802
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: Any,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        time.sleep(self.server.delay)
        response = get_model_status_pb2.GetModelStatusResponse()
        with _answered_by(context):
            for number in self.server.versions(request.model_spec.name):
                response.model_version_status.add(version=number, state=30)
        return response


@contextlib.contextmanager
def _answered_by(context: Any) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        context.abort(grpc.StatusCode.NOT_FOUND, str(error))
    except (ValueError, tf.errors.OpError) as error:
        words = getattr(error, "message", str(error))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)


# -------------------------------------------------------------------- REST


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, server: Server, *arguments: Any) -> None:
        self.models = server
        super().__init__(*arguments)

    def log_message(self, *arguments: object) -> None:
        """Prints nothing, unlike the class that it is derived from."""

    def do_GET(self) -> None:  # noqa: N802
        self._respond(r"/v1/models/([^/:]+)", self._status)

    def do_POST(self) -> None:  # noqa: N802
        length = int(self.headers["Content-Length"])
        self.body = self.rfile.read(length)
        self._respond(
            r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict", self._predict
        )

    def _respond(self, pattern: str, answer: Callable[..., Any]) -> None:
        time.sleep(self.models.delay)
        if self.models.odd is not None:
            self._send_odd(self.models.odd)
            return
        if self.models.html:
            page = b"<html>\n<body>\nIt works!\n</body>\n</html>\n"
            code = 200 if self.command == "GET" else 404
            self._send(code, page, "text/html")
            return
        found = re.fullmatch(pattern, self.path)
        try:
            if not found:
                raise ValueError(f"Malformed request: {self.path}")
            code, said = 200, answer(*found.groups())
        except NotFoundError as error:
            code, said = 404, {"error": str(error)}
        except (ValueError, tf.errors.OpError) as error:
            code, said = 400, {"error": getattr(error, "message", str(error))}
        # In many lines, as TF Serving does; `indent` would take much longer.
        self._send(code, json.dumps(said, separators=(",\n", ": ")).encode())

    def _send(
        self, code: int, content: bytes, kind: str = "application/json"
    ) -> None:
        with contextlib.suppress(ConnectionError):  # The client has given up.
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def _send_odd(self, odd: bytes | Callable[[], Iterable[bytes]]) -> None:
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            for piece in [odd] if isinstance(odd, bytes) else odd():
                self.wfile.write(piece)
                self.wfile.flush()

    def _status(self, name: str) -> dict[str, Any]:
        return {
            "model_version_status": [
                {
                    "version": str(number),
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
                for number in self.models.versions(name)
            ]
        }

    def _predict(self, model: str, version: str | None) -> dict[str, Any]:
        loaded = self.models.version(model, int(version) if version else None)
        body = json.loads(self.body)
        name = body.get("signature_name", "serving_default")
        signature = loaded.signatures.get(name)
        if signature is None:
            raise NotFoundError(f'Serving signature name: "{name}" not found')
        by_row = "instances" in body
        columns = body["instances"] if by_row else body["inputs"]
        if by_row and isinstance(columns[0], dict) and "b64" not in columns[0]:
            columns = {key: [row[key] for row in columns] for key in columns[0]}
        if not isinstance(columns, dict):
            columns = dict.fromkeys(signature.inputs, columns)
        answer = loaded.run(
            name,
            {
                key: _to_array(value, loaded.dtype(name, key))
                for key, value in columns.items()
            },
        )
        answer = {
            key: _to_json(value, key.endswith("_bytes"))
            for key, value in answer.items()
        }
        if by_row:
            rows = zip(*answer.values(), strict=True)
            return {
                "predictions": [dict(zip(answer, r, strict=True)) for r in rows]
            }
        return {"outputs": answer}


def _to_array(value: Any, dtype: tf.DType) -> np.ndarray:
    if dtype != tf.string:
        return np.array(value, dtype.as_numpy_dtype)
    strings = [
        base64.b64decode(item["b64"], validate=True)
        if isinstance(item, dict)
        else item.encode()
        for item in value
    ]
    return np.array(strings, object)


def _to_json(array: np.ndarray, is_bytes: bool) -> Any:
    if array.dtype != object:
        return array.tolist()
    if array.ndim > 1:
        return [_to_json(row, is_bytes) for row in array]
    if is_bytes:
        return [{"b64": base64.b64encode(item).decode()} for item in array]
    return [item.decode() for item in array]
