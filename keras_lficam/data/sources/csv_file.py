"""Images and labels that a CSV file lists."""

import collections
import csv
import io
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from keras_lficam._names import nearest
from keras_lficam.data._listing import SPLIT_WORDS
from keras_lficam.data.image_files import check_bits
from keras_lficam.data.sources.files import (
    SHARE,
    FilesSource,
    ImageFile,
    listed,
    looks_at,
    lot_of,
    report_damaged,
    report_damaged_masks,
    sorted_class_names,
    with_masks,
)

_LOG = logging.getLogger("keras_lficam")
_NEEDED = ("image", "label")
_COLUMNS = (*_NEEDED, "split", "mask")
# Between the columns; spreadsheets of some countries write semicolons.
_DELIMITERS = (",", ";", "\t")
# Between the labels of an image.
_BETWEEN = "|"
# So many numbers with a fraction, most of them in one row, are no classes.
_MEASUREMENTS = 20


class _Row(NamedTuple):
    number: int  # Of its line in the file, from 1 on.
    image: str
    label: str
    split: str
    mask: str


class CSVSource(FilesSource):
    """Images that a CSV file lists; each is read once to find those damaged.

    Args:
        path: The file, as `data.source` says.
        bits: Bits that files of 16 bits use, as for `data.source`.
        masks: Masks of images whose line names none, as for `data.source`.

    Raises:
        ValueError: If the file cannot be read, or cannot be used to train a
            classifier.
    """

    _contents = "no column 'mask' with files in it"
    _kind = "CSV file"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        bits: int | None = None,
        masks: str | os.PathLike[str] | None = None,
    ):
        self.name = os.fspath(path)
        check_bits(bits)
        file = pathlib.Path(path)
        rows = _without_repeated(file, _rows(file))
        self.multi_label = any(_BETWEEN in row.label for row in rows)
        splits = _splits(file, rows)
        images = _images(file, rows, self.multi_label)
        if masks is not None:
            self.masks = os.fspath(masks)
            images = with_masks(images, masks, file.parent)
        self.has_masks = any(image.mask for image in images)
        _check_labels(file, rows)
        looks = looks_at(one.path for one in images)
        damaged = report_damaged(file, looks)
        damaged += report_damaged_masks(file, images, looks)
        self._set_seen(looks, damaged, bits)
        lost = {bad.path for bad in damaged}
        found: dict[str, list[ImageFile]] = {"train": []}
        for image, split in zip(images, splits, strict=True):
            if not {image.path, image.mask} & lost:
                found.setdefault(split or "train", []).append(image)
        train = found.pop("train")
        self.class_names = _class_names(file, train, images)
        wanted = {} if "validation" in splits else {"validation": SHARE}
        if not any(splits):
            wanted["test"] = 0.0
        self._set_parts(found, _groups(train), wanted)
        for split in {"validation", *splits} - {"train", ""}:
            if split not in self._parts:
                raise ValueError(
                    f"{file}: there is no image that can be read for {split}. "
                    "To fix this: list 3 or more of a class for training, or "
                    "give rows of that split"
                )


# ------------------------------------------------------------------ the table


def _rows(file: pathlib.Path) -> list[_Row]:
    """Reads the rows of a file, which has a header."""
    text = _text(file)
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True
    )
    lines: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                stripped = [cell.strip() for cell in cells]
                lines.append((reader.line_num, stripped))
    except csv.Error as error:
        raise ValueError(
            f"{file}: line {reader.line_num} cannot be read ({error}). To fix "
            'this: put cells with quotation marks in quotes, as "a ""b"" c"'
        ) from None
    if len(lines) < 2:
        raise ValueError(
            f"{file}: the file lists no image. To fix this: give a header, "
            "image,label, and a line for each image"
        )
    (_, names), *others = lines
    where = _columns(file, names)
    wrong = [
        f"line {number} has {len(cells)}"
        for number, cells in others
        if len(cells) != len(names)
    ]
    if wrong:
        raise ValueError(
            f"{file}: each line must have as many cells as the header, "
            f"{len(names)}; {listed(wrong)}. To fix this: put cells that hold "
            f"{delimiter!r} in quotes"
        )
    rows = [
        _Row(
            number,
            *(cells[where[name]] if name in where else "" for name in _COLUMNS),
        )
        for number, cells in others
    ]
    without = [f"line {row.number}" for row in rows if not row.image]
    if without:
        raise ValueError(
            f"{file}: each line must name an image; {listed(without)} "
            "does not. To fix this: name it, or delete the line"
        )
    return rows


