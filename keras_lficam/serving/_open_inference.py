"""Tensors of the Open Inference Protocol (V2), as JSON.

Strings are text in JSON; what holds files has a name that ends with `_bytes`,
and is base64 of them, which exported models decode.

Reference:
    https://github.com/kserve/open-inference-protocol
"""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# Types of NumPy by the names of the protocol.
DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_BYTES = "BYTES"
_FILES = "_bytes"


class Tensor(NamedTuple):
    """What a model declares of an input or an output.

    Attributes:
        datatype: Name of the protocol, such as `"FP32"` or `"BYTES"`.
        shape: Sides; -1 where any length is taken.

    Examples:
        Tensor("FP32", (-1, 224, 224, 3)).shape[1:3]
    """

    datatype: str
    shape: tuple[int, ...]


def declared(tensors: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Reads the inputs or outputs of a model's metadata.

    Args:
        tensors: `name`, `datatype` and `shape` of each.

    Returns:
        Each by its name.

    Raises:
        KeyError, TypeError, ValueError: If one is none.
    """
    found = {}
    for tensor in tensors:
        name, datatype = tensor["name"], tensor["datatype"]
        if not isinstance(name, str) or datatype not in (*DTYPES, _BYTES):
            raise TypeError(f"a tensor {name!r} of type {datatype!r}")
        shape = tuple(int(side) for side in tensor["shape"])
        found[name] = Tensor(datatype, shape)
    return found


def to_tensors(
    values: Mapping[str, Any], types: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Writes arrays, or lists of bytes.

    Args:
        values: Each by its name.
        types: Types that the model declares. Numbers are converted to them,
            integers to floats too, but no floats to integers.

    Returns:
        Tensors for `json.dumps`.

    Raises:
        ValueError: If numbers do not fit the type that is declared.
    """
    return [
        _to_tensor(name, value, types.get(name))
        for name, value in values.items()
    ]


def _to_tensor(name: str, value: Any, wanted: Tensor | None) -> dict[str, Any]:
    array = np.asarray(value)
    if array.dtype.kind in "OS":
        # `np.asarray` of bytes loses zeros at their ends.
        items = [*np.ravel(value)] if isinstance(value, np.ndarray) else value
        texts = [
            base64.b64encode(item).decode()
            if name.endswith(_FILES)
            else item.decode()
            for item in items
        ]
        return _tensor(name, _BYTES, array.shape, texts)
    dtype = DTYPES.get(wanted.datatype) if wanted else None
    if dtype is not None and array.dtype != dtype:
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ValueError(
                f"Input {name!r} must be of type {dtype}. Received: "
                f"{array.dtype}. To fix this: array.astype({dtype!r})."
            )
        array = array.astype(dtype)
    datatype = next(
        (name for name, kind in DTYPES.items() if kind == array.dtype), None
    )
    if datatype is None:
        raise ValueError(f"Input {name!r} cannot be sent as {array.dtype}.")
    return _tensor(name, datatype, array.shape, array.ravel().tolist())


def _tensor(
    name: str, datatype: str, shape: Sequence[int], data: list[Any]
) -> dict[str, Any]:
    sides = [int(side) for side in shape]
    return {"name": name, "datatype": datatype, "shape": sides, "data": data}


def to_arrays(tensors: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Reads tensors, whose data may be nested or not.

    Args:
        tensors: `name`, `datatype`, `shape` and `data` of each.

    Returns:
        Array for each by its name; strings are bytes, of dtype object.

    Raises:
        Exception: Of any kind, if one is none.
    """
    return {str(tensor["name"]): _to_array(tensor) for tensor in tensors}


def _to_array(tensor: Mapping[str, Any]) -> np.ndarray:
    shape = [int(side) for side in tensor["shape"]]
    data = np.array(tensor["data"], object).ravel()
    if len(data) != math.prod(shape) or min(shape, default=0) < 0:
        raise ValueError(f"{len(data)} values for the shape {shape}")
    kinds = {type(item) for item in data}
    if tensor["datatype"] != _BYTES:
        # Of None and text NumPy makes numbers, too.
        if not kinds <= {bool, int, float}:
            raise TypeError("it holds what is no number")
        with np.errstate(over="ignore"):
            return data.astype(DTYPES[tensor["datatype"]]).reshape(shape)
    if not kinds <= {str}:
        raise TypeError("it holds what is no text")
    is_file = tensor["name"].endswith(_FILES)
    array = np.empty(len(data), object)
    array[:] = [
        base64.b64decode(item, validate=True) if is_file else item.encode()
        for item in data
    ]
    return array.reshape(shape)
