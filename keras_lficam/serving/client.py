"""Asks a server for class and heat map, by REST or gRPC."""

import base64
import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np


class ServerError(Exception):
    """A server that could not be reached, or did not answer as it should.

    Examples:
        try:
            Client("http://localhost:8501", "digits").status()
        except ServerError as error:
            print(error)
    """


class Client:
    """Talks to a model in TF Serving.

    Args:
        url: `http://HOST:8501` or `https://...` for REST, `grpc://HOST:8500`
            or, with encryption, `grpcs://...` for gRPC.
        model: Name of the model.
        timeout: Seconds after which an answer is given up.

    Raises:
        ValueError: If the address is none of these.

    Examples:
        client = Client("http://localhost:8501", "digits", timeout=10)

    Reference:
        https://www.tensorflow.org/tfx/serving/api_rest
    """

    def __init__(self, url: str, model: str, timeout: float = 30.0):
        parts = urllib.parse.urlsplit(url)
        kinds = ("http", "https", "grpc", "grpcs")
        if parts.scheme not in kinds or not parts.hostname:
            raise ValueError(
                "Argument `url` must be like http://localhost:8501 or "
                f"grpc://localhost:8500. Received: url={url!r}"
            )
        self.url = url.rstrip("/")
        self.model = model
        self.timeout = timeout
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
        if not self._by_grpc:
            answer = self._rest("GET", "")
            with self._understanding():
                return answer["model_version_status"][0]["state"]
        from tensorflow_serving.apis import (
            get_model_status_pb2 as status,
        )
        from tensorflow_serving.apis import model_service_pb2_grpc

        request = status.GetModelStatusRequest()
        request.model_spec.name = self.model
        stub = model_service_pb2_grpc.ModelServiceStub(self._grpc_channel())
        answer = self._grpc(stub.GetModelStatus, request)
        newest = answer.model_version_status[0]
        return status.ModelVersionStatus.State.Name(newest.state)

    def predict(
        self, inputs: Mapping[str, Any], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Asks for the outputs of a signature.

        Args:
            inputs: Array, or list of bytes, for each input by its name.
            signature: Name of the signature.

        Returns:
            Array for each output; strings are bytes, of dtype object.

        Raises:
            ServerError: If the server does not answer, or refuses.
        """
        if self._by_grpc:
            return self._predict_by_grpc(inputs, signature)
        body = {
            "signature_name": signature,
            "inputs": {name: _to_json(value) for name, value in inputs.items()},
        }
        answer = self._rest("POST", ":predict", body)
        with self._understanding():
            return {
                name: _from_json(value, is_bytes=name.endswith("_bytes"))
                for name, value in answer["outputs"].items()
            }

    def close(self) -> None:
        """Closes the connection.

        Returns:
            Nothing.
        """
        if self._channel is not None:
            self._channel.close()

    def _predict_by_grpc(self, inputs, signature):
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
        return {
            name: tf.make_ndarray(value)
            for name, value in answer.outputs.items()
        }

    def _grpc_channel(self):
        import grpc

        if self._channel is None:
            # A batch of pictures is larger than the 4 MB that are usual.
            options = [
                ("grpc.max_receive_message_length", -1),
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

    def _grpc(self, call, request):
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

    def _rest(self, method, what, body=None):
        url = f"{self.url}/v1/models/{urllib.parse.quote(self.model)}{what}"
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, content, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as file:
                text = file.read()
        except urllib.error.HTTPError as error:
            raise self._refused(_words_of(error)) from None
        except TimeoutError:
            raise self._too_late() from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._too_late() from None
            raise self._not_reached(error.reason) from None
        except OSError as error:
            raise self._not_reached(error) from None
        except http.client.HTTPException:  # As gRPC answers to HTTP/1.
            raise self._not_reached("it does not speak HTTP") from None
        try:
            return json.loads(text)
        except ValueError:
            raise ServerError(
                f"{url}: the answer is not that of TF Serving: {text[:100]!r}"
            ) from None

    @contextlib.contextmanager
    def _understanding(self):
        """Names an answer that lacks what TF Serving's has."""
        try:
            yield
        except (
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            raise ServerError(
                f"{self.url}: the answer is not that of TF Serving: {error!r}"
            ) from None

    def _not_reached(self, reason):
        return ServerError(
            f"{self.url}: no server could be reached ({reason}). Is it "
            "started, and are host and port right? REST is usually at 8501, "
            "gRPC at 8500."
        )

    def _too_late(self):
        return ServerError(
            f"{self.url}: no answer within {self.timeout:g} seconds. Give it "
            "more time, or fewer or smaller pictures."
        )

    def _refused(self, words):
        # TensorFlow says on further lines where in a graph it failed.
        words = " ".join(str(words).split("[[{{")[0].split())
        return ServerError(f"{self.url}, model {self.model!r}: {words}")


def _words_of(error):
    """Reads what a server says to an error."""
    text = error.read().decode("utf-8", "replace")
    try:
        return json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason} {text[:200]}".strip()


def _to_json(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [
        {"b64": base64.b64encode(item).decode("ascii")}
        if isinstance(item, bytes)
        else item
        for item in value
    ]


def _from_json(value, is_bytes):
    if is_bytes:
        return np.array(
            [base64.b64decode(item["b64"]) for item in value], object
        )
    array = np.array(value)
    if array.dtype.kind == "U":
        flat = [text.encode() for text in array.ravel()]
        return np.array(flat, object).reshape(array.shape)
    return array.astype("float32") if array.dtype.kind == "f" else array