def _text(file: pathlib.Path) -> str:
    if not file.is_file():
        raise ValueError(
            f"{file}: there is no such file. To fix this: give a CSV file with "
            "the header image,label, or a folder that holds a folder for each "
            "class"
        )
    try:
        # With the byte order mark that spreadsheets write, or without.
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}: the file is no UTF-8 text ({error.reason} at byte "
            f"{error.start}). To fix this: save it as CSV UTF-8"
        ) from None
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _columns(file: pathlib.Path, names: Sequence[str]) -> dict[str, int]:
    """Finds the columns by their names, in any case and order."""
    lower = [name.lower() for name in names]
    twice = [name for name in _COLUMNS if lower.count(name) > 1]
    missing = [name for name in _NEEDED if name not in lower]
    if twice or missing:
        wrong = f"{(missing or twice)[0]!r} is "
        wrong += "missing" if missing else "there twice"
        near = nearest((missing or twice)[0], lower)
        hint = f" (did you mean {near[0]!r}?)" if missing and near else ""
        raise ValueError(
            f"{file}: the first line must name the columns image and label, "
            f"and may name split and mask; {wrong} in {', '.join(names)}{hint}"
            ". To fix this: begin with image,label"
        )
    others = [name for name in names if name.lower() not in _COLUMNS]
    if others:
        _LOG.info("%s: columns not looked at: %s", file, ", ".join(others))
    return {name: lower.index(name) for name in _COLUMNS if name in lower}


def _without_repeated(file: pathlib.Path, rows: Sequence[_Row]) -> list[_Row]:
    """Keeps one of equal rows, and refuses those that contradict another."""
    first: dict[str, _Row] = {}
    equal, contrary = [], []
    for row in rows:
        known = first.setdefault(_path(file, row.image), row)
        if known[2:] != row[2:]:
            contrary.append(
                f"lines {known.number} and {row.number} of {row.image}"
            )
        elif known is not row:
            equal.append(f"line {row.number}")
    if contrary:
        raise ValueError(
            f"{file}: an image must be listed once; {listed(contrary)} "
            "differ. To fix this: keep one of them; several labels of an "
            "image stand in one cell, cat|dog"
        )
    if equal:
        _LOG.warning(
            "%s: %d lines repeat another and are left out: %s",
            file,
            len(equal),
            listed(equal),
        )
    return [*first.values()]


def _path(file: pathlib.Path, name: str) -> str:
    """The file that a cell names: beside the CSV file, or absolute."""
    path = os.path.normpath(os.path.join(file.parent, name))
    if "\\" in name and not os.path.exists(path):
        slashes = name.replace("\\", "/")
        return os.path.normpath(os.path.join(file.parent, slashes))
    return path


