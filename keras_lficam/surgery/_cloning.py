"""Copies the graph of a model, weights and all, and changes it meanwhile."""

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import keras

from keras_lficam._checks import refuse_keras_2

# What the wirings call their layers; no other layer may have these names.
PUBLIC_NAMES = (
    "image",
    "importance",
    "attention_map",
    "attention",
    "head",
    "predictions",
    "attention_predictions",
)

# Called for every call of a layer as `visit(layer, tensors, proceed)`. It
# returns what `proceed(tensors, **changes)` returns: the output of a copy of
# the layer whose configuration has the changes, which must be hashable. The
# tensors are the first argument that holds any: the second of `2.0 * x`.
Visit = Callable[[keras.Operation, Any, Callable[..., Any]], Any]


def is_graph(model: object) -> bool:
    """Whether a layer is a model whose graph of layers is known.

    Functional models are, and Sequential ones that have been called; models
    that are a class with a `call` of their own are not.
    """
    return isinstance(model, keras.Model) and bool(
        getattr(model, "inputs", None)
    )


def as_rgb(image: keras.KerasTensor) -> keras.KerasTensor:
    """Repeats a gray image to three equal channels; an RGB image stays.

    Args:
        image: Tensor `(B, H, W, 1)` or `(B, H, W, 3)`.

    Returns:
        Tensor `(B, H, W, 3)`.
    """
    if image.shape[-1] != 1:
        return image
    # In half precision a pixel would be rounded on the way.
    return keras.layers.Concatenate(dtype="float32", name="gray_to_rgb")(
        [image] * 3
    )


def is_plain(model: keras.Model) -> bool:
    """Whether a model is nothing but the graph of its layers."""
    some = keras.Input((1,))
    functional = type(keras.Model(some, some))
    return isinstance(model, keras.Sequential) or (
        type(model).get_config is functional.get_config
    )


def check_graph(model: keras.Model) -> None:
    """Raises unless a model's graph of layers is known."""
    refuse_keras_2("model", model)
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a keras.Model. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    if not is_graph(model):
        kind = "Sequential" if isinstance(model, keras.Sequential) else "other"
        ways = {
            "Sequential": "call it once, or give it a keras.Input first.",
            "other": "build it as a functional model, keras.Model(inputs, "
            "outputs); or put keras_lficam.layers into its `call` yourself.",
        }
        raise ValueError(
            f"Model {model.name!r} of type {type(model).__name__} does not "
            f"show how its layers are connected. To fix this: {ways[kind]}"
        )


def check_images(model: keras.Model, image: keras.KerasTensor) -> None:
    """Raises unless an input of a model is a batch of images."""
    shape = tuple(image.shape)
    if len(shape) == 4:
        return
    kinds = {
        2: "rows of a table",
        3: "sequences, or images without an axis of channels",
        5: "videos or volumes",
    }
    kind = kinds.get(len(shape), "no images")
    raise ValueError(
        f"Model {model.name!r} must be a classifier of images (batch, height, "
        f"width, channels). Received: an input of shape {shape}, which is "
        f"{kind}. To fix this: give a model of single images, such as of one "
        "frame or slice; a gray image has one channel."
    )


def check_one(
    word: str, model: keras.Model, tensors: list[keras.KerasTensor]
) -> None:
    """Raises unless a model has one input, or one output."""
    if len(tensors) != 1:
        more = (
            " To keep the others, put keras_lficam.layers into the model "
            "yourself; explainers take it as it is, with `context`."
        )
        raise ValueError(
            f"Model {model.name!r} must have one {word}. "
            f"Received: {len(tensors)} of them. To fix this: a keras.Model "
            f"of the one {word} that matters.{more if word == 'input' else ''}"
        )


def nodes_backwards(
    begin: keras.KerasTensor,
    finish: keras.KerasTensor,
    ends: Collection[int] = (),
) -> list[Any]:
    """Lists the calls between two tensors, each before those it needs.

    They are followed from tensor to tensor: a layer that is called more than
    once, or in several graphs, tells the tensors of its first call only. At
    tensors with identities in `ends` they are followed no further.
    """
    order, seen, stack = [], {id(begin), *ends}, [(finish, False)]
    while stack:
        tensor, is_done = stack.pop()
        node = node_of(tensor)
        if is_done:
            order.append(node)
        elif id(tensor) not in seen and id(node) not in seen:
            seen |= {id(tensor), id(node)}
            if node.input_tensors:
                stack.append((tensor, True))
                stack += [(other, False) for other in node.input_tensors]
    return order[::-1]


