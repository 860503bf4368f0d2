"""Does the evidence add up to the logit, on every backbone and in every format?

    python benchmarks/exactness.py              # all, about half an hour
    python benchmarks/exactness.py ResNet50     # some

Builds LFI-CAM on every backbone whose evidence is exact, with random weights
and a head of 10 classes whose biases are random too. For two images of random
pixels each column has the largest absolute difference of a logit and the mean
of its evidence plus its bias, over the largest absolute logit: in the view of
the model, in that of the model saved and loaded again, and in the answers of
the exported formats, all in float32. One of each family is exported.
A row is written to exactness.csv as soon as it is measured; rows of other
names are kept.
"""

import argparse
import csv
import gc
import pathlib
import tempfile

from measuring import MACHINE, machine, write
from serving import answers, lacking

TABLE = pathlib.Path(__file__).with_suffix(".csv")
FORMATS = ("saved_model", "onnx", "openvino", "litert")
COLUMNS = ["backbone", "image_size", "view", "loaded", *FORMATS, *MACHINE]
EXPORTED = (
    "DenseNet100_12",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetLite0",
    "EfficientNetV2B0",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "NASNetMobile",
    "ResNeXt50_32x4d",
    "ResNet18",
    "ResNet20",
    "ResNet50",
    "ResNet50V2",
    "SEResNet20",
    "SEResNet50",
    "WideResNet28_10",
    "Xception",
)


def measure(name):
    """A row of the table; None if the evidence of the backbone is not exact."""
    import keras
    import numpy as np

    import keras_lficam
    from keras_lficam import backbones, serving

    size = 32 if name in backbones.cifar.FAMILY else 224
    keras.utils.set_random_seed(0)
    model = keras_lficam.build(name, 10, input_shape=(size, size, 3))
    if not keras_lficam.explanation_view(model).exact:
        return None
    rng = np.random.default_rng(0)
    bias = next(
        weight for weight in reversed(model.weights) if weight.name == "bias"
    )
    bias.assign(rng.normal(0, 0.1, bias.shape))
    view = keras_lficam.explanation_view(model, top=None)
    images = rng.uniform(0, 255, (2, size, size, 3)).astype("float32")
    found = {"view": lacking(view(images), view.bias)}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model.save(folder / "model.keras")
        loaded = keras.models.load_model(folder / "model.keras", compile=False)
        again = keras_lficam.explanation_view(loaded, top=None)
        found["loaded"] = lacking(again(images), again.bias)
        if name in EXPORTED:
            exported = serving.export(
                model, folder / "exported", formats=FORMATS, top=None
            )
            for runtime, answer in answers(exported, images):
                name_of_column = runtime.removesuffix(", float32")
                found[name_of_column] = lacking(answer, view.bias)
    found = {key: f"{value:.1e}" for key, value in found.items()}
    wanted = {key: found[key] for key in COLUMNS if key in found}
    return {"backbone": name, "image_size": size, **wanted, **machine()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    rows = {}
    if TABLE.exists():
        with TABLE.open() as file:
            rows = {row["backbone"]: row for row in csv.DictReader(file)}
    import keras

    from keras_lficam import backbones

    for name in names or backbones.names():
        row = measure(name)
        keras.backend.clear_session()
        gc.collect()
        if row is None:
            print(name, "not exact", sep=", ", flush=True)
            continue
        rows[name] = row
        write(TABLE, COLUMNS, (rows[one] for one in sorted(rows)))
        print(*row.values(), sep=", ", flush=True)


if __name__ == "__main__":
    main()
