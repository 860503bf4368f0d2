"""Measures what an answer costs in each format, and what the map adds to it.

    python benchmarks/serving.py             # what it costs, some minutes
    python benchmarks/serving.py agreement   # that formats answer alike

For each runtime and batch size the model answers with the class alone and with
class and map in turn; `map_over_class` is the median of the ratios of the
rounds, so that a busy moment falls on both. `serving_default` and `classify`
of the SavedModel resize and check images as well. Model: MobileNetV2 with
LFI-CAM, 224x224, 1000 classes, random weights.

`agreement` compares the answers of each format with those of Keras on 200 test
images of digits_in_photos, with the shipped model and the evidence of all
classes (`top=None`); `litert_int8` is calibrated with 200 training images. Of
the evidence it says how far a format's is from that of Keras, over the largest
magnitude of that; how alike they rank the locations; and `exactness`, how far
the mean of the format's own evidence and the bias are from its own logit, over
the largest magnitude of a logit.
"""

import argparse
import os
import pathlib
import tempfile

from measuring import MACHINE, in_turn, machine, write

HERE = pathlib.Path(__file__).parent
TABLE = HERE / "serving.csv"
AGREEMENT = HERE / "serving_agreement.csv"
SHIPPED = HERE.parent / "saved_models" / "digits_in_photos" / "model.keras"
COLUMNS = [
    "runtime",
    "batch_size",
    "milliseconds_class",
    "milliseconds_map",
    "map_over_class",
    "lower_quartile",
    "upper_quartile",
    "rounds",
    "device",
    "version",
    *MACHINE,
]
# Those that have convolutions of their own.
OTHERS = ("ONNX Runtime", "OpenVINO, float32", "LiteRT")


def times_of(calls, options):
    """Times class alone and class with map; returns the columns of a row."""
    alone, shown = calls
    times = in_turn(shown, alone, options.rounds, options.seconds)
    return {
        "milliseconds_class": f"{1e3 * float(times['seconds_other']):.2f}",
        "milliseconds_map": f"{1e3 * float(times['seconds']):.2f}",
        "map_over_class": times["ratio"],
        "lower_quartile": times["ratio_lower_quartile"],
        "upper_quartile": times["ratio_upper_quartile"],
        "rounds": times["rounds"],
    }


def models():
    """Returns the model, and its parts for class alone and with map."""
    import keras

    import keras_lficam
    from keras_lficam.serving import _formats

    keras.utils.set_random_seed(0)
    model = keras_lficam.build("MobileNetV2", 1000, input_shape=(224, 224, 3))
    shown = _formats.numeric_model(model, (224, 224))
    images = keras.Input((224, 224, 3), name="images")
    alone = keras.Model(images, {"probabilities": model(images)})
    return model, alone, shown


def runtimes(folder):
    """Yields name, version, and a function that makes the two calls."""
    import keras
    import onnxruntime
    import openvino
    import tensorflow as tf

    from keras_lficam import serving
    from keras_lficam.serving import _formats

    model, *parts = models()
    yield (
        "Keras `predict_on_batch`",
        keras.__version__,
        lambda images: [
            lambda part=part: part.predict_on_batch(images) for part in parts
        ],
    )
    saved = serving.export(model, folder / "served")
    loaded = tf.saved_model.load(str(saved))

    def of_saved_model(images):
        images = tf.constant(images)
        return [
            lambda name=name: loaded.signatures[name](images=images)
            for name in ("classify", "serving_default")
        ]

    yield "SavedModel", tf.__version__, of_saved_model
    folders = []
    for name, part in zip(("class", "map"), parts, strict=True):
        (folder / name).mkdir()
        folders.append(folder / name)
        for writer in ("onnx", "openvino", "litert"):
            _formats.WRITERS[writer](part, folder / name, None)

    def of_onnx(images):
        sessions = [
            onnxruntime.InferenceSession(str(each / "model.onnx"))
            for each in folders
        ]
        return [
            lambda session=session: session.run(None, {"images": images})
            for session in sessions
        ]

    yield "ONNX Runtime", onnxruntime.__version__, of_onnx

    def of_openvino(images):
        compiled = [
            openvino.compile_model(
                str(each / "model.xml"),
                "CPU",
                {"INFERENCE_PRECISION_HINT": "f32"},
            )
            for each in folders
        ]
        return [lambda one=one: one({"images": images}) for one in compiled]

    yield "OpenVINO, float32", openvino.__version__.split("-")[0], of_openvino

    def of_litert(images):
        runners = []
        for each in folders:
            interpreter = tf.lite.Interpreter(
                str(each / "model.tflite"), num_threads=os.cpu_count()
            )
            runners.append(interpreter.get_signature_runner())
        return [lambda run=run: run(images=images) for run in runners]

    yield "LiteRT", tf.__version__, of_litert


