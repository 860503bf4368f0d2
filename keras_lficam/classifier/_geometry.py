"""Where in the image the cells of a feature map lie, read from the graph.

Each layer that moves or strides says, for both axes, which of its input's
cells a cell of its output looks at. From the image on that adds up to the
center of each cell's receptive field, in pixels, and to what of the image is
seen at all. What changes no location is passed over: activations,
normalizations, random layers, which rest at inference, and gates that are
broadcast over the map.

Where branches meet, as in a residual block, the mean of their centers counts.
A layer of which nothing is known but that it changes the size is taken to
spread its cells evenly over what it is given.
"""

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import keras
from keras import ops

from keras_lficam import functional
from keras_lficam.surgery import is_graph, nodes_backwards


class Axis(NamedTuple):
    """The cells of a tensor along one axis, in pixels of the image.

    Numbers are Python's, or scalar tensors where the size of the image is
    known only when a graph runs.
    """

    image_axis: int  # 0 for height, 1 for width, of the image.
    size: Any  # Number of cells.
    center: Any  # Of the first cell's receptive field,
    stride: Any  # and its distance from that of the next.
    low: Any  # Where the first cell's receptive field begins,
    high: Any  # and ends.
    first: Any  # Where what is seen by all cells begins,
    last: Any  # and ends.


Axes = tuple[Axis, Axis]
Rule = Callable[[Axis, Axis], Axes]


class Geometry:
    """Brings maps from a tensor of a model's graph back to its images.

    Args:
        pairs: Pairs of tensors of one model each that lead from the image to
            the map, as `way` lists them.

    Raises:
        ValueError: If a layer on the way moves pixels so that the map cannot
            be brought back.
    """

    def __init__(
        self, pairs: Sequence[tuple[keras.KerasTensor, keras.KerasTensor]]
    ) -> None:
        self._plan: list[tuple[int, list[tuple[int, list[Rule]]]]] = []
        # Rows and columns that the graph declares, by the number of a tensor.
        self._declared = [tuple(pairs[0][0].shape[1:3])]
        goal: int | None = 0
        for begin, finish in pairs:
            numbers_of = {id(begin): goal}
            self._walk(numbers_of, begin, finish)
            goal = numbers_of[id(finish)]
        self._goal = goal
        self._known = functools.lru_cache(64)(self._axes)
        # Of an open size any will do, to see whether the axes are in order.
        sides = [side or 1024 for side in self._declared[0]]
        axes = self._known(*sides)
        if [axis.image_axis for axis in axes] != [0, 1]:
            raise _lost("a layer exchanges its rows and columns")
        # Pixels of the image from a cell to the next, along both axes.
        self.stride = max(abs(float(axis.stride)) for axis in axes)

    def upsample(
        self,
        maps: Any,
        size: tuple[Any, Any],
        image_size: tuple[Any, Any] | None = None,
    ) -> Any:
        """Brings maps to an image, each cell to where the model saw it.

        Args:
            maps: Maps `(B, h, w, channels)`.
            size: Height and width of the result, integers or tensors.
            image_size: Height and width that the model saw; by default
                `size`.

        Returns:
            Tensor `(B, *size, channels)`, float32 or wider; zero where the
            model never saw the image.
        """
        maps = ops.convert_to_tensor(maps)
        seen = size if image_size is None else image_size
        placements = self.placements(seen, ops.shape(maps))
        return functional.upsample(maps, size, placements)

    def placements(
        self, image_size: tuple[Any, Any], shape: Sequence[Any]
    ) -> tuple[functional.Placement, functional.Placement]:
        """Where the rows and columns of maps of a shape lie in an image."""
        if all(_is_number(size) for size in image_size):
            height, width = (int(size) for size in image_size)
            rows, columns = self._known(height, width)
        else:
            height, width = (ops.cast(size, "float32") for size in image_size)
            rows, columns = self._axes(height, width)
        # Were the size not the one that was worked out, the cells of a layer
        # in between were spread otherwise: evenly is the best guess then.
        counts = [
            count if _is_number(count) else ops.cast(count, "float32")
            for count in shape[1:3]
        ]
        axes = _spread(rows, counts[0]), _spread(columns, counts[1])
        placed = [
            functional.Placement(
                length, axis.center, axis.stride, axis.first, axis.last
            )
            for axis, length in zip(axes, (height, width), strict=True)
        ]
        return placed[0], placed[1]

    def _axes(self, height: Any, width: Any) -> Axes:
        found = {0: (_axis_of_image(0, height), _axis_of_image(1, width))}
        if self._goal is None:  # Nothing of the map depends on locations.
            return found[0]
        for number, sources in self._plan:
            merged = []
            for source, rules in sources:
                axes = found[source]
                for rule in rules:
                    axes = rule(*axes)
                merged.append(axes)
            rows, columns = zip(*merged, strict=True)
            found[number] = _mean(rows), _mean(columns)
        return found[self._goal]

    def _walk(
        self,
        numbers_of: dict[int, int | None],
        begin: keras.KerasTensor,
        finish: keras.KerasTensor,
    ) -> None:
        """Numbers the tensors on the way, those with locations."""
        for node in reversed(nodes_backwards(begin, finish)):
            if id(node.outputs[0]) in numbers_of:
                continue
            given = [numbers_of.get(id(x)) for x in node.input_tensors]
            model = node.operation
            if (
                is_graph(model)
                and len(model.inputs) == len(given)
                and len(model.outputs) == len(node.outputs)
            ):
                inner = dict(zip(map(id, model.inputs), given, strict=True))
                for output, outer in zip(
                    model.outputs, node.outputs, strict=True
                ):
                    self._walk(inner, model.inputs[0], output)
                    numbers_of[id(outer)] = inner.get(id(output))
                continue
            for output in node.outputs:
                numbers_of[id(output)] = self._number(node, given, output)

    def _number(
        self, node: Any, numbers: list[int | None], output: keras.KerasTensor
    ) -> int | None:
        """The number of what a call gives; None where it has no locations."""
        given = [
            number
            for number, tensor in zip(numbers, node.input_tensors, strict=True)
            if number is not None and _has_locations(tensor.shape)
        ]
        # A tensor that was pooled along an axis is broadcast along it.
        unpooled = [n for n in given if 1 not in self._declared[n]]
        given = list(dict.fromkeys(unpooled or given))
        if not given or not _has_locations(output.shape):
            return None
        sources = [(n, self._rules(node, n, output)) for n in given]
        if len(sources) == 1 and not sources[0][1]:
            return given[0]
        number = len(self._declared)
        is_map = len(output.shape) == 4
        self._declared.append(
            tuple(output.shape[1:3]) if is_map else self._declared[given[0]]
        )
        self._plan.append((number, sources))
        return number

    def _rules(
        self, node: Any, number: int, output: keras.KerasTensor
    ) -> list[Rule]:
        if len(output.shape) != 4:  # Tokens keep the locations of their map.
            return []
        rules = _rules_of(node.operation, node)
        before, after = self._declared[number], tuple(output.shape[1:3])
        if rules is None:
            return _spreading(before, after)
        if None not in (*before, *after) and not isinstance(
            node.operation, keras.layers.RandomCrop
        ):
            # A class of somebody's own may do otherwise than its base.
            axes = _axis_of_image(0, before[0]), _axis_of_image(1, before[1])
            for rule in rules:
                axes = rule(*axes)
            if (axes[0].size, axes[1].size) != after:
                return _spreading(before, after)
        return rules


