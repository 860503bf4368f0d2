"""Triton's Python backend: the class that its `model.py` must have.

`serving.write_repository(folder, path, backend="python")` writes a `model.py`
that imports it. Triton gives the module of its own that is imported here.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_lficam.serving import _open_inference
from keras_lficam.serving.onnx_model import Answers, OnnxModel

try:
    import triton_python_backend_utils as triton
except ImportError as error:
    raise ImportError(
        "keras_lficam.serving.triton_model runs inside of Triton's Python "
        "backend alone. To fix this: "
        "keras_lficam.serving.write_repository(folder, path, "
        "backend='python'), and start tritonserver with it"
    ) from error


class TritonPythonModel:
    """Answers images and files by `serving.onnx_model.OnnxModel`.

    Reference:
        https://github.com/triton-inference-server/python_backend

    Examples:
        from keras_lficam.serving.triton_model import TritonPythonModel
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the version.

        Args:
            args: `model_repository`, the folder of the model, and
                `model_version`.
        """
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        self._model = OnnxModel(folder)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers requests, of which a wrong one spoils no other.

        Args:
            requests: Triton's requests, with an input each: `images` or
                `image_bytes`.

        Returns:
            A response for each.
        """
        return [self._answered(request) for request in requests]

    def _answered(self, request: Any) -> Any:
        inputs = {
            name: tensor.as_numpy()
            for name in ("images", "image_bytes")
            if (tensor := triton.get_input_tensor_by_name(request, name))
            is not None
        }
        try:
            answers = self._answers(inputs)
        except ValueError as error:
            fault = triton.TritonError(
                str(error), triton.TritonError.INVALID_ARG
            )
            return triton.InferenceResponse(error=fault)
        wanted = set(request.requested_output_names())
        return triton.InferenceResponse(
            [
                triton.Tensor(name, _as_text(name, value))
                for name, value in answers.items()
                if name in wanted
            ]
        )

    def _answers(self, inputs: Mapping[str, np.ndarray]) -> Answers:
        if len(inputs) != 1:
            raise ValueError(
                "A request must have one input, `images` or `image_bytes`. "
                f"Received: {', '.join(inputs) or 'none'}"
            )
        if "images" in inputs:
            return self._model.explain(inputs["images"])
        return self._model.explain_files([*inputs["image_bytes"].ravel()])


def _as_text(name: str, value: np.ndarray) -> np.ndarray:
    """Makes base64 of files, which JSON cannot hold."""
    if value.dtype != object:
        return value
    (tensor,) = _open_inference.to_tensors({name: value}, {})
    texts = np.array([text.encode() for text in tensor["data"]], object)
    return texts.reshape(value.shape)
