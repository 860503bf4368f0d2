"""Finds the image files that a command is given."""

import glob
import os
import pathlib
import sys
from collections.abc import Sequence

from keras_lficam.cli import _models


def listed(
    named: Sequence[pathlib.Path], output: pathlib.Path
) -> list[pathlib.Path]:
    """Lists image files, each once, in the order in which they are named.

    Args:
        named: Image files; folders, which are searched as those of a data
            set; and patterns, such as `photos/**/*.jpg`.
        output: Folder that the command writes to. Where it lies inside a
            folder that is searched, it is left out.

    Raises:
        ValueError: If a folder or a pattern leads to no image file.
    """
    found: dict[str, pathlib.Path] = {}
    for path in named:
        if os.path.isdir(path):
            images = _inside(path, output)
            nothing = "there is no image file in this folder"
        elif glob.has_magic(str(path)) and not os.path.lexists(path):
            images = _matching(path, output)
            nothing = "no image file matches this pattern"
        else:
            images = [path]
        if not images:
            raise ValueError(
                f"{path}: {nothing}. To fix this: name image files, such as "
                "PNG or JPEG, or a folder that holds some"
            )
        for image in images:
            found.setdefault(os.path.abspath(image), image)
    return list(found.values())


def _inside(folder: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
    _models.start_keras()
    from keras_lficam.data import _listing

    listing = _listing.images_below(folder, root=None)
    _listing.report_others(folder, [listing])
    for closed, reason in listing.closed:
        print(f"{closed}: {reason.lower()}; left out", file=sys.stderr)
    written = os.path.join(os.path.realpath(output), "")
    is_inside = written.startswith(os.path.join(os.path.realpath(folder), ""))
    return [
        pathlib.Path(image)
        for image in listing.images
        if not (is_inside and os.path.realpath(image).startswith(written))
    ]


def _matching(
    pattern: pathlib.Path, output: pathlib.Path
) -> list[pathlib.Path]:
    """Lists what a pattern matches, which may be folders and other files."""
    _models.start_keras()
    from keras_lficam.data import _listing

    found: list[pathlib.Path] = []
    expanded = os.path.expanduser(pattern)
    for name in sorted(glob.glob(expanded, recursive=True)):
        # Of "**" a folder is matched beside all that is in it.
        if not os.path.isdir(name):
            found += [pathlib.Path(name)] * _listing.is_image(name)
        elif "**" not in pattern.parts:
            found += _inside(pathlib.Path(name), output)
    return found