def _axis_of_image(image_axis: int, size: Any) -> Axis:
    return Axis(image_axis, size, 0.0, 1.0, -0.5, 0.5, -0.5, size - 0.5)


def _has_locations(shape: Sequence[int | None]) -> bool:
    """Whether a tensor is a map of more than one cell, or its tokens."""
    return len(shape) > 2 and (len(shape) != 4 or tuple(shape[1:3]) != (1, 1))


def _mean(branches: Sequence[Axis]) -> Axis:
    if len(branches) == 1:
        return branches[0]
    first, count = branches[0], len(branches)
    return Axis(
        _same_image_axis(branches),
        first.size,
        sum(axis.center for axis in branches) / count,
        sum(axis.stride for axis in branches) / count,
        functools.reduce(_least, (axis.low for axis in branches)),
        functools.reduce(_largest, (axis.high for axis in branches)),
        functools.reduce(_least, (axis.first for axis in branches)),
        functools.reduce(_largest, (axis.last for axis in branches)),
    )


def _same_image_axis(branches: Sequence[Axis]) -> int:
    if len({axis.image_axis for axis in branches}) > 1:
        raise _lost("a layer adds a map and a transposed one")
    return branches[0].image_axis


def _lost(reason: str) -> ValueError:
    return ValueError(
        "The feature map cannot be brought back to the image: "
        f"{reason}. To fix this: explain the model behind that layer, or use "
        "a method that changes the image, such as RISE or LIME."
    )


# Rules -----------------------------------------------------------------------


