"""Files that TF Serving reads: warm-up, models, batching, a compose file."""

import io
import pathlib

import numpy as np
import tensorflow as tf

from keras_lficam._files import atomic_write

_MARK = "# Written by keras_lficam; it is rewritten with each export."
_WARMUP = pathlib.Path("assets.extra") / "tf_serving_warmup_requests"


def write_warmup(
    folder: pathlib.Path,
    name: str,
    image_shape: tuple[int, int, int],
    value_range: tuple[float, float],
) -> None:
    """Writes requests that a server answers itself before it takes others.

    TensorFlow compiles and allocates at the first request, which would else
    keep a client waiting.

    Args:
        folder: Folder of a version.
        name: Name of the model.
        image_shape: Shape `(height, width, channels)` of its images.
        value_range: Darkest and brightest value of a pixel.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    pixels = np.zeros((1, *image_shape), "float32") + value_range[0]
    images = {"images": pixels}
    encoded = {"image_bytes": np.array([_png(image_shape[:2])], np.object_)}
    classes = {"classes": np.zeros((1, 1), "int32")}
    inputs = {
        "serving_default": images,
        "uint8_images": {"images": np.zeros(pixels.shape, "uint8")},
        "classify": images,
        "images_and_classes": images | classes,
        "encoded_images": encoded,
        "encoded_images_and_classes": encoded | classes,
    }
    path = folder / _WARMUP
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, values in inputs.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            for key, value in values.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def write(root: pathlib.Path) -> None:
    """Writes what starts a server with all models in a folder.

    A file of the same name that somebody wrote stays as it is.

    Args:
        root: Folder of the models' folders.
    """
    names = sorted(
        folder.name
        for folder in root.iterdir()
        if any(
            (version / "saved_model.pb").is_file()
            for version in folder.glob("[0-9]*")
        )
    )
    for name, text in {
        "models.config": _models(names),
        "batching.config": _BATCHING,
        "compose.yaml": _COMPOSE,
    }.items():
        path = root / name
        if path.exists() and not path.read_text().startswith(_MARK):
            continue
        with atomic_write(path) as partial:
            partial.write_text(f"{_MARK}\n{text}", encoding="utf-8")


def _models(names: list[str]) -> str:
    models = "".join(
        f"""\
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
"""
        for name in names
    )
    return f"model_config_list {{\n{models}}}\n"


# A request waits 5 ms for others, and 32 images go through the model at once.
_BATCHING = """\
max_batch_size { value: 32 }
batch_timeout_micros { value: 5000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
"""

_COMPOSE = """\
# docker compose up
services:
  serving:
    image: tensorflow/serving:latest  # Pin the version that you tested.
    command:
      - --model_config_file=/models/models.config
      # Joins requests. Only images of one size, or encoded ones, can be joined.
      # - --enable_batching=true
      # - --batching_parameters_file=/models/batching.config
      - --rest_api_timeout_in_ms=30000
    ports:
      - "8500:8500"  # gRPC
      - "8501:8501"  # REST
    volumes:
      - .:/models:ro
"""


def _png(image_size: tuple[int, int]) -> bytes:
    import PIL.Image

    content = io.BytesIO()
    PIL.Image.new("RGB", image_size[::-1]).save(content, "PNG")
    return content.getvalue()
