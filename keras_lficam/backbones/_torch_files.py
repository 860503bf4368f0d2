"""Reads files of PyTorch's weights without PyTorch.

A file that `torch.save` of before 1.6 wrote is four pickles, a fifth with the
keys of the storages, and the storages themselves: the number of elements, 8
bytes, and the elements. A pickle may name any function of Python to be called,
so names are looked up in a table of the four that stand in a file of weights.
"""

import collections
import dataclasses
import hashlib
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Where the elements of a tensor lie in a storage."""

    storage: tuple[Any, ...]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def rebuilt(
        cls,
        storage: tuple[Any, ...],
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *_: object,
    ) -> "_Tensor":
        return cls(storage, offset, shape, strides)


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor.rebuilt,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in a file of weights, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"{module}.{name} is no part of a file of weights"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        return pid


def read_weights(path: pathlib.Path, sha256: str) -> dict[str, np.ndarray]:
    """Reads the weights in a file that is known.

    Args:
        path: The file.
        sha256: Its SHA-256, in hexadecimal digits; nothing in another file is
            looked at.

    Returns:
        Each array by its name, in the order of the file.

    Raises:
        ValueError: If it is another file, or no file of weights.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(
                f"{path}: the file is damaged or another one. Its SHA-256 "
                f"must be {sha256}. Received: {found}"
            )
        file.seek(0)
        try:
            return _arrays(file)
        except (pickle.UnpicklingError, EOFError, LookupError) as error:
            raise ValueError(
                f"{path}: the file is none of weights ({error})"
            ) from None


def _arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    magic, protocol, _, tensors, keys = (
        _Unpickler(file).load() for _ in range(5)
    )
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise pickle.UnpicklingError("it does not begin as one")
    kinds = {
        tensor.storage[2]: tensor.storage[1] for tensor in tensors.values()
    }
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.fromfile(file, kinds[key], count)
    return {
        name: _array(storages[tensor.storage[2]], tensor)
        for name, tensor in tensors.items()
    }


def _array(storage: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """The elements of a tensor, which may lie in another order."""
    last = tensor.offset + sum(
        (size - 1) * stride
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if not 0 <= last < len(storage):
        raise IndexError("a tensor is larger than its storage")
    return np.lib.stride_tricks.as_strided(
        storage[tensor.offset :],
        tensor.shape,
        [storage.itemsize * stride for stride in tensor.strides],
        writeable=False,
    )