def node_of(tensor: keras.KerasTensor) -> Any:
    """The call that a tensor comes from, with all the tensors it was given."""
    operation, index, _ = tensor._keras_history
    return operation._inbound_nodes[index]


def clone(
    model: keras.Model,
    tensor: keras.KerasTensor,
    visit: Visit | None = None,
    *,
    taken: Iterable[str] = (),
    deep: bool = False,
) -> Any:
    """Builds a model once more on another tensor, with layers of its own.

    Functional and Sequential models nested in it are unfolded, so that every
    layer can be reached by name. A model of a class with a configuration of
    its own, such as a backbone of KerasHub, is a layer like others, for what
    it is made of may not be made elsewhere. The copies have the
    weights, the dtype policy and the `trainable` of the originals, which stay
    as they are. A layer that is called twice is copied once, or once for
    every set of changes.

    Args:
        model: Model with one input whose graph is known.
        tensor: Tensor to take the place of the input.
        visit: What to do at every layer; by default it is copied as it is.
        taken: Names that no copy may have. A copy whose name is taken, by
            these or by another copy, is named after its model, too.
        deep: Whether to unfold every model whose graph is known.

    Returns:
        What takes the place of the model's output.

    Raises:
        ValueError: If a layer cannot be made from its own configuration.
    """
    copier = _Copier(visit or _as_it_is, taken, deep)
    output = copier.run(model, tensor, training=None)
    copier.copy_weights()
    return output


def copied(model: keras.Model, *, taken: Iterable[str] = ()) -> keras.Model:
    """Copies a model as one layer, weights and all.

    Args:
        model: Model that can be made from its own configuration.
        taken: Names that the copy may not have.

    Returns:
        A model of the same class. The original has not been called, so no
        call of it is added to its graph.

    Raises:
        ValueError: If it cannot be made from its own configuration.
    """
    copier = _Copier(_as_it_is, taken, deep=False)
    copy = copier.copy(model, model, {})
    copier.copy_weights()
    return copy


def _as_it_is(
    layer: keras.Operation, tensors: Any, proceed: Callable[..., Any]
) -> Any:
    del layer
    return proceed(tensors)


class _Copier:
    """One cloning: the copies made so far, and their names."""

    def __init__(self, visit: Visit, taken: Iterable[str], deep: bool) -> None:
        self._visit = visit
        self._deep = deep
        self._names = set(taken)
        self._copies: dict[
            Any, tuple[Any, Any]
        ] = {}  # By identity and changes; a call may be the second.

    def run(
        self, model: keras.Model, tensor: Any, training: bool | None
    ) -> Any:
        # Another graph over the same layers: neither Sequential nor compiled,
        # for which Keras would take other paths.
        graph = keras.Model(model.inputs[0], model.outputs[0])

        output = tensor

        def call(operation: keras.Operation, *args: Any, **options: Any) -> Any:
            nonlocal output
            _check_positional(operation, model, args)
            if training is not None and takes_training(operation):
                options.setdefault("training", training)
            if self._unfolds(operation):
                (inner,) = keras.tree.flatten(args[0])
                output = self.run(operation, inner, options.get("training"))
            else:
                output = self._call(operation, model, args, options)
            return output

        # The last operation gives the output, perhaps among others. The model
        # returned is of another graph, if `tensor` is not an input.
        keras.models.clone_model(
            graph,
            input_tensors=keras.tree.map_structure(
                lambda _: tensor, graph.input
            ),
            clone_function=lambda operation: operation,
            call_function=call,
        )
        index = graph.outputs[0]._keras_history.tensor_index
        return keras.tree.flatten(output)[index]

    def _unfolds(self, operation: keras.Operation) -> bool:
        return (
            is_graph(operation)
            and len(operation.inputs) == len(operation.outputs) == 1
            and (self._deep or is_plain(operation))
        )

    def _call(
        self,
        operation: keras.Operation,
        model: keras.Model,
        args: Sequence[Any],
        options: dict[str, Any],
    ) -> Any:
        index = next(
            (index for index, arg in enumerate(args) if _holds_tensor(arg)), 0
        )

        def proceed(tensors: Any, **changes: Any) -> Any:
            copy = self.copy(operation, model, changes)
            return copy(*args[:index], tensors, *args[index + 1 :], **options)

        return self._visit(operation, args[index], proceed)

    def copy(
        self,
        layer: keras.Operation,
        model: keras.Model,
        changes: dict[str, Any],
    ) -> Any:
        key = id(layer), frozenset(changes.items())
        if key not in self._copies:
            try:
                config = {**_live(layer, layer.get_config()), **changes}
                name = self._free_name(config.get("name", layer.name), model)
                copy = _from_config(layer, config, name)
            except Exception as error:
                raise _not_made_again(layer) from error
            self._copies[key] = (layer, copy)
        return self._copies[key][1]

    def _free_name(self, name: str, model: keras.Model) -> str:
        stem = name
        if name in self._names:  # PyTorch wants no dot, as in mobilenet_1.00.
            stem = f"{model.name}_{name}".replace(".", "_")
        free, number = stem, 1
        while free in self._names:
            free, number = f"{stem}_{number}", number + 1
        self._names.add(free)
        return free

    def copy_weights(self) -> None:
        for layer, copy in self._copies.values():
            if isinstance(layer, keras.layers.Layer):
                copy_weights(layer, copy)


