"""An exported ONNX model with names, limits and files, without TensorFlow."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from keras_lficam import _labels
from keras_lficam.serving import Limits, _pillow_images

_NO_CLASS = -1
# As `visualization.overlay` and `visualization.signed_overlay` draw.
_COLORMAP, _OPACITY = "inferno", 0.65
_SIGNED_COLORMAP, _SIGNED_OPACITY = "RdBu_r", 0.8

# Answers of a model by their names.
Answers = dict[str, np.ndarray]


class OnnxModel:
    """Answers as the SavedModel of an export does, by ONNX Runtime.

    The ONNX file of an export takes images of one size and gives numbers. This
    adds what the SavedModel has in its graph: names of classes, checks,
    errors of single images, and JPEG and PNG files, whose limits hold before
    they are decoded. It needs `numpy`, `onnxruntime`, `pillow` and
    `matplotlib`, and neither Keras nor TensorFlow.

    Threads can share one.

    Args:
        folder: Folder of an exported version with the format `"onnx"`.
        run: Computes the outputs of the ONNX model from images `(B, height,
            width, channels)`, as a client of another server does; ONNX
            Runtime by default.

    Attributes:
        class_names: Name of each class.
        image_shape: `(height, width, channels)` of its images.
        limits: What it refuses.
        top: Classes that are named for an encoded image.

    Raises:
        TypeError: If the folder is no path.
        FileNotFoundError: If it is no folder of an exported version.
        ImportError: If ONNX Runtime is not installed.

    Examples:
        folder = keras_lficam.export(model, "models/digits", formats=["onnx"])
        answer = OnnxModel(folder).explain(images)
        answer["class_name"], answer["class_evidence"], answer["error"]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: Callable[[np.ndarray], Answers] | None = None,
    ) -> None:
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(
                "Argument `folder` must be a path. Received: folder="
                f"{folder!r:.80} of type {type(folder).__name__}"
            )
        root = pathlib.Path(folder)
        needed = ["export.json", "labels.txt"]
        needed += [] if run else ["model.onnx"]
        missing = [name for name in needed if not (root / name).is_file()]
        if missing:
            raise FileNotFoundError(
                "Argument `folder` must be that of an exported version. "
                f"Received: {root}, without {', '.join(missing)}. To fix "
                "this: keras_lficam.export(model, path, formats=['onnx'])."
            )
        about = json.loads((root / "export.json").read_text("utf-8"))
        height, width = about["image_size"]
        self.class_names = _labels.read(root / "labels.txt")
        self.image_shape = height, width, about["channels"]
        self.limits = Limits(**about["limits"])
        self.top = about["top"]
        self._low, self._high = about["value_range"]
        self._run = run or _session(root / "model.onnx")

    def explain(self, images: npt.ArrayLike) -> Answers:
        """Answers images.

        Args:
            images: `(B, height, width, channels)` at the size of the model,
                in the range of its pixels.

        Returns:
            What the ONNX model gives, and `class_index`, `class_name` and
            `error`: `(B,)`, strings as bytes. An image that holds what is not
            finite, or outside of the range, has the class -1 and zeros.

        Raises:
            ValueError: If they are of another shape, none, or too many.
        """
        array = np.asarray(images)
        if array.dtype.kind not in "biuf":
            raise ValueError(
                "Input `images` must hold numbers. Received: "
                f"dtype {array.dtype}"
            )
        if array.ndim != 4 or array.shape[1:] != self.image_shape:
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"Input `images` must have shape (batch, {wanted}). Received "
                f"shape: {array.shape}"
            )
        self._check_number("images", len(array))
        pixels = array.astype("float32")
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(pixels).all(axis=(1, 2, 3))
            inside = (pixels >= self._low) & (pixels <= self._high)
        outside = (
            "the image holds numbers outside of "
            f"{self._low:g} to {self._high:g}"
        )
        errors = np.where(
            finite,
            np.where(inside.all(axis=(1, 2, 3)), "", outside),
            "the image holds numbers that are not finite",
        ).tolist()
        return self._explained(pixels, errors)

    def explain_files(self, files: Sequence[bytes]) -> Answers:
        """Answers JPEG and PNG files.

        Args:
            files: Their bytes, or base64 of them.

        Returns:
            As `explain`, and `top_classes` and `top_probabilities` `(B, top)`,
            and `overlay_bytes (B,)`, PNG files: the attention map over each
            image, or the evidence of the likeliest class where the model has
            no attention. A file that cannot be read spoils no other.

        Raises:
            ValueError: If they are no bytes, none, or too many.
        """
        if not all(isinstance(file, bytes) for file in files):
            raise ValueError("Input `image_bytes` must hold files as bytes.")
        self._check_number("image_bytes", len(files))
        decoded = _pillow_images.decoded(
            files, self.image_shape[:2], self.limits, self.image_shape[2]
        )
        scale = (self._high - self._low) / np.float32(255)
        images = np.float32(self._low) + scale * decoded.images
        answers = self._explained(images.astype("float32"), decoded.errors)
        order = np.argsort(-answers["probabilities"], axis=-1, kind="stable")
        best = order[:, : self.top]
        names = [[name.encode() for name in self.class_names]]
        answers["top_classes"] = np.array(names, object)[0][best]
        answers["top_probabilities"] = np.take_along_axis(
            answers["probabilities"], best, axis=-1
        )
        answers["top_classes"][[bool(e) for e in decoded.errors]] = b""
        answers["overlay_bytes"] = _objects(
            [
                b"" if canvas is None else _overlay(canvas, answers, index)
                for index, canvas in enumerate(decoded.canvases)
            ]
        )
        return answers

    def _check_number(self, name: str, number: int) -> None:
        if not 0 < number <= self.limits.images:
            raise ValueError(
                f"Input `{name}` must hold at least one image, and at most "
                f"{self.limits.images} images. Received: {number}"
            )

    def _explained(self, images: np.ndarray, errors: list[str]) -> Answers:
        bad = np.array([bool(error) for error in errors])
        images[bad] = 0
        answers = {k: np.array(v) for k, v in self._run(images).items()}
        for name, value in answers.items():
            value[bad] = _NO_CLASS if name == "evidence_classes" else 0
        index = answers["probabilities"].argmax(axis=-1).astype("int64")
        index[bad] = _NO_CLASS
        names = [*self.class_names, ""]
        return answers | {
            "class_index": index,
            "class_name": _objects([names[i].encode() for i in index]),
            "error": _objects([error.encode() for error in errors]),
        }


