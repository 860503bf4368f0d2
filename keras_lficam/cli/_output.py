"""Folders and files that the command writes, and its bar of progress."""

import collections
import contextlib
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from keras_lficam._files import atomic_folder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Item = TypeVar("Item")


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write to that becomes `path` when all went well."""
    path = _direct(path)
    if _is_there(path):
        raise ValueError(
            f"{path} exists already and is left as it is. To fix this: give "
            "another folder with --output"
        )
    make_folder(path.parent)
    with contextlib.ExitStack() as stack:
        try:
            partial = stack.enter_context(atomic_folder(path))
        except OSError as error:
            raise _cannot_be_made(path, error) from None
        try:
            yield partial
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"nothing was written to {path}") from None


@contextlib.contextmanager
def folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder, and takes it away again if nothing is written to it."""
    path = _direct(path)
    made = [one for one in (path, *path.parents) if not _is_there(one)]
    make_folder(path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # It is not empty.
            for one in made:
                one.rmdir()


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder, if it is not there yet."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_made(path, error) from None


def overlay_names(
    paths: Sequence[pathlib.Path],
) -> dict[pathlib.Path, pathlib.Path]:
    """Names the overlay of each image file, so that no two are equal.

    It is `STEM_overlay.png`. Images of several folders keep these, below the
    deepest folder that has all of them. Images of one folder that differ in
    their endings alone keep these, too: `1.jpg_overlay.png`. No image is
    named twice, and its path is relative to the output folder.
    """
    absolute = {path: pathlib.Path(os.path.abspath(path)) for path in paths}
    root = os.path.commonpath([full.parent for full in absolute.values()])
    stems = {path: path.stem for path in paths}
    while True:
        names = {
            path: full.parent.relative_to(root) / f"{stems[path]}_overlay.png"
            for path, full in absolute.items()
        }
        # Some file systems take A.png for a.png.
        folded = {path: str(name).casefold() for path, name in names.items()}
        count = collections.Counter(folded.values())
        whole_names = {
            path: path.name for path in paths if count[folded[path]] > 1
        }
        if whole_names.items() <= stems.items():
            return names
        stems |= whole_names


def reason(error: OSError) -> str:
    """Words an error in a line, which begins with the path if it has one."""
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror.lower()}"


def _console() -> "Console":
    """Makes a console without markup: a bracket is one of a path.

    Where there is no terminal it prints no bold letters either, though a
    notebook asks all programs that it starts for colors, by FORCE_COLOR.
    """
    from rich.console import Console

    return Console(
        markup=False,
        highlight=False,
        emoji=False,
        force_terminal=sys.stdout.isatty(),
    )


def show(*things: object) -> None:
    """Prints, and tables as wide as the terminal is; 80 columns in a file."""
    _console().print(*things, sep="\n")


def rendered(*things: object) -> str:
    """Renders what `show` would print, without spaces at the ends of lines."""
    console = _console()
    with console.capture() as captured:
        console.print(*things, sep="\n")
    return "\n".join(line.rstrip() for line in captured.get().split("\n"))


def figures(rows: Iterable[tuple[str, float, str]]) -> "Table":
    """Makes a table of what was measured: a label, a share and a remark."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for label, share, remark in rows:
        table.add_row(label, f"{share:.1%}", remark)
    return table


def progress(items: Iterable[Item], unit: str) -> Iterable[Item]:
    """Shows a bar of progress on a screen, and nothing in a log."""
    import tqdm

    bar: Iterable[Item] = tqdm.tqdm(
        items, unit=unit, leave=False, disable=not sys.stderr.isatty()
    )
    return bar


def _direct(path: pathlib.Path) -> pathlib.Path:
    """A path without "..", which could lead through a folder to be made."""
    if ".." not in path.parts:
        return path
    return pathlib.Path(os.path.abspath(path))


def _is_there(path: pathlib.Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _cannot_be_made(path, error) from None
    return True


def _cannot_be_made(path: pathlib.Path, error: OSError) -> ValueError:
    return ValueError(
        f"{path}: the folder cannot be made ({error.strerror}). To fix this: "
        "give another one with --output"
    )
