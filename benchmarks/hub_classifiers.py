"""What can be explained of KerasHub's image classifiers, with nothing told?

    python benchmarks/hub_classifiers.py              # all, two minutes
    python benchmarks/hub_classifiers.py ViT DeiT     # some

Builds each family small, with random weights, for images of 64x64, and asks it
for Grad-CAM, Recipro-CAM, class evidence, and a SavedModel of the explanation
view that is loaded again and answers the same. A cell holds yes, or the reason.
A classifier that gives logits is told activation="softmax".

`difference` is the largest between what the model and the view give; `lacking`
that between a logit and what its evidence sums to, over the largest logit.
A row is written to hub_classifiers.csv as soon as it is measured; rows of other
names are kept.
"""

import argparse
import csv
import pathlib
import tempfile

from measuring import MACHINE, machine, write

TABLE = pathlib.Path(__file__).with_suffix(".csv")
COLUMNS = [
    "classifier",
    "map",
    "grad_cam",
    "evidence",
    "recipro_cam",
    "saved_model",
    "difference",
    "lacking",
    *MACHINE,
]
SHAPE = (64, 64, 3)
TRANSFORMER = {
    "patch_size": 16,
    "num_layers": 2,
    "hidden_dim": 8,
    "num_heads": 2,
}
# Of each family the arguments of its backbone, and those of its classifier.
FAMILIES = {
    "CSPNet": (
        {
            "stem_filters": 8,
            "stem_kernel_size": 3,
            "stem_strides": 1,
            "stackwise_depth": [1, 1, 1],
            "stackwise_strides": [2, 2, 2],
            "stackwise_num_filters": [8, 8, 16],
            "block_type": "dark_block",
            "stage_type": "dark",
        },
        {},
    ),
    "DeiT": ({**TRANSFORMER, "intermediate_dim": 16}, {}),
    "DenseNet": ({"stackwise_num_repeats": [1, 1], "growth_rate": 8}, {}),
    "EfficientNet": (
        {
            "stackwise_width_coefficients": [1.0, 1.0],
            "stackwise_depth_coefficients": [1.0, 1.0],
            "stackwise_kernel_sizes": [3, 3],
            "stackwise_num_repeats": [1, 1],
            "stackwise_input_filters": [8, 8],
            "stackwise_output_filters": [8, 16],
            "stackwise_expansion_ratios": [1, 4],
            "stackwise_squeeze_and_excite_ratios": [0, 0.25],
            "stackwise_strides": [1, 2],
            "stackwise_block_types": ["v1", "unfused"],
        },
        {},
    ),
    "HGNetV2": (
        {
            "depths": [1, 1],
            "embedding_size": 8,
            "hidden_sizes": [16, 32],
            "stem_channels": [3, 8, 8],
            "hidden_act": "relu",
            "use_learnable_affine_block": False,
            "stackwise_stage_filters": [
                (8, 8, 16, 1, 1, 3),
                (16, 8, 32, 1, 1, 3),
            ],
            "apply_downsample": [False, True],
            "use_lightweight_conv_block": [False, False],
        },
        {"head_filters": 16},
    ),
    "MiT": (
        {
            "layerwise_depths": [1, 1],
            "num_layers": 2,
            "layerwise_num_heads": [1, 2],
            "layerwise_sr_ratios": [2, 1],
            "max_drop_path_rate": 0.1,
            "layerwise_patch_sizes": [7, 3],
            "layerwise_strides": [4, 2],
            "hidden_dims": [8, 16],
        },
        {},
    ),
    "MobileNet": (
        {
            "stackwise_expansion": [[16], [16]],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_filters": [[8], [16]],
            "stackwise_kernel_size": [[3], [5]],
            "stackwise_num_strides": [[2], [2]],
            "stackwise_se_ratio": [[None], [0.25]],
            "stackwise_activation": [["relu"], ["hard_swish"]],
            "stackwise_padding": [[1], [2]],
            "output_num_filters": 32,
            "depthwise_filters": 8,
            "depthwise_stride": 2,
            "depthwise_residual": False,
            "last_layer_filter": 32,
        },
        {},
    ),
    "MobileNetV5": (
        {
            "stackwise_block_types": [["er"], ["uir"]],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_filters": [[8], [16]],
            "stackwise_strides": [[2], [2]],
            "stackwise_act_layers": [["relu"], ["relu"]],
            "stackwise_exp_ratios": [[4.0], [4.0]],
            "stackwise_se_ratios": [[0.0], [0.0]],
            "stackwise_dw_kernel_sizes": [[0], [5]],
            "stackwise_dw_start_kernel_sizes": [[0], [0]],
            "stackwise_dw_end_kernel_sizes": [[0], [0]],
            "stackwise_exp_kernel_sizes": [[3], [0]],
            "stackwise_pw_kernel_sizes": [[1], [0]],
            "stackwise_num_heads": [[0], [0]],
            "stackwise_key_dims": [[0], [0]],
            "stackwise_value_dims": [[0], [0]],
            "stackwise_kv_strides": [[0], [0]],
            "stackwise_use_cpe": [[False], [False]],
            "stem_size": 8,
            "use_msfa": False,
        },
        {},
    ),
    "ResNet": (
        {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 8],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_strides": [1, 2],
            "block_type": "basic_block",
        },
        {},
    ),
    "SwinTransformer": (
        {
            "patch_size": 4,
            "embed_dim": 8,
            "depths": (2, 1),
            "num_heads": (1, 2),
            "window_size": 4,
        },
        {},
    ),
    "VGG": (
        {
            "stackwise_num_repeats": [1, 1, 1],
            "stackwise_num_filters": [8, 8, 16],
        },
        {},
    ),
    "ViT": ({**TRANSFORMER, "mlp_dim": 16}, {}),
    "Xception": (
        {
            "stackwise_conv_filters": [[8, 8], [16, 16], [16, 16]],
            "stackwise_pooling": [True, True, False],
        },
        {},
    ),
}
POOLED = ("DeiT", "ViT")  # Whose classifier also averages its tokens.