def _rules_of(operation: keras.Operation, node: Any) -> list[Rule] | None:
    """What a call does to locations: a list of rules, or None if unknown."""
    if getattr(operation, "data_format", None) == "channels_first":
        return None
    if isinstance(operation, keras.layers.Pipeline):
        return [
            rule
            for layer in operation.layers
            for rule in _rules_of(layer, node) or []
        ]
    if isinstance(operation, keras.layers.SpectralNormalization):
        return _rules_of(operation.layer, node)
    if isinstance(operation, keras.layers.RandomCrop):
        return []  # At inference it does not crop, whatever it declares.
    rule = None
    if type(operation).__module__.startswith("keras.src.ops."):
        make = _FUNCTIONS.get(type(operation).__name__)
        rule = make and make(operation, node)
    for kind, make_of_layer in _LAYERS.items():
        if isinstance(operation, kind):
            rule = make_of_layer(operation)
    return rule and [rule]


def _both(
    make_rows: Callable[[Axis], Axis], make_columns: Callable[[Axis], Axis]
) -> Rule:
    return lambda rows, columns: (make_rows(rows), make_columns(columns))


def _look(axis: Axis, start: Any, span: Any, stride: Any, size: Any) -> Axis:
    """Cell `j` of the result looks at `span` cells from `start + j stride`."""
    ends = axis.stride * start, axis.stride * (start + span - 1)
    low = axis.low + _least(*ends)
    high = axis.high + _largest(*ends)
    new_stride = axis.stride * stride
    way = new_stride * (size - 1)
    return axis._replace(
        size=size,
        center=axis.center + (ends[0] + ends[1]) / 2,
        stride=new_stride,
        low=low,
        high=high,
        first=_largest(axis.first, _least(low, low + way)),
        last=_least(axis.last, _largest(high, high + way)),
    )


def _spread(axis: Axis, size: Any) -> Axis:
    """Spreads cells evenly over those there are, as a resizing does."""
    if _is_number(size) and _is_number(axis.size) and size == axis.size:
        return axis
    ratio = axis.size / size
    return _look(axis, 0.0, ratio, ratio, size)


def _spreading(before: Sequence[Any], after: Sequence[Any]) -> list[Rule]:
    """Rules for a layer of which only the sizes are known."""
    if None in (*before, *after) or before == after:
        return []
    ratios = [new / old for old, new in zip(before, after, strict=True)]
    return [
        _both(
            *(
                lambda axis, ratio=ratio: _spread(axis, axis.size * ratio)
                for ratio in ratios
            )
        )
    ]


def _window(
    axis: Axis, kernel: int, stride: Any, padding: str, dilation: int
) -> Axis:
    span = (kernel - 1) * dilation + 1
    if padding == "valid":
        size = _floor((axis.size - span) / stride) + 1
        return _look(axis, 0, span, stride, size)
    size = -_floor(-axis.size / stride)
    missing = _largest((size - 1) * stride + span - axis.size, 0)
    if stride == 1:
        missing = span - 1
    return _look(axis, -_floor(missing / 2), span, stride, size)


def _windows(
    kernel: Any, strides: Any, padding: str, dilation: Any = 1
) -> Rule:
    kernel, dilation = _pair(kernel), _pair(dilation)
    strides = kernel if strides is None else _pair(strides)
    return _both(
        *(
            functools.partial(
                _window,
                kernel=kernel[n],
                stride=strides[n],
                padding=padding,
                dilation=dilation[n],
            )
            for n in (0, 1)
        )
    )


def _convolution(layer: keras.layers.Layer) -> Rule:
    return _windows(
        layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate
    )


def _pooling(layer: keras.layers.Layer) -> Rule:
    return _windows(layer.pool_size, layer.strides, layer.padding)


def _transposed(layer: keras.layers.Layer) -> Rule:
    def turn(axis: Axis, kernel: int, stride: Any) -> Axis:
        before = 0
        size = axis.size * stride
        if layer.padding == "same":
            before = max(kernel - stride, 0) // 2
        else:
            size += max(kernel - stride, 0)
        start = (before - kernel + 1) / stride
        span = (kernel - 1) / stride + 1
        return _look(axis, start, span, 1 / stride, size)

    return _both(
        *(
            functools.partial(turn, kernel=kernel, stride=stride)
            for kernel, stride in zip(
                layer.kernel_size, layer.strides, strict=True
            )
        )
    )


def _cropped(axis: Axis, before: Any, after: Any) -> Axis:
    """Takes cells away at both ends; adds some where that is negative."""
    return _look(axis, before, 1, 1, axis.size - before - after)


