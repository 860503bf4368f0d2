"""Files that are whole or not there."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a place to write to that becomes `path` when all went well.

    Whatever happens, a full disk or the death of the process, `path` is
    either the old file or the new one.

    Args:
        path: The file; it may exist.

    Yields:
        Path beside it, with the same suffix.

    Raises:
        OSError: If it cannot be written, as when the disk is full.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(
            f"{path}: the file could not be written "
            f"({error.strerror or error}). If there was one before, it is "
            "whole. Make room for it, and go on."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