def build(name):
    """A small classifier of a family, with random weights."""
    import keras_hub
    import numpy as np

    family, _, pooling = name.partition(", ")
    arguments, options = FAMILIES[family]
    backbone = getattr(keras_hub.models, f"{family}Backbone")
    if pooling:
        options = {**options, "pooling": pooling}
    model = getattr(keras_hub.models, f"{family}ImageClassifier")(
        backbone=backbone(image_shape=SHAPE, **arguments),
        num_classes=3,
        activation="softmax",
        preprocessor=None,
        **options,
    )
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        noise = rng.normal(0, 0.1, weight.shape)
        weight.assign_add(noise.astype(weight.dtype))
    return model


def measure(name):
    """A row of the table."""
    import numpy as np

    import keras_lficam
    from keras_lficam import explainers
    from keras_lficam.classifier import Classifier

    model = build(name)
    gives = Classifier(model).gives
    options = {} if gives == "probabilities" else {"activation": "softmax"}
    images = np.random.default_rng(1).uniform(0, 1, (2, *SHAPE))
    images = images.astype("float32")
    row = {"classifier": name}

    def tried(column, function):
        try:
            row[column] = function()
        except ValueError as error:
            named = "name the layer" in str(error)
            reason = "name the layer of the map" if named else str(error)
            row[column] = f"no: {reason}"

    def where():
        split = Classifier(model).split()
        rows, columns, channels = split.shape
        kind = "map" if split.tokens is None else "tokens"
        size = f"{rows}x{columns}" if rows else "of any size"
        return f"{kind} {size}, {channels} channels"

    def mapped(explainer):
        maps = explainer(model, **options)(images)
        return "yes" if maps.max() > 0 else "blank"

    def evidence():
        view = keras_lficam.explanation_view(model, top=None, **options)
        shown = view.predict(images)
        expected = model.predict(images, verbose=0)
        given = shown["logits" if options else "probabilities"]
        difference = np.abs(given - expected).max()
        row["difference"] = f"{difference:.1e}"
        if not view.exact:
            return "Recipro-CAM"
        total = shown["class_evidence"].mean(axis=(1, 2)) + view.bias
        total += shown.get("prefix_logits", 0)
        logits = shown["logits"]
        lacking = np.abs(total - logits).max() / np.abs(logits).max()
        row["lacking"] = f"{lacking:.1e}"
        return "exact"

    tried("map", where)
    tried("grad_cam", lambda: mapped(explainers.GradCAM))
    tried("evidence", evidence)
    tried("recipro_cam", lambda: mapped(explainers.ReciproCAM))
    tried("saved_model", lambda: saved(model, images, options))
    return {**row, **machine()}


def saved(model, images, options):
    """Writes a view as a SavedModel, and compares what is loaded with it."""
    import numpy as np
    import tensorflow as tf

    import keras_lficam

    view = keras_lficam.explanation_view(model, **options)
    module = tf.Module()
    module.variables_of_the_model = [weight.value for weight in model.weights]
    module.explain = tf.function(
        view, input_signature=[tf.TensorSpec((None, *SHAPE), tf.float32)]
    )
    expected = view(tf.constant(images))
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder)
        loaded = tf.saved_model.load(folder)
        found = loaded.explain(tf.constant(images))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)
    return "yes"


def main():
    parser = argparse.ArgumentParser()
    every = [*FAMILIES, *(f"{name}, gap" for name in POOLED)]
    parser.add_argument("names", nargs="*", choices=[*every, []])
    names = parser.parse_args().names or sorted(every)
    rows = {}
    if TABLE.exists():
        with TABLE.open() as file:
            rows = {row["classifier"]: row for row in csv.DictReader(file)}
    for name in names:
        rows[name] = measure(name)
        write(TABLE, COLUMNS, (rows[key] for key in sorted(rows)))
        print(*rows[name].values(), sep=", ", flush=True)


if __name__ == "__main__":
    main()
