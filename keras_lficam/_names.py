"""Names: which one was meant, and how it is printed."""

import difflib
import re
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Finds the known names that are most like a name.

    Case and separators do not count, and a name may stop early: `ResNext50` is
    most like `ResNeXt50_32x4d`.

    Args:
        name: What was asked for.
        known: The names that there are.

    Returns:
        The three nearest at most, the nearest first; none if all are unlike.
    """
    word = _folded(name)
    likeness = {}
    for other in known:
        candidate = _folded(other)
        # A name of the same length that fits as well is the better one.
        likeness[other] = max(
            _ratio(word, candidate), 0.99 * _ratio(word, candidate[: len(word)])
        )
    like = [other for other, ratio in likeness.items() if ratio >= 0.6]
    return sorted(like, key=likeness.__getitem__, reverse=True)[:3]


def printable(text: str) -> str:
    """Escapes what would move, color or break the line where it is printed.

    Args:
        text: A name of whatever origin.

    Returns:
        The text in one line; control characters, line breaks and marks of
        direction as Python writes them, such as `\\x1b`.
    """
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _folded(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
