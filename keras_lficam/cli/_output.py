"""Folders that the command writes, and its bar of progress."""

import contextlib
import pathlib
import shutil
import sys
import tempfile


@contextlib.contextmanager
def new_folder(path):
    """Gives a folder to write to that becomes `path` when all went well."""
    if path.exists():
        raise ValueError(
            f"{path} exists already and is left as it is; give another "
            "folder with --output"
        )
    make_folder(path.parent)
    partial = pathlib.Path(
        tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    )
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp keeps others out.
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_folder(path):
    """Makes a folder, if it is not there yet."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path}: the folder cannot be made ({error.strerror}); give "
            "another one with --output"
        ) from None


def progress(items, unit):
    """Shows a bar of progress on a screen, and nothing in a log."""
    import tqdm

    return tqdm.tqdm(
        items, unit=unit, leave=False, disable=not sys.stderr.isatty()
    )
