"""Arguments of reading data."""

import numbers
from typing import Any


def check_text(argument: str, value: Any, example: str) -> None:
    if not isinstance(value, str):
        raise TypeError(
            f"`{argument}` must be a string such as {example}. Received: "
            f"{argument}={value!r} of type {type(value).__name__}."
        )


def check_batch_size(batch_size: Any) -> None:
    is_integer = isinstance(batch_size, numbers.Integral)
    if not is_integer or isinstance(batch_size, bool):
        raise TypeError(
            "`batch_size` must be an integer such as 32. Received: "
            f"batch_size={batch_size!r} of type {type(batch_size).__name__}."
        )
    if batch_size < 1:
        raise ValueError(
            "`batch_size` must be at least 1, to have an image in a batch. "
            f"Received: batch_size={batch_size}."
        )


def check_image_size(image_size: Any) -> None:
    if (
        not isinstance(image_size, (tuple, list))
        or len(image_size) != 2
        or not all(isinstance(side, numbers.Integral) for side in image_size)
        or any(isinstance(side, bool) for side in image_size)
        or min(image_size) < 1
    ):
        raise ValueError(
            "`image_size` must be a pair of positive integers "
            "(height, width), such as (224, 224), or None to keep the size. "
            f"Received: image_size={image_size!r}."
        )


def check_resizing(resizing: Any) -> None:
    if not isinstance(resizing, str) or resizing not in (
        "stretch",
        "center_crop",
    ):
        raise ValueError(
            "`resizing` must be one of 'stretch', 'center_crop'. Received: "
            f"resizing={resizing!r}."
        )


def check_integer(argument: str, value: Any, lowest: int, meaning: str) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(
            f"`{argument}` must be an integer, {meaning}. Received: "
            f"{argument}={value!r} of type {type(value).__name__}."
        )
    if value < lowest:
        raise ValueError(
            f"`{argument}` must be at least {lowest}, {meaning}. Received: "
            f"{argument}={value}."
        )


def check_shard(shard: Any, batch_size: int) -> None:
    if (
        not isinstance(shard, (tuple, list))
        or len(shard) != 2
        or not all(isinstance(part, numbers.Integral) for part in shard)
        or not 0 <= shard[0] < shard[1]
    ):
        raise ValueError(
            "`shard` must be a pair (index, number) with the index from 0 to "
            f"below the number. Received: shard={shard!r}."
        )
    number = shard[1]
    if batch_size % number:
        enough = -(-batch_size // number) * number
        raise ValueError(
            f"`batch_size` must be a multiple of {number}, the number of "
            f"shards. Received: batch_size={batch_size}. Pass, for example, "
            f"batch_size={enough}."
        )
