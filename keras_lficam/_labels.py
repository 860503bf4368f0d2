"""Files of class names, `labels.txt`: one name a line, in their order."""

import collections
import json
import pathlib
from collections.abc import Sequence


def to_text(names: Sequence[str]) -> str:
    r"""Writes class names one a line.

    A name stands in its line as it is. One that a line cannot hold, with a
    line break in it, a space at its end or a quotation mark at its beginning,
    is a JSON string: `"two\nlines"`.

    Args:
        names: Names, any text.

    Returns:
        The text of the file.
    """
    return "".join(f"{_line(name)}\n" for name in names)


def from_text(text: str) -> list[str]:
    r"""Reads class names.

    Args:
        text: What `to_text` gave, or a name a line that others wrote, also
            with `\r\n` and a byte order mark. Empty lines at the end are no
            names.

    Returns:
        The names.

    Raises:
        ValueError: As for `check`.
    """
    lines = text.removeprefix("\ufeff").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    names = [_name(line.removesuffix("\r")) for line in lines]
    check(names)
    return names


def read(path: pathlib.Path) -> list[str]:
    """Reads the class names of a file.

    Args:
        path: The file.

    Returns:
        The names.

    Raises:
        ValueError: If it is no UTF-8 text, or as for `check`.
    """
    try:
        return from_text(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: the file is no UTF-8 text") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write(partial: pathlib.Path, names: Sequence[str]) -> None:
    """Writes class names to a file.

    Args:
        partial: The file, as `_files.atomic_write` gives it; it is written
            over.
        names: Names, any text.

    Raises:
        OSError: If it cannot be written.
    """
    partial.write_bytes(to_text(names).encode("utf-8"))


def check(names: Sequence[str]) -> None:
    """Refuses names that no file or message could hold apart.

    Args:
        names: The names.

    Raises:
        ValueError: If two classes have the same, or one is no Unicode text, as
            the name of a folder in another encoding.
    """
    for name in names:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(
                f"the class name {ascii(name)} is no UTF-8 text. To fix this: "
                "rename the class, or its folder, in UTF-8"
            ) from None
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    if twice:
        numbers = [n for n, name in enumerate(names) if name == twice[0]]
        raise ValueError(
            f"the classes {' and '.join(map(str, numbers))} have the same "
            f"name, {twice[0]!r}. To fix this: give each a name of its own"
        )


def _line(name: str) -> str:
    plain = name.splitlines() == [name] and name == name.strip()
    if plain and name[0] not in '"\ufeff':
        return name
    return json.dumps(name)


def _name(line: str) -> str:
    if line.startswith('"'):
        try:
            name = json.loads(line)
        except ValueError:
            return line
        if isinstance(name, str):
            return name
    return line
