"""Writes a model repository: what Triton, KServe and OpenVINO servers load."""

import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from keras_lficam._checks import check_choice, path_of
from keras_lficam._files import atomic_folder, atomic_write

if TYPE_CHECKING:
    import onnx

BACKENDS = ("onnxruntime", "python")
_MARK = "# Written by keras_lficam; it is rewritten with each version."
_COPIED = ("model.onnx", "labels.txt", "export.json")
# Triton's names of types, by those of ONNX.
_TYPES = {"FLOAT": "TYPE_FP32", "INT32": "TYPE_INT32", "INT64": "TYPE_INT64"}
# What `OnnxModel` adds to the outputs of its ONNX file.
_ADDED: dict[str, tuple[str, tuple[int, ...]]] = {
    "class_index": ("TYPE_INT64", (-1,)),
    "class_name": ("TYPE_STRING", (-1,)),
    "error": ("TYPE_STRING", (-1,)),
    "top_classes": ("TYPE_STRING", (-1, -1)),
    "top_probabilities": ("TYPE_FP32", (-1, -1)),
    "overlay_bytes": ("TYPE_STRING", (-1,)),
}
# Triton's Python backend looks for the class in this file.
_MODEL_PY = '''\
"""Answers images and files; needs keras_lficam in the server's Python."""

from keras_lficam.serving.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    backend: str = "onnxruntime",
) -> pathlib.Path:
    """Copies an exported version into a model repository.

    The repository gets a folder of the model with `config.pbtxt` and a
    numbered folder of the version, as Triton, OpenVINO Model Server and KServe
    load it. Other models and versions in it stay. The
    newest version is served.

    With the backend `"onnxruntime"` the model takes `images (B, height, width,
    channels)` and gives the outputs of its ONNX file; no more than
    `Limits.images` at once. `NAME.inference-service.yaml` then beside the model
    is what `kubectl apply` takes: Triton, and before it the transformer of
    `keras_lficam.serving.transformer`, which adds names of classes, files and
    `:explain`.

    With `"python"` Triton's Python backend runs `serving.onnx_model.OnnxModel`:
    the model takes `images` or `image_bytes (B,)`, JPEG and PNG files as
    base64, and gives names, errors and overlays, too. Its Python needs
    keras_lficam, which can do without Keras there, onnxruntime, pillow and
    matplotlib.

    Args:
        folder: Folder of an exported version with the format `"onnx"`, such as
            `saved_models/digits/1`. The names of model and version are those
            of its path.
        path: Folder of the repository. It is made where there is none.
        backend: Backend of Triton, `"onnxruntime"` or `"python"`.

    Returns:
        Folder of the version in the repository.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `folder` is no version with ONNX, or there is no such
            backend.
        FileExistsError: If the version is in the repository already.
        OSError: If it cannot be written.

    Examples:
        folder = keras_lficam.export(model, "models/digits", formats=["onnx"])
        keras_lficam.serving.write_repository(folder, "repository")

    Reference:
        https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
    """
    source = path_of("folder", folder)
    root = path_of("path", path)
    check_choice("backend", backend, BACKENDS)
    source = pathlib.Path(os.path.abspath(source))
    _check_version(source)
    name = source.parent.name
    model = root / name
    target = model / source.name
    if target.exists():
        raise FileExistsError(
            f"{target}: this version is there already, and clients may use "
            "it. To fix this: export another version, or give another `path`."
        )
    config = _config(source, name, backend)
    model.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as partial:
        for file in _COPIED:
            shutil.copyfile(source / file, partial / file)
        if backend == "python":
            (partial / "model.py").write_text(_MODEL_PY, encoding="utf-8")
    _write(model / "config.pbtxt", config)
    if backend == "onnxruntime":
        service = _service(name, source.name)
        _write(root / f"{name}.inference-service.yaml", service)
    return target


def _check_version(folder: pathlib.Path) -> None:
    """Raises a ValueError unless a folder is a version with ONNX."""
    missing = [name for name in _COPIED if not (folder / name).is_file()]
    if missing or not folder.name.isdecimal() or not folder.parent.name:
        lacks = f", without {', '.join(missing)}" if missing else ""
        raise ValueError(
            "Argument `folder` must be the folder of an exported version with "
            f"the format 'onnx'. Received: {folder}{lacks}. To fix this: "
            "keras_lficam.export(model, path, formats=['onnx'])."
        )


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file, unless somebody else did."""
    if path.exists() and not path.read_text().startswith(_MARK):
        return
    with atomic_write(path) as partial:
        partial.write_text(f"{_MARK}\n{text}", encoding="utf-8")


def _config(source: pathlib.Path, name: str, backend: str) -> str:
    """The configuration of a model, as protocol buffers are written."""
    import onnx

    about = json.loads((source / "export.json").read_text(encoding="utf-8"))
    graph = onnx.load(str(source / "model.onnx")).graph
    outputs = {output.name: _kind(output) for output in graph.output}
    shape = (*about["image_size"], about["channels"])
    head = f'name: "{name}"\nbackend: "{backend}"\n'
    if backend == "python":
        return (
            f"{head}max_batch_size: 0\n"
            + _optional("images", "TYPE_FP32", (-1, *shape))
            + _optional("image_bytes", "TYPE_STRING", (-1,))
            + _outputs(outputs | _ADDED)
            + "instance_group [ { kind: KIND_CPU } ]\n"
            + _NEWEST
        )
    # Triton counts the batch apart from the other sides.
    alone = {key: (kind, sides[1:]) for key, (kind, sides) in outputs.items()}
    return (
        f"{head}max_batch_size: {about['limits']['images']}\n"
        + _tensor("input", "images", "TYPE_FP32", shape)
        + _outputs(alone)
        + "dynamic_batching { max_queue_delay_microseconds: 5000 }\n"
        + _NEWEST
    )


_NEWEST = "version_policy { latest { num_versions: 1 } }\n"


def _kind(output: "onnx.ValueInfoProto") -> tuple[str, tuple[int, ...]]:
    """Type and shape of an output; -1 where any length is given."""
    import onnx

    tensor = output.type.tensor_type
    sides = tuple(side.dim_value or -1 for side in tensor.shape.dim)
    return _TYPES[onnx.TensorProto.DataType.Name(tensor.elem_type)], sides


def _outputs(kinds: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return "".join(
        _tensor("output", name, kind, sides)
        for name, (kind, sides) in kinds.items()
    )


def _optional(name: str, kind: str, sides: Iterable[int]) -> str:
    return _tensor("input", name, kind, sides, " optional: true")


def _tensor(
    role: str, name: str, kind: str, sides: Iterable[int], more: str = ""
) -> str:
    dims = ", ".join(map(str, sides))
    return (
        f'{role} [ {{ name: "{name}" data_type: {kind} '
        f"dims: [ {dims} ]{more} }} ]\n"
    )


def _service(name: str, version: str) -> str:
    """A resource of KServe: Triton, and the transformer before it."""
    # Kubernetes takes letters, digits and hyphens in names.
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"
    return f"""\
# kubectl apply -f FILE, once the repository lies at `storageUri`, and the image
# has keras_lficam, kserve, onnxruntime and matplotlib.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {json.dumps(label)}
spec:
  predictor:
    model:
      modelFormat:
        name: onnx
        version: "1"
      protocolVersion: v2
      runtime: kserve-tritonserver
      storageUri: pvc://models/repository
  transformer:
    containers:
      - name: kserve-container
        image: keras-lficam-transformer
        command: ["python", "-m", "keras_lficam.serving.transformer"]
        args:
          - --model_name
          - {json.dumps(name)}
          - --model_dir
          - {json.dumps(f"/mnt/models/{name}/{version}")}
        env:
          - name: STORAGE_URI
            value: pvc://models/repository
"""
