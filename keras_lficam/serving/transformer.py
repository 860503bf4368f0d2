"""KServe: class, evidence and map of images and files, and `:explain`.

    python -m keras_lficam.serving.transformer --model_name digits \\
        --model_dir saved_models/digits/1

answers `/v1/models/digits:predict`, `:explain` and
`/v2/models/digits/infer`. With `--predictor_host` the model itself is computed
by another server, such as Triton, and this is a transformer before it.
"""

import argparse
import asyncio
import base64
import binascii
import os
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_lficam.serving import _open_inference
from keras_lficam.serving.client import Client, ServerError
from keras_lficam.serving.onnx_model import Answers, OnnxModel

try:
    import kserve
    import kserve.errors
    import kserve.model_server
except ImportError as error:
    raise ImportError(
        "keras_lficam.serving.transformer needs the package kserve. To fix "
        "this: pip install kserve onnxruntime matplotlib"
    ) from error

# What `:predict` answers; `:explain` answers why, too.
_CLASSES = (
    "class_index",
    "class_name",
    "probabilities",
    "top_classes",
    "top_probabilities",
    "error",
)
_V1_INPUTS = ("images", "image_bytes")


class Transformer(kserve.Model):
    """A KServe model that explains itself.

    It takes arrays and encoded images. By V1, `:predict` answers with the
    class and `:explain` with evidence, attention and overlay, too; by V2
    `infer` answers with all. A file is refused by the limits of the export
    before it is decoded, and a damaged one gets a text in `error` and spoils
    no other.

    Args:
        name: Name of the model.
        folder: Folder of an exported version with the format `"onnx"`.
        predictor: Client of protocol V2 of a server that computes the model;
            by default ONNX Runtime does here.

    Raises:
        FileNotFoundError: If it is no folder of an exported version.
        ImportError: If ONNX Runtime is not installed.

    Examples:
        model = Transformer("digits", "saved_models/digits/1")
        kserve.ModelServer().start([model])

    Reference:
        https://kserve.github.io/website/docs/reference/api
    """

    def __init__(
        self,
        name: str,
        folder: str | os.PathLike[str],
        predictor: Client | None = None,
    ) -> None:
        super().__init__(name)
        self._predictor = predictor
        run = None
        if predictor is not None:

            def run(images: np.ndarray) -> Answers:
                return predictor.predict({"images": images})

        self._model = OnnxModel(folder, run)
        # KServe asks whether it is.
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Declares its inputs, of which a request has one."""
        shape = [-1, *self._model.image_shape]
        return [
            {"name": "images", "datatype": "FP32", "shape": shape},
            {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Declares its outputs, by the answer to an empty file."""
        return [
            tensor | {"shape": [-1, *tensor["shape"][1:]]}
            for tensor in _tensors(self._model.explain_files([b""]))
        ]

    async def predict(
        self,
        payload: "dict[str, Any] | kserve.InferRequest",
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> "dict[str, Any] | kserve.InferResponse":
        """Answers `:predict` of V1, and V2."""
        if not isinstance(payload, kserve.InferRequest):
            answers = await self._answered(_inputs_of(payload))
            chosen = {k: v for k, v in answers.items() if k in _CLASSES}
            return {"predictions": _rows(chosen)}
        answers = await self._answered(_inputs_of_v2(payload))
        outputs = [kserve.InferOutput(**tensor) for tensor in _tensors(answers)]
        # The protocol has an `id` at will, KServe's answer must have one.
        number = payload.id or str(uuid.uuid4())
        return kserve.InferResponse(number, self.name, outputs)

    async def explain(
        self,
        payload: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Answers `:explain` of V1."""
        answers = await self._answered(_inputs_of(payload))
        return {"explanations": _rows(answers)}

    async def _answered(self, inputs: Mapping[str, Any]) -> Answers:
        # Beside others: the server's loop is free meanwhile.
        return await asyncio.to_thread(self._answers, inputs)

    def _answers(self, inputs: Mapping[str, Any]) -> Answers:
        try:
            if [*inputs] == ["image_bytes"]:
                return self._model.explain_files(inputs["image_bytes"])
            if [*inputs] == ["images"]:
                return self._model.explain(inputs["images"])
        except ServerError as error:  # Of the predictor.
            raise kserve.errors.InferenceError(str(error)) from None
        except ValueError as error:
            raise kserve.errors.InvalidInput(str(error)) from None
        raise kserve.errors.InvalidInput(
            "A request must have one input, `images` or `image_bytes`. "
            f"Received: {', '.join(map(str, inputs)) or 'none'}"
        )


def _inputs_of(payload: Any) -> dict[str, Any]:
    """Reads `instances`: rows of pixels, or each an object with an input."""
    rows = payload.get("instances") if isinstance(payload, dict) else None
    if not isinstance(rows, list) or not rows:
        raise kserve.errors.InvalidInput(
            'A request must hold "instances", a list of images. To fix this: '
            '{"instances": [{"image_bytes": {"b64": "..."}}]}'
        )
    if not isinstance(rows[0], dict):
        return {"images": _array(rows)}
    name = next((name for name in _V1_INPUTS if name in rows[0]), None)
    if name is None or not all(
        isinstance(row, dict) and [*row] == [name] for row in rows
    ):
        raise kserve.errors.InvalidInput(
            'Each of the "instances" must have one and the same input, '
            "`images` or `image_bytes`."
        )
    values = [row[name] for row in rows]
    if name == "images":
        return {name: _array(values)}
    return {name: [_file(value) for value in values]}


def _inputs_of_v2(request: "kserve.InferRequest") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tensor in request.inputs:
        try:
            values = tensor.as_numpy()
        except Exception as error:  # A tensor can be anything.
            raise kserve.errors.InvalidInput(
                f"Input {tensor.name!r} is no tensor: {error}"
            ) from None
        found[tensor.name] = (
            [_bytes(item) for item in values.ravel()]
            if tensor.datatype == "BYTES"
            else values
        )
    return found


def _bytes(item: object) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _file(value: object) -> bytes:
    """Takes `{"b64": text}` or a text, as TF Serving does."""
    text = value.get("b64") if isinstance(value, dict) else value
    try:
        if not isinstance(text, str):
            raise TypeError
        if text is value:
            return text.encode()
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise kserve.errors.InvalidInput(
            "Input `image_bytes` must hold files as base64. To fix this: "
            '{"image_bytes": {"b64": "..."}}'
        ) from None


def _array(rows: list[Any]) -> np.ndarray:
    try:
        return np.asarray(rows, "float32")
    except (TypeError, ValueError, OverflowError):
        raise kserve.errors.InvalidInput(
            "Input `images` must hold numbers (batch, height, width, channels)."
        ) from None


def _tensors(answers: Answers) -> list[dict[str, Any]]:
    return _open_inference.to_tensors(answers, {})


def _rows(answers: Answers) -> list[dict[str, Any]]:
    """Gives an object for each image, as TF Serving does."""
    columns = {
        name: [_plain(value, name.endswith("_bytes")) for value in values]
        for name, values in answers.items()
    }
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]


def _plain(value: Any, is_file: bool) -> Any:
    if isinstance(value, bytes):
        if is_file:
            return {"b64": base64.b64encode(value).decode("ascii")}
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_plain(item, is_file) for item in value]
    return value.tolist()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument(
        "--model_dir",
        type=pathlib.Path,
        required=True,
        help="folder of an exported version with ONNX",
    )
    return parser


def main() -> None:
    """Starts KServe's server with the model."""
    arguments = _parser().parse_args()
    predictor = None
    if arguments.predictor_host:
        scheme = "https" if arguments.predictor_use_ssl else "http"
        predictor = Client(
            f"{scheme}://{arguments.predictor_host}",
            arguments.model_name,
            arguments.predictor_request_timeout_seconds,
            protocol="v2",
        )
    model = Transformer(arguments.model_name, arguments.model_dir, predictor)
    kserve.ModelServer().start([model])


if __name__ == "__main__":
    main()