def answers(folder, images):
    """Yields each format, those of LiteRT if there, and its answer."""
    import onnxruntime
    import openvino
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]
    yield "saved_model", signature(images=tf.constant(images))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {"images": images})
    yield "onnx", dict(zip(names, found, strict=True))
    for name, hint in (
        ("openvino, float32", {"INFERENCE_PRECISION_HINT": "f32"}),
        ("openvino, as it likes", {}),
    ):
        compiled = openvino.compile_model(
            str(folder / "model.xml"), "CPU", hint
        )
        found = compiled({"images": images})
        yield name, {key: found[key] for key in names}
    for name in ("litert", "litert_float16", "litert_int8"):
        path = folder / f"model{name.removeprefix('litert')}.tflite"
        if not path.exists():
            continue
        interpreter = tf.lite.Interpreter(str(path))
        run = interpreter.get_signature_runner()
        parts = [run(images=image[None]) for image in images]
        yield name, {key: [part[key][0] for part in parts] for key in parts[0]}


def lacking(answer, bias):
    """The largest difference, relative to the largest logit.

    Args:
        answer: Holds `logits` `(B, K)` and `class_evidence` `(B, h, w, K)`,
            the evidence of all classes in their order.
        bias: Array `(K,)`.

    Returns:
        A float.
    """
    import numpy as np

    logits = np.asarray(answer["logits"])
    evidence = np.asarray(answer["class_evidence"])
    sums = evidence.mean(axis=(1, 2), dtype="float64") + bias
    return float(np.abs(sums - logits).max() / np.abs(logits).max())


def agreement():
    import keras
    import numpy as np

    import keras_lficam
    from keras_lficam import data, metrics, serving

    model = keras.models.load_model(SHIPPED, compile=False)
    calibration, images = (
        next(
            data.load(
                "digits_in_photos", split, batch_size=200
            ).as_numpy_iterator()
        )[0].astype("float32")
        for split in ("train", "test")
    )
    view = keras_lficam.explanation_view(model, top=None)
    shown = view.predict(images)
    predictions, evidence = shown["probabilities"], shown["class_evidence"]
    maps = np.asarray(keras_lficam.explainers.AttentionMap(model)(images))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = serving.export(
            model,
            pathlib.Path(name) / "digits",
            formats=serving.FORMATS,
            top=None,
            calibration=calibration,
        )
        for runtime, answer in answers(folder, images):
            found = np.asarray(answer["probabilities"])
            drawn = np.asarray(answer["attention_map"])
            alike = found.argmax(-1) == predictions.argmax(-1)
            correlation = metrics.rank_correlation(drawn, maps)
            signed = np.asarray(answer["class_evidence"])
            ranks = metrics.rank_correlation(
                *(
                    np.moveaxis(each, -1, 1).reshape(-1, *each.shape[1:3], 1)
                    for each in (signed, evidence)
                )
            )
            off = np.abs(signed - evidence).max() / np.abs(evidence).max()
            rows.append(
                {
                    "format": runtime,
                    "probabilities": f"{np.abs(found - predictions).max():.1e}",
                    "map": f"{np.abs(drawn - maps).max():.1e}",
                    "same_class": f"{alike.mean():.3f}",
                    "rank_correlation": f"{np.mean(correlation):.4f}",
                    "evidence": f"{off:.1e}",
                    "evidence_rank_correlation": f"{np.median(ranks):.4f}",
                    "exactness": f"{lacking(answer, view.bias):.1e}",
                    "images": len(images),
                    **machine(),
                }
            )
            print(*rows[-1].values(), sep=", ", flush=True)
    write(AGREEMENT, list(rows[0]), rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="?", choices=["agreement"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=30)
    options = parser.parse_args()
    if options.question == "agreement":
        agreement()
        return
    import numpy as np

    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for runtime, version, calls_on in runtimes(pathlib.Path(name)):
            for batch_size in (1, 8):
                images = rng.uniform(0, 255, (batch_size, 224, 224, 3))
                calls = calls_on(images.astype("float32"))
                row = {
                    "runtime": runtime,
                    "batch_size": batch_size,
                    **times_of(calls, options),
                    "device": f"CPU, {os.cpu_count()} cores",
                    "version": version,
                    **machine(runtime if runtime in OTHERS else "tensorflow"),
                }
                rows.append(row)
                print(*row.values(), sep=", ", flush=True)
                write(TABLE, COLUMNS, rows)


if __name__ == "__main__":
    main()