def _splits(file: pathlib.Path, rows: Sequence[_Row]) -> list[str]:
    """The split of each row; empty where none is given."""
    found = [SPLIT_WORDS.get(row.split.lower(), "") for row in rows]
    unknown = [
        f"{row.split!r} in line {row.number}"
        for row, split in zip(rows, found, strict=True)
        if row.split and not split
    ]
    if unknown:
        raise ValueError(
            f"{file}: the column split must hold train, validation or test; "
            f"it holds {listed(unknown)}. To fix this: correct them, or leave "
            "the column out, and the splits are drawn"
        )
    without = [f"line {row.number}" for row in rows if not row.split]
    if any(found) and without:
        raise ValueError(
            f"{file}: each line must name its split where some do; "
            f"{listed(without)} does not. To fix this: fill the column, or "
            "leave it out, and the splits are drawn"
        )
    if any(found) and "train" not in found:
        raise ValueError(
            f"{file}: no line is for training. To fix this: write train into "
            "the column split of some, or leave the column out"
        )
    return found


def _images(
    file: pathlib.Path, rows: Sequence[_Row], multi_label: bool
) -> list[ImageFile]:
    """Makes paths and labels of the rows; names all files that are missing."""
    images, missing = [], []
    for row in rows:
        labels = [label.strip() for label in row.label.split(_BETWEEN)]
        path = _path(file, row.image)
        mask = _path(file, row.mask) if row.mask else ""
        for name in filter(None, (path, mask)):
            if not os.path.isfile(name):
                missing.append(f"{name} in line {row.number}")
        images.append(
            ImageFile(
                path,
                tuple(dict.fromkeys(filter(None, labels))),
                lot_of(row.image.replace("\\", "/")),
                mask,
            )
        )
    if missing:
        raise ValueError(
            f"{file}: {len(missing)} files are missing: {listed(missing)}. "
            "To fix this: paths begin at the folder of the CSV file"
        )
    if not multi_label:
        without = [f"line {row.number}" for row in rows if not row.label]
        if without:
            raise ValueError(
                f"{file}: each line must have a label; {listed(without)} "
                "has none. To fix this: give it; or, if images can have "
                f"several labels or none, write at least one with "
                f"{_BETWEEN!r}, as cat{_BETWEEN}"
            )
    return images


def _check_labels(file: pathlib.Path, rows: Sequence[_Row]) -> None:
    """Refuses numbers that are measured, and not names of classes."""
    counts = collections.Counter(row.label for row in rows)
    numbers = [label for label in counts if _is_fraction(label)]
    if len(numbers) > _MEASUREMENTS and 2 * len(numbers) > len(rows):
        raise ValueError(
            f"{file}: the labels are numbers, such as {listed(numbers[:3])}, "
            "and hardly two alike, so they are no classes. A class has a map "
            "and evidence of its own, which a measured number has not; "
            "regression is not supported. To fix this: make classes of "
            "ranges, such as low, medium and high"
        )


def _is_fraction(label: str) -> bool:
    try:
        return not float(label).is_integer()
    except ValueError:
        return False


# -------------------------------------------------------- classes and groups


def _class_names(
    file: pathlib.Path, train: Sequence[ImageFile], every: Sequence[ImageFile]
) -> list[str]:
    names = {label for image in train for label in image.labels}
    if not train:
        raise ValueError(
            f"{file}: there is no image to train with that can be read"
        )
    others = {label for image in every for label in image.labels} - names
    if others:
        raise ValueError(
            f"{file}: no image to train with has the label "
            f"{listed(sorted(others))}. To fix this: list some in the split "
            "train, or delete the lines"
        )
    if len(names) < 2:
        raise ValueError(
            f"{file}: there is one class alone, {next(iter(names), 'none')}. "
            "To fix this: list images of two classes or more; of one thing "
            "that is there or not, yes and no"
        )
    return sorted_class_names(file, names)


def _groups(train: Sequence[ImageFile]) -> Iterable[Sequence[ImageFile]]:
    """Groups images by their class, or the rarest of several.

    So rare classes, too, have images for validation.
    """
    counts = collections.Counter(
        label for image in train for label in image.labels
    )
    groups: dict[str, list[ImageFile]] = {}
    for image in train:
        rarest = min(
            image.labels, key=lambda label: (counts[label], label), default=""
        )
        groups.setdefault(rarest, []).append(image)
    return groups.values()