def _cropping(margins: Any) -> Rule:
    return _both(
        *(
            functools.partial(_cropped, before=before, after=after)
            for before, after in margins
        )
    )


def _padding(margins: Any) -> Rule:
    return _cropping([(-before, -after) for before, after in margins])


def _upsampling(layer: keras.layers.Layer) -> Rule:
    return _both(
        *(
            lambda axis, factor=factor: _spread(axis, axis.size * factor)
            for factor in layer.size
        )
    )


def _resizing(height: Any, width: Any, crop: bool, pad: bool) -> Rule:
    def resize(rows: Axis, columns: Axis) -> Axes:
        sizes = rows.size, columns.size
        # As Keras rounds: the sides that keep the aspect ratio of the target.
        fitting = [
            _floor(columns.size * height / width),
            _floor(rows.size * width / height),
        ]
        if crop:
            kept = [
                _largest(_least(size, side), 1)
                for size, side in zip(sizes, fitting, strict=True)
            ]
            starts = [
                _floor((size - side) / 2)
                for size, side in zip(sizes, kept, strict=True)
            ]
            rows, columns = (
                _look(axis, start, 1, 1, side)
                for axis, start, side in zip(
                    (rows, columns), starts, kept, strict=True
                )
            )
        elif pad:
            margins = [
                _floor((_largest(size, side) - size) / 2)
                for size, side in zip(sizes, fitting, strict=True)
            ]
            rows, columns = _padding([(m, m) for m in margins])(rows, columns)
        return _spread(rows, height), _spread(columns, width)

    return resize


def _of_resizing(layer: keras.layers.Layer) -> Rule:
    return _resizing(
        layer.height,
        layer.width,
        layer.crop_to_aspect_ratio,
        layer.pad_to_aspect_ratio,
    )


def _center_crop(layer: keras.layers.Layer) -> Rule:
    def crop(rows: Axis, columns: Axis) -> Axes:
        sizes = layer.height, layer.width
        axes = rows, columns
        # Images that are too small are resized. Keras asks where it knows.
        if any(
            _is_number(axis.size) and axis.size < size
            for axis, size in zip(axes, sizes, strict=True)
        ):
            return _resizing(*sizes, True, False)(rows, columns)
        rows, columns = (
            _look(axis, _floor((axis.size - size) / 2), 1, 1, size)
            for axis, size in zip(axes, sizes, strict=True)
        )
        return rows, columns

    return crop


def _permutation(layer: keras.layers.Layer) -> Rule | None:
    return _swap if tuple(layer.dims) == (2, 1, 3) else None


def _swap(rows: Axis, columns: Axis) -> Axes:
    return columns, rows


_LAYERS: dict[type, Callable[[Any], Rule | None]] = {
    keras.layers.Conv2D: _convolution,
    keras.layers.DepthwiseConv2D: _convolution,
    keras.layers.SeparableConv2D: _convolution,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.AveragePooling2D: _pooling,
    keras.layers.MaxPooling2D: _pooling,
    keras.layers.Cropping2D: lambda layer: _cropping(layer.cropping),
    keras.layers.ZeroPadding2D: lambda layer: _padding(layer.padding),
    keras.layers.UpSampling2D: _upsampling,
    keras.layers.Resizing: _of_resizing,
    keras.layers.CenterCrop: _center_crop,
    keras.layers.Permute: _permutation,
}


# Functions of `keras.ops`, by the names of the classes that stand for them.
# Each returns None where it knows no rule.


def _of_window(operation: keras.Operation, node: Any) -> Rule:
    return _windows(operation.pool_size, operation.strides, operation.padding)


def _of_convolution(operation: keras.Operation, node: Any) -> Rule | None:
    kernel = _argument(node, 1, "kernel", "depthwise_kernel")
    if kernel is None:
        return None
    return _windows(
        tuple(kernel.shape[:2]),
        operation.strides,
        operation.padding,
        operation.dilation_rate,
    )


def _of_pad(operation: keras.Operation, node: Any) -> Rule:
    widths = [tuple(width) for width in operation.pad_width]
    return _padding(widths[1:3] if len(widths) == 4 else 2 * widths[:1])


def _of_margins(operation: keras.Operation, node: Any) -> Rule:
    """Of `pad_images` and `crop_images`: two of three are given an axis."""
    is_padding = type(operation).__name__ == "PadImages"
    word, sign = ("padding", -1) if is_padding else ("cropping", 1)

    def change(axis: Axis, ends: str, target: Any) -> Axis:
        before, after = (
            getattr(operation, f"{end}_{word}") for end in ends.split()
        )
        if before is None:
            before = sign * (axis.size - target) - after
        if after is None:
            after = sign * (axis.size - target) - before
        return _cropped(axis, sign * before, sign * after)

    return _both(
        functools.partial(
            change, ends="top bottom", target=operation.target_height
        ),
        functools.partial(
            change, ends="left right", target=operation.target_width
        ),
    )


