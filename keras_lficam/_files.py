"""Atomic writes: files and folders are complete or not there."""

import contextlib
import errno
import os
import pathlib
import shutil
import zlib
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_write(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to that becomes `path` when all went well.

    Whatever happens, a full disk or the death of the process, `path` is
    either the old file or the new one. A process that is killed leaves its
    part under a hidden name, which the next one that writes `path` replaces.

    Args:
        path: The file; it may exist.

    Yields:
        Path beside it, with the same suffix.

    Raises:
        OSError: If it cannot be written, as when the disk is full.
    """
    partial = path.with_name(_partial_name(path))
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(
            f"{path}: the file could not be written "
            f"({error.strerror or error}). If there was one before, it is "
            f"unchanged. To fix this: {_remedy(error)}"
        ) from error
    finally:
        # Where the folder is gone or no folder, the first error says so.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write to that becomes `path` when all went well.

    A process that is killed leaves its part under a hidden name, which the
    next one that writes `path` replaces.

    Args:
        path: The folder; it must not exist, and the one that it is in must.

    Yields:
        Path of an empty folder beside it.

    Raises:
        OSError: If it cannot be made.
    """
    partial = path.with_name(_partial_name(path))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_name(path: pathlib.Path) -> str:
    """A hidden name for each name, no longer than a file system takes."""
    digest = zlib.crc32(os.fsencode(path.name))
    return f".{path.stem[:20]}-{digest:08x}.partial{path.suffix}"


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, and run it again."
    return "choose another folder or a shorter name."