def _live(layer: keras.Operation, config: dict[str, Any]) -> dict[str, Any]:
    """Puts the functions into a configuration that it has names of alone.

    Such as `activation=tf.nn.relu`, which Keras does not find by its name.
    """

    def is_unknown(value: object) -> bool:
        return (
            isinstance(value, dict)
            and value.get("class_name") == "function"
            and keras.saving.get_registered_object(value["config"]) is None
        )

    return {
        key: getattr(layer, key, value) if is_unknown(value) else value
        for key, value in config.items()
    }


def _from_config(
    layer: keras.Operation, config: dict[str, Any], name: str
) -> Any:
    if isinstance(layer, keras.layers.Lambda):
        # Its configuration holds the function as bytes, which Keras will not
        # run; the function itself is here.
        kept = {key: config[key] for key in ("dtype", "arguments")}
        return type(layer)(layer.function, name=name, **kept)
    config.pop("name", None)
    if "name" in layer.get_config():
        config["name"] = name
    copy = type(layer).from_config(config)
    if not isinstance(layer, keras.layers.Layer):
        # Some functions of `keras.ops` do not take their name.
        copy.name = name
    return copy


def copy_weights(layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Gives a layer the weights of another, and their `trainable`.

    So it does with the layers inside: a normalization that is frozen in a
    layer that is not, or the other way round, stays so.
    """
    copy.set_weights(layer.get_weights())
    olds, news = outer_first(layer), outer_first(copy)
    if len(olds) != len(news):
        raise _not_made_again(layer)
    for old, new in zip(olds, news, strict=True):
        new.trainable = old.trainable  # Of all inside, too, until their turn.
    for old, new in zip(layer.weights, copy.weights, strict=True):
        new.trainable = old.trainable
    for inner in news:
        if isinstance(inner, keras.layers.Normalization):
            inner.finalize_state()  # It computes with what it derives.


def outer_first(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Lists a layer and all inside it, each before those that it holds."""
    order, seen = [], set()

    def walk(layer: keras.layers.Layer) -> None:
        if id(layer) not in seen:
            seen.add(id(layer))
            for inner in layer._flatten_layers(
                include_self=False, recursive=False
            ):
                walk(inner)
            order.append(layer)

    walk(layer)
    return order[::-1]


def _not_made_again(layer: keras.Operation) -> ValueError:
    return ValueError(
        f"Layer {layer.name!r} of type {type(layer).__name__} cannot be made "
        "once more from its own configuration. To fix this: give its class a "
        "`get_config` that holds every argument of its constructor."
    )


def _check_positional(
    operation: keras.Operation, model: keras.Model, args: Sequence[Any]
) -> None:
    if not args:
        raise ValueError(
            f"Layer {operation.name!r} of the model {model.name!r} is called "
            "by keywords alone, which cannot be followed. To fix this: call it "
            "with its input as first, positional argument."
        )


def _holds_tensor(arg: Any) -> bool:
    return any(
        isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(arg)
    )


def takes_training(operation: keras.Operation) -> bool:
    """Whether an operation is called with an argument `training`."""
    return isinstance(operation, keras.layers.Layer) and (
        is_graph(operation)
        or "training" in inspect.signature(operation.call).parameters
    )