def _session(path: pathlib.Path) -> Callable[[np.ndarray], Answers]:
    """Opens a model in ONNX Runtime, whose session threads can share."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "An ONNX model needs the package onnxruntime. To fix this: "
            "pip install onnxruntime"
        ) from error
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> Answers:
        values = session.run(names, {"images": images})
        return dict(zip(names, values, strict=True))

    return run


def _overlay(canvas: np.ndarray, answers: Answers, index: int) -> bytes:
    """Draws the map of an image over it."""
    size = canvas.shape[0], canvas.shape[1]
    if "attention_map" in answers:
        heat = _pillow_images.resized(answers["attention_map"][index], size)
        heat = np.clip(heat[..., 0], 0, 1)
        cover = _OPACITY * np.sqrt(heat)
        return _pillow_images.overlay(canvas, heat, _colors(_COLORMAP), cover)
    evidence = answers["class_evidence"][index]
    best = answers["evidence_classes"][index] == answers["class_index"][index]
    chosen = evidence[..., best.argmax()]
    signed = chosen / max(float(np.abs(evidence).max()), 1e-30)
    signed = _pillow_images.resized(signed[..., None], size)[..., 0]
    signed = np.clip(signed, -1, 1)
    cover = _SIGNED_OPACITY * np.abs(signed) ** 0.75
    colors = _colors(_SIGNED_COLORMAP)
    return _pillow_images.overlay(canvas, (signed + 1) / 2, colors, cover)


def _colors(name: str) -> np.ndarray:
    import matplotlib

    table = matplotlib.colormaps[name](np.arange(256))
    return 255 * np.asarray(table)[:, :3]


def _objects(values: Sequence[bytes]) -> np.ndarray:
    """Bytes as an array; NumPy's own strings lose zeros at their end."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