def _of_resize(operation: keras.Operation, node: Any) -> Rule:
    height, width = operation.size
    return _resizing(
        height,
        width,
        operation.crop_to_aspect_ratio,
        operation.pad_to_aspect_ratio,
    )


def _of_slices(operation: keras.Operation, node: Any) -> Rule | None:
    key = _argument(node, 1, "key")
    key = tuple(key) if isinstance(key, (tuple, list)) else (key,)
    if not all(one is Ellipsis or isinstance(one, slice) for one in key):
        return None
    if Ellipsis in key:
        dots = key.index(Ellipsis)
        filling = (slice(None),) * (5 - len(key))
        key = (*key[:dots], *filling, *key[dots + 1 :])
    key = (*key, *(slice(None),) * 4)[1:3]
    if any(
        not (bound is None or isinstance(bound, int))
        for one in key
        for bound in (one.start, one.stop, one.step)
    ):
        return None
    return _both(*(functools.partial(_sliced, key=one) for one in key))


def _sliced(axis: Axis, key: slice) -> Axis:
    step = key.step or 1

    def bounded(bound: Any, otherwise: Any) -> Any:
        if bound is None:
            return otherwise
        bound = axis.size + bound if bound < 0 else bound
        return _least(_largest(bound, 0), axis.size)

    start = bounded(key.start, 0 if step > 0 else axis.size - 1)
    stop = bounded(key.stop, axis.size if step > 0 else -1)
    return _look(axis, start, 1, step, -_floor((start - stop) / step))


def _of_flip(operation: keras.Operation, node: Any) -> Rule:
    axes = operation.axis
    axes = range(4) if axes is None else axes
    axes = [axes] if isinstance(axes, int) else axes
    flipped = {axis % 4 for axis in axes}
    mirror = functools.partial(_sliced, key=slice(None, None, -1))
    return _both(*(mirror if axis in flipped else _as_it_is for axis in (1, 2)))


def _of_transpose(operation: keras.Operation, node: Any) -> Rule | None:
    axes = operation.axes and tuple(axis % 4 for axis in operation.axes)
    return {(0, 2, 1, 3): _swap, (0, 1, 2, 3): _both(_as_it_is, _as_it_is)}.get(
        axes
    )


def _of_movement(operation: keras.Operation, node: Any) -> None:
    raise _lost(
        f"function {operation.name!r} of type {type(operation).__name__} "
        "moves its pixels in a way of its own"
    )


_FUNCTIONS: dict[str, Callable[[Any, Any], Rule | None]] = {
    "AffineTransform": _of_movement,
    "AveragePool": _of_window,
    "Conv": _of_convolution,
    "CropImages": _of_margins,
    "DepthwiseConv": _of_convolution,
    "ElasticTransform": _of_movement,
    "Flip": _of_flip,
    "GetItem": _of_slices,
    "MaxPool": _of_window,
    "Pad": _of_pad,
    "PadImages": _of_margins,
    "PerspectiveTransform": _of_movement,
    "Resize": _of_resize,
    "Rot90": _of_movement,
    "ScaleAndTranslate": _of_movement,
    "SeparableConv": _of_convolution,
    "Transpose": _of_transpose,
}


def _argument(node: Any, index: int, *names: str) -> Any:
    """An argument of a call, by its position or one of its names."""
    given, named = node.arguments.args, node.arguments.kwargs
    if len(given) > index:
        return given[index]
    return next((named[name] for name in names if name in named), None)


# Numbers of Python or scalar tensors ----------------------------------------


def _is_number(x: object) -> TypeGuard[float]:
    return isinstance(x, numbers.Real)


def _as_it_is(axis: Axis) -> Axis:
    return axis


def _pair(x: Any) -> tuple[Any, ...]:
    return (x, x) if isinstance(x, int) else tuple(x)


def _floor(x: Any) -> Any:
    return math.floor(x) if _is_number(x) else ops.floor(x)


def _least(x: Any, y: Any) -> Any:
    return min(x, y) if _is_number(x) and _is_number(y) else ops.minimum(x, y)


def _largest(x: Any, y: Any) -> Any:
    return max(x, y) if _is_number(x) and _is_number(y) else ops.maximum(x, y)
